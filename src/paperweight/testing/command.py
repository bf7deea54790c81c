"""The checks of a kind on an object of a stranger, with facts that a command line can give."""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paperweight.catalogue import load_object
from paperweight.errors import InputError
from paperweight.testing.contract import KIND_CHECKS
from paperweight.testing.function import FunctionSubject
from paperweight.testing.layer import LayerSubject
from paperweight.testing.loss import LossSubject
from paperweight.testing.metric import MetricSubject
from paperweight.testing.optimizer import OptimizerSubject
from paperweight.testing.report import CheckReport, Subject, run_checks
from paperweight.testing.schedule import ScheduleSubject

__all__ = ["check_object"]

Inputs = tuple[Tensor, ...]


def _accepts(call: Callable[..., Any], *arguments: object) -> bool:
    try:
        inspect.signature(call).bind(*arguments)
    except TypeError:
        return False
    except ValueError:
        return bool(arguments)  # a built-in function that does not tell its signature
    return True


def _maker(found: Callable[..., Any], inputs: Inputs, *arguments: object) -> Callable[..., Any]:
    """Take a class or function that makes the object, or what the inputs are given to."""
    if _accepts(found, *arguments):
        return found
    if not arguments and inputs and not inspect.isclass(found) and _accepts(found, *inputs):
        return partial(partial, found)
    needed = "from an optimizer alone" if arguments else "without arguments"
    raise InputError(
        f"name must be of something that can be called {needed}, got {getattr(found, '__name__', found)!r}; "
        "write a function that gives the other arguments, and name that"
    )


def _schedule(found: Callable[..., Any], inputs: Inputs) -> Subject:
    return ScheduleSubject(make=_maker(found, (), "optimizer"), values={})


def _layer(found: Callable[..., Any], inputs: Inputs) -> Subject:
    try:
        return LayerSubject(make=_maker(found, ()), inputs=inputs, shape=None, parameter_count=None)
    except ValueError as error:
        raise InputError(f"{error}; give a larger batch") from error


def _loss(found: Callable[..., Any], inputs: Inputs) -> Subject:
    return LossSubject(make=_maker(found, inputs), inputs=inputs, slow=None)


def _metric(found: Callable[..., Any], inputs: Inputs) -> Subject:
    return MetricSubject(make=_maker(found, inputs), inputs=inputs, known=(), range=(-math.inf, math.inf))


def _function(found: Callable[..., Any], inputs: Inputs) -> Subject:
    if not _accepts(found, *inputs):
        raise InputError(f"name must be of a function of {len(inputs)} arguments; give one --input for each")
    names = (f"argument {index}" for index in range(len(inputs)))
    return FunctionSubject(make=lambda **given: found(*given.values()), arguments=dict(zip(names, inputs, strict=True)))


_WITHOUT_INPUTS: Mapping[str, Callable[[Callable[..., Any], Inputs], Subject]] = {
    "optimizer": lambda found, inputs: OptimizerSubject(make=found),
    "schedule": _schedule,
}
_WITH_INPUTS: Mapping[str, Callable[[Callable[..., Any], Inputs], Subject]] = {
    "layer": _layer,
    "network": _layer,
    "loss": _loss,
    "regularizer": _loss,
    "metric": _metric,
    "function": _function,
}


def _tensor(words: str, seed: int) -> Tensor:
    """Read ``8x5`` as normal numbers of that shape and ``8x5:10`` as whole numbers below 10."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*(:[1-9]\d*)?", words):
        raise InputError(f"input must be a shape such as 8x5, or 8:10 for whole numbers from 0 to 9; got {words!r}")
    sizes, _, classes = words.partition(":")
    shape = [int(size) for size in sizes.split("x")]
    generator = torch.Generator().manual_seed(seed)
    if classes:
        return torch.randint(int(classes), shape, generator=generator)
    return torch.randn(shape, generator=generator)


def check_object(kind: str, name: str, *, inputs: Sequence[str] = ()) -> CheckReport:
    """Run the checks of a kind on an object that is named, those that need no fact that only its author knows.

    Left out are the documented shape, number of parameters and values, slow forms and null settings; for these there
    are the functions `check_layer`, `check_loss` and their siblings.

    Args:
        kind: What it is: optimizer, schedule, layer, network, loss, regularizer, metric or function.
        name: Where it is, as ``package.module:name``: a class or function that makes it. An optimizer is made from
            parameters and ``lr``, a schedule from an optimizer, the others without arguments; a loss, regularizer or
            metric may be the function itself, and a function is.
        inputs: What it is called with, one word an argument: ``8x5`` is a tensor of that shape of normal numbers,
            ``8:10`` one of whole numbers from 0 to 9. The first dimension is the batch.

    Returns:
        One result a check.

    Raises:
        InputError: If the kind is unknown or needs inputs, the name cannot be imported or not be called so, or an
            input is no shape.

    Example:
        >>> check_object("loss", "torch.nn:CrossEntropyLoss", inputs=["8x5", "8:5"]).passed
        True
    """
    if kind not in _WITH_INPUTS and kind not in _WITHOUT_INPUTS:
        raise InputError(f"kind must be one of {', '.join([*_WITHOUT_INPUTS, *_WITH_INPUTS])}; got {kind!r}")
    if kind in _WITH_INPUTS and not inputs:
        raise InputError(
            f"kind {kind} needs --input, one for each argument that it is called with; for example --input 8x5"
        )
    if kind in _WITHOUT_INPUTS and inputs:
        raise InputError(f"kind {kind} takes no --input, got {' '.join(inputs)}; leave it out")
    tensors = tuple(_tensor(words, seed) for seed, words in enumerate(inputs))
    make_subject = _WITH_INPUTS[kind] if kind in _WITH_INPUTS else _WITHOUT_INPUTS[kind]
    subject = make_subject(load_object(name, "name"), tensors)
    return run_checks(KIND_CHECKS[kind](subject))
