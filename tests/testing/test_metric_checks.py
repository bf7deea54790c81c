"""The metric checks catch faulty metrics, each by the check that is meant to, called or streamed."""

from functools import partial

import pytest
import torch
from torch import nn

from paperweight.testing import CheckReport, MetricSubject, check_metric
from paperweight.testing.metric import metric_checks

GUESSES, TRUTHS = torch.tensor([0, 1, 2, 1, 0, 2, 2]), torch.tensor([0, 2, 2, 1, 1, 1, 1])
FACTS = {
    "known": (((torch.tensor([1, 2]), torch.tensor([1, 0])), 0.5), ((GUESSES, GUESSES), 1.0)),
    "range": (0.0, 1.0),
    "symmetries": {
        "swapping guesses and truths": lambda guesses, truths: (truths, guesses),
        "reversing the samples": lambda guesses, truths: (guesses.flip(0), truths.flip(0)),
    },
}


class Agreement:
    """A sound metric, the share of equal labels, whose parts the faulty ones replace."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.right, self.count = 0, 0

    def update(self, guesses, truths):
        self.right += (guesses == truths).sum().item()
        self.count += len(truths)

    def compute(self):
        return self.right / self.count


class Disagreement(Agreement):
    def compute(self):
        return 1 - super().compute()


class Percent(Agreement):
    def compute(self):
        return 100 * super().compute()


class NotANumber(Agreement):
    def compute(self):
        return float("nan")


class LooksAtGuessesOnly(Agreement):
    def update(self, guesses, truths):
        self.right += ((guesses == truths) & (guesses > 0)).sum().item()
        self.count += (guesses > 0).sum().item()


class WeighsFirstSamples(Agreement):
    def update(self, guesses, truths):
        super().update(guesses, truths)
        super().update(guesses[:2], truths[:2])


class MeanOfMeans(Agreement):
    def update(self, guesses, truths):
        self.right += (guesses == truths).double().mean().item()
        self.count += 1


class LastBatchOnly(Agreement):
    def update(self, guesses, truths):
        self.reset()
        super().update(guesses, truths)


class ResetsHalf(Agreement):
    def __init__(self):
        self.right, self.count = 0, 0

    def reset(self):
        self.right = 0


class ComputesOnce(Agreement):
    def compute(self):
        value = super().compute()
        self.count += 1
        return value


class DrawsGlobally(Agreement):
    def compute(self):
        return min(1.0, super().compute() + 0.01 * torch.rand(()).item())


class SeedsGlobally(Agreement):
    def compute(self):
        torch.manual_seed(0)
        return super().compute()


class ChangesGuesses(Agreement):
    def update(self, guesses, truths):
        super().update(guesses, truths)
        guesses.zero_()


FAULTY = {
    Disagreement: "check_known_values",
    Percent: "check_range",
    NotANumber: "check_range",
    LooksAtGuessesOnly: "check_symmetries",
    WeighsFirstSamples: "check_symmetries",
    MeanOfMeans: "check_stream_equals_batch",
    LastBatchOnly: "check_stream_equals_batch",
    ResetsHalf: "check_stream_equals_batch",
    ComputesOnce: "check_repeatable",
    DrawsGlobally: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
    ChangesGuesses: "check_inputs_unmodified",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def test_the_sound_metric_passes_every_check():
    report = check_metric(Agreement, GUESSES, TRUTHS, null=Agreement, baseline=Agreement, **FACTS)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values(), "check_null"}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = check_metric(faulty, GUESSES, TRUTHS, **FACTS)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


def agreement(guesses, truths, *, ignore=-1):
    kept = truths != ignore
    return (guesses[kept] == truths[kept]).double().mean()


def test_a_function_is_called():
    report = check_metric(partial(partial, agreement), GUESSES, TRUTHS, **FACTS)
    assert report.passed, str(report)
    assert "check_stream_equals_batch" not in {result.name for result in report.results}


def test_null_law_catches_one_bit():
    null = partial(partial, agreement)
    other = partial(partial, lambda guesses, truths: agreement(guesses, truths) * (1 + 2**-52))
    assert check_metric(null, GUESSES, TRUTHS, null=null, baseline=null).passed
    assert failed(check_metric(null, GUESSES, TRUTHS, null=other, baseline=null)) == {"check_null"}


def test_several_values_are_compared_by_name():
    def moments(x):
        return {"mean": x.mean(), "spread": x.std()}

    known = (((torch.tensor([1.0, 3.0]),), {"mean": 2.0, "spread": 2**0.5}),)
    assert check_metric(partial(partial, moments), torch.rand(5), known=known, range=(0, 2)).passed
    wrong = (((torch.tensor([1.0, 3.0]),), {"mean": 2.0, "spread": 1.0}),)
    assert failed(check_metric(partial(partial, moments), torch.rand(5), known=wrong)) == {"check_known_values"}


def test_a_symmetry_that_changes_nothing_shows_nothing():
    nothing = {"leaving all": lambda guesses, truths: (guesses, truths)}
    report = check_metric(Agreement, GUESSES, TRUTHS, symmetries=nothing)
    assert failed(report) == {"check_symmetries"}
    assert "leaving all leaves the inputs as they are" in str(report)


def test_a_network_among_the_inputs_is_watched():
    def accuracy(model, x):
        return model.eval()(x).argmax(1).double().mean()

    report = check_metric(partial(partial, accuracy), nn.Sequential(nn.Linear(5, 3)), torch.rand(4, 5))
    assert failed(report) == {"check_inputs_unmodified"}
    assert "mode of Sequential" in str(report)


def test_an_object_that_cannot_be_made_is_listed_and_fails():
    def fails():
        raise RuntimeError("no metric today")

    subject = MetricSubject(make=fails, inputs=(GUESSES, TRUTHS), known=(), range=(0, 1))
    assert metric_checks(subject)
    report = check_metric(fails, GUESSES, TRUTHS)
    assert failed(report) == {result.name for result in report.results}


def test_subject_binds_bad_values():
    with pytest.raises(TypeError, match="unexpected keyword argument 'sigma'"):
        MetricSubject(make=partial(partial, agreement), inputs=(GUESSES, TRUTHS), known=(), range=(0, 1)).use(sigma=1)
