"""Multi-view hashing: weights by hand, pooling by counting, losses by a loop, precision over all orders of ties."""

import copy
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.representation.multiview_enhancement_hashing import (
    HashCodes,
    MultiViewHash,
    mean_average_precision,
    multi_view_hash_loss,
    pairwise_hash_loss,
    probability_view_pooling,
    view_relations,
    view_weights,
)
from paperweight.testing import FunctionSubject, LayerSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(normal(outputs, inputs, seed=seed))
        layer.bias.copy_(normal(outputs, seed=seed + 1))
    return layer


def network(branches=None, generator=None) -> MultiViewHash:
    given = nn.ModuleList([linear(4, 3, 1), linear(2, 3, 3)]) if branches is None else branches
    return MultiViewHash(given, linear(4, 3, 5), generator)


LABELS = torch.tensor([0, 1, 1, 2, 0])
CODES = normal(5, 4)
WEIGHTS = torch.tensor([0.5, 0.2, 0.3])
NUMBERS = (-1.0, math.nan, math.inf, True)
BAD_CODES = (normal(5), normal(0, 4), torch.ones(5, 4, dtype=torch.int64))
BAD_LABELS = (LABELS[:4], LABELS.float(), LABELS[:, None])
OUTPUT = HashCodes(normal(5, 4).tanh(), normal(5, 2, 4, seed=1).tanh(), normal(5, 4, seed=2).tanh())

CONTRACT = {
    "MultiViewHash": LayerSubject(
        make=network,
        inputs=(normal(5, 4), normal(5, 2)),
        shape=((5, 3), (5, 2, 3), (5, 3)),
        parameter_count=15 + 9 + 15,
        bad={"branches": (nn.ModuleList(), [linear(4, 3, 1)], 3)},
    ),
    "view_relations": FunctionSubject(
        make=lambda views, seed=0: view_relations(lambda given: given[0].sum(), views, generator=seeded(seed)),
        arguments={"views": [normal(5, 2), normal(5, 3)]},
        bad={"views": ([], [normal(5, 2), normal(4, 3)], [normal(0, 2)])},
    ),
    "view_weights": FunctionSubject(
        make=view_weights,
        arguments={"relations": normal(3, 3)},
        bad={"relations": (normal(3), normal(2, 3), normal(0, 0), torch.ones(2, 2).long(), normal(2, 2) / 0)},
    ),
    "probability_view_pooling": FunctionSubject(
        make=lambda codes, weights, training=True, seed=0: probability_view_pooling(
            codes, weights, training, seeded(seed)
        ),
        arguments={"codes": normal(4, 3, 5), "weights": WEIGHTS},
        bad={
            "codes": (normal(4, 3), normal(0, 3, 5), normal(4, 3, 0)),
            "weights": (WEIGHTS[:2], 2 * WEIGHTS, torch.tensor([1.5, -0.25, -0.25]), WEIGHTS * math.nan),
        },
    ),
    "pairwise_hash_loss": FunctionSubject(
        make=pairwise_hash_loss,
        arguments={"codes": CODES, "labels": LABELS},
        bad={"codes": BAD_CODES, "labels": BAD_LABELS},
    ),
    "multi_view_hash_loss": FunctionSubject(
        make=multi_view_hash_loss,
        arguments={"output": OUTPUT, "labels": LABELS},
        bad={"labels": BAD_LABELS, "quantization": NUMBERS, "memory": NUMBERS},
    ),
    "mean_average_precision": FunctionSubject(
        make=mean_average_precision,
        arguments={"queries": CODES, "query_labels": LABELS, "codes": normal(7, 4), "labels": torch.arange(7)},
        bad={
            "queries": (*BAD_CODES, normal(5, 3)),
            "query_labels": BAD_LABELS,
            "codes": (normal(7), normal(0, 4), normal(7, 4).long()),
            "labels": (LABELS, torch.arange(7).float()),
        },
    ),
}


def test_relations_are_the_rise_of_the_loss_without_one_view_or_two():
    """Of a loss that misses each view by itself, at known costs."""
    views = [torch.arange(6.0)[:, None] + 10 * place for place in range(3)]

    def loss(given) -> Tensor:
        lost = [bool((view != whole).any()) for view, whole in zip(given, views, strict=True)]
        cost = 5.0 + 4 * lost[0] + 1 * lost[1] - 2 * lost[2] + 3 * (lost[0] and lost[1])
        for view, whole in zip(given, views, strict=True):
            assert sorted(view.flatten().tolist()) == whole.flatten().tolist()  # dealt anew, none made up
        return torch.tensor(cost)

    found = view_relations(loss, views, generator=seeded())
    assert found.tolist() == [[4, 8, 2], [8, 1, -1], [2, -1, -2]]
    # View 0: 4 alone, 8 - 1 beside 1, 2 + 2 beside 2. View 1: 1, 8 - 4, -1 + 2. View 2: -2, 2 - 4, -1 - 1.
    torch.testing.assert_close(view_weights(found), torch.tensor([15.0, 6.0, 0.0], dtype=torch.float64) / 21)


def test_weights_where_no_view_helps_or_one_alone():
    assert view_weights(torch.zeros(4, 4)).tolist() == [0.25] * 4
    assert view_weights(-torch.ones(2, 2)).tolist() == [0.5, 0.5]
    assert view_weights(torch.tensor([[3.0]])).tolist() == [1.0]
    assert view_weights(torch.tensor([[2.0, 2.0], [2.0, 0.0]])).tolist() == [1.0, 0.0]


def test_pooling_by_counting_and_its_limits():
    codes = torch.arange(3.0).reshape(1, 3, 1).expand(500, 3, 40)
    drawn = probability_view_pooling(codes, WEIGHTS, True, seeded())
    share = torch.bincount(drawn.long().flatten(), minlength=3) / drawn.numel()
    assert (share - WEIGHTS).abs().max() < 4 * (0.25 / 20_000) ** 0.5
    assert drawn.std(dim=0).min() > 0.5  # each entry of each sample by itself
    assert drawn.std(dim=1).min() > 0.3
    given = normal(6, 3, 4)
    for view in range(3):
        one = F.one_hot(torch.tensor(view), 3).float()
        for training in (True, False):
            assert torch.equal(probability_view_pooling(given, one, training, seeded()), given[:, view])
    mean = sum(float(weight) * given[:, view] for view, weight in enumerate(WEIGHTS))
    torch.testing.assert_close(probability_view_pooling(given, WEIGHTS, False), mean)


def test_the_pairwise_loss_by_a_loop_and_its_gradient():
    codes = CODES.double().requires_grad_(True)
    loss, total = pairwise_hash_loss(codes, LABELS), 0.0
    for i, j in itertools.product(range(5), range(5)):
        chance = 1 / (1 + math.exp(-float(codes[i].detach() @ codes[j].detach()) / 2))
        total -= math.log(chance if LABELS[i] == LABELS[j] else 1 - chance)
    assert loss.item() == pytest.approx(total / 25)
    (slope,) = torch.autograd.grad(loss, codes)
    halves = (codes @ codes.T / 2).detach()
    towards = (halves.sigmoid() - (LABELS[:, None] == LABELS).double()) / 25
    torch.testing.assert_close(slope, towards @ codes.detach())
    large = 1e4 * torch.eye(3)
    assert pairwise_hash_loss(large, torch.arange(3)).isfinite()


def test_the_whole_loss_by_its_parts_and_what_takes_a_gradient():
    fused, views, memory = (part.clone().requires_grad_(True) for part in OUTPUT)
    each = sum(pairwise_hash_loss(views[:, place], LABELS) for place in range(2)) / 2
    signs = ((fused - torch.where(fused < 0, -1.0, 1.0)) ** 2).mean()
    recalled = ((memory - fused) ** 2).mean() + pairwise_hash_loss(memory, LABELS)
    expected = pairwise_hash_loss(fused, LABELS) + each + 0.3 * signs + 2 * recalled
    loss = multi_view_hash_loss(HashCodes(fused, views, memory), LABELS, 0.3, 2.0)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    with_memory, _, to_memory = torch.autograd.grad(loss, (fused, views, memory))
    without = torch.autograd.grad(multi_view_hash_loss(HashCodes(fused, views, memory), LABELS, 0.3, 0.0), fused)[0]
    torch.testing.assert_close(with_memory, without)
    assert to_memory.abs().sum() > 0


def test_precision_is_the_mean_over_all_orders_of_ties():
    codes = torch.where(normal(6, 3, seed=4) < 0, -1.0, 1.0)
    labels, query = torch.tensor([0, 1, 0, 0, 1, 0]), torch.tensor([[0.0, -0.2, 3.0]])
    apart = [int((torch.tensor([1.0, -1.0, 1.0]) != row).sum()) for row in codes]
    assert len(set(apart)) < 6
    found: list[float] = []
    for order in itertools.permutations(range(6)):
        if [apart[place] for place in order] == sorted(apart):
            right = [int(labels[place] == 0) for place in order]
            found.append(sum(sum(right[: n + 1]) / (n + 1) for n in range(6) if right[n]) / sum(right))
    expected = sum(found) / len(found)
    zero, one = torch.tensor([0]), torch.tensor([7])
    assert mean_average_precision(query, zero, codes, labels) == pytest.approx(expected)
    assert mean_average_precision(query, one, codes, labels) == 0
    both = mean_average_precision(query.repeat(2, 1), torch.tensor([0, 7]), codes, labels)
    assert both == pytest.approx(expected / 2)
    assert mean_average_precision(codes, labels, codes, torch.zeros(6).long()) == pytest.approx(4 / 6)


def test_the_network_fuses_weighs_and_searches():
    model, views = network(), (normal(40, 4), normal(40, 2, seed=1))
    fused, codes, memory = model.eval()(*views)
    torch.testing.assert_close(codes[:, 1], model.branches[1](views[1]).tanh())
    torch.testing.assert_close(memory, model.memory(views[0]).tanh())
    torch.testing.assert_close(fused, codes.mean(dim=1))
    model.weights.copy_(torch.tensor([0.0, 1.0]))
    assert torch.equal(model(*views).fused, codes[:, 1])
    assert torch.equal(model.train()(*views).fused, codes[:, 1])
    found = model.search_codes(views[0])
    assert torch.equal(found, torch.where(memory < 0, -1.0, 1.0))
    assert model.training
    with pytest.raises(ValueError, match="views must be 2, as many as branches, got 1"):
        model(views[0])


def test_a_view_that_says_nothing_gets_the_least_weight():
    labels = torch.arange(200) % 2
    telling = (labels * 2.0 - 1)[:, None] + 0.1 * normal(200, 1)
    views = [normal(200, 1, seed=2), telling]
    model = MultiViewHash(nn.ModuleList(nn.Linear(1, 8, bias=False) for _ in range(2)), nn.Linear(1, 8))
    with torch.no_grad():
        for branch in model.branches:
            branch.weight.fill_(1.0)
    model.train()
    relations = model.weigh(views, labels, generator=seeded())
    assert model.training
    assert relations[1, 1] > 0.2
    assert model.weights[0] < 0.2
    assert model.weights.sum().item() == pytest.approx(1)
    assert torch.equal(model.weigh(views, labels, generator=seeded()), relations)  # old weights play no part


def test_draws_come_from_the_generator_and_copies_go_on():
    first, second = (network(generator=seeded(3)).train() for _ in range(2))
    views = normal(5, 4), normal(5, 2)
    assert torch.equal(first(*views).fused, second(*views).fused)
    assert torch.equal(copy.deepcopy(first)(*views).fused, second(*views).fused)
    third = pickle.loads(pickle.dumps(network().eval()))
    assert torch.equal(third(*views).fused, network().eval()(*views).fused)
    doubled = third.double()
    assert doubled(*(view.double() for view in views)).fused.dtype == torch.float64
