"""CRReLU against numbers by hand and closed forms; entropies against scipy, samples and a sum over outputs."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from scipy.integrate import trapezoid
from scipy.optimize import minimize_scalar
from torch import nn

from paperweight.architecture.crrelu import (
    CRReLU,
    activation_entropy,
    corrected_relu,
    eafo_correction,
    worst_activation,
)
from paperweight.nets import LeNet, replace_modules
from paperweight.testing import FunctionSubject, LayerSubject

NORMAL_ENTROPY = math.log(2 * math.pi * math.e) / 2


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bell(x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-x.square() / 2) / math.sqrt(2 * math.pi)


BAD_DENSITIES = (torch.zeros_like, torch.sin, torch.log, lambda x: bell(x)[:3])
BAD_INTERVALS = ((1.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (0.0, math.inf))

CONTRACT = {
    "CRReLU": LayerSubject(
        make=CRReLU,
        inputs=(normal(3, 2, 4).float(),),
        shape=(3, 2, 4),
        parameter_count=1,
        bad={"init": (math.nan, math.inf, -math.inf)},
        null=lambda: CRReLU(0.0, learnable=False),
        baseline=nn.ReLU,
    ),
    "corrected_relu": FunctionSubject(
        make=corrected_relu,
        arguments={"x": normal(3, 4), "eps": torch.tensor(0.3)},
        bad={"x": (torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.complex64))},
        null=lambda x, eps: corrected_relu(x, 0.0),
        baseline=lambda x, eps: torch.relu(x),
    ),
    "worst_activation": FunctionSubject(
        make=lambda **given: worst_activation(**given)(normal(20)),
        arguments={"density": bell},
        bad={"density": BAD_DENSITIES, "interval": BAD_INTERVALS, "outputs": BAD_INTERVALS},
    ),
    "activation_entropy": FunctionSubject(
        make=activation_entropy,
        arguments={"activation": torch.sigmoid, "density": bell},
        bad={"activation": (torch.relu, torch.cos), "density": BAD_DENSITIES, "interval": BAD_INTERVALS},
    ),
    "eafo_correction": FunctionSubject(
        make=eafo_correction,
        arguments={"u": normal(20).abs() + 0.1, "inverse": torch.log, "density": bell},
        bad={"inverse": (torch.neg, torch.cos, torch.zeros_like)},
    ),
}


@pytest.mark.parametrize("eps", [0.01, -0.2, 1.0])
def test_values_are_those_of_a_loop_over_numbers(eps):
    x = torch.cat([normal(30) * 3, torch.tensor([0.0, -1.0, 1.0]).double()])
    numbers = [max(0.0, v) + eps * v * math.exp(-(v**2) / 2) for v in x.tolist()]
    expected = torch.tensor(numbers, dtype=torch.float64)
    torch.testing.assert_close(corrected_relu(x, eps), expected, rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(CRReLU(eps).double()(x), expected, rtol=1e-6, atol=1e-7)


def test_gradients_are_the_closed_forms():
    x, weight = normal(50).requires_grad_(), normal(50, seed=1)
    eps = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    by_x, by_eps = torch.autograd.grad(corrected_relu(x, eps), (x, eps), weight)
    v, w = x.detach().numpy(), weight.numpy()
    bump = np.exp(-(v**2) / 2)
    np.testing.assert_allclose(by_x, w * ((v > 0) + 0.3 * (1 - v**2) * bump), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(by_eps, np.sum(w * v * bump), rtol=1e-12)


def test_the_lowest_value_is_at_minus_one():
    found = minimize_scalar(
        lambda v: corrected_relu(torch.tensor(v).double(), 0.2).item(), bounds=(-5, 0), method="bounded"
    )
    assert found.x == pytest.approx(-1, abs=1e-4)
    assert found.fun == pytest.approx(-0.2 * math.exp(-0.5), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_far_from_0_it_is_relu_with_its_gradient(dtype):
    layer = CRReLU(0.5)
    x = torch.tensor([-6e4, -400.0, -20.0, 20.0, 400.0, 6e4], dtype=dtype, requires_grad=True)
    value = layer(x)
    by_x, by_eps = torch.autograd.grad(value.sum(), (x, layer.eps))
    assert value.dtype == dtype
    assert torch.equal(value, torch.relu(x))
    assert torch.equal(by_x, (x > 0).to(dtype))
    assert by_eps.item() == 0


def test_at_the_null_setting_a_network_trains_as_with_relu_bit_for_bit():
    images, labels = normal(40, 1, 8, 8).float(), torch.arange(40) % 10
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LeNet((1, 8, 8), 10)
    null = replace_modules(
        model, lambda _, part: isinstance(part, nn.ReLU), lambda _: CRReLU(0.0, learnable=False), wanted="a ReLU"
    )
    trained = []
    for network in (model, null):
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        trained.append(parameters)
    assert sum(isinstance(part, CRReLU) for part in null.modules()) == 4
    assert all(map(torch.equal, *trained))


def test_eps_is_learned_unless_it_is_frozen():
    x, layer = torch.linspace(-3, 3, 200), CRReLU(0.01)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        (layer(x) - corrected_relu(x, -0.4)).square().mean().backward()
        optimizer.step()
    assert layer.eps.item() == pytest.approx(-0.4, abs=1e-5)
    assert not CRReLU(0.01, learnable=False)(x).requires_grad


DENSITIES = {
    "normal": (bell, (-8.0, 8.0), stats.norm.cdf),
    "exponential": (lambda x: 5 * torch.exp(-x), (0.0, 40.0), stats.expon.cdf),
    "uniform": (torch.ones_like, (-1.0, 3.0), stats.uniform(-1, 4).cdf),
    "two normals": (
        lambda x: bell(x + 3) + 2 * bell(x - 2),
        (-11.0, 10.0),
        lambda x: (stats.norm.cdf(x + 3) + 2 * stats.norm.cdf(x - 2)) / 3,
    ),
}
each_density = pytest.mark.parametrize(("density", "interval", "known"), DENSITIES.values(), ids=DENSITIES)


@each_density
def test_worst_activation_is_the_cumulative_distribution_of_scipy_scaled(density, interval, known):
    x = torch.linspace(interval[0], interval[1], 3001, dtype=torch.float64)
    worst = worst_activation(density, interval, outputs=(-2.0, 5.0))
    np.testing.assert_allclose(worst(x), -2 + 7 * known(x.numpy()), atol=3e-6)
    assert worst(torch.tensor([-1e9, 1e9])).tolist() == pytest.approx([-2, 5])


def test_worst_activation_makes_normal_samples_uniform_and_sigmoid_does_not():
    samples = normal(4000)
    assert stats.kstest(worst_activation(bell)(samples), "uniform").pvalue > 0.05
    assert stats.kstest(torch.sigmoid(samples), "uniform").pvalue < 1e-6


def test_worst_activation_can_be_trained_through_and_keeps_format_and_shape():
    x = normal(4, 5).float().requires_grad_()
    value = worst_activation(bell, outputs=(-1.0, 1.0))(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.dtype == torch.float32
    torch.testing.assert_close(slope, 2 * bell(x.detach()), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("activation", "density", "expected"),
    [
        (lambda x: x, bell, NORMAL_ENTROPY),
        (lambda x: 3 * x - 1, lambda x: 7 * bell(x), NORMAL_ENTROPY + math.log(3)),
        (torch.exp, bell, NORMAL_ENTROPY),  # of a log-normal variable
        (torch.special.ndtr, bell, 0.0),  # uniform on (0, 1)
    ],
)
def test_entropies_in_closed_form(activation, density, expected):
    assert activation_entropy(activation, density) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("activation", [torch.sigmoid, torch.tanh, lambda x: F.leaky_relu(x, 0.2)])
def test_entropy_is_what_scipy_estimates_from_samples(activation):
    outputs = activation(normal(100_000)).numpy()
    assert activation_entropy(activation, bell) == pytest.approx(stats.differential_entropy(outputs), abs=0.03)


@pytest.mark.parametrize("activation", [torch.sigmoid, lambda x: (1 + torch.tanh(x)) / 2, lambda x: (x + 8) / 16])
def test_no_activation_with_these_bounds_has_the_entropy_of_the_worst(activation):
    worst = activation_entropy(worst_activation(bell), bell)
    assert worst == pytest.approx(0, abs=1e-6)
    assert activation_entropy(activation, bell) < worst - 0.01


def test_correction_of_relu_for_normal_inputs_is_the_bump():
    u = torch.linspace(0, 5, 50, dtype=torch.float64)
    expected = corrected_relu(u, 1 / math.sqrt(2 * math.pi)) - u
    torch.testing.assert_close(eafo_correction(u, lambda u: u, bell), expected, rtol=1e-12, atol=1e-14)


def test_correction_for_uniform_inputs_is_that_of_the_slope_alone():
    u = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    found = eafo_correction(u, torch.square, torch.ones_like)  # y' = 2 u, y'' = 2
    torch.testing.assert_close(found, -1 / u)


INVERSES = {"straight": lambda u: 2 * u, "cubic": lambda u: u + u**3 / 3, "sinh": torch.sinh, "asinh": torch.asinh}


@pytest.mark.parametrize("inverse", INVERSES.values(), ids=INVERSES)
def test_correction_lowers_the_entropy_by_the_integral_of_its_square(inverse):
    reach = 2000.0 if inverse is torch.asinh else 12.0
    u = torch.sinh(torch.linspace(-math.asinh(reach), math.asinh(reach), 100_001, dtype=torch.float64))
    y, eta, points = inverse(u), eafo_correction(u, inverse, bell), u.numpy()

    def entropy(t: float) -> float:
        moved = (y + t * eta).numpy()
        q = np.exp(-(moved**2) / 2) / math.sqrt(2 * math.pi) * np.gradient(moved, points)
        return trapezoid(-q * np.log(np.maximum(q, 1e-300)), points)

    expected = -trapezoid(eta.numpy() ** 2, points)
    assert expected < -0.01
    assert (entropy(1e-3) - entropy(-1e-3)) / 2e-3 == pytest.approx(expected, rel=1e-3)


def test_a_positive_eps_raises_the_entropy_of_positive_normal_inputs():
    inputs = (0.0, 8.0)
    rates = [
        (
            activation_entropy(lambda x, e=eps: corrected_relu(x, e), bell, inputs)
            - activation_entropy(torch.relu, bell, inputs)
        )
        / eps
        for eps in (1e-4, -1e-4)
    ]
    assert rates == pytest.approx([1 / math.sqrt(8)] * 2, rel=1e-3)
