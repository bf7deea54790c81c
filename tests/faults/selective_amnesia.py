"""Faults of selective amnesia."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("penalty not squared", "(p - a).square()", "(p - a).abs()", part="_elastic"),
    Fault(
        "penalty halved", "(f * (p - a).square()).sum() for", "0.5 * (f * (p - a).square()).sum() for", part="_elastic"
    ),
    Fault(
        "anchors that move along",
        "elastic_penalty(weights, anchors, fisher)",
        "elastic_penalty(weights, average, fisher)",
    ),
    Fault("replay without its weight", "self.gamma * part.mean()", "part.mean()"),
    Fault(
        "mean over pixels",
        "error.square().flatten(1).sum(dim=1)",
        "error.square().flatten(1).mean(dim=1)",
        part="_elastic",
    ),
    Fault("errors of the noise alone", "return weight.to(x) * error", "return error", part="_elastic"),
    Fault(
        "data and v confused",
        '"x0": (1 - abar) / abar, "v": 1 / abar',
        '"x0": 1 / abar, "v": (1 - abar) / abar',
        part="_elastic",
    ),
    Fault(
        "gradients not squared",
        "weight.grad.to(square).square() / len(x)",
        "weight.grad.to(square).abs() / len(x)",
        part="_elastic",
    ),
    Fault(
        "sum in place of the mean",
        "weight.grad.to(square).square() / len(x)",
        "weight.grad.to(square).square()",
        part="_elastic",
    ),
    Fault("gradients of all samples add up", "            student.network.zero_grad()\n", "", part="_elastic"),
    Fault("sum not scaled up", "(losses.sum() * (total / len(chosen)))", "losses.sum()", part="_elastic"),
    Fault("replay of what is forgotten", "self._drawn(len(captions) * self.samples, ", "self._drawn(0, "),
    Fault("replay under another caption", "tokens[rows // self.samples]", "tokens[rows % len(tokens)]"),
    Fault("uniform from 0 to 1", "uniform_(-1, 1, ", "uniform_(0, 1, "),
    Fault("last weights in place of the average", "weight.data.copy_(mean)", "mean.copy_(weight.data)"),
    Fault("average the wrong way round", "1 - self.ema)", "self.ema)"),
    Fault("gradients as long as they are", "clip_grad_norm_(weights, 1.0)", "clip_grad_norm_(weights, 1e9)"),
    Fault("source changed", "cast(Any, copied(model))", "cast(Any, model)"),
    Fault("one text read letter by letter", 'caption_list("retain", retain)', "list(retain)"),
)
