"""What the text of a table's column stands for: numbers written in another way, dates, or words."""

import re
from collections.abc import Callable

import numpy as np

from paperweight.errors import InputError

__all__ = ["as_numbers", "from_text", "is_identifier"]

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?(?:[eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})*(?:\.\d+)?")
UNIT = re.compile(r"(.*\d\.?)\s*([A-Za-zµ°²³/]{1,8})")
SIGNS = re.compile(r"(?:[$€£¥]\s*)?(.*?)(?:\s*[%$€£¥])?")
TIME = r"(?:[ T,]+\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?(?: ?[AaPp]\.?[Mm]\.?)?(?: ?(?:Z|UTC|[+-]\d{2}:?\d{2}))?)?"
DATE = re.compile(
    r"(?:\d{1,2}([/.-])\d{1,2}\1(?:\d{4}|\d{2})|\d{4}([/.-])\d{1,2}\2\d{1,2}"
    r"|\d{1,2}[ .-]+[A-Za-z]{3,9}\.?[ ,-]+\d{2,4}|(?:[A-Za-z]{3,9}, )?[A-Za-z]{3,9}\.? \d{1,2},? \d{4})" + TIME
)
IDENTIFIER = re.compile(
    r"(?:.*[ _.-])?(?:id|ids|uuid|guid|identifier|index|rowid|rownum)|unnamed: 0|\w*[a-z](?-i:I[Dd])", re.IGNORECASE
)
MOSTLY = 0.8


def from_text(column: np.ndarray, delimiter: str, where: str) -> tuple[np.ndarray | None, str]:
    """Return what a column of text stands for: numbers as float64, words as they are, or None for dates; and a note.

    A cell that is missing is NaN among numbers.

    Args:
        column: Strings, shape (N,), and None where a cell is missing.
        delimiter: What stands between the cells of the file: commas make one inside a cell one of thousands.
        where: How messages name the column.

    Raises:
        InputError: If most cells are numbers and some are not.

    Example:
        >>> from_text(np.array(["0,5", "12"], object), ";", "column a")
        (array([ 0.5, 12. ]), 'decimal commas were read as points')
    """
    rows = [row for row, cell in enumerate(column) if cell is not None]
    cells = [column[row].strip() for row in rows]
    if not rows:
        return column, ""
    if all(DATE.fullmatch(cell) for cell in cells):
        return None, ""
    bare, signs = _without_signs(cells)
    styles: list[tuple[re.Pattern[str], Callable[[str], str], str]] = [
        (NUMBER, str, ""),
        (DECIMAL_COMMA, _of_decimal_comma, "decimal commas were read as points"),
        (THOUSANDS, lambda cell: cell.replace(",", ""), "commas between thousands were left out"),
    ]
    if delimiter == ",":
        styles[1], styles[2] = styles[2], styles[1]
    shares = [np.mean([bool(style.fullmatch(cell)) for cell in bare]) for style, _, _ in styles]
    best = int(np.argmax(shares))
    style, plain, note = styles[best]
    if shares[best] == 1:
        numbers = np.full(len(column), np.nan)
        numbers[rows] = [float(plain(cell)) for cell in bare]
        return numbers, "; ".join(filter(None, (note, signs)))
    if shares[best] >= MOSTLY:
        row = next(row for row, cell in zip(rows, bare, strict=True) if not style.fullmatch(cell))
        raise InputError(
            f"{where} holds {column[row]!r} in row {row + 1}, no number as {shares[best]:.0%} of its cells are; fill "
            "it, remove the row, or write a letter before the numbers if they are names"
        )
    return column, ""


def _without_signs(cells: list[str]) -> tuple[list[str], str]:
    """Return the cells without percent, currency or the one unit that all of them have, and a note."""
    units = [UNIT.fullmatch(cell) for cell in cells]
    if all(units) and len({match[2] for match in units if match}) == 1:
        measured = [match for match in units if match]
        return [match[1] for match in measured], f"the unit {measured[0][2]} was left out"
    bare = [match[1] if (match := SIGNS.fullmatch(cell)) else cell for cell in cells]
    return bare, "" if bare == cells else "signs of percent or currency were left out"


def _of_decimal_comma(cell: str) -> str:
    return cell.replace(".", "").replace(",", ".")


def is_identifier(name: str, column: np.ndarray) -> bool:
    """Say whether a column, by its name, tells the rows apart and nothing else, as an index or an identifier does.

    Example:
        >>> is_identifier("patient_id", np.array([7, 5])), is_identifier("patient_id", np.array([7, 7]))
        (True, False)
    """
    if not IDENTIFIER.fullmatch(name.strip()):
        return False
    beyond = column.dtype.kind == "f" and bool((np.abs(column) >= 2**53).any())
    return beyond or len(np.unique(column)) == len(column)


def as_numbers(column: np.ndarray) -> tuple[np.ndarray, str]:
    """Return a column as float32, shape (N,), and a note where that needed more than rounding.

    Whole numbers too long for 32 bits, as times are, lose their least value first, so that they stay apart. NaN stays.

    Example:
        >>> as_numbers(np.array([1700000000000, 1700000060000]))
        (array([    0., 60000.], dtype=float32), 'was reduced by 1700000000000, so that 32 bits tell its values apart')
    """
    plain = column.astype(np.float32)
    distinct = len(np.unique(column))
    if column.dtype.kind == "b" or len(np.unique(plain)) >= distinct * (0.9 if column.dtype.kind == "f" else 1):
        return plain, ""
    least = np.nanmin(column)
    reduced = (column.astype(np.longdouble) - np.longdouble(least)).astype(np.float32)
    kept = len(np.unique(reduced))
    apart = "" if kept == distinct else f", of which {kept} of {distinct} stay"
    return reduced, f"was reduced by {least}, so that 32 bits tell its values apart{apart}"
