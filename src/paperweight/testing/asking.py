"""What an optimizer takes, found out by trying; a refusal in its own words is told apart from a fault."""

import dis
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import Parameter

from paperweight.kinds import Optimizer
from paperweight.testing.optimizing import MakeOptimizer, Part, Way, advance, backward, build
from paperweight.testing.problems import SHAPES, Problem
from paperweight.testing.randomness import seeded
from paperweight.testing.report import CheckFailure, NotApplicable

__all__ = ["Taken", "ask", "is_refusal", "refusing", "takes_lr"]

Shape = tuple[int, ...]

_WAYS = (
    Way(),
    Way(closure=True, before=False),
    Way(closure=True),
    Way(graph=True),
    Way(closure=True, before=False, graph=True),
    Way(closure=True, value=True),
    Way(sparse=True),
)
_TRIED_STEPS = 3
_NO_REFUSALS = (AssertionError, LookupError, AttributeError, ImportError, ArithmeticError, CheckFailure, NotApplicable)


@final
@dataclass(frozen=True, slots=True)
class Taken:
    """What an optimizer takes.

    Args:
        way: The first way in which it can be stepped: plainly, with a closure, by gradients that can be differentiated,
            or by sparse ones. If there is none, plainly.
        shapes: Which of `paperweight.testing.problems.SHAPES` it steps; all of them if it steps none.
        raised: Of the others, what they raise.
        strided: What a parameter raises that is not stored contiguously: of those shapes one with the last
            two dimensions stored in reverse; None where they are stepped.
        plainly: What a plain step raises for the first shape; None where that is a way.
        random: Whether its steps depend on the global random state.

    Example:
        >>> ask(torch.optim.SGD).way
        Way(closure=False, before=True, graph=False, sparse=False, value=False)
    """

    way: Way
    shapes: tuple[Shape, ...]
    raised: Mapping[Shape, Exception]
    strided: Exception | None
    plainly: Exception | None
    random: bool

    def takes(self, shape: Shape) -> bool:
        """Say whether it steps parameters of a shape, of one that was not tried by its number of dimensions."""
        return shape in self.shapes if shape in SHAPES else len(shape) in {len(tried) for tried in self.shapes}

    def like(self, shape: Shape) -> Shape:
        """Give the shape if it takes it, else another that it takes."""
        return next(tried for tried in (shape, (4, 3), *self.shapes) if self.takes(tried))

    def fitted(self, problem: Problem) -> Problem:
        """Give the problem with only those parameters free that it takes, stored as it takes them.

        Args:
            problem: The problem.

        Returns:
            The problem itself where it takes all of them as they are.

        Raises:
            NotApplicable: If it takes none of them.
        """
        shapes = [tuple(p.shape) for p in problem.parameters()]
        free = [index for index, shape in enumerate(shapes) if self.takes(shape)]
        if not free:
            raise NotApplicable(f"it takes no parameter of shapes {', '.join(map(str, shapes))}")
        if len(free) == len(shapes) and self.strided is None:
            return problem
        return Part(problem, free, contiguous=self.strided is not None)


def ask(make: MakeOptimizer) -> Taken:
    """Find out what an optimizer takes: step it three times, in each way and with each shape, until one way works.

    Args:
        make: Takes parameters and the keyword ``lr``; gives the optimizer.

    Returns:
        What was found.

    Example:
        >>> taken = ask(torch.optim.LBFGS)
        >>> taken.way.closure, taken.raised
        (True, {})
    """
    plain: Exception | None = None
    for way in _WAYS:
        raised = {shape: error for shape in SHAPES if (error := _attempt(make, way, _start(shape))) is not None}
        plain = plain or next(iter(raised.values()), None)
        if len(raised) < len(SHAPES):
            shapes = tuple(shape for shape in SHAPES if shape not in raised)
            strided = (_attempt(make, way, _start(shape).mT.contiguous().mT) for shape in shapes if len(shape) > 1)
            starts = _start(shapes[-1]), _start(shapes[-1])
            random = any(_attempt(make, way, start, seed) for seed, start in enumerate(starts))
            return Taken(
                way,
                shapes,
                raised,
                strided=next(filter(None, strided), None),
                plainly=None if way == Way() else plain,
                random=random or not torch.equal(*starts),
            )
    return Taken(Way(), SHAPES, {}, strided=None, plainly=plain, random=False)


def _start(shape: Shape) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _attempt(make: MakeOptimizer, way: Way, start: Tensor, seed: int = 0) -> Exception | None:
    """Step a parameter from its start, in place; give what is raised."""
    parameter = Parameter(start)
    with seeded(seed):
        try:
            optimizer = build(make, [parameter])
            if not way.closure:
                _bind_step(optimizer)
            for _ in range(_TRIED_STEPS):
                advance(optimizer, way, lambda: backward(optimizer, parameter.square().sum(), way))
        except Exception as error:
            return error
    return None


def _bind_step(optimizer: Optimizer) -> None:
    """Refuse, in the optimizer's place, a call of ``step`` without what it needs."""
    for name, argument in inspect.signature(optimizer.step).parameters.items():
        if argument.default is argument.empty and argument.kind is argument.POSITIONAL_OR_KEYWORD:
            raise TypeError(f"step must be given its argument {name}")


def is_refusal(error: Exception) -> bool:
    """Say whether an exception is a refusal in words: raised by a ``raise`` of the object's own, with a message.

    Args:
        error: What was raised.

    Returns:
        Whether it is one. What torch raises outside ``torch.optim`` is none, nor is a failed ``assert``, look-up,
        import or division.

    Example:
        >>> try:
        ...     raise ValueError("only matrices")
        ... except ValueError as error:
        ...     is_refusal(error)
        True
        >>> try:
        ...     torch.ones(2) @ torch.ones(3)
        ... except RuntimeError as error:
        ...     is_refusal(error)
        False
    """
    trace = error.__traceback__
    if trace is None or not str(error) or isinstance(error, _NO_REFUSALS):
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__"))
    operation = dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]]
    return operation == "RAISE_VARARGS" and (not module.startswith("torch.") or module.startswith("torch.optim"))


@contextmanager
def refusing(what: str) -> Iterator[None]:
    """Take a refusal within as a law that does not apply.

    Args:
        what: What may be refused.

    Yields:
        Nothing.

    Raises:
        NotApplicable: If a refusal is raised, see `is_refusal`; another exception goes on.

    Example:
        >>> with refusing("a step size of 0"):
        ...     raise ValueError("lr must be above 0, got 0.0")
        Traceback (most recent call last):
        ...
        paperweight.testing.report.NotApplicable: it refuses a step size of 0: lr must be above 0, got 0.0
    """
    try:
        yield
    except Exception as error:
        if is_refusal(error):
            raise NotApplicable(f"it refuses {what}: {error}") from error
        raise


def takes_lr(make: MakeOptimizer) -> bool:
    """Say whether an optimizer has the argument ``lr``.

    Args:
        make: See `ask`.

    Returns:
        Whether its signature has ``lr`` or takes any keyword.

    Example:
        >>> takes_lr(torch.optim.SGD), takes_lr(lambda params: torch.optim.SGD(params, lr=0.1))
        (True, False)
    """
    arguments = inspect.signature(make).parameters
    return "lr" in arguments or any(each.kind is each.VAR_KEYWORD for each in arguments.values())
