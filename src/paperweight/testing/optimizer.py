"""Checks of the kind "optimizer"; each takes a class or function that makes one from parameters and ``lr``."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import Parameter

from paperweight.kinds import Optimizer
from paperweight.testing.asking import ask, is_refusal, refusing, takes_lr
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.optimizing import STEPS, MakeOptimizer, advance, backward, build, evaluating, train, trained
from paperweight.testing.problems import quadratic, regression
from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure, CheckReport, NotApplicable, Subject, run_checks

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
    "check_steps_plainly",
    "check_takes_every_shape",
    "check_zero_grad",
    "check_zero_lr_is_identity",
    "optimizer_checks",
]


RANDOM = "its steps draw from the global random state, so that two runs differ whatever is changed"
"""Why laws that compare two runs do not apply to an optimizer that `check_repeatable_steps` fails."""


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
        return build(self.make, [Parameter(torch.ones(3))], **given)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _differing(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[str]:
    """Name the shapes of the pairs that differ in a bit."""
    return [
        str(tuple(a.shape)) for a, b in zip(first, second, strict=True) if not torch.equal(a.to_dense(), b.to_dense())
    ]


def check_meets_protocol(make: MakeOptimizer) -> None:
    """Check that it builds from parameters and a step size and has every member of `paperweight.kinds.Optimizer`.

    Args:
        make: Takes parameters, or groups of them, and the keyword ``lr``; gives the optimizer.

    Raises:
        CheckFailure: If a member is missing or the parameters are not in ``param_groups``.

    Example:
        >>> check_meets_protocol(torch.optim.SGD)
    """
    parameters = ask(make).fitted(quadratic(generator=_generator())).parameters()
    optimizer = build(make, parameters)
    if not isinstance(optimizer, Optimizer):
        missing = [name for name in dir(Optimizer) if not name.startswith("_") and not hasattr(optimizer, name)]
        raise CheckFailure(f"the object lacks {', '.join(missing)}", "derive it from torch.optim.Optimizer")
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    if held != [id(p) for p in parameters]:
        raise CheckFailure("param_groups do not hold the parameters in their order", "keep the given objects")


def check_takes_every_shape(make: MakeOptimizer) -> None:
    """Check that it steps a parameter of any shape and strides: a scalar, vectors, a matrix, one of four dimensions.

    The other laws are judged by those that it steps.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If a shape raises what is no refusal, see `paperweight.testing.asking.is_refusal`.
        NotApplicable: If it refuses shapes in its own words.

    Example:
        >>> check_takes_every_shape(torch.optim.Muon)
        Traceback (most recent call last):
        ...
        paperweight.testing.report.NotApplicable: it refuses parameters of shapes (), (1,), (2,), (7,), ...
    """
    taken = ask(make)
    for shape, error in taken.raised.items():
        if not is_refusal(error):
            raise CheckFailure(
                f"a parameter of shape {shape} raises {type(error).__name__}: {error}",
                "step it, or refuse it by a ValueError that names the shape",
            )
    if taken.strided is not None:
        raise CheckFailure(
            f"a parameter that is not stored contiguously raises {type(taken.strided).__name__}: {taken.strided}",
            "use reshape in place of view",
        )
    if taken.raised:
        shapes, error = ", ".join(map(str, taken.raised)), next(iter(taken.raised.values()))
        raise NotApplicable(f"it refuses parameters of shapes {shapes}: {error}")


def check_steps_plainly(make: MakeOptimizer) -> None:
    """Check that it steps without a closure, on gradients that ``backward()`` made.

    Where only another way works, with a closure, by gradients that can be differentiated or by sparse ones, the other
    laws are judged in that way.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If that raises what is no refusal, see `paperweight.testing.asking.is_refusal`.
        NotApplicable: If it refuses that in its own words.

    Example:
        >>> check_steps_plainly(torch.optim.LBFGS)
        Traceback (most recent call last):
        ...
        paperweight.testing.report.NotApplicable: it refuses a plain step: step must be given its argument closure
    """
    taken = ask(make)
    if taken.plainly is None:
        return
    if not is_refusal(taken.plainly):
        raise CheckFailure(
            f"a plain step raises {type(taken.plainly).__name__}: {taken.plainly}",
            "step by p.grad, or refuse by a ValueError that names what is missing",
        )
    raise NotApplicable(f"it refuses a plain step: {taken.plainly}")


def check_repeatable_steps(make: MakeOptimizer) -> None:
    """Check that the same start gives the same steps, whatever the global random state.

    Args:
        make: See `check_meets_protocol`; where the steps are random it gives each optimizer an equal generator.

    Raises:
        CheckFailure: If two runs differ in a bit.

    Example:
        >>> check_repeatable_steps(torch.optim.Adam)
    """
    taken, runs = ask(make), []
    problem = taken.fitted(quadratic(generator=_generator()))
    for seed in (0, 1):
        with seeded(seed):
            runs.append(trained(make, taken.way, problem, steps=3))
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
    taken = ask(make)
    problem = taken.fitted(quadratic(generator=_generator()))
    changed = changed_random_states(lambda: trained(make, taken.way, problem, steps=3))
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
    taken = ask(make)
    problem = taken.fitted(quadratic(generator=_generator()))
    parameters = problem.parameters()
    optimizer = build(make, parameters)
    gradients: list[Tensor] = []
    values: list[Tensor] = []

    def noting() -> Tensor:
        loss = backward(optimizer, problem.loss(parameters, 0), taken.way)
        gradients[:] = [p.grad for p in parameters if p.grad is not None]
        values[:] = [gradient.clone() for gradient in gradients]
        return loss

    for _ in range(3):
        advance(optimizer, taken.way, noting)
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
        NotApplicable: If it or its groups have no ``lr``, or it refuses 0.

    Example:
        >>> check_zero_lr_is_identity(torch.optim.SGD)
    """
    if not takes_lr(make):
        raise NotApplicable("it has no argument lr")
    taken = ask(make)
    problem = taken.fitted(quadratic(generator=_generator()))
    with refusing("lr=0"):
        if build(make, problem.parameters(), lr=0.0).param_groups[0].get("lr") is None:
            raise NotApplicable("its groups have no lr")
        after = trained(make, taken.way, problem, steps=3, lr=0.0)
    if moved := _differing(after, problem.parameters()):
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
    taken = ask(make)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            parameters = taken.fitted(quadratic(generator=_generator(), dtype=dtype)).parameters()
            parameters = [Parameter(p.detach().to(device)) for p in parameters]
            before = [(p.shape, p.dtype, p.device) for p in parameters]
            optimizer = build(make, parameters)

            def gradients(optimizer: Optimizer = optimizer, parameters: list[Parameter] = parameters) -> Tensor:
                loss = torch.stack([p.square().sum() for p in parameters]).sum()
                return backward(optimizer, loss, taken.way)

            for _ in range(2):
                advance(optimizer, taken.way, gradients)
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
    taken = ask(make)
    problem = taken.fitted(regression(generator=_generator()))

    def total(parameters: Sequence[Tensor]) -> float:
        return sum(problem.loss(parameters, step).item() for step in range(4))

    before, after = total(problem.parameters()), total(trained(make, taken.way, problem, steps=40))
    if not after < before:
        raise CheckFailure(f"the loss went from {before:.4g} to {after:.4g}", "step against the gradient")


def check_resume_is_exact(make: MakeOptimizer) -> None:
    """Check that a fresh object with the loaded state goes on, bit for bit, as the first one does.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If the parameters differ after three further steps, in train or in eval mode where there are such.

    Example:
        >>> check_resume_is_exact(torch.optim.Adam)
    """
    taken = ask(make)
    problem = taken.fitted(regression(generator=_generator()))
    straight = problem.parameters()
    first = build(make, straight)
    train(first, taken.way, straight, problem, range(3))
    if first.param_groups[0].get("lr") is not None:
        first.param_groups[0]["lr"] /= 2
    resumed = [Parameter(p.detach().clone()) for p in straight]
    second = build(make, resumed)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, parameters in ((first, straight), (second, resumed)):
        with seeded(0):
            train(optimizer, taken.way, parameters, problem, range(3, 6))
    differ = _differing(straight, resumed)
    for optimizer in (first, second):
        evaluating(optimizer)
    if differ or _differing(straight, resumed):
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
        NotApplicable: If its steps depend on the global random state.

    Example:
        >>> check_missing_gradient_is_skipped(torch.optim.Adam)
    """
    taken = ask(make)
    if taken.random:
        raise NotApplicable(RANDOM)
    problem = taken.fitted(quadratic([taken.like((7,))] * 3, generator=_generator()))
    for skipped in range(3):
        kept = [index for index in range(3) if index != skipped]

        def skip(optimizer: Optimizer, parameters: list[Parameter], zero: bool, skipped: int = skipped) -> None:
            def gradients() -> Tensor:
                loss = backward(optimizer, problem.loss(parameters, 0), taken.way)
                gradient = parameters[skipped].grad
                parameters[skipped].grad = gradient * 0 if zero and gradient is not None else None
                return loss

            for _ in range(3):
                advance(optimizer, taken.way, gradients)

        parameters, alone, zeroed = (problem.parameters() for _ in range(3))
        optimizer = build(make, parameters)
        skip(optimizer, parameters, zero=False)
        skip(build(make, [alone[index] for index in kept]), alone, zero=False)
        skip(build(make, zeroed), zeroed, zero=True)
        if not torch.equal(parameters[skipped], alone[skipped]):
            raise CheckFailure("a parameter without a gradient moved", "skip parameters whose grad is None")
        for others, case in ((alone, "it is not there"), (zeroed, "its gradient is zero")):
            if _differing([parameters[index] for index in kept], [others[index] for index in kept]):
                raise CheckFailure(
                    f"without a gradient for parameter {skipped} of 3 the others move otherwise than where {case}",
                    "keep what belongs to a parameter by parameter, never by position",
                )
        train(optimizer, taken.way, parameters, problem, range(STEPS))
        if torch.equal(parameters[skipped], alone[skipped]):
            raise CheckFailure("a parameter whose gradient came late did not move", "make state when it is needed")


def check_groups_have_own_lr(make: MakeOptimizer) -> None:
    """Check that two equal parameters in groups with different step sizes move differently.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If after some steps one has not moved or both have moved alike.
        NotApplicable: If it has no ``lr``, or refuses groups that differ in it.

    Example:
        >>> check_groups_have_own_lr(torch.optim.SGD)
    """
    taken = ask(make)
    start = torch.ones(taken.like((7,)))
    slopes = torch.arange(1.0, 1.0 + start.numel()).view_as(start)
    lr = build(make, [Parameter(start.clone())]).param_groups[0].get("lr")
    if lr is None:
        raise NotApplicable("its groups have no lr")
    parameters = [Parameter(start.clone()) for _ in range(2)]
    with refusing("groups with different lr"):
        optimizer = build(make, [{"params": parameters[:1]}, {"params": parameters[1:], "lr": float(lr) / 2}])

        def gradients() -> Tensor:
            loss = torch.stack([(slopes * p.square()).sum() for p in parameters]).sum() / 2
            return backward(optimizer, loss, taken.way)

        for _ in range(STEPS):
            advance(optimizer, taken.way, gradients)
    if torch.equal(parameters[0], start) or torch.equal(parameters[1], start):
        raise CheckFailure(f"{STEPS} steps left one of two groups where it was", "step every group")
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
    taken = ask(make)
    problem = taken.fitted(quadratic(generator=_generator()))
    parameters = problem.parameters()
    optimizer = build(make, parameters)
    losses: list[Tensor] = []

    def closure() -> Tensor:
        if not torch.is_grad_enabled():
            raise CheckFailure("step calls its closure without gradients", "call it under torch.enable_grad()")
        loss = backward(optimizer, problem.loss(parameters, 0), taken.way)
        losses.append(loss.detach())
        return losses[-1]

    for _ in range(STEPS):
        losses.clear()
        for p in parameters:
            p.grad = None
        if taken.way.closure and taken.way.before:
            closure()
        with refusing("a closure"):
            returned = optimizer.step(closure)
        if not losses:
            raise CheckFailure("step does not call its closure", "call it first and return what it returns")
        if not any(returned is loss for loss in losses):
            raise CheckFailure(
                f"step returns {returned!r} and not the closure's loss", "return what the closure returned"
            )
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
    taken = ask(make)
    problem = taken.fitted(quadratic(generator=_generator(), dtype=torch.bfloat16))
    parameters = trained(make, taken.way, problem, steps=10)
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
    problem = ask(make).fitted(quadratic(generator=_generator()))
    parameters = problem.parameters()
    optimizer = build(make, parameters)
    problem.loss(parameters, 0).backward()
    optimizer.zero_grad(set_to_none=False)
    if any(p.grad is None or p.grad.any() for p in parameters):
        raise CheckFailure("zero_grad(set_to_none=False) does not leave zeros", "zero each gradient in place")
    problem.loss(parameters, 0).backward()
    optimizer.zero_grad()
    if any(p.grad is not None for p in parameters):
        raise CheckFailure("zero_grad() leaves gradients", "set each gradient to None")


def check_added_group_is_stepped(make: MakeOptimizer) -> None:
    """Check that a group that is added after the first step is stepped, and that the first one goes on.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If after some steps one of the two has not moved.
        NotApplicable: If it refuses a second group.

    Example:
        >>> check_added_group_is_stepped(torch.optim.Adam)
    """
    taken = ask(make)
    problem = taken.fitted(quadratic([taken.like((7,)), taken.like((4, 3))], generator=_generator()))
    parameters = problem.parameters()
    optimizer = build(make, parameters[:1])
    train(optimizer, taken.way, parameters, problem, range(1))
    with refusing("a second group of parameters"):
        optimizer.add_param_group({"params": parameters[1:]})
    before = [p.detach().clone() for p in parameters]
    train(optimizer, taken.way, parameters, problem, range(STEPS))
    if len(_differing(parameters, before)) < 2:
        raise CheckFailure("after a group was added not every group moves", "make state when it is needed")


def check_parameter_order(make: MakeOptimizer) -> None:
    """Check that the parameters move the same, up to rounding, when they are given in reverse.

    Args:
        make: See `check_meets_protocol`.

    Raises:
        CheckFailure: If they do not.
        NotApplicable: If its steps depend on the global random state.

    Example:
        >>> check_parameter_order(torch.optim.Adam)
    """
    taken = ask(make)
    if taken.random:
        raise NotApplicable(RANDOM)
    shapes = [taken.like(shape) for shape in ((7,), (7,), (4, 3))]
    problem = taken.fitted(quadratic(shapes, generator=_generator(), dtype=torch.float64))
    first, last = problem.parameters(), problem.parameters()
    for parameters, given in ((first, first), (last, last[::-1])):
        train(build(make, given), taken.way, parameters, problem, range(4))
    if not all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(first, last, strict=True)):
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
    taken, ways = ask(make_null), [(make, ask(make).way) for make in (make_null, make_baseline)]
    for dtype in (torch.float32, torch.float64):
        for problem in (
            taken.fitted(quadratic(generator=_generator(), dtype=dtype)),
            taken.fitted(regression(generator=_generator(), dtype=dtype)),
        ):
            for steps in range(1, 6):
                null, baseline = (trained(make, way, problem, steps) for make, way in ways)
                if differing := _differing(null, baseline):
                    raise CheckFailure(
                        f"after step {steps} parameters of {dtype} and shapes {', '.join(differing)} differ",
                        "at the null setting take the baseline's operations in the baseline's order",
                    )


OPTIMIZER_LAWS: Laws[OptimizerSubject] = {
    check_meets_protocol: always,
    check_takes_every_shape: always,
    check_steps_plainly: always,
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
