"""A table of models and their accuracies, read with every derived number computed anew.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", 2023,
    https://arxiv.org/abs/2308.03821, whose code keeps such a table of 659 models.

Deviations:
    - Averages and ratios are computed anew; of some rows of the authors' table the printed ones are those of three
      shifts, not of four. Models without an accuracy on some shift are told, and left out.
"""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from paperweight.errors import InputError
from paperweight.robustness._robustness_curve import RobustnessCurve, average_robustness

__all__ = ["MetaTable", "meta_table"]


@final
@dataclass(frozen=True)
class MetaTable:
    """Models with accuracy, average robustness, its ratio to the accuracy, and its residual to a curve.

    Attributes:
        rows: One dict a model, the columns of the file as text, and ``accuracy``, ``average``, ``ratio`` and
            ``residual`` as numbers.
        curve: Of the reference models.
        incomplete: Lines of the file that were left out, since an accuracy is missing, or 0 without a shift.
        misprinted: Lines whose printed average differs from the mean of the shifts by more than 0.002.
    """

    rows: tuple[Mapping[str, str | float], ...]
    curve: RobustnessCurve
    incomplete: tuple[int, ...]
    misprinted: tuple[int, ...]


def meta_table(
    path: Path | str,
    *,
    accuracy: str,
    shifted: Sequence[str],
    reference: Callable[[Mapping[str, str]], bool],
    printed: str | None = None,
) -> MetaTable:
    r"""Read a CSV file of models, and compute how robust each is for how accurate it is.

    Args:
        path: The file, with a line of names first.
        accuracy: Name of the column of accuracies without a shift, above 0 and at most 1.
        shifted: Names of the columns of accuracies on shifted sets, from 0 to 1, at least one.
        reference: Which models the curve is fitted to: maps a row, by the names of columns, to whether it is one.
        printed: Name of a column of averages to compare with; None for none.

    Returns:
        The table.

    Raises:
        ValueError: If no shifts are named.
        InputError: If the file cannot be read, a column is not there, an entry is no accuracy, or the curve cannot be
            fitted.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "models.csv")
        ...     lines = "family,val,v2,sketch", "plain,0.5,0.3,0.1", "plain,0.8,0.6,0.4", "clip,0.8,0.7,0.7"
        ...     _ = path.write_text("\n".join(lines))
        ...     table = meta_table(path, accuracy="val", shifted=["v2", "sketch"],
        ...                        reference=lambda row: row["family"] == "plain")
        >>> [round(row["residual"], 3) for row in table.rows]
        [0.0, 0.0, 0.2]
    """
    path = Path(path)
    if not shifted or isinstance(shifted, str):
        raise ValueError(f"shifted must be names of columns, one at least, got {shifted!r}")
    wanted = [accuracy, *shifted, *([] if printed is None else [printed])]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in wanted if name not in (reader.fieldnames or ())]:
                known = ", ".join(reader.fieldnames or ())
                raise InputError(f"{path} has no column {missing[0]}; its columns are {known}")
            if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
                raise InputError(
                    f"{path} must have names of columns that differ, got {', '.join(reader.fieldnames or ())}"
                )
            lines = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} must be a CSV file that can be read: {error}") from None
    found: list[dict[str, str | float]] = []
    plain: list[Mapping[str, str]] = []
    incomplete: list[int] = []
    misprinted: list[int] = []
    for line, row in lines:
        if None in row:
            raise InputError(
                f"{path}, line {line}: it has more entries than there are columns; quote what holds a comma"
            )
        numbers = [_accuracy(path, line, name, row[name]) for name in (accuracy, *shifted)]
        if any(number is None for number in numbers) or not numbers[0]:
            incomplete.append(line)
            continue
        first, *rest = (float(number or 0) for number in numbers)
        average = average_robustness(rest).item()
        if printed is not None and (told := _accuracy(path, line, printed, row[printed])) is not None:
            misprinted += [line] * (abs(told - average) > 0.002)
        found.append({**row, "accuracy": first, "average": average, "ratio": average / first})
        plain.append(row)
    chosen = [of for of, row in zip(found, plain, strict=True) if reference(row)]
    try:
        curve = RobustnessCurve.fit([float(of["accuracy"]) for of in chosen], [float(of["average"]) for of in chosen])
    except ValueError as error:
        raise InputError(f"{path}: no curve can be fitted to the {len(chosen)} reference models: {error}") from None
    for of in found:
        of["residual"] = curve.residual(float(of["accuracy"]), float(of["average"])).item()
    return MetaTable(tuple(found), curve, tuple(incomplete), tuple(misprinted))


def _accuracy(path: Path, line: int, name: str, text: str | None) -> float | None:
    """Read an accuracy; none where the entry is empty or nan."""
    if text is None or not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if math.isnan(number):
        return None
    if not 0 <= number <= 1:
        raise InputError(f"{path}, line {line}: {name} must be an accuracy from 0 to 1, got {text!r}")
    return number
