"""A JSON text that is read where it lies: of its values, only the one that is asked for becomes a Python object."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn, final

from paperweight.errors import InputError
from paperweight.texts import brief

__all__ = ["JsonText", "shown"]

_LONGEST = 5_000
_MOST_PARTS = 2_000
_DEEPEST = 16

_TEXT = rb'"(?:[^"\\\x00-\x1f]*\\["\\/bfnrtu]){0,%d}[^"\\\x00-\x1f]*"' % (_LONGEST // 2)
_WHOLE = rb"-?(?:0|[1-9][0-9]*)(?![0-9.eE+-])"
_DECIMAL = rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?(?![0-9.eE+-])"
_SPACE = rb"[ \t\n\r]*"
_SPACES = re.compile(_SPACE)
_SIGN = re.compile(rb"[][{},]%b" % _SPACE)
_NAME = re.compile(rb"(%b)%b:%b" % (_TEXT, _SPACE, _SPACE))
_VALUE = re.compile(rb"(?:(%b)|(%b)|(%b|-?Infinity|NaN)|(true|false|null))%b" % (_TEXT, _WHOLE, _DECIMAL, _SPACE))
_LONG = re.compile(rb'"?[^,:"\[\]{}]{%d}' % (_LONGEST - 1))
_CONTAINERS = {b"[": list, b"{": dict}
_WORDS = {b"true": True, b"false": False, b"null": None}


@final
class JsonText:
    """A JSON text and a place in it. Every method reads from there and leaves the place behind what it read.

    Args:
        content: The text, in ASCII.
        what: What it should be; messages begin with it.
        remedy: What the person can do; messages end with it.

    Raises:
        InputError: By every method, if what follows is not JSON, or is a text or number of more than 5,000 letters.

    Example:
        >>> text = JsonText(b'{"a": [0.5, 1], "b": "x"}', "file", "mend it")
        >>> for name in text.members():
        ...     print(name, [text.value() for _ in text.items()] if text.container is list else text.value())
        a [0.5, 1]
        b x
    """

    def __init__(self, content: bytes, what: str, remedy: str) -> None:
        self._content, self._what, self._remedy = content, what, remedy
        self._parts = 0
        self.place = 0
        self._take(_SPACES, "")

    @property
    def container(self) -> type | None:
        """``list`` or ``dict`` if the value that follows is one."""
        return _CONTAINERS.get(self._next())

    def members(self) -> Iterator[str]:
        """Yield the names of an object; whoever takes one reads its value before the next."""
        self._take(_SIGN, "an object")
        if self._next() != b"}":
            yield self._name()
            while self._sign(b"}") == b",":
                yield self._name()
        else:
            self._sign(b"}")

    def items(self) -> Iterator[None]:
        """Yield for each value of a list; whoever takes that reads the value before the next."""
        self._take(_SIGN, "a list")
        if self._next() != b"]":
            yield
            while self._sign(b"]") == b",":
                yield
        else:
            self._sign(b"]")

    def value(self) -> object:
        """Read a value and return it; of a list or an object of more than 5,000 letters the first bytes."""
        start = self.place
        if self.container is None:
            return self._decoded(self._take(_VALUE, "a value"))
        self.check()
        if self.place - start > _LONGEST:
            return self._content[start : start + _LONGEST]
        return self.between(start, self.place)

    def check(self, depth: int = 0) -> None:
        """Read a value over; refuse what names a thing twice or would take far more memory than its text."""
        container = self.container
        self._parts += container is not None or self._next() == b'"'
        if self._parts > _MOST_PARTS or depth > _DEEPEST:
            raise self._error(
                f"must hold at most {_MOST_PARTS:,} texts, lists and objects beside its keys, "
                f"nested at most {_DEEPEST} deep"
            )
        if container is dict:
            names: Counter[str] = Counter()
            for name in self.members():
                names[name] += 1
                self._parts += 1
                self.check(depth + 1)
            self.refuse_repeated(names)
        elif container is list:
            for _ in self.items():
                self.check(depth + 1)
        else:
            self._take(_VALUE, "a value")

    def between(self, start: int, end: int) -> object:
        """Return the value that was read from one place to another."""
        return json.loads(self._content[start:end])

    def names_between(self, start: int, end: int) -> Iterator[str]:
        """Yield all names that were read from one place to another."""
        return (self._text(found[1]) for found in _NAME.finditer(self._content, start, end))

    def end(self) -> None:
        """Refuse anything that follows."""
        if self.place < len(self._content):
            self._refuse("nothing more")

    def refuse_repeated(self, names: Counter[str]) -> None:
        """Refuse a name that was counted more than once."""
        for name, count in names.most_common(1):
            if count > 1:
                raise self._error(f"names {shown(name)} {count} times")

    def _next(self) -> bytes:
        return self._content[self.place : self.place + 1]

    def _name(self) -> str:
        return self._text(self._take(_NAME, "a name in quotation marks and a colon")[1])

    def _sign(self, closing: bytes) -> bytes:
        found, sign = _SIGN.match(self._content, self.place), self._next()
        if found is None or sign not in (b",", closing):
            self._refuse(f"a comma or {closing.decode()}")
        self.place = found.end()
        return sign

    def _take(self, pattern: re.Pattern[bytes], expected: str) -> re.Match[bytes]:
        found = pattern.match(self._content, self.place)
        if found is None:
            self._refuse(expected)
        if found.end() - self.place >= _LONGEST:
            raise self._error(f"must hold no text of {_LONGEST:,} letters")
        self.place = found.end()
        return found

    def _refuse(self, expected: str) -> NoReturn:
        if _LONG.match(self._content, self.place):
            raise self._error(f"must hold no text of {_LONGEST:,} letters")
        raise self._error(f"is not JSON (it must have {expected} at byte {self.place:,} of {len(self._content):,})")

    def _error(self, words: str) -> InputError:
        return InputError(f"{self._what} {words}; {self._remedy}")

    def _decoded(self, found: re.Match[bytes]) -> object:
        text, whole, decimal, word = found.groups()
        if decimal:
            return float(decimal)
        if text:
            return self._text(text)
        return self._read(whole) if whole else _WORDS[word]

    def _text(self, token: bytes) -> str:
        return str(self._read(token)) if b"\\" in token else token[1:-1].decode()

    def _read(self, token: bytes) -> object:
        try:
            return json.loads(token) if token.startswith(b'"') else int(token)
        except ValueError as error:  # half an escape, or a number of more digits than Python reads
            raise self._error(f"is not JSON ({error})") from error


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    return brief(repr(value), 300)
