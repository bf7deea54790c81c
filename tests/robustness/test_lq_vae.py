"""LQ-VAE: rounding by hand, the Jacobian of a linear encoder, the loss against a loop, gradients hidden and exposed."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from paperweight.robustness.lq_vae import QuantizedFilter, filter_loss, jacobian_penalty, quantized
from paperweight.testing import DefenseSubject, FunctionSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


class Stretched(nn.Module):
    """An encoder of images of 16 pixels whose means are the pixels about 1 / 2, four times as large."""

    def forward(self, images: Tensor) -> Tensor:
        means = 4 * (images.flatten(1) - 0.5)
        return torch.cat([means, torch.zeros_like(means)], dim=1)


class Shrunk(nn.Module):
    def forward(self, codes: Tensor) -> Tensor:
        return (codes / 4 + 0.5).unflatten(1, (1, 4, 4))


class Moved(nn.Module):
    """What the filter does where nothing is rounded."""

    def forward(self, images: Tensor) -> Tensor:
        return 4 * (images - 0.5) / 4 + 0.5


def filtered(model: Any, levels: int | None = 33, width: float = 2.0) -> QuantizedFilter:
    return QuantizedFilter(model, Stretched(), Shrunk(), levels, width)


def networks() -> tuple[Any, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)).double()
        return encoder, nn.Sequential(nn.Linear(3, 6), nn.Unflatten(1, (2, 3))).double()


ENCODER, DECODER = networks()
INPUTS = normal(5, 2, 3, seed=1).double()
WEIGHTS = (-0.1, math.nan, math.inf, True)
SIZES = (0.0, -1.0, math.nan, math.inf, True)
ODD = nn.Sequential(nn.Flatten(), nn.Linear(6, 5)).double()

CONTRACT = {
    "QuantizedFilter": DefenseSubject(
        make=filtered,
        attacked=QuantizedFilter.exposed,
        bad={"levels": (1, 0, 2.0, True), "width": SIZES},
        null=partial(filtered, levels=None),
        baseline=lambda model: nn.Sequential(Moved(), model),
    ),
    "filter_loss": FunctionSubject(
        make=lambda generator=None, **given: filter_loss(generator=generator or seeded(), **given),
        arguments={"encoder": ENCODER, "decoder": DECODER, "inputs": INPUTS},
        bad={"beta": WEIGHTS, "lam": WEIGHTS, "inputs": (INPUTS[:0], INPUTS.long()), "encoder": (ODD,)},
    ),
    "jacobian_penalty": FunctionSubject(
        make=lambda generator=None, **given: jacobian_penalty(generator=generator or seeded(), **given),
        arguments={"encoder": ENCODER, "inputs": INPUTS},
        bad={"directions": (0, 1.0, True), "inputs": (INPUTS[:0], INPUTS.long())},
    ),
    "quantized": FunctionSubject(
        make=quantized, arguments={"z": INPUTS}, bad={"levels": (1, 0, 2.0, True), "width": SIZES}
    ),
}


@pytest.mark.parametrize("levels", [2, 3, 9])
def test_codes_are_rounded_to_the_nearest_level(levels: int) -> None:
    z = torch.linspace(-3, 3, 601, dtype=torch.float64) + 1e-4
    grid = torch.linspace(-1.5, 1.5, levels, dtype=torch.float64)
    found = quantized(z, levels, 1.5)
    torch.testing.assert_close(found, grid[(z[:, None] - grid).abs().argmin(dim=1)])
    assert torch.equal(quantized(found, levels, 1.5), found)
    inside = z.abs() <= 1.5
    assert (found - z)[inside].abs().max() <= 1.5 / (levels - 1) + 1e-12


def test_gradients_stop_at_the_rounding_and_pass_if_straight_even_beyond_the_range() -> None:
    z = torch.tensor([-7.0, 0.3, 1.2], requires_grad=True)
    assert torch.autograd.grad(quantized(z).sum(), z)[0].tolist() == [0, 0, 0]
    straight = quantized(z, straight=True)
    torch.testing.assert_close(straight, quantized(z))
    assert torch.autograd.grad((straight * torch.tensor([1.0, 2.0, 3.0])).sum(), z)[0].tolist() == [1, 2, 3]


def test_the_penalty_of_a_linear_encoder_is_in_the_mean_the_norm_of_its_matrix() -> None:
    matrix = normal(6, 4, seed=2).double()
    found = jacobian_penalty(lambda x: x.flatten(1) @ matrix, INPUTS.repeat(200, 1, 1), seeded(3), directions=20)
    assert found.item() == pytest.approx(matrix.square().sum().item(), rel=0.03)


def test_the_penalty_is_that_of_its_directions_and_has_a_gradient_to_the_weights() -> None:
    source = seeded(4)
    expected = []
    for _ in range(2):
        u = torch.randn(5, 6, generator=source).double()
        for n in range(5):
            jacobian = torch.autograd.functional.jacobian(ENCODER, INPUTS[n : n + 1])
            expected.append((u[n] @ jacobian[0].flatten(1)).square().sum())
    found = jacobian_penalty(ENCODER, INPUTS, seeded(4), directions=2)
    torch.testing.assert_close(found, torch.stack(expected).mean())
    (gradient,) = torch.autograd.grad(found, ENCODER[1].weight)
    assert gradient.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(jacobian_penalty(ENCODER, INPUTS, seeded(4), directions=2), found)


@pytest.mark.parametrize("lam", [0.0, 0.3])
def test_the_loss_is_that_of_a_loop_over_images(lam: float) -> None:
    source = seeded(5)
    noise = torch.randn(5, 3, generator=source).double()
    expected = torch.zeros((), dtype=torch.float64)
    for n in range(5):
        mean, log_variance = ENCODER(INPUTS[n : n + 1])[0].split(3)
        posterior = Normal(mean, (log_variance / 2).exp())
        rebuilt = DECODER((mean + posterior.scale * noise[n])[None])[0]
        divergence = kl_divergence(posterior, Normal(torch.zeros(3).double(), torch.ones(3).double())).sum()
        expected = expected + ((rebuilt - INPUTS[n]).square().sum() + 0.7 * divergence) / 5
    if lam:
        expected = expected + lam * jacobian_penalty(lambda x: ENCODER(x)[:, :3], INPUTS, source)
    torch.testing.assert_close(filter_loss(ENCODER, DECODER, INPUTS, seeded(5), beta=0.7, lam=lam), expected)


def test_small_changes_of_the_code_vanish_where_no_border_is_crossed() -> None:
    each = filtered(nn.Flatten(), levels=5)
    images = torch.tensor([0.0, 0.25, 0.5, 1.0]).repeat(4).view(1, 1, 4, 4)
    change = 0.12 * (2 * torch.rand(20, 1, 4, 4, generator=seeded(6)) - 1)
    assert torch.equal(each(images + change), each(images).expand(20, 16))
    assert torch.equal(each.clean(images), images)
    assert not torch.equal(each(images + 0.13), each(images))


def test_an_exposed_filter_gives_the_same_with_a_gradient() -> None:
    each = QuantizedFilter(nn.Flatten(), ENCODER, DECODER)
    x = INPUTS.clone().requires_grad_()
    assert torch.allclose(each.exposed()(x), each(x))
    assert (torch.autograd.grad(each(x).sum(), x)[0] == 0).all()
    (found,) = torch.autograd.grad(each.exposed()(x).sum(), x)
    (smooth,) = torch.autograd.grad(QuantizedFilter(nn.Flatten(), ENCODER, DECODER, None)(x).sum(), x)
    torch.testing.assert_close(found, smooth)
    assert each.levels == 9
    assert not each._straight


def test_it_is_copied_and_its_parts_are_in_its_state() -> None:
    each = QuantizedFilter(nn.Flatten(), ENCODER, DECODER)
    other = copy.deepcopy(each)
    assert torch.equal(other(INPUTS), each(INPUTS))
    assert {name.split(".")[0] for name in each.state_dict()} == {"encoder", "decoder"}
