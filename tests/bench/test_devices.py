"""One training in two processes: the results of one, a process that dies, what is left behind, and what is refused."""

import json
import os
import re
import sys
import textwrap
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from paperweight.bench import weigh
from paperweight.bench.loading import load_study
from paperweight.bench.trial import TrialRecord
from paperweight.errors import InputError
from paperweight.loops import InShares
from paperweight.processes.guard import descendants
from paperweight.studies import Arm, Outcome, Setting, across_devices

README = Path(__file__).resolve().parents[2] / "README.md"
STUDY = """
    import os, signal
    from pathlib import Path
    import copy
    import torch
    from torch import nn
    from paperweight.loops import InShares, evaluate_classifier, fit_classifier
    from paperweight.studies import Arm, Metric, Outcome, Study, across_devices

    STUDY = Study(
        paper="spread", question="Is it the same?", claim="It is the same.",
        arms={
            "plain": Arm("without Fabric", 0),
            "one": Arm("one device", 1),
            "lost": Arm("two devices, of which one is lost", 2),
            "two": Arm("two devices", 2),
            "ahead": Arm("two devices, of which the first is done before the other", 2),
        },
        metrics={"score": Metric.higher("score", 0.05)}, headline="score", tuned="nothing", limits="a toy",
    )

    def run(arm, setting):
        return train(arm, setting, None) if arm.make == 0 else across_devices(train, arm, setting, devices=arm.make)

    def train(arm, setting, fabric):
        points, scores = {}, []
        for dtype in (torch.float64, torch.float32):
            inputs = torch.randn(75, 6, generator=setting.generator("data")).to(dtype)
            labels = inputs[:, :3].argmax(1)
            model = setting.initialised(lambda: nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))).to(dtype)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
            shared = model if fabric is None else InShares(model, fabric)
            if arm.name == "ahead":
                if fabric.global_rank == 1:
                    shared(inputs)
                return Outcome(metrics={"score": 1.0})
            twin = copy.deepcopy(model)
            (twin if fabric is None else InShares(twin, fabric))(inputs).square().sum().backward()
            for batch_size in (37, 1):
                losses = fit_classifier(
                    shared, optimizer, inputs, labels, steps=40, batch_size=batch_size, loss=contrasted,
                    augment=noisy, generator=setting.generator("batches"),
                )
            if arm.name == "lost" and fabric.global_rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            found = evaluate_classifier(shared, inputs, labels, batch_size=50)
            parts = [p.detach().flatten() for p in model.parameters()] + [p.grad.flatten() for p in twin.parameters()]
            values = torch.cat([*parts, losses]).tolist()
            points[str(dtype)] = list(enumerate([*values, found.loss]))
            scores.append(found.accuracy)
        places = listening()
        if fabric is not None:
            counts = torch.tensor([sum(places.values()), sum(n for place, n in places.items() if place != "0100007F")])
            places = fabric.all_reduce(counts, reduce_op="sum").tolist()
        return Outcome(metrics={"score": sum(scores) / 2}, curves=points, arguments={"listening": str(places)})

    def contrasted(outputs, labels):  # a loss that is no mean over examples
        alike = outputs @ outputs.T
        return nn.functional.cross_entropy(outputs, labels) + 0.01 * alike.square().mean()

    def noisy(inputs, generator):
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator).to(inputs)

    def listening():
        own, found = {os.readlink(link) for link in links()}, {}
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                cells = line.split()
                if cells[3] == "0A" and f"socket:[{cells[9]}]" in own:
                    address = cells[1].partition(":")[0]
                    found[address] = found.get(address, 0) + 1
        return found

    def links():
        return [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink() and os.path.lexists(link)]
"""


def difference(one: TrialRecord, other: TrialRecord, curve: str) -> float:
    first, second = (torch.tensor(record.curves[curve], dtype=torch.float64)[:, 1] for record in (one, other))
    return ((first - second).norm() / first.norm()).item()


def test_two_processes_give_the_results_of_one_and_one_that_dies_costs_its_trial_alone(tmp_path: Path) -> None:
    study = tmp_path / "spread.py"
    study.write_text(textwrap.dedent(STUDY))
    before = set(descendants(os.getpid()))
    weighing = weigh(str(study), seeds=1, jobs=1, ledger=tmp_path / "ledger.sqlite", budget="smoke")
    assert set(descendants(os.getpid())) <= before
    plain, one, lost, two, ahead = weighing.records
    assert [each.status for each in weighing.records] == ["finished", "finished", "crashed", "finished", "crashed"]

    assert one.curves == plain.curves != {}
    assert 0 < difference(one, two, "torch.float64") < 1e-13
    assert 0 < difference(one, two, "torch.float32") < 1e-5
    assert two.message == "computed by 2 processes"
    everywhere, beyond_the_loopback = json.loads(str(two.arguments["listening"]))
    assert everywhere >= 2
    assert beyond_the_loopback == 0
    assert "process 2 of 2 ended by signal 9 (SIGKILL)" in lost.message
    assert "process 2 of 2 ended with exit status 1" in ahead.message


def test_the_study_of_the_readme_runs(tmp_path: Path) -> None:
    section = README.read_text(encoding="utf-8").partition("## Train across devices")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    (tmp_path / "devices.py").write_text(code[1])
    study = load_study(str(tmp_path / "devices.py"))
    outcome = study.run(study.declaration.arm("one"), Setting(study="devices", seed=0, budget="smoke"))
    assert 0 < outcome.metrics["test_loss"] < 2.4


def train(arm: Arm, setting: Setting, fabric: Any) -> Outcome:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(2, 2).requires_grad_(False), "must have a parameter that needs a gradient"),
        (nn.LSTM(2, 2), r"must give a tensor \(N, ...\), got tuple"),
    ],
)
def test_models_that_cannot_be_shared_are_refused(model: nn.Module, words: str) -> None:
    fabric: Any = SimpleNamespace(setup_module=lambda each: each, world_size=2, global_rank=0)
    with pytest.raises(InputError, match=words):
        InShares(model, fabric)(torch.zeros(4, 2))


def test_without_fabric_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    setting = Setting(study="spread", seed=0, budget="smoke")
    with pytest.raises(InputError, match=r"needs Lightning Fabric; install it with: pip install 'paperweight-ml\[fab"):
        across_devices(train, Arm("alone", None), setting, devices=1)


@pytest.mark.parametrize(
    ("devices", "function", "words"),
    [
        (0, train, "devices must be a whole number of at least 1, got 0"),
        (1.5, train, "devices must be a whole number of at least 1, got 1.5"),
        ("2", train, "devices must be a whole number of at least 1, got '2'"),
        (True, train, "devices must be a whole number of at least 1, got True"),
        (2, train, "train must be a function of the study's file under its own name, got train"),
        (2, partial(train), r"train must be a function of the study's file under its own name, got functools.partial"),
        (2, lambda *_: train(*_), "train must be a function of the study's file under its own name, got <lambda>"),
    ],
)
def test_what_cannot_be_run_in_other_processes_is_refused(devices: Any, function: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        across_devices(function, Arm("it", None), Setting(study="spread", seed=0, budget="smoke"), devices=devices)
