"""Smoothing two halves of the pixels certifies larger radii than smoothing the whole image (Xia et al. 2024).

Classifiers are trained with Gaussian noise and certified with the same. Every arm has the same noise levels, a factor
of the square root of 2 apart, and takes the best by the average certified radius on validation images: at equal noise
the dual radius is larger by up to that factor, so that equal noise would compare different trade-offs. Every network
has the same architecture and number of training steps, so that the dual arm trains twice as long as the baseline, as in
the paper. Every arm has the same number of noisy copies of an image; the dual one gives half of them to each branch.
The headline is the average certified radius, in which an image that is wrong or not certified counts as 0.

What it can show: whether the split is worth half of the pixels. What it cannot: the curse of dimension itself, which is
weak for small images, and the paper's scale. An average radius not above the baseline's would refute the claim here.
There is a reason to doubt it: where each pixel has a twin in the other branch, plain smoothing with the square root of
2 times the noise, and a classifier of the twins' mean, certifies what dual smoothing does; and where it has none, a
branch lacks half of what is to be known. Controls that would take the credit: plain smoothing of two networks, or of
one that is trained twice as long; and a split into left and right halves, where a pixel's neighbours are in its own
branch, so that redundancy between the branches is not what counts. The radius is the sound one of the method file,
which is never larger than what the authors' code computes from the same probabilities.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages
from paperweight.loops import best_of, fit_classifier, loss_curve
from paperweight.nets import MLP, LeNet
from paperweight.robustness.dual_randomized_smoothing import (
    DualRandomizedSmoothing,
    RandomizedSmoothing,
    checkerboard,
    sub_image,
)
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="dual_randomized_smoothing",
    question="Does smoothing two halves of the pixels certify larger radii than smoothing the whole image?",
    claim="The average certified radius of dual randomized smoothing is larger than that of randomized smoothing.",
    arms={
        "randomized_smoothing": "one network that sees the whole image",
        "dual": "two networks, each sees every other pixel",
        "dual_sides": "control: as dual, one network sees the left half of the image, the other the right half",
        "ensemble": "control: plain smoothing of the mean probabilities of two networks that see the whole image",
        "longer": "control: the baseline trained twice as long, as long as the two networks of dual together",
    },
    metrics={
        "average_radius": Metric(
            label="average certified radius", unit="norm 2, pixels in [0, 1]", better="higher", minimal_effect=0.01
        ),
        "certified_near": Metric(label="certified accuracy at 0.25", unit="", better="higher", minimal_effect=0.02),
        "certified_far": Metric(label="certified accuracy at 0.5", unit="", better="higher", minimal_effect=0.02),
        "accuracy": Metric(label="accuracy of the votes", unit="", better="higher", minimal_effect=0.01),
    },
    headline="average_radius",
    tuned="the noise: 4 tries an arm and seed, by the average certified radius on validation images",
    limits=(
        "Small images and networks, and far fewer noisy copies than in the paper, which lowers the largest radius that "
        "can be certified. Networks train on pixels with noise alone; nothing follows for denoisers or for "
        "training that is made for smoothing."
    ),
)

_SIGMAS = (0.18, 0.25, 0.35, 0.5)
_RATE = 5e-3
_BATCH = 64
_CHOOSING = 100
_VOTES = 200
_ALPHA = 0.001


class _Try(NamedTuple):
    """What was trained with one level of noise."""

    sigma: float
    networks: list[nn.Module]
    losses: Tensor
    average_radius: float


def run(arm: str, setting: Setting) -> Outcome:
    """Train and certify at each level of noise; report what the best on validation images does on test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=800, gpu=20_000),
        validation=setting.pick(smoke=20, desk=40, gpu=500),
        test=setting.pick(smoke=20, desk=120, gpu=1_000),
        max_side=32,
    )
    steps = setting.pick(smoke=20, desk=200, gpu=8_000) * (2 if arm == "longer" else 1)
    copies = setting.pick(smoke=100, desk=1_000, gpu=20_000)
    dual = arm.startswith("dual")
    masks = _masks(arm, data.shape)

    def network(number: int) -> nn.Module:
        """Make a network, with other initial weights where it is the second."""
        default = setting.pick(smoke=_small, desk=_small, gpu=LeNet)
        made = setting.network(data.shape, len(data.classes), default=default)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init") + number)
            for part in made.modules() if number else ():
                if isinstance(part, (nn.Linear, nn.Conv2d)):
                    part.reset_parameters()
        return made

    def smoothed(
        networks: Sequence[nn.Module], sigma: float, generator: torch.Generator
    ) -> DualRandomizedSmoothing | RandomizedSmoothing:
        if dual:
            return DualRandomizedSmoothing(
                *networks, sigma=sigma, draws=_VOTES // 2, mask=masks[0], generator=generator
            )
        return RandomizedSmoothing(partial(_mean, networks), sigma=sigma, draws=_VOTES, generator=generator)

    def certify(
        networks: Sequence[nn.Module], sigma: float, part: LabelledImages, generator: torch.Generator
    ) -> Tensor:
        """Give the certified radii, 0 where the class is wrong."""
        share = 2 if dual else 1
        labels, radii = smoothed(networks, sigma, generator).certify(
            part.images, n0=_CHOOSING // share, n=copies // share, alpha=_ALPHA
        )
        return radii.where(labels == part.labels, 0)

    def attempt(sigma: float) -> _Try:
        batches = setting.generator("batches")
        networks: list[nn.Module] = []
        losses: list[Tensor] = []
        for number, mask in enumerate(masks):
            trained = network(number)
            losses.append(
                fit_classifier(
                    trained,
                    torch.optim.Adam(trained.parameters(), lr=_RATE, fused=True),
                    data.train.images,
                    data.train.labels,
                    steps=steps,
                    batch_size=_BATCH,
                    generator=batches,
                    augment=partial(_seen, mask, sigma),
                )
            )
            networks.append(trained.eval())
        radii = certify(networks, sigma, data.validation, setting.generator("method"))
        return _Try(sigma, networks, losses[0], radii.mean().item())

    tries = [attempt(sigma) for sigma in _SIGMAS]
    best = best_of(tries, lambda tried: tried.average_radius, better="higher")
    radii = certify(best.networks, best.sigma, data.test, setting.generator("evaluation"))
    votes = smoothed(best.networks, best.sigma, setting.generator("evaluation"))(data.test.images)
    correct = votes.argmax(dim=1) == data.test.labels
    noisy = _seen(torch.ones_like(masks[0]), best.sigma, data.test.images[:8], setting.generator("evaluation"))

    def certified_accuracy(radius: float) -> float:
        return (radii > radius).double().mean().item()

    return Outcome(
        metrics={
            "average_radius": radii.mean().item(),
            "certified_near": certified_accuracy(0.25),
            "certified_far": certified_accuracy(0.5),
            "accuracy": correct.double().mean().item(),
        },
        arguments={
            "sigma": best.sigma,
            "tries": len(tries),
            "networks": len(masks),
            "steps_a_network": steps,
            "copies_an_image": copies,
            "copies_that_choose": _CHOOSING,
            "alpha": _ALPHA,
            "largest_radius_found": radii.max().item(),
            "learning_rate": _RATE,
            "batch_size": _BATCH,
            "training_images": len(data.train),
            "validation_images": len(data.validation),
            "test_images": len(data.test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss of the first network, by step": loss_curve(best.losses),
            "certified accuracy, by radius": [(step / 20, certified_accuracy(step / 20)) for step in range(41)],
            "validation average radius, by sigma": [(tried.sigma, tried.average_radius) for tried in tries],
        },
        images={
            f"noisy images as network {number + 1} sees them": sub_image(noisy, mask).clamp(0, 1)
            for number, mask in enumerate(masks)
        },
        correct=correct,
    )


_small = partial(MLP, hidden=(64,))


def _masks(arm: str, shape: tuple[int, int, int]) -> tuple[Tensor, ...]:
    """Say which pixels each network of an arm sees."""
    _, height, width = shape
    whole = torch.ones(height, width, dtype=torch.bool)
    if not arm.startswith("dual"):
        return (whole, whole) if arm == "ensemble" else (whole,)
    first = whole & (torch.arange(width) < width // 2) if arm == "dual_sides" else checkerboard(height, width)
    return first, ~first


def _seen(mask: Tensor, sigma: float, images: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to images and keep the pixels in the mask."""
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return sub_image(images + sigma * noise, mask)


def _mean(networks: Sequence[nn.Module], images: Tensor) -> Tensor:
    """Compute the mean of the networks' probabilities."""
    return torch.stack([network(images).softmax(dim=1) for network in networks]).mean(0)
