"""Texts of strangers, such as names of files and messages of errors, as they may be shown."""

import re

__all__ = ["brief", "visible"]

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Write out what would act on a terminal or cannot be encoded: control characters, directions, lone surrogates.

    Args:
        text: Any text; line feeds and tabs stay.

    Example:
        >>> print(visible("red\x1b[31m, half a pair \ud83d"))
        red\x1b[31m, half a pair \ud83d
    """
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def brief(text: str, limit: int = 2000) -> str:
    """Cut the middle out of a text that is longer than the limit, in characters.

    Example:
        >>> brief("a" * 3000, 40)
        'aaaaaaaaaaaaaaaaaaaa ... aaaaaaaaaaaaaaaaaaaa'
    """
    half = limit // 2
    return text if len(text) <= limit else f"{text[:half]} ... {text[-half:]}"
