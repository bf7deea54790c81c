"""Global magnitude pruning is as accurate as complex pruning, or more so, and needs none of it (Gupta et al. 2022).

A small residual network is trained once a seed; every arm removes the same number of its weights, 95 and 98 in 100, and
fine-tunes what is left equally long with fixed zeros, the learning-rate schedule begun anew, as in the paper. Each arm
has its own rate of fine-tuning, chosen on validation images at the first sparsity. The headline is test accuracy there.
Before fine-tuning all arms are near chance at these sparsities; what pruning alone costs is told at 80.

What it can show: whether one ranking of all weights beats the same share in every layer, on a network that is much too
large for its task. What it cannot: anything about ImageNet, or about the scores by gradients that the paper compares
with. An accuracy not above that of uniform pruning would refute the claim here. Controls that would take the credit: a
smaller dense network that is trained as long as the two trainings together; the shares of layers by the rule of
Erdos-Renyi kernels, which looks at shapes only; random weights, ranked as if they were magnitudes. A layer that is left
empty blocks the signal: there the minimum threshold should show, at the second sparsity more than at the first.
"""

import copy
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.compression.global_magnitude_pruning import GlobalMagnitudePruning
from paperweight.data import channel_statistics, normalise
from paperweight.loops import Evaluation, best_of, evaluate_classifier, evaluating, fit_classifier, loss_curve
from paperweight.nets import ResNet
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="global_magnitude_pruning",
    question="When 95 of 100 weights must go, is it enough to drop the smallest of the whole network?",
    claim="Removing the smallest weights of the whole network costs less accuracy than the same share of each layer.",
    arms={
        "uniform": "the same share of the smallest weights from each layer",
        "global": "the smallest weights of the whole network",
        "minimum": "as global, with a minimum in each layer: half of an equal part of the weights that are kept",
        "erdos_renyi": "control: the smallest weights of each layer, by shares that the shapes of the layers give",
        "random": "control: weights drawn at random from the whole network",
        "small_dense": "control: a residual network whose width brings its number of parameters nearest to that of the "
        "others, trained as long in all; before fine-tuning it is untrained",
    },
    metrics={
        "accuracy": Metric(label="test accuracy, 95% sparse", unit="", better="higher", minimal_effect=0.01),
        "accuracy_sparser": Metric(label="test accuracy, 98% sparse", unit="", better="higher", minimal_effect=0.01),
        "accuracy_before": Metric(
            label="test accuracy before fine-tuning, 80% sparse", unit="", better="higher", minimal_effect=0.01
        ),
        "multiplications": Metric(
            label="multiplications, 95% sparse", unit="fraction of the unpruned", better="lower", minimal_effect=0.01
        ),
    },
    headline="accuracy",
    tuned=(
        "the learning rate of fine-tuning, of the small dense network that of its whole training: 5 tries an arm and "
        "seed from one grid, by validation accuracy at 95% sparsity"
    ),
    limits=(
        "Small images, a small network and 120 steps of fine-tuning at the desk budget, without gradual pruning: "
        "nothing follows for large networks, for long fine-tuning or for scores other than magnitude. Widths are whole "
        "numbers, so that the small dense network may miss the number of parameters, which is told, by a third or more."
    ),
)

_SPARSITY = 0.95
_SPARSER = 0.98
_DENSER = 0.8
_DENSE_RATE = 0.1
_RATES = (0.02, 0.06, 0.2, 0.6, 1.8)
_MOMENTUM = 0.9
_DECAY = 5e-4
_BATCH = 32


def run(arm: str, setting: Setting) -> Outcome:
    """Prune and fine-tune with each rate; report what the best on validation images does on test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=600, gpu=20_000),
        validation=setting.pick(smoke=50, desk=300, gpu=5_000),
        test=setting.pick(smoke=50, desk=890, gpu=10_000),
        max_side=32,
    )
    dense_steps = setting.pick(smoke=20, desk=240, gpu=8_000)
    steps = setting.pick(smoke=10, desk=120, gpu=4_000)
    statistics = channel_statistics(data.train.images)
    images, validation, test = (
        normalise(part.images, *statistics) for part in (data.train, data.validation, data.test)
    )

    def train(model: nn.Module, rate: float, steps: int, pruning: GlobalMagnitudePruning | None = None) -> Tensor:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM, weight_decay=_DECAY)
        with nullcontext() if pruning is None else pruning.zeros_kept(model, optimizer):
            return fit_classifier(
                model,
                optimizer,
                images,
                data.train.labels,
                steps=steps,
                batch_size=_BATCH,
                generator=setting.generator("batches"),
                schedule=CosineAnnealingLR(optimizer, steps),
            )

    def unpruned() -> nn.Module:
        return setting.network(data.shape, len(data.classes), default=partial(ResNet, width=8))

    def train_dense() -> dict[str, Tensor]:
        model = unpruned()
        train(model, _DENSE_RATE, dense_steps)
        return model.state_dict()

    dense = unpruned()
    dense.load_state_dict(setting.cached("dense", train_dense))

    def begin(sparsity: float) -> nn.Module:
        if arm == "small_dense":
            pruning = GlobalMagnitudePruning(sparsity)
            return _small_network(pruning.size(pruning(dense)), data.shape, len(data.classes), setting)
        return _prune(arm, dense, sparsity, setting.generator("method"))

    def finish(sparsity: float, rate: float) -> tuple[nn.Module, Tensor]:
        model = begin(sparsity)
        if arm == "small_dense":
            return model, train(model, rate, dense_steps + steps)
        return model, train(model, rate, steps, GlobalMagnitudePruning(sparsity))

    tries: dict[float, tuple[float, nn.Module, Tensor]] = {}
    for rate in _RATES:
        model, losses = finish(_SPARSITY, rate)
        tries[rate] = (evaluate_classifier(model, validation, data.validation.labels).accuracy, model, losses)
    rate = best_of(tries, lambda rate: tries[rate][0], better="higher")
    _, model, losses = tries[rate]
    sparser, _ = finish(_SPARSER, rate)

    def tested(model: nn.Module) -> Evaluation:
        return evaluate_classifier(model, test, data.test.labels)

    final = tested(model)
    return Outcome(
        metrics={
            "accuracy": final.accuracy,
            "accuracy_sparser": tested(sparser).accuracy,
            "accuracy_before": tested(begin(_DENSER)).accuracy,
            "multiplications": _multiplications(model, images[:1]) / _multiplications(dense, images[:1]),
        },
        arguments={
            "learning_rate": rate,
            "tries": len(_RATES),
            "accuracy_unpruned": tested(dense).accuracy,
            "nonzero_parameters": GlobalMagnitudePruning().size(model),
            "nonzero_parameters_sparser": GlobalMagnitudePruning().size(sparser),
            "nonzero_parameters_unpruned": GlobalMagnitudePruning().size(dense),
            "bytes": GlobalMagnitudePruning().stored_bytes(model),
            "bytes_unpruned": GlobalMagnitudePruning().stored_bytes(dense),
            "weights_of_layers": " ".join(str(int(part.weight.count_nonzero())) for part in _layers(model)),
            "weights_of_layers_sparser": " ".join(str(int(part.weight.count_nonzero())) for part in _layers(sparser)),
            "steps": steps,
            "steps_of_dense": dense_steps,
            "batch_size": _BATCH,
            "training_images": len(data.train),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "validation accuracy, by learning rate": [(rate, accuracy) for rate, (accuracy, *_) in tries.items()],
        },
        correct=final.correct,
    )


def _layers(model: nn.Module) -> list[nn.Linear | nn.Conv2d]:
    return [part for part in model.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]


def _prune(arm: str, dense: nn.Module, sparsity: float, generator: torch.Generator) -> nn.Module:
    """Prune a copy of the dense network as the arm does."""
    sizes = [part.weight.numel() for part in _layers(dense)]
    kept = (1 - sparsity) * sum(sizes)
    if arm == "global":
        return GlobalMagnitudePruning(sparsity)(dense)
    if arm == "minimum":
        return GlobalMagnitudePruning(sparsity, round(kept / (2 * len(sizes))))(dense)
    if arm == "random":
        return _pruned_at_random(dense, sparsity, generator)
    counts = [size * kept / sum(sizes) for size in sizes]
    if arm == "erdos_renyi":
        counts = _erdos_renyi([tuple(part.weight.shape) for part in _layers(dense)], kept)
    pruned = copy.deepcopy(dense)
    with torch.no_grad():
        for part, size, count in zip(_layers(pruned), sizes, counts, strict=True):
            part.weight.copy_(GlobalMagnitudePruning(1 - count / size)(part).weight)
    return pruned


@torch.no_grad()
def _pruned_at_random(dense: nn.Module, sparsity: float, generator: torch.Generator) -> nn.Module:
    pruned, drawn = copy.deepcopy(dense), copy.deepcopy(dense)
    for part in _layers(drawn):
        part.weight.copy_(1 - torch.rand(part.weight.shape, generator=generator))
    for part, chosen in zip(_layers(pruned), _layers(GlobalMagnitudePruning(sparsity)(drawn)), strict=True):
        part.weight.masked_fill_(chosen.weight == 0, 0)
    return pruned


def _erdos_renyi(shapes: Iterable[tuple[int, ...]], kept: float) -> list[float]:
    """Keep in each layer a common factor times the sum of its sides, or all; the factor is found by bisection."""
    sides = [(float(sum(shape)), float(torch.Size(shape).numel())) for shape in shapes]

    def counts(factor: float) -> list[float]:
        return [min(size, factor * total) for total, size in sides]

    low, high = 0.0, kept
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(counts(middle)) < kept else (low, middle)
    return counts(high)


def _small_network(budget: int, shape: tuple[int, int, int], classes: int, setting: Setting) -> nn.Module:
    """Make the residual network whose number of parameters comes nearest to a budget."""

    def build(width: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init"))
            return ResNet(shape, classes, width=width)

    def distance(width: int) -> int:
        return abs(sum(p.numel() for p in build(width).parameters()) - budget)

    width = 1
    while distance(width + 1) < distance(width):
        width += 1
    return build(width).to(setting.device)


def _multiplications(model: nn.Module, image: Tensor) -> int:
    """Count the multiplications by weights other than 0 for one image, those with padding included."""
    count = 0

    def add(part: nn.Module, _: object, output: Tensor) -> None:
        nonlocal count
        weight = part.get_parameter("weight")
        count += output.numel() // len(weight) * int(weight.count_nonzero())

    handles = [part.register_forward_hook(add) for part in _layers(model)]
    with evaluating(model), torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return count
