"""Choices of tuning at the edge of a grid are recorded, and told where they might change a result."""

import pytest

from paperweight.bench.choices import edges
from paperweight.bench.statistics import Interval, compare
from paperweight.bench.trial import TrialSpec
from paperweight.bench.worker import run_trial


def measured(chosen: object, grid: object, seeds: int = 6) -> dict[str, object]:
    return {"seeds": [*range(seeds)], "grids": {"method": {"lr": grid}}, "arguments": {"method": {"lr": chosen}}}


@pytest.mark.parametrize(
    ("chosen", "side", "count"),
    [
        (3.0, "highest", 6),
        ([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], "lowest", 3),
        ([1.0, 1.0, 2.0, 2.0, 3.0, 2.0], None, 0),
        (2.0, None, 0),
    ],
)
def test_more_than_a_third_of_the_seeds_at_one_end_is_told(chosen: object, side: str | None, count: int) -> None:
    found = edges(measured(chosen, [1.0, 2.0, 3.0]))
    assert [(edge.side, edge.count, edge.seeds) for edge in found] == ([] if side is None else [(side, count, 6)])


def test_each_seed_has_its_own_grid_where_these_differ_and_none_where_it_failed() -> None:
    grids = [[1.0, 2.0], [2.0, 4.0], None]
    (found,) = edges(measured([2.0, 4.0, None], grids, seeds=3))
    assert (found.side, found.count, found.arm, found.name) == ("highest", 2, "method", "lr")


def test_one_value_has_no_edge_and_old_results_have_no_grids() -> None:
    assert edges(measured(1.0, [1.0])) == []
    assert edges({"seeds": [0], "arguments": {}}) == []


def test_a_trial_records_value_and_grid_of_what_was_tuned_and_draws_the_scores() -> None:
    record = run_trial(TrialSpec(study="adabelief", arm="sgd", seed=0, budget="smoke"))
    assert record.grids["lr"] == [0.03, 0.1, 0.3, 1.0]
    assert record.arguments["lr"] in record.grids["lr"]
    assert record.grids.keys() == {"lr", "lr_of_first_quarter"}
    points = record.curves["score on validation data, by log10 lr"]
    assert [round(10**x, 2) for x, _ in points] == record.grids["lr"]


@pytest.mark.parametrize(
    ("gains", "effect", "could_not"),
    [
        ([0.01, -0.01, 0.02, -0.02, 0.0, 0.01, -0.01, 0.0], 0.001, True),
        ([0.01, -0.01, 0.02, -0.02, 0.0, 0.01, -0.01, 0.0], 1.0, False),  # no effect
        ([0.01, 0.012, 0.011, 0.009, 0.01, 0.012, 0.011, 0.01], 0.0001, False),  # helps
        ([0.01, 0.02, 0.01, -0.005, 0.0, 0.012, -0.002, 0.02], 0.012, False),  # inconclusive, but narrow
        ([0.01, -0.01, 0.02, None, 0.0, 0.01, -0.01, 0.0], 1.0, True),
    ],
)
def test_only_what_is_inconclusive_and_wide_could_not_decide(
    gains: list[float | None], effect: float, could_not: bool
) -> None:
    found = compare({("loss", "method"): gains}, {"loss": effect}, primary=("loss", "method"))
    assert found["loss", "method"].could_not_decide is could_not


def test_half_width_is_half_of_the_interval_and_may_be_infinite() -> None:
    assert Interval(-0.1, 0.3, 0.95).half_width == pytest.approx(0.2)
    assert Interval(-float("inf"), 0.3, 0.95).half_width == float("inf")
    assert Interval(float("inf"), float("inf"), 0.95).half_width == 0.0
