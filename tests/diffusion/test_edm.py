"""EDM against hand-computed factors, steps by hand, exact Gaussian data, a single data point and a slow loss."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from paperweight.diffusion.edm import (
    EDMPrecond,
    HeunSampler,
    StochasticSampler,
    _factors,
    _loss_weight,
    edm_loss,
    karras_sigmas,
)
from paperweight.loops import fit_generator
from paperweight.nets import UNet
from paperweight.testing import FunctionSubject, GaussianData, LayerSubject, LossSubject, SamplerSubject


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=drawn(seed), dtype=dtype)


class Small(nn.Module):
    """A network of three features and the noise level."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x, c_noise, *condition):
        return self.layers(torch.cat([x, c_noise[:, None]], dim=1)) + sum(condition)


def preconditioned(sigma_data: float = 0.5) -> EDMPrecond:
    return EDMPrecond(Small(), sigma_data)


def denoise(data: GaussianData):
    return lambda x, sigma: data.denoise(x, 1.0, sigma)


def shrink(x, sigma):
    return x / (1 + sigma[:, None]) + 0.3


def loop(denoiser, inputs, generator, p_mean=-1.2, p_std=1.2, sigma_data=0.5):
    """The loss as the paper writes it, one sample after the other, by the mean over its entries."""
    levels = torch.randn(len(inputs), generator=generator, dtype=inputs.dtype).tolist()
    noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype)
    total = 0.0
    for clean, level, unit in zip(inputs, levels, noise, strict=True):
        sigma = math.exp(p_mean + p_std * level)
        guess = denoiser((clean + sigma * unit)[None], torch.tensor([sigma], dtype=inputs.dtype))[0]
        weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        total += weight * sum(e * e for e in (guess - clean).flatten().tolist()) / clean.numel()
    return total / len(inputs)


def deterministic(**given):
    sampler = HeunSampler(**given)
    return lambda network, noise, generator: sampler(network, noise)


BAD_LEVELS = {
    "steps": (0, -1, 2.5),
    "sigma_min": (0.0, -1.0, math.nan, math.inf),
    "sigma_max": (0.002, 0.0, math.nan, math.inf),
    "rho": (0.0, -1.0, math.nan, math.inf),
}

CONTRACT = {
    "EDMPrecond": LayerSubject(
        make=preconditioned,
        inputs=(normal(4, 3, dtype=torch.float32), torch.tensor([0.01, 0.5, 3.0, 70.0])),
        shape=(4, 3),
        parameter_count=43,
        bad={"sigma_data": (0.0, -1.0, math.nan, math.inf)},
    ),
    "HeunSampler": SamplerSubject(
        make=partial(HeunSampler, steps=48), network=denoise, calls=95, of_steps=HeunSampler, order=2, bad=BAD_LEVELS
    ),
    "StochasticSampler": SamplerSubject(
        make=partial(StochasticSampler, steps=64, s_noise=1.0),
        network=denoise,
        calls=127,
        random=True,
        null=partial(StochasticSampler, steps=64, s_churn=0.0),
        baseline=partial(deterministic, steps=64),
        bad=BAD_LEVELS
        | {
            "s_churn": (-1.0, math.nan, math.inf),
            "s_tmin": (-1.0, math.nan, math.inf),
            "s_tmax": (0.04, math.nan, math.inf),
            "s_noise": (-1.0, math.nan, math.inf),
        },
    ),
    "edm_loss": LossSubject(
        make=partial(partial, edm_loss),
        inputs=(shrink, normal(4, 3), drawn()),
        slow=loop,
        differentiable=(1,),
        bad={
            "p_mean": (math.nan, math.inf),
            "p_std": (-1.0, math.nan, math.inf),
            "sigma_data": (0.0, -1.0, math.nan),
        },
        expected_failures={
            "check_order_of_samples": "each sample has a noise level and noise of its own, by its place in the batch"
        },
    ),
    "karras_sigmas": FunctionSubject(make=karras_sigmas, arguments={"steps": 5}, bad=BAD_LEVELS),
}


def test_levels_by_hand():
    # Roots from 80^(1/7) to 0.002^(1/7) in 17 equal parts.
    high, low = 80 ** (1 / 7), 0.002 ** (1 / 7)
    expected = [(high + i / 17 * (low - high)) ** 7 for i in range(18)] + [0]
    torch.testing.assert_close(karras_sigmas(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert karras_sigmas(4, 1, 7, rho=1).tolist() == [7, 5, 3, 1, 0]
    assert karras_sigmas(1, 1.0, 4.0, rho=2.0).tolist() == [4, 0]
    logs = karras_sigmas(4, 1.0, 8.0, rho=1e6)[:-1].log2()
    torch.testing.assert_close(logs, torch.tensor([3.0, 2, 1, 0]).double(), rtol=0, atol=1e-5)


def test_factors_by_hand():
    # sigma 0.3 and sigma_data 0.4 have the root of their squares' sum at 0.5.
    skip, out, inner, noise = (factor.item() for factor in _factors(torch.tensor([0.3]).double(), 0.4))
    assert [skip, out, inner] == pytest.approx([0.64, 0.24, 2.0])
    assert noise == pytest.approx(math.log(0.3) / 4)
    assert _loss_weight(torch.tensor([0.3]).double(), 0.4).item() == pytest.approx(0.25 / 0.12**2)


def test_inputs_and_targets_have_unit_variance_and_the_weighted_loss_is_that_of_the_network():
    sigma, sigma_data = torch.tensor([0.002, 0.1, 0.5, 3.0, 80.0]).double(), 0.7
    skip, out, inner, _ = _factors(sigma, sigma_data)
    ones = torch.ones_like(sigma)
    torch.testing.assert_close(inner**2 * (sigma_data**2 + sigma**2), ones)
    # (y - c_skip (y + sigma n)) / c_out for independent y and n
    torch.testing.assert_close(((1 - skip) ** 2 * sigma_data**2 + skip**2 * sigma**2) / out**2, ones)
    torch.testing.assert_close(_loss_weight(sigma, sigma_data) * out**2, ones)


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_the_zero_network_is_ideal_for_gaussian_data(sigma_data):
    denoiser = EDMPrecond(lambda x, c_noise: torch.zeros_like(x), sigma_data)
    data = GaussianData(torch.zeros(3).double(), sigma_data**2 * torch.eye(3).double())
    x = normal(4, 3)
    for sigma in (0.01, 0.5, 30.0):
        torch.testing.assert_close(denoiser(x, torch.full((4,), sigma).double()), data.denoise(x, 1.0, sigma))
    values = [
        edm_loss(denoiser, sigma_data * normal(20_000, 3), drawn(1), sigma_data=sigma_data, p_mean=m).item()
        for m in (-6.0, 0.0, 4.0)
    ]
    assert values == pytest.approx([1.0] * 3, abs=0.02)


def test_the_network_is_called_with_scaled_inputs_and_its_condition():
    seen = []

    def network(x, c_noise, labels):
        seen.append((x, c_noise, labels))
        return torch.ones_like(x)

    images, sigma, labels = normal(2, 1, 4, 4), torch.tensor([0.5, 2.0]).double(), torch.tensor([3, 1])
    denoised = EDMPrecond(network, sigma_data=0.5)(images, sigma, labels)
    for index, level in enumerate((0.5, 2.0)):
        total = math.sqrt(level**2 + 0.25)
        torch.testing.assert_close(seen[0][0][index], images[index] / total)
        assert seen[0][1][index].item() == pytest.approx(math.log(level) / 4)
        torch.testing.assert_close(denoised[index], images[index] * 0.25 / total**2 + level * 0.5 / total)
    assert torch.equal(seen[0][2], labels)
    with pytest.raises(ValueError, match=r"sigma must have shape \(2,\), one level for each sample, got \(\)"):
        EDMPrecond(network)(images, torch.tensor(0.5), labels)


def test_levels_in_another_format_than_the_data():
    denoiser = EDMPrecond(lambda x, c_noise: x * c_noise[:, None])
    assert denoiser(normal(2, 3, dtype=torch.bfloat16), torch.ones(2)).dtype == torch.bfloat16


def test_two_steps_by_hand():
    # D = x / 2 at levels 4, 1, 0 from noise 1. At 4: slope (4 - 2) / 4 = 1/2, Euler to 4 - 3/2 = 5/2; there the slope
    # is 5/4, the mean 7/8, Heun 4 - 21/8 = 11/8. At 1: slope 11/16, Euler to 0: 11/16.
    sampler = HeunSampler(steps=2, sigma_min=1.0, sigma_max=4.0, rho=2.0)
    assert sampler(lambda x, sigma: x / 2, torch.ones(1, 1)).item() == 11 / 16


def test_a_stochastic_step_by_hand():
    # One step from 4 to 0 with gamma = min(3 / 1, sqrt(2) - 1): the level is 4 sqrt(2), the noise added has deviation
    # 4 times s_noise, and the step to 0 ends at D = x / 2.
    sampler = StochasticSampler(steps=1, sigma_min=1.0, sigma_max=4.0, s_churn=3.0, s_noise=1.5)
    levels = []

    def half(x, sigma):
        levels.append(sigma.item())
        return x / 2

    noise, fresh = normal(1, 3), torch.randn(1, 3, generator=drawn(7), dtype=torch.float64)
    samples = sampler(half, noise, generator=drawn(7))
    assert levels == pytest.approx([4 * math.sqrt(2)])
    torch.testing.assert_close(samples, (4 * noise + 4 * 1.5 * fresh) / 2)


def test_only_levels_within_the_range_are_raised():
    sampler = StochasticSampler(steps=4, sigma_min=1.0, sigma_max=7.0, rho=1.0, s_churn=0.4, s_tmin=3.0, s_tmax=5.0)
    levels = []

    def look(x, sigma):
        levels.append(round(sigma[0].item(), 4))
        return x / 2

    sampler(look, torch.ones(1, 1).double(), generator=drawn())
    assert levels == [7, 5, 5.5, 3, 3.3, 1, 1]


def test_the_solution_for_gaussian_data_is_the_closed_form():
    data = GaussianData(torch.zeros(2).double(), 0.25 * torch.eye(2).double())
    noise = normal(5, 2)
    samples = HeunSampler(steps=200)(denoise(data), noise)
    # x(t) is proportional to the root of t^2 + s^2; the end at 0.002 differs from that at 0 by 1e-5.
    expected = 80 * noise * math.sqrt(0.25 / (80**2 + 0.25))
    torch.testing.assert_close(samples, expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 18])
def test_a_single_data_point_is_hit(steps):
    point = torch.tensor([0.3, -0.8]).double()
    noise = normal(6, 2)
    network = lambda x, sigma: point.expand_as(x)  # noqa: E731
    expected = point.expand(6, 2)
    torch.testing.assert_close(HeunSampler(steps)(network, noise), expected, rtol=0, atol=1e-12)
    samples = StochasticSampler(steps)(network, noise, generator=drawn())
    torch.testing.assert_close(samples, expected, rtol=0, atol=1e-12)


def test_churn_keeps_the_law_where_the_data_are_known():
    # With the exact denoiser the deviation of the samples is that of the data; with s_noise 0 it must be too small.
    data = GaussianData(torch.zeros(1).double(), torch.full((1, 1), 0.25).double())
    for s_noise, low, high in ((1.0, 0.49, 0.51), (0.0, 0.0, 0.45)):
        sampler = StochasticSampler(steps=100, s_noise=s_noise)
        deviation = sampler(denoise(data), normal(20_000, 1), generator=drawn(3)).std().item()
        assert low < deviation < high


def test_samples_carry_no_gradient_and_the_network_keeps_its_mode():
    model = preconditioned()
    samples = HeunSampler(steps=3)(model, normal(2, 3, dtype=torch.float32))
    assert not samples.requires_grad
    assert model.training


def test_no_samples_without_inputs():
    with pytest.raises(ValueError, match="inputs must hold at least one value"):
        edm_loss(shrink, torch.zeros(0, 3), drawn())


def test_training_learns_the_mean_and_the_deviation_of_points():
    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.of_level = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2))

        def forward(self, x, c_noise):
            scale, shift = self.of_level(c_noise[:, None]).unbind(dim=1)
            return scale[:, None] * x + shift[:, None]

    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = EDMPrecond(Affine())
    points = 0.2 + 0.3 * normal(4_000, 1, dtype=torch.float32)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.01)
    fit_generator(denoiser, optimizer, points, loss=edm_loss, steps=400, batch_size=256, generator=drawn(2))
    samples = HeunSampler(steps=18)(denoiser, normal(4_000, 1, seed=5, dtype=torch.float32))
    assert samples.mean().item() == pytest.approx(0.2, abs=0.03)
    assert samples.std().item() == pytest.approx(0.3, abs=0.03)


def test_a_convolutional_network_is_trained_and_sampled_from():
    model = UNet(1, base=8)
    denoiser = EDMPrecond(lambda x, c_noise: model(x, 400 + 200 * c_noise))
    edm_loss(denoiser, normal(2, 1, 8, 8, dtype=torch.float32), drawn()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert HeunSampler(steps=2)(denoiser, normal(2, 1, 8, 8, dtype=torch.float32)).shape == (2, 1, 8, 8)


def test_a_step_is_the_trapezium_of_its_slopes():
    # For D that does not depend on x the slope at the end is exact in D: compare with the rule written out.
    levels = karras_sigmas(5, 0.1, 10.0, 3.0).tolist()
    x = 10.0 * 0.7
    for now, then in pairwise(levels):
        first = (x - math.sin(now)) / now
        guess = x + (then - now) * first
        x = guess if then == 0 else x + (then - now) * (first + (guess - math.sin(then)) / then) / 2
    noise = torch.full((1, 1), 0.7).double()
    samples = HeunSampler(5, 0.1, 10.0, 3.0)(lambda y, sigma: sigma.sin()[:, None].expand_as(y), noise)
    assert samples.item() == pytest.approx(x, rel=1e-12)
