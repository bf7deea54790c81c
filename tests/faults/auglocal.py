"""Faults of AugLocal."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("depths that grow", "max_depth * (1 - slope * at) + slope * at", "1 + (max_depth - 1) * slope * at"),
    Fault("slope by the number of parts", "pyramid / (parts - 2) if", "pyramid / parts if"),
    Fault("a depth for the last part, too", "for at in range(parts - 1)]", "for at in range(parts)]"),
    Fault("layers rounded down", "[round(layer + rest", "[int(layer + rest"),
    Fault(
        "layers from the part on",
        "for number in range(1, min(depth, rest) + 1)]",
        "for number in range(min(depth, rest))]",
    ),
    Fault("a map halved at every layer", "strides.append(2 if halvings else 1)", "strides.append(2)"),
    Fault("a jump by four forgotten", "halvings -= bool(halvings)", "halvings = 0"),
    Fault(
        "no activation after the sum",
        "torch.relu(self.shortcut(x) + self.residual(x))",
        "self.shortcut(x) + self.residual(x)",
    ),
    Fault("always normalised", "classes, depth == 1)", "classes, True)"),
    Fault("weights from the global stream", "        with seeded_by(generator):", "        with seeded_by(None):"),
    Fault(
        "auxiliaries initialised as torch does",
        'nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")',
        "pass",
    ),
    Fault("auxiliaries in eval mode", "        if not self.training:\n            return self.model(x)\n", ""),
    Fault("gradients go through", "        x = x.detach()\n", "", part="_local"),
    Fault(
        "the last part's input without its layers",
        "(*scores, parts[-1](x))",
        "(*scores, parts[-1][1:](x))",
        part="_local",
    ),
    Fault("the larger parts last", "[-(-layers * number // count) - 1", "[layers * number // count - 1", part="_local"),
    Fault(
        "stream not restored",
        "    with torch.random.fork_rng(devices=[]):\n        torch.manual_seed(int(seed))\n        yield",
        "    torch.manual_seed(int(seed))\n    yield",
        part="_local",
    ),
)
