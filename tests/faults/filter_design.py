"""Faults of filter design."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("cosines at the edges of pixels", "torch.arange(side) + 0.5", "torch.arange(side)"),
    Fault("cosines not of length 1", "waves = waves / waves.norm(dim=1, keepdim=True)", "waves = waves / side"),
    Fault("cosines row by row", "key=lambda pair: (sum(pair), pair)", "key=lambda pair: pair"),
    Fault("waves along columns first", "right * math.cos(angle) + down", "down * math.cos(angle) + right"),
    Fault("half of the directions", "math.pi * direction / directions", "math.pi * direction / (2 * directions)"),
    Fault("even waves alone", "torch.sin(wave) if number % 2 else torch.cos(wave)", "torch.cos(wave)"),
    Fault("waves with a mean", "unit(centred(torch.stack(bank)[:, None]))", "unit(torch.stack(bank)[:, None])"),
    Fault("a wider bell", "(side / 4) ** 2", "(side / 2) ** 2"),
    Fault("the last row and column never cut", "height - side + 1, width - side + 1", "height - side, width - side"),
    Fault(
        "rows and columns of patches exchanged", "rows, cols].permute(0, 3, 1, 2)", "rows, cols].permute(0, 3, 2, 1)"
    ),
    Fault("patches from the global stream", "(limit, (count,), generator=generator)", "(limit, (count,))"),
    Fault("means of patches kept", "return centred(patches).flatten(1)", "return patches.flatten(1)", part="_rows"),
    Fault("the smallest components first", "values.eigenvectors.flip(1).T", "values.eigenvectors.T"),
    Fault("components with either sign", "(leading * largest.sign())", "leading"),
    Fault("patches against a centroid start another", "products.abs().argmax", "products.argmax"),
    Fault("sums without signs", "nearest, weights * flat)", "nearest, flat)"),
    Fault("centroids that grow", "unit(centroids.index_add(", "(centroids.index_add("),
    Fault("whitened filters", "centroids if whitening is None else centroids @ whitening", "centroids"),
    Fault(
        "whitening undone",
        "centroids if whitening is None else centroids @ whitening",
        "centroids if whitening is None else centroids @ torch.linalg.inv(whitening)",
    ),
    Fault("variances for deviations", ").sqrt()\n        whitening", ")\n        whitening"),
    Fault("no share added to variances", "+ whiten * values.mean().clamp_min(1e-12)", "+ 1e-12"),
    Fault("every unit takes off all others", ".tril() @ weights", " @ weights"),
    Fault("no unit takes off another", "torch.outer(y, y).tril()", "torch.diag(y * y)"),
    Fault("patches of any length", "flat = flat / flat.square()", "flat / flat.square()"),
    Fault(
        "the same order in each pass",
        "for _ in range(passes):\n        for patch in flat[torch.randperm(len(flat), generator=generator).to(flat.device)]:",
        "order = torch.arange(len(flat))\n    for _ in range(passes):\n        for patch in flat[order]:",
    ),
    Fault("filters of length 1", "turned * kernel[:count].flatten(1).norm(dim=1)[:, None, None, None]", "turned"),
    Fault("filters as they come", "turned = unit(", "turned = ("),
    Fault("a copy is changed", "kernel[:count] =", "kernel.clone()[:count] ="),
    Fault("groups accepted", "if conv.groups != 1 or is_parametrized(conv):", "if is_parametrized(conv):"),
)
