"""Checks of the kind "training-procedure"."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.kinds import TrainingProcedure
from paperweight.testing.calls import (
    Keywords,
    devices,
    generator_keyword,
    require_repeatable,
    require_states_untouched,
    require_unmodified,
)
from paperweight.testing.classifiers import toy_classifier, toy_images
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import converted, identical

__all__ = [
    "TRAINING_PROCEDURE_LAWS",
    "PlainTraining",
    "TrainingProcedureSubject",
    "check_data_unmodified",
    "check_dtype_and_device_preserved",
    "check_global_random_state",
    "check_gradient_evaluations",
    "check_lowers_the_loss",
    "check_meets_protocol",
    "check_null",
    "check_repeatable",
    "check_resume_is_exact",
    "check_training_procedure",
    "training_procedure_checks",
]

Data = tuple[Tensor, ...]
BATCH = 8
IMAGES = toy_images(32)
DATA = IMAGES, IMAGES.flatten(1)[:, :3].argmax(1)
MODEL = partial(toy_classifier, dropout=0.0)


@final
class PlainTraining:
    """Plain SGD on the cross-entropy, one update a round: the baseline of most training procedures.

    Args:
        model: A classifier; trained in place.
        lr: Step size, at least 0.
        momentum: Momentum factor, at least 0.

    Example:
        >>> model = nn.Linear(1, 2)
        >>> float(PlainTraining(model, lr=0.1).step(torch.zeros(2, 1), torch.tensor([0, 1]))) > 0
        True
    """

    def __init__(self, model: nn.Module, lr: float = 0.1, momentum: float = 0.0) -> None:
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Update the model on a batch and give its loss."""
        self.model.train()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(inputs), labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the optimizer."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict)


def _cross_entropy(model: nn.Module, data: Data) -> Tensor:
    inputs, labels = data
    return nn.functional.cross_entropy(model(inputs), labels)


def _step(procedure: Any, data: Data, round: int) -> object:
    """Step on the next batch of eight samples, without shuffling."""
    first = round * BATCH % len(data[0])
    return procedure.step(*(tensor[first : first + BATCH] for tensor in data))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProcedureSubject(Subject):
    """What the test of a training procedure declares.

    ``make``, ``null`` and ``baseline`` take a model and the data, and keywords, and give the procedure; a procedure
    that is given its batches by ``step`` leaves the data alone. `PlainTraining` may serve as baseline:
    ``lambda model, data: PlainTraining(model, lr=0.1)``.

    Args:
        evaluations: Number of samples whose gradient is evaluated in all rounds together, a sample that goes through
            forward and backward pass twice counting twice; or a function that takes it from the procedure's own count
            after the rounds.
        random: Whether ``make`` takes the keyword ``generator``; ``null`` and ``baseline`` then do, too.
        rounds: Number of rounds that the checks take, at least 2.
        advance: Trains for one round; takes the procedure, the data and the number of the round, from 0. Left out, it
            calls ``step`` with the next eight samples of each tensor.
        model: Makes the model, every time the same; by default a small classifier of images without dropout.
        data: Tensors with one sample an entry of the first dimension; by default 32 images, and as class of each the
            brightest of its first three pixels.
        loss: What the procedure lowers, from the model in eval mode and the data; by default the cross-entropy.

    Raises:
        ValueError: If there are fewer than 2 rounds.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> type(TrainingProcedureSubject(make=plain, evaluations=64).use()).__name__
        'PlainTraining'
    """

    evaluations: int | Callable[[Any], int]
    random: bool = False
    rounds: int = 8
    advance: Callable[[Any, Data, int], object] = _step
    model: Callable[[], nn.Module] = MODEL
    data: Data = DATA
    loss: Callable[[nn.Module, Data], Tensor] = _cross_entropy

    def __post_init__(self) -> None:
        Subject.__post_init__(self)
        if self.rounds < 2:
            raise ValueError(f"rounds must be at least 2, got {self.rounds}")

    def use(self, **given: Any) -> object:
        """Make the procedure with these keywords and train for one round."""
        data = copy.deepcopy(self.data)
        procedure = self.make(_model(self), data, **generator_keyword(self.random), **given)
        self.advance(procedure, data, 0)
        return procedure


def _model(subject: TrainingProcedureSubject) -> nn.Module:
    with seeded(0):
        return subject.model()


def _make(make: Callable[..., Any], model: nn.Module, data: Data, keyword: Keywords, seed: int = 0) -> Any:
    """Make the procedure; networks of its own may be initialised from the global random state."""
    with seeded(seed):
        return make(model, data, **keyword)


def _go_on(subject: TrainingProcedureSubject, procedure: Any, data: Data, first: int = 0) -> None:
    """Train from a round on to the last."""
    for round in range(first, subject.rounds):
        subject.advance(procedure, data, round)


def _train(
    subject: TrainingProcedureSubject, model: nn.Module, keyword: Keywords, make: Callable[..., Any] | None = None
) -> Any:
    """Train a model for all rounds, on data of its dtype and device, and give the procedure."""
    like = next(model.parameters())
    data = converted(subject.data, like.dtype, str(like.device))
    procedure = _make(make or subject.make, model, data, keyword)
    _go_on(subject, procedure, data)
    return procedure


def _count_gradients(model: nn.Module) -> list[int]:
    """Note, from here on, the number of samples each time that a gradient reaches the first layer with parameters."""
    counts: list[int] = []
    first = next(part for part in model.modules() if any(True for _ in part.parameters(recurse=False)))

    def watch(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: counts.append(len(gradient)))

    first.register_forward_hook(watch)
    return counts


def check_meets_protocol(subject: TrainingProcedureSubject) -> None:
    """Check that it is made with a model and data and has ``step``, ``state_dict`` and ``load_state_dict``.

    Args:
        subject: What is declared of the procedure.

    Raises:
        CheckFailure: If a member is missing.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> check_meets_protocol(TrainingProcedureSubject(make=plain, evaluations=64))
    """
    data = copy.deepcopy(subject.data)
    procedure = _make(subject.make, _model(subject), data, generator_keyword(subject.random))
    if not isinstance(procedure, TrainingProcedure):
        missing = [name for name in ("step", "state_dict", "load_state_dict") if not hasattr(procedure, name)]
        raise CheckFailure(f"it has no {', '.join(missing)}", "add what the protocol names")


def check_lowers_the_loss(subject: TrainingProcedureSubject) -> None:
    """Check that after the rounds the loss on the data is lower than before, and finite.

    Args:
        subject: What is declared of the procedure.

    Raises:
        CheckFailure: If it is not.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> check_lowers_the_loss(TrainingProcedureSubject(make=plain, evaluations=64))
    """
    trained = _model(subject)
    _train(subject, trained, generator_keyword(subject.random))
    with torch.no_grad():
        before, after = (float(subject.loss(model.eval(), subject.data)) for model in (_model(subject), trained))
    if not after < before:
        raise CheckFailure(
            f"in {subject.rounds} rounds the loss goes from {before:.6g} to {after:.6g}", "train the model in place"
        )


def check_gradient_evaluations(subject: TrainingProcedureSubject) -> None:
    """Check that in all rounds together it evaluates the gradients of as many samples as it declares.

    Counted is what reaches the first layer that has parameters, in the model or a copy of it.

    Args:
        subject: What is declared of the procedure.

    Raises:
        CheckFailure: If the number is another.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> check_gradient_evaluations(TrainingProcedureSubject(make=plain, evaluations=64))
    """
    model = _model(subject)
    counts = _count_gradients(model)
    procedure = _train(subject, model, generator_keyword(subject.random))
    declared = subject.evaluations if isinstance(subject.evaluations, int) else subject.evaluations(procedure)
    if sum(counts) != declared:
        raise CheckFailure(
            f"it evaluates the gradients of {sum(counts)} samples, in {len(counts)} passes, not of {declared}",
            "declare what it costs",
        )


def check_resume_is_exact(subject: TrainingProcedureSubject) -> None:
    """Check that a fresh procedure with the loaded state, of a model with the loaded weights, goes on exactly.

    The fresh one is made with a generator of another seed and in another global random state, so that it must take up
    the state of the generator and the weights of networks of its own.

    Args:
        subject: What is declared of the procedure.

    Raises:
        CheckFailure: If a weight or buffer differs in a bit.

    Example:
        >>> plain = lambda model, data: PlainTraining(model, momentum=0.9)
        >>> check_resume_is_exact(TrainingProcedureSubject(make=plain, evaluations=64))
    """
    data = copy.deepcopy(subject.data)
    for cut in sorted({1, subject.rounds // 2, subject.rounds - 1}):
        model, again = _model(subject), _model(subject)
        straight = _make(subject.make, model, data, generator_keyword(subject.random))
        for round in range(cut):
            subject.advance(straight, data, round)
        state = copy.deepcopy(straight.state_dict())
        again.load_state_dict(copy.deepcopy(model.state_dict()))
        resumed = _make(subject.make, again, data, generator_keyword(subject.random, seed=1), seed=1)
        resumed.load_state_dict(state)
        for procedure in (straight, resumed):
            _go_on(subject, procedure, data, cut)
        pair = zip(model.state_dict().items(), again.state_dict().values(), strict=True)
        for (name, expected), found in pair:
            if not identical(found, expected):
                raise CheckFailure(
                    f"resumed after round {cut} it trains {name} to other values than a straight run",
                    "keep in state_dict all that a round needs, the state of the generator among it",
                )


def check_data_unmodified(subject: TrainingProcedureSubject) -> None:
    """Check that the data stay as they were.

    Args:
        subject: What is declared of the procedure.

    Raises:
        CheckFailure: If a tensor changes.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> check_data_unmodified(TrainingProcedureSubject(make=plain, evaluations=64))
    """
    data = copy.deepcopy(subject.data)

    def action() -> None:
        _go_on(subject, _make(subject.make, _model(subject), data, generator_keyword(subject.random)), data)

    require_unmodified(action, data, "the data")


def check_repeatable(subject: TrainingProcedureSubject) -> None:
    """Check that the same generator gives the same bits, and another one others.

    Args:
        subject: What is declared of the procedure.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> check_repeatable(TrainingProcedureSubject(make=plain, evaluations=64))
    """

    def call(keyword: Keywords) -> object:
        model = _model(subject)
        _train(subject, model, keyword)
        return dict(model.state_dict())

    require_repeatable(call, subject.random)


def check_global_random_state(subject: TrainingProcedureSubject) -> None:
    """Check that the rounds leave the random states of Python, NumPy and torch as they were.

    Making it may initialise networks of its own, as torch does.

    Args:
        subject: What is declared of the procedure.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> check_global_random_state(TrainingProcedureSubject(make=plain, evaluations=64))
    """
    data = copy.deepcopy(subject.data)
    procedure = _make(subject.make, _model(subject), data, generator_keyword(subject.random))
    require_states_untouched(lambda: _go_on(subject, procedure, data))


def check_dtype_and_device_preserved(subject: TrainingProcedureSubject) -> None:
    """Check that the model keeps its dtype and device, in float32 and float64.

    Args:
        subject: What is declared of the procedure.

    Raises:
        CheckFailure: If a parameter or buffer has another.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> check_dtype_and_device_preserved(TrainingProcedureSubject(make=plain, evaluations=64))
    """
    for device in devices():
        for dtype in (torch.float32, torch.float64):
            model = _model(subject).to(device, dtype)
            _train(subject, model, generator_keyword(subject.random, device=device))
            for name, tensor in model.state_dict().items():
                if tensor.device.type != device or (tensor.is_floating_point() and tensor.dtype != dtype):
                    raise CheckFailure(
                        f"{dtype} on {device} becomes {tensor.dtype} on {tensor.device} in {name}",
                        "make new tensors with the dtype and device of the model",
                    )


def check_null(subject: TrainingProcedureSubject) -> None:
    """Check that at its null setting the model becomes what it becomes by its baseline, bit for bit.

    Args:
        subject: What is declared of the procedure, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If a weight or buffer differs.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> check_null(TrainingProcedureSubject(make=plain, null=plain, baseline=plain, evaluations=64))
    """
    models = _model(subject), _model(subject)
    for model, make in zip(models, (subject.null, subject.baseline), strict=True):
        _train(subject, model, generator_keyword(subject.random), make)
    for (name, found), expected in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        if not identical(found, expected):
            raise CheckFailure(
                f"at the null setting {name} differs from the baseline's",
                "at the null setting take the baseline's operations in the baseline's order",
            )


TRAINING_PROCEDURE_LAWS: Laws[TrainingProcedureSubject] = {
    check_meets_protocol: always,
    check_lowers_the_loss: always,
    check_gradient_evaluations: always,
    check_resume_is_exact: always,
    check_data_unmodified: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_dtype_and_device_preserved: always,
    check_null: declares_null,
}


def training_procedure_checks(subject: TrainingProcedureSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "training-procedure".

    Args:
        subject: What the test of the procedure declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> plain = lambda model, data: PlainTraining(model)
        >>> subject = TrainingProcedureSubject(make=plain, evaluations=64)
        >>> training_procedure_checks(subject)["check_resume_is_exact"]()
    """
    return selected(TRAINING_PROCEDURE_LAWS, subject)


def check_training_procedure(
    make: Callable[..., Any],
    *,
    evaluations: int | Callable[[Any], int],
    random: bool = False,
    rounds: int = 8,
    advance: Callable[[Any, Data, int], object] = _step,
    model: Callable[[], nn.Module] = MODEL,
    data: Data = DATA,
    loss: Callable[[nn.Module, Data], Tensor] = _cross_entropy,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "training-procedure".

    Args:
        make: A function that makes the procedure from a model and the data.
        evaluations: Number of samples whose gradient is evaluated in all rounds together, or a function that takes it
            from the procedure's own count after the rounds.
        random: Whether ``make`` takes the keyword ``generator``; ``null`` and ``baseline`` then do, too.
        rounds: Number of rounds that the checks take, at least 2.
        advance: Trains for one round; takes the procedure, the data and the number of the round, from 0. Left out, it
            calls ``step`` with the next eight samples of each tensor.
        model: Makes the model; by default a small classifier of images without dropout.
        data: Tensors with one sample an entry of the first dimension; by default 32 images, and as class of each the
            brightest of its first three pixels.
        loss: What the procedure lowers, from the model in eval mode and the data; by default the cross-entropy.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal, such as `PlainTraining`.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given, or there are fewer than 2 rounds.

    Example:
        >>> check_training_procedure(lambda model, data: PlainTraining(model), evaluations=8 * 8).passed
        True
    """
    subject = TrainingProcedureSubject(
        make=make,
        evaluations=evaluations,
        random=random,
        rounds=rounds,
        advance=advance,
        loss=loss,
        null=null,
        baseline=baseline,
        model=model,
        data=data,
    )
    return run_checks(training_procedure_checks(subject))
