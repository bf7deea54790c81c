"""Losses of attacks, by hand and against loops; what no shift and no scale may change."""

import math

import pytest
import torch
from tests.attacks.problems import normal

from paperweight.attacks import cross_entropy_loss, dlr_loss, margin_loss, targeted_dlr_loss

LOSSES = (cross_entropy_loss, dlr_loss, margin_loss, targeted_dlr_loss)


def test_ratios_by_hand():
    # Sorted: 5, 3, 2, -1. The label 1 has 3: (5 - 3) / (5 - 2); reached from 5: (5 - 3) / (5 - (2 - 1) / 2).
    logits, labels = torch.tensor([[2.0, 3.0, 5.0, -1.0]]), torch.tensor([1])
    torch.testing.assert_close(margin_loss(logits, labels), torch.tensor([2.0]))
    torch.testing.assert_close(dlr_loss(logits, labels), torch.tensor([2 / 3]))
    torch.testing.assert_close(targeted_dlr_loss(logits, labels), torch.tensor([2 / 4.5]))
    # The label 2 is seen: the margin to the next is -2.
    seen = torch.tensor([2])
    torch.testing.assert_close(dlr_loss(logits, seen), torch.tensor([-2 / 3]))
    torch.testing.assert_close(targeted_dlr_loss(logits, seen), torch.tensor([-2 / 4.5]))


def test_losses_against_loops():
    logits, labels = normal(20, 6), torch.arange(20) % 6
    for row, (z, y) in enumerate(zip(logits.tolist(), labels.tolist(), strict=True)):
        others, ordered = max(v for j, v in enumerate(z) if j != y), sorted(z, reverse=True)
        expected = {
            cross_entropy_loss: math.log(sum(math.exp(v) for v in z)) - z[y],
            margin_loss: others - z[y],
            dlr_loss: (others - z[y]) / (ordered[0] - ordered[2]),
            targeted_dlr_loss: (others - z[y]) / (ordered[0] - (ordered[2] + ordered[3]) / 2),
        }
        for loss, value in expected.items():
            assert loss(logits, labels)[row].item() == pytest.approx(value, rel=1e-5)


def test_ratios_are_the_same_for_shifted_and_scaled_logits():
    logits, labels = normal(8, 5).double(), torch.arange(8) % 5
    for loss in (dlr_loss, targeted_dlr_loss):
        torch.testing.assert_close(loss(logits, labels), loss(1000 * logits + 7, labels))


def test_the_targeted_ratio_has_a_gradient_where_the_other_is_constant():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]], requires_grad=True)
    third = torch.tensor([2])
    (flat,) = torch.autograd.grad(dlr_loss(logits, third).sum(), logits)
    (steep,) = torch.autograd.grad(targeted_dlr_loss(logits, third).sum(), logits)
    assert flat.abs().max().item() < 1e-6 < 0.1 < -steep[0, 2].item()


@pytest.mark.parametrize("loss", LOSSES)
def test_shares_of_one_class_are_its_number(loss):
    logits, labels = normal(6, 4), torch.arange(6) % 4
    torch.testing.assert_close(loss(logits, labels), loss(logits, torch.nn.functional.one_hot(labels, 4).float()))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_finite_where_all_logits_are_equal_or_huge(loss):
    for logits in (torch.zeros(2, 4), torch.tensor([[1e30, 0.0, 0.0, 0.0], [0.0, -1e30, 1e30, 0.0]])):
        given = logits.clone().requires_grad_()
        values = loss(given, torch.tensor([0, 1]))
        assert bool(values.isfinite().all())
        assert bool(torch.autograd.grad(values.sum(), given)[0].isfinite().all())


def test_too_few_classes_are_refused():
    with pytest.raises(ValueError, match="dlr_loss takes at least 3 classes, got 2; take margin_loss"):
        dlr_loss(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="targeted_dlr_loss takes at least 4 classes, got 3"):
        targeted_dlr_loss(torch.zeros(1, 3), torch.tensor([0]))
