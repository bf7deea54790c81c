"""Geometric constraints from auxiliary labels (TL + PDP + FBV): what expressions do to embeddings, alike for all faces.

Embeddings are to tell identities apart, also ones that were never seen. Images have a second, auxiliary label that does
not matter in the end, such as the expression of a face. Two losses added to a triplet loss (TL) give it a place: that
from one auxiliary label to another embeddings move alike for all identities (PDP), and that they move along directions
fixed beforehand (FBV). Within an identity embeddings then differ in a known way, and identities are to be better apart.
Cost: the mean of each identity with each auxiliary label in the batch; no change of the network.

The losses take any embeddings, and each can be exchanged: `AuxiliaryGeometryLoss` adds up what it is given.
`IdentityAuxSampler` draws batches in which the means exist; `verification_pairs`, `verification_auc`,
`equal_error_rate` and `one_shot_accuracy` measure embeddings of unseen identities, `geometry_report` their geometry,
with a picture.

Source:
    A. Ramakrishnan, M. Pham, J. Whitehill, "Harnessing Geometric Constraints from Emotion Labels to improve Face
    Verification", 2021, https://arxiv.org/abs/2103.03862. Its abstract, introduction and first figure were read. That
    two losses named PDP and FBV are added to a triplet loss or to ArcFace, that embeddings of one identity are to be
    more regular by them, and that labels may be detected automatically, is the authors'. No code of theirs was found.

Deviations:
    - **The equations of PDP and FBV could not be read; those here are this project's reading of their names and of the
      first figure.** PDP: the difference of two auxiliary labels is the same for all identities, as a vector, or by
      ``mode`` in direction or length alone. FBV: the difference from the neutral label is a fixed basis vector times a
      radius. An exact FBV implies an exact PDP.
    - Weights and the radius are ours; so is the choice of FaceNet's triplet loss, with its margin and its mining.
    - Differences are of means over a batch. On a sphere they cannot be exactly parallel; a radius far below 1 makes
      that a small error.
    - Embeddings of less precision than float32 are compared in float32.
"""

import math
from typing import Literal, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.representation._added_constraints import AuxiliaryGeometryLoss
from paperweight.representation._cells import Cells, cell_means, check_embeddings, check_numbers, check_whole, precise
from paperweight.representation._embedding_geometry import GeometryReport, geometry_report
from paperweight.representation._identity_batches import IdentityAuxSampler
from paperweight.representation._lengths import length, unit
from paperweight.representation._triplet import TripletLoss
from paperweight.representation._verification import (
    equal_error_rate,
    one_shot_accuracy,
    verification_auc,
    verification_pairs,
)

__all__ = [
    "AuxiliaryGeometryLoss",
    "FixedBasisLoss",
    "GeometryReport",
    "IdentityAuxSampler",
    "ParallelDifferenceLoss",
    "TripletLoss",
    "equal_error_rate",
    "geometry_report",
    "one_shot_accuracy",
    "verification_auc",
    "verification_pairs",
]

PAPER = Paper(
    title="Harnessing Geometric Constraints from Emotion Labels to improve Face Verification",
    authors=("Anand Ramakrishnan", "Minh Pham", "Jacob Whitehill"),
    year=2021,
    url="https://arxiv.org/abs/2103.03862",
    provides={
        "AuxiliaryGeometryLoss": "loss",
        "TripletLoss": "loss",
        "ParallelDifferenceLoss": "loss",
        "FixedBasisLoss": "loss",
        "IdentityAuxSampler": "function",
        "verification_pairs": "function",
        "verification_auc": "metric",
        "equal_error_rate": "metric",
        "one_shot_accuracy": "metric",
        "geometry_report": "experiment",
    },
    null={"pdp": 0.0, "fbv": 0.0},
    claim="Constraints on how embeddings move with the auxiliary label make unseen identities easier to verify.",
)

Mode = Literal["vector", "direction", "length"]


def _spread(features: Tensor, there: Tensor) -> Tensor:
    """Average the squared length of f(y) - f(y') over each two identities and pair of labels that both have, or give 0.

    The sum over pairs of n vectors is n times the sum of squared distances to their mean.

    Args:
        features: (identities, pairs of labels, d).
        there: (identities, pairs of labels).
    """
    present = there[..., None].to(features.dtype)
    counts = present.sum(dim=0)
    means = (present * features).sum(dim=0) / counts.clamp(min=1)
    sums = counts[:, 0] * (present * (features - means)).square().sum(dim=(0, 2))
    return sums.sum() / (counts * (counts - 1) / 2).sum().clamp(min=1)


def _differences(cells: Cells, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Give mu(y, a) - mu(y, b) for each pair (a, b), (P, 2), and which exist: (identities, P, d), (identities, P)."""
    first, second = pairs.unbind(dim=1)
    return cells.means[:, first] - cells.means[:, second], cells.filled[:, first] & cells.filled[:, second]


@final
class ParallelDifferenceLoss(nn.Module):
    """PDP as it is read here: the difference between two auxiliary labels is to be the same for all identities.

    With mu(y, a) the mean embedding of identity y with label a, and D(y) = mu(y, a) - mu(y, b), the loss is the mean
    squared length of D(y) - D(y') over each two identities and pair of labels that both have in the batch. It is 0
    where embeddings are a sum of a vector for the identity and one for the label, and where there is nothing to
    compare. All embeddings in one point satisfy it, too: it takes a loss beside it that keeps identities apart.

    Args:
        mode: What is to be the same: the ``"vector"``; its ``"direction"``, 1 less the cosine of two, for which a
            difference of 0 is left out; or its ``"length"``, the squared difference of two.
        pairs: ``"neutral"`` for pairs with the neutral label alone, ``"all"`` for each two labels.
        neutral: The neutral label, at least 0.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 0.0], [5.0, 3.0]])
        >>> ParallelDifferenceLoss()(z, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
        tensor(4.)
    """

    def __init__(self, mode: Mode = "vector", pairs: Literal["neutral", "all"] = "neutral", neutral: int = 0) -> None:
        if mode not in ("vector", "direction", "length"):
            raise ValueError(f"mode must be 'vector', 'direction' or 'length', got {mode!r}")
        if pairs not in ("neutral", "all"):
            raise ValueError(f"pairs must be 'neutral' or 'all', got {pairs!r}")
        check_whole("neutral", neutral, 0)
        super().__init__()
        self.mode: Mode = mode
        self.pairs: Literal["neutral", "all"] = pairs
        self.neutral = neutral

    def forward(self, z: Tensor, identity: Tensor, aux: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z: Embeddings, floating, (N, d).
            identity: Whose they are, any whole numbers, int64, (N,).
            aux: Auxiliary labels, int64, (N,); those below 0 are not known, and left out.

        Returns:
            The mean over what is compared, a scalar of at least 0.

        Raises:
            ValueError: If a shape or a type is not as above.
        """
        check_embeddings(z)
        check_numbers("identity", identity, len(z))
        check_numbers("aux", aux, len(z))
        names, column = aux.unique(return_inverse=True)
        unknown = int((names < 0).sum())
        cells = cell_means(precise(z), identity, column - unknown, len(names) - unknown)
        pairs = torch.combinations(torch.arange(len(names) - unknown, device=z.device))
        if self.pairs == "neutral":
            pairs = pairs[(names[unknown:][pairs] == self.neutral).any(dim=1)]
        differences, there = _differences(cells, pairs)
        if self.mode == "direction":
            there = there & differences.detach().any(dim=2)
            differences = unit(differences) / math.sqrt(2)
        elif self.mode == "length":
            differences = length(differences)
        return _spread(differences, there).to(z.dtype)


@final
class FixedBasisLoss(nn.Module):
    """FBV as it is read here: the difference from the neutral label is to be a fixed basis vector times a radius.

    The loss is the mean squared length of mu(y, a) - mu(y, neutral) - radius e(a) over identities y and other labels a
    that have both in the batch. The vectors e(a) are orthonormal. Where it is 0, `ParallelDifferenceLoss` is.

    Args:
        aux_labels: Number of auxiliary labels, the neutral one among them, at least 2.
        dim: Dimension d of the embeddings, at least ``aux_labels - 1``.
        radius: How far embeddings are to move, above 0; well below the distance of two identities.
        basis: ``"orthogonal"`` for random vectors; ``"axes"`` for the first axes; ``"learned"`` for random vectors that
            are parameters of the loss, and orthonormal only at first.
        neutral: The neutral label, from 0 to ``aux_labels - 1``.
        mode: ``"vector"``, or ``"direction"`` for 1 less the cosine with e(a), of 1 where the difference is 0.
        generator: Source of the random vectors, on the CPU; by default one of seed 0.

    Raises:
        ValueError: If an argument is outside its range.

    Attributes:
        vectors: e(a) of the labels but the neutral one, in their order, (aux_labels - 1, dim).

    Example:
        >>> loss = FixedBasisLoss(2, 2, radius=0.5, basis="axes")
        >>> loss(torch.tensor([[0.0, 1.0], [2.5, 1.0]]), torch.tensor([7, 7]), torch.tensor([0, 1]))
        tensor(4.)
    """

    vectors: Tensor

    def __init__(
        self,
        aux_labels: int,
        dim: int,
        radius: float = 0.3,
        *,
        basis: Literal["orthogonal", "axes", "learned"] = "orthogonal",
        neutral: int = 0,
        mode: Literal["vector", "direction"] = "vector",
        generator: torch.Generator | None = None,
    ) -> None:
        check_whole("aux_labels", aux_labels, 2)
        check_whole("dim", dim, aux_labels - 1)
        check_whole("neutral", neutral, 0)
        if neutral >= aux_labels:
            raise ValueError(f"neutral must be below aux_labels={aux_labels}, got {neutral}")
        if not 0 < radius < math.inf:
            raise ValueError(f"radius must be finite and above 0, got {radius!r}")
        if basis not in ("orthogonal", "axes", "learned"):
            raise ValueError(f"basis must be 'orthogonal', 'axes' or 'learned', got {basis!r}")
        if mode not in ("vector", "direction"):
            raise ValueError(f"mode must be 'vector' or 'direction', got {mode!r}")
        super().__init__()
        self.aux_labels, self.dim, self.radius, self.neutral = aux_labels, dim, radius, neutral
        self.basis: Literal["orthogonal", "axes", "learned"] = basis
        self.mode: Literal["vector", "direction"] = mode
        self.generator = generator
        draw = torch.Generator().manual_seed(0) if generator is None else generator
        vectors = torch.eye(aux_labels - 1, dim)
        if basis != "axes":
            drawn = torch.randn(dim, aux_labels - 1, generator=draw, dtype=torch.float64)
            vectors = torch.linalg.qr(drawn).Q.T.contiguous().to(vectors.dtype)
        if basis == "learned":
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)

    def forward(self, z: Tensor, identity: Tensor, aux: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z: Embeddings, floating, (N, dim).
            identity: Whose they are, any whole numbers, int64, (N,).
            aux: Auxiliary labels below ``aux_labels``, int64, (N,); those below 0 are not known, and left out.

        Returns:
            The mean over identities and labels, a scalar of at least 0; 0 where there is none.

        Raises:
            ValueError: If a shape, a type or a label is not as above.
        """
        check_embeddings(z)
        if z.shape[1] != self.dim:
            raise ValueError(f"z must have shape (N, {self.dim}), as dim says, got {tuple(z.shape)}")
        check_numbers("identity", identity, len(z))
        check_numbers("aux", aux, len(z))
        if int(aux.max()) >= self.aux_labels:
            raise ValueError(f"aux must be below aux_labels={self.aux_labels}, got {int(aux.max())}")
        others = torch.tensor([a for a in range(self.aux_labels) if a != self.neutral], device=z.device)
        cells = cell_means(precise(z), identity, aux, self.aux_labels)
        pairs = torch.stack([others, torch.full_like(others, self.neutral)], dim=1)
        differences, there = _differences(cells, pairs)
        vectors = precise(self.vectors).to(differences.dtype)
        if self.mode == "direction":
            terms = 1 - (unit(differences) * unit(vectors)).sum(dim=2)
        else:
            terms = (differences - self.radius * vectors).square().sum(dim=2)
        return ((terms * there).sum() / there.sum().clamp(min=1)).to(z.dtype)

    def removed(self, z: Tensor) -> Tensor:
        """Take out of embeddings, (N, dim), what lies along the basis, so that auxiliary labels move them no more."""
        basis = torch.linalg.qr(precise(self.vectors.detach()).T).Q.to(z.dtype)
        return z - (z @ basis) @ basis.T
