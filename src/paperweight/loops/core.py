"""The one training loop, and the stream of batches it runs on."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

__all__ = ["OnStep", "Schedule", "at_points", "clip_gradients", "index_batches", "loss_curve", "minimise"]

Batch = TypeVar("Batch")

OnStep = Callable[[int, Tensor], object]
"""Called after each step with its number, from 0, and its loss (scalar, detached, on the loss's device)."""

_CHECK_EVERY = 50


class Schedule(Protocol):
    """Anything that is to be told that a step was taken, such as a learning-rate schedule."""

    def step(self) -> object:
        """Take note of one step."""
        ...


def at_points(points: int, steps: int, look: Callable[[int], object]) -> OnStep:
    """Return what looks at a training on the way, evenly, so that with the end there are as many points as asked for.

    Args:
        points: Number of points, the end among them, at least 1.
        steps: Number of steps of the training.
        look: Called with the number of steps taken, at each point but the end.

    Raises:
        ValueError: If ``points`` is below 1.

    Example:
        >>> seen = []
        >>> on_step = at_points(3, steps=10, look=seen.append)
        >>> for step in range(10):
        ...     _ = on_step(step, torch.zeros(()))
        >>> seen
        [4, 7]
    """
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")

    def on_step(step: int, _: Tensor) -> None:
        if (step + 1) * points // steps > step * points // steps and step + 1 < steps:
            look(step + 1)

    return on_step


def clip_gradients(optimizer: torch.optim.Optimizer, norm: float) -> None:
    """Have an optimizer scale its gradients down, before each step, where their common norm is larger than a bound.

    Args:
        optimizer: Holds the parameters, whose norms are taken in the order of its groups.
        norm: The bound, above 0.

    Raises:
        ValueError: If ``norm`` is not above 0.

    Example:
        >>> w = torch.tensor([0.0], requires_grad=True)
        >>> sgd = torch.optim.SGD([w], lr=1.0)
        >>> clip_gradients(sgd, norm=0.5)
        >>> _ = minimise(lambda slope: slope * w.sum(), sgd, [3.0], steps=1)
        >>> round(w.item(), 4)
        -0.5
    """
    if not norm > 0:
        raise ValueError(f"norm must be above 0, got {norm}")

    def clip(*_: object) -> None:
        clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], norm)

    optimizer.register_step_pre_hook(clip)


def index_batches(
    n: int, batch_size: int, generator: torch.Generator, device: torch.device | str | None = None
) -> Iterator[Tensor]:
    """Yield batches of indices without end, each epoch a fresh shuffle without replacement.

    An epoch has ``n // batch_size`` full batches, and the samples left over sit it out; where ``n`` is below
    ``batch_size``, it is one batch of all ``n``. The generator is drawn from once an epoch, when its first batch
    is asked for.

    Args:
        n: Number of samples, at least 1.
        batch_size: Samples a batch, at least 1.
        generator: Source of the shuffles.
        device: Where the indices are to be; the generator's device by default.

    Yields:
        Indices below ``n``, int64, shape (min(n, batch_size),).

    Raises:
        ValueError: If ``n`` or ``batch_size`` is below 1.

    Example:
        >>> stream = index_batches(6, 3, torch.Generator().manual_seed(0))
        >>> sorted(torch.cat([next(stream), next(stream)]).tolist())
        [0, 1, 2, 3, 4, 5]
    """
    if n < 1:
        raise ValueError(f"n, the number of samples, must be at least 1, got {n}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    return _index_batches(n, min(n, batch_size), generator, device)


def _index_batches(
    n: int, size: int, generator: torch.Generator, device: torch.device | str | None
) -> Iterator[Tensor]:
    while True:
        order = torch.randperm(n, generator=generator, device=generator.device).to(device)
        yield from order[: n - n % size].split(size)


def minimise(
    loss: Callable[[Batch], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    *,
    steps: int,
    schedule: Schedule | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Take one optimizer step on each of the first batches.

    The losses stay on their device, so that no step waits for an accelerator. A loss that is not finite raises
    nothing and is returned as it is; but every 50 steps the latest loss is looked at, and if it is not finite, the run
    has diverged and ends there.

    Args:
        loss: Maps a batch to a scalar with a gradient.
        optimizer: Any optimizer that steps without a closure.
        batches: One batch a step; may be endless, and ends the run if it ends first.
        steps: Number of optimizer steps, at least 1.
        schedule: Stepped after every optimizer step.
        on_step: Called after every step, with the step's number from 0 and its loss.

    Returns:
        The loss of every step taken, each before its update, shape (steps,); shorter after a divergence.

    Raises:
        ValueError: If ``steps`` is below 1, or there are no batches.

    Example:
        >>> w = torch.tensor([4.0], requires_grad=True)
        >>> sgd = torch.optim.SGD([w], lr=0.5)
        >>> minimise(lambda target: (w - target).square().sum(), sgd, [1.0, 3.0], steps=2)
        tensor([9., 4.])
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    losses: list[Tensor] = []
    for step, batch in zip(range(steps), batches, strict=False):
        optimizer.zero_grad()
        value = loss(batch)
        value.backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        losses.append(value.detach())  # value keeps its graph, whose AccumulateGrad nodes the next step uses again
        if on_step is not None:
            on_step(step, losses[-1])
        if (step + 1) % _CHECK_EVERY == 0 and not math.isfinite(value.item()):
            break
    if not losses:
        raise ValueError("batches must hold at least one batch, got none")
    return torch.stack(losses)


def loss_curve(losses: Tensor, points: int = 50) -> list[tuple[float, float]]:
    """Average a run's losses over equal stretches of steps, to be drawn.

    Args:
        losses: One loss a step, shape (steps,), as the loops return them.
        points: The largest number of stretches, at least 1.

    Returns:
        For each stretch the number of steps at its end, and the mean loss in it.

    Example:
        >>> loss_curve(torch.tensor([4.0, 2.0, 1.0, 1.0]), points=2)
        [(2.0, 3.0), (4.0, 1.0)]
    """
    parts = losses.detach().cpu().tensor_split(min(points, len(losses)))
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)
    return [(float(end), part.mean().item()) for end, part in zip(ends, parts, strict=True)]
