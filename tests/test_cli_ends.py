"""How commands end: statuses, streams and folders that fail, and what strangers' texts may not do."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from tests.test_cli import status

MODULES = {
    "stops": "raise SystemExit(0)\n",
    "fails": "raise ValueError('no \\x1b[31m')\n",
    "made": "def make():\n    raise SystemExit(0)\n",
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.chdir(tmp_path)


def raising(error: BaseException):
    def select(**_: object) -> None:
        raise error

    return select


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("why\nand more"), SystemExit(0), MemoryError(), OSError(28, "full")]
)
def test_what_is_unexpected_ends_in_one_line_and_status_3_with_the_details_in_a_file(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("paperweight.cli.papers.select", raising(error))
    assert status("list") == 3
    shown = capsys.readouterr()
    (details,) = tmp_path.glob("paperweight-*.txt")
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith(f"paperweight: {type(error).__name__}")
    assert str(details) in shown.err
    assert "Traceback (most recent call last)" in details.read_text()


def test_details_that_cannot_be_written_are_no_fault_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("paperweight.cli.papers.select", raising(ZeroDivisionError()))
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert status("list") == 3
    assert "its details cannot be written (No such file or directory)" in capsys.readouterr().err


def test_an_interruption_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("paperweight.cli.papers.select", raising(KeyboardInterrupt()))
    assert status("list") == 130
    error = capsys.readouterr().err
    assert "Stopped." in error
    assert "goes on" not in error


def test_an_interruption_that_a_lock_failed_over_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError("release unlocked lock")
    error.__context__ = KeyboardInterrupt()
    monkeypatch.setattr("paperweight.cli.papers.select", raising(error))
    assert status("list") == 130
    assert "Stopped" in capsys.readouterr().err
    error.__context__ = ValueError()
    assert status("list") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["layer", "stops:x", "--input", "4x5"], "fails on import: SystemExit: 0; mend its module"),
        (["layer", "fails:x", "--input", "4x5"], "fails on import: ValueError: no \\x1b[31m; mend its module"),
        (["attack", "made:make"], "'make' fails: SystemExit: 0; mend it"),
        (["layer", "torch.nn:ReLU", "--input", "9999x9999x9999"], "at most 10,000,000 numbers in 16 dimensions"),
        (["layer", "torch.nn:ReLU", "--input", "x".join("1" * 17)], "at most 10,000,000 numbers in 16 dimensions"),
        (["layer", "torch.nn:ReLU", "--input", "9" * 5000], "input must be a shape such as 8x5"),
        (["\x1b[31mred\x9b\u202e", "torch.nn:ReLU"], "got '\\x1b[31mred"),
        (["layer", "half\udc80:x", "--input", "4x5"], "half\\udc80"),
    ],
)
def test_objects_that_stop_or_fail_and_hostile_words_are_mistakes(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert status("check", *words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert message in shown.err
    assert len(shown.err) < 2100
    assert not {"\x1b", "\x9b", "\u202e"} & set(shown.err)
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("data", ["digits", "a" * 5000, "~nobody-of-that-name/x", "loop", "pipe"])
def test_paths_that_cannot_be_are_mistakes(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert status("plant", "--data", data, "--out", "9" * 5000 if data == "digits" else "out") == 2
    assert status("weigh", f"{data}.py") == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_an_object_that_exits_breaks_a_law(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "exits.py").write_text("def f(x):\n    raise SystemExit(0)\n")
    assert status("check", "function", "exits:f", "--input", "4") == 1
    assert "it ended the program with status 0" in capsys.readouterr().out
    sys.modules.pop("exits", None)


def test_where_nobody_reads_on_the_status_is_that_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys.stdout, "write", gone)
    assert status("list", "--field", "gan") == 0


SHELL = f'"{sys.executable}" -m paperweight.cli'
ENDS = {
    "a full standard output": (
        f"{SHELL} list --field gan >/dev/full",
        2,
        "standard output cannot be written (No space left",
    ),
    "help into a full one": (f"{SHELL} --help >/dev/full", 2, "standard output cannot be written (No space left"),
    "a closed standard output": (f"{SHELL} list --field gan >&-", 2, "standard output must be open, it is closed"),
    "a closed error stream": (f"{SHELL} show nothing_of_that_name 2>&-", 2, ""),
    "a reader that leaves": (f"{SHELL} list --json | head -1; exit ${{PIPESTATUS[0]}}", 0, ""),
    "a deleted folder": (f"mkdir gone; cd gone; rmdir ../gone; {SHELL} list --field gan", 0, ""),
    "an ASCII locale": (f"LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {SHELL} show $'caf\\xe9\\x1b'", 2, "caf"),
    "an ASCII encoding": (f"PYTHONIOENCODING=ascii {SHELL} show $'caf\\xc3\\xa9'", 2, r"caf\xe9"),
}


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("end", ENDS)
def test_streams_and_folders_that_fail(end: str) -> None:
    line, wanted, message = ENDS[end]
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
    errors = done.stderr.decode("ascii")
    assert done.returncode == wanted, errors
    assert message in errors
    assert len(errors.splitlines()) == (1 if message else 0)


def test_json_is_json_in_every_encoding() -> None:
    for encoding in ("ascii", "utf-8"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        call = [sys.executable, "-m", "paperweight.cli", "list", "--json", "--field", "optim"]
        done = subprocess.run(call, capture_output=True, check=True, env=environment)
        assert len(json.loads(done.stdout.decode(encoding))) > 10


def test_readers_leave_a_folder_and_its_ledger_alone(tmp_path: Path) -> None:
    (tmp_path / "weighings").mkdir()
    ledger = tmp_path / "weighings" / "ledger.sqlite"
    ledger.write_bytes(b"being made by another process")
    before = ledger.stat()
    assert [status(*words) for words in (["list"], ["show", "dimat"], ["show", "dimat", "--json"])] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["weighings"]
    assert ledger.stat() == before


def test_a_bar_shows_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    from paperweight.cli.bars import Bars

    with Bars() as bars:
        bars.progress("[red]\x1b[31mname")("keys [bold]", 1, 1)
    shown = capsys.readouterr().err
    assert "[red]\\x1b[31mname: keys [bold]" in shown
    assert "\x1b[31mname" not in shown


def test_answers_show_no_control_characters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "\x9b2J"
    assert status("plant", "--data", "digits", "--records", "12", "--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert "\\x9b2J" in shown
    assert "\x9b" not in shown
