"""Faults of Laplacian smoothing."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("smooths where it should not", "if sigma == 0 or gradient.numel() < 2:", "if gradient.numel() < 2:"),
    Fault("frequencies off by a half", "half_angles = math.pi / n *", "half_angles = math.pi / (2 * n) *"),
    Fault(
        "sharpens",
        "return (1 / smoothing_spectrum(n, sigma, order)).to",
        "return smoothing_spectrum(n, sigma, order).to",
    ),
    Fault("order as a factor", "* torch.sin(half_angles) ** 2) ** order", "* torch.sin(half_angles) ** 2) * order"),
    Fault(
        "gradients not put back",
        "    finally:\n        restore()",
        "    finally:\n        pass",
        part="_changed_gradients",
    ),
    Fault("momentum lost", 'self.state[p]["momentum_buffer"] = buffer', 'self.state[p]["momentum_buffer"] = None'),
    Fault(
        "margin too small",
        "margin = _reach(sigma, order, ring.dtype)",
        "margin = _reach(sigma, order, ring.dtype) // 4",
    ),
)
