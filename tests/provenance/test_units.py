"""Units: what counts as a change of a definition, what a run depends on, and when that is stale."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from paperweight.provenance import Recording, SourceTree, changed, recording

CODE = '''
"""A module."""

from paperweight.other import scale as scaled

_RATE = 0.1
_UNUSED = 3
_TABLE = dict(a=_RATE)


def run(x: int, factor=_RATE):
    """Run."""
    if x < 0:
        raise ValueError(f"x must be at least 0, got {x}")
    total = scaled(x) * factor
    return [total + _helper(part) for part in range(x)]


def _helper(value):
    return value + _TABLE["a"]


def other(value):
    return value


class Base:
    size = 2

    def __init__(self, width):
        self.width = width

    def area(self):
        return self.width * self.size


class Derived(Base):
    def area(self):
        return 2 * super().area()

    def _hidden(self):
        return 0
'''
OTHER = """
from functools import partial

SCALE = 2
OFFSETS = (1, 2)


def scale(x):
    return SCALE * x


def unused(x):
    return x + OFFSETS[0]


later = partial(unused, x=1)
"""


def tree_of(folder: Path, code: str = CODE, other: str = OTHER) -> SourceTree:
    package = folder / "paperweight"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "code.py").write_text(code, encoding="utf-8")
    (package / "other.py").write_text(other, encoding="utf-8")
    return SourceTree(folder)


def executed(folder: Path, statement: str) -> dict[str, str]:
    """Run a statement in a process of its own in which the package is that of the folder; return the units."""
    program = (
        "import json, sys\n"
        f"sys.path.append({str(folder)!r})\n"
        "recorded = set()\n"
        "def entered(frame, event, argument): recorded.add((frame.f_code.co_filename, frame.f_code.co_firstlineno))\n"
        "import paperweight.code as code\n"
        "sys.settrace(entered)\n"
        f"{statement}\n"
        "sys.settrace(None)\n"
        "print(json.dumps(sorted(recorded)))\n"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    record = Recording(folder)
    record.add((file, line) for file, line in json.loads(done.stdout) if file.endswith(".py"))
    return SourceTree(folder).used(record)


def test_a_run_depends_on_what_it_executed_and_the_statements_that_this_refers_to(tmp_path: Path):
    tree_of(tmp_path)
    assert set(executed(tmp_path, "code.run(2)")) == {
        "code:run",
        "code:_helper",
        "code:_RATE",
        "code:_TABLE",
        "other:scale",
        "other:SCALE",
    }
    assert set(executed(tmp_path, "code.Derived(2).area()")) == {
        "code:Base",
        "code:Base.__init__",
        "code:Base.area",
        "code:Derived",
        "code:Derived.area",
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Run."""', '"""Run it, in other words."""'),
        ("x must be at least 0, got {x}", "x is below 0"),
        ("def run(x: int,", "def run(x: float,"),
        ("total", "amount"),
        ("_helper(part) for part", "_helper(piece) for piece"),
        ("_UNUSED = 3", "_UNUSED = 4"),
        ("def other(value):\n    return value", "def other(value):\n    return 2 * value"),
        ("def other(value)", "def new(value):\n    return 1\n\n\ndef other(value)"),
        ("from paperweight.other", "import math\nfrom paperweight.other"),
        ("    return [total", "    # the result\n    return [\n        total"),
        ("_RATE = 0.1", '_RATE: float = 0.1\n"""The rate."""'),
    ],
)
def test_what_changes_no_number_expires_nothing(tmp_path: Path, old: str, new: str):
    tree_of(tmp_path)
    units = executed(tmp_path, "code.run(2)")
    code = CODE.replace(old, new)
    assert code != CODE
    assert changed(tree_of(tmp_path, code), units) == []


@pytest.mark.parametrize(
    ("old", "new", "unit"),
    [
        ("* factor", "+ factor", "code:run"),
        ("if x < 0", "if x < 1", "code:run"),
        ("factor=_RATE", "factor=1.0", "code:run"),
        ("raise ValueError", "raise TypeError", "code:run"),
        ("_RATE = 0.1", "_RATE = 0.2", "code:_RATE"),
        ("dict(a=_RATE)", "dict(a=_RATE, b=1)", "code:_TABLE"),
        ("import scale as scaled", "import unused as scaled", "code:run"),
        ("def _helper(value)", "def _helper(value, more=1)", "code:_helper"),
    ],
)
def test_what_may_change_a_number_expires_what_executed_it(tmp_path: Path, old: str, new: str, unit: str):
    tree_of(tmp_path)
    units = executed(tmp_path, "code.run(2)")
    assert changed(tree_of(tmp_path, CODE.replace(old, new)), units) == [unit]


def test_a_constant_of_another_module_counts_where_it_is_used(tmp_path: Path):
    tree_of(tmp_path)
    units = executed(tmp_path, "code.run(2)")
    assert changed(tree_of(tmp_path, other=OTHER.replace("SCALE = 2", "SCALE = 3")), units) == ["other:SCALE"]
    assert changed(tree_of(tmp_path, other=OTHER.replace("(1, 2)", "(1, 3)")), units) == []


@pytest.mark.parametrize(
    ("old", "new", "expired"),
    [
        ("size = 2", "size = 3", ["code:Base"]),
        ("class Derived(Base):", "class Derived(Base):\n    def _new(self):\n        return 1\n", []),
        ("class Derived(Base):", "class Derived(Base):\n    def width2(self):\n        return 1\n", ["code:Derived"]),
        ("class Base:", "class Base:\n    def another(self):\n        return 1\n", []),
        ("class Base:", "class Base:\n    def __len__(self):\n        return 1\n", ["code:Base"]),
        ("return 0", "return 1", []),
    ],
)
def test_a_class_expires_by_what_may_take_the_place_of_something(
    tmp_path: Path, old: str, new: str, expired: list[str]
):
    tree_of(tmp_path)
    units = executed(tmp_path, "code.Derived(2).area()")
    assert changed(tree_of(tmp_path, CODE.replace(old, new)), units) == expired


def test_a_unit_that_is_gone_has_changed(tmp_path: Path):
    tree_of(tmp_path)
    units = executed(tmp_path, "code.run(2)")
    assert changed(tree_of(tmp_path, CODE.replace("def _helper", "def _other_helper")), units) == ["code:_helper"]


def test_functions_called_at_import_count_and_those_handed_on_for_later_do_not(tmp_path: Path):
    code = CODE + "\n\ndef build():\n    return inner()\n\n\ndef inner():\n    return 1\n\n\nBUILT = build()\n"
    code += "\n\ndef use():\n    return BUILT\n"
    tree_of(tmp_path, code)
    assert set(executed(tmp_path, "code.use()")) == {"code:use", "code:BUILT", "code:build", "code:inner"}
    code = "from paperweight import other\n\n\ndef use():\n    return other.SCALE\n"
    tree_of(tmp_path, code)
    assert set(executed(tmp_path, "code.use()")) == {"code:use", "other:SCALE", "other:OFFSETS", "other:later"}


def test_words_of_a_study_do_not_count_but_its_arms_do(tmp_path: Path):
    code = (
        'STUDY = Study(paper="p", question="Is it?", arms={"a": Arm("one", make=1)}, tuned="nothing")\n\n\n'
        "def use():\n    return STUDY\n"
    )
    tree_of(tmp_path, "Study = Arm = dict\n" + code.replace('Arm("one", make=1)', "Arm(make=1)"))
    units = executed(tmp_path, "code.use()")
    unit = {"code:STUDY": units["code:STUDY"]}
    same = code.replace("Is it?", "Does it?").replace("one", "first").replace("nothing", "the rate")
    assert changed(tree_of(tmp_path, same), unit) == []
    assert changed(tree_of(tmp_path, code.replace("make=1", "make=2")), unit) == ["code:STUDY"]


def test_the_arms_of_a_study_count_for_what_its_file_executed(tmp_path: Path):
    code = (
        "from functools import partial\n\nfrom paperweight.other import unused\n\nArm = Study = dict\n_X = 1\n\n\n"
        "def make(x):\n    return x\n\n\n"
        'STUDY = Study(question="Is it?", arms={"a": Arm(make=partial(make, x=_X)), "b": Arm(make=unused)})\n\n\n'
        "def run(arm):\n    return arm\n"
    )
    tree_of(tmp_path, code)
    units = executed(tmp_path, "code.run(1)")
    assert set(units) == {"code:run", "code:STUDY", "code:Arm", "code:_X"}
    assert changed(tree_of(tmp_path, code.replace("Is it?", "Does it?")), units) == []
    assert changed(tree_of(tmp_path, code.replace("x=_X", "x=2")), units) == ["code:STUDY"]
    assert changed(tree_of(tmp_path, code.replace("_X = 1", "_X = 2")), units) == ["code:_X"]


def test_nested_recordings_note_what_runs_in_them_and_code_that_runs_again():
    folder = Path(__file__).parent

    def work() -> int:
        return 1

    line = (work.__code__.co_filename, work.__code__.co_firstlineno)
    with recording(Recording(folder)) as outer:
        with recording(Recording(folder)) as inner:
            work()
        assert line in inner.lines
    assert line in outer.lines
    with recording(Recording(folder)) as after:
        pass
    assert after.lines == set()
    with recording(Recording(folder)) as again:
        work()
    assert line in again.lines
