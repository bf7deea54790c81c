"""Massive label noise: laws by hand and by counting, the limit of large batches, and where the right label loses."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import fit_classifier
from paperweight.regularization.massive_label_noise import (
    NoiseCurve,
    biased_noise,
    dilute,
    expected_loss,
    label_law,
    label_noise_curve,
    plurality,
)
from paperweight.testing import ExperimentSubject, FunctionSubject

CLASSES = 3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Give points about the corners of a triangle, which a line tells apart."""
    labels = torch.arange(CLASSES).repeat(count)
    return 3 * torch.eye(CLASSES)[labels] + 0.3 * normal(len(labels), CLASSES, seed=seed), labels


def train(inputs: Tensor, labels: Tensor) -> nn.Module:
    model = nn.Linear(CLASSES, CLASSES, device="meta").to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    fit_classifier(model, sgd, inputs, labels, steps=100, batch_size=64, generator=seeded())
    return model


INPUTS, LABELS = blobs(40, seed=1)
TEST_INPUTS, TEST_LABELS = blobs(50, seed=2)


def curve_without_noise(inputs, labels, test_inputs, test_labels, alphas=(0,), noise=None, *, generator):
    right = int((train(inputs, labels)(test_inputs).argmax(dim=1) == test_labels).sum())
    return NoiseCurve((0,), (right / len(test_labels),), (1.0,), (len(labels),))


def curve(inputs, labels, test_inputs, test_labels, alphas=(0, 8), noise=None, *, generator):
    return label_noise_curve(
        train, inputs, labels, test_inputs, test_labels, alphas=alphas, noise=noise, generator=generator
    )


UNFIT = (torch.eye(3)[:2], torch.ones(3, 3), torch.eye(2) * 1.1, -torch.eye(3), torch.eye(3).long(), torch.ones(1, 1))

CONTRACT = {
    "label_noise_curve": ExperimentSubject(
        make=curve,
        arguments={
            "inputs": INPUTS,
            "labels": LABELS,
            "test_inputs": TEST_INPUTS,
            "test_labels": TEST_LABELS,
            "alphas": (0, 30),
        },
        fields=("alphas", "accuracies", "leads", "examples"),
        known=(
            ({"alphas": (0, 2)}, {"accuracies": (1.0, 1.0), "leads": (1.0, 1 / 3), "examples": (120, 360)}),
            ({"alphas": (9,), "noise": biased_noise(CLASSES, 1.0)}, {"accuracies": (0.0,), "leads": (-0.8,)}),
        ),
        bad={
            "alphas": ((), (-1,), (0, 1.5), (True,)),
            "labels": (LABELS[1:], LABELS.float(), LABELS - 1),
            "test_labels": (TEST_LABELS[1:], TEST_LABELS + 1),
            "noise": UNFIT,
        },
        null=lambda alphas, **given: curve(alphas=(0,), **given),
        baseline=curve_without_noise,
    ),
    "biased_noise": FunctionSubject(
        make=biased_noise,
        arguments={"classes": 4, "delta": 0.3},
        bad={"classes": (1, 0, 2.5, True), "delta": (-0.1, 1.1, math.nan)},
    ),
    "label_law": FunctionSubject(
        make=label_law,
        arguments={"alpha": 2.5, "noise": biased_noise(3)},
        bad={"alpha": (-1, math.inf, math.nan), "noise": UNFIT},
    ),
    "plurality": FunctionSubject(make=plurality, arguments={"law": biased_noise(3, 0.2)}, bad={"law": UNFIT}),
    "dilute": FunctionSubject(
        make=lambda labels, alpha, noise, seed=0: dilute(labels, alpha, noise, generator=seeded(seed)),
        arguments={"labels": torch.tensor([0, 2, 1]), "alpha": 3, "noise": biased_noise(3)},
        bad={
            "labels": (torch.tensor([0, 3]), torch.tensor([-1]), torch.tensor([0.0]), torch.tensor([[0]]), LABELS[:0]),
            "alpha": (-1, 1.5, True),
            "noise": UNFIT,
        },
    ),
    "expected_loss": FunctionSubject(
        make=expected_loss,
        arguments={"logits": normal(4, 3), "labels": torch.tensor([0, 1, 2, 0]), "law": biased_noise(3)},
        bad={
            "logits": (normal(4, 2), normal(3, 3), normal(12)),
            "labels": (torch.tensor([0, 1, 2, 3]), torch.tensor([0.0, 1, 2, 0])),
            "law": UNFIT,
        },
    ),
}


def test_laws_by_hand():
    # Two right of three: half of the noise on the next class, a sixth on each.
    noise = biased_noise(3, delta=0.5)
    sixth = 1 / 6
    expected = torch.tensor([[sixth, 2 / 3, sixth], [sixth, sixth, 2 / 3], [2 / 3, sixth, sixth]], dtype=torch.float64)
    torch.testing.assert_close(noise, expected)
    law = label_law(2, noise)
    torch.testing.assert_close(law[0], torch.tensor([4 / 9, 4 / 9, 1 / 9], dtype=torch.float64))
    assert plurality(law) == pytest.approx(0.0, abs=1e-15)
    assert torch.equal(label_law(0, noise), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(("alpha", "classes"), [(1, 2), (10, 10), (100, 10), (3.5, 4)])
def test_chance_of_a_right_label_and_its_lead_have_a_closed_form(alpha, classes):
    law = label_law(alpha, biased_noise(classes))
    right = 1 / (1 + alpha) + alpha / ((1 + alpha) * classes)
    torch.testing.assert_close(law.diagonal(), torch.full((classes,), right, dtype=torch.float64))
    assert plurality(law) == pytest.approx(1 / (1 + alpha))
    for delta in (0.5 / alpha, 1 / alpha):
        lead = plurality(label_law(alpha, biased_noise(classes, delta)))
        assert lead == pytest.approx((1 - alpha * delta) / (1 + alpha), abs=1e-15)


def test_the_lead_is_that_of_the_class_where_it_is_least():
    law = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.0, 0.4, 0.6]])
    assert plurality(law) == pytest.approx(0.2)


def test_labels_are_as_frequent_as_the_law_says():
    alpha, count = 4, 20_000
    noise = biased_noise(5, delta=0.3)
    index, diluted = dilute(torch.full((count,), 3), alpha, noise, generator=seeded())
    assert len(index) == len(diluted) == (1 + alpha) * count
    assert torch.bincount(index).unique().tolist() == [1 + alpha]
    assert (diluted[:count] == 3).all()
    found = torch.bincount(diluted, minlength=5) / len(diluted)
    law = label_law(alpha, noise)[3]
    deviation = (law * (1 - law) / len(diluted)).sqrt()  # an upper bound, since a fifth of the labels is not drawn
    assert ((found - law).abs() < 4 * deviation).all()


def test_each_input_has_its_own_noise():
    labels = torch.tensor([0, 1, 2, 3])
    noise = torch.eye(4, dtype=torch.float64).roll(1, dims=1)  # every noisy label is the next class
    index, diluted = dilute(labels, 2, noise, generator=seeded())
    assert index.tolist() == [0, 1, 2, 3] * 3
    assert diluted.tolist() == [0, 1, 2, 3] + [1, 2, 3, 0] * 2
    alone = dilute(labels, 0, noise, generator=seeded())
    assert alone[0].tolist() == [0, 1, 2, 3]
    assert torch.equal(alone[1], labels)
    assert alone[1].data_ptr() != labels.data_ptr()


def test_draws_differ_between_copies():
    _, diluted = dilute(torch.zeros(1000, dtype=torch.int64), 2, biased_noise(10), generator=seeded())
    assert not torch.equal(diluted[1000:2000], diluted[2000:])


def test_the_expected_loss_is_that_of_a_very_large_batch_and_of_label_smoothing():
    logits, labels, alpha = normal(6, 4).double(), torch.tensor([0, 1, 2, 3, 0, 1]), 3
    uniform = biased_noise(4)
    found = expected_loss(logits, labels, label_law(alpha, uniform))
    smoothed = F.cross_entropy(logits, labels, label_smoothing=alpha / (1 + alpha))
    assert found.item() == pytest.approx(smoothed.item(), rel=1e-12)
    slow = torch.zeros((), dtype=torch.float64)
    for law in (label_law(alpha, biased_noise(4, 0.4)),):
        for row, label in zip(logits, labels, strict=True):
            for chosen in range(4):
                slow -= law[label, chosen] * (row[chosen] - row.exp().sum().log()) / len(labels)
        assert expected_loss(logits, labels, law).item() == pytest.approx(slow.item(), rel=1e-12)
    plain = expected_loss(logits, labels, label_law(0, uniform))
    assert plain.item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-12)
    index, drawn = dilute(labels.repeat(2_000), alpha, uniform, generator=seeded())
    many = F.cross_entropy(logits.repeat(2_000, 1)[index], drawn)
    assert many.item() == pytest.approx(found.item(), abs=0.02)


def test_learning_fails_where_a_wrong_class_overtakes_and_not_before():
    alpha = 4
    for delta, lowest, highest in ((0.1, 0.95, 1.0), (0.9, 0.0, 0.05)):
        found = curve(
            INPUTS, LABELS, TEST_INPUTS, TEST_LABELS, (alpha,), biased_noise(CLASSES, delta), generator=seeded()
        )
        assert lowest <= found.accuracies[0] <= highest
        assert (found.leads[0] > 0) == (delta < 1 / alpha)


def test_networks_are_judged_in_eval_mode_on_all_test_inputs():
    class Moody(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -x if self.training else x

    model = Moody()
    inputs = torch.eye(3).repeat(300, 1)
    labels = torch.arange(3).repeat(300)
    labels[600:] = (labels[600:] + 1) % 3
    found = label_noise_curve(lambda *_: model, inputs, labels, inputs, labels, (0,), generator=seeded())
    assert found.accuracies == (2 / 3,)
    assert model.training


def test_what_does_not_fit_is_refused():
    given = (train, INPUTS, LABELS, TEST_INPUTS, TEST_LABELS)
    for changed, alphas, noise, words in (
        (given, (), None, "alphas must hold at least one number, got none"),
        (given, (1, -1), None, "alphas must be a whole number of at least 0, got -1"),
        (given, (1,), biased_noise(2), r"labels must be in \[0, 2\), got 0 to 2"),
        ((*given[:2], LABELS[1:], *given[3:]), (1,), None, "labels must be one for each of 120 inputs, got 119"),
        ((*given[:4], TEST_LABELS + 1), (1,), None, r"test_labels must be in \[0, 3\), got 1 to 3"),
        ((*given[:4], TEST_LABELS[:0]), (1,), None, "test_labels must be int64, .* with N at least 1"),
    ):
        with pytest.raises(ValueError, match=words):
            label_noise_curve(*changed, alphas=alphas, noise=noise, generator=seeded())
