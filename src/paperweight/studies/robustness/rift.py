"""Fine-tuning the layer that robustness needs least makes a robust network more accurate without attack (Zhu et al.).

A network of three hidden layers learns characters at half their size by adversarial training in norm infinity, once a
seed; every arm begins with it. Each fine-tunes a part of it on natural images, and takes of the mixtures of old and new
weights the most accurate one that is as accurate under attack on validation images. So what is compared is how much
accuracy without attack can be had for the same accuracy under attack. The headline is accuracy on natural test images;
accuracy on attacked test images, by projected gradient ascent on the margin from three starts, tells whether the
mixture that was robust on validation images is so on others, too.

What it can show: whether fine-tuning gains accuracy at no cost of robustness here, and whether it matters which layer
is taken. What it cannot: the many layers of the paper's residual networks, batch normalization, or shifted images. An
accuracy not above that of the network as it was, or one bought with accuracy under attack, would refute the claim here.
As high an accuracy with the layer of highest criticality, the last layer, or all layers would show that it is not the
criticality that tells where to fine-tune.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from paperweight.attacks import ProjectedGradient, margin_loss
from paperweight.loops import evaluate_classifier, fit_robust, tune, warmed_cosine
from paperweight.nets import MLP
from paperweight.robustness.rift import FineTuned, critical_fine_tuning, module_criticality
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification

_RADIUS = 0.03
_RATES = (0.02, 0.08, 0.32, 1.28)

Choose = Callable[[Mapping[str, float]], str]
"""Names the part to fine-tune, by the criticality of the layers; empty for the whole network."""


def _lowest(criticality: Mapping[str, float]) -> str:
    return min(criticality, key=criticality.__getitem__)


def _highest(criticality: Mapping[str, float]) -> str:
    return max(criticality, key=criticality.__getitem__)


def _last(criticality: Mapping[str, float]) -> str:
    return list(criticality)[-1]


def _all(criticality: Mapping[str, float]) -> str:
    return ""


STUDY = Study(
    paper="rift",
    question="Does fine-tuning its least critical layer make a robust network more accurate, and no less robust?",
    claim="A robust network is more accurate without attack after its least critical layer is fine-tuned and mixed.",
    arms={
        "robust": Arm("adversarial training, as it is", None),
        "rift": Arm("the layer of lowest criticality fine-tuned, and mixed", _lowest),
        "highest": Arm("control: the layer of highest criticality", _highest),
        "last": Arm("control: the last layer", _last),
        "all": Arm("control: all layers at once", _all),
    },
    metrics={
        "accuracy": Metric.higher("accuracy on natural test images", 0.005),
        "under_attack": Metric.higher("accuracy on attacked test images", 0.01),
        "with_noise": Metric.higher("accuracy on test images with Gaussian noise of 0.1", 0.01),
    },
    headline="accuracy",
    tuned=(
        "the learning rate of fine-tuning, 4 tries an arm and seed, by accuracy of the chosen mixture on natural "
        "validation images; the network as it is has none"
    ),
    limits=(
        "Small images, one network of four layers, one radius, ten epochs of fine-tuning: nothing follows for deep "
        "convolutional networks. The learning rate of the adversarial training, which all arms share, is not tuned."
    ),
    seeds=8,
)


def run(arm: Arm[Choose | None], setting: Setting) -> Outcome:
    """Fine-tune a part of the robust network at each rate; measure the best mixture on test images."""
    task = classification(
        setting,
        smoke=(40, 20, 20),
        desk=(1_500, 800, 4_000),
        gpu=(20_000, 5_000, 10_000),
        default="glyphs-20",
        max_side=14,
        normalised=False,
    )
    train, validation, test = task.train, task.data.validation, task.data.test
    steps, epochs = setting.pick(smoke=(3, 2), desk=(500, 10), gpu=(20_000, 10))
    attack = ProjectedGradient(radius=_RADIUS, steps=5, keep_going=True)
    quick = ProjectedGradient(radius=_RADIUS, steps=10, loss=margin_loss)
    strong = ProjectedGradient(radius=_RADIUS, steps=20, starts=3, loss=margin_loss)
    model = task.network(partial(MLP, hidden=(64, 64, 64)))

    def build() -> dict[str, Tensor]:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        fit_robust(
            model,
            optimizer,
            train.images,
            train.labels,
            attack=attack,
            steps=steps,
            batch_size=50,
            generator=setting.generator("batches"),
            schedule=warmed_cosine(optimizer, steps),
        )
        return dict(model.state_dict())

    model.load_state_dict(setting.cached("adversarially trained", build))
    attacked = attack(model, train.images, train.labels, generator=setting.generator("method"))
    criticality = module_criticality(model, attacked, train.labels)
    tuned, choose = None, arm.make
    if choose is not None:

        def fine_tuned(rate: float) -> FineTuned:
            return critical_fine_tuning(
                model,
                train.images,
                train.labels,
                validation.images,
                validation.labels,
                module=choose(criticality),
                attack=quick,
                lr=rate,
                epochs=epochs,
                generator=setting.generator("method"),
            )

        tuned = tune(_RATES, fine_tuned, lambda tried: tried.accuracy[tried.shares.index(tried.share)], better="higher")
        model.load_state_dict(tuned.best.state)
    changed = strong(model, test.images, test.labels, generator=setting.generator("evaluation"))
    noise = torch.randn(test.images.shape, generator=setting.generator("evaluation")).to(test.images)
    natural = evaluate_classifier(model, test.images, test.labels)
    return Outcome(
        metrics={
            "accuracy": natural.accuracy,
            "under_attack": evaluate_classifier(model, changed, test.labels).accuracy,
            "with_noise": evaluate_classifier(model, test.images + 0.1 * noise, test.labels).accuracy,
        },
        made={"attack": strong},
        tuned={} if tuned is None else {"lr": tuned},
        arguments={
            "radius": _RADIUS,
            "steps": steps,
            "fine_tuned": "nothing" if tuned is None else tuned.best.module or "all",
            "share": 0.0 if tuned is None else tuned.best.share,
            "training_images": len(train),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        curves={
            "criticality, by number of the layer": list(zip(map(float, range(99)), criticality.values(), strict=False)),
        },
        images={"as they are": test.images[:12], "attacked": changed[:12]},
        correct=natural.correct,
    )
