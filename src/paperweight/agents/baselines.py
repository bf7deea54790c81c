"""What decentralised merging is compared with: training alone, and methods that mix after every step.

Weight averaging and weight matching are `paperweight.federated.DIMAT` with ``matching="none"`` and
``matching="weight"``; centralised training is `LocalOnly` on the data of all.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from paperweight.agents.agent import Agent, Exchange, Loss, Round, check_count, disagreement, numbers, set_numbers
from paperweight.agents.mixing import Links
from paperweight.agents.stepwise import StepwiseAgent
from paperweight.merging import mean_state

__all__ = ["CDSGD", "CGA", "SGP", "LocalOnly", "cga_direction"]


@final
class LocalOnly(Agent):
    """An agent that never exchanges anything; on the data of all agents it is centralised training.

    Args:
        model: The agent's model, trained in place.
        optimizer: Holds the model's parameters.
        batches: The agent's own data, see `Agent`.
        local_epochs: Passes over the batches a round, at least 0.
        loss: What is trained on; cross-entropy by default.

    Raises:
        ValueError: If ``local_epochs`` is negative.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> agent = LocalOnly(model, optimizer, [(torch.ones(4, 2), torch.ones(4, 2))])
        >>> agent.step()
        >>> agent.samples
        8
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batches: Iterable[tuple[Tensor, Tensor]],
        local_epochs: int = 2,
        *,
        loss: Loss | None = None,
    ) -> None:
        check_count("local_epochs", local_epochs, 0)
        super().__init__(model, optimizer, batches, loss)
        self.local_epochs = local_epochs

    def round(self, links: Links) -> Round:
        """Train for ``local_epochs``.

        Args:
            links: Its place, of no effect.

        Yields:
            Nothing.
        """
        yield from ()
        self.train(self.local_epochs)


@final
class CDSGD(StepwiseAgent):
    """Consensus-based decentralised SGD (Jiang, Balu, Hegde and Sarkar, 2017): mix at every step.

    ``x_i <- sum_j Pi_ij x_j - lr g_i(x_i)``: the gradient is that at the agent's own weights, the optimizer's update
    comes on top of the mean. With momentum this is CDMSGD.

    Args:
        model: The agent's model, trained in place; all agents' models are of one architecture.
        optimizer: Holds the model's parameters; steps without a closure.
        batches: The agent's own data, see `Agent`.
        steps: Batches a round, at least 1, of as many passes as that takes; the same for all agents.
        repair: Whether the running statistics of batch normalization are computed anew at the end of a round.
        loss: What is trained on; cross-entropy by default.

    Raises:
        ValueError: If ``steps`` is below 1.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> agent = CDSGD(model, optimizer, [(torch.ones(4, 2), torch.ones(4, 2))], steps=3)
        >>> agent.step()
        >>> agent.samples
        12
    """

    def update(self, inputs: Tensor, labels: Tensor, links: Links) -> Round:
        """Mix, then step.

        Args:
            inputs: The inputs of the batch, of no effect.
            labels: Its labels, of no effect.
            links: Its place among the agents of this round.

        Yields:
            Its weights, for all that hear it.
        """
        if links.neighbours or links.listeners:
            own = [*numbers(self.model).values()]
            mail = yield Exchange(dict.fromkeys(links.listeners, own), links.neighbours)
            _mix(self, {links.agent: own, **mail}, links)
        self.optimizer.step()


@final
class SGP(StepwiseAgent):
    """Stochastic gradient push (Assran, Loizou, Ballas and Rabbat, 2019): step, then mix over a directed graph.

    An agent keeps a numerator ``x`` and a weight ``w``, evaluates gradients at ``x / w``, and divides both among itself
    and its listeners, in proportion to the weights that these give it; what it gets it adds up. The mean over all
    agents is kept whatever the rows of the mixing matrix sum to. Where its columns sum to 1, all ``w`` stay 1.

    Args:
        model: Holds ``x / w``, trained in place; all agents' models are of one architecture.
        optimizer: Holds the model's parameters; steps without a closure.
        batches: The agent's own data, see `Agent`.
        steps: Batches a round, at least 1, of as many passes as that takes; the same for all agents.
        repair: Whether the running statistics of batch normalization are computed anew at the end of a round.
        loss: What is trained on; cross-entropy by default.

    Raises:
        ValueError: If ``steps`` is below 1.

    Attributes:
        weight: The weight w.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> agent = SGP(model, optimizer, [(torch.ones(4, 2), torch.ones(4, 2))], steps=3)
        >>> agent.step()
        >>> agent.weight
        1.0
    """

    weight: float = 1.0

    def update(self, inputs: Tensor, labels: Tensor, links: Links) -> Round:
        """Step, then mix.

        Args:
            inputs: The inputs of the batch, of no effect.
            labels: Its labels, of no effect.
            links: Its place among the agents of this round.

        Yields:
            A part of its numerator and its weight, for all that hear it.
        """
        before = [value.clone() for value in numbers(self.model).values()]
        self.optimizer.step()
        if links.neighbours or links.listeners:
            after = [*numbers(self.model).values()]
            numerator = [new + (self.weight - 1) * old for new, old in zip(after, before, strict=True)]
            total = sum(links.outgoing.values())
            parts = {other: self._part(numerator, weight / total) for other, weight in links.outgoing.items()}
            mail = yield Exchange({other: parts[other] for other in links.listeners}, links.neighbours)
            self._take({links.agent: parts[links.agent], **mail}, links)

    def _part(self, numerator: Sequence[Tensor], share: float) -> list[Tensor]:
        weight = torch.tensor([share * self.weight], dtype=torch.float64)
        return [*(share * value for value in numerator), weight.to(numerator[0].device)]

    def _take(self, mail: Mapping[int, Sequence[Tensor]], links: Links) -> None:
        parts = [mail[member] for member in links.incoming]
        self.weight = sum(float(part[-1]) for part in parts)
        sums = (torch.stack([part.double() for part in same]).sum(0) for same in zip(*parts, strict=True))
        set_numbers(self.model, [total / self.weight for total in sums][:-1])

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on, the weights of the model and w among it."""
        return {**super().state_dict(), "weight": self.weight}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self.weight = state_dict["weight"]


def cga_direction(gradients: Tensor, own: int) -> Tensor:
    """Give the direction nearest to an agent's own gradient that has no negative inner product with any gradient.

    ``min_d ||d - g_own||^2`` so that ``<d, g_j> >= 0`` for all j, by its dual, a least-squares problem with
    coefficients of at least 0.

    Args:
        gradients: One gradient a row, (M, P).
        own: Which row is the agent's own.

    Returns:
        The direction, (P,), in the dtype of the gradients.

    Example:
        >>> cga_direction(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), own=0)
        tensor([0.5000, 0.5000])
    """
    rows = gradients.double()
    if bool((rows @ rows[own] >= 0).all()):
        return gradients[own]
    base, upper = torch.linalg.qr(rows.T)
    coefficients, _ = nnls(upper.cpu().numpy(), -(base.T @ rows[own]).cpu().numpy())
    return (rows[own] + torch.from_numpy(np.asarray(coefficients)).to(rows) @ rows).to(gradients.dtype)


@final
class CGA(StepwiseAgent):
    """Cross-gradient aggregation (Esfandiari et al., 2021): steps that do not hurt the neighbours, mixing at each.

    At every step an agent sends its weights, gets back their gradients on the neighbours' data, and takes the
    `cga_direction` of all in place of its own gradient, on top of the weighted mean of the models.

    Args:
        model: The agent's model, trained in place; all agents' models are of one architecture.
        optimizer: Holds the model's parameters; steps without a closure.
        batches: The agent's own data, see `Agent`.
        steps: Batches a round, at least 1, of as many passes as that takes; the same for all agents.
        repair: Whether the running statistics of batch normalization are computed anew at the end of a round.
        loss: What is trained on; cross-entropy by default.

    Raises:
        ValueError: If ``steps`` is below 1.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> agent = CGA(model, optimizer, [(torch.ones(4, 2), torch.ones(4, 2))], steps=3)
        >>> agent.step()
        >>> agent.samples
        12
    """

    def round(self, links: Links) -> Round:
        """Take ``steps`` steps, each with two exchanges.

        Args:
            links: Its place among the agents of this round; who hears an agent must be heard by it.

        Yields:
            What `update` yields.

        Raises:
            ValueError: If it is heard by one that it does not hear, or the other way around.
        """
        if links.neighbours != links.listeners:
            raise ValueError(
                f"mixing must link both agents of a pair to each other, agent {links.agent} is linked one way"
            )
        yield from super().round(links)

    def update(self, inputs: Tensor, labels: Tensor, links: Links) -> Round:
        """Mix, then step along the direction that hurts no neighbour.

        Args:
            inputs: The inputs of the batch.
            labels: Its labels.
            links: Its place among the agents of this round.

        Yields:
            Its weights for all that hear it, then the gradients of their models on its own batch.
        """
        if links.neighbours:
            own = [*numbers(self.model).values()]
            mine = _gradients(self.model)
            mail = yield Exchange(dict.fromkeys(links.listeners, own), links.neighbours)
            answers = {other: self._gradients_of(mail[other], inputs, labels) for other in links.neighbours}
            crossed = yield Exchange(answers, links.neighbours)
            rows = {links.agent: mine, **crossed}
            members = [*links.incoming]
            flat = torch.stack([torch.cat([part.flatten() for part in rows[member]]) for member in members])
            direction = cga_direction(flat, members.index(links.agent))
            _mix(self, {links.agent: own, **mail}, links)
            sizes = [parameter.numel() for parameter in self.model.parameters()]
            for parameter, part in zip(self.model.parameters(), direction.split(sizes), strict=True):
                parameter.grad = part.reshape(parameter.shape)
        self.optimizer.step()

    def _gradients_of(self, weights: Sequence[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
        """Give the gradients of another agent's model on a batch of this one."""
        model = copy.deepcopy(self.model)
        set_numbers(model, weights)
        self.differentiate(model, inputs, labels)
        return _gradients(model)


def _gradients(model: nn.Module) -> list[Tensor]:
    return [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for parameter in model.parameters()
    ]


def _mix(agent: Agent, mail: Mapping[int, Sequence[Tensor]], links: Links) -> None:
    """Replace the weights of an agent's model by the weighted mean of those of the mail."""
    names, weights = [*numbers(agent.model)], [*links.incoming.values()]
    states = [dict(zip(names, mail[member], strict=True)) for member in links.incoming]
    learned = [name for name, _ in agent.model.named_parameters()]
    parts = [{name: state[name] for name in learned} for state in states]
    agent.disagreement = disagreement(parts, weights, [*links.incoming].index(links.agent))
    set_numbers(agent.model, mean_state(states, weights).values())
