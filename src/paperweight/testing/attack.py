"""Checks of the kind "attack"."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.testing.calls import (
    Keywords,
    devices,
    generator_keyword,
    require_repeatable,
    require_states_untouched,
    require_unmodified,
)
from paperweight.testing.classifiers import CLASSES, IMAGE, linear_classifier, toy_classifier, toy_images
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import seeded
from paperweight.testing.report import CheckFailure, CheckReport, NotApplicable, Subject, run_checks
from paperweight.testing.values import close, identical

__all__ = [
    "ATTACK_LAWS",
    "AttackSubject",
    "attack_checks",
    "best_step",
    "check_attack",
    "check_dtype_and_device_preserved",
    "check_global_random_state",
    "check_gradient_mode",
    "check_inputs_unmodified",
    "check_inside_the_ball",
    "check_inside_the_range",
    "check_meets_protocol",
    "check_model_unmodified",
    "check_null",
    "check_optimum_on_linear_model",
    "check_repeatable",
    "check_samples_are_independent",
]

DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSubject(Subject):
    """What the test of an attack declares.

    ``make``, ``null`` and ``baseline`` take its keywords and give what is called as ``(model, inputs, labels)``: the
    class itself, or for a function ``f`` of these and keywords ``partial(partial, f)``. With a radius, ``null`` is the
    attack at radius 0 and ``baseline`` gives what returns its inputs.

    Args:
        norm: The norm in which a change is measured: 1, 2 or ``math.inf``.
        radius: Largest change of one input that ``make`` allows, above 0; None for an attack that has no radius and
            looks for the smallest change.
        range: Smallest and largest entry of an input; infinities where there is no bound.
        shape: Shape of one input: channels, height and width.
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        targeted: Whether the labels are those that the model shall give.
        slack: On a linear model, largest shortfall from the closed form, relative to it.

    Raises:
        ValueError: If the norm is another, the radius is not above 0, or one with a radius has no ``null``.

    Example:
        >>> def fgsm(model, inputs, labels, eps=0.1):
        ...     given = inputs.detach().requires_grad_()
        ...     gradient = torch.autograd.grad(nn.functional.cross_entropy(model(given), labels), given)[0]
        ...     return (inputs + eps * gradient.sign()).clamp(0, 1)
        >>> unchanged = lambda: lambda model, inputs, labels: inputs
        >>> null = partial(partial, fgsm, eps=0.0)
        >>> AttackSubject(make=partial(partial, fgsm), norm=math.inf, radius=0.1, null=null, baseline=unchanged).radius
        0.1
    """

    norm: float
    radius: float | None
    range: tuple[float, float] = (0.0, 1.0)
    shape: tuple[int, int, int] = IMAGE
    random: bool = False
    targeted: bool = False
    slack: float = 1e-3

    def __post_init__(self) -> None:
        Subject.__post_init__(self)
        if self.norm not in DUAL:
            raise ValueError(f"norm must be 1, 2 or math.inf, got {self.norm}")
        if self.radius is not None and not self.radius > 0:
            raise ValueError(f"radius must be above 0, got {self.radius}; give None for an attack without one")
        if self.radius is not None and self.null is None:
            raise ValueError("null must be given for an attack with a radius: the attack at radius 0")

    def use(self, **given: Any) -> object:
        """Make the attack with these keywords and attack a small network."""
        model, inputs, labels = _problem(self)
        return self.make(**given)(model, inputs, labels, **generator_keyword(self.random))


def _in_range(subject: AttackSubject, images: Tensor) -> Tensor:
    low, high = subject.range
    return low + (high - low) * images if math.isfinite(high - low) else images


def _problem(subject: AttackSubject) -> tuple[nn.Module, Tensor, Tensor]:
    """Give a network, inputs some of whose entries are at the ends of the range, and labels."""
    images = (1.2 * toy_images(8, subject.shape) - 0.1).clamp(0, 1)
    return toy_classifier(subject.shape), _in_range(subject, images), torch.arange(8) % CLASSES


def _attacked(subject: AttackSubject, make: Callable[..., Any] | None = None) -> tuple[Tensor, Tensor]:
    """Give the inputs of the problem and what they become."""
    model, inputs, labels = _problem(subject)
    attack = (make or subject.make)()
    return inputs, attack(model, inputs.clone(), labels, **generator_keyword(subject.random))


def _sizes(change: Tensor, norm: float) -> Tensor:
    return torch.linalg.vector_norm(change.flatten(1).double(), norm, dim=1)


def best_step(slope: Tensor, low: Tensor, high: Tensor, norm: float, radius: float) -> Tensor:
    """Give the step d with the smallest <slope, d> in a box and a ball around 0, in closed form.

    Args:
        slope: Shape ``(samples, features)``.
        low: Lower ends of the box, at most 0, same shape.
        high: Upper ends of the box, at least 0, same shape.
        norm: Norm of the ball: 1, 2 or ``math.inf``.
        radius: Radius of the ball.

    Returns:
        The steps, same shape. For norm 1 the steepest entries go to the end of the box one after the other; for norm 2
        all entries follow the slope, cut off by the box, until the ball's surface is reached.

    Example:
        >>> slope, box = torch.tensor([[-3.0, -4.0]]), torch.ones(1, 2)
        >>> [best_step(slope, -box, box, norm, 1.0).tolist() for norm in (1.0, math.inf)]
        [[[0.0, 1.0]], [[1.0, 1.0]]]
    """
    farthest = torch.where(slope > 0, low, high) * (slope != 0)
    if norm == math.inf:
        return farthest.clamp(-radius, radius)
    if norm == 1:
        order = slope.abs().argsort(dim=1, descending=True)
        most = farthest.gather(1, order)
        left = (radius - most.abs().cumsum(1) + most.abs()).clamp(min=0)
        return torch.zeros_like(slope).scatter(1, order, most.sign() * torch.minimum(most.abs(), left))
    shortest, longest = torch.zeros_like(slope[:, :1]), torch.full_like(slope[:, :1], 1e9)
    for _ in range(100):
        middle = (shortest + longest) / 2
        inside = torch.minimum(torch.maximum(-middle * slope, low), high).norm(dim=1, keepdim=True) <= radius
        shortest, longest = torch.where(inside, middle, shortest), torch.where(inside, longest, middle)
    return torch.minimum(torch.maximum(-shortest * slope, low), high)


def check_meets_protocol(subject: AttackSubject) -> None:
    """Check that it gives finite inputs of the same shape, and no graph with them.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_meets_protocol(AttackSubject(make=negative, norm=2.0, radius=None))
    """
    inputs, results = _attacked(subject)
    if not isinstance(results, Tensor) or results.shape != inputs.shape:
        got = tuple(results.shape) if isinstance(results, Tensor) else type(results).__name__
        raise CheckFailure(f"inputs of shape {tuple(inputs.shape)} give {got}", "give the changed inputs alone")
    if not results.isfinite().all():
        raise CheckFailure("a result is not finite", "guard divisions by the norm of a gradient, which may be 0")
    if results.requires_grad:
        raise CheckFailure("the results require gradients", "detach them")


def check_inside_the_ball(subject: AttackSubject) -> None:
    """Check that each result is within the radius of its original; rounding may add 1e-5 of it.

    Args:
        subject: What is declared of the attack, with a radius.

    Raises:
        CheckFailure: If one is not.

    Example:
        >>> unchanged = lambda: lambda model, inputs, labels: inputs
        >>> radius_1 = AttackSubject(make=unchanged, norm=2.0, radius=1.0, null=unchanged, baseline=unchanged)
        >>> check_inside_the_ball(radius_1)
    """
    if subject.radius is None:
        raise CheckFailure("no radius is declared", "declare one")
    inputs, results = _attacked(subject)
    size = _sizes(results - inputs, subject.norm).max().item()
    if not size <= subject.radius * (1 + 1e-5) + 1e-6:
        raise CheckFailure(
            f"a change has norm {size:.7g}, above the radius {subject.radius:g}", "project each input onto the ball"
        )


def check_inside_the_range(subject: AttackSubject) -> None:
    """Check that every entry of the results is within the input range.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If one is not.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_inside_the_range(AttackSubject(make=negative, norm=2.0, radius=None, range=(-1.0, 1.0)))
    """
    _, results = _attacked(subject)
    low, high = subject.range
    if not ((results >= low) & (results <= high)).all():
        span = f"{results.min().item():g} to {results.max().item():g}"
        raise CheckFailure(f"results are within {span}, not within {low:g} to {high:g}", "clamp them, as the last step")


def check_optimum_on_linear_model(subject: AttackSubject) -> None:
    """Check that on a linear model it does what the closed form allows.

    With a radius, the fall of the margin must be that of the best step in ball and range; without, every input must be
    misclassified, by a change as small as the distance to the boundary. The slack is relative to these.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If an input falls short by more than the slack.

    Example:
        >>> def nearest(model, inputs, labels):
        ...     weight = (model[1].weight[1] - model[1].weight[0]).detach()
        ...     margin = (inputs - 0.5).flatten(1) @ weight
        ...     return inputs - (1.0001 * margin / weight.square().sum())[:, None, None, None] * weight.view(1, 4, 4)
        >>> check_optimum_on_linear_model(AttackSubject(make=lambda: nearest, norm=2.0, radius=None))
    """
    low, high = subject.range
    middle = (low + high) / 2 if math.isfinite(high - low) else 0.0
    width = high - low if math.isfinite(high - low) else 1.0
    model = linear_classifier(subject.shape, middle)
    inputs = middle + 0.2 * width * (toy_images(16, subject.shape) - 0.5)
    predicted = model(inputs).argmax(1)
    labels = 1 - predicted if subject.targeted else predicted
    results = subject.make()(model, inputs.clone(), labels, **generator_keyword(subject.random))
    weight = next(model.parameters()).detach().double()
    slope = (weight[1] - weight[0]) * (2 * predicted - 1)[:, None]
    flat, changed = inputs.flatten(1).double(), results.flatten(1).double()
    if subject.radius is not None:
        best = (slope * best_step(slope, low - flat, high - flat, subject.norm, subject.radius)).sum(1)
        done = (slope * (changed - flat)).sum(1)
        worst = int((done / best).argmin())
        if not (done <= best * (1 - subject.slack)).all():
            raise CheckFailure(
                f"on a linear model it lowers a margin by {-done[worst]:g}, the optimum is {-best[worst]:g}",
                "follow the sign that raises the loss, with the steps that the ball allows, each input on its own",
            )
        return
    margin = (slope * (changed - middle)).sum(1)
    if not (margin < 0).all():
        raise CheckFailure(
            f"on a linear model {int((margin >= 0).sum())} of 16 inputs stay as they were classified",
            "keep for each input a result that is misclassified",
        )
    nearest = (slope * (flat - middle)).sum(1) / torch.linalg.vector_norm(slope, DUAL[subject.norm], dim=1)
    ratio = (_sizes(results - inputs, subject.norm) / nearest).max().item()
    if not ratio <= 1 + subject.slack:
        raise CheckFailure(
            f"on a linear model a change is {ratio:g} times the distance to the boundary",
            "keep for each input the nearest result that is misclassified",
        )


def check_model_unmodified(subject: AttackSubject) -> None:
    """Check that weights, buffers, gradients, modes and hooks of the model stay as they were, in both modes.

    The model has gradients, and one parameter that requires none.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If one changes.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_model_unmodified(AttackSubject(make=negative, norm=2.0, radius=None))
    """
    for training in (False, True):
        model, inputs, labels = _problem(subject)
        model.train(training)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        next(model.parameters()).requires_grad_(False)
        call = partial(subject.make(), model, inputs, labels, **generator_keyword(subject.random))
        require_unmodified(call, model, f"the model in {'train' if training else 'eval'} mode")


def check_inputs_unmodified(subject: AttackSubject) -> None:
    """Check that inputs and labels keep their values, and the inputs are not made to require gradients.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If one changes.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_inputs_unmodified(AttackSubject(make=negative, norm=2.0, radius=None))
    """
    model, inputs, labels = _problem(subject)
    call = partial(subject.make(), model, inputs, labels, **generator_keyword(subject.random))
    require_unmodified(call, {"inputs": inputs, "labels": labels}, "what it is given")
    if inputs.requires_grad:
        raise CheckFailure("the inputs require gradients after a call", "differentiate by a detached copy")


def check_gradient_mode(subject: AttackSubject) -> None:
    """Check that it gives the same where gradients are switched off, and leaves them as they were.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_gradient_mode(AttackSubject(make=negative, norm=2.0, radius=None))
    """
    with seeded(0):
        _, expected = _attacked(subject)
    with torch.no_grad(), seeded(0):
        try:
            _, results = _attacked(subject)
        except RuntimeError as error:
            raise CheckFailure(f"within torch.no_grad it raises {error}", "use torch.enable_grad within") from error
        left = torch.is_grad_enabled()
    if left:
        raise CheckFailure("within torch.no_grad it switches gradients on", "use torch.enable_grad as a context")
    if not identical(results, expected):
        raise CheckFailure("within torch.no_grad the results differ", "use torch.enable_grad within")


def check_samples_are_independent(subject: AttackSubject) -> None:
    """Check that the first inputs alone become what they become within the batch, up to 1e-5.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If one does not.
        NotApplicable: If it depends on the global random state, see `check_repeatable`.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_samples_are_independent(AttackSubject(make=negative, norm=2.0, radius=None))
    """
    model, inputs, labels = _problem(subject)
    attack = subject.make()
    with seeded(0):
        together = attack(model, inputs, labels)
    with seeded(1):
        again = attack(model, inputs, labels)
    if not identical(together, again):
        raise NotApplicable("it draws from the global random state, so that two calls differ whatever the batch")
    alone = attack(model, inputs[:3], labels[:3])
    if not close(together[:3], alone, 1e-5):
        raise CheckFailure(
            f"alone an input becomes another, by {(together[:3] - alone).abs().max():g}",
            "sum the loss over the batch, and take norms and decisions input by input",
        )


def check_repeatable(subject: AttackSubject) -> None:
    """Check that the same generator gives the same bits, whatever the global random state.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_repeatable(AttackSubject(make=negative, norm=2.0, radius=None))
    """
    model, inputs, labels = _problem(subject)

    def call(keyword: Keywords) -> object:
        return subject.make()(model, inputs, labels, **keyword)

    # Two random starts may well end in the same corner of the ball.
    require_repeatable(call, subject.random, another_differs=False)


def check_global_random_state(subject: AttackSubject) -> None:
    """Check that a call leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_global_random_state(AttackSubject(make=negative, norm=2.0, radius=None))
    """
    require_states_untouched(lambda: _attacked(subject))


def check_dtype_and_device_preserved(subject: AttackSubject) -> None:
    """Check that the results have the dtype and device of the inputs, in float32 and float64.

    Args:
        subject: What is declared of the attack.

    Raises:
        CheckFailure: If they have another.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> check_dtype_and_device_preserved(AttackSubject(make=negative, norm=2.0, radius=None))
    """
    for device in devices():
        for dtype in (torch.float32, torch.float64):
            model, inputs, labels = _problem(subject)
            keyword = generator_keyword(subject.random, device=device)
            results = subject.make()(model.to(device, dtype), inputs.to(device, dtype), labels.to(device), **keyword)
            if (results.dtype, results.device.type) != (dtype, device):
                raise CheckFailure(
                    f"{dtype} on {device} gives {results.dtype} on {results.device}",
                    "make new tensors with the dtype and device of the inputs, such as inputs.new_zeros",
                )


def check_null(subject: AttackSubject) -> None:
    """Check that at its null setting it gives what its baseline gives, bit for bit.

    Args:
        subject: What is declared of the attack, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If one result differs.

    Example:
        >>> unchanged = lambda: lambda model, inputs, labels: inputs
        >>> check_null(AttackSubject(make=unchanged, norm=2.0, radius=1.0, null=unchanged, baseline=unchanged))
    """
    (_, null), (_, baseline) = _attacked(subject, subject.null), _attacked(subject, subject.baseline)
    if not identical(null, baseline):
        raise CheckFailure(
            "at the null setting the results differ from the baseline's",
            "at radius 0 return the inputs, without a detour through other numbers",
        )


ATTACK_LAWS: Laws[AttackSubject] = {
    check_meets_protocol: always,
    check_inside_the_range: always,
    check_optimum_on_linear_model: always,
    check_model_unmodified: always,
    check_inputs_unmodified: always,
    check_gradient_mode: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_dtype_and_device_preserved: always,
    check_inside_the_ball: lambda subject: subject.radius is not None,
    check_samples_are_independent: lambda subject: not subject.random,
    check_null: declares_null,
}


def attack_checks(subject: AttackSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "attack".

    Args:
        subject: What the test of the attack declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> negative = lambda: lambda model, inputs, labels: -inputs
        >>> attack_checks(AttackSubject(make=negative, norm=2.0, radius=None))["check_repeatable"]()
    """
    return selected(ATTACK_LAWS, subject)


def check_attack(
    make: Callable[..., Any],
    *,
    norm: float,
    radius: float | None,
    range: tuple[float, float] = (0.0, 1.0),
    shape: tuple[int, int, int] = IMAGE,
    random: bool = False,
    targeted: bool = False,
    slack: float = 1e-3,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "attack".

    Args:
        make: A class whose arguments all have defaults, or a function that makes what is called as ``(model, inputs,
            labels)``; for a function ``f`` of these and keywords ``partial(partial, f)``.
        norm: The norm in which a change is measured: 1, 2 or ``math.inf``.
        radius: Largest change of one input, above 0; None for an attack that looks for the smallest change.
        range: Smallest and largest entry of an input; infinities where there is no bound.
        shape: Shape of one input: channels, height and width.
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        targeted: Whether the labels are those that the model shall give.
        slack: On a linear model, largest shortfall from the closed form, relative to it.
        null: Makes it at its null setting, radius 0 where there is a radius.
        baseline: Makes what ``null`` must equal; for radius 0 what returns its inputs.

    Returns:
        One result a check.

    Raises:
        ValueError: If the norm is another, the radius is not above 0, or one with a radius has no ``null``.

    Example:
        >>> report = check_attack(lambda: lambda model, inputs, labels: inputs, norm=2.0, radius=None)
        >>> [result.name for result in report.failures]
        ['check_optimum_on_linear_model']
    """
    subject = AttackSubject(
        make=make,
        norm=norm,
        radius=radius,
        range=range,
        shape=shape,
        random=random,
        targeted=targeted,
        slack=slack,
        null=null,
        baseline=baseline,
    )
    return run_checks(attack_checks(subject))
