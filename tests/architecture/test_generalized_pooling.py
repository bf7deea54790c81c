"""Generalised pooling against loops over regions, hand-computed cases, torch's pooling, and closed-form gradients."""

import math
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.architecture.generalized_pooling import GatedMaxAvgPool2d, MixedPool2d, TreePool2d, replace_max_pools
from paperweight.errors import InputError
from paperweight.nets import LeNet
from paperweight.studies.screening import find_recipe
from paperweight.testing import FunctionSubject, LayerSubject


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


IMAGES = normal(3, 2, 7, 8).float()
BAD_SIZES = {
    "kernel_size": (0, -1, 2.5, (2, 0), (2, 2, 2)),
    "stride": (0, -1, 1.5, (1, 0), (1,)),
    "padding": (-1, 2, 0.5, (0, 2), (0, 0, 0)),
}
BAD_SIGMA = (-0.1, math.nan, math.inf)

CONTRACT = {
    "MixedPool2d": LayerSubject(
        make=partial(MixedPool2d, 3, 2, 1),
        inputs=(IMAGES,),
        shape=(3, 2, 4, 4),
        parameter_count=1,
        bad={"a": (-0.1, 1.1, math.nan)},
        null=lambda: MixedPool2d(3, 2, 1, a=1.0),
        baseline=lambda: nn.MaxPool2d(3, 2, 1),
    ),
    "GatedMaxAvgPool2d": LayerSubject(
        make=partial(GatedMaxAvgPool2d, 3, 2, 1),
        inputs=(IMAGES,),
        shape=(3, 2, 4, 4),
        parameter_count=9,
        bad={"sigma": BAD_SIGMA},
        null=lambda: GatedMaxAvgPool2d(3, 2, 1, sigma=0.0),
        baseline=lambda: MixedPool2d(3, 2, 1),
    ),
    "TreePool2d": LayerSubject(
        make=partial(TreePool2d, 3, 2, 1),
        inputs=(IMAGES,),
        shape=(3, 2, 4, 4),
        parameter_count=27,
        bad={"levels": (0, -1, 2.5), "mean": (math.nan, math.inf), "sigma": BAD_SIGMA},
        # Of two entries the sum does not depend on an order.
        null=lambda: TreePool2d((1, 2), sigma=0.0),
        baseline=lambda: nn.AvgPool2d((1, 2)),
    ),
    "replace_max_pools": FunctionSubject(
        make=lambda model: dict(replace_max_pools(model, partial(MixedPool2d, a=0.25), MixedPool2d).state_dict()),
        arguments={"model": nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2))},
        bad={
            "model": (
                nn.AvgPool2d(2),
                nn.MaxPool2d(2, dilation=2),
                nn.MaxPool2d(2, dilation=(1, 2)),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.MaxPool2d(2, return_indices=True),
            )
        },
    ),
}

LAYERS = {
    "mixed": lambda *sizes: MixedPool2d(*sizes, a=0.3),
    "gated": partial(GatedMaxAvgPool2d, sigma=1.0, generator=seeded(1)),
    "filter": partial(TreePool2d, levels=1, sigma=1.0, generator=seeded(2)),
    "tree of 2 levels": partial(TreePool2d, levels=2, sigma=1.0, generator=seeded(3)),
    "tree of 4 levels": partial(TreePool2d, levels=4, sigma=1.0, generator=seeded(4)),
}
SIZES = {
    "square": (2, None, 0),
    "overlapping": (3, 2, 0),
    "padded": (3, 2, 1),
    "gaps": ((1, 2), (3, 4), 0),
    "tall": ((3, 2), (1, 3), (1, 0)),
}
each_layer = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
each_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def dot(weights: torch.Tensor, region: dict[tuple[int, int], float]) -> float:
    return sum(weights[place].item() * value for place, value in region.items())


def branch(layer: TreePool2d, region: dict[tuple[int, int], float], first: int, count: int) -> float:
    """Value of the node above ``count`` leaves from number ``first`` on, by recursion from the root down."""
    if count == 1:
        return dot(layer.leaves[first], region)
    below = sum(len(layer.leaves) // size for size in (2**power for power in range(1, 9)) if size < count)
    share = sigmoid(dot(layer.gates[below + first // count], region))
    left = branch(layer, region, first, count // 2)
    return share * left + (1 - share) * branch(layer, region, first + count // 2, count // 2)


def pooled(layer: MixedPool2d | GatedMaxAvgPool2d | TreePool2d, region: dict[tuple[int, int], float]) -> float:
    """Pool the entries of a region that lie in the image, by their places in it."""
    if isinstance(layer, TreePool2d):
        return branch(layer, region, 0, len(layer.leaves))
    largest, mean = max(region.values()), sum(region.values()) / len(region)
    share = layer.share.item() if isinstance(layer, MixedPool2d) else sigmoid(dot(layer.mask[0], region))
    return share * largest + (1 - share) * mean


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


@each_size
@each_layer
def test_equals_a_loop_over_regions(make, sizes):
    layer = make(*sizes).double()
    kernel, stride, padding = pair(sizes[0]), pair(sizes[1] or sizes[0]), pair(sizes[2])
    x = normal(2, 3, 7, 6)
    height, width = ((x.shape[2 + d] + 2 * padding[d] - kernel[d]) // stride[d] + 1 for d in (0, 1))
    expected = torch.empty(2, 3, height, width, dtype=torch.float64)
    for n, c, row, column in product(*map(range, expected.shape)):
        top, left = row * stride[0] - padding[0], column * stride[1] - padding[1]
        region = {
            (i, j): x[n, c, top + i, left + j].item()
            for i, j in product(*map(range, kernel))
            if 0 <= top + i < 7 and 0 <= left + j < 6
        }
        expected[n, c, row, column] = pooled(layer, region)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-13)
    assert torch.equal(layer(x[0]), layer(x[:1])[0])


@each_size
@each_layer
def test_gradients_of_inputs_and_weights(make, sizes):
    layer = make(*sizes).double()
    x = (torch.randperm(42, generator=seeded(0)).double() / 10).reshape(1, 1, 7, 6).requires_grad_()  # without ties
    weights = dict(layer.named_parameters())
    names, values = list(weights), list(weights.values())

    def function(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(function, (x, *values))


def test_the_share_of_a_mixture_gets_the_sum_of_maximum_minus_average():
    layer, x, weight = MixedPool2d(3, 2, a=0.2).double(), normal(4, 2, 9, 9), normal(4, 2, 4, 4, seed=1)
    (found,) = torch.autograd.grad(layer(x), layer.share, weight)
    torch.testing.assert_close(found, (weight * (F.max_pool2d(x, 3, 2) - F.avg_pool2d(x, 3, 2))).sum())


@each_size
def test_a_mixture_is_max_or_average_pooling_at_its_ends_bit_for_bit(sizes):
    x = normal(2, 3, 7, 6).float()
    assert torch.equal(MixedPool2d(*sizes, a=1.0)(x), F.max_pool2d(x, *sizes))
    assert torch.equal(MixedPool2d(*sizes, a=0.0)(x), F.avg_pool2d(x, *sizes, count_include_pad=False))


def test_a_frozen_mixture_of_maxima_only_gives_the_gradients_of_max_pooling():
    mixed, x = MixedPool2d(3, 2, 1, a=1.0).requires_grad_(False), normal(2, 3, 7, 6).float().requires_grad_()
    weight = normal(2, 3, 4, 3, seed=1).float()
    found, expected = (torch.autograd.grad(pool(x), x, weight)[0] for pool in (mixed, nn.MaxPool2d(3, 2, 1)))
    assert torch.equal(found, expected)


def test_a_network_with_frozen_mixtures_of_maxima_only_trains_like_one_with_max_pooling_bit_for_bit():
    def train(model: nn.Module) -> list[torch.Tensor]:
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
        for step in range(5):
            x, labels = normal(8, 1, 8, 8, seed=step).float(), torch.arange(8)
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()
        return [p.detach() for p in model.parameters() if p.requires_grad]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LeNet((1, 8, 8), 10)

    def frozen(*sizes: Any) -> nn.Module:
        return MixedPool2d(*sizes, a=1.0).requires_grad_(False)

    assert all(map(torch.equal, train(replace_max_pools(model, frozen, frozen)), train(model)))


def test_a_gate_by_hand():
    gated = GatedMaxAvgPool2d(2, sigma=0.0)
    x = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    with torch.no_grad():
        gated.mask[0] = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    # The share is 3 / (3 + 1), the maximum 6, and the average 3.
    torch.testing.assert_close(gated(x).squeeze(), torch.tensor(0.75 * 6 + 0.25 * 3))


def test_a_gate_at_its_limits_is_the_mean_of_both_max_pooling_and_average_pooling():
    gated, x = GatedMaxAvgPool2d(3, 2, sigma=0.0), normal(2, 3, 7, 7).float().abs() + 0.1
    largest, average = F.max_pool2d(x, 3, 2), F.avg_pool2d(x, 3, 2)
    for entry, expected in ((0.0, (largest + average) / 2), (1e4, largest), (-1e4, average)):
        nn.init.constant_(gated.mask, entry)
        torch.testing.assert_close(gated(x), expected)


def test_a_tree_of_three_levels_by_hand():
    tree = TreePool2d(1, levels=3, sigma=0.0).double()
    with torch.no_grad():
        tree.leaves.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1))
        tree.gates.copy_(torch.tensor([0.25, 0.5, 0.75]).logit().reshape(3, 1, 1))
    # Left 0.25 * 1 + 0.75 * 2, right 0.5 * 3 + 0.5 * 4, root 0.75 * 1.75 + 0.25 * 3.5.
    torch.testing.assert_close(tree(torch.ones(1, 1, 1).double()).item(), 2.1875)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_a_tree_of_equal_leaves_is_average_pooling_whatever_the_gates(levels):
    x, tree = normal(2, 3, 7, 6), TreePool2d((3, 2), (2, 1), (1, 0), levels=levels, sigma=0.0).double()
    with torch.no_grad():
        tree.gates.copy_(normal(2 ** (levels - 1) - 1, 3, 2, seed=1))
    torch.testing.assert_close(tree(x), F.avg_pool2d(x, (3, 2), (2, 1), (1, 0)))


def test_leaves_that_start_alike_stay_alike_and_noise_sets_them_free():
    x, weight = normal(4, 2, 6, 6).float(), normal(4, 2, 3, 3, seed=1).float()
    for sigma, free in ((0.0, False), (0.1, True)):
        tree = TreePool2d(2, sigma=sigma, generator=seeded(0))
        leaves, gates = torch.autograd.grad(tree(x), (tree.leaves, tree.gates), weight)
        assert torch.equal(leaves[0], leaves[1]) is not free
        assert bool(gates.any()) is free


def test_filters_start_as_documented():
    mask = GatedMaxAvgPool2d(60, generator=seeded(0)).mask
    tree, zero = (TreePool2d(60, mean=mean, generator=seeded(0)) for mean in (None, 0.0))
    for filters, mean in ((mask, 0), (tree.leaves, 1 / 3600), (tree.gates, 0), (zero.leaves, 0)):
        assert abs(filters.mean().item() - mean) < 5 * 0.1 / math.sqrt(filters.numel())
        assert filters.std().item() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(tree.leaves - zero.leaves, torch.full_like(tree.leaves, 1 / 3600), rtol=0, atol=1e-7)
    assert not torch.equal(tree.leaves[0], tree.leaves[1])


@pytest.mark.parametrize("layer", [MixedPool2d, GatedMaxAvgPool2d, TreePool2d])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, bad in BAD_SIZES.items() for value in bad])
def test_sizes_that_describe_no_regions_are_refused(layer, name, value):
    with pytest.raises(ValueError, match=name):
        layer(**({"kernel_size": 3} | {name: value}))


def test_the_first_max_pooling_becomes_a_tree_and_each_other_one_gates_of_the_same_regions():
    shared = nn.MaxPool2d(3, 2, 1)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d((2, 3)), nn.Sequential(shared, nn.ReLU()), shared).eval()
    new = replace_max_pools(model)
    pools = [module for module in new.modules() if isinstance(module, TreePool2d | GatedMaxAvgPool2d)]
    assert [type(pool) for pool in pools] == [TreePool2d, GatedMaxAvgPool2d, GatedMaxAvgPool2d]
    assert len(set(pools)) == 3
    assert not any(module.training or isinstance(module, nn.MaxPool2d) for module in new.modules())
    x = normal(2, 1, 26, 38).float()
    assert new(x).shape == model(x).shape
    alike = replace_max_pools(model, *[partial(MixedPool2d, a=1.0)] * 2)
    assert torch.equal(alike(x), model(x))


def test_gates_compute_in_the_format_of_the_image_and_new_layers_in_that_of_the_model():
    layer = GatedMaxAvgPool2d(2)
    x = torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == torch.float32
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d([2, 2]), nn.Conv2d(2, 2, 1), nn.MaxPool2d(2)).double()
    new = replace_max_pools(model)
    assert {p.dtype for p in new.parameters()} == {torch.float64}
    assert new(torch.randn(2, 1, 10, 10, dtype=torch.float64)).shape == (2, 2, 2, 2)


def test_the_recipe_makes_the_papers_best_arrangement():
    recipe = find_recipe("generalized_pooling")
    assert recipe.surgery is not None
    types = [type(module) for module in recipe.surgery(LeNet((1, 8, 8), 10)).modules()]
    assert types.index(TreePool2d) < types.index(GatedMaxAvgPool2d)
    with pytest.raises(InputError, match="must hold a module of type MaxPool2d"):
        recipe.surgery(nn.Linear(2, 2))
