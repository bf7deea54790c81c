"""The study of CRLNet: images of two characters, episodes, and how much an embedding owes to the other image."""

import pytest
import torch
from torch import Tensor, nn

from paperweight.representation.crlnet import PairOfTensors
from paperweight.studies.representation import crlnet
from paperweight.studies.representation._episodes import drawn_characters, side_by_side


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


class Fixed(crlnet._Embedder):
    """Embeds queries at an angle that is a sum of their own and the other image's."""

    def __init__(self) -> None:
        super().__init__(crlnet._Plan("the other"))

    def prepared(self, support: Tensor, query: Tensor) -> PairOfTensors:
        return PairOfTensors(support, query)

    def forward(self, support: Tensor, query: Tensor) -> PairOfTensors:
        angle = (support + query).squeeze(1)
        code = 3 * torch.stack([angle.cos(), angle.sin()], dim=1)
        return PairOfTensors(code, code)


def test_two_characters_stand_side_by_side_in_either_order():
    first, second = normal(50, 3, 4), normal(50, 3, 4, seed=1)
    maps = side_by_side(first, second, generator())
    assert maps.shape == (50, 3, 4, 1, 2)
    left = (maps[..., 0, 0] == first).all(dim=2)
    assert 50 < left.sum() < 100
    for order, (one, other) in ((left, (first, second)), (~left, (second, first))):
        assert torch.equal(maps[..., 0, 0][order], one[order])
        assert torch.equal(maps[..., 0, 1][order], other[order])


def test_a_smaller_spread_makes_images_of_a_class_more_alike_and_others_no_more():
    usual, narrow = (drawn_characters(6, 8, 16, generator(), spread).images.flatten(1) for spread in (1.0, 0.2))
    same = torch.arange(6).repeat_interleave(8)
    same = same[:, None] == same
    assert torch.cdist(narrow, narrow)[same].mean() < 0.7 * torch.cdist(usual, usual)[same].mean()
    assert torch.cdist(narrow, narrow)[~same].mean() > 0.8 * torch.cdist(usual, usual)[~same].mean()


def test_characters_beside_others_are_of_classes_of_their_own():
    rows = crlnet._rows(40, 20, generator())
    support, query, by_support, by_query = (each // crlnet._EACH for each in rows)
    assert (support.shape, query.shape, by_support.shape, by_query.shape) == ((20, 5), (20, 15), (20, 5), (20, 15))
    assert torch.equal(support.repeat_interleave(3, dim=1), query)
    for episode in torch.cat([support, by_support, by_query], dim=1):
        assert len(episode.unique()) == 25
    for episode in torch.cat(rows[:2], dim=1):
        assert len(episode.unique()) == 20


def test_dependence_is_the_share_of_variance_among_embeddings_of_one_query():
    support, query = normal(2, 3, 1), normal(2, 4, 1, seed=1)
    given = crlnet._dependence(Fixed(), PairOfTensors(support, query))
    angle = query[:, :, None, 0] + support[:, None, :, 0]
    codes = torch.stack([angle.cos(), angle.sin()], dim=3)
    of_one = (codes - codes.mean(dim=2, keepdim=True)).square().sum(dim=3).mean()
    assert given == pytest.approx((of_one / (codes - codes.mean(dim=(0, 1, 2))).square().sum(dim=3).mean()).item())
    assert crlnet._dependence(Fixed(), PairOfTensors(torch.zeros(2, 3, 1), query)) == pytest.approx(0, abs=1e-6)
    assert crlnet._dependence(Fixed(), PairOfTensors(support, torch.zeros(2, 4, 1))) > 0.5


@pytest.mark.parametrize("arm", list(crlnet.STUDY.arms))
def test_only_the_method_lets_the_other_image_change_an_embedding_and_starts_so(arm):
    torch.manual_seed(0)
    model = crlnet._Embedder(crlnet.STUDY.arms[arm].make).eval()
    scenes = PairOfTensors(normal(3, 5, 32, 1, 2), normal(3, 15, 32, 1, 2, seed=1))
    dependence = crlnet._dependence(model, scenes)
    assert dependence > 0.01 if arm == "joint" else dependence == pytest.approx(0, abs=1e-6)
    changed = scenes._replace(support=scenes.support.roll(1, dims=0))
    one, other = (model.prepared(*given).query for given in (scenes, changed))
    assert torch.equal(one, other) == (arm != "stranger")


@torch.no_grad()
def test_heads_start_with_a_condition_that_says_how_alike_characters_are():
    torch.manual_seed(0)
    model = crlnet._Embedder(crlnet.STUDY.arms["joint"].make).eval()
    conditions: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        conditions.append(output)

    model.head.condition.register_forward_hook(keep)
    shared, others = normal(64, 32), normal(2, 64, 32, seed=1)
    support = side_by_side(shared, others[0], generator(2))
    model(support, torch.stack([shared, others[1]], dim=-1)[..., None, :])
    for_query = conditions[1].flatten(1)
    assert (for_query[:, 0] > for_query[:, 1]).double().mean() > 0.65
