"""Stratified random parts of a table, as tensors."""

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor

from paperweight.data.labelled import LabelledImages
from paperweight.data.parts import brief
from paperweight.data.splits import Splits
from paperweight.data.tables import Table
from paperweight.errors import InputError

__all__ = ["split_table"]

_PARTS = 3


def split_table(table: Table, *, train: int, validation: int, test: int, generator: torch.Generator) -> Splits:
    """Draw random parts of a table's rows in which every class has its share, by scikit-learn's `train_test_split`.

    Features get mean 0 and standard deviation 1 over the training rows; one that is constant there becomes 0, and so
    does NaN, which stands for the mean. Where the
    table has fewer rows than asked for, the parts shrink in proportion. Copies of a row are not told from one another,
    and may fall into several parts.

    Args:
        table: The table; its target is a class.
        train: How many training rows, at least 1.
        validation: How many validation rows, at least 1.
        test: How many test rows, at least 1.
        generator: Decides which rows are drawn, and their order. On the CPU.

    Returns:
        The parts, inputs of shape (N, 1, 1, features), each in random order.

    Raises:
        InputError: If the target is a number, or there are too few rows for three parts.

    Example:
        >>> table = Table(
        ...     features=np.arange(40, dtype=np.float32).reshape(20, 2), target=np.arange(20) % 2,
        ...     feature_names=("a", "b"), classes=("no", "yes"), name="toy", fingerprint="", notes=(),
        ... )
        >>> parts = split_table(table, train=10, validation=4, test=6, generator=torch.Generator().manual_seed(0))
        >>> parts.train.images.shape, parts.test.labels.bincount().tolist()
        (torch.Size([10, 1, 1, 2]), [3, 3])
    """
    if not table.classes:
        raise InputError(
            f"the target of {table.name} must be a class, it holds numbers; name another column as the target, or "
            "write its values as text"
        )
    counts = np.bincount(table.target, minlength=len(table.classes))
    few = [f"{name!r} has {n}" for name, n in zip(table.classes, counts, strict=True) if n < _PARTS]
    if few or len(table.classes) < 2:
        reason = f"class {brief(few)} row{'s' if len(few) > 1 else ''} in it" if few else "there is one class"
        raise InputError(
            f"the target of {table.name} must have two classes or more with at least {_PARTS} rows each, one for each "
            f"part; {reason}; add rows or leave such classes out"
        )
    least = len(table.classes)
    if len(table.target) < _PARTS * least:
        raise InputError(f"{table.name} must have at least {_PARTS * least} rows, it has {len(table.target)}; add some")
    asked = np.array([train, validation, test])
    sizes = np.maximum(np.floor(asked * min(1.0, len(table.target) / asked.sum())).astype(int), least)
    sizes[0] = min(sizes[0], len(table.target) - sizes[1:].sum())
    rest, rows = np.arange(len(table.target)), []
    for size in sizes[::-1]:
        if least <= len(rest) - size:
            state = int(torch.randint(2**31, (), generator=generator))
            labels = table.target[rest]
            shared = labels if np.unique(labels, return_counts=True)[1].min() > 1 else None
            chosen, rest = train_test_split(
                rest, train_size=size, test_size=len(rest) - size, random_state=state, stratify=shared
            )
        else:
            chosen = rest[torch.randperm(len(rest), generator=generator).numpy()[:size]]
        rows.append(chosen)
    learned = [_known(column) for column in torch.from_numpy(table.features[rows[-1]]).double().unbind(dim=1)]
    spread = torch.stack([column.std(correction=0) for column in learned])
    centre, scale = torch.stack([column.mean() for column in learned]), torch.where(spread > 0, 1 / spread, 0.0)

    def part(chosen: np.ndarray) -> LabelledImages:
        features = ((torch.from_numpy(table.features[chosen]).double() - centre) * scale).nan_to_num(nan=0.0).float()
        return LabelledImages(features[:, None, None, :], torch.from_numpy(table.target[chosen]))

    test_part, validation_part, train_part = (part(chosen) for chosen in rows)
    return Splits(train_part, validation_part, test_part, table.classes, (1, 1, table.features.shape[1]))


def _known(column: Tensor) -> Tensor:
    """Return the numbers of a column that are not missing, or 0 where all are."""
    known = column[~column.isnan()]
    return known if len(known) else column.new_zeros(1)
