"""Faults of AdaBelief."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("sign of the step", 'rates = [-group["lr"] * root', 'rates = [group["lr"] * root'),
    Fault("bias correction off by one", "roots = [math.sqrt(1 - beta2**t)", "roots = [math.sqrt(1 - beta2 ** (t + 1))"),
    Fault("eps outside the average", '    torch._foreach_add_(deviations, group["eps"])\n', ""),
    Fault("square of the gradient as in Adam", "_foreach_sub(gradients, predictions)", "_foreach_mul(gradients, 1.0)"),
    Fault(
        "decay by the wrong sign",
        "torch._foreach_mul_(params, 1 - lr * decay)",
        "torch._foreach_mul_(params, 1 + lr * decay)",
    ),
    Fault(
        "gradient changed in place",
        "gradients = torch._foreach_add(gradients, params, alpha=decay)",
        "torch._foreach_add_(gradients, params, alpha=decay)",
    ),
    Fault("first group for all", "for group in self.param_groups:", "for group in self.param_groups[:1]:"),
    Fault("steps counted twice", 'state.get("step", 0) + 1', 'state.get("step", 0) + 2'),
    Fault("loss of the closure lost", "        return loss\n", "        return None\n"),
)
