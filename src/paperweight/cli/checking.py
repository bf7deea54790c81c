"""The command ``paperweight check``; torch is imported when it runs."""

from typing import Annotated

from cyclopts import Parameter

from paperweight.cli.printing import write
from paperweight.texts import visible

__all__ = ["check"]


def check(
    kind: str,
    name: str,
    *,
    input: Annotated[list[str] | None, Parameter(consume_multiple=True, negative=())] = None,
) -> int:
    """Check an object of your own against the contract of its kind; exit with status 1 if it breaks a law.

    A law that asks for what the object refuses in its own words does not apply, and is no failure.

    Args:
        kind: What it is, such as optimizer, layer or loss.
        name: Where it is, as package.module:name: a class or function that makes it, or a subject of
            paperweight.testing, which tells more and has more checked. An optimizer is made from parameters, a schedule
            from an optimizer, a defense or training procedure from a model, the others without arguments; a function
            may also be named itself.
        input: What a layer, network, loss, regularizer, metric or function is called with, one word an argument: 8x5
            is a tensor of that shape of normal numbers, 8:10 one of whole numbers from 0 to 9; the first dimension is
            the batch.
    """
    from paperweight.testing import check_object

    report = check_object(kind, name, inputs=input or ())
    write(f"{visible(str(report))}\n")
    return 0 if report.passed else 1
