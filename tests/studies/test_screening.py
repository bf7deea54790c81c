"""The study of a screen: found by its name, with images and tables, the controls, and trees."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn

from paperweight.bench.loading import load_study
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.bench.worker import run_trial
from paperweight.data import Splits, load_table, split_table
from paperweight.errors import InputError
from paperweight.studies import Recipe, Setting, Trained
from paperweight.studies._recipe import train_by
from paperweight.studies.screening import _LAST, BASELINE, HALF, IDENTITY, TREES, ScreenArm, ScreenData

DATA = ScreenData(train=60, used=60, validation=40, test=50, batch_size=16)
JUDGED = ScreenData(train=60, used=60, validation=40, test=50, batch_size=16, judged=True)

SPOILS = Recipe(
    words="it changes the data that it is given",
    line="inputs.zero_()",
    pretraining=lambda model, inputs, steps, generator: inputs.zero_(),  # pyright: ignore[reportArgumentType]
)


DRAWN: list[float] = []


class _Viewing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu().view(-1).view_as(x)


def _with_views(model: nn.Module) -> nn.Module:
    DRAWN.append(torch.rand(()).item())
    return nn.Sequential(*(layer for each in model.children() for layer in _viewing(each)))


def _viewing(part: nn.Module) -> list[nn.Module]:
    layers = list(part) if isinstance(part, nn.Sequential) else [part]
    return [_Viewing() if isinstance(layer, nn.ReLU) else layer for layer in layers]


VIEWS = Recipe(words="it asks for the usual layout", line="x.view(-1)", surgery=_with_views)
BREAKS = Recipe(words="it fails", line="x.view(7)", surgery=lambda model: nn.Sequential(model, nn.Unflatten(1, (3, 7))))


VIEWING = """
from torch import nn

class Viewing(nn.Module):
    def __init__(self, shape, classes):
        super().__init__()
        self.convolution = nn.Conv2d(shape[0], 8, 3, padding=1)
        self.head = nn.Linear(8 * shape[1] * shape[2], classes)

    def forward(self, x):
        x = self.convolution(x).relu()
        return self.head(x.view(x.size(0), -1))

def network(shape, classes):
    return Viewing(shape, classes)
"""


def record(data: ScreenData, recipe: str, source: str = "digits", seed: int = 0) -> TrialRecord:
    arm = ScreenArm(recipe, "adamw", 0.005, 20)
    spec = TrialSpec(study=data.study(), arm=arm.name, seed=seed, budget="desk", data=source)
    found = run_trial(spec)
    assert found.status == "finished", found.message
    return found


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> str:
    bunch = load_wine()
    path = tmp_path_factory.mktemp("tables") / "wine.csv"
    names = [name.replace("/", "_") for name in bunch.feature_names]
    rows = [[*map(str, row), f"kind {kind}"] for row, kind in zip(bunch.data.tolist(), bunch.target, strict=True)]
    path.write_text("\n".join(",".join(row) for row in [[*names, "wine"], *rows]) + "\n", encoding="utf-8")
    return str(path)


def test_arms_and_data_are_found_by_their_names() -> None:
    for recipe in (BASELINE, "my.module:recipe on wheels", "a, b"):
        arm = ScreenArm(recipe, "sgd", 1.5e-05, 400)
        assert ScreenArm.named(arm.name) == arm
    study = load_study(JUDGED.study())
    assert study.declaration.headline == "accuracy"
    assert study.declaration.arm("lookahead on sgd, lr 0.1, 20 steps").make == ScreenArm("lookahead", "sgd", 0.1, 20)
    with pytest.raises(KeyError):
        study.declaration.arm("lookahead")
    with pytest.raises(InputError, match="there is no screen called"):
        load_study("screening:{}")


def test_test_examples_are_looked_at_only_where_it_is_judged() -> None:
    assert set(record(DATA, BASELINE).metrics) == {"validation_accuracy", "validation_loss"}
    judged = record(JUDGED, BASELINE)
    assert judged.metrics["validation_loss"] == record(DATA, BASELINE).metrics["validation_loss"]
    assert judged.arguments["test_examples"] == 50


def test_the_identity_differs_in_its_batches_alone_and_half_of_the_data_is_the_half() -> None:
    same = record(DATA, BASELINE).metrics
    assert record(DATA, BASELINE).metrics == same != record(DATA, IDENTITY).metrics
    half = record(DATA, HALF)
    assert half.arguments["training_examples"] == 30
    assert half.metrics != same


def test_the_next_trial_takes_the_data_as_they_are_and_not_as_a_recipe_left_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded: list[int] = []

    def counted(self: Setting, **options: object) -> Splits:
        loaded.append(self.seed)
        return images(self, **options)

    images = Setting.images
    monkeypatch.setattr(Setting, "images", counted)
    monkeypatch.setattr("paperweight.studies.screening.find_recipe", lambda _: SPOILS)
    _LAST.clear()
    first = record(DATA, BASELINE)
    assert record(DATA, BASELINE).metrics == first.metrics
    assert record(JUDGED, BASELINE).message == first.message
    assert loaded == [0]
    assert record(DATA, "spoils").metrics != first.metrics
    again = record(DATA, BASELINE)
    assert (again.metrics, again.data_hashes) == (first.metrics, first.data_hashes)
    assert loaded == [0, 0]
    record(DATA, BASELINE, seed=1)
    assert loaded == [0, 0, 1]


def test_convolutions_have_channels_last_but_where_a_recipe_needs_the_usual_layout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layouts: list[bool] = []

    def counted(*arguments: Any, **options: Any) -> Trained:
        weight = [each for each in arguments[2].parameters() if each.dim() == 4][-1]
        layouts.append(weight.is_contiguous())
        return train_by(*arguments, **options)

    monkeypatch.setattr("paperweight.studies.screening.train_by", counted)
    usual = record(JUDGED, BASELINE, "glyphs")
    assert layouts == [False]
    monkeypatch.setattr("paperweight.studies.screening.find_recipe", lambda name: {"v": VIEWS, "b": BREAKS}[name])
    DRAWN.clear()
    views = record(JUDGED, "v", "glyphs")
    assert len(DRAWN) == 2
    assert DRAWN[0] == DRAWN[1]
    assert layouts == [False, False, True]
    assert views.metrics["test_loss"] == pytest.approx(usual.metrics["test_loss"], rel=1e-3)
    with pytest.raises(AssertionError, match="unflatten"):
        record(JUDGED, "b", "glyphs")
    assert layouts[3:] == [False]


@pytest.mark.parametrize("source", ["digits", "glyphs-colour"])
def test_a_network_of_the_users_that_calls_view_is_trained_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "viewing_net.py").write_text(VIEWING)
    monkeypatch.syspath_prepend(tmp_path)
    arm = ScreenArm(BASELINE, "adamw", 0.005, 20)
    spec = TrialSpec(
        study=JUDGED.study(), arm=arm.name, seed=0, budget="desk", data=source, network="viewing_net:network"
    )
    found = run_trial(spec)
    assert found.status == "finished", found.message


def test_tables_are_screened_and_trees_stand_beside(wine: str) -> None:
    data = ScreenData(train=90, used=90, validation=40, test=48, batch_size=16, target="wine", judged=True)
    network, trees = record(data, BASELINE, wine), record(data, TREES, wine)
    assert network.metrics["accuracy"] > 0.8
    assert trees.metrics["accuracy"] > 0.8
    assert "13 features" in network.message
    assert "at most 1,500 validation and 3,000 test examples of these are looked at" in network.message


def test_rows_of_a_table_are_in_one_part_each_with_their_share_of_each_class(wine: str) -> None:
    table = load_table(wine)
    parts = split_table(table, train=900, validation=300, test=600, generator=torch.Generator().manual_seed(0))
    sizes = [len(part) for part in (parts.train, parts.validation, parts.test)]
    assert sum(sizes) <= 178
    assert sizes == pytest.approx([89, 29.7, 59.3], abs=1.5)
    rows = torch.cat([part.images.flatten(1) for part in (parts.train, parts.validation, parts.test)])
    assert len(rows.unique(dim=0)) == len(rows)
    for part in (parts.train, parts.validation, parts.test):
        share = part.labels.bincount() / len(part)
        assert share.tolist() == pytest.approx([59 / 178, 71 / 178, 48 / 178], abs=0.04)
    assert parts.train.images.mean(dim=0).abs().max() < 1e-5
    assert parts.train.images.std(dim=0, correction=0).sub(1).abs().max() < 1e-4


def test_a_table_that_cannot_be_screened_says_why(tmp_path: Path) -> None:
    path = tmp_path / "numbers.csv"
    path.write_text("a,b\n" + "".join(f"{i},{i / 7:.3f}\n" for i in range(40)), encoding="utf-8")
    draw = torch.Generator()
    with pytest.raises(InputError, match="must be a class, it holds numbers"):
        split_table(load_table(path), train=10, validation=10, test=10, generator=draw)
    path.write_text("a,b\n" + "".join(f"{i},{'x' if i else 'y'}\n" for i in range(40)), encoding="utf-8")
    with pytest.raises(InputError, match="at least 3 rows each"):
        split_table(load_table(path), train=10, validation=10, test=10, generator=draw)


def test_a_constant_column_and_a_rare_class_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "rare.csv"
    path.write_text(
        "a,b,c\n" + "".join(f"{i},5,{'z' if i < 3 else 'xy'[i % 2]}\n" for i in range(60)), encoding="utf-8"
    )
    for seed in range(20):
        draw = torch.Generator().manual_seed(seed)
        parts = split_table(load_table(path), train=50, validation=15, test=35, generator=draw)
        assert torch.isfinite(parts.train.images).all()
        assert parts.train.images[:, 0, 0, 1].abs().max() == 0


def test_a_missing_number_stands_for_the_mean_of_the_known_ones_of_the_training_rows(tmp_path: Path) -> None:
    path = tmp_path / "gaps.csv"
    rows = (f"{'' if i % 5 == 0 else i},{i if i == 13 else ''},{'xy'[i % 2]}\n" for i in range(60))
    path.write_text("a,seldom,c\n" + "".join(rows), encoding="utf-8")
    draw = torch.Generator().manual_seed(0)
    parts = split_table(load_table(path), train=30, validation=10, test=20, generator=draw)
    for part in (parts.train, parts.validation, parts.test):
        missing = part.images[:, 0, 0, 1] > 0
        assert 0 < missing.sum() < len(part)
        assert part.images[missing, 0, 0, 0].tolist() == [0] * int(missing.sum())
        assert part.images[:, 0, 0, 2].tolist() == [0] * len(part)
    known = parts.train.images[parts.train.images[:, 0, 0, 1] < 0, 0, 0, 0]
    assert known.mean().abs() < 1e-6
    assert known.std(correction=0).item() == pytest.approx(1, abs=1e-5)
