"""Nearly orthogonal convolutions make a network more robust (Achour et al. 2021, after Wang et al. 2020).

A network of two convolutions with circular padding, as the theory wants it, and one linear layer learns characters at
half their size by AdamW; each arm has its own rate. The headline is the accuracy on images that projected gradient
ascent has moved by a length of 1, where images have about 14; accuracy on images as they are stands beside it.

What it can show: what the penalty is worth under such an attack, and what it costs without. An accuracy under attack
that is not higher than that of the network without it would refute the claim here. Ten times its weight shows the trade
that the authors describe. Two controls ask what it is due to: the same weight on the inner products of kernels alone,
without shifts, which is what is simpler; and on the squares of the kernels' entries, which only makes them small. What
it cannot: anything about deep networks, for which the authors made it, or about certified radii.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.architecture.orthogonal_convolution import OrthogonalityPenalty
from paperweight.data import Splits
from paperweight.loops import fit_classifier, tune, warmed_cosine
from paperweight.nets import halved
from paperweight.studies import ACCURACY, Arm, Metric, Outcome, Recipe, Setting, Study, Trained, classification
from paperweight.studies.architecture._nearby import evaluate_nearby

_RATES = (0.003, 0.01, 0.03, 0.1)
_WEIGHT = 0.01
_RADIUS = 1.0


def _kernels(model: nn.Module) -> list[Tensor]:
    return [module.weight for module in model.modules() if isinstance(module, nn.Conv2d)]


def _unshifted(model: nn.Module) -> Tensor:
    """Penalise inner products of kernels that are not shifted, of rows or columns, whichever are fewer."""
    flat = [kernel.flatten(1) for kernel in _kernels(model)]
    products = [rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows for rows in flat]
    errors = [product - torch.eye(len(product), device=product.device) for product in products]
    return _WEIGHT * torch.stack([error.square().sum() for error in errors]).sum()


def _squares(model: nn.Module) -> Tensor:
    return _WEIGHT * torch.stack([kernel.square().sum() for kernel in _kernels(model)]).sum()


def _holds_convolutions(model: nn.Module, data: Splits) -> str:
    return "" if _kernels(model) else "the network has no two-dimensional convolutions"


RECIPE = Recipe(
    words="a penalty of 0.01 on the inner products of shifted kernels, which keeps convolutions nearly orthogonal",
    line="penalty = OrthogonalityPenalty(0.01)  # loss = F.cross_entropy(logits, labels) + penalty(model)",
    penalty=OrthogonalityPenalty(_WEIGHT),
    fits=_holds_convolutions,
)

STUDY = Study(
    paper="orthogonal_convolution",
    question="Does a penalty that keeps convolutions nearly orthogonal make a classifier more robust?",
    claim="With nearly orthogonal convolutions a network tells more images rightly that were moved against it.",
    arms={
        "plain": Arm("the method with a weight of 0", OrthogonalityPenalty(0.0)),
        "orthogonal": Arm("the penalty with a weight of 0.01", OrthogonalityPenalty(_WEIGHT)),
        "stronger": Arm("the penalty with a weight of 0.1", OrthogonalityPenalty(10 * _WEIGHT)),
        "unshifted": Arm("control: inner products of kernels that are not shifted, with 0.01", _unshifted),
        "squares": Arm("control: squares of the kernels' entries, with 0.01", _squares),
    },
    metrics={
        "robust": Metric.higher("accuracy on test images moved by a length of 1", 0.02, "fraction"),
        "accuracy": ACCURACY,
        "loss_of_kernels": Metric.lower("orthogonality loss, mean of both layers", 0.1),
    },
    headline="robust",
    tuned="the learning rate, 4 tries an arm and seed, a factor of 3 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 2,000 to test on for every seed, a network of two convolutions and 800 updates at the "
        "desk budget: nothing follows for deep networks. The attack takes 10 steps from one start. The weight is not "
        "tuned: it was chosen of three on a trial seed. The last layer is not orthogonal in any arm."
    ),
    seeds=12,
)


class _Convolutions(nn.Sequential):
    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        parts: list[nn.Module] = []
        for channels in (shape[0], 8):
            convolution = nn.Conv2d(channels, 8, 3, padding=1, padding_mode="circular")
            parts += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*parts, nn.Flatten(), nn.Linear(8 * (shape[1] // 4) * (shape[2] // 4), classes))


def run(arm: Arm[Callable[[nn.Module], Tensor]], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images, moved and not."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(2_000, 1_000, 2_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=4, desk=800, gpu=8_000)
    test = task.data.test

    def train(rate: float) -> Trained:
        model = task.network(halved(_Convolutions))
        optimizer = AdamW(model.parameters(), lr=rate)
        losses = fit_classifier(
            model,
            optimizer,
            task.train.images,
            task.train.labels,
            steps=steps,
            batch_size=32,
            generator=setting.generator("batches"),
            loss=lambda logits, labels: nn.functional.cross_entropy(logits, labels) + arm.make(model),
            schedule=warmed_cosine(optimizer, steps),
        )
        return Trained(task.data, model, optimizer, losses, arguments={"steps": steps, "batch_size": 32})

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    model = tuned.best.model
    ascent = setting.pick(smoke=2, desk=10, gpu=20)
    robust = evaluate_nearby(model, test.images, test.labels, radius=_RADIUS, steps=ascent)
    return task.outcome(
        tuned,
        tested=robust,
        metrics={
            "robust": robust.accuracy,
            "accuracy": tuned.best.tested.accuracy,
            "loss_of_kernels": OrthogonalityPenalty(1.0)(model).item() / len(_kernels(model)),
        },
        made={"penalty": arm.make} if isinstance(arm.make, OrthogonalityPenalty) else {},
        curves={"accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
