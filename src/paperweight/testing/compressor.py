"""Checks of the kind "compressor"."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import nn
from torch.nn.utils import parametrize

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
from paperweight.testing.classifiers import toy_classifier, toy_images
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.randomness import seeded
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks

__all__ = [
    "COMPRESSOR_LAWS",
    "CompressorSubject",
    "check_budget",
    "check_compressor",
    "check_dtype_and_device_preserved",
    "check_global_random_state",
    "check_meets_protocol",
    "check_nothing_left_behind",
    "check_null",
    "check_repeatable",
    "check_reported_size",
    "check_source_unmodified",
    "compressor_checks",
    "nonzero_parameters",
    "parameters",
    "stored_bytes",
]

INPUTS = (toy_images(8, seed=1),)


def nonzero_parameters(model: nn.Module) -> int:
    """Count the entries of the parameters that are not 0, the size of a pruned model.

    Args:
        model: The model.

    Returns:
        Their number; a parameter that is used twice counts once.

    Example:
        >>> nonzero_parameters(nn.PReLU(3))
        3
    """
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


def parameters(model: nn.Module) -> int:
    """Count the entries of the parameters, the size of a smaller dense model.

    Args:
        model: The model.

    Returns:
        Their number; a parameter that is used twice counts once.

    Example:
        >>> parameters(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters())


def stored_bytes(model: nn.Module) -> int:
    """Count the bytes that parameters and buffers take, the size of a quantised model.

    Args:
        model: The model.

    Returns:
        Their number; memory that is used twice counts once.

    Example:
        >>> stored_bytes(nn.Linear(3, 2))
        32
    """
    tensors = [*model.parameters(), *model.buffers()]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CompressorSubject(Subject):
    """What the test of a compressor declares.

    ``make``, ``null`` and ``baseline`` take its keywords and give what is called as ``(model)``; what ``make`` gives
    has ``size``, too. Data that it needs is bound by ``make``.

    Args:
        budget: From the source model, the largest size that the smaller one may have, in the unit of ``count``.
        count: Counts the size of a model: `nonzero_parameters`, `parameters`, `stored_bytes` or a function of the
            test's own, independent of the compressor.
        adds: Last parts of the names of parameters and buffers that the smaller model has and the source has not,
            such as "scale".
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        model: Makes the source model, every time the same; by default a small classifier of images: convolution, batch
            norm, tanh, dropout, linear layer.
        inputs: What the model is called with; of another model than the default its own.

    Example:
        >>> class Smaller:
        ...     def __call__(self, model):
        ...         return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        ...     def size(self, model):
        ...         return sum(p.numel() for p in model.parameters())
        >>> CompressorSubject(make=Smaller, budget=lambda model: 51, count=parameters).use()[1].out_features
        3
    """

    budget: Callable[[nn.Module], float]
    count: Callable[[nn.Module], int] = nonzero_parameters
    adds: tuple[str, ...] = ()
    random: bool = False
    model: Callable[[], nn.Module] = toy_classifier
    inputs: tuple[Any, ...] = INPUTS

    def use(self, **given: Any) -> Any:
        """Make the compressor with these keywords and compress the source model."""
        return self.make(**given)(_source(self), **generator_keyword(self.random))


def _source(subject: CompressorSubject) -> nn.Module:
    with seeded(0):
        return subject.model()


def _compressed(subject: CompressorSubject, make: Callable[..., Any] | None = None) -> nn.Module:
    result = (make or subject.make)()(_source(subject), **generator_keyword(subject.random))
    if not isinstance(result, nn.Module):
        raise CheckFailure(f"it gives a {type(result).__name__}", "give the smaller model, a torch.nn.Module")
    return result


def check_meets_protocol(subject: CompressorSubject) -> None:
    """Check that it gives a model whose outputs have the shapes of the source's and are finite.

    Args:
        subject: What is declared of the compressor.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> import copy
        >>> check_meets_protocol(CompressorSubject(make=lambda: copy.deepcopy, budget=nonzero_parameters))
    """
    outputs, expected = (behaviour(model, subject.inputs) for model in (_compressed(subject), _source(subject)))
    shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (outputs, expected)]
    if shapes[0] != shapes[1]:
        raise CheckFailure(f"the source gives shapes {shapes[1]}, the smaller model {shapes[0]}", "keep the shapes")
    if not all(output.isfinite().all() for output in outputs):
        raise CheckFailure("an output of the smaller model is not finite", "guard divisions by a scale")


def check_reported_size(subject: CompressorSubject) -> None:
    """Check that the size that it tells, of the smaller model and of the source, is the counted one.

    Args:
        subject: What is declared of the compressor.

    Raises:
        CheckFailure: If it tells another.

    Example:
        >>> class Nothing:
        ...     def __call__(self, model):
        ...         return model
        ...     def size(self, model):
        ...         return sum(int((p != 0).sum()) for p in model.parameters())
        >>> check_reported_size(CompressorSubject(make=Nothing, budget=nonzero_parameters))
    """
    for name, model in (("smaller model", _compressed(subject)), ("source", _source(subject))):
        told, counted = subject.make().size(model), subject.count(model)
        if told != counted:
            raise CheckFailure(f"it tells size {told} of the {name}, the counted one is {counted}", "count it")


def check_budget(subject: CompressorSubject) -> None:
    """Check that the counted size of the smaller model is within the budget.

    Args:
        subject: What is declared of the compressor.

    Raises:
        CheckFailure: If it is larger.

    Example:
        >>> import copy
        >>> check_budget(CompressorSubject(make=lambda: copy.deepcopy, budget=nonzero_parameters))
    """
    size, budget = subject.count(_compressed(subject)), subject.budget(_source(subject))
    if size > budget:
        raise CheckFailure(f"the smaller model has size {size}, the budget is {budget:g}", "compress more")


def check_nothing_left_behind(subject: CompressorSubject) -> None:
    """Check that the smaller model has nothing that the source has not, but what is declared.

    Looked for are hooks of modules and tensors, parametrizations, parameters and buffers of other names, and attributes
    of a module of the same name and type.

    Args:
        subject: What is declared of the compressor.

    Raises:
        CheckFailure: If it has one.

    Example:
        >>> import copy
        >>> check_nothing_left_behind(CompressorSubject(make=lambda: copy.deepcopy, budget=nonzero_parameters))
    """
    source, result = _source(subject), _compressed(subject)
    parts = dict(source.named_modules())
    extra: list[str] = []
    for name, part in result.named_modules():
        title = name or "the model"
        if isinstance(part, parametrize.ParametrizationList):
            extra.append(f"the parametrization {title}")
        held = vars(part)
        extra += [f"a hook of {title}" for slot in held if slot.endswith("_hooks") and held[slot]]
        if name in parts and type(part) is type(parts[name]):
            extra += [f"the attribute {key} of {title}" for key in held if key not in vars(parts[name])]
    for name, parameter in result.named_parameters():
        slots = ("_backward_hooks", "_post_accumulate_grad_hooks")
        extra += [f"a hook of {name}" for slot in slots if getattr(parameter, slot)]
    known = {name for name, _ in (*source.named_parameters(), *source.named_buffers())}
    for name, _ in (*result.named_parameters(), *result.named_buffers()):
        if name not in known and name.rpartition(".")[2] not in subject.adds:
            extra.append(f"the tensor {name}")
    if extra:
        raise CheckFailure(
            f"the smaller model has {', '.join(extra[:4])}",
            "remove what only the compression needed; declare in adds what the smaller model needs",
        )


def check_source_unmodified(subject: CompressorSubject) -> None:
    """Check that the source, which has gradients, stays as it was in both modes and shares no memory with the result.

    Args:
        subject: What is declared of the compressor.

    Raises:
        CheckFailure: If weights, buffers, gradients, modes or hooks change, or the smaller model lies in its memory.

    Example:
        >>> import copy
        >>> check_source_unmodified(CompressorSubject(make=lambda: copy.deepcopy, budget=nonzero_parameters))
    """
    for training in (False, True):
        source = _source(subject).train(training)
        for parameter in source.parameters():
            parameter.grad = torch.ones_like(parameter)
        call = partial(subject.make(), source, **generator_keyword(subject.random))
        result = require_unmodified(call, source, "the source model")
        if shared := shared_memory(result, source):
            raise CheckFailure(f"the smaller model shares {', '.join(shared[:4])} with the source", "work on a copy")


def check_repeatable(subject: CompressorSubject) -> None:
    """Check that the same generator gives the same bits, and another one others.

    Args:
        subject: What is declared of the compressor.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> import copy
        >>> check_repeatable(CompressorSubject(make=lambda: copy.deepcopy, budget=nonzero_parameters))
    """

    def call(keyword: Keywords) -> object:
        return dict(subject.make()(_source(subject), **keyword).state_dict())

    require_repeatable(call, subject.random)


def check_global_random_state(subject: CompressorSubject) -> None:
    """Check that a call leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the compressor.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> import copy
        >>> check_global_random_state(CompressorSubject(make=lambda: copy.deepcopy, budget=nonzero_parameters))
    """
    source = _source(subject)
    require_states_untouched(partial(subject.make(), source, **generator_keyword(subject.random)))


def check_dtype_and_device_preserved(subject: CompressorSubject) -> None:
    """Check that the smaller model gives outputs in the dtype and on the device of the source, float32 and float64.

    Args:
        subject: What is declared of the compressor.

    Raises:
        CheckFailure: If it gives others.

    Example:
        >>> import copy
        >>> check_dtype_and_device_preserved(CompressorSubject(make=lambda: copy.deepcopy, budget=nonzero_parameters))
    """
    for device in devices():
        for dtype in (torch.float32, torch.float64):
            source = _source(subject).to(device, dtype)
            result = subject.make()(source, **generator_keyword(subject.random, device=device))
            pairs = zip(behaviour(result, subject.inputs), behaviour(source, subject.inputs), strict=True)
            for output, expected in pairs:
                if (output.dtype, output.device) != (expected.dtype, expected.device):
                    raise CheckFailure(
                        f"{dtype} on {device} gives outputs in {output.dtype} on {output.device}",
                        "make new tensors with the dtype and device of the model",
                    )


def check_null(subject: CompressorSubject) -> None:
    """Check that at its null setting it gives what its baseline gives, bit for bit.

    Args:
        subject: What is declared of the compressor, with ``null`` and ``baseline``.

    Raises:
        CheckFailure: If the two models differ in an output, or in a parameter or buffer of the same name.

    Example:
        >>> import copy
        >>> copied = lambda: copy.deepcopy
        >>> check_null(CompressorSubject(make=copied, null=copied, baseline=copied, budget=nonzero_parameters))
    """
    if not models_agree(_compressed(subject, subject.null), _compressed(subject, subject.baseline), subject.inputs):
        raise CheckFailure(
            "at the null setting the smaller model differs from the baseline's", "at ratio 0 give a copy of the source"
        )


COMPRESSOR_LAWS: Laws[CompressorSubject] = {
    check_meets_protocol: always,
    check_reported_size: always,
    check_budget: always,
    check_nothing_left_behind: always,
    check_source_unmodified: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_dtype_and_device_preserved: always,
    check_null: declares_null,
}


def compressor_checks(subject: CompressorSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "compressor".

    Args:
        subject: What the test of the compressor declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> import copy
        >>> subject = CompressorSubject(make=lambda: copy.deepcopy, budget=nonzero_parameters)
        >>> compressor_checks(subject)["check_budget"]()
    """
    return selected(COMPRESSOR_LAWS, subject)


def check_compressor(
    make: Callable[..., Any],
    *,
    budget: Callable[[nn.Module], float],
    count: Callable[[nn.Module], int] = nonzero_parameters,
    adds: tuple[str, ...] = (),
    random: bool = False,
    model: Callable[[], nn.Module] = toy_classifier,
    inputs: tuple[Any, ...] = INPUTS,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "compressor".

    Args:
        make: A class whose arguments all have defaults, or a function that makes what is called as ``(model)`` and has
            ``size``.
        budget: From the source model, the largest size that the smaller one may have, in the unit of ``count``.
        count: Counts the size of a model: `nonzero_parameters`, `parameters`, `stored_bytes` or another function.
        adds: Last parts of the names of parameters and buffers that only the smaller model has.
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        model: Makes the source model; by default a small classifier of images.
        inputs: What the model is called with; by default a batch of images.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal, for ratio 0 what copies the model.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline`` is given.

    Example:
        >>> import copy
        >>> report = check_compressor(lambda: copy.deepcopy, budget=nonzero_parameters)
        >>> [result.name for result in report.failures]
        ['check_reported_size']
    """
    subject = CompressorSubject(
        make=make,
        budget=budget,
        count=count,
        adds=adds,
        random=random,
        model=model,
        null=null,
        baseline=baseline,
        inputs=inputs,
    )
    return run_checks(compressor_checks(subject))
