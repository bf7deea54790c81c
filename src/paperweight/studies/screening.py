"""The study that a screen of recipes runs: one classifier trained by one recipe, at one rate, for so many updates.

A screen looks at many recipes on a person's data. What all its trials share is in the name of the study, and what one
trial does differently in the name of its arm, so that a worker finds both again by their names.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import final

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from paperweight.catalogue import entries, load_named
from paperweight.data import LabelledImages, Splits
from paperweight.errors import InputError
from paperweight.loops import Evaluation, evaluate_classifier
from paperweight.nets import LeNet, NormalisedMLP
from paperweight.studies._boosting import boosted_trees
from paperweight.studies._classification import Classification, classification
from paperweight.studies._declaration import Arm, Metric, Outcome, Study
from paperweight.studies._metrics import ACCURACY, TEST_LOSS
from paperweight.studies._recipe import Recipe, train_by
from paperweight.studies._setting import Setting

__all__ = [
    "BASELINE",
    "HALF",
    "IDENTITY",
    "OPTIMIZERS",
    "PREFIX",
    "TREES",
    "ScreenArm",
    "ScreenData",
    "find_recipe",
    "screening",
]

BASELINE = "baseline"
IDENTITY = "identity"
HALF = "half_of_the_data"
TREES = "gradient_boosting"

PREFIX = "screening:"

_VALIDATED, _TESTED = 1_500, 3_000
_NO_VIEW = "view size is not compatible with input tensor's size and stride"


def _sgd(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    return SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)


def _adamw(parameters: Iterable[nn.Parameter], lr: float) -> Optimizer:
    return AdamW(parameters, lr=lr, weight_decay=0.01)


OPTIMIZERS = {"sgd": (_sgd, 0.03), "adamw": (_adamw, 0.003)}
"""The optimizers among which the baseline is chosen, with the rate from which the tries of each start."""


@final
@dataclass(frozen=True, kw_only=True)
class ScreenData:
    """What all trials of a part of a screen share.

    Args:
        train: Number of training examples that are drawn.
        used: Number of those that are trained on; all where there are no more.
        validation: Number of validation examples.
        test: Number of test examples.
        batch_size: Examples a batch.
        target: Column to predict, where the data are a table: the last one where it is empty; ``None`` for images.
        judged: Whether test examples are looked at.
        recipes: Names of the person's own recipes, a space between: a worker loads their files before its first trial,
            and not in one, which would leave it changed.
        own: Hash of the files of the person's network and recipes, so that a changed one has trials of its own; empty
            where there are none.
    """

    train: int
    used: int
    validation: int
    test: int
    batch_size: int
    target: str | None = None
    judged: bool = False
    recipes: str = ""
    own: str = ""

    def study(self) -> str:
        """Return the name of the study."""
        return PREFIX + json.dumps(asdict(self), sort_keys=True)


@final
@dataclass(frozen=True)
class ScreenArm:
    """What one trial of a screen trains.

    Args:
        recipe: Name of the recipe, of a control, or of the baseline.
        optimizer: Name of the baseline's optimizer.
        lr: The learning rate.
        steps: Number of updates.

    Example:
        >>> arm = ScreenArm("lookahead", "sgd", 0.03, 400)
        >>> arm.name
        'lookahead on sgd, lr 0.03, 400 steps'
        >>> ScreenArm.named(arm.name) == arm
        True
    """

    recipe: str
    optimizer: str
    lr: float
    steps: int

    @property
    def name(self) -> str:
        """The name by which a worker finds it."""
        return f"{self.recipe} on {self.optimizer}, lr {self.lr!r}, {self.steps} steps"

    @classmethod
    def named(cls, name: str) -> "ScreenArm":
        """Return what has a name.

        Raises:
            KeyError: If nothing has it.
        """
        try:
            what, lr, steps = name.rsplit(", ", 2)
            recipe, optimizer = what.rsplit(" on ", 1)
            return cls(recipe, optimizer, float(lr.removeprefix("lr ")), int(steps.removesuffix(" steps")))
        except ValueError as error:
            raise KeyError(name) from error


@final
class _Arms(Mapping[str, Arm[ScreenArm]]):
    """Every arm that a screen can have, by its name; those that are gone through are the controls."""

    def __getitem__(self, name: str) -> Arm[ScreenArm]:
        return Arm(name, ScreenArm.named(name))

    def __iter__(self) -> Iterator[str]:
        return iter((BASELINE, IDENTITY, HALF))

    def __len__(self) -> int:
        return 3


def find_recipe(name: str) -> Recipe:
    """Return a recipe by the stem of its paper, or as ``package.module:name``.

    Raises:
        InputError: If there is none, or what has the name is no recipe.

    Example:
        >>> find_recipe("lookahead").slots
        ('optimizer',)
    """
    if ":" in name:
        found = load_named(name, "with")
    else:
        entry = next((entry for entry in entries() if entry.stem == name), None)
        study = f"paperweight.studies.{entry.field}.{entry.stem}" if entry and entry.study_path.is_file() else ""
        found = getattr(import_module(study), "RECIPE", None) if study else None
    if not isinstance(found, Recipe):
        what = "it is " + type(found).__name__ if ":" in name else "no paper of that name has one"
        raise InputError(f"{name} must be a recipe, a paperweight.studies.Recipe; {what}")
    return found


def screening(name: str) -> tuple[Study, partial[Outcome], Path]:
    """Return the declaration, the function and the file of the study that has the name of a `ScreenData`.

    Raises:
        InputError: If nothing has this name.
    """
    try:
        data = ScreenData(**json.loads(name.removeprefix(PREFIX)))
    except (ValueError, TypeError) as error:
        raise InputError(f"there is no screen called {name!r}; paperweight screen --data PATH runs one") from error
    for own in data.recipes.split():
        find_recipe(own)
    validation = {
        "validation_accuracy": Metric.higher("validation accuracy", 0.01),
        "validation_loss": Metric.lower("validation loss", 0.02, "nats"),
    }
    test = {"accuracy": ACCURACY, "test_loss": TEST_LOSS}
    study = Study(
        paper="screening",
        question="Which of many recipes make a classifier better on these data?",
        claim="A recipe raises the accuracy of the tuned baseline.",
        arms=_Arms(),
        metrics={**test, **validation} if data.judged else validation,
        headline="accuracy" if data.judged else "validation_accuracy",
        tuned="the learning rate, the same number of tries for each recipe, on validation examples",
        limits="One network, one number of updates, and these data.",
    )
    return study, partial(_run, data), Path(__file__)


def _run(data: ScreenData, arm: Arm[ScreenArm], setting: Setting) -> Outcome:
    plan = arm.make
    task, _ = _task(data, setting)
    if plan.recipe == TREES:
        return _outcome(data, task, boosted_trees(task.data, setting.stream("method")), {}, {})
    try:
        return _trained(data, plan, setting, torch.channels_last)
    except RuntimeError as error:
        if _NO_VIEW not in str(error):
            raise
    setting.seed_global_streams()
    return _trained(data, plan, setting, torch.contiguous_format)


def _trained(data: ScreenData, plan: ScreenArm, setting: Setting, layout: torch.memory_format) -> Outcome:
    """Train and evaluate a network.

    Args:
        data: What the trials share.
        plan: What this one trains.
        setting: Where it runs.
        layout: Of the weights of convolutions, and so of the maps between them. On a CPU convolutions and pooling are
            quicker with channels last, in which a network or a recipe that calls ``view`` may not work.
    """
    task, network = _task(data, setting)
    if plan.recipe == HALF:
        task = _trained_on(task, len(task.train) // 2)
    started = time.perf_counter()
    trained = train_by(
        None if plan.recipe in (BASELINE, IDENTITY, HALF) else find_recipe(plan.recipe),
        task,
        nn.utils.convert_conv2d_weight_memory_format(task.network(network), layout),
        OPTIMIZERS[plan.optimizer][0],
        lr=plan.lr,
        steps=plan.steps,
        batch_size=data.batch_size,
        generator=setting.generator("method" if plan.recipe == IDENTITY else "batches"),
    )

    def evaluate(part: LabelledImages) -> Evaluation:
        return evaluate_classifier(trained.model, part.images, part.labels)

    arguments = {"lr": plan.lr, **trained.arguments, "training_seconds": time.perf_counter() - started}
    return _outcome(data, task, evaluate, {"optimizer": trained.optimizer, **trained.made}, arguments)


def _trained_on(task: Classification, count: int) -> Classification:
    """Return a task with the first training examples alone."""
    return replace(task, data=replace(task.data, train=_first(task.train, count)))


def _first(part: LabelledImages, count: int) -> LabelledImages:
    """Return the first examples, at least one; they are in random order."""
    count = max(1, count)
    return LabelledImages(part.images[:count], part.labels[:count])


@final
@dataclass(frozen=True)
class _Loaded:
    """The data of the last trial in this process, which the next one with the same seed takes as they are."""

    parts: Splits
    notes: tuple[str, ...]
    data_hashes: Mapping[str, str]
    versions: tuple[int, ...]

    @classmethod
    def of(cls, parts: Splits, setting: Setting) -> "_Loaded":
        return cls(parts, tuple(setting.notes), dict(setting.data_hashes), _versions(parts))

    @property
    def is_as_it_was(self) -> bool:
        return self.versions == _versions(self.parts)


def _versions(parts: Splits) -> tuple[int, ...]:
    """Return how often each tensor was changed in place."""
    tensors = (t for part in (parts.train, parts.validation, parts.test) for t in (part.images, part.labels))
    return tuple(tensor._version for tensor in tensors)  # pyright: ignore[reportPrivateUsage]


_LAST: dict[object, _Loaded] = {}


def _task(data: ScreenData, setting: Setting) -> tuple[Classification, Callable[..., nn.Module]]:
    """Return the data, inputs with mean 0 and standard deviation 1, and the default network for such data."""
    place = (setting.data, setting.seed, setting.device, replace(data, used=0, judged=False))
    last = _LAST.get(place)
    if last is not None and last.is_as_it_was:
        setting.take_over(last.notes, last.data_hashes)
    else:
        _LAST.clear()
        last = _LAST[place] = _Loaded.of(_parts(data, setting), setting)
    network = LeNet if data.target is None else partial(NormalisedMLP, hidden=(128, 64))
    return _trained_on(Classification(setting, last.parts), data.used), network


def _parts(data: ScreenData, setting: Setting) -> Splits:
    """Return the parts, of those for evaluation no more than a short training can wait for."""
    sizes = (data.train, data.validation, data.test)
    if data.target is None:
        parts = classification(setting, smoke=sizes, desk=sizes, gpu=sizes).data
    else:
        parts = setting.table(target=data.target or None, train=data.train, validation=data.validation, test=data.test)
    setting.notes.append(f"at most {_VALIDATED:,} validation and {_TESTED:,} test examples of these are looked at")
    train, validation, test = parts.train, _first(parts.validation, _VALIDATED), _first(parts.test, _TESTED)
    return replace(parts, train=_usual(train), validation=_usual(validation), test=_usual(test))


def _usual(part: LabelledImages) -> LabelledImages:
    """Return examples in the usual layout: images of one channel may seem to have channels last, as digits do."""
    return replace(part, images=part.images.clone(memory_format=torch.contiguous_format))


def _outcome(
    data: ScreenData,
    task: Classification,
    evaluate: Callable[[LabelledImages], Evaluation],
    made: Mapping[str, object],
    arguments: Mapping[str, object],
) -> Outcome:
    on_validation = evaluate(task.data.validation)
    metrics = {"validation_accuracy": on_validation.accuracy, "validation_loss": on_validation.loss}
    on_test = evaluate(task.data.test) if data.judged else None
    if on_test is not None:
        metrics |= {"accuracy": on_test.accuracy, "test_loss": on_test.loss}
    return Outcome(
        metrics=metrics,
        made=made,
        arguments={
            **arguments,
            "training_examples": len(task.train),
            "validation_examples": len(task.data.validation),
            "test_examples": len(task.data.test),
            "loading_seconds": task.setting.unbilled_wall,
        },
    )
