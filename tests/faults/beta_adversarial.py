"""Faults of the best targeted attack and its smoothed form."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "own class among the wrong ones",
        "return logits.scatter(1, labels[:, None], -math.inf).topk",
        "return logits.topk",
    ),
    Fault("least likely classes", ".topk(count, dim=1).indices", ".topk(count, dim=1, largest=False).indices"),
    Fault(
        "margin with the wrong sign",
        "- logits.gather(1, labels[:, None])).squeeze(1)",
        "+ logits.gather(1, labels[:, None])).squeeze(1)",
    ),
    Fault(
        "label not taken off",
        "(logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None]))",
        "logits.gather(1, targets[:, None])",
    ),
    Fault(
        "own margin in the smooth maximum",
        "logits.gather(1, own)).scatter(1, own, -math.inf)",
        "logits.gather(1, own))",
    ),
    Fault(
        "temperature multiplies",
        "torch.logsumexp(margins / temperature, dim=1)",
        "torch.logsumexp(margins * temperature, dim=1)",
    ),
    Fault("smooth maximum not scaled back", "return temperature * torch.logsumexp", "return torch.logsumexp"),
    Fault(
        "mean square without the new gradient's share",
        "decay * squares + (1 - decay) * gradient.square()",
        "decay * squares + gradient.square()",
    ),
    Fault("no root", "(squares.sqrt() + _EPS)", "(squares + _EPS)"),
    Fault("it descends", "return lr * gradient /", "return -lr * gradient /"),
    Fault(
        "step before the new square",
        "return lr * gradient / (squares.sqrt() + _EPS), squares",
        "return lr * gradient.sign(), squares",
    ),
    Fault("rate not in radii", "attack.lr * attack.radius, attack.decay", "attack.lr, attack.decay"),
    Fault("mean square forgotten", "            move, squares = rmsprop_step", "            move, _ = rmsprop_step"),
    Fault(
        "model left in train mode",
        "with evaluating(model):\n            with torch.no_grad()",
        "with torch.enable_grad():\n            with torch.no_grad()",
    ),
    Fault(
        "smoothed attack in train mode",
        "with evaluating(model):\n            return _climb",
        "with torch.enable_grad():\n            return _climb",
    ),
    Fault(
        "first class in place of the best",
        "margins.view(-1, count).argmax(dim=1)",
        "margins.view(-1, count).argmax(dim=1) * 0",
    ),
    Fault(
        "worst class in place of the best",
        "margins.view(-1, count).argmax(dim=1)",
        "margins.view(-1, count).argmin(dim=1)",
    ),
    Fault(
        "labels in another order than the rows", "own = labels.repeat_interleave(count)", "own = labels.repeat(count)"
    ),
    Fault("last point in place of the best", "better = margins > largest", "better = margins > -math.inf"),
    Fault("last point not looked at", "for step in range(attack.steps + 1):", "for step in range(attack.steps):"),
    Fault(
        "start at the inputs",
        "changed = random_point(middle, attack.radius, math.inf, attack.bounds, generator)",
        "changed = middle.clone()",
    ),
    Fault("global random state", "math.inf, attack.bounds, generator)", "math.inf, attack.bounds)"),
    Fault(
        "not projected",
        "project(changed + move.to(changed), middle, attack.radius, math.inf, attack.bounds)",
        "(changed + move.to(changed)).clamp(*attack.bounds)",
    ),
    Fault(
        "bounds not kept",
        "middle, attack.radius, math.inf, attack.bounds)\n    return",
        "middle, attack.radius, math.inf, (-9.0, 9.0))\n    return",
    ),
    Fault("more targets than classes", "min(self.targets, others)", "self.targets"),
    Fault("low precision kept", "precise = torch.promote_types(middle.dtype, torch.float32)", "precise = middle.dtype"),
    Fault("shares of classes taken", "if labels.ndim != 1 or labels.dtype != torch.int64:", "if False:"),
    Fault("one class taken", "or logits.shape[1] < 2:", "or logits.shape[1] < 1:"),
)
