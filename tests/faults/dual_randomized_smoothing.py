"""Faults of dual randomized smoothing."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "unsound root of squares",
        "return torch.as_tensor(total).clamp_min(0) / math.hypot(*(1 / sigma for sigma in sigmas))",
        "return torch.stack([torch.special.ndtri(b.double()).clamp_min(0) * s for b, s in zip(bounds, sigmas)]).norm(dim=0)",
        part="_smoothing",
    ),
    Fault("whole alpha for each branch", "alpha / len(self.branches)", "alpha", part="_smoothing"),
    Fault(
        "bound on the votes that chose",
        "counts = self._votes(images, n)[:",
        "n = n0\n        self.generator.manual_seed(0)\n        counts = self._votes(images, n)[:",
        part="_smoothing",
    ),
    Fault(
        "upper for lower bound",
        "(trials - k + 1).numpy(), alpha))",
        "(trials - k + 1).numpy(), 1 - alpha))",
        part="_smoothing",
    ),
    Fault("trials off by one", "(trials - k + 1).numpy()", "(trials - k + 2).numpy()", part="_smoothing"),
    Fault("same half for both", "images, seen if inside else ~seen", "images, seen"),
    Fault(
        "noise from the global stream",
        "torch.randn(copies.shape, generator=source, device",
        "torch.randn(copies.shape, device",
        part="_smoothing",
    ),
    Fault("abstains never", "torch.where(radii > 0, chosen, -1)", "chosen", part="_smoothing"),
    Fault("missing pixels stay", "return torch.where(mask, images, filled", "return torch.where(~mask, images, filled"),
)
