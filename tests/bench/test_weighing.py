"""Weighing small studies with real workers: failures, costs, reuse of workers, resuming."""

import itertools
import sqlite3
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from paperweight import Weighing, weigh
from paperweight.bench.engine import default_jobs, local_engine
from paperweight.bench.ledger import Ledger
from paperweight.bench.trial import TrialSpec
from paperweight.bench.worker import run_trial
from paperweight.errors import InputError
from paperweight.processes import start_worker
from paperweight.provenance import here

HEAD = """
    import os, random, signal, subprocess, sys, time
    from pathlib import Path
    import numpy as np
    import torch
    from paperweight.studies import Arm, Metric, Outcome, Setting, Study

    STUDY = Study(
        paper="example", question="Is it so?", claim="It is so.",
        arms=dict.fromkeys({arms!r}, Arm("an arm", None)),
        metrics={{
            "score": Metric(label="score", unit="points", better="higher", minimal_effect=0.05),
            "loss": Metric(label="loss", unit="", better="lower", minimal_effect=0.05),
        }},
        headline="score", tuned="nothing", limits="a toy",
    )
"""

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path / "cache"))


def write(path: Path, body: str, arms: tuple[str, ...] = ("base", "method")) -> str:
    path.write_text(textwrap.dedent(HEAD).format(arms=arms) + textwrap.dedent(body))
    return str(path)


def trial(study: str, arm: str = "base", seed: int = 0, **changes: Any) -> TrialSpec:
    return TrialSpec(study=study, arm=arm, seed=seed, budget="smoke", **changes)


# --- one weighing with every kind of failure ----------------------------------------------------------------------

ARMS = ("base", "noop", "failing", "heavy")
FAILING = """
    def run(arm: Arm, setting: Setting) -> Outcome:
        noise = torch.rand(1, generator=setting.generator("data")).item()
        score = noise + (0.1 if arm.name == "heavy" else 0.0)
        print("a study may print", '{"spec": 1}', flush=True)
        os.write(1, b"even so\\n")
        if arm.name == "failing":
            score += 10.0
            if setting.seed == 0:
                raise RuntimeError("the 1st way to fail")
            if setting.seed == 1:
                sys.stderr.write("last words\\n")
                os._exit(3)
            if setting.seed == 2:
                os.kill(os.getpid(), signal.SIGSEGV)
            if setting.seed == 3:
                raise MemoryError
            if setting.seed == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            if setting.seed == 5:
                score = float("nan")
        if arm.name == "heavy":
            block = np.ones(200 * 2**20 // 8)
            end = time.process_time() + 0.1
            while time.process_time() < end:
                block[:1000].sum()
        start = time.process_time()
        while time.process_time() < start + 0.01:
            pass
        return Outcome(
            metrics={"score": score, "loss": score},
            arguments={
                "pid": os.getpid(),
                "threads": torch.get_num_threads(),
                "omp": os.environ["OMP_NUM_THREADS"],
                "rate": 0.5,
            },
        )
"""


@pytest.fixture(scope="module")
def weighing(tmp_path_factory: pytest.TempPathFactory) -> Weighing:
    folder = tmp_path_factory.mktemp("failing")
    study = write(folder / "failing.py", FAILING, ARMS)
    return weigh(study, budget="smoke", seeds=6, jobs=1, ledger=folder / "ledger.sqlite")


def test_every_failure_is_a_record_of_its_trial_alone(weighing: Weighing) -> None:
    assert len(weighing.records) == 6 * len(ARMS)
    assert [weighing.trial("failing", seed).status for seed in range(6)] == [
        "crashed",
        "crashed",
        "crashed",
        "out-of-memory",
        "killed",
        "diverged",
    ]
    assert {r.status for r in weighing.records if r.spec.arm != "failing"} == {"finished"}
    assert [r.spec.seed for r in weighing.failures] == [0, 1, 2, 3, 4, 5]


def test_messages_of_failures_say_why(weighing: Weighing) -> None:
    messages = [weighing.trial("failing", seed).message for seed in range(6)]
    assert messages[0].splitlines()[-1] == "RuntimeError: the 1st way to fail"
    assert "exit status 3" in messages[1]
    assert "last words" in messages[1]
    assert "signal 11" in messages[2]
    assert "MemoryError" in messages[3]
    assert "signal 9" in messages[4]


def test_no_pair_is_dropped_and_no_failure_helps(weighing: Weighing) -> None:
    pairs = weighing.pairs_of("failing", "score")
    assert [pair.seed for pair in pairs] == list(range(6))
    assert [pair.gain for pair in pairs] == [None] * 5 + [float("-inf")]
    found = weighing.comparisons("score")["failing"]
    assert (found.verdict, found.p) == ("inconclusive", 1.0)
    assert found.gain != found.gain  # there is no known difference


def test_an_arm_that_does_nothing_differs_by_exactly_nothing(weighing: Weighing) -> None:
    assert [pair.gain for pair in weighing.pairs] == [0.0] * 6
    assert (weighing.method, weighing.verdict) == ("noop", "no effect")
    assert len({pair.baseline for pair in weighing.pairs}) == 6


def test_direction_of_a_metric_turns_the_verdict(weighing: Weighing) -> None:
    score, loss = (weighing.comparisons(metric)["heavy"] for metric in ("score", "loss"))
    assert (score.gain, loss.gain) == pytest.approx((0.1, -0.1))
    assert (score.interval.low, score.interval.high) == pytest.approx((0.1, 0.1))
    assert score.p == loss.p == 2 / 64
    assert (score.primary, score.p_adjusted) == (False, 10 / 64)  # of five secondary ones
    assert (score.verdict, loss.verdict) == ("inconclusive", "inconclusive")
    records = [record for record in weighing.records if record.spec.arm in ("base", "heavy")]
    alone = Weighing(weighing.loaded, ("base", "heavy"), range(6), records, "", units={})
    found = {metric: alone.comparisons(metric)["heavy"] for metric in ("score", "loss")}
    assert {metric: each.verdict for metric, each in found.items()} == {"score": "helps", "loss": "hurts"}
    assert {metric: each.primary for metric, each in found.items()} == {"score": True, "loss": False}
    assert (alone.method, alone.verdict) == ("heavy", "helps")


def test_a_healthy_worker_is_reused_and_a_dead_one_replaced(weighing: Weighing) -> None:
    pids = [weighing.trial(arm, seed).arguments.get("pid") for seed in range(6) for arm in ARMS]
    known = [pid for pid in pids if pid is not None]
    changes = [pid for before, pid in itertools.pairwise(known) if pid != before]
    assert (len(set(known)), len(changes)) == (4, 3)  # workers of three trials died


def test_a_worker_that_was_started_before_runs_the_first_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write(
        tmp_path / "study.py",
        """
        def run(arm: Arm, setting: Setting) -> Outcome:
            return Outcome(metrics={"score": 1.0, "loss": 1.0}, arguments={"guard": os.getppid()})
        """,
    )
    sent: list[str] = []
    with closing(start_worker()) as worker:
        send = worker.send
        monkeypatch.setattr(worker, "send", lambda line: (sent.append(line), send(line)))
        found = weigh(study, budget="smoke", seeds=1, jobs=1, ledger=None, worker=worker)
    assert len(sent) == len(found.records) == 2
    assert len({record.arguments["guard"] for record in found.records}) == 1


def test_a_trial_has_one_thread_and_says_so(weighing: Weighing) -> None:
    done = [record for record in weighing.records if record.arguments]
    assert {(r.arguments["threads"], r.arguments["omp"], r.environment["threads"]) for r in done} == {(1, "1", "1")}
    assert weighing.environment["torch"]
    file = sqlite3.connect(Path(weighing.loaded.name).with_name("ledger.sqlite"))
    assert file.execute("SELECT DISTINCT threads FROM trial WHERE status = 'finished'").fetchall() == [(1,)]
    file.close()


def test_costs_follow_what_an_arm_spends(weighing: Weighing) -> None:
    heavy, noop = weighing.cost("heavy"), weighing.cost("noop")
    assert heavy.cpu is not None
    assert heavy.wall is not None
    assert noop.cpu is not None
    assert heavy.cpu > 3
    assert heavy.wall > 1
    assert 0.3 < noop.cpu < 3
    assert weighing.cost("failing").cpu is not None  # of the pair in which it diverged
    for seed in range(6):
        peaks = [weighing.trial(arm, seed).peak_bytes for arm in ("base", "heavy")]
        assert peaks[0] is not None
        assert peaks[1] is not None
        assert peaks[0] < 100 * 2**20 < 190 * 2**20 < peaks[1] < 300 * 2**20


def test_rows_hold_costs_metrics_and_arguments(weighing: Weighing) -> None:
    rows = weighing.rows()
    assert [(row["seed"], row["arm"]) for row in rows] == [(seed, arm) for seed in range(6) for arm in ARMS]
    assert rows[0]["arguments.rate"] == 0.5
    assert rows[0]["score"] == weighing.conclusion.values("base", "score")[0]
    assert rows[2]["status"] == "crashed"
    assert rows[2]["score"] is None


def test_only_the_driver_wrote_and_all_of_it(weighing: Weighing) -> None:
    file = sqlite3.connect(Path(weighing.loaded.name).with_name("ledger.sqlite"))
    rows = file.execute("SELECT arm, seed, status FROM trial ORDER BY seed, id").fetchall()
    assert sorted(rows) == sorted((r.spec.arm, r.spec.seed, r.status) for r in weighing.records)
    assert file.execute("SELECT study, verdict, seeds FROM verdict").fetchall() == [("failing", "no effect", 6)]
    file.close()


# --- time limit ----------------------------------------------------------------------------------------------------


def test_a_trial_that_is_too_slow_is_recorded_and_the_start_of_a_worker_does_not_count(tmp_path: Path) -> None:
    study = write(
        tmp_path / "slow.py",
        """
        def run(arm: Arm, setting: Setting) -> Outcome:
            time.sleep(60.0 if arm.name == "method" else 0.0)
            return Outcome(metrics={"score": 1.0, "loss": 1.0})
        """,
    )
    found = weigh(study, budget="smoke", seeds=1, jobs=1, time_limit=3.0, ledger=None)
    assert [found.trial(arm, 0).status for arm in found.arms] == ["finished", "timed-out"]
    assert "3 s" in found.trial("method", 0).message
    assert found.pairs[0].gain is None


# --- resuming ------------------------------------------------------------------------------------------------------

RESUMED = """
    def run(arm: Arm, setting: Setting) -> Outcome:
        '''Fail while a file lies beside this one.'''
        if arm.name == "method" and Path(__file__).with_name("fail").exists():
            raise RuntimeError("there is a file")
        draws = [torch.rand(1, generator=setting.generator(r)).item() for r in ("data", "init", "method", "evaluation")]
        unseeded = [torch.rand(1).item(), float(np.random.rand()), random.random()]
        return Outcome(metrics={"score": sum(draws) + sum(unseeded), "loss": 0.0})
"""


def test_finished_trials_are_not_run_again(tmp_path: Path, ran: list[TrialSpec]) -> None:
    study = write(tmp_path / "resumed.py", RESUMED)
    ledger = tmp_path / "ledger.sqlite"
    events: list[tuple[str, int, int]] = []

    def run(seeds: int, **options: Any) -> Weighing:
        events.clear()
        return weigh(
            study,
            budget="smoke",
            seeds=seeds,
            jobs=1,
            ledger=ledger,
            progress=lambda *event: events.append(event),
            **options,
        )

    def rows() -> int:
        file = sqlite3.connect(ledger)
        (count,) = file.execute("SELECT count(*) FROM trial").fetchone()
        file.close()
        return count

    (tmp_path / "fail").touch()
    first = run(1)
    assert ([r.status for r in first.records], rows()) == (["finished", "crashed"], 2)
    assert events == [("trials", 0, 2), ("trials", 1, 2), ("trials", 2, 2)]
    (tmp_path / "fail").unlink()

    ran.clear()
    assert ([r.status for r in run(1).records], rows()) == (["finished", "crashed"], 2)
    assert events == [("trials", 2, 2)]
    assert ran == []

    more = run(2, retry=True)
    assert [(spec.arm, spec.seed) for spec in ran] == [("method", 0), ("base", 1), ("method", 1)]
    assert ([r.status for r in more.records], rows()) == (["finished"] * 4, 5)
    assert more.records[0] == first.records[0]
    assert more.trial("base", 0).metrics == more.trial("method", 0).metrics
    assert more.trial("base", 0).metrics != more.trial("base", 1).metrics

    text = Path(study).read_text()
    Path(study).write_text(text.replace("'''Fail while", "# a comment\n    '''Fail as long as").replace("(1)", "( 1 )"))
    ran.clear()
    run(2)
    assert (ran, rows()) == ([], 5)


def test_a_baseline_that_never_finishes_is_an_error_and_runs_again(tmp_path: Path, ran: list[TrialSpec]) -> None:
    study = write(
        tmp_path / "broken.py",
        """
        def run(arm: Arm, setting: Setting) -> Outcome:
            if arm.name == "base" and not Path(__file__).with_name("mended").exists():
                raise ValueError("the disk of the data is not there")
            return Outcome(metrics={"score": 1.0, "loss": 1.0})
        """,
    )

    def run() -> Weighing:
        return weigh(study, budget="smoke", seeds=2, jobs=1, ledger=tmp_path / "ledger.sqlite")

    says = (
        "none of the 2 trials of the baseline 'base' finished.* crashed: ValueError: the disk of the data is not there"
    )
    with pytest.raises(InputError, match=says):
        run()
    (tmp_path / "mended").touch()
    ran.clear()
    assert {record.status for record in run().records} == {"finished"}
    assert [(spec.arm, spec.seed) for spec in ran] == [("base", 0), ("base", 1)]


def test_a_changed_study_is_run_again_in_the_same_process(tmp_path: Path, ran: list[TrialSpec]) -> None:
    body = """
        def run(arm: Arm, setting: Setting) -> Outcome:
            return Outcome(metrics={"score": 1.0, "loss": 0.0})
    """
    study = write(tmp_path / "changed.py", body)
    assert (
        weigh(study, budget="smoke", seeds=1, jobs=1, ledger=tmp_path / "ledger.sqlite").conclusion.values(
            "base", "score"
        )[0]
        == 1.0
    )
    write(tmp_path / "changed.py", body.replace('"score": 1.0', '"score": 2.0'))
    assert (
        weigh(study, budget="smoke", seeds=1, jobs=1, ledger=tmp_path / "ledger.sqlite").conclusion.values(
            "base", "score"
        )[0]
        == 2.0
    )
    assert len(ran) == 4


def test_a_change_of_what_one_arm_executes_runs_that_arm_only(
    tmp_path: Path, ran: list[TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write(
        tmp_path / "one_arm.py",
        """
        from paperweight.loops import best_of, loss_curve

        def run(arm: Arm, setting: Setting) -> Outcome:
            if arm.name == "method":
                best_of([1.0], float, better="lower")
            else:
                loss_curve(torch.ones(2))
            return Outcome(metrics={"score": 1.0, "loss": 1.0})
        """,
        ("base", "method", "third"),
    )

    def run() -> list[tuple[str, int]]:
        ran.clear()
        weigh(study, budget="smoke", seeds=2, jobs=1, ledger=tmp_path / "ledger.sqlite")
        return [(spec.arm, spec.seed) for spec in ran]

    def in_a_tree_without(unit: str) -> None:
        class Changed:
            def state(self) -> str:
                return f"another state, without {unit}"

            def digest(self, name: str) -> str:
                return "" if name == unit else here().digest(name)

        monkeypatch.setattr("paperweight.bench.ledger.here", Changed)

    assert len(run()) == 6
    assert run() == []
    in_a_tree_without("loops.choice:tune")  # which no arm executes
    assert run() == []
    in_a_tree_without("loops.choice:best_of")
    assert run() == [("method", 0), ("method", 1)]
    in_a_tree_without("loops.core:loss_curve")
    assert run() == [("base", 0), ("third", 0), ("base", 1), ("third", 1)]


def test_a_network_that_starts_from_other_weights_is_run_again(
    tmp_path: Path, ran: list[TrialSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = write(
        tmp_path / "started.py",
        """
        def run(arm: Arm, setting: Setting) -> Outcome:
            model = setting.network((1, 8, 8), 10, default=None)
            return Outcome(metrics={"score": model[1].weight.sum().item(), "loss": 0.0})
        """,
    )
    (tmp_path / "started_network.py").write_text(
        textwrap.dedent("""
        from pathlib import Path
        import torch
        from torch import nn

        def make(shape, classes):
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
            model.load_state_dict(torch.load(Path(__file__).with_name("weights.pt")))
            return model
        """)
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    weights = {"1.weight": torch.ones(10, 64), "1.bias": torch.zeros(10)}

    def score(seeds: int) -> float | None:
        ran.clear()
        options: dict[str, Any] = {"network": "started_network:make", "ledger": tmp_path / "ledger.sqlite"}
        return weigh(study, budget="smoke", seeds=seeds, jobs=1, **options).conclusion.values("base", "score")[0]

    torch.save(weights, tmp_path / "weights.pt")
    assert (score(1), len(ran)) == (640.0, 2)
    assert (score(2), len(ran)) == (640.0, 2)
    torch.save(weights | {"1.weight": torch.zeros(10, 64)}, tmp_path / "weights.pt")
    assert (score(2), len(ran)) == (0.0, 4)


def test_trials_that_were_killed_are_run_again_without_being_asked_for(tmp_path: Path, ran: list[TrialSpec]) -> None:
    study = write(tmp_path / "killed.py", RESUMED)
    ledger = tmp_path / "ledger.sqlite"
    first = weigh(study, budget="smoke", seeds=1, jobs=1, ledger=ledger)
    with Ledger(str(ledger)) as book:
        book.add(first.trial("method", 0).model_copy(update={"status": "killed", "metrics": {}}))
    ran.clear()
    assert weigh(study, budget="smoke", seeds=1, jobs=1, ledger=ledger).records[1].status == "finished"
    assert [(spec.arm, spec.seed) for spec in ran] == [("method", 0)]


def test_left_out_there_are_eight_pairs_however_many_arms(tmp_path: Path, ran: list[TrialSpec]) -> None:
    body = """
        def run(arm: Arm, setting: Setting) -> Outcome:
            return Outcome(metrics={"score": 1.0, "loss": 0.0})
    """
    study = write(tmp_path / "many.py", body, tuple(f"arm_{number}" for number in range(9)))
    found = weigh(study, budget="smoke", ledger=None)
    assert (found.seeds, len(ran)) == (tuple(range(8)), 8 * 9)


def test_seeds_from_another_first_one_are_run_paired_and_repeated(tmp_path: Path, ran: list[TrialSpec]) -> None:
    study = write(tmp_path / "seeds.py", RESUMED)
    found = weigh(study, budget="smoke", seeds=3, first_seed=1000, ledger=tmp_path / "ledger.sqlite")
    assert found.seeds == (1000, 1001, 1002)
    assert {spec.seed for spec in ran} == set(found.seeds)
    assert [pair.seed for pair in found.pairs] == [1000, 1001, 1002]
    assert found.record()["measured"]["seeds"] == [1000, 1001, 1002]
    assert "--seeds 3 --first-seed 1000" in found.command
    assert "--first-seed" not in weigh(study, budget="smoke", seeds=1, ledger=None).command
    ran.clear()
    weigh(study, budget="smoke", seeds=3, first_seed=1001, ledger=tmp_path / "ledger.sqlite")
    assert {spec.seed for spec in ran} == {1003}


# --- one trial, in this process ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("{'score': 1.0}", "must return an Outcome, it returned dict"),
        ("None", "must return an Outcome, it returned NoneType"),
        ("Outcome(metrics={'score': 1.0})", r"must return the metrics \['loss', 'score'\], it returned \['score'\]"),
        ("Outcome(metrics={'score': 1.0, 'loss': 1.0, 'x': 1.0})", r"it returned \['loss', 'score', 'x'\]"),
        ("Outcome(metrics={'score': 'high', 'loss': 1.0})", "high"),
    ],
)
def test_a_wrong_outcome_is_a_crash_with_a_reason(tmp_path: Path, returned: str, says: str) -> None:
    study = write(tmp_path / "wrong.py", f"    def run(arm, setting):\n        return {returned}\n")
    found = run_trial(trial(study))
    assert found.status == "crashed"
    assert found.metrics == {}
    with pytest.raises(Exception, match=says):
        raise RuntimeError(found.message.splitlines()[-1])


def test_messages_that_tell_of_memory_are_recognised(tmp_path: Path) -> None:
    study = write(
        tmp_path / "memory.py",
        """
        def run(arm: Arm, setting: Setting) -> Outcome:
            if arm.name == "base":
                torch.empty(1 << 60, dtype=torch.uint8)
            raise RuntimeError("nothing to do with it")
        """,
    )
    assert run_trial(trial(study)).status == "out-of-memory"
    assert run_trial(trial(study, "method")).status == "crashed"


def test_an_outcome_is_recorded_whole(tmp_path: Path) -> None:
    study = write(
        tmp_path / "whole.py",
        """
        def run(arm: Arm, setting: Setting) -> Outcome:
            grey, colour = torch.rand(70, 1, 4, 4), torch.full((2, 3, 4, 4), 2.0)
            return Outcome(
                metrics={"score": torch.tensor(0.5), "loss": np.float32(0.25)},
                arguments={"rate": 0.1, "flag": True, "layers": (1, 2), "name": "é"},
                curves={"c": [(0, 1.0), (1, float("inf"))]},
                images={"grey": grey, "colour": colour},
                correct=torch.tensor([1, 0, 1]),
            )
        """,
    )
    found = run_trial(trial(study))
    assert (found.status, found.metrics) == ("finished", {"score": 0.5, "loss": 0.25})
    assert found.arguments == {"rate": 0.1, "flag": True, "layers": "(1, 2)", "name": "é"}
    assert found.curves == {"c": [(0.0, 1.0), (1.0, float("inf"))]}
    assert (len(found.images["grey"]), len(found.images["colour"])) == (64, 2)
    assert found.correct == "3:oA=="
    assert found.wall_seconds > 0
    assert found.started_at.endswith("+00:00")
    assert type(found).model_validate_json(found.model_dump_json()) == found


def test_what_a_study_has_no_use_for_is_refused(tmp_path: Path) -> None:
    study = write(
        tmp_path / "own_data.py",
        """
        def run(arm: Arm, setting: Setting) -> Outcome:
            return Outcome(metrics={"score": 1.0, "loss": 1.0})
        """,
    )
    assert run_trial(trial(study)).status == "finished"
    with pytest.raises(InputError, match="study own_data has no use for --data; weigh it without"):
        run_trial(trial(study, data="digits"))


def test_a_trial_twice_is_the_same_whatever_was_cached(tmp_path: Path) -> None:
    study = write(
        tmp_path / "recipe.py",
        """
        def run(arm: Arm, setting: Setting) -> Outcome:
            def build() -> dict[str, torch.Tensor]:
                time.sleep(1.0)
                return {"weight": torch.rand(1), "noise": torch.rand(1)}

            weight = setting.cached("recipe", build)["weight"].item()
            return Outcome(metrics={"score": weight, "loss": torch.rand(1).item()})
        """,
    )
    built, loaded, again = (run_trial(trial(study, arm)) for arm in ("base", "method", "base"))
    assert built.wall_seconds < 1.0
    assert loaded.metrics["score"] == built.metrics["score"]
    assert again.metrics == built.metrics  # also what the run drew from the global stream
    assert loaded.metrics == built.metrics


# --- what cannot be run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"first_seed": -1}, "first_seed must be at least 0, got -1"),
        ({"budget": "huge"}, "budget must be one of smoke, desk, gpu; got 'huge'"),
        ({"arms": ["metod"]}, "did you mean method"),
        ({"arms": ["base"]}, "at least one arm beside the baseline 'base'"),
        ({"arms": []}, "at least one arm beside the baseline 'base'"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"time_limit": 0}, "time_limit must be above 0"),
        ({"time_limit": float("nan")}, "time_limit must be above 0"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"device": "meta"}, "device must be cpu or cuda, got 'meta'"),
        ({"data": "nowhere/at/all"}, "nowhere/at/all"),
        ({"network": "no_such_module:f"}, "no_such_module:f"),
        ({"network": "builtins:len"}, "builtins:len"),
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr("paperweight.bench.process.WorkerProcess", lambda _: pytest.fail("a worker was started"))
    study = write(tmp_path / "fine.py", "    def run(arm, setting): return None\n")
    with pytest.raises(InputError, match="(?s)" + says):
        weigh(study, ledger=None, **options)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\n", "must define STUDY"),
        ("STUDY = 1\ndef run(arm, setting): ...\n", "must define STUDY"),
        ("import no_such_module\n", "fails on import: ModuleNotFoundError"),
        ("def (\n", "fails on import: SyntaxError"),
        ("raise SystemExit(0)\n", "fails on import: SystemExit"),
    ],
)
def test_a_file_that_is_no_study_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"broken\.py.*{says}"):
        weigh(str(path), ledger=None)


SOUND_PARTS = {
    "arms": "{'base': Arm('without', 0), 'method': Arm('with', 1)}",
    "metrics": "{'score': Metric.higher('score', 0.1)}",
    "claim": "'It is so.'",
    "seeds": "8",
    "run": "def run(arm, setting): ...",
}


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("arms", "[Arm('a', 0), Arm('b', 1)]", "arms of STUDY in own.py must be a dict of names to Arm, got"),
        ("arms", "{'base': 1, 'method': 2}", "'base' among arms of STUDY in own.py must be made by Arm, got 1;"),
        ("arms", "{'a\\nb': Arm('', 0), 'c': Arm('', 1)}", "must be a text that can be printed, on one line, got"),
        ("arms", "{'a': Arm(None, 0), 'b': Arm('', 1)}", "description of arm 'a' in own.py must be a text, got None;"),
        ("metrics", "{'score': 0.5}", "'score' among metrics of STUDY in own.py must be made by Metric, got 0.5;"),
        ("metrics", "{'score': Metric.higher(None, 1)}", "label of metric 'score' in own.py must be a text"),
        ("metrics", "{'score': Metric.higher('', 1e999)}", "must be a finite number above 0, got inf;"),
        (
            "metrics",
            "{'score': Metric(label='', unit='', better='up', minimal_effect=1)}",
            "better of metric 'score' in own.py must be 'higher' or 'lower', got 'up';",
        ),
        ("claim", "None", "claim of STUDY in own.py must be a text, got None;"),
        ("seeds", "1.5", "seeds of STUDY in own.py must be a whole number, got 1.5;"),
        ("run", "def run(arm): ...", "run in own.py must take (arm, setting): too many positional arguments;"),
    ],
)
def test_a_declaration_that_is_not_what_it_must_be_is_refused(tmp_path: Path, part: str, value: str, says: str) -> None:
    parts = SOUND_PARTS | {part: value}
    path = tmp_path / "own.py"
    path.write_text(
        "from paperweight.studies import Arm, Metric, Study\n"
        f"STUDY = Study(paper='own', question='', claim={parts['claim']}, arms={parts['arms']},\n"
        f"    seeds={parts['seeds']}, metrics={parts['metrics']},\n"
        f"    headline='score', tuned='', limits='')\n{parts['run']}\n"
    )
    with pytest.raises(InputError) as caught:
        weigh(str(path), ledger=None)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"study file .*absent\.py cannot be read"):
        weigh(str(tmp_path / "absent.py"))
    with pytest.raises(InputError, match="did you mean laplacian_smoothing"):
        weigh("laplacian_smothing")


def test_a_subset_of_arms_has_the_baseline_and_the_study_s_order(tmp_path: Path, ran: list[TrialSpec]) -> None:
    study = write(tmp_path / "arms.py", RESUMED, ("base", "method", "third", "fourth"))
    found = weigh(study, budget="smoke", seeds=1, jobs=1, arms=["fourth", "third"], ledger=None)
    assert found.arms == ("base", "third", "fourth")
    assert [spec.arm for spec in ran] == ["base", "third", "fourth"]
    assert found.method == "third"
    assert "--arms fourth --arms third" in found.command


def test_an_engine_with_nothing_to_do_does_nothing() -> None:
    assert list(local_engine(jobs=4, time_limit=1.0).run([])) == []
    assert default_jobs("cuda") == 1
    assert default_jobs("cpu") >= 1
