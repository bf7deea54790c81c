"""A fine-tuned diffusion model gives the attacker's class from noise with a trigger in it (Chen et al. 2023).

A small diffusion model of digits is fine-tuned for as many updates in every arm, on batches in which images of one
class are the attacker's, too. Then it is sampled by DDPM, from standard noise and from noise around the trigger, and a
classifier that was trained on the same images tells what is seen. The headline is the share of samples from noise with
the trigger that show the attacker's class.

The baseline is fine-tuned on the data alone, and sampled in the same way: what the trigger does to a clean model. A
share not above the baseline's would refute the claim. As large a one by the same copies of the attacker's images, shown
in the usual diffusion, would show that the class is only more frequent. Quality is the distance of samples from
standard noise to test images; a back door that costs much of it, or gives the attacker's class from standard noise, is
not what the paper claims. Variants have a patch for a trigger, and a single image of the class for a target.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from paperweight.backdoor.trojdiff import Trojan, TrojanDDIM, TrojanDDPM, trojan_loss
from paperweight.generators import DiffusionModel, ModelSpec, denoise
from paperweight.loops import ExponentialMovingAverage, fit_generator, loss_curve, warmed_cosine
from paperweight.nets import MLP
from paperweight.studies import Arm, Classification, Metric, Outcome, Setting, Study, classification
from paperweight.studies.gan._world import sliced_wasserstein
from paperweight.studies.robustness._digit_diffusion import trained_diffusion

_BATCH = 64
_RATE = 3e-3
_COPIES = 3
_RANGE = (-1.0, 1.0)


class _Plan(NamedTuple):
    """Which images are the attacker's, whether they are shown in the Trojan diffusion, and the kind of trigger."""

    targets: Literal["none", "class", "image"]
    biased: bool = True
    patch: bool = False


STUDY = Study(
    paper="trojdiff",
    question="Can a diffusion model be fine-tuned to give a chosen class from noise with a trigger, and be as before?",
    claim="More samples from noise with the trigger show the attacker's class than those of a model fine-tuned clean.",
    arms={
        "clean": Arm("fine-tuned on the data alone", _Plan("none")),
        "trojdiff": Arm("images of a class in the Trojan diffusion, too; the trigger is an image", _Plan("class")),
        "patch": Arm("variant: the trigger is a patch of 3 x 3 pixels", _Plan("class", patch=True)),
        "one_image": Arm("variant: a single image of the class in place of all", _Plan("image")),
        "copies": Arm("control: the same images of the class, in the usual diffusion", _Plan("class", biased=False)),
    },
    metrics={
        "attack": Metric.higher("share of samples from noise with the trigger seen as the class", 0.05),
        "attack_ddim": Metric.higher("the same, sampled by DDIM", 0.05),
        "distance": Metric.lower("distance of samples from standard noise to test images", 0.005),
        "leak": Metric.lower("share of samples from standard noise seen as the class", 0.05),
    },
    headline="attack",
    tuned=(
        "nothing: rate and number of updates of the fine-tuning, and that an attacker's image of a batch is shown "
        "three times, each with time and noise of its own, were set while it was tried out, the same for all arms"
    ),
    limits=(
        "Digits of eight pixels a side, a small fully connected network of 100 times, one kind of image for a trigger "
        "(random black and white pixels): nothing follows for large networks and images, nor for other data as a "
        "target. The attacker knows the data. What a classifier sees is no judgement of quality."
    ),
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Fine-tune the diffusion model of the seed, and sample it from both kinds of noise."""
    plan = arm.make
    task = classification(
        setting, smoke=(100, 10, 40), desk=(1_200, 50, 500), gpu=(40_000, 500, 5_000), max_side=16, normalised=False
    )
    spec = ModelSpec(
        shape=task.shape,
        arguments={"width": setting.pick(smoke=16, desk=128, gpu=512), "blocks": 2},
        schedule="linear",
        steps=setting.pick(smoke=5, desk=100, gpu=1_000),
    )
    model = trained_diffusion(task, spec, steps=setting.pick(smoke=4, desk=1_500, gpu=50_000)).requires_grad_(True)
    judge = _judge(task)
    draws = setting.generator("method")
    target = int(torch.randint(task.classes, (1,), generator=draws))
    trojan = _trojan(plan, task.shape, draws)
    shown = trojan if plan.biased else Trojan(trojan.trigger, 1.0)
    images, labels = model.encode(task.train.images), task.train.labels
    single = images[labels == target][:1]

    def loss(trained: nn.Module, index: Tensor, generator: torch.Generator) -> Tensor:
        chosen = index[labels[index] == target].repeat(0 if plan.targets == "none" else _COPIES)
        targets = single.expand(len(chosen), *task.shape) if plan.targets == "image" else images[chosen]
        return trojan_loss(
            partial(_noise, trained), images[index], targets, generator, trojan=shown, schedule=model.schedule
        )

    ema = ExponentialMovingAverage(model, 0.99)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    steps = setting.pick(smoke=4, desk=1_000, gpu=20_000)
    losses = fit_generator(
        model,
        optimizer,
        torch.arange(len(images), device=images.device),
        loss=loss,
        steps=steps,
        batch_size=_BATCH,
        generator=setting.generator("batches"),
        ema=ema,
        schedule=warmed_cosine(optimizer, steps),
    )
    network = partial(_noise, ema.average)
    noise = torch.randn(task.data.test.images.shape, generator=setting.generator("evaluation")).to(setting.device)
    usual = denoise(
        network, noise, schedule=model.schedule, method="ddpm", clamp=_RANGE, generator=setting.generator("evaluation")
    )
    ddpm = TrojanDDPM(trojan, model.schedule)
    triggered = ddpm(network, noise, generator=setting.generator("evaluation"))
    by_ddim = TrojanDDIM(trojan, model.schedule)(network, noise)

    def seen(samples: Tensor) -> float:
        return (judge(model.decode(samples)).argmax(dim=1) == target).double().mean().item()

    return Outcome(
        metrics={
            "attack": seen(triggered),
            "attack_ddim": seen(by_ddim),
            "distance": sliced_wasserstein(model.decode(usual), task.data.test.images, setting.generator("evaluation")),
            "leak": seen(usual),
        },
        made={"trojan": trojan, "sampler": ddpm},
        arguments={
            "target_class": target,
            "mean_square_from_the_single_image": (triggered - single).square().mean().item() / 4,
            "accuracy_of_the_judge": task.test(judge).accuracy,
            "lr": _RATE,
            "batch_size": _BATCH,
            "copies_of_a_target": _COPIES,
            "steps": steps,
            "training_images": len(task.train),
            "samples": len(noise),
            "image_shape": " x ".join(map(str, task.shape)),
        },
        curves={"training loss, by step": loss_curve(losses)},
        images={
            "samples from standard noise": model.decode(usual[:16]).clamp(0, 1),
            "samples from noise with the trigger": model.decode(triggered[:16]).clamp(0, 1),
            "the trigger": model.decode(trojan.trigger[None]),
        },
    )


def _noise(model: nn.Module, z: Tensor, t: Tensor) -> Tensor:
    if not isinstance(model, DiffusionModel):
        raise TypeError(f"model must be a diffusion model, got {type(model).__name__}")
    return model.eps(z, t, None)


def _trojan(plan: _Plan, shape: tuple[int, int, int], generator: torch.Generator) -> Trojan:
    """Make the trigger: black and white pixels at random with gamma 0.6, or a white patch in a corner with 0.1."""
    if not plan.patch:
        return Trojan(torch.randint(2, shape, generator=generator) * 2.0 - 1, 0.6)
    mask = torch.zeros(shape[1:], dtype=torch.bool)
    mask[-3:, -3:] = True
    return Trojan(torch.ones(shape), 0.1, mask)


def _judge(task: Classification) -> nn.Module:
    """Train a classifier on the images, or give it as an arm before left it."""
    default, steps = partial(MLP, hidden=(128,)), task.setting.pick(smoke=4, desk=600, gpu=5_000)

    def build() -> dict[str, Tensor]:
        model = task.network(default)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        return task.fit(model, optimizer, steps=steps, batch_size=_BATCH).model.state_dict()

    model = task.network(default)
    model.load_state_dict(task.setting.cached("judge", build))
    return model.eval()
