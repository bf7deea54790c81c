"""Probes of features: beside scikit-learn and loops, in parts, with what is constant, far away or collapsed."""

import math

import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from paperweight.loops import effective_rank, knn_probe, linear_probe, probes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def world(count: int = 150, dim: int = 6, classes: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Three parts of overlapping classes, whose features have widely different scales and places."""
    centres = normal(classes, dim, seed=9)
    parts = []
    for seed in range(3):
        labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
        features = centres[labels] + normal(count, dim, seed=seed)
        parts.append((features * torch.logspace(-2, 2, dim) + 5, labels))
    return parts


@pytest.fixture
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(probes, "_ENTRIES", 40)


@pytest.mark.parametrize("strength", [1e-3, 0.1, 3.0])
def test_the_linear_probe_is_ridge_regression_of_standardised_features(strength, small_parts):
    train, validation, test = world()
    scaler = StandardScaler().fit(train[0].numpy())
    reference = RidgeClassifier(strength * len(train[0])).fit(scaler.transform(train[0].numpy()), train[1].numpy())
    found = linear_probe(train, validation, test, strengths=(strength,))
    expected = reference.predict(scaler.transform(test[0].numpy())) == test[1].numpy()
    assert found.correct.tolist() == expected.tolist()
    assert found.accuracy == expected.mean()
    assert found.chosen == strength
    assert 0.4 < found.accuracy < 0.95
    assert found.validated == pytest.approx(
        reference.score(scaler.transform(validation[0].numpy()), validation[1].numpy())
    )


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 4, 150])
def test_nearest_neighbours_by_a_loop(metric, k, small_parts):
    train, validation, test = world()
    found = knn_probe(train, validation, test, neighbours=(k,), metric=metric)
    correct = []
    for point, label in zip(*test, strict=True):
        if metric == "cosine":
            far = [1 - float(point @ other / point.norm() / other.norm()) for other in train[0]]
        else:
            far = [math.dist(point.tolist(), other.tolist()) for other in train[0]]
        near = [int(train[1][i]) for i in sorted(range(len(far)), key=far.__getitem__)[:k]]
        most = max(near.count(each) for each in near)
        correct.append(next(each for each in near if near.count(each) == most) == int(label))
    assert found.correct.tolist() == correct
    assert found.chosen == k


def test_nearest_neighbours_beside_scikit_learn_in_single_precision_far_from_the_origin():
    train, validation, test = ((features.float() + 50, labels) for features, labels in world(400))
    found = knn_probe(train, validation, test, neighbours=(1,), metric="euclidean")
    reference = KNeighborsClassifier(1).fit(train[0].numpy(), train[1].numpy())
    assert found.accuracy == pytest.approx(reference.score(test[0].numpy(), test[1].numpy()), abs=0.006)


def test_validation_samples_choose_and_test_samples_do_not():
    train, validation, test = world()
    for probe, name, values in ((linear_probe, "strengths", (1e-3, 1.0, 100.0)), (knn_probe, "neighbours", (1, 9, 60))):
        alone = {value: probe(train, validation, test, **{name: (value,)}) for value in values}
        best = max(values, key=lambda value, alone=alone: alone[value].validated)
        found = probe(train, validation, test, **{name: values})
        assert found.chosen == best
        assert found.validated == alone[best].validated
        assert torch.equal(found.correct, alone[best].correct)
        assert len({each.validated for each in alone.values()}) > 1
        turned = probe(train, validation, (test[0], (test[1] + 1) % 4), **{name: values})
        assert turned.chosen == best
        twice = probe(train, validation, test, **{name: (values[1], values[1])})
        assert twice.chosen == values[1]


def test_constant_features_samples_without_length_and_one_class():
    train, validation, test = world()
    constant = [
        (torch.cat([features, torch.full((150, 2), 0.1)], dim=1), labels) for features, labels in (train, validation)
    ]
    moved = (torch.cat([test[0], normal(150, 2) * 1e6], dim=1), test[1])
    plain = linear_probe(train, validation, test)
    assert torch.equal(linear_probe(constant[0], constant[1], moved).correct, plain.correct)
    flat = (torch.ones(8, 3), torch.tensor([0, 1, 1, 0, 1, 1, 0, 1]))
    for probe in (linear_probe, lambda *parts: knn_probe(*parts, neighbours=(8,))):
        assert probe(flat, flat, flat).accuracy == 5 / 8
        zero = (torch.zeros(8, 3), flat[1])
        assert probe(zero, zero, zero).accuracy == 5 / 8
        one = (normal(8, 3).float(), torch.full((8,), 2))
        assert probe(one, one, (one[0], flat[1])).accuracy == 0


def test_neither_inputs_nor_gradients_change_and_low_precision_is_taken():
    train, validation, test = world()
    kept = [part[0].clone() for part in (train, validation, test)]
    for probe in (linear_probe, knn_probe):
        plain = probe(train, validation, test)
        wanting = (train[0].clone().requires_grad_(True), train[1])
        assert torch.equal(probe(wanting, validation, test).correct, plain.correct)
        centred = [(part[0] - 5, part[1]) for part in (train, validation, test)]
        half = [(features.bfloat16(), labels) for features, labels in centred]
        assert probe(*half).accuracy == pytest.approx(probe(*centred).accuracy, abs=0.03)
        assert not plain.correct.requires_grad
    assert all(map(torch.equal, kept, [part[0] for part in (train, validation, test)]))


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_effective_rank_of_directions_that_vary_alike(rank, small_parts):
    basis = torch.linalg.qr(normal(10, 10))[0][:, :rank]
    columns = torch.linalg.qr(torch.cat([torch.ones(30, 1, dtype=torch.float64), normal(30, rank)], dim=1))[0][:, 1:]
    features = 7 * columns @ basis.T + 3
    assert effective_rank(features) == pytest.approx(rank, rel=1e-6)
    assert effective_rank(5 * features) == pytest.approx(rank, rel=1e-6)


def test_the_effective_rank_by_its_formula_and_of_what_has_collapsed():
    features = normal(40, 5, seed=3) * torch.tensor([5.0, 2.0, 1.0, 0.1, 0.01])
    values = torch.linalg.svdvals(features - features.mean(dim=0))
    shares = (values / values.sum()).tolist()
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(features) == pytest.approx(expected, rel=1e-9)
    assert effective_rank(features.float()) == pytest.approx(expected, rel=1e-4)
    assert effective_rank(torch.full((6, 4), 0.1)) == 0
    assert effective_rank(0.1 + 1e-8 * normal(100, 4).float()) == 0
    assert effective_rank(torch.zeros(3, 2)) == 0
    assert effective_rank(normal(1, 4)) == 0


@pytest.mark.parametrize("probe", [linear_probe, knn_probe])
def test_what_cannot_be_probed_is_said(probe):
    good = (normal(30, 3), torch.arange(30) % 3)
    for bad, words in (
        ((normal(30), good[1]), "features of {} must be floating, of shape"),
        ((normal(0, 3), good[1][:0]), "features of {} must be floating, of shape"),
        ((torch.zeros(30, 3, dtype=torch.int64), good[1]), "features of {} must be floating"),
        ((good[0] * math.nan, good[1]), "features of {} must be finite"),
        ((good[0] / 0, good[1]), "features of {} must be finite"),
        ((good[0], good[1][:4]), "labels of {} must be int64"),
        ((good[0], good[1].float()), "labels of {} must be int64"),
        ((good[0], good[1] - 1), "labels of {} must be int64, at least 0"),
    ):
        for place, name in enumerate(("train", "validation", "test")):
            parts = [good, good, good]
            parts[place] = bad
            with pytest.raises(ValueError, match=words.format(name)):
                probe(*parts)
    with pytest.raises(ValueError, match="features of test must have the 3 numbers a sample"):
        probe(good, good, (normal(30, 4), good[1]))


def test_what_cannot_be_tried_is_said():
    good = (normal(30, 3), torch.arange(30) % 3)
    for strengths in ((), (0.0,), (1.0, -1.0), (math.nan,), (math.inf,)):
        with pytest.raises(ValueError, match="strengths must hold at least one, each finite and above 0"):
            linear_probe(good, good, good, strengths=strengths)
    for neighbours in ((), (0,), (31,), (1.5,), (True,)):
        with pytest.raises(ValueError, match="neighbours must hold whole numbers from 1 to 30"):
            knn_probe(good, good, good, neighbours=neighbours)
    with pytest.raises(ValueError, match="metric must be 'cosine' or 'euclidean'"):
        knn_probe(good, good, good, metric="manhattan")
    for features in (normal(30), normal(0, 3), torch.zeros(3, 2, dtype=torch.int64), normal(3, 2) * math.nan):
        with pytest.raises(ValueError, match="features must be"):
            effective_rank(features)


def test_features_of_low_precision_keep_their_directions_and_what_they_tell() -> None:
    features = normal(2_000, 128).float()
    assert effective_rank(features.bfloat16()) == pytest.approx(effective_rank(features), rel=0.01)
    assert effective_rank((torch.ones(200, 8) * 0.3).bfloat16()) == 0
    labels = (features[:, 0] > 0).long()
    part = (1 + 0.1 * features[:, :1]).bfloat16(), labels
    assert linear_probe(part, part, part).accuracy > 0.95
