"""Image generators by diffusion: the process, models with and without text, sampling, checkpoints, and a judge.

What samples, audits, marks and erases goes through one protocol, `ConditionalDiffusion`: it is met by `DiffusionModel`,
by `TextToImage`, by a `PipelineAdapter` around a pipeline of the usual form, and by a `Steered` sampler.

Example:
    >>> import torch
    >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross"), steps=20).build()
    >>> draws = torch.Generator().manual_seed(0)
    >>> generate(model, ["circle", "cross"], (1, 8, 8), generator=draws, steps=2).shape
    torch.Size([2, 1, 8, 8])
"""

from paperweight.generators.cross_attention import attention_maps, parameter_group
from paperweight.generators.generation import generate, held_noise, partly_denoised
from paperweight.generators.judge import Judge, shows_anything
from paperweight.generators.model import DiffusionModel, ModelSpec, denoising_loss, load_model
from paperweight.generators.outpainting import outpaint
from paperweight.generators.pipeline import PipelineAdapter
from paperweight.generators.process import (
    NoiseSchedule,
    add_noise,
    cosine_schedule,
    ddim_step,
    ddpm_step,
    denoise,
    guided,
    linear_schedule,
    normal,
    renoise,
    split_prediction,
    target,
)
from paperweight.generators.protocol import ConditionalDiffusion, GuidedDiffusion, predicted_noise
from paperweight.generators.steering import Rule, Steered
from paperweight.generators.text_model import TextSpec, TextToImage, caption_loss, load_text_model

__all__ = [
    "ConditionalDiffusion",
    "DiffusionModel",
    "GuidedDiffusion",
    "Judge",
    "ModelSpec",
    "NoiseSchedule",
    "PipelineAdapter",
    "Rule",
    "Steered",
    "TextSpec",
    "TextToImage",
    "add_noise",
    "attention_maps",
    "caption_loss",
    "cosine_schedule",
    "ddim_step",
    "ddpm_step",
    "denoise",
    "denoising_loss",
    "generate",
    "guided",
    "held_noise",
    "linear_schedule",
    "load_model",
    "load_text_model",
    "normal",
    "outpaint",
    "parameter_group",
    "partly_denoised",
    "predicted_noise",
    "renoise",
    "shows_anything",
    "split_prediction",
    "target",
]
