"""Partitions: no sample lost or used twice, and the counts that each scheme promises."""

import pytest
import torch

from paperweight.agents.partition import partition

LABELS = torch.tensor([7] * 13 + [0] * 20 + [3] * 11 + [4] * 6)[torch.randperm(50, generator=torch.Generator())]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def counts(labels, parts):
    """Samples of each class, a row an agent."""
    classes = labels.unique()
    return torch.stack([(labels[part][:, None] == classes).sum(0) for part in parts])


@pytest.mark.parametrize("scheme", ["iid", "classes", "half_half", "dirichlet"])
@pytest.mark.parametrize("agents", [1, 2, 3, 5, 9, 50])
def test_every_sample_goes_to_one_agent_and_every_agent_has_one(scheme, agents):
    for seed in range(5):
        parts = partition(LABELS, agents, scheme, alpha=0.1, generator=seeded(seed))
        assert len(parts) == agents
        assert sorted(torch.cat(parts).tolist()) == list(range(50))
        assert all(len(part) and part.tolist() == sorted(part.tolist()) for part in parts)


@pytest.mark.parametrize("scheme", ["iid", "classes", "half_half", "dirichlet"])
def test_the_generator_decides_which(scheme):
    first, again, other = (partition(LABELS, 7, scheme, generator=seeded(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("agents", [2, 3, 5, 7])
def test_iid_is_even_in_all_and_in_every_class(agents):
    held = counts(LABELS, partition(LABELS, agents, generator=seeded()))
    for column in (held.sum(1), *held.T):
        assert column.max() - column.min() <= 1


def test_iid_of_small_classes_leaves_no_agent_out():
    """Ten classes of 3 to 10 agents: dealt class by class from agent 0 on, agents 3 to 9 would get none."""
    labels = torch.arange(30) % 10
    assert [len(part) for part in partition(labels, 10, generator=seeded())] == [3] * 10


def test_classes_are_dealt_whole_in_turn():
    held = counts(LABELS, partition(LABELS, 3, "classes", generator=seeded()))
    assert held.tolist() == [[20, 0, 0, 13], [0, 11, 0, 0], [0, 0, 6, 0]]


def test_more_agents_than_classes_share_them():
    held = counts(LABELS, partition(LABELS, 6, "classes", generator=seeded()))
    assert held.tolist() == [[10, 0, 0, 0], [0, 6, 0, 0], [0, 0, 6, 0], [0, 0, 0, 13], [10, 0, 0, 0], [0, 5, 0, 0]]


def test_half_half_has_every_class_and_more_of_its_own():
    labels = torch.arange(4).repeat_interleave(40)
    held = counts(labels, partition(labels, 4, "half_half", generator=seeded()))
    assert held.tolist() == (20 * torch.eye(4) + 5).tolist()


def test_dirichlet_shares_have_the_moments_of_the_distribution():
    """Share of an agent in a class: mean 1/A, variance (A - 1) / (A^2 (A alpha + 1))."""
    labels = torch.arange(200).repeat_interleave(1_000)
    for alpha in (0.2, 5.0):
        shares = counts(labels, partition(labels, 4, "dirichlet", alpha=alpha, generator=seeded())) / 1_000
        assert shares.sum(0).tolist() == pytest.approx([1.0] * 200)
        variance = 3 / (16 * (4 * alpha + 1))
        assert (shares.mean(1) - 0.25).abs().max() < 5 * (variance / 200) ** 0.5
        assert float(shares.var()) == pytest.approx(variance, rel=0.2)


def test_an_agent_without_a_share_gets_a_sample_of_the_one_with_most():
    labels = torch.zeros(40, dtype=torch.int64)
    sizes = sorted(len(part) for part in partition(labels, 10, "dirichlet", alpha=1e-3, generator=seeded()))
    assert sizes == [1] * 9 + [31]


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"scheme": "cards"}, "scheme"),
        ({"agents": 0}, "agents"),
        ({"agents": 51}, "agents"),
        ({"agents": 2.0}, "agents"),
        ({"alpha": 0.0}, "alpha"),
        ({"labels": torch.zeros(2, 2)}, "labels"),
    ],
)
def test_bad_arguments_are_named(given, name):
    with pytest.raises(ValueError, match=rf"^{name} must"):
        partition(**{"labels": LABELS, "agents": 2, "generator": seeded(), **given})
