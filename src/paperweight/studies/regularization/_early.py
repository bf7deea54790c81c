"""An early place of a network that is not known, and a linear head that tells the class from what comes out there."""

from typing import final

import torch
from torch import Tensor, nn

from paperweight.data import Splits
from paperweight.errors import InputError
from paperweight.nets import evaluating

__all__ = ["MeanHead", "early_place", "has_two_layers"]


def early_place(model: nn.Module, inputs: Tensor) -> tuple[str, Tensor]:
    """Find the last module that is called before the second layer with weights, and what it gives.

    Args:
        model: The network; run once in eval mode, and left as it was.
        inputs: Some of its inputs, (N, ...).

    Returns:
        The module's name and its output, (N, ...).

    Raises:
        InputError: If there is no such layer, or no module that is called once between it and the one before.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> name, features = early_place(model, torch.ones(5, 4))
        >>> name, features.shape
        ('1', torch.Size([5, 3]))
    """
    calls: list[tuple[str, nn.Module, Tensor]] = []
    leaves = {name: part for name, part in model.named_modules() if not any(True for _ in part.children())}
    names = {part: name for name, part in leaves.items()}
    hooks = [
        part.register_forward_hook(lambda part, _, output: calls.append((names[part], part, output)))
        for part in leaves.values()
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    weighted = [at for at, (_, part, _) in enumerate(calls) if any(p.ndim > 1 for p in part.parameters())]
    if len(weighted) > 1:
        called = [name for name, _, _ in calls]
        for name, part, features in reversed(calls[weighted[0] : weighted[1]]):
            if called.count(name) == 1 and not isinstance(part, nn.Flatten | nn.Identity):
                return name, features
    raise InputError(
        f"the network must call two layers with weights, one after the other, each once, as modules of its own, "
        f"{type(model).__name__} does not"
    )


def has_two_layers(model: nn.Module, data: Splits) -> str:
    """Say why a network has no early place, and nothing where it has one: see `early_place`."""
    try:
        early_place(model, data.train.images[:2])
    except InputError as error:
        return str(error)
    except Exception:  # what a network raises is its own
        return f"{type(model).__name__} must take two images at once, with its layers built"
    return ""


@final
class MeanHead(nn.Module):
    """A linear layer on the mean of features over all places; its weights start at 0.

    Args:
        features: Some of them: maps, (N, C, H, W), tokens, (N, T, C), or vectors, (N, C).
        classes: Number of logits.

    Example:
        >>> MeanHead(torch.zeros(2, 3, 4, 4), classes=5)(torch.ones(7, 3, 4, 4)).shape
        torch.Size([7, 5])
    """

    def __init__(self, features: Tensor, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(self._means(features).shape[1], classes, device=features.device, dtype=features.dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits."""
        return self.linear(self._means(x))

    def _means(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(dim=2) if x.ndim > 3 else x.mean(dim=1) if x.ndim == 3 else x
