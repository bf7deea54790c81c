"""Checks of the kinds "loss" and "regularizer": a regularizer is a loss without targets, under the same contract."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from paperweight.testing.gradients import compare_gradients
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import (
    changed_facts,
    close,
    converted,
    identical,
    map_tensors,
    snapshot,
    tensors_of,
)

__all__ = [
    "LOSS_LAWS",
    "LossSubject",
    "check_dtype_and_device_preserved",
    "check_equals_slow_form",
    "check_finite_at_extremes",
    "check_gives_a_scalar",
    "check_global_random_state",
    "check_gradients",
    "check_inputs_unmodified",
    "check_loss",
    "check_null",
    "check_order_of_samples",
    "check_reductions",
    "check_repeatable",
    "loss_checks",
]

Inputs = tuple[Any, ...]
EXTREME = 1e4


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LossSubject(Subject):
    """What the test of a loss or regularizer declares.

    ``make``, ``null`` and ``baseline`` take its keywords and give what is called on the inputs: the class itself, or
    for a function ``f`` of inputs and keywords ``partial(partial, f)``.

    Args:
        inputs: What it is called with: tensors, lists of them, networks.
        slow: The same value from the inputs by a loop, or by another independent way; None where there is none.
        differentiable: Positions of the inputs that gradients flow to.
        extremes: Inputs at which value and gradient must be finite; by default they are the inputs with the
            differentiable ones at 1e4, -1e4, either sign, and 0.

    Example:
        >>> x, y = torch.zeros(2), torch.ones(2)
        >>> subject = LossSubject(make=nn.MSELoss, inputs=(x, y), slow=lambda x, y: sum((x - y) ** 2) / len(x))
        >>> subject.use(reduction="sum")
        tensor(2.)
    """

    inputs: Inputs
    slow: Callable[..., Any] | None
    differentiable: tuple[int, ...] = (0,)
    extremes: tuple[Inputs, ...] | None = None

    def use(self, **given: Any) -> object:
        """Make the loss with these keywords and call it on the inputs."""
        with seeded(0):
            return self.make(**given)(*copy.deepcopy(self.inputs))


def _make(make: Callable[..., Any], dtype: torch.dtype = torch.float32, **given: Any) -> Callable[..., Any]:
    with seeded(0):
        loss = make(**given)
    return loss.to(dtype) if isinstance(loss, nn.Module) else loss


def _value(subject: LossSubject, inputs: Inputs, dtype: torch.dtype, **given: Any) -> Tensor:
    with seeded(0):
        return _make(subject.make, dtype, **given)(*converted(inputs, dtype))


def _leaves(subject: LossSubject, inputs: Inputs) -> list[Tensor]:
    """List the tensors that gradients flow to."""
    return [t for position in subject.differentiable for t in tensors_of(inputs[position])]


def _differentiated(
    subject: LossSubject, make: Callable[..., Any], inputs: Inputs, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor | None]]:
    """Give the value and its gradients."""
    given = converted(inputs, dtype)
    leaves = [leaf.requires_grad_() for leaf in _leaves(subject, given)]
    with seeded(0):
        value = _make(make, dtype)(*given)
    return value, list(torch.autograd.grad(value.sum(), leaves, allow_unused=True))


def _keywords(make: Callable[..., Any]) -> set[str]:
    """Name the keywords of a class, or of a function that is given as ``partial(partial, function)``."""
    if isinstance(make, partial) and make.func is partial:
        make = make.args[0]
    try:
        return set(inspect.signature(make).parameters)
    except ValueError:
        return set()  # a built-in function that does not tell its signature


def check_gives_a_scalar(subject: LossSubject) -> None:
    """Check that it gives one floating number, a tensor without dimensions.

    Args:
        subject: What is declared of the loss.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> check_gives_a_scalar(LossSubject(make=nn.MSELoss, inputs=(torch.ones(2), torch.zeros(2)), slow=None))
    """
    value = _value(subject, subject.inputs, torch.float32)
    if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
        got = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise CheckFailure(f"it gives {got}", "reduce it to a floating tensor without dimensions by default")


def check_equals_slow_form(subject: LossSubject) -> None:
    """Check that in float64 it equals the slow form.

    Args:
        subject: What is declared of the loss, with its slow form.

    Raises:
        CheckFailure: If the two differ by more than 1e-9, relative or absolute.

    Example:
        >>> check_equals_slow_form(
        ...     LossSubject(make=nn.L1Loss, inputs=(torch.ones(1), torch.zeros(1)), slow=lambda x, y: abs(x[0] - y[0]))
        ... )
    """
    if subject.slow is None:
        raise CheckFailure("no slow form is declared", "declare one")
    value = _value(subject, subject.inputs, torch.float64)
    expected = torch.as_tensor(subject.slow(*converted(subject.inputs, torch.float64)), dtype=torch.float64)
    if not close(value, expected, 1e-9):
        raise CheckFailure(f"it is {value.tolist()}, the slow form gives {expected.tolist()}", "compare term by term")


def check_gradients(subject: LossSubject) -> None:
    """Check the gradients by the differentiable inputs and its own parameters against finite differences in float64.

    Args:
        subject: What is declared of the loss.

    Raises:
        CheckFailure: If they differ.

    Example:
        >>> check_gradients(LossSubject(make=nn.MSELoss, inputs=(torch.ones(2), torch.zeros(2)), slow=None))
    """
    inputs = converted(subject.inputs, torch.float64)
    loss = _make(subject.make, torch.float64)
    own = dict(loss.named_parameters()) if isinstance(loss, nn.Module) else {}

    def value(*values: Tensor) -> list[Tensor]:
        remaining = iter(values)
        given = list(copy.deepcopy(inputs))
        for position in subject.differentiable:
            given[position] = map_tensors(lambda _: next(remaining), given[position])
        with seeded(0):
            if isinstance(loss, nn.Module):
                state = {name: buffer.clone() for name, buffer in loss.named_buffers()}
                state |= dict(zip(own, remaining, strict=True))
                return tensors_of(functional_call(loss, state, tuple(given)))
            return tensors_of(loss(*given))

    leaves = {f"differentiable tensor {index}": leaf for index, leaf in enumerate(_leaves(subject, inputs))}
    compare_gradients(value, leaves | own)


def check_finite_at_extremes(subject: LossSubject) -> None:
    """Check that value and gradients are finite at extreme inputs, in float32.

    Args:
        subject: What is declared of the loss.

    Raises:
        CheckFailure: If one is infinite or not a number.

    Example:
        >>> check_finite_at_extremes(LossSubject(make=nn.L1Loss, inputs=(torch.ones(2), torch.zeros(2)), slow=None))
    """
    cases = {f"extreme inputs {index}": inputs for index, inputs in enumerate(subject.extremes or ())}
    if subject.extremes is None:
        fills: dict[str, Callable[[Tensor], Tensor]] = {
            f"inputs of {EXTREME:g}": lambda t: torch.full_like(t, EXTREME),
            f"inputs of {-EXTREME:g}": lambda t: torch.full_like(t, -EXTREME),
            f"inputs of {EXTREME:g} and {-EXTREME:g}": lambda t: EXTREME * (1 - 2 * (t < t.mean()).to(t.dtype)),
            "inputs of 0": torch.zeros_like,
        }
        for name, fill in fills.items():
            cases[name] = tuple(
                map_tensors(fill, item) if position in subject.differentiable else item
                for position, item in enumerate(subject.inputs)
            )
    for name, inputs in cases.items():
        value, gradients = _differentiated(subject, subject.make, inputs, torch.float32)
        if not value.isfinite().all():
            raise CheckFailure(f"at {name} the value is {value.tolist()}", "use the stable form, such as logsumexp")
        if not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
            raise CheckFailure(
                f"at {name} a gradient is not finite", "guard within the root, logarithm or division, not outside it"
            )


def check_order_of_samples(subject: LossSubject) -> None:
    """Check that the order of the samples, the first dimension of all inputs, does not matter.

    Args:
        subject: What is declared of the loss; where the first dimension is no batch it declares the failure.

    Raises:
        CheckFailure: If the value depends on it, or the inputs have no common number of samples above 1.

    Example:
        >>> inputs = torch.arange(3.0), torch.ones(3)
        >>> check_order_of_samples(LossSubject(make=nn.MSELoss, inputs=inputs, slow=None))
    """
    sizes = {len(tensor) for tensor in tensors_of(subject.inputs) if tensor.ndim}
    if len(sizes) != 1 or min(sizes) < 2:
        raise CheckFailure(
            f"the inputs have no common number of samples above 1: {sorted(sizes)}",
            "give a batch; where the first dimension is no batch, declare the failure with its reason",
        )
    order = [*range(1, min(sizes)), 0]
    value = _value(subject, subject.inputs, torch.float64)
    turned = _value(subject, map_tensors(lambda t: t[order] if t.ndim else t, subject.inputs), torch.float64)
    if not close(value, turned, 1e-9):
        raise CheckFailure(
            f"in another order of the samples it is {turned.tolist()} and not {value.tolist()}",
            "treat all samples alike",
        )


def check_reductions(subject: LossSubject) -> None:
    """Check that ``reduction="none"`` gives terms whose mean and sum are those of ``"mean"`` and ``"sum"``.

    Args:
        subject: What is declared of the loss.

    Raises:
        CheckFailure: If they are not.

    Example:
        >>> check_reductions(LossSubject(make=nn.MSELoss, inputs=(torch.ones(2), torch.zeros(2)), slow=None))
    """
    terms, mean, total = (
        _value(subject, subject.inputs, torch.float64, reduction=name) for name in ("none", "mean", "sum")
    )
    if terms.ndim == 0:
        raise CheckFailure("with reduction='none' it gives one number", "give one term a sample or entry")
    for name, value, expected in (("mean", mean, terms.mean()), ("sum", total, terms.sum())):
        if not close(value, expected, 1e-9):
            raise CheckFailure(
                f"with reduction={name!r} it is {value.tolist()}, the {name} of its terms is {expected.tolist()}",
                "reduce the terms of reduction='none'",
            )


def check_repeatable(subject: LossSubject) -> None:
    """Check that the same inputs give the same bits, whatever the global random state.

    Args:
        subject: What is declared of the loss.

    Raises:
        CheckFailure: If they do not.

    Example:
        >>> check_repeatable(LossSubject(make=nn.MSELoss, inputs=(torch.ones(2), torch.zeros(2)), slow=None))
    """
    loss = _make(subject.make)
    values = []
    for seed in (0, 1):
        with seeded(seed):
            values.append(loss(*converted(subject.inputs, torch.float32)))
    if not identical(*values):
        raise CheckFailure("two calls with the same inputs differ", "draw only from a generator that is an argument")


def check_global_random_state(subject: LossSubject) -> None:
    """Check that a call leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the loss.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_global_random_state(LossSubject(make=nn.MSELoss, inputs=(torch.ones(2), torch.zeros(2)), slow=None))
    """
    loss, given = _make(subject.make), converted(subject.inputs, torch.float32)
    if changed := changed_random_states(lambda: loss(*given)):
        raise CheckFailure(f"the random state of {', '.join(changed)} changed", "draw from an explicit generator")


def check_inputs_unmodified(subject: LossSubject) -> None:
    """Check that a call leaves its inputs as they were; of a network also mode, gradients and hooks.

    Args:
        subject: What is declared of the loss.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_inputs_unmodified(LossSubject(make=nn.MSELoss, inputs=(torch.ones(2), torch.zeros(2)), slow=None))
    """
    loss, given = _make(subject.make), converted(subject.inputs, torch.float32)
    before = snapshot(given)
    with seeded(0):
        loss(*given)
    if changed := changed_facts(before, snapshot(given)):
        raise CheckFailure(f"a call modifies {', '.join(changed)}", "work on a copy, and put back what you set")


def check_dtype_and_device_preserved(subject: LossSubject) -> None:
    """Check that the value has the dtype and device of the inputs and is finite.

    The formats are float64, float32 and bfloat16, on the CPU and on a GPU where there is one.

    Args:
        subject: What is declared of the loss.

    Raises:
        CheckFailure: If it has another, or is not finite.

    Example:
        >>> inputs = torch.ones(2), torch.zeros(2)
        >>> check_dtype_and_device_preserved(LossSubject(make=nn.MSELoss, inputs=inputs, slow=None))
    """
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            loss = _make(subject.make, dtype)
            loss = loss.to(device) if isinstance(loss, nn.Module) else loss
            with seeded(0):
                value = loss(*converted(subject.inputs, dtype, device))
            if (value.dtype, value.device.type) != (dtype, device):
                raise CheckFailure(
                    f"{dtype} on {device} gives {value.dtype} on {value.device}",
                    "make new tensors with the dtype and device of the input, such as x.new_zeros",
                )
            if not value.isfinite():
                raise CheckFailure(f"in {dtype} it is {value.item()}", "guard divisions, logarithms and roots")


def check_null(subject: LossSubject) -> None:
    """Check that at its null setting value and gradients equal the baseline's bit for bit.

    Args:
        subject: What is declared of the loss, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If one differs.

    Example:
        >>> inputs, null = (torch.eye(2), torch.tensor([0, 1])), partial(nn.CrossEntropyLoss, label_smoothing=0.0)
        >>> check_null(
        ...     LossSubject(make=null, null=null, baseline=nn.CrossEntropyLoss, inputs=inputs, slow=None)
        ... )
    """
    for dtype in (torch.float32, torch.float64):
        (value, gradients), (expected, others) = (
            _differentiated(subject, make, subject.inputs, dtype) for make in (subject.null, subject.baseline) if make
        )
        if not identical(value, expected):
            raise CheckFailure(
                f"at the null setting it is {value.tolist()} and the baseline {expected.tolist()} in {dtype}",
                "at the null setting take the baseline's operations in the baseline's order",
            )
        for gradient, other in zip(gradients, others, strict=True):
            if (gradient is None) != (other is None) or not (gradient is None or identical(gradient, other)):
                raise CheckFailure(
                    f"at the null setting a gradient differs from the baseline's in {dtype}",
                    "at the null setting take the baseline's operations in the baseline's order",
                )


LOSS_LAWS: Laws[LossSubject] = {
    check_gives_a_scalar: always,
    check_gradients: always,
    check_finite_at_extremes: always,
    check_order_of_samples: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_inputs_unmodified: always,
    check_dtype_and_device_preserved: always,
    check_equals_slow_form: lambda subject: subject.slow is not None,
    check_reductions: lambda subject: "reduction" in _keywords(subject.make),
    check_null: declares_null,
}


def loss_checks(subject: LossSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kinds "loss" and "regularizer".

    Args:
        subject: What the test of the loss declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> subject = LossSubject(make=nn.MSELoss, inputs=(torch.ones(2), torch.zeros(2)), slow=None)
        >>> loss_checks(subject)["check_reductions"]()
    """
    return selected(LOSS_LAWS, subject)


def check_loss(
    make: Callable[..., Any],
    *inputs: Any,
    slow: Callable[..., Any] | None = None,
    differentiable: tuple[int, ...] = (0,),
    extremes: tuple[Inputs, ...] | None = None,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kinds "loss" and "regularizer".

    Args:
        make: A class whose arguments all have defaults, or a function that makes what is called on the inputs; for a
            function ``f`` of inputs and keywords ``partial(partial, f)``.
        *inputs: What it is called with, at least two samples along the first dimension.
        slow: The same value from the inputs in another way; by default it is not compared.
        differentiable: Positions of the inputs that gradients flow to.
        extremes: Inputs at which value and gradient must be finite; by default they are the inputs with the
            differentiable ones at 1e4, -1e4, either sign, and 0.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> check_loss(nn.CrossEntropyLoss, torch.eye(3), torch.tensor([0, 1, 1])).passed
        True
    """
    subject = LossSubject(
        make=make,
        inputs=inputs,
        slow=slow,
        differentiable=differentiable,
        extremes=extremes,
        null=null,
        baseline=baseline,
    )
    return run_checks(loss_checks(subject))
