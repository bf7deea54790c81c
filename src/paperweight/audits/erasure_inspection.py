# pyright: reportUnknownMemberType=false
"""From checkpoints and labelled images to an audit of erasure, with every mistake named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import torch

from paperweight.audits.erasure import audit_erasure
from paperweight.audits.erasure_findings import ErasureAudit
from paperweight.bench.machine import environment
from paperweight.data import load_images
from paperweight.errors import InputError
from paperweight.generators.steering import Steered
from paperweight.generators.text_model import TextToImage, load_text_model
from paperweight.unlearning.negative_prompt import NegativePrompt
from paperweight.unlearning.safe_latent_diffusion import PRESETS, SafeLatentDiffusion

__all__ = ["ErasureInspection", "Sampler", "inspect_erasure"]

_SAMPLING_STEPS = 25

Sampler = Literal["plain", "negative", "weak", "medium", "strong", "max"]


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ErasureInspection:
    """An audit and what it was made of.

    Args:
        audit: What was found.
        checkpoint: The file of the erased model.
        data: Name of the data.
        facts: About models, data and machine, in words.
    """

    audit: ErasureAudit
    checkpoint: Path
    data: str
    facts: dict[str, str]


def inspect_erasure(
    checkpoint: str | Path,
    *,
    concept: str,
    before: str | Path,
    data: str | Path,
    control: str | Path | None = None,
    sampler: Sampler = "plain",
    initial: str | None = None,
    templates: Sequence[str] = ("{}",),
    count: int = 100,
    steps: int = 400,
    judge_steps: int = 1_200,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> ErasureInspection:
    """Audit a checkpoint that a concept was erased from.

    Args:
        checkpoint: A safetensors file of `TextToImage.save`.
        concept: The erased word.
        before: The same of the model as it was.
        data: Labelled images; each class is named by a word of the model, or by several with commas between them.
        control: The same of a model that never saw the concept.
        sampler: How the erased model is sampled: ``plain``, with the concept as ``negative`` prompt, or by safe latent
            diffusion with the preset ``weak``, ``medium``, ``strong`` or ``max``, whose warm-up is half as long, as
            there are half as many steps.
        initial: As in `audit_erasure`.
        templates: Likewise.
        count: Likewise.
        steps: Likewise.
        judge_steps: Likewise.
        seed: Likewise.
        progress: Likewise.

    Returns:
        The audit, and what it was made of.

    Raises:
        InputError: If a file is missing or damaged, or they do not belong together.
    """
    models = [None if path is None else load_text_model(path) for path in (checkpoint, before, control)]
    erased, original, never = models
    if erased is None or original is None:
        raise InputError("checkpoint and before must be files of text-to-image models, got none")
    for path, model in zip((checkpoint, control), (erased, never), strict=True):
        if model is not None and model.spec.shape != original.spec.shape:
            raise InputError(
                f"checkpoint {path} is of a model for images of shape {model.spec.shape}, {before} for "
                f"{original.spec.shape}; give models of one kind"
            )
    loaded = load_images(
        data,
        max_side=max(original.spec.shape[1:]),
        progress=None if progress is None else lambda done, total: progress("images", done, total),
    )
    shape = loaded.train.images.shape[1:]
    if shape != original.spec.shape:
        raise InputError(
            f"the data {loaded.name} have images of shape {shape}, the models draw {original.spec.shape}; give images "
            "of that shape, grey or in colour as the models'"
        )
    audit = audit_erasure(
        _steered(erased, sampler, concept),
        original,
        torch.from_numpy(loaded.train.images.copy()).float() / 255,
        torch.from_numpy(loaded.train.labels.copy()).long(),
        [[name.strip() for name in each.split(",") if name.strip()] for each in loaded.classes],
        concept,
        control=never,
        initial=initial,
        templates=templates,
        count=count,
        steps=steps,
        sampling_steps=min(_SAMPLING_STEPS, *(len(model.schedule) for model in models if model is not None)),
        judge_steps=judge_steps,
        seed=seed,
        progress=progress,
    )
    spec = original.spec
    facts = {
        "erased model": str(checkpoint),
        "model before": str(before),
        "never trained on it": "none" if control is None else str(control),
        "sampler of the erased model": sampler,
        "images and words": f"{spec.shape}, {len(spec.words)} words, captions of up to {spec.length} tokens",
        "data": f"{loaded.name}, {loaded.fingerprint[:16]}, {len(loaded.train.images)} images, "
        f"{len(loaded.classes)} classes",
        **environment("cpu"),
    }
    return ErasureInspection(audit=audit, checkpoint=Path(checkpoint), data=loaded.name, facts=facts)


def _steered(model: TextToImage, sampler: Sampler, concept: str) -> TextToImage | Steered:
    if sampler == "plain":
        return model
    if sampler == "negative":
        return NegativePrompt()(model, [concept], [])
    if sampler not in PRESETS:
        raise InputError(f"sampler must be plain, negative or one of {', '.join(PRESETS)}; got {sampler!r}")
    preset = PRESETS[sampler]
    return SafeLatentDiffusion(
        warmup=int(preset["warmup"]) // 2,
        safety_scale=preset["safety_scale"],
        threshold=preset["threshold"],
        momentum_scale=preset["momentum_scale"],
        momentum_decay=preset["momentum_decay"],
    )(model, [concept], [])
