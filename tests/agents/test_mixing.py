"""Mixing matrices against their closed forms, and graphs that change or lose agents."""

import math

import pytest
import torch

from paperweight.agents.mixing import (
    Links,
    alternating,
    among,
    check_mixing,
    metropolis,
    mixing_matrix,
    random_matching,
    spectral_gap,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["full", "ring", "hub", "none"])
@pytest.mark.parametrize("agents", [1, 2, 3, 4, 5, 20, 100])
@pytest.mark.parametrize("self_weight", [None, 0.0, 0.5, 1.0])
def test_every_matrix_is_symmetric_and_its_rows_and_columns_sum_to_one(kind, agents, self_weight):
    if kind == "hub" and agents < 3:
        with pytest.raises(ValueError, match=r"^agents must be a whole number of at least 3"):
            mixing_matrix(kind, agents, self_weight=self_weight)
        return
    matrix = mixing_matrix(kind, agents, self_weight=self_weight)
    check_mixing(matrix, columns=True)
    assert torch.equal(matrix, matrix.T)
    assert (matrix.sum(1) - 1).abs().max() < 1e-15
    if self_weight is not None and agents > 1 and kind != "none":
        assert float(matrix.diagonal().min()) == pytest.approx(self_weight)


def test_matrices_by_hand():
    """Rings of two and hubs among three are where rounded or fixed weights lose or drop some."""
    third = 1 / 3
    assert torch.equal(mixing_matrix("ring", 2), torch.full((2, 2), 0.5, dtype=torch.float64))
    torch.testing.assert_close(mixing_matrix("ring", 3), torch.full((3, 3), third, dtype=torch.float64))
    ring = [[third, third, 0, third], [third, third, third, 0], [0, third, third, third], [third, 0, third, third]]
    torch.testing.assert_close(mixing_matrix("ring", 4), torch.tensor(ring, dtype=torch.float64))
    hub = [[third, third, third], [third, 2 * third, 0], [third, 0, 2 * third]]
    torch.testing.assert_close(mixing_matrix("hub", 3), torch.tensor(hub, dtype=torch.float64))
    torch.testing.assert_close(
        mixing_matrix("hub", 8)[[0, 7]] * 7,
        torch.tensor([[5, 0, 0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1, 0, 1]], dtype=torch.float64),
    )
    assert torch.equal(mixing_matrix("full", 4), torch.full((4, 4), 0.25, dtype=torch.float64))
    assert torch.equal(mixing_matrix("none", 3), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("agents", [3, 4, 5, 9, 24])
def test_gap_of_a_ring(agents):
    sizes = [abs(1 / 3 + 2 / 3 * math.cos(2 * math.pi * k / agents)) for k in range(1, agents)]
    assert spectral_gap(mixing_matrix("ring", agents)) == pytest.approx(1 - max(sizes))


def test_gaps_at_the_edges():
    assert spectral_gap(mixing_matrix("full", 7)) == pytest.approx(1)
    assert spectral_gap(mixing_matrix("none", 7)) == pytest.approx(0)
    assert spectral_gap(mixing_matrix("full", 1)) == 1
    assert spectral_gap(torch.tensor([[0.0, 1.0], [1.0, 0.0]])) == pytest.approx(0)  # they swap for ever


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1 / 3, 1 / 3], [1 / 3, 1 / 3]], "rows that sum to 1, row 0 sums to 0.666667"),
        ([[1.5, -0.5], [0.5, 0.5]], "entries"),
        ([[math.nan, 1.0], [0.5, 0.5]], "entries"),
        ([[1.0, 0.0]], "shape"),
        ([[0.8, 0.1, 0.1], [0, 1, 0], [0, 0, 1]], "columns that sum to 1, column 0 sums to 0.8"),
    ],
)
def test_what_is_no_mixing_matrix_is_refused(matrix, message):
    with pytest.raises(ValueError, match=rf"^mixing must have {message}"):
        check_mixing(torch.tensor(matrix, dtype=torch.float64), columns=True)


def test_a_directed_graph_passes_where_columns_do_not_matter():
    check_mixing(torch.tensor([[0.9, 0.1], [0.0, 1.0]]))


def test_metropolis_of_a_path_by_hand():
    path = torch.tensor([[1, 1, 0], [1, 0, 1], [0, 1, 0]]).bool()
    expected = torch.tensor([[2, 1, 0], [1, 1, 1], [0, 1, 2]], dtype=torch.float64) / 3
    torch.testing.assert_close(metropolis(path), expected)
    with pytest.raises(ValueError, match=r"^adjacency must be square and symmetric"):
        metropolis(torch.tensor([[0, 1], [0, 0]]))


def test_alternation_and_random_matching():
    ring, none = mixing_matrix("ring", 4), mixing_matrix("none", 4)
    graph = alternating(ring, none)
    assert [graph(number) is ring for number in range(4)] == [True, False, True, False]
    with pytest.raises(ValueError, match=r"^matrices must"):
        alternating(ring, mixing_matrix("none", 3))
    with pytest.raises(ValueError, match=r"^matrices must"):
        alternating()
    with pytest.raises(ValueError, match=r"^agents must"):
        random_matching(0, generator=seeded())


@pytest.mark.parametrize(("agents", "alone"), [(6, 0), (7, 1), (1, 1)])
def test_random_pairs_are_pairs_and_every_pair_comes_up(agents, alone):
    graph, again = (random_matching(agents, generator=seeded()) for _ in range(2))
    total = torch.zeros(agents, agents, dtype=torch.float64)
    for number in range(300):
        matrix = graph(number)
        check_mixing(matrix, columns=True)
        assert torch.equal(matrix, again(number))
        assert torch.equal(matrix, matrix.T)
        assert int((matrix.diagonal() == 1).sum()) == alone
        assert set(matrix.unique().tolist()) <= {0.0, 0.5, 1.0}
        total += matrix
    likely = (1 - alone / agents) / max(1, agents - 1)
    apart = total[~torch.eye(agents, dtype=torch.bool)] / 150
    assert bool(((apart - likely).abs() < 0.12).all())


def test_among_those_present_rows_and_columns_still_sum_to_one():
    for agents, present in ((5, (0, 1, 3)), (5, (2,)), (4, (0, 1, 2, 3))):
        for kind in ("full", "ring", "hub"):
            matrix = among(mixing_matrix(kind, agents), present)
            check_mixing(matrix, columns=True)
            gone = [agent for agent in range(agents) if agent not in present]
            assert torch.equal(matrix[gone], torch.eye(agents, dtype=torch.float64)[gone])
            off = ~torch.eye(agents, dtype=torch.bool)
            kept = mixing_matrix(kind, agents)[[*present]][:, [*present]]
            found = matrix[[*present]][:, [*present]]
            inner = off[: len(present), : len(present)]
            assert torch.equal(found[inner], kept[inner])


def test_links_of_a_directed_graph():
    """Agent 0 hears 2 alone; 1 and 2 hear 0."""
    matrix = torch.tensor([[0.5, 0.0, 0.5], [0.25, 0.75, 0.0], [0.125, 0.0, 0.875]], dtype=torch.float64)
    links = Links.of(matrix, 0)
    assert links.incoming == {0: 0.5, 2: 0.5}
    assert links.outgoing == {0: 0.5, 1: 0.25, 2: 0.125}
    assert (links.neighbours, links.listeners) == ([2], [1, 2])
    swap = Links.of(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 0)
    assert (swap.incoming, swap.neighbours) == ({0: 0.0, 1: 1.0}, [1])
