"""Checks of the kind "experiment", which measures something and returns a record."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, final

import numpy as np
import torch

from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import changed_facts, close, identical, map_leaves, snapshot

__all__ = [
    "EXPERIMENT_LAWS",
    "ExperimentSubject",
    "check_arguments_unmodified",
    "check_experiment",
    "check_fields",
    "check_global_random_state",
    "check_known_answers",
    "check_null",
    "check_repeatable",
    "experiment_checks",
]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentSubject(Subject):
    """What the test of an experiment declares; ``make``, ``null`` and ``baseline`` are experiments.

    Args:
        arguments: Valid arguments by name, the generator left out; all three experiments take them.
        fields: The documented fields of the record; left out, any are accepted.
        known: Pairs of arguments that differ in a degenerate setting, and the values of fields that it must give.
        random: Whether it takes a ``generator``.
        tolerance: Largest error of a known value, relative or absolute.

    Example:
        >>> def thrown(throws, generator):
        ...     return {"mean": torch.rand(throws, generator=generator).mean().item()}
        >>> 0 < ExperimentSubject(make=thrown, arguments={"throws": 3}).use()["mean"] < 1
        True
    """

    arguments: Mapping[str, Any]
    fields: tuple[str, ...] | None = None
    known: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = ()
    random: bool = True
    tolerance: float = 1e-6

    def use(self, **given: Any) -> object:
        """Run it with these arguments, valid ones for the rest."""
        return _run(self, self.make, given)


def _run(subject: ExperimentSubject, experiment: Callable[..., Any], changes: Mapping[str, Any], seed: int = 0) -> Any:
    arguments = {**copy.deepcopy(dict(subject.arguments)), **changes}
    if subject.random and "generator" not in arguments:
        arguments["generator"] = torch.Generator().manual_seed(seed)
    with seeded(0):
        return experiment(**arguments)


def _record(result: Any) -> dict[str, Any]:
    if is_dataclass(result) and not isinstance(result, type):
        return {field.name: getattr(result, field.name) for field in fields(result)}
    if isinstance(result, Mapping):
        return dict(result)
    raise CheckFailure(f"it returns {type(result).__name__}", "return a dataclass, or a mapping with names as keys")


def _same(first: Any, second: Any) -> bool:
    """Say whether two records are equal bit for bit, texts included."""

    def comparable(value: Any) -> Any:
        return map_leaves(lambda leaf: list(leaf.encode()) if isinstance(leaf, str) else leaf, value)

    return identical(comparable(first), comparable(second))


def _numbers(value: Any) -> list[float]:
    numbers: list[float] = []

    def add(leaf: Any) -> None:
        if isinstance(leaf, np.ndarray | np.generic) and np.issubdtype(leaf.dtype, np.number):
            numbers.extend(np.abs(np.asarray(leaf)).astype(np.float64).ravel().tolist())
        elif isinstance(leaf, torch.Tensor | int | float | complex):
            flat = torch.as_tensor(leaf).flatten()
            numbers.extend((flat.abs() if flat.is_complex() else flat.to(torch.float64)).tolist())

    map_leaves(add, value)
    return numbers


def check_fields(subject: ExperimentSubject) -> None:
    """Check that the record has the documented fields and no others, and that its numbers are finite.

    Args:
        subject: What is declared of the experiment.

    Raises:
        CheckFailure: If it has others, or a number is not finite.

    Example:
        >>> one = ExperimentSubject(make=lambda: {"one": 1.0}, arguments={}, fields=("one",), random=False)
        >>> check_fields(one)
    """
    record = _record(subject.use())
    if subject.fields is not None and set(record) != set(subject.fields):
        raise CheckFailure(
            f"the record has {', '.join(map(str, record)) or 'no field'}, documented are {', '.join(subject.fields)}",
            "return what is documented",
        )
    for name, value in record.items():
        if not all(math.isfinite(number) for number in _numbers(value)):
            raise CheckFailure(f"{name} is {value}", "return finite numbers, or leave a field out of the record")


def check_known_answers(subject: ExperimentSubject) -> None:
    """Check that degenerate settings whose answer is known give it.

    Args:
        subject: What is declared of the experiment, with known answers.

    Raises:
        CheckFailure: If one gives another, or leaves the field out.

    Example:
        >>> def double(x):
        ...     return {"twice": 2 * x}
        >>> known = (({"x": 0}, {"twice": 0}),)
        >>> check_known_answers(ExperimentSubject(make=double, arguments={"x": 1}, known=known, random=False))
    """
    for changes, answers in subject.known:
        record = _record(_run(subject, subject.make, changes))
        for name, answer in answers.items():
            if name not in record:
                raise CheckFailure(f"the record has no {name}", "return what is documented")
            found = record[name]
            equal = found == answer if isinstance(answer, str) else close(found, answer, subject.tolerance)
            if not equal:
                settings = ", ".join(f"{argument}={value!r}" for argument, value in changes.items())
                raise CheckFailure(f"{name} is {record[name]} and not {answer} at {settings}", "compute it by hand")


def check_repeatable(subject: ExperimentSubject) -> None:
    """Check that the same generator gives the same bits, whatever the global random state, and another one others.

    Args:
        subject: What is declared of the experiment.

    Raises:
        CheckFailure: If two runs with the same seed differ, or, of a random one, two with different seeds do not.

    Example:
        >>> check_repeatable(ExperimentSubject(make=lambda: {"one": 1.0}, arguments={}, random=False))
    """
    records = []
    for seed in (0, 1):
        arguments = copy.deepcopy(dict(subject.arguments))
        if subject.random:
            arguments["generator"] = torch.Generator().manual_seed(0)
        with seeded(seed):
            records.append(_record(subject.make(**arguments)))
    if not _same(*records):
        raise CheckFailure("two runs with the same arguments differ", "draw only from a generator that is an argument")
    if subject.random and _same(records[0], _record(_run(subject, subject.make, {}, seed=1))):
        raise CheckFailure("another generator gives the same", "draw from it, or do not ask for it")


def check_global_random_state(subject: ExperimentSubject) -> None:
    """Check that a run leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the experiment.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_global_random_state(ExperimentSubject(make=lambda: {"one": 1.0}, arguments={}, random=False))
    """
    arguments = copy.deepcopy(dict(subject.arguments))
    if subject.random:
        arguments["generator"] = torch.Generator().manual_seed(0)
    if changed := changed_random_states(lambda: subject.make(**arguments)):
        raise CheckFailure(f"the random state of {', '.join(changed)} changed", "draw from an explicit generator")


def check_arguments_unmodified(subject: ExperimentSubject) -> None:
    """Check that a run leaves its arguments as they were; of a network also mode, gradients and hooks.

    Args:
        subject: What is declared of the experiment.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_arguments_unmodified(ExperimentSubject(make=lambda: {"one": 1.0}, arguments={}, random=False))
    """
    given = copy.deepcopy(dict(subject.arguments))
    before, contents = snapshot(given), _contents(given)
    _run(subject, subject.make, given)
    changed = [*changed_facts(before, snapshot(given))]
    changed += [name for name, held in _contents(given).items() if held != contents[name]]
    if changed:
        raise CheckFailure(f"the run modifies {', '.join(changed)}", "work on a copy, and put back what you set")


def _contents(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Give what lists, mappings and arrays among arguments hold, but for tensors and networks."""

    def held(leaf: Any) -> object:
        if isinstance(leaf, np.ndarray):
            return leaf.tobytes()
        return repr(leaf) if isinstance(leaf, str | int | float | complex | np.generic | None) else type(leaf)

    return {name: map_leaves(held, value) for name, value in arguments.items()}


def check_null(subject: ExperimentSubject) -> None:
    """Check that at its null setting it finds what its baseline finds, bit for bit.

    Args:
        subject: What is declared of the experiment, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If the records differ.

    Example:
        >>> def one():
        ...     return {"one": 1.0}
        >>> check_null(ExperimentSubject(make=one, null=one, baseline=one, arguments={}, random=False))
    """
    null, baseline = (
        _record(_run(subject, experiment, {})) for experiment in (subject.null, subject.baseline) if experiment
    )
    if not _same(null, baseline):
        raise CheckFailure(
            "at the null setting the record differs from the baseline's",
            "at the null setting take the baseline's operations in the baseline's order",
        )


EXPERIMENT_LAWS: Laws[ExperimentSubject] = {
    check_fields: always,
    check_known_answers: lambda subject: bool(subject.known),
    check_repeatable: always,
    check_global_random_state: always,
    check_arguments_unmodified: always,
    check_null: declares_null,
}


def experiment_checks(subject: ExperimentSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "experiment".

    Args:
        subject: What the test of the experiment declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> list(experiment_checks(ExperimentSubject(make=lambda: {"one": 1.0}, arguments={}, random=False)))[:2]
        ['check_fields', 'check_repeatable']
    """
    return selected(EXPERIMENT_LAWS, subject)


def check_experiment(
    experiment: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    fields: tuple[str, ...] | None = None,
    known: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = (),
    random: bool = True,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "experiment".

    Args:
        experiment: What is run.
        arguments: Valid arguments by name, the generator left out.
        fields: The documented fields of the record; left out, any are accepted.
        known: Pairs of arguments that differ in a degenerate setting, and the values of fields that it must give.
        random: Whether it takes a ``generator``.
        null: The experiment at its null setting. Left out where there is none.
        baseline: What ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> def coin(throws, generator):
        ...     return {"heads": torch.rand(throws, generator=generator).mean().item()}
        >>> check_experiment(coin, {"throws": 10}, fields=("heads",)).passed
        True
    """
    subject = ExperimentSubject(
        make=experiment, arguments=arguments, fields=fields, known=known, random=random, null=null, baseline=baseline
    )
    return run_checks(experiment_checks(subject))
