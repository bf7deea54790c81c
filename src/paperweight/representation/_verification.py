"""How well embeddings tell identities apart that were never seen: pairs, areas under curves, and one-shot accuracy.

Source:
    A. Ramakrishnan, M. Pham, J. Whitehill, "Harnessing Geometric Constraints from Emotion Labels to improve Face
    Verification", 2021, https://arxiv.org/abs/2103.03862, whose results are areas under the curve of verification by
    the distance of two embeddings.

Deviations:
    - All pairs are compared; which pairs the authors draw is not known.
    - One-shot accuracy is the mean over all episodes that can be drawn, by counting, in place of some that are.
"""

import math
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor

from paperweight.representation._cells import check_finite, check_numbers, check_whole, precise

__all__ = ["Pairs", "equal_error_rate", "one_shot_accuracy", "verification_auc", "verification_pairs"]


class Pairs(NamedTuple):
    """Pairs of embeddings.

    Attributes:
        distances: Their Euclidean distance, (P,).
        same: Whether both are of one identity, (P,).
        same_aux: Whether both have one auxiliary label, (P,); all true where none were given.
    """

    distances: Tensor
    same: Tensor
    same_aux: Tensor


def verification_pairs(z: Tensor, identity: Tensor, aux: Tensor | None = None) -> Pairs:
    """Compare each two embeddings.

    Args:
        z: Embeddings, floating, (N, d), N at least 2; its memory is some N^2 numbers.
        identity: Whose they are, any whole numbers, int64, (N,).
        aux: Auxiliary labels, int64, (N,).

    Returns:
        All N (N - 1) / 2 pairs.

    Raises:
        ValueError: If a shape or a type is not as above.

    Example:
        >>> pairs = verification_pairs(torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([0, 0, 1]))
        >>> pairs.distances.tolist(), pairs.same.tolist()
        ([1.0, 5.0, 4.0], [True, False, False])
    """
    check_finite(z)
    if len(z) < 2:
        raise ValueError(f"z must hold at least 2 embeddings, got {len(z)}")
    check_numbers("identity", identity, len(z))
    if aux is not None:
        check_numbers("aux", aux, len(z))
    first, second = torch.triu_indices(len(z), len(z), 1, device=z.device)
    distances = torch.pdist(precise(z.detach()))
    same = identity[first] == identity[second]
    return Pairs(distances, same, torch.ones_like(same) if aux is None else aux[first] == aux[second])


def verification_auc(distances: Tensor, same: Tensor) -> float:
    """Compute how often a pair of one identity is nearer than a pair of two: the area under the ROC curve.

    It depends on the order of the distances alone. Chance is 0.5.

    Args:
        distances: How far apart the embeddings of each pair are, floating, (P,).
        same: Whether both are of one identity, bool, (P,); some are, and some are not.

    Returns:
        The share of pairs of pairs, from 0 to 1, equal distances counting half.

    Raises:
        ValueError: If a shape or a type is not as above, or a distance is not a number.

    Example:
        >>> verification_auc(torch.tensor([0.1, 0.5, 0.3, 0.9]), torch.tensor([True, True, False, False]))
        0.75
    """
    near, far = _both(distances, same)
    far = far.sort().values
    nearer = len(far) - torch.searchsorted(far, near, right=True)
    ties = len(far) - torch.searchsorted(far, near) - nearer
    return ((nearer.double() + ties.double() / 2).mean() / len(far)).item()


def equal_error_rate(distances: Tensor, same: Tensor) -> float:
    """Compute the rate of errors at the threshold where both kinds are equally frequent.

    Errors are pairs of two identities that are accepted, at most as far apart as the threshold, and pairs of one that
    are not. Between thresholds the rates are interpolated.

    Args:
        distances: How far apart the embeddings of each pair are, floating, (P,).
        same: Whether both are of one identity, bool, (P,); some are, and some are not.

    Returns:
        The rate, from 0 to 1; chance is 0.5.

    Raises:
        ValueError: If a shape or a type is not as above, or a distance is not a number.

    Example:
        >>> equal_error_rate(torch.tensor([0.1, 0.5, 0.3, 0.9]), torch.tensor([True, True, False, False]))
        0.5
    """
    near, far = (values.sort().values for values in _both(distances, same))
    thresholds = torch.cat([near, far]).unique()
    accepted = torch.searchsorted(far, thresholds, right=True).double() / len(far)
    rejected = 1 - torch.searchsorted(near, thresholds, right=True).double() / len(near)
    start = torch.zeros(1, dtype=torch.float64, device=accepted.device)
    accepted, rejected = torch.cat([start, accepted]), torch.cat([1 - start, rejected])
    gap = rejected - accepted
    end = int((gap <= 0).nonzero()[0])
    share = gap[end - 1] / (gap[end - 1] - gap[end])
    return torch.lerp(accepted[end - 1], accepted[end], share).item()


def one_shot_accuracy(support: Tensor, query: Tensor, identity: Tensor, ways: int = 20) -> float:
    """Compute how often a query is nearest to the one example of its identity, among those of other identities.

    It is the exact mean over all choices of the others, for all queries. Where examples are equally near, each is
    taken as often. Chance is 1 / ways.

    Args:
        support: One embedding of each identity, floating, (I, d).
        query: Embeddings to be told, of the same type, (Q, d).
        identity: Which row of ``support`` each is of, int64, (Q,).
        ways: Identities to choose among, from 2 to I.

    Returns:
        The mean share of right choices, from 0 to 1.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> support = torch.tensor([[0.0], [1.0], [2.0]])
        >>> one_shot_accuracy(support, torch.tensor([[0.6]]), torch.tensor([0]), ways=2)
        0.5
    """
    check_finite(support, "support")
    check_finite(query, "query")
    if query.shape[1] != support.shape[1] or query.dtype != support.dtype:
        raise ValueError(
            f"query must be like support, {support.dtype} (Q, {support.shape[1]}), got {query.dtype} "
            f"{tuple(query.shape)}"
        )
    check_numbers("identity", identity, len(query))
    low, high = torch.aminmax(identity)
    if low < 0 or high >= len(support):
        raise ValueError(f"identity must be from 0 to {len(support) - 1}, rows of support, got {low} to {high}")
    check_whole("ways", ways, 2)
    if ways > len(support):
        raise ValueError(f"ways must be at most {len(support)}, the identities of support, got {ways}")
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(precise(query.detach()), precise(support.detach()), compute_mode=exact)
    own = distances.gather(1, identity[:, None])
    farther, ties = (distances > own).sum(dim=1).tolist(), ((distances == own).sum(dim=1) - 1).tolist()
    others = math.comb(len(support) - 1, ways - 1)

    def right(farther: int, ties: int) -> float:
        """Of draws of ``ways - 1`` others none is nearer, and of j equally near ones each is taken as often."""
        return (math.comb(farther + ties + 1, ways) - math.comb(farther, ways)) / ((ties + 1) * others)

    counts = Counter(zip(farther, ties, strict=True))
    return sum(count * right(*each) for each, count in counts.items()) / len(query)


def _both(distances: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
    """Give the distances of pairs of one identity and of two."""
    if distances.ndim != 1 or not distances.is_floating_point() or distances.isnan().any():
        raise ValueError(
            f"distances must be floating numbers of shape (P,), got {distances.dtype} {tuple(distances.shape)}"
            f"{' with NaN' if distances.is_floating_point() and distances.isnan().any() else ''}"
        )
    if same.shape != distances.shape or same.dtype != torch.bool:
        raise ValueError(f"same must be bool of shape {tuple(distances.shape)}, got {same.dtype} {tuple(same.shape)}")
    if same.all() or not same.any():
        raise ValueError(f"same must be true of some pairs and false of others, got {int(same.sum())} of {len(same)}")
    return distances[same].detach(), distances[~same].detach()
