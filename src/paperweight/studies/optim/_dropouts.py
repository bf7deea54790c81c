"""Dropout put before the layers of any network, so that its rates can be tuned, and a course that tunes them."""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.loops import index_batches
from paperweight.nets import replace_modules
from paperweight.optim.self_tuning_networks import SelfTuned, SelfTuner, self_tuned

__all__ = ["START", "Alternation", "Passes", "fits_self_tuning", "responding", "with_dropouts"]

START = 0.05
"""The rate to begin with, as in the authors' code."""


def with_dropouts(model: nn.Module, rates: Sequence[float] = ()) -> nn.Module:
    """Copy a network with dropout on the inputs of each linear layer and convolution.

    Args:
        model: The network, which stays as it was.
        rates: The rates in turn, or, where there are no more, `START`. Of a convolution that has more than three
            channels whole channels are dropped.

    Raises:
        InputError: If there is no such layer.

    Example:
        >>> with_dropouts(nn.Sequential(nn.Linear(2, 2)), [0.5])
        Sequential(
          (0): Sequential(
            (0): Dropout(p=0.5, inplace=False)
            (1): Linear(in_features=2, out_features=2, bias=True)
          )
        )
    """
    left = iter(rates)

    def build(layer: nn.Module) -> nn.Module:
        channels = isinstance(layer, nn.Conv2d) and layer.in_channels > 3
        return nn.Sequential((nn.Dropout2d if channels else nn.Dropout)(next(left, START)), layer)

    return replace_modules(
        model,
        lambda _, part: type(part) in (nn.Linear, nn.Conv2d),
        build,
        wanted="a linear layer or a convolution",
    )


def responding(model: nn.Module) -> SelfTuned:
    """Copy a network with dropouts, at rates that it responds to: see `self_tuned`."""
    return self_tuned(with_dropouts(model))


@final
class Alternation:
    """Updates of the weights, after every second one an update of the dropout rates, once some are taken.

    Args:
        tuner: Trains.
        train: Examples to train on.
        held: Examples to tune on.
        batch_size: Examples a batch, at least 1.
        warm_up: Updates before the first of the rates; None for no update of them.
        generator: Source of the training batches.
    """

    def __init__(
        self,
        tuner: SelfTuner,
        train: LabelledImages,
        held: LabelledImages,
        batch_size: int,
        warm_up: int | None,
        generator: torch.Generator,
    ) -> None:
        self.tuner = tuner
        self.model: nn.Module = tuner.model
        self.optimizer = tuner.optimizer
        self.warm_up = warm_up
        self.updates = 0
        self._train, self._held = train, held
        self._batches = index_batches(len(train), batch_size, generator, train.images.device)
        fresh = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=tuner.generator)))
        self._held_batches = index_batches(len(held), batch_size, fresh, held.images.device)

    def step(self) -> Tensor:
        """Take an update of the weights, and maybe one of the rates; return the training loss."""
        index = next(self._batches)
        loss = self.tuner.step(self._train.images[index], self._train.labels[index])
        self.updates += 1
        if self.warm_up is not None and self.updates > self.warm_up and self.updates % 2 == 0:
            index = next(self._held_batches)
            self.tuner.tune(self._held.images[index], self._held.labels[index])
        return loss


@final
class Passes:
    """Training of a network that responds, pass by pass, with a fifth of the examples set aside to tune by."""

    def __init__(
        self,
        model: SelfTuned,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        epochs: int,
        generator: torch.Generator,
        hyper_lr: float = 0.05,
    ) -> None:
        self.model: nn.Module = model
        self.optimizer = optimizer
        order = torch.randperm(len(inputs), generator=generator).to(inputs.device)
        held, train = (
            LabelledImages(inputs[index], labels[index])
            for index in order.split([len(inputs) // 5, len(inputs) - len(inputs) // 5])
        )
        self._updates = max(1, len(inputs) // batch_size)
        tuner = SelfTuner(model, optimizer, hyper_lr, generator=generator)
        self._alternation = Alternation(tuner, train, held, batch_size, self._updates * epochs // 10, generator)

    def step(self) -> Tensor:
        """Train for as many updates as a pass over all examples has, and return the mean of their losses."""
        return torch.stack([self._alternation.step() for _ in range(self._updates)]).mean()


def fits_self_tuning(model: nn.Module, data: Splits) -> str:
    """Say why the dropout rates of a network cannot be tuned in this way, and nothing where they can."""
    if len(data.train) < 5:
        return f"it sets a fifth of the training examples aside, and needs 5 at least, got {len(data.train)}"
    inputs, labels = data.train.images[:4], data.train.labels[:4]
    with torch.random.fork_rng(devices=[]):
        try:
            changed = responding(model).train()
            optimizer = torch.optim.SGD(changed.parameters(), lr=0.0)
            tuner = SelfTuner(changed, optimizer, generator=torch.Generator().manual_seed(0))
            tuner.step(inputs, labels)
            tuner.tune(inputs, labels)
        except ValueError as error:
            return str(error)
        except Exception as error:  # what a network raises is its own
            return f"{type(model).__name__} cannot be called with dropout before its layers: {error}"
    return ""
