"""The triplet loss with mining within the batch: what embeddings of identities are commonly trained with.

Source:
    F. Schroff, D. Kalenichenko, J. Philbin, "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR,
    2015, https://arxiv.org/abs/1503.03832: the loss, its margin 0.2 and semi-hard negatives. A. Hermans, L. Beyer, B.
    Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, https://arxiv.org/abs/1703.07737: the
    hardest positive and negative of each anchor, and all triplets.

Deviations:
    - Of semi-hard negatives the nearest one is taken, and the farthest negative where none is farther than the
      positive; the paper does not say which.
    - Embeddings are taken as they are given. FaceNet has them of length 1, for which its margin is meant.
"""

import math
from typing import Literal, final

import torch
from torch import Tensor, nn

from paperweight.representation._cells import check_embeddings, check_numbers, precise
from paperweight.representation._lengths import root, unit

__all__ = ["TripletLoss"]

Distance = Literal["squared", "euclidean", "cosine"]
Mining = Literal["semi_hard", "hard", "all"]


def _distances(z: Tensor, distance: Distance) -> Tensor:
    """Compute the distance of each two embeddings, (N, N)."""
    if distance == "cosine":
        units = unit(z)
        return 1 - units @ units.T
    centred = z - z.detach().mean(dim=0)
    squares = centred.square().sum(dim=1)
    squared = (squares[:, None] + squares[None, :] - 2 * centred @ centred.T).clamp(min=0)
    return root(squared) if distance == "euclidean" else squared


def _terms(distances: Tensor, identity: Tensor, margin: float, mining: Mining) -> Tensor:
    """Compute max(0, d(anchor, positive) - d(anchor, negative) + margin) for each triplet that is mined, (T,)."""
    same = identity[:, None] == identity[None, :]
    others = same & ~torch.eye(len(identity), dtype=torch.bool, device=identity.device)
    usable = (~same).any(dim=1)
    if mining == "hard":
        rows = torch.nonzero(others.any(dim=1) & usable).flatten()
        farthest = distances.masked_fill(~others, -math.inf)[rows].amax(dim=1)
        nearest = distances.masked_fill(same, math.inf)[rows].amin(dim=1)
        return (farthest - nearest + margin).relu()
    anchor, positive = torch.nonzero(others & usable[:, None], as_tuple=True)
    near, far = distances[anchor, positive], distances[anchor]
    if mining == "all":
        return (near[:, None] - far + margin).relu()[~same[anchor]]
    farther = far.masked_fill(same[anchor] | (far <= near[:, None]), math.inf).amin(dim=1)
    farthest = far.masked_fill(same[anchor], -math.inf).amax(dim=1)
    return (near - torch.where(farther.isinf(), farthest, farther) + margin).relu()


@final
class TripletLoss(nn.Module):
    """Embeddings of one identity are to be nearer to each other, by a margin, than to those of others.

    A triplet is an anchor, a positive of the same identity and a negative of another one. Where a batch has none, as
    one with a single identity, the loss is 0.

    Args:
        margin: By how much a negative is to be farther than a positive, above 0; 0.2 is FaceNet's, for embeddings of
            length 1.
        mining: Which triplets are averaged: ``"semi_hard"``, for each anchor and positive the nearest negative that is
            farther than the positive, or where none is, the farthest one; ``"hard"``, for each anchor the farthest
            positive and the nearest negative; or ``"all"``.
        distance: ``"squared"`` Euclidean distance, ``"euclidean"``, or ``"cosine"``, 1 less the cosine.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> z, identity = torch.tensor([[0.0], [1.0], [1.2]]), torch.tensor([0, 0, 1])
        >>> round(TripletLoss(margin=0.2, mining="all")(z, identity).item(), 4)
        0.58
    """

    def __init__(self, margin: float = 0.2, mining: Mining = "semi_hard", distance: Distance = "squared") -> None:
        if not 0 < margin < math.inf:
            raise ValueError(f"margin must be finite and above 0, got {margin!r}")
        if mining not in ("semi_hard", "hard", "all"):
            raise ValueError(f"mining must be 'semi_hard', 'hard' or 'all', got {mining!r}")
        if distance not in ("squared", "euclidean", "cosine"):
            raise ValueError(f"distance must be 'squared', 'euclidean' or 'cosine', got {distance!r}")
        super().__init__()
        self.margin = margin
        self.mining: Mining = mining
        self.distance: Distance = distance

    def forward(self, z: Tensor, identity: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z: Embeddings, floating, (N, d).
            identity: Whose they are, any whole numbers, int64, (N,).

        Returns:
            The mean over the triplets, a scalar of at least 0.

        Raises:
            ValueError: If a shape or a type is not as above.
        """
        check_embeddings(z)
        check_numbers("identity", identity, len(z))
        terms = _terms(_distances(precise(z), self.distance), identity, self.margin, self.mining)
        return (terms.sum() / max(1, len(terms))).to(z.dtype)
