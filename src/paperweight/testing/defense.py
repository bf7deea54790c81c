"""Checks of the kind "defense"."""

from collections.abc import Callable
from dataclasses import dataclass
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
from paperweight.testing.classifiers import IMAGE, linear_classifier, toy_classifier, toy_images
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import identical

__all__ = [
    "DEFENSE_LAWS",
    "DefenseSubject",
    "check_certificates_hold",
    "check_defense",
    "check_dtype_and_device_preserved",
    "check_global_random_state",
    "check_gradients_are_not_masked",
    "check_inputs_unmodified",
    "check_meets_protocol",
    "check_model_unmodified",
    "check_null",
    "check_repeatable",
    "check_stronger_attack_is_not_weaker",
    "defense_checks",
]

Certify = Callable[[Any, Tensor], tuple[Tensor, Tensor]]
RADII = (0.0, 0.05, 0.1, 0.2, 0.4)
STEPS = (1, 4, 16)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DefenseSubject(Subject):
    """What the test of a defense declares.

    ``make``, ``null`` and ``baseline`` take a classifier, and keywords, and give the defended model. ``null`` is the
    defense at strength 0 and ``baseline`` gives the classifier itself. A defense that must be fitted is fitted by
    ``make``.

    Args:
        shape: Shape of one input: channels, height and width; its entries are within 0 and 1.
        random: Whether ``make`` takes the keyword ``generator``; ``null`` and ``baseline`` then do, too.
        attacked: From the defended model, what an attacker who knows the defense differentiates in its place, such as
            its mean or a smooth form of it; by default the defended model.
        tolerance: Largest rise of the accuracy that a stronger attack may show, as a share of 64 inputs.
        certify: From the defended model and inputs, the certified labels, shape ``(samples,)``, and the radii in
            norm 2, of the same shape; a radius of at most 0 abstains. Left out where it does not certify.

    Example:
        >>> clamp = lambda model: nn.Sequential(nn.Hardtanh(0, 1), model)
        >>> DefenseSubject(make=clamp).use().shape
        torch.Size([8, 3])
    """

    shape: tuple[int, int, int] = IMAGE
    random: bool = False
    attacked: Callable[[Any], Callable[[Tensor], Tensor]] | None = None
    tolerance: float = 0.0
    certify: Certify | None = None

    def use(self, **given: Any) -> object:
        """Defend a small network with these keywords and call it."""
        defended = self.make(toy_classifier(self.shape), **generator_keyword(self.random), **given)
        return defended(toy_images(8, self.shape))


def _outputs(subject: DefenseSubject, make: Callable[..., Any] | None = None) -> Tensor:
    model = toy_classifier(subject.shape)
    defended = (make or subject.make)(model, **generator_keyword(subject.random))
    with torch.no_grad():
        return defended(toy_images(8, subject.shape))


def _linear_problem(subject: DefenseSubject) -> tuple[nn.Module, Tensor, Tensor]:
    """Give a linear classifier, 64 inputs, and the labels that it gives them."""
    model, inputs = linear_classifier(subject.shape), toy_images(64, subject.shape)
    return model, inputs, model(inputs).argmax(1)


def _descend(model: Callable[[Tensor], Tensor], inputs: Tensor, labels: Tensor, radius: float, steps: int) -> Tensor:
    """Attack by steps along the sign of the gradient of the margin, each of 2 radius / steps, within the ball.

    One step is of the length of the radius. The margin, unlike the cross-entropy, does not saturate.
    """
    given = inputs
    length = radius if steps == 1 else 2 * radius / steps
    own = nn.functional.one_hot(labels, 2).bool()
    for _ in range(steps):
        given = given.detach().requires_grad_()
        with torch.enable_grad():
            outputs = model(given)
            margin = (outputs[own] - outputs[~own]).sum()
        gradient = torch.autograd.grad(margin, given, allow_unused=True)[0] if margin.requires_grad else None
        if gradient is None:
            raise CheckFailure(
                "the defended model has no gradient",
                "declare attacked, what an attacker who knows the defense differentiates in its place",
            )
        moved = given.detach() - length * gradient.sign()
        given = torch.minimum(torch.maximum(moved, inputs - radius), inputs + radius).clamp(0, 1)
    return given.detach()


def _accuracy(subject: DefenseSubject, radius: float, steps: int, *, knows_defense: bool = True) -> float:
    """Give the accuracy of the defended linear model under attack, with the same randomness for every attack."""
    model, inputs, labels = _linear_problem(subject)
    defended, evaluated = (subject.make(model, **generator_keyword(subject.random, seed)) for seed in (1, 0))
    target = subject.attacked(defended) if subject.attacked else defended
    results = _descend(target if knows_defense else model, inputs, labels, radius, steps)
    with torch.no_grad():
        return (evaluated(results).argmax(1) == labels).double().mean().item()


def check_meets_protocol(subject: DefenseSubject) -> None:
    """Check that the defended model gives finite outputs of the shape of the model's.

    Args:
        subject: What is declared of the defense.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> check_meets_protocol(DefenseSubject(make=lambda model: model))
    """
    expected = toy_classifier(subject.shape)(toy_images(8, subject.shape)).shape
    outputs = _outputs(subject)
    if not isinstance(outputs, Tensor) or outputs.shape != expected:
        got = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise CheckFailure(f"the model gives {tuple(expected)}, the defended one {got}", "give one row an input")
    if not outputs.isfinite().all():
        raise CheckFailure("an output is not finite", "guard divisions, logarithms and roots")


def check_stronger_attack_is_not_weaker(subject: DefenseSubject) -> None:
    """Check that on a defended linear model neither a larger radius nor more steps raise the accuracy.

    The attack follows the sign of the gradient of the margin, at radii from 0 to 0.4 and with 1 to 16 steps.

    Args:
        subject: What is declared of the defense.

    Raises:
        CheckFailure: If one raises it by more than the tolerance, or the defended model has no gradient.

    Example:
        >>> check_stronger_attack_is_not_weaker(DefenseSubject(make=lambda model: model))
    """
    by_radius = [_accuracy(subject, radius, 8) for radius in RADII]
    by_steps = [_accuracy(subject, RADII[2], steps) for steps in STEPS]
    for name, values, accuracies in (("radius", RADII, by_radius), ("steps", STEPS, by_steps)):
        for weaker, stronger in zip(range(len(values)), range(1, len(values)), strict=False):
            if accuracies[stronger] > accuracies[weaker] + subject.tolerance:
                raise CheckFailure(
                    f"at {name} {values[weaker]} the accuracy is {accuracies[weaker]:.3f}, "
                    f"at {values[stronger]} {accuracies[stronger]:.3f}",
                    "a gradient misleads; let the attacker differentiate what the defense does, or state a tolerance",
                )


def check_gradients_are_not_masked(subject: DefenseSubject) -> None:
    """Check that an attacker who knows the defense does not fare worse than one who knows the linear model alone.

    Args:
        subject: What is declared of the defense.

    Raises:
        CheckFailure: If at some radius the accuracy under the first is higher by more than the tolerance.

    Example:
        >>> check_gradients_are_not_masked(DefenseSubject(make=lambda model: model))
    """
    for radius in RADII[1:]:
        knowing, transferred = (_accuracy(subject, radius, 8, knows_defense=knows) for knows in (True, False))
        if knowing > transferred + subject.tolerance:
            raise CheckFailure(
                f"at radius {radius} the accuracy is {knowing:.3f} under an attack on the defended model and "
                f"{transferred:.3f} under one on the model alone",
                "its gradient is masked; declare attacked, what an attacker would differentiate instead",
            )


def _directions(model: nn.Module, inputs: Tensor) -> Tensor:
    """Give unit vectors: the normal of the linear model, the axes, and random ones, each with both signs."""
    features = inputs[0].numel()
    weight = next(model.parameters()).detach()
    random = torch.randn(16, features, generator=torch.Generator().manual_seed(0))
    rows = torch.cat([(weight[1] - weight[0])[None], torch.eye(features), random])
    rows = torch.cat([rows, -rows])
    return (rows / rows.norm(dim=1, keepdim=True)).unflatten(1, inputs.shape[1:])


def check_certificates_hold(subject: DefenseSubject) -> None:
    """Check that no step within the certified radius changes the certified label on a defended linear model.

    Steps of 0.3, 0.6 and 0.9 of the radius go along the normal of the linear model, the axes and random directions.
    A label counts as changed where three calls in a row give another, so that a vote that is drawn may err once.

    Args:
        subject: What is declared of the defense, with ``certify``.

    Raises:
        CheckFailure: If one does, no input is certified, or a radius is not finite.

    Example:
        >>> def certify(model, inputs):
        ...     weight, outputs = model[1].weight, model(inputs)
        ...     return outputs.argmax(1), (outputs[:, 0] - outputs[:, 1]).abs() / (weight[0] - weight[1]).norm()
        >>> check_certificates_hold(DefenseSubject(make=lambda model: model, certify=certify))
    """
    if subject.certify is None:
        raise CheckFailure("no certificate is declared", "declare certify")
    model, inputs, _ = _linear_problem(subject)
    inputs = inputs[:8]
    defended = subject.make(model, **generator_keyword(subject.random))
    with torch.no_grad():
        labels, radii = subject.certify(defended, inputs)
        certified = radii > 0
        if labels.shape != (8,) or radii.shape != (8,) or not radii[certified].isfinite().all():
            raise CheckFailure("it does not give one label and one finite radius an input", "give two vectors")
        if not certified.any():
            raise CheckFailure("it abstains on all of 8 inputs", "declare a setting that certifies some of them")
        directions = _directions(model, inputs)
        for sample, label, radius in zip(inputs[certified], labels[certified], radii[certified], strict=True):
            for share in (0.3, 0.6, 0.9):
                points = sample + share * radius * directions
                changed = torch.stack([defended(points).argmax(1) != label for _ in range(3)]).all(0)
                if changed.any():
                    raise CheckFailure(
                        f"a step of {share * radius:.4g} changes the label that is certified to {radius:.4g}",
                        "derive the radius from a lower bound that holds",
                    )


def check_model_unmodified(subject: DefenseSubject) -> None:
    """Check that making and calling the defended model leave the model as it was; it has gradients.

    Args:
        subject: What is declared of the defense.

    Raises:
        CheckFailure: If weights, buffers, gradients, modes or hooks change.

    Example:
        >>> check_model_unmodified(DefenseSubject(make=lambda model: model))
    """
    model = toy_classifier(subject.shape)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)

    def action() -> None:
        defended = subject.make(model, **generator_keyword(subject.random))
        defended(toy_images(8, subject.shape))

    require_unmodified(action, model, "the model")


def check_inputs_unmodified(subject: DefenseSubject) -> None:
    """Check that a call leaves its inputs as they were.

    Args:
        subject: What is declared of the defense.

    Raises:
        CheckFailure: If one changes.

    Example:
        >>> check_inputs_unmodified(DefenseSubject(make=lambda model: model))
    """
    defended = subject.make(toy_classifier(subject.shape), **generator_keyword(subject.random))
    inputs = 3 * toy_images(8, subject.shape) - 1
    with torch.no_grad():
        require_unmodified(lambda: defended(inputs), inputs, "its inputs")


def check_repeatable(subject: DefenseSubject) -> None:
    """Check that the same generator gives the same bits, and another one others.

    Args:
        subject: What is declared of the defense.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> check_repeatable(DefenseSubject(make=lambda model: model))
    """

    def call(keyword: Keywords) -> object:
        with torch.no_grad():
            return subject.make(toy_classifier(subject.shape), **keyword)(toy_images(8, subject.shape))

    require_repeatable(call, subject.random)


def check_global_random_state(subject: DefenseSubject) -> None:
    """Check that making and calling it leave the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the defense.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_global_random_state(DefenseSubject(make=lambda model: model))
    """
    require_states_untouched(lambda: _outputs(subject))


def check_dtype_and_device_preserved(subject: DefenseSubject) -> None:
    """Check that the outputs have the dtype and device of model and inputs, in float32 and float64.

    Args:
        subject: What is declared of the defense.

    Raises:
        CheckFailure: If they have another.

    Example:
        >>> check_dtype_and_device_preserved(DefenseSubject(make=lambda model: model))
    """
    for device in devices():
        for dtype in (torch.float32, torch.float64):
            model = toy_classifier(subject.shape).to(device, dtype)
            defended = subject.make(model, **generator_keyword(subject.random, device=device))
            outputs = defended(toy_images(8, subject.shape).to(device, dtype))
            if (outputs.dtype, outputs.device.type) != (dtype, device):
                raise CheckFailure(
                    f"{dtype} on {device} gives {outputs.dtype} on {outputs.device}",
                    "make new tensors with the dtype and device of the inputs, such as inputs.new_zeros",
                )


def check_null(subject: DefenseSubject) -> None:
    """Check that at its null setting the outputs are those of its baseline, bit for bit.

    Args:
        subject: What is declared of the defense, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If one differs.

    Example:
        >>> scaled = lambda model: lambda inputs: model(1.0 * inputs)
        >>> check_null(DefenseSubject(make=scaled, null=scaled, baseline=lambda model: model))
    """
    model, inputs = toy_classifier(subject.shape), toy_images(8, subject.shape)
    if subject.null is None or subject.baseline is None:
        raise CheckFailure("no null setting is declared", "declare null and baseline")
    pair = (make(model, **generator_keyword(subject.random)) for make in (subject.null, subject.baseline))
    with torch.no_grad():
        if not identical(*(defended(inputs) for defended in pair)):
            raise CheckFailure(
                "at the null setting the outputs differ from the baseline's",
                "at strength 0 call the model on the inputs as they are",
            )


DEFENSE_LAWS: Laws[DefenseSubject] = {
    check_meets_protocol: always,
    check_stronger_attack_is_not_weaker: always,
    check_gradients_are_not_masked: always,
    check_model_unmodified: always,
    check_inputs_unmodified: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_dtype_and_device_preserved: always,
    check_certificates_hold: lambda subject: subject.certify is not None,
    check_null: declares_null,
}


def defense_checks(subject: DefenseSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "defense".

    Args:
        subject: What the test of the defense declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> defense_checks(DefenseSubject(make=lambda model: model))["check_repeatable"]()
    """
    return selected(DEFENSE_LAWS, subject)


def check_defense(
    make: Callable[..., Any],
    *,
    shape: tuple[int, int, int] = IMAGE,
    random: bool = False,
    attacked: Callable[[Any], Callable[[Tensor], Tensor]] | None = None,
    tolerance: float = 0.0,
    certify: Certify | None = None,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "defense".

    Args:
        make: A class or function that makes the defended model from a classifier alone.
        shape: Shape of one input: channels, height and width; its entries are within 0 and 1.
        random: Whether ``make`` takes the keyword ``generator``; ``null`` and ``baseline`` then do, too.
        attacked: From the defended model, what an attacker who knows the defense differentiates in its place.
        tolerance: Largest rise of the accuracy that a stronger attack may show.
        certify: From the defended model and inputs, the certified labels and their radii in norm 2.
        null: Makes the defended model at strength 0; None if it has no such setting.
        baseline: Makes what ``null`` must equal, from the classifier alone.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> check_defense(lambda model: nn.Sequential(nn.Hardtanh(0, 1), model)).passed
        True
    """
    subject = DefenseSubject(
        make=make,
        shape=shape,
        random=random,
        attacked=attacked,
        tolerance=tolerance,
        certify=certify,
        null=null,
        baseline=baseline,
    )
    return run_checks(defense_checks(subject))
