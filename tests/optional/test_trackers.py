"""Trials sent to trackers themselves: MLflow's own client, and the events that TensorBoard reads."""

import math
from pathlib import Path

import pytest

pytest.importorskip("mlflow")
pytest.importorskip("tensorboard")

from paperweight.bench.ledger import Ledger
from paperweight.bench.trackers import Sent, send
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import InputError


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    path = str(tmp_path / "ledger.sqlite")
    with Ledger(path) as opened:
        for seed, metrics in enumerate(({"accuracy": 0.5}, {"accuracy": math.nan, "loss": 2.0})):
            spec = TrialSpec(study="lookahead", arm="sgd", seed=seed, budget="smoke")
            opened.add(
                TrialRecord(
                    spec=spec, status="finished", metrics=metrics, arguments={"optimizer.lr": 0.1}, message="m" * 9000
                )
            )
        found = {"arm": "lookahead", "gain": 0.1, "interval": [0.0, 0.2], "p": 0.03}
        none = {"arm": "adam", "gain": None, "interval": None, "p": None}
        concluded = {"verdict": "helps", "words": "it does", "metrics": {"accuracy": {"comparisons": [found, none]}}}
        record = {"measured": {"seeds": [0]}, "concluded": concluded}
        opened.add_verdict(study="lookahead", budget="smoke", data=None, network=None, record=record)
    return path


def test_mlflow_has_a_run_a_trial_and_a_summary_once(ledger: str, tmp_path: Path) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    assert send(ledger, f"mlflow:{uri}") == Sent(2, 1, 0)
    assert send(ledger, f"mlflow:{uri}") == Sent(0, 0, 3)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("paperweight/lookahead")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"sgd-0", "sgd-1", "summary"}
    assert runs["sgd-0"].data.metrics["accuracy"] == 0.5
    assert runs["sgd-1"].data.metrics == {"loss": 2.0, "wall_seconds": 0.0, "cpu_seconds": 0.0}
    assert runs["sgd-0"].data.params["optimizer.lr"] == "0.1"
    assert runs["summary"].data.params["verdict"] == "helps"
    assert runs["summary"].data.metrics == {
        f"accuracy.lookahead.{name}": value for name, value in (("gain", 0.1), ("low", 0.0), ("high", 0.2), ("p", 0.03))
    }


def test_tensorboard_reads_what_was_written_once(ledger: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "board"
    assert send(ledger, f"tensorboard:{folder}") == Sent(2, 1, 0)
    assert send(ledger, f"tensorboard:{folder}", study="lookahead") == Sent(0, 0, 3)
    with pytest.raises(InputError, match="study must be one of lookahead, which the ledger holds, got 'other'"):
        send(ledger, f"tensorboard:{folder}", study="other")
    runs = {path.name.rpartition("-")[0]: path for path in (folder / "lookahead").iterdir()}
    assert set(runs) == {"sgd-0", "sgd-1", "summary"}
    events = EventAccumulator(str(runs["sgd-0"])).Reload()
    assert events.Scalars("accuracy")[0].value == 0.5
    assert "accuracy.lookahead.gain" in EventAccumulator(str(runs["summary"])).Reload().Tags()["scalars"]


def test_another_tracker_or_a_place_that_cannot_be_written_is_told(ledger: str, tmp_path: Path) -> None:
    for to in ("wandb:x", "mlflow:", "mlflow"):
        with pytest.raises(InputError, match="to must be mlflow:URI or tensorboard:FOLDER"):
            send(ledger, to)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file cannot be written: .*; see that it can be reached, and send again"):
        send(ledger, f"tensorboard:{tmp_path}/file")
    with pytest.raises(InputError, match=r"m\.db cannot be written: "):
        send(ledger, f"mlflow:sqlite:///{tmp_path}/file/m.db")
