"""Negative prompt: the sampler is guided away from a word, where it is else guided away from the empty caption.

No weight changes; whoever has the weights can sample without it. It keeps off what the word calls up in the model, by
whatever name it is asked for. Cost: none, two calls of the network a step as for guidance without it.

Source:
    J. Ho, T. Salimans, "Classifier-Free Diffusion Guidance", 2022, https://arxiv.org/abs/2207.12598, for the guidance;
    that the empty caption in it may be replaced by what is not wanted is a practice without a paper of its own, which
    M. Pham et al., "Circumventing Concept Erasure Methods For Text-to-Image Generative Models", ICLR, 2024,
    https://arxiv.org/abs/2308.01508, weigh as an eraser. Implemented: eps_neg + w (eps_c - eps_neg).

Deviations:
    - Ho and Salimans write (1 + w) eps_c - w eps_0: their weight is that of here less 1.
    - Several captions are joined to one.
"""

from collections.abc import Callable, Sequence
from typing import final

from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.generators.process import guided
from paperweight.generators.steering import Noise, Steered
from paperweight.unlearning._fine_tuning import Model
from paperweight.unlearning._steering import steered

__all__ = ["NegativePrompt"]

PAPER = Paper(
    title="Classifier-Free Diffusion Guidance",
    authors=("Jonathan Ho", "Tim Salimans"),
    year=2022,
    url="https://arxiv.org/abs/2207.12598",
    provides={"NegativePrompt": "unlearner"},
    claim="Guidance away from a word in place of the empty caption keeps its concept out of samples.",
)


@final
class NegativePrompt:
    """Gives a model whose sampler has the captions to forget as negative prompt; its weights are a copy.

    Asked for the very caption that it is to forget, it gives that caption's samples without guidance, whatever the
    weight is: eps_neg + w (eps_neg - eps_neg). At a weight of 1 the negative prompt does nothing.

    Example:
        >>> import torch
        >>> from paperweight.generators import generate
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross")).build()
        >>> erased = NegativePrompt()(model, ["circle"], ["cross"])
        >>> generate(erased, ["cross"], (1, 8, 8), steps=2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([1, 1, 8, 8])
    """

    def __call__(self, model: Model, forget: Sequence[str], retain: Sequence[str]) -> Model | Steered:
        """Give the steered model, or a copy where there is nothing to forget.

        Args:
            model: Meets `ConditionalDiffusion`; it stays as it is. An adapted pipeline is not copied.
            forget: Captions to keep off.
            retain: Not read.

        Raises:
            InputError: If ``forget`` is one text and no list, a word is unknown, or the captions joined are too long.
        """
        return steered(model, forget, self)

    def start(self) -> Callable[[Noise, float], Tensor]:
        """Begin a way from noise to images, see `paperweight.generators.Rule`."""
        return lambda eps, guidance: guided(eps("caption"), eps("concept"), guidance)
