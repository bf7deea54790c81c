"""Dark side augmentation: anchors translated to night, so that images by night find the same place by day.

Embeddings of places are learned from tuples of photographs, an anchor, a positive and negatives, of which hardly any
are taken at night. A translator from day to night, trained without pairs, makes up for it: one anchor in four is
translated. What holds the translator (HED^N-GAN) is not a translator back but edges: those that a detector sees in the
night image are to be those that it saw by day; and the detector learns beside it to see them at night. Anchors of an
epoch are chosen unlike each other.
Cost: the translator's training once, and its forward pass for every fourth anchor.

Source:
    A. Mohwald, T. Jenicek, O. Chum, "Dark Side Augmentation: Generating Diverse Night Examples for Metric Learning",
    ICCV, 2023, https://arxiv.org/abs/2309.16351. Losses, their weights, the order of updates, the window of the anchors
    and all defaults were compared with the authors' code and settings, https://github.com/mohwald/gandtr. GeM and the
    contrastive loss are those of F. Radenovic, G. Tolias, O. Chum, "Fine-tuning CNN Image Retrieval with No Human
    Annotation", 2018, https://arxiv.org/abs/1711.02512.

Deviations:
    - The authors translate a fixed quarter of the images wherever these are anchors, by a hash of their names; here
      each anchor is drawn anew. The contrast normalization (CLAHE) that they apply to all images is left to the caller.
    - Any networks will do. The authors' detector is a pre-trained HED with learning rates of its own for each block and
      a weight decay of 0.0002; here all its weights have one rate, and no decay.
    - Batches of the translator's training are drawn with replacement, and rates fall over the second half of the steps.
    - A chosen anchor is never chosen again; with two equal embeddings the authors' ranks do not rule that out.
    - The contrastive loss is the mean over tuples; the authors add them up. Its distance has gradient 0 at 0, in place
      of a small number added to each difference.
"""

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.representation._cells import check_embeddings, check_finite, check_whole, precise
from paperweight.representation._day_to_night import (
    TranslationLosses,
    detector_loss,
    edge_consistency_loss,
    fit_translator,
)
from paperweight.representation._lengths import length, unit

__all__ = [
    "GeM",
    "NightAugment",
    "TranslationLosses",
    "detector_loss",
    "diverse_anchors",
    "edge_consistency_loss",
    "fit_translator",
    "tuple_contrastive_loss",
]

PAPER = Paper(
    title="Dark Side Augmentation: Generating Diverse Night Examples for Metric Learning",
    authors=("Albert Mohwald", "Tomas Jenicek", "Ondřej Chum"),
    year=2023,
    url="https://arxiv.org/abs/2309.16351",
    provides={
        "NightAugment": "data-transform",
        "GeM": "layer",
        "tuple_contrastive_loss": "loss",
        "edge_consistency_loss": "function",
        "detector_loss": "function",
        "diverse_anchors": "function",
        "fit_translator": "function",
    },
    null={"p": 0.0},
    claim="With anchors translated to night, images taken at night find the same place by day, and days lose nothing.",
)

ANCHOR = -1


@final
class NightAugment:
    """Translates some anchors to night, each with probability ``p``; positives and negatives stay as they are.

    Args:
        translate: From day images, (N, C, H, W), to night images of the same shape, such as a trained translator; a
            module is called in evaluation mode. No gradient flows through it.
        p: Probability, in [0, 1]; the authors have 0.25.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> augment = NightAugment(lambda day: 0.1 * day, p=1.0)
        >>> images, roles = augment(torch.ones(3, 1, 1, 1), torch.tensor([-1, 1, 0]), generator=torch.Generator())
        >>> images.flatten()
        tensor([0.1000, 1.0000, 1.0000])
    """

    def __init__(self, translate: Callable[[Tensor], Tensor], p: float = 0.25) -> None:
        if not callable(translate):
            raise ValueError(f"translate must be a callable, such as a network, got {translate!r}")
        if isinstance(p, bool) or not 0 <= p <= 1:
            raise ValueError(f"p must be from 0 to 1, got {p!r}")
        self.translate = translate
        self.p = p

    @torch.no_grad()
    def __call__(self, images: Tensor, roles: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the images, some anchors translated, and their roles.

        Args:
            images: Images, floating, (N, C, H, W).
            roles: What each is in its tuple, int64, (N,): -1 an anchor, 1 a positive, 0 a negative.
            generator: Decides which anchors are translated.

        Returns:
            New images of the same shape, and the roles as they are.

        Raises:
            ValueError: If a shape or a role is not as above, or the translator changes the shape.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(f"images must be floating, (N, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if roles.dtype != torch.int64 or roles.shape != images.shape[:1] or bool((roles.abs() > 1).any()):
            raise ValueError(
                f"roles must be int64 of shape ({len(images)},), -1 for an anchor, 1 for a positive, 0 for a negative, "
                f"got {roles.dtype} {tuple(roles.shape)}: {roles.unique().tolist()}"
            )
        drawn = torch.rand(len(images), generator=generator, device=generator.device).to(images.device) < self.p
        chosen = drawn & (roles == ANCHOR)
        changed = images.clone()
        if chosen.any():
            night = self._night(images[chosen])
            if night.shape != images[chosen].shape:
                raise ValueError(
                    f"translate must keep the shape {tuple(images[chosen].shape)}, got {tuple(night.shape)}"
                )
            changed[chosen] = night.to(images.dtype)
        return changed, roles.clone()

    def _night(self, day: Tensor) -> Tensor:
        if isinstance(self.translate, nn.Module):
            with evaluating(self.translate):
                return self.translate(day)
        return self.translate(day)


class GeM(nn.Module):
    """Generalized-mean pooling: the p-th root of the mean of p-th powers over all places of a map, for a learned p.

    At p = 1 it is the mean of what is above ``eps``; with growing p it comes to the maximum.

    Args:
        p: The exponent that is started from, above 0 and finite; the authors have 3.
        eps: What smaller entries are raised to, above 0.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> GeM(p=2.0)(torch.tensor([[[[1.0, 7.0]]]])).item()
        5.0
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        if isinstance(p, bool) or not 0 < p < math.inf:
            raise ValueError(f"p must be finite and above 0, got {p!r}")
        if isinstance(eps, bool) or not 0 < eps < math.inf:
            raise ValueError(f"eps must be finite and above 0, got {eps!r}")
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps, (N, C, H, W), to (N, C).

        Raises:
            ValueError: If maps have another number of dimensions, or hold nothing.
        """
        if maps.ndim != 4 or not maps.numel() or not maps.is_floating_point():
            raise ValueError(f"maps must be floating, (N, C, H, W) without a 0, got {maps.dtype} {tuple(maps.shape)}")
        x, p = precise(maps).clamp(min=self.eps), precise(self.p)
        # A power of 2 is divided out, exactly, so that no power of a large entry overflows.
        scale = torch.ldexp(torch.ones_like(x), x.detach().amax(dim=(2, 3), keepdim=True).frexp().exponent)
        pooled = (x / scale).pow(p).mean(dim=(2, 3)).pow(1 / p) * scale[:, :, 0, 0]
        return pooled.to(maps.dtype)


def tuple_contrastive_loss(anchors: Tensor, positives: Tensor, negatives: Tensor, margin: float = 0.75) -> Tensor:
    """Compute half the squared distance to the positive, and for each negative half its squared lack of a margin.

    Args:
        anchors: Embeddings of length 1, floating, (N, d).
        positives: One for each anchor, (N, d).
        negatives: Some for each anchor, (N, K, d).
        margin: What distance of a negative is enough, above 0; the authors have 0.75.

    Returns:
        The mean over tuples of their sums, a scalar.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> anchors = torch.tensor([[1.0, 0.0]])
        >>> tuple_contrastive_loss(anchors, torch.tensor([[0.0, 0.0]]), torch.tensor([[[0.5, 0.0]]]), margin=1.5)
        tensor(1.)
    """
    check_embeddings(anchors, "anchors")
    if positives.shape != anchors.shape:
        raise ValueError(
            f"positives must have the shape of anchors, {tuple(anchors.shape)}, got {tuple(positives.shape)}"
        )
    if negatives.ndim != 3 or negatives.shape[::2] != anchors.shape:
        raise ValueError(
            f"negatives must have shape (N, K, d) for anchors {tuple(anchors.shape)}, got {tuple(negatives.shape)}"
        )
    if isinstance(margin, bool) or not 0 < margin < math.inf:
        raise ValueError(f"margin must be finite and above 0, got {margin!r}")
    near = (anchors - positives).square().sum(dim=1)
    lacking = (margin - length(anchors[:, None] - negatives)).relu().square().sum(dim=(1, 2))
    return ((near + lacking) / 2).mean()


@torch.no_grad()
def diverse_anchors(
    z: Tensor, count: int, exclude: float = 0.2, include: float = 0.8, *, generator: torch.Generator
) -> Tensor:
    """Choose anchors one by one, each neither too like nor too unlike those that are chosen.

    What is left is ranked by its largest cosine with a chosen anchor. The next is drawn from what is left without the
    share ``exclude`` that is most alike, down to the share ``include``. With 0 and 1 all that is left may be drawn.

    Args:
        z: Embeddings of the pool, floating and finite, (N, d).
        count: How many, from 1 to N.
        exclude: Share of the most similar that is left out, from 0 to ``include``.
        include: Share of the most similar beyond which all is left out, at most 1.
        generator: Decides what is drawn.

    Returns:
        Positions in the pool, no two alike, int64, (count,).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
        >>> 2 in diverse_anchors(z, 2, exclude=0.5, include=1.0, generator=torch.Generator().manual_seed(0))
        True
    """
    check_finite(z)
    check_whole("count", count, 1)
    if count > len(z):
        raise ValueError(f"count must be at most {len(z)}, the number of embeddings, got {count}")
    if not 0 <= exclude <= include <= 1:
        raise ValueError(f"exclude and include must have 0 <= exclude <= include <= 1, got {exclude!r} and {include!r}")
    draw = generator.device
    directions = unit(precise(z))
    chosen = [int(torch.randint(len(z), (), generator=generator, device=draw))]
    nearest = directions.new_full((len(z),), -math.inf)
    while len(chosen) < count:
        nearest = torch.maximum(nearest, directions @ directions[chosen[-1]])
        nearest[chosen[-1]] = math.inf
        left = len(z) - len(chosen)
        last = max(int(left * (1 - exclude)), 1)
        first = min(int(left * (1 - include)), last - 1)
        ranked = nearest.argsort()[first:last]
        chosen.append(int(ranked[int(torch.randint(len(ranked), (), generator=generator, device=draw))]))
    return torch.tensor(chosen, device=z.device)
