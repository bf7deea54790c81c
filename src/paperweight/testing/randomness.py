"""The global random states, which no method may use: set for a while, and watched."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["changed_random_states", "seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the random states of Python, NumPy and torch, and put back afterwards what they were.

    Args:
        seed: The seed of all three.

    Yields:
        Nothing.

    Example:
        >>> with seeded(0):
        ...     first = torch.rand(1)
        >>> with seeded(0):
        ...     torch.equal(first, torch.rand(1))
        True
    """
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def changed_random_states(action: Callable[[], object]) -> list[str]:
    """Name the libraries whose global random state an action changes; afterwards all are as before.

    Args:
        action: What to do.

    Returns:
        Some of ``Python``, ``NumPy`` and ``torch``.

    Example:
        >>> changed_random_states(lambda: torch.rand(1))
        ['torch']
    """

    def states() -> dict[str, str]:
        generators = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
        return {
            "Python": repr(random.getstate()),
            "NumPy": repr([np.asarray(part).tobytes() for part in np.random.get_state()]),
            "torch": repr([state.numpy().tobytes() for state in generators]),
        }

    with seeded(0):
        for draw in (random.random, np.random.random, lambda: torch.rand(1)):
            draw()  # so that an action which seeds with the same number is seen, too
        before = states()
        action()
        after = states()
    return [name for name in before if before[name] != after[name]]
