"""Thirty planted divergences, an arm each: is every one a recorded outcome, with its status, and no pair dropped?

``python benchmarks/divergences.py --engine ray`` prints a row; ``--postgresql URL`` keeps the ledger in a database
that holds none yet. Between them lie trials of a sound arm, which must all finish.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from pathlib import Path

import sqlalchemy as sa

from paperweight.bench.store import Store

STUDY = """
    import os, signal, sys, time
    import numpy as np
    import torch
    from paperweight.studies import Arm, Metric, Outcome, Study

    def scored(value):
        return Outcome(metrics={{"score": value, "loss": 0.0}})

    def trained(rate, dtype=torch.float32):
        '''Train by a learning rate that is too large, and return the loss as it is.'''
        weight = torch.nn.Parameter(torch.ones(3, dtype=dtype))
        optimizer = torch.optim.SGD([weight], lr=rate)
        for _ in range(50):
            optimizer.zero_grad()
            loss = (weight**4).sum()
            loss.backward()
            optimizer.step()
        return loss.item()

    ARMS = ["sound", *{names!r}]
    STUDY = Study(
        paper="planted", question="Is it recorded?", claim="It is.",
        arms={{name: Arm(name, None) for name in ARMS}},
        metrics={{
            "score": Metric(label="score", unit="", better="higher", minimal_effect=0.05),
            "loss": Metric(label="loss", unit="", better="lower", minimal_effect=0.05),
        }},
        headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm, setting):
        return globals()[arm.name.replace(" ", "_")]()

    def sound():
        return scored(0.5)
"""
PLANTED: dict[str, tuple[str, str]] = {
    "not a number": ("return scored(float('nan'))", "diverged"),
    "infinite": ("return scored(float('inf'))", "diverged"),
    "minus infinite": ("return scored(float('-inf'))", "diverged"),
    "not a number of numpy": ("return scored(np.float32('nan'))", "diverged"),
    "infinite tensor": ("return scored(torch.tensor(float('inf')))", "diverged"),
    "half overflow": ("return scored(torch.tensor(1e5).half())", "diverged"),
    "word nan": ("return scored('nan')", "diverged"),
    "other metric alone": ("return Outcome(metrics={'score': 0.5, 'loss': float('nan')})", "diverged"),
    "exploded loss": ("return scored(trained(1e10))", "diverged"),
    "exploded in half": ("return scored(trained(2.0, torch.bfloat16))", "diverged"),
    "zero over zero": ("return scored((torch.zeros(1) / 0).item())", "diverged"),
    "logarithm of zero": ("return scored(torch.zeros(1).log().item())", "diverged"),
    "huge but finite": ("return scored(1e308)", "finished"),
    "too large for a float": ("return scored(10**400)", "crashed"),
    "missing metric": ("return Outcome(metrics={'score': 0.5})", "crashed"),
    "surplus metric": ("return Outcome(metrics={'score': 0.5, 'loss': 0.0, 'more': 0.0})", "crashed"),
    "no metrics": ("return Outcome(metrics={})", "crashed"),
    "metric of words": ("return scored('high')", "crashed"),
    "metric of nothing": ("return scored(None)", "crashed"),
    "complex metric": ("return scored(1j)", "crashed"),
    "metric of many": ("return scored(torch.zeros(2))", "crashed"),
    "no outcome": ("return {'score': 0.5, 'loss': 0.0}", "crashed"),
    "nothing returned": ("scored(0.5)", "crashed"),
    "divided by zero": ("return scored(1 / 0)", "crashed"),
    "overflow": ("return scored(2.0**5000)", "crashed"),
    "raises": ("raise RuntimeError('loss is nan')", "crashed"),
    "no memory": ("raise MemoryError", "out-of-memory"),
    "ends its process": ("os._exit(3)", "crashed"),
    "kills its process": ("os.kill(os.getpid(), signal.SIGKILL)", "killed"),
    "never ends": ("time.sleep(1e6)", "timed-out"),
}
"""What an arm does, and the status of its row."""
APART = frozenset({"ends its process", "kills its process", "never ends"})
"""Those that only a process of their own bears."""


def write_study(folder: Path, names: list[str]) -> Path:
    """Write a study whose arms are a sound one and some planted divergences."""
    text = textwrap.dedent(STUDY).format(names=tuple(names))
    text += "".join(f"\ndef {name.replace(' ', '_')}():\n    {PLANTED[name][0]}\n" for name in names)
    path = folder / "planted.py"
    path.write_text(text, encoding="utf-8")
    return path


def faults(place: str, names: list[str], seeds: int) -> list[str]:
    """Return what is wrong with the rows of a ledger and with the failures that its last verdict counts."""
    store = Store(place)
    trial, verdict = store.trial.c, store.verdict.c
    with store.reading() as connection:
        rows = Counter(tuple(row) for row in connection.execute(sa.select(trial.arm, trial.seed, trial.status)))
        result = connection.execute(sa.select(verdict.record).order_by(verdict.id.desc())).scalars().first()
    store.close()
    nothing = {"measured": {"failures": []}}
    status = {"sound": "finished", **{name: PLANTED[name][1] for name in names}}
    wanted = Counter((arm, seed, status[arm]) for arm in status for seed in range(seeds))
    failures = Counter(
        (each["arm"], each["seed"], each["status"]) for each in (result or nothing)["measured"]["failures"]
    )
    told = Counter({row: 1 for row in wanted if row[2] != "finished"})
    return [
        *(f"no such row: {row}" for row in wanted - rows),
        *(f"another row: {row}" for row in rows - wanted),
        *(f"not counted as a failure: {row}" for row in told - failures),
    ]


def main() -> None:
    """Print a row; end with status 1 where a divergence is not recorded as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--postgresql", metavar="URL", help="keep the ledger there, not in a file")
    parser.add_argument("--time-limit", type=float, default=10.0)
    given = parser.parse_args()
    names = list(PLANTED)
    with tempfile.TemporaryDirectory(prefix="paperweight-planted-") as folder:
        place = given.postgresql or str(Path(folder, "ledger.sqlite"))
        words = ["weigh", str(write_study(Path(folder), names)), "--seeds", str(given.seeds), "--budget", "smoke"]
        words += ["--jobs", "1", "--engine", given.engine, "--time-limit", str(given.time_limit)]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "paperweight.cli", *words, "--ledger", place, "--out", f"{folder}/out"],
            env=os.environ | {"PAPERWEIGHT_CACHE": f"{folder}/cache"},
            capture_output=True,
            text=True,
            check=False,
        )
        found = faults(place, names, given.seeds)
    found += [done.stderr] if done.returncode or "Traceback (most recent" in done.stderr else []
    print(f"{len(names)} divergences, {given.seeds} each, {given.engine}: {len(found)} faults")
    for fault in found:
        print(fault)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
