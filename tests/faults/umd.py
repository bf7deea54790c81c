"""Faults of UMD."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "core counts its own pairs as outside", "    outside[core] = False\n    return (within", "    return (within"
    ),
    Fault(
        "one direction in place of both",
        "mutual = (transfer + transfer.T)[core][:, core] / 2",
        "mutual = transfer[core][:, core]",
    ),
    Fault("mean in place of the weakest of the core", "(within.min() - ", "(within.mean() - "),
    Fault("mean in place of the strongest outside", "[:, outside].mean(dim=0).max()", "[:, outside].mean()"),
    Fault(
        "to the core in place of from it",
        "transfer[core].sum(dim=0) + transfer[candidates]",
        "transfer.T[core].sum(dim=0) + transfer.T[candidates]",
    ),
    Fault("targets in place of sources", "    sources = pairs[:, 0]\n", "    sources = pairs[:, 1]\n"),
    Fault(
        "last core in place of the best",
        "return max(cores, key=lambda core: coherence(transfer, core))",
        "return cores[-1]",
    ),
    Fault("sizes in place of reciprocals", "reciprocal = 1 / sizes.double()", "reciprocal = sizes.double()"),
    Fault("core among the others", "    outside[core] = False\n    others", "    others"),
    Fault(
        "deviation not scaled",
        "(1.4826 * (others - median).abs().quantile(0.5))",
        "((others - median).abs().quantile(0.5))",
    ),
    Fault("level without the number of others", "** (1 / len(others))", "** 1"),
    Fault("added triggers climb", "added[going] -= step *", "added[going] += step *", part="_pair_triggers"),
    Fault(
        "steps as long as the gradient",
        "step * F.normalize(gradient.flatten(1), dim=1).view_as(gradient)",
        "step * gradient",
        part="_pair_triggers",
    ),
    Fault("pairs that are done go on", "going, gradient = going[left], gradient[left]", "pass", part="_pair_triggers"),
    Fault("cost falls after success", "1.5 ** streak.sign()", "1.5 ** -streak.sign()", part="_pair_triggers"),
    Fault(
        "last mask in place of the smallest",
        "better = (enough & (area.double() < sizes))",
        "better = enough",
        part="_pair_triggers",
    ),
    Fault(
        "own images count",
        ".fill_diagonal_(0)\n\n\n@torch.no_grad()\ndef seen",
        "\n\n\n@torch.no_grad()\ndef seen",
        part="_pair_triggers",
    ),
    Fault(
        "sources are not checked", "images[right & (labels == name)]", "images[labels == name]", part="_pair_triggers"
    ),
    Fault(
        "model in train mode",
        "    with evaluating(model), torch.enable_grad():",
        "    with torch.enable_grad():",
        part="_pair_triggers",
    ),
)
