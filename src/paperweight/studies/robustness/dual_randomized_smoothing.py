"""Smoothing two halves of the pixels certifies larger radii than smoothing the whole image (Xia et al. 2024).

Classifiers are trained with Gaussian noise and certified with the same. Every arm has the same noise levels, a factor
of the square root of 2 apart, and takes the best by the average certified radius on validation images: at equal noise
the dual radius is larger by up to that factor, so that equal noise would compare different trade-offs. Every network
has the same architecture and number of training steps, so that the dual arm trains twice as long as the baseline, as in
the paper. Every arm has the same number of noisy copies of an image; the dual one gives half of them to each branch.
The headline is the average certified radius, in which an image that is wrong or not certified counts as 0. The default
data are characters of 28 x 28 pixels that are little disturbed, of a fifth of the difficulty that glyphs can have: what
is hard without noise leaves no radius to compare.

What it can show: whether the split is worth half of the pixels. What it cannot: the curse of dimension itself, which is
weak for small images, and the paper's scale. An average radius not above the baseline's would refute the claim here.
There is a reason to doubt it: where each pixel has a twin in the other branch, plain smoothing with the square root of
2 times the noise, and a classifier of the twins' mean, certifies what dual smoothing does; and where it has none, a
branch lacks half of what is to be known. As large a radius by plain smoothing of two networks, or of one that is
trained twice as long, would show that the split is not needed for it; as large a one by a split into left and right
halves, where a pixel's neighbours are in its own branch, that redundancy between the branches is not what counts. The
radius is that of the method file, which is also that of the authors' scripts for ImageNet.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages
from paperweight.loops import fit_classifier, loss_curve, tune
from paperweight.nets import MLP, LeNet
from paperweight.robustness.dual_randomized_smoothing import (
    DualRandomizedSmoothing,
    RandomizedSmoothing,
    checkerboard,
    sub_image,
)
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification

_SIGMAS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
_RATE = 2e-3
_BATCH = 64
_CHOOSING = 100
_VOTES = 200
_ALPHA = 0.001


class _Plan(NamedTuple):
    """Which pixels each network sees, by height and width; whether each votes; times as many training steps."""

    masks: Callable[[int, int], tuple[Tensor, ...]]
    dual: bool = False
    times: int = 1


def _whole(height: int, width: int) -> tuple[Tensor, ...]:
    return (torch.ones(height, width, dtype=torch.bool),)


def _whole_twice(height: int, width: int) -> tuple[Tensor, ...]:
    return _whole(height, width) * 2


def _every_other(height: int, width: int) -> tuple[Tensor, ...]:
    first = checkerboard(height, width)
    return first, ~first


def _sides(height: int, width: int) -> tuple[Tensor, ...]:
    left = (torch.arange(width) < width // 2).repeat(height, 1)
    return left, ~left


STUDY = Study(
    paper="dual_randomized_smoothing",
    question="Does smoothing two halves of the pixels certify larger radii than smoothing the whole image?",
    claim="The average certified radius of dual randomized smoothing is larger than that of randomized smoothing.",
    arms={
        "randomized_smoothing": Arm("one network that sees the whole image", _Plan(_whole)),
        "dual": Arm("two networks, each sees every other pixel", _Plan(_every_other, dual=True)),
        "dual_sides": Arm(
            "control: as dual, one network sees the left half of the image, the other the right half",
            _Plan(_sides, dual=True),
        ),
        "ensemble": Arm(
            "control: plain smoothing of the mean probabilities of two networks that see the whole image",
            _Plan(_whole_twice),
        ),
        "longer": Arm(
            "control: the baseline trained twice as long, as long as the two networks of dual together",
            _Plan(_whole, times=2),
        ),
    },
    metrics={
        "average_radius": Metric.higher("average certified radius", 0.01, "norm 2, pixels in [0, 1]"),
        "certified_near": Metric.higher("certified accuracy at 0.25", 0.02),
        "certified_far": Metric.higher("certified accuracy at 0.5", 0.02),
        "accuracy": Metric.higher("accuracy of the votes", 0.01),
    },
    headline="average_radius",
    tuned="the noise: 6 tries an arm and seed, by the average certified radius on validation images",
    limits=(
        "Small images and networks, and far fewer noisy copies than in the paper, which lowers the largest radius that "
        "can be certified. Networks train on pixels with noise alone; nothing follows for denoisers or for "
        "training that is made for smoothing."
    ),
    seeds=10,
)


class _Trained(NamedTuple):
    sigma: float
    networks: list[nn.Module]
    losses: Tensor
    optimizer: torch.optim.Optimizer


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train and certify at each level of noise; report what the best on validation images does on test images."""
    task = classification(
        setting,
        smoke=(50, 10, 10),
        desk=(4_000, 80, 300),
        gpu=(20_000, 500, 1_000),
        default="glyphs-20",
        normalised=False,
    )
    steps = setting.pick(smoke=8, desk=200, gpu=8_000) * arm.make.times
    copies = setting.pick(smoke=40, desk=1_000, gpu=20_000)
    default = setting.pick(smoke=_small, desk=_small, gpu=LeNet)
    masks = arm.make.masks(*task.shape[1:])
    share = 2 if arm.make.dual else 1
    test = task.data.test

    def network(number: int) -> nn.Module:
        """Make a network, with other initial weights where it is the second."""
        made = task.network(default)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init") + number)
            for part in made.modules() if number else ():
                if isinstance(part, (nn.Linear, nn.Conv2d)):
                    part.reset_parameters()
        return made

    def smoothed(tried: _Trained, generator: torch.Generator) -> DualRandomizedSmoothing | RandomizedSmoothing:
        if arm.make.dual:
            return DualRandomizedSmoothing(
                *tried.networks, sigma=tried.sigma, draws=_VOTES // 2, mask=masks[0], generator=generator
            )
        mean = partial(_mean, tried.networks)
        return RandomizedSmoothing(mean, sigma=tried.sigma, draws=_VOTES, generator=generator)

    def certify(tried: _Trained, part: LabelledImages, generator: torch.Generator) -> Tensor:
        """Give the certified radii, 0 where the class is wrong."""
        labels, radii = smoothed(tried, generator).certify(
            part.images, n0=_CHOOSING // share, n=copies // share, alpha=_ALPHA
        )
        return radii.where(labels == part.labels, 0)

    def train(sigma: float) -> _Trained:
        batches = setting.generator("batches")
        networks = [network(number) for number in range(len(masks))]
        optimizers = [torch.optim.Adam(trained.parameters(), lr=_RATE, fused=True) for trained in networks]
        losses = [
            fit_classifier(
                trained,
                optimizer,
                task.train.images,
                task.train.labels,
                steps=steps,
                batch_size=_BATCH,
                generator=batches,
                augment=partial(_seen, mask, sigma),
            )
            for trained, optimizer, mask in zip(networks, optimizers, masks, strict=True)
        ]
        return _Trained(sigma, [trained.eval() for trained in networks], losses[0], optimizers[0])

    tuned = tune(
        _SIGMAS,
        train,
        lambda tried: certify(tried, task.data.validation, setting.generator("method")).mean().item(),
        better="higher",
    )
    best = tuned.best
    radii = certify(best, test, setting.generator("evaluation"))
    smoothing = smoothed(best, setting.generator("evaluation"))
    correct = smoothing(test.images).argmax(dim=1) == test.labels
    noisy = _seen(torch.ones_like(masks[0]), best.sigma, test.images[:8], setting.generator("evaluation"))

    def certified_accuracy(radius: float) -> float:
        return (radii > radius).double().mean().item()

    return Outcome(
        metrics={
            "average_radius": radii.mean().item(),
            "certified_near": certified_accuracy(0.25),
            "certified_far": certified_accuracy(0.5),
            "accuracy": correct.double().mean().item(),
        },
        made={"smoothing": smoothing, "optimizer": best.optimizer},
        tuned={"sigma": tuned},
        arguments={
            "networks": len(masks),
            "steps_a_network": steps,
            "copies_an_image": copies,
            "copies_that_choose": _CHOOSING,
            "alpha": _ALPHA,
            "largest_radius_found": radii.max().item(),
            "batch_size": _BATCH,
            "training_images": len(task.train),
            "validation_images": len(task.data.validation),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        curves={
            "training loss of the first network, by step": loss_curve(best.losses),
            "certified accuracy, by radius": [(step / 20, certified_accuracy(step / 20)) for step in range(41)],
        },
        images={
            f"noisy images as network {number + 1} sees them": sub_image(noisy, mask).clamp(0, 1)
            for number, mask in enumerate(masks)
        },
        correct=correct,
    )


_small = partial(MLP, hidden=(128,))


def _seen(mask: Tensor, sigma: float, images: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to images and keep the pixels in the mask."""
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return sub_image(images + sigma * noise, mask)


def _mean(networks: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Compute the mean of the networks' probabilities."""
    return torch.stack([network(images).softmax(dim=1) for network in networks]).mean(0)
