"""Plant the faults that are new or whose code changed, or all of the named papers, and record what notices each.

python -m tests.faults [STEM ...]

A recorded fault whose code changed is first shown to what noticed it before; what notices first is looked for where that
fails, where the fault is new, and for papers that are named. It takes some seconds a fault.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from tests.faults.planting import Fault, noticed, noticed_by, planted
from tests.faults.record import UNSOUND, Noticed, code, complaint, faults_of, read, stale, write

from paperweight.catalogue import Entry, entries

_writing = Lock()


def plant(entry: Entry, fault: Fault, again: bool) -> bool:
    """Plant a fault, record and print what notices it; return whether that is to be mended."""
    try:
        planted(entry, fault)
    except ValueError as error:
        print(f"{entry.stem}: {fault.what}: {error}", flush=True)
        return True
    known = "" if again else read(entry).get(fault.what, {}).get("by", "")
    holds = known and known not in UNSOUND and noticed_by(entry, fault, known) == known
    by = known if holds else noticed(entry, fault)
    with _writing:
        write(entry, read(entry) | {fault.what: Noticed(by=by, code=code(entry, fault))})
    wrong = complaint(fault, by)
    print(f"{entry.stem}: {fault.what}: {wrong or by or 'survives, as declared'}", flush=True)
    return bool(wrong)


def main(stems: list[str]) -> int:
    """Plant, print and record; return the exit status: 1 where a fault that must be noticed is not."""
    known = {entry.stem: entry for entry in entries()}
    if unknown := [stem for stem in stems if stem not in known]:
        print(f"no paper {', '.join(unknown)}; name papers, such as {min(known)}", file=sys.stderr)
        return 2
    papers = [known[stem] for stem in stems or known]
    faults = [
        (paper, fault) for paper in papers for fault in (faults_of(paper) if stems else stale(paper, read(paper)))
    ]
    with ThreadPoolExecutor(2) as pool:
        complaints = sum(pool.map(lambda each: plant(*each, bool(stems)), faults))
    print(f"{complaints} to mend")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
