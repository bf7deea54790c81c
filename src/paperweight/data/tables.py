"""Tables for supervised learning from CSV files: numeric features and a target."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paperweight.data.cache import fingerprint
from paperweight.data.named import find
from paperweight.data.reading import refusing
from paperweight.errors import InputError

__all__ = ["Table", "load_table"]

DELIMITERS = (",", ";", "\t")
MAX_CATEGORIES = 64
MAX_INTEGER_CLASSES = 20


@dataclass(frozen=True)
class Table:
    """A supervised table.

    `features` is float32 of shape (N, D). `target` has shape (N,): int64 from 0 to K - 1 with K names in `classes`,
    or float32 with no classes. `fingerprint` is a SHA-256 of the values and names; `notes` says what was done.
    """

    features: np.ndarray
    target: np.ndarray
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    notes: tuple[str, ...]


def load_table(source: str | Path, *, target: str | None = None) -> Table:
    r"""Load a CSV file with a header row, in UTF-8, with commas, semicolons or tabs between cells.

    A column of text becomes one 0/1 feature for each of its values, named `column=value`. A column of dates is left
    out, with a note; the rows keep their order. The target is a class if it is text, true or false, or integers of few
    different values, otherwise a number.

    Args:
        source: The path of a CSV file, or of a folder with one, or the name of such a folder of the data root.
        target: The name of the column to predict, the last one if None.

    Raises:
        InputError: If the file is missing or damaged, a cell is missing or not finite, or a column cannot be used.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "plants.csv")
        ...     _ = path.write_text("height,leaf,kind\n1.5,round,oak\n2.5,thin,pine\n")
        ...     table = load_table(path)
        >>> table.feature_names, table.features.tolist(), table.target.tolist(), table.classes
        (('height', 'leaf=round', 'leaf=thin'), [[1.5, 1.0, 0.0], [2.5, 0.0, 1.0]], [0, 1], ('oak', 'pine'))
    """
    try:
        path = _csv_file(find(source))
        columns = _read(path)
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror or error}); correct that"
        ) from error
    chosen = list(columns)[-1] if target is None else target
    if chosen not in columns:
        raise InputError(f"{path} has no column {chosen!r} for the target, only {', '.join(columns)}; name one of them")
    values, classes = _target(columns.pop(chosen), f"{path}, target column {chosen!r}")
    features: dict[str, np.ndarray] = {}
    notes = []
    for name, column in columns.items():
        if column.dtype.kind == "M":
            notes.append(f"column {name} holds dates and was left out")
        else:
            coded = _features(name, column, f"{path}, column {name!r}")
            if not features.keys().isdisjoint(coded):
                raise InputError(f"{path}, column {name!r} would become {', '.join(coded)}, a taken name; rename it")
            features |= coded
    if not features:
        raise InputError(f"{path} holds no feature beside the target {chosen!r}; add a column of numbers or text")
    matrix = np.stack(list(features.values()), axis=1)
    names = tuple(features)
    mark = fingerprint({"features": matrix, "target": values}, (*names, "", *classes))
    return Table(matrix, values, names, classes, path.stem, mark, tuple(notes))


def _csv_file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() == ".csv" and not p.name.startswith("."))
        if len(files) != 1:
            raise InputError(f"{path} must hold exactly one CSV file, holds {len(files)}; give the path of one")
        return files[0]
    if path.suffix.lower() != ".csv":
        raise InputError(f"{path} is not a .csv file; tables are read from CSV only, so export it")
    return path


def _read(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a CSV file by name: numbers, booleans, dates or text, none of them missing."""
    import pyarrow as pa
    import pyarrow.csv as pc

    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: the text is not UTF-8; save the file as UTF-8") from error
    with refusing(str(path), "has a header that cannot be read", "the first line must name the columns"):
        readers = {mark: csv.reader(io.StringIO(text, newline=""), delimiter=mark) for mark in DELIMITERS}
        headers = {mark: next(reader, []) for mark, reader in readers.items()}
    delimiter, header = max(headers.items(), key=lambda item: len(item[1]))
    if not header:
        raise InputError(f"{path} has no header in its first line; the first line must name the columns")
    repeated = [name for index, name in enumerate(header) if name in header[:index] or not name.strip()]
    if repeated:
        raise InputError(
            f"{path} has a column name twice or empty in its header: {repeated[0]!r}; name each column once"
        )
    ragged: list[tuple[int, int]] = []

    def note_ragged(row: Any) -> str:
        ragged.append((row.number - 1, row.actual_columns))
        return "error"

    try:
        with refusing(str(path), "cannot be read as CSV", "correct the file"):
            table = pc.read_csv(
                pa.BufferReader(content),
                read_options=pc.ReadOptions(use_threads=False, block_size=min(len(content) + 1, 2**31 - 1)),
                parse_options=pc.ParseOptions(
                    delimiter=delimiter, newlines_in_values=True, invalid_row_handler=note_ragged
                ),
                convert_options=pc.ConvertOptions(strings_can_be_null=True),
            )
    except InputError as error:
        if not ragged:
            raise
        row, cells = ragged[0]
        raise InputError(
            f"{path}, row {row} has {cells} cells where the header has {len(header)}; correct it, or quote its text"
        ) from error
    if table.num_rows < 2:
        raise InputError(f"{path} must hold at least 2 rows below the header, holds {table.num_rows}; add rows")
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count:
            row = int(np.asarray(column.is_null()).argmax()) + 1
            raise InputError(
                f"{path}, row {row}, column {name!r}: the cell is missing or NaN; fill it or remove the row"
            )
        kept = (column.cast("string") if pa.types.is_time(column.type) else column).to_numpy()
        if kept.dtype.kind == "f":
            with np.errstate(over="ignore"):
                finite = np.isfinite(kept.astype(np.float32))
            if not finite.all():
                row = int((~finite).argmax())
                raise InputError(
                    f"{path}, row {row + 1}, column {name!r}: {kept[row]} is not a finite 32-bit number; correct it"
                )
        columns[name] = kept
    return columns


def _target(column: np.ndarray, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the target and its class names, which are empty for a number."""
    if column.dtype.kind == "M":
        raise InputError(f"{where} holds dates; choose a column of numbers or text")
    distinct, codes = np.unique(column, return_inverse=True)
    if len(distinct) == 1:
        raise InputError(f"{where} holds {distinct[0]} in every row; choose a column that varies")
    if column.dtype.kind == "O":
        _refuse_many(column, len(distinct), where)
    elif column.dtype.kind == "f" or len(distinct) > min(MAX_INTEGER_CLASSES, max(2, len(column) // 2)):
        return column.astype(np.float32), ()
    return codes.astype(np.int64), tuple(str(value) for value in distinct)


def _features(name: str, column: np.ndarray, where: str) -> dict[str, np.ndarray]:
    """Return the features that a column becomes, float32 of shape (N,), by name."""
    if column.dtype.kind != "O":
        return {name: column.astype(np.float32)}
    values = sorted(set(column))
    _refuse_many(column, len(values), where)
    return {f"{name}={value}": (column == value).astype(np.float32) for value in values}


def _refuse_many(column: np.ndarray, distinct: int, where: str) -> None:
    if distinct > MAX_CATEGORIES:
        row = next((i for i, cell in enumerate(column) if not _is_number(cell)), 0)
        raise InputError(
            f"{where} is text (such as {column[row]!r} in row {row + 1}) with {distinct} different values, more than "
            f"{MAX_CATEGORIES}; correct it if it is meant to hold numbers, or remove the column"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
