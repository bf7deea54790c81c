"""A distribution whose modes are known, and how samples of it are judged.

By default it is a grid of narrow Gaussians in the plane, 3 x 3 or on a GPU 5 x 5, of which it is known where a sample
belongs. Of the user's images the classes are the modes, told by a classifier that is trained once a seed on the same
images.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages, gaussian_grid
from paperweight.loops import Tuned, tune
from paperweight.nets import evaluating
from paperweight.studies import Metric, Setting
from paperweight.studies.gan._generation import Game, Generation, Trained, trained_classifier

__all__ = [
    "COVERED",
    "DISTANCE",
    "ON_MODES",
    "World",
    "fourier_features",
    "misplaced",
    "mixture",
    "reverse_kl",
    "sliced_wasserstein",
    "world",
]

COVERED = Metric.higher("modes covered", 0.02, "fraction")
ON_MODES = Metric.higher("samples on a mode", 0.05, "fraction")
DISTANCE = Metric.lower("sliced Wasserstein distance", 0.01)

_SCALE = 0.05
_CONFIDENCE = 0.9


@final
@dataclass(frozen=True, eq=False)
class World:
    """A distribution to learn.

    Attributes:
        task: Its samples, points in the plane as (N, 1, 1, 2), images scaled to [-1, 1]; those to tune on are taken
            from the training data, and nothing is trained on them.
        modes: Number of modes.
        mode_of: Gives the mode of each of some samples, int64, (K,); -1 where a sample belongs to none.
    """

    task: Generation
    modes: int
    mode_of: Callable[[Tensor], Tensor]

    def tuned(self, game: Game, rates: Sequence[float], updates: int, decay: float | None = None) -> Tuned[Trained]:
        """Play a game with each rate and choose the generator that comes closest to validation data.

        Args:
            game: The game.
            rates: The learning rates to try.
            updates: Number of updates of both networks together.
            decay: Weight of the past where the generator is that of averaged weights.
        """
        return tune(
            rates,
            lambda rate: self.task.fit(game, rate, updates=updates, decay=decay),
            lambda trained: self.distance(trained.model),
            better="lower",
        )

    def distance(self, model: nn.Module) -> float:
        """Give the distance of a generator's samples to validation data, the same latents for every arm."""
        draw = self.task.setting.generator("evaluation")
        samples = self.task.sample(model, len(self.task.validation), draw)
        return sliced_wasserstein(samples, self.task.validation, draw)

    def judge_model(self, model: nn.Module) -> tuple[dict[str, float], Tensor]:
        """Judge as many samples of a generator as there are test samples, the same latents for every arm.

        Returns:
            What `judge` has of them, and the samples.
        """
        draw = self.task.setting.generator("evaluation")
        samples = self.task.sample(model, len(self.task.test), draw)
        return self.judge(samples, draw), samples

    def judge(self, samples: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Judge samples, as many as there are test samples; the generator draws the directions of the distance.

        Returns:
            ``covered``, the share of the modes that get at least a fifth of their due; ``on_modes``, the share of
            samples that belong to a mode; ``reverse_kl`` and ``distance`` as `reverse_kl` and `sliced_wasserstein`
            have them.
        """
        count = len(samples)
        modes = self.mode_of(samples)
        hits = torch.bincount(modes[modes >= 0], minlength=self.modes)
        return {
            "covered": (hits >= count / self.modes / 5).double().mean().item(),
            "on_modes": (modes >= 0).double().mean().item(),
            "reverse_kl": reverse_kl(modes, self.modes),
            "distance": sliced_wasserstein(samples, self.task.test, generator),
        }


def world(setting: Setting, most: int | None = None, batch_size: int = 64) -> World:
    """Return the grid of Gaussians, or the user's images, and what to do with them.

    Args:
        setting: The setting of the run.
        most: Largest number of samples to tune on; in any case at most a tenth of the training data and as many as
            there are test data.
        batch_size: Samples a batch.
    """
    width = setting.pick(smoke=16, desk=64, gpu=256)

    def task(train: Tensor, test: Tensor) -> Generation:
        held_out = min(len(train) // 10, len(test), len(test) if most is None else most)
        return Generation(setting, train[held_out:], train[:held_out], test, width, batch_size)

    if setting.data is None:
        draw, side = setting.generator("data"), setting.pick(smoke=3, desk=3, gpu=5)
        points, _ = gaussian_grid(
            setting.pick(smoke=1_000, desk=20_000, gpu=100_000), side, 1.0, _SCALE, generator=draw
        )
        others, _ = gaussian_grid(2_000, side, 1.0, _SCALE, generator=draw)
        train, test = (part.view(-1, 1, 1, 2).to(setting.device) for part in (points, others))
        return World(task(train, test), side**2, partial(_cell, side=side))
    train, validation, test = setting.pick(smoke=(200, 50, 50), desk=(1_200, 100, 400), gpu=(40_000, 1_000, 2_000))
    data = setting.images(default="digits", train=train, validation=validation, test=test, max_side=16)
    shown = LabelledImages(2 * data.train.images - 1, data.train.labels)
    judge = trained_classifier(setting, shown, len(data.classes), gpu_steps=3_000)

    def class_of(samples: Tensor) -> Tensor:
        with evaluating(judge), torch.inference_mode():
            confidence, label = judge(samples).softmax(dim=1).max(dim=1)
        return label.where(confidence >= _CONFIDENCE, -1)

    return World(task(shown.images, 2 * data.test.images - 1), len(data.classes), class_of)


def mixture(setting: Setting, *, modes: int, dimensions: int, scale: float, batch_size: int) -> World:
    """Return Gaussians around standard normal centres of the seed, or the user's images, and what to do with them.

    Args:
        setting: The setting of the run.
        modes: Number of Gaussians, equally likely.
        dimensions: Number of dimensions.
        scale: Standard deviation of each in each dimension.
        batch_size: Samples a batch.
    """
    if setting.data is not None:
        return world(setting, batch_size=batch_size)
    draw = setting.generator("data")
    centres = torch.randn(modes, dimensions, generator=draw)

    def samples(count: int) -> Tensor:
        places = centres[torch.randint(modes, (count,), generator=draw)]
        points = places + scale * torch.randn(places.shape, generator=draw)
        return points.view(-1, 1, 1, dimensions).to(setting.device)

    def mode_of(points: Tensor) -> Tensor:
        distance, mode = torch.cdist(points.flatten(1), centres.to(points.device)).min(dim=1)
        return mode.where(distance <= 4 * scale * math.sqrt(dimensions / 2), -1)

    train = samples(setting.pick(smoke=1_000, desk=20_000, gpu=100_000))
    task = Generation(
        setting, train, samples(2_000), samples(2_000), setting.pick(smoke=16, desk=64, gpu=256), batch_size
    )
    return World(task, modes, mode_of)


def _cell(points: Tensor, side: int) -> Tensor:
    """Give the number of the Gaussian within four of whose standard deviations a point lies, row by row, or -1."""
    x = points.flatten(1) + (side - 1) / 2
    centre = x.round().clamp(0, side - 1)
    near = (x - centre).norm(dim=1) <= 4 * _SCALE
    row, column = centre.long().unbind(dim=1)
    return (row * side + column).where(near, -1)


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


def misplaced(modes: Tensor, count: int) -> float:
    """Give the share of samples that would have to move for each mode to have equally many.

    Args:
        modes: The mode of each sample, (N,); -1 for none.
        count: Number of modes.

    Example:
        >>> misplaced(torch.tensor([0, 0, 1, 1]), 2), misplaced(torch.tensor([0, 0, 0, -1]), 2)
        (0.0, 0.5)
    """
    share = torch.bincount(modes[modes >= 0], minlength=count).double() / len(modes)
    return 1 - share.clamp(max=1 / count).sum().item()


def fourier_features(data: Tensor, count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return what gives random Fourier features, (N, count), of samples: cosines of random directions and phases.

    Args:
        data: Samples, (N, ...), whose spread the frequencies fit.
        count: Number of features.
        generator: Draws directions and phases.
    """
    spread = data.flatten(1).var(dim=0).sum().sqrt()
    directions = torch.randn(data[0].numel(), count, generator=generator).to(spread.device) * 2.5 / spread
    phases = 2 * math.pi * torch.rand(count, generator=generator).to(spread.device)
    return lambda samples: torch.cos(samples.flatten(1) @ directions + phases)


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
