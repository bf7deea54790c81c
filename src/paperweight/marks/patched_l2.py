"""The patched l2 distance, by which samples of a generator were compared with its training images.

Source:
    N. Carlini, J. Hayes, M. Nasr, M. Jagielski, V. Sehwag, F. Tramer, B. Balle, D. Ippolito, E. Wallace, "Extracting
    Training Data from Diffusion Models", USENIX Security, 2023. The maximum runs over patches, as it is defined there;
    in the code of SolidMark's authors, which compares with it, it runs over the places inside a patch.
"""

import torch
from torch import Tensor

__all__ = ["patched_l2"]


def patched_l2(
    samples: Tensor, references: Tensor, patch: int = 8, nearest: int = 50, alpha: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Compute how near each sample is to its nearest reference, by the largest distance of a patch.

    That is d(x, s) = max over patches of |x - s|, and d of the nearest over alpha times the mean d of the ``nearest``
    nearest ones; small where the sample is a copy.

    Args:
        samples: Images, (N, C, H, W).
        references: Images, (M, C, H, W), at least one.
        patch: Side of the patches, which do not overlap; divides H and W.
        nearest: Number of references in the mean, at least 1; all where there are fewer.
        alpha: Factor of the mean, above 0.

    Returns:
        The scores and the indices of the nearest references, both (N,).

    Raises:
        ValueError: If a shape or number is not as above.

    Example:
        >>> patched_l2(torch.zeros(1, 1, 2, 2), torch.tensor([0.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2), patch=1)
        (tensor([0.]), tensor([0]))
    """
    shape = samples.shape[1:]
    if samples.ndim != 4 or references.shape[1:] != shape or not len(references):
        raise ValueError(
            f"references must be images of one shape with samples, got {references.shape}, {samples.shape}"
        )
    if patch < 1 or shape[1] % patch or shape[2] % patch:
        raise ValueError(f"patch must divide height and width, got {patch} for {shape[1]} x {shape[2]}")
    if nearest < 1 or not alpha > 0:
        raise ValueError(f"nearest must be at least 1 and alpha above 0, got {nearest} and {alpha}")
    pieces = [
        images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(2, 4, 0, 1, 3, 5).flatten(3).flatten(0, 1)
        for images in (samples, references)
    ]
    distances = torch.zeros(len(samples), len(references), device=samples.device)
    for ours, theirs in zip(*(piece.flatten(2) for piece in pieces), strict=True):
        distances = torch.maximum(distances, torch.cdist(ours, theirs, compute_mode="donot_use_mm_for_euclid_dist"))
    closest = distances.topk(min(nearest, len(references)), dim=1, largest=False)
    return closest.values[:, 0] / (alpha * closest.values.mean(dim=1)), closest.indices[:, 0]
