"""Faults of adaptive inflation."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "generated images repeated",
        "torch.arange(real, real + generated)])",
        "torch.arange(real, real + generated).repeat(replication)])",
    ),
    Fault("generated images from 0", "torch.arange(real, real + generated)", "torch.arange(generated)"),
    Fault("a share without replication", "return replication * real / (", "return real / ("),
    Fault("booleans are counts", " or isinstance(value, bool)", ""),
    Fault("sides, not areas", "(min_scale + (1 - min_scale) * area).sqrt()", "(min_scale + (1 - min_scale) * area)"),
    Fault("always the smallest part", "(1 - min_scale) * area).sqrt()", "(1 - min_scale) * 0 * area).sqrt()"),
    Fault("ratios above 1 only", "max_ratio ** (ratio - 0.5)", "max_ratio ** (ratio / 2)"),
    Fault("the square of the ratio", "max_ratio ** (ratio - 0.5)", "max_ratio ** (2 * ratio - 1)"),
    Fault("parts in the middle", "wide, (2 * right - 1) * (1 - wide)", "wide, 0 * right"),
    Fault("parts outside", "high, (2 * down - 1) * (1 - high)", "high, (2 * down - 1)"),
    Fault(
        "factors above 1 only",
        "(1 + jitter * (2 * _uniform(3, images, generator) - 1))",
        "(1 + jitter * _uniform(3, images, generator))",
    ),
    Fault("always jittered", "jittered < jitter_probability", "jittered < 1 + jitter_probability"),
    Fault("grey in place of colour", "grey < grey_probability", "grey > grey_probability"),
    Fault(
        "mirrors without a generator of theirs",
        "random_flip(views, flip_probability,",
        "random_flip(views, 1 - flip_probability,",
    ),
)
