"""How narrowly results expire, what asking for it and renewing them costs, and whether a replay notices a fault.

python benchmarks/provenance.py [--faults N] [--seed S]

Without faults nothing is run: what a change would expire is read off the definitions that the results name.
"""

import argparse
import ast
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

from paperweight.catalogue import FIELDS, entries, official_result
from paperweight.errors import InputError
from paperweight.provenance import Replay, SourceTree, changed, differences, here, replay
from paperweight.provenance.normal import local_names

SHARED_ROOMS = ("data", "nets", "loops", "generators", "agents", "marks", "merging", "attacks")
HARMLESS = ("reworded error", "new function", "other annotation", "private helper", "renamed local variable")


def shared_files() -> list[Path]:
    """Return the files that several studies may use: rooms below the fields, and private files beside papers."""
    package = here().package
    folders = [package / room for room in SHARED_ROOMS]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    for folder in (*(package / field for field in FIELDS), package / "studies"):
        files += [path for path in folder.rglob("_*.py") if path.name != "__init__.py"]
    return sorted(files)


def code_lines(path: Path) -> Iterator[int]:
    """Yield the lines of a file that hold code: no blank lines, comments or docstrings."""
    text = path.read_text(encoding="utf-8")
    silent = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.strip().startswith("#") and number not in silent:
            yield number


def results() -> dict[str, dict]:
    """Return the official results that say what they executed, by stem."""
    found = {entry.stem: official_result(entry) for entry in entries()}
    return {stem: official.record for stem, official in found.items() if official is not None}


def units_of(record: dict) -> dict[str, str]:
    """Return what a result depends on, as it was measured or last renewed."""
    return record["renewed"][-1]["units"] if record["renewed"] else record["measured"]["units"]


def report_lines(records: dict[str, dict]) -> None:
    """Print how many results a line of shared code expires."""
    tree = here()
    expired: list[int] = []
    for path in shared_files():
        for line in code_lines(path):
            name = tree.unit_at(path, line)
            expired.append(sum(name in units_of(record) for record in records.values()) if name else 0)
    print(
        f"{len(expired)} lines of shared code: a change of one expires {mean(expired):.2f} of {len(records)} results "
        f"on average; {100 * mean(count == 0 for count in expired):.0f}% of them expire none, the worst {max(expired)}"
    )


def functions(text: str) -> list[ast.FunctionDef]:
    """Return all functions and methods of a text that are not inside other functions."""
    tree = ast.parse(text)
    owners = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    return [node for owner in owners for node in owner.body if isinstance(node, ast.FunctionDef)]


def harmless(kind: str, text: str, choose: random.Random) -> str | None:
    """Return a text with a change that alters no number, ``None`` where it has no place for one."""
    lines = text.splitlines(keepends=True)
    if kind == "new function":
        return text + "\n\ndef function_of_the_benchmark(x):\n    return x\n"
    if kind == "private helper":
        classes = [node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]
        if not classes:
            return None
        end = choose.choice(classes).end_lineno or 0
        return "".join([*lines[:end], "\n    def _helper_of_the_benchmark(self):\n        return self\n", *lines[end:]])
    places = []
    for function in functions(text):
        if kind == "reworded error":
            raised = [part for node in ast.walk(function) if isinstance(node, ast.Raise) for part in ast.walk(node)]
            words = [part for part in raised if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            places += [(part, "words of the benchmark") for part in words if _quoted(lines, part)]
        elif kind == "other annotation":
            given = [argument.annotation for argument in function.args.args if argument.annotation is not None]
            places += [(part, "object") for part in given if part.lineno == part.end_lineno]
        else:
            names = [node for node in ast.walk(function) if isinstance(node, ast.Name)]
            stored = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
            bound = {
                alias.asname or alias.name
                for node in ast.walk(function)
                for alias in getattr(node, "names", ())
                if isinstance(alias, ast.alias)
            }
            other = r"\b(nonlocal|global|def|class) {}\b"
            plain = [n for n in local_names(function) if n in stored - bound and not re.search(other.format(n), text)]
            if plain:
                name = choose.choice(plain)
                places.append(([node for node in names if node.id == name], "name_of_the_benchmark"))
    if not places:
        return None
    nodes, new = choose.choice(places)
    for node in sorted(nodes if isinstance(nodes, list) else [nodes], key=lambda n: (-n.lineno, -n.col_offset)):
        line = lines[node.lineno - 1].encode()
        quote = 1 if isinstance(node, ast.Constant) else 0
        start, end = node.col_offset + quote, (node.end_col_offset or 0) - quote
        lines[node.lineno - 1] = (line[:start] + new.encode() + line[end:]).decode()
    return "".join(lines)


def _quoted(lines: list[str], node: ast.Constant) -> bool:
    """Return whether a constant is a plain text in quotes on one line."""
    if node.lineno != node.end_lineno:
        return False
    part = lines[node.lineno - 1].encode()[node.col_offset : node.end_col_offset].decode()
    return len(part) > 2 and part[0] == '"' == part[-1] and part[1] != '"'


def report_harmless(records: dict[str, dict], choose: random.Random, tries: int = 40) -> None:
    """Print how many results changes expire that alter no number."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(here().package, Path(folder, "paperweight"))
        for kind in HARMLESS:
            expired, made, files = 0, 0, shared_files()
            while made < tries:
                original = choose.choice(files)
                path = Path(folder, "paperweight", original.relative_to(here().package))
                text = original.read_text(encoding="utf-8")
                edited = harmless(kind, text, choose)
                if edited is None or edited == text:
                    continue
                made += 1
                path.write_text(edited, encoding="utf-8")
                tree = SourceTree(Path(folder))
                expired += sum(bool(changed(tree, units_of(record))) for record in records.values())
                path.write_text(text, encoding="utf-8")
            print(f"{kind}: {made} changes of shared files expired {expired} results")


def report_cost(records: dict[str, dict]) -> None:
    """Print what the last renewals took beside what the weighings took."""
    renewed = {stem: record for stem, record in records.items() if record["renewed"]}
    spent = sum(record["renewed"][-1]["cpu_seconds"] for record in renewed.values())
    weighed = sum(
        sum(seconds for cost in record["measured"]["cost"].values() for seconds in cost["cpu"] if seconds)
        for record in renewed.values()
    )
    if renewed:
        print(
            f"renewing {len(renewed)} results took {spent:,.0f} s of computing time, weighing them {weighed:,.0f} s: "
            f"{spent / weighed:.3f} of it"
        )


class _Fault(ast.NodeTransformer):
    """Changes one number or operator of a function."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen = wanted, -1

    def _here(self) -> bool:
        self.seen += 1
        return self.seen == self.wanted

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, int | float) and not isinstance(node.value, bool) and self._here():
            return ast.copy_location(
                ast.Constant(node.value + 1 if isinstance(node.value, int) else 1.5 * node.value), node
            )
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        others = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
        if type(node.op) in others and self._here():
            node.op = others[type(node.op)]()
        return node


def faults(tree: SourceTree, names: list[str], choose: random.Random) -> Iterator[tuple[str, Path, str]]:
    """Yield unit, file and text of the file with a fault in the unit."""
    while True:
        name = choose.choice(names)
        module, _, qualified = name.partition(":")
        path = tree.package.joinpath(*module.split(".")).with_suffix(".py")
        if not path.is_file():
            continue
        parsed = ast.parse(path.read_text(encoding="utf-8"))
        nodes: list[ast.stmt] = parsed.body
        for part in qualified.split("."):
            found = next((n for n in nodes if getattr(n, "name", "") == part), None)
            nodes = found.body if isinstance(found, ast.ClassDef) else []
        if not isinstance(found, ast.FunctionDef):
            continue
        if isinstance(found.body[0], ast.Expr) and isinstance(found.body[0].value, ast.Constant):
            found.body = found.body[1:] or [ast.Pass()]
        counter = _Fault(-2)
        for statement in found.body:
            counter.visit(statement)
        if counter.seen < 0:
            continue
        fault = _Fault(choose.randrange(counter.seen + 1))
        found.body = [fault.visit(statement) for statement in found.body]
        yield name, path, ast.unparse(ast.fix_missing_locations(parsed))


def report_faults(records: dict[str, dict], choose: random.Random, count: int) -> None:
    """Plant faults in shared definitions that a study executes and print whether a replay notices them."""
    shared = {str(path) for path in shared_files()}
    tree = here()
    noticed, as_they_are = 0, {}
    stems = [stem for stem, record in records.items() if sum(map(sum, _cpu(record))) < 400]
    for number in range(count):
        stem = choose.choice(stems)
        arms = records[stem]["measured"]["arms"][:2]
        names = [name for name in units_of(records[stem]) if str(tree.path(name)) in shared]
        unit, path, text = next(faults(tree, names, choose))
        if stem not in as_they_are:
            as_they_are[stem] = replay(tree, stem, arms, [0], "smoke")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "paperweight")
            shutil.copytree(tree.package, copy)
            Path(copy, path.relative_to(tree.package)).write_text(text, encoding="utf-8")
            try:
                after: Replay = replay(SourceTree(Path(folder)), stem, arms, [0], "smoke")
                found = differences(as_they_are[stem], after)
            except InputError:
                found = ["it does not run"]
        noticed += bool(found)
        print(f"{number + 1}/{count} {unit} in {stem}: {'noticed' if found else 'NOT NOTICED'}", flush=True)
    print(f"a replay at the smoke budget, two arms, one seed, notices {noticed} of {count} random faults")


def _cpu(record: dict) -> list[list[float]]:
    return [[seconds for seconds in cost["cpu"] if seconds] for cost in record["measured"]["cost"].values()]


def report_listing(blocks: int = 3) -> None:
    """Print the computing time of ``paperweight list`` where nothing is kept of the files yet, and right afterwards."""

    def listed(cache: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-P", "-m", "paperweight.cli", "list"]
        subprocess.run(command, env=os.environ | {"PAPERWEIGHT_CACHE": cache}, stdout=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    times: list[tuple[float, float]] = []
    for _ in range(blocks):
        with tempfile.TemporaryDirectory() as cache:
            times.append((listed(cache), listed(cache)))
    first, again = (median(each) for each in zip(*times, strict=True))
    print(f"paperweight list, {len(entries())} papers: {first:.2f} s, and {again:.2f} s once its files were read")


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    records, choose = results(), random.Random(given.seed)
    report_lines(records)
    report_harmless(records, choose)
    report_cost(records)
    report_listing()
    if given.faults:
        report_faults(records, choose, given.faults)


if __name__ == "__main__":
    main()
