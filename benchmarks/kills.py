"""Kills: a cheap study is weighed by the command, and driver, worker or both are killed, again and again.

Each plan of 12 trials is killed up to three times, goes on with the same command each time, and must end with the rows
of a plan that nobody killed. For Linux. With ``--postgresql URL`` each plan's ledger is a schema of its own in that
database, of a server that does nothing else; ``python -m tests.bench.postgresql`` starts one.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from paperweight.bench.ledger import Ledger
from paperweight.errors import InputError

STUDY = """
    import os, time
    from pathlib import Path
    from paperweight.studies import Arm, Metric, Outcome, Setting, Study

    STUDY = Study(
        paper="killed", question="Is it so?", claim="It is so.",
        arms={"base": Arm("without", 0), "method": Arm("with", 1)},
        metrics={"score": Metric(label="score", unit="", better="higher", minimal_effect=0.05)},
        headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm: Arm, setting: Setting) -> Outcome:
        (Path(__file__).parent / "begun" / f"{time.time()} {os.getpid()} {arm.name} {setting.seed}").touch()
        time.sleep(0.4)
        return Outcome(metrics={"score": float(arm.name == "method") + 0.01 * setting.seed})
"""
KINDS = ("creation", "driver", "worker", "both", "commit")
Row = tuple[str, int, str]
PLAN = {(arm, seed) for arm in ("base", "method") for seed in range(6)}
START = "from paperweight.cli import main; main()"


@dataclass
class Figures:
    """What came of the kills of one kind."""

    kills: int = 0
    plans: int = 0
    lost: int = 0
    doubled: int = 0
    failed: int = 0
    unusable: int = 0
    orphans: int = 0
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class File:
    """A ledger in a file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "out" / "ledger.sqlite"
        self.place = str(self._path)
        self.reader = sa.create_engine(f"sqlite:///file:{self._path}?mode=ro&uri=true", poolclass=sa.NullPool)

    def begun(self) -> bool:
        """Tell whether it is being made."""
        return self._path.exists()

    def written(self) -> object:
        """Return what changes when something is written."""
        with suppress(OSError):
            status = self._path.with_name(f"{self._path.name}-wal").stat()
            return status.st_size, status.st_mtime_ns
        return None


class Schema:
    """A ledger in a schema of its own of a PostgreSQL database."""

    def __init__(self, server: str, name: str) -> None:
        self.place = f"{server}{'&' if '?' in server else '?'}options=-csearch_path%3D{name}"
        self.reader = sa.create_engine(self.place.replace("postgresql:", "postgresql+psycopg:"), pool_size=1)
        with self.reader.begin() as connection:
            connection.execute(sa.schema.CreateSchema(name))

    def begun(self) -> bool:
        """Tell whether the driver has connected."""
        return self._one("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") > 1

    def written(self) -> object:
        """Return what changes when something is written."""
        return self._one("SELECT pg_current_wal_insert_lsn()")

    def _one(self, query: str) -> Any:
        with self.reader.begin() as connection:
            return connection.execute(sa.text(query)).scalar_one()


class Plan:
    """A study in a folder of its own, and the command that weighs it."""

    def __init__(self, folder: Path, server: str | None) -> None:
        self._folder = folder
        name = f"{folder.name}_{os.getpid()}".replace("-", "_")
        self.ledger = File(folder) if server is None else Schema(server, name)
        self.begun = folder / "begun"
        self.begun.mkdir(parents=True)
        (folder / "killed.py").write_text(textwrap.dedent(STUDY))
        (folder / "errors").touch()

    def start(self) -> subprocess.Popen[bytes]:
        """Give the command."""
        words = ["weigh", str(self._folder / "killed.py"), "--budget", "smoke", "--seeds", "6", "--jobs", "2"]
        out = self._folder / "out"
        with (self._folder / "errors").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", START, *words, "--out", str(out), "--ledger", self.ledger.place],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=os.environ | {"PAPERWEIGHT_CACHE": str(self._folder / "cache")},
            )

    def rows(self) -> Counter[Row]:
        """Return the rows by arm, seed and status, read as a stranger would."""
        trial = sa.table("trial", *map(sa.column, ("arm", "seed", "status")))
        with suppress(SQLAlchemyError), self.ledger.reader.begin() as connection:
            return Counter(map(tuple, connection.execute(sa.select(trial))))
        return Counter()

    def workers(self) -> set[int]:
        """Return the processes that ran trials and still run."""
        return {int(path.name.split()[1]) for path in self.begun.iterdir() if _runs(int(path.name.split()[1]))}

    def first_after(self, moment: float) -> list[float]:
        """Return the seconds from a moment to the first trial that began after it, none where none did."""
        return sorted(begun - moment for path in self.begun.iterdir() if (begun := _begun(path)) > moment)[:1]

    def errors(self) -> str:
        """Return what the commands wrote to their error stream."""
        return (self._folder / "errors").read_text(errors="replace")


def _begun(path: Path) -> float:
    return float(path.name.split()[0])


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition: Callable[[], object], driver: subprocess.Popen[bytes], pause: float = 0.002) -> None:
    while not condition() and driver.poll() is None:
        time.sleep(pause)


def _kill(plan: Plan, driver: subprocess.Popen[bytes], kind: str, chance: random.Random) -> Counter[Row]:
    """Kill what the kind says, at a moment that suits it, and return the rows that were there before."""
    if kind == "creation":
        _wait(plan.ledger.begun, driver, 0.0002)
        time.sleep(chance.uniform(0.0, 0.08))
    else:
        moment = time.time()
        _wait(lambda: plan.first_after(moment), driver)
        time.sleep(chance.uniform(0.0, 0.8))
    rows = plan.rows()
    if kind == "commit":
        written = plan.ledger.written()
        _wait(lambda: plan.ledger.written() != written, driver, 0.0)
    victims = [] if kind == "worker" else [driver.pid]
    if kind in ("worker", "both"):
        victims += sorted(plan.workers())[: 1 if kind == "worker" else None]
    for process in victims:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return rows


def _usable(plan: Plan) -> bool:
    try:
        Ledger(plan.ledger.place).close()
    except InputError:
        return False
    return True


def killed(folder: Path, kind: str, kills: int, chance: random.Random, server: str | None) -> Figures:
    """Kill plans of one kind, three times each where the driver dies, until there were so many kills."""
    figures = Figures()
    while figures.kills < kills:
        plan = Plan(folder / f"{kind}-{figures.plans}", server)
        figures.plans += 1
        times = min(3, kills - figures.kills) if kind in ("driver", "both", "commit") else 1
        for _ in range(times):
            driver = plan.start()
            rows = _kill(plan, driver, kind, chance)
            moment = time.time()
            driver.wait()
            figures.kills += 1
            _wait_for_workers(plan)
            figures.orphans += len(plan.workers())
            figures.unusable += not _usable(plan)
            figures.lost += (rows - plan.rows()).total()
            if kind == "worker":
                figures.seconds += plan.first_after(moment)
        if kind != "creation":
            _end(plan, figures)
    return figures


def _wait_for_workers(plan: Plan) -> None:
    end = time.monotonic() + 5.0
    while plan.workers() and time.monotonic() < end:
        time.sleep(0.1)


def _end(plan: Plan, figures: Figures) -> None:
    """Give the command once more, which ends the plan."""
    started = time.time()
    driver = plan.start()
    if driver.wait() != 0:
        figures.faults.append(plan.errors()[-2000:])
    figures.seconds += plan.first_after(started)
    _judge(plan, figures)


def _judge(plan: Plan, figures: Figures) -> None:
    trials: Counter[tuple[str, int]] = Counter()
    for (arm, seed, status), count in plan.rows().items():
        if status == "finished":
            trials[arm, seed] += count
        else:
            figures.failed += count
    figures.lost += len(PLAN - set(trials))
    figures.doubled += sum(count - 1 for count in trials.values())
    if "Traceback" in plan.errors():
        figures.faults.append(plan.errors()[-2000:])


def starters(folder: Path, rounds: int, server: str | None) -> Figures:
    """Start six weighings of one plan at once on a fresh ledger."""
    figures = Figures()
    for number in range(rounds):
        plan = Plan(folder / f"starters-{number}", server)
        figures.plans += 1
        started = time.time()
        drivers = [plan.start() for _ in range(6)]
        figures.unusable += sum(driver.wait() != 0 for driver in drivers)
        figures.seconds += plan.first_after(started)
        _judge(plan, figures)
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="in all, two fifths of them in creation")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="what is killed; all where left out")
    parser.add_argument("--starters", type=int, default=2, help="rounds of six weighings at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", metavar="URL", help="keep the ledgers there, not in files")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    share = {kind: options.kills * (40 if kind == "creation" else 15) // 100 for kind in KINDS}
    table: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="paperweight-kills-") as folder:
        print("| killed | kills | plans | lost | doubled | failed rows | unusable | orphans | s to work | faults |")
        print("|---|---|---|---|---|---|---|---|---|---|")
        for kind in (*options.kinds, "six starters"):
            if kind == "six starters":
                found = starters(Path(folder), options.starters, options.postgresql)
            else:
                found = killed(Path(folder), kind, share[kind], chance, options.postgresql)
            table[kind] = found
            seconds = f"{statistics.median(found.seconds):.1f}" if found.seconds else "-"
            counts = (found.lost, found.doubled, found.failed, found.unusable, found.orphans)
            cells = (kind, found.kills, found.plans, *counts, seconds, len(found.faults))
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    for found in table.values():
        for fault in found.faults:
            sys.stderr.write(f"\n{fault}\n")
    if options.json is not None:
        options.json.write_text(json.dumps({kind: vars(found) for kind, found in table.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
