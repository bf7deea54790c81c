"""A text-to-image pipeline of the usual form as a `ConditionalDiffusion`; no pipeline library is imported."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators.process import NoiseSchedule, Prediction, split_prediction

__all__ = ["PipelineAdapter"]

_PREDICTIONS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@final
class PipelineAdapter:
    """Meets `ConditionalDiffusion` with the parts of a text-to-image pipeline, which stays as it is.

    The pipeline needs ``encode_prompt``; ``unet`` or ``transformer``; ``scheduler`` with ``alphas_cumprod`` and
    ``config.prediction_type``; and, where it diffuses latents, ``vae`` with ``config.scaling_factor``. Latents are
    ``(code - shift_factor) * scaling_factor``, of the code that is most likely for the image.

    Args:
        pipeline: The pipeline. Weights, modes and gradients of its modules are not changed.

    Raises:
        InputError: If a part is missing, or its schedule or prediction is of another form.

    Attributes:
        network: The denoising network itself; whoever trains it trains the pipeline's.
        schedule: All training times.
        clamp: None for latents, (-1, 1) without a ``vae``.
        prediction: What the network predicts: ``eps``, ``x0`` or ``v``.

    Example:
        >>> from types import SimpleNamespace
        >>> pipeline = SimpleNamespace(
        ...     encode_prompt=lambda prompt, **_: (torch.ones(len(prompt), 1, 4), None),
        ...     unet=lambda z, t, encoder_hidden_states: (z,),
        ...     scheduler=SimpleNamespace(
        ...         alphas_cumprod=torch.tensor([0.9, 0.5]), config=SimpleNamespace(prediction_type="epsilon")
        ...     ),
        ... )
        >>> model = PipelineAdapter(pipeline)
        >>> model.eps(torch.ones(1, 3, 8, 8), torch.tensor([1]), model.condition(["a cat"], 1)).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self._encode_prompt = _need(pipeline, "encode_prompt", "pipeline")
        self._named = "unet" if _find(pipeline, "unet") is not None else "transformer"
        self.network = _find(pipeline, self._named)
        if self.network is None:
            raise InputError(
                "the pipeline must have a denoising network, unet or transformer, and has neither; give one whose "
                "unet(sample, timestep, encoder_hidden_states=...) predicts the noise"
            )
        self.vae = _find(pipeline, "vae")
        self._scale, self._shift = 1.0, 0.0
        if self.vae is not None:
            _need(self.vae, "encode", "vae")
            _need(self.vae, "decode", "vae")
            setting = _need(self.vae, "config", "vae")
            self._scale = float(_need(setting, "scaling_factor", "vae.config"))
            self._shift = float(_find(setting, "shift_factor") or 0.0)
        self.clamp: tuple[float, float] | None = (-1.0, 1.0) if self.vae is None else None
        scheduler = _need(pipeline, "scheduler", "pipeline")
        self.schedule = _schedule(scheduler)
        named = _need(_need(scheduler, "config", "scheduler"), "prediction_type", "scheduler.config")
        if named not in _PREDICTIONS:
            raise InputError(
                f"prediction_type of the pipeline's scheduler.config must be one of {', '.join(_PREDICTIONS)}, "
                f"got {named!r}; give a pipeline that was trained to predict one of them"
            )
        self.prediction: Prediction = _PREDICTIONS[named]

    def condition(self, given: Sequence[str] | None, count: int) -> Tensor:
        """Encode captions, without gradients and in eval mode.

        Args:
            given: One caption a sample, or None for the empty caption.
            count: Number of samples.

        Returns:
            Tokens, (count, L, dim), in dtype and on the device of the network.

        Raises:
            InputError: If there are not ``count`` texts, or the pipeline does not give one row of tokens for each.
        """
        captions = [""] * count if given is None else list(given)
        if isinstance(given, str) or len(captions) != count or not all(isinstance(text, str) for text in captions):
            raise InputError(
                f"captions must be {count} texts, one for each sample, or None for the empty one; got {given!r}"
            )
        device, dtype = _place(self.network)
        encoders = [_find(self.pipeline, f"text_encoder{suffix}") for suffix in ("", "_2", "_3")]
        with _still(*encoders):
            tokens = self._encode_prompt(
                prompt=captions, device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        tokens = tokens[0] if isinstance(tokens, tuple | list) else tokens
        if not isinstance(tokens, Tensor) or tokens.ndim != 3 or len(tokens) != count:
            got = tuple(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            raise InputError(
                f"encode_prompt of the pipeline must give prompt_embeds ({count}, L, dim) first for {count} captions, "
                f"got {got}; give a pipeline whose network takes a sequence of tokens"
            )
        return tokens.to(device, dtype)

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the noise, with gradients where the network or its inputs have them, in the mode that it is in.

        Args:
            z: What is diffused, with noise, (N, C, H, W).
            t: Training times, int64, (N,).
            condition: Tokens of the captions, (N, L, dim); None for the empty caption.

        Returns:
            The noise, in shape, dtype and device of ``z``.

        Raises:
            InputError: If the network's output has another shape; of twice the channels, as where the variance is
                predicted too, the first half is taken.
        """
        tokens = self.condition(None, len(z)) if condition is None else condition
        device, dtype = _place(self.network, z)
        inputs, times, tokens = z.to(device, dtype), t.to(device), tokens.to(device, dtype)
        if self._named == "unet":
            output = self.network(inputs, times, encoder_hidden_states=tokens)
        else:
            output = self.network(inputs, timestep=times, encoder_hidden_states=tokens)
        output = _tensor(output, "sample", self._named)
        if output.ndim == z.ndim and output.shape[1] == 2 * z.shape[1]:
            output = output[:, : z.shape[1]]
        if output.shape != z.shape:
            raise InputError(
                f"{self._named} of the pipeline must predict the shape of its input {tuple(z.shape)}, "
                f"got {tuple(output.shape)}; give a text-to-image pipeline"
            )
        return split_prediction(z, output.to(z), self.schedule.abar[t.cpu()], self.prediction)[1]

    def encode(self, images: Tensor) -> Tensor:
        """Map images to what is diffused, without gradients and with the ``vae`` in eval mode.

        Args:
            images: Images in [0, 1], (N, C, H, W).

        Returns:
            Latents, (N, c, h, w), or 2 x - 1 where there is no ``vae``; in dtype and on the device of the network.
        """
        x = 2 * images - 1
        place = _place(self.network, x)
        if self.vae is None:
            return x.detach().to(*place)
        with _still(self.vae):
            code = self.vae.encode(x.to(*_place(self.vae, x)))
            law = _find(code, "latent_dist")
            latents = _tensor(code, "latents", "vae.encode") if law is None else law.mode()
            return ((latents - self._shift) * self._scale).to(*place)

    def decode(self, z: Tensor) -> Tensor:
        """Map what is diffused to images, without gradients and with the ``vae`` in eval mode.

        Args:
            z: Latents, (N, c, h, w), or pixels in [-1, 1] where there is no ``vae``.

        Returns:
            Images, (N, C, H, W), in dtype and on the device of ``z``; those of a ``vae`` are held to [0, 1].
        """
        if self.vae is None:
            return (z.detach() + 1) / 2
        with _still(self.vae):
            code = (z / self._scale + self._shift).to(*_place(self.vae, z))
            images = _tensor(self.vae.decode(code), "sample", "vae.decode")
            return ((images.to(z) + 1) / 2).clamp(0, 1)

    def round_trip(self, images: Tensor) -> Tensor:
        """Encode and decode, without diffusion: what is lost here is lost however good the network is.

        Args:
            images: Images in [0, 1], (N, C, H, W).

        Returns:
            Images, (N, C, H, W), in dtype and on the device of the network.
        """
        return self.decode(self.encode(images))

    def latent_mask(self, mask: Tensor) -> Tensor:
        """Find the entries of the latents in whose cell of pixels one is unknown.

        The side of a cell is that of the images by that of their latents, found by encoding a black image. A border
        thinner than a cell makes whole cells unknown, and with them pixels that are known; a border as thick as a cell,
        or a multiple, does not. An encoder that sees beyond a cell lets its neighbours depend on it a little.

        Args:
            mask: Marks the unknown pixels, (1, H, W), of any dtype.

        Returns:
            The mask of unknown entries, (1, h, w), in the dtype of ``mask``; the mask itself without a ``vae``.

        Raises:
            InputError: If H and W are not the same multiple of the sides of the latents.
        """
        if self.vae is None:
            return mask
        channels = int(_find(_find(self.vae, "config"), "in_channels") or 3)
        height, width = mask.shape[-2:]
        latent = self.encode(torch.zeros(1, channels, height, width)).shape[-2:]
        cell = height // latent[0]
        if (latent[0] * cell, latent[1] * cell) != (height, width):
            raise InputError(
                f"mask must have sides that are a multiple of the vae's cell of about {cell} pixels, got {height} x "
                f"{width} pixels for {latent[0]} x {latent[1]} latents; pad or crop the images"
            )
        return F.max_pool2d((mask != 0).float(), cell).to(mask.dtype)


@contextmanager
def _still(*modules: Any) -> Iterator[None]:
    """Hold modules in eval mode, without gradients; afterwards each submodule is in its own mode again."""
    held = [part for module in modules if isinstance(module, nn.Module) for part in module.modules()]
    modes = [part.training for part in held]
    try:
        for part in held:
            part.training = False
        with torch.no_grad():
            yield
    finally:
        for part, mode in zip(held, modes, strict=True):
            part.training = mode


def _place(module: Any, otherwise: Tensor | None = None) -> tuple[torch.device, torch.dtype]:
    """Give device and dtype of a module's first parameter of real numbers, or of a tensor where it has none."""
    parameters = module.parameters() if isinstance(module, nn.Module) else ()
    first = next((p for p in parameters if p.is_floating_point()), torch.empty(0) if otherwise is None else otherwise)
    return first.device, first.dtype


def _find(holder: Any, name: str) -> Any:
    """Give an attribute, or an entry of a mapping, or None."""
    if isinstance(holder, Mapping) and name in holder:
        return holder[name]
    return getattr(holder, name, None)


def _need(holder: Any, name: str, owner: str) -> Any:
    part = _find(holder, name)
    if part is None:
        raise InputError(
            f"{owner} must have {name}, and has none; give a text-to-image pipeline with encode_prompt, unet or "
            "transformer, scheduler (with alphas_cumprod and config.prediction_type) and, for latents, vae (with "
            "config.scaling_factor)"
        )
    return part


def _tensor(output: Any, name: str, owner: str) -> Tensor:
    """Give the attribute ``name`` of an output, or the first of a tuple, or the output where it is a tensor."""
    tensor = output if isinstance(output, Tensor) else _find(output, name)
    if tensor is None and isinstance(output, tuple | list) and output:
        tensor = output[0]
    if not isinstance(tensor, Tensor):
        raise InputError(
            f"the output of {owner} must have {name}, or be a tuple that starts with it, and is a "
            f"{type(output).__name__}; give a pipeline whose {owner} returns one of the two"
        )
    return tensor


def _schedule(scheduler: Any) -> NoiseSchedule:
    shares = _find(scheduler, "alphas_cumprod")
    if shares is None:
        raise InputError(
            f"scheduler of the pipeline must have alphas_cumprod, and {type(scheduler).__name__} has none, as those of "
            "flow matching; give a pipeline that was trained by denoising diffusion"
        )
    shares = torch.as_tensor(shares).detach().cpu().double()
    try:
        return NoiseSchedule(shares, torch.arange(shares.numel()))
    except ValueError as error:
        raise InputError(
            f"alphas_cumprod of the pipeline's scheduler cannot be used: {error}; give a scheduler whose shares of "
            "signal fall from below 1 to above 0, one a training time"
        ) from error
