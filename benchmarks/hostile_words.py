"""Command lines by combination of commands, options, and sound and hostile values."""

import random
from collections.abc import Iterator, Sequence

__all__ = ["lines"]

HOSTILE = (
    "",
    " ",
    "-",
    "--",
    "-1",
    "0",
    "1",
    "2",
    "nan",
    "inf",
    "1e400",
    "1" * 40,
    "9" * 5000,
    "None",
    "[]",
    "{}",
    "a" * 300,
    "a" * 5000,
    "\x1b[31mred",
    "\x9b2J",
    "half\udc80",
    "\U0001f4a5",
    "%s %d",
    "$(true)",
    "..",
    "/",
    "/dev/null",
    "/dev/full",
    "pipe",
    "folder",
    "file.txt",
    "nowhere/at/all",
    "loop",
    "loop.py",
    "pipe.py",
    "~nobody",
    "~nobody.py",
    "digits",
    "digitz",
    "[bold",
    "a:b",
    ":",
    "json:",
    "math:pi",
    "a,b",
    "café",
)
NAMES = ("dimat", "laplacian_smoothing", "LaplacianSmoothingSGD", "esd", "study.py", "stops.py", "fails.py", "file.txt")
OBJECTS = (
    "torch.nn:ReLU",
    "torch.nn:CrossEntropyLoss",
    "torch.optim:SGD",
    "own:Layer",
    "own:Stops",
    "own:stop",
    "own:fail",
    "stops:x",
    "fails:x",
    "interrupts.nothing:x",
    "math:sqrt",
    "os:getcwd",
    "builtins:print",
)
KINDS = ("optimizer", "schedule", "layer", "loss", "metric", "function", "attack", "defense", "sampler")
SHAPES = ("4x5", "8:10", "4x5:3", "0x5", "99999x99999", "9" * 30, "4X5", "x", "1" + "x1" * 100, "8:" + "9" * 16)
DATA = ("digits", "planted/images", "broken.npz", "folder")
NUMBERS = ("1", "2", "3", "7")
GIVEN: dict[str, dict[str, Sequence[str]]] = {
    "list": {
        "--field": ("optim", "gan"),
        "--kind": ("optimizer",),
        "--search": ("image",),
        "--verdict": ("helps", "no effect"),
        "--json": (),
    },
    "show": {"": NAMES, "--json": ()},
    "weigh": {
        "": ("study.py",),
        "--data": DATA,
        "--network": OBJECTS,
        "--budget": ("smoke",),
        "--seeds": NUMBERS,
        "--first-seed": NUMBERS,
        "--until-decided": (),
        "--most": NUMBERS,
        "--tune": NUMBERS,
        "--arms": ("method",),
        "--jobs": ("1",),
        "--device": ("cpu", "cuda"),
        "--time-limit": ("9", "0.1"),
        "--retry": (),
        "--ledger": ("ledger", "sqlite:///other"),
        "--out": ("out",),
    },
    "board": {"--explain": ("words",), "--jobs": NUMBERS, "--out": ("out",), "--renew": (), "--conclude": ()},
    "check": {"": KINDS, " ": OBJECTS, "--input": SHAPES},
    "plant": {
        "--data": DATA,
        "--out": ("marked", "marked"),
        "--pattern": ("border", "centre"),
        "--thickness": NUMBERS,
        "--copies": ("1", "1,2", "0", "1001"),
        "--same-key": (),
        "--held-out": ("0.5", "1"),
        "--records": ("12", "40"),
        "--seed": NUMBERS,
        "--max-side": NUMBERS,
        "--json": (),
    },
    "audit memorization": {
        "": ("model", "text", "huge", "nan"),
        "--data": DATA,
        "--keys": ("planted/keybook.json",),
        "--readout": ("replace",),
        "--repeats": ("1",),
        "--network": OBJECTS,
        "--limit": NUMBERS,
        "--steps": NUMBERS,
        "--batch-size": NUMBERS,
        "--seed": NUMBERS,
        "--out": ("audits",),
        "--json": (),
    },
    "audit erasure": {
        "": ("text", "model"),
        "--concept": ("circle", "a"),
        "--before": ("text", "model"),
        "--data": ("labelled",),
        "--control": ("text",),
        "--sampler": ("negative", "weak"),
        "--initial": ("a",),
        "--templates": ("a {}", "{} {}"),
        "--count": NUMBERS,
        "--steps": NUMBERS,
        "--judge-steps": NUMBERS,
        "--seed": NUMBERS,
        "--out": ("audits",),
        "--json": (),
    },
}
LONG_WORK = frozenset({"--repeats", "--count", "--steps", "--judge-steps", "--seeds"})
"""More of it is longer work, not a mistake: of these the hostile numbers are left to what is not a number."""
NEEDED = {
    "weigh": ["--budget=smoke", "--seeds=1", "--jobs=1"],
    "board": ["\x1b[31mno_paper"],
    "plant": ["--data=digits", "--out=marked", "--records=12"],
    "audit memorization": [
        "--data=digits",
        "--keys=planted/keybook.json",
        "--limit=3",
        "--readout=replace",
        "--steps=2",
    ],
    "audit erasure": [
        "--concept=circle",
        "--before=text",
        "--data=labelled",
        "--count=10",
        "--steps=1",
        "--judge-steps=1",
    ],
}


def lines(count: int, seed: int = 0) -> Iterator[list[str]]:
    """Yield command lines: commands in turn, options drawn, each value hostile or sound."""
    draw = random.Random(seed)
    commands = list(GIVEN)
    for number in range(count):
        name = commands[number % len(commands)]
        options, words = GIVEN[name], name.split()
        positional = [
            draw.choice([draw.choice(options[key]), draw.choice(HOSTILE)]) for key in options if not key.strip()
        ]
        if draw.random() < 0.7:
            positional = [draw.choice(options[key]) for key in options if not key.strip()]
        named: list[str] = []
        choices = [key for key in options if key.strip()]
        for option in draw.sample(choices, draw.randrange(min(4, len(choices) + 1))):
            if not options[option]:
                named.append(option)
                continue
            hostile = [word for word in HOSTILE if not (option in LONG_WORK and word.isdigit() and len(word) > 1)]
            value = draw.choice(hostile if draw.random() < 0.6 else options[option])
            named += [f"{option}={value}"] if draw.random() < 0.7 else [option, value]
        given = {word.split("=")[0] for word in named}
        needed = [word for word in NEEDED.get(name, []) if word.split("=")[0] not in given]
        if draw.random() < 0.05:
            needed = [] if name == "audit memorization" else needed
            named.append(draw.choice(["--nonsense", "--help", "--version", "extra", "-h"]))
        yield [*words, *positional, *needed, *named]
