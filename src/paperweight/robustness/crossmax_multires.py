"""Multi-resolution self-ensembles: noisy copies at several resolutions in, predictions of several layers out.

A classifier is given one image several times, each time shrunk to another resolution and enlarged again, with random
noise, shifts, contrast and colour, as further channels. Linear heads on frozen layers predict, too, and CrossMax
aggregates all predictions so that no predictor can lift a class by an outlier.
Cost: the copies, a wider first layer and the heads, at each call; each answer is random, so that attacks must average.

Source:
    S. Fort, B. Lakshminarayanan, "Ensemble everything everywhere: Multi-scale aggregation for adversarial robustness",
    2024, https://arxiv.org/abs/2408.05446; the authors' notebook (MIT),
    https://github.com/stanislavfort/ensemble-everything-everywhere, for constants and for the order of changes.

Deviations:
    - Contrast is from 0.7 to 1.5 as the notebook says it; as it runs, a line later gives contrast the amount of
      colour, so that both are the same number from 0.5 to 1. ``contrast=(0.5, 1.0)`` has that range. Amounts are drawn
      evenly from the range and not from 100 points of it; grey is the plain mean of the channels.
    - Resolutions are shares of the side, so that the paper's 32, 16, 8 and 4 of 32 pixels suit other sizes.
    - The widened first layer begins as the given one, shared among the copies; the authors' begins at random.
    - That of `SelfEnsemble` is told there.
    - An even number of predictors has the mean of the middle two as its median.
"""

import math
from collections.abc import Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import replace_modules
from paperweight.robustness._self_ensemble import SelfEnsemble

__all__ = ["CrossMax", "MultiResolution", "SelfEnsemble", "crossmax", "multi_resolution"]

PAPER = Paper(
    title="Ensemble everything everywhere: Multi-scale aggregation for adversarial robustness",
    authors=("Stanislav Fort", "Balaji Lakshminarayanan"),
    year=2024,
    url="https://arxiv.org/abs/2408.05446",
    provides={
        "CrossMax": "layer",
        "MultiResolution": "defense",
        "SelfEnsemble": "layer",
        "crossmax": "function",
        "multi_resolution": "function",
    },
    null={"scales": (1.0,), "noise": 0.0, "shift": 0, "contrast": (1.0, 1.0), "colour": (1.0, 1.0)},
    claim="Predictions of several layers of a network that sees several resolutions withstand attacks without "
    "adversarial training.",
)

_SCALES = (1.0, 0.5, 0.25, 0.125)


def crossmax(logits: Tensor, k: int | None = None) -> Tensor:
    """Aggregate predictors: Z - max over classes, then - max over predictors, then for each class the k-th largest.

    A constant added to all logits of a predictor changes nothing, and no value is above 0. One predictor alone, or
    several that agree in every logit, give 0 for every class, which tells nothing.

    Args:
        logits: Those of each predictor, (N, predictors, classes).
        k: Which of the predictors' values is taken, from 1, the largest, on; the authors' notebook has 3 of 8. The
            median by default, as in the paper.

    Returns:
        Aggregated logits, (N, classes).

    Raises:
        ValueError: If the shape is another, or there are fewer than k predictors.

    Example:
        >>> crossmax(torch.tensor([[[3.0, 1.0], [2.0, 1.0], [0.0, 99.0]]]))
        tensor([[ 0., -1.]])
    """
    if logits.ndim != 3 or not logits.shape[1]:
        found = tuple(logits.shape)
        raise ValueError(f"logits must have shape (N, predictors, classes) with a predictor at least, got {found}")
    _check_k(k)
    predictors = logits.shape[1]
    if k is not None and k > predictors:
        raise ValueError(f"k must be at most the number of predictors, {predictors}, got {k}")
    own = logits - logits.amax(dim=2, keepdim=True)
    relative = own - own.amax(dim=1, keepdim=True)
    ordered = relative.sort(dim=1, descending=True).values
    if k is not None:
        return ordered[:, k - 1]
    return (ordered[:, (predictors - 1) // 2] + ordered[:, predictors // 2]) / 2


@final
class CrossMax(nn.Module):
    """`crossmax` as a module, for the end of a `torch.nn.Sequential`.

    Args:
        k: As in `crossmax`.

    Raises:
        ValueError: If ``k`` is below 1.

    Example:
        >>> CrossMax(k=1)(torch.tensor([[[3.0, 1.0], [2.0, 1.0]]]))
        tensor([[0., 0.]])
    """

    def __init__(self, k: int | None = None) -> None:
        super().__init__()
        _check_k(k)
        self.k = k

    def forward(self, logits: Tensor) -> Tensor:
        """Aggregate logits, (N, predictors, classes), to (N, classes)."""
        return crossmax(logits, self.k)


def multi_resolution(
    images: Tensor,
    generator: torch.Generator,
    *,
    scales: Sequence[float] = _SCALES,
    noise: float = 0.2,
    shift: int = 3,
    contrast: tuple[float, float] = (0.7, 1.5),
    colour: tuple[float, float] = (0.5, 1.0),
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Make copies of images at several resolutions, as channels one after the other.

    A copy is, in turn, given a contrast, rolled, mixed with grey, shrunk, given noise, enlarged, given noise, clipped.
    Contrast, shift and grey are drawn for each image and copy.

    Args:
        images: Floating, within the bounds, (N, C, H, W).
        generator: Source of all that is random.
        scales: The share of the sides that is left in each copy, above 0, at most 1; a side has a pixel at least.
        noise: Largest noise of a pixel, uniform from 0 on, before and after enlarging, at least 0.
        shift: Largest shift in pixels, in both directions, at least 0.
        contrast: Smallest and largest factor of the difference to the image's mean, at least 0; clipped afterwards.
        colour: Smallest and largest share of colour beside grey, from 0 to 1.
        bounds: Smallest and largest entry of an image; infinite ones for images that have no range.

    Returns:
        Shape (N, C x copies, H, W), with a gradient to the images.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> multi_resolution(torch.rand(2, 3, 8, 8), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 12, 8, 8])
    """
    _check_settings(scales, noise, shift, contrast, colour, bounds)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be floating, (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}")

    def uniform(shape: torch.Size, low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)).to(images)

    each, sides = torch.Size([len(images), 1, 1, 1]), images.shape[2:]
    copies: list[Tensor] = []
    for scale in scales:
        factor = uniform(each, *contrast)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        made = (factor * images + (1 - factor) * mean).clamp(*bounds)
        offsets = torch.randint(-shift, shift + 1, (2, len(images)), generator=generator, device=generator.device)
        made = _rolled(made, offsets.to(images.device))
        share = uniform(each, *colour)
        made = share * made + (1 - share) * made.mean(dim=1, keepdim=True)
        small = [max(1, round(side * scale)) for side in sides]
        resized = small != list(sides)
        made = F.interpolate(made, size=small, mode="bicubic") if resized else made
        made = made + uniform(made.shape, 0, noise)
        made = F.interpolate(made, size=sides, mode="bicubic") if resized else made
        copies.append((made + uniform(made.shape, 0, noise)).clamp(*bounds))
    return torch.cat(copies, dim=1)


@final
class MultiResolution(nn.Module):
    """Calls a copy of a classifier, whose first layer is widened, with `multi_resolution` of its inputs.

    The first layer has the weights of the given one, divided by the number of copies, for each copy: where the copies
    are the image itself, it gives what the classifier gives. Train it as any network; answers are random in eval mode.

    Args:
        model: Classifies images (N, C, H, W); the first linear or convolutional layer in it reads them, flattened or
            as they are.
        scales: As in `multi_resolution`, and the following, too.
        noise: Largest noise of a pixel.
        shift: Largest shift.
        contrast: Range of contrast.
        colour: Range of the share of colour.
        bounds: Range of images.
        generator: Source of all that is random.

    Raises:
        ValueError: If an argument is outside its range, or the first layer has groups, or there is none.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(2))
        >>> MultiResolution(model, generator=torch.Generator().manual_seed(0)).model[0].in_channels
        4
    """

    def __init__(
        self,
        model: nn.Module,
        scales: Sequence[float] = _SCALES,
        noise: float = 0.2,
        shift: int = 3,
        contrast: tuple[float, float] = (0.7, 1.5),
        colour: tuple[float, float] = (0.5, 1.0),
        bounds: tuple[float, float] = (0.0, 1.0),
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        _check_settings(scales, noise, shift, contrast, colour, bounds)
        self.scales, self.noise, self.shift, self.contrast, self.colour = tuple(scales), noise, shift, contrast, colour
        self.bounds, self.generator = bounds, generator
        first = next((name for name, part in model.named_modules() if isinstance(part, (nn.Conv2d, nn.Linear))), None)
        wanted = "a torch.nn.Conv2d or torch.nn.Linear that reads the images"
        self.model = replace_modules(model, lambda name, _: name == first, self._widened, wanted=wanted)

    def _widened(self, layer: Any) -> nn.Module:
        """Make a layer read as many copies as there are scales."""
        copies = len(self.scales)
        if isinstance(layer, nn.Conv2d):
            if layer.groups != 1:
                raise ValueError(f"model must begin with a convolution of one group, its first has {layer.groups}")
            layer.in_channels *= copies
            repeats = (1, copies, 1, 1)
        else:
            layer.in_features *= copies
            repeats = (1, copies)
        weight = layer.weight
        layer.weight = nn.Parameter(weight.detach().repeat(repeats) / copies, weight.requires_grad)
        return layer

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits of images, (N, C, H, W)."""
        made = multi_resolution(
            images,
            self.generator,
            scales=self.scales,
            noise=self.noise,
            shift=self.shift,
            contrast=self.contrast,
            colour=self.colour,
            bounds=self.bounds,
        )
        return self.model(made)


def _rolled(images: Tensor, offsets: Tensor) -> Tensor:
    """Roll each image down and to the right, by offsets (2, N)."""
    count, _, height, width = images.shape
    rows = (torch.arange(height, device=images.device) - offsets[0][:, None]) % height
    columns = (torch.arange(width, device=images.device) - offsets[1][:, None]) % width
    place = torch.arange(count, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[place, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _check_k(k: int | None) -> None:
    if k is not None and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
        raise ValueError(f"k must be a whole number of at least 1, or None for the median, got {k!r}")


def _check_settings(
    scales: Sequence[float],
    noise: float,
    shift: int,
    contrast: tuple[float, float],
    colour: tuple[float, float],
    bounds: tuple[float, float],
) -> None:
    if not scales or any(isinstance(scale, bool) or not 0 < scale <= 1 for scale in scales):
        raise ValueError(f"scales must be above 0 and at most 1, one at least, got {scales}")
    if isinstance(noise, bool) or not 0 <= noise < math.inf:
        raise ValueError(f"noise must be at least 0 and finite, got {noise}")
    if not isinstance(shift, int) or isinstance(shift, bool) or shift < 0:
        raise ValueError(f"shift must be a whole number of at least 0, got {shift!r}")
    if not 0 <= contrast[0] <= contrast[1] < math.inf:
        raise ValueError(f"contrast must be at least 0 and finite, the first at most the second, got {contrast}")
    if not 0 <= colour[0] <= colour[1] <= 1:
        raise ValueError(f"colour must be from 0 to 1, the first at most the second, got {colour}")
    if not bounds[0] < bounds[1]:
        raise ValueError(f"bounds must be two numbers, the first below the second, got {bounds}")
