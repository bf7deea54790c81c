"""Attacks that are made on own models and carry over to others: momentum, diverse inputs, ensembles of surrogates.

Source:
    Y. Dong et al., "Boosting Adversarial Attacks with Momentum", 2018, https://arxiv.org/abs/1710.06081, equations 6
    and 7, and section 3.3 for the mean of logits; C. Xie et al., "Improving Transferability of Adversarial Examples
    with Input Diversity", 2019, https://arxiv.org/abs/1803.06978.

Deviations:
    in norm 2 the steps are projected onto ball and range together; resized images are between ``smallest`` and the
    whole of the network's side, where Xie et al. enlarge images beyond it
"""

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks._rows import check_bounds, check_choice, check_inputs, check_number, check_whole, draw, over
from paperweight.attacks.balls import project, steepest_step
from paperweight.attacks.losses import AttackLoss, cross_entropy_loss
from paperweight.nets import evaluating

__all__ = ["MeanLogits", "MomentumTransfer", "diverse", "transferred"]


def diverse(images: Tensor, smallest: float, generator: torch.Generator | None = None) -> Tensor:
    """Shrink images, all by one random factor, and put them at a random place of a black image of the old size.

    Args:
        images: Shape (N, channels, height, width).
        smallest: Smallest share of a side that is left, above 0, at most 1; there the images stay as they are.
        generator: Source of randomness; the global random state by default.

    Returns:
        Images of the same shape, with a gradient to those given.

    Example:
        >>> diverse(torch.ones(1, 1, 10, 10), 0.5, torch.Generator().manual_seed(0)).mean().item() < 1
        True
    """
    factor, down, right = draw(torch.Size([3]), images, generator).tolist()
    sides = images.shape[2:]
    inner = [max(1, round(side * (1 - factor * (1 - smallest)))) for side in sides]
    top, left = (int(part * (side - small + 1)) for part, side, small in zip((down, right), sides, inner, strict=True))
    if inner == list(sides):
        return images
    small = F.interpolate(images, size=inner, mode="nearest")
    return F.pad(small, (left, sides[1] - inner[1] - left, top, sides[0] - inner[0] - top))


@final
class MomentumTransfer:
    """Ascends a loss along gradients that are accumulated with momentum (MI-FGSM), to carry over to other models.

    Each gradient is divided by its mean absolute entry and added to ``decay`` times the sum before; a step follows the
    sign of the sum, or its direction in norm 2. The last point is given, fooled or not: call it with a surrogate, or
    make it an attack on other models with `transferred`.

    Args:
        radius: Largest change of an input, in the norm, at least 0; at 0 the inputs are returned.
        norm: Norm of a change: 2 or ``math.inf``.
        steps: Steps, at least 1; the source has 10.
        step: Length of a step, above 0; ``radius / steps`` by default, as in the source.
        decay: What is left of the sum at each step, at least 0; at 0 there is no momentum. The source has 1.
        loss: What is raised: maps logits and labels to a number for each input.
        diversity: Probability, in each step, that the model is given images as `diverse` makes them; 0 takes inputs
            of any shape. Xie et al. have 0.5 for one surrogate.
        smallest: Smallest share of a side that is left, above 0 and at most 1.
        targeted: Whether the labels are those that the model shall give; the loss is lowered then.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are; if diverse inputs are no images.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> MomentumTransfer(radius=0.25)(model, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
        tensor([[0.5000, 0.7500]])
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        norm: float = math.inf,
        steps: int = 10,
        step: float | None = None,
        decay: float = 1.0,
        loss: AttackLoss = cross_entropy_loss,
        diversity: float = 0.0,
        smallest: float = 0.9,
        targeted: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        check_number("radius", radius)
        check_choice("norm", norm, (2.0, math.inf))
        check_whole("steps", steps, 1)
        if step is not None:
            check_number("step", step, above=True)
        check_number("decay", decay)
        if not 0 <= diversity <= 1:
            raise ValueError(f"diversity must be within 0 and 1, got {diversity}")
        if not 0 < smallest <= 1:
            raise ValueError(f"smallest must be above 0 and at most 1, got {smallest}")
        check_bounds(bounds)
        self.radius, self.norm, self.steps, self.step, self.decay = radius, norm, steps, step, decay
        self.loss, self.diversity, self.smallest = loss, diversity, smallest
        self.targeted, self.bounds = targeted, bounds

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs, (N, ...), of inputs (N, ...) and labels (N,), or shares of classes (N, classes).

        The generator, or by default the global random state, is the source of diverse inputs; without them nothing is
        drawn.
        """
        check_inputs(inputs, labels, self.bounds)
        if self.diversity and inputs.ndim != 4:
            raise ValueError(f"diverse inputs must be images (N, C, H, W), got shape {tuple(inputs.shape)}")
        given = inputs.detach()
        changed = given.clone()
        if self.radius == 0 or not len(inputs):
            return changed
        length = self.radius / self.steps if self.step is None else self.step
        total = torch.zeros_like(given)
        with evaluating(model), torch.enable_grad():
            for _ in range(self.steps):
                changed.requires_grad_()
                seen = changed
                if self.diversity and draw(torch.Size([1]), given, generator).item() < self.diversity:
                    seen = diverse(changed, self.smallest, generator)
                loss = self.loss(model(seen), labels).sum()
                (gradient,) = torch.autograd.grad(-loss if self.targeted else loss, changed)
                changed = changed.detach()
                total = self.decay * total + _of_mean_size_1(gradient)
                ahead = steepest_step(total, changed, length, self.norm, self.bounds)
                changed = project(ahead, given, self.radius, self.norm, self.bounds)
        return changed


def _of_mean_size_1(gradient: Tensor) -> Tensor:
    """Divide each gradient by the mean of its absolute entries; one of 0 stays."""
    size = gradient.abs()
    largest = over(size.flatten(1).amax(dim=1), gradient).clamp(min=torch.finfo(gradient.dtype).tiny)
    share = over((size / largest).flatten(1).mean(dim=1), gradient)
    return gradient / largest / share.clamp(min=torch.finfo(gradient.dtype).eps)


@final
class MeanLogits(nn.Module):
    """Gives the mean of the logits of several models: what an attack on an ensemble differentiates.

    Args:
        models: The models, at least one, of equally many classes.

    Raises:
        ValueError: If there is none.

    Example:
        >>> MeanLogits([nn.Identity(), nn.Flatten()])(torch.tensor([[1.0, 3.0]]))
        tensor([[1., 3.]])
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        if not models:
            raise ValueError("models must hold at least one, got none")
        self.models = nn.ModuleList(models)

    def forward(self, inputs: Tensor) -> Tensor:
        """Give mean logits, (N, classes), of inputs (N, ...)."""
        return torch.stack([model(inputs) for model in self.models]).mean(dim=0)


def transferred(surrogates: Sequence[nn.Module], attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make an attack on models that it never looks at: it is made on the mean logits of own ones.

    Args:
        surrogates: Own models, at least one; no weight of theirs is changed.
        attack: A `MomentumTransfer`, or any other, such as a `ProjectedGradient` that keeps going.

    Returns:
        What is called as ``(model, inputs, labels, generator=...)``, as the attack is, and disregards the model.

    Raises:
        ValueError: If there is no surrogate.

    Example:
        >>> own = nn.Linear(2, 2, bias=False)
        >>> _ = own.weight.data.copy_(torch.eye(2))
        >>> attack = transferred([own], MomentumTransfer(radius=0.25))
        >>> attack(nn.Flatten(), torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
        tensor([[0.5000, 0.7500]])
    """
    ensemble = MeanLogits(surrogates)

    def on_surrogates(
        model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        keyword = {} if generator is None else {"generator": generator}
        return attack(ensemble, inputs, labels, **keyword)

    return on_surrogates
