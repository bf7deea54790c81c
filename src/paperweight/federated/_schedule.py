"""The greedy schedule of users over the workers of a simulation.

Source:
    F. Granqvist et al., "pfl-research: simulation framework for accelerating research in Private Federated Learning",
    NeurIPS 2024, https://arxiv.org/abs/2404.06430.

Deviations:
    none known
"""

import math
from collections.abc import Sequence

__all__ = ["check_whole", "schedule_users"]


def schedule_users(weights: Sequence[float], workers: int, base: float = 0.0) -> list[list[int]]:
    """Share users out to workers: from the heaviest on, each to the worker that has least to do.

    The busiest worker has at most 4/3 of the work that it has at best.

    Args:
        weights: Work of each user, at least 0, such as its number of samples.
        workers: Number of workers, at least 1.
        base: Work of any user beside its weight, at least 0.

    Returns:
        For each worker the indices of its users.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> schedule_users([1, 5, 3, 3], workers=2)
        [[1, 0], [2, 3]]
    """
    check_whole("workers", workers)
    if not all(value >= 0 for value in (base, *weights)):
        raise ValueError(f"weights and base must be at least 0, got {weights} and {base}")
    shares: list[list[int]] = [[] for _ in range(workers)]
    loads = [0.0] * workers
    for user in sorted(range(len(weights)), key=lambda user: -weights[user]):
        worker = loads.index(min(loads))
        shares[worker].append(user)
        loads[worker] += weights[user] + base
    return shares


def check_whole(name: str, value: int, most: float = math.inf) -> None:
    if not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name} must be a whole number from 1 to {most}, got {value}")
