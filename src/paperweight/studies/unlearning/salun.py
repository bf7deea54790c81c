"""SalUn: moving only the salient weights brings unlearning closer to retraining than moving all (Fan et al. 2024).

A network is trained once a seed, and one training image in ten, drawn at random, is to be forgotten. The reference is
the same training on the retain set alone, from the same initial weights. The headline is the paper's: the mean of the
distances to the reference in accuracy on forget, retain and test set and in efficacy against membership inference,
the share of the forget set that an attack takes for not trained on. The attack calls a member what is predicted with at
least the confidence in the true label that 95 in 100 retain images reach; the paper's is a support vector machine on
that confidence. (The threshold that best separates retain from test images was tried first, and moved so much by chance
that no arm could be told from another.) The retrained arm trains on the retain set again, from the same weights in
another order: its gap is the least that noise makes, its cost the one to beat.

A practitioner has no reference to tune on, nor do the arms here. What a model retrained without the forget set would
do can be guessed from the original: accuracy on the forget set as the original's on validation images, unchanged
accuracy on retain set and validation images, and forgotten images that the attack flags as often as validation images.
Each arm takes the rate with the least mean distance to that guess. So the verdict is on method and tuning together;
how near the guess is to the reference stands among the arguments.

What it can show: whether the mask helps, on small images and a network that nearly interpolates them. What it cannot:
anything about forgetting a class or a concept, about diffusion models, or about stronger attacks; nearness in four
numbers is no proof of forgetting. A gap not below that of random labelling without a mask would refute the claim. As
low a one with a random mask of the same size would show that it matters how many weights move, not which; as low a one
by fine-tuning or by ascent of the loss, that wrong labels are not needed. Images trained on wrong labels may stand out
as never-seen ones do not, which the membership gap shows; the original's own gap, that of doing nothing, is told.
"""

import copy
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import TensorDataset

from paperweight.data import channel_statistics, normalise
from paperweight.loops import best_of, evaluate_classifier, evaluating, fit_classifier, index_batches, minimise
from paperweight.nets import MLP
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.unlearning.salun import SalUn

STUDY = Study(
    paper="salun",
    question="When a trained classifier must forget some images, does it help to move only the weights that matter?",
    claim="Random labelling of the salient half of the weights comes closer to retraining than that of all weights.",
    arms={
        "random_labels": "random labelling of all weights, which the method is at fraction 1",
        "salun": "SalUn: random labelling of the salient half of the weights",
        "retrained": "control: trained from scratch on the retain set, in another order than the reference; not tuned",
        "random_mask": "control: random labelling of as many weights, drawn at random",
        "fine_tuning": "control: further training on the retain set alone",
        "gradient_ascent": "control: ascent of the loss of the forget set alone",
    },
    metrics={
        "average_gap": Metric(label="average gap to retraining", unit="", better="lower", minimal_effect=0.01),
        "forget_gap": Metric(label="gap in accuracy, forget set", unit="", better="lower", minimal_effect=0.02),
        "retain_gap": Metric(label="gap in accuracy, retain set", unit="", better="lower", minimal_effect=0.01),
        "test_gap": Metric(label="gap in test accuracy", unit="", better="lower", minimal_effect=0.01),
        "membership_gap": Metric(label="gap in membership efficacy", unit="", better="lower", minimal_effect=0.04),
    },
    headline="average_gap",
    tuned=(
        "the learning rate, 5 tries an arm and seed, by the distance on training and validation images to what the "
        "original model lets one expect of a retrained one; the retrained arm has the original's rate and no tries"
    ),
    limits=(
        "Small images, one small network, 10% of the samples drawn at random, one threshold attack: nothing follows "
        "for classes, concepts, diffusion models or per-sample attacks. The forget set is small, so that one image is "
        "some hundredths of its accuracy; the gap of the retrained arm tells the noise."
    ),
)

_TRAINING_RATE = 0.05
_MOMENTUM = 0.9
_DECAY = 5e-4
_BATCH = 64
_EPOCHS = 10
_LABELLING_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_RATES = {
    "random_labels": _LABELLING_RATES,
    "salun": _LABELLING_RATES,
    "random_mask": _LABELLING_RATES,
    "fine_tuning": (1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    "gradient_ascent": (1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "retrained": (_TRAINING_RATE,),
}


class Measures(NamedTuple):
    """Accuracies on three sets, and the share of the forget set that the attack takes for not trained on."""

    forget: float
    retain: float
    held_out: float
    membership: float

    def gaps(self, reference: "Measures") -> list[float]:
        """Compute the four absolute differences."""
        return [abs(ours - theirs) for ours, theirs in zip(self, reference, strict=True)]


class _Part(NamedTuple):
    images: Tensor
    labels: Tensor


def membership_threshold(members: Tensor) -> Tensor:
    """Compute the highest confidence, of those in the samples trained on (N,), that 95 in 100 of them reach.

    The attack calls a sample a member where its confidence is at least as high.
    """
    return members.sort().values[len(members) * 5 // 100]


def run(arm: str, setting: Setting) -> Outcome:
    """Unlearn with each rate; report how far the one chosen without the reference is from the reference."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=600, gpu=20_000),
        validation=setting.pick(smoke=50, desk=390, gpu=5_000),
        test=setting.pick(smoke=50, desk=800, gpu=10_000),
        max_side=32,
    )
    steps = setting.pick(smoke=20, desk=600, gpu=8_000)
    epochs = setting.pick(smoke=1, desk=_EPOCHS, gpu=_EPOCHS)
    statistics = channel_statistics(data.train.images)
    train, validation, test = (
        _Part(normalise(part.images, *statistics), part.labels) for part in (data.train, data.validation, data.test)
    )
    count = len(train.images) // 10
    forget, retain = _Part(*(part[:count] for part in train)), _Part(*(part[count:] for part in train))

    def network() -> nn.Module:
        return setting.network(data.shape, len(data.classes), default=partial(MLP, hidden=(256,)))

    def trained(part: _Part, generator: torch.Generator) -> nn.Module:
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=_TRAINING_RATE, momentum=_MOMENTUM, weight_decay=_DECAY)
        schedule = CosineAnnealingLR(optimizer, steps)
        fit_classifier(model, optimizer, *part, steps=steps, batch_size=_BATCH, generator=generator, schedule=schedule)
        return model

    def train_both() -> dict[str, Tensor]:
        models = {name: trained(part, setting.generator("batches")) for name, part in parts.items()}
        return {f"{name} {key}": value for name, model in models.items() for key, value in model.state_dict().items()}

    parts = {"original": train, "reference": retain}
    states = setting.cached("salun", train_both)

    def restored(name: str) -> nn.Module:
        model = network()
        model.load_state_dict({key: states[f"{name} {key}"] for key in model.state_dict()})
        return model

    original, reference = restored("original"), restored("reference")

    def unlearned(rate: float) -> nn.Module:
        if arm == "retrained":
            return trained(retain, setting.generator("method"))
        return _unlearned(arm, original, forget, retain, rate, epochs, setting.generator("method"))

    def measure(model: nn.Module, held_out: _Part) -> tuple[Measures, float]:
        return _measure(model, forget, retain, held_out)

    before = measure(original, validation)[0]
    tries = {rate: unlearned(rate) for rate in _RATES[arm]}

    def distance(model: nn.Module) -> float:
        found, flagged = measure(model, validation)
        expected = Measures(before.held_out, before.retain, before.held_out, flagged)
        return _mean(found.gaps(expected))

    distances = {rate: distance(model) for rate, model in tries.items()}
    rate = best_of(distances, lambda rate: distances[rate], better="lower")
    final, goal = (measure(model, test)[0] for model in (tries[rate], reference))
    gaps = dict(zip(("forget_gap", "retain_gap", "test_gap", "membership_gap"), final.gaps(goal), strict=True))
    weights = zip(tries[rate].parameters(), original.parameters(), strict=True)
    untouched = measure(original, test)[0]
    return Outcome(
        metrics={"average_gap": _mean(list(gaps.values())), **gaps},
        arguments={
            "learning_rate": rate,
            "tries": len(tries),
            "average_gap_of_the_original": _mean(untouched.gaps(goal)),
            "reference_from_what_is_expected": distance(reference),
            **_named("", final),
            **_named("_of_the_reference", goal),
            **_named("_of_the_original", untouched),
            "weights_moved": sum(int((ours != theirs).sum()) for ours, theirs in weights),
            "epochs": epochs,
            "batch_size": _BATCH,
            "images_to_forget": count,
            "images_to_retain": len(retain.images),
            "test_images": len(test.images),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={"distance to what is expected, by learning rate": list(distances.items())},
        correct=evaluate_classifier(tries[rate], *test).correct,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _named(suffix: str, measures: Measures) -> dict[str, float]:
    names = ("accuracy_forget", "accuracy_retain", "accuracy_test", "membership_efficacy")
    return {name + suffix: value for name, value in zip(names, measures, strict=True)}


def _measure(model: nn.Module, forget: _Part, retain: _Part, held_out: _Part) -> tuple[Measures, float]:
    """Measure a model; give also which share of the held-out images the attack takes for not trained on."""
    accuracy = [evaluate_classifier(model, *part).accuracy for part in (forget, retain, held_out)]
    forgotten, members, others = (_confidences(model, part) for part in (forget, retain, held_out))
    threshold = membership_threshold(members)
    flagged, expected = ((scores < threshold).double().mean().item() for scores in (forgotten, others))
    return Measures(accuracy[0], accuracy[1], accuracy[2], flagged), expected


def _confidences(model: nn.Module, part: _Part) -> Tensor:
    """Compute the probability of the true label, float64, (N,)."""
    with evaluating(model), torch.no_grad():
        logits = torch.cat([model(images) for images in part.images.split(512)])
    return logits.double().softmax(dim=1).gather(1, part.labels[:, None]).squeeze(1)


def _unlearned(
    arm: str, original: nn.Module, forget: _Part, retain: _Part, rate: float, epochs: int, generator: torch.Generator
) -> nn.Module:
    """Unlearn as the arm does, each arm in eval mode and with the same optimizer."""
    if arm in ("random_labels", "salun", "random_mask"):
        fraction = 0.5 if arm == "salun" else 1.0
        unlearner = SalUn(fraction, rate, epochs, batch_size=_BATCH, momentum=_MOMENTUM, weight_decay=_DECAY)
        mask = _random_mask(original, 0.5, generator) if arm == "random_mask" else None
        return unlearner(original, TensorDataset(*forget), TensorDataset(*retain), generator=generator, mask=mask)
    model = copy.deepcopy(original)
    part, sign = (retain, 1) if arm == "fine_tuning" else (forget, -1)

    def loss(index: Tensor) -> Tensor:
        return sign * F.cross_entropy(model(part.images[index]), part.labels[index])

    with evaluating(model):
        minimise(
            loss,
            torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM, weight_decay=_DECAY),
            index_batches(len(part.images), _BATCH, generator, part.images.device),
            steps=epochs * max(1, len(part.images) // _BATCH),
        )
    return model


def _random_mask(model: nn.Module, fraction: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Mark as many weights as the saliency mask does, drawn at random."""
    weights = dict(model.named_parameters())
    total = sum(weight.numel() for weight in weights.values())
    mask = torch.zeros(total, dtype=torch.bool)
    mask[torch.randperm(total, generator=generator)[: round(fraction * total)]] = True
    parts = mask.split([weight.numel() for weight in weights.values()])
    return {name: part.view(w.shape).to(w.device) for (name, w), part in zip(weights.items(), parts, strict=True)}
