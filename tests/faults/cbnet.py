"""Faults of composite backbones."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("same level by the input's own stage", '"same": [stage - 1]', '"same": [stage]'),
    Fault("lower level one too low", '"lower": [stage - 2]', '"lower": [stage - 3]'),
    Fault("dense without the last stage", "[*range(stage, stages + 1)]", "[*range(stage, stages)]"),
    Fault("dense from the stage before", "[*range(stage, stages + 1)]", "[*range(stage - 1, stages + 1)]"),
    Fault("a stage that is not there", "if number > 0]", "]"),
    Fault("assistants unweighed", "share * loss for share", "loss for share"),
    Fault("weights the wrong way round", "2: (0.5, 1.0)", "2: (1.0, 0.5)"),
    Fault("connections that start open", "        nn.init.zeros_(self.norm.weight)\n", ""),
    Fault(
        "connections without normalization",
        "self.norm(self.convolution(x))",
        "self.norm.weight[:, None, None] * self.convolution(x)",
    ),
    Fault("smooth enlargement", 'mode="nearest")', 'mode="bilinear")'),
    Fault(
        "large maps sampled", "return F.adaptive_avg_pool2d(mapped, size)", "return F.interpolate(mapped, size=size)"
    ),
    Fault("backbones that are one", "nn.ModuleList(copy.deepcopy(stages) for _", "nn.ModuleList(stages for _"),
    Fault("channels of the stage's output", "self.channels[stage - 2])", "self.channels[stage - 1])"),
    Fault("fed by the first backbone", "connect(outputs[-1][source - 1]", "connect(outputs[0][source - 1]"),
    Fault("fed by the stage after", "outputs[-1][source - 1]", "outputs[-1][source % len(outputs[-1])]"),
    Fault("the sum without the input", "given = given + connect(", "given = connect("),
    Fault(
        "the first assistant as the lead",
        "CompositeFeatures(outputs[-1], tuple(outputs[:-1]))",
        "CompositeFeatures(outputs[0], tuple(outputs[1:]))",
    ),
    Fault("connections of another format", "            self.connections.to(weight)\n", "            pass\n"),
)
