"""What the studies of adversarial training share: a distribution to learn, small networks, and how samples are judged.

By default the distribution is a grid of narrow Gaussians in the plane, 5 x 5 unless a study asks for another side, of
which it is known where a sample belongs.
Of the user's images the classes are the modes, told by a classifier that is trained once a seed on the same images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from paperweight.data import gaussian_grid
from paperweight.loops import evaluating, fit_classifier
from paperweight.nets import MLP, LeNet
from paperweight.studies import Setting

__all__ = [
    "LATENT",
    "World",
    "judged",
    "judged_samples",
    "latent",
    "networks",
    "reverse_kl",
    "sliced_wasserstein",
    "world",
]

LATENT = 16
"""Number of latent variables."""

_SIDE = 5
_SCALE = 0.05
_CONFIDENCE = 0.9
_PIXELS = 120


@final
@dataclass(frozen=True)
class World:
    """A distribution to learn.

    Attributes:
        train: Samples to learn from, (N, C, H, W); points in the plane are (N, 1, 1, 2).
        test: Other samples of the same distribution, (M, C, H, W).
        modes: Number of modes.
        mode_of: Gives the mode of each of some samples, int64, (K,); -1 where a sample belongs to none.
    """

    train: Tensor
    test: Tensor
    modes: int
    mode_of: Callable[[Tensor], Tensor]


def world(setting: Setting, side: int = _SIDE) -> World:
    """Return the grid of side x side Gaussians, or the user's images, scaled to [-1, 1]."""
    if setting.data is None:
        draw = setting.generator("data")
        points, _ = gaussian_grid(
            setting.pick(smoke=1_000, desk=20_000, gpu=100_000), side, 1.0, _SCALE, generator=draw
        )
        others, _ = gaussian_grid(2_000, side, 1.0, _SCALE, generator=draw)
        train, test = (part.view(-1, 1, 1, 2).to(setting.device) for part in (points, others))
        return World(train, test, side**2, partial(_cell, side=side))
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=200, desk=1_200, gpu=40_000),
        validation=setting.pick(smoke=50, desk=100, gpu=1_000),
        test=setting.pick(smoke=50, desk=400, gpu=2_000),
        max_side=16,
    )
    train, test = 2 * data.train.images - 1, 2 * data.test.images - 1

    def classifier() -> nn.Module:
        return setting.initialised(lambda: LeNet(data.shape, len(data.classes)))

    def train_classifier() -> dict[str, Tensor]:
        model = classifier()
        fit_classifier(
            model,
            torch.optim.Adam(model.parameters(), lr=1e-3),
            train,
            data.train.labels,
            steps=setting.pick(smoke=50, desk=600, gpu=3_000),
            batch_size=64,
            generator=setting.generator("evaluation"),
        )
        return model.state_dict()

    judge = classifier()
    judge.load_state_dict(setting.cached("judge of samples", train_classifier))

    def class_of(samples: Tensor) -> Tensor:
        with evaluating(judge), torch.inference_mode():
            confidence, label = judge(samples).softmax(dim=1).max(dim=1)
        return label.where(confidence >= _CONFIDENCE, -1)

    return World(train, test, len(data.classes), class_of)


def _cell(points: Tensor, side: int) -> Tensor:
    """Give the number of the Gaussian within four of whose standard deviations a point lies, row by row, or -1."""
    x = points.flatten(1) + (side - 1) / 2
    centre = x.round().clamp(0, side - 1)
    near = (x - centre).norm(dim=1) <= 4 * _SCALE
    row, column = centre.long().unbind(dim=1)
    return (row * side + column).where(near, -1)


def networks(setting: Setting, shape: torch.Size, width: int = 128) -> tuple[nn.Module, nn.Module]:
    """Return a generator of samples (C, H, W) from `LATENT` variables, and a critic, with two hidden layers each."""

    def build() -> nn.ModuleList:
        c, h, w = shape
        model = nn.Sequential(MLP((1, 1, LATENT), c * h * w, hidden=(width, width)), nn.Unflatten(1, (c, h, w)))
        return nn.ModuleList([model, MLP((c, h, w), 1, hidden=(width, width))])

    model, critic = setting.initialised(build)
    return model, critic


def latent(device: torch.device) -> Callable[[int, torch.Generator], Tensor]:
    """Return what draws standard normal latent variables, (n, `LATENT`)."""

    def draw(n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, LATENT, generator=generator).to(device)

    return draw


@torch.no_grad()
def judged(model: nn.Module, world: World, setting: Setting) -> tuple[dict[str, float], Tensor]:
    """Judge a generator in eval mode by as many samples as there are test samples, the same latents for every arm.

    Returns:
        What `judged_samples` has of them.
    """
    draw = setting.generator("evaluation")
    with evaluating(model):
        samples = model(latent(setting.device)(len(world.test), draw))
    return judged_samples(samples, world, draw)


@torch.no_grad()
def judged_samples(samples: Tensor, world: World, generator: torch.Generator) -> tuple[dict[str, float], Tensor]:
    """Judge samples, as many as there are test samples; the generator draws the directions of `sliced_wasserstein`.

    Returns:
        ``covered``, the share of the modes that get at least a fifth of their due; ``on_modes``, the share of samples
        that belong to a mode; ``reverse_kl`` and ``distance`` as `reverse_kl` and `sliced_wasserstein` have them. And
        what to show in a report: 64 samples, or where samples are points, their density, as images in [0, 1].
    """
    count = len(world.test)
    modes = world.mode_of(samples)
    hits = torch.bincount(modes[modes >= 0], minlength=world.modes)
    metrics = {
        "covered": (hits >= count / world.modes / 5).double().mean().item(),
        "on_modes": (modes >= 0).double().mean().item(),
        "reverse_kl": reverse_kl(modes, world.modes),
        "distance": sliced_wasserstein(samples, world.test, generator),
    }
    return metrics, _picture(samples)


def _picture(samples: Tensor) -> Tensor:
    """Return 64 images, or of points the density on [-3, 3] x [-3, 3], in [0, 1], (N, C, H, W)."""
    if samples[0].numel() > 2:
        return (samples[:64].clamp(-1, 1) + 1) / 2
    cells = ((samples.view(-1, 2).clamp(-3, 3) + 3) * (_PIXELS / 6)).long().clamp(max=_PIXELS - 1)
    density = torch.zeros(_PIXELS, _PIXELS, device=samples.device)
    density.index_put_((cells[:, 1], cells[:, 0]), density.new_ones(len(cells)), accumulate=True)
    return (density / 3).clamp(max=1).view(1, 1, _PIXELS, _PIXELS)


def reverse_kl(modes: Tensor, count: int) -> float:
    """Give the divergence of how often samples hit the modes from equal frequency, in nats; infinite if none is hit.

    Args:
        modes: The mode of each sample, (N,); -1 for none, which is left out.
        count: Number of modes.

    Returns:
        Sum of q log(q count) over the modes, between 0 and log count.

    Example:
        >>> reverse_kl(torch.tensor([0, 0, 1, 1, -1]), 2), round(reverse_kl(torch.tensor([1, 1]), 2), 4)
        (0.0, 0.6931)
    """
    hits = torch.bincount(modes[modes >= 0], minlength=count).double()
    if hits.sum() == 0:
        return math.inf
    share = hits / hits.sum()
    return max(0.0, torch.xlogy(share, share * count).sum().item())


def sliced_wasserstein(first: Tensor, second: Tensor, generator: torch.Generator, directions: int = 200) -> float:
    """Give the mean first Wasserstein distance of two sets of samples along random directions of unit length.

    Args:
        first: Samples, (N, ...).
        second: Equally many samples, (N, ...).
        generator: Draws the directions.
        directions: Number of directions.

    Returns:
        The distance in the unit of the samples; 0 for the same set in any order.

    Raises:
        ValueError: If the two sets differ in shape.

    Example:
        >>> points = torch.arange(6.0).view(3, 2)
        >>> sliced_wasserstein(points, points.flip(0), torch.Generator().manual_seed(0))
        0.0
    """
    if first.shape != second.shape:
        raise ValueError(f"first and second must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
    normals = torch.randn(first[0].numel(), directions, generator=generator).to(first.device)
    axes = normals / normals.norm(dim=0)
    along = [(part.flatten(1) @ axes).sort(dim=0).values for part in (first, second)]
    return (along[0] - along[1]).abs().mean().item()
