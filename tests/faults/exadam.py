"""Faults of EXAdam."""

import shutil

from tests.faults.planting import Fault

_COMPILED = (Fault("compiled step by the wrong sign", "x.sub_(rate * u", "x.add_(rate * u"),)

FAULTS = (
    Fault("correction by the wrong average", "_correct(sums, squares, second,", "_correct(sums, averages, second,"),
    Fault("correction by the other's share", "averages), first, group", "averages), second, group"),
    Fault("corrected squares kept", "squares = tuple(v.clone() for v in squares)", "pass"),
    Fault("gradient left out", "torch._foreach_add(averages, gradients)", "torch._foreach_mul(averages, 1.0)"),
    Fault("first moment not corrected", "growth / (1 - first)", "growth"),
    Fault("step grows from the step before", "math.log(2 * (step + 1)) / 2", "math.log(2 * step) / 2"),
    Fault("sign of the step", "value=-rate", "value=rate"),
    Fault("decay by the wrong sign", 'kept = 1 - group["lr"]', 'kept = 1 + group["lr"]'),
    Fault("first group for all", "for group in self.param_groups:", "for group in self.param_groups[:1]:"),
    *(_COMPILED if shutil.which("g++") else ()),
)
