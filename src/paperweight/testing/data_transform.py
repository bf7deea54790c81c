"""Checks of the kind "data-transform"."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from paperweight.testing.calls import (
    Keywords,
    devices,
    generator_keyword,
    require_repeatable,
    require_states_untouched,
    require_unmodified,
)
from paperweight.testing.classifiers import CLASSES, toy_images
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import converted, identical

__all__ = [
    "DATA_TRANSFORM_LAWS",
    "DataTransformSubject",
    "check_data_transform",
    "check_dtype_and_device_preserved",
    "check_global_random_state",
    "check_inputs_unmodified",
    "check_labels",
    "check_length_and_shape",
    "check_meets_protocol",
    "check_null",
    "check_range",
    "check_repeatable",
    "data_transform_checks",
]

INPUTS = toy_images(12)
TARGETS = torch.arange(12) % CLASSES


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataTransformSubject(Subject):
    """What the test of a data transform declares.

    ``make``, ``null`` and ``baseline`` take its keywords and give what is called as ``(inputs, labels)``: the class
    itself, or for a function ``f`` of these and keywords ``partial(partial, f)``. Where the null setting is no change
    at all, ``baseline`` is ``lambda: lambda inputs, labels: (inputs, labels)``.

    Args:
        range: Smallest and largest entry that the changed inputs may have; infinities where there is no bound.
        length: From the number of samples that are given, the number that comes back; None where it depends on the
            samples.
        shape: From the shape of one sample, the shape of a changed one.
        labels: From the labels that are given, those that come back; None where they depend on inputs or generator.
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        inputs: What it is given, one sample an entry of the first dimension; by default 12 images of shape
            ``(1, 4, 4)`` with entries within 0 and 1.
        targets: The labels that it is given; by default classes below 3.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> DataTransformSubject(make=mirrored, range=(0, 1)).use()[0].shape
        torch.Size([12, 1, 4, 4])
    """

    range: tuple[float, float]
    length: Callable[[int], int] | None = lambda count: count
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda shape: shape
    labels: Callable[[Tensor], Tensor] | None = lambda labels: labels
    random: bool = False
    inputs: Tensor = INPUTS
    targets: Tensor = TARGETS

    def use(self, **given: Any) -> Any:
        """Make the transform with these keywords and change the data."""
        return self.make(**given)(self.inputs.clone(), self.targets.clone(), **generator_keyword(self.random))


def _changed(subject: DataTransformSubject, make: Callable[..., Any] | None = None) -> tuple[Tensor, Tensor]:
    transform = (make or subject.make)()
    return transform(subject.inputs.clone(), subject.targets.clone(), **generator_keyword(subject.random))


def check_meets_protocol(subject: DataTransformSubject) -> None:
    """Check that it gives a pair of tensors of one length, without a graph.

    Args:
        subject: What is declared of the transform.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_meets_protocol(DataTransformSubject(make=mirrored, range=(0, 1)))
    """
    pair = _changed(subject)
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(item, Tensor) for item in pair)):
        raise CheckFailure(f"it gives a {type(pair).__name__}", "give the pair of inputs and labels, two tensors")
    inputs, labels = pair
    if len(inputs) != len(labels):
        raise CheckFailure(f"it gives {len(inputs)} inputs and {len(labels)} labels", "give each input its label")
    if inputs.requires_grad or labels.requires_grad:
        raise CheckFailure("what it gives requires gradients", "detach it")


def check_length_and_shape(subject: DataTransformSubject) -> None:
    """Check that there are as many samples, of such a shape, as declared.

    Args:
        subject: What is declared of the transform.

    Raises:
        CheckFailure: If there are others.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_length_and_shape(DataTransformSubject(make=mirrored, range=(0, 1)))
    """
    inputs, _ = _changed(subject)
    count, shape = len(subject.inputs), tuple(subject.inputs.shape[1:])
    if subject.length is not None and len(inputs) != subject.length(count):
        raise CheckFailure(f"{count} samples become {len(inputs)}, not {subject.length(count)}", "declare the number")
    if tuple(inputs.shape[1:]) != subject.shape(shape):
        found = tuple(inputs.shape[1:])
        raise CheckFailure(f"a sample of shape {shape} becomes {found}, not {subject.shape(shape)}", "keep the shape")


def check_labels(subject: DataTransformSubject) -> None:
    """Check that the labels are those that are declared.

    Args:
        subject: What is declared of the transform, with ``labels``.

    Raises:
        CheckFailure: If one is another, or they have another dtype.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_labels(DataTransformSubject(make=mirrored, range=(0, 1)))
    """
    if subject.labels is None:
        raise CheckFailure("no labels are declared", "declare them")
    _, labels = _changed(subject)
    expected = subject.labels(subject.targets)
    if not identical(labels, expected):
        raise CheckFailure(f"the labels are {labels.tolist()}, not {expected.tolist()}", "declare what becomes of them")


def check_range(subject: DataTransformSubject) -> None:
    """Check that every entry of the changed inputs is finite and within the declared range.

    Args:
        subject: What is declared of the transform.

    Raises:
        CheckFailure: If one is not.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_range(DataTransformSubject(make=mirrored, range=(0, 1)))
    """
    inputs, _ = _changed(subject)
    low, high = subject.range
    if not (inputs.isfinite() & (inputs >= low) & (inputs <= high)).all():
        found = f"{inputs.min().item():g} to {inputs.max().item():g}"
        raise CheckFailure(f"entries are within {found}, not within {low:g} to {high:g}", "clamp them, or declare it")


def check_inputs_unmodified(subject: DataTransformSubject) -> None:
    """Check that inputs and labels stay as they were.

    Args:
        subject: What is declared of the transform.

    Raises:
        CheckFailure: If one changes.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_inputs_unmodified(DataTransformSubject(make=mirrored, range=(0, 1)))
    """
    inputs, labels = subject.inputs.clone(), subject.targets.clone()
    call = partial(subject.make(), inputs, labels, **generator_keyword(subject.random))
    require_unmodified(call, {"inputs": inputs, "labels": labels}, "what it is given")


def check_repeatable(subject: DataTransformSubject) -> None:
    """Check that the same generator gives the same bits, and another one others.

    Args:
        subject: What is declared of the transform.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_repeatable(DataTransformSubject(make=mirrored, range=(0, 1)))
    """

    def call(keyword: Keywords) -> object:
        return subject.make()(subject.inputs.clone(), subject.targets.clone(), **keyword)

    require_repeatable(call, subject.random)


def check_global_random_state(subject: DataTransformSubject) -> None:
    """Check that a call leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the transform.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_global_random_state(DataTransformSubject(make=mirrored, range=(0, 1)))
    """
    require_states_untouched(lambda: _changed(subject))


def check_dtype_and_device_preserved(subject: DataTransformSubject) -> None:
    """Check that the changed inputs have the dtype and both the device of what is given, in float32 and float64.

    Args:
        subject: What is declared of the transform.

    Raises:
        CheckFailure: If they have another.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_dtype_and_device_preserved(DataTransformSubject(make=mirrored, range=(0, 1)))
    """
    for device in devices():
        for dtype in (torch.float32, torch.float64):
            given = converted((subject.inputs, subject.targets), dtype, device)
            inputs, labels = subject.make()(*given, **generator_keyword(subject.random, device=device))
            if (inputs.dtype, inputs.device.type, labels.device.type) != (given[0].dtype, device, device):
                raise CheckFailure(
                    f"{dtype} on {device} gives {inputs.dtype} on {inputs.device}, labels on {labels.device}",
                    "make new tensors with the dtype and device of the inputs, such as inputs.new_zeros",
                )


def check_null(subject: DataTransformSubject) -> None:
    """Check that at its null setting it gives what its baseline gives, bit for bit.

    Args:
        subject: What is declared of the transform, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If inputs or labels differ.

    Example:
        >>> same = lambda: lambda inputs, labels: (inputs, labels)
        >>> check_null(DataTransformSubject(make=same, null=same, baseline=same, range=(0, 1)))
    """
    if not identical(*(_changed(subject, make) for make in (subject.null, subject.baseline))):
        raise CheckFailure(
            "at the null setting the data differ from the baseline's",
            "at the null setting give the data as they are, without a detour through other numbers",
        )


DATA_TRANSFORM_LAWS: Laws[DataTransformSubject] = {
    check_meets_protocol: always,
    check_length_and_shape: always,
    check_range: always,
    check_inputs_unmodified: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_dtype_and_device_preserved: always,
    check_labels: lambda subject: subject.labels is not None,
    check_null: declares_null,
}


def data_transform_checks(subject: DataTransformSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "data-transform".

    Args:
        subject: What the test of the transform declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> data_transform_checks(DataTransformSubject(make=mirrored, range=(0, 1)))["check_labels"]()
    """
    return selected(DATA_TRANSFORM_LAWS, subject)


def check_data_transform(
    make: Callable[..., Any],
    *,
    range: tuple[float, float] = (-math.inf, math.inf),
    length: Callable[[int], int] | None = lambda count: count,
    shape: Callable[[tuple[int, ...]], tuple[int, ...]] = lambda shape: shape,
    labels: Callable[[Tensor], Tensor] | None = lambda labels: labels,
    random: bool = False,
    inputs: Tensor = INPUTS,
    targets: Tensor = TARGETS,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "data-transform".

    Args:
        make: A class whose arguments all have defaults, or a function that makes what is called as ``(inputs,
            labels)``; for a function ``f`` of these and keywords ``partial(partial, f)``.
        range: Smallest and largest entry that the changed inputs may have.
        length: From the number of samples that are given, the number that comes back; None where it depends on the
            samples.
        shape: From the shape of one sample, the shape of a changed one.
        labels: From the labels that are given, those that come back; None where they depend on inputs or generator.
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        inputs: What it is given; by default 12 images of shape ``(1, 4, 4)`` with entries within 0 and 1.
        targets: The labels that it is given; by default classes below 3.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal, such as what gives its inputs and labels.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> mirrored = lambda: lambda inputs, labels: (inputs.flip(-1), labels)
        >>> check_data_transform(mirrored, range=(0, 1)).passed
        True
    """
    subject = DataTransformSubject(
        make=make,
        range=range,
        length=length,
        shape=shape,
        labels=labels,
        random=random,
        null=null,
        baseline=baseline,
        inputs=inputs,
        targets=targets,
    )
    return run_checks(data_transform_checks(subject))
