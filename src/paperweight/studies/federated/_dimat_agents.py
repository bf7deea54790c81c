"""The agents of DIMAT's study: how they start, exchange models and train, and what is told of it."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from paperweight.agents.agent import Agent, Batches
from paperweight.agents.baselines import LocalOnly
from paperweight.agents.mixing import mixing_matrix
from paperweight.agents.partition import Scheme
from paperweight.agents.simulation import History, Simulation
from paperweight.data import LabelledImages
from paperweight.federated.dimat import DIMAT
from paperweight.loops import evaluate_classifier
from paperweight.studies import Classification

__all__ = ["MEGABYTE", "Plan", "Times", "Trial", "World", "accuracy"]

MEGABYTE = 1e6

_FIRST_RATE = 0.03
_MOMENTUM = 0.9
_BATCH = 20


class Plan(NamedTuple):
    """The agents of an arm.

    Attributes:
        agent: Makes one, from a model, an optimizer, batches, and epochs or steps a round.
        stepwise: Whether a round is so many steps, in place of epochs.
        rare: Whether models are exchanged once a round; then a last exchange follows the rounds.
        shared_probe: Whether all agents match and repair on the same images.
        same_start: Whether all agents begin with the same weights.
        pooled: Whether one agent has the images of all.
    """

    agent: Callable[..., Agent]
    stepwise: bool = False
    rare: bool = True
    shared_probe: bool = False
    same_start: bool = False
    pooled: bool = False


class Times(NamedTuple):
    """How many rounds of how many epochs agents train for, and for how many epochs before."""

    rounds: int
    epochs: int
    first_epochs: int


class World(NamedTuple):
    """The images of an arm's agents on one split, how long they train, and on how many shared images they match."""

    task: Classification
    network: Callable[[], nn.Module]
    plan: Plan
    parts: Sequence[Tensor]
    times: Times
    probed: int

    def batches(self, number: int, use: int) -> Batches:
        """Give the batches of an agent, shuffled by a generator of its own."""
        seed, part = self.task.setting.stream("batches") // 2, self.parts[number]
        draw = torch.Generator().manual_seed(seed + 1_000 * use + number)
        return Batches(self.task.train.images[part], self.task.train.labels[part], _BATCH, generator=draw)

    def fresh(self, number: int) -> nn.Module:
        """Give the untrained model of an agent."""
        model = self.network()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.task.setting.stream("init") // 2 + (0 if self.plan.same_start else number))
            for part in model.modules():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()
        return model

    def start(self, scheme: Scheme) -> list[nn.Module]:
        """Give the models that the arm starts from: trained on each agent's own images, or on all."""

        def build() -> dict[str, Tensor]:
            trained: dict[str, Tensor] = {}
            for number in range(len(self.parts)):
                model = self.fresh(number)
                optimizer = torch.optim.SGD(model.parameters(), lr=_FIRST_RATE, momentum=_MOMENTUM)
                LocalOnly(model, optimizer, self.batches(number, use=0), self.times.first_epochs).step()
                trained |= {f"{number}.{name}": value.detach().clone() for name, value in model.state_dict().items()}
            return trained

        kind = "one agent" if self.plan.pooled else "one start" if self.plan.same_start else "different starts"
        stored = self.task.setting.cached(f"models of {kind}, {scheme}", build)
        models = [self.network() for _ in self.parts]
        for number, model in enumerate(models):
            model.load_state_dict({name: stored[f"{number}.{name}"] for name in model.state_dict()})
        return models

    def crew(self, start: Sequence[nn.Module], rate: float, length: int) -> list[Agent]:
        """Make the agents, from copies of the models that they start from."""
        probe = [*self.task.train.images[: self.probed].split(_BATCH)]
        shared = {"probe": probe} if self.plan.shared_probe else {}
        models = [copy.deepcopy(model) for model in start]
        return [
            self.plan.agent(
                model,
                torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM),
                self.batches(number, use=1),
                length,
                **shared,
            )
            for number, model in enumerate(models)
        ]

    def first_exchange(self, start: Sequence[nn.Module]) -> float:
        """Give the accuracy after the first exchange; of an arm without any, that at the start."""
        agents = self.crew(start, _FIRST_RATE, 1 if self.plan.stepwise else 0)
        Simulation(agents, mixing_matrix("ring", len(agents))).step()
        return accuracy(agents, self.task.data.test)

    def train(self, start: Sequence[nn.Module], rate: float) -> "Trial":
        """Train for all rounds, with a last exchange where these are rare."""
        test, plan, length = self.task.data.test, self.plan, self.times.epochs
        if plan.stepwise:
            length = 1 if plan.rare else self.times.epochs * (min(map(len, self.parts)) // _BATCH)
        agents = self.crew(start, rate, length)
        before = sum(_accuracy_of(model, test) for model in start) / len(start)
        mixing = mixing_matrix("ring", len(start))
        simulation = Simulation(agents, mixing, evaluate=lambda model: _accuracy_of(model, test))
        history = simulation.run(self.times.rounds)
        if plan.rare:
            merging = [agent for agent in agents if isinstance(agent, DIMAT)]
            for agent in merging:
                agent.local_epochs = 0
            simulation.run(1)
            for agent in merging:
                agent.local_epochs = length
        return Trial(agents, history, before)

    def validated(self, trial: "Trial") -> float:
        """Give the accuracy of a trial's agents on validation images."""
        return accuracy(trial.agents, self.task.data.validation)


class Trial(NamedTuple):
    """One training with one rate: the agents, the rounds, and the accuracy on test images before."""

    agents: list[Agent]
    history: History
    before: float

    def agreement(self, data: LabelledImages) -> float:
        """Give the share of images on which two agents agree at the end, the mean over pairs."""
        with torch.inference_mode():
            answers = [agent.model.eval()(data.images).argmax(1) for agent in self.agents]
        pairs = [*combinations(answers, 2)]
        return sum(float((a == b).double().mean()) for a, b in pairs) / len(pairs) if pairs else 1.0

    def curves(self, split: str) -> dict[str, list[tuple[float, float]]]:
        """Give its curves, named by the split."""
        return {
            f"test accuracy, by round, {split}": self.by_round(),
            f"test accuracy, by megabytes, {split}": self.by_bytes(),
            f"disagreement, by round, {split}": self.disagreement(),
        }

    def by_round(self) -> list[tuple[float, float]]:
        """Give the accuracy after each merge, at whole numbers, and after each training, half a round on."""
        points = [(0.0, self.before)]
        for record in self.history.rounds:
            points += [(record.number + 1.0, _mean(record.merged))] if record.merged else []
            points.append((record.number + 1.5, _mean(record.trained)))
        return points

    def by_bytes(self) -> list[tuple[float, float]]:
        """Give the accuracy at the end of each round, by the megabytes that an agent had sent."""
        points, sent = [(0.0, self.before)], 0
        for record in self.history.rounds:
            sent += sum(record.sent.values())
            points.append((sent / MEGABYTE / len(self.agents), _mean(record.trained)))
        return points

    def disagreement(self) -> list[tuple[float, float]]:
        """Give how far the models were apart that were mixed last in each round; nothing where none were."""
        means = [(record.number + 1.0, _mean(record.disagreement)) for record in self.history.rounds]
        return [point for point in means if math.isfinite(point[1])]


def accuracy(agents: Sequence[Agent], data: LabelledImages) -> float:
    """Give the accuracy on some images, the mean over agents."""
    return sum(_accuracy_of(agent.model, data) for agent in agents) / len(agents)


def _accuracy_of(model: nn.Module, data: LabelledImages) -> float:
    return evaluate_classifier(model, data.images, data.labels).accuracy


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)
