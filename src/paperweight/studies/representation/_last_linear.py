"""What goes into the last linear layer of a classifier: the features that a new last layer can be put on."""

import torch
from torch import Tensor, nn

from paperweight.nets import evaluating

__all__ = ["Features", "last_linear"]


def last_linear(model: nn.Module, inputs: Tensor) -> nn.Linear | None:
    """Find the linear layer of a classifier that gives its logits from features, (N, d).

    Args:
        model: The classifier; it stays as it was.
        inputs: A few inputs, (N, ...).

    Returns:
        The layer, and nothing where the logits are not what an `nn.Linear` gives from features.
    """
    calls: list[tuple[nn.Linear, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear) and given and given[0].ndim == 2:
            calls.append((module, output))

    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        with evaluating(model), torch.no_grad():
            logits = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return next((module for module, output in reversed(calls) if torch.equal(output, logits)), None)


class Features(nn.Module):
    """Gives what goes into the last linear layer of a classifier, in place of its logits."""

    def __init__(self, model: nn.Module, last: nn.Linear) -> None:
        super().__init__()
        self.model = model
        self.last = last

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the features, (N, d), of inputs, (N, ...)."""
        seen: list[Tensor] = []
        hook = self.last.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.model(inputs)
        finally:
            hook.remove()
        return seen[-1]
