"""Steps of optimizers that treat each entry by itself: many tensors at once, in pieces that stay in cache, or compiled.

An optimizer says by a pure function what happens to columns of tensors (all parameters, all their gradients, all first
states, ...), and by another which numbers a step takes. What is written here is how the columns are made.
"""

# torch documents its foreach functions, and does not export them:
# pyright: reportPrivateImportUsage=false

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["Number", "Tensors", "check_group", "rows_by_step", "subtract_ratios", "update_rows"]

Tensors = tuple[Tensor, ...]
Number = float | Tensor
Update = Callable[[list[Tensors], tuple[Number, ...], dict[str, Any]], None]

_BLOCK = 1 << 16  # entries; on a CPU the intermediate results of so many stay in cache


def check_group(group: dict[str, Any]) -> None:
    """Check what a group of an optimizer like Adam is given: ``lr``, ``betas``, ``eps`` and ``weight_decay``.

    Args:
        group: The group, with defaults where it names none.

    Raises:
        ValueError: If a number is outside its range.
    """
    for name in ("lr", "weight_decay"):
        if not 0 <= group[name] < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {group[name]}")
    if not 0 < group["eps"] < math.inf:
        raise ValueError(
            f"eps must be finite and above 0, got {group['eps']}; a gradient that is always 0 is divided by it"
        )
    if len(group["betas"]) != 2 or not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"betas must be two numbers in [0, 1), got {group['betas']}")


def rows_by_step(
    optimizer: torch.optim.Optimizer, group: dict[str, Any], names: Sequence[str]
) -> dict[int, list[Tensors]]:
    """List by step count the tensors of each parameter with a gradient, whose count goes up by one.

    Args:
        optimizer: Whose state holds the count, ``"step"``, and the tensors.
        group: One of its groups.
        names: Keys of the states, tensors of the parameter's shape that begin at 0.

    Returns:
        For each step count, from 1, a row for each parameter: itself, its gradient and its states, in this order.

    Raises:
        ValueError: If a gradient is sparse or complex; nothing of the group has been changed then.
    """
    given = [p for p in group["params"] if p.grad is not None]
    for p in given:
        if p.grad.layout != torch.strided or p.grad.is_complex():
            raise ValueError(f"gradients must be dense and real, got {p.grad.layout} {p.dtype}; convert them first")
    rows: dict[int, list[Tensors]] = defaultdict(list)
    for p in given:
        state = optimizer.state[p]
        for name in names:
            if name not in state:
                state[name] = torch.zeros_like(p)
        step = state["step"] = state.get("step", 0) + 1
        rows[step].append((p, p.grad, *(state[name] for name in names)))
    return rows


def update_rows(
    update: Update, rows: Sequence[Tensors], numbers: tuple[float, ...], group: dict[str, Any], *, compiled: bool
) -> None:
    """Update rows in place.

    Args:
        update: A function of a module, which changes columns in place, given the numbers, and what does not change from
            step to step from the group. Compiled, its numbers are tensors without dimensions, which foreach functions
            would make constants of; see `subtract_ratios`.
        rows: The rows, as `rows_by_step` gives them.
        numbers: What may change from step to step.
        group: The group of the optimizer.
        compiled: Whether `torch.compile` makes one pass of the update.
    """
    if compiled:
        _compiled(update)(_columns(rows), torch.tensor(numbers, dtype=torch.float64).unbind(), group)
        return
    for columns in _blocks(rows):
        update(columns, numbers, group)


def subtract_ratios(params: Tensors, averages: Tensors, squares: Tensors, offset: Number, rate: Number) -> None:
    """Update x = x - rate m / (sqrt(s) + offset) in place, compiled or not.

    Args:
        params: The tensors x to change.
        averages: The tensors m.
        squares: The tensors s, at least 0.
        offset: Added to the root.
        rate: The factor.
    """
    if isinstance(rate, Tensor):
        for x, m, s in zip(params, averages, squares, strict=True):
            x.sub_(rate * m / (s.sqrt() + offset))
        return
    roots = torch._foreach_sqrt(squares)
    torch._foreach_add_(roots, offset)
    torch._foreach_addcdiv_(params, averages, roots, value=-rate)


@cache
def _compiled(update: Update) -> Callable[..., None]:
    return torch.compile(update)


def _cut(tensors: Tensors) -> Iterable[Tensors]:
    """Cut tensors of one shape along their first dimension into pieces of about ``_BLOCK`` entries."""
    entries = tensors[0].numel()
    if entries <= _BLOCK or not tensors[0].is_cpu:
        return [tensors]
    length = max(1, _BLOCK * len(tensors[0]) // entries)
    return zip(*(tensor.split(length) for tensor in tensors), strict=True)


def _blocks(rows: Iterable[Tensors]) -> Iterator[list[Tensors]]:
    """Gather rows, tensors of one shape, into columns, on a CPU of about ``_BLOCK`` entries each."""
    block: list[Tensors] = []
    size = 0
    for tensors in rows:
        for piece in _cut(tensors):
            block.append(piece)
            size += piece[0].numel()
            if size >= _BLOCK and piece[0].is_cpu:
                yield _columns(block)
                block, size = [], 0
    if block:
        yield _columns(block)


def _columns(rows: Iterable[Tensors]) -> list[Tensors]:
    return list(zip(*rows, strict=True))
