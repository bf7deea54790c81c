"""The checks of a kind on an object of a stranger, with the facts that a command line or a subject can give."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paperweight.catalogue import load_named, load_object
from paperweight.errors import InputError
from paperweight.testing.attack import AttackSubject
from paperweight.testing.compressor import CompressorSubject
from paperweight.testing.contract import KIND_CHECKS
from paperweight.testing.data_transform import DataTransformSubject
from paperweight.testing.defense import DefenseSubject
from paperweight.testing.estimator import EstimatorSubject
from paperweight.testing.experiment import ExperimentSubject
from paperweight.testing.function import FunctionSubject
from paperweight.testing.layer import LayerSubject
from paperweight.testing.loss import LossSubject
from paperweight.testing.metric import MetricSubject
from paperweight.testing.optimizer import OptimizerSubject
from paperweight.testing.report import CheckReport, Subject, run_check, run_checks
from paperweight.testing.sampler import SamplerSubject
from paperweight.testing.schedule import ScheduleSubject
from paperweight.testing.training_procedure import TrainingProcedureSubject
from paperweight.testing.unlearner import UnlearnerSubject

__all__ = ["check_object"]

Inputs = tuple[Tensor, ...]

_MOST_NUMBERS = 10_000_000
_MOST_DIMENSIONS = 16


def _accepts(call: Callable[..., Any], *arguments: object) -> bool:
    try:
        inspect.signature(call).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return bool(arguments)  # a built-in function that does not tell its signature
    return True


def _maker(call: Callable[..., Any], inputs: Inputs, *arguments: object) -> Callable[..., Any]:
    """Take a class or function that makes the object, or what the inputs are given to."""
    if _accepts(call, *arguments):
        return call
    if not arguments and inputs and not inspect.isclass(call) and _accepts(call, *inputs):
        return partial(partial, call)
    needed = f"with {' and '.join(map(str, arguments))} alone" if arguments else "without arguments"
    raise InputError(
        f"name must be of something that can be called {needed}, got {getattr(call, '__name__', call)!r}; "
        "write a function that gives the other arguments, and name that"
    )


def _schedule(call: Callable[..., Any], inputs: Inputs) -> Subject:
    return ScheduleSubject(make=_maker(call, (), "an optimizer"), values={})


def _layer(call: Callable[..., Any], inputs: Inputs) -> Subject:
    try:
        return LayerSubject(make=_maker(call, ()), inputs=inputs, shape=None, parameter_count=None)
    except ValueError as error:
        raise InputError(f"{error}; give a larger batch") from error


def _loss(call: Callable[..., Any], inputs: Inputs) -> Subject:
    return LossSubject(make=_maker(call, inputs), inputs=inputs, slow=None)


def _metric(call: Callable[..., Any], inputs: Inputs) -> Subject:
    return MetricSubject(make=_maker(call, inputs), inputs=inputs, known=(), range=(-math.inf, math.inf))


def _function(call: Callable[..., Any], inputs: Inputs) -> Subject:
    if not _accepts(call, *inputs):
        raise InputError(f"name must be of a function of {len(inputs)} arguments; give one --input for each")
    names = (f"argument {index}" for index in range(len(inputs)))
    return FunctionSubject(make=lambda **given: call(*given.values()), arguments=dict(zip(names, inputs, strict=True)))


def _called_with(call: Callable[..., Any], *arguments: str) -> tuple[Callable[..., Any], bool]:
    """Take what makes the object or is it; give what makes it, and whether its call takes a generator."""
    make = call if _accepts(call) else partial(partial, call)
    try:
        made = make()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"name must be of what can be called without arguments, {getattr(call, '__name__', call)!r} fails: "
            f"{type(error).__name__}: {error}; mend it"
        ) from error
    if not callable(made) or not _accepts(made, *arguments):
        raise InputError(
            f"name must be of what is called as ({', '.join(arguments)}), or makes that without arguments, "
            f"got {getattr(call, '__name__', call)!r}; write a function that gives the other arguments, and name that"
        )
    return make, _takes_generator(made)


def _takes_generator(call: Callable[..., Any]) -> bool:
    return "generator" in inspect.signature(call).parameters


def _attack(call: Callable[..., Any], inputs: Inputs) -> Subject:
    make, random = _called_with(call, "model", "inputs", "labels")
    return AttackSubject(make=make, norm=math.inf, radius=None, random=random)


def _defense(call: Callable[..., Any], inputs: Inputs) -> Subject:
    return DefenseSubject(make=_maker(call, (), "a model"), random=_takes_generator(call))


def _unlearner(call: Callable[..., Any], inputs: Inputs) -> Subject:
    make, random = _called_with(call, "model", "forget", "retain")
    return UnlearnerSubject(make=make, random=random)


def _sampler(call: Callable[..., Any], inputs: Inputs) -> Subject:
    make, random = _called_with(call, "network", "noise")
    return SamplerSubject(
        make=make, network=lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma), calls=1, random=random
    )


def _compressor(call: Callable[..., Any], inputs: Inputs) -> Subject:
    make, random = _called_with(call, "model")
    return CompressorSubject(make=make, budget=lambda model: math.inf, random=random)


def _training_procedure(call: Callable[..., Any], inputs: Inputs) -> Subject:
    random = _takes_generator(call)
    if "data" in inspect.signature(call).parameters:
        return TrainingProcedureSubject(make=call, evaluations=0, random=random)
    alone = _maker(call, (), "a model")
    return TrainingProcedureSubject(
        make=lambda model, data, **generator: alone(model, **generator), evaluations=0, random=random
    )


def _data_transform(call: Callable[..., Any], inputs: Inputs) -> Subject:
    make, random = _called_with(call, "inputs", "labels")
    return DataTransformSubject(make=make, range=(-math.inf, math.inf), labels=None, random=random)


def _experiment(call: Callable[..., Any], inputs: Inputs) -> Subject:
    random = _takes_generator(call)
    if not _accepts(partial(call, generator=None) if random else call):
        raise InputError(
            f"name must be of what can be called without arguments, or with a generator alone, got "
            f"{getattr(call, '__name__', call)!r}; write a function that gives the other arguments, and name that"
        )
    return ExperimentSubject(make=call, arguments={}, random=random)


def _estimator(call: Callable[..., Any], inputs: Inputs) -> Subject:
    return EstimatorSubject(make=_maker(call, ()), grid={})


_WITHOUT_INPUTS: Mapping[str, Callable[[Callable[..., Any], Inputs], Subject]] = {
    "optimizer": lambda call, inputs: OptimizerSubject(make=call),
    "schedule": _schedule,
    "attack": _attack,
    "defense": _defense,
    "unlearner": _unlearner,
    "sampler": _sampler,
    "compressor": _compressor,
    "training-procedure": _training_procedure,
    "data-transform": _data_transform,
    "experiment": _experiment,
    "estimator": _estimator,
}
_WITH_INPUTS: Mapping[str, Callable[[Callable[..., Any], Inputs], Subject]] = {
    "layer": _layer,
    "network": _layer,
    "loss": _loss,
    "regularizer": _loss,
    "metric": _metric,
    "function": _function,
}
_SUBJECTS: Mapping[str, type[Subject]] = {
    "optimizer": OptimizerSubject,
    "schedule": ScheduleSubject,
    "layer": LayerSubject,
    "network": LayerSubject,
    "loss": LossSubject,
    "regularizer": LossSubject,
    "metric": MetricSubject,
    "function": FunctionSubject,
    "attack": AttackSubject,
    "defense": DefenseSubject,
    "unlearner": UnlearnerSubject,
    "sampler": SamplerSubject,
    "compressor": CompressorSubject,
    "training-procedure": TrainingProcedureSubject,
    "data-transform": DataTransformSubject,
    "experiment": ExperimentSubject,
    "estimator": EstimatorSubject,
}
_NEED_FACTS: Mapping[str, frozenset[str]] = {
    "attack": frozenset({"check_optimum_on_linear_model"}),
    "sampler": frozenset({"check_gaussian_moments", "check_network_calls"}),
    "compressor": frozenset({"check_budget", "check_reported_size"}),
    "training-procedure": frozenset({"check_gradient_evaluations"}),
    "data-transform": frozenset({"check_length_and_shape", "check_range"}),
}


def _tensor(words: str, seed: int) -> Tensor:
    """Read ``8x5`` as normal numbers of that shape and ``8x5:10`` as whole numbers below 10."""
    if not re.fullmatch(r"[1-9][0-9]{0,15}(x[1-9][0-9]{0,15})*(:[1-9][0-9]{0,15})?", words):
        raise InputError(f"input must be a shape such as 8x5, or 8:10 for whole numbers from 0 to 9; got {words!r}")
    sizes, _, classes = words.partition(":")
    shape = [int(size) for size in sizes.split("x")]
    if math.prod(shape) > _MOST_NUMBERS or len(shape) > _MOST_DIMENSIONS:
        raise InputError(
            f"input must hold at most {_MOST_NUMBERS:,} numbers in {_MOST_DIMENSIONS} dimensions, got {words!r}; "
            "give a smaller shape"
        )
    generator = torch.Generator().manual_seed(seed)
    if classes:
        return torch.randint(int(classes), shape, generator=generator)
    return torch.randn(shape, generator=generator)


def check_object(kind: str, name: str, *, inputs: Sequence[str] = ()) -> CheckReport:
    """Run the checks of a kind on an object that is named, those that need no fact that only its author knows.

    Left out are the documented shape, number of parameters and values, slow forms and null settings, the optimum of an
    attack, the moments and calls of a sampler, budgets, ranges and numbers of gradients. Name a subject that tells
    them, such as an `AttackSubject`, in place of the object, and these are checked, too.

    Args:
        kind: What it is, one of `paperweight.catalogue.KINDS`.
        name: Where it is, as ``package.module:name``: a class or function that makes it, or its subject. An optimizer
            is made from parameters and ``lr``, a schedule from an optimizer, a defense from a classifier, a training
            procedure from a model, or from a model and data, the others without arguments. All but these may also be
            named themselves if they are functions. Of a mapping, such as the ``CONTRACT`` of a test, every subject of
            the kind is checked.
        inputs: What a layer, network, loss, regularizer, metric or function is called with, one word an argument:
            ``8x5`` is a tensor of that shape of normal numbers, ``8:10`` one of whole numbers from 0 to 9. The first
            dimension is the batch.

    Returns:
        One result a check: a law that asks for what the object refuses in its own words, does not apply.

    Raises:
        InputError: If the kind is unknown or needs inputs, the name cannot be imported or not be called so, it is of a
            subject of another kind, or an input is no shape.

    Example:
        >>> check_object("loss", "torch.nn:CrossEntropyLoss", inputs=["8x5", "8:5"]).passed
        True
    """
    if kind not in _SUBJECTS:
        raise InputError(f"kind must be one of {', '.join(_SUBJECTS)}; got {kind!r}")
    if kind in _WITHOUT_INPUTS and inputs:
        raise InputError(f"kind {kind} takes no --input, got {' '.join(inputs)}; leave it out")
    named = load_named(name, "name")
    if isinstance(named, Mapping):
        reports = [_check_subject(kind, each, inputs) for each in named.values() if isinstance(each, _SUBJECTS[kind])]
        if not reports:
            raise InputError(f"name must be of a mapping that holds a {_SUBJECTS[kind].__name__}, got {name!r} without")
        return CheckReport(tuple(result for report in reports for result in report.results))
    if isinstance(named, Subject):
        return _check_subject(kind, named, inputs)
    if kind in _WITH_INPUTS and not inputs:
        raise InputError(
            f"kind {kind} needs --input, one for each argument that it is called with; for example --input 8x5"
        )
    call = load_object(name, "name")
    tensors = tuple(_tensor(words, seed) for seed, words in enumerate(inputs))
    make_subject = _WITH_INPUTS[kind] if kind in _WITH_INPUTS else _WITHOUT_INPUTS[kind]
    checks = _checks(kind, make_subject(call, tensors))
    return _run({name: check for name, check in checks.items() if name not in _NEED_FACTS.get(kind, ())})


def _run(checks: Mapping[str, Callable[[], None]]) -> CheckReport:
    """Run the checks; an object that ends the program breaks the law that it was checked against."""

    def going_on(check: Callable[[], None]) -> None:
        try:
            check()
        except SystemExit as stop:
            raise RuntimeError(f"it ended the program with status {stop.code}") from stop

    return run_checks({name: partial(going_on, check) for name, check in checks.items()})


def _checks(kind: str, subject: Subject) -> dict[str, Callable[[], None]]:
    """List the checks; what takes a generator but gives the same with every one counts as not random."""
    checks = KIND_CHECKS[kind](subject)
    takes = isinstance(subject, ExperimentSubject)  # a generator, without which it cannot be called
    if not takes and getattr(subject, "random", False) and not run_check("", checks["check_repeatable"]).passed:
        return KIND_CHECKS[kind](replace(subject, **{"random": False}))
    return checks


def _check_subject(kind: str, subject: Subject, inputs: Sequence[str]) -> CheckReport:
    if not isinstance(subject, _SUBJECTS[kind]):
        raise InputError(f"name must be of a {_SUBJECTS[kind].__name__} or of a {kind}, got a {type(subject).__name__}")
    if inputs:
        raise InputError(f"a subject tells its inputs itself, got --input {' '.join(inputs)}; leave it out")
    return _run(KIND_CHECKS[kind](subject))
