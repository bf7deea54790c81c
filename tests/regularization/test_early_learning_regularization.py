"""Early-learning regularization against hand-computed cases, a slow loop and the closed form of its gradient."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.regularization.early_learning_regularization import ELRLoss, _next_targets, _penalties
from paperweight.testing import LossSubject

CLASSES, SAMPLES = 3, 6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS, LABELS, INDEX = normal(4, CLASSES), torch.tensor([0, 2, 1, 1]), torch.tensor([5, 0, 3, 4])
TARGETS = 0.9 * normal(SAMPLES, CLASSES, seed=1).softmax(dim=1)


def remembering(samples: int = SAMPLES, classes: int = CLASSES, lam: float = 3.0, beta: float = 0.7) -> ELRLoss:
    """A loss in eval mode that has seen all its examples."""
    loss = ELRLoss(samples, classes, lam=lam, beta=beta)
    loss.targets.copy_(TARGETS)
    return loss.eval()


def softmax(row: list[float]) -> list[float]:
    """Probabilities within [1e-4, 1 - 1e-4]."""
    powers = [math.exp(z - max(row)) for z in row]
    return [min(max(power / sum(powers), 1e-4), 1 - 1e-4) for power in powers]


def loop(logits, labels, index, targets, lam=3.0):
    """The loss as the paper writes it, one number after the other."""
    total = 0.0
    for row, label, sample in zip(logits.tolist(), labels.tolist(), index.tolist(), strict=True):
        entropy = math.log(sum(math.exp(z - max(row)) for z in row)) + max(row) - row[label]
        agreement = sum(p * t for p, t in zip(softmax(row), targets[sample], strict=True))
        total += entropy + lam * math.log(1 - agreement)
    return total / len(logits)


CONTRACT = {
    "ELRLoss": LossSubject(
        make=remembering,
        inputs=(LOGITS, LABELS, INDEX),
        slow=lambda logits, labels, index: loop(logits, labels, index, TARGETS.float().tolist()),
        bad={
            "samples": (0, -1, 2.5),
            "classes": (1, 0, 2.5),
            "lam": (-0.1, math.nan, math.inf),
            "beta": (-0.1, 1.0, math.nan),
        },
        null=partial(remembering, lam=0.0),
        baseline=lambda: lambda logits, labels, index: F.cross_entropy(logits, labels),
    ),
}


def test_two_visits_by_hand():
    # p = (3/4, 1/4), t = p / 2, <p, t> = 5/16; then p = (1/2, 1/2), t = (7/16, 5/16), <p, t> = 3/8.
    loss = ELRLoss(samples=2, classes=2, lam=2.0, beta=0.5)
    first = loss(torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([0]), torch.tensor([1]))
    assert first.item() == pytest.approx(math.log(4 / 3) + 2 * math.log(11 / 16))
    torch.testing.assert_close(loss.targets, torch.tensor([[0.0, 0.0], [3 / 8, 1 / 8]]))
    second = loss(torch.tensor([[1.0, 1.0]]), torch.tensor([1]), torch.tensor([1]))
    assert second.item() == pytest.approx(math.log(2) + 2 * math.log(5 / 8))
    torch.testing.assert_close(loss.targets[1], torch.tensor([7 / 16, 5 / 16]))


def test_equations_by_hand():
    moved = _next_targets(torch.tensor([[0.5, 0.25]]), torch.tensor([[0.6, 0.6]]), beta=0.75)
    torch.testing.assert_close(moved, torch.tensor([[0.5, 0.3125]]))
    torch.testing.assert_close(
        _penalties(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.5, 0.3]])).exp(), torch.ones(1) * 0.6
    )


def test_training_equals_a_loop_over_visits():
    lam, beta = 1.7, 0.6
    loss = ELRLoss(SAMPLES, CLASSES, lam=lam, beta=beta).double()
    targets = [[0.0] * CLASSES for _ in range(SAMPLES)]
    for visit in range(8):
        draw = torch.Generator().manual_seed(visit)
        index = torch.randperm(SAMPLES, generator=draw)[:4]
        labels = torch.randint(CLASSES, (4,), generator=draw)
        logits = 6 * normal(4, CLASSES, seed=visit)
        for row, sample in zip(logits.tolist(), index.tolist(), strict=True):
            p = softmax(row)
            targets[sample] = [beta * t + (1 - beta) * q / sum(p) for t, q in zip(targets[sample], p, strict=True)]
        assert loss(logits, labels, index).item() == pytest.approx(loop(logits, labels, index, targets, lam), rel=1e-11)
    torch.testing.assert_close(loss.targets, torch.tensor(targets, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_gradient_is_the_closed_form_of_the_paper(training):
    # By the logits of one example: p - y + lam g with g_c = p_c / (1 - <p, t>) * sum over k of (t_k - t_c) p_k.
    loss = remembering(lam=1.3).double().train(training)
    logits = LOGITS.clone().requires_grad_()
    loss(logits, LABELS, INDEX).backward()
    for row, (label, sample) in enumerate(zip(LABELS.tolist(), INDEX.tolist(), strict=True)):
        p, t = LOGITS[row].softmax(dim=0), loss.targets[sample]
        for c in range(CLASSES):
            pull = sum((t[k] - t[c]) * p[k] for k in range(CLASSES)) * p[c] / (1 - p @ t)
            expected = (p[c] - float(c == label) + 1.3 * pull) / len(LOGITS)
            assert logits.grad[row, c].item() == pytest.approx(expected.item(), rel=1e-11)
    assert not loss.targets.requires_grad


def test_null_law_holds_in_training_bit_for_bit():
    loss = ELRLoss(SAMPLES, CLASSES, lam=0.0)
    for seed in range(3):
        ours = 10 * normal(4, CLASSES, seed=seed).float()
        theirs = ours.clone().requires_grad_()
        ours.requires_grad_()
        value, expected = loss(ours, LABELS, INDEX), F.cross_entropy(theirs, LABELS)
        value.backward()
        expected.backward()
        assert torch.equal(value, expected)
        assert torch.equal(ours.grad, theirs.grad)


def test_order_of_the_batch_does_not_matter_in_training_even_where_examples_repeat():
    index, order = torch.tensor([2, 4, 2, 2]), torch.tensor([3, 1, 0, 2])
    first, second = remembering().double().train(), remembering().double().train()
    value = first(LOGITS, LABELS, index)
    torch.testing.assert_close(second(LOGITS[order], LABELS[order], index[order]), value, rtol=1e-13, atol=0)
    torch.testing.assert_close(first.targets, second.targets, rtol=1e-13, atol=0)


def test_an_example_twice_in_a_batch_moves_once_towards_its_mean_prediction():
    loss = ELRLoss(samples=3, classes=2, beta=0.5)
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0], [0.0, math.log(4.0)]])
    loss(logits, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2]))
    # (3/4 + 1/5) / 2 and (1/4 + 4/5) / 2, halved; the second example by itself; the third not seen
    torch.testing.assert_close(loss.targets, torch.tensor([[0.25, 0.25], [0.0, 0.0], [0.2375, 0.2625]]))


def test_eval_mode_leaves_the_targets_and_an_unseen_example_adds_nothing():
    loss = ELRLoss(SAMPLES, CLASSES).double()
    loss(LOGITS[:2], LABELS[:2], INDEX[:2])
    before = loss.targets.clone()
    assert before[INDEX[:2]].gt(0).all()
    value = loss.eval()(LOGITS[2:], LABELS[2:], INDEX[2:])
    assert torch.equal(loss.targets, before)
    assert torch.equal(value, F.cross_entropy(LOGITS[2:], LABELS[2:]))


def test_resumed_training_is_the_straight_run():
    straight = ELRLoss(SAMPLES, CLASSES)
    straight(LOGITS.float(), LABELS, INDEX)
    resumed = ELRLoss(SAMPLES, CLASSES)
    resumed.load_state_dict(straight.state_dict())
    later = normal(4, CLASSES, seed=2).float(), LABELS, INDEX.roll(1)
    assert torch.equal(straight(*later), resumed(*later))
    assert torch.equal(straight.targets, resumed.targets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_certain_predictions_stay_finite_and_get_no_gradient_from_the_penalty(dtype, classes):
    logits = torch.zeros(2, classes, dtype=dtype)
    logits[:, 1] = 200.0
    logits.requires_grad_()
    labels, index = torch.ones(2, dtype=torch.int64), torch.tensor([0, 1])
    loss = ELRLoss(2, classes, beta=0.0).to(dtype)
    for _ in range(3):
        value = loss(logits, labels, index)
    assert value.dtype == dtype
    assert 3 * math.log(1e-4) * 1.01 <= value.item() < 0
    value.backward()
    assert logits.grad.eq(0).all()


def test_wrong_labels_lose_their_pull_where_the_target_disagrees():
    # Label 0 is wrong, prediction and target agree on class 1: the penalty must weaken the pull towards the label.
    logits = torch.tensor([[0.0, 3.0]])
    pulls = {}
    for lam in (0.0, 1.0):
        loss = ELRLoss(1, 2, lam=lam, beta=0.9)
        loss.targets.copy_(torch.tensor([[0.05, 0.95]]))
        given = logits.clone().requires_grad_()
        loss(given, torch.tensor([0]), torch.tensor([0])).backward()
        pulls[lam] = -given.grad[0, 0].item()
    assert 0 < pulls[1.0] < 0.75 * pulls[0.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"logits": torch.zeros(4, 2)}, r"logits must have shape \(N, 3\) .* got \(4, 2\)"),
        ({"logits": torch.zeros(3)}, r"logits must have shape \(N, 3\)"),
        ({"logits": torch.zeros(0, 3)}, r"logits must have shape \(N, 3\) with N at least 1"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"labels must be int64 of shape \(4,\), .* shape \(3,\)"),
        ({"labels": torch.zeros(4)}, r"labels must be int64 .* got torch\.float32"),
        ({"index": torch.zeros(4, 1, dtype=torch.int64)}, r"index must be int64 of shape \(4,\)"),
        ({"index": torch.zeros(4, dtype=torch.bool)}, r"index must be int64 .* got torch\.bool"),
        ({"index": torch.tensor([0, 1, 2, 6])}, r"index must be from 0 to 5, .* got 0 to 6"),
        ({"index": torch.tensor([0, 1, -1, 2])}, r"index must be from 0 to 5, .* got -1 to 2"),
    ],
)
def test_bad_batches_are_refused_and_no_target_moves(given, message):
    loss = ELRLoss(SAMPLES, CLASSES)
    with pytest.raises(ValueError, match=message):
        loss(**({"logits": LOGITS, "labels": LABELS, "index": INDEX} | given))
    assert loss.targets.eq(0).all()


def test_targets_move_with_a_model_that_holds_the_loss_and_are_no_parameter():
    holder = nn.ModuleDict({"loss": ELRLoss(SAMPLES, CLASSES)}).to("meta")
    assert holder["loss"].targets.device.type == "meta"
    assert not list(holder.parameters())
