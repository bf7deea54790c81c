"""Faults of CUDA."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("maximum of the batch", "filtered.flatten(1).amax(dim=1)", "filtered.amax().expand(len(filtered))"),
    Fault("maximum before the filter", "highest = filtered.flatten(1)", "highest = images[chosen].flatten(1)"),
    Fault("images changed in place", "changed = images.clone()", "changed = images"),
    Fault("one filter for all classes", "kernel = filters[label]", "kernel = filters[0]"),
    Fault(
        "filter mirrored",
        "kernel = filters[label].to(images)[None, None]",
        "kernel = filters[label].flip(0, 1).to(images)[None, None]",
    ),
    Fault(
        "global random filters",
        "blur * torch.rand(classes, k * k, generator=generator, device=device)",
        "blur * torch.rand(classes, k * k, device=device)",
    ),
    Fault(
        "one added and not set",
        'middle if place == "centre" else drawn] = 1',
        'middle if place == "centre" else drawn] += 1',
    ),
    Fault(
        "share rounded up",
        "return order[: round(self.fraction * count)]",
        "return order[: round(self.fraction * count) + 1]",
    ),
    Fault(
        "the first are chosen",
        "order = torch.randperm(count, generator=generator, device=generator.device)",
        "order = torch.arange(count)",
    ),
)
