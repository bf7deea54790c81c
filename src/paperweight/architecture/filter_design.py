"""Filter design: convolutions that start from filters which were made, or learned without labels, not from chance.

Cosines and Gabor functions are made; principal components, centroids and Hebbian units are learned from patches of
images. `init_conv_` gives a convolution their directions and leaves it the lengths that its filters had, so that the
network starts at the scale at which it would have started.
Cost: less than a second before training, for Hebbian filters some seconds, and nothing in it.

Source:
    G. Hirani, W. Abdulla, "On filter design in deep convolutional neural network", 2022, a survey,
    https://arxiv.org/abs/2410.21644. Implemented, of what it collects: the cosine transform, Gabor functions, principal
    components (T.-H. Chan et al., "PCANet", 2014, https://arxiv.org/abs/1404.3606), spherical k-means on whitened
    patches (A. Coates, A. Y. Ng, "Learning Feature Representations with K-means", 2012), and Hebbian learning (E. Oja,
    1982, and for several units T. D. Sanger, 1989).

Deviations:
    - The survey has no method of its own, and its full text was not at hand: which of the methods belong into one tool,
      and that they are compared as starts of training, is this project's reading. PCANet and Coates and Ng keep their
      filters as they are. Auto-encoders, self-organising maps, independent components, sparse filtering are left out.
    - Patches lose their means, but are not divided by their deviations, as those of Coates and Ng are.
    - Gabor functions have wavelengths of 3 pixels and the root of 2 times that, in turn with the orientations.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from paperweight.architecture._rows import centred, check_whole, flat_patches, unit
from paperweight.catalogue import Paper

__all__ = ["dct_bank", "gabor_bank", "hebbian_filters", "init_conv_", "kmeans_filters", "pca_filters", "random_patches"]

PAPER = Paper(
    title="On filter design in deep convolutional neural network",
    authors=("Gaurav Hirani", "Waleed Abdulla"),
    year=2022,
    url="https://arxiv.org/abs/2410.21644",
    provides={
        "dct_bank": "function",
        "gabor_bank": "function",
        "hebbian_filters": "function",
        "init_conv_": "function",
        "kmeans_filters": "function",
        "pca_filters": "function",
        "random_patches": "function",
    },
    claim="Filters that are designed, or learned without labels, are a better start of training than random ones.",
)


def dct_bank(count: int, side: int) -> Tensor:
    """Make orthonormal cosines, those of low frequency first: the two-dimensional cosine transform.

    Args:
        count: Number of filters, from 1 to ``side * side``.
        side: Side of a filter in pixels, at least 1.

    Returns:
        The filters, (count, 1, side, side), each of length 1; the first one is constant.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> dct_bank(2, 2).round(decimals=2).flatten(1).tolist()
        [[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5]]
    """
    check_whole("side", side)
    check_whole("count", count, largest=side * side)
    place = torch.arange(side) + 0.5
    waves = torch.stack([torch.cos(math.pi * k * place / side) for k in range(side)])
    waves = waves / waves.norm(dim=1, keepdim=True)
    order = sorted(((row, col) for row in range(side) for col in range(side)), key=lambda pair: (sum(pair), pair))
    return torch.stack([torch.outer(waves[row], waves[col]) for row, col in order[:count]])[:, None]


def gabor_bank(count: int, side: int) -> Tensor:
    """Make waves under a bell, of evenly spread directions, alternately even and odd about the middle.

    Args:
        count: Number of filters, at least 1.
        side: Side of a filter in pixels, at least 3.

    Returns:
        The filters, (count, 1, side, side), each of mean 0 and length 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> gabor_bank(8, 5).shape
        torch.Size([8, 1, 5, 5])
    """
    check_whole("count", count)
    check_whole("side", side, least=3)
    place = torch.arange(side) - (side - 1) / 2
    down, right = torch.meshgrid(place, place, indexing="ij")
    bell = torch.exp(-(down.square() + right.square()) / (2 * (side / 4) ** 2))
    directions = -(-count // 2)
    bank: list[Tensor] = []
    for number in range(count):
        direction = number // 2
        angle = math.pi * direction / directions
        wavelength = 3 * math.sqrt(2) ** (direction % 2)
        wave = 2 * math.pi * (right * math.cos(angle) + down * math.sin(angle)) / wavelength
        bank.append(bell * (torch.sin(wave) if number % 2 else torch.cos(wave)))
    return unit(centred(torch.stack(bank)[:, None]))


def random_patches(images: Tensor, count: int, side: int, *, generator: torch.Generator) -> Tensor:
    """Cut patches out of images, each of a random image at a random place.

    Args:
        images: Images, floating, (N, C, H, W), N at least 1.
        count: Number of patches, at least 1.
        side: Side of a patch, from 1 to the smaller of H and W.
        generator: Source of the draws, on the CPU.

    Returns:
        The patches, (count, C, side, side).

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> patches = random_patches(torch.zeros(2, 3, 8, 8), 10, 5, generator=torch.Generator().manual_seed(0))
        >>> patches.shape
        torch.Size([10, 3, 5, 5])
    """
    if images.ndim != 4 or not images.numel() or not images.is_floating_point():
        raise ValueError(f"images must be floating, (N, C, H, W), got {images.dtype} of shape {tuple(images.shape)}")
    check_whole("count", count)
    height, width = images.shape[2:]
    check_whole("side", side, largest=min(height, width))
    chosen, top, left = (
        torch.randint(limit, (count,), generator=generator).to(images.device)
        for limit in (len(images), height - side + 1, width - side + 1)
    )
    steps = torch.arange(side, device=images.device)
    rows, cols = (top[:, None] + steps)[:, :, None], (left[:, None] + steps)[:, None, :]
    return images.permute(0, 2, 3, 1)[chosen[:, None, None], rows, cols].permute(0, 3, 1, 2)


def pca_filters(patches: Tensor, count: int) -> Tensor:
    """Compute the principal components of patches that have their means taken off, the largest first.

    Args:
        patches: Patches, floating, (P, C, k, k), P at least 1.
        count: Number of filters, from 1 to C k^2.

    Returns:
        The filters, (count, C, k, k), orthonormal, each with its largest entry above 0.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> spot = torch.tensor([[3.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
        >>> pca_filters(torch.stack([spot, -spot, 0.5 * spot])[:, None], 1).round(decimals=2).tolist()
        [[[[0.87, -0.29], [-0.29, -0.29]]]]
    """
    flat = flat_patches(patches)
    check_whole("count", count, largest=flat.shape[1])
    values = torch.linalg.eigh(flat.T @ flat / len(flat))
    leading = values.eigenvectors.flip(1).T[:count]
    largest = leading.gather(1, leading.abs().argmax(dim=1, keepdim=True))
    return (leading * largest.sign()).reshape(count, *patches.shape[1:])


def kmeans_filters(
    patches: Tensor,
    count: int,
    steps: int = 20,
    whiten: float | None = 0.1,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Compute the centroids of spherical k-means: patches share the direction that is most along theirs.

    In each step a patch x goes to the centroid d with the largest |d x|, and each centroid becomes itself plus
    the sum of its patches times d x, at length 1. Patches are whitened before, x to W x, and the filters returned are
    those that give of a patch what a centroid gives of the whitened one, W d.

    Args:
        patches: Patches, floating, (P, C, k, k), of which at least ``count`` are not of one value.
        count: Number of filters, at least 1.
        steps: Number of steps, at least 1.
        whiten: Share of the mean variance added to each before patches are whitened, above 0; None does not whiten.
        generator: Chooses the patches from which the centroids start, on the CPU.

    Returns:
        The filters, (count, C, k, k), each of length 1.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> patches = torch.eye(4).reshape(4, 1, 2, 2).repeat(5, 1, 1, 1)
        >>> kmeans_filters(patches, 2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 2, 2])
    """
    flat = flat_patches(patches)
    uneven = flat.norm(dim=1).nonzero().flatten()
    check_whole("count", count, largest=len(uneven))
    check_whole("steps", steps)
    if whiten is not None and not 0 < whiten < math.inf:
        raise ValueError(f"whiten must be finite and above 0, or None, got {whiten}")
    whitening = None
    if whiten is not None:
        values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        scales = (values.clamp_min(0) + whiten * values.mean().clamp_min(1e-12)).sqrt()
        whitening = vectors / scales @ vectors.T
        flat = flat @ whitening
    start = torch.randperm(len(uneven), generator=generator)[:count].to(flat.device)
    centroids = unit(flat[uneven[start]])
    for _ in range(steps):
        products = flat @ centroids.T
        nearest = products.abs().argmax(dim=1)
        weights = products.gather(1, nearest[:, None])
        centroids = unit(centroids.index_add(0, nearest, weights * flat))
    filters = centroids if whitening is None else centroids @ whitening
    return unit(filters).reshape(count, *patches.shape[1:])


def hebbian_filters(
    patches: Tensor, count: int, lr: float = 0.01, passes: int = 5, *, generator: torch.Generator
) -> Tensor:
    """Learn filters patch by patch: what fires together is strengthened, what earlier filters explain is taken off.

    The rule is Sanger's, w_i += lr y_i (x - sum over j <= i of y_j w_j) with y = W x, which is Oja's for one filter. It
    leads to the principal components. Patches are scaled to a mean squared length of 1.

    Args:
        patches: Patches, floating, (P, C, k, k), P at least 1.
        count: Number of filters, from 1 to C k^2.
        lr: Learning rate, above 0 and below 1.
        passes: How often each patch is seen, in a new order each time.
        generator: Source of order and initial filters, on the CPU.

    Returns:
        The filters, (count, C, k, k), about of length 1.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> line = torch.tensor([[[1.0, -1.0]]]).repeat(1, 2, 1)
        >>> found = hebbian_filters(line.repeat(200, 1, 1, 1), 1, lr=0.1, generator=torch.Generator().manual_seed(0))
        >>> found.abs().round(decimals=2).tolist()
        [[[[0.5, 0.5], [0.5, 0.5]]]]
    """
    flat = flat_patches(patches)
    check_whole("count", count, largest=flat.shape[1])
    check_whole("passes", passes)
    if not 0 < lr < 1:
        raise ValueError(f"lr must be above 0 and below 1, got {lr}")
    flat = flat / flat.square().sum(dim=1).mean().sqrt().clamp_min(1e-12)
    weights = unit(torch.randn(count, flat.shape[1], generator=generator).to(flat))
    for _ in range(passes):
        for patch in flat[torch.randperm(len(flat), generator=generator).to(flat.device)]:
            y = weights @ patch
            weights = weights + lr * (torch.outer(y, patch) - torch.outer(y, y).tril() @ weights)
    return weights.reshape(count, *patches.shape[1:])


@torch.no_grad()
def init_conv_(conv: nn.Conv2d, bank: Tensor) -> nn.Conv2d:
    """Turn the filters of a convolution into the directions of a bank, at the lengths that they have; in place.

    Args:
        conv: A convolution without groups. Filters beyond those of the bank stay as they are, and so does its bias.
        bank: Filters, (n, C, k, k') or (n, 1, k, k'), none of them 0; those of one channel are put on each.

    Returns:
        The convolution.

    Raises:
        ValueError: If ``conv`` has groups or a parametrization, or ``bank`` is not as above.

    Example:
        >>> conv = init_conv_(nn.Conv2d(3, 8, 5), dct_bank(8, 5))
        >>> conv.weight[0].std() < 1e-6
        tensor(True)
    """
    if conv.groups != 1 or is_parametrized(conv):
        raise ValueError(f"conv must be without groups and parametrizations, got {conv}")
    kernel = conv.weight
    if bank.ndim != 4 or bank.shape[1] not in (1, kernel.shape[1]) or bank.shape[2:] != kernel.shape[2:]:
        raise ValueError(
            f"bank must have shape (n, {kernel.shape[1]}, {kernel.shape[2]}, {kernel.shape[3]}), or one channel, "
            f"got {tuple(bank.shape)}"
        )
    lengths = bank.flatten(1).norm(dim=1)
    if not bool((lengths > 0).all()) or not bool(lengths.isfinite().all()):
        raise ValueError(f"bank must hold filters of finite length above 0, got lengths {lengths.tolist()}")
    count = min(len(bank), len(kernel))
    turned = unit(bank[:count].to(kernel).expand(-1, kernel.shape[1], -1, -1))
    kernel[:count] = turned * kernel[:count].flatten(1).norm(dim=1)[:, None, None, None]
    return conv
