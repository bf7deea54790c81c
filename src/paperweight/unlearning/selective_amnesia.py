"""Selective amnesia (SA): a text-to-image model learns other images for a word, and is held where it was.

For the word to forget the denoiser is trained on images of a surrogate, such as noise. As in continual learning two
things keep the rest: replay of images that the model itself made for other captions, and an elastic penalty that holds
each weight as strongly as the model's own images depend on it.
Cost: two forward and backward passes a step, and before them ``times`` for each of ``samples`` images a caption.

Source:
    A. Heng, H. Soh, "Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models",
    NeurIPS, 2023, https://arxiv.org/abs/2305.10120, and the authors' https://github.com/clear-nus/selective-amnesia.
    Implemented: the objective for diffusion models and the Fisher information. Defaults are those for CIFAR-10.

Deviations:
    - Losses are sums over pixels, as in the code for classes: ``lam`` depends on the size of an image. The code for
      Stable Diffusion takes means; it has a ``lam`` of 50, AdamW, ``lr`` 1e-5, a batch of 4, a caption as surrogate.
    - The penalty has no factor 1/2, as in the code. Errors are those of what the network predicts, in the paper noise.
    - With fewer ``times`` than all, the sum over the chain is estimated from evenly spaced ones. Its square is then too
      large: of K out of T times the part that comes from noise, whose sum does not scale, is T / K times as large.
    - Images are drawn by DDIM, not through the whole chain; batches with replacement, times without their mirrors.
    - The Fisher information is of captions to forget and to retain, as for classes, on images in [-1, 1]. The code for
      classes shows [0, 1], which is not what its network knows, and leaves out one label in ten.
    - All of the denoiser is trained, as for classes and celebrities; the code spares cross attention for nudity.
    - All runs in eval mode, without dropout. Of an adapted pipeline the denoiser alone is copied, the rest is shared.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.generators.cross_attention import parameter_group
from paperweight.generators.generation import generate
from paperweight.unlearning._elastic import check_counts, elastic_penalty, fisher_diagonal, losses_of
from paperweight.unlearning._fine_tuning import Model, caption_list, copied, diffused_shape, fine_tuned

__all__ = ["SelectiveAmnesia", "elastic_penalty", "fisher_diagonal"]

PAPER = Paper(
    title="Selective Amnesia: A Continual Learning Approach to Forgetting in Deep Generative Models",
    authors=("Alvin Heng", "Harold Soh"),
    year=2023,
    url="https://arxiv.org/abs/2305.10120",
    provides={"SelectiveAmnesia": "unlearner", "elastic_penalty": "function", "fisher_diagonal": "function"},
    null={"steps": 0},
    claim="Learning a surrogate for a word, with replay and an elastic penalty, makes a model forget that word alone.",
)


@final
class SelectiveAmnesia:
    """Gives a copy of a text-to-image model that draws a surrogate when asked for what it is to forget.

    With no steps, or nothing to forget, the copy equals the model. The denoiser alone is trained, in eval
    mode, on gradients that are held to a norm of 1.

    Args:
        gamma: Weight of the replay, at least 0; the paper has 1.
        lam: Weight of the elastic penalty, at least 0; the paper has 10 for CIFAR-10 and 50 for Stable Diffusion.
        surrogate: What is learned in place of what is forgotten: ``uniform``, noise in [-1, 1], fresh in each step, or
            the images that the model makes for this caption before it is trained.
        fisher: The Fisher information, such as `fisher_diagonal` gives it; by default that of all captions' images.
        times: Times of the chain that the Fisher information is estimated from; None for all, as in the paper.
        samples: Images that the model makes for each caption, at least 1; the paper has 500 a class.
        steps: Steps of Adam, at least 0.
        lr: Learning rate of Adam, at least 0.
        batch_size: Samples a step, of the surrogate and of the replay each, at least 1.
        ema: Share of the average of the weights, which is the result, that a step keeps, at least 0 and below 1; with
            0 the result is the last weights, with the paper's 0.9999 it follows after some ten thousand steps.
        guidance: Weight of the guidance in making images, at least 0; 1 is none.
        sampling_steps: Steps from noise to an image, at least 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross")).build()
        >>> eraser = SelectiveAmnesia(steps=2, samples=1, times=3, sampling_steps=2, batch_size=4)
        >>> erased = eraser(model, ["circle"], ["cross"], generator=torch.Generator().manual_seed(0))
        >>> torch.equal(erased.text.table.weight, model.text.table.weight)
        True
    """

    def __init__(
        self,
        gamma: float = 1.0,
        lam: float = 10.0,
        surrogate: str = "uniform",
        fisher: Mapping[str, Tensor] | None = None,
        times: int | None = None,
        samples: int = 500,
        steps: int = 20_000,
        lr: float = 1e-4,
        batch_size: int = 128,
        ema: float = 0.9999,
        guidance: float = 2.0,
        sampling_steps: int = 50,
    ) -> None:
        for name, value in {"gamma": gamma, "lam": lam, "lr": lr, "guidance": guidance}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if not 0 <= ema < 1:
            raise ValueError(f"ema must be at least 0 and below 1, got {ema}")
        counts = {"samples": (samples, 1), "batch_size": (batch_size, 1), "sampling_steps": (sampling_steps, 1)}
        check_counts({"steps": (steps, 0), "times": (times, 1), **counts})
        self.gamma, self.lam, self.surrogate = gamma, lam, surrogate
        self.fisher, self.times, self.samples = fisher, times, samples
        self.steps, self.lr, self.batch_size, self.ema = steps, lr, batch_size, ema
        self.guidance, self.sampling_steps = guidance, sampling_steps

    def __call__(
        self,
        model: Model,
        forget: Sequence[str],
        retain: Sequence[str],
        *,
        generator: torch.Generator,
        shape: tuple[int, int, int] | None = None,
    ) -> Model:
        """Return a copy of a model that has unlearned captions, and leave the model as it is.

        Args:
            model: Meets `ConditionalDiffusion`, with the denoiser as ``network``, such as `TextToImage`.
            forget: Captions to forget, each equally likely for a sample.
            retain: Captions whose images are replayed, each equally likely; with none there is no replay.
            generator: Draws images, captions, times and noise.
            shape: Shape (C, H, W) of what is diffused; by default that of the model's ``spec``.

        Returns:
            The copy, in the modes and with the flags ``requires_grad`` of the model.

        Raises:
            ValueError: If the model has fewer times than are asked for, or other parameters than ``fisher``.
            InputError: If ``forget`` or ``retain`` is one text, a caption cannot be encoded, or no shape is known.
        """
        captions, kept = caption_list("forget", forget), caption_list("retain", retain)
        student = cast(Any, copied(model))
        if not captions or not self.steps:
            return student
        size = diffused_shape(model, shape)
        check_counts({"times": (self.times, 1), "sampling_steps": (self.sampling_steps, 1)}, len(student.schedule))
        with fine_tuned(student, "all") as weights:
            told = [caption for caption in captions + kept for _ in range(self.samples)]
            own = self._images(student, told, size, generator)
            fisher = self._fisher(student, own, told, generator) if self.lam else []
            surrogates = [] if self.surrogate == "uniform" else [self.surrogate] * self.samples
            made = self._images(student, surrogates, size, generator)
            tokens = student.condition(captions + kept, len(captions + kept)).detach()
            anchors, average = ([weight.detach().clone() for weight in weights] for _ in range(2))
            optimizer = torch.optim.Adam(weights, lr=self.lr)
            for _ in range(self.steps):
                t = self._drawn(0, len(student.schedule), generator).cpu()
                condition = tokens[self._drawn(0, len(captions), generator)]
                if self.surrogate == "uniform":
                    blank = own.new_empty(self.batch_size, *size, device=generator.device)
                    x = blank.uniform_(-1, 1, generator=generator).to(own)
                else:
                    x = made[self._drawn(0, len(made), generator)]
                if self.gamma and kept:
                    rows = self._drawn(len(captions) * self.samples, len(own), generator)
                    x, t = torch.cat([x, own[rows]]), t.repeat(2)
                    condition = torch.cat([condition, tokens[rows // self.samples]])
                forgotten, *replayed = losses_of(student, x, condition, t, generator).split(self.batch_size)
                loss = forgotten.mean() + sum(self.gamma * part.mean() for part in replayed)
                if self.lam:
                    loss = loss + self.lam * elastic_penalty(weights, anchors, fisher)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                for mean, weight in zip(average, weights, strict=True):
                    mean.lerp_(weight.detach(), 1 - self.ema)
            for mean, weight in zip(average, weights, strict=True):
                weight.data.copy_(mean)
        return student

    def _images(self, model: Any, told: list[str], size: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Let a model make an image for each caption, and encode them, (N, C, H, W)."""
        like = next(model.network.parameters())
        draw = partial(generate, generator=generator, guidance=self.guidance, steps=self.sampling_steps)
        parts = [told[start : start + self.batch_size] for start in range(0, len(told), self.batch_size)]
        made = [model.encode(draw(model, part, size, device=like.device)).to(like) for part in parts]
        return torch.cat([like.new_empty(0, *size), *made])

    def _fisher(self, model: Any, own: Tensor, told: list[str], generator: torch.Generator) -> list[Tensor]:
        """Give the Fisher information in the order, dtype and on the device of the parameters."""
        fisher, parameters = self.fisher, parameter_group(model.network, "all")
        if fisher is None:
            size = self.batch_size
            fisher = fisher_diagonal(model, own, told, generator=generator, times=self.times, batch_size=size)
        if alone := sorted(fisher.keys() ^ parameters.keys()):
            raise ValueError(f"fisher must name the parameters of the network, {alone[0]} is in only one of the two")
        return [fisher[name].to(value) for name, value in parameters.items()]

    def _drawn(self, first: int, end: int, generator: torch.Generator) -> Tensor:
        """Draw a batch of whole numbers from ``first`` to below ``end``."""
        return torch.randint(first, end, (self.batch_size,), generator=generator, device=generator.device)
