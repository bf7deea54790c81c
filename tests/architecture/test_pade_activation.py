"""The Padé unit against hand-computed values, a loop over numbers, closed-form gradients, NumPy and SciPy."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.polynomial import polynomial
from scipy.optimize import least_squares
from torch import nn

from paperweight.architecture.pade_activation import PAU, fit_rational, replace_activations, safe_rational
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CONTRACT = {
    "PAU": LayerSubject(
        make=PAU,
        inputs=(normal(3, 2, 4).float(),),
        shape=(3, 2, 4),
        parameter_count=10,
        bad={
            "coefficients": (
                ((), (1.0,)),
                ((1.0,), ()),
                ((1.0, math.nan), (1.0,)),
                ((1.0,), (math.inf,)),
                ((1.0,),),
                (torch.ones(2, 2), torch.ones(2)),
                (torch.tensor(1.0), torch.ones(2)),
            )
        },
        null=lambda: PAU(((0.0, 1.0), (0.0,))),
        baseline=nn.Identity,
    ),
    "safe_rational": FunctionSubject(
        make=safe_rational,
        arguments={"x": normal(3, 4), "numerator": normal(6, seed=1), "denominator": normal(4, seed=2)},
        bad={name: (torch.zeros(0), torch.zeros(2, 2), torch.tensor(1.0)) for name in ("numerator", "denominator")},
    ),
    "fit_rational": FunctionSubject(
        make=fit_rational,
        arguments={"function": F.leaky_relu},
        bad={
            "function": (torch.log, lambda x: x[:3]),
            "m": (-1, 2.5),
            "n": (0, -1, 2.5),
            "interval": ((1.0, 1.0), (1.0, -1.0), (math.nan, 1.0), (0.0, math.inf)),
        },
    ),
    "replace_activations": FunctionSubject(
        make=lambda model, build=PAU: dict(replace_activations(model, build).state_dict()),
        arguments={"model": nn.Sequential(nn.Flatten(), nn.ReLU())},
        bad={"model": (nn.Linear(2, 2), nn.Tanh())},
    ),
}

FUNCTIONS = {
    "leaky_relu": (F.leaky_relu, 0.034),
    "relu": (F.relu, 0.034),
    "tanh": (torch.tanh, 1e-5),
    "sigmoid": (torch.sigmoid, 1e-5),
    "swish": (F.silu, 1e-5),
    "gelu": (F.gelu, 1e-3),
}
each_function = pytest.mark.parametrize(("function", "tolerance"), FUNCTIONS.values(), ids=FUNCTIONS)


def test_two_values_by_hand():
    # At 2: P = 1 + 4, A = -2 - 2, F = 5 / 5. At -1: P = 1 - 2, A = 1 - 1/2, F = -1 / 1.5.
    found = safe_rational(torch.tensor([2.0, -1.0]), torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -0.5]))
    torch.testing.assert_close(found, torch.tensor([1.0, -2 / 3]))


@pytest.mark.parametrize(("m", "n"), [(5, 4), (0, 1), (1, 6), (7, 1)])
def test_equals_a_loop_over_numbers(m, n):
    x, numerator, denominator = normal(3, 5), normal(m + 1, seed=1), normal(n, seed=2)
    expected = [
        sum(a * v**j for j, a in enumerate(numerator.tolist()))
        / (1 + abs(sum(b * v**k for k, b in enumerate(denominator.tolist(), start=1))))
        for v in x.flatten().tolist()
    ]
    expected = torch.tensor(expected, dtype=torch.float64).reshape(3, 5)
    torch.testing.assert_close(safe_rational(x, numerator, denominator), expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(PAU((numerator, denominator)).double()(x), expected, rtol=1e-5, atol=1e-5)


def test_without_denominator_it_is_numpys_polynomial():
    x, numerator = normal(50), normal(6, seed=1)
    found = safe_rational(x, numerator, torch.zeros(4, dtype=torch.float64))
    np.testing.assert_allclose(found, polynomial.polyval(x.numpy(), numerator.numpy()), rtol=1e-12, atol=1e-14)


def test_gradients_are_the_papers_closed_forms():
    x, a, b = (t.requires_grad_() for t in (normal(40), normal(6, seed=1), normal(4, seed=2)))
    weight = normal(40, seed=3)
    found = torch.autograd.grad(safe_rational(x, a, b), (x, a, b), weight)
    v, c, d = x.detach().numpy(), a.detach().numpy(), np.r_[0.0, b.detach().numpy()]
    P, A = polynomial.polyval(v, c), polynomial.polyval(v, d)
    dP, dA = polynomial.polyval(v, polynomial.polyder(c)), polynomial.polyval(v, polynomial.polyder(d))
    Q, w = 1 + np.abs(A), weight.numpy()
    assert {-1.0, 1.0} == set(np.sign(A))
    expected = (
        w * (dP / Q - np.sign(A) * dA * P / Q**2),
        np.array([np.sum(w * v**j / Q) for j in range(6)]),
        np.array([np.sum(-w * np.sign(A) * v**k * P / Q**2) for k in range(1, 5)]),
    )
    for gradient, closed in zip(found, expected, strict=True):
        np.testing.assert_allclose(gradient, closed, rtol=1e-9, atol=1e-11)


def test_there_is_no_pole_where_the_plain_quotient_has_one():
    x = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    numerator, denominator = torch.tensor([1.0, 1.0]).double(), torch.tensor([0.0, -1.0]).double()
    plain = (1 + x) / (1 - x.square())
    assert plain[~plain.isnan()].abs().max() > 900
    assert safe_rational(x, numerator, denominator).abs().max() <= 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("function", [F.leaky_relu, torch.tanh], ids=["leaky_relu", "tanh"])
@pytest.mark.parametrize("side", [-1, 1])
def test_large_inputs_have_the_exact_values_and_gradients(dtype, function, side):
    pau = PAU(fit_rational(function))
    x = (side * torch.tensor([50.0, 1e3, 1e4])).to(dtype).requires_grad_()
    value = pau(x)
    by_x, *by_coefficients = torch.autograd.grad(value.sum(), (x, *pau.parameters()))
    leaves = [t.detach().double().requires_grad_() for t in (x, *pau.parameters())]
    exact = safe_rational(*leaves)
    exact_by_x, *exact_by_coefficients = torch.autograd.grad(exact.sum(), leaves)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), exact, rtol=4 * eps, atol=0)
    # F' = P' / Q - Q' P / Q^2 is the difference of terms five and four times its size.
    torch.testing.assert_close(by_x.double(), exact_by_x, rtol=9 * 2 * eps, atol=0)
    for found, expected in zip(by_coefficients, exact_by_coefficients, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


@each_function
def test_fit_is_close_between_the_points_of_its_grid(function, tolerance):
    x = torch.linspace(-3, 3, 7919, dtype=torch.float64)
    assert (safe_rational(x, *fit_rational(function)) - function(x)).abs().max() < tolerance


@each_function
def test_fit_is_no_worse_than_the_best_that_scipy_finds(function, tolerance):
    x = np.linspace(-3, 3, 601)
    target = function(torch.from_numpy(x)).numpy()

    def error(c: np.ndarray) -> np.ndarray:
        return polynomial.polyval(x, c[:6]) / (1 + np.abs(x * polynomial.polyval(x, c[6:]))) - target

    ours = np.sum(error(torch.cat(fit_rational(function)).numpy()) ** 2)
    starts = np.random.default_rng(0).normal(size=(6, 10))
    theirs = min(2 * least_squares(error, start).cost for start in starts)
    assert ours <= theirs * (1 + 1e-6)


def test_fit_of_leaky_relu_is_the_published_one():
    # The authors' initial coefficients, rounded; those of odd powers in the denominator are 0 to five digits.
    a, b = (part.tolist() for part in fit_rational(F.leaky_relu))
    assert a == pytest.approx([0.0336, 0.505, 1.653, 2.010, 0.932, 0.152], rel=0.01)
    assert b == pytest.approx([0.0, 3.980, 0.0, 0.302], rel=0.01, abs=1e-5)


def test_fit_finds_a_rational_function_again():
    a, b = torch.tensor([0.5, -1.0, 0.3, 0.2]).double(), torch.tensor([0.3, 0.9]).double()
    found = fit_rational(lambda x: safe_rational(x, a, b), m=3, n=2)
    torch.testing.assert_close(found, (a, b), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("factor", [0.01, 1000.0])
def test_fit_on_a_scaled_interval_has_scaled_coefficients(factor):
    a, b = fit_rational(F.leaky_relu)
    wide_a, wide_b = fit_rational(lambda x: F.leaky_relu(x / factor), interval=(-3 * factor, 3 * factor))
    torch.testing.assert_close(wide_a * factor ** torch.arange(6).double(), a, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(wide_b * factor ** torch.arange(1, 5).double(), b, rtol=1e-5, atol=1e-8)


def test_zeros_in_all_of_the_denominator_do_not_learn_and_one_number_sets_them_free():
    x = normal(20).float()
    for denominator, learns in ((0.0, 0.0), False), ((0.0, 1e-6), True):
        pau = PAU(((0.0, 1.0), denominator))
        loss = pau(x).square().sum()
        by_numerator, by_denominator = torch.autograd.grad(loss, (pau.numerator, pau.denominator))
        assert by_numerator.all()
        assert bool(by_denominator.any()) is bool(by_denominator.all()) is learns


def test_training_bends_leaky_relu_into_tanh():
    pau, x = PAU(), torch.linspace(-3, 3, 200)
    optimizer = torch.optim.LBFGS(pau.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (pau(x) - x.tanh()).square().mean()
        loss.backward()
        return loss

    assert closure() > 0.1
    optimizer.step(closure)
    assert closure() < 1e-3


def test_each_place_gets_its_own_unit_and_the_model_stays_as_it_was():
    shared = nn.ReLU()
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    model = nn.Sequential(first, shared, nn.Sequential(second, shared), shared, nn.Tanh()).eval()
    x = normal(5, 3).float()
    before = model(x)
    new = replace_activations(model)
    units = [module for module in new.modules() if isinstance(module, PAU)]
    assert len(units) == len(set(units)) == 3
    assert not any(module.training or isinstance(module, nn.ReLU) for module in new.modules())
    assert torch.equal(model(x), before)
    inner = units[0](second(units[0](first(x))))
    assert torch.equal(new(x), units[0](inner).tanh())
    with torch.no_grad():
        units[2].numerator.mul_(2)
    assert torch.equal(new(x), (2 * units[0](inner)).tanh())


def test_another_type_is_replaced_by_another_module():
    new = replace_activations(nn.Sequential(nn.Tanh(), nn.ReLU()), build=nn.SiLU, replaced=nn.Tanh)
    assert [type(module) for module in new.children()] == [nn.SiLU, nn.ReLU]
