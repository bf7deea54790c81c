"""Agents in one process, step by step together; and the record of a training."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.agents.agent import Agent, Exchange, Round
from paperweight.agents.mixing import Links, Mixing, among, check_mixing

__all__ = ["Evaluate", "History", "Meter", "RoundRecord", "Simulation", "check_agents", "mixing_of", "size_of"]

Evaluate = Callable[[nn.Module], float]
"""Measures a model, such as its accuracy on held-out data."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """What happened in one round; each mapping has an entry an agent, in a process only that of its own.

    Args:
        number: Number of the round, from 0.
        present: Numbers of the agents that took part.
        merged: What ``evaluate`` measured right after the merge, of methods that merge.
        trained: What it measured at the end of the round.
        disagreement: How far the models that the agent mixed were apart, see `Agent`.
        sent: Bytes of all tensors that the agent sent, once for each listener.
        seconds: Wall time, evaluation left out.
    """

    number: int
    present: tuple[int, ...]
    merged: Mapping[int, float]
    trained: Mapping[int, float]
    disagreement: Mapping[int, float]
    sent: Mapping[int, int]
    seconds: float


@final
@dataclass(frozen=True, slots=True)
class History:
    """The record of a training.

    Args:
        rounds: One record a round.
        events: Who went and who came back, and when, in words.
    """

    rounds: list[RoundRecord] = field(default_factory=list[RoundRecord])
    events: list[str] = field(default_factory=list[str])

    @property
    def sent(self) -> int:
        """Bytes that all agents of this record sent in all rounds."""
        return sum(sum(record.sent.values()) for record in self.rounds)

    def changed(self, number: int, before: Collection[int], now: Collection[int]) -> str:
        """Note who went and who came before a round; return the note, empty where nothing changed."""
        gone, come = sorted(set(before) - set(now)), sorted(set(now) - set(before))
        parts = [f"agent {agent} is gone" for agent in gone] + [f"agent {agent} has joined" for agent in come]
        if not parts:
            return ""
        note = f"round {number}: {', '.join(parts)}; {', '.join(map(str, sorted(now))) or 'nobody'} go on"
        self.events.append(note)
        return note


class Meter:
    """Measures models, and adds up the seconds that it takes.

    Args:
        evaluate: What to measure; None for nothing.
    """

    def __init__(self, evaluate: Evaluate | None) -> None:
        self._evaluate = evaluate
        self.spent = 0.0

    def measure(self, agent: int, model: nn.Module, found: dict[int, float]) -> None:
        """Put what is measured of an agent's model among what was found before."""
        if self._evaluate is not None:
            before = perf_counter()
            found[agent] = self._evaluate(model)
            self.spent += perf_counter() - before


@final
class Simulation:
    """Takes several agents through their rounds in one process, in lockstep.

    What an agent gets are copies of what the others sent, and whatever the number of processes, the result is the same
    to the bit as that of `Processes` with the same agents, threads and device.

    Args:
        agents: The agents, all of one class, at least one; the number of an agent is its place.
        mixing: The mixing matrix, (agents, agents), or a function from the number of the round to one.
        evaluate: Measures each agent's model after the merge and at the end of each round.
        absent: Maps the number of a round to the numbers of the agents that sit it out. What others would take from
            them they take from themselves.

    Raises:
        ValueError: If there is no agent, they differ in class, or ``mixing`` is no mixing matrix of their number.

    Attributes:
        history: What happened so far.
        number: Number of the next round.

    Example:
        >>> from paperweight.agents import CDSGD, Batches, mixing_matrix, partition
        >>> draw = torch.Generator().manual_seed(0)
        >>> inputs, labels = torch.randn(120, 4, generator=draw), torch.arange(120) % 2
        >>> agents = []
        >>> for part in partition(labels, 3, generator=draw):
        ...     model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        ...     batches = Batches(inputs[part], labels[part], 10, generator=draw)
        ...     agents.append(CDSGD(model, torch.optim.SGD(model.parameters(), lr=0.1), batches, steps=1))
        >>> history = Simulation(agents, mixing_matrix("ring", 3)).run(2)
        >>> [record.sent[0] for record in history.rounds]  # bytes: 58 weights of 4 bytes to two neighbours
        [464, 464]
    """

    def __init__(
        self,
        agents: Sequence[Agent],
        mixing: Mixing,
        *,
        evaluate: Evaluate | None = None,
        absent: Callable[[int], Collection[int]] | None = None,
    ) -> None:
        check_agents(agents)
        self.agents = [*agents]
        self.mixing = mixing
        self._meter = Meter(evaluate)
        self.absent = absent
        self.history = History()
        self.number = 0
        self._present: tuple[int, ...] = tuple(range(len(agents)))
        mixing_of(mixing, 0, len(agents))

    def run(self, rounds: int) -> History:
        """Take so many further rounds.

        Args:
            rounds: Their number.

        Returns:
            The record of all rounds so far.
        """
        for _ in range(rounds):
            self.step()
        return self.history

    def step(self) -> None:
        """Take one round.

        Raises:
            RuntimeError: If an agent waits for one that does not send it anything.
        """
        start = perf_counter()
        absent = () if self.absent is None else self.absent(self.number)
        present = tuple(agent for agent in range(len(self.agents)) if agent not in absent)
        matrix = among(mixing_of(self.mixing, self.number, len(self.agents)), present)
        self.history.changed(self.number, self._present, present)
        self._present = present
        merged: dict[int, float] = {}
        trained: dict[int, float] = {}
        self._meter.spent = 0.0
        for agent in present:
            self.agents[agent].rounds = self.number
            self.agents[agent].on_merge = partial(self._meter.measure, agent, self.agents[agent].model, merged)
        sent = _lockstep({agent: self.agents[agent].round(Links.of(matrix, agent)) for agent in present})
        for agent in present:
            self.agents[agent].rounds = self.number + 1
            self._meter.measure(agent, self.agents[agent].model, trained)
        self.history.rounds.append(
            RoundRecord(
                number=self.number,
                present=present,
                merged=merged,
                trained=trained,
                disagreement={agent: self.agents[agent].disagreement for agent in present},
                sent=sent,
                seconds=perf_counter() - start - self._meter.spent,
            )
        )
        self.number += 1

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on; the record is no part of it."""
        return {"number": self.number, "agents": [agent.state_dict() for agent in self.agents]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            ValueError: If it is of another number of agents.
        """
        if len(state_dict["agents"]) != len(self.agents):
            raise ValueError(f"state_dict must be of {len(self.agents)} agents, got {len(state_dict['agents'])}")
        self.number = state_dict["number"]
        for agent, state in zip(self.agents, state_dict["agents"], strict=True):
            agent.load_state_dict(state)


def _lockstep(rounds: Mapping[int, Round]) -> dict[int, int]:
    """Take all agents through their rounds together; return the bytes that each sent."""
    sent = dict.fromkeys(rounds, 0)
    waiting: dict[int, Exchange] = {}
    for agent, steps in rounds.items():
        _resume(agent, steps, None, waiting)
    while waiting:
        mail: dict[int, dict[int, list[Tensor]]] = {agent: {} for agent in waiting}
        for agent, exchange in waiting.items():
            copies: dict[int, list[Tensor]] = {}
            for other, tensors in exchange.send.items():
                if other not in waiting or agent not in waiting[other].receive:
                    raise RuntimeError(f"agent {agent} sends something to {other}, which does not wait for it")
                sent[agent] += size_of(tensors)
                if id(tensors) not in copies:
                    copies[id(tensors)] = [tensor.detach().clone() for tensor in tensors]
                mail[other][agent] = copies[id(tensors)]
        for agent, exchange in waiting.items():
            missing = sorted(set(exchange.receive) - set(mail[agent]))
            if missing:
                raise RuntimeError(f"agent {agent} waits for {missing[0]}, which sends it nothing")
        resumed: dict[int, Exchange] = {}
        for agent in waiting:
            _resume(agent, rounds[agent], mail[agent], resumed)
        waiting = resumed
    return sent


def _resume(agent: int, steps: Round, mail: Mapping[int, list[Tensor]] | None, waiting: dict[int, Exchange]) -> None:
    """Let an agent go on to its next exchange, if there is one; without mail it begins its round."""
    try:
        waiting[agent] = next(steps) if mail is None else steps.send(mail)
    except StopIteration:
        return


def size_of(tensors: Sequence[Tensor]) -> int:
    """Count the bytes of tensors.

    Example:
        >>> size_of([torch.zeros(3), torch.zeros(2, dtype=torch.float64)])
        28
    """
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def mixing_of(mixing: Mixing, number: int, agents: int) -> Tensor:
    """Give the mixing matrix of a round, in double precision on the CPU.

    Raises:
        ValueError: If it is no mixing matrix of so many agents.
    """
    matrix = mixing if isinstance(mixing, Tensor) else mixing(number)
    check_mixing(matrix)
    if len(matrix) != agents:
        raise ValueError(f"mixing must be of {agents} agents, got a matrix of {len(matrix)}")
    return matrix.detach().to("cpu", torch.float64)


def check_agents(agents: Sequence[Agent]) -> None:
    """Check that agents are some, and of one class.

    Raises:
        ValueError: If they are not.
    """
    if len({type(agent) for agent in agents}) != 1:
        raise ValueError(
            f"agents must be at least one, all of one class, got {[type(agent).__name__ for agent in agents]}"
        )
