"""Training with other images: losses against loops, training against loops by hand, gradients in closed form."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from paperweight.attacks import ProjectedGradient
from paperweight.robustness.ood_augmented_training import (
    OODTraining,
    least_confident,
    ood_augmented_loss,
    soft_targets,
    uniform_target_loss,
)
from paperweight.studies.robustness._other_images import shuffled_patches
from paperweight.testing import FunctionSubject, LossSubject, PlainTraining, TrainingProcedureSubject
from paperweight.testing.classifiers import toy_classifier, toy_images

OTHERS = toy_images(20, seed=5)
LOGITS = 3 * torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, -1, 0, -1, -1, 3])
ATTACK = ProjectedGradient(radius=0.1, steps=3, keep_going=True)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(model, data, **given):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return OODTraining(model, optimizer, **{"ood": OTHERS, "classes": 3, "alpha": 0.2, **given})


def loop_uniform(logits):
    total = 0.0
    for row in logits.tolist():
        normaliser = math.log(sum(math.exp(z) for z in row))
        total -= sum(z - normaliser for z in row) / len(row)
    return total / len(logits)


def loop(logits, labels):
    known = [index for index, label in enumerate(labels.tolist()) if label >= 0]
    rest = [index for index, label in enumerate(labels.tolist()) if label < 0]
    first = 0.0
    for index in known:
        row = logits[index].tolist()
        first -= math.log(math.exp(row[labels[index]]) / sum(math.exp(z) for z in row))
    return first / len(known) + loop_uniform(logits[rest])


CONTRACT = {
    "OODTraining": TrainingProcedureSubject(
        make=made,
        evaluations=8 * (8 + 8),
        random=True,
        bad={
            "alpha": (-0.1, math.nan, math.inf, True),
            "classes": (1, 2.0, True),
            "ood": (torch.zeros(0, 1, 4, 4), torch.zeros(3), torch.zeros(3, 1, 4, 5)),
        },
        null=partial(made, alpha=0.0),
        baseline=lambda model, data, generator: PlainTraining(model, lr=0.1, momentum=0.9),
    ),
    "ood_augmented_loss": LossSubject(
        make=partial(partial, ood_augmented_loss),
        inputs=(LOGITS, LABELS),
        slow=loop,
        bad={"alpha": (-0.1, math.nan, math.inf, True)},
        null=partial(partial, ood_augmented_loss, alpha=0.0),
        baseline=lambda: lambda logits, labels: F.cross_entropy(logits[labels >= 0], labels[labels >= 0]),
    ),
    "uniform_target_loss": LossSubject(
        make=lambda **given: lambda logits: uniform_target_loss(given.get("logits", logits)),
        inputs=(LOGITS,),
        slow=loop_uniform,
        bad={"logits": (torch.zeros(0, 3), torch.zeros(3))},
    ),
    "soft_targets": FunctionSubject(
        make=soft_targets,
        arguments={"labels": LABELS, "classes": 4},
        bad={
            "labels": (LABELS.float(), torch.tensor([4]), torch.tensor([-2]), LABELS[None]),
            "classes": (1, 4.0, True),
        },
    ),
    "least_confident": FunctionSubject(
        make=least_confident,
        arguments={"model": toy_classifier(), "images": OTHERS, "count": 4},
        bad={"count": (0, 21, 2.0, True)},
    ),
}


def test_the_uniform_loss_is_least_where_all_logits_are_equal_and_its_gradient_is_p_less_a_share():
    assert uniform_target_loss(torch.full((3, 5), 7.0)).item() == pytest.approx(math.log(5))
    logits = LOGITS.double().requires_grad_()
    loss = uniform_target_loss(logits)
    assert loss > math.log(4) + 0.1
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, (logits.softmax(1) - 1 / 4).detach() / 6)


def test_by_hand():
    # -log(1/2) for the first, and half of the mean of log(1 + e^-3) and log(1 + e^3) for the second.
    logits = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    expected = math.log(2) + 0.5 * (math.log1p(math.exp(-3)) + math.log1p(math.exp(3))) / 2
    assert ood_augmented_loss(logits, torch.tensor([1, -1]), alpha=0.5).item() == pytest.approx(expected, rel=1e-6)


def test_with_labels_alone_it_is_the_cross_entropy_bit_for_bit_and_without_any_the_uniform_loss():
    labels = torch.tensor([2, 1, 0, 0, 1, 3])
    assert torch.equal(ood_augmented_loss(LOGITS, labels, 3.0), F.cross_entropy(LOGITS, labels))
    none = torch.full((6,), -1)
    assert torch.equal(ood_augmented_loss(LOGITS, none, 2.0), 2 * uniform_target_loss(LOGITS))
    assert ood_augmented_loss(LOGITS, none, 0.0) == 0
    assert ood_augmented_loss(LOGITS[:1], labels[:1]).isfinite()


def test_bad_labels_and_shapes_are_refused():
    for labels in (torch.tensor([0, 4]), torch.tensor([0, -2]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match="labels must be"):
            ood_augmented_loss(LOGITS[:2], labels)
    with pytest.raises(ValueError, match="must have shapes"):
        ood_augmented_loss(LOGITS, LABELS[:5])
    with pytest.raises(ValueError, match="must have shapes"):
        ood_augmented_loss(LOGITS[:0], LABELS[:0])


def test_soft_targets_are_rows_that_sum_to_1_and_an_attack_raises_the_loss_with_them():
    targets = soft_targets(torch.tensor([2, -1]), 4)
    assert targets.tolist() == [[0, 0, 1, 0], [0.25, 0.25, 0.25, 0.25]]
    model, images = toy_classifier(), OTHERS[:6]
    labels = torch.tensor([-1, 0, -1, 1, 2, -1])
    changed = ATTACK(model, images, soft_targets(labels, 3), generator=seeded())
    for label, one, other in zip(labels, images.split(1), changed.split(1), strict=True):
        assert ood_augmented_loss(model(other), label[None]) > ood_augmented_loss(model(one), label[None])


def problem():
    images = toy_images(24)
    return images, images.flatten(1)[:, :3].argmax(1)


@pytest.mark.parametrize("attack", [None, ATTACK])
def test_training_is_a_loop_by_hand(attack):
    images, labels = problem()
    trained, model = toy_classifier(dropout=0.0), toy_classifier(dropout=0.0)
    training = made(trained, None, alpha=0.7, attack=attack, generator=seeded())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    source = seeded()
    for start in (0, 8, 16):
        batch, wanted = images[start : start + 8], labels[start : start + 8]
        loss = training.step(batch, wanted)
        others = OTHERS[torch.randint(20, (8,), generator=source)]
        every = torch.cat([batch, others])
        if attack is not None:
            shares = torch.cat([F.one_hot(wanted, 3).float(), torch.full((8, 3), 1 / 3)])
            every = attack(model, every, shares, generator=source)
        model.train()
        logarithms = model(every).log_softmax(1)
        expected = -logarithms[torch.arange(8), wanted].mean() - 0.7 * logarithms[8:].mean()
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(loss, expected.detach())
    for mine, theirs in zip(trained.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_without_weight_it_is_adversarial_training_bit_for_bit_and_takes_shares():
    images, labels = problem()
    trained, model = toy_classifier(dropout=0.0), toy_classifier(dropout=0.0)
    training = made(trained, None, alpha=0.0, attack=ATTACK, generator=seeded())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    source = seeded()
    for wanted in (labels[:8], 0.9 * F.one_hot(labels[:8], 3) + 0.1 / 3):
        training.step(images[:8], wanted)
        changed = ATTACK(model, images[:8], wanted, generator=source)
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(changed), wanted).backward()
        optimizer.step()
    for mine, theirs in zip(trained.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


def test_it_makes_a_network_undecided_about_other_images():
    images, labels = problem()
    spread = []
    for alpha in (0.0, 1.0):
        model = toy_classifier(dropout=0.0)
        training = made(model, None, alpha=alpha, generator=seeded())
        for _ in range(60):
            training.step(images, labels)
        spread.append(uniform_target_loss(model.eval()(OTHERS)).item() - math.log(3))
    assert spread[1] < 0.5 * spread[0]


def test_other_images_of_another_format_are_taken_and_of_another_shape_refused():
    images, labels = problem()
    model = toy_classifier(dropout=0.0)
    made(model, None, ood=OTHERS.double(), generator=seeded()).step(images[:1], labels[:1])
    training = made(copy.deepcopy(model), None, ood=OTHERS[:, :, :3], generator=seeded())
    with pytest.raises(ValueError, match="ood must have images of the shape of the inputs"):
        training.step(images, labels)


def test_the_least_confident_are_those_nearest_to_uniform_in_any_mode_and_batches():
    model = toy_classifier().train()
    images = toy_images(700)
    found = least_confident(model, images, 700)
    assert model.training
    confidences = model.eval()(images).softmax(1).max(1).values[found]
    assert (confidences.diff() >= -1e-6).all()
    assert torch.equal(least_confident(model, images, 5), found[:5])


def test_shuffled_patches_hold_the_pixels_of_their_own_image_and_leave_what_fills_no_patch():
    images = torch.arange(2 * 3 * 10 * 9.0).view(2, 3, 10, 9)
    shuffled = shuffled_patches(images, seeded())
    assert torch.equal(shuffled[:, :, 8:], images[:, :, 8:])
    assert torch.equal(shuffled[:, :, :, 8:], images[:, :, :, 8:])
    for one, other in zip(images, shuffled, strict=True):
        patches = {one[:, r : r + 2, c : c + 2].sum().item() for r in range(0, 8, 2) for c in range(0, 8, 2)}
        assert {other[:, r : r + 2, c : c + 2].sum().item() for r in range(0, 8, 2) for c in range(0, 8, 2)} == patches
    assert not torch.equal(shuffled, images)
