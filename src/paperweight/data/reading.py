"""One way to turn whatever a decoder says about a person's file into an ``InputError``."""

from collections.abc import Iterator
from contextlib import contextmanager

from paperweight.errors import InputError

__all__ = ["refusing"]


@contextmanager
def refusing(where: str, rule: str, remedy: str) -> Iterator[None]:
    """Report every failure of the block as a fault of the file that it reads.

    Decoders of other libraries raise almost any type on damaged bytes, so all of them count. Keep the block small.

    Args:
        where: The file, and the row or member inside it.
        rule: What does not hold, such as "cannot be read as an image".
        remedy: What the person can do.

    Raises:
        InputError: If the block raises anything.

    Example:
        >>> with refusing("a.txt", "is not a number", "write digits"):
        ...     float("ten")
        Traceback (most recent call last):
        ...
        paperweight.errors.InputError: a.txt is not a number (could not convert string to float: 'ten'); write digits
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        detail = str(error).strip().splitlines()
        reason = detail[0][:200] if detail else type(error).__name__
        raise InputError(f"{where} {rule} ({reason}); {remedy}") from error
