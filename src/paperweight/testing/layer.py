"""Checks of the kinds "layer" and "network": a network is a layer that stands alone, under the same contract."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    first_samples,
    identical,
    map_tensors,
    snapshot,
    tensors_of,
)

__all__ = [
    "LAYER_LAWS",
    "LayerSubject",
    "check_batch_sizes",
    "check_dtype_and_device_preserved",
    "check_eval_is_repeatable",
    "check_eval_leaves_random_state",
    "check_eval_leaves_state",
    "check_every_parameter_has_a_gradient",
    "check_gradients",
    "check_inputs_unmodified",
    "check_layer",
    "check_meets_protocol",
    "check_null",
    "check_parameter_count",
    "check_samples_are_independent",
    "check_shape",
    "check_state_round_trip",
    "layer_checks",
]

Shape = tuple[int, ...]
MODES = {"eval": False, "train": True}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSubject(Subject):
    """What the test of a layer or network declares; ``make``, ``null`` and ``baseline`` take its keywords.

    Args:
        inputs: What it is called with: a small batch, at least two samples along the first dimension of each tensor.
        shape: The documented shape of the output, or one shape a tensor where there are several; None where no
            shape is documented.
        parameter_count: The documented number of parameters; None where no number is documented.

    Raises:
        ValueError: If the inputs hold fewer than two samples.

    Example:
        >>> LayerSubject(make=nn.ReLU, inputs=(torch.ones(2, 3),), shape=(2, 3), parameter_count=0).use()
        tensor([[1., 1., 1.],
                [1., 1., 1.]])
    """

    inputs: tuple[Any, ...]
    shape: Shape | tuple[Shape, ...] | None
    parameter_count: int | None

    def __post_init__(self) -> None:
        Subject.__post_init__(self)
        if any(tensor.ndim and len(tensor) < 2 for tensor in tensors_of(self.inputs)):
            shapes = [tuple(tensor.shape) for tensor in tensors_of(self.inputs)]
            raise ValueError(f"inputs must hold at least 2 samples along their first dimension, got shapes {shapes}")

    def use(self, **given: Any) -> object:
        """Make the layer with these keywords and call it on the inputs."""
        with seeded(0):
            return self.make(**given)(*copy.deepcopy(self.inputs))


def _make(make: Callable[..., Any], seed: int = 0) -> nn.Module:
    with seeded(seed):
        layer = make()
    if not isinstance(layer, nn.Module):
        raise CheckFailure(f"it is a {type(layer).__name__}", "derive it from torch.nn.Module")
    return layer


def _shaken(subject: LayerSubject, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """Make it in a number format, with noise on what it trains: a part that starts at zero would hide its faults."""
    layer = _make(subject.make, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                size = parameter.double().square().mean().sqrt().item() or 1.0
                parameter.add_(0.1 * size * noise.to(parameter.dtype))
    return layer


def _outputs(layer: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad(), seeded(0):
        outputs = tensors_of(layer(*copy.deepcopy(inputs)))
    if not outputs:
        raise CheckFailure("it returns no tensor", "return a tensor, or a tuple, mapping or dataclass of them")
    return outputs


def _altered(inputs: Any) -> Any:
    """Put the last sample in the place of the first."""
    return map_tensors(lambda tensor: torch.cat([tensor[-1:], tensor[1:]]) if tensor.ndim else tensor, inputs)


def _shapes(outputs: Sequence[Tensor]) -> tuple[Shape, ...]:
    return tuple(tuple(output.shape) for output in outputs)


def check_meets_protocol(subject: LayerSubject) -> None:
    """Check that it is a `torch.nn.Module` that gives tensors in train and in eval mode.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If it is not.

    Example:
        >>> check_meets_protocol(LayerSubject(make=nn.ReLU, inputs=(torch.ones(2),), shape=None, parameter_count=0))
    """
    for training in MODES.values():
        _outputs(_make(subject.make).train(training), subject.inputs)


def check_shape(subject: LayerSubject) -> None:
    """Check that the outputs have the documented shapes, in train and in eval mode.

    Args:
        subject: What is declared of the layer, with its shape.

    Raises:
        CheckFailure: If they have others.

    Example:
        >>> check_shape(LayerSubject(make=nn.ReLU, inputs=(torch.ones(2),), shape=(2,), parameter_count=0))
    """
    declared = subject.shape or ()
    expected = declared if any(isinstance(size, tuple) for size in declared) else (declared,)
    for mode, training in MODES.items():
        shapes = _shapes(_outputs(_make(subject.make).train(training), subject.inputs))
        if shapes != expected:
            raise CheckFailure(
                f"in {mode} mode the outputs have shapes {shapes}, documented are {expected}",
                "correct the shape or its documentation",
            )


def check_batch_sizes(subject: LayerSubject) -> None:
    """Check that in eval mode one sample and two samples give outputs of the batch's shape, but for their number.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If they do not.

    Example:
        >>> check_batch_sizes(LayerSubject(make=nn.ReLU, inputs=(torch.ones(3),), shape=None, parameter_count=0))
    """
    layer = _make(subject.make).eval()
    whole = _shapes(_outputs(layer, subject.inputs))
    for count in (1, 2):
        shapes = _shapes(_outputs(layer, first_samples(subject.inputs, count)))
        expected = tuple((count, *shape[1:]) if shape else () for shape in whole)
        if shapes != expected:
            raise CheckFailure(
                f"for {count} of the samples the outputs have shapes {shapes} and not {expected}",
                "keep the samples along the first dimension, and never squeeze it",
            )


def check_gradients(subject: LayerSubject) -> None:
    """Check the gradients by inputs and parameters against finite differences in float64, in both modes.

    Args:
        subject: What is declared of the layer; it must be small: among a million rectified units some change sign
            within the step of the difference, and the check then fails without a fault.

    Raises:
        CheckFailure: If they differ.

    Example:
        >>> check_gradients(LayerSubject(make=nn.Tanh, inputs=(torch.ones(2),), shape=None, parameter_count=0))
    """
    inputs = converted(subject.inputs, torch.float64)
    floating = [tensor for tensor in tensors_of(inputs) if tensor.is_floating_point()]
    named = {f"floating input {index}": tensor for index, tensor in enumerate(floating)}
    for training in MODES.values():
        layer = _shaken(subject, torch.float64).train(training)
        trained = {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}

        def outputs(
            *values: Tensor, layer: nn.Module = layer, names: tuple[str, ...] = tuple(trained)
        ) -> Sequence[Tensor]:
            remaining = iter(values)
            given = map_tensors(lambda tensor: next(remaining) if tensor.is_floating_point() else tensor, inputs)
            state = {name: buffer.clone() for name, buffer in layer.named_buffers()}
            state |= dict(zip(names, remaining, strict=True))
            with seeded(0):
                return tensors_of(functional_call(layer, state, given))

        compare_gradients(outputs, named | trained)


def check_every_parameter_has_a_gradient(subject: LayerSubject) -> None:
    """Check that the outputs depend on every trained parameter, in train or in eval mode.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If the gradient of a parameter is missing or zero in both.

    Example:
        >>> from functools import partial
        >>> inputs = (torch.eye(2),)
        >>> check_every_parameter_has_a_gradient(
        ...     LayerSubject(make=partial(nn.Linear, 2, 3), inputs=inputs, shape=None, parameter_count=9)
        ... )
    """
    without: set[str] | None = None
    for training in MODES.values():
        layer = _shaken(subject, torch.float64).train(training)
        with seeded(0):
            outputs = [t for t in tensors_of(layer(*converted(subject.inputs, torch.float64))) if t.requires_grad]
            if outputs:
                torch.autograd.backward(outputs, [torch.randn_like(output) for output in outputs])
        idle = {
            name
            for name, parameter in layer.named_parameters()
            if parameter.requires_grad and (parameter.grad is None or not parameter.grad.any())
        }
        without = idle if without is None else without & idle
    if without:
        raise CheckFailure(
            f"the outputs do not depend on {', '.join(sorted(without))}",
            "use every parameter, or keep what is not trained in a buffer",
        )


def check_samples_are_independent(subject: LayerSubject) -> None:
    """Check that in eval mode neither the values nor the number of the other samples change a sample's output.

    Args:
        subject: What is declared of the layer; where samples do depend on each other it declares the failure.

    Raises:
        CheckFailure: If they do.

    Example:
        >>> from functools import partial
        >>> inputs = (torch.arange(3.0),)
        >>> check_samples_are_independent(
        ...     LayerSubject(make=partial(nn.Softmax, dim=0), inputs=inputs, shape=None, parameter_count=0)
        ... )
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: another sample changes the output of sample 1; ...
    """
    layer = _shaken(subject, torch.float64).eval()
    inputs = converted(subject.inputs, torch.float64)
    whole = _outputs(layer, inputs)
    remedy = "in eval mode take statistics within a sample, never over the batch"
    count = max((len(tensor) for tensor in tensors_of(inputs) if tensor.ndim), default=0)
    if any(output.shape[:1] != (count,) for output in whole):
        raise CheckFailure(
            f"of {count} samples it makes outputs of shapes {_shapes(whole)}", "keep samples along the first dimension"
        )
    others = _outputs(layer, _altered(inputs))
    for sample in range(1, count):
        if not close([output[sample] for output in whole], [output[sample] for output in others], 1e-9):
            raise CheckFailure(f"another sample changes the output of sample {sample}", remedy)
    alone = _outputs(layer, first_samples(inputs, 1))
    if not close(first_samples(whole, 1), alone, 1e-9):
        raise CheckFailure("the output of a sample alone differs from that in a batch", remedy)


def check_eval_is_repeatable(subject: LayerSubject) -> None:
    """Check that in eval mode two calls give the same bits, whatever the global random state.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If they do not.

    Example:
        >>> check_eval_is_repeatable(
        ...     LayerSubject(make=nn.Dropout, inputs=(torch.ones(2),), shape=None, parameter_count=0)
        ... )
    """
    layer = _shaken(subject).eval()
    calls = []
    for seed in (0, 1):
        with torch.no_grad(), seeded(seed):
            calls.append(tensors_of(layer(*copy.deepcopy(subject.inputs))))
    if not identical(*calls):
        raise CheckFailure("in eval mode two calls differ", "draw and update only where self.training holds")


def check_eval_leaves_state(subject: LayerSubject) -> None:
    """Check that a call in eval mode changes neither parameters nor buffers nor modes, and leaves no hook.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If it does.

    Example:
        >>> from functools import partial
        >>> inputs = (torch.eye(2),)
        >>> check_eval_leaves_state(
        ...     LayerSubject(make=partial(nn.BatchNorm1d, 2), inputs=inputs, shape=None, parameter_count=4)
        ... )
    """
    layer = _shaken(subject).eval()
    before = snapshot({"layer": layer})
    _outputs(layer, subject.inputs)
    if changed := changed_facts(before, snapshot({"layer": layer})):
        raise CheckFailure(
            f"a call in eval mode changes {', '.join(changed)}", "update state only where self.training holds"
        )


def check_eval_leaves_random_state(subject: LayerSubject) -> None:
    """Check that a call in eval mode leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> check_eval_leaves_random_state(
        ...     LayerSubject(make=nn.Dropout, inputs=(torch.ones(2),), shape=None, parameter_count=0)
        ... )
    """
    layer, inputs = _shaken(subject).eval(), copy.deepcopy(subject.inputs)
    if changed := changed_random_states(lambda: layer(*inputs)):
        raise CheckFailure(
            f"a call in eval mode changes the random state of {', '.join(changed)}",
            "draw only where self.training holds, or from an explicit generator",
        )


def check_inputs_unmodified(subject: LayerSubject) -> None:
    """Check that a call leaves its inputs as they were, in train and in eval mode.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> from functools import partial
        >>> inputs = (-torch.ones(2),)
        >>> check_inputs_unmodified(
        ...     LayerSubject(make=partial(nn.ReLU, inplace=True), inputs=inputs, shape=None, parameter_count=0)
        ... )
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: in eval mode a call modifies argument 0; work on a copy
    """
    for mode, training in MODES.items():
        layer, given = _shaken(subject).train(training), copy.deepcopy(subject.inputs)
        with torch.no_grad(), seeded(0):
            layer(*given)
        if changed := changed_facts(snapshot(subject.inputs), snapshot(given)):
            raise CheckFailure(f"in {mode} mode a call modifies {', '.join(changed)}", "work on a copy")


def check_dtype_and_device_preserved(subject: LayerSubject) -> None:
    """Check that floating outputs are finite and have the dtype and device of layer and inputs, in both modes.

    The formats are float64, float32 and bfloat16, on the CPU and on a GPU where there is one.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If one of them is not.

    Example:
        >>> check_dtype_and_device_preserved(
        ...     LayerSubject(make=nn.GELU, inputs=(torch.ones(2),), shape=None, parameter_count=0)
        ... )
    """
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for mode, training in MODES.items():
                layer = _shaken(subject, dtype).to(device).train(training)
                for output in _outputs(layer, converted(subject.inputs, dtype, device)):
                    if output.device.type != device or (output.is_floating_point() and output.dtype != dtype):
                        raise CheckFailure(
                            f"in {mode} mode {dtype} on {device} gives {output.dtype} on {output.device}",
                            "make new tensors with the dtype and device of the input, such as x.new_zeros",
                        )
                    if not output.isfinite().all():
                        raise CheckFailure(
                            f"in {mode} mode an output of {dtype} is not finite",
                            "guard divisions, logarithms and roots",
                        )


def check_state_round_trip(subject: LayerSubject) -> None:
    """Check that a fresh layer with the loaded state gives the same bits in eval mode, in train mode and afterwards.

    Args:
        subject: What is declared of the layer.

    Raises:
        CheckFailure: If the state does not fit a fresh layer or its outputs differ.

    Example:
        >>> from functools import partial
        >>> inputs = (torch.eye(2),)
        >>> check_state_round_trip(
        ...     LayerSubject(make=partial(nn.Linear, 2, 3), inputs=inputs, shape=None, parameter_count=9)
        ... )
    """
    layer = _shaken(subject).train()
    _outputs(layer, _altered(subject.inputs))
    fresh = _make(subject.make, seed=1)
    try:
        fresh.load_state_dict(copy.deepcopy(layer.state_dict()), strict=True)
    except RuntimeError as error:
        raise CheckFailure(
            f"its state does not fit a fresh layer: {error}", "make all parameters and buffers on construction"
        ) from error
    for mode in ("eval", "train", "eval"):
        first, second = (_outputs(each.train(MODES[mode]), subject.inputs) for each in (layer, fresh))
        if not identical(first, second):
            raise CheckFailure(
                f"with the loaded state the outputs in {mode} mode differ",
                "keep all that the outputs depend on in parameters and buffers",
            )


def check_parameter_count(subject: LayerSubject) -> None:
    """Check that the layer has the documented number of parameters.

    Args:
        subject: What is declared of the layer, with its number of parameters.

    Raises:
        CheckFailure: If it has more or fewer.

    Example:
        >>> from functools import partial
        >>> inputs = (torch.eye(2),)
        >>> check_parameter_count(
        ...     LayerSubject(make=partial(nn.Linear, 2, 3), inputs=inputs, shape=None, parameter_count=9)
        ... )
    """
    count = sum(parameter.numel() for parameter in _make(subject.make).parameters())
    if count != subject.parameter_count:
        raise CheckFailure(
            f"it has {count} parameters, documented are {subject.parameter_count}",
            "correct the layer or its documentation",
        )


def check_null(subject: LayerSubject) -> None:
    """Check that at its null setting outputs, gradients and buffers equal the baseline's bit for bit, in both modes.

    Args:
        subject: What is declared of the layer, with ``null`` and ``baseline``. Both are made from the same random
            state; compared are all outputs and the gradients by inputs, and where both have the name the gradients by
            parameters and the buffers after the call.

    Raises:
        CheckFailure: If one differs.

    Example:
        >>> from functools import partial
        >>> null, baseline = partial(nn.LeakyReLU, negative_slope=0.0), nn.ReLU
        >>> check_null(
        ...     LayerSubject(make=nn.LeakyReLU, null=null, baseline=baseline, inputs=(torch.ones(2),), shape=None,
        ...                  parameter_count=0)
        ... )
    """

    def facts(make: Callable[..., Any], training: bool, dtype: torch.dtype) -> dict[str, Any]:
        layer = _make(make).to(dtype).train(training)
        given = map_tensors(
            lambda tensor: tensor.requires_grad_(tensor.is_floating_point()), converted(subject.inputs, dtype)
        )
        leaves = {f"input {index}": tensor for index, tensor in enumerate(tensors_of(given)) if tensor.requires_grad}
        leaves |= {name: parameter for name, parameter in layer.named_parameters() if parameter.requires_grad}
        with seeded(0):
            outputs = tensors_of(layer(*given))
        graph = [output for output in outputs if output.requires_grad]
        seeds = [torch.linspace(-1, 1, output.numel(), dtype=dtype).reshape(output.shape) for output in graph]
        slopes = (
            torch.autograd.grad(graph, list(leaves.values()), seeds, allow_unused=True)
            if graph
            else [None] * len(leaves)
        )
        gradients = {f"the gradient by {name}": gradient for name, gradient in zip(leaves, slopes, strict=True)}
        state = {f"afterwards the buffer {name}": buffer for name, buffer in layer.named_buffers()}
        return {"the output": outputs, **gradients, **state}

    for dtype in (torch.float32, torch.float64):
        for mode, training in MODES.items():
            null, baseline = (facts(make, training, dtype) for make in (subject.null, subject.baseline) if make)
            for name in (name for name in null if name in baseline):
                if not identical(null[name], baseline[name]):
                    raise CheckFailure(
                        f"at the null setting, in {mode} mode and {dtype}, {name} is not the baseline's",
                        "at the null setting take the baseline's operations in the baseline's order",
                    )


LAYER_LAWS: Laws[LayerSubject] = {
    check_meets_protocol: always,
    check_batch_sizes: always,
    check_gradients: always,
    check_every_parameter_has_a_gradient: always,
    check_samples_are_independent: always,
    check_eval_is_repeatable: always,
    check_eval_leaves_state: always,
    check_eval_leaves_random_state: always,
    check_inputs_unmodified: always,
    check_dtype_and_device_preserved: always,
    check_state_round_trip: always,
    check_shape: lambda subject: subject.shape is not None,
    check_parameter_count: lambda subject: subject.parameter_count is not None,
    check_null: declares_null,
}


def layer_checks(subject: LayerSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kinds "layer" and "network".

    Args:
        subject: What the test of the layer declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> subject = LayerSubject(make=nn.ReLU, inputs=(torch.ones(2, 3),), shape=(2, 3), parameter_count=0)
        >>> layer_checks(subject)["check_shape"]()
    """
    return selected(LAYER_LAWS, subject)


def check_layer(
    make: Callable[..., Any],
    *inputs: Any,
    shape: Shape | tuple[Shape, ...] | None = None,
    parameter_count: int | None = None,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kinds "layer" and "network".

    Args:
        make: A module class whose arguments all have defaults, or a function that makes the module.
        *inputs: What it is called with: a small batch, at least two samples along the first dimension.
        shape: The shape that the output must have, or one shape a tensor; by default it is not checked.
        parameter_count: The number of parameters that it must have; by default it is not checked.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If the inputs hold fewer than two samples, or only one of ``null`` and ``baseline`` is given.

    Example:
        >>> check_layer(lambda: nn.Linear(3, 2), torch.eye(3), shape=(3, 2)).passed
        True
    """
    subject = LayerSubject(
        make=make, inputs=inputs, shape=shape, parameter_count=parameter_count, null=null, baseline=baseline
    )
    return run_checks(layer_checks(subject))
