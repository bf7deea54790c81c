"""Faults of the momentum auxiliary network."""

from tests.faults.planting import Fault

FAULTS = (
    Fault(
        "average and weight exchanged",
        "momentum * average + (1 - momentum) * weight",
        "momentum * weight + (1 - momentum) * average",
    ),
    Fault("the average is trained, too", "copy.deepcopy(following).requires_grad_(False)", "copy.deepcopy(following)"),
    Fault(
        "the trained copy is frozen",
        'copies["bias"] = copy.deepcopy(following)',
        'copies["bias"] = copy.deepcopy(following).requires_grad_(False)',
    ),
    Fault(
        "the layer itself in place of a copy", 'copies["bias"] = copy.deepcopy(following)', 'copies["bias"] = following'
    ),
    Fault("the mean of the two copies", "outputs[0] + outputs[1])", "(outputs[0] + outputs[1]) / 2)"),
    Fault("the average moves in eval mode, too", "if self.average and self.training:", "if self.average:"),
    Fault("the average never moves", "if self.average and self.training:", "if False:"),
    Fault(
        "the average follows the part's own layer",
        "zip(self.auxiliaries, parts[1:], strict=True)",
        "zip(self.auxiliaries, parts[:-1], strict=True)",
    ),
    Fault("copies of the last layer of the part", "following = layers[end + 1][0]", "following = layers[end][0]"),
    Fault("heads of the part's own width", "width(layers[end + 1 if copies else end])", "width(layers[end])"),
    Fault(
        "a head that does not halve the map",
        "2 * channels, 3, stride=2, padding=1",
        "2 * channels, 3, stride=1, padding=1",
    ),
    Fault("weights from the global stream", "        with seeded_by(generator):", "        with seeded_by(None):"),
    Fault("auxiliaries in eval mode", "        if not self.training:\n            return self.model(x)\n", ""),
)
