"""Faults of massive label noise."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("structure on the true class", ".roll(1, dims=1)", ""),
    Fault("structure on the class before", ".roll(1, dims=1)", ".roll(-1, dims=1)"),
    Fault("uniform over the wrong classes", "/ classes, dtype", "/ (classes - 1), dtype"),
    Fault(
        "alpha labels in all, not beside the right one",
        "torch.float64)) / (1 + alpha)",
        "torch.float64)) / max(1, alpha)",
    ),
    Fault("noise in place of right labels", "(right + alpha * noise", "(alpha * noise"),
    Fault("lead over all wrong classes together", "wrong.amax(dim=1)", "wrong.clamp(min=0).sum(dim=1)"),
    Fault("lead in the easiest class", ".min().item()", ".max().item()"),
    Fault(
        "lead over oneself", "law.masked_fill(torch.eye(len(law), dtype=torch.bool, device=law.device), -1.0)", "law"
    ),
    Fault("inputs repeated one by one, labels all at once", ".repeat(1 + alpha)", ".repeat_interleave(1 + alpha)"),
    Fault("noise of each input beside that of others", "drawn.T.flatten()", "drawn.flatten()"),
    Fault("right labels left out", "torch.cat([labels, drawn.T", "torch.cat([drawn.T[0].to(labels.device), drawn.T"),
    Fault("no class drawn twice", "alpha, replacement=True", "alpha, replacement=alpha > len(noise)"),
    Fault("noise from the global stream", "replacement=True, generator=generator", "replacement=True"),
    Fault("the law of the class as column", "logits.dtype)[labels]", "logits.dtype).T[labels]"),
    Fault("labels given back themselves", "return index, labels.clone()", "return index, labels"),
    Fault("right labels trained on", "train(inputs[index], diluted)", "train(inputs[index], labels[index])"),
    Fault("tested in train mode", "with evaluating(model):", "if True:"),
    Fault("the last batch counts alone", "/ len(labels)\n", "/ min(len(labels), _BATCH)\n"),
    Fault("lead of the noise", "plurality(label_law(alpha, noise)) for", "plurality(noise) for"),
    Fault("alphas not checked", '_check_whole("alphas", alpha, least=0)', "pass"),
    Fault("rows that do not sum to 1 accepted", "< 1e-5", "< 1e5"),
)
