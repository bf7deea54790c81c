"""Checks of the kind "optimizer"; each takes a class or function that makes one from parameters and ``lr``."""

import copy
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Parameter

from paperweight.kinds import Optimizer
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.problems import Problem, quadratic, regression
from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks

__all__ = [
    "OPTIMIZER_LAWS",
    "OptimizerSubject",
    "check_added_group_is_stepped",
    "check_closure",
    "check_decreases_convex_loss",
    "check_dtype_and_device_preserved",
    "check_finite_in_bfloat16",
    "check_gradients_unmodified",
    "check_groups_have_own_lr",
    "check_meets_protocol",
    "check_missing_gradient_is_skipped",
    "check_null",
    "check_optimizer",
    "check_parameter_order",
    "check_repeatable_steps",
    "check_resume_is_exact",
    "check_steps_leave_random_state",
    "check_zero_grad",
    "check_zero_lr_is_identity",
    "optimizer_checks",
]

MakeOptimizer = Callable[..., Optimizer]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSubject(Subject):
    """What the test of an optimizer declares; ``make`` takes the parameters and keywords, ``lr`` among them.

    Example:
        >>> OptimizerSubject(make=torch.optim.SGD, bad={"lr": (-1.0,)}).use(lr=0.5).param_groups[0]["lr"]
        0.5
    """

    def use(self, **given: Any) -> Optimizer:
        """Make the optimizer of one parameter with these arguments."""
        return _build(self.make, [Parameter(torch.ones(3))], **given)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _build(make: MakeOptimizer, parameters: Sequence[Any], **hyper: Any) -> Optimizer:
    lr = inspect.signature(make).parameters.get("lr")
    if lr is not None and lr.default is lr.empty:
        hyper = {"lr": 0.1, **hyper}
    return make(parameters, **hyper)


def _backward(optimizer: Optimizer, parameters: Sequence[Tensor], problem: Problem, step: int) -> None:
    optimizer.zero_grad()
    problem.loss(parameters, step).backward()


def _train(optimizer: Optimizer, parameters: Sequence[Tensor], problem: Problem, steps: Iterable[int]) -> None:
    for step in steps:
        _backward(optimizer, parameters, problem, step)
        optimizer.step()


def _trained(make: MakeOptimizer, problem: Problem, steps: int, **hyper: Any) -> list[Parameter]:
    parameters = problem.parameters()
    _train(_build(make, parameters, **hyper), parameters, problem, range(steps))
    return parameters


def _differing(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[str]:
    """Name the shapes of the pairs that differ in a bit."""
    return [str(tuple(a.shape)) for a, b in zip(first, second, strict=True) if not torch.equal(a, b)]


def check_meets_protocol(make: MakeOptimizer) -> None:
    """Check that it builds from parameters and a step size and has every member of `paperweight.kinds.Optimizer`.

    Args:
        make: Takes parameters, or groups of them, and the keyword ``lr``; gives the optimizer.

    Raises:
        CheckFailure: If a member is missing or the parameters are not in ``param_groups``.

    Example:
        >>> check_meets_protocol(torch.optim.SGD)
    """
    parameters = quadratic(generator=_generator()).parameters()
    optimizer = _build(make, parameters)
    if not isinstance(optimizer, Optimizer):
        missing = [name for name in dir(Optimizer) if not name.startswith("_") and not hasattr(optimizer, name)]
        raise CheckFailure(f"the object lacks {', '.join(missing)}", "derive it from torch.optim.Optimizer")
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if held != [id(p) for p in parameters]:
        raise CheckFailure("param_groups do not hold the parameters in their order", "keep the given objects")


def check_repeatable_steps(make: MakeOptimizer) -> None:
    """Check that the same start gives the same steps, whatever the global random state.

    Args:
        make: See `check_meets_protocol`; where the steps are random it gives each optimizer an equal generator.

    Raises:
        CheckFailure: If two runs differ in a bit.

    Example:
        >>> check_repeatable_steps(torch.optim.Adam)
    """
    runs = []
    for seed in (0, 1):
        with seeded(seed):
            runs.append(_trained(make, quadratic(generator=_generator()), steps=3))
    if _differing(*runs):
        raise CheckFailure("two runs from the same start differ", "draw only from a generator that is an argument")


def check_steps_leave_random_state(make: MakeOptimizer) -> None:
    """Check that building and stepping leave the random states of Python, NumPy and torch as they were.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_steps_leave_random_state(torch.optim.Adam)
    """
    changed = changed_random_states(lambda: _trained(make, quadratic(generator=_generator()), steps=3))
    if changed:
        raise CheckFailure(f"the random state of {', '.join(changed)} changed", "draw from an explicit generator")


def check_gradients_unmodified(make: MakeOptimizer) -> None:
    """Check that a step leaves each ``p.grad`` the tensor that it was, with the values that it had.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If a gradient was replaced or changed.

    Example:
        >>> check_gradients_unmodified(torch.optim.SGD)
    """
    problem = quadratic(generator=_generator())
    parameters = problem.parameters()
    optimizer = _build(make, parameters)
    for step in range(3):
        _backward(optimizer, parameters, problem, step)
        gradients = [p.grad for p in parameters if p.grad is not None]
        values = [gradient.clone() for gradient in gradients]
        optimizer.step()
        if any(p.grad is not gradient for p, gradient in zip(parameters, gradients, strict=True)):
            raise CheckFailure("after a step p.grad is another object", "leave p.grad alone, or put it back")
        if changed := _differing(gradients, values):
            raise CheckFailure(f"a step changed the gradients of shapes {', '.join(changed)}", "work on a copy")


def check_zero_lr_is_identity(make: MakeOptimizer) -> None:
    """Check that with a step size of 0 the parameters do not change in a bit.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_zero_lr_is_identity(torch.optim.SGD)
    """
    problem = quadratic(generator=_generator())
    if moved := _differing(_trained(make, problem, steps=3, lr=0.0), problem.parameters()):
        raise CheckFailure(f"with lr=0 parameters of shapes {', '.join(moved)} moved", "scale every change by lr")


def check_dtype_and_device_preserved(make: MakeOptimizer) -> None:
    """Check that parameters keep shape, dtype and device, on the CPU and on a GPU where there is one.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_dtype_and_device_preserved(torch.optim.SGD)
    """
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            parameters = quadratic(generator=_generator(), dtype=dtype).parameters()
            parameters = [Parameter(p.detach().to(device)) for p in parameters]
            before = [(p.shape, p.dtype, p.device) for p in parameters]
            optimizer = _build(make, parameters)
            for _ in range(2):
                for p in parameters:
                    p.grad = torch.ones_like(p)
                optimizer.step()
            for old, p in zip(before, parameters, strict=True):
                if old != (p.shape, p.dtype, p.device):
                    now = (p.shape, p.dtype, p.device)
                    raise CheckFailure(f"a parameter was {old} and is {now}", "update it in place, in its own dtype")


def check_decreases_convex_loss(make: MakeOptimizer) -> None:
    """Check that 40 steps on minibatches of a least-squares problem lower its loss.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If the loss over all minibatches did not fall.

    Example:
        >>> check_decreases_convex_loss(torch.optim.SGD)
    """
    problem = regression(generator=_generator())

    def total(parameters: Sequence[Tensor]) -> float:
        return sum(problem.loss(parameters, step).item() for step in range(4))

    before, after = total(problem.parameters()), total(_trained(make, problem, steps=40))
    if not after < before:
        raise CheckFailure(f"the loss went from {before:.4g} to {after:.4g}", "step against the gradient")


def check_resume_is_exact(make: MakeOptimizer) -> None:
    """Check that a fresh object with the loaded state goes on, bit for bit, as the first one does.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If the parameters differ after three further steps.

    Example:
        >>> check_resume_is_exact(torch.optim.Adam)
    """
    problem = regression(generator=_generator())
    straight = problem.parameters()
    first = _build(make, straight)
    _train(first, straight, problem, range(3))
    first.param_groups[0]["lr"] /= 2
    resumed = [Parameter(p.detach().clone()) for p in straight]
    second = _build(make, resumed)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, parameters in ((first, straight), (second, resumed)):
        _train(optimizer, parameters, problem, range(3, 6))
    if _differing(straight, resumed):
        raise CheckFailure(
            "a resumed run differs from a straight one", "keep all that a step needs in state and param_groups"
        )


def check_missing_gradient_is_skipped(make: MakeOptimizer) -> None:
    """Check that a parameter without a gradient stays and that the others move as without it.

    They must move as if it were not there, and as if its gradient were zero.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If it moves, the others move otherwise, or it does not move once it has a gradient.

    Example:
        >>> check_missing_gradient_is_skipped(torch.optim.Adam)
    """
    problem = quadratic([(7,), (7,), (7,)], generator=_generator())
    for skipped in range(3):
        kept = [index for index in range(3) if index != skipped]

        def train(optimizer: Optimizer, parameters: list[Parameter], zero: bool, skipped: int = skipped) -> None:
            for step in range(3):
                _backward(optimizer, parameters, problem, step)
                parameters[skipped].grad = torch.zeros(7) if zero else None
                optimizer.step()

        parameters, alone, zeroed = (problem.parameters() for _ in range(3))
        optimizer = _build(make, parameters)
        train(optimizer, parameters, zero=False)
        train(_build(make, [alone[index] for index in kept]), alone, zero=False)
        train(_build(make, zeroed), zeroed, zero=True)
        if not torch.equal(parameters[skipped], alone[skipped]):
            raise CheckFailure("a parameter without a gradient moved", "skip parameters whose grad is None")
        for others, case in ((alone, "it is not there"), (zeroed, "its gradient is zero")):
            if _differing([parameters[index] for index in kept], [others[index] for index in kept]):
                raise CheckFailure(
                    f"without a gradient for parameter {skipped} of 3 the others move otherwise than where {case}",
                    "keep what belongs to a parameter by parameter, never by position",
                )
        _train(optimizer, parameters, problem, range(1))
        if torch.equal(parameters[skipped], alone[skipped]):
            raise CheckFailure("a parameter whose gradient came late did not move", "make state when it is needed")


def check_groups_have_own_lr(make: MakeOptimizer) -> None:
    """Check that two equal parameters in groups with different step sizes move differently.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If one does not move or both move alike.

    Example:
        >>> check_groups_have_own_lr(torch.optim.SGD)
    """
    start = torch.ones(7)
    lr = float(_build(make, [Parameter(start.clone())]).param_groups[0]["lr"])
    parameters = [Parameter(start.clone()) for _ in range(2)]
    optimizer = _build(make, [{"params": parameters[:1]}, {"params": parameters[1:], "lr": lr / 2}])
    for p in parameters:
        p.grad = torch.arange(1.0, 8.0)
    optimizer.step()
    if torch.equal(parameters[0], start) or torch.equal(parameters[1], start):
        raise CheckFailure("a step left one of two groups where it was", "step every group")
    if torch.equal(*parameters):
        raise CheckFailure(f"groups with lr {lr:g} and {lr / 2:g} moved alike", "read lr from the group in each step")


def check_closure(make: MakeOptimizer) -> None:
    """Check that ``step`` calls its closure with gradients enabled, uses what it made and returns its loss.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If one of these does not hold.

    Example:
        >>> check_closure(torch.optim.SGD)
    """
    problem = quadratic(generator=_generator())
    parameters = problem.parameters()
    optimizer = _build(make, parameters)
    losses: list[Tensor] = []

    def closure() -> Tensor:
        if not torch.is_grad_enabled():
            raise CheckFailure("step calls its closure without gradients", "call it under torch.enable_grad()")
        _backward(optimizer, parameters, problem, len(losses))
        losses.append(problem.loss(parameters).detach())
        return losses[-1]

    returned = optimizer.step(closure)
    if not losses:
        raise CheckFailure("step does not call its closure", "call it first and return what it returns")
    if not any(returned is loss for loss in losses):
        raise CheckFailure(f"step returns {returned!r} and not the closure's loss", "return what the closure returned")
    if not _differing(parameters, problem.parameters()):
        raise CheckFailure("step ignores the gradients that its closure makes", "call the closure before all else")


def check_finite_in_bfloat16(make: MakeOptimizer) -> None:
    """Check that ten steps in bfloat16 leave all parameters finite.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If one is not.

    Example:
        >>> check_finite_in_bfloat16(torch.optim.Adam)
    """
    parameters = _trained(make, quadratic(generator=_generator(), dtype=torch.bfloat16), steps=10)
    if not all(p.isfinite().all() for p in parameters):
        raise CheckFailure("in bfloat16 a parameter is not finite", "guard divisions for a format with 8 bits")


def check_zero_grad(make: MakeOptimizer) -> None:
    """Check that ``zero_grad`` drops the gradients, and zeroes them with ``set_to_none=False``.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If a gradient stays.

    Example:
        >>> check_zero_grad(torch.optim.SGD)
    """
    problem = quadratic(generator=_generator())
    parameters = problem.parameters()
    optimizer = _build(make, parameters)
    problem.loss(parameters).backward()
    optimizer.zero_grad(set_to_none=False)
    if any(p.grad is None or p.grad.any() for p in parameters):
        raise CheckFailure("zero_grad(set_to_none=False) does not leave zeros", "zero each gradient in place")
    problem.loss(parameters).backward()
    optimizer.zero_grad()
    if any(p.grad is not None for p in parameters):
        raise CheckFailure("zero_grad() leaves gradients", "set each gradient to None")


def check_added_group_is_stepped(make: MakeOptimizer) -> None:
    """Check that a group that is added after the first step is stepped, and that the first one goes on.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If one of the two does not move.

    Example:
        >>> check_added_group_is_stepped(torch.optim.Adam)
    """
    problem = quadratic([(7,), (4, 3)], generator=_generator())
    parameters = problem.parameters()
    optimizer = _build(make, parameters[:1])
    _train(optimizer, parameters, problem, range(1))
    optimizer.add_param_group({"params": parameters[1:]})
    before = [p.detach().clone() for p in parameters]
    _train(optimizer, parameters, problem, range(1, 2))
    if len(_differing(parameters, before)) < 2:
        raise CheckFailure("after a group was added not every group moves", "make state when it is needed")


def check_parameter_order(make: MakeOptimizer) -> None:
    """Check that the parameters move the same, up to rounding, when they are given in reverse.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If they do not.

    Example:
        >>> check_parameter_order(torch.optim.Adam)
    """
    problem = quadratic([(7,), (7,), (4, 3)], generator=_generator(), dtype=torch.float64)
    forward = _trained(make, problem, steps=4)
    backward = problem.parameters()
    _train(_build(make, backward[::-1]), backward, problem, range(4))
    if not all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(forward, backward, strict=True)):
        raise CheckFailure("in reverse order the parameters move otherwise", "keep state by parameter, share none")


def check_null(make_null: MakeOptimizer, make_baseline: MakeOptimizer) -> None:
    """Check that a method at its null setting takes the steps of its baseline, bit for bit.

    Args:
        make_null: Makes the method at its null setting; see `check_meets_protocol`.
        make_baseline: Makes the baseline.

    Raises:
        CheckFailure: If any parameter differs after any of five steps.

    Example:
        >>> from functools import partial
        >>> check_null(partial(torch.optim.SGD, lr=0.1, momentum=0.0), partial(torch.optim.SGD, lr=0.1))
    """
    for dtype in (torch.float32, torch.float64):
        for problem in (
            quadratic(generator=_generator(), dtype=dtype),
            regression(generator=_generator(), dtype=dtype),
        ):
            for steps in range(1, 6):
                null, baseline = (_trained(make, problem, steps) for make in (make_null, make_baseline))
                if differing := _differing(null, baseline):
                    raise CheckFailure(
                        f"after step {steps} parameters of {dtype} and shapes {', '.join(differing)} differ",
                        "at the null setting take the baseline's operations in the baseline's order",
                    )


OPTIMIZER_LAWS: Laws[OptimizerSubject] = {
    check_meets_protocol: always,
    check_repeatable_steps: always,
    check_steps_leave_random_state: always,
    check_gradients_unmodified: always,
    check_zero_lr_is_identity: always,
    check_dtype_and_device_preserved: always,
    check_decreases_convex_loss: always,
    check_resume_is_exact: always,
    check_missing_gradient_is_skipped: always,
    check_groups_have_own_lr: always,
    check_closure: always,
    check_finite_in_bfloat16: always,
    check_zero_grad: always,
    check_added_group_is_stepped: always,
    check_parameter_order: always,
    check_null: declares_null,
}


def optimizer_checks(subject: OptimizerSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "optimizer".

    Args:
        subject: What the test of the optimizer declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> optimizer_checks(OptimizerSubject(make=torch.optim.Adam))["check_closure"]()
    """
    pair = (subject.null, subject.baseline)
    return selected(OPTIMIZER_LAWS, subject, lambda check: pair if check is check_null else (subject.make,))


def check_optimizer(
    make: MakeOptimizer, *, null: MakeOptimizer | None = None, baseline: MakeOptimizer | None = None
) -> CheckReport:
    """Run all checks of the kind "optimizer".

    Args:
        make: An optimizer class, or a function that takes parameters, or groups of them, and the keyword ``lr``. A
            required ``lr`` is given as 0.1; every other argument needs a default.
        null: Makes the method at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> check_optimizer(torch.optim.SGD).passed
        True
    """
    return run_checks(optimizer_checks(OptimizerSubject(make=make, null=null, baseline=baseline)))
