"""Faults of XGrad."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("prediction backwards", "p.sub_(direction", "p.add_(direction"),
    Fault("prediction at a rate of 1", 'group["xgrad_steps"] * group["lr"]', 'group["xgrad_steps"]'),
    Fault("always one step ahead", '(group["xgrad_steps"] * group["lr"])', 'group["lr"]'),
    Fault("first moment not corrected", "(average / (1 - beta1**step))", "average.clone()"),
    Fault("second moment corrected as the first", "squares / (1 - beta2**step)", "squares / (1 - beta1**step)"),
    Fault("eps left out", ".sqrt_().add_(eps)", ".sqrt_()"),
    Fault("amsgrad as Adam", 'state.get("max_exp_avg_sq", state["exp_avg_sq"])', 'state["exp_avg_sq"]'),
    Fault(
        "closure at the true weights",
        "        loss = None if closure is None else torch.enable_grad()(closure)()\n        self.restore()\n",
        "        self.restore()\n        loss = None if closure is None else torch.enable_grad()(closure)()\n",
    ),
    Fault(
        "step from the predicted weights", "        self.restore()\n        self.optimizer", "        self.optimizer"
    ),
    Fault(
        "true weights outside the state",
        "if p in self._true:\n                    packed",
        "if False:\n                    packed",
    ),
    Fault(
        "true weights of before a load kept",
        "        self._true = {}\n        for group, named",
        "        for group, named",
    ),
    Fault("predicted weights not put back", "for p, weight in predicted.items():", "for p, weight in ():"),
    Fault("stale momentum predicted", "None if p.grad is None else _direction", "_direction"),
)
