"""Erased stable diffusion (ESD): a text-to-image model is trained to answer a word as if it were guided away from it.

For the word the denoiser learns the prediction for the empty caption minus what the word adds to it, both as the
original model has them, so that no image is needed: the original is the teacher, the words alone are the data.
Cost: a step takes one forward and backward pass of the student, two passes of the original and, to make what is
denoised, up to ``sampling_steps`` guided steps; the original and the student are in memory, and Adam's state.

Source:
    R. Gandikota, J. Materzynska, J. Fiotto-Kaufman, D. Bau, "Erasing Concepts from Diffusion Models", ICCV, 2023,
    https://arxiv.org/abs/2303.07345, and the authors' code, https://github.com/rohitgandikota/erasing. Implemented:
    the target of negative guidance, training on it with ESD-x (cross attention) or ESD-u (all but cross attention),
    and two modes of the code, strict x (keys and values) and all. Defaults are those of the script of the paper's time.

Deviations:
    - The authors' later script has other defaults: latents from the original, ``eta`` 2, ``lr`` 5e-5 and 200 steps.
      Its target is eps_c - eta' (eps_c - eps_0), which is ours at ``eta = eta' - 1``: the 2 there is the 1 here.
    - The time is one of the sampler's own. The first script draws it from the interval up to the next one.
    - ``u`` and ``all`` take every parameter. The later script leaves out those of normalisation, the first one, in the
      mode that became u, those of the time embedding and of the last layer.
    - All runs in eval mode: dropout is off, and batch normalisation uses its running statistics.
    - Errors are those of what the network predicts, which is the noise in the authors' networks and may be the data or
      the velocity here; the target is the same combination of either.
    - Where what is diffused has a range, the sampler holds the estimate of the data to it.
    - Of a model that is no module, such as an adapted pipeline, the denoiser alone is copied: the result is a shallow
      copy with the trained denoiser as its ``network``, and the pipeline behind it keeps the original one.
    - Erasing a word from another one (``erase_from`` in the later script) is left out.
"""

import math
from collections.abc import Sequence
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.generators.cross_attention import ParameterGroup
from paperweight.generators.generation import partly_denoised
from paperweight.unlearning._fine_tuning import (
    Model,
    caption_list,
    check_sampling_steps,
    copied,
    diffused_shape,
    fine_tuned,
    predict,
)

__all__ = ["ESD", "esd_target"]

PAPER = Paper(
    title="Erasing Concepts from Diffusion Models",
    authors=("Rohit Gandikota", "Joanna Materzynska", "Jaden Fiotto-Kaufman", "David Bau"),
    year=2023,
    url="https://arxiv.org/abs/2303.07345",
    provides={"ESD": "unlearner", "esd_target": "function"},
    null={"steps": 0},
    claim="Training on negative guidance as the teacher removes a concept from the weights, given only its name.",
)

_GROUPS: dict[str, ParameterGroup] = {
    "x": "cross_attention",
    "u": "all_but_cross_attention",
    "x-strict": "keys_and_values",
    "all": "all",
}


def esd_target(without: Tensor, given: Tensor, eta: float) -> Tensor:
    """Compute eps_0 - eta (eps_c - eps_0), the noise that the student is to predict for the word.

    It is guidance of weight ``-eta``; written from the word's side it is eps_c - (eta + 1) (eps_c - eps_0).

    Args:
        without: The original's prediction eps_0 for the empty caption, (N, ...).
        given: The original's prediction eps_c for the word, of the same shape.
        eta: Weight of the negative guidance, at least 0; 0 aims at the empty caption, 1 is the paper's.

    Returns:
        The target, of the same shape.

    Raises:
        ValueError: If eta is negative or not finite.

    Example:
        >>> esd_target(torch.tensor([1.0]), torch.tensor([3.0]), eta=1.0)
        tensor([-1.])
    """
    _check_finite({"eta": eta})
    return without - eta * (given - without)


@final
class ESD:
    """Gives a copy of a text-to-image model that has unlearned words: training on negative guidance as the teacher.

    With no steps, or nothing to forget, the copy equals the model. Only parameters of the denoiser are trained; the
    text encoder stays as it is. The model runs in eval mode meanwhile.

    Args:
        mode: What is trained: ``x``, the cross attention, which the paper has for what its name alone calls up, such as
            a style; ``u``, all but the cross attention, for what other captions call up, too; ``x-strict``, keys and
            values of the cross attention; ``all``.
        eta: Weight of the negative guidance, at least 0; the paper has 1. What is 2 in the authors' later script is 1.
        start_guidance: Weight of the guidance towards the word in the sampler, at least 0; 1 is none.
        steps: Steps of Adam, at least 0; the paper has 1000.
        lr: Learning rate of Adam, at least 0; the paper has 1e-5, for a network of some 860 million weights.
        sampling_steps: Steps of the whole way from noise to an image, at least 1; a part of it is gone in each step.
        latents_from: Which model goes that way, the ``student`` as it is by then, as in the paper, or the ``original``.
        batch_size: Samples a step, at least 1, all of one word and one time.

    Raises:
        ValueError: If a number is out of range, or a choice is unknown.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross")).build()
        >>> erased = ESD(steps=2, sampling_steps=3, lr=1e-3)(
        ...     model, ["circle"], ["cross"], generator=torch.Generator().manual_seed(0)
        ... )
        >>> changed = {n for n, p in erased.named_parameters() if not torch.equal(p, model.get_parameter(n))}
        >>> all(".attn2." in name for name in changed)
        True
    """

    def __init__(
        self,
        mode: Literal["x", "u", "x-strict", "all"] = "x",
        eta: float = 1.0,
        start_guidance: float = 3.0,
        steps: int = 1000,
        lr: float = 1e-5,
        sampling_steps: int = 50,
        latents_from: Literal["original", "student"] = "student",
        batch_size: int = 1,
    ) -> None:
        if mode not in _GROUPS:
            raise ValueError(f"mode must be one of {', '.join(_GROUPS)}, got {mode!r}")
        if latents_from not in ("original", "student"):
            raise ValueError(f"latents_from must be 'original' or 'student', got {latents_from!r}")
        _check_finite({"eta": eta, "start_guidance": start_guidance, "lr": lr})
        counts = {"steps": (steps, 0), "sampling_steps": (sampling_steps, 1), "batch_size": (batch_size, 1)}
        for name, (count, least) in counts.items():
            if not isinstance(count, int) or count < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {count}")
        self.mode = mode
        self.eta = eta
        self.start_guidance = start_guidance
        self.steps = steps
        self.lr = lr
        self.sampling_steps = sampling_steps
        self.latents_from = latents_from
        self.batch_size = batch_size

    def __call__(
        self,
        model: Model,
        forget: Sequence[str],
        retain: Sequence[str],
        *,
        generator: torch.Generator,
        shape: tuple[int, int, int] | None = None,
    ) -> Model:
        """Return a copy of a model that has unlearned words, and leave the model as it is.

        Args:
            model: Meets `ConditionalDiffusion`, with the denoiser as ``network``, such as `TextToImage`.
            forget: Words, or whole captions, one of which is drawn in each step.
            retain: Not read: the method has nothing that holds other words in place.
            generator: Draws the word, the step to stop at, and the noise.
            shape: Shape (C, H, W) of what is diffused; by default that of the model's ``spec``.

        Returns:
            The copy, in the modes and with the flags ``requires_grad`` of the model.

        Raises:
            ValueError: If the model has fewer training times than ``sampling_steps``.
            InputError: If ``forget`` is one text, a caption cannot be encoded, the network has no cross attention for
                the mode, or the shape is neither given nor known.
        """
        captions, student = caption_list("forget", forget), copied(model)
        if not captions or not self.steps:
            return student
        shape = diffused_shape(model, shape)
        check_sampling_steps(model, self.sampling_steps)
        sampled = model if self.latents_from == "original" else student
        with fine_tuned(student, _GROUPS[self.mode], model) as weights:
            optimizer = torch.optim.Adam(weights, lr=self.lr)
            with torch.no_grad():
                conditions = [model.condition([each] * self.batch_size, self.batch_size) for each in captions]
                empty = model.condition(None, self.batch_size)
            for _ in range(self.steps):
                index = int(torch.randint(len(captions), (), generator=generator, device=generator.device))
                z, t = partly_denoised(
                    sampled,
                    [captions[index]] * self.batch_size,
                    shape,
                    generator=generator,
                    guidance=self.start_guidance,
                    steps=self.sampling_steps,
                    device=weights[0].device,
                )
                with torch.no_grad():
                    target = esd_target(predict(model, z, t, empty), predict(model, z, t, conditions[index]), self.eta)
                optimizer.zero_grad()
                F.mse_loss(predict(student, z, t, conditions[index]), target).backward()
                optimizer.step()
        return student


def _check_finite(values: dict[str, float]) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
