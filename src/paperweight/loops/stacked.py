"""Training many small classifiers of one structure at once, stacked, in place of one after another."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import stack_module_state

from paperweight.loops._stacking import Loss, stacked_forward, stacked_loss
from paperweight.loops.core import OnStep
from paperweight.loops.supervised import fit_classifier

__all__ = ["Pays", "fit_stacked", "stacking_pays"]

_OF_EACH_ENTRY = (
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.RMSprop,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
)
_MEASURED = 3

MakeOptimizer = Callable[[list[Tensor]], torch.optim.Optimizer]


def fit_stacked(
    models: Sequence[nn.Module],
    optimizer: MakeOptimizer,
    inputs: Tensor,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int,
    generators: Sequence[torch.Generator],
    loss: Loss = F.cross_entropy,
    on_step: OnStep | None = None,
) -> Tensor:
    """Train models of one structure in place, each as `fit_classifier` would alone, all in one step.

    Each model has its own weights, data, batches and state of the optimizer. Chains of linear layers and functions of
    each entry, such as `paperweight.nets.MLP`, are stacked by products of many matrices, all else by `torch.func`.
    Weights differ from those of single runs by the rounding of sums in another order: of a 2-32-32-2 network, after 200
    steps, by at most 1e-9 in float64 and 1e-4 in float32. A model that diverges leaves the others alone, and goes on.

    Args:
        models: At least one, equal but for the values of their weights; without buffers and without randomness.
        optimizer: Makes, of the stacked weights, one of torch's optimizers that treat each entry by itself, such as
            ``partial(torch.optim.Adam, lr=0.01)``.
        inputs: Inputs of each model, (models, N, ...); the same for all by ``inputs.expand(len(models), *shape)``.
        labels: Targets of each model, (models, N, ...); class numbers, int64, (models, N), for cross-entropy.
        steps: Number of optimizer steps, at least 1.
        batch_size: Samples a step, at least 1.
        generators: One a model, the source of its shuffles.
        loss: Maps the output of a model and the labels of a batch to a scalar.
        on_step: Called after every step, with its number from 0 and the losses, (models,).

    Returns:
        The losses, each before its update, (models, steps).

    Raises:
        ValueError: If models, data and generators differ in number, a size is below 1, or something cannot be stacked
            exactly: other structures, buffers, dropout, an optimizer that mixes entries.

    Example:
        >>> from functools import partial
        >>> _ = torch.manual_seed(0)
        >>> models, inputs = [nn.Linear(4, 4) for _ in range(3)], torch.eye(4)
        >>> losses = fit_stacked(models, partial(torch.optim.SGD, lr=1.0), inputs.expand(3, 4, 4),
        ...     torch.arange(4).expand(3, 4), steps=100, batch_size=4,
        ...     generators=[torch.Generator().manual_seed(seed) for seed in range(3)])
        >>> losses.shape, bool((losses[:, -1] < 0.2).all())
        (torch.Size([3, 100]), True)
    """
    _check(models, inputs, labels, generators, steps, batch_size)
    for model in models:
        model.train()
    weights = stack_module_state(list(models))[0]
    trained = optimizer([weight for weight in weights.values() if weight.requires_grad])
    _check_optimizer(trained)
    of_model = torch.arange(len(models), device=inputs.device)[:, None]
    forward, criterion = stacked_forward(models[0], weights), stacked_loss(loss)
    losses: list[Tensor] = []
    batches = _batches(inputs.shape[1], batch_size, generators, inputs.device)
    for step, index in zip(range(steps), batches, strict=False):
        trained.zero_grad()
        try:
            values = criterion(forward(inputs[of_model, index]), labels[of_model, index])
        except RuntimeError as error:
            if step:
                raise
            raise ValueError(
                f"models must be such that torch.func.vmap can stack them, without dropout; it says: "
                f"{str(error).splitlines()[0]}; train them one by one with fit_classifier"
            ) from error
        values.sum().backward()
        trained.step()
        losses.append(values.detach())
        if on_step is not None:
            on_step(step, losses[-1])
    with torch.no_grad():
        for number, model in enumerate(models):
            for name, weight in model.named_parameters():
                weight.copy_(weights[name][number])
    return torch.stack(losses, dim=1)


@final
@dataclass(frozen=True, slots=True)
class Pays:
    """What a step of all models takes.

    Attributes:
        stacked: Seconds when they are stacked.
        single: Seconds one after another.
    """

    stacked: float
    single: float

    @property
    def ratio(self) -> float:
        """How many times as fast stacking is."""
        return self.single / self.stacked

    def __bool__(self) -> bool:
        """Return whether stacking is faster."""
        return self.stacked < self.single


def stacking_pays(
    models: Sequence[nn.Module],
    optimizer: MakeOptimizer,
    inputs: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    loss: Loss = F.cross_entropy,
) -> Pays:
    """Measure three steps of `fit_stacked`, and three of `fit_classifier` on one model, after one step that warms up.

    Models and random streams stay as they are. The quickest of the three steps counts, of one model times their
    number.

    Args:
        models: As for `fit_stacked`.
        optimizer: Likewise.
        inputs: Likewise.
        labels: Likewise.
        batch_size: Likewise.
        loss: Likewise.

    Returns:
        Seconds a step of all models, both ways; true where stacking is faster.

    Raises:
        ValueError: As by `fit_stacked`.

    Example:
        >>> from functools import partial
        >>> models, inputs = [nn.Linear(4, 4) for _ in range(64)], torch.eye(4).expand(64, 4, 4)
        >>> labels, sgd = torch.arange(4).expand(64, 4), partial(torch.optim.SGD, lr=1.0)
        >>> bool(stacking_pays(models, sgd, inputs, labels, batch_size=2))
        True
    """
    copies = [copy.deepcopy(model) for model in models]
    times: list[float] = []

    def note(_: int, value: Tensor) -> None:
        if value.is_cuda:
            torch.cuda.synchronize(value.device)
        times.append(time.perf_counter())

    def quickest() -> float:
        return min(after - before for before, after in pairwise(times[-_MEASURED - 1 :]))

    steps, draws = 1 + _MEASURED, [torch.Generator().manual_seed(number) for number in range(len(models))]
    fit_stacked(
        copies,
        optimizer,
        inputs,
        labels,
        steps=steps,
        batch_size=batch_size,
        generators=draws,
        loss=loss,
        on_step=note,
    )
    stacked, alone = quickest(), copy.deepcopy(models[0])
    fit_classifier(
        alone,
        optimizer([weight for weight in alone.parameters() if weight.requires_grad]),
        inputs[0],
        labels[0],
        steps=steps,
        batch_size=batch_size,
        generator=draws[0],
        loss=loss,
        on_step=note,
    )
    return Pays(stacked, quickest() * len(models))


def _batches(n: int, batch_size: int, generators: Sequence[torch.Generator], device: torch.device) -> Iterator[Tensor]:
    """Yield the batches of `index_batches` of each generator, (models, min(n, batch_size)), without end."""
    size = min(n, batch_size)
    while True:
        orders = [torch.randperm(n, generator=draw, device=draw.device).to(device) for draw in generators]
        yield from torch.stack(orders)[:, : n - n % size].split(size, dim=1)


def _check(
    models: Sequence[nn.Module],
    inputs: Tensor,
    labels: Tensor,
    generators: Sequence[torch.Generator],
    steps: int,
    batch_size: int,
) -> None:
    counts = {"models": len(models), "inputs": len(inputs), "labels": len(labels), "generators": len(generators)}
    if not models or len(set(counts.values())) > 1:
        raise ValueError(f"models, inputs, labels and generators must be equally many, at least one, got {counts}")
    if inputs.shape[1] < 1 or inputs.shape[1] != labels.shape[1]:
        raise ValueError(
            "inputs and labels must hold equally many samples a model, at least 1, "
            f"got {tuple(inputs.shape)} and {tuple(labels.shape)}"
        )
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    structure = _structure(models[0])
    for number, model in enumerate(models):
        if (buffer := next((name for name, _ in model.named_buffers()), None)) is not None:
            raise ValueError(
                f"models must have no buffers, such as the statistics of batch normalization, got {buffer!r}; train "
                "them one by one with fit_classifier"
            )
        if _structure(model) != structure:
            raise ValueError(f"models must be of one structure, got another one as number {number}: {model}")


def _structure(model: nn.Module) -> object:
    """Return modules with what they say of themselves, and names, shapes and kinds of their weights."""
    weights = [(name, p.shape, p.dtype, p.device, p.requires_grad) for name, p in model.named_parameters()]
    return repr(model), [type(module) for module in model.modules()], weights


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    if type(optimizer) not in _OF_EACH_ENTRY or optimizer._optimizer_step_pre_hooks:
        known = ", ".join(kind.__name__ for kind in _OF_EACH_ENTRY)
        raise ValueError(
            f"optimizer must treat each entry by itself, as {known} of torch do without a hook before the step, got "
            f"{type(optimizer).__name__}; train the models one by one with fit_classifier"
        )
