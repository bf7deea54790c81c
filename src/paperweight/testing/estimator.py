"""Checks of the kind "estimator": scikit-learn's own, and that it composes with the rest of scikit-learn."""

import contextlib
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import joblib
import numpy as np

from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks

__all__ = [
    "ESTIMATOR_LAWS",
    "EstimatorSubject",
    "check_composes",
    "check_data_unmodified",
    "check_estimator",
    "check_global_random_state",
    "check_null",
    "check_repeatable",
    "check_scikit_learn",
    "estimator_checks",
]

Array = np.ndarray[Any, np.dtype[Any]]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatorSubject(Subject):
    """What the test of an estimator declares; ``make`` takes its keywords and gives it, ``random_state`` fixed.

    Args:
        grid: An argument to values among which a search chooses, all valid on 30 samples of 3 features in 3 groups.
        unmet: Name of one of scikit-learn's checks to the reason why the estimator does not pass it.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> subject = EstimatorSubject(make=lambda: KMeans(3, random_state=0), grid={"n_clusters": (2, 3)})
        >>> len(subject.use().labels_)
        30
    """

    grid: Mapping[str, tuple[Any, ...]]
    unmet: Mapping[str, str] = field(default_factory=dict)

    def use(self, **given: Any) -> object:
        """Make the estimator with these keywords and fit it."""
        estimator = self.make(**given)
        with seeded(0):
            return estimator.fit(*_toy())


def _toy() -> tuple[Array, Array]:
    """Give 30 samples of 3 features in 3 groups, and the number of the group of each."""
    draws = np.random.default_rng(0)
    groups = np.arange(30) % 3
    return 4 * np.eye(3)[groups] + 0.3 * draws.standard_normal((30, 3)), groups


def _learned(estimator: Any) -> dict[str, str | None]:
    """Give hashes of what fitting has set: attributes whose names end in an underscore."""
    if estimator is None:
        raise CheckFailure("fit returns nothing", "return self")
    found = {name: value for name, value in vars(estimator).items() if name.endswith("_") and not name.startswith("_")}
    return {name: joblib.hash(value) for name, value in found.items()}


def check_scikit_learn(subject: EstimatorSubject) -> None:
    """Check that it passes scikit-learn's own ``check_estimator``, but for what is declared, which must fail.

    Args:
        subject: What is declared of the estimator.

    Raises:
        CheckFailure: If one of scikit-learn's checks fails, or one that is declared as unmet passes or does not exist.

    Example:
        >>> from sklearn.naive_bayes import GaussianNB
        >>> check_scikit_learn(EstimatorSubject(make=GaussianNB, grid={"var_smoothing": (1e-9, 1e-3)}))
    """
    from sklearn.utils.estimator_checks import check_estimator as of_scikit_learn

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), seeded(0):
        warnings.simplefilter("ignore")
        results = of_scikit_learn(
            subject.make(), expected_failed_checks=dict(subject.unmet), on_skip=None, on_fail=None
        )
    statuses: dict[str, set[str]] = {}
    for result in results:
        statuses.setdefault(result["check_name"], set()).add(result["status"])
        if result["status"] == "failed":
            error = result["exception"]
            raise CheckFailure(
                f"scikit-learn's {result['check_name']} fails: {type(error).__name__}: {error}",
                "follow scikit-learn's guide for developers, or declare the reason as unmet",
            )
    for name in subject.unmet:
        if statuses.get(name) != {"xfail"}:
            seen = " and ".join(sorted(statuses.get(name, {"not run"})))
            raise CheckFailure(f"scikit-learn's {name} is declared as unmet, but {seen}", "delete what is declared")


def check_composes(subject: EstimatorSubject) -> None:
    """Check that it can be cloned, stands at the end of a ``Pipeline`` and is chosen by a ``GridSearchCV``.

    Args:
        subject: What is declared of the estimator.

    Raises:
        CheckFailure: If a clone has other arguments, or the search does not choose among the grid.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> check_composes(EstimatorSubject(make=lambda: KMeans(random_state=0), grid={"n_clusters": (2, 3)}))
    """
    from sklearn.base import clone
    from sklearn.exceptions import FitFailedWarning
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    estimator = subject.make()
    copied: Any = clone(estimator)
    if repr(copied.get_params()) != repr(estimator.get_params()):
        raise CheckFailure("a clone has other arguments", "keep the arguments of the constructor unchanged")
    samples, groups = _toy()
    pipeline = Pipeline([("scale", StandardScaler()), ("last", copied)])
    grid = {f"last__{name}": list(values) for name, values in subject.grid.items()}
    scoring = None if hasattr(estimator, "score") else lambda *_: 0.0
    search: Any = GridSearchCV(pipeline, grid, cv=3, scoring=scoring)
    with seeded(0), warnings.catch_warnings():
        warnings.simplefilter("error", FitFailedWarning)
        search.fit(samples, groups)
    for name, value in search.best_params_.items():
        if value not in grid[name] or search.best_estimator_.get_params()[name] != value:
            raise CheckFailure(f"the search chose {name}={value}", "let set_params change what fit uses")


def check_repeatable(subject: EstimatorSubject) -> None:
    """Check that the same ``random_state`` gives the same bits, whatever the global random state.

    Args:
        subject: What is declared of the estimator.

    Raises:
        CheckFailure: If two fits learn different things, or nothing.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> make = lambda: KMeans(3, n_init=1, random_state=0)
        >>> check_repeatable(EstimatorSubject(make=make, grid={"n_clusters": (2, 3)}))
    """
    learned = []
    for seed in (0, 1):
        with seeded(seed):
            learned.append(_learned(subject.make().fit(*_toy())))
    if not learned[0]:
        raise CheckFailure("fitting sets no attribute whose name ends in an underscore", "keep what is learned there")
    if learned[0] != learned[1]:
        raise CheckFailure("two fits to the same data differ", "draw only from random_state")


def check_global_random_state(subject: EstimatorSubject) -> None:
    """Check that fitting leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the estimator.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> make = lambda: KMeans(3, n_init=1, random_state=0)
        >>> check_global_random_state(EstimatorSubject(make=make, grid={"n_clusters": (2, 3)}))
    """
    estimator, data = subject.make(), _toy()
    if changed := changed_random_states(lambda: estimator.fit(*data)):
        raise CheckFailure(f"the random state of {', '.join(changed)} changed", "draw from random_state")


def check_data_unmodified(subject: EstimatorSubject) -> None:
    """Check that fitting leaves the data as they were.

    Args:
        subject: What is declared of the estimator.

    Raises:
        CheckFailure: If they changed.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> check_data_unmodified(EstimatorSubject(make=lambda: KMeans(n_init=1), grid={"n_clusters": (2, 3)}))
    """
    given = _toy()
    with seeded(0):
        subject.make().fit(*given)
    if not all(np.array_equal(now, before) for now, before in zip(given, _toy(), strict=True)):
        raise CheckFailure("fitting modifies the data", "work on a copy")


def check_null(subject: EstimatorSubject) -> None:
    """Check that at its null setting it learns what its baseline learns, bit for bit, in what both keep.

    Args:
        subject: What is declared of the estimator, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If what they learn differs, or they keep nothing under the same name.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> make = lambda: KMeans(3, n_init=1, random_state=0)
        >>> check_null(EstimatorSubject(make=make, null=make, baseline=make, grid={"n_clusters": (2, 3)}))
    """
    learned = []
    for make in (subject.null, subject.baseline):
        if make is not None:
            with seeded(0):
                learned.append(_learned(make().fit(*_toy())))
    null, baseline = learned
    shared = sorted(null.keys() & baseline.keys() - {"n_features_in_"})
    if not shared:
        raise CheckFailure("the two keep nothing under the same name", "name what is learned as the baseline does")
    for name in shared:
        if null[name] != baseline[name]:
            raise CheckFailure(
                f"at the null setting {name} differs from the baseline's",
                "at the null setting take the baseline's operations in the baseline's order",
            )


ESTIMATOR_LAWS: Laws[EstimatorSubject] = {
    check_scikit_learn: always,
    check_composes: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_data_unmodified: always,
    check_null: declares_null,
}


def estimator_checks(subject: EstimatorSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "estimator".

    Args:
        subject: What the test of the estimator declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> list(estimator_checks(EstimatorSubject(make=KMeans, grid={"n_clusters": (2, 3)})))[0]
        'check_scikit_learn'
    """
    return selected(ESTIMATOR_LAWS, subject)


def check_estimator(
    make: Callable[..., Any],
    grid: Mapping[str, tuple[Any, ...]],
    *,
    unmet: Mapping[str, str] | None = None,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "estimator".

    Args:
        make: Makes the estimator, with a fixed ``random_state`` if it is random.
        grid: An argument to values among which a search chooses, all valid on 30 samples of 3 features in 3 groups.
        unmet: Name of one of scikit-learn's checks to the reason why the estimator does not pass it.
        null: Makes it at its null setting. Left out where there is none.
        baseline: Makes what ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> from sklearn.naive_bayes import GaussianNB
        >>> check_estimator(GaussianNB, {"var_smoothing": (1e-9, 1e-3)}).passed
        True
    """
    subject = EstimatorSubject(make=make, grid=grid, unmet=unmet or {}, null=null, baseline=baseline)
    return run_checks(estimator_checks(subject))
