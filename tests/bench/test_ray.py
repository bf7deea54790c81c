"""Trials on a real Ray cluster: a worker that dies costs its trial alone, results are the local ones, no open port."""

import contextlib
import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tests.bench.test_interruption import running, wait_for

from paperweight import weigh
from paperweight.bench.engines import chosen_engine
from paperweight.bench.ray_workers import RayWorkers, _Seat
from paperweight.bench.trial import TrialSpec
from paperweight.errors import InputError
from paperweight.provenance import here

STUDY = """
    import os, time
    from pathlib import Path
    import torch
    from paperweight.studies import Arm, Metric, Outcome, Setting, Study

    STUDY = Study(
        paper="far", question="Is it so?", claim="It is so.",
        arms={"base": Arm("without", 0), "method": Arm("with", 1)},
        metrics={"score": Metric(label="score", unit="", better="higher", minimal_effect=0.05)},
        headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm: Arm, setting: Setting) -> Outcome:
        here = Path(__file__).parent
        with (here / f"ran-{arm.name}-{setting.seed}").open("a") as file:
            file.write(f"{os.getpid()}\\n")
        while setting.seed == 1 and arm.name == "method" and (here / "slow").exists():
            time.sleep(0.05)
        numbers = torch.randn(200, 200, generator=setting.generator("data"))
        score = torch.linalg.eigvalsh(numbers @ numbers.T).log().sum() + arm.name.count("m")
        return Outcome(metrics={"score": score.item()})
"""


def listening() -> set[str]:
    """Give the ports on which this machine listens for others."""
    found = set()
    for table, own in (("tcp", "0100007F"), ("tcp6", "0000000000000000FFFF00000100007F")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            address, port = line.split()[1].split(":")
            if line.split()[3] == "0A" and address not in (own, "00000000000000000000000001000000"):
                found.add(f"{table} {port}")
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def scores(ledger: Path) -> list[tuple[str, int, str, str]]:
    with sqlite3.connect(ledger) as book:
        rows = book.execute("select arm, seed, status, metrics from trial order by seed, arm").fetchall()
    book.close()
    return rows


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is for Linux on x86_64 here")
def test_a_worker_that_dies_costs_its_trial_alone_and_the_rest_is_as_on_this_machine(
    tmp_path: Path, ran: list[TrialSpec]
) -> None:
    study, slow = tmp_path / "far.py", tmp_path / "slow"
    study.write_text(textwrap.dedent(STUDY))
    before = listening()
    command = [sys.executable, "-P", "-m", "paperweight.cli", "weigh", str(study), "--seeds", "6", "--jobs", "2"]
    command += ["--engine", "ray", "--out", str(tmp_path)]

    def pids(arm: str, seed: int) -> list[int]:
        file = tmp_path / f"ran-{arm}-{seed}"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    slow.touch()
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert wait_for(lambda: len(pids("method", 1)) == 1 and len(pids("method", 5)) == 1)
    assert listening() <= before
    (worker,) = pids("method", 1)
    os.kill(parent(parent(worker)), signal.SIGKILL)
    assert wait_for(lambda: not running(worker), seconds=15.0)
    slow.unlink()
    words, _ = process.communicate(timeout=120)
    assert process.returncode == 0, words
    times = {(arm, seed): len(pids(arm, seed)) for arm in ("base", "method") for seed in range(6)}
    assert times == {pair: 2 if pair == ("method", 1) else 1 for pair in times}

    weigh(str(study), seeds=6, ledger=tmp_path / "here.sqlite")
    assert len(ran) == 12
    there, found = (scores(tmp_path / name) for name in ("ledger.sqlite", "here.sqlite"))
    assert len(there) == 12
    assert there == found


@pytest.mark.parametrize("name", ["rey", "ray:", "", "local:1"])
def test_another_name_is_no_engine(name: str) -> None:
    with pytest.raises(InputError, match="engine must be local, ray, or ray:HOST:PORT"):
        chosen_engine(name, jobs=1, device="cpu", time_limit=1.0)


@pytest.mark.parametrize(
    ("place", "words"),
    [("localhost", "'localhost' is no HOST:PORT"), ("127.0.0.1:x", "is no HOST:PORT"), ("127.0.0.1:1", "refused")],
)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is for Linux on x86_64 here")
def test_a_cluster_that_is_not_there_is_told_at_once(place: str, words: str) -> None:
    with pytest.raises(
        InputError,
        match=f"cannot be reached: .*{words}.*; name the HOST:PORT of a running cluster, .* RAY_AUTH_MODE=token",
    ):
        chosen_engine(f"ray:{place}", jobs=1, device="cpu", time_limit=1.0)


def test_workers_are_counted_before_a_cluster_is_started() -> None:
    with pytest.raises(InputError, match="jobs must be at least 1, got 0"):
        chosen_engine("ray", jobs=0, device="cpu", time_limit=1.0)


def test_a_gpu_is_of_this_machine() -> None:
    with pytest.raises(InputError, match="computes on CPUs alone, got device 'cuda'"):
        chosen_engine("ray", jobs=1, device="cuda", time_limit=1.0)


def test_without_ray_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs Ray; install it with: pip install 'paperweight-ml\[ray\]'"):
        chosen_engine("ray", jobs=1, device="cpu", time_limit=1.0)


@pytest.mark.parametrize(("nodes", "lives"), [([True, False], True), ([False], False), ([], False), (None, False)])
def test_nobody_waits_for_a_cluster_none_of_whose_nodes_lives(nodes: list[bool] | None, lives: bool) -> None:
    class Gone:
        def nodes(self) -> list[dict[str, bool]]:
            if nodes is None:
                raise ConnectionError
            return [{"Alive": alive} for alive in nodes]

    told = pytest.raises(InputError, match="no node of the cluster lives any more; finished trials are kept")
    with contextlib.nullcontext() if lives else told:
        RayWorkers(Gone()).check_nodes()


@pytest.mark.parametrize(
    ("state", "study", "data", "words"),
    [
        ("other", "", {}, "the package is another version than here"),
        ("", "0" * 64, {}, "is not there, or another; studies must lie at one path"),
        ("", "", {"data": "digits", "data_hash": "0"}, "digits holds other data"),
    ],
)
def test_a_node_that_has_something_else_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, study: str, data: dict[str, str], words: str
) -> None:
    monkeypatch.setattr("paperweight.bench.ray_workers._node", lambda: "node 10.0.0.1")
    seat = _Seat([], state or here().state())
    spec = TrialSpec(study=str(tmp_path / "far.py"), arm="base", seed=0, budget="smoke", **data)
    for answer in (
        seat.run(spec.model_dump_json(), study, False, 1.0),
        seat.starting_weights(spec.model_dump_json(), study, [], 1.0),
    ):
        assert answer["refused"].startswith("node 10.0.0.1: ")
        assert words in answer["refused"]
