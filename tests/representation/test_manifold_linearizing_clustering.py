"""MLC: both rates by loops and in closed form, Sinkhorn's algorithm, labels, rank, and what the loss does to lines."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.representation.manifold_linearizing_clustering import (
    clustered_rate,
    coding_rate,
    doubly_stochastic,
    mlc_loss,
    numerical_rank,
    spectral_labels,
    tcr_loss,
)
from paperweight.testing import FunctionSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Z, G = F.normalize(normal(8, 3)), doubly_stochastic(normal(8, 8, seed=1))
BAD, POSITIVE = (normal(8), normal(0, 3), torch.zeros(8, 3, dtype=torch.int64)), (0.0, -1.0, math.nan, math.inf)

CONTRACT = {
    "coding_rate": FunctionSubject(make=coding_rate, arguments={"features": Z}, bad={"features": BAD, "eps": POSITIVE}),
    "clustered_rate": FunctionSubject(
        make=clustered_rate,
        arguments={"features": Z, "membership": G},
        bad={"features": BAD, "membership": (G[:4], G[:, 0], G[:4, :4]), "eps": POSITIVE},
    ),
    "mlc_loss": FunctionSubject(
        make=mlc_loss,
        arguments={"features": Z, "membership": G},
        bad={"features": BAD, "membership": (G[:4], G[:4, :4]), "eps": POSITIVE},
    ),
    "tcr_loss": FunctionSubject(
        make=tcr_loss,
        arguments={"first": Z, "second": F.normalize(normal(8, 3, seed=2))},
        bad={
            "first": BAD,
            "second": (Z[:4], Z[:, :2]),
            "eps": POSITIVE,
            "weight": (-1.0, math.nan, math.inf),
        },
    ),
    "doubly_stochastic": FunctionSubject(
        make=doubly_stochastic,
        arguments={"scores": normal(5, 5)},
        bad={
            "scores": (normal(5), normal(4, 5), normal(0, 0), torch.eye(3).long()),
            "eta": POSITIVE,
            "steps": (0, -1, 1.5, True),
        },
    ),
    "spectral_labels": FunctionSubject(
        make=lambda membership, clusters, seed=0: spectral_labels(membership, clusters, seed=seed),
        arguments={"membership": G, "clusters": 2},
        bad={"membership": (G[:4], G[0], G * math.nan), "clusters": (0, 9, 1.5, True)},
    ),
    "numerical_rank": FunctionSubject(
        make=numerical_rank,
        arguments={"features": Z},
        bad={"features": BAD, "share": (0.0, -1.0, 1.1, math.nan)},
    ),
}


def test_both_rates_by_loops():
    rate = torch.linalg.slogdet(torch.eye(3) + 3 / (8 * 0.16) * sum(torch.outer(z, z) for z in Z))[1]
    torch.testing.assert_close(coding_rate(Z, 0.4), rate)
    total = 0.0
    for j in range(8):
        moments = sum(G[i, j] * torch.outer(Z[i], Z[i]) for i in range(8))
        total += torch.linalg.slogdet(torch.eye(3) + 3 / 0.16 * moments)[1].item() / 8
    assert clustered_rate(Z, G, 0.4).item() == pytest.approx(total, rel=1e-10)
    assert mlc_loss(Z, G, 0.4).item() == pytest.approx(total - rate.item(), rel=1e-10)


def test_memberships_of_labels_give_maximal_coding_rate_reduction_and_those_of_all_nothing():
    labels = torch.tensor([0, 1, 1, 0, 2, 2, 2, 1])
    same = (labels[:, None] == labels).double()
    supervised = 0.0
    for k in range(3):
        part = Z[labels == k]
        moments = 3 / (len(part) * 0.25) * part.T @ part
        supervised += len(part) / 8 * torch.linalg.slogdet(torch.eye(3) + moments)[1].item()
    assert clustered_rate(Z, same / same.sum(dim=0)).item() == pytest.approx(supervised, rel=1e-10)
    assert mlc_loss(Z, torch.full((8, 8), 1 / 8, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)
    assert mlc_loss(Z, G).item() < 0


def test_rates_do_not_change_when_features_are_turned_and_reach_their_bounds():
    turn = torch.linalg.qr(normal(3, 3, seed=5))[0]
    torch.testing.assert_close(coding_rate(Z @ turn), coding_rate(Z))
    torch.testing.assert_close(clustered_rate(Z @ turn, G), clustered_rate(Z, G))
    # Of all features of length 1, even ones have the largest rate and equal ones the smallest.
    even, equal = torch.eye(3, dtype=torch.float64).repeat(2, 1), Z[:1].repeat(6, 1)
    assert coding_rate(even).item() == pytest.approx(3 * math.log(5))
    assert coding_rate(equal).item() == pytest.approx(math.log(13))
    assert coding_rate(equal) < coding_rate(Z) < coding_rate(even)


def test_the_first_loss_by_its_formula():
    second = F.normalize(normal(8, 3, seed=2))
    cosines = sum(abs(float(Z[i] @ second[i])) for i in range(8)) / 8
    expected = -coding_rate((Z + second) / 2, 0.3).item() - 0.7 * cosines
    assert tcr_loss(Z, second, 0.3, 0.7).item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(tcr_loss(Z, -Z), torch.tensor(-1.0, dtype=torch.float64))


@pytest.mark.parametrize("eta", [0.1, 0.5])
def test_memberships_are_doubly_stochastic_and_scaled_from_the_scores(eta):
    cosines = Z @ Z.T
    found = doubly_stochastic(cosines, eta, steps=500)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(8).double())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(8).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(found, found.T, atol=1e-4, rtol=0)
    # Rows and columns are scaled and nothing else: a double ratio of entries is that of exp(scores / eta).
    logs = found.log() * eta - cosines
    torch.testing.assert_close(
        logs - logs.mean(dim=0) - logs.mean(dim=1, keepdim=True) + logs.mean(), torch.zeros(8, 8).double()
    )
    once = (cosines / eta).exp()
    once = once / once.sum(dim=1, keepdim=True)
    torch.testing.assert_close(doubly_stochastic(cosines, eta, steps=1), once / once.sum(dim=0))
    assert doubly_stochastic(1e4 * cosines, eta).isfinite().all()


def test_memberships_are_sparser_for_a_lower_eta():
    entropies = [torch.special.entr(doubly_stochastic(Z @ Z.T, eta)).sum().item() for eta in (0.05, 0.2, 1.0, 50.0)]
    assert entropies == sorted(entropies)
    assert entropies[-1] == pytest.approx(8 * math.log(8), rel=1e-3)


def test_gradients_and_low_precision():
    scores = (normal(4, 4) / 3).requires_grad_(True)
    features = normal(4, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda f, s: mlc_loss(F.normalize(f), doubly_stochastic(s, 0.5)), (features, scores)
    )
    single = mlc_loss(Z.float(), G.float())
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(mlc_loss(Z, G).item(), rel=1e-4)
    assert mlc_loss(Z[:1], torch.ones(1, 1).double()).item() == pytest.approx(0, abs=1e-12)


def test_labels_of_blocks_and_ranks_by_hand():
    blocks = torch.block_diag(torch.full((3, 3), 1 / 3), torch.full((5, 5), 1 / 5))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    labels = spectral_labels(blocks[order][:, order] + 1e-6, 2, seed=0)
    assert labels.dtype == torch.int64
    truth = order < 3
    assert torch.equal(labels == labels[truth][0], truth)
    skewed = torch.zeros(4, 4)
    skewed[0, 1] = 1.0
    assert spectral_labels(skewed + 1e-3, 4, seed=0).unique().numel() == 4
    columns = torch.linalg.qr(normal(6, 3))[0]
    features = columns * torch.tensor([9.0, 4.0, 1.0]).sqrt()
    assert [numerical_rank(features, share) for share in (0.5, 9 / 14, 0.8, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert numerical_rank(torch.zeros(3, 2)) == 0


def test_features_of_two_lines_are_put_on_two_orthogonal_ones():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20) % 2
    lines = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.8]]))[labels] + 0.05 * torch.randn(20, 2, generator=generator)
    same = (labels[:, None] == labels).float() / 10
    turn = torch.eye(2, requires_grad=True)
    optimizer = torch.optim.Adam([turn], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        mlc_loss(F.normalize(lines @ turn), same).backward()
        optimizer.step()
    codes = F.normalize(lines @ turn).detach()
    assert (codes[labels == 0] @ codes[labels == 1].T).mean().abs() < 0.05
    assert (codes[labels == 0] @ codes[labels == 0].T).abs().min() > 0.9
