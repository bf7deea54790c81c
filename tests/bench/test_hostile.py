"""Arms that do harm to their process: their rows say so, and later trials are those of a worker that nobody harmed."""

import textwrap

import pytest

from paperweight import Weighing, weigh

STUDY = """
    import os, random, signal, sys, threading, time
    import numpy as np
    import torch
    import hostile_helper
    from paperweight.studies import Arm, Metric, Outcome, Study

    ARMS = ("base", "changes", "check 1", "writes", "check 2", "returns", "check 3")
    STUDY = Study(
        paper="hostile", question="Does it harm?", claim="It does not.",
        arms=dict.fromkeys(ARMS, Arm("an arm", None)),
        metrics={"score": Metric(label="score", unit="", better="higher", minimal_effect=0.05)},
        headline="score", tuned="nothing", limits="a toy",
    )

    def computed():
        model = torch.nn.Linear(3, 3)
        loss = model(torch.rand(4, 3)).sum() * hostile_helper.SCALE
        loss.backward()
        state = [os.getcwd(), sorted(os.environ), torch.get_num_threads(), sys.getrecursionlimit()]
        return repr([loss.item(), model.weight.grad.sum().item(), np.random.rand(), random.random(), state])

    def run(arm, setting):
        if arm.name == "changes":
            torch.set_default_dtype(torch.float64)
            hostile_helper.SCALE = 2.0
            os.environ["LEFT"] = "1"
            os.chdir("/")
            del sys.modules["torch"]
            threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()
            os.fork()  # the child goes on as if it were the worker
        if arm.name == "writes":
            for descriptor in range(1, 60):
                try:
                    os.write(descriptor, b'{"number": "0", "record": {}}')
                except OSError:
                    pass
            os.closerange(3, 65_536)
        curves = {"c": [(n, n) for n in range(3_000_000)]} if arm.name == "returns" else {}
        return Outcome(metrics={"score": 1.0}, curves=curves, arguments={"computed": computed(), "pid": os.getpid()})
"""


@pytest.fixture(scope="module")
def weighing(tmp_path_factory: pytest.TempPathFactory) -> Weighing:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "hostile.py").write_text(textwrap.dedent(STUDY))
    (folder / "hostile_helper.py").write_text("SCALE = 1.0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAPERWEIGHT_CACHE", str(folder / "cache"))
        return weigh(str(folder / "hostile.py"), budget="smoke", seeds=1, jobs=1, ledger=None)


@pytest.mark.parametrize("check", ["check 1", "check 2", "check 3"])
def test_the_next_trial_is_that_of_a_worker_that_nobody_harmed(weighing: Weighing, check: str) -> None:
    record = weighing.trial(check, 0)
    assert record.status == "finished"
    assert record.arguments["computed"] == weighing.trial("base", 0).arguments["computed"]
    assert "replaced" not in record.message


def test_the_rows_say_what_was_left_changed_and_why_there_is_no_record(weighing: Weighing) -> None:
    (changed, *_) = weighing.trial("changes", 0).message.splitlines()
    for what in (
        "default dtype",
        "environment variable LEFT",
        "current folder",
        "threads",
        "processes",
        "hostile_helper.SCALE",
        "sys.modules.torch",
    ):
        assert what in changed
    assert changed.endswith("the worker was replaced")
    assert (weighing.trial("writes", 0).status, weighing.trial("returns", 0).status) == ("crashed", "crashed")
    assert "return less" in weighing.trial("returns", 0).message


def test_only_what_was_harmed_is_replaced(weighing: Weighing) -> None:
    pids = [weighing.trial(arm, 0).arguments["pid"] for arm in ("base", "check 1", "check 2", "check 3")]
    assert len(set(pids[:3])) == 3
    assert pids[2] == pids[3]
