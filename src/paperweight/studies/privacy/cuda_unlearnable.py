"""Networks trained on images convolved with a secret filter a class fail on clean ones (Sadasivan et al. 2023).

An owner publishes images, and a learner trains a network on them. The headline is the learner's accuracy on clean test
images: the lower it is, the better the images are protected. The learner has only what was published, so that its
learning rate is chosen on validation images that are protected as the training images are. The filters have the paper's
side of 3 and entries up to 0.3, the 1 at a random place, as in the authors' code. The default data are characters of
28 x 28 pixels, which a filter of side 3 shifts by no more than one pixel.

What it can show: whether a small network learns the filters in place of what the images show. What it cannot: large
images and networks. An accuracy not below that on untouched images would refute the claim. Test images that are not
filtered differ from what was trained on, whatever the filters tell: one filter shared by all classes carries no
information on these, and what it takes from the accuracy is not due to a filter a class. A learner may know how
protection is made: the paper says that training on adversarial images does not undo it, which is to be read beside
such training on untouched images; a learner who filters every image once more, each time with another random filter,
is the control that would. Noise by class, small and additive, is what was published before; filters with smaller
entries tell how much of the change is needed. What is learned where every other image is protected is told: a learner
who also finds clean ones learns from these.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import channel_statistics, normalise
from paperweight.loops import evaluate_classifier, index_batches, minimise, tune
from paperweight.nets import LeNet, evaluating
from paperweight.privacy.cuda_unlearnable import CUDATransform, class_filters
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, Trained, classification

_RATES = (0.0003, 0.001, 0.0035, 0.012)
_BATCH = 32
_NOISE = 8 / 255
_PGD_STEPS = 3
_BLUR = 0.3


@final
class _Additive:
    """Adds a noise for each class, (classes, C, H, W)."""

    def __init__(self, noise: Tensor) -> None:
        self.noise = noise

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return (images + self.noise.to(images.device)[labels]).clamp(0, 1), labels


def _as_published(_: nn.Module, images: Tensor, *__: object) -> Tensor:
    return images


def _refiltered(_: nn.Module, images: Tensor, __: Tensor, generator: torch.Generator) -> Tensor:
    """Convolve each image with a filter of its own."""
    filters = class_filters(len(images), blur=_BLUR, generator=generator)
    return CUDATransform(filters)(images, torch.arange(len(images), device=images.device))[0]


def _adversarial(model: nn.Module, images: Tensor, labels: Tensor, __: torch.Generator) -> Tensor:
    """Raise the loss within the ball, by steps of half of its radius."""
    changed = images
    with evaluating(model):
        for _ in range(_PGD_STEPS):
            given = changed.detach().requires_grad_()
            (slope,) = torch.autograd.grad(F.cross_entropy(model(given), labels, reduction="sum"), given)
            moved = changed + _NOISE / 2 * slope.sign()
            changed = (images + (moved - images).clamp(-_NOISE, _NOISE)).clamp(0, 1)
    return changed.detach()


class _Plan(NamedTuple):
    """What the owner makes of filters and noise, and on what the learner trains in place of a published batch."""

    protection: Callable[[Tensor, Tensor], CUDATransform | _Additive]
    blur: float = _BLUR
    learner: Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor] = _as_published


def _untouched(filters: Tensor, _: Tensor) -> CUDATransform:
    return CUDATransform(filters, fraction=0.0)


def _cuda(filters: Tensor, _: Tensor) -> CUDATransform:
    return CUDATransform(filters)


def _shared(filters: Tensor, _: Tensor) -> CUDATransform:
    return CUDATransform(filters[:1].expand_as(filters))


STUDY = Study(
    paper="cuda_unlearnable",
    question="If I convolve my images with a secret filter for each class, can a network still learn from them?",
    claim="A network that is trained on the convolved images is less accurate on clean ones than one trained on these.",
    arms={
        "clean": Arm("the images as they are", _Plan(_untouched)),
        "cuda": Arm("a filter for each class, entries up to 0.3", _Plan(_cuda)),
        "cuda_shared": Arm("control: one filter shared by all classes, entries up to 0.3", _Plan(_shared)),
        "cuda_weak": Arm("a filter for each class, entries up to 0.1", _Plan(_cuda, blur=0.1)),
        "additive": Arm(
            "control: noise for each class, added, at most 8/255 in size", _Plan(lambda _, noise: _Additive(noise))
        ),
        "cuda_adversarial": Arm(
            "as cuda; the learner trains on adversarial images, of radius 8/255 in the largest entry",
            _Plan(_cuda, learner=_adversarial),
        ),
        "clean_adversarial": Arm(
            "control: as clean; the learner trains on such adversarial images", _Plan(_untouched, learner=_adversarial)
        ),
        "cuda_refiltered": Arm(
            "control: as cuda; the learner convolves each image with a new random filter in each step",
            _Plan(_cuda, learner=_refiltered),
        ),
    },
    metrics={
        "accuracy": Metric.lower("the learner's accuracy on clean images", 0.05),
        "accuracy_half": Metric.lower("the same, half of the images protected", 0.05),
        "accuracy_protected": Metric.higher("accuracy on test images with the filters of their classes", 0.01),
    },
    headline="accuracy",
    tuned="the learning rate: 4 tries an arm and seed, by accuracy on validation images protected as for training",
    limits=(
        "Small images, a network of five layers and a few hundred steps. A protection that fails here may hold where "
        "classes are harder to tell than filters, and one that holds here may fail against a learner who looks longer. "
        "A loss of accuracy is no failure to learn: how much is left stands in the numbers. The share of the loss that "
        "one filter for all classes brings as well is not due to what the filters tell."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train on what was published with each rate; report what the best on such images does on clean ones."""
    task = classification(
        setting,
        smoke=(100, 50, 50),
        desk=(2_000, 500, 1_000),
        gpu=(20_000, 5_000, 10_000),
        default="glyphs",
        normalised=False,
    )
    steps = setting.pick(smoke=10, desk=250, gpu=5_000)
    draw, owners_filters = setting.generator("method"), partial(class_filters, task.classes, blur=arm.make.blur)
    filters = owners_filters(generator=draw)
    noise = _NOISE * (2 * torch.rand(task.classes, *task.shape, generator=draw) - 1)
    protection = arm.make.protection(filters, noise)
    published, held_out, twins = (
        protection(part.images, part.labels)[0] for part in (task.train, task.data.validation, task.data.test)
    )
    half = torch.arange(len(published), device=setting.device) % 2 == 0
    mixed = torch.where(half[:, None, None, None], published, task.train.images)

    def learn(images: Tensor, rate: float) -> Trained:
        model = nn.Sequential(_Normalised(*channel_statistics(images)), task.network(LeNet)).to(setting.device)
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        draw = setting.generator("evaluation")

        def loss(index: Tensor) -> Tensor:
            labels = task.train.labels[index]
            return F.cross_entropy(model(arm.make.learner(model, images[index], labels, draw)), labels)

        model.train()
        batches = index_batches(len(images), _BATCH, setting.generator("batches"), images.device)
        return Trained(task.data, model, optimizer, minimise(loss, optimizer, batches, steps=steps))

    tuned = tune(
        _RATES,
        partial(learn, published),
        lambda tried: evaluate_classifier(tried.model, held_out, task.data.validation.labels).accuracy,
        better="higher",
    )
    best, clean = tuned.best, tuned.best.tested
    return task.outcome(
        tuned,
        metrics={
            "accuracy": clean.accuracy,
            "accuracy_half": task.test(learn(mixed, tuned.value).model).accuracy,
            "accuracy_protected": evaluate_classifier(best.model, twins, task.data.test.labels).accuracy,
        },
        made={
            "protection": protection,
            **({"filters": owners_filters} if isinstance(protection, CUDATransform) else {}),
        },
        arguments={
            "accuracy_on_published_validation_images": tuned.scores[tuned.value],
            "mean_change_of_a_pixel": (published - task.train.images).abs().mean().item(),
            "steps": steps,
            "batch_size": _BATCH,
        },
        images={"clean": task.train.images[:16], "published": published[:16]},
    )


@final
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
