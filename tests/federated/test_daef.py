"""DAEF against ridge regression, weighted least squares in a loop, eigenvectors, and one client that has all data."""

import itertools
import math
from functools import partial

import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from paperweight.federated.daef import (
    DAEF,
    anomaly_scores,
    anomaly_threshold,
    distributed_svd,
    rolann_merge,
    rolann_solve,
    rolann_statistics,
)
from paperweight.testing import FunctionSubject, TrainingProcedureSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def autoencoder(*widths: int, activation: type[nn.Module] = nn.Sigmoid) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = [nn.Linear(*pair) for pair in itertools.pairwise(widths)]
    between = [part for layer in layers for part in (layer, activation())]
    return nn.Sequential(*between[:-1]).double()


def made(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator, **given) -> DAEF:
    return DAEF(model, generator=generator, **given)


CONTRACT = {
    "DAEF": TrainingProcedureSubject(
        make=made,
        evaluations=0,
        random=True,
        rounds=6,
        advance=lambda training, data, number: training.step(*data[0].split(12)),
        model=lambda: autoencoder(6, 2, 4, 5, 6).float(),
        data=(drawn(30, 6).float(),),
        loss=lambda model, data: (model(data[0]) - data[0]).square().mean(),
        bad=dict.fromkeys(("lam_hidden", "lam_last"), (0.0, -1.0, math.nan, math.inf)),
    ),
    "rolann_statistics": FunctionSubject(
        make=rolann_statistics,
        arguments={"inputs": drawn(5, 3), "targets": drawn(5, 2).sigmoid(), "activation": "logistic"},
        bad={"inputs": (drawn(4, 3),), "targets": (drawn(4, 2),), "activation": ("relu", "")},
    ),
    "rolann_solve": FunctionSubject(
        make=rolann_solve,
        arguments={"statistics": rolann_statistics(drawn(5, 3), drawn(5, 2).sigmoid())},
        bad={"lam": (0.0, -1.0, math.nan, math.inf)},
    ),
}

FUNCTIONS = {
    "logistic": (torch.sigmoid, torch.logit),
    "tanh": (torch.tanh, torch.atanh),
    "linear": (lambda x: 1 * x, lambda x: 1 * x),
}


@pytest.mark.parametrize("samples", [20, 3])
def test_a_linear_layer_is_ridge_regression(samples):
    inputs, targets = drawn(samples, 6), drawn(samples, 4, seed=2)
    expected = Ridge(alpha=0.3, fit_intercept=False, tol=1e-12).fit(inputs.numpy(), targets.numpy())
    found = rolann_solve(rolann_statistics(inputs, targets, "linear"), lam=0.3)
    torch.testing.assert_close(found, torch.from_numpy(expected.coef_), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("samples", [20, 3])
def test_weights_are_those_of_weighted_least_squares_one_target_at_a_time(activation, samples):
    function, inverse = FUNCTIONS[activation]
    inputs = drawn(samples, 5)
    targets = function(drawn(samples, 3, seed=2))
    found = rolann_solve(rolann_statistics(inputs, targets, activation), lam=0.2)
    for number in range(3):
        wanted = inverse(targets[:, number]).requires_grad_()
        slope = torch.autograd.grad(function(wanted).sum(), wanted)[0]
        left, right = 0.2 * torch.eye(5, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
        for row in range(samples):
            left += slope[row] ** 2 * torch.outer(inputs[row], inputs[row])
            right += slope[row] ** 2 * wanted[row].detach() * inputs[row]
        torch.testing.assert_close(found[number], torch.linalg.solve(left, right), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activation", ["logistic", "tanh"])
def test_targets_at_the_ends_of_the_range_give_finite_weights(activation):
    low = 0.0 if activation == "logistic" else -1.0
    targets = torch.tensor([[low, 1.0]]).repeat(4, 1)
    assert rolann_solve(rolann_statistics(drawn(4, 3).float(), targets, activation)).isfinite().all()


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_merged_statistics_are_those_of_all_samples_in_any_order(activation):
    inputs, targets = drawn(23, 5), FUNCTIONS[activation][0](drawn(23, 3, seed=2))
    whole = rolann_solve(rolann_statistics(inputs, targets, activation), lam=0.05)
    parts = [
        rolann_statistics(*part, activation)
        for part in zip(inputs.split([2, 14, 1, 6]), targets.split([2, 14, 1, 6]), strict=True)
    ]
    for order in itertools.permutations(parts):
        torch.testing.assert_close(rolann_solve(rolann_merge(order), lam=0.05), whole, rtol=1e-8, atol=1e-8)


def test_what_is_shared_does_not_grow_with_the_samples():
    for samples in (3, 500):
        moment, factor = rolann_statistics(drawn(samples, 4), drawn(samples, 2).sigmoid())
        assert moment.shape == (2, 4)
        assert factor.shape == (2, 4, min(samples, 4))


def test_distributed_vectors_are_the_eigenvectors_of_the_whole_with_positive_largest_entry():
    data = drawn(5, 40) * torch.tensor([[3.0], [1.0], [2.0], [0.5], [4.0]]).double()
    parts = [
        left * values for left, values, _ in (torch.linalg.svd(part, full_matrices=False) for part in data.split(9, 1))
    ]
    found = distributed_svd(parts, rank=3)
    values, vectors = torch.linalg.eigh(data @ data.T)
    top = vectors[:, values.argsort(descending=True)[:3]]
    torch.testing.assert_close((found * top).sum(0).abs(), torch.ones(3).double())
    torch.testing.assert_close(found.T @ found, torch.eye(3).double(), rtol=0, atol=1e-12)
    for column in found.T:
        assert column[column.abs().argmax()] > 0
    torch.testing.assert_close(distributed_svd(parts[::-1], rank=3), found)


def trained(clients: tuple[Tensor, ...], activation: type[nn.Module] = nn.Sigmoid, rounds: int = 4, **given) -> DAEF:
    training = DAEF(autoencoder(7, 3, 4, 5, 7, activation=activation), generator=seeded(), **given)
    for _ in range(rounds):
        training.step(*clients)
    return training


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Tanh])
def test_clients_together_give_the_model_of_all_data_whatever_their_order(activation):
    data = drawn(60, 7)
    central = trained((data,), activation)
    parts = data.split([20, 2, 31, 7])
    for order in (parts, parts[::-1]):
        merged = trained(order, activation)
        for found, expected in zip(merged.model.parameters(), central.model.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def test_clients_apart_train_as_clients_together():
    parts = drawn(60, 7).split(20)
    together = trained(parts)
    apart = [DAEF(autoencoder(7, 3, 4, 5, 7), generator=seeded()) for _ in parts]
    for _ in range(4):
        told = [client.statistics(part) for client, part in zip(apart, parts, strict=True)]
        for client in apart:
            client.merge(told)
    for client in apart:
        for found, expected in zip(client.model.parameters(), together.model.parameters(), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_layers_by_hand():
    data = drawn(60, 7)
    training = trained((data,), lam_hidden=0.3, lam_last=0.7)
    encoder, *hidden, last = training.layers
    values, vectors = torch.linalg.eigh(data.T @ data)
    top = vectors[:, values.argsort(descending=True)[:3]]
    torch.testing.assert_close(encoder.weight.T @ encoder.weight, top @ top.T)
    assert encoder.bias.count_nonzero() == 0
    activity = (data @ encoder.weight.T).sigmoid()
    draw = seeded()
    for layer in hidden:
        random = nn.init.orthogonal_(torch.empty_like(layer.weight), generator=draw)
        bias = torch.randn(len(random), generator=draw, dtype=torch.float64)
        seen = (activity @ random.T + bias).sigmoid()
        wanted, slope = activity.logit(), activity * (1 - activity)
        weight = layer.weight.detach().clone().requires_grad_()  # of the layer; the regression's is its transpose
        loss = (slope * (wanted - seen @ weight)).square().sum() + 0.3 * weight.square().sum()
        assert torch.autograd.grad(loss, weight)[0].abs().max() < 1e-8
        assert torch.equal(layer.bias, bias)
        activity = (activity @ layer.weight.T + bias).sigmoid().detach()
    ones = torch.cat([torch.ones(60, 1), activity], dim=1).double()
    expected = Ridge(alpha=0.7, fit_intercept=False, tol=1e-12).fit(ones.numpy(), data.numpy()).coef_
    torch.testing.assert_close(torch.cat([last.bias[:, None], last.weight], dim=1), torch.from_numpy(expected))


def test_new_clients_change_the_last_layer_as_if_they_had_been_there():
    old, new = drawn(60, 7), drawn(30, 7, seed=2) + 1
    training = trained((old,), rounds=3)
    straight = trained((old,), rounds=3)
    straight.step(old, new)
    training.step(old)
    below = [part.clone() for part in training.model[:-1].parameters()]
    training.step(*new.split(10))
    assert training.layer == 4
    assert all(torch.equal(*pair) for pair in zip(below, training.model[:-1].parameters(), strict=True))
    torch.testing.assert_close(training.model[-1].weight, straight.model[-1].weight, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(training.model[-1].bias, straight.model[-1].bias, rtol=1e-8, atol=1e-8)


def test_scores_and_threshold_by_hand():
    inputs = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    model = nn.Linear(2, 2)
    nn.init.zeros_(model.weight)
    nn.init.ones_(model.bias)
    scores = anomaly_scores(model, inputs)
    assert scores.tolist() == [0.5, 5.0]
    assert not scores.requires_grad
    assert anomaly_threshold(torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0])) == 9.0
    assert anomaly_threshold(torch.tensor([0.0, 1.0, 2.0, 3.0, 10.0]), spread=1.5) == 6.0


LINEAR = partial(nn.Linear, 3, 3)


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 3),
        nn.Sequential(nn.Linear(3, 3)),
        nn.Sequential(LINEAR(), nn.ReLU(), LINEAR()),
        nn.Sequential(LINEAR(), nn.Tanh(), LINEAR(), nn.Sigmoid(), LINEAR()),
        nn.Sequential(LINEAR(), nn.Tanh(), LINEAR(), nn.Tanh()),
        nn.Sequential(LINEAR(), nn.Tanh(), LINEAR(bias=False)),
        nn.Sequential(LINEAR(), nn.Tanh(), nn.Linear(3, 2)),
    ],
)
def test_another_model_is_refused(model):
    with pytest.raises(ValueError, match=r"model must be an nn\.Sequential of nn\.Linear"):
        DAEF(model, generator=seeded())


def test_a_round_needs_clients_and_samples_for_the_first_layer():
    training = DAEF(autoencoder(7, 3, 7), generator=seeded())
    with pytest.raises(ValueError, match="parts must hold at least one"):
        training.step()
    with pytest.raises(ValueError, match=r"at most 2 outputs.*got 3"):
        training.step(drawn(1, 7), drawn(1, 7, seed=2))
    training.step(drawn(2, 7), drawn(1, 7, seed=2))
    assert training.layer == 1
    with pytest.raises(ValueError, match=r"at most 2 outputs.*got 3"):
        DAEF(autoencoder(2, 3, 2), generator=seeded()).step(drawn(9, 2))
