"""The laws of a kind: each check with the condition under which a subject must pass it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from paperweight.testing.report import Subject

__all__ = ["Laws", "always", "declares_null", "selected"]

Kind = TypeVar("Kind", bound=Subject)

Laws = Mapping[Callable[..., None], Callable[[Kind], bool]]
"""Check to whether a subject of the kind must pass it, in the order in which they run."""


def always(subject: Subject) -> bool:
    """Say of every subject that a law holds for it.

    Args:
        subject: What the test of a method declares.

    Returns:
        True.

    Example:
        >>> always(Subject(make=dict))
        True
    """
    return True


def declares_null(subject: Subject) -> bool:
    """Say whether a subject has a null setting.

    Args:
        subject: What the test of a method declares.

    Returns:
        Whether it does.

    Example:
        >>> declares_null(Subject(make=dict)), declares_null(Subject(make=dict, null=dict, baseline=dict))
        (False, True)
    """
    return subject.null is not None


def selected(
    laws: Laws[Kind], subject: Kind, arguments: Callable[[Callable[..., None]], tuple[Any, ...]] | None = None
) -> dict[str, Callable[[], None]]:
    """List the checks that a subject must pass.

    Args:
        laws: The laws of its kind.
        subject: What the test of the method declares.
        arguments: Gives what a check is called with; the subject alone by default.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> def check_nothing(subject): ...
        >>> def check_null(subject): ...
        >>> list(selected({check_nothing: always, check_null: declares_null}, Subject(make=dict)))
        ['check_nothing']
    """
    return {
        check.__name__: partial(check, *((subject,) if arguments is None else arguments(check)))
        for check, applies in laws.items()
        if applies(subject)
    }
