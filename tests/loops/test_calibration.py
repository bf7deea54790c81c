import math

import pytest
import torch

from paperweight.loops import area_under_risk_coverage, expected_calibration_error


def drawn(count: int = 400, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    probabilities = (2 * torch.randn(count, classes, generator=g, dtype=torch.float64)).softmax(dim=1)
    return probabilities, torch.multinomial(probabilities, 1, generator=g).flatten()


def test_calibration_error_equals_a_slow_loop():
    probabilities, labels = drawn()
    for bins in (1, 7, 15):
        error = 0.0
        for b in range(bins):
            inside = [i for i, p in enumerate(probabilities) if b / bins < p.max() <= (b + 1) / bins]
            confidence = math.fsum(probabilities[i].max().item() for i in inside)
            right = sum(int(probabilities[i].argmax() == labels[i]) for i in inside)
            error += abs(confidence - right) / len(labels)
        assert expected_calibration_error(probabilities, labels, bins=bins) == pytest.approx(error, abs=1e-12)


def test_calibration_error_by_hand():
    sure = torch.eye(2)[[0, 0, 1, 1]]
    assert expected_calibration_error(sure, torch.tensor([0, 0, 1, 1])) == 0
    assert expected_calibration_error(sure, torch.tensor([1, 1, 0, 0])) == 1
    assert expected_calibration_error(sure, torch.tensor([0, 1, 1, 1])) == 0.25
    mixed = torch.tensor([[0.95, 0.05], [0.55, 0.45]], dtype=torch.float64)
    assert expected_calibration_error(mixed, torch.tensor([1, 0]), bins=2) == pytest.approx(abs(1.5 - 1) / 2)
    assert expected_calibration_error(mixed, torch.tensor([1, 0]), bins=10) == pytest.approx((0.95 + 0.45) / 2)


def test_on_labels_drawn_from_the_probabilities_the_error_falls_towards_nothing():
    probabilities, labels = drawn(40_000)
    assert expected_calibration_error(probabilities, labels) < 0.01
    assert expected_calibration_error(probabilities**3 / (probabilities**3).sum(1, keepdim=True), labels) > 0.05


def test_risk_coverage_equals_a_slow_loop():
    probabilities, labels = drawn(60)
    order = sorted(range(60), key=lambda i: -probabilities[i].max().item())
    risks = [sum(int(probabilities[i].argmax() != labels[i]) for i in order[:k]) / k for k in range(1, 61)]
    assert area_under_risk_coverage(probabilities, labels) == pytest.approx(math.fsum(risks) / 60, abs=1e-12)


def test_order_of_examples_of_equal_confidence_does_not_count():
    equal = torch.tensor([[0.7, 0.3]] * 4)
    labels = torch.tensor([0, 1, 0, 0])
    for turn in range(4):
        assert area_under_risk_coverage(equal, labels.roll(turn)) == pytest.approx(0.25)
    assert area_under_risk_coverage(equal, torch.zeros(4, dtype=torch.int64)) == 0


def test_errors_cost_less_at_low_confidence():
    probabilities = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    assert area_under_risk_coverage(probabilities, torch.tensor([0, 0, 1])) == pytest.approx(1 / 9)
    assert area_under_risk_coverage(probabilities, torch.tensor([1, 0, 0])) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_a_confidence_at_an_edge_is_in_the_bin_below():
    probabilities = torch.tensor([[0.55, 0.45], [0.545, 0.455]], dtype=torch.float64)
    expected = abs(0.55 + 0.545 - 1) / 2  # both in (0.54, 0.55], one of them right
    assert expected_calibration_error(probabilities, torch.tensor([0, 1]), bins=100) == pytest.approx(expected)


def test_rows_of_low_precision_are_probabilities():
    half = torch.randn(200, 10, generator=torch.Generator().manual_seed(0)).bfloat16().softmax(dim=1)
    labels = torch.arange(200) % 10
    exact = half.double() / half.double().sum(dim=1, keepdim=True)
    found = expected_calibration_error(half, labels)
    assert found == pytest.approx(expected_calibration_error(exact, labels), abs=0.005)


@pytest.mark.parametrize("measure", [expected_calibration_error, area_under_risk_coverage])
def test_what_cannot_be_is_said(measure):
    for wrong in ([[3.0, 1.0]], [[2.0, -1.0]]):
        with pytest.raises(ValueError, match=r"probabilities must be at least 0 in rows with sum 1, got others"):
            measure(torch.tensor(wrong), torch.tensor([0]))
    for labels in (torch.tensor([2, 0]), torch.tensor([-1, 0]), torch.tensor([0.0, 1.0])):
        with pytest.raises(ValueError, match=r"labels must be int64 in \[0, 2\), got torch\."):
            measure(torch.eye(2), labels)
    with pytest.raises(
        ValueError, match=r"shapes \(N, classes\) and \(N,\) with N at least 1, got \(2, 2\) and \(1,\)"
    ):
        measure(torch.eye(2), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"with N at least 1"):
        measure(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    if measure is expected_calibration_error:
        with pytest.raises(ValueError, match=r"bins must be at least 1, got 0"):
            measure(torch.eye(2), torch.tensor([0, 1]), bins=0)
