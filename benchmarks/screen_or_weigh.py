"""What is decided on the same data: by a screen of some minutes, and by weighing its methods one by one for longer.

python benchmarks/screen_or_weigh.py --data PATH --out DIR [--minutes 10] [--least 0.01] [--times 6] [--jobs 1]

Both look at the optimizers and layers that have a recipe, by the command that a person would give: one screen, then
`paperweight weigh METHOD --data PATH --arms ARM` of one method after the other, in the order of their names, with the
seeds that each study asks for, until the time is over. No arm but the method runs beside the baseline, which is the
quickest weighing that there is. Only verdicts count: a recipe that is dropped in the race or is undecided, a study that
does not take the data, and a weighing that has not ended count for nothing. The same command goes on where it was
stopped, from the ledgers in DIR.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from paperweight.bench.loading import load_study

FIELDS = ("optim", "architecture")
COMMAND = (sys.executable, "-P", "-m", "paperweight.cli")
VERDICTS = ("helps", "hurts", "no effect")


def screened(given: argparse.Namespace) -> dict[str, str]:
    """Run the screen and return what it says of each recipe."""
    words = ["--data", given.data, "--minutes", f"{given.minutes:g}", "--least", f"{given.least:g}"]
    words += ["--jobs", str(given.jobs), "--field", *FIELDS]
    folder: Path = given.out / "screen"
    subprocess.run([*COMMAND, "screen", *words, "--out", str(folder)], check=True)
    report = max(folder.glob("screen-*.html"), key=lambda path: path.stat().st_mtime).with_suffix(".json")
    told = json.loads(report.read_text(encoding="utf-8"))
    return {fate["name"]: fate["verdict"] if told["ranks"] else "a control failed" for fate in told["fates"]}


def weighed(given: argparse.Namespace, names: list[str]) -> dict[str, str]:
    """Weigh one method after the other, as long as there is time, and return what each weighing says."""
    end = time.monotonic() + 60 * given.minutes * given.times
    said: dict[str, str] = {}
    for name in names:
        arm = load_study(name).declaration.method
        words = [name, "--data", given.data, "--jobs", str(given.jobs), "--arms", arm, "--out", str(given.out / "each")]
        started = time.monotonic()
        try:
            done = subprocess.run(
                [*COMMAND, "weigh", *words], capture_output=True, text=True, timeout=max(1.0, end - started)
            )
        except subprocess.TimeoutExpired:
            said[name] = "not ended"
            break
        found = re.search(r"^(HELPS|HURTS|NO EFFECT|INCONCLUSIVE)\b", done.stdout, re.MULTILINE)
        said[name] = found[0].lower() if found else " ".join((done.stderr or done.stdout).split())[-300:]
        print(f"{name}: {said[name]}, {time.monotonic() - started:.0f} s", flush=True)
    return said | {name: "not begun" for name in names if name not in said}


def main() -> None:
    """Print a table, and how many verdicts there are on either side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--least", type=float, default=0.01, help="the smallest gain worth reporting in the screen")
    parser.add_argument("--times", type=float, default=6.0)
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    screen = screened(given)
    each = weighed(given, sorted(screen))
    print("| method | screen | weighed |\n|---|---|---|")
    for name in sorted(screen):
        print(f"| `{name}` | {screen[name]} | {each[name]} |")
    counts = [sum(said.get(name) in VERDICTS for name in screen) for said in (screen, each)]
    print(f"verdicts: {counts[0]} in {given.minutes:g} minutes, {counts[1]} in {given.minutes * given.times:g}")


if __name__ == "__main__":
    main()
