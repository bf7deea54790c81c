"""Faults of adversarial filtration."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("one of the references suffices", ".all(dim=0).nonzero()", ".any(dim=0).nonzero()"),
    Fault("what is right may be hard", "(wrong & (own < ceiling))", "(own < ceiling)"),
    Fault("ceiling not asked for", "(wrong & (own < ceiling))", "wrong"),
    Fault("easiest of a class", "[kept].argsort(stable=True)", "[kept].argsort(stable=True, descending=True)"),
    Fault("hardest of the first reference alone", "own.mean(dim=0)[kept]", "own[0][kept]"),
    Fault("one too few of a class", "place <= per_class", "place < per_class"),
    Fault("hardest first", "hardest[place <= per_class].sort().values", "hardest[place <= per_class]"),
    Fault("least sure anomalies", "amax(dim=1).argsort(descending=True", "amax(dim=1).argsort(descending=False"),
    Fault(
        "least sure answers first",
        "argsort(descending=True, stable=True)]\n    return (each",
        "argsort(stable=True)]\n    return (each",
    ),
    Fault("ties by order", "return (right / sizes)[group]", "return correct.double()"),
    Fault(
        "last bin left out, as in the authors' code",
        "for part in surplus.split(cuts)]",
        "for part in surplus.split(cuts)[:-1]]",
    ),
    Fault("bins count alike", "len(part) * part.mean().square()", "bin_size * part.mean().square()"),
    Fault("mean of absolute errors", "len(part) * part.mean().square()", "len(part) * part.mean().abs()"),
    Fault(
        "bins by number", "_means_of_equals(confidences, correct))[order]", "_means_of_equals(confidences, correct))"
    ),
    Fault("lowest scores first", "torch.unique(-scores", "torch.unique(scores"),
    Fault(
        "precision of ordinary examples",
        "torch.bincount(group[: len(anomalous)]",
        "torch.bincount(group[-len(anomalous) :]",
    ),
    Fault("references in train mode", "with evaluating(model), torch.no_grad():", "with torch.no_grad():"),
    Fault("labels of others", "inputs.detach()[kept], labels[kept]", "inputs.detach()[kept], labels[: len(kept)]"),
)
