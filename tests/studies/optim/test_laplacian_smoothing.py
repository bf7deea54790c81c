"""The study of Laplacian smoothing: declared metrics, repeatable, null at sigma 0, on anyone's images."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from paperweight import weigh
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.bench.worker import run_trial
from paperweight.reports import write_report
from paperweight.studies import Arm, Setting
from paperweight.studies.optim import laplacian_smoothing as study


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Compute as a worker does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trial(arm: str) -> TrialRecord:
    return run_trial(TrialSpec(study="laplacian_smoothing", arm=arm, seed=3, budget="smoke"))


@pytest.fixture(scope="module")
def records() -> dict[str, TrialRecord]:
    return {arm: trial(arm) for arm in study.STUDY.arms}


def test_every_arm_finishes_with_the_declared_metrics(records: dict[str, TrialRecord]) -> None:
    for arm, record in records.items():
        assert record.status == "finished", (arm, record.message)
        assert record.metrics.keys() == study.STUDY.metrics.keys()
        assert record.correct.startswith(f"{record.arguments['test_images']}:")
        assert 0 <= record.metrics["accuracy"] <= 1
        assert len(record.curves) == 5


def test_every_arm_has_the_same_number_of_tries_and_images(records: dict[str, TrialRecord]) -> None:
    shared = ("steps", "batch_size", "training_images", "test_images", "gradient_noise")
    assert len({tuple(record.arguments[name] for name in shared) for record in records.values()}) == 1
    assert all(record.grids == records["sgd"].grids for record in records.values())
    assert records["sgd"].grids.keys() == {"lr", "lr_with_noise"}
    differing = ("optimizer.sigma", "optimizer.order", "sigma_along_random_order")
    assert {arm: tuple(record.arguments[name] for name in differing) for arm, record in records.items()} == {
        "sgd": (0.0, 1, 0.0),
        "smoothed": (1.0, 1, 0.0),
        "smoothed_order_2": (1.0, 2, 0.0),
        "permuted": (0.0, 1, 1.0),
        "rescaled": (0.0, 1, 0.0),
    }


def test_arms_differ_in_what_they_measure(records: dict[str, TrialRecord]) -> None:
    losses = {arm: record.metrics["common_rate_loss"] for arm, record in records.items()}
    assert len(set(losses.values())) == len(losses)


def test_a_trial_twice_is_the_same(records: dict[str, TrialRecord]) -> None:
    again = trial("permuted")
    assert again.metrics == records["permuted"].metrics
    assert again.curves == records["permuted"].curves


def test_at_sigma_zero_the_method_is_the_baseline(
    records: dict[str, TrialRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = {**study.STUDY.arms, "smoothed": Arm("the method at its null setting", study._Plan(sigma=0.0))}
    monkeypatch.setattr(study, "STUDY", replace(study.STUDY, arms=arms))
    null = trial("smoothed")
    assert null.metrics == records["sgd"].metrics
    assert null.curves == records["sgd"].curves
    assert null.correct == records["sgd"].correct


def test_smoothing_lowers_the_noise_floor_of_the_quadratic() -> None:
    setting = Setting(study="laplacian_smoothing", seed=0, budget="desk")
    plain, smoothed = (study._quadratic(study.STUDY.arms[arm].make, setting)[0] for arm in ("sgd", "smoothed"))
    assert smoothed < plain


def encoded(index: int, side: int = 8) -> bytes:
    """Return a PNG whose brightness tells its class."""
    pixels = np.random.default_rng(index).integers(0, 100, (side, side), dtype=np.uint8) + 100 * (index % 2)
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(stream, "png")
    return stream.getvalue()


def class_folders(root: Path) -> Path:
    for index in range(60):
        path = root / ("bright" if index % 2 else "dark") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(index, side=8 + index % 5))
    return root


def parquet_folder(root: Path) -> Path:
    root.mkdir()
    features = {"info": {"features": {"label": {"names": ["dark", "bright"], "_type": "ClassLabel"}}}}
    for name, rows in (("train", range(60)), ("test", range(60, 90))):
        images = pa.array([{"bytes": encoded(i), "path": None} for i in rows])
        table = pa.table({"image": images, "label": pa.array([i % 2 for i in rows])})
        pq.write_table(
            table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()}),
            root / f"{name}-00000-of-00001.parquet",
        )
    return root


class InProcess:
    """An engine that runs trials in this process."""

    def __init__(self, **_: object) -> None:
        pass

    def run(
        self, specs: list[TrialSpec], *, recorded: set[str], may_start: Callable[[TrialSpec], bool]
    ) -> Iterator[TrialRecord]:
        for spec in filter(may_start, specs):
            yield run_trial(spec, recorded=spec.key() in recorded)


@pytest.mark.parametrize("make", [class_folders, parquet_folder])
def test_the_study_runs_on_the_user_s_images(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(tmp_path / "mine")
    if make is class_folders:  # the other runs in real workers
        monkeypatch.setattr("paperweight.bench.engines.local_engine", InProcess)
    options = {"budget": "smoke", "seeds": 1, "arms": ["smoothed"], "jobs": 2}
    found = weigh("laplacian_smoothing", data=data, ledger=None, **options)
    assert [record.status for record in found.records] == ["finished"] * 2, found.records[0].message
    assert found.verdict == "inconclusive"
    assert found.records[0].spec.data == str(data)
    assert str(found.records[0].arguments["image_shape"]).startswith("3 x ")
    page = write_report(found, tmp_path / "out").read_text(encoding="utf-8")
    assert "dark" in page
    assert f"--data {data}" in page
    assert ("sizes were cut to their centred square" in page) == (make is class_folders)
