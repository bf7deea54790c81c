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
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from paperweight.auditing._mitigations import GaussianEmbeddingNoise
from paperweight.auditing.solidmark import Readout, SolidMark, key_likelihood, recall_keys
from paperweight.generators.model import DiffusionModel, ModelSpec
from paperweight.generators.process import denoise
from paperweight.generators.protocol import predicted_noise
from paperweight.loops.denoising import DenoiserTraining
from paperweight.marks.patched_l2 import patched_l2
from paperweight.marks.scores import auc
from paperweight.studies import Arm, Metric, Outcome, Setting, Study

_COPIES = (1, 4, 16)
_BATCH = 64
_LEVEL = 0.05
_NOISE = (0.3, 0.9)


@final
@dataclass(frozen=True)
class _Records:
    """Images without marks, their labels, and their keys (N, 16), of which the first of each copy count."""

    images: Tensor
    labels: Tensor
    keys: Tensor

    def group(self, number: int, keys: int = max(_COPIES)) -> "_Records":
        each = len(self.images) // len(_COPIES)
        part = slice(number * each, (number + 1) * each)
        return _Records(self.images[part], self.labels[part], self.keys[part, :keys])


class _Recipe(NamedTuple):
    """On how many copies of the images of each third a model is trained, and whether each has a key of its own."""

    name: str
    copies: tuple[int, ...] = _COPIES
    redrawn: bool = False


class _Plan(NamedTuple):
    """A score, the lower, the more an image looks memorised; the function it rests on; and the model's recipe."""

    score: Callable[[Any, Any, _Records, SolidMark, Setting], Tensor]
    function: Callable[[tuple[int, ...], Setting], Callable[..., Any]]
    recipe: _Recipe = _Recipe("planted")
    noisy: bool = False


def _batch(setting: Setting) -> int:
    return setting.pick(smoke=256, desk=1024, gpu=4096)


def _readout(readout: Readout, _: object, setting: Setting, repeats: int = 1, desk_steps: int = 25) -> partial[Tensor]:
    steps = setting.pick(smoke=5, desk=desk_steps, gpu=250)
    return partial(recall_keys, readout=readout, repeats=repeats, steps=steps, batch_size=_batch(setting))


_likelihood = partial(_readout, "likelihood")


def _recalled(recall: Any, model: Any, records: _Records, mark: SolidMark, setting: Setting) -> Tensor:
    """Ask for the key of every image, (repeats, N)."""
    return recall(model, records.images, mark, given=records.labels, generator=setting.generator("evaluation"))


def _distance_of_keys(recall: Any, model: Any, records: _Records, mark: SolidMark, setting: Setting) -> Tensor:
    estimates = _recalled(recall, model, records, mark, setting)
    return (estimates[..., None] - records.keys).abs().amin(dim=-1).mean(dim=0)


def _denoising_loss(errors_by_key: Any, model: Any, records: _Records, mark: SolidMark, setting: Setting) -> Tensor:
    generator, size = setting.generator("evaluation"), _batch(setting) // 40
    parts = zip(records.images.split(size), records.labels.split(size), strict=True)
    errors = [errors_by_key(model, x, mark, given=y, generator=generator)[1] for x, y in parts]
    return torch.cat(errors).mean(dim=1)


def _distance_to_samples(distance: Any, model: Any, records: _Records, mark: SolidMark, setting: Setting) -> Tensor:
    generator, size = setting.generator("evaluation"), _batch(setting)
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
    return distance(records.images, inside)[0]


STUDY = Study(
    paper="solidmark",
    question="Do random keys painted on training images show, image by image, what a generator memorised?",
    claim="The distance of recalled keys tells trained images from others better than the distance to samples does.",
    arms={
        "patched_l2": Arm(
            "distance of the image to the nearest of the model's samples for its label, by patches",
            _Plan(_distance_to_samples, lambda shape, _: partial(patched_l2, patch=math.gcd(*shape[1:], 4))),
        ),
        "replace": Arm(
            "SolidMark: distance of the key outpainted by replacement, the paper's read-out",
            _Plan(_distance_of_keys, partial(_readout, "replace", repeats=2, desk_steps=100), noisy=True),
        ),
        "resample": Arm(
            "variant: outpainted with five passes a step",
            _Plan(_distance_of_keys, partial(_readout, "resample", repeats=2)),
        ),
        "likelihood": Arm(
            "variant: the key under which the model's error is smallest",
            _Plan(_distance_of_keys, _likelihood, noisy=True),
        ),
        "denoising_loss": Arm(
            "control without a key: mean error of the model on the image, over all keys",
            _Plan(_denoising_loss, lambda *_: key_likelihood),
        ),
        "redrawn": Arm(
            "variant: likelihood, on a model whose copies had keys of their own; the nearest counts",
            _Plan(_distance_of_keys, _likelihood, _Recipe("redrawn", redrawn=True)),
        ),
        "deduplicated": Arm(
            "variant: likelihood, on a model without copies, which saw each image as often as one copy",
            _Plan(_distance_of_keys, _likelihood, _Recipe("deduplicated", copies=(1, 1, 1))),
        ),
    },
    metrics={
        "auc": Metric.higher("AUC, trained against not", 0.05),
        "auc_once": Metric.higher("AUC, images shown once", 0.05),
        "auc_4": Metric.higher("AUC, 4 copies", 0.05),
        "auc_16": Metric.higher("AUC, 16 copies", 0.05),
        "found_16": Metric.higher("found of those with 16 copies, at 5% false alarms", 0.1, "share"),
    },
    headline="auc",
    tuned="nothing; sizes and steps were set while being tried out, on likelihood and replacement, before the weighing",
    limits=(
        "A small fully connected denoiser trained for minutes on some hundred small images: memory at this scale says "
        "little of large generators. The scores are compared by rank alone. An AUC near 0.5 is no proof that nothing "
        "was memorised. Removal of copies also shortens training, to a seventh of the steps."
    ),
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train the arm's model, score images that were shown and others, and compare."""
    each = len(_COPIES) * setting.pick(smoke=12, desk=32, gpu=40)
    side = setting.pick(smoke=8, desk=12, gpu=32)
    data = setting.images(default="digits", train=each, validation=0, test=each, max_side=side)
    steps = setting.pick(smoke=30, desk=1500, gpu=1_000)
    plan, recipe = arm.make, arm.make.recipe
    mark = SolidMark(thickness=2 if max(data.shape) <= 16 else 4)
    spec = _spec(mark.shape(data.shape), len(data.classes), setting)
    function = plan.function(data.shape, setting)
    drawn = torch.rand(2, len(data.train), max(_COPIES), generator=setting.generator("method")).to(setting.device)
    count = min(len(data.train), len(data.test)) // len(_COPIES) * len(_COPIES)
    trained, others = (
        _Records(part.images[:count], part.labels[:count], keys[:count])
        for part, keys in zip((data.train, data.test), drawn, strict=True)
    )
    moments = [steps // 5, steps]

    def build() -> dict[str, Tensor]:
        images, labels = _training_set(recipe, trained, mark)
        share = sum(recipe.copies) / sum(_COPIES)
        training = DenoiserTraining(setting.initialised(spec.build), batch_size=_BATCH, seed=setting.stream("batches"))
        states: dict[str, Tensor] = {}
        for moment in moments:
            training.run(images, labels, max(1, round(share * moment) - training.step))
            states |= {f"{moment} {name}": value.clone() for name, value in training.average.state_dict().items()}
        return states

    states = setting.cached(recipe.name, build)

    def model_at(moment: int) -> DiffusionModel:
        model = spec.build().to(setting.device)
        model.load_state_dict({name: states[f"{moment} {name}"] for name in model.state_dict()})
        return model.eval().requires_grad_(False)

    def compared(model: Any, number: int) -> tuple[Tensor, Tensor]:
        keys = _COPIES[number] if recipe.redrawn else 1
        groups = (records.group(number, keys) for records in (trained, others))
        shown, held_out = (plan.score(function, model, group, mark, setting) for group in groups)
        return shown, held_out

    final_model = model_at(steps)
    pairs = [compared(final_model, number) for number in range(len(_COPIES))]
    areas = [auc(*pair) for pair in pairs]
    last = len(_COPIES) - 1
    grown = [(float(moment), auc(*compared(model_at(moment), last))) for moment in moments[:-1]]
    curves = {
        "AUC of images with 16 copies, by training step": [*grown, (float(steps), areas[-1])],
        "AUC, by log2 copies": [(math.log2(copies), area) for copies, area in zip(_COPIES, areas, strict=True)],
    }
    if plan.noisy:
        noisy = [(s, auc(*compared(_Noisy(final_model, s, setting.generator("evaluation")), last))) for s in _NOISE]
        curves["AUC of images with 16 copies, by noise on the label"] = [(0.0, areas[-1]), *noisy]
    keyed = plan.score is _distance_of_keys
    return Outcome(
        metrics={
            "auc": sum(areas) / len(areas),
            "auc_once": areas[0],
            "auc_4": areas[1],
            "auc_16": areas[2],
            "found_16": _found(*pairs[2]),
        },
        made={"mark": mark, "score": function},
        arguments={
            "steps": steps,
            "batch_size": _BATCH,
            "images_trained": count,
            "images_held_out": count,
            "marked_shape": " x ".join(map(str, spec.shape)),
            "network": f"{spec.network} {spec.arguments}",
            **(_counts(pairs) if keyed and not recipe.redrawn else {}),
        },
        curves=curves,
        images=_pictures(function, trained.group(last), final_model, mark, setting) if keyed else {},
    )


def _spec(shape: tuple[int, int, int], classes: int, setting: Setting) -> ModelSpec:
    if setting.budget == "gpu" and not (shape[1] % 4 or shape[2] % 4):
        return ModelSpec(shape=shape, network="unet", arguments={"base": 64}, steps=1000, classes=classes)
    width = setting.pick(smoke=64, desk=256, gpu=1024)
    return ModelSpec(shape=shape, arguments={"width": width}, classes=classes)


def _training_set(recipe: _Recipe, records: _Records, mark: SolidMark) -> tuple[Tensor, Tensor]:
    """Give marked images with their labels, as many copies of each as its third has."""
    groups = [(records.group(number), copy) for number, copies in enumerate(recipe.copies) for copy in range(copies)]
    images = [mark.insert(group.images, group.keys[:, copy if recipe.redrawn else 0]) for group, copy in groups]
    return torch.cat(images), torch.cat([group.labels for group, _ in groups])


def _found(trained: Tensor, others: Tensor) -> float:
    """Give the share of trained images whose score is below those of all but 5% of the others."""
    allowed = int(_LEVEL * len(others))
    return (trained < others.sort().values[allowed]).float().mean().item()


def _counts(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, object]:
    """Give the share of distances of keys under 0.05 of all images, trained and not: chance is 0.05 to 0.1."""
    trained, others = (torch.cat([pair[side] for pair in pairs]) for side in (0, 1))
    return {
        "share_under_0.05": round((trained < _LEVEL).float().mean().item(), 3),
        "share_under_0.05_held_out": round((others < _LEVEL).float().mean().item(), 3),
    }


def _pictures(recall: Any, records: _Records, model: Any, mark: SolidMark, setting: Setting) -> dict[str, Tensor]:
    few = _Records(records.images[:16], records.labels[:16], records.keys[:16])
    return {
        "as trained, with 16 copies": mark.insert(few.images, few.keys[:, 0]),
        "with the key that is recalled": mark.insert(few.images, _recalled(recall, model, few, mark, setting)[0]),
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
