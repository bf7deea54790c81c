"""Faults of Noisy Softmax."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("noise of either sign", "dtype=torch.float32).abs()", "dtype=torch.float32)"),
    Fault("noise helps the right class", "labels[:, None], -amounts[:, None]", "labels[:, None], amounts[:, None]"),
    Fault("noise in eval mode", "if self.training and self.alpha > 0:", "if self.alpha > 0:"),
    Fault("the angle forgotten", "return (lengths - (weights * features).sum(dim=1)).clamp(min=0)", "return lengths"),
    Fault("rounding may help the right class", ".sum(dim=1)).clamp(min=0)", ".sum(dim=1))"),
    Fault(
        "noise by the square of alpha",
        "self.alpha * self._noise(gaps) * gaps",
        "self.alpha**2 * self._noise(gaps) * gaps",
    ),
    Fault(
        "no gradient through the size of the noise", "self._noise(gaps) * gaps)", "self._noise(gaps) * gaps.detach())"
    ),
    Fault("one draw for the whole batch", "torch.randn(len(like), generator", "torch.randn(1, generator"),
    Fault(
        "the first class in place of the right one", "self.layer.weight[labels].to", "self.layer.weight[labels * 0].to"
    ),
    Fault("drawn from the global state", "generator=draw, device=draw.device, dtype", "device=draw.device, dtype"),
    Fault("negative labels wrap around", "if low < 0 or high >= classes:", "if high >= classes:"),
)
