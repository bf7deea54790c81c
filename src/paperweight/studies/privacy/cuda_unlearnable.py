"""Networks trained on images convolved with a secret filter a class fail on clean ones (Sadasivan et al. 2023).

An owner publishes images, and a learner trains a network on them. The headline is the learner's accuracy on clean test
images: the lower it is, the better the images are protected. The learner has only what was published, so that its
learning rate is chosen on validation images that are protected as the training images are. The filters have the paper's
side of 3 and entries up to 0.3, the 1 at a random place, as in the authors' code.

What it can show: whether a small network learns the filters in place of what the images show. What it cannot: large
images and networks. An accuracy not far below that on untouched images would refute the claim. A learner may know how
protection is made: the paper says that training on adversarial images does not undo it; a learner who filters every
image once more, each time with another random filter, is the control that would. Noise by class, small and additive, is
what was published before; filters with smaller entries tell how much of the change is needed. What
is learned where every other image is protected is told: a learner who also finds clean ones learns from these.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import channel_statistics, normalise
from paperweight.loops import Evaluation, best_of, evaluate_classifier, evaluating, index_batches, loss_curve, minimise
from paperweight.nets import LeNet
from paperweight.privacy.cuda_unlearnable import CUDATransform, class_filters
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="cuda_unlearnable",
    question="If I convolve my images with a secret filter for each class, can a network still learn from them?",
    claim="A network that is trained on the convolved images fails on clean ones, adversarial training included.",
    arms={
        "clean": "the images as they are",
        "cuda": "a filter for each class, entries up to 0.3",
        "cuda_weak": "a filter for each class, entries up to 0.1",
        "additive": "control: noise for each class, added, at most 8/255 in size",
        "cuda_adversarial": "as cuda; the learner trains on adversarial images, of radius 8/255 in the largest entry",
        "cuda_refiltered": "control: as cuda; the learner convolves each image with a new random filter in each step",
    },
    metrics={
        "accuracy": Metric(
            label="the learner's accuracy on clean images", unit="", better="lower", minimal_effect=0.05
        ),
        "accuracy_half": Metric(
            label="the same, half of the images protected", unit="", better="lower", minimal_effect=0.05
        ),
        "accuracy_protected": Metric(
            label="accuracy on test images with the filters of their classes",
            unit="",
            better="higher",
            minimal_effect=0.01,
        ),
    },
    headline="accuracy",
    tuned="the learning rate: 3 tries an arm and seed, by accuracy on validation images protected as for training",
    limits=(
        "Small images, a network of five layers and a few hundred steps. A protection that fails here may hold where "
        "classes are harder to tell than filters, and one that holds here may fail against a learner who looks longer."
    ),
)

_RATES = (0.002, 0.006, 0.02)
_BATCH = 32
_NOISE = 8 / 255
_PGD_STEPS = 3
_BLUR = 0.3


def run(arm: str, setting: Setting) -> Outcome:
    """Train on what was published with each rate; report what the best on such images does on clean ones."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=900, gpu=20_000),
        validation=setting.pick(smoke=50, desk=200, gpu=5_000),
        test=setting.pick(smoke=50, desk=690, gpu=10_000),
        max_side=32,
    )
    steps = setting.pick(smoke=10, desk=200, gpu=5_000)
    classes = len(data.classes)
    draw = setting.generator("method")
    protect = _protection(arm, data.shape, classes, draw)
    published, held_out, twins = (
        protect(part.images, part.labels) for part in (data.train, data.validation, data.test)
    )
    half = torch.arange(len(published), device=setting.device) % 2 == 0
    mixed = torch.where(half[:, None, None, None], published, data.train.images)

    def learn(images: Tensor, rate: float) -> tuple[nn.Module, Tensor]:
        statistics = channel_statistics(images)
        network = setting.network(data.shape, classes, default=LeNet)
        model = nn.Sequential(_Normalised(*statistics), network).to(setting.device)
        return model, _train(arm, model, images, data.train.labels, rate, steps, setting)

    def judged(model: nn.Module, images: Tensor, labels: Tensor) -> Evaluation:
        return evaluate_classifier(model, images, labels)

    tries = {rate: learn(published, rate) for rate in _RATES}
    rates = {rate: judged(model, held_out, data.validation.labels).accuracy for rate, (model, _) in tries.items()}
    rate = best_of(rates, rates.__getitem__, better="higher")
    model, losses = tries[rate]
    clean = judged(model, data.test.images, data.test.labels)
    shown = slice(0, 16)
    return Outcome(
        metrics={
            "accuracy": clean.accuracy,
            "accuracy_half": judged(learn(mixed, rate)[0], data.test.images, data.test.labels).accuracy,
            "accuracy_protected": judged(model, twins, data.test.labels).accuracy,
        },
        arguments={
            "learning_rate": rate,
            "tries": len(_RATES),
            "accuracy_on_published_validation_images": rates[rate],
            "mean_change_of_a_pixel": (published - data.train.images).abs().mean().item(),
            "steps": steps,
            "batch_size": _BATCH,
            "training_images": len(published),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "accuracy on published validation images, by log10 learning rate": [
                (math.log10(rate), value) for rate, value in rates.items()
            ],
        },
        images={"clean": data.train.images[shown], "published": published[shown]},
        correct=clean.correct,
    )


class _Normalised(nn.Module):
    """Normalises images by the statistics of those that were published."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        return normalise(images, self.mean, self.std)


def _protection(
    arm: str, shape: Iterable[int], classes: int, generator: torch.Generator
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what the owner does to images of some classes; the same at every call."""
    filters = class_filters(classes, blur=0.1 if arm == "cuda_weak" else _BLUR, generator=generator)
    noise = _NOISE * (2 * torch.rand(classes, *shape, generator=generator) - 1)
    transform = CUDATransform(filters)

    def protect(images: Tensor, labels: Tensor) -> Tensor:
        if arm == "clean":
            return images
        if arm == "additive":
            return (images + noise.to(images.device)[labels]).clamp(0, 1)
        return transform(images, labels)[0]

    return protect


def _train(
    arm: str, model: nn.Module, images: Tensor, labels: Tensor, rate: float, steps: int, setting: Setting
) -> Tensor:
    """Train as the arm's learner does; return the loss of every step."""
    draw = setting.generator("evaluation")
    refilter = partial(class_filters, blur=_BLUR, generator=draw)

    def loss(index: Tensor) -> Tensor:
        batch, target = images[index], labels[index]
        if arm == "cuda_refiltered":
            batch, _ = CUDATransform(refilter(len(batch)))(batch, torch.arange(len(batch), device=batch.device))
        if arm == "cuda_adversarial":
            batch = _adversarial(model, batch, target)
        return F.cross_entropy(model(batch), target)

    model.train()
    batches = index_batches(len(images), _BATCH, setting.generator("batches"), images.device)
    return minimise(loss, torch.optim.Adam(model.parameters(), lr=rate), batches, steps=steps)


def _adversarial(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Raise the loss within the ball, by steps of half of its radius."""
    changed = images
    with evaluating(model):
        for _ in range(_PGD_STEPS):
            given = changed.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(model(given), labels, reduction="sum"), given)
            moved = changed + _NOISE / 2 * slope.sign()
            changed = (images + (moved - images).clamp(-_NOISE, _NOISE)).clamp(0, 1)
    return changed.detach()
