"""Local learning: a network in parts, each trained by a loss of its own, with no gradient from one part to another."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["Objective", "local_gradients", "peak_saved_bytes"]

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps a part's output, its input and the targets to a scalar, maybe through an auxiliary network of its own."""


def local_gradients(
    parts: Sequence[nn.Module], objectives: Sequence[Objective], inputs: Tensor, targets: Tensor
) -> Tensor:
    """Add to every parameter the gradient of the loss of its own part, part after part.

    Each part is given the output of the one before without its history, and its backward pass ends before the forward
    pass of the next begins, so that only one part's activations are kept at a time. With one part it is
    back-propagation. It stands where ``loss.backward()`` stands in a loop: zero the gradients before, and take the
    optimizer's step after.

    Args:
        parts: The network: each maps the output of the one before to its own.
        objectives: The loss of each part; what it is made of, such as an auxiliary head, gets its gradient, too.
        inputs: Of the first part, (N, ...).
        targets: What the objectives are given, (N, ...).

    Returns:
        The loss of each part, before the update, (parts,).

    Raises:
        ValueError: If there is no part, or not one objective for each, or a part changes its input in place.

    Example:
        >>> parts = [nn.Linear(2, 2), nn.Linear(2, 2)]
        >>> def pull(output, _, target):
        ...     return (output - target).square().mean()
        >>> local_gradients(parts, [pull, pull], torch.ones(3, 2), torch.zeros(3, 2)).shape
        torch.Size([2])
    """
    if not parts or len(parts) != len(objectives):
        raise ValueError(
            f"there must be one objective for each of at least one part, got {len(parts)} parts and "
            f"{len(objectives)} objectives"
        )
    losses: list[Tensor] = []
    given = inputs
    for number, (part, objective) in enumerate(zip(parts, objectives, strict=True)):
        version = given._version
        output = part(given)
        if given._version != version:
            raise ValueError(f"parts must leave their inputs as they are, part {number} changes its own in place")
        loss = objective(output, given, targets)
        loss.backward()
        losses.append(loss.detach())
        given = output.detach()
    return torch.stack(losses)


@final
class _Saved:
    """A tensor kept for the backward pass, which says when it is let go."""

    def __init__(self, tensor: Tensor, let_go: Callable[[Tensor], None]) -> None:
        self.tensor = tensor
        self.version = tensor._version
        self._let_go = let_go

    def __del__(self) -> None:
        self._let_go(self.tensor)


def peak_saved_bytes(action: Callable[[], object], parameters: Iterable[Tensor] = ()) -> int:
    """Measure the most memory that is kept for backward passes at any time of an action, on a CPU as on a GPU.

    It counts what autograd saves from forward passes, each storage once: what grows with the batch in training, and
    what local learning is to save. Parameters, gradients and an optimizer's state are the same with and without it.
    What activation checkpointing without re-entry computes again is not seen.

    Args:
        action: What to do, such as a step of training.
        parameters: Tensors that are not counted, as they are there anyway.

    Returns:
        Bytes.

    Example:
        >>> weight = torch.ones(4, 4, requires_grad=True)
        >>> peak_saved_bytes(lambda: (torch.ones(8, 4) @ weight).sum().backward(), [weight])
        128
    """
    free = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    counts: Counter[int] = Counter()
    now = peak = 0

    def pack(tensor: Tensor) -> _Saved | Tensor:
        nonlocal now, peak
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place in free:
            return tensor
        if not counts[place]:
            now += storage.nbytes()
            peak = max(peak, now)
        counts[place] += 1
        return _Saved(tensor.detach(), let_go)

    def let_go(tensor: Tensor) -> None:
        nonlocal now
        storage = tensor.untyped_storage()
        counts[storage.data_ptr()] -= 1
        if not counts[storage.data_ptr()]:
            now -= storage.nbytes()

    def unpack(saved: _Saved | Tensor) -> Tensor:
        if not isinstance(saved, _Saved):
            return saved
        if saved.tensor._version != saved.version:
            raise RuntimeError("a tensor that is kept for the backward pass was changed in place; change a copy")
        return saved.tensor

    with saved_tensors_hooks(pack, unpack):
        action()
    return peak
