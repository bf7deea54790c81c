"""How the arms of the data-budget study learn: worlds of two sources, training by labels or by captions, the curve."""

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.data import LabelledImages, adjust_colour, random_crop, resize
from paperweight.loops import Tuned, evaluate_classifier, fit_classifier, index_batches, minimise, tune
from paperweight.nets import MLP
from paperweight.robustness.data_budget import (
    BudgetedData,
    CaptionLabeler,
    ContrastiveClassifier,
    DataBudget,
    ShiftSuite,
    clip_loss,
    simple_caption,
)
from paperweight.studies import Setting
from paperweight.studies.robustness._captioned_sources import (
    BagOfWords,
    Centred,
    Sources,
    captioned_sources,
    new_sample,
    tokenizer,
)

__all__ = ["Plan", "Trained", "World", "accuracies", "network", "reference", "suite", "tuned_on", "world_of"]

_RATES = (4e-4, 2e-3, 1e-2, 5e-2, 0.25)
_BATCH = 128
_DIM = 32


class Plan(NamedTuple):
    """What an arm learns from: labels or captions, true or noisy, of which images, changed how, and how many."""

    loss: Literal["labels", "captions"] = "labels"
    noisy: bool = False
    extra: Literal["", "near", "far"] = ""
    augmented: bool = False
    times: int = 1


class Trained(NamedTuple):
    """A classifier, what it was trained with, and the loss of each step."""

    classifier: nn.Module
    optimizer: AdamW
    losses: Tensor


class World(NamedTuple):
    """What all arms share: sources, validation and test photographs, and photographs sampled anew."""

    sources: Sources
    validation: LabelledImages
    test: LabelledImages
    anew: LabelledImages
    shape: tuple[int, int, int]
    classes: int
    steps: int
    scale: float

    def budgets(self, wanted: tuple[int, ...]) -> tuple[int, ...]:
        """Give these budgets, smaller ones where there are fewer images than the study asks for."""
        return tuple(max(self.classes, int(self.scale * budget)) for budget in wanted)


def world_of(setting: Setting, *, simple: bool) -> World:
    """Give the world of a seed, with captions that say the class and nothing else, or noisy ones."""
    train, validation, test = setting.pick(
        smoke=(160, 30, 200), desk=(4_400, 1_000, 3_000), gpu=(50_000, 5_000, 10_000)
    )
    side = setting.pick(smoke=14, desk=14, gpu=28)
    data = setting.images(default="glyphs", train=train, validation=validation, test=test)

    def part(of: LabelledImages, start: int = 0, end: int | None = None) -> LabelledImages:
        return LabelledImages(resize(of.images[start:end], (side, side)).clamp(0, 1), of.labels[start:end])

    half = len(data.test) // 2
    other = part(data.test, half)
    return World(
        captioned_sources(part(data.train), len(data.classes), simple=simple, generator=setting.generator("data")),
        part(data.validation),
        part(data.test, 0, half),
        LabelledImages(new_sample(other.images, setting.generator("evaluation")), other.labels),
        (data.shape[0], side, side),
        len(data.classes),
        setting.pick(smoke=20, desk=300, gpu=5_000),
        min(1.0, len(data.train) / train),
    )


def _drawn(world: World, plan: Plan, budget: int, generator: torch.Generator) -> BudgetedData:
    sources = {"photos": world.sources.photos} | (
        {} if not plan.extra else {"prints": world.sources.near if plan.extra == "near" else world.sources.far}
    )
    matched = plan.noisy and plan.loss == "labels"
    return DataBudget(
        sources,
        budget * plan.times,
        world.classes,
        shares=dict.fromkeys(sources, 1 / len(sources)),
        label_source="captions" if plan.loss == "captions" else "matched" if matched else "true",
        labeler=CaptionLabeler(world.sources.names) if matched else None,
    ).build(generator)


def _augment(images: Tensor, generator: torch.Generator) -> Tensor:
    moved = random_crop(images, 1, generator=generator)
    brightness, contrast = 0.8 + 0.4 * torch.rand(2, len(images), generator=generator).to(images.device)
    return adjust_colour(moved, brightness=brightness, contrast=contrast)


def network(setting: Setting, world: World, outputs: int) -> nn.Module:
    """Give a new network for images in [0, 1], with the same weights at every call."""
    return nn.Sequential(Centred(), setting.network(world.shape, outputs, default=partial(MLP, hidden=(64,))))


def _by_labels(
    world: World, model: nn.Module, given: BudgetedData, rate: float, batches: torch.Generator, *, augmented: bool
) -> Trained:
    optimizer = AdamW(model.parameters(), lr=rate)
    augment = _augment if augmented else None
    losses = fit_classifier(
        model,
        optimizer,
        given.images,
        given.labels,
        steps=world.steps,
        batch_size=_BATCH,
        generator=batches,
        augment=augment,
    )
    return Trained(model, optimizer, losses)


def _by_captions(setting: Setting, world: World, given: BudgetedData, rate: float) -> Trained:
    words, device = tokenizer(world.sources.names), given.images.device
    text = setting.initialised(lambda: BagOfWords(len(words), _DIM))
    model = ContrastiveClassifier(network(setting, world, _DIM), text)
    optimizer = AdamW(model.parameters(), lr=rate)
    numbers = words(given.captions or ()).to(device)
    batches = index_batches(len(given), _BATCH, setting.generator("batches"), device)
    losses = minimise(
        lambda index: clip_loss(*model(given.images[index], numbers[index])), optimizer, batches, steps=world.steps
    )
    prompts = words([simple_caption(name) for name in world.sources.names]).to(device)
    return Trained(model.zero_shot(prompts[:, None]), optimizer, losses)


def _valid(world: World, tried: Trained) -> float:
    return evaluate_classifier(tried.classifier, world.validation.images, world.validation.labels).accuracy


def accuracies(model: nn.Module, parts: Iterable[LabelledImages]) -> list[float]:
    """Give the accuracy on each of several test sets."""
    return [evaluate_classifier(model, part.images, part.labels).accuracy for part in parts]


def suite(setting: Setting, world: World, fixed: nn.Module) -> tuple[dict[str, LabelledImages], ...]:
    """Give the four shifts of the test photographs, a hard subset chosen by a fixed network, and six corruptions."""
    suite, draw = ShiftSuite(fixed, world.anew), setting.generator("evaluation")
    test = world.test
    return suite.natural(test.images, test.labels, draw), suite.corrupted(test.images, test.labels, draw)


def reference(setting: Setting, world: World) -> dict[str, Tensor]:
    """Train a network that chooses the hard subset, and those of the curve, on photographs, with other weights each."""
    budgets = world.budgets(
        setting.pick(smoke=(20, 100), desk=(50, 120, 300, 1_000, 3_000), gpu=(1_000, 2_000, 5_000, 10_000, 20_000))
    )
    draw = setting.generator("method")

    def trained(budget: int) -> nn.Module:
        given, fresh = _drawn(world, Plan(), budget, draw), network(setting, world, world.classes)
        for part in fresh.modules():
            if isinstance(reset := getattr(part, "reset_parameters", None), Callable):
                reset()
        tuned = tune(
            _RATES,
            lambda rate: _by_labels(world, copy.deepcopy(fresh), given, rate, draw, augmented=False),
            partial(_valid, world),
            better="higher",
        )
        return tuned.best.classifier

    fixed = trained(budgets[len(budgets) // 2])
    natural, _ = suite(setting, world, fixed)
    models = [trained(budget) for budget in budgets]
    found = torch.tensor([accuracies(model, (world.test, *natural.values())) for model in models])
    return {"accuracy": found[:, 0].clone(), "shifted": found[:, 1:].clone()} | {
        f"fixed {name}": value for name, value in fixed.state_dict().items()
    }


def tuned_on(setting: Setting, world: World, plan: Plan, budget: int) -> Tuned[Trained]:
    """Train an arm on a budget with each learning rate; the best is that of validation photographs."""
    given = _drawn(world, plan, budget, setting.generator("batches"))

    def attempt(rate: float) -> Trained:
        if plan.loss == "captions":
            return _by_captions(setting, world, given, rate)
        model = network(setting, world, world.classes)
        return _by_labels(world, model, given, rate, setting.generator("batches"), augmented=plan.augmented)

    return tune(_RATES, attempt, partial(_valid, world), better="higher")
