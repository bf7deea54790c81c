"""The last layer of a network, and the features that it gets, for a loss that needs more than logits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import Splits
from paperweight.errors import InputError
from paperweight.loops import index_batches, minimise
from paperweight.nets import evaluating

__all__ = ["FeatureTraining", "ends_in_linear", "last_layer", "watched"]


def last_layer(model: nn.Module, inputs: Tensor) -> nn.Linear:
    """Find the linear layer whose output is what a network gives.

    Args:
        model: The network; run once in eval mode, and left as it was.
        inputs: Some of its inputs, (N, ...).

    Returns:
        The linear layer that it calls last.

    Raises:
        InputError: If what the network gives is not what that layer's weight and bias make of what the layer gets.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> last_layer(model, torch.ones(5, 4)) is model[2]
        True
    """
    calls: list[tuple[nn.Linear, Tensor]] = []

    def keep(layer: nn.Linear, given: tuple[Tensor, ...], _: Tensor) -> None:
        calls.extend((layer, features) for features in given)

    hooks = [module.register_forward_hook(keep) for module in model.modules() if isinstance(module, nn.Linear)]
    try:
        with evaluating(model), torch.no_grad():
            logits = model(inputs)
            if calls:
                layer, features = calls[-1]
                if features.ndim == 2 and torch.equal(F.linear(features, layer.weight, layer.bias), logits):
                    return layer
    finally:
        for hook in hooks:
            hook.remove()
    raise InputError(
        "the network must end in a torch.nn.Linear that gets features (N, in_features) and whose output is the logits, "
        f"{type(model).__name__} does not; leave out what follows its last linear layer"
    )


@contextmanager
def watched(layer: nn.Linear) -> Iterator[list[Tensor]]:
    """Watch what a layer gets.

    Args:
        layer: The layer.

    Yields:
        A list that holds what it got last.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> with watched(layer) as features:
        ...     _ = layer(torch.zeros(3, 2))
        >>> features[0].shape
        torch.Size([3, 2])
    """
    seen: list[Tensor] = []

    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[:] = given

    hook = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def ends_in_linear(model: nn.Module, data: Splits) -> str:
    """Say why a network has no last layer of its own, and nothing where it has one: see `last_layer`."""
    try:
        last_layer(model, data.train.images[:2])
    except InputError as error:
        return str(error)
    return ""


@final
class FeatureTraining:
    """Trains a network by a loss of its last layer's features; a pass is as many full batches as there are.

    Args:
        model: What is trained, in place; it has a `last_layer`.
        optimizer: Holds its parameters.
        inputs: Inputs, (N, ...).
        labels: Class numbers, int64, (N,).
        loss: Makes from the last layer and a generator what maps its features and labels to a scalar.
        batch_size: Examples a batch.
        epochs: Number of passes that training will have.
        generator: Of the batches and the loss.

    Raises:
        InputError: If the network has no last layer of that kind.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        loss: Callable[[nn.Linear, torch.Generator], Callable[[Tensor, Tensor], Tensor]],
        *,
        batch_size: int,
        epochs: int,
        generator: torch.Generator,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.inputs = inputs
        self.labels = labels
        self.batch_size = batch_size
        self.epochs = epochs
        self.generator = generator
        self._layer = last_layer(model, inputs[:2])
        self.loss = loss(self._layer, generator)
        self._batches = index_batches(len(inputs), batch_size, generator, inputs.device)

    def step(self) -> Tensor:
        """Train for one pass in train mode, and return the mean of its losses."""
        self.model.train()
        with watched(self._layer) as features:

            def batch_loss(index: Tensor) -> Tensor:
                self.model(self.inputs[index])
                return self.loss(features[0], self.labels[index])

            steps = max(1, len(self.inputs) // self.batch_size)
            return minimise(batch_loss, self.optimizer, self._batches, steps=steps).mean()
