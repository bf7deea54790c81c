"""Faults of AdaBelief."""

import shutil

from tests.faults.planting import Fault

_SHARED = "_elementwise"
_COMPILED = (
    Fault("compiled step by the wrong sign", "x.sub_(rate * m", "x.add_(rate * m", part=_SHARED),
    Fault("compiled step rounded to single precision", "dtype=torch.float64", "dtype=torch.float32", part=_SHARED),
)

FAULTS = (
    Fault("sign of the step", "offset, rate)\n", "offset, -rate)\n"),
    Fault("bias correction off by one", "math.sqrt(1 - beta2**step)", "math.sqrt(1 - beta2 ** (step + 1))"),
    Fault("eps outside the average", '    torch._foreach_add_(deviations, group["eps"])\n', ""),
    Fault("square of the gradient as in Adam", "_foreach_sub(gradients, predictions)", "_foreach_mul(gradients, 1.0)"),
    Fault(
        "decay by the wrong sign",
        "return 1 - group",
        "return 1 + group",
    ),
    Fault(
        "gradient changed in place",
        'gradients = torch._foreach_add(gradients, params, alpha=group["weight_decay"])',
        'torch._foreach_add_(gradients, params, alpha=group["weight_decay"])',
    ),
    Fault("first group for all", "for group in self.param_groups:", "for group in self.param_groups[:1]:"),
    Fault("steps counted twice", 'state.get("step", 0) + 1', 'state.get("step", 0) + 2', part=_SHARED),
    Fault("loss of the closure lost", "        return loss\n", "        return None\n"),
    *(_COMPILED if shutil.which("g++") else ()),
)
