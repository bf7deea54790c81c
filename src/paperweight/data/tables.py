"""Tables for supervised learning from CSV files: numeric features and a target."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paperweight.data.cache import fingerprint
from paperweight.data.columns import as_numbers, from_text, is_identifier
from paperweight.data.named import find
from paperweight.data.reading import refusing
from paperweight.errors import InputError

__all__ = ["Table", "load_table"]

DELIMITERS = (",", ";", "\t", "|")
MAX_CATEGORIES = 64
MANY_VALUES, MANY_ROWS = 10, 20
MAX_INTEGER_CLASSES = 20
LONG = 2**53


@dataclass(frozen=True)
class Table:
    """A supervised table.

    `features` is float32 of shape (N, D), NaN where a number is missing. `target` has shape (N,): int64 from 0 to K - 1
    with K names in `classes`, or float32 with no classes. `fingerprint` is a SHA-256 of the values and names; `notes`
    says what was done.
    """

    features: np.ndarray
    target: np.ndarray
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    name: str
    fingerprint: str
    notes: tuple[str, ...]


def load_table(source: str | Path, *, target: str | None = None) -> Table:
    r"""Load a CSV file with a header row, in UTF-8, with commas, semicolons, tabs or bars between cells.

    A column of text becomes one 0/1 feature for each of its values, named `column=value`, unless it holds numbers with
    decimal commas, commas between thousands, signs of percent or currency, or one unit. A column of dates, of
    identifiers, or of another text in each of more than 20 rows is left out. Notes say so; the rows keep their order.
    Where cells of a column are missing, another feature, `column is missing`, is 1; the column is NaN there if it holds
    numbers, and has none of its values if it holds text. A column of missing cells alone is left out.
    The target is a class if it is text, true or false, or whole numbers of few different values, otherwise a number.

    Args:
        source: The path of a CSV file, or of a folder with one, or the name of such a folder of the data root.
        target: The name of the column to predict, the last one if None.

    Raises:
        InputError: If the file is missing, damaged or without a header, a cell is not finite or no number among
            numbers, one of the target is missing, or a column cannot be used.

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
        columns, notes = _read(path)
    except OSError as error:
        raise InputError(
            f"{error.filename or source} cannot be read ({error.strerror or error}); correct that"
        ) from error
    chosen = list(columns)[-1] if target is None else target
    if chosen not in columns:
        raise InputError(f"{path} has no column {chosen!r} for the target, only {', '.join(columns)}; name one of them")
    values, classes = _target(columns.pop(chosen), f"{path}, target column {chosen!r}")
    features: dict[str, np.ndarray] = {}
    for name, column in columns.items():
        missing = _missing(column)
        known = column[~missing]
        if not len(known):
            notes.append(f"column {name} holds nothing and was left out")
        elif column.dtype.kind == "M":
            notes.append(f"column {name} holds dates and was left out")
        elif is_identifier(name, known):
            notes.append(f"column {name} holds identifiers and was left out")
        elif column.dtype.kind == "O" and len(set(known)) == len(known) > MANY_ROWS:
            notes.append(f"column {name} holds another text in every row, such as {known[0]!r}, and was left out")
        else:
            coded, note = _features(name, column, f"{path}, column {name!r}")
            if missing.any():
                coded[f"{name} is missing"] = missing.astype(np.float32)
                stands = "none of its values" if column.dtype.kind == "O" else "its mean over the training rows"
                notes.append(
                    f"column {name}: {missing.sum()} of {len(missing)} cells are missing, and stand for {stands}"
                )
            if not features.keys().isdisjoint(coded):
                raise InputError(f"{path}, column {name!r} would become {', '.join(coded)}, a taken name; rename it")
            features |= coded
            notes += [f"column {name} {note}"] if note else []
    if not features:
        said = f" ({'; '.join(notes)})" if notes else ""
        raise InputError(f"{path} holds no feature beside the target {chosen!r}{said}; add a column of numbers or text")
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


def _read(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the columns of a CSV file by name, numbers, booleans, dates or text, and notes.

    A cell that is missing is NaN, not a time, or None; true and false are 1 and 0 in a column with such cells.
    """
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
    indexed = not header[0].strip() and len(header) > 1
    repeated = [
        n for index, n in enumerate(header) if n in header[:index] or not (n.strip() or (indexed and index == 0))
    ]
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
    if _is_data(header, table):
        begins = ", ".join(map(repr, header[:5]))
        raise InputError(
            f"{path} begins with numbers where the names of the columns should be ({begins}); "
            "add a first line with a name for each column, none of them a number"
        )
    columns: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for position, (name, column) in enumerate(zip(table.column_names, table.columns, strict=True)):
        if pa.types.is_time(column.type) or pa.types.is_null(column.type):
            column = column.cast("string")
        elif pa.types.is_boolean(column.type) and column.null_count:
            column = column.cast("uint8")
        kept = column.to_numpy()
        if indexed and position == 0:
            if len(set(kept.tolist())) < len(kept):
                raise InputError(f"{path} has a first column without a name; name it, or remove it if it is an index")
            notes.append("the first column, which has no name, was taken for an index and left out")
            continue
        if kept.dtype.kind == "f" and (np.abs(kept) >= LONG).any() and _is_long(path, name, delimiter):
            notes.append(
                f"column {name} holds whole numbers of more than 15 digits and was left out, as identifiers are"
            )
            continue
        if kept.dtype.kind == "O":
            read, note = from_text(kept, delimiter, f"{path}, column {name!r}")
            notes += [f"column {name}: {note}"] if note else []
            kept = np.zeros(len(kept), "datetime64[s]") if read is None else read
        if kept.dtype.kind == "f":
            with np.errstate(over="ignore"):
                infinite = np.isinf(kept.astype(np.float32))
            if infinite.any():
                row = int(infinite.argmax())
                raise InputError(
                    f"{path}, row {row + 1}, column {name!r}: {kept[row]} is not a finite 32-bit number; correct it"
                )
        columns[name] = kept
    return columns, notes


def _is_long(path: Path, name: str, delimiter: str) -> bool:
    """Say whether a column holds a whole number that was written out in more digits than a float keeps apart."""
    import pyarrow as pa
    import pyarrow.csv as pc

    text = pc.read_csv(
        path,
        parse_options=pc.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pc.ConvertOptions(include_columns=[name], column_types={name: pa.string()}),
    )
    return any(len(cell.strip("+- ")) > 15 and cell.strip("+- ").isdigit() for cell in text.column(0).to_pylist())


def _is_data(header: list[str], table: Any) -> bool:
    """Say whether the first line holds a number over each column of numbers, and is no count of the columns."""
    import pyarrow as pa

    over = [
        name
        for name, column in zip(header, table.columns, strict=True)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    ]
    counts = [str(n) for n in range(len(header))], [str(n) for n in range(1, len(header) + 1)]
    return bool(over) and all(_is_number(name) for name in over) and not any(set(over) <= set(c) for c in counts)


def _missing(column: np.ndarray) -> np.ndarray:
    """Return which cells of a column are missing, bool, shape (N,)."""
    if column.dtype.kind == "O":
        return np.array([cell is None for cell in column])
    if column.dtype.kind == "M":
        return np.isnat(column)
    return np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), bool)


def _target(column: np.ndarray, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the target and its class names, which are empty for a number."""
    if (missing := _missing(column)).any():
        raise InputError(
            f"{where}, row {missing.argmax() + 1}: the cell is missing, as {missing.sum()} of {len(column)} are; fill "
            "them, or remove these rows"
        )
    if column.dtype.kind == "M":
        raise InputError(f"{where} holds dates; choose a column of numbers or text")
    distinct, codes = np.unique(column, return_inverse=True)
    if len(distinct) == 1:
        raise InputError(f"{where} holds {distinct[0]} in every row; choose a column that varies")
    whole = column.dtype.kind != "f" or bool((distinct == np.rint(distinct)).all())
    if column.dtype.kind == "O":
        _refuse_many(column, len(distinct), where)
    elif not whole or len(distinct) > min(MAX_INTEGER_CLASSES, max(2, len(column) // 2)):
        return column.astype(np.float32), ()
    names = distinct.astype(np.int64) if column.dtype.kind == "f" else distinct
    return codes.astype(np.int64), tuple(str(value) for value in names)


def _features(name: str, column: np.ndarray, where: str) -> tuple[dict[str, np.ndarray], str]:
    """Return the features that a column becomes, float32 of shape (N,), by name, and a note on it."""
    if column.dtype.kind != "O":
        numbers, note = as_numbers(column)
        return {name: numbers}, note
    values = sorted(set(column) - {None})
    _refuse_many(column, len(values), where)
    note = f"holds text, {len(values)} values such as {values[0]!r}, each of which became a feature of 0 and 1"
    coded = {f"{name}={value}": (column == value).astype(np.float32) for value in values}
    return coded, note if len(values) > MANY_VALUES else ""


def _refuse_many(column: np.ndarray, distinct: int, where: str) -> None:
    if distinct > MAX_CATEGORIES:
        row = next((i for i, cell in enumerate(column) if cell is not None and not _is_number(cell)), 0)
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
