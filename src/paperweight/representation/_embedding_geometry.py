"""The geometry of embeddings with two labels: scatter, parallelism, right angles, verification, and a picture.

Source:
    A. Ramakrishnan, M. Pham, J. Whitehill, "Harnessing Geometric Constraints from Emotion Labels to improve Face
    Verification", 2021, https://arxiv.org/abs/2103.03862: that identities should be regular clusters, well apart, and
    the picture of two principal components. O. Roy, M. Vetterli, "The effective rank: A measure of effective
    dimensionality", EUSIPCO, 2007: the effective rank.

Deviations:
    - The measures of regularity, parallelism, right angles and what the label explains, are ours.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.representation._cells import cell_means, check_finite, check_numbers, check_whole
from paperweight.representation._embedding_picture import embedding_picture
from paperweight.representation._lengths import unit
from paperweight.representation._verification import Pairs, equal_error_rate, verification_auc, verification_pairs

__all__ = ["GeometryReport", "effective_rank", "geometry_report"]


@final
@dataclass(frozen=True, slots=True)
class GeometryReport:
    """What `geometry_report` finds; NaN where there is nothing to compare.

    Attributes:
        within: Mean squared distance of embeddings to the mean of their identity.
        between: Mean squared distance of that mean to the common mean; with ``within`` it adds up to the variance.
        explained: Share of ``within`` that one vector for each auxiliary label explains, the same for all identities.
        parallelism: Mean cosine of the differences from the neutral label, of each two identities, by label.
        orthogonality: 1 less the mean absolute cosine of these differences, averaged over identities, of each two
            labels.
        effective_rank: How many dimensions embeddings fill, from 1 to d.
        auc: Area under the curve of verification over all pairs.
        auc_same_aux: The same over pairs with one auxiliary label.
        auc_other_aux: The same over pairs with two.
        equal_error_rate: Rate of errors over all pairs where both kinds are equally frequent.
        picture: The first two principal components, an SVG document for bright and dark pages. Colours are identities,
            the first eight, marks auxiliary labels; lines go from the mean with the neutral label to those with others.
    """

    within: float
    between: float
    explained: float
    parallelism: float
    orthogonality: float
    effective_rank: float
    auc: float
    auc_same_aux: float
    auc_other_aux: float
    equal_error_rate: float
    picture: str


def effective_rank(z: Tensor) -> float:
    """Compute exp of the entropy of the shares of singular values, of embeddings less their mean, (N, d)."""
    values = torch.linalg.svdvals(z - z.mean(dim=0))
    shares = values / values.sum()
    return torch.special.entr(shares).sum().exp().item()


def geometry_report(z: Tensor, identity: Tensor, aux: Tensor, neutral: int = 0) -> GeometryReport:
    """Measure how embeddings of identities with auxiliary labels lie, and draw them.

    Args:
        z: Embeddings, floating and finite, (N, d); its memory is some N^2 numbers.
        identity: Whose they are, any whole numbers, int64, (N,); at least two, one of them more than once.
        aux: Auxiliary labels from 0 on, int64, (N,).
        neutral: The label from which differences are taken, at least 0.

    Returns:
        The measures and the picture.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> z = torch.tensor([[0.0, 0.0], [0.0, 1.0], [4.0, 0.0], [4.0, 1.0]])
        >>> report = geometry_report(z, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
        >>> report.within, report.between, report.parallelism, report.auc
        (0.25, 4.0, 1.0, 1.0)
    """
    check_finite(z)
    check_numbers("identity", identity, len(z))
    check_numbers("aux", aux, len(z))
    if int(aux.min()) < 0:
        raise ValueError(f"aux must be at least 0, got {int(aux.min())}; leave out images whose label is not known")
    check_whole("neutral", neutral, 0)
    names, row = identity.unique(return_inverse=True)
    if not 2 <= len(names) < len(z):
        raise ValueError(f"identity must name at least 2, one of them twice, got {len(names)} names of {len(z)}")
    x = z.detach().double()
    own = _group_means(x, row)[row]
    labels, column = aux.unique(return_inverse=True)
    parallelism, orthogonality = _angles(x, row, column, len(labels), (labels == neutral).nonzero().flatten())
    pairs = verification_pairs(x, identity, aux)
    return GeometryReport(
        within=(x - own).square().sum(dim=1).mean().item(),
        between=(own - x.mean(dim=0)).square().sum(dim=1).mean().item(),
        explained=_explained(x - own, row, column),
        parallelism=parallelism,
        orthogonality=orthogonality,
        effective_rank=effective_rank(x),
        auc=verification_auc(pairs.distances, pairs.same),
        auc_same_aux=_auc(pairs, pairs.same_aux),
        auc_other_aux=_auc(pairs, ~pairs.same_aux),
        equal_error_rate=equal_error_rate(pairs.distances, pairs.same),
        picture=embedding_picture(x, identity, aux, neutral),
    )


def _group_means(x: Tensor, row: Tensor) -> Tensor:
    sizes = torch.bincount(row)
    return x.new_zeros(len(sizes), x.shape[1]).index_add(0, row, x) / sizes[:, None]


def _explained(residual: Tensor, row: Tensor, column: Tensor) -> float:
    """Give the share of the scatter within identities that least squares by auxiliary label explains."""
    chosen = F.one_hot(column).to(residual.dtype)
    design = chosen - _group_means(chosen, row)[row]
    fitted = design @ (torch.linalg.pinv(design) @ residual)
    total = residual.square().sum()
    return (fitted.square().sum() / total).item() if total > 0 else math.nan


def _angles(x: Tensor, row: Tensor, column: Tensor, labels: int, neutral: Tensor) -> tuple[float, float]:
    """Compute parallelism and orthogonality of differences from the neutral label, where there is one."""
    if not len(neutral):
        return math.nan, math.nan
    cells = cell_means(x, row, column, labels)
    differences = cells.means - cells.means[:, neutral]
    there = cells.filled & cells.filled[:, neutral] & differences.any(dim=2)
    units = unit(differences) * there[..., None]
    counts = there.sum(dim=0)
    compared = (counts * (counts - 1)).sum()
    cosines = (units.sum(dim=0).square().sum(dim=1) - counts).sum()
    directions = unit((differences * there[..., None]).sum(dim=0)[counts > 0])
    angles = directions @ directions.T
    first, second = torch.triu_indices(len(angles), len(angles), 1)
    return (
        (cosines / compared).item() if compared else math.nan,
        1 - angles[first, second].abs().mean().item() if len(first) else math.nan,
    )


def _auc(pairs: Pairs, chosen: Tensor) -> float:
    """Give the area under the curve over some of the pairs, where there are of both kinds."""
    same = pairs.same[chosen]
    return verification_auc(pairs.distances[chosen], same) if same.any() and not same.all() else math.nan
