"""AdvDiff against DDIM itself, a hand-computed gradient, finite differences and a slow loop over single images."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.generators import ModelSpec, denoise, held_noise, predicted_noise
from paperweight.robustness.advdiff import adversarial_gradient, adversarial_samples, likeliest_other
from paperweight.testing import FunctionSubject

SHAPE = (1, 2, 2)
LABELS = torch.tensor([0, 1, 2, 2, 1])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        spec = ModelSpec(shape=SHAPE, arguments={"width": 8, "blocks": 1}, classes=3, condition_dim=4, steps=20)
        return spec.build().eval()


def classifier(scale: float = 3.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))
    with torch.no_grad():
        model[4].weight.mul_(scale)
    return model


MODEL, VICTIM = small(), classifier()
DRAW = {"model": MODEL, "labels": LABELS, "shape": SHAPE, "steps": 10}


def drawn(**given):
    return adversarial_samples(**{"victim": VICTIM, "generator": seeded(), **DRAW, **given})


def ddim(model, victim, labels, shape, generator, steps):
    noise = torch.randn(len(labels), *shape, generator=generator)
    with torch.no_grad():
        eps = held_noise(model, predicted_noise(model, labels, len(labels), 3.0))
        z = denoise(eps, noise, schedule=model.schedule.subsample(steps), clamp=model.clamp)
        images = model.decode(z).clamp(0, 1)
        seen = victim.eval()(images).argmax(dim=1)
        victim.train()
    return images, seen != labels, torch.ones_like(labels)


NUMBERS = (-0.1, math.nan, math.inf, True)
CONTRACT = {
    "adversarial_samples": FunctionSubject(
        make=adversarial_samples,
        arguments={**DRAW, "victim": VICTIM, "generator": seeded()},
        bad={
            "labels": (torch.tensor([0.0, 1.0]), torch.tensor([[0, 1]]), torch.tensor([0, 7])),
            "targets": (LABELS, torch.tensor([0]), torch.tensor([1, 2, 0, 0])),
            "s": NUMBERS,
            "a": NUMBERS,
            "rounds": (0, 1.5, True),
            "share": (-0.1, 1.1, math.nan, True),
            "guidance": (math.nan, math.inf),
            "steps": (0, 21, 1.5),
        },
        null=partial(adversarial_samples, s=0.0, a=0.0, rounds=1),
        baseline=lambda **given: ddim(**given),
    ),
    "adversarial_gradient": FunctionSubject(
        make=adversarial_gradient,
        arguments={"victim": classifier().eval(), "z": torch.rand(5, *SHAPE, generator=seeded()), "labels": LABELS},
        bad={"targets": (LABELS[:2], LABELS[:, None]), "labels": (LABELS[:2], LABELS.float())},
    ),
    "likeliest_other": FunctionSubject(
        make=likeliest_other,
        arguments={"logits": torch.randn(5, 3, generator=seeded()), "labels": LABELS},
        bad={"logits": (torch.zeros(5, 1), torch.zeros(3)), "labels": (LABELS[:2], LABELS.float())},
    ),
}


def test_the_gradient_by_hand_and_by_differences():
    # log p of class 1 of logits (2 x, x): its gradient is 1 - 2 p_0 - p_1.
    x = torch.tensor([[0.3]], dtype=torch.float64)
    gradient, logits = adversarial_gradient(lambda x: torch.cat([2 * x, x], dim=1), x, torch.tensor([0]))
    p = torch.tensor([0.6, 0.3]).double().softmax(0)
    assert gradient.item() == pytest.approx((1 - 2 * p[0] - p[1]).item(), rel=1e-6)
    torch.testing.assert_close(logits, torch.tensor([[0.6, 0.3]]).double())
    victim, z = classifier().double().eval(), 0.2 + 0.6 * torch.rand(4, *SHAPE, generator=seeded(), dtype=torch.float64)
    targets = torch.tensor([1, 2, 0, 0])
    gradient, _ = adversarial_gradient(victim, z, LABELS[:4], targets, lambda z: z.sqrt())

    def chance(z: Tensor) -> Tensor:
        return F.log_softmax(victim(z.sqrt()), dim=1).gather(1, targets[:, None])[:, 0]

    for entry in range(4):
        step = torch.zeros_like(z).flatten(1)
        step[:, entry] = 1e-6
        slope = (chance(z + step.view_as(z)) - chance(z - step.view_as(z))) / 2e-6
        torch.testing.assert_close(gradient.flatten(1)[:, entry], slope, rtol=1e-5, atol=1e-8)
        assert (slope != 0).all()


def test_outside_of_the_range_there_is_no_gradient():
    z = torch.tensor([[-0.1, 0.5, 1.2]])
    gradient, logits = adversarial_gradient(nn.Identity(), z, torch.tensor([2]))
    assert (gradient == 0).tolist() == [[True, False, True]]
    assert logits.tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize("targets", [None, torch.tensor([1, 2, 0, 1, 2])])
def test_images_are_those_of_a_slow_loop_over_each_alone(targets):
    s, a, rounds, share, steps = 0.7, 3.0, 4, 0.4, 10
    found = drawn(targets=targets, s=s, a=a, rounds=rounds, share=share, victim=classifier().train())
    victim, schedule = classifier().eval(), MODEL.schedule.subsample(steps)
    noises = torch.randn(5, *SHAPE, generator=seeded())

    def towards(z: Tensor, label: int, target: int | None) -> tuple[Tensor, int]:
        z = z.clone().requires_grad_()
        logits = victim(((z + 1) / 2).clamp(0, 1))
        others = [c for c in range(3) if c != label]
        wanted = max(others, key=lambda c: logits[0, c].item()) if target is None else target
        (gradient,) = torch.autograd.grad(logits.log_softmax(1)[0, wanted], z)
        return gradient, logits.argmax().item()

    for row, label in enumerate(LABELS.tolist()):
        noise, target = noises[row : row + 1].clone(), None if targets is None else targets[row].item()
        fooled, number = False, 0
        while number < rounds and not fooled:
            number, z = number + 1, noise
            for index in range(steps - 1, -1, -1):
                t, abar = schedule.times[index : index + 1], schedule.abar[index].item()
                with torch.no_grad():
                    condition, none = (MODEL.condition(given, 1) for given in (LABELS[row : row + 1], None))
                    eps = 3 * MODEL.eps(z, t, condition) - 2 * MODEL.eps(z, t, none)
                    x0 = ((z - math.sqrt(1 - abar) * eps) / math.sqrt(abar)).clamp(-1, 1)
                    eps = (z - math.sqrt(abar) * x0) / math.sqrt(1 - abar)
                before = schedule.abar[index - 1].item() if index else 1.0
                z = math.sqrt(before) * x0 + math.sqrt(1 - before) * eps
                if 1 <= index <= 4:
                    z = z + s * towards(z, label, target)[0]
            gradient, seen = towards(z, label, target)
            fooled = seen != label if target is None else seen == target
            noise = noise + a * gradient
        torch.testing.assert_close(found.images[row : row + 1], ((z + 1) / 2).clamp(0, 1), rtol=1e-4, atol=1e-4)
        assert found.fooled[row].item() == fooled
        assert found.rounds[row].item() == number
    assert found.rounds.max() > 1


def test_victim_and_model_are_left_as_they_were():
    victim = classifier().train()
    for parameter in victim.parameters():
        parameter.grad = torch.ones_like(parameter)
    found = drawn(victim=victim)
    assert victim.training
    assert all((parameter.grad == 1).all() for parameter in victim.parameters())
    assert not found.images.requires_grad
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert drawn(labels=LABELS[:0]).images.shape == (0, *SHAPE)
    assert drawn(labels=LABELS[:1]).images.shape == (1, *SHAPE)
