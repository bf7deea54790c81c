"""What recipes of local learning share: scores of each part in training, and networks that can be cut into parts."""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import Splits
from paperweight.errors import InputError
from paperweight.nets import evaluating

__all__ = ["classes_of", "fits_local", "sum_of_cross_entropies", "summed"]


def classes_of(model: nn.Module) -> int:
    """Give the outputs of the linear layer that is registered last.

    Args:
        model: The network.

    Raises:
        InputError: If there is no linear layer.
    """
    linear = [part for part in model.modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise InputError(f"the network must end in a torch.nn.Linear, {type(model).__name__} has none")
    return linear[-1].out_features


def fits_local(model: nn.Module, data: Splits, surgery: Callable[[nn.Module], nn.Module]) -> str:
    """Say why a network cannot be trained in parts, and nothing where it can.

    Args:
        model: The network, which stays as it was.
        data: What it is to be trained on.
        surgery: Makes what is trained of it; that has ``local_parts``.
    """
    inputs = data.train.images[:2]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            local: Any = surgery(copy.deepcopy(model))
        except InputError as error:
            return str(error)
        with evaluating(local):
            parts = local.local_parts()
            run = nn.Sequential(*parts)
            if not torch.equal(run(inputs), local(inputs)):
                return (
                    f"the layers of {type(model).__name__} must be called in order; build it as a torch.nn.Sequential"
                )
    return ""


def summed(scores: Any, labels: Tensor) -> Tensor:
    """Add the cross-entropies of several classifiers on the same examples.

    Args:
        scores: A tuple of the scores of each, (N, classes).
        labels: Class numbers, (N,).

    Returns:
        The sum, a scalar.
    """
    return torch.stack([F.cross_entropy(each, labels) for each in scores]).sum()


def sum_of_cross_entropies(samples: int, classes: int) -> Callable[[Any, Tensor, Tensor], Tensor]:
    """Make the loss of a recipe whose network gives the scores of several classifiers."""
    return lambda scores, labels, _: summed(scores, labels)
