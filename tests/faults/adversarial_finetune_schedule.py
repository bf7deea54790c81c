"""Faults of slow start, fast decay."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("a whole cosine", "math.cos(math.pi * done / warm)", "math.cos(2 * math.pi * done / warm)"),
    Fault(
        "falls and then falls", "(1 - math.cos(math.pi * done / warm)) / 2", "(1 + math.cos(math.pi * done / warm)) / 2"
    ),
    Fault("rises to twice as much", "done / warm)) / 2\n", "done / warm))\n"),
    Fault("starts at 0", "return base_lr + (max_lr - base_lr) *", "return max_lr *"),
    Fault("rises in all steps", "math.pi * done / warm", "math.pi * done"),
    Fault("falls as fast as in all steps", "((done - warm) / (1 - warm))", "(done - warm)"),
    Fault("falls from the start on", "((done - warm) / (1 - warm))", "(done / (1 - warm))"),
    Fault("rises again", "(base_lr / max_lr) **", "(max_lr / base_lr) **"),
    Fault("falls on after the end", "min(step / steps, 1.0)", "step / steps"),
    Fault(
        "a step late",
        "slow_start_fast_decay(self.last_epoch, self",
        "slow_start_fast_decay(max(0, self.last_epoch - 1), self",
    ),
    Fault(
        "the first group alone",
        "[rate] * len(self.optimizer.param_groups)",
        "[rate] + [g['lr'] for g in self.optimizer.param_groups[1:]]",
    ),
    Fault(
        "share of the rise ignored",
        "self.base_lr, self.max_lr, self.warm)\n        return",
        "self.base_lr, self.max_lr)\n        return",
    ),
    Fault("a largest rate below the base passes", "not base_lr <= max_lr < math.inf", "not 0 < max_lr < math.inf"),
    Fault("no rise passes", "not 0 < warm < 1", "not 0 <= warm < 1"),
)
