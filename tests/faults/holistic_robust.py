"""Faults of the holistic robust loss."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("mass from the largest losses", 'np.argsort(losses, kind="stable")', 'np.argsort(-losses, kind="stable")'),
    Fault("mass from the first losses", "left[order] = share", "left[:-1] = share"),
    Fault(
        "only whole examples replaced", "np.arange(len(losses)), 0, share)", "np.arange(1, len(losses) + 1), 0, share)"
    ),
    Fault("mass lost", "left[-1] = min(alpha, 1.0)", "left[-1] = 0.0"),
    Fault("p is q whatever r", "if r == 0 or", "if r >= 0 or"),
    Fault(
        "divergence in the other sense",
        "p[kept] = np.exp(logs - logsumexp(logs))",
        "p[kept] = np.exp(-logs - logsumexp(-logs))",
    ),
    Fault("weights without q", "logs = log_q - np.logaddexp", "logs = -np.logaddexp"),
    Fault("weights not scaled", "np.exp(logs - logsumexp(logs))", "np.exp(logs)"),
    Fault("r twice", ".sum() - r)", ".sum() - 2 * r)"),
    Fault("r left out", ".sum() - r)", ".sum() - 0.1)"),
    Fault("sum of the heights without q", "(q[kept] * heights).sum()", "heights.mean()"),
    Fault("root sought above too high a point", "- 1)\n    high", "+ 20)\n    high"),
    Fault("gaps from the smallest loss", "given.max() - given", "given - given.min()"),
    Fault(
        "gap of the worst case left out",
        "np.append(given.max() - given, 0.0)",
        "np.append(given.max() - given, given.max())",
    ),
    Fault(
        "gradient through the weights' losses lost",
        "(weights[:-1] * losses).sum()",
        "(weights[:-1] * losses.detach()).sum()",
    ),
    Fault("worst case without its weight", "+ weights[-1] * losses.amax()", ""),
    Fault("worst case is the mean", "losses.amax()", "losses.mean()"),
    Fault("no short way at the null setting", "if self.alpha == 0 and self.r == 0:", "if False:"),
    Fault("not finite losses not looked for", "if not bool(losses.isfinite().all()):", "if False:"),
    Fault("alpha not checked", "if isinstance(alpha, bool) or not 0 <= alpha <= 1:", "if False:"),
    Fault("r not checked", "if isinstance(r, bool) or not 0 <= r < math.inf:", "if False:"),
    Fault(
        "arguments of the loss not checked",
        "        super().__init__()\n        _check(alpha, r)",
        "        super().__init__()",
    ),
    Fault("losses not checked", "or not bool(losses.isfinite().all()):", "or False:"),
)
