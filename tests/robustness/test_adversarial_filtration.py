"""Adversarial filtration: examples by a slow loop, measures by hand, in closed form and against scikit-learn's."""

import math
from functools import partial

import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from paperweight.loops import area_under_risk_coverage
from paperweight.robustness.adversarial_filtration import (
    AdversarialFiltration,
    area_under_precision_recall,
    area_under_response_rate_accuracy,
    confident_anomalies,
    hard_examples,
    rms_calibration_error,
)
from paperweight.testing import DataTransformSubject, FunctionSubject, MetricSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


TWO = (2 * torch.randn(2, 200, 4, generator=seeded())).softmax(dim=2)
LABELS = torch.randint(4, (200,), generator=seeded(1))
CONFIDENCES = torch.rand(57, generator=seeded(2))
CORRECT = torch.rand(57, generator=seeded(3)) < CONFIDENCES
ANOMALOUS, ORDINARY = torch.randn(40, generator=seeded(4)) + 1, torch.randn(90, generator=seeded(5))
NAN = torch.tensor([math.nan])


class Single(nn.Module):
    def forward(self, images):
        return images.float()


class Reversed(nn.Module):
    def forward(self, logits):
        return logits.flip(1)


def by_name(measure, *names):
    return lambda **given: lambda *inputs: measure(**{**dict(zip(names, inputs, strict=True)), **given})


def reversed_pair(first, second):
    return first.flip(0), second.flip(0)


CONTRACT = {
    "AdversarialFiltration": DataTransformSubject(
        make=partial(AdversarialFiltration, references=[nn.Sequential(Single(), toy_classifier())]),
        range=(0.0, 1.0),
        length=None,
        labels=None,
        inputs=toy_images(60),
        targets=torch.arange(60) % 3,
        bad={
            "references": ([],),
            "ceiling": (0.0, -0.1, 1.1, math.nan, True),
            "per_class": (0, 1.5, True),
        },
    ),
    "hard_examples": FunctionSubject(
        make=hard_examples,
        arguments={"probabilities": TWO, "labels": LABELS, "ceiling": 0.3, "per_class": 2},
        bad={
            "probabilities": (TWO[0, 0], TWO[:0], TWO[:, :3]),
            "labels": (LABELS.float(), LABELS[:, None], LABELS[:3], LABELS - 1, LABELS + 1),
            "ceiling": (0.0, 1.1, math.nan, True),
            "per_class": (0, 1.5, True),
        },
    ),
    "confident_anomalies": FunctionSubject(
        make=confident_anomalies,
        arguments={"probabilities": TWO[0], "count": 5},
        bad={"probabilities": (TWO,), "count": (-1, 201, 1.5, True)},
    ),
    "area_under_response_rate_accuracy": MetricSubject(
        make=by_name(area_under_response_rate_accuracy, "confidences", "correct"),
        inputs=(CONFIDENCES, CORRECT),
        known=(
            ((torch.tensor([0.2, 0.9, 0.6]), torch.tensor([True, True, False])), (1 + 1 / 2 + 2 / 3) / 3),
            ((torch.full((8,), 0.5), torch.arange(8) < 2), 0.25),
            ((torch.ones(3), torch.ones(3) > 0), 1.0),
        ),
        range=(0.0, 1.0),
        symmetries={
            "another order": reversed_pair,
            "a scale of confidence": lambda confidences, correct: (confidences.double().log(), correct),
        },
        bad={"confidences": (CONFIDENCES[:0], CONFIDENCES[:3], NAN), "correct": (CORRECT[:3], CORRECT.long())},
    ),
    "rms_calibration_error": MetricSubject(
        make=by_name(rms_calibration_error, "confidences", "correct"),
        inputs=(CONFIDENCES, CORRECT),
        known=(
            ((torch.full((1,), 0.25), torch.tensor([True])), 0.75),
            # The bins of 100, 150: errors of 0.5 and 0.2.
            (
                (
                    torch.cat([torch.full((100,), 0.5), torch.full((150,), 0.8)]),
                    torch.arange(250) >= 100,
                ),
                math.sqrt((100 * 0.25 + 150 * 0.04) / 250),
            ),
        ),
        range=(0.0, 1.0),
        symmetries={"another order": reversed_pair},
        bad={
            "confidences": (CONFIDENCES[:0], CONFIDENCES + 1, -CONFIDENCES, NAN),
            "correct": (CORRECT[:3], CORRECT.long()),
            "bin_size": (0, 1.5, True),
        },
    ),
    "area_under_precision_recall": MetricSubject(
        make=by_name(area_under_precision_recall, "anomalous", "ordinary"),
        inputs=(ANOMALOUS, ORDINARY),
        known=(
            ((torch.zeros(3), torch.zeros(9)), 0.25),
            ((torch.ones(3), torch.zeros(9)), 1.0),
            ((torch.tensor([3.0, 1.0]), torch.tensor([2.0])), (1 + 2 / 3) / 2),
        ),
        range=(0.0, 1.0),
        symmetries={"another order": reversed_pair, "a shift": lambda first, second: (first + 3, second + 3)},
        bad={"anomalous": (ANOMALOUS[:0], ANOMALOUS[None], NAN), "ordinary": (ORDINARY[:0], ORDINARY[None], NAN)},
    ),
}


@pytest.mark.parametrize("ceiling", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("per_class", [None, 1, 3])
def test_hard_examples_are_those_of_a_slow_loop(ceiling, per_class):
    hard = []
    for number, label in enumerate(LABELS.tolist()):
        rows = [TWO[reference, number].tolist() for reference in range(2)]
        if all(row[label] < ceiling and max(row) > row[label] for row in rows):
            hard.append((sum(row[label] for row in rows) / 2, number))
    expected = []
    for label in range(4):
        of_class = sorted((share, number) for share, number in hard if LABELS[number] == label)
        expected += [number for _, number in of_class[:per_class]]
    assert hard_examples(TWO, LABELS, ceiling, per_class).tolist() == sorted(expected)
    assert len(expected) > 0


def test_an_example_that_one_of_the_references_gets_right_is_not_hard():
    probabilities = torch.tensor([[[0.9, 0.1]], [[0.1, 0.9]]])
    assert not len(hard_examples(probabilities, torch.tensor([1])))
    assert hard_examples(probabilities[0], torch.tensor([1])).tolist() == [0]
    assert not len(hard_examples(TWO[:, :0], LABELS[:0], per_class=1))


def test_what_is_kept_the_reference_gets_wrong_in_eval_mode_and_the_rest_it_does_not():
    inputs, model = toy_images(600), toy_classifier()
    labels = torch.arange(600) % 3
    filtration = AdversarialFiltration([model.train()], ceiling=1.0)
    kept, of = filtration(inputs, labels)
    assert model.training
    with torch.no_grad():
        assert not (model.eval()(kept).argmax(dim=1) == of).any()
        wrong = model(inputs).argmax(dim=1) != labels
    assert torch.equal(kept, inputs[wrong])
    assert torch.equal(of, labels[wrong])
    both, _ = AdversarialFiltration([model, nn.Sequential(model, Reversed())], ceiling=1.0)(inputs, labels)
    assert 0 < len(both) < len(kept)


def test_the_surest_anomalies_are_taken_of_equal_ones_the_first():
    probabilities = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.1, 0.9], [0.2, 0.8], [0.9, 0.1]])
    assert confident_anomalies(probabilities, 2).tolist() == [1, 2]
    assert confident_anomalies(probabilities, 4).tolist() == [1, 2, 3, 4]
    assert not len(confident_anomalies(probabilities, 0))


def test_area_by_response_rate_is_one_less_that_by_risk_and_coverage_ties_included():
    probabilities = (TWO[0] * 8).round() / 8 + 1e-3
    probabilities = probabilities / probabilities.sum(dim=1, keepdim=True)
    confidences, predicted = probabilities.double().max(dim=1)
    assert len(confidences.unique()) < 100
    found = area_under_response_rate_accuracy(confidences, predicted == LABELS)
    assert found == pytest.approx(1 - area_under_risk_coverage(probabilities, LABELS), abs=1e-9)


def test_average_precision_is_that_of_scikit_learn_ties_included():
    for scale in (1.0, 2.0):
        anomalous, ordinary = (ANOMALOUS * scale).round(), (ORDINARY * scale).round()
        labels = [1] * len(anomalous) + [0] * len(ordinary)
        expected = average_precision_score(labels, torch.cat([anomalous, ordinary]).numpy())
        assert area_under_precision_recall(anomalous, ordinary) == pytest.approx(expected, abs=1e-12)


def test_bins_are_neighbours_by_confidence_and_the_last_takes_what_is_left():
    pairs = sorted(zip(CONFIDENCES.tolist(), CORRECT.tolist(), strict=True))
    total = 0.0
    for part in (pairs[:10], pairs[10:20], pairs[20:30], pairs[30:40], pairs[40:]):
        error = sum(sure for sure, _ in part) / len(part) - sum(right for _, right in part) / len(part)
        total += len(part) / 57 * error**2
    assert rms_calibration_error(CONFIDENCES, CORRECT, bin_size=10) == pytest.approx(math.sqrt(total), rel=1e-6)
    whole = (CONFIDENCES.double().mean() - CORRECT.double().mean()).abs().item()
    assert rms_calibration_error(CONFIDENCES, CORRECT, bin_size=58) == pytest.approx(whole)


def test_the_order_of_equal_confidences_does_not_matter_to_the_calibration_error():
    correct = torch.arange(200) < 100
    for given in (correct, correct.flip(0), correct[torch.randperm(200, generator=seeded(6))]):
        assert rms_calibration_error(torch.ones(200), given) == pytest.approx(0.5)


def test_no_input_and_a_label_too_many():
    filtration = AdversarialFiltration([toy_classifier()])
    assert len(filtration(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))[0]) == 0
    with pytest.raises(ValueError, match="one for each of 2 inputs"):
        filtration(toy_images(2), torch.zeros(3, dtype=torch.int64))
