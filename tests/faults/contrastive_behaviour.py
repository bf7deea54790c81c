"""Faults of the losses and measures of contrastive learning."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "each view finds itself",
        '(cosines / temperature).fill_diagonal_(float("-inf"))',
        "cosines / temperature",
    ),
    Fault(
        "the easiest negatives", "negatives >= negatives.topk(kept, dim=1)", "negatives <= negatives.topk(kept, dim=1)"
    ),
    Fault("ties dropped", "(negatives >= negatives.topk", "(negatives > negatives.topk"),
    Fault("rounded down", "ceil(share * (len(cosines) - 2) - 1e-9)", "int(share * (len(cosines) - 2))"),
    Fault("the twin dropped", "dropped.scatter(1, twins[:, None], value=False)", "dropped"),
    Fault("hard negatives of the batch", "values[:, -1:]", "values[:, -1:].mean()"),
    Fault("a neighbour for a twin", ".roll(len(first))", ".roll(1)"),
    Fault("any share", "if not 0 < share <= 1:", "if share == 0:"),
    Fault("the weight of attraction", "weight * repelled.mean() - attracted", "repelled.mean() - weight * attracted"),
    Fault("a sum over negatives", " / kept.sum(dim=1).clamp(min=1)", ""),
    Fault("one image has no loss", ".clamp(min=1)\n", "\n"),
    Fault("pairs of a sample with itself", "near.masked_fill(index[:, None] == apart, 0.0)", "near"),
    Fault("tolerance of a sample with itself", " - codes.square().sum()", ""),
    Fault("the mean over all pairs", "(counts * (counts - 1)).sum()", "(len(codes) * (len(codes) - 1))"),
)
