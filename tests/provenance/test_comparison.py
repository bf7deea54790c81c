"""Replays: what they compare, and that a real one notices a fault in shared code and nothing else."""

import importlib
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from paperweight.errors import InputError
from paperweight.provenance import Replay, SourceTree, changed, differences, here, replay

TRIAL: dict[str, Any] = {
    "arm": "base",
    "seed": 0,
    "status": "finished",
    "message": "",
    "metrics": {"accuracy": (0.5).hex(), "loss": (1 / 3).hex()},
    "correct": 17,
    "computed": [1, 2, 3],
    "picked": [["1", "2", "3"], [["4", "5"], ["6", "7"], ["8", "9"]]],
}


def replayed(**changes: Any) -> Replay:
    return Replay({("base", 0): deepcopy(TRIAL) | changes}, {}, 1.0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"computed": [1, 2, 3, 4]},
        {"metrics": {"accuracy": (0.5).hex()}},
        {"picked": [["4", "6", "8"], ["5", "7", "9"], ["1", "2", "3"]]},
        {"picked": [["1", "2", "0"], [["4", "5"], ["6", "7"], ["8", "9"]]]},
    ],
)
def test_more_outputs_fewer_metrics_and_picks_in_another_order_are_no_difference(changes: dict[str, Any]):
    assert differences(replayed(), replayed(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": TRIAL["metrics"] | {"loss": (0.33333333333333337).hex()}}, "loss is 0.33333333333333337, was"),
        ({"metrics": TRIAL["metrics"] | {"other": (1.0).hex()}}, "other is new"),
        ({"correct": 18}, "other test examples are right"),
        ({"computed": [1, 3, 4]}, "1 of 3 outputs and weights are not computed any more"),
        (
            {"picked": [["1", "20", "3"], [["4", "5"], ["6", "7"], ["8", "9"]]]},
            "budgets pick other values: 1 / 2, 1 / 20",
        ),
        ({"status": "crashed", "message": "no such thing"}, "status crashed: no such thing"),
    ],
)
def test_each_thing_that_differs_is_said(changes: dict[str, Any], words: str):
    (said,) = differences(replayed(), replayed(**changes))
    assert said.startswith("arm base, seed 0: ")
    assert words in said


def test_a_trial_that_is_missing_or_failed_in_both_is_a_difference():
    assert differences(replayed(), Replay({}, {}, 1.0)) == ["arm base, seed 0: it is missing"]
    failed = replayed(status="timed-out")
    assert "timed-out" in differences(failed, failed)[0]


def test_a_study_that_cannot_run_is_refused_with_the_reason(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"(?s)study nothing cannot be replayed in .*there is no paper called 'nothing'"
    ):
        replay(here(), "nothing", ["base"], [0], "smoke")


def test_a_replay_notices_a_fault_in_shared_code_and_passes_over_harmless_changes(tmp_path: Path):
    shutil.copytree(here().package, tmp_path / "paperweight")
    file = tmp_path / "paperweight" / "nets" / "lenet.py"
    text = file.read_text(encoding="utf-8")
    assert "F.relu" in text or "nn.ReLU()" in text
    now = replay(here(), "infobatch", ["all"], [0], "smoke")
    assert "nets.lenet:LeNet.__init__" in now.units
    assert changed(here(), now.units) == []

    file.write_text(text.replace("nn.ReLU()", "nn.ReLU(inplace=False)").replace("F.relu(", "F.relu(input="), "utf-8")
    tree = SourceTree(tmp_path)
    assert [unit.split(":")[0] for unit in changed(tree, now.units)] == ["nets.lenet"]
    assert differences(now, replay(tree, "infobatch", ["all"], [0], "smoke")) == []

    file.write_text(text.replace("nn.ReLU()", "nn.ELU()").replace("F.relu(", "F.elu("), "utf-8")
    (said,) = differences(now, replay(SourceTree(tmp_path), "infobatch", ["all"], [0], "smoke"))
    assert "outputs and weights are not computed any more" in said


def test_times_are_not_compared_since_they_never_repeat():
    found = replay(here(), "efficient_train", ["whole"], [0], "smoke").trials["whole", 0]
    assert "accuracy" in found["metrics"]
    assert "time" not in found["metrics"]


def test_what_a_traced_model_computes_is_noted_unseen_by_the_tracer():
    class Tracer(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    noted: set[int] = set()
    seen: list[str] = []
    with Tracer():
        outputs = torch.ones(2) + 1
        importlib.import_module("paperweight.provenance.replay")._note(noted, [outputs])
    assert "add" in seen
    assert "cpu" not in seen
    assert len(noted) == 1
