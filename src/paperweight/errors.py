"""The error a person's own mistake ends in: one message, no traceback on the command line."""

__all__ = ["InputError", "interruption"]


class InputError(ValueError):
    """Something a person gave is not usable.

    The message names the argument or file, the rule, the value, and a remedy. The command line prints it and
    exits with status 2; from Python it is an ordinary ``ValueError``.

    Example:
        >>> raise InputError("seeds must be at least 1, got 0; leave it out for the default of 8")
        Traceback (most recent call last):
        ...
        paperweight.errors.InputError: seeds must be at least 1, got 0; leave it out for the default of 8
    """


def interruption(error: BaseException) -> KeyboardInterrupt | None:
    """Return the interruption that an error is, or that it came of.

    Where Ctrl-C comes while a thread waits for another to start, Python's own lock fails over it, and a `RuntimeError`
    is raised in its place.

    Example:
        >>> interruption(KeyboardInterrupt()), interruption(ValueError())
        (KeyboardInterrupt(), None)
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt):
        seen = seen.__context__ if isinstance(seen, RuntimeError) else None
    return seen
