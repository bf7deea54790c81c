"""Full disks: a cheap study is weighed onto a disk of its own that is filled while it runs, emptied, and weighed again.

Each plan of 12 trials must end in words that name a path on the disk and the bytes that are free there, leave a ledger
that can be read, and, with room again, end with the rows of a plan that nothing happened to. For Linux, as root: each
disk is a file system in memory.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from kills import Plan, Row, unkilled

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
                "ledger": plan.ledger.begun(),
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
    return not plan.ledger.begun() or plan.usable()


def tell(plan: Plan, disk: Path, status: int | None) -> str:
    """Return what is wrong with how the command ended on a full disk, empty where nothing is."""
    if "Traceback" in plan.errors():
        return "traceback"
    if status == 0:
        return ""
    said = " ".join(plan.errors().split())
    named = str(disk) in said and re.search(r"[\d,]+ bytes", said)
    return "" if status == 2 and named else "path and bytes not told"


def judged(plan: Plan, disk: Path, chance: random.Random, content: Counter[Row]) -> tuple[Counter[str], str]:
    """Weigh on a disk that fills and again with room; count what went wrong, and say how it ended."""
    found: Counter[str] = Counter()
    status = ended(plan, disk, chance)
    before = plan.rows()
    found[f"status {status}"] += 1
    if fault := tell(plan, disk, status):
        found[fault] += 1
    found["unreadable while full"] += bool(before) and not plan.usable()
    (disk / "ballast").unlink(missing_ok=True)
    found["unreadable"] += not readable(plan)
    again = ended(plan, disk, None)
    rows = plan.rows()
    found["not resumed"] += again != 0
    found["rows lost"] += (before - rows).total()
    found["other content"] += Counter({row: count for row, count in rows.items() if row[2] == "finished"}) != content
    return found, f"status {status}, {before.total()} rows, then {again}, {rows.total()}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--disks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="paperweight-disks-") as folder:
        content = unkilled(Path(folder))
        for number in range(options.disks):
            plan = Plan(Path(folder, str(number)))
            disk = Path(folder, str(number), "out")
            disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
            try:
                counts, words = judged(plan, disk, chance, content)
            finally:
                subprocess.run(["umount", str(disk)], check=True)
            found += counts
            sys.stdout.write(f"{number}: {words}\n")
            sys.stdout.write("".join(f"    {line}\n" for line in plan.errors().splitlines()))
            sys.stdout.flush()
    faults = {what: count for what, count in found.items() if not what.startswith("status")}
    sys.stdout.write(f"{dict(found)}; faults: {faults or 'none'}\n")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
