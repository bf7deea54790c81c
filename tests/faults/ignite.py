"""Faults of IGNITE."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("sum of the predictions", "(inputs,)).mean()", "(inputs,)).sum()"),
    Fault("passes in train mode", "with evaluating(model), torch.enable_grad():", "with torch.enable_grad():"),
    Fault("frozen weights perturbed", "model.named_parameters() if p.requires_grad}", "model.named_parameters()}"),
    Fault("gradients switched off", "evaluating(model), torch.enable_grad():", "evaluating(model):"),
    Fault("norms added up", "for gradient in at.values()]).norm()", "for gradient in at.values()]).sum()"),
    Fault("gradient not normalised", "detach() + r / norm * gradient", "detach() + r * gradient"),
    Fault("against the gradient", "detach() + r / norm * gradient", "detach() - r / norm * gradient"),
    Fault("difference not divided", "(there[name] - gradient) / r for", "(there[name] - gradient) for"),
    Fault("norm of 0 divided by", "    if norm == 0:\n        return 0.0, at\n", ""),
    Fault("radius forgotten", "added = self.weight * self.rho * h[name]", "added = self.weight * h[name]"),
    Fault("sharpness rewarded", "parameter.grad.add_(added)", "parameter.grad.sub_(added)"),
    Fault(
        "the loss forgotten",
        "parameter.grad = added if parameter.grad is None else",
        "parameter.grad = added if True else",
    ),
    Fault("the weight begins anew", "self.weight = max(0.0, self.weight +", "self.weight = max(0.0, self.lam +"),
    Fault("the weight below 0", "self.weight = max(0.0, self.weight +", "self.weight = max(-9.0, self.weight +"),
    Fault("the norm bounded in place of the sharpness", "self.sharpness = self.rho * norm", "self.sharpness = norm"),
    Fault("the bound forgotten", "(self.sharpness - self.eps)", "self.sharpness"),
    Fault("surrogate in eval mode", "        self.model.train()\n", ""),
    Fault("gradients of earlier steps kept", "        self.optimizer.zero_grad()\n", ""),
    Fault("weight outside the state", '        self.weight = state_dict["weight"]\n', ""),
    Fault("optimizer outside the state", '        self.optimizer.load_state_dict(state_dict["optimizer"])\n', ""),
    Fault("descent", "free.detach() + lr * gradient", "free.detach() - lr * gradient"),
    Fault("mean over the designs", "model(free).sum(), free", "model(free).mean(), free"),
    Fault("designs changed in place", "found = designs.detach().clone()", "found = designs.detach()"),
    Fault("shapes not compared", "if predictions.shape != scores.shape:", "if False:"),
)
