"""Hyperparameters of a network as tensors without bounds, and the modules of it that ask for them in each pass."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Hyperparameter",
    "Hyperparameters",
    "Responding",
    "SelfTuned",
    "TunedDropout",
    "gaussian_entropy",
    "inverse_softplus",
]


def inverse_softplus(value: float) -> float:
    """Give the number whose softplus is a number above 0."""
    return value + math.log(-math.expm1(-value))


def gaussian_entropy(sigmas: Tensor) -> Tensor:
    """Compute the entropy of independent normal distributions in nats, the sum of log(sigma sqrt(2 pi e))."""
    return (sigmas * math.sqrt(2 * math.pi * math.e)).log().sum()


@final
@dataclass(frozen=True)
class Hyperparameter:
    """A number that is tuned while a network trains, within bounds, in a form without bounds: its raw value.

    Args:
        name: Its name.
        start: Where it begins, finite, above ``low`` and below ``high``.
        low: A bound that it stays above, or ``-math.inf``.
        high: A bound that it stays below, or ``math.inf``.
        whole: Whether it is rounded down to a whole number where it is used.

    Raises:
        ValueError: If it is not in this order, or the name is empty.

    Example:
        >>> holes = Hyperparameter("holes", start=1.0, low=0.0, high=4.0, whole=True)
        >>> holes.value(torch.tensor([holes.raw, 0.1])), round(holes.raw, 3)
        (tensor([1., 2.]), -0.511)
    """

    name: str
    start: float
    low: float = 0.0
    high: float = 1.0
    whole: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name must not be empty")
        if not (self.low < self.start < self.high and math.isfinite(self.start)):
            raise ValueError(f"start of {self.name} must be above {self.low} and below {self.high}, got {self.start}")

    @property
    def raw(self) -> float:
        """The raw value of the start; of one that is rounded down that of the middle between it and the next."""
        start = min(self.start + 0.5, (self.start + self.high) / 2) if self.whole else self.start
        below, above = start - self.low, self.high - start
        if math.isfinite(below) and math.isfinite(above):
            return math.log(below / above)
        if math.isfinite(below) or math.isfinite(above):
            return inverse_softplus(min(below, above))
        return start

    def value(self, raw: Tensor) -> Tensor:
        """Map raw values to values within the bounds, by a sigmoid, or by a softplus where there is but one."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            value = self.low + (self.high - self.low) * raw.sigmoid()
        elif math.isfinite(self.low):
            value = self.low + F.softplus(raw)
        else:
            value = self.high - F.softplus(raw) if math.isfinite(self.high) else raw
        return value.floor() if self.whole else value


@final
class Hyperparameters(nn.Module):
    """The present raw values, (n,), and those of the examples of the batch at hand, (N, n), while there is one."""

    def __init__(self, given: Sequence[Hyperparameter]) -> None:
        super().__init__()
        self.given = tuple(given)
        self.raw: Tensor
        self.register_buffer("raw", torch.tensor([each.raw for each in given]))
        self._batch: Tensor | None = None

    def at_hand(self) -> Tensor:
        """Give the raw values of each example, (N, n), or of all alike, (1, n)."""
        return self.raw[None] if self._batch is None else self._batch

    def value(self, number: int) -> Tensor:
        """Give the values at hand of one hyperparameter, (N,) or (1,), without gradient."""
        return self.given[number].value(self.at_hand().detach()[:, number])

    def values(self) -> dict[str, Tensor]:
        """Give the values at hand by name, each (N,) or (1,), without gradient."""
        return {each.name: self.value(number) for number, each in enumerate(self.given)}

    @contextmanager
    def of_batch(self, raw: Tensor) -> Generator[None]:
        """Have all modules use the raw values of a batch, (N, n)."""
        self._batch = raw
        try:
            yield
        finally:
            self._batch = None


@final
class Responding(nn.Module):
    """A layer that is called with the raw values at hand."""

    def __init__(self, layer: nn.Module, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.layer = layer
        self._shared = (hyperparameters,)  # in a tuple, so that it is not registered at each layer once more

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer's output."""
        return self.layer(x, self._shared[0].at_hand())


@final
class TunedDropout(nn.Module):
    """Dropout at the rate at hand, each example at its own.

    Args:
        number: Which of the hyperparameters is the rate.
        plain: What drops at one rate, of single numbers by `torch.nn.Dropout`, or else of whole channels.
        hyperparameters: Hold the rate.
    """

    def __init__(self, number: int, plain: Callable[[float], nn.Module], hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.number = number
        self.plain = plain
        self._shared = (hyperparameters,)

    def forward(self, x: Tensor) -> Tensor:
        """Drop in train mode."""
        if not self.training:
            return x
        rate = self._shared[0].value(self.number)
        if len(rate) not in (1, len(x)):
            raise ValueError(
                f"x must have an entry for each of the {len(rate)} examples in a dropout, got shape {tuple(x.shape)}"
            )
        keep = 1 - rate.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        shape = x.shape if self.plain is nn.Dropout else (*x.shape[:2], *[1] * (x.ndim - 2))
        return x * (torch.rand(shape, dtype=x.dtype, device=x.device) < keep) / keep


@final
class SelfTuned(nn.Module):
    """A network whose layers respond to hyperparameters, made by `self_tuned`.

    Attributes:
        network: The network.
        hyperparameters: The present raw values, and how they become values.
    """

    def __init__(self, network: nn.Module, hyperparameters: Hyperparameters) -> None:
        super().__init__()
        self.network = network
        self.hyperparameters = hyperparameters

    def forward(self, x: Tensor) -> Tensor:
        """Compute the network's output under the hyperparameters at hand, the present ones but in a `SelfTuner`."""
        return self.network(x)

    def present(self) -> dict[str, float]:
        """Give the present values by name."""
        return {name: value.item() for name, value in self.hyperparameters.values().items()}
