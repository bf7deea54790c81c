"""What the bench itself costs: a trial's share, two jobs against one, and a ledger of many rows.

python benchmarks/bench_overhead.py [--repeats N] [--ray]

The trials compute for about a second of one core without memory to speak of, so that what they take beyond their own
time is scheduling, pipes, hashing and the ledger. The start of a worker is left out: each run first has one trial more
for each job, which is not counted. Two jobs are compared with one in turns. The ledger holds 10,000 trials of 100
groups, of which one a group has its definitions recorded; all are looked for at once, as a weighing does at its start.
With ``--ray`` the same trials run on Ray's own cluster of this machine, too, in turns with those of local workers.
"""

import argparse
import statistics
import tempfile
import textwrap
import time
from pathlib import Path

from paperweight.bench.engines import chosen_engine
from paperweight.bench.ledger import Ledger
from paperweight.bench.sharing import complete
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.provenance import here

STUDY = """
    import time
    from paperweight.studies import Arm, Metric, Outcome, Study

    STUDY = Study(
        paper="busy", question="?", claim=".", arms={"base": Arm("without", 0), "method": Arm("with", 1)},
        metrics={"score": Metric.higher("score", 0.1)}, headline="score", tuned="nothing", limits="none",
    )

    def run(arm, setting):
        end = time.thread_time() + SECONDS
        while time.thread_time() < end:
            sum(range(1_000))
        return Outcome(metrics={"score": 1.0})
"""


def specs(study: str, seeds: range) -> list[TrialSpec]:
    """Return trials of one arm."""
    return [TrialSpec(study=study, arm="base", seed=seed, budget="smoke") for seed in seeds]


def timed(
    folder: Path, seconds: float, jobs: int, count: int, first: int, engine: str = "local"
) -> tuple[float, float]:
    """Return the seconds that trials took, and those that they took by their own account."""
    path = folder / "busy.py"
    path.write_text(textwrap.dedent(STUDY).replace("SECONDS", repr(seconds)), encoding="utf-8")
    runs = chosen_engine(engine, jobs=jobs, device="cpu", time_limit=60)
    with Ledger(str(folder / f"{first}.sqlite")) as book, runs:

        def run(seeds: range) -> list[TrialRecord]:
            plan = specs(str(path), seeds)
            found = complete(
                book, runs, plan, baseline="base", retry=False, progress=None, recording=seeds.start != first + jobs
            )
            return list(found.values())

        run(range(first, first + jobs))
        started = time.perf_counter()
        records = run(range(first + jobs, first + jobs + count))
        return time.perf_counter() - started, sum(record.wall_seconds for record in records)


def rows(folder: Path, count: int) -> tuple[float, float]:
    """Return the seconds that filing and finding so many trials takes."""
    path = folder / "busy.py"
    state = here().state()
    plan = [
        TrialSpec(study=str(path), arm=f"arm{number % 100}", seed=number // 100, budget="smoke")
        for number in range(count)
    ]
    with Ledger(str(folder / "many.sqlite")) as book:
        started = time.perf_counter()
        for spec in plan:
            units = {"bench.trial:TrialSpec": "0"} if spec.seed == 0 else {}
            book.add(TrialRecord(spec=spec, status="finished", metrics={"score": 1.0}, state=state, units=units))
        filed = time.perf_counter() - started
    with Ledger(str(folder / "many.sqlite")) as book:
        started = time.perf_counter()
        found = book.find(plan)
        if len(found) != count:
            raise SystemExit(f"{len(found)} of {count} rows were found")
        return filed, time.perf_counter() - started


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="compare with Ray's own cluster, too")
    given = parser.parse_args()
    overheads: list[float] = []
    speeds: list[float] = []
    ray_speeds: list[float] = []
    behind: list[float] = []
    if given.ray:  # its cluster is started once, with a core for each of two workers
        chosen_engine("ray", jobs=2, device="cpu", time_limit=60)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for repeat in range(given.repeats):
            first = 1_000 * repeat
            alone, own = timed(folder, 1.0, 1, 8, first)
            both, _ = timed(folder, 1.0, 2, 16, first + 500)
            overheads.append((alone - own) / 8)
            speeds.append(2 * alone / both)
            if given.ray:
                one, _ = timed(folder, 1.0, 1, 8, first + 250, "ray")
                two, _ = timed(folder, 1.0, 2, 16, first + 750, "ray")
                ray_speeds.append(2 * one / two)
                behind.append(two / both)
                print(f"run {repeat}: two Ray workers {ray_speeds[-1]:.3f} of one; {behind[-1]:.3f} times local ones")
            print(f"run {repeat}: {1e3 * overheads[-1]:.1f} ms a trial beside its own time; two jobs {speeds[-1]:.3f}")
        filed, found = rows(folder, 10_000)
    print(
        f"median: {1e3 * statistics.median(overheads):.1f} ms a trial; two jobs {statistics.median(speeds):.3f} of one"
    )
    if given.ray:
        ratio = statistics.median(behind)
        print(f"median: two Ray workers {statistics.median(ray_speeds):.3f} of one; {ratio:.3f} times local ones")
    print(f"10,000 rows: {found:.2f} s to find all of them; {1e3 * filed / 10_000:.2f} ms to file one")


if __name__ == "__main__":
    main()
