"""A data set that counts its reads and refuses those that were not declared."""

import operator
from collections import Counter
from collections.abc import Iterable
from typing import Any, final

import torch

from paperweight.testing.report import CheckFailure

__all__ = ["GuardedDataset"]


@final
class GuardedDataset:
    """A map-style data set that counts the reads of each index and refuses those that are not allowed.

    Attributes:
        reads: Index, from 0, to the number of its reads.
        refused: The indices that were asked for and not allowed, in the order of the reads.

    Args:
        dataset: A list, tensor, `torch.utils.data.Dataset` or other object with ``len`` and an index. A slice, a
            list of indices and a tensor of them work where they do on ``dataset``, and count for each index.
        allowed: The indices that may be read, each from 0; by default all.

    Raises:
        CheckFailure: On a read of another index; one that is caught stands in ``refused``.

    Example:
        >>> guarded = GuardedDataset(["a", "b", "c"], allowed=[0, 2])
        >>> guarded[-1], guarded.reads[2]
        ('c', 1)
        >>> guarded[1]
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: it reads sample 1, which is not declared; read only what is given
    """

    def __init__(self, dataset: Any, allowed: Iterable[int] | None = None) -> None:
        self.dataset = dataset
        self.reads: Counter[int] = Counter()
        self.refused: list[int] = []
        self._allowed = None if allowed is None else frozenset(allowed)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        for position in self._positions(index):
            if self._allowed is not None and position not in self._allowed:
                self.refused.append(position)
                raise CheckFailure(f"it reads sample {position}, which is not declared", "read only what is given")
            self.reads[position] += 1
        return self.dataset[index]

    def _positions(self, index: Any) -> list[int]:
        places = range(len(self))
        if isinstance(index, slice):
            return list(places[index])
        if isinstance(index, torch.Tensor) and index.ndim:
            index = torch.arange(len(self))[index.cpu()].flatten().tolist()
        if isinstance(index, list | tuple):
            return [places[item] for item in index]
        return [places[operator.index(index)]]
