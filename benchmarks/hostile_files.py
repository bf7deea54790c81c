"""Hostile checkpoints and keybooks: is each refused, how fast, with how much memory, and never with a traceback?

``python benchmarks/hostile_files.py --checkpoints 160 --keybooks 48`` prints a row for each kind of file, and
ends with status 1 where one is not refused in words, or with memory beyond its bound: twice the file or 48 MiB, for a
keybook twice the file and 2 MiB, two of the arenas by which Python takes memory. Every file is read in a forked process
of its own (Linux), under a limit of time and of address space. Memory is the growth of the resident set to its peak,
mapped pages of the file included, or what Python allocates in a second reading, where that is more: the first one may
use pages that were freed before.
"""

import argparse
import json
import math
import os
import resource
import signal
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from hostile_checkpoints import MODEL, TEXT, Read, checkpoints
from hostile_keybooks import keybooks

from paperweight.errors import InputError
from paperweight.generators.model import load_model
from paperweight.generators.text_model import load_text_model

SECONDS, PATIENCE, ROOM = 30, 300, 4 << 30


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Args:
        end: ``refused``, ``read``, ``traceback``, ``hang`` or ``killed``.
        words: The message.
        seconds: Computing time that it took, or time on the clock where it was ended.
        growth: Growth of the resident memory, bytes.
        size: Size of the file, bytes.
    """

    end: str
    words: str
    seconds: float
    growth: int
    size: int

    def refused(self, name: str, bound: int) -> bool:
        """Say whether the file was refused by its name, with a remedy, and with memory within a bound in bytes."""
        words = "; " in self.words and name in self.words and len(self.words) < 2_000 + len(name)
        return self.end == "refused" and words and self.growth <= bound


def attempt(path: Path, read: Read, warm_up: Callable[[], object]) -> Outcome:
    """Read a file or folder in a forked process, which is warmed up before, and say what became of it."""
    receive, send = os.pipe()
    begun = time.perf_counter()
    child = os.fork()
    if not child:
        os.close(receive)
        signal.alarm(PATIENCE)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        os.write(send, json.dumps(_read(path, read, warm_up)).encode())
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    size = _size(path)
    if status:
        end = "hang" if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGXCPU) else "killed"
        return Outcome(end, f"status {status}", time.perf_counter() - begun, 0, size)
    end, words, seconds, growth = json.loads(said)
    return Outcome(end, words, seconds, growth, size)


def _size(source: Path | str) -> int:
    try:
        path = Path(source)
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        return sum(file.stat().st_blocks for file in files) * 512
    except (OSError, TypeError, ValueError):
        return 0


def _read(path: Path, read: Read, warm_up: Callable[[], object]) -> tuple[str, str, float, int]:
    warm_up()
    room = _memory("VmSize") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    Path("/proc/self/clear_refs").write_text("5")
    before, begun = _memory("VmRSS"), time.process_time()
    try:
        read(path)
        end, words = "read", ""
    except InputError as error:
        end, words = "refused", str(error)
    except BaseException as error:
        end, words = "traceback", f"{type(error).__name__}: {error}"
    seconds = time.process_time() - begun
    growth = _memory("VmHWM") - before
    tracemalloc.start()
    with suppress(BaseException):
        read(path)
    return end, words, seconds, max(growth, tracemalloc.get_traced_memory()[1])


def _warm_up() -> None:
    """Read sound files and one with an infinite weight, so that what torch loads at first use is not counted."""
    with tempfile.TemporaryDirectory() as folder, suppress(InputError):
        path = Path(folder, "model")
        for spec, read in ((MODEL, load_model), (TEXT, load_text_model)):
            spec.build().save(path)
            read(path)
        model = MODEL.build()
        model.network.stem.bias.data[0] = math.inf
        model.save(path)
        load_model(path)


def _memory(name: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=160)
    parser.add_argument("--keybooks", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--messages", action="store_true", help="print each message")
    given = parser.parse_args()
    torch.set_num_threads(1)
    _warm_up()
    wrong = 0
    for what, generate, count, least, beside, large in (
        ("checkpoints", checkpoints, given.checkpoints, 48 << 20, 0, 4.0),
        ("keybooks", keybooks, given.keybooks, 0, 2 << 20, 0.5),
    ):
        rows: dict[str, list[Outcome]] = defaultdict(list)
        with tempfile.TemporaryDirectory() as folder:
            for kind, path, read in islice(generate(Path(folder), given.seed), count):
                outcome = attempt(path, read, _warm_up)
                rows[kind].append(outcome)
                sound = outcome.refused(path.name, max(2 * outcome.size, least) + beside)
                wrong += not sound
                if given.messages or not sound:
                    print(
                        f"{kind}: {outcome.end}, {outcome.seconds:.2f} s, {outcome.growth >> 10} KiB of "
                        f"{outcome.size >> 10} KiB: {outcome.words[:300]}".encode("ascii", "backslashreplace").decode()
                    )
        _table(what, rows, large)
    sys.exit(1 if wrong else 0)


def _table(what: str, rows: dict[str, list[Outcome]], large: float) -> None:
    print(f"\n{what:36} files refused tracebacks hangs/kills     CPU  memory/file, {large} MiB on  MiB, below")
    for kind, found in {**rows, "all": [each for own in rows.values() for each in own]}.items():
        ends = [each.end for each in found]
        ratio = max((each.growth / each.size for each in found if each.size >= large * 2**20), default=0.0)
        small = max((each.growth for each in found if each.size < large * 2**20), default=0) / 2**20
        print(
            f"{kind:36} {len(found):5} {ends.count('refused'):7} {ends.count('traceback'):10} "
            f"{ends.count('hang') + ends.count('killed'):11} {max((each.seconds for each in found), default=0):6.2f} s "
            f"{ratio:22.2f} {small:12.1f}"
        )


if __name__ == "__main__":
    main()
