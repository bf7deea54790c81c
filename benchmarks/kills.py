"""Kills: a cheap study is weighed by the command, and driver, worker or both are killed, again and again.

Each plan of 12 trials is killed up to three times, goes on with the same command each time, and must end with a ledger
equal in content (arm, seed, status, metrics, arguments) to one of a plan that nobody killed, and with no process left.
For Linux. With ``--postgresql URL`` each plan's ledger is a schema of its own in that database, of a server that does
nothing else; ``python -m tests.bench.postgresql`` starts one. With ``--engine ray`` workers are those of a Ray cluster:
of one that each command starts and that must end with it, and, where a node is killed, the second of two nodes.
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
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from two_nodes import TwoNodes, marked, two_nodes

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
KINDS = {
    "local": {"creation": 0.4, "driver": 0.15, "worker": 0.15, "both": 0.15, "commit": 0.15},
    "ray": {"creation": 0.1, "driver": 0.2, "worker": 0.2, "both": 0.15, "commit": 0.15, "raylet": 0.1, "node": 0.1},
}
"""What is killed under each engine, and its share of the kills."""
Row = tuple[str, int, str, str]
"""Arm, seed, status, and what else is compared, as JSON."""
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
    different: int = 0
    unusable: int = 0
    orphans: int = 0
    stopped: int = 0
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def cost(self) -> int:
        """Return how much was lost, doubled, left, or went wrong; failed rows of what was killed are none of it."""
        counts = (self.lost, self.doubled, self.different, self.stopped, self.unusable, self.orphans)
        return sum(counts) + len(self.faults)


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

    def __init__(self, folder: Path, server: str | None = None, engine: str = "local") -> None:
        self._folder, self._engine = folder, engine
        name = f"{folder.name}_{os.getpid()}".replace("-", "_")
        self.ledger = File(folder) if server is None else Schema(server, name)
        self._mark = str(folder)
        self.begun = folder / "begun"
        self.begun.mkdir(parents=True)
        (folder / "killed.py").write_text(textwrap.dedent(STUDY))
        (folder / "errors").touch()

    def start(self) -> subprocess.Popen[bytes]:
        """Give the command."""
        words = ["weigh", str(self._folder / "killed.py"), "--budget", "smoke", "--seeds", "6", "--jobs", "2"]
        words += ["--engine", self._engine]
        out = self._folder / "out"
        with (self._folder / "errors").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", START, *words, "--out", str(out), "--ledger", self.ledger.place],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=os.environ | {"PAPERWEIGHT_CACHE": str(self._folder / "cache"), "KILLED_PLAN": self._mark},
            )

    def rows(self) -> Counter[Row]:
        """Return the rows, read as a stranger would."""
        trial = sa.table("trial", *map(sa.column, ("arm", "seed", "status", "metrics", "arguments")))
        with suppress(SQLAlchemyError), self.ledger.reader.begin() as connection:
            return Counter((*row[:3], _plain(row[3:])) for row in connection.execute(sa.select(trial)))
        return Counter()

    def usable(self) -> bool:
        """Tell whether the ledger can be opened."""
        try:
            Ledger(self.ledger.place).close()
        except InputError:
            return False
        return True

    def workers(self) -> set[int]:
        """Return the processes that ran trials and still run."""
        return {process for path in self.begun.iterdir() if _parent(process := int(path.name.split()[1]))}

    def left(self) -> dict[int, str]:
        """Return all living processes that a command started, or that ran a trial, and what they are called."""
        return dict.fromkeys(self.workers(), "trial") | marked("KILLED_PLAN", self._mark)

    def raylets(self) -> list[int]:
        """Return the node processes of clusters that commands started."""
        return [process for process, name in marked("KILLED_PLAN", self._mark).items() if name == "raylet"]

    def first_after(self, moment: float) -> list[float]:
        """Return the seconds from a moment to the first trial that began after it, none where none did."""
        return sorted(begun - moment for path in self.begun.iterdir() if (begun := _begun(path)) > moment)[:1]

    def errors(self) -> str:
        """Return what the commands wrote to their error stream."""
        return (self._folder / "errors").read_text(errors="replace")


def _begun(path: Path) -> float:
    return float(path.name.split()[0])


def _parent(process: int) -> int:
    """Return the parent of a living process, 0 where there is none."""
    try:
        state, parent = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state == "Z" else int(parent)


def _plain(columns: Sequence[Any]) -> str:
    return json.dumps([json.loads(each) if isinstance(each, str) else each for each in columns], sort_keys=True)


def _wait(condition: Callable[[], object], driver: subprocess.Popen[bytes], pause: float = 0.002) -> None:
    while not condition() and driver.poll() is None:
        time.sleep(pause)


@dataclass
class Killer:
    """Kills plans of one kind.

    Args:
        folder: Where the plans are.
        kind: What is killed.
        engine: Where the trials run.
        chance: Draws moments and victims.
        content: The rows of a plan that nobody killed.
        server: The PostgreSQL database that holds the ledgers; files where there is none.
        cluster: The cluster whose second node is killed.
    """

    folder: Path
    kind: str
    engine: str
    chance: random.Random
    content: Counter[Row]
    server: str | None = None
    cluster: TwoNodes | None = None

    def killed(self, kills: int) -> Figures:
        """Kill plans, three times each where the driver dies, until there were so many kills."""
        figures = Figures()
        engine = self.engine if self.cluster is None else f"ray:{self.cluster.address}"
        while figures.kills < kills:
            plan = Plan(self.folder / f"{self.kind}-{figures.plans}", self.server, engine)
            figures.plans += 1
            lasts = self.kind in ("worker", "node")
            times = 1 if lasts or self.kind == "creation" else min(3, kills - figures.kills)
            for _ in range(times):
                driver = plan.start()
                rows = self._kill(plan, driver)
                moment = time.time()
                status = driver.wait()
                figures.kills += 1
                _wait_for_end(plan)
                if left := plan.left():
                    figures.orphans += len(left)
                    figures.faults.append(f"left after 5 s: {left}")
                figures.unusable += not plan.usable()
                figures.lost += (rows - plan.rows()).total()
                if lasts:
                    figures.seconds += plan.first_after(moment)
                    figures.stopped += status != 0
            if self.cluster is not None:
                self.cluster.start_second()
            if self.kind != "creation":
                _end(plan, figures, self.content)
        return figures

    def _kill(self, plan: Plan, driver: subprocess.Popen[bytes]) -> Counter[Row]:
        """Kill what the kind says, at a moment that suits it, and return the rows that were there before."""
        if self.kind == "creation":
            _wait(plan.ledger.begun, driver, 0.0002)
            time.sleep(self.chance.uniform(0.0, 0.08))
        else:
            moment = time.time()
            _wait(lambda: plan.first_after(moment), driver)
            time.sleep(self.chance.uniform(0.0, 0.8))
        rows = plan.rows()
        if self.kind == "commit":
            written = plan.ledger.written()
            _wait(lambda: plan.ledger.written() != written, driver, 0.0)
        if self.kind == "node" and self.cluster is not None:
            self.cluster.kill_second()
        for process in self._victims(plan, driver):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return rows

    def _victims(self, plan: Plan, driver: subprocess.Popen[bytes]) -> list[int]:
        workers = sorted(plan.workers())
        match self.kind:
            case "node":
                return []
            case "worker":
                return [self._one_of(worker) for worker in workers[:1]]
            case "both":
                return [driver.pid, *workers]
            case "raylet":
                return plan.raylets()
            case _:
                return [driver.pid]

    def _one_of(self, worker: int) -> int:
        """Return a worker, its guard, or on a cluster the actor that started it."""
        chain = [worker, _parent(worker)]
        if self.engine == "ray":
            chain.append(_parent(chain[1]))
        return self.chance.choice([process for process in chain if process > 1])


def _wait_for_end(plan: Plan) -> None:
    end = time.monotonic() + 5.0
    while plan.left() and time.monotonic() < end:
        time.sleep(0.1)


def _end(plan: Plan, figures: Figures, content: Counter[Row]) -> None:
    """Give the command once more, which ends the plan."""
    started = time.time()
    driver = plan.start()
    if driver.wait() != 0:
        figures.faults.append(plan.errors()[-2000:])
    figures.seconds += plan.first_after(started)
    _judge(plan, figures, content)


def _judge(plan: Plan, figures: Figures, content: Counter[Row]) -> None:
    rows = plan.rows()
    finished = Counter({row: count for row, count in rows.items() if row[2] == "finished"})
    trials = Counter(row[:2] for row in finished.elements())
    figures.failed += (rows - finished).total()
    figures.lost += len(PLAN - set(trials))
    figures.doubled += sum(count - 1 for count in trials.values())
    figures.different += finished != content
    if "Traceback" in plan.errors():
        figures.faults.append(plan.errors()[-2000:])


def unkilled(folder: Path) -> Counter[Row]:
    """Return the rows of a plan that nobody kills."""
    plan = Plan(folder / "unkilled")
    if plan.start().wait() != 0:
        raise SystemExit(plan.errors())
    return plan.rows()


def starters(folder: Path, rounds: int, content: Counter[Row], server: str | None) -> Figures:
    """Start six weighings of one plan at once on a fresh ledger."""
    figures = Figures()
    for number in range(rounds):
        plan = Plan(folder / f"starters-{number}", server)
        figures.plans += 1
        started = time.time()
        drivers = [plan.start() for _ in range(6)]
        figures.unusable += sum(driver.wait() != 0 for driver in drivers)
        figures.seconds += plan.first_after(started)
        _judge(plan, figures, content)
    return figures


def tables(options: argparse.Namespace) -> dict[str, Figures]:
    """Kill, print a row for each kind, and return all rows."""
    share = KINDS[options.engine]
    table: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(prefix="paperweight-kills-") as name:
        folder = Path(name)
        content = unkilled(folder)
        print(
            "| killed | kills | plans | lost | doubled | failed rows | other content | ended | unusable | orphans",
            end="",
        )
        print(" | s to work, median and most | faults |\n|---|---|---|---|---|---|---|---|---|---|---|---|")
        for kind in (*(options.kinds or share), "six starters"):
            if kind == "six starters":
                found = starters(folder, options.starters, content, options.postgresql)
            else:
                with ExitStack() as stack:
                    cluster = stack.enter_context(two_nodes()) if kind == "node" else None
                    chance = random.Random(f"{kind} {options.seed}")
                    killer = Killer(folder, kind, options.engine, chance, content, options.postgresql, cluster)
                    found = killer.killed(round(options.kills * share[kind]))
            table[kind] = found
            seconds = f"{statistics.median(found.seconds):.1f}, {max(found.seconds):.1f}" if found.seconds else "-"
            counts = (found.lost, found.doubled, found.failed, found.different, found.stopped, found.unusable)
            cells = (kind, found.kills, found.plans, *counts, found.orphans, seconds, len(found.faults))
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return table


def main() -> None:
    """Print the table; end with status 1 where a kill cost something."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300, help="in all")
    parser.add_argument("--engine", choices=list(KINDS), default="local")
    parser.add_argument("--kinds", nargs="+", choices=sorted({kind for kinds in KINDS.values() for kind in kinds}))
    parser.add_argument("--starters", type=int, default=2, help="rounds of six weighings at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--postgresql", metavar="URL", help="keep the ledgers there, not in files")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    table = tables(options)
    for found in table.values():
        for fault in found.faults:
            sys.stderr.write(f"\n{fault}\n")
    if options.json is not None:
        options.json.write_text(json.dumps({kind: vars(found) for kind, found in table.items()}, indent=1) + "\n")
    sys.exit(any(found.cost() for found in table.values()))


if __name__ == "__main__":
    main()
