"""PS-KD against targets by hand, the closed form of its gradient, a slow loop, and training without it."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import fit_classifier
from paperweight.nets import NormalisedMLP
from paperweight.regularization.ps_kd import PSKD, refined_targets, soft_cross_entropy
from paperweight.testing import FunctionSubject, TrainingProcedureSubject

CLASSES = 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Plain:
    """Epochs of shuffled batches with torch's own cross-entropy, written out."""

    def __init__(self, model, data, *, generator):
        self.model, self.data, self.generator = model, data, generator
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(self):
        inputs, labels = self.data
        self.model.train()
        for batch in torch.randperm(len(inputs), generator=self.generator).split(8):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(inputs[batch]), labels[batch]).backward()
            self.optimizer.step()

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict): ...


def made(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator, **given) -> PSKD:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    arguments = {"inputs": data[0], "labels": data[1], "epochs": 8, "batch_size": 8, **given}
    return PSKD(model, optimizer, generator=generator, **arguments)


CONTRACT = {
    "PSKD": TrainingProcedureSubject(
        make=made,
        evaluations=8 * 32,
        random=True,
        advance=lambda training, data, number: training.step(),
        bad={
            "alpha_T": (-0.1, 1.1, math.nan),
            "epochs": (0, 1.5),
            "batch_size": (0, 2.0),
            "labels": (torch.zeros(3, dtype=torch.int64), torch.zeros(32), torch.zeros(32, 1, dtype=torch.int64)),
            "inputs": (torch.zeros(0, 1, 4, 4),),
        },
        null=partial(made, alpha_T=0.0),
        baseline=Plain,
    ),
    "refined_targets": FunctionSubject(
        make=refined_targets,
        arguments={"labels": torch.tensor([0, 2]), "predictions": torch.full((2, 3), 1 / 3), "alpha": 0.3},
        bad={
            "labels": (torch.tensor([0]), torch.zeros(2, 3, dtype=torch.int64)),
            "predictions": (torch.zeros(2), torch.zeros(3, 3)),
            "alpha": (-0.1, 1.1, math.nan),
        },
    ),
    "soft_cross_entropy": FunctionSubject(
        make=soft_cross_entropy,
        arguments={"logits": torch.tensor([[1.0, 2.0]]), "targets": torch.tensor([[0.25, 0.75]])},
        bad={
            "logits": (torch.zeros(2), torch.zeros(2, 2)),
            "targets": (torch.zeros(1, 3), torch.zeros(2)),
        },
    ),
}


@pytest.mark.parametrize("labels", [torch.tensor([0, 3]), torch.tensor([-1, 0]), torch.tensor([0, 1]).int()])
def test_labels_that_are_no_class_numbers_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels must be class numbers, int64 from 0 to 2, got torch\.int"):
        refined_targets(labels, torch.full((2, 3), 1 / 3), alpha=0.5)


def test_targets_by_hand():
    past = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=torch.float64)
    mixed = refined_targets(torch.tensor([1, 2]), past, 0.6)
    expected = torch.tensor([[0.3, 0.55, 0.15], [0.06, 0.06, 0.88]], dtype=torch.float64)
    torch.testing.assert_close(mixed, expected)
    assert torch.equal(refined_targets(torch.tensor([1, 2]), past, 1.0), past)
    assert refined_targets(torch.tensor([1, 2]), past, 0.0).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_gradient_is_the_prediction_minus_the_target():
    logits = torch.randn(5, CLASSES, generator=seeded(), dtype=torch.float64, requires_grad=True)
    targets = torch.rand(5, CLASSES, generator=seeded(1), dtype=torch.float64)
    targets /= targets.sum(1, keepdim=True)
    value = soft_cross_entropy(logits, targets)
    value.backward()
    by_hand = 0.0
    for row in range(5):
        p = [math.exp(z) / sum(map(math.exp, logits[row].tolist())) for z in logits[row].tolist()]
        for c in range(CLASSES):
            by_hand -= targets[row, c].item() * math.log(p[c]) / 5
            assert logits.grad[row, c].item() == pytest.approx((p[c] - targets[row, c].item()) / 5, rel=1e-11)
    assert value.item() == pytest.approx(by_hand, rel=1e-12)


def test_an_example_on_which_the_model_improved_counts_for_less():
    """By the closed form: the gradient of its true class is that of the label times 1 - alpha (1 - P) / (1 - p)."""
    alpha, before, now = 0.6, 0.7, 0.9
    logits = torch.tensor([[math.log(now), math.log(1 - now)]], dtype=torch.float64, requires_grad=True)
    targets = refined_targets(torch.tensor([0]), torch.tensor([[before, 1 - before]], dtype=torch.float64), alpha)
    soft_cross_entropy(logits, targets).backward()
    assert logits.grad[0, 0].item() == pytest.approx((now - 1) * (1 - alpha * (1 - before) / (1 - now)))


def problem(epochs: int = 5, count: int = 14, batch_size: int = 4, **given) -> PSKD:
    inputs = torch.randn(count, 2, generator=seeded(1), dtype=torch.float64)
    labels = torch.randint(CLASSES, (count,), generator=seeded(2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, CLASSES)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    arguments = {"batch_size": batch_size, "generator": seeded(), **given}
    return PSKD(model, optimizer, inputs, labels, epochs, **arguments)


def test_training_equals_a_loop_with_numbers_alone():
    """Softmax regression: the gradient by a logit is p - y, and each example keeps what was predicted for it."""
    training = problem(alpha_T=0.7)
    weight, bias = (part.detach().tolist() for part in training.model[0].parameters())
    inputs, labels = training.inputs.tolist(), training.labels.tolist()
    draw = seeded()
    past: dict[int, list[float]] = {}
    for epoch in range(5):
        alpha = 0.7 * (epoch + 1) / 5
        order, losses = torch.randperm(14, generator=draw).tolist(), []
        assert training.alpha == pytest.approx(alpha)
        loss = training.step()
        for start, end in ((0, 4), (4, 8), (8, 11), (11, 14)):  # as even as four batches of 14 can be
            batch, slopes, total = order[start:end], [], 0.0
            for i in batch:
                z = [w[0] * inputs[i][0] + w[1] * inputs[i][1] + b for w, b in zip(weight, bias, strict=True)]
                p = [math.exp(v) / sum(map(math.exp, z)) for v in z]
                hard = [float(c == labels[i]) for c in range(CLASSES)]
                y = hard if epoch == 0 else [(1 - alpha) * h + alpha * q for h, q in zip(hard, past[i], strict=True)]
                total -= sum(t * math.log(q) for t, q in zip(y, p, strict=True)) / len(batch)
                slopes.append([(q - t) / len(batch) for q, t in zip(p, y, strict=True)])
                past[i] = p
            losses.append(total)
            for c in range(CLASSES):
                bias[c] -= 0.5 * sum(slope[c] for slope in slopes)
                for k in range(2):
                    weight[c][k] -= 0.5 * sum(slope[c] * inputs[i][k] for slope, i in zip(slopes, batch, strict=True))
        assert loss.item() == pytest.approx(sum(losses) / 4, rel=1e-11)
    torch.testing.assert_close(training.model[0].weight.tolist(), weight)
    torch.testing.assert_close(training.model[0].bias.tolist(), bias)
    torch.testing.assert_close(training.predictions.tolist(), [past[i] for i in range(14)])


def test_at_null_it_trains_like_the_common_loop_bit_for_bit():
    trainings = problem(alpha_T=0.0, count=16), problem(alpha_T=0.8, count=16)
    loop = problem(count=16)
    for training in trainings:
        for _ in range(5):
            training.step()
    fit_classifier(
        loop.model, loop.optimizer, loop.inputs, loop.labels, steps=20, batch_size=4, generator=loop.generator
    )
    null, method = (
        [torch.equal(p, q) for p, q in zip(training.model.parameters(), loop.model.parameters(), strict=True)]
        for training in trainings
    )
    assert all(null)
    assert not any(method)


def test_the_first_epoch_is_that_of_the_labels_whatever_the_strength():
    plain, method = problem(alpha_T=0.0), problem(epochs=1, alpha_T=0.6)
    assert torch.equal(plain.step(), method.step())
    assert torch.equal(plain.model[0].weight, method.model[0].weight)


def test_strength_grows_to_its_last_value_and_stays():
    training = problem(epochs=4)
    shares = []
    for _ in range(6):
        shares.append(training.alpha)
        training.step()
    assert shares == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_predictions_are_those_of_train_mode_and_carry_no_gradient():
    training = problem()
    training.model.append(nn.Dropout(0.9999999))
    training.step()
    torch.testing.assert_close(training.predictions, torch.full((14, CLASSES), 1 / 3, dtype=torch.float64))
    assert not training.predictions.requires_grad


def test_one_example_left_over_does_not_stop_batch_normalization():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NormalisedMLP((1, 1, 2), CLASSES, hidden=(4,))
    inputs, labels = torch.randn(9, 1, 1, 2, generator=seeded()), torch.arange(9) % CLASSES
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    training = PSKD(
        model, torch.optim.SGD(model.parameters(), lr=0.1), inputs, labels, 2, batch_size=4, generator=seeded()
    )
    assert training.step().isfinite()
    assert sizes == [3, 3, 3]


def test_a_state_of_another_data_set_is_refused():
    training = problem()
    training.load_state_dict(training.state_dict())
    training.step()
    state = training.state_dict()
    state["predictions"] = state["predictions"][:-1]
    with pytest.raises(ValueError, match="state_dict must be of 14 examples, got 13"):
        training.load_state_dict(state)


def test_a_state_stays_as_it_was_while_training_goes_on():
    training, resumed = problem(), problem()
    training.step()
    state = training.state_dict()
    before = state["predictions"].clone()
    training.step()
    resumed.load_state_dict(state)
    resumed.step()
    assert torch.equal(state["predictions"], before)
    assert not torch.equal(resumed.predictions, before)
