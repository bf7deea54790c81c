"""A stamp on a few relabelled suspects outdoes an attacker's trigger, and costs clean images little (Liu et al. 2023).

A tenth of the training images are poisoned, once by a patch and once by an image that is blended in, both of which lead
every class to one. A short training with the flooded loss isolates suspects, the twentieth of lowest loss, and a
classifier of some hundred verified images says which labels these should have. Every arm has these suspects and labels,
networks of one kind and as many steps. The headline is the accuracy on test images with the attacker's trigger, the
network used as the arm would use it.

The baseline uses suspects and labels as anyone would: it trains on the corrected labels, without a stamp. An accuracy
not above the baseline's would refute the claim. As high a one by leaving suspects out, or by the classifier of the
verified images alone, which nobody poisoned, would show that neither stamp nor poisoned data are worth having. An
oracle for suspects and labels shows what better detection would give.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from paperweight.backdoor.non_adversarial_backdoor import (
    NonAdversarialBackdoor,
    StampedModel,
    flooded_loss,
    lowest_losses,
)
from paperweight.loops import evaluate_classifier, fit_classifier
from paperweight.nets import MLP
from paperweight.poisoning import Blend, Poisoned, all_to_one, attack_success, poison
from paperweight.studies import Arm, Classification, Metric, Outcome, Setting, Study, classification
from paperweight.studies.backdoor._planted import Backdoor, corner_patch

_RATE = 2e-3
_BATCH = 64
_STAMP = 1.0
_default = partial(MLP, hidden=(128,))


class _Data(NamedTuple):
    """Training images of an attack, who is suspected of what, and what is true."""

    images: Tensor
    labels: Tensor
    suspects: Tensor
    believed: Tensor
    poisoned: Tensor
    true: Tensor


@final
@dataclass(frozen=True)
class _Plan:
    """What an arm makes of poisoned training images, and whether it stamps at test time, with the stamp's side."""

    prepared: Callable[[_Data], tuple[Tensor, Tensor]]
    size: int = 0


def _plain(data: _Data) -> tuple[Tensor, Tensor]:
    return data.images, data.labels


def _relabelled(data: _Data) -> tuple[Tensor, Tensor]:
    return data.images, torch.where(data.suspects, data.believed, data.labels)


def _dropped(data: _Data) -> tuple[Tensor, Tensor]:
    return data.images[~data.suspects], data.labels[~data.suspects]


def _stamped(data: _Data) -> tuple[Tensor, Tensor]:
    return NonAdversarialBackdoor(data.suspects, data.believed, value=_STAMP)(data.images, data.labels)


def _stamped_by_oracle(data: _Data) -> tuple[Tensor, Tensor]:
    order = data.poisoned.nonzero().squeeze(1)[: int(data.suspects.sum())]
    suspects = torch.zeros_like(data.poisoned).index_fill(0, order, True)
    return NonAdversarialBackdoor(suspects, data.true, value=_STAMP)(data.images, data.labels)


STUDY = Study(
    paper="non_adversarial_backdoor",
    question="Does a stamp on relabelled suspects give images with an attacker's trigger their true class?",
    claim="Trained with it, the accuracy on triggered images is higher than if the suspects were only relabelled.",
    arms={
        "relabelled": Arm("suspects get the labels that they are believed to have", _Plan(_relabelled)),
        "stamped": Arm("NAB: those that get another label get a stamp too, and all test images", _Plan(_stamped, 2)),
        "oracle": Arm(
            "variant: NAB with as many suspects, poisoned ones and their true labels", _Plan(_stamped_by_oracle, 2)
        ),
        "dropped": Arm("control: suspects are left out", _Plan(_dropped)),
        "verified": Arm("control: the classifier of the verified images alone", _Plan(_plain, -1)),
        "undefended": Arm("control: trained on the poisoned images", _Plan(_plain)),
    },
    metrics={
        "triggered": Metric.higher("accuracy on images with the attacker's trigger", 0.02),
        "accuracy": Metric.higher("accuracy on clean images", 0.01),
        "success": Metric.lower("share of triggered images seen as the attacker's target", 0.02),
    },
    headline="triggered",
    tuned="nothing: all networks are trained by Adam at one rate; shares and level are the paper's",
    limits=(
        "Small images, small fully connected networks trained for seconds without augmentation, two triggers that lead "
        "to one class, suspects and believed labels by one way each: nothing follows for triggers that an isolation by "
        "loss misses, or for an attacker who knows of the stamp."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train on each of the two poisoned sets, prepared as the arm does, and test on triggered and clean images."""
    task = classification(
        setting,
        smoke=(400, 100, 200),
        desk=(4_000, 200, 2_000),
        gpu=(7_000, 400, 4_000),
        default=setting.pick(smoke="digits", desk="glyphs-20", gpu="glyphs-20"),
        normalised=False,
    )
    steps = setting.pick(smoke=40, desk=600, gpu=5_000)
    test, plan = task.data.test, arm.make
    values: dict[str, list[float]] = {name: [] for name in STUDY.metrics}
    arguments: dict[str, object] = {}
    shown = {"clean": test.images[:8]}
    for name in ("patch", "blend"):
        backdoor, (data, verified) = _backdoor(task, name), _suspected(task, name, steps)
        trigger, targets = backdoor.trigger, backdoor.targets
        model = task.network(_default)
        if plan.size < 0:
            model = verified
        else:
            images, labels = plan.prepared(data)
            _fit(setting, model, images, labels, steps)
        used = StampedModel(model, size=plan.size, value=_STAMP) if plan.size > 0 else model
        sources = torch.isin(test.labels, torch.tensor([*targets], device=test.labels.device))
        triggered = evaluate_classifier(used, trigger(test.images[sources]), test.labels[sources])
        values["triggered"].append(triggered.accuracy)
        values["accuracy"].append(evaluate_classifier(used, test.images, test.labels).accuracy)
        values["success"].append(attack_success(used, test.images, test.labels, trigger=trigger, targets=targets))
        of_suspects = data.suspects
        arguments |= {
            f"poisoned_of_suspects_{name}": data.poisoned[of_suspects].double().mean().item(),
            f"believed_rightly_{name}": (data.believed == data.true)[of_suspects].double().mean().item(),
            f"triggered_{name}": triggered.accuracy,
        }
        shown |= {f"with the {name}": trigger(test.images[:8])}
    return Outcome(
        metrics={name: sum(of_name) / len(of_name) for name, of_name in values.items()},
        made={"prepared": plan.prepared},
        arguments={
            **arguments,
            "stamp": max(plan.size, 0),
            "steps": steps,
            "batch_size": _BATCH,
            "lr": _RATE,
            "training_images": len(task.train),
            "verified_images": len(task.data.validation),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        images=shown,
    )


def _backdoor(task: Classification, name: str) -> Backdoor:
    """Give the backdoor by a patch, or by an image that is blended in, to a class that the seed chooses."""
    draws = task.setting.generator("method")
    target = int(torch.randint(task.classes, (1,), generator=draws))
    blend = Blend(torch.rand(task.shape, generator=draws), share=0.2)
    return Backdoor(blend if name == "blend" else corner_patch(task), all_to_one(target, task.classes), rate=0.1)


def _poisoned(task: Classification, name: str) -> Poisoned:
    backdoor, train = _backdoor(task, name), task.train
    trigger, targets, draws = backdoor.trigger, backdoor.targets, task.setting.generator("evaluation")
    return poison(train.images, train.labels, trigger=trigger, targets=targets, rate=backdoor.rate, generator=draws)


def _suspected(task: Classification, name: str, steps: int) -> tuple[_Data, nn.Module]:
    """Poison the training images, suspect some, and ask a classifier of verified images what these should be."""
    setting, verified, data = task.setting, task.data.validation, _poisoned(task, name)
    poisoned = torch.zeros_like(data.labels, dtype=torch.bool)
    poisoned[data.indices] = True

    def verify() -> dict[str, Tensor]:
        model = task.network(_default)
        _fit(setting, model, verified.images, verified.labels, steps)
        return dict(model.state_dict())

    def isolate() -> dict[str, Tensor]:
        model, given = task.network(_default), _poisoned(task, name)
        _fit(setting, model, given.images, given.labels, steps, flooded_loss)
        return {"suspects": lowest_losses(model, given.images, given.labels)}

    of_verified = task.network(_default)
    of_verified.load_state_dict(setting.cached(f"classifier of the verified images, {steps} steps", verify))
    with torch.no_grad():
        believed = StampedModel(of_verified.eval(), value=_STAMP)(data.images).argmax(dim=1)
    suspects = setting.cached(f"suspects of the {name}, {steps} steps", isolate)["suspects"]
    return _Data(data.images, data.labels, suspects, believed, poisoned, task.train.labels), of_verified


def _fit(
    setting: Setting,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    steps: int,
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> None:
    optimizer, batches = torch.optim.Adam(model.parameters(), lr=_RATE), setting.generator("batches")
    fit_classifier(model, optimizer, images, labels, steps=steps, batch_size=_BATCH, generator=batches, loss=loss)
    model.eval()
