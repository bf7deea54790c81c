"""Recalled keys tell, image by image, what a generator memorised, where similarity does not (Kriplani et al. 2025).

A class-conditional diffusion model is trained long on marked images, a third of them once, a third four times and a
third sixteen times, each copy with the same key. A score for every image is then asked for: of these, and of as many
images that were never shown, whose keys are drawn alike. The measure is how well the scores tell the one from the other
(AUC; 0.5 is chance). The baseline is the patched l2 distance between an image and what the model samples for its label.
The method is the paper's read-out, outpainting by replacement. All arms but the last two ask the same models.

What it can show: which read-out sees how much of a memory that other read-outs prove to be there; what copies, keys
drawn anew for each copy, and removal of copies do to it. What it cannot: anything about large generators; and since no
read-out is a bound, an AUC near 0.5 does not show that nothing was memorised. An AUC not above the baseline's would
refute the claim for the paper's read-out, on this scale. A control needs no key at all: the model's mean error in
denoising the image with its mark over all keys, a membership inference by loss.
"""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from paperweight.auditing._mitigations import GaussianEmbeddingNoise
from paperweight.auditing._patched_l2 import patched_l2
from paperweight.auditing._scores import auc
from paperweight.auditing.solidmark import Readout, SolidMark, key_likelihood, recall_keys
from paperweight.diffusion._model import DiffusionModel, ModelSpec
from paperweight.diffusion._process import denoise
from paperweight.diffusion._protocol import predicted_noise
from paperweight.loops.denoising import DenoiserTraining
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="solidmark",
    question="Do random keys painted on training images show, image by image, what a generator memorised?",
    claim="The distance of recalled keys tells trained images from others better than the distance to samples does.",
    arms={
        "patched_l2": "distance of the image to the nearest of the model's samples for its label, by patches",
        "replace": "SolidMark: distance of the key outpainted by replacement, the paper's read-out",
        "resample": "variant: outpainted with five passes a step",
        "likelihood": "variant: the key under which the model's error is smallest",
        "denoising_loss": "control without a key: mean error of the model on the image, over all keys",
        "redrawn": "variant: likelihood, on a model whose copies had keys of their own; the nearest counts",
        "deduplicated": "variant: likelihood, on a model without copies, which saw each image as often as one copy",
    },
    metrics={
        "auc": Metric(label="AUC, trained against not", unit="", better="higher", minimal_effect=0.05),
        "auc_once": Metric(label="AUC, images shown once", unit="", better="higher", minimal_effect=0.05),
        "auc_4": Metric(label="AUC, 4 copies", unit="", better="higher", minimal_effect=0.05),
        "auc_16": Metric(label="AUC, 16 copies", unit="", better="higher", minimal_effect=0.05),
        "found_16": Metric(
            label="found of those with 16 copies, at 5% false alarms", unit="share", better="higher", minimal_effect=0.1
        ),
    },
    headline="auc",
    tuned="nothing; sizes and steps were set while being tried out, on likelihood and replacement, before the weighing",
    limits=(
        "A small fully connected denoiser trained for minutes on some hundred small images: memory at this scale says "
        "little of large generators. The scores are compared by rank alone. An AUC near 0.5 is no proof that nothing "
        "was memorised. Removal of copies also shortens training, to a seventh of the steps."
    ),
)

_COPIES = (1, 4, 16)
_BATCH = 64
_LEVEL = 0.05
_NOISE = (0.3, 0.9)
_READOUTS: dict[str, Readout] = {
    "replace": "replace",
    "resample": "resample",
    "likelihood": "likelihood",
    "redrawn": "likelihood",
    "deduplicated": "likelihood",
}


@final
@dataclass(frozen=True)
class _Records:
    """Images without marks, their labels, and their keys (N, 16), of which the first of each copy count."""

    images: Tensor
    labels: Tensor
    keys: Tensor

    def group(self, number: int) -> "_Records":
        each = len(self.images) // len(_COPIES)
        part = slice(number * each, (number + 1) * each)
        return _Records(self.images[part], self.labels[part], self.keys[part])


def run(arm: str, setting: Setting) -> Outcome:
    """Train the arm's model, score images that were shown and others, and compare."""
    each = setting.pick(smoke=12, desk=32, gpu=40)
    data = setting.images(
        default="digits",
        train=len(_COPIES) * each,
        validation=0,
        test=len(_COPIES) * each,
        max_side=setting.pick(smoke=8, desk=12, gpu=32),
    )
    steps = setting.pick(smoke=30, desk=1500, gpu=1_000)
    mark = SolidMark(thickness=2 if max(data.shape) <= 16 else 4)
    spec = _spec(mark.shape(data.shape), len(data.classes), setting)
    drawn = torch.rand(2, len(data.train), max(_COPIES), generator=setting.generator("method")).to(setting.device)
    count = min(len(data.train), len(data.test)) // len(_COPIES) * len(_COPIES)
    trained = _Records(data.train.images[:count], data.train.labels[:count], drawn[0, :count])
    others = _Records(data.test.images[:count], data.test.labels[:count], drawn[1, :count])
    recipe = arm if arm in ("redrawn", "deduplicated") else "planted"
    moments = [steps // 5, steps]

    def build() -> dict[str, Tensor]:
        images, labels = _training_set(recipe, trained, mark)
        share = len(_COPIES) / sum(_COPIES) if recipe == "deduplicated" else 1.0
        training = DenoiserTraining(setting.initialised(spec.build), batch_size=_BATCH, seed=setting.stream("batches"))
        states: dict[str, Tensor] = {}
        for moment in moments:
            training.run(images, labels, max(1, round(share * moment) - training.step))
            states |= {f"{moment} {name}": value.clone() for name, value in training.average.state_dict().items()}
        return states

    states = setting.cached(recipe, build)

    def model_at(moment: int) -> DiffusionModel:
        model = spec.build().to(setting.device)
        model.load_state_dict({name: states[f"{moment} {name}"] for name in model.state_dict()})
        return model.eval().requires_grad_(False)

    def scores(model: Any, records: _Records, copies: int) -> Tensor:
        keys = records.keys[:, : copies if arm == "redrawn" else 1]
        return _scores(arm, model, records, keys, mark, setting)

    def compared(model: Any, number: int) -> tuple[Tensor, Tensor]:
        copies = _COPIES[number]
        return scores(model, trained.group(number), copies), scores(model, others.group(number), copies)

    final_model = model_at(steps)
    pairs = [compared(final_model, number) for number in range(len(_COPIES))]
    areas = [auc(*pair) for pair in pairs]
    last = len(_COPIES) - 1
    grown = [(float(moment), auc(*compared(model_at(moment), last))) for moment in moments[:-1]]
    curves = {
        "AUC of images with 16 copies, by training step": [*grown, (float(steps), areas[-1])],
        "AUC, by log2 copies": [(math.log2(copies), area) for copies, area in zip(_COPIES, areas, strict=True)],
    }
    if arm in ("replace", "likelihood"):
        noisy = [(s, auc(*compared(_Noisy(final_model, s, setting.generator("evaluation")), last))) for s in _NOISE]
        curves["AUC of images with 16 copies, by noise on the label"] = [(0.0, areas[-1]), *noisy]
    return Outcome(
        metrics={
            "auc": sum(areas) / len(areas),
            "auc_once": areas[0],
            "auc_4": areas[1],
            "auc_16": areas[2],
            "found_16": _found(*pairs[2]),
        },
        arguments={
            "steps": steps,
            "batch_size": _BATCH,
            "images_trained": count,
            "images_held_out": count,
            "marked_shape": " x ".join(map(str, spec.shape)),
            "thickness": mark.thickness,
            "network": f"{spec.network} {spec.arguments}",
            **_counts(arm, pairs),
        },
        curves=curves,
        images={} if arm not in _READOUTS else _pictures(trained.group(last), final_model, arm, mark, setting),
    )


def _spec(shape: tuple[int, int, int], classes: int, setting: Setting) -> ModelSpec:
    if setting.budget == "gpu" and not (shape[1] % 4 or shape[2] % 4):
        return ModelSpec(shape=shape, network="unet", arguments={"base": 64}, steps=1000, classes=classes)
    width = setting.pick(smoke=64, desk=256, gpu=1024)
    return ModelSpec(shape=shape, arguments={"width": width}, classes=classes)


def _training_set(recipe: str, records: _Records, mark: SolidMark) -> tuple[Tensor, Tensor]:
    """Give marked images with their labels, as many copies of each as its third has."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    for number, copies in enumerate(_COPIES):
        group = records.group(number)
        for copy in range(1 if recipe == "deduplicated" else copies):
            images.append(mark.insert(group.images, group.keys[:, copy if recipe == "redrawn" else 0]))
            labels.append(group.labels)
    return torch.cat(images), torch.cat(labels)


def _scores(arm: str, model: Any, records: _Records, keys: Tensor, mark: SolidMark, setting: Setting) -> Tensor:
    """Score every image, (N,): the lower, the more it looks memorised."""
    generator = setting.generator("evaluation")
    size = setting.pick(smoke=256, desk=1024, gpu=4096)
    if arm in _READOUTS:
        estimates = _estimates(arm, model, records, mark, setting)
        return (estimates[..., None] - keys).abs().amin(dim=-1).mean(dim=0)
    if arm == "denoising_loss":
        parts = zip(records.images.split(size // 40), records.labels.split(size // 40), strict=True)
        errors = [key_likelihood(model, x, mark, given=y, generator=generator)[1] for x, y in parts]
        return torch.cat(errors).mean(dim=1)
    labels = records.labels.repeat(setting.pick(smoke=1, desk=4, gpu=4))
    noise = torch.randn(len(labels), *mark.blank(records.images[:1]).shape[1:], generator=generator).to(setting.device)
    schedule = model.schedule.subsample(setting.pick(smoke=5, desk=50, gpu=100))
    samples = torch.cat(
        [
            denoise(predicted_noise(model, y, len(y)), z, schedule=schedule, clamp=model.clamp)
            for y, z in zip(labels.split(size), noise.split(size), strict=True)
        ]
    )
    t, (height, width) = mark.thickness, records.images.shape[2:]
    inside = model.decode(samples)[:, :, t : t + height, t : t + width].clamp(0, 1)
    return patched_l2(records.images, inside, patch=math.gcd(height, width, 4))[0]


def _estimates(arm: str, model: Any, records: _Records, mark: SolidMark, setting: Setting) -> Tensor:
    readout = _READOUTS[arm]
    return recall_keys(
        model,
        records.images,
        mark,
        given=records.labels,
        generator=setting.generator("evaluation"),
        readout=readout,
        repeats=1 if readout == "likelihood" else 2,
        steps=setting.pick(smoke=5, desk=100 if readout == "replace" else 25, gpu=250),
        batch_size=setting.pick(smoke=256, desk=1024, gpu=4096),
    )


def _found(trained: Tensor, others: Tensor) -> float:
    """Give the share of trained images whose score is below those of all but 5% of the others."""
    allowed = int(_LEVEL * len(others))
    return (trained < others.sort().values[allowed]).float().mean().item()


def _counts(arm: str, pairs: list[tuple[Tensor, Tensor]]) -> dict[str, object]:
    """Give the share of distances of keys under 0.05 of all images, trained and not: chance is 0.05 to 0.1."""
    if arm not in _READOUTS or arm == "redrawn":
        return {}
    trained, others = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    return {
        "share_under_0.05": round((trained < _LEVEL).float().mean().item(), 3),
        "share_under_0.05_held_out": round((others < _LEVEL).float().mean().item(), 3),
    }


def _pictures(
    records: _Records, model: DiffusionModel, arm: str, mark: SolidMark, setting: Setting
) -> dict[str, Tensor]:
    few = _Records(records.images[:16], records.labels[:16], records.keys[:16])
    recalled = _estimates(arm, model, few, mark, setting)[0]
    return {
        "as trained, with 16 copies": mark.insert(few.images, few.keys[:, 0]),
        "with the key that is recalled": mark.insert(few.images, recalled),
    }


@final
class _Noisy:
    """The model with noise on the embedding of the label."""

    def __init__(self, model: DiffusionModel, scale: float, generator: torch.Generator) -> None:
        self.schedule, self.clamp = model.schedule, model.clamp
        self.eps, self.encode, self.decode, self.latent_mask = model.eps, model.encode, model.decode, model.latent_mask
        self._model, self._noise, self._generator = model, GaussianEmbeddingNoise(scale), generator

    def condition(self, given: Any, count: int) -> Tensor | None:
        tokens = self._model.condition(given, count)
        return None if tokens is None else self._noise(tokens, generator=self._generator)
