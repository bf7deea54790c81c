"""Faults of Grams."""

import shutil

from tests.faults.planting import Fault

_COMPILED = (Fault("compiled step by the wrong sign", "x.sub_(rate * u", "x.add_(rate * u"),)

FAULTS = (
    Fault("sign of the momentum", "torch._foreach_sign(gradients)", "torch._foreach_sign(averages)"),
    Fault("size of the momentum with its sign", "torch._foreach_abs(averages)", "torch._foreach_mul(averages, 1.0)"),
    Fault("sign of the step", "roots, value=-rate", "roots, value=rate"),
    Fault("gradient in place of its sign", "torch._foreach_sign(gradients)", "gradients"),
    Fault("bias correction off by one", "(1 - beta2**step) ** 0.5", "(1 - beta2 ** (step + 1)) ** 0.5"),
    Fault(
        "eps before the correction",
        "torch._foreach_div_(roots, root)\n    torch._foreach_add_(roots, eps)",
        "torch._foreach_add_(roots, eps)\n    torch._foreach_div_(roots, root)",
    ),
    Fault("decay by the wrong sign", "kept = 1 - group", "kept = 1 + group"),
    Fault("first group for all", "for group in self.param_groups:", "for group in self.param_groups[:1]:"),
    *(_COMPILED if shutil.which("g++") else ()),
)
