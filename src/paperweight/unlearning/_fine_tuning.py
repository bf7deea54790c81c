"""What erasers that train a text-to-image model share: captions, a copy, its modes and which of its weights learn."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators.cross_attention import ParameterGroup, parameter_group
from paperweight.generators.process import Prediction, split_prediction, target
from paperweight.generators.protocol import ConditionalDiffusion

__all__ = [
    "Model",
    "as_predicted",
    "caption_list",
    "copied",
    "diffused_shape",
    "fine_tuned",
    "predict",
    "prediction_of",
]

Model = TypeVar("Model", bound=ConditionalDiffusion)


def caption_list(name: str, given: Sequence[str]) -> list[str]:
    """Read all captions of an argument.

    Args:
        name: The argument, as errors call it.
        given: The captions; anything with a length whose items are reached by number.

    Returns:
        The captions.

    Raises:
        InputError: If it is one text, which would be read letter by letter.

    Example:
        >>> caption_list("forget", ("circle", "a disc"))
        ['circle', 'a disc']
    """
    if isinstance(given, str):
        raise InputError(f"{name} must be a list of captions, got the text {given!r}; put it into a list")
    return [given[index] for index in range(len(given))]


def copied(model: Model) -> Model:
    """Copy a module whole; of anything else, such as an adapted pipeline, its ``network``, the rest is shared.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle",)).build()
        >>> copied(model).network is model.network
        False
    """
    if isinstance(model, nn.Module):
        return copy.deepcopy(model)
    result: Any = copy.copy(model)
    result.network = copy.deepcopy(result.network)
    return result


def check_sampling_steps(model: ConditionalDiffusion, steps: int) -> None:
    """Refuse more steps of a sampler than a model has training times, with a ``ValueError``."""
    if steps > len(model.schedule):
        raise ValueError(
            f"sampling_steps must be at most the model's {len(model.schedule)} training times, got {steps}"
        )


def diffused_shape(model: object, shape: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Give the shape (C, H, W) of what is diffused: that which is given, or else that of the model's ``spec``.

    Raises:
        InputError: If neither tells it.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> diffused_shape(TextSpec(shape=(1, 8, 8), words=("circle",)).build(), None)
        (1, 8, 8)
    """
    found = getattr(getattr(model, "spec", None), "shape", None) if shape is None else shape
    if found is None:
        raise InputError(
            f"shape must be given for a {type(model).__name__}, which has no spec that tells it; it is the shape "
            "(C, H, W) of what is diffused"
        )
    return found


def prediction_of(model: Any) -> Prediction:
    """Tell what the network of a model predicts: ``eps``, ``x0`` or ``v``; ``eps`` where the model does not say."""
    return getattr(model, "prediction", None) or getattr(getattr(model, "spec", None), "prediction", "eps")


def predict(model: Any, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
    """Give what the network predicts, whatever that is: errors of it are weighed over the times as in its training.

    An error of the noise counts 1 / SNR times as much in a network that predicts the data, which hardly hears of the
    condition where there is little noise, and would else learn from there alone.

    Args:
        model: Meets `ConditionalDiffusion`.
        z: What is diffused, with noise, (N, C, H, W).
        t: Training times, int64, (N,).
        condition: Tokens of the captions, (N, L, dim); None for the empty caption.

    Returns:
        Noise, data or velocity, in the shape of ``z``.

    Example:
        >>> import torch
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle",)).build()
        >>> z, t = torch.randn(1, 1, 8, 8), torch.tensor([100])
        >>> torch.allclose(predict(model, z, t, None), model(z, t, None), atol=1e-5)
        True
    """
    return as_predicted(model, z, t, model.eps(z, t, condition))


def as_predicted(model: Any, z: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Turn noise that belongs to z (N, C, H, W) at training times t (N,) into what the network predicts."""
    abar = model.schedule.abar[t.cpu()]
    x0, _ = split_prediction(z, eps, abar, "eps")
    return target(x0, eps, abar, prediction_of(model))


@contextmanager
def fine_tuned(student: Any, group: ParameterGroup, *others: Any) -> Iterator[list[nn.Parameter]]:
    """Give the weights of a group of a model's ``network``, which alone have gradients inside, with all in eval mode.

    Afterwards every module is in its own mode again, every flag ``requires_grad`` as before, and no gradient is left.

    Args:
        student: The model, such as `copied` gives it.
        group: What learns.
        others: Further models that are called inside, in eval mode.

    Raises:
        InputError: If the network has no cross attention, and the group wants one.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle",), arguments={"blocks": 1}).build()
        >>> with fine_tuned(model, "keys_and_values") as weights:
        ...     len(weights), model.training
        (2, False)
        >>> model.training
        True
    """
    weights = list(parameter_group(student.network, group).values())
    held = [each for model in (student, *others) for each in (model, model.network) if isinstance(each, nn.Module)]
    modes = {part: part.training for each in held for part in each.modules()}
    flags = [(parameter, parameter.requires_grad) for each in held for parameter in each.parameters()]
    try:
        for part in modes:
            part.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        yield weights
    finally:
        for part, training in modes.items():
            part.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for weight in weights:
            weight.grad = None
