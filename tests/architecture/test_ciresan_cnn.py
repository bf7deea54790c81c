"""Networks of 2011 against sizes by hand, loops over maps and pixels, and torch's own convolution."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture.ciresan_cnn import CiresanCNN, TableConv, connection_table, map_size, scaled_tanh
from paperweight.nets import count_parameters
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


WHOLE = (0, -1, 2.5, True)
CONTRACT = {
    "CiresanCNN": LayerSubject(
        make=lambda shape=(2, 9, 8), classes=3, layers="4C3-MP2-6C2S1-5N", fan_in=2: CiresanCNN(
            shape, classes, layers, fan_in, seeded()
        ),
        inputs=(normal(4, 2, 9, 8).float(),),
        shape=(4, 3),
        parameter_count=4 * (2 * 9 + 1) + 6 * (4 * 4 + 1) + 5 * (6 * 1 + 1) + 3 * 6,
        bad={
            "shape": ((0, 9, 8), (2, 9, 0), (9, 8), (2, 9, 8.5)),
            "classes": WHOLE,
            "layers": ("", "5N-4C3", "4C", "0C3", "MP0", "4C10", "4C3-MP9", "-1N", "4C3 ", "4C3--5N"),
            "fan_in": WHOLE,
        },
    ),
    "TableConv": LayerSubject(
        make=lambda in_maps=4, out_maps=6, kernel=3, skip=1, fan_in=2: TableConv(
            in_maps, out_maps, kernel, skip, fan_in, seeded()
        ),
        inputs=(normal(2, 4, 9, 8).float(),),
        shape=(2, 6, 4, 3),
        parameter_count=6 * (4 * 9 + 1),
        bad={
            "in_maps": WHOLE,
            "out_maps": WHOLE,
            "kernel": WHOLE,
            "skip": (-1, 0.5, True),
            "fan_in": (*WHOLE, 5),
        },
        null=lambda: TableConv(4, 6, 3, skip=1, fan_in=None),
        baseline=lambda: nn.Conv2d(4, 6, 3, stride=2),
    ),
    "connection_table": FunctionSubject(
        make=lambda in_maps, out_maps, fan_in=None: connection_table(in_maps, out_maps, fan_in, seeded()),
        arguments={"in_maps": 5, "out_maps": 4, "fan_in": 2},
        bad={"in_maps": WHOLE, "out_maps": WHOLE, "fan_in": (*WHOLE, 6)},
    ),
    "map_size": FunctionSubject(
        make=map_size,
        arguments={"size": 29, "kernel": 4, "skip": 1},
        bad={"size": (3, 0, 4.5, True), "kernel": WHOLE, "skip": (-1, 0.5, True)},
    ),
    "scaled_tanh": FunctionSubject(
        make=scaled_tanh,
        arguments={"x": normal(3)},
        expected_failures={"check_bad_values": "it takes any numbers"},
    ),
}


@pytest.mark.parametrize(
    ("size", "kernel", "skip", "expected"),
    [
        (29, 4, 0, 26),
        (29, 5, 1, 13),
        (29, 4, 1, 13),
        (13, 5, 0, 9),
        (5, 5, 3, 1),
        (9, 3, 2, 3),
        (8, 3, 2, 2),
        (1, 1, 0, 1),
    ],
)
def test_sizes_by_hand_and_of_torchs_convolution(size, kernel, skip, expected):
    assert map_size(size, kernel, skip) == expected
    assert TableConv(1, 1, kernel, skip)(torch.zeros(1, 1, size, size)).shape[-1] == expected


def test_scaled_tanh_is_one_at_one_and_has_its_largest_curvature_there():
    x = torch.tensor([1.0, -1.0, 0.0, 50.0], dtype=torch.float64)
    expected = [1.7159 * math.tanh(2 * value / 3) for value in x.tolist()]
    torch.testing.assert_close(scaled_tanh(x), torch.tensor(expected, dtype=torch.float64))
    assert scaled_tanh(x)[0].item() == pytest.approx(1, abs=1e-4)
    grid = torch.linspace(0, 3, 3001, dtype=torch.float64)
    assert grid[1:-1][scaled_tanh(grid).diff().diff().abs().argmax()].item() == pytest.approx(1, abs=0.02)


def test_a_map_sees_only_what_its_table_says():
    layer = TableConv(4, 3, 2, skip=1, fan_in=2, generator=seeded(3)).double()
    x = normal(2, 4, 5, 6)
    found = layer(x)
    for out in range(3):
        expected = torch.full((2, 2, 3), layer.bias[out].item(), dtype=torch.float64)
        for seen in range(4):
            if layer.table[out, seen]:
                for row in range(2):
                    for column in range(3):
                        patch = x[:, seen, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                        expected[:, row, column] += (patch * layer.weight[out, seen]).sum((1, 2)).detach()
        torch.testing.assert_close(found[:, out].detach(), expected)
    found.square().sum().backward()
    assert (layer.weight.grad.abs().sum((2, 3)) > 0).equal(layer.table)


def test_tables_see_as_many_as_they_should_and_everything_alike_often():
    table = connection_table(6, 3000, fan_in=2, generator=seeded())
    assert table.sum(dim=1).unique().tolist() == [2]
    share = table.double().mean(dim=0)
    assert (share - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 3000)
    pairs = (table[:, 0] & table[:, 1]).double().mean().item()
    assert pairs == pytest.approx(1 / 15, abs=4 * math.sqrt(1 / 15 / 3000))
    assert connection_table(6, 4).all()
    assert connection_table(3, 4, fan_in=3, generator=seeded()).all()


def test_a_network_is_its_layers():
    network = CiresanCNN((1, 13, 13), 4, "3C4-MP2-5C2S1-7N-6N", generator=seeded()).double()
    first, second, third, fourth = (part for part in network.body if isinstance(part, nn.Conv2d | nn.Linear))
    x = normal(2, 1, 13, 13)
    maps = F.max_pool2d(scaled_tanh(F.conv2d(x, first.weight, first.bias)), 2)
    maps = scaled_tanh(F.conv2d(maps, second.weight, second.bias, stride=2))
    assert maps.shape == (2, 5, 2, 2)
    neurons = scaled_tanh(F.linear(maps.flatten(1), third.weight, third.bias))
    neurons = scaled_tanh(F.linear(neurons, fourth.weight, fourth.bias))
    torch.testing.assert_close(network(x), F.linear(neurons, network.head.weight, network.head.bias))


def test_pooling_takes_the_largest_or_the_mean():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    for name, expected in (("MP2", [5.0, 7.0, 13.0, 15.0]), ("AP2", [2.5, 4.5, 10.5, 12.5])):
        network = CiresanCNN((1, 4, 4), 2, name)
        assert network.body(image).flatten().tolist() == expected


def test_the_small_net_of_the_paper_by_count():
    # 20 (16 + 1), 40 (20 25 + 1), from 40 maps of 3 pixels a side to 150, to 10; maps of 26, 13, 9, 3.
    expected = 20 * 17 + 40 * 501 + 150 * (40 * 9 + 1) + 10 * 151
    assert count_parameters(CiresanCNN((1, 29, 29), 10)) == expected == 76_040
    assert count_parameters(CiresanCNN((1, 6, 6), 3, "MP2")) == 3 * 10


def test_weights_begin_uniform_and_small_and_as_the_generator_says():
    state = torch.random.get_rng_state()
    one, same, other = (CiresanCNN((1, 29, 29), 10, fan_in=5, generator=seeded(seed)) for seed in (1, 1, 2))
    values = torch.cat([p.detach().flatten() for p in one.parameters()])
    assert values.abs().max() <= 0.05
    assert values.std().item() == pytest.approx(0.05 / math.sqrt(3), rel=0.02)
    assert all(map(torch.equal, one.state_dict().values(), same.state_dict().values()))
    assert not any(map(torch.equal, one.parameters(), other.parameters()))
    torch.testing.assert_close(torch.random.get_rng_state(), state)


def test_as_many_maps_as_there_are_is_no_table():
    network = CiresanCNN((1, 8, 8), 3, "4C3-6C3", fan_in=2, generator=seeded())
    first, second = (part for part in network.body if isinstance(part, TableConv))
    assert first.fan_in is None
    assert first.table.all()
    assert second.fan_in == 2
    assert second.table.sum(dim=1).unique().tolist() == [2]


@pytest.mark.parametrize("way", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_copies_and_loaded_states_keep_the_table(way):
    network = CiresanCNN((1, 8, 8), 3, "4C3-6C3", fan_in=2)
    loaded = CiresanCNN((1, 8, 8), 3, "4C3-6C3", fan_in=2)
    loaded.load_state_dict(network.state_dict())
    x = normal(2, 1, 8, 8).float()
    for other in (way(network), loaded):
        assert torch.equal(other(x), network(x))
