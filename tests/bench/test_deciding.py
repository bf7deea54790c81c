"""Weighing until it is decided: it stops at the first pair that decides, whatever the order in which trials end."""

import random
from pathlib import Path
from typing import Any

import pytest
from tests.bench.test_weighing import write

from paperweight import weigh
from paperweight.bench.anytime import anytime_interval, anytime_p
from paperweight.bench.deciding import until_verdict
from paperweight.bench.statistics import compare
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.errors import InputError
from paperweight.reports import render_report
from paperweight.studies import Arm, Metric, Study

STUDY = Study(
    paper="example",
    question="Is it so?",
    claim="It is so.",
    arms={name: Arm("an arm", None) for name in ("base", "method", "control")},
    metrics={"loss": Metric(label="loss", unit="", better="lower", minimal_effect=0.2)},
    headline="loss",
    tuned="nothing",
    limits="a toy",
)
SPECS = [TrialSpec(study="example", arm=arm, seed=seed, budget="smoke") for seed in range(10, 50) for arm in STUDY.arms]


def record(spec: TrialSpec, effect: float | None) -> TrialRecord:
    """Return a trial whose loss falls by an effect in the method; one that crashed where there is none."""
    if effect is None:
        return TrialRecord(spec=spec, status="crashed")
    noise = random.Random(f"{spec.seed} {spec.arm}").gauss(0, 0.1)
    return TrialRecord(spec=spec, status="finished", metrics={"loss": noise - effect * (spec.arm == "method")})


def loss(spec: TrialSpec, effect: float) -> float:
    return record(spec, effect).metrics["loss"]


@pytest.mark.parametrize("effect", [0.3, -0.3, 0.0])
def test_wanted_are_the_seeds_up_to_the_first_verdict_in_any_order(effect: float) -> None:
    gains = [loss(SPECS[i], effect) - loss(SPECS[i + 1], effect) for i in range(0, len(SPECS), 3)]

    def verdict(count: int) -> str:
        found = compare(
            {("loss", "method"): gains[:count]},
            {"loss": 0.2},
            primary=("loss", "method"),
            interval=anytime_interval,
            p_value=anytime_p,
        )
        return found["loss", "method"].verdict

    pairs = next(count for count in range(1, 41) if verdict(count) != "inconclusive")
    assert 6 <= pairs < 30
    order = list(SPECS)
    for seed in range(5):
        random.Random(seed).shuffle(order)
        found: dict[str, TrialRecord] = {}
        for spec in order:
            wanted = until_verdict(STUDY, SPECS, found)
            found[spec.key()] = record(spec, effect)
            early = {(arm, seed) for arm in ("base", "method") for seed in range(10, 10 + pairs)}
            enough = early <= {(done.spec.arm, done.spec.seed) for done in found.values()}
            assert len(wanted) in (len(SPECS), 3 * pairs)
            assert len(until_verdict(STUDY, SPECS, found)) == (3 * pairs if enough else len(SPECS))


def test_pairs_without_a_gain_are_not_waited_for() -> None:
    found = {spec.key(): record(spec, None if spec.arm == "method" else 0.0) for spec in SPECS}
    assert [spec.seed for spec in until_verdict(STUDY, SPECS, found)][-1] == 15
    half = {spec.key(): record(spec, None if spec.seed % 2 else 0.5) for spec in SPECS}
    assert until_verdict(STUDY, SPECS, half) == SPECS


CLEAR = """
    def run(arm: Arm, setting: Setting) -> Outcome:
        score = random.gauss(0, 0.1) + 0.3 * (arm.name == "method")
        return Outcome(metrics={"score": score, "loss": 1.0})
"""
NOISY = """
    def run(arm: Arm, setting: Setting) -> Outcome:
        return Outcome(metrics={"score": (-1.0) ** setting.seed * (arm.name == "method"), "loss": 1.0})
"""

FAR = """
    def run(arm: Arm, setting: Setting) -> Outcome:
        gain = -90.0 if setting.seed == 1 else 0.3 + 0.01 * (setting.seed % 3)
        return Outcome(metrics={"score": gain * (arm.name == "method"), "loss": 1.0})
"""

LOST = """
    def run(arm: Arm, setting: Setting) -> Outcome:
        if arm.name == "method":
            raise RuntimeError("no luck")
        return Outcome(metrics={"score": 1.0, "loss": 1.0})
"""


def test_a_weighing_stops_once_it_is_decided_and_runs_nothing_when_it_is_repeated(
    tmp_path: Path, ran: list[TrialSpec]
) -> None:
    study = write(tmp_path / "clear.py", CLEAR, ("base", "method", "other"))
    options: dict[str, Any] = {"budget": "smoke", "ledger": tmp_path / "ledger.sqlite"}
    found = weigh(study, until_decided=True, most=40, **options)
    pairs = len(found.seeds)
    assert found.verdict == "helps"
    assert 6 <= pairs < 20
    assert len(ran) == 3 * pairs
    assert found.record()["measured"]["most_pairs"] == 40
    assert found.command.startswith(f"paperweight weigh {study} --until-decided")
    assert "--most 40" in found.command
    assert "--seeds" not in found.command
    assert f"over {pairs} pairs" in found.words()
    assert "looked at one by one, until there was a verdict, of at most 40;" in found.words()
    assert "anytime p" in found.words()
    assert "valid however often the pairs are looked at" in render_report(found)
    ran.clear()
    again = weigh(study, until_decided=True, most=40, **options)
    assert (again.words(), ran) == (found.words(), [])
    fixed = weigh(study, seeds=pairs, **options)
    assert ran == []
    assert "most_pairs" not in fixed.record()["measured"]
    assert "sign-flip p" in fixed.words()


def test_without_a_verdict_it_ends_with_the_most_pairs(tmp_path: Path, ran: list[TrialSpec]) -> None:
    study = write(tmp_path / "noisy.py", NOISY)
    found = weigh(study, budget="smoke", until_decided=True, most=9, first_seed=1000, ledger=None)
    assert (found.verdict, found.seeds, len(ran)) == ("inconclusive", tuple(range(1000, 1009)), 18)
    assert "looked at one by one, and there was no verdict after all of them;" in found.words()
    study = write(tmp_path / "lost.py", LOST)
    lost = weigh(study, budget="smoke", until_decided=True, most=9, ledger=None)
    assert len(lost.seeds) == 6
    assert "looked at one by one, and it ended here, as none of them has a gain;" in lost.words()


def test_an_average_outside_its_interval_is_explained(tmp_path: Path) -> None:
    study = write(tmp_path / "far.py", FAR)
    found = weigh(study, budget="smoke", until_decided=True, most=40, ledger=None)
    method = found.comparisons("score")["method"]
    assert method.gain < method.interval.low
    words = "A few pairs that differ much put the average outside the interval, which is of the centre."
    assert words in found.words()
    near = weigh(study, budget="smoke", until_decided=True, first_seed=2, ledger=None)
    assert words not in near.words()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"most": 10}, "most bounds a weighing until it is decided, got 10; add until_decided"),
        ({"until_decided": True, "seeds": 8}, "seeds fixes the number of pairs, got 8; until_decided takes most"),
        ({"until_decided": True, "most": 5}, "most must be at least 6, with fewer no verdict is possible, got 5"),
    ],
)
def test_bounds_that_do_not_fit_together_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        weigh("laplacian_smoothing", ledger=None, **options)
