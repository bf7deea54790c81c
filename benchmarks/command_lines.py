"""Command lines made of commands, options and hostile values: how does each end, and does any hang or crash?

``python benchmarks/command_lines.py --count 2000`` prints a row for each command: exit statuses, tracebacks, hangs, raw
control characters in what was written. A line ends well with status 0 or 1 and something on standard output, or with 2
and a message; ends with 1 where one does not. Each line runs in a forked process in a folder of its own; every
``--sample``-th runs as a real process as well and must end alike. Trials run in that process instead of a worker's.
"""

import argparse
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from hostile_words import lines

from paperweight import processes
from paperweight.audits.planting import plant
from paperweight.bench import engines
from paperweight.bench.starts import starting_weights
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.bench.worker import run_trial
from paperweight.catalogue import entries, official_result
from paperweight.cli import main as command
from paperweight.generators.model import ModelSpec
from paperweight.generators.text_model import TextSpec

SECONDS, PATIENCE, ROOM = 30, 300, 6 << 30
STUDY = """
    from paperweight.studies import Arm, Metric, Outcome, Study

    STUDY = Study(
        paper="example", question="Is it \x1b[31mso?", claim="It is so.",
        arms={"base": Arm("without", 0), "method": Arm("with [red]", 1)},
        metrics={"score": Metric(label="score \x07", unit="", better="higher", minimal_effect=0.05)},
        headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm, setting):
        if setting.seed % 5 == 4:
            raise RuntimeError("broken \x1b[2J")
        return Outcome(metrics={"score": 1e308 * arm.make})
"""
MODULE = """
    import torch

    def stop(*_):
        raise SystemExit(0)

    def fail(*_):
        raise ValueError("no \x1b[31m \\ud83d")

    class Layer(torch.nn.Linear):
        def __init__(self):
            super().__init__(5, 3)

    class Stops(torch.nn.Module):
        def forward(self, x):
            raise SystemExit(0)
"""


@dataclass(frozen=True)
class Ended:
    """How a command line ended.

    Args:
        words: The command line.
        status: Its exit status; below 0 a signal, of an alarm clock where it took too long.
        output: What it wrote to standard output.
        errors: What it wrote to the error stream.
        seconds: How long it took.
    """

    words: list[str]
    status: int
    output: str
    errors: str
    seconds: float

    def faults(self) -> list[str]:
        """Return what is wrong with it."""
        found: list[str] = []
        if self.status not in (0, 1, 2):
            found.append("hang" if self.status in (-signal.SIGALRM, -signal.SIGXCPU) else f"status {self.status}")
        if "Traceback (most recent" in self.errors + self.output.replace("<pre>", ""):
            found.append("traceback")
        if any(letter in self.output + self.errors for letter in "\x1b\x07\x9b"):
            found.append("control characters")
        if self.status == 2 and not self.errors.strip():
            found.append("no message")
        if self.status in (0, 1) and not self.output.strip() and "--explain" not in self.words:
            found.append("no answer")
        return found


def load() -> None:
    """Load once what commands load, and read the results: every line is forked from here."""
    for name in (
        "alembic.command",
        "paperweight.reports.weighing",
        "paperweight.testing",
        "rich.table",
        "sklearn.datasets",
    ):
        importlib.import_module(name)
    for entry in entries():
        official_result(entry)
    gc.freeze()


def prepare(folder: Path) -> None:
    """Fill a folder with what command lines name."""
    os.mkfifo(folder / "pipe")
    (folder / "loop.py").symlink_to("loop.py")
    (folder / "pipe.py").symlink_to("pipe")
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "file.txt").write_text("words")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    (folder / "study.py").write_text(textwrap.dedent(STUDY))
    (folder / "own.py").write_text(textwrap.dedent(MODULE))
    (folder / "stops.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "fails.py").write_text("raise RuntimeError('\\x1b[31m \\ud83d')\n")
    planted = plant("digits", folder / "planted", thickness=1, records=20)
    model = ModelSpec(shape=planted.shape, arguments={"width": 8}, steps=10).build()
    model.save(folder / "model")
    for name, value in (("huge", 1e30), ("nan", float("nan"))):
        with torch.no_grad():
            model.network.out[1].bias.fill_(value)
        model.save(folder / name)
    arguments = {"patch": 4, "width": 8, "blocks": 1, "heads": 2}
    text = TextSpec(shape=(1, 8, 8), words=("a", "circle", "square"), length=4, dim=8, arguments=arguments, steps=5)
    text.build().save(folder / "text")
    from PIL import Image

    for label in ("circle", "square"):
        (folder / "labelled" / label).mkdir(parents=True)
        for number in range(12):
            Image.new("L", (8, 8), 10 * number).save(folder / "labelled" / label / f"{number}.png")


def run(words: list[str], prepared: Path) -> Ended:
    """Run a command line in a forked process, in a folder of its own that holds what is prepared."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "here"
        folder.mkdir()
        for entry in prepared.iterdir():
            (folder / entry.name).symlink_to(entry)
        begun = time.perf_counter()
        child = os.fork()
        if not child:
            _be(words, folder, Path(scratch))
        _, code = os.waitpid(child, 0)
        seconds = time.perf_counter() - begun
        output, errors = (
            (Path(scratch) / name).read_text(encoding="utf-8", errors="surrogateescape") for name in ("out", "err")
        )
        return Ended(words, os.waitstatus_to_exitcode(code), output, errors, seconds)


def _be(words: list[str], folder: Path, scratch: Path) -> None:
    status = 99
    try:
        signal.alarm(PATIENCE)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))
        os.chdir(folder)
        tempfile.tempdir = str(scratch)
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        command(words)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 0
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def as_process(words: list[str], prepared: Path) -> Ended:
    """Run a command line as a person does."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "here"
        folder.mkdir()
        for entry in prepared.iterdir():
            (folder / entry.name).symlink_to(entry)
        begun = time.perf_counter()
        call = [sys.executable, "-m", "paperweight.cli", *words]
        try:
            done = subprocess.run(
                call,
                cwd=folder,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                timeout=2 * PATIENCE,
                check=False,
                env={**os.environ, "TMPDIR": scratch},
                encoding="utf-8",
            )
        except subprocess.TimeoutExpired:
            return Ended(words, -signal.SIGALRM, "", "", time.perf_counter() - begun)
        return Ended(words, done.returncode, done.stdout, done.stderr, time.perf_counter() - begun)


class Engine:
    """Runs trials where they are asked for."""

    def __init__(self, **_: object) -> None:
        pass

    def run(
        self, specs: list[TrialSpec], *, recorded: set[str], may_start: Callable[[TrialSpec], bool]
    ) -> Iterator[TrialRecord]:
        """Yield the record of each trial."""
        for spec in filter(may_start, specs):
            yield run_trial(spec, recorded=spec.key() in recorded)

    def starting_weights(self, spec: TrialSpec, places: list[str]) -> dict[str, str]:
        """Return what the engine would."""
        return starting_weights(spec, places)

    def close(self) -> None:
        """End, as a worker that was started beforehand would."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--sample", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--all", action="store_true", help="print every line and how it ended")
    given = parser.parse_args()
    torch.set_num_threads(1)
    engines.local_engine = processes.start_worker = Engine
    load()
    rows: dict[str, list[Ended]] = defaultdict(list)
    wrong = different = sampled = 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for number, words in enumerate(lines(given.count, given.seed)):
            ended = run(words, Path(folder))
            rows[" ".join(words[: 2 if words[0] == "audit" else 1])].append(ended)
            faults = ended.faults()
            if given.sample and number % given.sample == given.sample - 1:
                sampled += 1
                other = as_process(words, Path(folder))
                if (other.status, other.faults()) != (ended.status, faults):
                    different += 1
                    faults = [*faults, f"as a process status {other.status}: {other.errors[-200:]!r}"]
            wrong += bool(faults)
            if faults or given.all:
                shown = json.dumps([word if len(word) < 60 else f"{word[:60]}..." for word in words])
                print(f"{ended.status} {faults} {shown} {ended.errors[-300:]!r}", flush=True)
    print(f"\n{'command':20} lines   0    1    2    3  other  tracebacks  hangs  control  slowest")
    for name, found in {**rows, "all": [each for own in rows.values() for each in own]}.items():
        statuses = Counter(each.status for each in found)
        faults = Counter(fault for each in found for fault in each.faults())
        print(
            f"{name:20} {len(found):5}"
            + "".join(f"{statuses[status]:5}" for status in range(4))
            + f"{sum(statuses.values()) - sum(statuses[status] for status in range(4)):7}{faults['traceback']:12}"
            f"{faults['hang']:7}{faults['control characters']:9}{max(each.seconds for each in found):8.1f} s"
        )
    print(f"{wrong} lines with a fault; {sampled} run as processes as well, {different} of them ended otherwise")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
