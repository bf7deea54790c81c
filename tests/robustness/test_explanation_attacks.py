"""Attacks on explanations: maps in closed form, the ascent by hand, and targeted projected gradients at no weight."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.attacks import ProjectedGradient
from paperweight.robustness.explanation_attacks import (
    JointAttack,
    explanation_distance,
    grad_cam,
    input_gradient,
    softened,
)
from paperweight.testing import AttackSubject, FunctionSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(48, 8),
            nn.ReLU(),
            nn.Linear(8, 3),
        ).eval()
    with torch.no_grad():
        model[6].weight.mul_(6)
        model[6].bias.sub_(model(toy_images(50)).mean(dim=0))
    return model


IMAGES, LABELS = toy_images(6), torch.arange(6) % 3
MODEL = toy_classifier()
FIRST, SECOND = torch.randn(5, 2, 2, generator=seeded()), torch.randn(5, 2, 2, generator=seeded(1))

CONTRACT = {
    "JointAttack": AttackSubject(
        make=partial(JointAttack, radius=0.1, steps=8, step=0.03),
        norm=math.inf,
        radius=0.1,
        targeted=True,
        bad={
            "radius": (-0.1, math.nan, math.inf, True),
            "steps": (0, 1.5, True),
            "step": (0.0, math.nan, math.inf, True),
            "lam": (-0.1, math.nan, math.inf, True),
            "beta": (0.0, math.nan, math.inf, True),
            "bounds": ((1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)),
        },
        null=partial(JointAttack, radius=0.0),
        baseline=lambda: lambda model, inputs, labels: inputs,
    ),
    "input_gradient": FunctionSubject(
        make=input_gradient,
        arguments={"model": MODEL, "inputs": IMAGES, "labels": LABELS},
        bad={"labels": (LABELS[:3], LABELS.float(), LABELS[:, None])},
    ),
    "grad_cam": FunctionSubject(
        make=grad_cam,
        arguments={"model": MODEL, "inputs": IMAGES, "labels": LABELS, "layer": "0"},
        bad={"layer": ("9", "5"), "labels": (LABELS[:3], LABELS.float())},
    ),
    "explanation_distance": FunctionSubject(
        make=explanation_distance,
        arguments={"first": FIRST, "second": SECOND},
        bad={"first": (FIRST[:3], FIRST[0, 0, 0]), "second": (SECOND[:, :1],)},
    ),
    "softened": FunctionSubject(
        make=lambda **given: softened(**given)(IMAGES).detach(),
        arguments={"model": network()},
        bad={"beta": (0.0, -1.0, math.nan, math.inf, True), "model": (nn.Flatten(),)},
    ),
}


def test_gradients_are_those_of_each_logit_and_of_finite_differences():
    model, images = toy_classifier().double(), IMAGES.double()
    found = input_gradient(model, images, LABELS)
    assert not found.requires_grad
    for place in ((0, 0), (2, 3)):
        step = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
        step[0, 0, place[0], place[1]] = 1e-5
        with torch.no_grad():
            slope = (model(images + step) - model(images - step)).gather(1, LABELS[:, None])[:, 0] / 2e-5
        torch.testing.assert_close(found[:, 0, place[0], place[1]], slope)


def test_maps_of_channels_are_in_closed_form_where_the_rest_is_linear():
    # logit = sum over channels of w_c times the mean of channel c, so that each mean gradient is w_c / (H W).
    weight = torch.tensor([[1.0, -2.0], [0.5, 3.0]])
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    model[3].weight.data.copy_(weight)
    channels = model[0](IMAGES).detach()
    for label in (0, 1):
        found = grad_cam(model, IMAGES, torch.full((6,), label), layer="0")
        expected = (weight[label, :, None, None] / 16 * channels).sum(dim=1).clamp(min=0)
        torch.testing.assert_close(found, expected)
    assert not model[0]._forward_hooks
    twice = nn.Sequential(same := nn.Identity(), same, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="called once"):
        grad_cam(twice, IMAGES, torch.zeros(6, dtype=torch.int64), layer="0")


def test_maps_of_channels_by_hand_and_their_gradient_by_finite_differences():
    model, images = toy_classifier().double(), IMAGES.double()
    activations = model[:3](images).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model[3:](activations).gather(1, LABELS[:, None]).sum(), activations)
    weights = gradient.sum(dim=(2, 3)) / 16
    expected = torch.einsum("nc,nchw->nhw", weights, activations).clamp(min=0)
    torch.testing.assert_close(grad_cam(model, images, LABELS, layer="2"), expected)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        deeper = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(2, 3)
        )
    deeper, place = deeper.double(), images.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(grad_cam(deeper, place, LABELS, layer="1").sum(), place)
    step = torch.zeros(1, 1, 4, 4, dtype=torch.float64)
    step[0, 0, 1, 2] = 1e-5
    there, back = (grad_cam(deeper, images + sign * step, LABELS, layer="1").sum(dim=(1, 2)) for sign in (1, -1))
    torch.testing.assert_close(slopes[:, 0, 1, 2], (there - back) / 2e-5, atol=1e-6, rtol=1e-4)
    assert slopes.abs().max() > 1e-4


def test_distances_are_those_of_cosines():
    for number in range(5):
        first, second = FIRST[number].flatten().tolist(), SECOND[number].flatten().tolist()
        dot = sum(a * b for a, b in zip(first, second, strict=True))
        cosine = dot / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))
        assert explanation_distance(FIRST, SECOND)[number].item() == pytest.approx(1 - cosine, abs=1e-6)
    torch.testing.assert_close(explanation_distance(FIRST, 3 * FIRST), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(explanation_distance(FIRST, -FIRST), torch.full((5,), 2.0))
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert explanation_distance(FIRST.to(dtype), torch.zeros(5, 2, 2, dtype=dtype)).tolist() == [1.0] * 5


def test_a_softened_network_is_near_and_its_explanations_bend():
    model = network()
    sharp, soft = softened(model, beta=1e4), softened(model, beta=5.0)
    torch.testing.assert_close(sharp(IMAGES), model(IMAGES), atol=1e-3, rtol=0)
    assert not any(isinstance(part, nn.ReLU) for part in soft.modules())
    assert isinstance(model[1], nn.ReLU)
    for each, bends in ((model, False), (soft, True)):
        place = IMAGES.clone().requires_grad_()
        maps = input_gradient(each, place, LABELS)
        (second,) = torch.autograd.grad(maps.square().sum(), place, allow_unused=True)
        assert (second is not None and bool(second.abs().max() > 1e-4)) == bends


def by_hand(model, guide, images, labels, maps, *, lam, radius=0.1, steps=6, step=0.03):
    """Descend input by input, in a loop of its own, and keep the best point by two rules."""
    results = []
    for image, label, wanted in zip(images, labels, maps, strict=True):
        point, candidates = image.clone(), []
        for _ in range(steps + 1):
            place = point.clone().requires_grad_()
            logits = guide(place[None])
            (gradient,) = torch.autograd.grad(logits[0, label], place, create_graph=True)
            cosine = (gradient * wanted).sum() / (gradient.norm() * wanted.norm())
            loss = -logits.log_softmax(dim=1)[0, label] + lam * (1 - cosine)
            wrong = model(point[None]).argmax().item() != label
            candidates.append(((wrong, loss.item()), point))
            (slope,) = torch.autograd.grad(loss, place)
            moved = point - step * slope.sign()
            point = torch.min(torch.max(moved, image - radius), image + radius).clamp(0, 1)
        results.append(min(candidates, key=lambda candidate: candidate[0])[1])
    return torch.stack(results)


@pytest.mark.parametrize("lam", [0.3, 3.0])
@pytest.mark.parametrize("given", [False, True])
def test_the_attack_is_that_of_a_loop(lam, given):
    model = network().train()
    attack = JointAttack(0.1, 6, 0.03, lam=lam, beta=5.0)
    maps = torch.randn(6, 1, 4, 4, generator=seeded(4)) if given else None
    found = attack(model, IMAGES, LABELS, maps)
    assert model.training
    model.eval()
    own = input_gradient(model, IMAGES, model(IMAGES).argmax(dim=1))
    expected = by_hand(model, softened(model, 5.0), IMAGES, LABELS, own if maps is None else maps, lam=lam)
    torch.testing.assert_close(found, expected)


def test_at_no_weight_it_is_targeted_projected_gradient_descent_bit_for_bit():
    model = network()
    plain = ProjectedGradient(radius=0.1, steps=6, step=0.03, starts=0, targeted=True, keep_going=True)
    assert torch.equal(JointAttack(0.1, 6, 0.03, lam=0.0)(model, IMAGES, LABELS), plain(model, IMAGES, LABELS))


def test_each_of_three_goals_is_reached_better_with_weight_than_without():
    model = network()
    with torch.no_grad():
        own, second = model(IMAGES).topk(2).indices.T
    old, shown = input_gradient(model, IMAGES, own), torch.zeros_like(IMAGES)
    shown[..., :2] = 1
    for labels, maps in ((second, None), (own, shown), (second, shown)):
        distances, reached = [], torch.ones(6, dtype=torch.bool)
        for lam in (0.0, 2.0):
            found = JointAttack(0.7, 20, 0.07, lam=lam, beta=5.0)(model, IMAGES, labels, maps)
            reached &= model(found).argmax(dim=1) == labels
            explained = input_gradient(model, found, labels)
            distances.append(explanation_distance(explained, old if maps is None else maps))
        assert reached.sum() >= 2
        assert distances[1][reached].mean() < distances[0][reached].mean()


def test_maps_of_channels_can_be_attacked_too():
    model = network()
    explain = partial(grad_cam, layer="1")
    wanted = torch.zeros(6, 4, 4)
    wanted[:, :2] = 1
    own = model(IMAGES).argmax(dim=1)
    found = JointAttack(0.3, 10, 0.05, lam=10.0, explain=explain)(model, IMAGES, own, wanted)
    before, after = (explanation_distance(explain(model, x, own), wanted).mean() for x in (IMAGES, found))
    assert after < before
    assert (model(found).argmax(dim=1) == own).all()


def test_inputs_that_do_not_fit_are_refused_and_none_are_returned():
    attack = JointAttack(0.1)
    assert attack(MODEL, IMAGES[:0], LABELS[:0]).shape == (0, 1, 4, 4)
    for inputs, labels, words in (
        (IMAGES + 1, LABELS, "inputs must be within bounds"),
        (torch.full_like(IMAGES, math.nan), LABELS, "inputs must be within bounds"),
        (IMAGES, LABELS[:3], "labels must be int64"),
        (IMAGES.long(), LABELS, "inputs must be floating"),
    ):
        with pytest.raises(ValueError, match=words):
            attack(MODEL, inputs, labels)
    with pytest.raises(ValueError, match="first and second must be"):
        attack(MODEL, IMAGES, LABELS, torch.zeros(6, 2))
    assert F.cross_entropy(MODEL(attack(MODEL, IMAGES, LABELS)), LABELS) < F.cross_entropy(MODEL(IMAGES), LABELS)
