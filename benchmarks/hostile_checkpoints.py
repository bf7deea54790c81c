"""Hostile checkpoints: whatever a file may say of itself that is not so, or that asks for more than it holds."""

import json
import os
import pickle
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from paperweight.generators.model import ModelSpec, load_model
from paperweight.generators.text_model import TextSpec, load_text_model

__all__ = ["MODEL", "TEXT", "File", "Read", "checkpoints", "in_turn", "places"]
MODEL = ModelSpec(shape=(1, 4, 4), arguments={"width": 8, "blocks": 2}, classes=3, condition_dim=4)
TEXT = TextSpec(
    shape=(1, 4, 4), words=("a", "circle"), length=4, dim=8, arguments={"width": 8, "blocks": 1, "heads": 2}, steps=20
)
NUMBERS = (0, -1, 10**8, 10**18, 10**400, 1.5, "200", True, None, [200], float("nan"), float("inf"), {"a": 1})
Read = Callable[[Path], object]
File = tuple[str, Path, Read]


def pack(header: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Write a safetensors file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def checkpoints(folder: Path, seed: int = 0) -> Iterator[File]:
    """Yield hostile checkpoints of all kinds in turn, without end; each stands until the next is asked for."""
    draw = random.Random(seed)
    sound = {load_model: folder / "model", load_text_model: folder / "text"}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        MODEL.build().save(sound[load_model])
        TEXT.build().save(sound[load_text_model])
    path = folder / "hostile.safetensors"
    kinds = [
        *(_of_spec(name, path, sound) for name in ("steps", "shape", "arguments", "more")),
        _texts(path, sound),
        _weights(path, sound),
        _headers(path, sound),
        _layouts(path, sound),
        places(folder),
    ]
    yield from in_turn([kind(draw) for kind in kinds])


def in_turn(kinds: list[Iterator[File]]) -> Iterator[File]:
    """Yield a file of each kind in turn, without end."""
    while True:
        for kind in kinds:
            yield next(kind)


def _rewritten(source: Path, path: Path, change: Callable[[dict[str, str], dict[str, Any]], None]) -> None:
    """Write a file again after a change of its texts and its spec."""
    content = source.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    texts = header["__metadata__"]
    spec = json.loads(texts["spec"])
    change(texts, spec)
    texts.setdefault("spec", json.dumps(spec))
    if texts["spec"] is ...:
        del texts["spec"]
    path.write_bytes(pack(header, content[8 + length :]))


def _of_spec(name: str, path: Path, sound: dict[Read, Path]) -> Callable[[random.Random], Iterator[File]]:
    places: dict[str, list[tuple[str, ...]]] = {
        "steps": [("steps",)],
        "shape": [("shape",), ("shape", "0"), ("shape", "1"), ("shape", "2")],
        "arguments": [("arguments",), ("arguments", "width"), ("arguments", "blocks"), ("arguments", "depth")],
        "more": [
            ("dim",),
            ("length",),
            ("classes",),
            ("condition_dim",),
            ("prediction",),
            ("placeholders",),
            ("words",),
        ],
    }

    def files(draw: random.Random) -> Iterator[File]:
        while True:
            for value in draw.sample(NUMBERS, len(NUMBERS)):
                place, read = draw.choice(places[name]), draw.choice(list(sound))

                def change(texts: dict[str, str], spec: dict[str, Any], place=place, value=value) -> None:
                    del texts["spec"]
                    inner = spec
                    for part in place[:-1]:
                        inner = inner[part]
                    last = int(place[-1]) if isinstance(inner, list) else place[-1]
                    same = inner[last] if isinstance(inner, list) or last in inner else None
                    inner[last] = value if value != same or type(value) is not type(same) else 10**9

                _rewritten(sound[read], path, change)
                yield f"number in the spec: {name}", path, read

    return files


def _texts(path: Path, sound: dict[Read, Path]) -> Callable[[random.Random], Iterator[File]]:
    words: list[Callable[[], object]] = [
        lambda: [3, None],
        lambda: "a circle",
        lambda: ["a", "a"],
        lambda: ["\ud83d", "circle"],
        lambda: ["A", "circle"],
        lambda: ["", "circle"],
        lambda: [f"w{number}" for number in range(60_000)],
        lambda: [f"w{number}" for number in range(1_000_000)],
        lambda: ["a" * 500_000, "circle"],
        lambda: ["a" * 40_000_000],
    ]
    spec_texts = [
        "",
        "{",
        "null",
        "[]",
        "3",
        "[" * 100_000,
        '{"shape":' * 5_000,
        '{"shape": [1, 4, 4], "shape": 1}',
        "\x00",
        ...,
    ]

    def files(draw: random.Random) -> Iterator[File]:
        while True:
            for make in words:

                def change(texts: dict[str, str], spec: dict[str, Any], make=make) -> None:
                    del texts["spec"]
                    spec["words"] = make()

                _rewritten(sound[load_text_model], path, change)
                yield "words", path, load_text_model
                text, read = draw.choice(spec_texts), draw.choice(list(sound))

                def other(texts: dict[str, Any], spec: dict[str, Any], text=text) -> None:
                    texts["spec"] = text

                _rewritten(sound[read], path, other)
                yield "texts beside the tensors", path, read
                facts = draw.choice(["[", "3", '{"step": [1]}', '{"step": null}', "[" * 100_000, '{"a":' * 5_000])

                def third(texts: dict[str, Any], spec: dict[str, Any], facts=facts) -> None:
                    texts["facts"] = facts

                _rewritten(sound[load_model], path, third)
                yield "texts beside the tensors", path, load_model

    return files


def _weights(path: Path, sound: dict[Read, Path]) -> Callable[[random.Random], Iterator[File]]:
    def files(draw: random.Random) -> Iterator[File]:
        values = [float("nan"), float("inf"), -float("inf"), 1e300]
        dtypes = [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn]
        while True:
            for number in range(len(values) + len(dtypes)):
                read = draw.choice(list(sound))
                tensors = load_file(sound[read])
                name = draw.choice(sorted(tensors))
                if number < len(values):
                    tensors[name] = tensors[name].double()
                    tensors[name].view(-1)[draw.randrange(tensors[name].numel())] = values[number]
                else:
                    tensors[name] = tensors[name].to(dtypes[number - len(values)])
                save_file(tensors, path, _metadata(sound[read]))
                yield "weights not finite or not floating", path, read
                big = torch.ones(draw.choice([2, 4, 8]) << 20)
                big[draw.randrange(len(big))] = draw.choice(values[:3])
                spec = json.dumps({"shape": [1, 4, 4], "network": "custom"})
                texts = {"format": "paperweight diffusion model 1", "spec": spec, "facts": "{}"}
                save_file({"model.network.weight": big.view(1024, -1)}, path, texts)
                columns = len(big) // 1024
                yield "one infinite weight in 8 to 32 MiB", path, lambda p, c=columns: load_model(p, _layer(c))

    return files


def _layer(columns: int) -> torch.nn.Module:
    with torch.device("meta"):
        return torch.nn.Linear(columns, 1024, bias=False)


def _metadata(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]


def _headers(path: Path, sound: dict[Read, Path]) -> Callable[[random.Random], Iterator[File]]:
    def files(draw: random.Random) -> Iterator[File]:
        while True:
            whole = sound[load_model].read_bytes()
            length = struct.unpack("<Q", whole[:8])[0]
            bodies = [
                whole[: draw.randrange(len(whole))],
                draw.randbytes(draw.choice([0, 7, 8, 9, 1000])),
                struct.pack("<Q", draw.choice([len(whole), 1 << 40, (1 << 64) - 1, 0, 1, 99_999_999])) + whole[8:],
                pack(b"[" * 100_000),
                pack(b'{"a":' * 100_000),
                pack(b'{"__metadata__":{"format":3}}'),
                pack(b"\xff" * 100),
                pack(b" " * draw.choice([10, 1 << 19, 1 << 25])),
                pack(b'{"__metadata__":{"a":"' + b"x" * (1 << draw.choice([19, 22, 25])) + b'"}}'),
                whole[:8] + whole[8:].replace(b"format", b"\xed\xa0\x80mat", 1),
                pickle.dumps({"weights": [1.0] * draw.randrange(1000)}, protocol=draw.randrange(6)),
                whole + b"more",
                struct.pack("<Q", length - 1) + whole[8:],
            ]
            for body in draw.sample(bodies, len(bodies)):
                path.write_bytes(body)
                yield "header and length", path, load_model

    return files


def _layouts(path: Path, sound: dict[Read, Path]) -> Callable[[random.Random], Iterator[File]]:
    def one(shape: object, offsets: object, dtype: object = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": shape, "data_offsets": offsets}

    def files(draw: random.Random) -> Iterator[File]:
        while True:
            own = {"__metadata__": _metadata(sound[load_model])}
            layouts: list[tuple[dict[str, Any] | bytes, int]] = [
                ({"a": one([1], [0, 4]), "b": one([1], [2, 6])}, 6),
                ({"a": one([1], [0, 4]), "b": one([1], [0, 4])}, 4),
                ({"a": one([1], [0, 4]), "b": one([1], [8, 12])}, 12),
                ({"a": one([1], [-4, 0])}, 4),
                ({"a": one([1], [0.0, 4.0])}, 4),
                ({"a": one([1], [4, 0])}, 4),
                ({"a": one([1 << 32, 1 << 32, 1 << 32], [0, 4])}, 4),
                ({"a": one([1 << 63, 2], [0, 0])}, 0),
                ({"a": one([0, (1 << 64) - 1], [0, 0])}, 0),
                ({"a": one([0, 0], [0, 0])}, 0),
                ({"a": one([10**30], [0, 4])}, 4),
                ({"a": one([1] * 50_000, [0, 4])}, 4),
                ({"a": one([1], [0, 4], "F99")}, 4),
                ({"a": one([1], [0, 4], 3)}, 4),
                ({"a": 3}, 0),
                ({"a" * 900_000: one([1], [0, 4])}, 4),
                ({f"{number}": one([0], [0, 0]) for number in range(15_000)}, 0),
                ({f"{number}": one([0], [0, 0]) for number in range(1_000_000)}, 0),
                (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b'"b":1}', 4),
            ]
            first, *rest = (json.dumps({name: each})[1:-1] for name, each in _tensors(sound[load_model]).items())
            data = sound[load_model].read_bytes()
            twice = "{" + ",".join([json.dumps(own)[1:-1], first, first, *rest]) + "}"
            for header, size in draw.sample(layouts, len(layouts)):
                path.write_bytes(pack({**own, **header} if isinstance(header, dict) else header, bytes(size)))
                yield "layout of the tensors", path, load_model
            path.write_bytes(pack(twice.encode(), data[8 + struct.unpack("<Q", data[:8])[0] :]))
            yield "layout of the tensors", path, load_model

    return files


def _tensors(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    return {name: each for name, each in header.items() if name != "__metadata__"}


def places(folder: Path) -> Callable[..., Iterator[File]]:
    """Return what yields places that hold no ordinary file, or one of holes."""

    def files(draw: random.Random, what: str = "checkpoint", read: Read = load_model) -> Iterator[File]:
        odd = folder / f"odd-{what}"
        odd.mkdir()
        os.mkfifo(odd / "pipe")
        (odd / "folder").mkdir()
        for name, target in (("zero", "/dev/zero"), ("null", "/dev/null"), ("loop", "loop"), ("linked", "pipe")):
            (odd / name).symlink_to(target)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(odd / "socket"))
            spec = json.dumps({"shape": [1, 4, 4], "network": "custom"})
            texts = {"format": "paperweight diffusion model 1", "spec": spec, "facts": "{}"}
            tensor = {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}
            header = pack({"__metadata__": texts, "model.network.weight": tensor})
            (odd / "holes").write_bytes(header)
            os.truncate(odd / "holes", len(header) + 4 * 10**10)
            (odd / "void").touch()
            os.truncate(odd / "void", 4 * 10**10)
            while True:
                for name in (*(place.name for place in odd.iterdir()), "missing", "n" * 5000, "nul\x00", "half\udc80"):
                    yield "no ordinary file, or a sparse one", odd / name, read

    return files
