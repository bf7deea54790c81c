"""What checks do with arguments and results: tensors, numbers, networks, and sequences or mappings of them."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "changed_facts",
    "close",
    "converted",
    "first_samples",
    "identical",
    "map_leaves",
    "map_tensors",
    "snapshot",
    "tensors_of",
]


def identical(first: object, second: object) -> bool:
    """Say whether two results are equal bit for bit, in structure, dtype, device and values; NaN equals NaN.

    Args:
        first: A tensor, a number, None, or a sequence or mapping of such.
        second: The other.

    Returns:
        Whether they are.

    Example:
        >>> identical({"a": torch.ones(2)}, {"a": torch.ones(2)}), identical(torch.ones(2), torch.ones(2).double())
        (True, False)
    """
    try:
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True, check_stride=False)
    except AssertionError:
        return False
    return True


def close(first: object, second: object, tolerance: float) -> bool:
    """Say whether two results agree in structure and, whatever their dtype, in their values.

    Args:
        first: A tensor, a number, or a sequence or mapping of such.
        second: The other.
        tolerance: Largest difference allowed, relative to the value or absolute.

    Returns:
        Whether they do.

    Example:
        >>> close({"a": 1.0}, {"a": torch.tensor(1.0)}, 1e-6), close(1.0, 1.1, 1e-6)
        (True, False)
    """

    def as_tensors(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: as_tensors(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [as_tensors(item) for item in value]
        return torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()

    pair = as_tensors(first), as_tensors(second)
    try:
        torch.testing.assert_close(*pair, rtol=tolerance, atol=tolerance, equal_nan=True)
    except AssertionError:
        return False
    return True


def tensors_of(value: object) -> list[Tensor]:
    """List the tensors in a result: itself, or those in a sequence, mapping or dataclass.

    Args:
        value: Where to look.

    Returns:
        The tensors, in their order.

    Example:
        >>> tensors_of({"mean": torch.zeros(1), "rest": (torch.ones(1), "name")})
        [tensor([0.]), tensor([1.])]
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    elif is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    else:
        parts = []
    return [tensor for part in parts for tensor in tensors_of(part)]


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Replace each leaf of nested lists, tuples and dictionaries by a function of it.

    Args:
        function: Takes and gives a leaf: a tensor, a network, a number.
        value: The structure, or a leaf.

    Returns:
        The same structure.

    Example:
        >>> map_leaves(lambda x: x + 1, (0, [1, 2], {"a": 3}))
        (1, [2, 3], {'a': 4})
    """
    if isinstance(value, dict):
        return {key: map_leaves(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [map_leaves(function, item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return function(value)


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Replace each tensor in nested lists, tuples and dictionaries by a function of it.

    Args:
        function: Takes and gives a tensor.
        value: The structure; whatever is no tensor stays the same object.

    Returns:
        The same structure.

    Example:
        >>> map_tensors(lambda x: x + 1, (torch.zeros(1), "name"))
        (tensor([1.]), 'name')
    """
    return map_leaves(lambda leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)


def converted(value: Any, dtype: torch.dtype, device: str = "cpu") -> Any:
    """Copy arguments, with every floating tensor and every network in them in a number format and on a device.

    Args:
        value: Nested lists, tuples and dictionaries of tensors, networks, generators and numbers.
        dtype: The number format; tensors that are not floating keep theirs.
        device: The device.

    Returns:
        The copy.

    Example:
        >>> converted((torch.ones(1), torch.tensor([1]), "name"), torch.float64)
        (tensor([1.], dtype=torch.float64), tensor([1]), 'name')
    """

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.detach().to(device, dtype if leaf.is_floating_point() else leaf.dtype, copy=True)
        leaf = copy.deepcopy(leaf)
        return leaf.to(device, dtype) if isinstance(leaf, nn.Module) else leaf

    return map_leaves(convert, value)


def first_samples(value: Any, count: int) -> Any:
    """Take the first samples of a batch: of every tensor that has dimensions the first entries.

    Args:
        value: Nested lists, tuples and dictionaries of tensors.
        count: How many.

    Returns:
        The same structure, with views.

    Example:
        >>> first_samples((torch.arange(3), torch.tensor(7)), 2)
        (tensor([0, 1]), tensor(7))
    """
    return map_tensors(lambda tensor: tensor[:count] if tensor.ndim else tensor, value)


def snapshot(value: object) -> dict[str, Tensor]:
    """Copy all that a call could leave changed in its arguments.

    Args:
        value: Nested lists, tuples and dictionaries of tensors and networks.

    Returns:
        Name to value: of a tensor its values; of a network its state, gradients, mode and number of hooks.

    Example:
        >>> sorted(snapshot((torch.ones(1), nn.ReLU())))
        ['argument 0', 'argument 1: hooks of ReLU', 'argument 1: mode of ReLU']
    """
    facts: dict[str, Tensor] = {}

    def note(leaf: object, name: str) -> None:
        if isinstance(leaf, Tensor):
            facts[name] = leaf.detach().clone()
        if not isinstance(leaf, nn.Module):
            return
        for key, entry in leaf.state_dict().items():
            facts[f"{name}: {key}"] = entry.detach().clone()
        for key, parameter in leaf.named_parameters():
            facts[f"{name}: requires_grad of {key}"] = torch.tensor(parameter.requires_grad)
            if parameter.grad is not None:
                facts[f"{name}: gradient of {key}"] = parameter.grad.clone()
        for key, part in leaf.named_modules():
            title = key or type(part).__name__
            facts[f"{name}: mode of {title}"] = torch.tensor(part.training)
            hooks = sum(len(held) for slot, held in vars(part).items() if slot.endswith("_hooks"))
            facts[f"{name}: hooks of {title}"] = torch.tensor(hooks)

    def visit(item: object, name: str) -> None:
        if isinstance(item, Mapping):
            for key, part in item.items():
                visit(part, f"{name} {key}")
        elif isinstance(item, list | tuple):
            for index, part in enumerate(item):
                visit(part, f"{name} {index}")
        else:
            note(item, name)

    visit(value, "argument")
    return facts


def changed_facts(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Name the facts of two snapshots that differ.

    Args:
        before: What `snapshot` gave before a call.
        after: What it gave afterwards.

    Returns:
        Their names; a fact that only one of them has is among them.

    Example:
        >>> changed_facts(snapshot([torch.ones(1)]), snapshot([torch.zeros(1)]))
        ['argument 0']
    """
    names = dict.fromkeys([*before, *after])
    return [
        name for name in names if name not in before or name not in after or not identical(before[name], after[name])
    ]
