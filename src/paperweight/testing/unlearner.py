"""Checks of the kind "unlearner"."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import nn
from torch.utils.data import Subset

from paperweight.testing.calls import (
    Keywords,
    behaviour,
    devices,
    generator_keyword,
    models_agree,
    require_repeatable,
    require_states_untouched,
    require_unmodified,
    shared_memory,
)
from paperweight.testing.classifiers import CLASSES, toy_classifier, toy_images
from paperweight.testing.guarded import GuardedDataset
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import converted, identical

__all__ = [
    "UNLEARNER_LAWS",
    "UnlearnerSubject",
    "check_changes_the_model",
    "check_data_unmodified",
    "check_dtype_and_device_preserved",
    "check_empty_forget_set",
    "check_global_random_state",
    "check_meets_protocol",
    "check_null",
    "check_reads_only_declared_data",
    "check_repeatable",
    "check_source_unmodified",
    "check_unlearner",
    "unlearner_checks",
]

SETS = ("forget", "retain")
INPUTS = (toy_images(8, seed=1),)
SAMPLES = tuple((image, index % CLASSES) for index, image in enumerate(toy_images(18)))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UnlearnerSubject(Subject):
    """What the test of an unlearner declares.

    ``make``, ``null`` and ``baseline`` take its keywords and give what is called as ``(model, forget, retain)``: the
    class itself, or for a function ``f`` of these and keywords ``partial(partial, f)``. Make it cheap: few epochs.

    Args:
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        reads: Which of the two data sets it reads, "forget", "retain" or both.
        model: Makes the source model, every time the same; by default a small classifier of images.
        inputs: What the model is called with to see what it does; of another model than the default its own.
        forget: The samples to forget: pairs of an image of shape ``(1, 4, 4)`` and a class below 3, or what the
            unlearner takes for a model of its own, such as concepts.
        retain: The samples to retain, likewise.

    Raises:
        ValueError: If ``reads`` names another set or none, or there are fewer than two samples in one.

    Example:
        >>> def raised(model, forget, retain):
        ...     result = copy.deepcopy(model)
        ...     for _ in forget:
        ...         result[-1].bias.data += 1
        ...     return result
        >>> import copy
        >>> type(UnlearnerSubject(make=lambda: raised, reads=("forget",)).use()).__name__
        'Sequential'
    """

    random: bool = False
    reads: tuple[str, ...] = SETS
    model: Callable[[], nn.Module] = toy_classifier
    inputs: tuple[Any, ...] = INPUTS
    forget: Sequence[Any] = SAMPLES[:6]
    retain: Sequence[Any] = SAMPLES[6:]

    def __post_init__(self) -> None:
        Subject.__post_init__(self)
        if not self.reads or not set(self.reads) <= set(SETS):
            raise ValueError(f"reads must name forget, retain or both, got {self.reads}")
        if min(len(self.forget), len(self.retain)) < 2:
            raise ValueError(f"forget and retain must hold 2 samples each, got {len(self.forget)}, {len(self.retain)}")

    def use(self, **given: Any) -> object:
        """Make the unlearner with these keywords and let it unlearn."""
        return self.make(**given)(_source(self), *_sets(self), **generator_keyword(self.random))


def _source(subject: UnlearnerSubject) -> nn.Module:
    with seeded(0):
        return subject.model()


def _sets(subject: UnlearnerSubject, *, empty: bool = False) -> tuple[list[Any], list[Any]]:
    """Copy what to forget, or leave it empty, and what to retain."""
    return [] if empty else copy.deepcopy(list(subject.forget)), copy.deepcopy(list(subject.retain))


def _unlearned(subject: UnlearnerSubject, make: Callable[..., Any] | None = None, *, empty: bool = False) -> nn.Module:
    unlearner = (make or subject.make)()
    result = unlearner(_source(subject), *_sets(subject, empty=empty), **generator_keyword(subject.random))
    if not isinstance(result, nn.Module):
        raise CheckFailure(f"it gives a {type(result).__name__}", "give the new model, a torch.nn.Module")
    return result


def check_meets_protocol(subject: UnlearnerSubject) -> None:
    """Check that it gives a model whose outputs have the shapes of the source's and are finite.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> check_meets_protocol(UnlearnerSubject(make=lambda: copied))
    """
    outputs, expected = (behaviour(model, subject.inputs) for model in (_unlearned(subject), _source(subject)))
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (outputs, expected)]
    if shapes[0] != shapes[1]:
        raise CheckFailure(
            f"the source gives shapes {shapes[1]}, the new model {shapes[0]}", "keep the outputs' shapes"
        )
    if not all(output.isfinite().all() for output in outputs):
        raise CheckFailure("an output of the new model is not finite", "bound the loss that is raised")


def check_changes_the_model(subject: UnlearnerSubject) -> None:
    """Check that the new model does something else than the source.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> check_changes_the_model(UnlearnerSubject(make=lambda: copied))
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: the new model does what the source does; change the weights of a copy
    """
    if identical(*(behaviour(model, subject.inputs) for model in (_unlearned(subject), _source(subject)))):
        raise CheckFailure("the new model does what the source does", "change the weights of a copy")


def check_empty_forget_set(subject: UnlearnerSubject) -> None:
    """Check that with nothing to forget the new model equals the source, bit for bit.

    Compared are the outputs in eval mode, and all parameters and buffers that have a name in both.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If they differ.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> check_empty_forget_set(UnlearnerSubject(make=lambda: copied))
    """
    if not models_agree(_unlearned(subject, empty=True), _source(subject), subject.inputs):
        raise CheckFailure("with nothing to forget it changes the model", "give a copy where len(forget) is 0")


def check_source_unmodified(subject: UnlearnerSubject) -> None:
    """Check that the source, which has gradients, stays as it was in both modes and shares no memory with the result.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If weights, buffers, gradients, modes or hooks change, or the new model lies in its memory.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> check_source_unmodified(UnlearnerSubject(make=lambda: copied))
    """
    for training in (False, True):
        for empty in (False, True):
            source = _source(subject).train(training)
            for parameter in source.parameters():
                parameter.grad = torch.ones_like(parameter)
            sets = _sets(subject, empty=empty)
            call = partial(subject.make(), source, *sets, **generator_keyword(subject.random))
            result = require_unmodified(call, source, "the source model")
            if shared := shared_memory(result, source):
                raise CheckFailure(f"the new model shares {', '.join(shared[:4])} with the source", "work on a copy")


def check_reads_only_declared_data(subject: UnlearnerSubject) -> None:
    """Check that it reads samples of the sets that it declares, at least one of each, and none of the rest.

    The two sets are views into one data set that holds other samples, too, and counts its reads.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If it reads what is not declared, or a set that it declares is never read.

    Example:
        >>> import copy
        >>> def touched(model, forget, retain):
        ...     return copy.deepcopy(model) if forget[0] else None
        >>> check_reads_only_declared_data(UnlearnerSubject(make=lambda: touched, reads=("forget",)))
    """
    forget, retain = _sets(subject)
    data = [*forget, *retain, *retain]
    ends = len(forget), len(forget) + len(retain)
    indices = {"forget": range(ends[0]), "retain": range(*ends)}
    guarded = GuardedDataset(data, [index for name in subject.reads for index in indices[name]])
    views = [Subset(guarded, list(indices[name])) for name in SETS]  # pyright: ignore[reportArgumentType]
    subject.make()(_source(subject), *views, **generator_keyword(subject.random))
    if guarded.refused:
        raise CheckFailure(f"it reads sample {guarded.refused[0]}, which is not declared", "read only what is given")
    for name in subject.reads:
        if not any(guarded.reads[index] for index in indices[name]):
            raise CheckFailure(f"it never reads what to {name}", f"leave {name} out of what it declares to read")


def check_data_unmodified(subject: UnlearnerSubject) -> None:
    """Check that the samples stay as they were.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If one changes.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> check_data_unmodified(UnlearnerSubject(make=lambda: copied))
    """
    data = dict(zip(SETS, _sets(subject), strict=True))
    call = partial(subject.make(), _source(subject), *data.values(), **generator_keyword(subject.random))
    require_unmodified(call, data, "its data")


def check_repeatable(subject: UnlearnerSubject) -> None:
    """Check that the same generator gives the same bits, and another one others.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> check_repeatable(UnlearnerSubject(make=lambda: copied))
    """

    def call(keyword: Keywords) -> object:
        result = subject.make()(_source(subject), *_sets(subject), **keyword)
        return dict(result.state_dict())

    require_repeatable(call, subject.random)


def check_global_random_state(subject: UnlearnerSubject) -> None:
    """Check that a call leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> check_global_random_state(UnlearnerSubject(make=lambda: copied))
    """
    source = _source(subject)
    call = partial(subject.make(), source, *_sets(subject), **generator_keyword(subject.random))
    require_states_untouched(call)


def check_dtype_and_device_preserved(subject: UnlearnerSubject) -> None:
    """Check that the new model has the dtype and device of the source and the data, in float32 and float64.

    Args:
        subject: What is declared of the unlearner.

    Raises:
        CheckFailure: If a parameter or buffer has another.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> check_dtype_and_device_preserved(UnlearnerSubject(make=lambda: copied))
    """
    for device in devices():
        for dtype in (torch.float32, torch.float64):
            data = converted(_sets(subject), dtype, device)
            source = _source(subject).to(device, dtype)
            result = subject.make()(source, *data, **generator_keyword(subject.random, device=device))
            for name, tensor in result.state_dict().items():
                if tensor.device.type != device or (tensor.is_floating_point() and tensor.dtype != dtype):
                    raise CheckFailure(
                        f"{dtype} on {device} gives {name} in {tensor.dtype} on {tensor.device}",
                        "make new tensors with the dtype and device of the model",
                    )


def check_null(subject: UnlearnerSubject) -> None:
    """Check that at its null setting it gives what its baseline gives, bit for bit.

    Args:
        subject: What is declared of the unlearner, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If the two models differ in an output, or in a parameter or buffer of the same name.

    Example:
        >>> import copy
        >>> copied = lambda: lambda model, forget, retain: copy.deepcopy(model)
        >>> check_null(UnlearnerSubject(make=copied, null=copied, baseline=copied))
    """
    if not models_agree(_unlearned(subject, subject.null), _unlearned(subject, subject.baseline), subject.inputs):
        raise CheckFailure(
            "at the null setting the new model differs from the baseline's",
            "at the null setting take the baseline's operations in the baseline's order",
        )


UNLEARNER_LAWS: Laws[UnlearnerSubject] = {
    check_meets_protocol: always,
    check_changes_the_model: always,
    check_empty_forget_set: always,
    check_source_unmodified: always,
    check_reads_only_declared_data: always,
    check_data_unmodified: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_dtype_and_device_preserved: always,
    check_null: declares_null,
}


def unlearner_checks(subject: UnlearnerSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "unlearner".

    Args:
        subject: What the test of the unlearner declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> import copy
        >>> copied = lambda model, forget, retain: copy.deepcopy(model)
        >>> unlearner_checks(UnlearnerSubject(make=lambda: copied))["check_repeatable"]()
    """
    return selected(UNLEARNER_LAWS, subject)


def check_unlearner(
    make: Callable[..., Any],
    *,
    random: bool = False,
    reads: tuple[str, ...] = SETS,
    model: Callable[[], nn.Module] = toy_classifier,
    inputs: tuple[Any, ...] = INPUTS,
    forget: Sequence[Any] = SAMPLES[:6],
    retain: Sequence[Any] = SAMPLES[6:],
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "unlearner".

    Args:
        make: A class whose arguments all have defaults, or a function that makes what is called as ``(model, forget,
            retain)``; for a function ``f`` of these and keywords ``partial(partial, f)``.
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        reads: Which of the two data sets it reads, "forget", "retain" or both.
        model: Makes the source model; by default a small classifier of images.
        inputs: What the model is called with; by default a batch of images.
        forget: The samples to forget; by default pairs of an image and a class.
        retain: The samples to retain; by default such pairs.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given, ``reads`` names another set or none, or there are
            fewer than two samples in a set.

    Example:
        >>> import copy
        >>> report = check_unlearner(lambda: lambda model, forget, retain: copy.deepcopy(model))
        >>> [result.name for result in report.failures]
        ['check_changes_the_model', 'check_reads_only_declared_data']
    """
    subject = UnlearnerSubject(
        make=make,
        random=random,
        reads=reads,
        model=model,
        null=null,
        baseline=baseline,
        inputs=inputs,
        forget=forget,
        retain=retain,
    )
    return run_checks(unlearner_checks(subject))
