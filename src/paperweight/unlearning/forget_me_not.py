"""Forget-Me-Not: a text-to-image model is trained to look away from a concept, by attention re-steering.

On images of the concept, with noise, every place of every cross attention shares its attention among the tokens of the
caption. The denoiser is trained until little of it falls on the tokens that name the concept; what it predicts is not
asked for, so that a few steps are enough, and too many harm the rest.
Cost: a step takes one forward and backward pass of the student, whose attention is computed once more beside it; before
the first step the images are generated, if none are given. Original and student are in memory, and AdamW's state.

Source:
    G. Zhang, K. Wang, X. Xu, Z. Wang, H. Shi, "Forget-Me-Not: Learning to Forget in Text-to-Image Diffusion Models",
    CVPR Workshops, 2024, https://arxiv.org/abs/2303.17591. Implemented: attention re-steering. Defaults are those of
    the settings in the authors' repository, https://github.com/SHI-Labs/Forget-Me-Not, which has no licence: none of
    its code was used.

Deviations:
    - The concept is known by its words. The optional first stage, which inverts it into four new tokens, is left out;
      a model that has such tokens (`TextToImage.with_words`) can be given captions with them.
    - Images are drawn from the original model where the authors take some ten photographs; ``images`` takes theirs.
    - The end of the caption is one token. In encoders without a mask padding carries the concept, too, and attention
      may move there; mark it in ``positions``.
    - Concept correction, prior preservation and training of the text encoder are left out.
    - All runs in eval mode. Of a model that is no module, such as an adapted pipeline, the denoiser alone is copied. It
      does not tell where words stand in a caption: ``positions`` must be given.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.generators.cross_attention import attention_maps
from paperweight.generators.generation import generate
from paperweight.generators.process import add_noise, normal
from paperweight.generators.protocol import ConditionalDiffusion
from paperweight.generators.text_model import TextToImage
from paperweight.unlearning._fine_tuning import (
    Model,
    caption_list,
    check_sampling_steps,
    copied,
    diffused_shape,
    fine_tuned,
)

__all__ = ["ForgetMeNot", "attention_mass"]

PAPER = Paper(
    title="Forget-Me-Not: Learning to Forget in Text-to-Image Diffusion Models",
    authors=("Gong Zhang", "Kai Wang", "Xingqian Xu", "Zhangyang Wang", "Humphrey Shi"),
    year=2024,
    url="https://arxiv.org/abs/2303.17591",
    provides={"ForgetMeNot": "unlearner", "attention_mass": "function"},
    null={"steps": 0},
    claim="A few steps that lower the attention to a concept's tokens make the model forget it and leave others alone.",
)


def attention_mass(maps: Mapping[str, Tensor], positions: Tensor) -> Tensor:
    """Compute the 2-norm of all attention to some tokens, over all layers, samples, heads and places at once.

    Where nothing is marked it is 0, and so is its gradient.

    Args:
        maps: By name of the layer its probabilities, (N, heads, places, L), at least one layer.
        positions: Marks the tokens of each sample, bool, (N, L).

    Returns:
        A scalar.

    Raises:
        ValueError: If there is no layer, or ``positions`` is not bool or does not fit.

    Example:
        >>> maps = {"attn2": torch.tensor([[[[0.6, 0.4, 0.0], [0.8, 0.0, 0.2]]]])}
        >>> attention_mass(maps, torch.tensor([[True, False, False]]))
        tensor(1.)
    """
    shapes = [(len(layer), layer.shape[-1]) for layer in maps.values()]
    if not shapes or positions.dtype != torch.bool or any(shape != positions.shape for shape in shapes):
        raise ValueError(
            f"positions must be bool, (N, L), and maps at least one of (N, heads, places, L), got {positions.dtype}, "
            f"{tuple(positions.shape)} for {[tuple(layer.shape) for layer in maps.values()]}"
        )
    marked = [layer.masked_select(positions[:, None, None]) for layer in maps.values()]
    return torch.linalg.vector_norm(torch.cat(marked))


@final
class ForgetMeNot:
    """Gives a copy of a text-to-image model that looks away from a concept, by attention re-steering.

    With no steps, or nothing to forget, the copy equals the model. Only parameters of the denoiser are trained; the
    text encoder stays as it is. The model runs in eval mode meanwhile.

    Args:
        group: What is trained: ``all``, the whole denoiser, or ``cross_attention``.
        end: Whether attention to the end of the caption is lowered, too, as in the authors' settings.
        steps: Steps of AdamW, at least 0; the paper has 35.
        lr: Learning rate of AdamW, at least 0; the paper has 2e-6, for a network of some 860 million weights.
        weight_decay: Weight decay of AdamW, at least 0; the authors have 0.01.
        clip: Largest norm of the gradient, above 0, to which longer ones are clipped; the authors have 1.
        batch_size: Samples a step, at least 1, each with an image, a time and noise of its own; the authors have 1.
        image_count: Images that are generated for each caption, at least 1; the authors have about 10 photographs.
        guidance: Weight of the guidance with which they are generated, at least 0; 1 is none.
        sampling_steps: Steps from noise to such an image, at least 1.

    Raises:
        ValueError: If a number is out of range, or a choice is unknown.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross")).build()
        >>> erased = ForgetMeNot(group="cross_attention", steps=2, lr=1e-3, sampling_steps=3)(
        ...     model, ["circle"], ["cross"], generator=torch.Generator().manual_seed(0)
        ... )
        >>> changed = {n for n, p in erased.named_parameters() if not torch.equal(p, model.get_parameter(n))}
        >>> all(".attn2." in name for name in changed)
        True
    """

    def __init__(
        self,
        group: Literal["all", "cross_attention"] = "all",
        end: bool = True,
        steps: int = 35,
        lr: float = 2e-6,
        weight_decay: float = 0.01,
        clip: float = 1.0,
        batch_size: int = 1,
        image_count: int = 10,
        guidance: float = 3.0,
        sampling_steps: int = 50,
    ) -> None:
        if group not in ("all", "cross_attention"):
            raise ValueError(f"group must be 'all' or 'cross_attention', got {group!r}")
        for name, value in {"lr": lr, "weight_decay": weight_decay, "guidance": guidance}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        if not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip}")
        counts = {"batch_size": batch_size, "image_count": image_count, "sampling_steps": sampling_steps}
        for name, count in {"steps": steps, **counts}.items():
            least = 0 if name == "steps" else 1
            if not isinstance(count, int) or count < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {count}")
        self.group: Literal["all", "cross_attention"] = group
        self.end = end
        self.steps = steps
        self.lr = lr
        self.weight_decay = weight_decay
        self.clip = clip
        self.batch_size = batch_size
        self.image_count = image_count
        self.guidance = guidance
        self.sampling_steps = sampling_steps

    def __call__(
        self,
        model: Model,
        forget: Sequence[str],
        retain: Sequence[str],
        *,
        generator: torch.Generator,
        positions: Tensor | None = None,
        images: Tensor | None = None,
        shape: tuple[int, int, int] | None = None,
    ) -> Model:
        """Return a copy of a model that looks away from a concept, and leave the model as it is.

        Args:
            model: Meets `ConditionalDiffusion`, with the denoiser as ``network``, such as `TextToImage`.
            forget: Names of the concept, or captions with them.
            retain: Not read: the method has nothing that holds other words in place.
            generator: Draws the noise of the images and, in each step, images, times and noise.
            positions: Marks the tokens of the concept in each caption, bool, (captions, L), the end or not, such as
                `TextToImage.tokens_of` gives them; by default every word and, if ``end`` says so, the end.
            images: Images of the concept in [0, 1], as many a caption, (captions, M, C, H, W); by default they are
                generated by the model.
            shape: Shape (C, H, W) of what is diffused, to generate images; by default that of the model's ``spec``.

        Returns:
            The copy, in the modes and with the flags ``requires_grad`` of the model.

        Raises:
            ValueError: If images are to be generated in more steps than the model has training times.
            InputError: If ``forget`` is one text, a caption cannot be encoded, the network has no cross attention,
                ``positions`` or ``images`` do not fit the captions or mark nothing in one, or the model does not tell
                positions or shape, and they are not given.
        """
        captions, student = caption_list("forget", forget), copied(model)
        if not captions or not self.steps:
            return student
        network = cast(Any, student).network
        with fine_tuned(student, self.group, model) as weights:
            device = weights[0].device
            with torch.no_grad():
                conditions = cast(Tensor, model.condition(captions, len(captions)))
            marks = self._marks(model, captions, conditions, positions)
            x = self._encoded(model, captions, images, shape, generator, device)
            optimizer = torch.optim.AdamW(weights, lr=self.lr, weight_decay=self.weight_decay)
            for _ in range(self.steps):
                t, row = (
                    self._drawn(count, generator).to(device) for count in (len(model.schedule), x.shape[:2].numel())
                )
                clean, of = x.flatten(0, 1)[row], row // x.shape[1]
                z = add_noise(clean, normal(clean, generator), model.schedule.abar[t.cpu()])
                maps = attention_maps(network, partial(student.eps, z, t, conditions[of]))
                optimizer.zero_grad()
                attention_mass(maps, marks[of]).backward()
                nn.utils.clip_grad_norm_(weights, self.clip)
                optimizer.step()
        return student

    def _drawn(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(count, (self.batch_size,), generator=generator, device=generator.device)

    def _marks(
        self, model: ConditionalDiffusion, captions: list[str], conditions: Tensor, positions: Tensor | None
    ) -> Tensor:
        """Give the marks of each caption, bool, (captions, L)."""
        if positions is None:
            if not isinstance(model, TextToImage):
                raise InputError(
                    f"positions must be given for a {type(model).__name__}, which does not tell where words stand in a "
                    "caption; mark the tokens of the concept, bool, (captions, L)"
                )
            positions = model.tokens_of(captions, " ".join(captions).lower().split(), end=self.end)
        if positions.dtype != torch.bool or positions.shape != conditions.shape[:2] or not positions.any(dim=1).all():
            raise InputError(
                f"positions must mark a token of each caption, bool, {tuple(conditions.shape[:2])}; got "
                f"{positions.dtype}, {tuple(positions.shape)}, {positions.sum(-1).tolist()} marked; of a pipeline "
                "whose conditions have a mask or pooled embeddings in rows behind the tokens (PixArt, SDXL) none can: "
                "the attention does not see these rows: give another eraser, such as ESD or ConceptAblation"
            )
        return positions.to(conditions.device)

    def _encoded(
        self,
        model: ConditionalDiffusion,
        captions: list[str],
        images: Tensor | None,
        shape: tuple[int, int, int] | None,
        generator: torch.Generator,
        device: torch.device,
    ) -> Tensor:
        """Give what is diffused of the images of each caption, (captions, M, ...)."""
        if images is None:
            check_sampling_steps(model, self.sampling_steps)
            images = generate(
                model,
                [caption for caption in captions for _ in range(self.image_count)],
                diffused_shape(model, shape),
                generator=generator,
                guidance=self.guidance,
                steps=self.sampling_steps,
                device=device,
            ).unflatten(0, (len(captions), self.image_count))
        if images.ndim != 5 or len(images) != len(captions) or not images.shape[1]:
            raise InputError(
                f"images must be ({len(captions)}, M, C, H, W), as many for each caption and at least one, got "
                f"{tuple(images.shape)}"
            )
        with torch.no_grad():
            return model.encode(images.flatten(0, 1).to(device)).unflatten(0, images.shape[:2])
