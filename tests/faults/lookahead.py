"""Faults of Lookahead."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "slow weights outside the state",
        "if p in self._slow:\n                    packed",
        "if False:\n                    packed",
    ),
    Fault(
        "one step too many in a cycle",
        'if group["lookahead_steps"] >= group["lookahead_k"]:',
        'if group["lookahead_steps"] > group["lookahead_k"]:',
    ),
    Fault("alpha on the other side", 'slow["weight"].lerp_(p, alpha)', 'slow["weight"].lerp_(p, 1 - alpha)'),
    Fault("fast weights not put back", "for p, weight in fast.items():", "for p, weight in ():"),
    Fault(
        "slow weights after the first step",
        "        self._remember()\n        loss = self.optimizer.step",
        "        loss = self.optimizer.step",
    ),
    Fault("variance without the share", "return alpha**2 * fast_variance", "return alpha * fast_variance"),
)
