"""Faults of scaling by architecture."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("squares of depths", "paths * depth**3", "paths * depth**2"),
    Fault("one path for all of a depth", "sum(paths * depth**3", "sum(depth**3"),
    Fault("base over own turned round", "math.sqrt(base / own)", "math.sqrt(own / base)"),
    Fault("no root", "math.sqrt(base / own)", "(base / own)"),
    Fault("kernels turned round", "* base_kernel / kernel", "* kernel / base_kernel"),
    Fault("depths not checked", "isinstance(value, bool) or value < 0", "isinstance(value, bool)"),
    Fault("in-degree forgotten", "2 / (fan_in * degree)", "2 / fan_in"),
    Fault("last layer like the others", "if degree else 2 / fan_in**2", "if degree else 2 / fan_in"),
    Fault("fan out of the layer", "fan_in = weight[0].numel()", "fan_in = weight[:, 0].numel()"),
    Fault("biases stay", "bias.zero_()", "pass"),
    Fault("generator not used", "math.sqrt(variance), generator=generator)", "math.sqrt(variance))"),
    Fault("computed weights drawn", "if words := computed_weight(model):", "if words := None:"),
    Fault("ReLU of the sum alone", "(F.relu(vertices[source]))", "(vertices[source])"),
    Fault("skips with a ReLU", 'vertices[source] if edge == "skip"', 'F.relu(vertices[source]) if edge == "skip"'),
    Fault(
        "no ReLU before the last layer",
        "self.head(F.relu(_last_vertex(self.dag, self.layers, self.stem(x.flatten(1)))))",
        "self.head(_last_vertex(self.dag, self.layers, self.stem(x.flatten(1))))",
    ),
    Fault("edges out of vertices not checked", "for source in range(len(dag)):", "for source in range(0):"),
    Fault(
        "ReLUs not counted",
        "Counter({d + 1: n for d, n in before.items()})",
        "Counter({d: n for d, n in before.items()})",
        part="_graph",
    ),
    Fault("functions are no ReLUs", "return node.target in _RELUS", "return False", part="_graph"),
    Fault("sizes are paths", "elif node.target in _NO_TENSORS:", "elif False:", part="_graph"),
    Fault("one path through each sum", "before.update(depths[source])", "before |= depths[source]", part="_graph"),
    Fault(
        "sums of two alone",
        "return sum(_summands(value) if len(value.users) == 1 else 1 for value in values) or 1",
        "return len(values) or 1",
        part="_graph",
    ),
    Fault(
        "vertices that are used again taken apart",
        "_summands(value) if len(value.users) == 1 else 1",
        "_summands(value)",
        part="_graph",
    ),
    Fault("degree of the last use", "max(degrees.get(name, 0), 0 if", "max(0, 0 if", part="_graph"),
    Fault("no layer is the last", "0 if last[node] else", "0 if False else", part="_graph"),
)
