"""What checks of random callables and of those that take models have in common."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from paperweight.testing.randomness import changed_random_states, seeded
from paperweight.testing.report import CheckFailure
from paperweight.testing.values import changed_facts, converted, identical, snapshot, tensors_of

__all__ = [
    "Keywords",
    "behaviour",
    "devices",
    "generator_keyword",
    "model_facts",
    "models_agree",
    "require_repeatable",
    "require_states_untouched",
    "require_unmodified",
    "shared_memory",
]

Keywords = dict[str, torch.Generator]
Result = TypeVar("Result")


def generator_keyword(random: bool, seed: int = 0, device: str = "cpu") -> Keywords:
    """Make the keywords with which a call is given its randomness.

    Args:
        random: Whether the call takes a generator.
        seed: Seed of the generator.
        device: Where the generator is.

    Returns:
        A fresh generator under the name ``generator``, or nothing.

    Example:
        >>> generator_keyword(False), list(generator_keyword(True))
        ({}, ['generator'])
    """
    return {"generator": torch.Generator(device).manual_seed(seed)} if random else {}


def devices() -> tuple[str, ...]:
    """Name the devices that are here.

    Returns:
        The CPU, and a GPU where there is one.

    Example:
        >>> "cpu" in devices()
        True
    """
    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def require_repeatable(call: Callable[[Keywords], object], random: bool, *, another_differs: bool = True) -> None:
    """Check that a call is repeatable whatever the global random state and, if random, uses its generator.

    Args:
        call: Takes the keyword of the generator and gives tensors, or sequences or mappings of them.
        random: Whether the call takes a generator.
        another_differs: Whether a generator with another seed must give another result.

    Raises:
        CheckFailure: If two results with the same generator differ, or two with different ones do not.

    Example:
        >>> require_repeatable(lambda keyword: torch.rand(2, **keyword), random=True)
    """
    results = []
    for seed in (0, 1):
        with seeded(seed):
            results.append(call(generator_keyword(random)))
    if not identical(*results):
        what = "the same generator" if random else "the same arguments"
        raise CheckFailure(f"two calls with {what} differ", "draw only from a generator that is an argument")
    if random and another_differs and identical(results[0], call(generator_keyword(True, seed=1))):
        raise CheckFailure(
            "a generator with another seed gives the same result",
            "draw from the generator that is given; where nothing is drawn, declare it as not random",
        )


def require_states_untouched(action: Callable[[], object]) -> None:
    """Check that an action leaves the random states of Python, NumPy and torch as they were.

    Args:
        action: What to do.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> require_states_untouched(lambda: torch.ones(1))
    """
    if changed := changed_random_states(action):
        raise CheckFailure(f"the random state of {', '.join(changed)} changed", "draw from an explicit generator")


def model_facts(model: nn.Module) -> dict[str, Tensor]:
    """Copy all that a call could leave changed in a model.

    Args:
        model: The model.

    Returns:
        Name to value: weights, all buffers, gradients, modes, and the numbers of hooks and of attributes.

    Example:
        >>> "mode of ReLU" in model_facts(nn.ReLU())
        True
    """
    facts = {name.removeprefix("argument: "): value for name, value in snapshot(model).items()}
    for name, buffer in model.named_buffers():
        facts[f"buffer {name}"] = buffer.detach().clone()
    for name, parameter in model.named_parameters():
        held = [getattr(parameter, slot) or () for slot in ("_backward_hooks", "_post_accumulate_grad_hooks")]
        facts[f"hooks of {name}"] = torch.tensor(sum(map(len, held)))
    for name, part in model.named_modules():
        facts[f"attributes of {name or type(part).__name__}"] = torch.tensor(len(vars(part)))
    return facts


def require_unmodified(action: Callable[[], Result], watched: object, name: str) -> Result:
    """Check that an action leaves a model, or tensors, as they were.

    Args:
        action: What to do.
        watched: A model, or nested lists, tuples and dictionaries of tensors.
        name: What it is, for the message.

    Returns:
        What the action returns.

    Raises:
        CheckFailure: If it changed.

    Example:
        >>> x = torch.ones(1)
        >>> require_unmodified(lambda: 2 * x, x, "the input")
        tensor([2.])
        >>> require_unmodified(lambda: x.add_(1), x, "the input")
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: a call modifies the input: argument; work on a copy, ...
    """

    def facts() -> dict[str, Tensor]:
        return model_facts(watched) if isinstance(watched, nn.Module) else snapshot(watched)

    before = facts()
    result = action()
    if changed := changed_facts(before, facts()):
        raise CheckFailure(
            f"a call modifies {name}: {', '.join(changed[:8])}", "work on a copy, and put back what you set"
        )
    return result


def shared_memory(first: nn.Module, second: nn.Module) -> list[str]:
    """Name the parameters and buffers of one model that lie in the memory of another.

    Args:
        first: The one.
        second: The other.

    Returns:
        Their names in the first.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> shared_memory(nn.Sequential(layer), layer)
        ['0.weight', '0.bias']
    """

    def tensors(model: nn.Module) -> dict[str, Tensor]:
        return dict(model.named_parameters()) | dict(model.named_buffers())

    taken = {tensor.untyped_storage().data_ptr() for tensor in tensors(second).values() if tensor.numel()}
    return [name for name, tensor in tensors(first).items() if tensor.untyped_storage().data_ptr() in taken]


def behaviour(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Give what a model does in eval mode; its mode stays as it is.

    Args:
        model: The model.
        inputs: What it is called with; floating tensors are converted to the dtype and device of its parameters.

    Returns:
        The tensors that it gives.

    Example:
        >>> behaviour(nn.Dropout(), (torch.ones(2),))
        [tensor([1., 1.])]
    """
    modes = {part: part.training for part in model.modules()}
    floating = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    like = next(floating, torch.zeros(()))
    model.eval()
    with torch.no_grad(), seeded(0):
        outputs = tensors_of(model(*converted(inputs, like.dtype, str(like.device))))
    for part, training in modes.items():
        part.training = training
    return outputs


def models_agree(first: nn.Module, second: nn.Module, inputs: tuple[Any, ...]) -> bool:
    """Say whether two models do the same and hold the same under the names that both have, bit for bit.

    Args:
        first: The one.
        second: The other.
        inputs: What they are called with.

    Returns:
        Whether they do.

    Example:
        >>> models_agree(nn.ReLU(), nn.Identity(), (torch.ones(2),))
        True
    """
    one, other = first.state_dict(), second.state_dict()
    held = identical(*({name: state[name] for name in one if name in other} for state in (one, other)))
    return held and identical(behaviour(first, inputs), behaviour(second, inputs))
