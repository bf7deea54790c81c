"""The trial of groups that were found: a random permutation must keep the function."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging._outputs import chosen
from paperweight.merging._rows import reordered, row_orders
from paperweight.merging.groups import Group

__all__ = ["try_out"]


@torch.no_grad()
def try_out(
    model: nn.Module,
    groups: Sequence[Group],
    args: Sequence[Tensor],
    named: Mapping[str, Tensor],
    output: str | int | None,
) -> None:
    """Permute the units of a model with shaken weights, which must not change its output.

    Args:
        model: The model, in evaluation mode; its weights are changed.
        groups: The groups.
        args: What it is called with.
        named: Its named arguments.
        output: The output that counts; None for all.

    Raises:
        InputError: If its output changes.
    """
    generator = torch.Generator().manual_seed(0)
    state = model.state_dict()
    for value in state.values():
        if value.is_floating_point():
            noise = torch.rand(2, *value.shape, generator=generator).to(value)
            low = 0 if (value >= 0).all() else 0.5
            value.mul_(0.75 + 0.5 * noise[0]).add_(0.3 * value.abs().mean().clamp(min=0.1) * (noise[1] - low))
    before = _outputs(model(*args, **named), output)
    permutation = {group.name: group.random(generator) for group in groups}
    moved = {key: reordered(state[key], rows) for key, rows in row_orders(state, groups, permutation).items()}
    for key, value in moved.items():
        state[key].copy_(value)
    after = _outputs(model(*args, **named), output)
    for old, new in zip(before, after, strict=True):
        bound = 1e-3 * max(1.0, old.abs().max().item())
        if not old.isfinite().all() or not torch.allclose(old, new, rtol=0, atol=bound):
            what = "a random permutation of the units that were found changes the output"
            raise InputError(f"model must do with units what its operations say, but {what}; write the graph down")


def _outputs(value: Any, output: str | int | None) -> list[Tensor]:
    return [part.double() for _, part in chosen(value, output) if part.is_floating_point()]
