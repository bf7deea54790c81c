"""Faults of DiffPure."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("integral of the constant part only", "(betas[1] - betas[0]) * t**2 / 2", "0 * t**2"),
    Fault("integral without the half", "(betas[1] - betas[0]) * t**2 / 2", "(betas[1] - betas[0]) * t**2"),
    Fault("probability flow in place of the reverse equation", "(x + 2 * score(", "(x + 1 * score("),
    Fault("drift of the forward equation", "return x + share / 2 *", "return x - share / 2 *"),
    Fault("drift without the half", "x + share / 2 *", "x + share *"),
    Fault("no fresh noise", "+ math.sqrt(share) * noise", "+ 0 * noise"),
    Fault("noise not under the root", "+ math.sqrt(share) * noise", "+ share * noise"),
    Fault("beta of the end of the step", "t = t_star - number * length", "t = t_star - (number + 1) * length"),
    Fault("same time in all steps", "t = t_star - number * length", "t = t_star"),
    Fault("activations kept", "if torch.is_grad_enabled():", "if False:"),
    Fault("score in detached steps", "checkpoint(_step, score, x, t,", "checkpoint(_step, score, x.detach(), t,"),
    Fault("score with the sign of the noise", "return -noise / spread", "return noise / spread"),
    Fault(
        "noise not divided by its deviation", "return -noise / spread.view(-1, *[1] * (x.ndim - 1))", "return -noise"
    ),
    Fault("divided by the variance", "(1 - schedule.abar[index]).sqrt()", "(1 - schedule.abar[index])"),
    Fault("last time out of reach", ".clamp(1, len(schedule)) - 1", ".clamp(1, len(schedule) - 1)"),
    Fault("images diffused as they are", "x = 2 * images - 1", "x = images"),
    Fault("given back in the range of the diffusion", "self.steps, self.betas) + 1) / 2", "self.steps, self.betas))"),
    Fault(
        "diffused from the global stream",
        "normal(x, self.generator), signal_share",
        "torch.randn_like(x), signal_share",
    ),
    Fault("schedule not checked", "if not torch.allclose(abar,", "if False and not torch.allclose(abar,"),
)
