"""The contracts on what other packages have, optimizers, layers, losses, attacks and more: what passes, fails, and why.

Packages that are not installed are left out. torchvision is not needed: of timm no networks are imported.

    pip install -r benchmarks/requirements-strangers.txt
    pip install --no-deps -r benchmarks/requirements-strangers-alone.txt
    python benchmarks/strangers.py [PACKAGE ...] --json strangers.json
    python benchmarks/strangers.py --json strangers.json --page docs/strangers.md

The first command runs what is named, by default everything, and renews its part of the record; the second, with a page
to write, runs nothing, and renews the parts of the page that the record has.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from strangers_attacks import foolbox_strangers, torchattacks_strangers
from strangers_causes import CAUSES, NOT_RUN
from strangers_layers import pytorch_optimizer_losses, timm_layers, timm_losses
from strangers_optimizers import (
    lion_strangers,
    prodigy_strangers,
    pytorch_optimizer_strangers,
    schedulefree_strangers,
    timm_strangers,
    torch_strangers,
    transformers_strangers,
)
from strangers_samplers import diffusers_strangers

from paperweight.testing import CheckReport, Subject, run_check
from paperweight.testing.contract import KIND_CHECKS

PACKAGES: dict[str, Callable[[], Iterator[tuple[str, str, Subject]]]] = {
    "torch": torch_strangers,
    "schedulefree": schedulefree_strangers,
    "prodigyopt": prodigy_strangers,
    "lion-pytorch": lion_strangers,
    "pytorch_optimizer": lambda: chain(pytorch_optimizer_strangers(), pytorch_optimizer_losses()),
    "timm": lambda: chain(timm_strangers(), timm_layers(), timm_losses()),
    "transformers": transformers_strangers,
    "torchattacks": torchattacks_strangers,
    "foolbox": foolbox_strangers,
    "diffusers": diffusers_strangers,
}
LIMIT = 60
"""Seconds that a check may take."""
Record = dict[str, Any]


class NoEndError(Exception):
    """A check took too long."""


def limited(check: Callable[[], None]) -> None:
    """Run a check quietly; end it after the limit."""

    def stop(*_: object) -> None:
        raise NoEndError(f"no end within {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            check()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def checked(kind: str, subject: Subject) -> CheckReport:
    """Run the contract of the kind; of a subject of which one check finds no end, the rest is left out."""
    results = []
    for name, check in KIND_CHECKS[kind](subject).items():
        results.append(run_check(name, partial(limited, check)))
        if "NoEndError" in results[-1].reason:
            break
    return CheckReport(tuple(results))


def run(package: str) -> Iterator[Record]:
    """Run the contracts on what a package has; give its part of the record after each subject."""
    subjects: Record = {}
    for kind, name, subject in PACKAGES[package]():
        began = time.perf_counter()
        report = checked(kind, subject)
        subjects[f"{kind} {name}"] = [
            {"check": each.name, "passed": each.passed, "applicable": each.applicable, "reason": each.reason}
            for each in report.results
        ]
        summary = str(report).splitlines()[-1]
        print(f"{package}  {kind} {name}: {summary}, {time.perf_counter() - began:.1f} s", flush=True)
        yield {"version": importlib.metadata.version(package), "torch": torch.__version__, "subjects": subjects}


def page(record: Record, before: str) -> str:
    """Write the record as a page; what it does not have stays as it was before."""
    kept = {section.split()[0]: f"## {section}".rstrip("\n") for section in before.split("\n## ")[1:]}
    new = {package: "\n".join(part(package, record)).rstrip("\n") for package in record}
    return (
        "\n\n".join([HEAD.rstrip("\n"), *({**kept, **new}[name] for name in PACKAGES if name in kept or name in new)])
        + "\n"
    )


def part(package: str, record: Record) -> list[str]:
    """Write the part of a package: what passes all, and a table of the rest."""
    subjects = record[package]["subjects"]
    whole = {name: results for name, results in subjects.items() if all(each["passed"] for each in results)}
    lines = [f"## {package} {record[package]['version']}", ""]
    lines += [f"{len(whole)} of {len(subjects)} subjects pass all checks of their kind.", ""]
    for kind in dict.fromkeys(name.partition(" ")[0] for name in whole):
        names = [name.partition(" ")[2] for name in whole if name.startswith(f"{kind} ")]
        lines += [f"**Every check passes** ({kind}): {', '.join(f'`{name}`' for name in names)}.", ""]
    rest = {name: results for name, results in subjects.items() if name not in whole}
    if rest:
        lines += ["| subject | passes | fails, and why | not applicable |", "|---|---|---|---|"]
        lines += [row(package, name, results) for name, results in rest.items()]
        lines.append("")
    if package in NOT_RUN:
        lines += [f"Not run: {NOT_RUN[package]}", ""]
    return lines


def row(package: str, name: str, results: list[Record]) -> str:
    """Write one row: checks with the same reason stand together, and after them the cause that was found."""
    failed = told([each for each in results if each["applicable"] and not each["passed"]])
    refused = told([each for each in results if not each["applicable"]])
    cause = CAUSES.get(package, {}).get(name.partition(" ")[2], "")
    why = "<br>".join([*failed, *([f"*{cause}*"] if cause else [])])
    passed = sum(each["passed"] for each in results)
    kind, _, what = name.partition(" ")
    return f"| {kind} `{what}` | {passed} of {len(results)} | {why} | {'<br>'.join(refused)} |"


def told(results: list[Record]) -> list[str]:
    """Write the reasons, each with its checks."""
    reasons: dict[str, list[str]] = {}
    for each in results:
        words = " ".join(each["reason"].split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
        words = words if len(words) <= 180 else f"{words[:177]}..."
        reasons.setdefault(words, []).append(each["check"].removeprefix("check_"))
    return [f"`{'`, `'.join(checks)}`: {words}" for words, checks in reasons.items()]


HEAD = """# Contracts on other packages

The checks that `paperweight check` runs, on the optimizers, schedules, layers, losses, attacks and samplers of other
packages, with the arguments that `benchmarks/strangers_*.py` give them. It is no judgement of their quality: a contract
is what this library promises of its own methods, and others promise other things. A check judges after several steps.
What an object refuses in its own words, or what cannot be asked of it, is *not applicable*. Where the reason alone does
not tell why, and the cause was found by reading the object, it stands in italics.

Common to many:

- `gradients_unmodified`: weight decay, clipping or momentum are written into `p.grad` in place.
- `zero_lr_is_identity`: some of the step is not scaled by `lr`: a floor of the step size, a second step size, a
  projection, or `lr` is ignored.
- `repeatable`, `global_random_state`, `steps_leave_random_state`: draws come from the global random state and not from
  a `generator`, which none of these packages takes but diffusers.
- `gradient_mode`: an attack that is called under `torch.no_grad()` raises, since it does not switch gradients on.
- `model_unmodified`: an attack calls `backward()`, and leaves gradients in the parameters of the model.
- `order_of_convergence`: diffusers has 1000 levels, most spacings round to them, and with steps that are uniform in
  time the noise falls by a large factor in the last one, however many there are. With Karras levels, which are real
  numbers, that factor shrinks with the number of steps.
"""


def main() -> None:
    """Run what the command line names, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help=f"of {', '.join(PACKAGES)}; by default all")
    parser.add_argument("--json", type=Path, default=Path("strangers.json"), help="the record")
    parser.add_argument("--page", type=Path, help="write this page of the record, and run nothing")
    given = parser.parse_args()
    record: Record = json.loads(given.json.read_text()) if given.json.is_file() else {}
    if given.page is not None:
        given.page.write_text(page(record, given.page.read_text() if given.page.is_file() else ""))
        return
    torch.set_num_threads(1)
    for package in given.packages or PACKAGES:
        try:
            for found in run(package):
                record[package] = found
                given.json.write_text(json.dumps(record, indent=1))
        except ModuleNotFoundError as error:
            print(f"{package}: left out, {error}")


if __name__ == "__main__":
    main()
