"""Faults of early-learning regularization."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("gradient through the targets", "probabilities.detach())", "probabilities)"),
    Fault(
        "classes along the wrong axis",
        "probabilities / probabilities.sum(dim=1, keepdim=True)",
        "probabilities / probabilities.sum(dim=0, keepdim=True)",
    ),
    Fault(
        "penalty with the other sign",
        "return (1 - (probabilities * targets).sum(dim=1)).log()",
        "return -(1 - (probabilities * targets).sum(dim=1)).log()",
    ),
    Fault(
        "targets outside the state",
        'self.register_buffer("targets", torch.zeros(samples, classes))',
        "self.targets = torch.zeros(samples, classes)",
    ),
    Fault("targets move in eval mode", "        if self.training:\n", "        if True:\n"),
    Fault("memory and news swapped", "return beta * targets + (1 - beta) *", "return (1 - beta) * targets + beta *"),
    Fault(
        "compares before it updates",
        "        penalty = _penalties(probabilities, self.targets[index]).mean()\n",
        "        penalty = _penalties(probabilities.detach(), self.targets[index]).mean()\n",
    ),
    Fault("sum in place of the mean", "self.targets[index]).mean()", "self.targets[index]).sum()"),
)
