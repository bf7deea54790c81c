"""Translation from day to night without pairs, held by edges (HED-GAN and HED^N-GAN): its losses and its training.

Source:
    A. Mohwald, T. Jenicek, O. Chum, "Dark Side Augmentation: Generating Diverse Night Examples for Metric Learning",
    ICCV, 2023, https://arxiv.org/abs/2309.16351, and the authors' code, https://github.com/mohwald/gandtr.

Deviations:
    See `paperweight.representation.dark_side_augmentation`.
"""

import copy
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from paperweight.nets import evaluating
from paperweight.representation._cells import check_whole

__all__ = ["TranslationLosses", "detector_loss", "edge_consistency_loss", "fit_translator"]


def edge_consistency_loss(edges: Tensor, translated: Tensor) -> Tensor:
    """Compute the mean absolute difference of the edges of images by day and of their translations.

    Args:
        edges: Edges by day, from the frozen detector, any shape.
        translated: Edges of the translated images, from the trained detector, of that shape.

    Returns:
        A scalar of at least 0.

    Raises:
        ValueError: If the shapes differ, or are empty.

    Example:
        >>> edge_consistency_loss(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]))
        tensor(0.2500)
    """
    if edges.shape != translated.shape or not edges.numel():
        raise ValueError(
            f"edges and translated must have one shape without a 0, got {tuple(edges.shape)} and "
            f"{tuple(translated.shape)}"
        )
    return (edges - translated).abs().mean()


def detector_loss(day: Tensor, night: Tensor, target: Tensor) -> Tensor:
    """Compute how far the trained detector is from the frozen one, on images by day and on their translations.

    Args:
        day: What the trained detector says of the day images, before the sigmoid, any shape.
        night: The same of their translations, of that shape.
        target: What the frozen detector says of the day images, of that shape.

    Returns:
        The sum of both mean absolute differences, a scalar.

    Raises:
        ValueError: If the shapes differ, or are empty.

    Example:
        >>> detector_loss(torch.tensor([1.0]), torch.tensor([-2.0]), torch.tensor([1.5]))
        tensor(4.)
    """
    if not day.shape == night.shape == target.shape or not day.numel():
        raise ValueError(
            f"day, night and target must have one shape without a 0, got {tuple(day.shape)}, {tuple(night.shape)} and "
            f"{tuple(target.shape)}"
        )
    return edge_consistency_loss(target, day) + edge_consistency_loss(target, night)


class TranslationLosses(NamedTuple):
    """The losses of each step of a translator's training, (steps,) each.

    Attributes:
        critic: Half the squared errors of the critic, on nights and on translations.
        adversarial: The squared error by which a translation is not taken for a night.
        edge: The edge consistency, unweighted.
        detector: `detector_loss`; 0 where the detector is frozen.
    """

    critic: Tensor
    adversarial: Tensor
    edge: Tensor
    detector: Tensor


def fit_translator(
    translator: nn.Module,
    critic: nn.Module,
    detector: nn.Module,
    day: Tensor,
    night: Tensor,
    *,
    steps: int,
    batch_size: int = 16,
    edge: float = 5.0,
    lr: float = 2e-4,
    detector_lr: float = 1e-6,
    generator: torch.Generator,
) -> TranslationLosses:
    """Train a translator from day to night on images that are no pairs (HED^N-GAN).

    Each step updates the critic, by least squares; then the detector, which is to see in translations and by day what
    its frozen copy sees by day; then the translator, which is to pass for night and to keep the edges. The detector is
    in evaluation mode throughout.

    Args:
        translator: From images, (N, C, H, W), to images of that shape; trained.
        critic: From images to scores of any shape, such as one for each patch; trained.
        detector: A trained detector of edges, from images to maps before the sigmoid; trained on, unless
            ``detector_lr`` is 0.
        day: Images by day, floating, (N, C, H, W).
        night: Images by night, floating, (M, C, H, W).
        steps: Number of steps, at least 1; over the second half all rates fall to 0 in a line.
        batch_size: Images by day, and by night, of each step, at least 1.
        edge: Weight of the edge consistency beside the critic's loss, at least 0.
        lr: Learning rate of translator and critic, above 0.
        detector_lr: That of the detector, at least 0; with 0 it stays as it is (HED-GAN).
        generator: Draws the batches.

    Returns:
        The losses of each step.

    Raises:
        ValueError: If an argument is outside its range, or the translator changes the shape.

    Example:
        >>> def scale() -> nn.Module:
        ...     part = nn.Conv2d(1, 1, 1, bias=False)
        ...     _ = nn.init.ones_(part.weight)
        ...     return part
        >>> day, night, draw = torch.ones(4, 1, 2, 2), torch.zeros(4, 1, 2, 2), torch.Generator()
        >>> losses = fit_translator(scale(), scale(), scale(), day, night, steps=9, lr=0.1, generator=draw)
        >>> losses.edge[0].item(), losses.edge.shape
        (0.0, torch.Size([9]))
    """
    check_whole("steps", steps, 1)
    check_whole("batch_size", batch_size, 1)
    for name, part in (("translator", translator), ("critic", critic), ("detector", detector)):
        if not list(part.parameters()):
            raise ValueError(f"{name} must be a network with weights, got {part!r}")
    for name, value, least in (("edge", edge, True), ("detector_lr", detector_lr, True), ("lr", lr, False)):
        if isinstance(value, bool) or not 0 <= value < math.inf or (not least and value == 0):
            raise ValueError(f"{name} must be finite and {'at least' if least else 'above'} 0, got {value!r}")
    for name, images in (("day", day), ("night", night)):
        if (
            images.ndim != 4
            or not images.numel()
            or not images.is_floating_point()
            or images.shape[1:] != day.shape[1:]
        ):
            raise ValueError(
                f"{name} must be floating, (N, C, H, W) without a 0, day and night of one (C, H, W), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
    frozen = copy.deepcopy(detector).requires_grad_(False)
    optimizers = [
        Adam(critic.parameters(), lr=lr, betas=(0.5, 0.999)),
        Adam(detector.parameters(), lr=detector_lr),
        Adam(translator.parameters(), lr=lr, betas=(0.5, 0.999)),
    ]
    losses: list[Tensor] = []
    with evaluating(detector), evaluating(frozen):
        for step in range(steps):
            for optimizer, rate in zip(optimizers, (lr, detector_lr, lr), strict=True):
                optimizer.param_groups[0]["lr"] = rate * min(1.0, 2 * (1 - step / steps))
            real, nights = _drawn(day, batch_size, generator), _drawn(night, batch_size, generator)
            fake = translator(real)
            if fake.shape != real.shape:
                raise ValueError(f"translator must keep the shape {tuple(real.shape)}, got {tuple(fake.shape)}")
            with torch.no_grad():
                target = frozen(real)
            judged = ((critic(nights) - 1).square().mean() + critic(fake.detach()).square().mean()) / 2
            _update(optimizers[0], judged, critic.parameters())
            seen = judged.new_zeros(())
            if detector_lr:
                seen = detector_loss(detector(real), detector(fake.detach()), target)
                _update(optimizers[1], seen, detector.parameters())
            passed = (critic(fake) - 1).square().mean()
            kept = edge_consistency_loss(target.sigmoid(), detector(fake).sigmoid())
            _update(optimizers[2], passed + edge * kept, translator.parameters())
            losses.append(torch.stack([judged, passed, kept, seen]).detach())
    return TranslationLosses(*torch.stack(losses, dim=1))


def _drawn(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return images[torch.randint(len(images), (count,), generator=generator, device=generator.device).to(images.device)]


def _update(optimizer: Optimizer, loss: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """Take a step, with gradients for these parameters alone, which have none afterwards."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        return
    for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained, allow_unused=True), strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
