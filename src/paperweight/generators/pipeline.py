"""A text-to-image pipeline of the usual form as a `ConditionalDiffusion`; no pipeline library is imported."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.errors import InputError
from paperweight.generators.pipeline_inputs import NetworkInputs
from paperweight.generators.pipeline_parts import find, in_float32, need, place, prediction, schedule, still, tensor_of
from paperweight.generators.process import Prediction, split_prediction

__all__ = ["PipelineAdapter"]


@final
class PipelineAdapter:
    """Meets `ConditionalDiffusion` with the parts of a text-to-image pipeline, which stays as it is.

    The pipeline needs ``encode_prompt``; ``unet`` or ``transformer``; ``scheduler`` with ``alphas_cumprod`` and
    ``config.prediction_type``; and, where it diffuses latents, ``vae`` with ``config.scaling_factor``. Such are those
    of diffusers for Stable Diffusion, SDXL, PixArt and, without a ``vae``, DeepFloyd IF, whose predictions are given as
    the pipeline itself has them: with masks of tokens, pooled embeddings and sizes, captions cleaned where its call
    cleans them, and what it guides away from as the empty caption.

    Latents are the code that is most likely for an image, less ``config.latents_mean`` and by ``config.latents_std``
    where the ``vae`` has them, times the scaling factor; a ``shift_factor`` is not read, as no such pipeline does.
    Conditions of networks that take a mask or pooled embeddings are tokens and, in rows behind them, these. A last
    training time without signal is left out of the schedule: noise there says nothing of the image.

    Args:
        pipeline: The pipeline. Weights, modes and gradients of its modules are not changed.

    Raises:
        InputError: If a part is missing, its schedule or prediction is of another form, or its network takes more than
            captions and sizes, as those that edit images or are guided by others.

    Attributes:
        network: The denoising network itself; whoever trains it trains the pipeline's.
        schedule: All training times with a share of signal.
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
        need(pipeline, "encode_prompt", "pipeline")
        self._named = "unet" if find(pipeline, "unet") is not None else "transformer"
        self.network = find(pipeline, self._named)
        if self.network is None:
            raise InputError(
                "the pipeline must have a denoising network, unet or transformer, and has neither; give one whose "
                "unet(sample, timestep, encoder_hidden_states=...) predicts the noise"
            )
        self._inputs = NetworkInputs(pipeline, self.network, self._named)
        self.vae = find(pipeline, "vae")
        self._code = None if self.vae is None else _Code(self.vae)
        self.clamp: tuple[float, float] | None = (-1.0, 1.0) if self.vae is None else None
        scheduler = need(pipeline, "scheduler", "pipeline")
        self.schedule = schedule(scheduler)
        self.prediction: Prediction = prediction(scheduler)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(
                f"a PipelineAdapter has no {name}, as a TextToImage has whose words are known one by one; UCE and "
                "ConceptInversion need them, ESD, ConceptAblation, ForgetMeNot and SelectiveAmnesia do not"
            )

    def condition(self, given: Sequence[str] | None, count: int) -> Tensor:
        """Encode captions, without gradients and in eval mode.

        Args:
            given: One caption a sample, or None for the empty one, which is zeros where the pipeline guides with these.
            count: Number of samples.

        Returns:
            Tokens, (count, L, dim), in dtype and on the device of the network; behind them rows of a mask or of pooled
            embeddings, where the network takes them.

        Raises:
            InputError: If there are not ``count`` texts, or the pipeline does not give one row of tokens for each.
        """
        captions = [""] * count if given is None else list(given)
        if isinstance(given, str) or len(captions) != count or not all(isinstance(text, str) for text in captions):
            raise InputError(
                f"captions must be {count} texts, one for each sample, or None for the empty one; got {given!r}"
            )
        return self._inputs.encode(None if given is None else captions, count, self.network)

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the noise, with gradients where the network or its inputs have them, in the mode that it is in.

        Args:
            z: What is diffused, with noise, (N, C, H, W).
            t: Training times, int64, (N,).
            condition: Captions, as `condition` gives them; None for the empty one.

        Returns:
            The noise, in shape, dtype and device of ``z``.

        Raises:
            InputError: If the network's output has another shape; of twice the channels, as where the variance is
                predicted too, the first half is taken.
        """
        condition = self.condition(None, len(z)) if condition is None else condition
        device, dtype = place(self.network, z)
        inputs, times = z.to(device, dtype), t.to(device)
        given = self._inputs.given(condition.to(device, dtype), (z.shape[-2], z.shape[-1]))
        if self._named == "unet":
            output = self.network(inputs, times, **given)
        else:
            output = self.network(inputs, timestep=times, **given)
        output = tensor_of(output, "sample", self._named)
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
        device, dtype = place(self.network, x)
        if self._code is None:
            return x.detach().to(device, dtype)
        return self._code.of(x).to(device, dtype)

    def decode(self, z: Tensor) -> Tensor:
        """Map what is diffused to images, without gradients and with the ``vae`` in eval mode.

        Args:
            z: Latents, (N, c, h, w), or pixels in [-1, 1] where there is no ``vae``.

        Returns:
            Images, (N, C, H, W), in dtype and on the device of ``z``; those of a ``vae`` are held to [0, 1].
        """
        if self._code is None:
            return (z.detach() + 1) / 2
        return ((self._code.images(z) + 1) / 2).clamp(0, 1)

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
        channels = int(find(find(self.vae, "config"), "in_channels") or 3)
        height, width = mask.shape[-2:]
        latent = self.encode(torch.zeros(1, channels, height, width)).shape[-2:]
        cell = height // latent[0]
        if (latent[0] * cell, latent[1] * cell) != (height, width):
            raise InputError(
                f"mask must have sides that are a multiple of the vae's cell of about {cell} pixels, got {height} x "
                f"{width} pixels for {latent[0]} x {latent[1]} latents; pad or crop the images"
            )
        return F.max_pool2d((mask != 0).float(), cell).to(mask.dtype)


class _Code:
    """Latents of a ``vae``, scaled as a pipeline's network was trained on them, and images of latents."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        need(vae, "encode", "vae")
        need(vae, "decode", "vae")
        config = need(vae, "config", "vae")
        self._scale = float(need(config, "scaling_factor", "vae.config"))
        means, deviations = find(config, "latents_mean"), find(config, "latents_std")
        normalised = means is not None and deviations is not None
        self._means = torch.tensor(means if normalised else [0.0]).view(1, -1, 1, 1)
        self._deviations = torch.tensor(deviations if normalised else [1.0]).view(1, -1, 1, 1)
        self._widened = bool(find(config, "force_upcast"))

    def of(self, x: Tensor) -> Tensor:
        """Give the likeliest latents of images in [-1, 1], (N, c, h, w)."""
        with still(self._vae), in_float32(self._vae, self._widened):
            code = self._vae.encode(x.to(*place(self._vae, x)))
            law = find(code, "latent_dist")
            latents = tensor_of(code, "latents", "vae.encode") if law is None else law.mode()
            return (latents - self._means.to(latents)) * self._scale / self._deviations.to(latents)

    def images(self, z: Tensor) -> Tensor:
        """Give images of latents, about [-1, 1], (N, C, H, W), in dtype and on the device of the latents."""
        with still(self._vae), in_float32(self._vae, self._widened):
            device, dtype = place(self._vae, z)
            wide = z.to(device, torch.promote_types(z.dtype, dtype))
            code = wide * self._deviations.to(wide) / self._scale + self._means.to(wide)
            return tensor_of(self._vae.decode(code.to(dtype)), "sample", "vae.decode").to(z)
