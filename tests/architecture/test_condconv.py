"""CondConv against the sum of its experts' convolutions, one convolution an example, numbers by hand, and Conv2d."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture import condconv
from paperweight.architecture.condconv import CondConv2d, condition_convolutions, conditional_conv2d, route
from paperweight.nets import MLP, LeNet, ResNet, replace_modules
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shares(examples: int, experts: int) -> Tensor:
    return torch.rand(examples, experts, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def experts_of(model: nn.Module, num_experts: int = 2, routing: str = "sigmoid") -> dict[str, Tensor]:
    """Make a copy of the model, with what is random drawn from a fixed seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(condition_convolutions(model, num_experts, routing=routing).state_dict())


ROUTINGS = ("relu", "", None)

CONTRACT = {
    "CondConv2d": LayerSubject(
        make=lambda in_channels=3, out_channels=4, kernel_size=(3, 2), num_experts=2, groups=1, routing="sigmoid": (
            CondConv2d(in_channels, out_channels, kernel_size, num_experts, (2, 1), (0, 1), 1, groups, True, routing)
        ),
        inputs=(normal(3, 3, 7, 5).float(),),
        shape=(3, 4, 3, 6),
        parameter_count=2 * (4 * 3 * 6 + 4) + 2 * 3 + 2,
        bad={
            "in_channels": (0, -1, 2.5, True),
            "out_channels": (0, -1, 2.5),
            "kernel_size": (0, (3, 0), (0, 3)),
            "num_experts": (0, -1, 2.5, True),
            "groups": (0, 2, 1.5),
            "routing": ROUTINGS,
        },
        null=lambda: CondConv2d(3, 4, 3, num_experts=1, stride=2, padding=1, routing="softmax"),
        baseline=lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1),
    ),
    "route": FunctionSubject(
        make=route,
        arguments={"features": normal(3, 4), "weight": normal(2, 4, seed=1), "bias": normal(2, seed=2)},
        bad={"routing": ROUTINGS},
    ),
    "conditional_conv2d": FunctionSubject(
        make=conditional_conv2d,
        arguments={"x": normal(3, 2, 5, 5), "alphas": shares(3, 2), "experts": normal(2, 4, 2, 3, 3)},
        bad={
            "alphas": (shares(2, 2), shares(3, 3), normal(3)),
            "experts": (normal(3, 4, 2, 3, 3), normal(4, 2, 3, 3), normal(4, 4, 2, 3)),
        },
    ),
    "condition_convolutions": FunctionSubject(
        make=experts_of,
        arguments={"model": nn.Sequential(nn.Conv2d(4, 2, 3), nn.ReLU())},
        bad={"model": (nn.Linear(2, 2), nn.Conv2d(3, 4, 3)), "num_experts": (0, -1, True), "routing": ROUTINGS},
    ),
}

GEOMETRIES = {
    "plain": ({}, 8, 4, 3),
    "few channels": ({"padding": 2}, 3, 5, 5),
    "strided": ({"stride": (2, 1), "padding": (0, 1)}, 8, 4, (3, 2)),
    "dilated": ({"padding": "same", "dilation": 2}, 6, 4, 3),
    "grouped": ({"groups": 2, "padding": 1}, 8, 6, 3),
    "depthwise": ({"groups": 6, "padding": 1}, 6, 6, 3),
    "pointwise": ({}, 8, 16, 1),
}
each_geometry = pytest.mark.parametrize(("options", "channels", "out", "size"), GEOMETRIES.values(), ids=GEOMETRIES)


@each_geometry
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_sum_of_the_experts_convolutions_with_its_gradients(options, channels, out, size, bias, monkeypatch):
    monkeypatch.setattr(condconv, "_NUMBERS", 1000)  # so that a batch is taken in parts
    torch.manual_seed(0)
    layer = CondConv2d(channels, out, size, num_experts=3, bias=bias, **options).double()
    x = normal(7, channels, 9, 8).requires_grad_()
    alphas = torch.sigmoid(F.linear(x.mean((2, 3)), layer.router.weight, layer.router.bias))
    expected = torch.zeros(())
    for i in range(3):
        value = F.conv2d(x, layer.experts[i], layer.biases[i] if bias else None, **options)
        expected = expected + alphas[:, i, None, None, None] * value
    found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert torch.equal(layer.alphas(x), alphas)
    weights, given = normal(*found.shape, seed=1), [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, given, weights), torch.autograd.grad(expected, given, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("numbers", [1, 200, 500, 10**6])
def test_parts_of_a_batch_make_no_difference(numbers, monkeypatch):
    x, alphas, experts = normal(11, 8, 6, 6), shares(11, 2), normal(2, 8, 8, 3, 3, seed=1)
    slow = torch.stack([F.conv2d(x[i], sum(a * w for a, w in zip(alphas[i], experts, strict=True))) for i in range(11)])
    monkeypatch.setattr(condconv, "_NUMBERS", numbers)
    torch.testing.assert_close(conditional_conv2d(x, alphas, experts), slow, rtol=1e-12, atol=1e-12)


def test_a_case_by_hand():
    layer = CondConv2d(1, 1, 1, num_experts=2).double()
    with torch.no_grad():
        layer.experts.copy_(torch.tensor([2.0, -1.0]).view(2, 1, 1, 1, 1))
        layer.biases.copy_(torch.tensor([[10.0], [100.0]]))
        layer.router.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        layer.router.bias.zero_()
    x = torch.tensor([[1.0, 5.0], [0.0, 0.0]], dtype=torch.float64).view(2, 1, 1, 2)
    # the mean of the first is 3: sigmoid(3) = 0.952574, sigmoid(-3) = 0.047426; of the second 0, with halves
    first = [0.9525741268 * (2 * v + 10) + 0.0474258732 * (100 - v) for v in (1, 5)]
    expected = torch.tensor([*first, 55.0, 55.0], dtype=torch.float64)
    torch.testing.assert_close(layer(x).flatten(), expected, rtol=1e-9, atol=1e-9)


def test_softmax_shares_add_up_to_1_and_sigmoid_shares_do_not_depend_on_each_other():
    features, weight, bias = normal(5, 3), normal(4, 3, seed=1), normal(4, seed=2)
    soft, each = route(features, weight, bias, "softmax"), route(features, weight, bias)
    scores = features @ weight.T + bias
    torch.testing.assert_close(soft.sum(1), torch.ones(5).double())
    torch.testing.assert_close(soft, scores.exp() / scores.exp().sum(1, keepdim=True))
    torch.testing.assert_close(each, 1 / (1 + (-scores).exp()))


def test_no_examples_give_no_outputs():
    layer = CondConv2d(2, 3, 3, padding=1)
    assert layer(torch.zeros(0, 2, 5, 4)).shape == (0, 3, 5, 4)
    for shape in ((2, 5, 4), (1, 3, 5, 4)):
        with pytest.raises(ValueError, match=rf"x must have shape \(N, 2, H, W\), got {re.escape(str(shape))}"):
            layer(torch.zeros(shape))


def test_experts_start_like_a_convolution_and_each_by_itself():
    torch.manual_seed(0)
    layer = CondConv2d(4, 64, 5, num_experts=3)
    for expert, bias in zip(layer.experts, layer.biases, strict=True):
        assert 0.09 < expert.abs().max() <= 0.1
        assert 0.09 < bias.abs().max() <= 0.1
        assert expert.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.03)
    assert not torch.equal(layer.experts[0], layer.experts[1])


def test_convolutions_are_replaced_but_for_those_that_read_images():
    torch.manual_seed(0)
    model = ResNet((3, 8, 8), 5, width=4).double().eval()
    old = copy.deepcopy(model.state_dict())
    new = condition_convolutions(model, num_experts=3)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in old.items())
    assert type(new.body[0]) is nn.Conv2d
    found = {name: part for name, part in new.named_modules() if isinstance(part, CondConv2d)}
    assert found.keys() == {
        name for name, part in model.named_modules() if isinstance(part, nn.Conv2d) and name != "body.0"
    }
    for name, part in found.items():
        before = model.get_submodule(name)
        assert torch.equal(part.experts[0], before.weight)
        assert part.biases is None
        assert part.stride == before.stride
        for expert in part.experts[1:]:
            assert torch.equal(expert.flatten().sort().values, before.weight.flatten().sort().values)
            assert not torch.equal(expert, before.weight)
    assert new(normal(2, 3, 8, 8)).shape == (2, 5)
    back = replace_modules(new, lambda _, part: isinstance(part, CondConv2d), _first_expert, wanted="one")
    assert torch.equal(back(normal(2, 3, 8, 8)), model(normal(2, 3, 8, 8)))


def _first_expert(part: nn.Module) -> nn.Module:
    plain = nn.Conv2d(part.in_channels, part.out_channels, part.kernel_size, part.stride, part.padding, bias=False)
    plain.weight = nn.Parameter(part.experts[0].detach())
    return plain


def test_one_expert_with_softmax_is_the_network_bit_for_bit_while_it_trains():
    torch.manual_seed(0)
    model = LeNet((1, 12, 12), 5)
    images, labels = normal(20, 1, 12, 12).float(), torch.arange(20) % 5
    logits = []
    for network in (model, condition_convolutions(model, num_experts=1, routing="softmax")):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        logits.append(network(images))
    assert torch.equal(*logits)


def test_a_choice_is_kept_to_and_what_is_frozen_stays_frozen():
    model = LeNet((1, 12, 12), 5)
    model.body[3].weight.requires_grad_(False)
    new = condition_convolutions(model, replaced=lambda name, layer: True)
    assert {name for name, part in new.named_modules() if isinstance(part, CondConv2d)} == {"body.0", "body.3"}
    assert {name for name, p in new.body[3].named_parameters() if p.requires_grad} == {
        "biases",
        "router.weight",
        "router.bias",
    }
    assert torch.equal(new.body[3].biases, model.body[3].bias.expand(8, -1))
    reflecting = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    for network in (reflecting, MLP((1, 8, 8), 3)):
        with pytest.raises(ValueError, match="model must hold a convolution padded by zeros of more than 3 channels"):
            condition_convolutions(network)


def test_a_convolution_that_does_more_is_not_replaced():
    class Doubled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = nn.Sequential(nn.Conv2d(4, 4, 1), Doubled(4, 4, 1))
    assert [type(part).__name__ for part in condition_convolutions(model)] == ["CondConv2d", "Doubled"]
