"""Adversarial training: plain training at radius 0 bit for bit, a hand-written loop, its losses against loops."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.attacks import ProjectedGradient
from paperweight.loops import (
    adversarial_loss,
    evaluate_classifier,
    fit_classifier,
    fit_robust,
    mart_loss,
    own_predictions,
    trades_loss,
)
from paperweight.loops.core import index_batches


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def problem(n=40):
    images = torch.rand(n, 1, 4, 4, generator=seeded(1))
    return images, (images.flatten(1) @ torch.randn(16, 3, generator=seeded(2))).argmax(dim=1)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def state(model):
    return [tensor.clone() for tensor in model.state_dict().values()]


def flipped(images, generator):
    return images.flip(3) if torch.rand((), generator=generator) < 0.5 else images


def test_at_radius_0_it_is_plain_training_bit_for_bit():
    images, labels = problem()
    models = [network(), network()]
    keywords = {"steps": 9, "batch_size": 8, "augment": flipped}
    losses = [
        fit_robust(
            models[0],
            torch.optim.Adam(models[0].parameters(), lr=0.01),
            images,
            labels,
            attack=ProjectedGradient(radius=0.0, keep_going=True),
            generator=seeded(),
            **keywords,
        ),
        fit_classifier(
            models[1],
            torch.optim.Adam(models[1].parameters(), lr=0.01),
            images,
            labels,
            generator=seeded(),
            **keywords,
        ),
    ]
    assert torch.equal(*losses)
    assert all(torch.equal(a, b) for a, b in zip(state(models[0]), state(models[1]), strict=True))


@pytest.mark.parametrize("own", [False, True])
def test_it_is_a_hand_written_loop(own):
    images, labels = problem()
    attack = ProjectedGradient(radius=0.1, steps=3, keep_going=True)
    loss, seen = (trades_loss, own_predictions) if own else (adversarial_loss, None)
    model, reference = network(), network()
    keywords = {"attack_labels": seen} if seen else {}
    steps = []
    losses = fit_robust(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        images,
        labels,
        attack=attack,
        steps=7,
        batch_size=8,
        generator=seeded(),
        loss=loss,
        on_step=lambda step, value: steps.append(step),
        **keywords,
    )
    source, expected = seeded(), []
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for _, index in zip(range(7), index_batches(40, 8, source), strict=False):
        reference.eval()
        with torch.no_grad():
            given = reference(images[index]).softmax(dim=1) if own else labels[index]
        changed = attack(reference, images[index], given, generator=source)
        reference.train()
        optimizer.zero_grad()
        if own:
            clean, logits = reference(images[index]), reference(changed)
            divergence = (clean.softmax(1) * (clean.log_softmax(1) - logits.log_softmax(1))).sum() / 8
            value = F.cross_entropy(clean, labels[index]) + 6 * divergence
        else:
            value = F.cross_entropy(reference(changed), labels[index])
        value.backward()
        optimizer.step()
        expected.append(value.detach())
    torch.testing.assert_close(losses, torch.stack(expected))
    assert steps == list(range(7))
    for mine, theirs in zip(state(model), state(reference), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_it_makes_a_network_robust():
    images, labels = problem(200)
    accuracies = {}
    for radius in (0.0, 0.1):
        model = network()
        attack = ProjectedGradient(radius=radius, steps=3, keep_going=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        fit_robust(model, optimizer, images, labels, attack=attack, steps=120, batch_size=50, generator=seeded())
        assert model.training
        changed = ProjectedGradient(radius=0.1)(model, images, labels, generator=seeded())
        accuracies[radius] = evaluate_classifier(model, changed, labels).accuracy
    assert accuracies[0.1] > accuracies[0.0] + 0.05


def loop_mart(logits, changed, labels, lam):
    total = 0.0
    for z, c, y in zip(logits.tolist(), changed.tolist(), labels.tolist(), strict=True):
        p = [math.exp(v) / sum(map(math.exp, z)) for v in z]
        q = [math.exp(v) / sum(map(math.exp, c)) for v in c]
        total -= math.log(q[y]) + math.log(1 - max(v for j, v in enumerate(q) if j != y))
        total += lam * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) * (1 - p[y])
    return total / len(logits)


def test_losses_against_loops():
    logits, changed = torch.randn(9, 5, generator=seeded()), torch.randn(9, 5, generator=seeded(1))
    labels = torch.arange(9) % 5
    found = mart_loss(nn.Identity(), logits, changed, labels, lam=3.0)
    assert found.item() == pytest.approx(loop_mart(logits, changed, labels, 3.0), rel=1e-5)
    p, q = logits.softmax(1), changed.softmax(1)
    expected = F.cross_entropy(logits, labels) + 2 * (p * (p / q).log()).sum() / 9
    torch.testing.assert_close(trades_loss(nn.Identity(), logits, changed, labels, lam=2.0), expected)
    torch.testing.assert_close(
        adversarial_loss(nn.Identity(), logits, changed, labels), F.cross_entropy(changed, labels)
    )


def test_losses_and_gradients_are_finite_where_predictions_are_certain():
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    changed = torch.tensor([[0.0, 200.0, 0.0], [0.0, 200.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    for loss in (trades_loss, mart_loss):
        gradients = torch.autograd.grad(loss(nn.Identity(), logits, changed, labels), (logits, changed))
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_own_predictions_leave_the_mode():
    images, labels = problem()
    model = network().train()
    before = state(model)
    found = own_predictions(model, images, labels)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before, state(model), strict=True))
    torch.testing.assert_close(found, model.eval()(images).softmax(dim=1).detach())


def test_bad_lengths_are_refused():
    images, labels = problem()
    model = network()
    fit = partial(fit_robust, model, torch.optim.SGD(model.parameters(), lr=0.1), attack=ProjectedGradient())
    with pytest.raises(ValueError, match="same length, at least 1, got 40 and 39"):
        fit(images, labels[1:], steps=1, batch_size=4, generator=seeded())
    with pytest.raises(ValueError, match="steps must be at least 1"):
        fit(images, labels, steps=0, batch_size=4, generator=seeded())
