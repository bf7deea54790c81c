"""Global magnitude pruning is as accurate as complex pruning, or more so, and needs none of it (Gupta et al. 2022).

A small residual network is trained once a seed; every arm removes the same number of its weights, 95 and 98 in 100, and
fine-tunes what is left equally long with fixed zeros, the learning-rate schedule begun anew, as in the paper. Each arm
has its own rate of fine-tuning, chosen on validation images at the first sparsity. The headline is test accuracy there.
Before fine-tuning all arms are near chance at these sparsities; what pruning alone costs is told at 80.

What it can show: whether one ranking of all weights beats the same share in every layer, on a network that is much too
large for its task. What it cannot: anything about ImageNet, or about the scores by gradients that the paper compares
with. An accuracy not above that of uniform pruning would refute the claim here. As high a one of a control would show
that something simpler does as well: a smaller dense network that is trained as long as the two trainings together; the
shares of layers by the rule of Erdos-Renyi kernels, which looks at shapes only; random weights, ranked as if they were
magnitudes. A layer that is left empty blocks the signal: there the minimum threshold should show, at the second
sparsity more than at the first.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.compression.global_magnitude_pruning import GlobalMagnitudePruning
from paperweight.loops import tune
from paperweight.nets import ResNet, count_multiplications
from paperweight.studies import Arm, Classification, Metric, Outcome, Setting, Study, Trained, classification

_SPARSITY = 0.95
_SPARSER = 0.98
_DENSER = 0.8
_DENSE_RATE = 0.1
_RATES = (0.006, 0.02, 0.06, 0.2, 0.6, 1.8, 5.4)
_MOMENTUM = 0.9
_DECAY = 5e-4
_BATCH = 32


class _Plan(NamedTuple):
    """How the dense network is pruned, if at all, and the minimum in a layer, as a part of an equal one."""

    prune: Callable[[GlobalMagnitudePruning, nn.Module, torch.Generator], nn.Module] | None = None
    minimum: float = 0.0


def _layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]


def _whole(pruning: GlobalMagnitudePruning, dense: nn.Module, _: torch.Generator) -> nn.Module:
    return pruning(dense)


@torch.no_grad()
def _at_random(pruning: GlobalMagnitudePruning, dense: nn.Module, generator: torch.Generator) -> nn.Module:
    """Prune as if the magnitudes were random."""
    pruned, drawn = copy.deepcopy(dense), copy.deepcopy(dense)
    for part in _layers(drawn):
        part.weight.copy_(1 - torch.rand(part.weight.shape, generator=generator))
    for part, chosen in zip(_layers(pruned), _layers(pruning(drawn)), strict=True):
        part.weight.masked_fill_(chosen.weight == 0, 0)
    return pruned


@torch.no_grad()
def _by_layer(
    counts: Callable[[Sequence[torch.Size], float], list[float]],
    pruning: GlobalMagnitudePruning,
    dense: nn.Module,
    _: torch.Generator,
) -> nn.Module:
    """Prune each layer by itself, down to what is counted for it."""
    pruned = copy.deepcopy(dense)
    shapes = [part.weight.shape for part in _layers(pruned)]
    kept = (1 - pruning.sparsity) * sum(shape.numel() for shape in shapes)
    for part, shape, count in zip(_layers(pruned), shapes, counts(shapes, kept), strict=True):
        part.weight.copy_(GlobalMagnitudePruning(1 - count / shape.numel())(part).weight)
    return pruned


def _equal(shapes: Sequence[torch.Size], kept: float) -> list[float]:
    """Keep the same share of each layer."""
    total = sum(shape.numel() for shape in shapes)
    return [shape.numel() * kept / total for shape in shapes]


def _erdos_renyi(shapes: Sequence[torch.Size], kept: float) -> list[float]:
    """Keep in each layer a common factor times the sum of its sides, or all; the factor is found by bisection."""

    def counts(factor: float) -> list[float]:
        return [min(float(shape.numel()), factor * float(sum(shape))) for shape in shapes]

    low, high = 0.0, kept
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(counts(middle)) < kept else (low, middle)
    return counts(high)


STUDY = Study(
    paper="global_magnitude_pruning",
    question="When 95 of 100 weights must go, is it enough to drop the smallest of the whole network?",
    claim="Removing the smallest weights of the whole network costs less accuracy than the same share of each layer.",
    arms={
        "uniform": Arm("the same share of the smallest weights from each layer", _Plan(partial(_by_layer, _equal))),
        "global": Arm("the smallest weights of the whole network", _Plan(_whole)),
        "minimum": Arm(
            "as global, with a minimum in each layer: half of an equal part of the weights that are kept",
            _Plan(_whole, minimum=0.5),
        ),
        "erdos_renyi": Arm(
            "control: the smallest weights of each layer, by shares that the shapes of the layers give",
            _Plan(partial(_by_layer, _erdos_renyi)),
        ),
        "random": Arm("control: weights drawn at random from the whole network", _Plan(_at_random)),
        "small_dense": Arm(
            "control: a residual network whose width brings its number of parameters nearest to that of the others, "
            "trained as long in all; before fine-tuning it is untrained",
            _Plan(),
        ),
    },
    metrics={
        "accuracy": Metric.higher("test accuracy, 95% sparse", 0.01),
        "accuracy_sparser": Metric.higher("test accuracy, 98% sparse", 0.01),
        "accuracy_before": Metric.higher("test accuracy before fine-tuning, 80% sparse", 0.01),
        "multiplications": Metric.lower("multiplications, 95% sparse", 0.01, "fraction of the unpruned"),
    },
    headline="accuracy",
    tuned=(
        "the learning rate of fine-tuning, of the small dense network that of its whole training: 7 tries an arm and "
        "seed from one grid, by validation accuracy at 95% sparsity"
    ),
    limits=(
        "Small images, a small network and 120 steps of fine-tuning at the desk budget, without gradual pruning: "
        "nothing follows for large networks, for long fine-tuning or for scores other than magnitude. Widths are whole "
        "numbers, so that the small dense network may miss the number of parameters, which is told, by a third or more."
    ),
)


class _Finished(NamedTuple):
    trained: Trained
    pruning: GlobalMagnitudePruning


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Prune and fine-tune with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(100, 50, 50), desk=(600, 300, 890), gpu=(20_000, 5_000, 10_000))
    dense_steps, steps = setting.pick(smoke=(20, 10), desk=(240, 120), gpu=(8_000, 4_000))
    plan = arm.make

    def train(model: nn.Module, rate: float, steps: int, pruning: GlobalMagnitudePruning | None = None) -> Trained:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM, weight_decay=_DECAY)
        schedule = CosineAnnealingLR(optimizer, steps)
        with nullcontext() if pruning is None else pruning.zeros_kept(model, optimizer):
            return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule)

    def train_dense() -> dict[str, Tensor]:
        model = task.network(_default)
        train(model, _DENSE_RATE, dense_steps)
        return model.state_dict()

    dense = task.network(_default)
    dense.load_state_dict(setting.cached("dense", train_dense))

    def begin(sparsity: float) -> tuple[nn.Module, GlobalMagnitudePruning]:
        sizes = [part.weight.numel() for part in _layers(dense)]
        equal_part = (1 - sparsity) * sum(sizes) / len(sizes)
        pruning = GlobalMagnitudePruning(sparsity, round(plan.minimum * equal_part))
        if plan.prune is None:
            return _small_network(pruning.size(pruning(dense)), task), pruning
        return plan.prune(pruning, dense, setting.generator("method")), pruning

    def finish(sparsity: float, rate: float) -> _Finished:
        model, pruning = begin(sparsity)
        if plan.prune is None:
            return _Finished(train(model, rate, dense_steps + steps), pruning)
        return _Finished(train(model, rate, steps, pruning), pruning)

    tuned = tune(
        _RATES,
        lambda rate: finish(_SPARSITY, rate),
        lambda tried: tried.trained.validated.accuracy,
        better="higher",
    )
    (best, pruning), sparser = tuned.best, finish(_SPARSER, tuned.value)
    image = task.train.images[:1]
    return task.outcome(
        tuned,
        trained=best,
        metrics={
            "accuracy": best.tested.accuracy,
            "accuracy_sparser": sparser.trained.tested.accuracy,
            "accuracy_before": task.test(begin(_DENSER)[0]).accuracy,
            "multiplications": count_multiplications(best.model, image) / count_multiplications(dense, image),
        },
        made={"pruning": pruning, "pruning_sparser": sparser.pruning, "optimizer": best.optimizer},
        arguments={
            "accuracy_unpruned": task.test(dense).accuracy,
            "nonzero_parameters": pruning.size(best.model),
            "nonzero_parameters_sparser": pruning.size(sparser.trained.model),
            "nonzero_parameters_unpruned": pruning.size(dense),
            "bytes": pruning.stored_bytes(best.model),
            "bytes_unpruned": pruning.stored_bytes(dense),
            "weights_of_layers": _weights_of_layers(best.model),
            "weights_of_layers_sparser": _weights_of_layers(sparser.trained.model),
            "steps": steps,
            "steps_of_dense": dense_steps,
            "batch_size": _BATCH,
        },
    )


_default = partial(ResNet, width=8)


def _weights_of_layers(model: nn.Module) -> str:
    return " ".join(str(int(part.weight.count_nonzero())) for part in _layers(model))


def _small_network(budget: int, task: Classification) -> nn.Module:
    """Make the residual network whose number of parameters comes nearest to a budget."""

    def build(width: int) -> nn.Module:
        return task.setting.initialised(lambda: ResNet(task.shape, task.classes, width=width))

    def distance(width: int) -> int:
        return abs(sum(p.numel() for p in build(width).parameters()) - budget)

    width = 1
    while distance(width + 1) < distance(width):
        width += 1
    return build(width)
