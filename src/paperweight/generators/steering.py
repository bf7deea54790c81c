"""A text-to-image model whose guidance keeps off captions: what erasers that change no weight give."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, final

from torch import Tensor, nn

from paperweight.generators.protocol import ConditionalDiffusion

__all__ = ["Noise", "Rule", "Steered"]

Noise = Callable[[Literal["caption", "empty", "concept"]], Tensor]
GUIDANCE = 7.5


class Rule(Protocol):
    """How noise is guided where a concept is kept off."""

    def start(self) -> Callable[[Noise, float], Tensor]:
        """Begin a way from noise to images: give what maps predictions and the weight to guided noise, step by step.

        Predictions are made when they are asked for, by ``caption``, ``empty`` or ``concept``.
        """
        ...


@final
class Steered(nn.Module):
    """Meets `ConditionalDiffusion` and `GuidedDiffusion` with the weights of another model and guidance by a rule.

    Args:
        model: The model; a module is copied, anything else, such as an adapted pipeline, is used as it is.
        concept: The captions to keep off, as one text.
        rule: Guides.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> class Opposite:
        ...     def start(self):
        ...         return lambda noise, guidance: noise("concept") + guidance * (noise("caption") - noise("concept"))
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross")).build()
        >>> steered = Steered(model, "circle", Opposite())
        >>> steered.condition(["cross"], 1).shape
        torch.Size([1, 12, 32])
    """

    def __init__(self, model: ConditionalDiffusion, concept: str, rule: Rule) -> None:
        super().__init__()
        self.model: Any = copy.deepcopy(model) if isinstance(model, nn.Module) else model
        self.concept = concept
        self.rule = rule
        self.schedule = model.schedule
        self.clamp = model.clamp
        self.train(bool(getattr(model, "training", False)))

    def guided_eps(
        self, given: Sequence[str] | None, count: int, guidance: float
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Give the function from (z, t) to guided noise for one way from noise to ``count`` samples."""
        return self._guided(self.model.condition(given, count), count, guidance)

    def forward(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Give the noise of the first step of a way that starts with z (N, C, H, W) at t (N,), guided by 7.5."""
        return self._guided(condition, len(z), GUIDANCE)(z, t)

    def _guided(self, tokens: Tensor | None, count: int, guidance: float) -> Callable[[Tensor, Tensor], Tensor]:
        conditions = {
            "caption": tokens,
            "empty": self.model.condition(None, count),
            "concept": self.model.condition([self.concept] * count, count),
        }
        step = self.rule.start()
        return lambda z, t: step(lambda which: self.model.eps(z, t, conditions[which]), guidance)

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the noise without guidance, as the model does."""
        return self.model.eps(z, t, condition)

    def condition(self, given: Any, count: int) -> Tensor | None:
        """Encode captions as the model does."""
        return self.model.condition(given, count)

    def encode(self, images: Tensor) -> Tensor:
        """Map images to what is diffused as the model does."""
        return self.model.encode(images)

    def decode(self, z: Tensor) -> Tensor:
        """Map what is diffused to images as the model does."""
        return self.model.decode(z)

    def latent_mask(self, mask: Tensor) -> Tensor:
        """Map a mask of pixels as the model does."""
        return self.model.latent_mask(mask)

    def embedding_of(self, word: str) -> Tensor:
        """Give a copy of the embeddings of a word of the model, (k, dim)."""
        return self.model.embedding_of(word)

    def with_words(self, words: Mapping[str, Tensor]) -> "Steered":
        """Give a copy whose model has further words."""
        return Steered(self.model.with_words(words), self.concept, self.rule)
