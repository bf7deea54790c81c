"""The command line: light where it can be, and one message for every mistake of a person."""

import inspect
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paperweight import __version__, weigh
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.bench.worker import run_trial
from paperweight.catalogue import entries, find
from paperweight.cli import main
from paperweight.cli.weighing import weigh as command_weigh

STUDY = """
    from paperweight.studies import Arm, Metric, Outcome, Study

    STUDY = Study(
        paper="example", question="Is it so?", claim="It is so.",
        arms={"base": Arm("without", 0), "method": Arm("with", 1)},
        metrics={"score": Metric(label="score", unit="", better="higher", minimal_effect=0.05)},
        headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm, setting):
        if setting.network_spec:
            setting.network((1, 8, 8), 10, default=None)
        return Outcome(metrics={"score": 1.0})
"""


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "example.py"
    path.write_text(textwrap.dedent(STUDY))
    return str(path)


def status(*words: str) -> object:
    """Return the exit status of a command that runs in this process."""
    try:
        main(list(words))
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.parametrize(
    "words",
    [["list"], ["list", "--json"], ["show", "laplacian_smoothing"], ["--help"], ["weigh", "--help"], ["--version"]],
    ids=" ".join,
)
def test_what_only_tells_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from paperweight.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'numpy', 'sqlalchemy', 'pydantic', 'matplotlib', 'PIL', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_list_names_every_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("list") == 0
    shown = capsys.readouterr().out
    assert [entry.stem for entry in entries() if entry.paper.title not in shown] == []
    assert f"{len(entries())} paper" in shown
    assert status("list", "--json", "--field", "optim", "--kind", "optimizer") == 0
    cards = json.loads(capsys.readouterr().out)
    assert "laplacian_smoothing" in [card["stem"] for card in cards]
    assert {card["field"] for card in cards} == {"optim"}
    assert status("list", "--search", "nosuchword") == 0
    assert "No paper" in capsys.readouterr().out


def test_list_shows_verdict_gain_and_time_and_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("paperweight.catalogue.results.results_root", lambda: tmp_path)
    comparisons = [{"primary": False, "gain": 9.0}, {"primary": True, "gain": -0.01234, "interval": [-0.02, 0.003]}]
    record: dict[str, object] = {
        "measured": {},
        "renewed": [],
        "concluded": {
            "verdict": "hurts",
            "method": "smoothing",
            "headline": "loss",
            "metrics": {"loss": {"label": "test loss", "unit": "nats", "comparisons": comparisons}},
            "cost": {"smoothing": {"wall": 1.0, "cpu": 1.46, "memory": 1.0}},
        },
    }
    monkeypatch.setattr("paperweight.catalogue.results.stale_units", lambda _: ["nets.lenet.LeNet"])
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "laplacian_smoothing.json").write_text(json.dumps(record))
    assert status("list", "--field", "optim") == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("laplacian_smoothing "))
    assert line.split()[1:9] == ["optim", "hurts", "-0.012", "nats,", "test", "loss", "x", "1.5"]
    assert re.search(r"^adabelief +optim +not weighed", shown, re.MULTILINE)
    assert "Stale, since code that made the result has changed: laplacian_smoothing\n" in shown
    assert status("list", "--verdict", "hurts", "--json") == 0
    (card,) = json.loads(capsys.readouterr().out)
    assert card["stem"] == "laplacian_smoothing"
    assert card["result"]["gain"] == -0.01234
    assert card["result"]["interval"] == [-0.02, 0.003]
    assert card["result"]["stale"] is True
    assert status("list", "--verdict", "helps") == 0
    assert capsys.readouterr().out == "No paper meets these conditions.\n"


def test_show_tells_the_card_and_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    paper = find("laplacian_smoothing").paper
    assert status("show", "LaplacianSmoothingSGD") == 0
    shown = capsys.readouterr().out
    for text in (paper.title, paper.claim, paper.url, "sigma=0.0", "laplacian_smooth(gradient: Tensor, sigma: float"):
        assert text in shown
    assert status("show", "laplacian_smoothing", "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert card["provides"] == dict(paper.provides)
    assert "result" in card


def test_a_stale_result_is_shown_as_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("paperweight.catalogue.results.results_root", lambda: tmp_path)
    assert status("show", "laplacian_smoothing") == 0
    assert "no official result yet" in capsys.readouterr().out
    record = {
        "measured": {
            "budget": "desk",
            "seeds": [0, 1],
            "measured_on": "2026-01-01",
            "environment": {"python": "3.11.0", "torch": "0.1+cpu", "cpu": "a processor"},
        },
        "renewed": [],
        "concluded": {"verdict": "hurts", "words": "In words.", "limits": "Few."},
    }
    monkeypatch.setattr("paperweight.catalogue.results.stale_units", lambda _: ["nets.lenet.LeNet", "data"])
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "laplacian_smoothing.json").write_text(json.dumps(record))
    assert status("show", "laplacian_smoothing") == 0
    shown = capsys.readouterr().out
    assert "HURTS" in shown
    assert "STALE: changed since: nets.lenet.LeNet, data. Weigh it" in shown
    assert "Measured with python 3.11.0, torch 0.1+cpu on a processor; here " in shown
    assert "desk budget, 2 seeds, 2026-01-01" in shown


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert status("--version") == 0
    assert capsys.readouterr().out.strip() == __version__
    assert status("--help") == 0
    shown = capsys.readouterr().out
    assert [name for name in ("list", "show", "weigh", "board") if name not in shown] == []


MISTAKES = {
    "unknown command": (["wiegh"], "wiegh"),
    "unknown option": (["weigh", "STUDY", "--sed", "3"], "--sed"),
    "no study": (["weigh"], "--study"),
    "unknown paper": (["show", "laplacian_smothing"], "did you mean laplacian_smoothing"),
    "unknown field": (["list", "--field", "optin"], "did you mean optim"),
    "unknown kind": (["list", "--kind", "optimiser"], "did you mean optimizer"),
    "unknown study": (["weigh", "laplacian_smothing"], "did you mean laplacian_smoothing"),
    "no study file": (["weigh", "absent.py"], "absent.py"),
    "study file that is a folder": (["weigh", "folder.py"], "folder.py"),
    "unknown arm": (["weigh", "STUDY", "--arms", "metod"], "did you mean method"),
    "baseline alone": (["weigh", "STUDY", "--arms", "base"], "beside the baseline"),
    "budget": (["weigh", "STUDY", "--budget", "huge"], "huge"),
    "no seeds": (["weigh", "STUDY", "--seeds", "0"], "seeds must be at least 1, got 0"),
    "first seed below none": (["weigh", "STUDY", "--first-seed=-1"], "first_seed must be at least 0"),
    "seeds in words": (["weigh", "STUDY", "--seeds", "many"], "many"),
    "no jobs": (["weigh", "STUDY", "--jobs", "0"], "jobs must be at least 1"),
    "time limit": (["weigh", "STUDY", "--time-limit=-1"], "time_limit must be above 0"),
    "device": (["weigh", "STUDY", "--device", "tpu"], "tpu"),
    "data": (["weigh", "STUDY", "--data", "nowhere/at/all"], "nowhere/at/all"),
    "data of no known name": (["weigh", "STUDY", "--data", "digitz"], "did you mean digits"),
    "network without a module": (["weigh", "STUDY", "--network", "nosuchmodule:f"], "nosuchmodule:f"),
    "network without a name": (["weigh", "STUDY", "--network", "json"], "json"),
    "network of no file": (["weigh", "STUDY", "--network", "sys:exit"], "sys:exit"),
    "ledger that is no database": (["weigh", "STUDY", "--ledger", "example.py"], "example.py"),
    "ledger that is a folder": (["weigh", "STUDY", "--ledger", "folder.py"], "folder.py"),
    "ledger below a file": (["weigh", "STUDY", "--ledger", "example.py/ledger"], "example.py"),
    "ledger of unknown kind": (["weigh", "STUDY", "--ledger", "nonsense://me:hunter2@host/x"], "nonsense"),
    "out that is a file": (["weigh", "STUDY", "--out", "example.py"], "example.py"),
    "out below a file": (["weigh", "STUDY", "--out", "example.py/out"], "example.py"),
    "board of an unknown paper": (["board", "laplacian_smothing"], "did you mean laplacian_smoothing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_message_and_status_2(
    mistake: str, study: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing:
        """Stands for a worker that is never to be started, but for networks, which only a worker can build."""

        def __init__(self) -> None:
            pytest.fail("a worker was started")

    if mistake != "network without a name":
        monkeypatch.setattr("paperweight.bench.process.WorkerProcess", Refusing)
    Path("folder.py").mkdir()
    words, says = MISTAKES[mistake]
    assert status(*(study if word == "STUDY" else word for word in words)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert says in shown.err
    assert "Traceback" not in shown.err
    assert "hunter2" not in shown.err


def test_a_weighing_prints_its_verdict_and_writes_its_report(
    study: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Engine:
        def __init__(self, **_: object) -> None:
            pass

        def run(
            self, specs: list[TrialSpec], *, recorded: set[str], may_start: Callable[[TrialSpec], bool]
        ) -> Iterator[TrialRecord]:
            for spec in filter(may_start, specs):
                yield run_trial(spec, recorded=spec.key() in recorded)

    monkeypatch.setattr("paperweight.bench.engines.local_engine", Engine)
    assert status("weigh", study, "--budget", "smoke", "--seeds", "6", "--out", "reports") == 0
    shown = capsys.readouterr()
    assert "NO EFFECT" in shown.out
    assert "Is it so?" in shown.out
    (report,) = (tmp_path / "reports").glob("*.html")
    assert report.name in shown.out
    assert "no effect" in report.read_text()
    (ledger,) = (tmp_path / "reports").glob("*.sqlite")
    assert ledger.name == "ledger.sqlite"


def test_the_command_and_python_weigh_alike_when_nothing_is_said() -> None:
    command, function = (inspect.signature(each).parameters for each in (command_weigh, weigh))
    shared = set(command) & set(function) - {"ledger"}
    assert {"seeds", "first_seed", "budget"} <= shared
    assert {name: command[name].default for name in shared} == {name: function[name].default for name in shared}
