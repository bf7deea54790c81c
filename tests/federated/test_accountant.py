"""Counting privacy against numerical integrals, the Gaussian mechanism's own closed forms, and a published value."""

import math

import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from paperweight.federated._accountant import privacy_spent, subsampled_gaussian_divergence


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.7])
@pytest.mark.parametrize("sigma", [0.8, 2.0])
@pytest.mark.parametrize("order", [2, 3, 8])
def test_divergence_is_that_of_the_mixture_by_integration(rate, sigma, order):
    def integrand(x: float) -> float:
        likelihood = (1 - rate) + rate * math.exp((2 * x - 1) / (2 * sigma**2))
        return norm.pdf(x, scale=sigma) * likelihood**order

    moment, _ = quad(integrand, -30, 30, points=[0, order], limit=400, epsabs=0, epsrel=1e-10)
    expected = math.log(moment) / (order - 1)
    assert subsampled_gaussian_divergence(rate, sigma, order) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_all_users_and_none():
    assert subsampled_gaussian_divergence(1.0, 3.0, order=7) == pytest.approx(7 / 18)
    assert subsampled_gaussian_divergence(1 - 1e-12, 3.0, order=7) == pytest.approx(7 / 18)
    assert subsampled_gaussian_divergence(0.0, 3.0, order=7) == 0
    assert privacy_spent(0.0, 1.0, rounds=5) < 0.02


def test_a_published_value():
    """An eps of 3.01 for 60 epochs of batches of 256 of 60,000, noise 1.1, delta 1e-5 (TensorFlow Privacy's tutorial).

    It goes with the older conversion, log(1 / delta) / (order - 1); the one that is used gives less.
    """
    rounds = 60 * 60_000 // 256
    older = min(
        rounds * subsampled_gaussian_divergence(256 / 60_000, 1.1, order) + math.log(1e5) / (order - 1)
        for order in range(2, 64)
    )
    assert older == pytest.approx(3.01, abs=0.005)
    assert 2.4 < privacy_spent(256 / 60_000, 1.1, rounds, delta=1e-5) < older


@pytest.mark.parametrize(("sigma", "rounds"), [(2.0, 1), (5.0, 20), (40.0, 100)])
def test_eps_is_a_little_more_than_the_exact_one_of_the_gaussian_mechanism(sigma, rounds):
    shift, delta = math.sqrt(rounds) / sigma, 1e-6

    def excess(eps: float) -> float:
        return norm.cdf(shift / 2 - eps / shift) - math.exp(eps) * norm.cdf(-shift / 2 - eps / shift) - delta

    exact = brentq(excess, 1e-6, 60)
    assert exact <= privacy_spent(1.0, sigma, rounds, delta) < 1.12 * exact


def test_more_users_or_rounds_and_less_noise_or_delta_spend_more():
    base = privacy_spent(0.1, 1.0, rounds=10, delta=1e-5)
    assert privacy_spent(0.2, 1.0, rounds=10, delta=1e-5) > base
    assert privacy_spent(0.1, 1.0, rounds=11, delta=1e-5) > base
    assert privacy_spent(0.1, 0.9, rounds=10, delta=1e-5) > base
    assert privacy_spent(0.1, 1.0, rounds=10, delta=1e-6) > base


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"rate": -0.1}, "rate"),
        ({"rate": 1.1}, "rate"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": 1.5}, "rounds"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, name):
    with pytest.raises(ValueError, match=name):
        privacy_spent(**{"rate": 0.1, "noise_multiplier": 1.0, "rounds": 3, **arguments})


@pytest.mark.parametrize("order", [1, 2.5])
def test_an_order_that_is_not_a_whole_number_from_2_is_refused(order):
    with pytest.raises(ValueError, match="order"):
        subsampled_gaussian_divergence(0.1, 1.0, order)
