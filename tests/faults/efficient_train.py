"""Faults of EfficientTrain."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("intensity of the sum", "torch.cat([real, alone[None]]) / side)", "torch.cat([real, alone[None]]) / new)"),
    Fault(
        "frequency without partner left out",
        "torch.arange(-(new // 2), (new + 1) // 2",
        "torch.arange(-((new - 1) // 2), (new + 1) // 2",
    ),
    Fault("imaginary parts left out", " - product[..., -1:, -1:] * alternating", ""),
    Fault(
        "imaginary parts added", " - product[..., -1:, -1:] * alternating", " + product[..., -1:, -1:] * alternating"
    ),
    Fault("sides swapped", "rows @ images @ columns.mT", "columns @ images @ rows.mT"),
    Fault("sampled half a pixel on", "n[:, None] / new - m / side", "(n[:, None] + 0.5) / new - m / side"),
    Fault(
        "stages begin a step late",
        "bisect_right(milestones, progress)",
        "__import__('bisect').bisect_left(milestones, progress)",
    ),
    Fault(
        "sides rounded down",
        "max(1, round(share * height)), max(1, round(share * width))",
        "max(1, int(share * height)), max(1, int(share * width))",
    ),
    Fault("no pixel left", "max(1, round(share * height))", "round(share * height)"),
    Fault(
        "matrix kept from inference mode",
        "torch.inference_mode(False)",
        "torch.inference_mode(torch.is_inference_mode_enabled())",
    ),
    Fault("crops in evaluation", "        if not self.training:\n            return self.model(images)\n", ""),
    Fault("counts passes without gradients", "self.passes += torch.is_grad_enabled()", "self.passes += 1"),
    Fault("never goes on", "self.passes += torch.is_grad_enabled()", "self.passes += 0"),
    Fault("passes outside the state", "self.passes = int(state)", "pass"),
    Fault("height for width", "max(1, round(share * width))", "max(1, round(share * height))"),
)
