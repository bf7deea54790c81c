"""Faults of hedge backpropagation."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("weights raised by the loss", "weights * beta**scaled", "weights / beta**scaled"),
    Fault("losses as they are", "beta**scaled).clamp", "beta**losses).clamp"),
    Fault("equal losses divided by 0", "torch.where(spread == 0, torch.ones_like(spread), spread)", "spread"),
    Fault("floor not shared", "clamp(min=smooth / len(weights))", "clamp(min=smooth)"),
    Fault("no floor", ".clamp(min=smooth / len(weights))", ""),
    Fault("weights that do not sum to 1", "raised / raised.sum(), weights)", "raised, weights)"),
    Fault(
        "loss without weights", "(weights.clone() * _losses(scores, labels)).sum()", "_losses(scores, labels).mean()"
    ),
    Fault("mean of logits", "torch.stack(outputs.scores).log_softmax(dim=2)", "torch.stack(outputs.scores)"),
    Fault("product of predictions", "logs + outputs.weights.log()[:, None, None], dim=0)", "logs, dim=0)"),
    Fault("weights at all times alike", "self.model.weights.copy_(hedge", "outputs.weights.clone().copy_(hedge"),
    Fault(
        "weights before the loss",
        "        loss = hedged_loss(outputs, labels)\n        self.optimizer.zero_grad()",
        "        self.model.weights.copy_(hedge_weights(outputs.weights, _losses(outputs.scores, labels).detach()))\n"
        "        loss = hedged_loss(outputs, labels)\n        self.optimizer.zero_grad()",
    ),
    Fault("gradients of the step before", "        self.optimizer.zero_grad()\n", ""),
    Fault(
        "what a layer gives",
        "register_forward_pre_hook(watch)",
        "register_forward_hook(lambda m, i, o: watch(m, (o,)))",
    ),
    Fault("features without their history", "self.grid)\n\n        layers", "self.grid).detach()\n\n        layers"),
    Fault("hooks left behind", "                hook.remove()", "                pass"),
    Fault("the last layer's input, too", "tuple(called)[:-1] if taps", "tuple(called) if taps"),
    Fault("the global stream", "-bound, bound, generator=generator)", "-bound, bound)"),
    Fault(
        "last prediction after the weights",
        "self.predictions = _mixture(outputs)",
        "self.predictions = _mixture(self.model(inputs))",
    ),
    Fault("state without the classifiers", '        self.model.heads.load_state_dict(state_dict["heads"])\n', ""),
    Fault("state without their weights", '        self.model.weights.copy_(state_dict["weights"])\n', ""),
    Fault("any optimizer", "if p.requires_grad and p not in held]", "if False]"),
    Fault(
        "only the deepest in evaluation",
        "outputs if self.training else _mixture(outputs)",
        "outputs if self.training else logits",
    ),
)
