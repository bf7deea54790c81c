"""Full disks: a cheap study is weighed onto a disk of its own that is filled while it runs, emptied, and weighed again.

Each plan of 12 trials must end in words, leave a ledger that can be read, and, with room again, end with the rows of a
plan that nothing happened to. For Linux, as root: each disk is a file system in memory.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from kills import PLAN, Plan

from paperweight.bench.ledger import Ledger
from paperweight.errors import InputError

SIZE = 1 << 20
LONGEST = 600.0


def filled(disk: Path, left: int) -> Path:
    """Fill a disk but for so many bytes."""
    ballast = disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    if left:
        with ballast.open("r+b") as file:
            file.truncate(max(0, ballast.stat().st_size - left))
    return ballast


def ended(plan: Plan, disk: Path, chance: random.Random | None) -> int | None:
    """Give the command, fill the disk meanwhile where there is chance, and return its status; None if it hangs."""
    driver = plan.start()
    if chance is not None:
        moment = time.time()
        wait = chance.choice(("at once", "ledger", "trial", "trial", "trial"))
        while (
            driver.poll() is None
            and not {
                "at once": True,
                "ledger": plan.ledger.exists(),
                "trial": bool(plan.first_after(moment)),
            }[wait]
        ):
            time.sleep(0.005)
        time.sleep(0.0 if wait == "at once" else chance.uniform(0.0, 2.0))
        filled(disk, chance.choice((0, 0, 4096, 16_384, 65_536)))
    try:
        return driver.wait(LONGEST)
    except subprocess.TimeoutExpired:
        driver.kill()
        driver.wait()
        return None


def readable(plan: Plan) -> bool:
    """Say whether the ledger, if there is one, can be opened."""
    if not plan.ledger.exists():
        return True
    try:
        Ledger(str(plan.ledger)).close()
    except InputError:
        return False
    return True


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="paperweight-disks-") as folder:
        for number in range(options.disks):
            plan = Plan(Path(folder, str(number)))
            disk = plan.ledger.parent
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
            try:
                status = ended(plan, disk, chance)
                before = plan.rows()
                found[f"status {status}"] += 1
                found["unreadable while full"] += not readable(plan)
                (disk / "ballast").unlink(missing_ok=True)
                found["unreadable"] += not readable(plan)
                again = ended(plan, disk, None)
                rows = plan.rows()
                finished = Counter((arm, seed) for arm, seed, state in rows.elements() if state == "finished")
                found["not resumed"] += again != 0
                found["rows lost"] += (before - rows).total() + len(PLAN - set(finished))
                found["rows doubled"] += sum(count - 1 for count in finished.values())
                found["tracebacks"] += "Traceback" in plan.errors()
                sys.stdout.write(f"{number}: status {status}, {before.total()} rows, then {again}, {rows.total()}\n")
                sys.stdout.write(
                    "".join(f"    {line}\n" for line in plan.errors().splitlines() if "paperweight:" in line)
                )
                sys.stdout.flush()
            finally:
                subprocess.run(["umount", str(disk)], check=True)
    sys.stdout.write(f"{dict(found)}\n")


if __name__ == "__main__":
    main()
