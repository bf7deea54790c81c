"""Faults of AdvDiff."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "the label itself is the target",
        "logits.scatter(1, labels[:, None], -math.inf).argmax(dim=1)",
        "logits.argmax(dim=1)",
    ),
    Fault(
        "least likely class",
        "logits.scatter(1, labels[:, None], -math.inf).argmax(dim=1)",
        "logits.scatter(1, labels[:, None], math.inf).argmin(dim=1)",
    ),
    Fault("logit in place of the log-probability", "F.log_softmax(logits, dim=1).gather", "logits.gather"),
    Fault("images not held to the range", "decode(place).clamp(0, 1)", "decode(place)"),
    Fault(
        "mean over the batch", "torch.autograd.grad(chosen.sum(), place)", "torch.autograd.grad(chosen.mean(), place)"
    ),
    Fault(
        "away from the target", "torch.autograd.grad(chosen.sum(), place)", "torch.autograd.grad(-chosen.sum(), place)"
    ),
    Fault("targets ignored", "if targets is None else targets\n", "if True else targets\n"),
    Fault("the very last step is guided", "if s and 0 < index <= share", "if s and 0 <= index <= share"),
    Fault("first steps in place of the last", "index <= share * len(schedule)", "index >= share * len(schedule)"),
    Fault("one step too few", "index <= share * len(schedule)", "index < share * len(schedule)"),
    Fault(
        "gradient at the estimate of the data",
        "adversarial_gradient(victim, z, labels, targets, model.decode)[0]",
        "adversarial_gradient(victim, x0, labels, targets, model.decode)[0]",
    ),
    Fault(
        "guidance for the label of another round", "own, wanted = labels[place],", "own, wanted = labels[: len(place)],"
    ),
    Fault("noise not moved", "noise[place] += a * gradient", "noise[place] += 0 * gradient"),
    Fault("noise moved by s", "noise[place] += a * gradient", "noise[place] += s * gradient"),
    Fault("noise of all moved", "noise[place] += a * gradient", "noise += a * gradient.mean(dim=0)"),
    Fault("a target counts as any class", "seen != own if wanted is None else seen == wanted", "seen != own"),
    Fault("victim in train mode", "with evaluating(victim):", "if True:"),
    Fault(
        "no guidance by the class",
        "predicted_noise(model, labels, len(labels), guidance)",
        "predicted_noise(model, labels, len(labels))",
    ),
    Fault(
        "fooled ones drawn again",
        "place = (~fooled).nonzero().squeeze(1)",
        "place = (~fooled | True).nonzero().squeeze(1)",
    ),
)
