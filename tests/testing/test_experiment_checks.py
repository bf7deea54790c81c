"""The experiment checks catch faulty experiments, each by the check that is meant to."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from paperweight.testing import CheckReport, ExperimentSubject, check_experiment, check_object, experiment

ARGUMENTS = {"model": nn.Linear(3, 2), "samples": 40, "noise": 0.5}


@dataclass(frozen=True)
class Margins:
    mean: float
    each: torch.Tensor
    words: str


def margins(model, samples, noise, generator):
    """A sound experiment: how far apart the outputs of a linear network are on noise."""
    inputs = noise * torch.randn(samples, 3, generator=generator)
    with torch.no_grad():
        outputs = nn.functional.linear(inputs, model.weight)
    each = (outputs[:, 0] - outputs[:, 1]).abs()
    return Margins(each.mean().item(), each, "linear")


FACTS = {
    "fields": ("mean", "each", "words"),
    "known": (({"noise": 0.0}, {"mean": 0.0, "each": torch.zeros(40)}),),
}


def returns_a_number(model, samples, noise, generator):
    return margins(model, samples, noise, generator).mean


def leaves_a_field_out(model, samples, noise, generator):
    return {"mean": margins(model, samples, noise, generator).mean, "words": "linear"}


def is_not_a_number(model, samples, noise, generator):
    found = margins(model, samples, noise, generator)
    return Margins(found.mean, found.each / 0, "linear")


def is_off_by_a_little(model, samples, noise, generator):
    found = margins(model, samples, noise, generator)
    return Margins(found.mean + 0.001, found.each, "linear")


def draws_globally(model, samples, noise, generator):
    found = margins(model, samples, noise, generator)
    return Margins(found.mean * torch.rand(()).item(), found.each, "linear")


def words_are_random(model, samples, noise, generator):
    found = margins(model, samples, noise, generator)
    return Margins(found.mean, found.each, str(torch.rand(()).item()))


def has_a_seed_of_its_own(model, samples, noise, generator):
    return margins(model, samples, noise, torch.Generator().manual_seed(3))


def seeds_globally(model, samples, noise, generator):
    torch.manual_seed(0)
    return margins(model, samples, noise, generator)


def leaves_eval_mode(model, samples, noise, generator):
    model.eval()
    return margins(model, samples, noise, generator)


FAULTY = {
    returns_a_number: "check_fields",
    leaves_a_field_out: "check_fields",
    is_not_a_number: "check_fields",
    is_off_by_a_little: "check_known_answers",
    draws_globally: "check_repeatable",
    words_are_random: "check_repeatable",
    has_a_seed_of_its_own: "check_repeatable",
    seeds_globally: "check_global_random_state",
    leaves_eval_mode: "check_arguments_unmodified",
}


def caught(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def test_the_sound_experiment_passes_every_check():
    report = check_experiment(margins, ARGUMENTS, null=margins, baseline=margins, **FACTS)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values(), "check_null"}
    assert {result.name for result in report.results} == {law.__name__ for law in experiment.EXPERIMENT_LAWS}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = check_experiment(faulty, ARGUMENTS, **FACTS)
    assert FAULTY[faulty] in caught(report), str(report)
    assert all(result.reason and result.remedy for result in report.failures)


def test_a_null_setting_that_differs_is_caught():
    report = check_experiment(margins, ARGUMENTS, null=is_off_by_a_little, baseline=margins)
    assert caught(report) == {"check_null"}


def test_what_is_not_random_takes_no_generator():
    report = check_experiment(lambda x: {"twice": 2 * x}, {"x": 3.0}, fields=("twice",), random=False)
    assert report.passed, str(report)


def test_lists_mappings_and_arrays_that_are_modified_are_seen():
    def appends(xs):
        xs.append(1.0)
        return {"n": len(xs)}

    def writes(table):
        table["k"] = 5
        return {"n": 1}

    def adds(x):
        x += 1
        return {"n": 1}

    for faulty, given in ((appends, {"xs": [0.0]}), (writes, {"table": {"k": 1}}), (adds, {"x": np.zeros(2)})):
        report = check_experiment(faulty, given, random=False)
        assert "check_arguments_unmodified" in caught(report), str(report)


def test_numbers_of_arrays_are_looked_at_and_texts_can_be_known():
    report = check_experiment(lambda: {"x": np.array([1.0, np.nan])}, {}, random=False)
    assert caught(report) == {"check_fields"}
    said = (({}, {"words": "ten"}),)
    assert check_experiment(lambda: {"words": "ten"}, {}, known=said, random=False).passed
    report = check_experiment(lambda: {"words": "nine"}, {}, known=said, random=False)
    assert caught(report) == {"check_known_answers"}


def test_an_experiment_with_a_generator_is_told_its_own_fault():
    report = check_object("experiment", f"{__name__}:coin_of_its_own")
    assert caught(report) == {"check_repeatable", "check_global_random_state"}


def coin_of_its_own(generator):
    return {"heads": torch.rand(1).item()}


def test_a_bad_value_reaches_the_experiment():
    subject = ExperimentSubject(make=margins, arguments=ARGUMENTS)
    with pytest.raises(RuntimeError, match="negative"):
        subject.use(samples=-1)
