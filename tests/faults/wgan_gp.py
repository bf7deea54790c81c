"""Faults of WGAN-GP."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("one place for the batch", "shape = len(real), *[1] * (real.ndim - 1)", "shape = [1] * real.ndim"),
    Fault("a place for each entry", "shape = len(real), *[1] * (real.ndim - 1)", "shape = tuple(real.shape)"),
    Fault(
        "norm over the batch", "torch.linalg.vector_norm(slopes.flatten(1), dim=1)", "torch.linalg.vector_norm(slopes)"
    ),
    Fault("no graph of the gradient", "create_graph=True", "create_graph=False"),
    Fault("penalty on the square of the norm", "dim=1) - 1\n", "dim=1).square() - 1\n"),
    Fault("penalty on any slope", "dim=1) - 1\n", "dim=1)\n"),
    Fault("sides swapped", "excess.clamp(min=0) if one_sided", "excess.clamp(max=0) if one_sided"),
    Fault("sum for the mean", ".square().mean()", ".square().sum()"),
    Fault(
        "critic minimises the distance",
        "return fake_scores.mean() - real_scores.mean()",
        "return real_scores.mean() - fake_scores.mean()",
    ),
    Fault(
        "global randomness",
        "torch.rand(shape, generator=generator, device=generator.device, dtype=real.dtype)",
        "torch.rand(shape, dtype=real.dtype)",
    ),
    Fault(
        "gradient into the samples",
        "fake.detach(), real.detach(), share).requires_grad_()",
        "fake, real, share).requires_grad_()",
    ),
    Fault("normal places", "torch.rand(shape, generator", "torch.randn(shape, generator"),
)
