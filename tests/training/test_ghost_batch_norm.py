"""Ghost batch normalization against torch's on each part, the closed form of the averages, and hand-computed values."""

import math

import pytest
import torch
from torch import Tensor, nn

from paperweight.nets import LeNet, NormalisedMLP, ResNet
from paperweight.testing import FunctionSubject, LayerSubject
from paperweight.training.ghost_batch_norm import (
    GhostBatchNorm,
    adapted_milestones,
    replace_batch_norms,
    scaled_lr,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CONTRACT = {
    "GhostBatchNorm": LayerSubject(
        make=lambda num_features=3, ghost_size=2, eps=1e-5, momentum=0.1: GhostBatchNorm(
            num_features, ghost_size, eps, momentum
        ),
        inputs=(normal(6, 3, 4, 5).float(),),
        shape=(6, 3, 4, 5),
        parameter_count=6,
        bad={
            "num_features": (0, -1, 2.5),
            "ghost_size": (1, 0, 2.5),
            "eps": (0.0, -1e-5, math.inf, math.nan),
            "momentum": (-0.1, 1.1, math.nan),
        },
        null=lambda: GhostBatchNorm(3, ghost_size=1_000_000_000),
        baseline=lambda: nn.BatchNorm2d(3),
    ),
    "replace_batch_norms": FunctionSubject(
        make=lambda model, ghost_size=4: dict(replace_batch_norms(model, ghost_size).state_dict()),
        arguments={"model": nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3))},
        bad={
            "model": (nn.Linear(2, 2), nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, track_running_stats=False)),
            "ghost_size": (1, 0),
        },
    ),
    "scaled_lr": FunctionSubject(
        make=scaled_lr,
        arguments={"lr": 0.1, "large": 256, "small": 64},
        bad={"lr": (-0.1, math.nan, math.inf), "large": (0, 2.5), "small": (0, 2.5)},
    ),
    "adapted_milestones": FunctionSubject(
        make=adapted_milestones,
        arguments={"epochs": [3, 4], "large": 256, "small": 64},
        bad={"epochs": ([-1], [2.5]), "large": (0, 2.5), "small": (0, 2.5)},
    ),
}


@pytest.mark.parametrize("shape", [(12, 3), (12, 3, 5), (12, 3, 4, 2), (12, 3, 2, 2, 2)])
def test_each_part_is_normalized_as_torch_does_it_and_averages_are_updated_in_turn(shape):
    plain = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)](3).double()
    ghost = GhostBatchNorm(3, ghost_size=4).double()
    for layer in (plain, ghost):
        with torch.no_grad():
            layer.weight.copy_(normal(3, seed=1))
            layer.bias.copy_(normal(3, seed=2))
    x = 2 + normal(*shape)
    given, expected_given = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected = torch.cat([plain(part) for part in expected_given.split(4)])
    found = ghost(given)
    assert torch.equal(found, expected)
    weights = normal(*shape, seed=3)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(given.grad, expected_given.grad, rtol=1e-12, atol=1e-13)
    assert ghost.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.state_dict().items():
        assert torch.equal(ghost.state_dict()[name], value)
    assert torch.equal(ghost.eval()(x), plain.eval()(x))


def test_running_mean_follows_the_closed_form():
    # mu = (1 - eta)^n mu_0 + sum over i of (1 - eta)^(n - i) eta mu_i, with n parts, the first one i = 1.
    eta, parts = 0.3, 5
    ghost = GhostBatchNorm(2, ghost_size=3, momentum=eta).double()
    start = normal(2, seed=1)
    ghost.running_mean.copy_(start)
    x = normal(parts * 3, 2)
    ghost(x)
    means = x.reshape(parts, 3, 2).mean(dim=1)
    expected = (1 - eta) ** parts * start
    expected += sum((1 - eta) ** (parts - i) * eta * mean for i, mean in enumerate(means, start=1))
    torch.testing.assert_close(ghost.running_mean, expected, rtol=1e-13, atol=1e-14)


def test_parts_by_hand():
    # 0 and 2 have mean 1 and deviation 1; 10 and 14 mean 12 and deviation 2.
    ghost = GhostBatchNorm(1, ghost_size=2, eps=1e-12, momentum=0.5).double()
    out = ghost(torch.tensor([[0.0], [2.0], [10.0], [14.0]], dtype=torch.float64))
    torch.testing.assert_close(out.flatten(), torch.tensor([-1.0, 1.0, -1.0, 1.0], dtype=torch.float64))
    assert ghost.running_mean.item() == 0.5 * (0.5 * 0 + 0.5 * 1) + 0.5 * 12
    assert ghost.running_var.item() == 0.5 * (0.5 * 1 + 0.5 * 2) + 0.5 * 8  # unbiased: 2 and 8
    assert ghost.num_batches_tracked == 2


@pytest.mark.parametrize(
    ("samples", "sizes"), [(9, [3, 3, 3]), (10, [4, 3, 3]), (5, [3, 2]), (4, [4]), (12, [4, 4, 4])]
)
def test_a_batch_is_cut_into_few_parts_of_nearly_equal_size(samples, sizes):
    seen: list[int] = []
    ghost = GhostBatchNorm(2, ghost_size=4)
    x = normal(samples, 2).float()
    out = ghost(x)
    start = 0
    for size in sizes:
        part = out[start : start + size].detach()
        assert part.mean(dim=0).abs().max() < 1e-5
        start += size
        seen.append(size)
    assert start == samples
    assert ghost.num_batches_tracked == len(seen)


def test_what_cannot_be_normalized_is_refused():
    with pytest.raises(ValueError, match=r"input must have shape \(N, 3, \.\.\.\), got \(4, 2\)"):
        GhostBatchNorm(3)(torch.zeros(4, 2))
    with pytest.raises(ValueError, match=r"input must have shape \(N, 3, \.\.\.\), got \(3,\)"):
        GhostBatchNorm(3)(torch.zeros(3))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        GhostBatchNorm(3)(torch.zeros(1, 3))


@pytest.mark.parametrize("build", [NormalisedMLP, ResNet])
def test_a_network_keeps_its_weights_and_what_it_computes_in_eval_mode(build):
    torch.manual_seed(0)
    model = build((1, 8, 8), 4).double()
    x = normal(20, 1, 8, 8)
    model(x)
    model.eval()
    new = replace_batch_norms(model, ghost_size=5)
    count = sum(isinstance(part, GhostBatchNorm) for part in new.modules())
    assert count == sum(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in model.modules()) > 0
    assert torch.equal(new(x), model(x))
    assert new.state_dict().keys() == model.state_dict().keys()
    model.load_state_dict(new.state_dict())
    assert not torch.equal(new.train()(x), model.train()(x))
    with pytest.raises(ValueError, match=r"model must hold batch normalization .* got LeNet without one"):
        replace_batch_norms(LeNet((1, 8, 8), 4))


def test_eps_momentum_and_missing_scales_are_taken_over():
    old = nn.BatchNorm1d(3, eps=1e-3, momentum=0.3, affine=False)
    new = replace_batch_norms(nn.Sequential(old), ghost_size=2)[0]
    assert (new.eps, new.momentum, new.affine, new.weight) == (1e-3, 0.3, False, None)
    x = normal(4, 3).float()
    assert torch.equal(new(x), torch.cat([old(x[:2]), old(x[2:])]))


def test_rules_of_large_batches():
    assert scaled_lr(0.1, 4096, 128) == pytest.approx(0.1 * math.sqrt(32), rel=1e-15)
    assert scaled_lr(0.3, 64, 64) == 0.3
    assert adapted_milestones([1, 7], large=96, small=64) == [2, 11]
    assert adapted_milestones((5,), large=64, small=64) == [5]
