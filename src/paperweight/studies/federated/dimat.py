"""Merging aligned models gains accuracy faster than averaging them, for the same bytes (Saadati et al. 2024).

Five agents on a ring have a fifth of the images each and models that were trained on it from different initial weights.
Then come rounds of a merge and an epoch, and a last merge. The baseline averages weights, which the method is without
matching; both, and all other arms, recompute batch normalization on the agent's own data, and have the same optimizer.
Everything is done twice, with every class at every agent and with two classes an agent; in between is a split of which
half is of each kind, for the first exchange alone. The headline is the test accuracy, the mean over agents, after the
first exchange of models where every agent has every class: what one model sent to each neighbour is worth. The other
splits are told beside it.

What it can show: whether units that are aligned average better here, and for how many rounds that lasts. What it
cannot: anything about large networks, or about many agents. An accuracy after the first exchange that is not above the
baseline's would refute the claim. Since alignment can only matter where models differ in the order of their units, the
control that starts all agents from one initialisation should be as good without it. Mixing at every step, the rival of
which the method claims to need less communication, is shown for as many epochs and for as many bytes.
"""

from functools import partial
from math import prod

import torch
from torch import nn

from paperweight.agents.baselines import CDSGD, CGA, SGP, LocalOnly
from paperweight.agents.partition import Scheme, partition
from paperweight.federated.dimat import DIMAT
from paperweight.loops import Tuned, tune
from paperweight.nets import ResNet
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification
from paperweight.studies.federated._dimat_agents import MEGABYTE, Plan, Trial, World, accuracy

_RATES: dict[Scheme, tuple[float, ...]] = {
    "iid": (0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "classes": (0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
}
_MERGE = partial(DIMAT, keep_optimizer_state=False)
_AVERAGE = partial(_MERGE, matching="none")

STUDY = Study(
    paper="dimat",
    question="Do agents that train alone and rarely exchange models gain more from merging aligned models?",
    claim="Where every agent has all classes, DIMAT is more accurate after the first exchange than weight averaging.",
    arms={
        "averaging": Arm(
            "weight averaging, which the method is without matching; batch normalization recomputed", Plan(_AVERAGE)
        ),
        "dimat": Arm(
            "DIMAT: units matched by their activations on the agent's own data, then averaged",
            Plan(partial(_MERGE, matching="activation")),
        ),
        "weight_matching": Arm("variant: units matched by their weights", Plan(partial(_MERGE, matching="weight"))),
        "shared_probe": Arm(
            "variant: matching and batch normalization on unlabelled images that all agents have",
            Plan(partial(_MERGE, matching="activation"), shared_probe=True),
        ),
        "no_repair": Arm(
            "variant: weight averaging, batch normalization averaged as well", Plan(partial(_AVERAGE, repair=False))
        ),
        "local": Arm("control: no exchange at all", Plan(LocalOnly, rare=False)),
        "cdsgd": Arm("rival: mixing at every step, for as many epochs", Plan(CDSGD, stepwise=True, rare=False)),
        "cdsgd_bytes": Arm("rival: mixing at every step, for as many bytes", Plan(CDSGD, stepwise=True)),
        "sgp": Arm(
            "rival: stochastic gradient push, mixing at every step, for as many epochs",
            Plan(SGP, stepwise=True, rare=False),
        ),
        "cga": Arm(
            "rival: cross-gradient aggregation, mixing at every step, for as many epochs",
            Plan(CGA, stepwise=True, rare=False),
        ),
        "same_start": Arm(
            "control: weight averaging of agents that began with the same weights", Plan(_AVERAGE, same_start=True)
        ),
        "centralised": Arm(
            "bound: one model on the images of all agents, for as many epochs",
            Plan(LocalOnly, rare=False, pooled=True),
        ),
    },
    metrics={
        "first": Metric.higher("test accuracy, first exchange", 0.02),
        "first_half": Metric.higher("test accuracy, first exchange, half by class", 0.02),
        "first_classes": Metric.higher("test accuracy, first exchange, 2 classes each", 0.02),
        "final": Metric.higher("test accuracy, end", 0.01),
        "final_classes": Metric.higher("test accuracy, end, 2 classes each", 0.02),
        "agreement": Metric.higher("test images on which two agents agree, end", 0.01, "share"),
        "sent": Metric.lower("sent by an agent", 0.05, "megabytes"),
    },
    headline="first",
    tuned=(
        "the learning rate: 6 tries an arm and seed with all classes, 7 with two classes an agent, a factor of about 3 "
        "apart, by validation accuracy at the end; the training before the first exchange, which all arms share, is "
        "not tuned"
    ),
    limits=(
        "Small images, a fully connected network of three layers with batch normalization and five agents on a ring at "
        "the desk budget: nothing follows for large networks. Optimizers start anew in each round, as in the paper. "
        "An agent that is alone with two classes chose the lowest rate of each grid that was tried, as if training on "
        "were of no use to it. "
        "The verdict is on agents that have every class; what two classes an agent change is told beside it."
    ),
)


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


def run(arm: Arm[Plan], setting: Setting) -> Outcome:
    """Train on both splits with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(150, 50, 50), desk=(900, 300, 590), gpu=(40_000, 5_000, 10_000))
    default = partial(ResNet, depth=20, width=32) if setting.budget == "gpu" else _Perceptron
    agents = setting.pick(smoke=3, desk=5, gpu=10)
    probed = setting.pick(smoke=40, desk=200, gpu=2_000)
    rounds, epochs = setting.pick(smoke=(2, 1), desk=(6, 1), gpu=(10, 2))
    first_epochs = setting.pick(smoke=4, desk=20, gpu=20)
    metrics: dict[str, float] = {}
    made: dict[str, object] = {}
    arguments: dict[str, object] = {"agents": agents, "training_images": len(task.train)}
    curves: dict[str, list[tuple[float, float]]] = {}
    chosen: dict[str, Tuned[Trial]] = {}
    schemes: dict[Scheme, str] = {"iid": "", "half_half": "_half", "classes": "_classes"}
    for scheme, suffix in schemes.items():
        parts = partition(task.train.labels, agents, scheme, generator=setting.generator("method"))
        shares = [torch.cat([*parts])] if arm.make.pooled else parts
        network = partial(task.network, default)
        world = World(task, network, arm.make, shares, rounds, epochs, first_epochs, probed)
        start = world.start(scheme)
        metrics[f"first{suffix}"] = world.first_exchange(start)
        if scheme not in _RATES:
            continue
        tuned = tune(
            _RATES[scheme],
            partial(world.train, start),
            lambda trial: accuracy(trial.agents, task.data.validation),
            better="higher",
        )
        best = tuned.best
        metrics[f"final{suffix}"] = accuracy(best.agents, task.data.test)
        chosen[f"lr{suffix}"] = tuned
        made |= {f"agent{suffix}": best.agents[0], f"optimizer{suffix}": best.agents[0].optimizer}
        label = "2 classes each" if suffix else "all classes"
        curves[f"test accuracy, by round, {label}"] = best.by_round()
        curves[f"test accuracy, by megabytes, {label}"] = best.by_bytes()
        curves[f"disagreement, by round, {label}"] = best.disagreement()
        if not suffix:
            metrics["agreement"] = best.agreement(task.data.test)
            metrics["sent"] = best.history.sent / MEGABYTE / agents
    arguments["test_images"] = len(task.data.test)
    return Outcome(metrics=metrics, made=made, tuned=chosen, arguments=arguments, curves=curves)
