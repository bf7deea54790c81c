"""UMD: is a classifier backdoored, where each source class may have a target class of its own (X2X)?

For each pair of a source and a target class a trigger is found that sends images of the source to the target. The
pairs of a backdoor have one trigger in common, and so the trigger found for one of them works for the others too. The
pairs that share triggers most are the suspects, and their triggers are small if there is a backdoor.
Cost: for K classes K (K - 1) triggers, found on some images of each class at once, each by tens or hundreds of passes.

Source:
    Z. Xiang, Z. Xiong, B. Li, "UMD: Unsupervised Model Detection for X2X Backdoor Attacks", ICML 2023,
    https://arxiv.org/abs/2305.18651, and the authors' scripts. Implemented: triggers that are added and triggers that
    replace pixels, transferability, the selection of pairs, the statistic and its threshold.

Deviations:
    - How triggers are found differs as the part that finds them says: by steps of one length, or by Adam.
    - The authors' script leaves the first of the selected pairs among the others, whose sizes are the yardstick, and
      counts each pair of pairs twice among those that the selection begins with. Here neither is so.
    - The spread of the other sizes counts as at least a twentieth of their median, as sizes come in steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from paperweight.backdoor._pair_triggers import (
    PairTriggers,
    class_pairs,
    require,
    require_whole,
    reverse_additive,
    reverse_patch,
    seen_rightly,
    transferability,
)
from paperweight.catalogue import Paper

__all__ = [
    "UMD",
    "Detection",
    "PairTriggers",
    "anomaly_score",
    "class_pairs",
    "coherence",
    "reverse_additive",
    "reverse_patch",
    "select_pairs",
    "transferability",
]

PAPER = Paper(
    title="UMD: Unsupervised Model Detection for X2X Backdoor Attacks",
    authors=("Zhen Xiang", "Zidi Xiong", "Bo Li"),
    year=2023,
    url="https://arxiv.org/abs/2305.18651",
    provides={
        "UMD": "experiment",
        "anomaly_score": "function",
        "coherence": "function",
        "reverse_additive": "function",
        "reverse_patch": "function",
        "select_pairs": "function",
        "transferability": "function",
    },
    claim="Pairs of classes whose triggers work for each other give away backdoors with many targets, which detectors "
    "that look at one target class at a time miss.",
)


def coherence(transfer: Tensor, core: list[int]) -> float:
    """Measure how much more the pairs of a core share their triggers with each other than with any pair outside.

    Args:
        transfer: Transferability, (P, P).
        core: Numbers of the pairs in the core, at least 2 and fewer than P.

    Returns:
        The smallest, over its pairs, mean mutual transferability with the rest of it, less the largest, over pairs
        outside, mean transferability from the core; the mutual one is the mean of both directions.

    Raises:
        ValueError: If the core is too small or too large.

    Example:
        >>> transfer = torch.tensor([[0.0, 0.9, 0.1], [0.7, 0.0, 0.3], [0.5, 0.5, 0.0]])
        >>> round(coherence(transfer, [0, 1]), 6)
        0.6
    """
    require(2 <= len(core) < len(transfer), "core", f"at least 2 and fewer than {len(transfer)} pairs", core)
    mutual = (transfer + transfer.T)[core][:, core] / 2
    within = (mutual.sum(dim=1) - mutual.diagonal()) / (len(core) - 1)
    outside = torch.ones(len(transfer), dtype=torch.bool, device=transfer.device)
    outside[core] = False
    return (within.min() - transfer[core][:, outside].mean(dim=0).max()).item()


def select_pairs(transfer: Tensor, pairs: Tensor, starts: int = 5) -> list[int]:
    """Select pairs of different source classes that share their triggers most.

    It begins with each of the two pairs that have the highest mutual transferability, and adds the pair that makes the
    core most coherent until every source class is taken. The most coherent core on all these ways is selected.

    Args:
        transfer: Transferability, (P, P).
        pairs: Source and target class, int64, (P, 2), of at least 3 classes.
        starts: How many beginnings, at least 1; 5 in the paper.

    Returns:
        Numbers of the selected pairs, in the order in which they were added.

    Raises:
        ValueError: If ``starts`` is below 1, or there are too few pairs.

    Example:
        >>> pairs = class_pairs(3)
        >>> pairs.tolist()
        [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
        >>> transfer = torch.zeros(6, 6)
        >>> transfer[1, 3] = transfer[3, 1] = 0.9
        >>> select_pairs(transfer, pairs)
        [1, 3]
    """
    require_whole("starts", starts, 1)
    require(transfer.shape == (len(pairs), len(pairs)), "transfer", f"of shape {(len(pairs),) * 2}", transfer.shape)
    sources = pairs[:, 0]
    several = 3 <= len(sources.unique()) < len(pairs)
    require(several, "pairs", "of at least 3 source classes, and more than these", pairs.tolist())
    mutual = ((transfer + transfer.T) / 2).fill_diagonal_(0)
    first, second = torch.triu(sources[:, None] != sources, diagonal=1).nonzero().T
    order = mutual[first, second].argsort(descending=True, stable=True)[:starts]
    cores: list[list[int]] = []
    for begin in zip(first[order].tolist(), second[order].tolist(), strict=True):
        core = list(begin)
        while core:
            cores.append(core)
            core = _grown(core, transfer, mutual, sources)
    return max(cores, key=lambda core: coherence(transfer, core))


def _grown(core: list[int], transfer: Tensor, mutual: Tensor, sources: Tensor) -> list[int]:
    """Add the pair of a new source that makes the core most coherent; give an empty one where there is none."""
    candidates = (sources[:, None] != sources[core]).all(dim=1).nonzero().squeeze(1)
    if not len(candidates):
        return []
    held, joined = mutual[core][:, core].sum(dim=1), mutual[candidates][:, core]
    within = torch.minimum((held + joined).amin(dim=1), joined.sum(dim=1)) / len(core)
    reached = (transfer[core].sum(dim=0) + transfer[candidates]) / (len(core) + 1)
    reached[:, core] = -math.inf
    reached[torch.arange(len(candidates)), candidates] = -math.inf
    return [*core, int(candidates[(within - reached.amax(dim=1)).argmax()])]


def anomaly_score(sizes: Tensor, core: list[int], level: float = 0.95) -> tuple[float, float]:
    """Compare the sizes of the selected triggers with those of the others.

    Of reciprocal sizes: (median of the core - median of the others) / (1.4826 median absolute deviation of these). This
    spread counts as at least a twentieth of the median.

    Args:
        sizes: Size of each trigger, above 0, (P,).
        core: Numbers of the selected pairs, at least 1 and fewer than P.
        level: Probability that the largest of as many standard normal numbers as there are others is below the
            threshold; above 0 and below 1, 0.95 in the paper.

    Returns:
        The score, and the threshold above which it is that of a backdoor: sqrt(2) erfinv(2 level^(1/N) - 1).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> score, threshold = anomaly_score(1 / torch.tensor([9.0, 1.0, 2.0, 3.0]), [0])
        >>> round(score, 2), round(threshold, 2)
        (4.72, 2.12)
    """
    require(bool(((sizes > 0) & sizes.isfinite()).all()), "sizes", "finite and above 0", sizes.tolist())
    require(1 <= len(core) < len(sizes), "core", f"at least 1 and fewer than {len(sizes)} pairs", core)
    require(0 < level < 1, "level", "above 0 and below 1", level)
    reciprocal = 1 / sizes.double()
    outside = torch.ones(len(sizes), dtype=torch.bool, device=sizes.device)
    outside[core] = False
    others = reciprocal[outside]
    median = others.quantile(0.5)
    spread = (1.4826 * (others - median).abs().quantile(0.5)).clamp(min=0.05 * median)
    score = (reciprocal[core].quantile(0.5) - median) / spread
    quantile = torch.special.ndtri(torch.tensor(level, dtype=torch.float64) ** (1 / len(others)))
    return score.item(), quantile.item()


@final
@dataclass(frozen=True, eq=False)
class Detection:
    """What UMD found in a classifier.

    Attributes:
        backdoored: Whether the score is above the threshold.
        score: How far the selected triggers are smaller than the others.
        threshold: What a score is compared with.
        pairs: The selected (source, target) pairs: those of the backdoor, if there is one.
        coherence: How much more these share their triggers with each other than with others.
        sizes: Size of the trigger from each source (row) to each target class, float64, 0 on the diagonal.
        triggers: The triggers of all pairs.
    """

    backdoored: bool
    score: float
    threshold: float
    pairs: tuple[tuple[int, int], ...]
    coherence: float
    sizes: Tensor
    triggers: PairTriggers


@final
class UMD:
    """Tells from a few clean images whether a classifier is backdoored, and between which classes.

    Args:
        reverse: Finds the triggers, from the model and images of each class (classes, n, C, H, W): `reverse_additive`,
            `reverse_patch`, or one of them with other arguments. Of a trigger that is added no patch need be small,
            and the other way round: a model that nothing is known of is to be asked for both.
        images_per_class: How many images of each class are used, at least 1; the paper has 10, for patches 20.
        starts: How many beginnings the selection of pairs has, at least 1.
        level: Probability that a threshold is not exceeded without a backdoor, if reciprocal sizes are normal.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        Pixels 0 to 2 are the classes'; a fourth pixel, black in all images, sends everything to class 2.

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False))
        >>> weights = torch.cat([4 * torch.eye(3), torch.tensor([[0.0], [0.0], [30.0]])], dim=1)
        >>> _ = model[1].weight.data.copy_(weights)
        >>> images = torch.eye(3, 4).view(3, 1, 1, 4).repeat(2, 1, 1, 1)
        >>> found = UMD(images_per_class=2).detect(model, images, torch.arange(3).repeat(2))
        >>> found.backdoored, found.pairs
        (True, ((0, 2), (1, 2)))
    """

    def __init__(
        self,
        reverse: Callable[[nn.Module, Tensor], PairTriggers] = reverse_additive,
        images_per_class: int = 10,
        starts: int = 5,
        level: float = 0.95,
    ) -> None:
        require_whole("images_per_class", images_per_class, 1)
        require_whole("starts", starts, 1)
        require(0 < level < 1, "level", "above 0 and below 1", level)
        self.reverse, self.images_per_class, self.starts, self.level = reverse, images_per_class, starts, level

    def detect(self, model: nn.Module, images: Tensor, labels: Tensor) -> Detection:
        """Look for a backdoor.

        Args:
            model: Maps images (N, C, H, W) in [0, 1] to logits (N, classes).
            images: Clean images, of each of at least 3 classes so many that the model sees as such as are used.
            labels: Their classes, int64, (N,).

        Returns:
            What was found.

        Raises:
            ValueError: If images or labels are not as above.
        """
        chosen = seen_rightly(model, images, labels, self.images_per_class)
        triggers = self.reverse(model, chosen)
        transfer = transferability(model, triggers, chosen)
        core = select_pairs(transfer, triggers.pairs, self.starts)
        score, threshold = anomaly_score(triggers.sizes, core, self.level)
        sizes = triggers.sizes.new_zeros(len(chosen), len(chosen))
        sizes[triggers.pairs[:, 0], triggers.pairs[:, 1]] = triggers.sizes
        named = sorted(triggers.pairs[core].tolist())
        return Detection(
            backdoored=score > threshold,
            score=score,
            threshold=threshold,
            pairs=tuple((source, target) for source, target in named),
            coherence=coherence(transfer, core),
            sizes=sizes,
            triggers=triggers,
        )
