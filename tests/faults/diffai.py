"""Faults of DiffAI."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "box through signed weights",
        "lambda x: F.linear(x, weight.abs())",
        "lambda x: F.linear(x, weight).abs()",
        part="_zonotope",
    ),
    Fault(
        "bias added to errors",
        "values.through(module, lambda x: F.linear(x, weight),",
        "values.through(module, module,",
        part="_zonotope",
    ),
    Fault(
        "errors not in the reach", "return self.box + self.errors.abs().sum(dim=0)", "return self.box", part="_zonotope"
    ),
    Fault("errors summed with signs", "self.errors.abs().sum(dim=0)", "self.errors.sum(dim=0).abs()", part="_zonotope"),
    Fault(
        "offset not in the box",
        "torch.where(cut, half, slope * values.box + offset)",
        "torch.where(cut, half, slope * values.box)",
        part="_zonotope",
    ),
    Fault("offset twice as large", "-slope * low / 2", "-slope * low", part="_zonotope"),
    Fault("offset of half the size", "-slope * low / 2", "-slope * low / 4", part="_zonotope"),
    Fault(
        "cut where shared errors would be kept",
        "(shared == 0) | (-low > high)",
        "(shared == 0) | (-low < high)",
        part="_zonotope",
    ),
    Fault(
        "a crossing entry is scaled without shared errors",
        "(shared == 0) | (-low > high)",
        "(-low > high)",
        part="_zonotope",
    ),
    Fault(
        "shared errors of a cut entry stay",
        "slope * values.errors",
        "slope.where(~cut, 1) * values.errors",
        part="_zonotope",
    ),
    Fault(
        "no bounds of the range", ".clamp(min=bounds[0]), (inputs + radius)", ", (inputs + radius)", part="_zonotope"
    ),
    Fault(
        "errors of a sum by place",
        "ids.index(each) for each in part.ids",
        "place for place, each in enumerate(part.ids)",
        part="_zonotope",
    ),
    Fault("a difference adds its errors", "factor * part.errors", "part.errors", part="_zonotope"),
    Fault(
        "a difference subtracts its box", "first.box + second.box", "first.box + sign * second.box", part="_zonotope"
    ),
    Fault(
        "smallest reaches correlated",
        "flat.topk(min(count, flat.shape[1]), dim=1)",
        "flat.topk(min(count, flat.shape[1]), dim=1, largest=False)",
        part="_zonotope",
    ),
    Fault(
        "correlated reaches stay in the box",
        "flat.scatter(1, places.t(), 0).view_as(values.box)",
        "values.box",
        part="_zonotope",
    ),
    Fault(
        "concretized errors are lost",
        "HybridZonotope(values.center, values.radius(), values.errors[:0], ())",
        "HybridZonotope(values.center, values.box, values.errors[:0], ())",
        part="_zonotope",
    ),
    Fault(
        "statistics of the batch in eval mode",
        "if module.training or module.running_var is None",
        "if True",
        part="_zonotope",
    ),
    Fault("normalization's scale with its sign", "lambda x: scale.abs() * x", "lambda x: scale * x", part="_zonotope"),
    Fault(
        "convolution without its padding",
        "None, module.stride, module.padding, module",
        "None, module.stride, 0 if weight is not module.weight else module.padding, module",
        part="_zonotope",
    ),
    Fault(
        "own reach of the label left out", "logits.box + logits.box.gather(1, place) + shared", "logits.box + shared"
    ),
    Fault(
        "shared errors of the label left out",
        "logits.errors - logits.errors.gather(2, place.expand(len(logits.ids), -1, -1))",
        "logits.errors",
    ),
    Fault(
        "best margins",
        "center + logits.box + logits.box.gather(1, place) + shared",
        "center - logits.box - logits.box.gather(1, place) - shared",
    ),
    Fault("weights swapped", "(1 - weight) * first + weight * self", "weight * first + (1 - weight) * self"),
    Fault("no growth", "1.0 if ramp == 0 else min(1.0, progress / ramp)", "1.0"),
    Fault("growth without end", "min(1.0, progress / ramp)", "progress / ramp"),
    Fault("any class suffices", "(others < 0).all(dim=1)", "(others < 0).any(dim=1)"),
    Fault("rounds are not counted", "self.rounds += 1", "self.rounds += 0"),
    Fault("rounds are not restored", 'self.rounds = state_dict["rounds"]', "self.rounds = 0"),
    Fault("proves in train mode", "with evaluating(model), torch.no_grad():", "with torch.no_grad():"),
)
