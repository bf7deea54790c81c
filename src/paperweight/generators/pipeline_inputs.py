"""What the network of a text-to-image pipeline is given beside the noisy image, and networks that ask for more.

Source:
    D. Podell et al., "SDXL: Improving Latent Diffusion Models for High-Resolution Image Synthesis", ICLR, 2024, section
    2.2 (the size of the image, and pooled embeddings of the caption); J. Chen et al., "PixArt-alpha: Fast Training of
    Diffusion Transformer for Photorealistic Text-to-Image Synthesis", ICLR, 2024 (a mask of the tokens). Names and
    order of inputs are those of diffusers 0.42.1.
"""

import inspect
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.errors import InputError
from paperweight.generators.pipeline_parts import find, need, place, still

__all__ = ["NetworkInputs", "Texts", "pack", "unpack"]

_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
_ASKED = ("prompt", "device", "num_images_per_prompt", "do_classifier_free_guidance")
_SHARED = ("clean_caption", "max_sequence_length")
"""Settings of ``encode_prompt`` for which the pipeline's own call has another default."""
_GUIDING = ("controlnet", "adapter", "movq")
"""Parts that change what is predicted, or what latents are, beside or in place of those that are used here."""
_NOT_GIVEN = {
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "time_cond_proj_dim": (None,),
    "addition_embed_type": (None, "text", "text_time"),
    "encoder_hid_dim_type": (None, "text_proj"),
}
"""Settings of a network, and the values with which it needs no input that a text-to-image pipeline has not."""
_SIZES = 6


class Texts(NamedTuple):
    """Captions as a network sees them.

    Args:
        tokens: Their tokens, (N, L, dim).
        mask: 1 for tokens to attend to, 0 for padding, (N, L); None where all are attended to.
        pooled: One embedding for the whole caption, (N, P), or None.
    """

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None


def pack(texts: Texts) -> Tensor:
    """Put mask and pooled embeddings in rows behind the tokens, so that what selects captions selects all of it.

    Args:
        texts: The captions.

    Returns:
        Tokens, then ceil(L / dim) rows of the mask and ceil(P / dim) of the pooled embeddings, filled up with zeros;
        (N, rows, dim), in the dtype of the tokens.

    Example:
        >>> pack(Texts(torch.ones(2, 3, 4), mask=torch.ones(2, 3), pooled=torch.ones(2, 5))).shape
        torch.Size([2, 6, 4])
    """
    dim = texts.tokens.shape[2]
    more = [each.to(texts.tokens) for each in (texts.mask, texts.pooled) if each is not None]
    return torch.cat([texts.tokens, *(F.pad(row, (0, -row.shape[1] % dim)).unflatten(1, (-1, dim)) for row in more)], 1)


def unpack(condition: Tensor, masked: bool, pooled: int) -> Texts:
    """Take apart what `pack` put together.

    Args:
        condition: Rows, (N, rows, dim).
        masked: Whether it holds a mask.
        pooled: Size P of its pooled embeddings; 0 for none.

    Example:
        >>> texts = Texts(torch.rand(2, 3, 4), pooled=torch.rand(2, 5))
        >>> torch.equal(unpack(pack(texts), masked=False, pooled=5).pooled, texts.pooled)
        True
    """
    dim = condition.shape[2]
    rest = condition.shape[1] - ceil(pooled / dim)
    length = rest - ceil(rest / (dim + 1)) if masked else rest  # rest = length + ceil(length / dim)
    return Texts(
        condition[:, :length].contiguous(),  # strides decide how numbers of low precision are rounded
        condition[:, length:rest].flatten(1)[:, :length] if masked else None,
        condition[:, rest:].flatten(1)[:, :pooled] if pooled else None,
    )


@final
class NetworkInputs:
    """Encodes captions for the network of a pipeline, and gives what the network is called with.

    Args:
        pipeline: The pipeline.
        network: Its denoising network.
        named: The network's name there, ``unet`` or ``transformer``.

    Raises:
        InputError: If the network needs an input that a caption and a size do not give.
    """

    def __init__(self, pipeline: Any, network: Any, named: str) -> None:
        self._pipeline = pipeline
        self._named = named
        self._encode_prompt: Callable[..., Any] = need(pipeline, "encode_prompt", "pipeline")
        self._options = _options(pipeline, self._encode_prompt)
        accepts = _parameters(network)
        config = find(network, "config")
        _refuse_unknown_inputs(pipeline, named, config, accepts)
        self._takes_mask = accepts is None or "encoder_attention_mask" in accepts
        self._takes_sizes = bool(find(network, "use_additional_conditions"))
        self._pooled = 0
        if find(config, "addition_embed_type") == "text_time":
            whole = int(need(config, "projection_class_embeddings_input_dim", f"{named}.config"))
            self._pooled = whole - _SIZES * int(need(config, "addition_time_embed_dim", f"{named}.config"))
        zeros = find(find(pipeline, "config"), "force_zeros_for_empty_prompt")
        self._empty_is_zero = bool(self._pooled and zeros)
        self._masked: bool | None = None if self._takes_mask else False

    def encode(self, captions: list[str] | None, count: int, network: Any) -> Tensor:
        """Give the condition of ``count`` captions, or of the empty one for None, packed, (count, rows, dim)."""
        device, dtype = place(network)
        texts = self._texts([""] * count if captions is None else captions, device)
        condition = pack(texts._replace(tokens=texts.tokens.to(device, dtype)))
        return torch.zeros_like(condition) if captions is None and self._empty_is_zero else condition

    def given(self, condition: Tensor, sides: tuple[int, int]) -> dict[str, Any]:
        """Give all but image and time that a network is called with.

        Args:
            condition: As `encode` gives it, (N, rows, dim), where the network is.
            sides: Height and width of the noisy image, which latents have fewer of than pixels.
        """
        if self._masked is None:
            self._texts([""], condition.device)
        texts = unpack(condition, bool(self._masked), self._pooled)
        given: dict[str, Any] = {"encoder_hidden_states": texts.tokens}
        if texts.mask is not None:
            given["encoder_attention_mask"] = texts.mask
        if texts.pooled is not None:
            height, width = self._pixels(sides)
            sizes = torch.tensor([height, width, 0, 0, height, width]).to(condition).expand(len(condition), -1)
            given["added_cond_kwargs"] = {"text_embeds": texts.pooled, "time_ids": sizes}
        elif self._takes_sizes:
            height, width = self._pixels(sides)
            given["added_cond_kwargs"] = {
                "resolution": torch.tensor([height, width]).to(condition).expand(len(condition), -1),
                "aspect_ratio": torch.tensor([height / width]).to(condition).expand(len(condition), -1),
            }
        return given

    def _pixels(self, sides: tuple[int, int]) -> tuple[int, int]:
        factor = 1 if find(self._pipeline, "vae") is None else int(need(self._pipeline, "vae_scale_factor", "pipeline"))
        return sides[0] * factor, sides[1] * factor

    def _texts(self, captions: list[str], device: torch.device) -> Texts:
        """Let the pipeline encode captions, and find among what it gives what the network takes."""
        with still(*(find(self._pipeline, name) for name in _ENCODERS)):
            outputs = self._encode_prompt(
                prompt=captions,
                device=device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
                **self._options,
            )
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        tokens = outputs[0] if outputs else None
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or len(tokens) != len(captions):
            got = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise InputError(
                f"encode_prompt of the pipeline must give prompt_embeds ({len(captions)}, L, dim) first for "
                f"{len(captions)} captions, got {got}; give a pipeline whose network takes a sequence of tokens"
            )
        others = [each for each in outputs[1:] if isinstance(each, Tensor) and each.ndim == 2]
        mask = next((each for each in others if _is_mask(each, tokens)), None)
        if mask is not None and not self._takes_mask:
            raise InputError(
                f"encode_prompt of the pipeline gives a mask of the tokens, and its {self._named} takes no "
                "encoder_attention_mask, without which its predictions would be others; give a pipeline such as "
                "PixArt's, whose network takes it under that name"
            )
        self._masked = mask is not None
        return Texts(tokens, mask, self._found_pooled([each for each in others if each is not mask]))

    def _found_pooled(self, others: list[Tensor]) -> Tensor | None:
        if not self._pooled:
            return None
        pooled = others[0] if others else None
        if pooled is None or pooled.shape[1] != self._pooled:
            raise InputError(
                f"encode_prompt of the pipeline must give pooled embeddings of {self._pooled} numbers for its "
                f"{self._named}, got {None if pooled is None else pooled.shape[1]}; give a text-to-image pipeline as "
                "SDXL's base (its refiner takes other inputs)"
            )
        return pooled


def _is_mask(value: Tensor, tokens: Tensor) -> bool:
    return value.shape == tokens.shape[:2] and bool(((value == 0) | (value == 1)).all())


def _parameters(call: Any) -> Mapping[str, inspect.Parameter] | None:
    """Give the parameters of something callable by name, or None where it takes any."""
    parameters = inspect.signature(getattr(call, "forward", call)).parameters
    return None if any(each.kind is each.VAR_KEYWORD for each in parameters.values()) else parameters


def _options(pipeline: Any, encode_prompt: Callable[..., Any]) -> dict[str, Any]:
    """Give the settings that the pipeline's own call encodes captions with.

    Raises:
        InputError: If ``encode_prompt`` is not that of a text-to-image pipeline.
    """
    own = inspect.signature(encode_prompt).parameters
    missing = [name for name in _ASKED if name not in own]
    if missing and all(each.kind is not each.VAR_KEYWORD for each in own.values()):
        raise InputError(
            f"encode_prompt of the pipeline must take {', '.join(_ASKED)}, and takes no {missing[0]}; give a "
            "text-to-image pipeline"
        )
    called = inspect.signature(pipeline).parameters if callable(pipeline) else {}
    return {name: called[name].default for name in _SHARED if name in own and name in called}


def _refuse_unknown_inputs(
    pipeline: Any, named: str, config: Any, accepts: Mapping[str, inspect.Parameter] | None
) -> None:
    """Refuse a network which would predict something else, or nothing, by what it can be given here."""
    remedy = "give a text-to-image pipeline that is asked with captions alone"
    for part in _GUIDING:
        if find(pipeline, part) is not None:
            raise InputError(f"the pipeline has a part {part}, which its predictions or latents depend on; {remedy}")
    for setting, known in _NOT_GIVEN.items():
        value = find(config, setting)
        if value not in known:
            raise InputError(
                f"{named}.config.{setting} of the pipeline must be {' or '.join(map(str, known))}, got {value!r}: the "
                f"network takes more than a caption; {remedy}"
            )
    taken, made = find(config, "in_channels"), find(config, "out_channels")
    if taken is not None and made is not None and made not in (taken, 2 * taken):
        raise InputError(
            f"{named} of the pipeline must take the noisy image alone, and has {taken} channels in and {made} out, as "
            f"those that inpaint, edit or enlarge images; {remedy}"
        )
    positional = 2 if named == "unet" else 1
    required = [
        name
        for name, each in list((accepts or {}).items())[positional:]
        if each.default is each.empty and each.kind is not each.VAR_POSITIONAL
    ]
    unknown = [name for name in required if name not in ("timestep", "encoder_hidden_states")]
    if unknown:
        raise InputError(f"{named} of the pipeline must be called with {unknown[0]}, which is not known here; {remedy}")
