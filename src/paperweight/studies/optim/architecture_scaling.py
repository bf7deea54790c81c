"""A learning rate found on a shallow network is carried to networks of other shapes by a rule (Chen et al. 2024).

Seven networks of one width learn characters by SGD with a constant rate: chains of 2, 4 and 8 hidden layers, a diamond,
a dense graph with 8 paths, a residual one with 8, and a wide one with 3. The best rate is sought on a network of one
hidden layer alone, with the same initial weights; the headline is the mean test accuracy of the seven at the rates that
follow from it.

What it can show: whether the rule finds better rates than to take the shallow network's as it is, whether the variance
by in-degree or the rates do it, and, by the control that is tuned on each network, what the rule still loses. Two more
controls ask whether the shape matters: one has the same smaller rate for all, the geometric mean of what the rule gives
them; the other is AdamW at the shallow network's rate. How depth is counted is not a detail: the paper counts ReLUs,
of which the shallow network has one, and the authors' code two more on every path; both are here. A mean accuracy not
above that of the carried rate would refute the claim here. What it cannot: anything about long training, about widths
or normalised networks, or about the ranking of architectures.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from paperweight.data import Splits
from paperweight.loops import Evaluation, Tuned, tune
from paperweight.nets.plain import computed_weight
from paperweight.optim.architecture_scaling import DagMLP, Edge, dag_init_, in_degrees, lr_scale, path_depths
from paperweight.studies import Arm, Metric, Outcome, Recipe, Setting, Study, Trained, classification

_RATES = tuple(0.001 * 2.5**power for power in range(9))
_WIDTH = 64
_BATCH = 32

Dag = Sequence[Sequence[Edge]]


def _none(edges: int) -> tuple[Edge, ...]:
    return ("none",) * edges


def _chain(edges: int) -> Dag:
    return tuple((*_none(vertex), "weight") for vertex in range(edges))


def _residual(blocks: int) -> Dag:
    dag: list[tuple[Edge, ...]] = []
    for first in range(0, 2 * blocks, 2):
        dag += [(*_none(first), "weight"), (*_none(first), "skip", "weight")]
    return dag


_ALL: tuple[Edge, ...] = ("weight",) * 4
_SHALLOW: Dag = ()
_DAGS: Mapping[str, Dag] = {
    "chain of 2": _chain(1),
    "chain of 4": _chain(3),
    "chain of 8": _chain(7),
    "diamond": (("weight",), ("weight", "none"), ("none", "weight", "weight")),
    "dense": tuple(_ALL[:vertex] for vertex in range(1, 5)),
    "residual": _residual(3),
    "wide": (("weight",), ("weight", "none"), ("weight", "none", "none"), ("none", "weight", "weight", "weight")),
}


def _scaled(model: nn.Module, shallow: nn.Module) -> float:
    return lr_scale(path_depths(model), path_depths(shallow))


def _by_layers(model: nn.Module, shallow: nn.Module) -> float:
    """Scale with 2 more on every path, as the authors' code counts, and so more mildly."""
    own, base = ({depth + 2: paths for depth, paths in path_depths(net).items()} for net in (model, shallow))
    return lr_scale(own, base)


def _carried(model: nn.Module, shallow: nn.Module) -> float:
    return 1.0


def _he_init_(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight)


def _sgd(model: nn.Module, lr: float) -> Optimizer:
    return SGD(model.parameters(), lr=lr)


def _adamw(model: nn.Module, lr: float) -> Optimizer:
    return AdamW(model.parameters(), lr=lr)


class _Plan(NamedTuple):
    """The factor from the shallow network's rate to another's, initial weights, and whether each network is tuned."""

    scale: Callable[[nn.Module, nn.Module], float] | None
    init: Callable[[nn.Module], object] = _he_init_
    optimizer: Callable[[nn.Module, float], Optimizer] = _sgd
    same_for_all: bool = False


def _draw(model: nn.Module, inputs: torch.Tensor, steps: int, generator: torch.Generator) -> None:
    dag_init_(model, generator)


def _traceable(model: nn.Module, data: Splits) -> str:
    try:
        if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
            return "the network must have its layers built; call it once"
        degrees = in_degrees(model)
    except ValueError as error:
        return str(error)
    if words := computed_weight(model):
        return f"the network must have plain weights, but {words}"
    trained = [name for name in degrees if model.get_submodule(name).get_parameter("weight").requires_grad]
    return "" if len(trained) > 1 else "the network must have two linear layers or convolutions that are trained"


RECIPE = Recipe(
    words="initial weights by how many layers are summed, with a small last layer",
    line="model = dag_init_(model)  # and lr = lr_of_shallow * lr_scale(path_depths(model), path_depths(shallow))",
    pretraining=_draw,
    fits=_traceable,
)

STUDY = Study(
    paper="architecture_scaling",
    question="Does one rule carry a learning rate from a shallow network to networks of other depths and topologies?",
    claim="Rates and initial weights by the rule train networks better than those of the shallow network as they are.",
    arms={
        "carried": Arm("the shallow network's rate, and He's initial weights", _Plan(_carried)),
        "scaled": Arm("the method: rates by ReLUs on paths, initial weights by in-degree", _Plan(_scaled, dag_init_)),
        "scaled_by_layers": Arm(
            "the method with depths as the authors' code counts them", _Plan(_by_layers, dag_init_)
        ),
        "init_alone": Arm("initial weights by in-degree, the shallow network's rate", _Plan(_carried, dag_init_)),
        "rates_alone": Arm("rates by layers on paths, He's initial weights", _Plan(_by_layers)),
        "smaller": Arm(
            "control: one rate for all, the geometric mean of those by layers; He's initial weights",
            _Plan(_by_layers, same_for_all=True),
        ),
        "adamw": Arm(
            "control: AdamW at the shallow network's rate, He's initial weights", _Plan(_carried, optimizer=_adamw)
        ),
        "tuned": Arm("control: each network's own best rate, 9 tries each, He's initial weights", _Plan(None)),
    },
    metrics={
        "accuracy": Metric.higher("test accuracy, mean of 7 networks", 0.01),
        "worst": Metric.higher("test accuracy of the worst of 7 networks", 0.02),
    },
    headline="accuracy",
    tuned=(
        "the learning rate of the shallow network, 9 tries an arm and seed, a factor of 2.5 apart, from one grid: by "
        "validation loss; in one control that of every network in the same way"
    ),
    limits=(
        "Small images, networks of 64 units without normalisation, plain SGD with a constant rate and 250 updates at "
        "the desk budget: nothing follows for convolutions, kernels, momentum, long training or NAS-Bench-201. The "
        "theory is for the square error, the study has cross-entropy, as the authors' experiments. Identity edges are "
        "in one of seven networks."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Seek the shallow network's rate, and train each of the others once with what follows from it."""
    plan = arm.make
    task = classification(
        setting, smoke=(100, 50, 50), desk=(2_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=4, desk=250, gpu=2_500)
    rates = setting.pick(smoke=_RATES[3:5], desk=_RATES, gpu=_RATES)
    dags = dict(list(_DAGS.items())[3:5]) if setting.budget == "smoke" else _DAGS

    def build(dag: Dag) -> nn.Module:
        def network() -> nn.Module:
            model = DagMLP(dag, task.shape, task.classes, _WIDTH)
            plan.init(model)
            return model

        return setting.initialised(network)

    def train(dag: Dag, rate: float) -> Trained:
        model = build(dag)
        return task.fit(model, plan.optimizer(model, rate), steps=steps, batch_size=_BATCH)

    def search(dag: Dag) -> Tuned[Trained]:
        return tune(rates, lambda rate: train(dag, rate), lambda tried: tried.validated.loss, better="lower")

    shallow = search(_SHALLOW)
    own: dict[str, Tuned[Trained]] = {}
    scale = plan.scale
    if scale is None:
        own = {name: search(dag) for name, dag in dags.items()}
        ends = {name: (found.value, found.best) for name, found in own.items()}
    else:
        base = build(_SHALLOW)
        factors = {name: scale(build(dag), base) for name, dag in dags.items()}
        if plan.same_for_all:
            factors = dict.fromkeys(dags, math.exp(fmean(math.log(factor) for factor in factors.values())))
        ends = {
            name: (shallow.value * factors[name], train(dag, shallow.value * factors[name]))
            for name, dag in dags.items()
        }
    tested = [end.tested for _, end in ends.values()]
    accuracies = [evaluation.accuracy for evaluation in tested]
    return task.outcome(
        shallow,
        tested=Evaluation(
            fmean(evaluation.loss for evaluation in tested),
            fmean(accuracies),
            torch.cat([evaluation.correct for evaluation in tested]),
        ),
        metrics={"accuracy": fmean(accuracies), "worst": min(accuracies)},
        more_tuned={f"lr of {name}": found for name, found in own.items()},
        arguments={"networks": ", ".join(dags), "width": _WIDTH},
        curves={
            "test accuracy, by number of the network": list(enumerate(accuracies, start=1)),
            "log10 of the rate, by number of the network": [
                (number, math.log10(rate)) for number, (rate, _) in enumerate(ends.values(), start=1)
            ],
        },
    )
