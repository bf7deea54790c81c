"""Hostile keybooks: fields of other types, more keys than a keybook may hold, and what is no keybook at all."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile_checkpoints import File, in_turn, places

from paperweight.marks.keybook import Keybook

__all__ = ["keybooks"]


def keybooks(folder: Path, seed: int = 0) -> Iterator[File]:
    """Yield hostile keybooks likewise."""
    draw = random.Random(seed)
    book = Keybook(
        keys={"0": (0.25,), "1": (0.5,)},
        held_out=("0",),
        same_key=False,
        seed=1,
        mark={"pattern": "border"},
        name="digits",
        fingerprint="",
        max_side=8,
    )
    book.save(folder / "sound.json")
    sound = json.loads((folder / "sound.json").read_text())
    path = folder / "book.json"
    kinds = [_fields(sound, path), _many(sound, path), _wrong_at_the_end(sound, path), _broken(path)]
    yield from in_turn([kind(draw) for kind in kinds] + [places(folder)(draw, "keybook", Keybook.load)])


def _fields(sound: dict[str, Any], path: Path) -> Callable[[random.Random], Iterator[File]]:
    def files(draw: random.Random) -> Iterator[File]:
        values = [
            None,
            -1,
            1.5,
            [],
            {},
            "x",
            True,
            float("nan"),
            ["0", "0"],
            {"0": None},
            {"0": [2]},
            {"0": [[0.5]]},
            0,
        ]
        while True:
            name, value = draw.choice(sorted(sound)), draw.choice(values)
            if type(value) is type(sound[name]) and name in ("name", "fingerprint", "seed", "mark", "same_key"):
                continue
            if name == "held_out" and value == []:
                continue
            path.write_text(json.dumps({**sound, name: value}))
            yield "a field of another type", path, Keybook.load

    return files


def _many(sound: dict[str, Any], path: Path) -> Callable[[random.Random], Iterator[File]]:
    def files(draw: random.Random) -> Iterator[File]:
        while True:
            for keys in (
                {"0": [0.5], "1": [0.123456789] * 1_000_000},
                {str(number): [0.5] for number in range(600_000)},
                {"0": [0] * 1_000_000},
                {"0": [[]] * 150_000},
                {"0": [2] * 150_000, "1": [0.5]},
                {str(number): [0.5] for number in range(1_000_000)},
                {str(number): [0.5 if number < 99_999 else 2] for number in range(100_000)},
            ):
                path.write_text(json.dumps({**sound, "keys": keys}, separators=(",", ":")))
                yield "many keys", path, Keybook.load

    return files


def _wrong_at_the_end(sound: dict[str, Any], path: Path) -> Callable[[random.Random], Iterator[File]]:
    """As many keys, names, numbers and lists as a keybook may hold, and a rule that only the last of them breaks."""

    def files(draw: random.Random) -> Iterator[File]:
        names = [f"{number:x}" for number in range(99_000)]
        held_out = json.dumps(names, separators=(",", ":"))
        records = [f'"{name}":[0]' for name in names]
        keys = "{" + ",".join(records) + "}"
        few = '{"0":[0.5],"1":[0]}'
        while True:
            for changes in (
                {"keys": "{" + ",".join([*records, '"0":[1]']) + "}"},
                {"keys": "{" + ",".join(['"0":[0]'] * 99_000) + "}"},
                {"keys": "{" + ",".join(records[:49_000] * 2) + "}"},
                {"keys": keys, "held_out": held_out},
                {"keys": keys, "held_out": held_out.replace('"1"', '"0"')},
                {"keys": keys, "held_out": held_out[:-2] + 'x"]'},
                {"same_key": "true", "keys": '{"0":[' + "0," * 98_000 + '1],"1":[0]}'},
                {"same_key": "true", "keys": "{" + ",".join([*records, '"x":[0,1]']) + "}"},
                {"keys": keys, "max_side": "0"},
                {"keys": few, "mark": '{"mask":[' + "0.5," * 190_000 + "0]}", "max_side": "0"},
                {"keys": few, "mark": '{"mask":[' + "[]," * 190_000 + "0]}"},
                {"keys": few, "mark": '{"mask":[' + "0," * 190_000 + '0],"mask":0}'},
                {"keys": few, "held_out": '["0"' + ',"0"' * 190_000 + "]"},
                {"keys": '{"' + '":[0],"'.join(letter * 4_900 for letter in "abcdefgh" * 180) + '":[0]}'},
                {"keys": few, "name": '"' + "\\\\" * 5_001 + '"'},
                {"keys": few, "max_side": "0" + "".join(f',"x{name}":0' for name in names)},
            ):
                fields = {name: json.dumps(value) for name, value in sound.items()} | changes
                path.write_text("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}")
                yield "wrong at the end", path, Keybook.load

    return files


def _broken(path: Path) -> Callable[[random.Random], Iterator[File]]:
    def files(draw: random.Random) -> Iterator[File]:
        while True:
            for body in (
                b"",
                b"[" * 100_000,
                b'{"a":' * 100_000,
                b'"' + b"a" * (30 << 20) + b'"',
                b'"' + b"a" * (20 << 20) + b'\\ud83d\\ude00"',
                b" " * (40 << 20),
                b"9" * 10_000,
                b'{"format": "' + b"x" * (1 << 20) + b'"}',
                b"\xff\xfe",
                '{"name": "\U0001f600"}'.encode(),
                b'{"format": "paperweight keybook 1", "format": 3}',
                b"NaN",
                draw.randbytes(1000),
            ):
                path.write_bytes(body)
                yield "no keybook at all", path, Keybook.load

    return files
