"""A JSON text is read as Python's own reader does, value by value, and refused where that refuses it."""

import json
import math
import random
import tracemalloc
from typing import Any

import pytest

from paperweight.errors import InputError
from paperweight.marks.json_text import JsonText


def read(content: bytes) -> Any:
    """Read a whole text by members and items alone."""
    text = JsonText(content, "file", "mend it")

    def value() -> Any:
        if text.container is dict:
            return {name: value() for name in text.members()}
        return [value() for _ in text.items()] if text.container is list else text.value()

    found = value()
    text.end()
    return found


def drawn(draw: random.Random, depth: int = 0) -> Any:
    """Draw a value of any type."""
    kind = draw.randrange(9 if depth < 4 else 6)
    letters = 'ab"\\/\n\té☃\U0001f600\ud800,:[]{} '
    if kind < 2:
        return "".join(draw.choices(letters, k=draw.randrange(6)))
    if kind < 6:
        return (draw.choice([None, True, False]), draw.randrange(-9, 10**6), draw.gauss(0, 1e9), draw.random())[
            kind - 2
        ]
    if kind < 8:
        return [drawn(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {str(drawn(draw, 9)): drawn(draw, depth + 1) for _ in range(draw.randrange(4))}


def test_any_value_is_read_as_by_the_reader_of_python():
    draw = random.Random(0)
    for _ in range(500):
        value = drawn(draw)
        for indent, separators in ((None, (",", ":")), (1, None), (None, (" ,\t", "\r\n: "))):
            content = json.dumps(value, indent=indent, separators=separators).encode()
            assert read(content) == json.loads(content)
            assert repr(read(content)) == repr(json.loads(content))


def test_a_text_that_was_changed_is_refused_where_the_reader_of_python_refuses_it():
    draw = random.Random(1)
    refused = 0
    for _ in range(3000):
        content = bytearray(json.dumps(drawn(draw), indent=draw.choice([None, 1])).encode())
        for _ in range(draw.randrange(1, 3)):
            place = draw.randrange(len(content))
            content[place : place + draw.randrange(2)] = draw.choice(
                [b"", b",", b"]", b"}", b'"', b"\\", b"0", b"-", b"."]
            )
        try:
            expected = repr(json.loads(content))
        except ValueError:
            refused += 1
            with pytest.raises(InputError, match="is not JSON"):
                read(bytes(content))
        else:
            assert repr(read(bytes(content))) == expected
    assert 500 < refused < 2900


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-0", "-0.0", "1E+2", "0e-3"])
def test_numbers_that_python_reads_beyond_the_standard(word: str):
    assert repr(read(f"[{word}]".encode())) == repr(json.loads(f"[{word}]"))
    assert math.isnan(read(b"NaN"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", r"it must have a value at byte 0 of 0\); mend it"),
        (b"[1 2]", r"a comma or \] at byte 3 of 5"),
        (b"[1,]", "a value at byte 3"),
        (b'{"a":1,}', "a name in quotation marks and a colon at byte 7"),
        (b"{} {}", "nothing more at byte 3"),
        (b'"' + b"a" * 5000 + b'"', "must hold no text of 5,000 letters; mend it"),
        (b'["' + b"a" * 5000, "must hold no text of 5,000 letters"),
        (b'"' + b"\\u0041" * 4999 + b'"', "must hold no text of 5,000 letters"),
        (b" " * 5000, "must hold no text of 5,000 letters"),
        (b"1" * 4500, "is not JSON .*digits"),
        (rb'"\u12x4"', "is not JSON"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(content: bytes, words: str):
    with pytest.raises(InputError, match=words):
        read(content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": {"b": 0, "c": 1, "b": 2}}', "file names 'b' 2 times; mend it"),
        (b"[" * 100_000, "nested at most 16 deep"),
        (b"[" + b"[]," * 5000 + b"0]", "at most 2,000 texts, lists and objects"),
        (b"[" + b'"",' * 5000 + b"0]", "at most 2,000 texts"),
        (b"{" + b",".join(b'"%d":0' % number for number in range(5000)) + b"}", "at most 2,000 texts"),
        (b"[" + b"0.5," * 100_000 + b"}", "is not JSON"),
    ],
)
def test_what_would_take_much_memory_is_refused_before_it_does(content: bytes, words: str):
    text = JsonText(content, "file", "mend it")
    tracemalloc.start()
    with pytest.raises(InputError, match=words):
        text.value()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < max(200_000, len(content) / 10)


def test_a_long_list_is_read_over_and_shown_by_its_beginning():
    text = JsonText(b"[[" + b"0," * 5000 + b"0], [1, 2]]", "file", "mend it")
    assert [text.value() for _ in text.items()] == [b"[" + b"0," * 2499 + b"0", [1, 2]]
