"""Images changed within a diffusion model carry over to other classifiers better than by gradients (Chen et al. 2023).

Images are changed so that a small convolutional surrogate errs, and shown to classifiers that were not attacked: a
perceptron, and another convolutional network. Success is an image that such a classifier takes for another class, while
a judge that was trained on attacked images still sees its own: else the strongest change would be the best. The
headline is the share of successes, the mean over the classifiers. What says how strong an arm is was tuned by it.

The baseline ascends gradients of pixels with momentum. A share not above the baseline's would refute the claim here. As
large a one without the two losses of attention would show that what carries over is the diffusion model, not what is
said of its attention. The paper's weights of these losses are for other networks; here they are smaller, so that
all three losses are of about one size. The distance to test images stands for how images look.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from paperweight.attacks import MomentumTransfer, ProjectedGradient
from paperweight.generators import TextSpec, TextToImage, caption_loss
from paperweight.loops import ExponentialMovingAverage, evaluate_classifier, fit_generator, tune, warmed_cosine
from paperweight.nets import MLP, LeNet
from paperweight.robustness.diffattack import DiffAttack
from paperweight.studies import Arm, Classification, Metric, Outcome, Setting, Study, classification
from paperweight.studies.gan._world import sliced_wasserstein
from paperweight.studies.robustness._adversarial_training import fit_attacked

_BATCH = 64
_LRS = (0.008, 0.02, 0.05)
_Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
_Make = Callable[[Classification, float], _Attack]


class _Plan(NamedTuple):
    """What is tuned, its grid, and what makes the attack of a value."""

    tuned: str
    grid: Sequence[float]
    make: _Make


def _momentum(task: Classification, radius: float) -> _Attack:
    return MomentumTransfer(radius, steps=task.setting.pick(smoke=1, desk=10, gpu=10))


def _within(task: Classification, lr: float, transfer: float, structure: float) -> _Attack:
    pick = task.setting.pick
    return DiffAttack(
        _diffusion(task),
        _names(task),
        steps=pick(smoke=1, desk=24, gpu=30),
        lr=lr,
        times=pick(smoke=4, desk=20, gpu=20),
        depth=pick(smoke=1, desk=5, gpu=5),
        transfer=transfer,
        structure=structure,
    )


STUDY = Study(
    paper="diffattack",
    question="Do images that are changed within a diffusion model carry over to other classifiers better?",
    claim="More images fool classifiers that were not attacked, and keep their class, than by momentum on pixels.",
    arms={
        "momentum": Arm("gradients of pixels with momentum", _Plan("radius", (0.1, 0.2, 0.4), _momentum)),
        "diffattack": Arm(
            "changed five steps back, with both losses of attention, weights of 30 and 3",
            _Plan("lr", _LRS, partial(_within, transfer=30.0, structure=3.0)),
        ),
        "no_attention": Arm(
            "control: changed five steps back, without the losses of attention",
            _Plan("lr", _LRS, partial(_within, transfer=0.0, structure=0.0)),
        ),
    },
    metrics={
        "success": Metric.higher("share that fools a classifier not attacked and keeps its class", 0.04),
        "fooled": Metric.higher("share that fools a classifier not attacked", 0.05),
        "distance": Metric.lower("distance of changed images to those given", 0.01),
    },
    headline="success",
    tuned=(
        "radius or learning rate, 3 tries an arm and seed, by success on 100 validation images; the weights of the "
        "method's losses were set while it was tried out, where the paper's, 10,000 and 100, did worse"
    ),
    limits=(
        "Digits of eight pixels a side, small classifiers, of which one is built as the surrogate is, a small "
        "transformer of one block and captions of one word: nothing follows for large diffusion models, whose "
        "attention knows objects, nor for how images look to a person. The judge errs itself. Weighed before on these "
        "seeds with narrower grids, at the upper edges of which several arms stood: -0.112, of an interval from -0.146 "
        "to -0.072."
    ),
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Change validation images with each value of the grid, and test images with the best."""
    task = classification(
        setting, smoke=(100, 10, 20), desk=(1_200, 100, 250), gpu=(40_000, 500, 2_000), max_side=16, normalised=False
    )
    surrogate, others = (
        _classifier(task, LeNet, 0),
        [_classifier(task, build, number) for number, build in enumerate((partial(MLP, hidden=(64, 64)), LeNet), 1)],
    )
    judge = _classifier(task, LeNet, 3, attacked=True)

    def judged(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give for each image how many of the other classifiers err, and whether the judge is right."""
        with torch.no_grad():
            errs = torch.stack([other(images).argmax(dim=1) != labels for other in others])
            return errs.double().mean(dim=0), judge(images).argmax(dim=1) == labels

    validation, test = task.data.validation, task.data.test

    def score(attack: _Attack) -> float:
        errs, right = judged(attack(surrogate, validation.images, validation.labels), validation.labels)
        return (errs * right).mean().item()

    tuned = tune(arm.make.grid, partial(arm.make.make, task), score, better="higher")
    changed = tuned.best(surrogate, test.images, test.labels)
    errs, right = judged(changed, test.labels)
    return Outcome(
        metrics={
            "success": (errs * right).mean().item(),
            "fooled": errs.mean().item(),
            "distance": sliced_wasserstein(changed, test.images, setting.generator("evaluation")),
        },
        made={"attack": tuned.best},
        tuned={arm.make.tuned: tuned},
        arguments={
            "accuracy_of_the_surrogate": task.test(surrogate).accuracy,
            "accuracy_of_the_surrogate_on_changed": evaluate_classifier(surrogate, changed, test.labels).accuracy,
            "accuracy_of_others": [task.test(other).accuracy for other in others],
            "accuracy_of_the_judge": task.test(judge).accuracy,
            "judge_right_on_changed": right.double().mean().item(),
            "root_mean_square_change": (changed - test.images).square().mean().sqrt().item(),
            "training_images": len(task.train),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        images={"given": test.images[:16], "changed": changed[:16]},
    )


def _names(task: Classification) -> tuple[str, ...]:
    return tuple(f"class{number}" for number in range(task.classes))


def _diffusion(task: Classification) -> TextToImage:
    """Train a text-to-image model whose captions are names of classes, or give it as an arm before left it."""
    setting, names = task.setting, _names(task)
    arguments = {"width": setting.pick(smoke=8, desk=32, gpu=128), "blocks": 1, "heads": 2}
    spec = TextSpec(shape=task.shape, words=names, length=3, dim=16, arguments=arguments)
    steps = setting.pick(smoke=2, desk=600, gpu=20_000)

    def build() -> dict[str, Tensor]:
        model, images = setting.initialised(spec.build), task.train.images
        numbers = model.numbers([names[label] for label in task.train.labels.tolist()], len(images))
        ema, optimizer = ExponentialMovingAverage(model, 0.99), AdamW(model.parameters(), lr=3e-3)

        def loss(trained: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
            return caption_loss(model, images[index], numbers[index], generator, 0.0)

        fit_generator(
            model,
            optimizer,
            torch.arange(len(images), device=images.device),
            loss=loss,
            steps=steps,
            batch_size=32,
            generator=setting.generator("batches"),
            ema=ema,
            schedule=warmed_cosine(optimizer, steps),
        )
        return ema.average.state_dict()

    model = setting.initialised(spec.build)
    model.load_state_dict(setting.cached("diffusion of names", build))
    return model.eval()


def _classifier(
    task: Classification, default: Callable[..., nn.Module], number: int, attacked: bool = False
) -> nn.Module:
    """Train a classifier, numbered so that each begins with weights of its own, or give it as an arm before left it."""
    setting, steps = task.setting, task.setting.pick(smoke=2, desk=500, gpu=5_000)

    def fresh() -> nn.Module:
        if number == 0:
            return task.network(default)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setting.stream("init") + number)
            return default(task.shape, task.classes).to(setting.device)

    def build() -> dict[str, Tensor]:
        model = fresh()
        optimizer = Adam(model.parameters(), lr=3e-3)
        schedule = warmed_cosine(optimizer, steps)
        if not attacked:
            return task.fit(model, optimizer, steps=steps, batch_size=_BATCH, schedule=schedule).model.state_dict()
        attack = ProjectedGradient(0.1, steps=2, step=0.075, keep_going=True)
        trained = fit_attacked(task, model, optimizer, attack=attack, steps=steps, batch_size=_BATCH, schedule=schedule)
        return trained.model.state_dict()

    model = fresh()
    model.load_state_dict(setting.cached(f"classifier {number}", build))
    return model.eval()
