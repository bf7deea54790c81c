"""The privacy that rounds of the Gaussian mechanism on random cohorts spend, by Rényi differential privacy.

Source:
    I. Mironov, K. Talwar, L. Zhang, "Rényi Differential Privacy of the Sampled Gaussian Mechanism", 2019,
    https://arxiv.org/abs/1908.10530, section 3.3; turned into (eps, delta) by proposition 12 of C. L. Canonne,
    G. Kamath, T. Steinke, "The Discrete Gaussian for Differential Privacy", 2020, https://arxiv.org/abs/2004.00010.

Deviations:
    Whole orders only. Users are taken to be drawn independently of each other; cohorts of one size are counted as if
    they were drawn so, as is usual.
"""

import math

__all__ = ["privacy_spent", "subsampled_gaussian_divergence"]

_ORDERS = (*range(2, 64), *range(64, 513, 8))


def subsampled_gaussian_divergence(rate: float, noise_multiplier: float, order: int) -> float:
    """Compute the Rényi divergence of one round of the Gaussian mechanism on users drawn at a rate.

    It is log(sum_k C(a, k) (1 - q)^(a - k) q^k exp((k^2 - k) / (2 sigma^2))) / (a - 1), for order a and rate q.

    Args:
        rate: Share of the users that a round draws, q in [0, 1].
        noise_multiplier: Standard deviation of the noise over the largest norm of an update, above 0.
        order: Order of the divergence, a whole number of at least 2.

    Returns:
        The divergence, at least 0.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> subsampled_gaussian_divergence(1.0, noise_multiplier=2.0, order=8)
        1.0
    """
    if not isinstance(order, int) or order < 2:
        raise ValueError(f"order must be a whole number of at least 2, got {order}")
    if not 0 <= rate <= 1 or not noise_multiplier > 0:
        raise ValueError(
            f"rate must be from 0 to 1 and noise_multiplier above 0, got {rate} and {noise_multiplier}; "
            "without noise there is no privacy"
        )
    if rate in (0, 1):
        return rate * order / (2 * noise_multiplier**2)
    terms = [
        math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        + (order - k) * math.log1p(-rate) + k * math.log(rate) + (k * k - k) / (2 * noise_multiplier**2)
        for k in range(order + 1)
    ]  # fmt: skip
    largest = max(terms)
    return max(0.0, largest + math.log(math.fsum(math.exp(term - largest) for term in terms))) / (order - 1)


def privacy_spent(rate: float, noise_multiplier: float, rounds: int, delta: float = 1e-6) -> float:
    """Compute the eps of (eps, delta) differential privacy that rounds of the mechanism spend, the best of many orders.

    Args:
        rate: Share of the users that a round draws, in [0, 1].
        noise_multiplier: Standard deviation of the noise over the largest norm of an update, above 0.
        rounds: Number of rounds, at least 1.
        delta: The probability that is given away, in (0, 1); well below one over the number of users.

    Returns:
        The smallest eps, at least 0, over whole orders from 2 to 512.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> round(privacy_spent(0.01, noise_multiplier=1.0, rounds=100, delta=1e-5), 2)
        1.22
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"rounds must be a whole number of at least 1, got {rounds}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be between 0 and 1, got {delta}; take one well below 1 / number of users")
    return max(
        0.0,
        min(
            rounds * subsampled_gaussian_divergence(rate, noise_multiplier, order)
            + math.log1p(-1 / order)
            - (math.log(delta) + math.log(order)) / (order - 1)
            for order in _ORDERS
        ),
    )
