"""Faults of deeply-supervised nets."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("the label against itself", "(margins.relu().square() * others)", "margins.relu().square()"),
    Fault("a hinge that is not squared", "margins.relu().square() * others", "margins.relu() * others"),
    Fault("the mean over classes", "others).sum(dim=1).mean()", "others).mean()"),
    Fault("a threshold that lets the gradient through", "- gamma).relu()", "- gamma).clamp(min=0)"),
    Fault("no threshold", "labels, loss) - gamma).relu()", "labels, loss)).relu()"),
    Fault("norm not weighed", "(lam * norm + ", "(norm + "),
    Fault("weight for the output", "total + alpha * companion", "alpha * total + companion"),
    Fault("companions at alpha 0, too", "    if alpha:\n", "    if True:\n"),
    Fault("weight that rises", "(1 - epoch / epochs)", "(epoch / epochs)"),
    Fault("weight without the tenth", "return 0.1 * alpha", "return alpha"),
    Fault("companions in eval mode", "        if not self.training:\n            return self.model(x)\n", ""),
    Fault(
        "features without their history",
        "seen[layer] = _features(layer, output",
        "seen[layer] = _features(layer, output.detach()",
    ),
    Fault("hooks left behind", "                hook.remove()", "                pass"),
    Fault("features without a copy", "output.reshape(len(output), -1, output.shape[-1]).mean(dim=1)", "output"),
    Fault("the last layer, too", "tuple(layers)[:-1] if taps", "tuple(layers) if taps"),
    Fault("the global stream", "-bound, bound, generator=generator)", "-bound, bound)"),
    Fault("norm not squared", "head.weight.square().sum()", "head.weight.norm()"),
)
