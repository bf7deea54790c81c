"""One agent: its model, its optimizer, its own data, and what it exchanges with others in a round."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.agents.mixing import Links

__all__ = ["Agent", "Batches", "Exchange", "Loss", "Round", "check_count", "disagreement", "numbers", "set_numbers"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps the outputs and the labels of a batch to a scalar."""


@final
@dataclass(frozen=True, slots=True)
class Exchange:
    """What an agent sends to others and from whom it waits for an answer, all at one time.

    Args:
        send: Number of each agent that is sent something to the tensors for it.
        receive: Numbers of the agents that send something in the same exchange.

    Example:
        >>> Exchange({1: [torch.zeros(2)]}, [1]).receive
        [1]
    """

    send: Mapping[int, Sequence[Tensor]]
    receive: Sequence[int]


Round = Generator[Exchange, Mapping[int, Sequence[Tensor]], None]
"""A round of an agent: yields what it sends, is resumed with what each of those that it waits for has sent."""


@final
class Batches:
    """Shuffled batches of an agent's own data: each pass is a fresh shuffle, and what fills no batch sits it out.

    Args:
        inputs: Inputs, (N, ...), N at least 1.
        labels: Labels, (N, ...).
        batch_size: Samples a batch, at least 1; all N where there are fewer.
        generator: Source of the shuffles.

    Raises:
        ValueError: If inputs and labels differ in number, there are none, or ``batch_size`` is below 1.

    Example:
        >>> batches = Batches(torch.rand(10, 3), torch.arange(10), 4, generator=torch.Generator().manual_seed(0))
        >>> [len(labels) for _, labels in batches]
        [4, 4]
    """

    def __init__(self, inputs: Tensor, labels: Tensor, batch_size: int, *, generator: torch.Generator) -> None:
        if len(inputs) != len(labels) or not len(inputs):
            raise ValueError(
                f"inputs and labels must have the same length, at least 1, got {len(inputs)} and {len(labels)}"
            )
        check_count("batch_size", batch_size, 1)
        self.inputs = inputs
        self.labels = labels
        self.batch_size = min(batch_size, len(inputs))
        self.generator = generator

    def __len__(self) -> int:
        return len(self.inputs) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        draw = self.generator
        order = torch.randperm(len(self.inputs), generator=draw, device=draw.device).to(self.inputs.device)
        for batch in order[: len(self) * self.batch_size].split(self.batch_size):
            yield self.inputs[batch], self.labels[batch]


class Agent(ABC):
    """What all agents have: a model that is trained in place on batches of its own, and a state to go on from.

    A method of decentralised training says in `round` what its agent does and exchanges; `Simulation` and `Processes`
    carry the exchanges out.

    Args:
        model: The agent's model, trained in place; all agents' models are of one architecture.
        optimizer: Holds the model's parameters, in their order; steps without a closure.
        batches: The agent's own data: batches (inputs, labels), iterated anew in each pass, such as `Batches` or a
            `torch.utils.data.DataLoader`. Their attribute ``generator`` is the agent's only source of random numbers,
            and a part of its state.
        loss: What is trained on; cross-entropy by default.

    Attributes:
        rounds: Number of the next round.
        samples: Number of samples whose gradients were evaluated.
        disagreement: How far the models that it mixed last were apart, in their units' common order: the root of the
            weighted mean of the squared distances of the others' parameters from its own; nan before.
        on_merge: Called without arguments in each round right after the models were merged, if they are.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[tuple[Tensor, Tensor]],
        loss: Loss | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.batches = batches
        self.loss = loss
        self.rounds = 0
        self.samples = 0
        self.disagreement = float("nan")
        self.on_merge: Callable[[], object] | None = None

    @abstractmethod
    def round(self, links: Links) -> Round:
        """Go through a round: train, and exchange with those that are linked, in whatever order the method has.

        An agent without a neighbour and a listener exchanges nothing, and trains as if it were alone.

        Args:
            links: Its place among the agents of this round.

        Yields:
            What it sends and from whom it waits; it is resumed with what they sent, which it must not change.
        """

    def step(self) -> None:
        """Take a round alone."""
        for exchange in self.round(Links(0, {0: 1.0}, {0: 1.0})):
            raise RuntimeError(f"an agent that is alone must not exchange anything, it wants {exchange}")
        self.rounds += 1

    def train(self, epochs: int) -> None:
        """Train for so many passes over the batches, in train mode."""
        self.model.train()
        for _ in range(epochs):
            for inputs, labels in self.batches:
                self.differentiate(self.model, inputs, labels)
                self.optimizer.step()

    def differentiate(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        """Leave in the parameters of a model, the agent's own or a copy, the gradients on a batch."""
        device = next(model.parameters()).device
        model.zero_grad()
        loss = F.cross_entropy if self.loss is None else self.loss
        loss(model(inputs.to(device)), labels.to(device)).backward()
        self.samples += len(labels)

    def draw(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Give so many batches, of as many passes as that takes."""
        taken = 0
        while taken < steps:
            before = taken
            for batch in self.batches:
                yield batch
                taken += 1
                if taken == steps:
                    return
            if taken == before:
                raise ValueError(
                    "batches must hold at least one batch in each pass, got none; give a list, no iterator"
                )

    def example(self, batches: Iterable[Any]) -> Tensor:
        """Give the inputs of a first batch on the model's device, and leave the batches' generator as it was."""
        generator = _generator(batches)
        state = None if generator is None else generator.get_state()
        first = next(iter(batches))
        if generator is not None and state is not None:
            generator.set_state(state)
        inputs = first if isinstance(first, Tensor) else first[0]
        return inputs.to(next(self.model.parameters()).device)

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on, the weights of the model and the generator's state among it."""
        generator = _generator(self.batches)
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "generator": None if generator is None else generator.get_state(),
            "rounds": self.rounds,
            "samples": self.samples,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.model.load_state_dict(state_dict["model"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        generator = _generator(self.batches)
        if generator is not None:
            generator.set_state(state_dict["generator"])
        self.rounds = state_dict["rounds"]
        self.samples = state_dict["samples"]


def _generator(batches: Iterable[Any]) -> torch.Generator | None:
    generator = getattr(batches, "generator", None)
    return generator if isinstance(generator, torch.Generator) else None


def numbers(model: nn.Module) -> dict[str, Tensor]:
    """Give what agents mix: all entries of the state dict but those of whole numbers, such as counts."""
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}


@torch.no_grad()
def set_numbers(model: nn.Module, values: Iterable[Tensor]) -> None:
    """Give a model the values that `numbers` gave of another.

    Raises:
        ValueError: If they are of another architecture.

    Example:
        >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> set_numbers(first, numbers(second).values())
        >>> torch.equal(first.weight, second.weight)
        True
    """
    mine, given = numbers(model), [*values]
    shapes, others = ([tuple(value.shape) for value in each] for each in (mine.values(), given))
    if shapes != others:
        raise ValueError(f"model must be of one architecture with the others' models, {others}, got {shapes}")
    for value, new in zip(mine.values(), given, strict=True):
        value.copy_(new)


def disagreement(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float], own: int) -> float:
    """Measure how far models are from an agent's own: ``sqrt(sum_j Pi_ij ||theta_j - theta_i||^2)``.

    Args:
        states: The weights of each, entry by entry of one shape, in one order of units.
        weights: The weights ``Pi_ij``, one a state, in the same order.
        own: Which of the states is the agent's own.

    Returns:
        The distance, at least 0.

    Example:
        >>> disagreement([{"w": torch.zeros(1)}, {"w": torch.full((1,), 4.0)}], [0.75, 0.25], own=0)
        2.0
    """
    squares = [
        weight * float((state[name].double() - value.double()).square().sum())
        for weight, state in zip(weights, states, strict=True)
        for name, value in states[own].items()
    ]
    return sum(squares) ** 0.5


def check_count(name: str, count: object, least: int) -> None:
    """Check that an argument is a whole number of at least so much.

    Raises:
        ValueError: If it is not.

    Example:
        >>> check_count("steps", 3, 1)
    """
    if not isinstance(count, int) or count < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")
