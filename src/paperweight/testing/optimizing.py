"""Steps of any optimizer on a toy problem: with a closure, in train mode, on the parameters that it takes."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor
from torch.nn import Parameter

from paperweight.kinds import Optimizer
from paperweight.testing.problems import Problem

__all__ = [
    "STEPS",
    "MakeOptimizer",
    "Part",
    "Way",
    "advance",
    "backward",
    "build",
    "evaluating",
    "train",
    "trained",
]

MakeOptimizer = Callable[..., Optimizer]

STEPS = 12
"""After so many steps a check judges whether a parameter moves: the first steps of some only fill their state."""


@final
@dataclass(frozen=True, slots=True)
class Way:
    """How an optimizer is stepped.

    Args:
        closure: Whether ``step`` is given a closure.
        before: Whether gradients are made before ``step``.
        graph: Whether they are made with ``create_graph``, for second derivatives.
        sparse: Whether they are made sparse.
        value: Whether the closure only gives the loss, of which gradients were made before.

    Example:
        >>> Way().closure
        False
    """

    closure: bool = False
    before: bool = True
    graph: bool = False
    sparse: bool = False
    value: bool = False


PLAIN = Way()


@final
@dataclass(frozen=True, slots=True)
class Part:
    """A problem of which only some parameters are free; the others stay at their start.

    Args:
        problem: The whole problem.
        free: Which parameters are free, by index.
        contiguous: Whether they are stored contiguously, whatever strides the problem gives them.

    Example:
        >>> import torch
        >>> from paperweight.testing.problems import quadratic
        >>> part = Part(quadratic([(7,), (4, 3)], generator=torch.Generator()), [1])
        >>> [tuple(p.shape) for p in part.parameters()]
        [(4, 3)]
    """

    problem: Problem
    free: Sequence[int]
    contiguous: bool = False

    def parameters(self) -> list[Parameter]:
        """Make new parameters, the free ones."""
        every = self.problem.parameters()
        free = [every[index] for index in self.free]
        return [Parameter(p.detach().contiguous()) for p in free] if self.contiguous else free

    def loss(self, parameters: Sequence[Tensor], step: int = 0) -> Tensor:
        """Give the loss at a step, a scalar."""
        every: list[Tensor] = [p.detach() for p in self.problem.parameters()]
        for index, p in zip(self.free, parameters, strict=True):
            every[index] = p
        return self.problem.loss(every, step)


def build(make: MakeOptimizer, parameters: Sequence[Any], **hyper: Any) -> Optimizer:
    """Make an optimizer, in train mode where it has modes; a required ``lr`` is 0.1.

    Args:
        make: Takes parameters, or groups of them, and the keyword ``lr``; gives the optimizer.
        parameters: The parameters, or groups.
        hyper: Further keywords for ``make``.

    Returns:
        The optimizer.

    Example:
        >>> import torch
        >>> build(torch.optim.SGD, [Parameter(torch.ones(1))], lr=0.5).param_groups[0]["lr"]
        0.5
    """
    lr = inspect.signature(make).parameters.get("lr")
    if lr is not None and lr.default is lr.empty:
        hyper = {"lr": 0.1, **hyper}
    optimizer = make(parameters, **hyper)
    _switch(optimizer, "train")
    return optimizer


def evaluating(optimizer: Optimizer) -> None:
    """Put an optimizer that has modes, as schedule-free ones do, into eval mode: the parameters become its result.

    Args:
        optimizer: Any optimizer.

    Example:
        >>> import torch
        >>> evaluating(torch.optim.SGD([torch.ones(1)], lr=0.1))
    """
    _switch(optimizer, "eval")


def _switch(optimizer: object, mode: str) -> None:
    if all(callable(getattr(optimizer, name, None)) for name in ("train", "eval")):
        getattr(optimizer, mode)()


def advance(optimizer: Optimizer, way: Way, gradients: Callable[[], Tensor]) -> None:
    """Take one step.

    Args:
        optimizer: The optimizer.
        way: How it is stepped.
        gradients: Makes the gradients and gives the loss.

    Example:
        >>> import torch
        >>> x = Parameter(torch.ones(1))
        >>> optimizer = torch.optim.SGD([x], lr=0.1)
        >>> advance(optimizer, Way(closure=True, before=False), lambda: backward(optimizer, x.square().sum()))
        >>> x.data
        tensor([0.8000])
    """
    loss = gradients().item() if way.before else None
    if way.closure:
        optimizer.step((lambda: loss) if way.value else gradients)
    else:
        optimizer.step()


def backward(optimizer: Optimizer, loss: Tensor, way: Way = PLAIN) -> Tensor:
    """Make the gradients of a loss, in place of those that were there.

    Args:
        optimizer: The optimizer of the parameters.
        loss: The loss, a scalar.
        way: Whether they can be differentiated, and whether they are sparse.

    Returns:
        The loss.

    Example:
        >>> import torch
        >>> x = Parameter(torch.ones(1))
        >>> backward(torch.optim.SGD([x], lr=0.1), 3 * x.sum()), x.grad
        (tensor(3., grad_fn=<MulBackward0>), tensor([3.]))
    """
    optimizer.zero_grad()
    loss.backward(create_graph=way.graph)
    if way.sparse:
        for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
            p.grad = p.grad.to_sparse()
    return loss


def train(optimizer: Optimizer, way: Way, parameters: Sequence[Tensor], problem: Problem, steps: Iterable[int]) -> None:
    """Take steps on a problem.

    Args:
        optimizer: The optimizer of the parameters.
        way: How it is stepped.
        parameters: The parameters of the problem.
        problem: The problem.
        steps: Numbers of the steps, which the loss depends on.

    Example:
        >>> import torch
        >>> from paperweight.testing.problems import Quadratic
        >>> problem = Quadratic([torch.zeros(1)], [torch.ones(1)], [torch.ones(1)])
        >>> parameters = problem.parameters()
        >>> train(torch.optim.SGD(parameters, lr=0.5), Way(), parameters, problem, range(2))
        >>> parameters[0].data
        tensor([0.7500])
    """
    for step in steps:
        advance(optimizer, way, lambda step=step: backward(optimizer, problem.loss(parameters, step), way))


def trained(make: MakeOptimizer, way: Way, problem: Problem, steps: int, **hyper: Any) -> list[Parameter]:
    """Take the first steps on a problem.

    Args:
        make: See `build`.
        way: How it is stepped.
        problem: The problem.
        steps: How many.
        hyper: Further keywords for ``make``.

    Returns:
        The parameters, as they are in eval mode where the optimizer has modes.

    Example:
        >>> import torch
        >>> from paperweight.testing.problems import Quadratic
        >>> problem = Quadratic([torch.zeros(1)], [torch.ones(1)], [torch.ones(1)])
        >>> trained(torch.optim.SGD, Way(), problem, 2, lr=0.5)[0].data
        tensor([0.7500])
    """
    parameters = problem.parameters()
    optimizer = build(make, parameters, **hyper)
    train(optimizer, way, parameters, problem, range(steps))
    evaluating(optimizer)
    return parameters
