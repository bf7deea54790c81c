"""Own studies that do harm: does a weighing end without a traceback, and does the next trial compute what it should?

python benchmarks/hostile_studies.py [--count N] [--arms N] [--seed S] [--time-limit SECONDS]

Each hostile arm, one or two actions and an outcome drawn at random, is followed by an arm that computes numbers which
depend on the state of its process. These must be, bit for bit, those of a study that harms nobody.
"""

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from pathlib import Path

from hostile_actions import ACTIONS, OUTCOMES

STUDY = """
    import builtins, ctypes, decimal, gc, json, locale, logging, math, multiprocessing, os, random, resource, signal
    import subprocess, sys, tempfile, threading, time, warnings
    import numpy as np
    import torch
    import helper
    from paperweight.studies import Arm, Metric, Outcome, Setting, Study

    STUDY = Study(
        paper="hostile", question="Does it harm?", claim="It does not.",
        arms=dict.fromkeys({arms!r}, Arm("an arm", None)),
        metrics={{"score": Metric(label="score", unit="", better="higher", minimal_effect=0.05)}},
        headline="score", tuned="nothing", limits="a toy",
    )

    def write(fd, text):
        try:
            os.write(fd, text)
        except OSError:
            pass

    def chatter():
        while True:
            print("still here", flush=True)
            time.sleep(0.01)

    def computed():
        '''Return numbers that depend on what a process holds.'''
        model = torch.nn.Linear(3, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = torch.nn.functional.relu(model(torch.rand(4, 3))).sum() * helper.SCALE + helper.WEIGHT.sum()
        loss.backward()
        optimizer.step()
        tiny = (torch.tensor([2e-323], dtype=torch.float64) / 2 * 2).item()
        parts = [loss.item(), model.weight.sum().item(), np.random.rand(), random.random(), math.sqrt(2.0), tiny]
        state = [len(helper.SEEN), sys.getrecursionlimit(), torch.get_num_threads(), str(torch.tensor(1 / 3))]
        state += [os.getcwd(), sorted(os.environ), os.umask(0o22), gc.isenabled(), decimal.getcontext().prec]
        return repr((parts, state))

    def run(arm, setting):
        if arm.name.startswith("hostile"):
            return HOSTILE[arm.name]()
        return Outcome(metrics={{"score": 0.0}}, arguments={{"computed": computed()}})
"""
HELPER = "import torch\nSCALE, SEEN, WEIGHT = 1.0, [], torch.zeros(2)\n"


def plans(count: int, seed: int) -> list[tuple[list[str], str]]:
    """Return so many lists of actions with an outcome; every kind comes in turn, every action about equally often."""
    generator = random.Random(seed)
    kinds = list(ACTIONS)
    found: list[tuple[list[str], str]] = []
    decks: dict[str, list[str]] = {}

    def draw(kind: str) -> str:
        if not decks.get(kind):
            decks[kind] = generator.sample(ACTIONS.get(kind, OUTCOMES), len(ACTIONS.get(kind, OUTCOMES)))
        return decks[kind].pop()

    weights = [5, 1, 3, 2, 4, 9]
    for number in range(count):
        if number % 5 == 0:
            found.append(([], draw("outcome")))
            continue
        first = generator.choices(kinds, weights)[0]
        actions = [draw(first)]
        if generator.random() < 0.4:
            actions.insert(0, draw("changes"))
        found.append((actions, OUTCOMES[0] if generator.random() < 0.7 else draw("outcome")))
    return found


def written(folder: Path, harm: list[tuple[list[str], str]]) -> Path:
    """Write a study in which each hostile arm is followed by one that computes."""
    arms = ["base", *(name for number in range(len(harm)) for name in (f"hostile{number}", f"check{number}"))]
    text = textwrap.dedent(STUDY).format(arms=tuple(arms))
    for number, (actions, outcome) in enumerate(harm):
        body = "".join(f"    {action}\n" for action in actions)
        text += f"\ndef hostile{number}():\n{body}    return {outcome}\n"
    text += f"\nHOSTILE = {{{', '.join(f'{name!r}: {name}' for name in arms if name.startswith('hostile'))}}}\n"
    study = folder / "hostile.py"
    study.write_text(text, encoding="utf-8")
    (folder / "helper.py").write_text(HELPER, encoding="utf-8")
    return study


def weigh(folder: Path, harm: list[tuple[list[str], str]], time_limit: float) -> tuple[list[dict], list[str]]:
    """Weigh such a study; return the records and what is wrong with how it went."""
    study = written(folder, harm)
    words = ["weigh", str(study), "--budget", "smoke", "--seeds", "1", "--jobs", "1", "--out", str(folder / "out")]
    patience = 120 + len(harm) * (30 + 3 * time_limit)
    faults: list[str] = []
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "paperweight.cli", *words, "--time-limit", str(time_limit)],
        cwd=folder,
        env=os.environ | {"PAPERWEIGHT_CACHE": str(folder / "cache"), "HOSTILE_FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        faults.append("hangs")
    if process.returncode != 0:
        faults.append(f"ends with {process.returncode}: {errors.decode(errors='replace')[-300:]}")
    if b"Traceback (most recent call last)" in errors:
        faults.append("driver's traceback")
    if left := processes_of(folder):
        faults.append(f"leaves {left} processes")
    ledger = sqlite3.connect(folder / "out" / "ledger.sqlite")
    records = [json.loads(text) for (text,) in ledger.execute("SELECT record FROM trial ORDER BY id")]
    ledger.close()
    return records, faults


def processes_of(folder: Path) -> int:
    """Return how many processes there are that a weighing in a folder left, 5 seconds later."""
    mark = f"HOSTILE_FOLDER={folder}".encode()
    for _ in range(50):
        count = 0
        for place in Path("/proc").glob("[0-9]*"):
            try:
                count += mark in (place / "environ").read_bytes()
            except OSError:
                continue
        if count == 0:
            return 0
        time.sleep(0.1)
    return count


def judged(records: list[dict], harm: list[tuple[list[str], str]], expected: str) -> list[str]:
    """Return what is wrong with the records."""
    by_arm = {record["spec"]["arm"]: record for record in records}
    faults = []
    for number, (actions, outcome) in enumerate(harm):
        what = "; ".join([*actions, outcome])[:150]
        if f"hostile{number}" not in by_arm:
            faults.append(f"no row: {what}")
        check = by_arm.get(f"check{number}")
        if check is None or check["status"] != "finished":
            faults.append(f"the next trial {check and check['status']}: {what}: {check and check['message'][-200:]}")
        elif check["arguments"]["computed"] != expected:
            faults.append(f"the next trial differs: {what}\n  {check['arguments']['computed']}\n  {expected}")
    return faults


def main() -> None:
    """Print a table of what came of the hostile arms, and every fault."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="hostile arms in all")
    parser.add_argument("--arms", type=int, default=10, help="hostile arms a study")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--time-limit", type=float, default=20.0)
    given = parser.parse_args()
    harm, faults, statuses, replaced = plans(given.count, given.seed), [], Counter[str](), 0
    start = time.monotonic()
    for first in range(0, len(harm), given.arms):
        part = harm[first : first + given.arms]
        with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
            records, found = weigh(Path(folder), part, given.time_limit)
            by_arm = {record["spec"]["arm"]: record for record in records}
            expected = by_arm["base"]["arguments"]["computed"] if "base" in by_arm else ""
            found += judged(records, part, expected)
        statuses.update(record["status"] for arm, record in by_arm.items() if arm.startswith("hostile"))
        replaced += sum("the worker was replaced" in record["message"] for record in records)
        faults += found
        print(f"{min(first + given.arms, len(harm))} of {len(harm)}: {len(faults)} faults", flush=True)
        for fault in found:
            print(f"  {fault}", flush=True)
    print(f"{len(harm)} hostile arms (seed {given.seed}) in {time.monotonic() - start:,.0f} s: {len(faults)} faults")
    print(f"rows: {dict(statuses)}; workers replaced for what was left changed: {replaced}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
