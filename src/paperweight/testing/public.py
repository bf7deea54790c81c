"""Checks of every public object, whatever its kind: signature, documentation and refused values."""

import doctest
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

from paperweight.kinds.arguments import constructor_arguments, not_kept, recorded
from paperweight.testing.report import CheckFailure

__all__ = [
    "check_bad_values",
    "check_documented_arguments",
    "check_example_runs",
    "check_keeps_arguments",
    "check_no_var_keywords",
    "check_source_and_deviations",
]


def check_no_var_keywords(public: Callable[..., Any]) -> None:
    """Check that the signature names every argument.

    Args:
        public: A class or function.

    Raises:
        CheckFailure: If it takes ``**kwargs``.

    Example:
        >>> check_no_var_keywords(check_no_var_keywords)
    """
    for parameter in inspect.signature(public).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            raise CheckFailure(f"the signature has **{parameter.name}", "name every argument that is allowed")


def _documented(docstring: str) -> list[str]:
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    return re.findall(r"^ {4}(\w+):", section.group(1), re.MULTILINE) if section else []


def check_documented_arguments(public: Callable[..., Any]) -> None:
    """Check that the ``Args`` of the docstring, Google style, are those of the signature, in its order.

    Args:
        public: A class or function.

    Raises:
        CheckFailure: If they differ.

    Example:
        >>> check_documented_arguments(check_documented_arguments)
    """
    documented = _documented(inspect.getdoc(public) or "")
    expected = list(inspect.signature(public).parameters)
    if documented != expected:
        raise CheckFailure(
            f"the docstring documents {documented}, the signature has {expected}",
            "write one line under Args for each argument, in the order of the signature",
        )


def check_example_runs(public: Callable[..., Any]) -> None:
    """Check that the docstring has an example and that it gives what it says.

    Args:
        public: A class or function.

    Raises:
        CheckFailure: If there is no example or its output differs.

    Example:
        >>> check_example_runs(check_no_var_keywords)
    """
    scope = dict(vars(sys.modules[public.__module__]))
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(public) or "", scope, public.__name__, None, None)
    if not example.examples:
        raise CheckFailure("the docstring has no example", "add one under Example that runs in a second")
    output: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(example, out=output.append).failed
    if failed:
        raise CheckFailure(f"{failed} lines of the example fail:\n{''.join(output)}", "correct the example or the code")


def check_source_and_deviations(public: Callable[..., Any]) -> None:
    """Check that the module's docstring names its source and its deviations from it.

    Args:
        public: A class or function.

    Raises:
        CheckFailure: If ``Source:`` or ``Deviations:`` is missing or has no text.

    Example:
        >>> check_source_and_deviations(check_no_var_keywords)
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: the docstring of paperweight.testing.public has no Source; ...
    """
    docstring = inspect.getdoc(sys.modules[public.__module__]) or ""
    for title in ("Source", "Deviations"):
        if not re.search(rf"^{title}:\s+\S", docstring, re.MULTILINE):
            raise CheckFailure(
                f"the docstring of {public.__module__} has no {title}",
                f"add '{title}:' with text; where nothing deviates, 'none known'",
            )


def check_bad_values(call: Callable[..., object], bad: Mapping[str, tuple[object, ...]]) -> None:
    """Check that bad values raise ``ValueError`` with the argument's name and, for a number or text, the value.

    Args:
        call: Takes keyword arguments and, given none, works.
        bad: Argument name to values that must be refused.

    Raises:
        CheckFailure: If ``bad`` is empty, a value is accepted, or the message does not tell.

    Example:
        >>> import torch
        >>> check_bad_values(lambda **given: torch.optim.SGD([torch.zeros(1)], **given), {"lr": (-1.0,)})
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: lr=-1.0 raised ValueError('Invalid learning rate: -1.0'); ...
    """
    if not any(bad.values()):
        raise CheckFailure("no bad value is declared", "declare for each checked argument what must be refused")
    call()
    for name, values in bad.items():
        for value in values:
            try:
                call(**{name: value})
            except ValueError as error:
                shown = not isinstance(value, int | float | str) or str(value) in str(error)
                if not (shown and re.search(rf"\b{name}\b", str(error))):
                    remedy = f"write '{name} must ..., got {value}' into the message"
                    raise CheckFailure(f"{name}={value!r} raised {error!r}", remedy) from error
            except Exception as error:
                raise CheckFailure(f"{name}={value!r} raised {error!r}", "raise ValueError") from error
            else:
                raise CheckFailure(f"{name}={value!r} is accepted", "validate it first and raise ValueError")


def check_keeps_arguments(public: type, use: Callable[[], object]) -> None:
    """Check that an object keeps what its constructor was given, unchanged and under the arguments' names.

    A bench reads them there: see `paperweight.kinds.arguments.constructor_arguments`.

    Args:
        public: The class.
        use: Makes an object of it, at least, and uses it.

    Raises:
        CheckFailure: If an argument is not kept, or is kept as something else.

    Example:
        >>> import torch
        >>> check_keeps_arguments(torch.nn.Dropout, lambda: torch.nn.Dropout(0.25))
    """
    made: list[tuple[object, dict[str, object]]] = []
    construct = public.__init__

    @functools.wraps(construct)
    def noting(self: object, *args: Any, **kwargs: Any) -> None:
        given = inspect.signature(construct).bind(self, *args, **kwargs)
        given.apply_defaults()
        construct(self, *args, **kwargs)
        made.append((self, recorded(dict([*given.arguments.items()][1:]))))

    with mock.patch.object(public, "__init__", noting):
        use()
    if not made:
        raise CheckFailure(f"the subject makes no {public.__name__}", "let make be the class, or call it")
    for self, given in made:
        for name in not_kept(self):
            raise CheckFailure(
                f"{public.__name__} does not keep its argument {name}: it has no such attribute",
                f"write self.{name} = {name} into its constructor",
            )
        kept = constructor_arguments(self)
        for name, value in given.items():
            if name in kept and kept[name] != value:
                raise CheckFailure(
                    f"the argument {name} was {value!r} and is kept as {kept[name]!r}",
                    f"keep it unchanged as {name}, and what is made of it under another name",
                )
