"""The compander against numbers by hand and closed forms, and networks that it must leave as they were at the start."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from paperweight.nets import MLP, LeNet, ResNet, plain_weights
from paperweight.regularization.weight_compander import WeightCompander, compand, compand_weights, expand
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(build, *args: object) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*args)


POSITIVE = (0.0, -1.0, math.inf, math.nan)
WHOLE = torch.ones(2, dtype=torch.int64)
ZERO = nn.Linear(2, 2)
nn.init.zeros_(ZERO.weight)
NAN = nn.Linear(2, 2)
nn.init.constant_(NAN.weight, math.nan)

CONTRACT = {
    "WeightCompander": LayerSubject(
        make=WeightCompander,
        inputs=(normal(3, 2, 4).float(),),
        shape=(3, 2, 4),
        parameter_count=2,
        bad={"a": POSITIVE, "b": POSITIVE},
    ),
    "compand": FunctionSubject(
        make=compand, arguments={"v": normal(3, 4), "a": 0.5, "b": torch.tensor(0.2)}, bad={"v": (WHOLE,)}
    ),
    "expand": FunctionSubject(
        make=expand,
        arguments={"w": normal(3, 4).tanh(), "a": 0.8, "b": torch.tensor(0.2)},
        bad={"w": (WHOLE, torch.tensor([1.3]), torch.tensor([-1.3]), torch.tensor([math.nan]))},
    ),
    "compand_weights": FunctionSubject(
        make=lambda model, scale=1.0: dict(compand_weights(model, scale).state_dict()),
        arguments={"model": made(nn.Linear, 3, 2)},
        bad={"model": (nn.ReLU(), ZERO, NAN), "scale": (2 / math.pi, 0.0, -1.0, math.inf, math.nan)},
    ),
}


def test_values_are_those_of_a_loop_over_numbers():
    v = torch.tensor([-3.0, -0.2, 0.0, 0.1, 0.5, 40.0], dtype=torch.float64)
    expected = [0.7 * math.atan(x / 0.3) for x in v.tolist()]
    torch.testing.assert_close(compand(v, 0.7, 0.3), torch.tensor(expected).double())
    assert compand(torch.tensor(0.3).double(), 0.7, 0.3).item() == pytest.approx(0.7 * math.pi / 4)
    torch.testing.assert_close(
        WeightCompander(0.7, 0.3).double()(v), torch.tensor(expected).double(), rtol=1e-6, atol=0
    )


def test_it_is_odd_increasing_bounded_and_of_slope_a_over_b_at_0():
    v = torch.linspace(-50, 50, 4001, dtype=torch.float64)
    w = compand(v, 0.7, 0.3)
    torch.testing.assert_close(w, -w.flip(0))
    assert (w.diff() > 0).all()
    assert w.abs().max() < 0.7 * math.pi / 2
    assert compand(torch.tensor(1e-7).double(), 0.7, 0.3).item() == pytest.approx(1e-7 * 0.7 / 0.3, rel=1e-9)
    extreme = compand(torch.tensor([-3e38, 3e38]), 0.7, 1e-3)
    torch.testing.assert_close(extreme, torch.tensor([-0.7, 0.7]) * math.pi / 2)


def test_gradients_are_the_closed_forms():
    v, weight, compander = normal(50).requires_grad_(), normal(50, seed=1), WeightCompander(0.7, 0.3).double()
    by_v, by_a, by_b = torch.autograd.grad(compander(v), (v, compander.log_a, compander.log_b), weight)
    x = v.detach()
    torch.testing.assert_close(by_v, weight * (0.7 / 0.3) / (1 + (x / 0.3) ** 2), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(by_a, (weight * 0.7 * torch.atan(x / 0.3)).sum(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(by_b, (-weight * 0.7 * 0.3 * x / (0.09 + x**2)).sum(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_format_is_that_of_the_numbers(dtype):
    compander = WeightCompander(0.7, 0.3)
    assert compander(torch.ones(3, dtype=dtype)).dtype == dtype
    assert compander.right_inverse(torch.ones(3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_expand_is_the_inverse(dtype):
    w = torch.linspace(-1, 1, 101, dtype=dtype)
    torch.testing.assert_close(compand(expand(w, 0.7, 0.3), 0.7, 0.3), w)
    v = normal(50).to(dtype)
    torch.testing.assert_close(expand(compand(v, 0.7, 0.3), 0.7, 0.3), v, rtol=1e-5, atol=1e-6)


def test_with_a_and_b_large_and_equal_it_is_the_identity():
    v = normal(50)
    torch.testing.assert_close(compand(v, 1e4, 1e4), v, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("build", [LeNet, MLP, ResNet])
@pytest.mark.parametrize("scale", [0.7, 1.0, 5.0])
def test_a_network_starts_as_it_was_and_is_bounded_by_its_scale(build, scale):
    model = made(build, (1, 12, 12), 5).eval()
    images = normal(4, 1, 12, 12).float()
    companded = compand_weights(model, scale)
    torch.testing.assert_close(companded(images), model(images), rtol=1e-4, atol=1e-5)
    layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)}
    for name, layer in layers.items():
        part = companded.get_submodule(name)
        assert parametrize.is_parametrized(part, "weight")
        compander = part.parametrizations["weight"][0]
        largest = layer.weight.abs().max().item()
        assert compander.log_a.exp().item() == pytest.approx(scale * largest)
        assert compander.log_b.exp().item() == pytest.approx(scale * largest)
        with torch.no_grad():
            part.parametrizations["weight"].original.mul_(1e6)
        assert part.weight.abs().max().item() == pytest.approx(scale * largest * math.pi / 2, rel=1e-4)
    count = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in companded.parameters()) == count + 2 * len(layers)


def train(model: nn.Module, steps: int) -> nn.Module:
    images, labels = normal(40, 1, 8, 8).float(), torch.arange(40) % 5
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def test_a_and_b_are_learned_unless_they_are_frozen():
    start = made(LeNet, (1, 8, 8), 5)
    for learnable in (True, False):
        model = train(compand_weights(start, learnable=learnable), 5)
        moved = {
            name
            for (name, now), (_, then) in zip(
                model.named_parameters(), compand_weights(start).named_parameters(), strict=True
            )
            if not torch.equal(now, then)
        }
        assert len([name for name in moved if "log_" in name]) == (10 if learnable else 0)
        assert len([name for name in moved if name.endswith("original")]) == 5


def test_frozen_weights_stay():
    start = made(LeNet, (1, 8, 8), 5)
    start.body[0].weight.requires_grad_(False)
    model = train(compand_weights(start), 5)
    torch.testing.assert_close(model.body[0].weight, start.body[0].weight, rtol=1e-5, atol=1e-7)


def test_weights_are_stored_after_training_and_loaded_states_go_on_alike():
    model = train(compand_weights(made(LeNet, (1, 8, 8), 5)), 5)
    images = normal(4, 1, 8, 8).float()
    plain = plain_weights(model)
    assert torch.equal(plain(images), model(images))
    assert plain.state_dict().keys() == made(LeNet, (1, 8, 8), 5).state_dict().keys()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        other = compand_weights(LeNet((1, 8, 8), 5))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), model(images))
    again = train(copy.deepcopy(model), 2)
    assert torch.equal(again(images), train(other, 2)(images))
