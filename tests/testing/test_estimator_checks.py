"""The estimator checks catch faulty estimators, each by the check that is meant to."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from paperweight.testing import CheckReport, EstimatorSubject, check_estimator
from paperweight.testing.estimator import ESTIMATOR_LAWS, check_scikit_learn

GRID = {"leaders": (2, 3)}


class Leaders(BaseEstimator):
    """A sound estimator, samples drawn as centres, whose parts the faulty ones replace."""

    def __init__(self, leaders=2, random_state=None):
        self.leaders = leaders
        self.random_state = random_state

    def fit(self, X, y=None):
        X = validate_data(self, X)
        drawn = self.draws(check_random_state(self.random_state), len(X))
        self.cluster_centers_ = X[drawn[: self.count()]]
        self.labels_ = self._nearest(X)
        return self

    def draws(self, random, samples):
        return random.permutation(samples)

    def count(self):
        return self.leaders

    def predict(self, X):
        check_is_fitted(self)
        return self._nearest(validate_data(self, X, reset=False))

    def _nearest(self, X):
        return ((X[:, None] - self.cluster_centers_[None]) ** 2).sum(2).argmin(1)


class DoesNotValidate(Leaders):
    def predict(self, X):
        return self._nearest(np.asarray(X))


class ChangesItsArgument(Leaders):
    def __init__(self, leaders=2, random_state=None):
        super().__init__(leaders + 0.0, random_state)

    def count(self):
        return int(self.leaders)


class DrawsGlobally(Leaders):
    def draws(self, random, samples):
        return np.random.permutation(samples)


class SeedsTorch(Leaders):
    def fit(self, X, y=None):
        torch.manual_seed(0)
        return super().fit(X, y)


class CentresTheData(Leaders):
    def fit(self, X, y=None):
        X = np.asarray(X)
        if X.dtype == np.float64 and X.flags.writeable and X.ndim == 2:
            X -= X.mean(axis=0)
        return super().fit(X, y)


class KeepsNothing(Leaders):
    def fit(self, X, y=None):
        self._centres = np.asarray(X)[: self.leaders]
        return self


FAULTY = {
    DoesNotValidate: "check_scikit_learn",
    ChangesItsArgument: "check_composes",
    DrawsGlobally: "check_repeatable",
    KeepsNothing: "check_repeatable",
    SeedsTorch: "check_global_random_state",
    CentresTheData: "check_data_unmodified",
}


def caught(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def sound():
    return Leaders(random_state=0)


def test_the_sound_estimator_passes_every_check():
    report = check_estimator(sound, GRID, null=sound, baseline=sound)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {law.__name__ for law in ESTIMATOR_LAWS}
    assert {*FAULTY.values(), "check_null"} == {law.__name__ for law in ESTIMATOR_LAWS}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = check_estimator(lambda: faulty(random_state=0), GRID)
    assert FAULTY[faulty] in caught(report), str(report)
    assert all(result.reason and result.remedy for result in report.failures)


class LearnsMore(Leaders):
    def fit(self, X, y=None):
        super().fit(X, y)
        self.kind_ = "leaders"
        self.inner_ = Leaders(random_state=self.random_state).fit(X)
        return self


class ReturnsNothing(Leaders):
    def fit(self, X, y=None):
        super().fit(X, y)


def test_texts_and_estimators_may_be_learned_and_nothing_is_said_to_be_returned():
    def make():
        return LearnsMore(random_state=0)

    report = check_estimator(make, GRID, null=make, baseline=make)
    assert report.passed, str(report)
    report = check_estimator(lambda: ReturnsNothing(random_state=0), GRID)
    reasons = {result.name: result.reason for result in report.failures}
    assert reasons["check_repeatable"] == "fit returns nothing"


def test_a_null_setting_that_differs_is_caught():
    report = check_estimator(sound, GRID, null=lambda: Leaders(random_state=1), baseline=sound)
    assert caught(report) == {"check_null"}


def test_what_is_declared_as_unmet_must_fail():
    subject = EstimatorSubject(make=lambda: DoesNotValidate(random_state=0), grid=GRID)
    report = check_estimator(subject.make, GRID)
    (first,) = [result for result in report.failures if result.name == "check_scikit_learn"]
    unmet = {}
    while not (report := check_estimator(subject.make, GRID, unmet=unmet)).passed:
        (failure,) = [result for result in report.failures if result.name == "check_scikit_learn"]
        name = failure.reason.split("scikit-learn's ")[1].split(" fails")[0]
        assert name not in unmet
        unmet[name] = "predict takes whatever it is given"
    assert unmet
    assert next(iter(unmet)) in first.reason
    with pytest.raises(Exception, match=r"check_estimators_dtypes is declared as unmet, but passed"):
        check_scikit_learn(EstimatorSubject(make=sound, grid=GRID, unmet={"check_estimators_dtypes": "no reason"}))
    with pytest.raises(Exception, match=r"check_nothing is declared as unmet, but not run"):
        check_scikit_learn(EstimatorSubject(make=sound, grid=GRID, unmet={"check_nothing": "no reason"}))
