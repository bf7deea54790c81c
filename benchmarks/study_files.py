"""Study files drawn at random, sound and not: does each give a plan, or an error in one line, without crash or hang?

``python benchmarks/study_files.py --count 2700`` loads each file in a forked process, under limits of time and address
space. A file from which nothing was taken and to which nothing was done must load, with its arms; every ``--sample``-th
file is weighed as well, by the whole command in a forked process, and must end with an answer or with a message.
"""

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from command_lines import Engine, run
from hostile_actions import OUTCOMES
from hostile_files import attempt

from paperweight import processes
from paperweight.bench import engines
from paperweight.bench.declaring import declared_study

SMALL = tuple(outcome for outcome in OUTCOMES if "000_000" not in outcome)
"""Trials run in this process here, where nothing bounds what they return."""
HEAD = "import math\nimport torch\nfrom paperweight.studies import Arm, Metric, Outcome, Setting, Study\n"
DECLARED = {
    "paper": "'example'",
    "question": "'Is it so?'",
    "claim": "'It is so.'",
    "arms": "{'base': Arm('without', 0), 'method': Arm('with', 1)}",
    "metrics": "{'score': Metric(label='score', unit='', better='higher', minimal_effect=0.05)}",
    "headline": "'score'",
    "tuned": "'nothing'",
    "limits": "'a toy'",
}
SOUND = {
    "arms": (
        "{f'arm {n}': Arm(f'number {n}', n) for n in range(40)}",
        "{'base': Arm('', None), 'a b': Arm('x' * 5000, torch.nn.ReLU), 'é': Arm('\\x1b[31m', 1)}",
        "dict(base=Arm('a', print), method=Arm('b', lambda: 0))",
    ),
    "metrics": (
        "{'score': Metric.higher('score', 1e-9), 'other': Metric.lower('other', 1e9, 'unit')}",
        "{'score': Metric.lower('[red] \\x07', 1)}",
    ),
    "question": ("''", "'é' * 9000", "'\\ud83d'", "'<script>'"),
    "seeds": ("1", "8", "10**9"),
}
VALUES = (
    "None",
    "0",
    "-1",
    "True",
    "1.5",
    "''",
    "' '",
    "'words'",
    "b'bytes'",
    "[]",
    "{}",
    "()",
    "set()",
    "object()",
    "print",
    "float('nan')",
    "float('inf')",
    "10**400",
    "'x' * 100_000",
    "'\\x1b[31m'",
    "'\\ud800'",
    "'two\\nlines'",
    "lambda: 0",
    "torch.ones(3)",
    "Arm",
    "[Arm('a', 0), Arm('b', 1)]",
    "{'a': Arm('a', 0)}",
    "{'a': 1, 'b': 2}",
    "{1: Arm('a', 0), 2: Arm('b', 1)}",
    "{'': Arm('a', 0), 'b': Arm('b', 1)}",
    "{'a\\nb': Arm('a', 0), 'b': Arm('b', 1)}",
    "{'a': Arm(None, 0), 'b': Arm(3, 1)}",
    "{'a': Arm, 'b': Arm}",
    "{'score': None}",
    "{'score': 0.5}",
    "{None: Metric.higher('score', 1)}",
    "[Metric.higher('score', 1)]",
    "{'score': Metric.higher('score', 0)}",
    "{'score': Metric.higher('score', -1)}",
    "{'score': Metric.higher('score', 'a')}",
    "{'score': Metric.higher('score', float('nan'))}",
    "{'score': Metric.higher('score', float('inf'))}",
    "{'score': Metric.higher('score', None)}",
    "{'score': Metric.higher(None, 1)}",
    "{'score': Metric.higher('score', 1, 7)}",
    "{'score': Metric(label='s', unit='', better='up', minimal_effect=1)}",
    "{'score': Metric('s', '', 'higher', 1)}",
    "undefined",
    "1 / 0",
    "open('/nowhere')",
    "Study",
    "{**1}",
)
RUNS = (
    "",
    "run = None",
    "run = 3",
    "run = 'words'",
    "def run():\n    return 1",
    "def run(arm):\n    return 1",
    "class run:\n    pass",
    "def run(arm, setting, more):\n    return 1",
    "async def run(arm, setting):\n    return 1",
    "def run(*, arm, setting):\n    return 1",
    "def run(arm, setting):\n    yield 1",
    "import nowhere_at_all",
    "from paperweight.studies import Nothing",
    "raise SystemExit(0)",
    "raise RuntimeError('\\x1b[31m \\ud83d two\\nlines')",
    "raise BaseException",
    "raise MemoryError",
    "def run(arm setting):",
    "  def run(arm, setting):\n return 1",
    "(" * 300,
    "x = " + "[" * 90 + "]" * 90,
    "STUDY = None",
    "STUDY = [STUDY]",
    "del STUDY",
    "class STUDY:\n    arms = {}",
    "import sys\nsys.exit('words')",
    "import os\nos.chdir('/')",
    "\x00",
    "print('é' * 9000)",
    "import sys\nsys.modules.pop(__name__)",
    "def f():\n    f()\nf()",
    "assert False",
    "'\\N{nothing}'",
    "import warnings\nwarnings.warn('x')",
)
"""What is written in place of `run`, or behind it."""


def files(folder: Path, seed: int) -> Iterator[tuple[Path, str]]:
    """Yield study files without end, each with what was done to it, empty where it is sound."""
    number = 0
    while True:
        draw = random.Random(f"{seed} {number}")
        declared, done = dict(DECLARED), []
        for name in draw.sample(sorted(SOUND), draw.randint(0, 3)):
            declared[name] = draw.choice(SOUND[name])
        outcome = "Outcome(metrics={name: float(arm.name != 'base') for name in STUDY.metrics})"
        body = f"def run(arm, setting):\n    return {outcome}\n"
        for _ in range(draw.choice((0, 1, 1, 1, 2))):
            match draw.choice(("value", "value", "value", "missing", "surplus", "run", "behind", "outcome", "bytes")):
                case "value":
                    name = draw.choice([*DECLARED, "seeds"])
                    declared[name] = draw.choice(VALUES)
                    done.append(f"{name}={declared[name]}")
                case "missing":
                    done.append(f"no {(name := draw.choice(sorted(declared)))}")
                    del declared[name]
                case "surplus":
                    declared["more"] = "1"
                    done.append("more=1")
                case "run":
                    body = draw.choice(RUNS)
                    done.append(f"run: {body}")
                case "behind":
                    body += draw.choice(RUNS)
                    done.append(f"behind: {body[-80:]}")
                case "outcome":
                    body = f"import sys, torch\ndef run(arm, setting):\n    return {draw.choice(SMALL)}\n"
                    done.append(f"run: {body}")
                case _:
                    done.append("bytes")
        text = f"{HEAD}STUDY = Study({', '.join(f'{name}={value}' for name, value in declared.items())})\n{body}"
        content = text.encode("utf-8", "surrogatepass")
        if "bytes" in done:
            content = _changed(content, draw)
        path = folder / f"{draw.choice(['study', 'a study', 'étude', '1', 'x' * 200, 'torch', '[red]'])}-{number}.py"
        path.write_bytes(content)
        yield path, "; ".join(done)
        number += 1


def _changed(content: bytes, draw: random.Random) -> bytes:
    match draw.randrange(7):
        case 0:
            return content[: draw.randrange(len(content))]
        case 1:
            return b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
        case 2:
            return content.decode("utf-8", "replace").encode("utf-16")
        case 3:
            return b"# coding: nothing\n" + content
        case 4:
            return content.replace(b"Study(", b"Study(\x80", 1)
        case 5:
            return draw.randbytes(400)
        case _:
            changed = bytearray(content)
            for _ in range(draw.randint(1, 5)):
                changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
            return bytes(changed)


def _load(path: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        study = declared_study(str(path)).declaration
    assert study.arm(study.baseline).name == study.baseline
    assert study.arm(study.method).name == study.method


def main() -> None:
    """Print the counts; end with status 1 where a file gives neither a plan nor one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2700)
    parser.add_argument("--sample", type=int, default=20, help="weigh every so-and-so-manieth; 0 for none")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    engines.local_engine = processes.start_worker = Engine
    found: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder, empty = Path(name, "studies"), Path(name, "empty")
        folder.mkdir()
        empty.mkdir()
        os.environ["PAPERWEIGHT_CACHE"] = str(Path(name, "cache"))
        for number, (path, done) in zip(range(given.count), files(folder, given.seed), strict=False):
            outcome = attempt(path, _load, lambda: None)
            found[outcome.end] += 1
            faults = [] if outcome.end in ("read", "refused") else [outcome.end]
            faults += ["not loaded"] if not done and outcome.end != "read" else []
            faults += ["not one line"] if len(outcome.words.splitlines()) > 1 else []
            if given.sample and number % given.sample == given.sample - 1:
                ended = run(["weigh", str(path), "--budget=smoke", "--seeds=1", "--jobs=1"], empty)
                found[f"weighed, status {ended.status}"] += 1
                faults += [*ended.faults(), ended.errors[-200:]] if ended.faults() else []
            wrong += bool(faults)
            if faults:
                print(ascii(f"{path.name}: {faults}, {done}: {outcome.words}"), flush=True)
    print(f"{given.count} study files: {dict(found)}; {wrong} with a fault")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
