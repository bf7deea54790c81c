"""Concept ablation (AC): a text-to-image model is trained to answer one caption as it answers another.

Images of an anchor caption, such as a general noun, are drawn once by the original. On them, with noise, the caption to
forget learns what the model predicts for the anchor, or, in a variant, the noise itself, so that it draws the anchor.
Cost: a step takes one forward and backward pass and, but for the variant, one forward pass more, with ``lam`` above 0
another of both; before the first one ``images`` images are drawn. Model and copy are in memory, and Adam's state.

Source:
    N. Kumari, B. Zhang, S.-Y. Wang, E. Shechtman, R. Zhang, J.-Y. Zhu, "Ablating Concepts in Text-to-Image Diffusion
    Models", ICCV, 2023, https://arxiv.org/abs/2303.13516, and the authors' code for pipelines (folder ``diffusers``),
    https://github.com/nupurkmr9/concept-ablation. Implemented: the model-based and the noise-based objective, the
    regularisation on anchor images, and training of keys and values of the cross attention or of all weights. Defaults
    are the code's for styles and objects: AdamW, gradients clipped at norm 1, and two cards with four samples each,
    whose count multiplies a rate of 2e-6.

Deviations:
    - Captions come in pairs, anchor and caption to forget, and are given; the authors collect some 200 that hold the
      anchor, from a language model or a data set, and put the concept into them.
    - Images are drawn by DDIM, not DPM-Solver, and neither flipped nor zoomed; a step draws them with replacement.
    - The code lets no gradient through keys and values of the token that starts every caption. Not every encoder has
      one, so that here all tokens have gradients.
    - The regularisation does not double the rate, as the code's does. Its third group, the embedding of the word, and
      all attention, which was added later, are left out, and so is the filter for memorised images.
    - All runs in eval mode. Of a model that is no module, such as an adapted pipeline, the denoiser alone is copied.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.generators.generation import generate
from paperweight.generators.process import add_noise, normal, target
from paperweight.unlearning._fine_tuning import (
    Model,
    caption_list,
    check_sampling_steps,
    copied,
    diffused_shape,
    fine_tuned,
    predict,
    prediction_of,
)

__all__ = ["ConceptAblation", "ablation_loss"]

PAPER = Paper(
    title="Ablating Concepts in Text-to-Image Diffusion Models",
    authors=("Nupur Kumari", "Bingliang Zhang", "Sheng-Yu Wang", "Eli Shechtman", "Richard Zhang", "Jun-Yan Zhu"),
    year=2023,
    url="https://arxiv.org/abs/2303.13516",
    provides={"ConceptAblation": "unlearner", "ablation_loss": "function"},
    null={"steps": 0},
    claim="Training a caption to be answered as an anchor is prevents the concept and preserves closely related ones.",
)

_GROUPS = ("keys_and_values", "all")
_LARGEST_GRADIENT = 1.0


def ablation_loss(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    z: Tensor,
    t: Tensor,
    condition: Tensor,
    *,
    anchor: Tensor | None = None,
    truth: Tensor | None = None,
) -> Tensor:
    """Compute the mean of |e(z, t, c*) - sg e(z, t, c)|^2, model-based, or of |e(z, t, c*) - y|^2, noise-based.

    Args:
        predict: The network e that is trained, from z, t and tokens to the noise, or what else it predicts. No gradient
            (sg) flows through its prediction for the anchor, which is its own and not that of a frozen copy.
        z: Images of the anchor with noise, (N, ...).
        t: Their training times, (N,).
        condition: The captions c* to forget, as tokens, (N, L, dim).
        anchor: The captions c of the anchor, likewise; model-based.
        truth: What the network is to predict of the images, such as the noise y in z, of its shape; noise-based, and
            with the anchor's captions as ``condition`` the regularisation.

    Returns:
        A scalar.

    Raises:
        ValueError: If not just one of ``anchor`` and ``truth`` is given.

    Example:
        >>> z, t = torch.zeros(1, 2), torch.zeros(1)
        >>> ablation_loss(lambda z, t, c: z + c, z, t, torch.tensor([[1.0, 2.0]]), anchor=torch.zeros(1, 2))
        tensor(2.5000)
    """
    if (anchor is None) == (truth is None):
        raise ValueError(f"just one of anchor and truth must be given, got {'neither' if anchor is None else 'both'}")
    if anchor is not None:
        with torch.no_grad():
            truth = predict(z, t, anchor)
    return F.mse_loss(predict(z, t, condition), cast(Tensor, truth))


@final
class ConceptAblation:
    """Gives a copy of a text-to-image model that draws an anchor where it is asked for what it is to forget.

    With no steps, or nothing to forget, the copy equals the model. Only parameters of the denoiser are trained.

    Args:
        anchor: The caption that is drawn instead, or a sequence with one for each caption to forget: where that is "a
            photo of a grumpy cat" the anchor is "a photo of a cat". The empty caption is no choice of the paper's.
        variant: ``model``, whose target is the model's prediction for the anchor, or ``noise``, whose target is the
            noise in images of it; the paper finds the first better.
        group: What is trained: ``keys_and_values`` of the cross attention, or ``all`` weights of the denoiser.
        lam: Weight of the regularisation, the noise-based loss of the anchor on its own images, at least 0. The code
            has 1 where the anchor's name is part of the concept's, and else 0.
        steps: Steps of AdamW, at least 0.
        lr: Learning rate of AdamW, at least 0; meant for a network of some 860 million weights.
        batch_size: Samples a step, at least 1.
        images: Images of the anchor that the original draws, at least 1, and one for each caption to forget.
        guidance: Weight of the guidance with which it draws them, at least 0; 1 is none.
        sampling_steps: Steps in which it draws them, at least 1.

    Raises:
        ValueError: If a number is out of range, a choice is unknown, or ``anchor`` neither a text nor some.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross", "shape")).build()
        >>> eraser = ConceptAblation(anchor="shape", steps=2, lr=1e-3, images=2, sampling_steps=2)
        >>> erased = eraser(model, ["circle"], [], generator=torch.Generator().manual_seed(0))
        >>> changed = {n for n, p in erased.named_parameters() if not torch.equal(p, model.get_parameter(n))}
        >>> all(".attn2.to_" in name for name in changed)
        True
    """

    def __init__(
        self,
        anchor: str | Sequence[str] = "",
        variant: Literal["model", "noise"] = "model",
        group: Literal["keys_and_values", "all"] = "keys_and_values",
        lam: float = 0.0,
        steps: int = 100,
        lr: float = 1.6e-5,
        batch_size: int = 8,
        images: int = 1000,
        guidance: float = 6.0,
        sampling_steps: int = 25,
    ) -> None:
        if not isinstance(anchor, Sequence) or not all(isinstance(caption, str) for caption in anchor):
            raise ValueError(f"anchor must be a caption or a sequence of captions, got {anchor!r}")
        for name, value, choices in (("variant", variant, ("model", "noise")), ("group", group, _GROUPS)):
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name, value in (("lam", lam), ("lr", lr), ("guidance", guidance)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        counts = {"steps": steps, "batch_size": batch_size, "images": images, "sampling_steps": sampling_steps}
        for name, count in counts.items():
            least = 0 if name == "steps" else 1
            if not isinstance(count, int) or count < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {count}")
        self.anchor = anchor
        self.variant = variant
        self.group: Literal["keys_and_values", "all"] = group
        self.lam = lam
        self.steps = steps
        self.lr = lr
        self.batch_size = batch_size
        self.images = images
        self.guidance = guidance
        self.sampling_steps = sampling_steps

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
            forget: The captions to forget.
            retain: Not read: what holds other words in place is the choice of weights, and ``lam``.
            generator: Draws the images, and for each step which of them, times and noise.
            shape: Shape (C, H, W) of what is diffused; by default that of the model's ``spec``.

        Returns:
            The copy, in the modes and with the flags ``requires_grad`` of the model.

        Raises:
            ValueError: If there are more captions to forget than ``images``, or the model has fewer training times than
                ``sampling_steps``.
            InputError: If ``forget`` is one text, there is not one anchor for all captions or for each, one cannot be
                encoded, the network has no cross attention to train, or the shape is neither given nor known.
        """
        captions = caption_list("forget", forget)
        original, student = cast(Any, model), cast(Any, copied(model))
        if not captions or not self.steps:
            return student
        anchors = self._anchors(len(captions))
        shape = diffused_shape(original, shape)
        with fine_tuned(student, self.group, original) as weights:
            with torch.no_grad():
                x = self._drawn(original, anchors, shape, weights[0], generator)
                forgotten, anchored = (original.condition(each, len(each)) for each in (captions, anchors))
            loss_of = partial(ablation_loss, partial(predict, student))
            optimizer = torch.optim.AdamW(weights, lr=self.lr)
            for _ in range(self.steps):
                z, t, truth, row = self._diffused(original, x, generator)
                pair = row % len(captions)
                wanted = {"anchor": anchored[pair]} if self.variant == "model" else {"truth": truth}
                loss = loss_of(z, t, forgotten[pair], **wanted)
                if self.lam:
                    z, t, truth, row = self._diffused(original, x, generator)
                    loss = loss + self.lam * loss_of(z, t, anchored[row % len(captions)], truth=truth)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(weights, _LARGEST_GRADIENT)
                optimizer.step()
        return student

    def _anchors(self, count: int) -> list[str]:
        """Give an anchor for each caption to forget."""
        anchors = [self.anchor] * count if isinstance(self.anchor, str) else list(self.anchor)
        if len(anchors) != count:
            raise InputError(
                f"anchor must be one caption or one for each of the {count} captions to forget, got {len(anchors)}"
            )
        if self.images < count:
            raise ValueError(f"images must be at least the number {count} of captions to forget, got {self.images}")
        return anchors

    def _drawn(
        self, model: Any, anchors: list[str], shape: tuple[int, int, int], like: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Draw images of the anchors in turn, as they are diffused, (images, C, H, W)."""
        check_sampling_steps(model, self.sampling_steps)
        captions = [anchors[index % len(anchors)] for index in range(self.images)]
        parts = [
            model.encode(
                generate(
                    model,
                    captions[start : start + self.batch_size],
                    shape,
                    generator=generator,
                    guidance=self.guidance,
                    steps=self.sampling_steps,
                    device=like.device,
                )
            )
            for start in range(0, self.images, self.batch_size)
        ]
        return torch.cat(parts).to(like)

    def _diffused(self, model: Any, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Draw images with noise, and give these, their times, what a network is to predict, and which they are."""
        counts, place = (self.batch_size,), {"generator": generator, "device": generator.device}
        row = torch.randint(len(x), counts, **place).to(x.device)
        t = torch.randint(len(model.schedule), counts, **place)
        abar = model.schedule.abar[t.cpu()]
        noise = normal(x[row], generator)
        truth = target(x[row], noise, abar, prediction_of(model))
        return add_noise(x[row], noise, abar), t.to(x.device), truth, row
