"""Faults of black-box prompting."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("forbidden tokens given", ".masked_fill(~allowed, math.inf)", ""),
    Fault("farthest tokens", "distances.argmin(dim=1)", "distances.argmax(dim=1)"),
    Fault("noise does not depend on scores", "/ (10 * max(spread, 1e-4))", "/ 10"),
    Fault("noise grows with the spread", "/ (10 * max(spread, 1e-4))", "* max(spread, 1e-4) / 10"),
    Fault("noise on all entries", "points[scores.argmax()] + mask * noise", "points[scores.argmax()] + noise"),
    Fault("noise around the last point", "tried = points[scores.argmax()] + mask", "tried = points[-1] + mask"),
    Fault("first points without their deviation", "mean + deviation * torch.randn", "mean + torch.randn"),
    Fault(
        "last batch whole", "count = min(batch, queries - len(points))\n        spread", "count = batch\n        spread"
    ),
    Fault("box does not grow", "(min(2 * side, 1.6), 0) if wins == 3", "(side, 0) if wins == 3"),
    Fault("box does not shrink", "(side / 2, 0) if losses == patience", "(side, 0) if losses == patience"),
    Fault("no restart", "if side < 2**-7:", "if side < 0:"),
    Fault("process of all points after a restart", "len(points) - since < 2 * batch:", "len(points) < 2 * batch:"),
    Fault(
        "box of twice the side",
        "(middle - side / 2).clamp(min=0), (middle + side / 2)",
        "(middle - side).clamp(min=0), (middle + side)",
    ),
    Fault("box around the worst", "middle, dim = points[scores.argmax()]", "middle, dim = points[scores.argmin()]"),
    Fault("all entries change", "few.scatter(1, one, True)", "torch.ones_like(few)"),
    Fault("lowest of each sample", "sample.argsort(descending=True)", "sample.argsort()"),
    Fault("candidates twice", "if number not in chosen", "if True"),
    Fault("smoothness of 3/2", "(1 + a + a.square() / 3)", "(1 + a)"),
    Fault("prior in place of posterior covariance", " - across.T @ across", ""),
    Fault("no penalty of complexity", " - root.diagonal().log().sum()", ""),
)
