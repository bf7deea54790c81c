"""Trainings of all combinations: rows, sums of squares by slow loops and closed forms, and a table that goes on."""

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from paperweight.errors import InputError
from paperweight.robustness.data_budget import BudgetStudy

FACTORS = {"loss": ["labels", "clip", "both"], "budget": [100, 400]}
SEEDS = (3, 5, 6, 9)


def noise(*given):
    return float(np.random.default_rng([len(str(each)) + 7 * hash_free(each) for each in given]).normal())


def hash_free(given):
    return sum(map(ord, str(given)))


def measured(loss, budget, seed):
    together = 0.5 * (loss == "clip" and budget == 400)
    return {"accuracy": 0.3 * (loss == "both") + budget / 1000 + together + 0.1 * noise(loss, budget, seed) + seed}


def test_each_combination_is_trained_with_each_seed():
    asked = []

    def train(loss, budget, seed):
        asked.append((loss, budget, seed))
        return measured(loss, budget, seed)

    table = BudgetStudy(FACTORS, train, SEEDS).run()
    assert sorted(asked) == sorted(itertools.product(*FACTORS.values(), SEEDS))
    values = table.values("accuracy")
    assert values.shape == (3, 2, 4)
    assert values[1, 0, 2] == measured("clip", 100, 6)["accuracy"]
    assert table.rows[0] == {"loss": "labels", "budget": "100", "seed": 3, **measured("labels", 100, 3)}


def test_shares_are_those_of_a_slow_loop():
    effects = {each.factors: each for each in BudgetStudy(FACTORS, measured, SEEDS).run().effects("accuracy")}
    cells = {key: measured(*key)["accuracy"] for key in itertools.product(*FACTORS.values(), SEEDS)}
    mean = statistics.mean(cells.values())

    def of(**fixed):
        names = ("loss", "budget", "seed")
        chosen = [
            value for key, value in cells.items() if all(key[names.index(name)] == at for name, at in fixed.items())
        ]
        return statistics.mean(chosen)

    total = sum((value - mean) ** 2 for value in cells.values())
    by_loss = sum((of(loss=loss) - mean) ** 2 for loss, _, _ in cells)
    by_budget = sum((of(budget=budget) - mean) ** 2 for _, budget, _ in cells)
    by_seed = sum((of(seed=seed) - mean) ** 2 for _, _, seed in cells)
    by_both = sum(
        (of(loss=loss, budget=budget) - of(loss=loss) - of(budget=budget) + mean) ** 2 for loss, budget, _ in cells
    )
    left = total - by_loss - by_budget - by_seed - by_both
    for names, squares, freedom in ((("loss",), by_loss, 2), (("budget",), by_budget, 1), (FACTORS, by_both, 2)):
        found = effects[tuple(names)]
        assert found.share == pytest.approx(squares / total)
        assert found.p == pytest.approx(stats.f.sf(squares / freedom / (left / 15), freedom, 15), rel=1e-6)
    assert effects[("loss",)].means == pytest.approx({loss: of(loss=loss) for loss in FACTORS["loss"]})
    assert [each.share for each in effects.values()] == sorted((each.share for each in effects.values()), reverse=True)


def test_one_factor_of_two_levels_is_the_paired_t_test():
    def train(loss, seed):
        return {"accuracy": 0.1 * (loss == "clip") + noise(loss, seed) + 10 * seed}

    (effect,) = BudgetStudy({"loss": ["labels", "clip"]}, train, range(8)).run().effects("accuracy")
    first, second = ([train(loss, seed)["accuracy"] for seed in range(8)] for loss in ("labels", "clip"))
    assert effect.p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-6)


def test_where_nothing_matters_p_is_uniform():
    found = []
    for draw in range(200):
        study = BudgetStudy({"a": [0, 1], "b": [0, 1, 2]}, lambda a, b, seed, draw=draw: {"m": noise(a, b, seed, draw)})
        found += [effect.p for effect in study.run().effects("m")]
    assert 0.02 < statistics.mean(p < 0.05 for p in found) < 0.09


def test_what_leaves_nothing_to_chance_has_no_p():
    single = BudgetStudy({"a": [0, 1]}, lambda a, seed: {"m": a}, seeds=[0]).run().effects("m")
    assert [(effect.share, math.isnan(effect.p)) for effect in single] == [(1.0, True)]
    same = BudgetStudy({"a": [0, 1]}, lambda a, seed: {"m": 1.0}).run().effects("m")
    assert [(effect.share, math.isnan(effect.p)) for effect in same] == [(0.0, True)]


def test_a_table_on_disk_is_gone_on_with(tmp_path):
    asked, path = [], tmp_path / "new" / "table.csv"

    def train(loss, budget, seed):
        if len(asked) == 5:
            raise KeyboardInterrupt
        asked.append((loss, budget, seed))
        return measured(loss, budget, seed)

    with pytest.raises(KeyboardInterrupt):
        BudgetStudy(FACTORS, train, SEEDS).run(path)
    asked.append("past the break")
    table = BudgetStudy(FACTORS, train, SEEDS).run(path)
    assert len(asked) == 25
    assert table == BudgetStudy(FACTORS, measured, SEEDS).run()
    assert len(path.read_text().splitlines()) == 25
    assert BudgetStudy(FACTORS, train, SEEDS[:2]).run(path).values("accuracy").shape == (3, 2, 2)
    assert len(asked) == 25


def test_a_table_of_other_factors_or_a_torn_line_is_told(tmp_path):
    path = tmp_path / "table.csv"
    BudgetStudy({"loss": ["labels"]}, lambda loss, seed: {"m": 1}, seeds=[0]).run(path)
    with pytest.raises(InputError, match=r"table\.csv must begin with the columns loss, budget, seed, it has loss, s"):
        BudgetStudy(FACTORS, measured, SEEDS).run(path)
    path.write_text(path.read_text() + "labels,1\n")
    with pytest.raises(InputError, match=r"table\.csv, line 3: seeds must be whole numbers and measures numbers"):
        BudgetStudy({"loss": ["labels"]}, lambda loss, seed: {"m": 1}, seeds=[0, 1]).run(path)


def once(b, seed):
    return {"acc": 0.98765, "loss": 2.0}


def test_a_line_that_was_cut_off_is_trained_again(tmp_path):
    path, study = tmp_path / "table.csv", BudgetStudy({"b": [500, 2000]}, once, seeds=[0])
    whole = study.run(path)
    text = path.read_text()
    for cut in (1, 4, 12, len(text) - 3, len(text)):
        path.write_text(text[:-cut])
        assert study.run(path) == whole
        assert path.read_text() == text


def test_columns_are_those_of_the_file(tmp_path):
    path, study = tmp_path / "table.csv", BudgetStudy({"b": [500]}, once, seeds=[0])
    path.write_bytes("\ufeffb,seed,loss,acc\n".encode())
    assert study.run(path).rows[0]["acc"] == study.run(path).rows[0]["acc"] == 0.98765
    path.write_text("b,seed,loss\n")
    with pytest.raises(ValueError, match=r"same measures each time, \['loss'\]"):
        study.run(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"b,seed,acc,loss\n500,0.7,1,2\n", "seeds must be whole numbers"),
        (b"b,seed,acc,loss\n500,nan,1,2\n", "seeds must be whole numbers"),
        (b"b,seed,acc,loss\n500,0,1,2,3\n", "as many as there are columns"),
        (b"b,seed,acc\n\xe9,0,1\n", "must be a CSV file in UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, content, words):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"table.csv.*{words}"):
        BudgetStudy({"b": [500]}, once, seeds=[0]).run(path)
    with pytest.raises(InputError, match="must be a CSV file"):
        BudgetStudy({"b": [500]}, once, seeds=[0]).run(tmp_path)


def test_a_measure_that_never_changes_is_explained_by_nothing():
    found = BudgetStudy({"a": [1, 2, 3], "b": ["x", "y"]}, lambda a, b, seed: {"m": 0.1}).run().effects("m")
    assert [effect.share for effect in found] == [0.0] * 3
    assert all(math.isnan(effect.p) for effect in found)
    assert found[0].means == pytest.approx({"1": 0.1, "2": 0.1, "3": 0.1})


@pytest.mark.parametrize(
    ("factors", "seeds", "words"),
    [
        ({}, [0], "factors must be one at least"),
        ({"seed": [1]}, [0], "none is named seed"),
        ({"loss": []}, [0], "loss has"),
        ({"loss": [1, "1"]}, [0], "read differently"),
        ({"loss": ["a\nb"]}, [0], "in one line each"),
        ({"loss": "clip"}, [0], "lists of levels"),
        ({"loss": [1]}, [], "seeds must be at least one"),
        ({"loss": [1]}, [0, 0], "all different"),
    ],
)
def test_what_cannot_be_trained_is_refused(factors, seeds, words):
    with pytest.raises(ValueError, match=words):
        BudgetStudy(factors, measured, seeds)


def test_measures_are_named_and_alike_and_finite():
    table = BudgetStudy({"a": [0, 1]}, lambda a, seed: {"m": math.inf if a else 0.0}).run()
    with pytest.raises(ValueError, match="measure must be one of m, got 'n'"):
        table.values("n")
    with pytest.raises(ValueError, match="must be finite"):
        table.effects("m")
    with pytest.raises(ValueError, match="same measures each time"):
        BudgetStudy({"a": [0, 1]}, lambda a, seed: {"m": 1.0} if a else {"n": 1.0}).run()
    with pytest.raises(ValueError, match="none that is named as a factor or seed"):
        BudgetStudy({"a": [0, 1]}, lambda a, seed: {"a": 1.0}).run()
