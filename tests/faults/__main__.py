"""Plant the faults that are new or whose code changed, or all of the named papers, and record what notices each.

python -m tests.faults [STEM ...]
"""

import sys
from concurrent.futures import ThreadPoolExecutor

from tests.faults.planting import noticed
from tests.faults.record import FAULTS, Noticed, code, complaint, read, stale, write


def main(stems: list[str]) -> int:
    """Plant, print and record; return the exit status: 1 where a fault that must be noticed is not."""
    known = {stem for stem, _ in FAULTS.values()}
    if unknown := [stem for stem in stems if stem not in known]:
        print(f"no faults for {', '.join(unknown)}; name papers of tests/faults, such as {min(known)}", file=sys.stderr)
        return 2
    names = [name for name, (stem, _) in FAULTS.items() if stem in stems] if stems else stale(read())
    complaints = 0
    with ThreadPoolExecutor(2) as pool:
        for number, (name, by) in enumerate(
            zip(names, pool.map(lambda name: noticed(*FAULTS[name]), names), strict=True), start=1
        ):
            write({**read(), name: Noticed(by=by, code=code(name))})
            wrong = complaint(FAULTS[name][1], by)
            complaints += bool(wrong)
            print(f"{number}/{len(names)} {name}: {wrong or by or 'survives, as declared'}", flush=True)
    print(f"{len(names)} planted, {complaints} to mend")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
