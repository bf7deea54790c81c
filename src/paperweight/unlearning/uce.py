"""UCE (unified concept editing): cross attention is edited in closed form so that a word means another.

Keys and values of every cross attention are linear in the tokens of a caption. Their matrices are replaced by the ones
that send the tokens to be erased where those of a guide went, and change as little as can be on tokens to keep.
Cost: one linear system of the size of a token for each matrix; no images, no training.

Source:
    R. Gandikota, H. Orgad, Y. Belinkov, J. Materzyńska, D. Bau, "Unified Concept Editing in Diffusion Models", WACV,
    2024, https://arxiv.org/abs/2308.14761. Implemented: the closed form of erasing and preserving.

Deviations:
    - The paper's form has neither ``lam`` nor weights of its terms; they and their defaults are those of the authors'
      later code, and an earlier release had a ``lam`` of 0.1. Without it few captions do not determine the matrices.
    - ``tokens="all"`` pairs the tokens of both captions position by position, the end and padding among them, since in
      encoders without a mask these carry the concept, too.
    - It edits models with words of their own (`TextToImage`), not pipelines. Biases of keys and values, which every
      caption shares, stay as they are.
    - Captions are not multiplied by templates: give them. Debiasing, which iterates the same form, is left out.
"""

import copy
from collections.abc import Sequence
from math import inf
from typing import Literal, final

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.generators.cross_attention import parameter_group
from paperweight.generators.text_model import TextToImage
from paperweight.unlearning._fine_tuning import caption_list

__all__ = ["UCE", "uce_solve"]

PAPER = Paper(
    title="Unified Concept Editing in Diffusion Models",
    authors=("Rohit Gandikota", "Hadas Orgad", "Yonatan Belinkov", "Joanna Materzyńska", "David Bau"),
    year=2024,
    url="https://arxiv.org/abs/2308.14761",
    provides={"UCE": "unlearner", "uce_solve": "function"},
    null={"erase_scale": 0.0},
    claim="Editing cross attention in closed form erases concepts and hardly touches others.",
)


def uce_solve(
    weight: Tensor,
    erased: Tensor,
    guides: Tensor,
    preserved: Tensor,
    *,
    erase_scale: float = 1.0,
    preserve_scale: float = 1.0,
    lam: float = 0.5,
) -> Tensor:
    """Compute the matrix W' that is least in a sum of squares: erased tokens go where guides went, the rest stays.

    That is s_e sum |W' c - W g|^2 + s_p sum |W' p - W p|^2 + lam |W' - W|^2, whose minimiser is
    [lam W + s_e sum W g c^T + s_p sum W p p^T] [lam I + s_e sum c c^T + s_p sum p p^T]^-1.

    Args:
        weight: W, (outputs, dim).
        erased: The tokens c, (N, dim).
        guides: The token g for each of them, (N, dim).
        preserved: The tokens p, (M, dim).
        erase_scale: The weight s_e, at least 0.
        preserve_scale: The weight s_p, at least 0.
        lam: The weight of what is not said of other tokens, above 0.

    Returns:
        W', of the shape and dtype of ``weight``, computed in float64.

    Raises:
        ValueError: If a number is out of range or the shapes do not fit.

    Example:
        >>> one = torch.tensor([[1.0, 0.0]])
        >>> uce_solve(torch.eye(2), one, torch.tensor([[0.0, 1.0]]), one[:0], lam=1e-9).round()
        tensor([[0., 0.],
                [1., 1.]])
    """
    _check(erase_scale, preserve_scale, lam)
    if erased.shape != guides.shape or any(t.ndim != 2 or t.shape[1] != weight.shape[1] for t in (erased, preserved)):
        raise ValueError(
            f"erased and guides must be (N, {weight.shape[1]}), preserved (M, {weight.shape[1]}), got "
            f"{tuple(erased.shape)}, {tuple(guides.shape)} and {tuple(preserved.shape)}"
        )
    w, c, g, p = (value.double() for value in (weight, erased, guides, preserved))
    identity = torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    left = lam * w + erase_scale * (g @ w.T).T @ c + preserve_scale * (p @ w.T).T @ p
    right = lam * identity + erase_scale * c.T @ c + preserve_scale * p.T @ p
    return torch.linalg.solve(right, left, left=False).to(weight.dtype)


@final
class UCE:
    """Erases captions from a text-to-image model by editing keys and values of its cross attention.

    Called as ``eraser(model, forget, retain)`` with the captions to erase and to keep; it gives a new model. At
    ``erase_scale=0`` that is a copy, bit for bit.

    Args:
        guide: The caption that erased ones are to be seen as; the empty one for objects, ``art`` for styles.
        erase_scale: Weight of what is erased, at least 0.
        preserve_scale: Weight of what is kept, at least 0.
        lam: Weight of leaving the matrices as they are, above 0.
        tokens: ``last`` edits the last word of each caption, ``all`` every position of it, end and padding included.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross")).build()
        >>> erased = UCE(lam=1e-6)(model, ["circle"], ["cross"])
        >>> torch.equal(erased.network.stem.weight, model.network.stem.weight)
        True
    """

    def __init__(
        self,
        guide: str = "",
        erase_scale: float = 1.0,
        preserve_scale: float = 1.0,
        lam: float = 0.5,
        tokens: Literal["last", "all"] = "last",
    ) -> None:
        _check(erase_scale, preserve_scale, lam)
        if tokens not in ("last", "all"):
            raise ValueError(f"tokens must be 'last' or 'all', got {tokens!r}")
        self.guide = guide
        self.erase_scale = erase_scale
        self.preserve_scale = preserve_scale
        self.lam = lam
        self.tokens = tokens

    @torch.no_grad()
    def __call__(self, model: TextToImage, forget: Sequence[str], retain: Sequence[str]) -> TextToImage:
        """Give a copy of the model without the captions to forget, in the mode of the model.

        Raises:
            InputError: If the model is no `TextToImage`, a word is unknown, a caption too long, ``forget`` or
                ``retain`` one text and no list, or the network has no cross attention.
        """
        if not isinstance(model, TextToImage):
            raise InputError(
                f"model must be a TextToImage, whose words are known one by one, got {type(model).__name__}; ESD and "
                "ConceptAblation take pipelines"
            )
        captions, kept = caption_list("forget", forget), caption_list("retain", retain)
        erased = copy.deepcopy(model)
        if not captions or self.erase_scale == 0:
            return erased
        c, g, p = (self._tokens(model, given) for given in (captions, [self.guide] * len(captions), kept))
        scales = {"erase_scale": self.erase_scale, "preserve_scale": self.preserve_scale, "lam": self.lam}
        parameters = parameter_group(erased.network, "keys_and_values")
        for weight in (value for name, value in parameters.items() if name.endswith(".weight")):
            weight.copy_(uce_solve(weight, c, g, p, **scales))
        return erased

    def _tokens(self, model: TextToImage, captions: list[str]) -> Tensor:
        """Give the tokens of captions that are edited, (N, dim)."""
        if not captions:
            return model.embedding_table().new_empty(0, model.spec.dim)
        tokens = model.condition(captions, len(captions))
        if self.tokens == "all":
            return tokens.flatten(0, 1)
        last = (model.tokenizer.ends(captions) - 1).clamp(min=0)
        return tokens[torch.arange(len(captions)), last]


def _check(erase_scale: float, preserve_scale: float, lam: float) -> None:
    for name, value in (("erase_scale", erase_scale), ("preserve_scale", preserve_scale)):
        if not 0 <= value < inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
    if not 0 < lam < inf:
        raise ValueError(f"lam must be above 0 and finite, got {lam}; the matrices are not determined without it")
