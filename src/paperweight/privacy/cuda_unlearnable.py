"""CUDA (convolution-based unlearnable datasets): a random filter for each class makes images useless for training.

Every image is convolved with the filter of its class, which its owner keeps secret. A network trained on such images
learns to tell filters, not what the images show, and fails on images without them.
Cost: one convolution an image, once; no model and no optimisation.

Source:
    V. S. Sadasivan, M. Soltanolkotabi, S. Feizi, "CUDA: Convolution-based Unlearnable Datasets", CVPR 2023,
    https://arxiv.org/abs/2303.04278. Implemented: the filters and the transform. Left out: the theory of mixtures of
    two Gaussians, and deconvolution-based adversarial training, the authors' own attempt to undo the transform.

Deviations:
    - The entry of 1 is at a random place of each filter, as in the authors' code, by default; the paper's text has it
      in the centre, which ``place="centre"`` gives.
    - Of N images ``round(fraction * N)`` are changed, drawn at random; the authors' code draws for each image by
      itself whether it is.
    - The entries stay floating; the authors store whole numbers from 0 to 255, rounded down.
    - An image without a positive entry after the convolution stays as it is then; the authors' code divides it by its
      maximum of 0.
"""

from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper

__all__ = ["CUDATransform", "class_filters", "convolve_by_class"]

PAPER = Paper(
    title="CUDA: Convolution-based Unlearnable Datasets",
    authors=("Vinu Sankar Sadasivan", "Mahdi Soltanolkotabi", "Soheil Feizi"),
    year=2023,
    url="https://arxiv.org/abs/2303.04278",
    provides={"CUDATransform": "data-transform", "class_filters": "function", "convolve_by_class": "function"},
    null={"fraction": 0.0},
    claim="Networks trained on images convolved with a secret filter a class fail on clean ones, however they train.",
)


def class_filters(
    classes: int,
    k: int = 3,
    blur: float = 0.3,
    place: Literal["random", "centre"] = "random",
    *,
    generator: torch.Generator,
) -> Tensor:
    """Draw a filter for each class: entries uniform from 0 to ``blur``, and one entry that is 1.

    Args:
        classes: Number of classes, at least 1.
        k: Side of the filters, odd, at least 1; the paper has 3 for CIFAR and 9 for ImageNet-100.
        blur: Largest entry beside the one, at least 0; the paper has 0.3 for side 3 and 0.06 for side 9.
        place: Where the 1 is: at a "random" place of each filter, or in the "centre" of all.
        generator: Source of the filters; its seed is the secret.

    Returns:
        The filters, float32 on the generator's device, (classes, k, k).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> class_filters(2, blur=0.0, place="centre", generator=torch.Generator())[1]
        tensor([[0., 0., 0.],
                [0., 1., 0.],
                [0., 0., 0.]])
    """
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes must be a whole number of at least 1, got {classes}")
    if not isinstance(k, int) or k < 1 or k % 2 == 0:
        raise ValueError(f"k must be an odd whole number of at least 1, got {k}")
    if not 0 <= blur < float("inf"):
        raise ValueError(f"blur must be finite and at least 0, got {blur}")
    if place not in ("random", "centre"):
        raise ValueError(f"place must be 'random' or 'centre', got {place!r}")
    device = generator.device
    filters = blur * torch.rand(classes, k * k, generator=generator, device=device)
    middle = torch.full((classes,), k * k // 2, device=device)
    drawn = torch.randint(k * k, (classes,), generator=generator, device=device)
    filters[torch.arange(classes, device=device), middle if place == "centre" else drawn] = 1
    return filters.view(classes, k, k)


def convolve_by_class(images: Tensor, labels: Tensor, filters: Tensor) -> Tensor:
    """Convolve every channel of each image with the filter of its class, zeros outside; the same for all channels.

    As in torch, a filter is not mirrored: the entry in its centre is the weight of the pixel itself.

    Args:
        images: Images, floating, (N, C, H, W).
        labels: Class of each, int64, (N,).
        filters: Odd filters, (classes, k, k).

    Returns:
        Images of the same shape, linear in ``images``.

    Raises:
        ValueError: If a shape or a class is not as above.

    Example:
        >>> shift = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
        >>> convolve_by_class(torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([0]), shift)
        tensor([[[[2., 3., 0.]]]])
    """
    _check_filters(filters)
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images must be floating, (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, one for each image, got {labels.dtype} of shape {tuple(labels.shape)}")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(filters):
        raise ValueError(
            f"labels must be from 0 to {len(filters) - 1}, one less than the number of filters, "
            f"got {labels.min().item()} to {labels.max().item()}"
        )
    result = torch.empty_like(images)
    for label in labels.unique():
        of_class = labels == label
        kernel = filters[label].to(images)[None, None]
        planes = images[of_class].flatten(0, 1)[:, None]
        result[of_class] = F.conv2d(planes, kernel, padding="same").view_as(images[of_class])
    return result


@final
class CUDATransform:
    """Makes a labelled set of images unlearnable: each is convolved by `convolve_by_class`, divided by its maximum.

    At ``fraction=0`` nothing changes. Keep the filters, and the images as they were: others need only the result.

    Args:
        filters: A filter for each class, (classes, k, k), as of `class_filters`.
        fraction: Share of the images that are changed, in [0, 1]; the paper has 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> transform = CUDATransform(class_filters(2, generator=torch.Generator().manual_seed(0)))
        >>> images, labels = transform(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
        >>> images.flatten(1).max(dim=1).values
        tensor([1., 1., 1., 1.])
    """

    def __init__(self, filters: Tensor, fraction: float = 1.0) -> None:
        _check_filters(filters)
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction must be from 0 to 1, got {fraction}")
        self.filters = filters
        self.fraction = fraction

    @torch.no_grad()
    def __call__(
        self, images: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the images, changed, and the labels.

        Args:
            images: Images, floating, entries in [0, 1], (N, C, H, W).
            labels: Class of each, int64, (N,).
            generator: Decides which images are changed; needed where ``fraction`` is neither 0 nor 1.

        Returns:
            Images of the same shape, entries in [0, 1], and the labels as they are.

        Raises:
            ValueError: If an entry is outside [0, 1], a shape or class does not fit, or the generator is missing.
        """
        if len(images) and not 0 <= images.min() <= images.max() <= 1:
            raise ValueError(
                f"images must have entries from 0 to 1, got {images.min().item():g} to {images.max().item():g}; "
                "divide by 255 if they are whole numbers"
            )
        changed = images.clone()
        chosen = self._chosen(len(images), generator).to(images.device)
        filtered = convolve_by_class(images[chosen], labels[chosen], self.filters)
        highest = filtered.flatten(1).amax(dim=1) if len(chosen) else filtered.new_empty(0)
        changed[chosen] = filtered / torch.where(highest > 0, highest, 1)[:, None, None, None]
        return changed, labels.clone()

    def _chosen(self, count: int, generator: torch.Generator | None) -> Tensor:
        if self.fraction in (0, 1):
            return torch.arange(round(self.fraction * count))
        if generator is None:
            raise ValueError(f"generator must be given where fraction is neither 0 nor 1, got None at {self.fraction}")
        order = torch.randperm(count, generator=generator, device=generator.device)
        return order[: round(self.fraction * count)]


def _check_filters(filters: Tensor) -> None:
    if filters.ndim != 3 or filters.shape[1] != filters.shape[2] or filters.shape[1] % 2 == 0 or not len(filters):
        raise ValueError(f"filters must have shape (classes, k, k) with k odd, got {tuple(filters.shape)}")
