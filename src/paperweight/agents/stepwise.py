"""Agents that exchange at every step instead of once a round."""

from abc import abstractmethod
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from paperweight.agents.agent import Agent, Loss, Round, check_count
from paperweight.agents.mixing import Links
from paperweight.merging import repair_batchnorm

__all__ = ["StepwiseAgent"]


class StepwiseAgent(Agent):
    """An agent whose round is a number of steps, each on one batch, with what the method exchanges in `update`.

    Args:
        model: The agent's model, trained in place; all agents' models are of one architecture.
        optimizer: Holds the model's parameters; steps without a closure.
        batches: The agent's own data, see `Agent`.
        steps: Batches a round, at least 1, of as many passes as that takes; the same for all agents.
        repair: Whether the running statistics of batch normalization are computed anew at the end of a round.
        loss: What is trained on; cross-entropy by default.

    Raises:
        ValueError: If ``steps`` is below 1.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[tuple[Tensor, Tensor]],
        steps: int,
        *,
        repair: bool = True,
        loss: Loss | None = None,
    ) -> None:
        check_count("steps", steps, 1)
        super().__init__(model, optimizer, batches, loss)
        self.steps = steps
        self.repair = repair

    @abstractmethod
    def update(self, inputs: Tensor, labels: Tensor, links: Links) -> Round:
        """Exchange, and take a step with the gradients on a batch, which the model's parameters have already.

        Args:
            inputs: The inputs of the batch.
            labels: Its labels.
            links: The agent's place among the agents of this round.

        Yields:
            What it sends and from whom it waits; nothing where it is without a neighbour and a listener.
        """

    def round(self, links: Links) -> Round:
        """Take ``steps`` steps.

        Args:
            links: Its place among the agents of this round.

        Yields:
            What `update` yields.
        """
        self.model.train()
        for inputs, labels in self.draw(self.steps):
            self.differentiate(self.model, inputs, labels)
            yield from self.update(inputs, labels, links)
        if self.repair and links.neighbours:
            repair_batchnorm(self.model, self.batches)
