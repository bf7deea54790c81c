"""Merging aligned models gains accuracy faster than averaging them, for the same bytes (Saadati et al. 2024).

Five agents on a ring have a fifth of the images each and models that were trained on it from different initial weights.
Then come rounds of a merge and an epoch, and a last merge. The baseline averages weights, which the method is without
matching; both, and all other arms, recompute batch normalization on the agent's own data, and have the same optimizer.
Everything is done twice, with every class at every agent and with two classes an agent; in between is a split of which
half is of each kind, for the first exchange alone. The headline is the test accuracy, the mean over agents, after the
first exchange of models: what one model sent to each neighbour is worth.

What it can show: whether units that are aligned average better here, and for how many rounds that lasts. What it
cannot: anything about large networks, or about many agents. An accuracy after the first exchange that is not above the
baseline's would refute the claim. Since alignment can only matter where models differ in the order of their units, the
control that starts all agents from one initialisation should be as good without it. Mixing at every step, the rival of
which the method claims to need less communication, is shown for as many epochs and for as many bytes.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from math import prod

import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages, channel_statistics, normalise
from paperweight.federated._agent import Agent, Batches
from paperweight.federated._baselines import CDSGD, CGA, SGP, LocalOnly
from paperweight.federated._mixing import mixing_matrix
from paperweight.federated._partition import Scheme, partition
from paperweight.federated._simulation import History, Simulation
from paperweight.federated.dimat import DIMAT, Matching
from paperweight.loops import best_of, evaluate_classifier
from paperweight.nets import ResNet
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="dimat",
    question="Do agents that train alone and rarely exchange models gain more from merging aligned models?",
    claim="After the first exchange DIMAT is more accurate than weight averaging, with all classes and with two each.",
    arms={
        "averaging": "weight averaging, which the method is without matching; batch normalization recomputed",
        "dimat": "DIMAT: units matched by their activations on the agent's own data, then averaged",
        "weight_matching": "variant: units matched by their weights",
        "shared_probe": "variant: matching and batch normalization on unlabelled images that all agents have",
        "no_repair": "variant: weight averaging, batch normalization averaged as well",
        "local": "control: no exchange at all",
        "cdsgd": "rival: mixing at every step, for as many epochs",
        "cdsgd_bytes": "rival: mixing at every step, for as many bytes",
        "sgp": "rival: stochastic gradient push, mixing at every step, for as many epochs",
        "cga": "rival: cross-gradient aggregation, mixing at every step, for as many epochs",
        "same_start": "control: weight averaging of agents that began with the same weights",
        "centralised": "bound: one model on the images of all agents, for as many epochs",
    },
    metrics={
        "first": Metric(label="test accuracy, first exchange", unit="", better="higher", minimal_effect=0.02),
        "first_half": Metric(
            label="test accuracy, first exchange, half by class", unit="", better="higher", minimal_effect=0.02
        ),
        "first_classes": Metric(
            label="test accuracy, first exchange, 2 classes each", unit="", better="higher", minimal_effect=0.02
        ),
        "final": Metric(label="test accuracy, end", unit="", better="higher", minimal_effect=0.01),
        "final_classes": Metric(
            label="test accuracy, end, 2 classes each", unit="", better="higher", minimal_effect=0.02
        ),
        "agreement": Metric(
            label="test images on which two agents agree, end", unit="share", better="higher", minimal_effect=0.01
        ),
        "sent": Metric(label="sent by an agent", unit="megabytes", better="lower", minimal_effect=0.05),
    },
    headline="first",
    tuned=(
        "the learning rate: 4 tries an arm, split and seed, a factor of about 3 apart, by validation accuracy at the "
        "end; the training before the first exchange, which all arms share, is not tuned"
    ),
    limits=(
        "Small images, a fully connected network of three layers with batch normalization and five agents on a ring at "
        "the desk budget: nothing follows for large networks. Optimizers start anew in each round, as in the paper."
    ),
)

_RATES: dict[Scheme, tuple[float, ...]] = {"iid": (0.01, 0.03, 0.1, 0.3), "classes": (0.001, 0.003, 0.01, 0.03)}
_FIRST_RATE = 0.03
_MOMENTUM = 0.9
_BATCH = 20
_MEGABYTE = 1e6
_MIXERS: dict[str, type[CDSGD] | type[SGP] | type[CGA]] = {"cdsgd": CDSGD, "cdsgd_bytes": CDSGD, "sgp": SGP, "cga": CGA}
_MATCHING: dict[str, Matching] = {"dimat": "activation", "shared_probe": "activation", "weight_matching": "weight"}


@dataclass(frozen=True)
class _World:
    """What all arms have in common on one split."""

    network: Callable[[], nn.Module]
    train: LabelledImages
    test: LabelledImages
    parts: Sequence[Tensor]
    probe: Tensor
    seed: int
    rounds: int
    epochs: int

    def parts_of(self, arm: str) -> Sequence[Tensor]:
        """Give the samples of each agent of an arm."""
        return [torch.cat([*self.parts])] if arm == "centralised" else self.parts

    def batches(self, number: int, samples: Tensor, use: int) -> Batches:
        """Give the batches of an agent, shuffled by a generator of its own."""
        draw = torch.Generator().manual_seed(self.seed + 1_000 * use + number)
        return Batches(self.train.images[samples], self.train.labels[samples], _BATCH, generator=draw)


def run(arm: str, setting: Setting) -> Outcome:
    """Train on both splits with each rate; report what the best on validation images does on test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=150, desk=900, gpu=40_000),
        validation=setting.pick(smoke=50, desk=300, gpu=5_000),
        test=setting.pick(smoke=50, desk=590, gpu=10_000),
        max_side=32,
    )
    statistics = channel_statistics(data.train.images)
    train, validation, test = (
        LabelledImages(normalise(part.images, *statistics), part.labels)
        for part in (data.train, data.validation, data.test)
    )
    network = partial(ResNet, depth=20, width=32) if setting.budget == "gpu" else _Perceptron
    agents = setting.pick(smoke=3, desk=5, gpu=10)
    metrics: dict[str, float] = {}
    arguments: dict[str, object] = {
        "agents": agents,
        "training_images": len(train),
        "test_images": len(test),
        "tries": len(_RATES["iid"]),
        "batch_size": _BATCH,
    }
    curves: dict[str, list[tuple[float, float]]] = {}
    schemes: dict[Scheme, str] = {"iid": "", "half_half": "_half", "classes": "_classes"}
    for scheme, suffix in schemes.items():
        world = _World(
            network=lambda: setting.network(data.shape, len(data.classes), default=network),
            train=train,
            test=test,
            parts=partition(train.labels, agents, scheme, generator=setting.generator("method")),
            probe=train.images[: setting.pick(smoke=40, desk=200, gpu=2_000)],
            seed=setting.stream("batches") // 2,
            rounds=setting.pick(smoke=2, desk=6, gpu=10),
            epochs=setting.pick(smoke=1, desk=1, gpu=2),
        )
        start = _start(arm, scheme, world, setting)
        metrics[f"first{suffix}"] = _first_exchange(arm, world, start)
        if scheme == "half_half":
            continue
        tries = {rate: _Trial(arm, world, start, rate) for rate in _RATES[scheme]}
        found = {rate: each.accuracy(validation) for rate, each in tries.items()}
        rate = best_of(found, lambda rate, found=found: found[rate], better="higher")
        best = tries[rate]
        metrics[f"final{suffix}"] = best.accuracy(test)
        arguments[f"learning_rate{suffix}"] = rate
        label = "2 classes each" if suffix else "all classes"
        curves[f"test accuracy, by round, {label}"] = best.by_round()
        curves[f"test accuracy, by megabytes, {label}"] = best.by_bytes()
        curves[f"disagreement, by round, {label}"] = best.disagreement()
        curves[f"validation accuracy, by log10 learning rate, {label}"] = [
            (math.log10(rate), accuracy) for rate, accuracy in found.items()
        ]
        if scheme == "iid":
            metrics["agreement"] = best.agreement()
            metrics["sent"] = best.history.sent / _MEGABYTE / agents
    return Outcome(metrics=metrics, arguments=arguments, curves=curves)


class _Perceptron(nn.Sequential):
    """A fully connected network with hidden layers of 128 and 64 units and batch normalization."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(prod(shape), 128),
            nn.BatchNorm1d(128),
            nn.ReLU(),
            nn.Linear(128, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )


def _start(arm: str, scheme: Scheme, world: _World, setting: Setting) -> list[nn.Module]:
    """Give the models that an arm starts from: trained on each agent's own images, or on all."""
    kind = arm if arm in ("same_start", "centralised") else "different starts"
    parts = world.parts_of(arm)
    epochs = setting.pick(smoke=4, desk=20, gpu=20)

    def fresh(number: int) -> nn.Module:
        model = world.network()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init") // 2 + (0 if kind == "same_start" else number))
            for part in model.modules():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()
        return model

    def build() -> dict[str, Tensor]:
        trained: dict[str, Tensor] = {}
        for number, part in enumerate(parts):
            model = fresh(number)
            optimizer = torch.optim.SGD(model.parameters(), lr=_FIRST_RATE, momentum=_MOMENTUM)
            LocalOnly(model, optimizer, world.batches(number, part, use=0), epochs).step()
            trained |= {f"{number}.{name}": value.detach().clone() for name, value in model.state_dict().items()}
        return trained

    stored = setting.cached(f"models of {kind}, {scheme}", build)
    models = [world.network() for _ in parts]
    for number, model in enumerate(models):
        model.load_state_dict({name: stored[f"{number}.{name}"] for name in model.state_dict()})
    return models


def _crew(arm: str, world: _World, start: Sequence[nn.Module], rate: float, epochs: int, steps: int) -> list[Agent]:
    """Make the agents of an arm, from copies of the models that it starts from."""
    parts = world.parts_of(arm)
    return [
        _agent(arm, copy.deepcopy(model), rate, world.batches(number, parts[number], use=1), world, epochs, steps)
        for number, model in enumerate(start)
    ]


def _first_exchange(arm: str, world: _World, start: Sequence[nn.Module]) -> float:
    """Give the accuracy after the first exchange; of an arm without any, that at the start."""
    agents = _crew(arm, world, start, _FIRST_RATE, epochs=0, steps=1)
    Simulation(agents, mixing_matrix("ring", len(agents))).step()
    return sum(_accuracy(agent.model, world.test) for agent in agents) / len(agents)


class _Trial:
    """One training of an arm with one rate: all rounds, and a last exchange where these are rare."""

    def __init__(self, arm: str, world: _World, start: Sequence[nn.Module], rate: float) -> None:
        self._test = world.test
        steps = world.epochs * (min(map(len, world.parts)) // _BATCH) if arm in ("cdsgd", "sgp", "cga") else 1
        self.agents = _crew(arm, world, start, rate, world.epochs, steps)
        self._before = sum(_accuracy(model, world.test) for model in start) / len(start)
        mixing = mixing_matrix("ring", len(start))
        simulation = Simulation(self.agents, mixing, evaluate=lambda model: _accuracy(model, world.test))
        self.history: History = simulation.run(world.rounds)
        if arm in ("cdsgd", "sgp", "cga", "local", "centralised"):
            return
        for agent in self.agents:
            if isinstance(agent, DIMAT):
                agent.local_epochs = 0
        simulation.run(1)

    def accuracy(self, data: LabelledImages) -> float:
        """Give the accuracy on some images at the end, the mean over agents."""
        return sum(_accuracy(agent.model, data) for agent in self.agents) / len(self.agents)

    def agreement(self) -> float:
        """Give the share of the test images on which two agents agree at the end, the mean over pairs."""
        with torch.inference_mode():
            answers = [agent.model.eval()(self._test.images).argmax(1) for agent in self.agents]
        pairs = [*combinations(answers, 2)]
        return sum(float((a == b).double().mean()) for a, b in pairs) / len(pairs) if pairs else 1.0

    def by_round(self) -> list[tuple[float, float]]:
        """Give the accuracy after each merge, at whole numbers, and after each training, half a round on."""
        points = [(0.0, self._before)]
        for record in self.history.rounds:
            points += [(record.number + 1.0, _mean(record.merged))] if record.merged else []
            points.append((record.number + 1.5, _mean(record.trained)))
        return points

    def by_bytes(self) -> list[tuple[float, float]]:
        """Give the accuracy at the end of each round, by the megabytes that an agent had sent."""
        points, sent = [(0.0, self._before)], 0
        for record in self.history.rounds:
            sent += sum(record.sent.values())
            points.append((sent / _MEGABYTE / len(self.agents), _mean(record.trained)))
        return points

    def disagreement(self) -> list[tuple[float, float]]:
        """Give how far the models were apart that were mixed last in each round; nothing where none were."""
        means = [(record.number + 1.0, _mean(record.disagreement)) for record in self.history.rounds]
        return [point for point in means if math.isfinite(point[1])]


def _agent(arm: str, model: nn.Module, rate: float, batches: Batches, world: _World, epochs: int, steps: int) -> Agent:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM)
    if arm in ("local", "centralised"):
        return LocalOnly(model, optimizer, batches, epochs)
    if arm in _MIXERS:
        return _MIXERS[arm](model, optimizer, batches, steps)
    return DIMAT(
        model,
        optimizer,
        batches,
        epochs,
        matching=_MATCHING.get(arm, "none"),
        keep_optimizer_state=False,
        repair=arm != "no_repair",
        probe=[*world.probe.split(_BATCH)] if arm == "shared_probe" else None,
    )


def _accuracy(model: nn.Module, data: LabelledImages) -> float:
    return evaluate_classifier(model, data.images, data.labels).accuracy


def _mean(values: Mapping[int, float]) -> float:
    return sum(values.values()) / len(values)
