"""Checks of the kind "sampler"."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.testing.calls import (
    Keywords,
    devices,
    generator_keyword,
    require_repeatable,
    require_states_untouched,
    require_unmodified,
)
from paperweight.testing.gaussian import GaussianData
from paperweight.testing.laws import Laws, always, declares_null, selected
from paperweight.testing.report import CheckFailure, CheckReport, Subject, run_checks
from paperweight.testing.values import identical

__all__ = [
    "SAMPLER_LAWS",
    "SamplerSubject",
    "check_dtype_and_device_preserved",
    "check_gaussian_moments",
    "check_global_random_state",
    "check_meets_protocol",
    "check_network_calls",
    "check_network_unmodified",
    "check_noise_unmodified",
    "check_null",
    "check_order_of_convergence",
    "check_repeatable",
    "check_sampler",
    "sampler_checks",
]

DATA = GaussianData(
    torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([[0.25, 0.1], [0.1, 0.16]], dtype=torch.float64)
)
SAMPLES = 32768
STANDARD_ERRORS = 5.0
MISSING_ORDER = 0.25


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSubject(Subject):
    """What the test of a sampler declares.

    ``make``, ``null`` and ``baseline`` take its keywords and give what is called as ``(network, noise)``: the class
    itself, or for a function ``f`` of these and keywords ``partial(partial, f)``.

    Args:
        network: From the Gaussian data, the exact network in the sampler's own terms: for one that denoises
            ``lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)``, for one that predicts the noise
            ``lambda data: lambda x, t: data.noise(x, alpha[t], sigma[t])``.
        calls: Number of times that what ``make`` gives calls the network.
        shape: Shape of one sample, which has two entries: ``(2,)``, or ``(1, 1, 2)`` for a sampler of images.
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        bias: Largest error of mean and covariance that discretisation may leave, in units of the standard deviations.
        of_steps: From a number of steps, the sampler that takes so many; given with ``order``.
        order: Order of convergence: 1 where the error halves as the steps double; None for a stochastic sampler.
        steps: The number of steps at which the order is first measured; it is doubled twice.

    Raises:
        ValueError: If only one of ``of_steps`` and ``order`` is given, or ``shape`` has not two entries.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> SamplerSubject(make=one_step, network=exact, calls=1).use().shape
        torch.Size([8, 2])
    """

    network: Callable[[GaussianData], Callable[..., Tensor]]
    calls: int
    shape: tuple[int, ...] = (2,)
    random: bool = False
    bias: float = 0.02
    of_steps: Callable[[int], Callable[..., Any]] | None = None
    order: float | None = None
    steps: int = 32

    def __post_init__(self) -> None:
        Subject.__post_init__(self)
        if (self.of_steps is None) != (self.order is None):
            raise ValueError("of_steps and order must be given together, got only one of them")
        if math.prod(self.shape) != 2:
            raise ValueError(f"shape must have two entries, such as (1, 1, 2), got {self.shape}")

    def use(self, **given: Any) -> object:
        """Make the sampler with these keywords and draw eight samples."""
        return self.make(**given)(_Network(self), _noise(self), **generator_keyword(self.random))


@final
class _Network(nn.Module):
    """The exact network, which counts its calls and has a parameter, so that it has a dtype and a device."""

    def __init__(self, subject: SamplerSubject) -> None:
        super().__init__()
        self.exact = subject.network(DATA)
        self.calls = 0
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Count the call, and give what the exact network gives."""
        self.calls += 1
        return self.exact(*args, **kwargs)


def _noise(subject: SamplerSubject, count: int = 8, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *subject.shape, generator=generator, dtype=torch.float64).to(dtype)


def _white_noise(subject: SamplerSubject) -> Tensor:
    """Draw noise whose sample mean is 0 and whose sample covariance is the identity."""
    drawn = _noise(subject, SAMPLES, torch.float64)
    noise = drawn.flatten(1) - drawn.flatten(1).mean(0)
    root = torch.linalg.cholesky(noise.T @ noise / SAMPLES)
    return torch.linalg.solve_triangular(root, noise.T, upper=False).T.contiguous().view_as(drawn)


def _samples(subject: SamplerSubject, noise: Tensor, make: Callable[..., Any] | None = None) -> Tensor:
    with torch.no_grad():
        return (make or subject.make)()(_Network(subject).to(noise.dtype), noise, **generator_keyword(subject.random))


def check_meets_protocol(subject: SamplerSubject) -> None:
    """Check that it gives finite samples of the shape of the noise.

    Args:
        subject: What is declared of the sampler.

    Raises:
        CheckFailure: If it does not.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_meets_protocol(SamplerSubject(make=one_step, network=exact, calls=1))
    """
    noise = _noise(subject)
    samples = _samples(subject, noise)
    if not isinstance(samples, Tensor) or samples.shape != noise.shape:
        got = tuple(samples.shape) if isinstance(samples, Tensor) else type(samples).__name__
        raise CheckFailure(f"noise of shape {tuple(noise.shape)} gives {got}", "give the samples alone")
    if not samples.isfinite().all():
        raise CheckFailure("a sample is not finite", "look at the last step, where the noise level is 0")


def check_gaussian_moments(subject: SamplerSubject) -> None:
    """Check that with the exact network the samples have the mean and the covariance of the data.

    The 32768 rows of noise have mean 0 and covariance 1 exactly, so that a deterministic sampler, linear in its noise,
    has no Monte-Carlo error; a random one is allowed 5 standard errors beside the declared bias.

    Args:
        subject: What is declared of the sampler.

    Raises:
        CheckFailure: If an entry of mean or covariance is off by more.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_gaussian_moments(SamplerSubject(make=one_step, network=exact, calls=1))
        Traceback (most recent call last):
        ...
        paperweight.testing.report.CheckFailure: covariance 0, 0 is ... and not 0.25, off by 1 of the scale; look at ...
    """
    samples = _samples(subject, _white_noise(subject)).flatten(1).double()
    deviations = DATA.covariance.diagonal().sqrt()
    scale = deviations[:, None] * deviations
    correlation = DATA.covariance / scale
    errors = {"mean": torch.full((2,), math.sqrt(1 / SAMPLES)), "covariance": ((1 + correlation**2) / SAMPLES).sqrt()}
    found = {"mean": samples.mean(0), "covariance": samples.T.cov(correction=0)}
    expected = {"mean": (DATA.mean, deviations), "covariance": (DATA.covariance, scale)}
    for name, (truth, unit) in expected.items():
        off = ((found[name] - truth) / unit).abs()
        allowed = subject.bias + (STANDARD_ERRORS * errors[name] if subject.random else 0 * errors[name])
        for index in (off > allowed).nonzero().tolist():
            place = ", ".join(map(str, index))
            raise CheckFailure(
                f"{name} {place} is {found[name][*index]:.3g} and not {truth[*index]:.3g}, "
                f"off by {off[*index]:.3g} of the scale",
                "look at the noise level of each step; where few steps leave an error, declare its size as bias",
            )


def check_network_calls(subject: SamplerSubject) -> None:
    """Check that it calls the network as often as it declares.

    Args:
        subject: What is declared of the sampler.

    Raises:
        CheckFailure: If the number is another.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_network_calls(SamplerSubject(make=one_step, network=exact, calls=1))
    """
    network = _Network(subject)
    subject.make()(network, _noise(subject), **generator_keyword(subject.random))
    if network.calls != subject.calls:
        raise CheckFailure(
            f"it calls the network {network.calls} times, not {subject.calls}", "count, or declare it so"
        )


def check_order_of_convergence(subject: SamplerSubject) -> None:
    """Check that in float64 the change of the samples falls by 2 to the order each time that the steps double.

    Args:
        subject: What is declared of the sampler, with ``of_steps`` and ``order``.

    Raises:
        CheckFailure: If the measured order is below the declared one by more than a quarter.

    Example:
        >>> def euler(steps):
        ...     levels = torch.linspace(10, 0.1, steps + 1).tolist()
        ...     def sample(network, noise):
        ...         x = 10 * noise
        ...         for now, then in zip(levels, levels[1:]):
        ...             x = x + (then - now) * (x - network(x, now)) / now
        ...         return x
        ...     return sample
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> make = lambda: euler(32)
        >>> check_order_of_convergence(
        ...     SamplerSubject(make=make, network=exact, calls=32, of_steps=euler, order=1, steps=256)
        ... )
    """
    if subject.of_steps is None or subject.order is None:
        raise CheckFailure("no order is declared", "declare of_steps and order")
    noise = _noise(subject, 64, torch.float64)
    runs = [_samples(subject, noise, partial(subject.of_steps, subject.steps * 2**power)) for power in range(3)]
    coarse, fine = ((runs[power] - runs[power + 1]).norm().item() for power in range(2))
    if fine == 0:
        raise CheckFailure("the number of steps does not matter", "take as many steps as of_steps is given")
    order = math.log2(coarse / fine) if coarse > 0 else 0.0
    if not order >= subject.order - MISSING_ORDER:
        raise CheckFailure(
            f"from {subject.steps} steps on it converges with order {order:.2f}, not {subject.order:g}",
            "look at where each slope is evaluated; or measure from a larger number of steps",
        )


def check_network_unmodified(subject: SamplerSubject) -> None:
    """Check that weights, gradients, mode and hooks of the network stay as they were; it is in train mode.

    Args:
        subject: What is declared of the sampler.

    Raises:
        CheckFailure: If one changes.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_network_unmodified(SamplerSubject(make=one_step, network=exact, calls=1))
    """
    network = _Network(subject)
    network.scale.grad = torch.ones(())
    call = partial(subject.make(), network, _noise(subject), **generator_keyword(subject.random))
    require_unmodified(call, network, "the network")


def check_noise_unmodified(subject: SamplerSubject) -> None:
    """Check that the noise stays as it was.

    Args:
        subject: What is declared of the sampler.

    Raises:
        CheckFailure: If it changes.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_noise_unmodified(SamplerSubject(make=one_step, network=exact, calls=1))
    """
    noise = _noise(subject)
    require_unmodified(lambda: _samples(subject, noise), noise, "the noise")


def check_repeatable(subject: SamplerSubject) -> None:
    """Check that the same noise and generator give the same bits, and another generator others.

    Args:
        subject: What is declared of the sampler.

    Raises:
        CheckFailure: If they do not.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_repeatable(SamplerSubject(make=one_step, network=exact, calls=1))
    """

    def call(keyword: Keywords) -> object:
        with torch.no_grad():
            return subject.make()(_Network(subject), _noise(subject), **keyword)

    require_repeatable(call, subject.random)


def check_global_random_state(subject: SamplerSubject) -> None:
    """Check that a call leaves the random states of Python, NumPy and torch as they were.

    Args:
        subject: What is declared of the sampler.

    Raises:
        CheckFailure: If one of them changed.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_global_random_state(SamplerSubject(make=one_step, network=exact, calls=1))
    """
    require_states_untouched(lambda: _samples(subject, _noise(subject)))


def check_dtype_and_device_preserved(subject: SamplerSubject) -> None:
    """Check that the samples have the dtype and device of the noise, in float32 and float64.

    Args:
        subject: What is declared of the sampler.

    Raises:
        CheckFailure: If they have another.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_dtype_and_device_preserved(SamplerSubject(make=one_step, network=exact, calls=1))
    """
    for device in devices():
        for dtype in (torch.float32, torch.float64):
            network, noise = _Network(subject).to(device, dtype), _noise(subject, dtype=dtype).to(device)
            samples = subject.make()(network, noise, **generator_keyword(subject.random, device=device))
            if (samples.dtype, samples.device.type) != (dtype, device):
                raise CheckFailure(
                    f"{dtype} on {device} gives {samples.dtype} on {samples.device}",
                    "make new tensors with the dtype and device of the noise, such as torch.zeros_like(noise)",
                )


def check_null(subject: SamplerSubject) -> None:
    """Check that at its null setting it gives the samples of its baseline, bit for bit.

    Args:
        subject: What is declared of the sampler, with ``null`` and ``baseline``; the baseline, too, takes a generator
            where the sampler does.

    Raises:
        CheckFailure: If one differs.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> check_null(SamplerSubject(make=one_step, network=exact, calls=1, null=one_step, baseline=one_step))
    """
    if not identical(*(_samples(subject, _noise(subject), make) for make in (subject.null, subject.baseline))):
        raise CheckFailure(
            "at the null setting the samples differ from the baseline's",
            "at the null setting take the baseline's operations in the baseline's order",
        )


SAMPLER_LAWS: Laws[SamplerSubject] = {
    check_meets_protocol: always,
    check_gaussian_moments: always,
    check_network_calls: always,
    check_network_unmodified: always,
    check_noise_unmodified: always,
    check_repeatable: always,
    check_global_random_state: always,
    check_dtype_and_device_preserved: always,
    check_order_of_convergence: lambda subject: subject.order is not None,
    check_null: declares_null,
}


def sampler_checks(subject: SamplerSubject) -> dict[str, Callable[[], None]]:
    """List the checks of the kind "sampler".

    Args:
        subject: What the test of the sampler declares.

    Returns:
        Name of the check to the check, with its arguments bound.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> sampler_checks(SamplerSubject(make=one_step, network=exact, calls=1))["check_network_calls"]()
    """
    return selected(SAMPLER_LAWS, subject)


def check_sampler(
    make: Callable[..., Any],
    *,
    network: Callable[[GaussianData], Callable[..., Tensor]],
    calls: int,
    shape: tuple[int, ...] = (2,),
    random: bool = False,
    bias: float = 0.02,
    of_steps: Callable[[int], Callable[..., Any]] | None = None,
    order: float | None = None,
    steps: int = 32,
    null: Callable[..., Any] | None = None,
    baseline: Callable[..., Any] | None = None,
) -> CheckReport:
    """Run all checks of the kind "sampler".

    Args:
        make: A class whose arguments all have defaults, or a function that makes what is called as ``(network,
            noise)``; for a function ``f`` of these and keywords ``partial(partial, f)``.
        network: From the Gaussian data, the exact network in the sampler's own terms.
        calls: Number of times that it calls the network.
        shape: Shape of one sample, which has two entries: ``(2,)``, or ``(1, 1, 2)`` for a sampler of images.
        shape: Shape of one sample, which has two entries: ``(2,)``, or ``(1, 1, 2)`` for a sampler of images.
        random: Whether the call takes the keyword ``generator``; with ``null`` and ``baseline`` it then does, too.
        bias: Largest error of mean and covariance that discretisation may leave, in units of the standard deviations.
        of_steps: From a number of steps, the sampler that takes so many; given with ``order``.
        order: Order of convergence; by default it is not measured.
        steps: The number of steps at which the order is first measured; it is doubled twice.
        null: Makes it at its null setting; None if it has none.
        baseline: Makes what ``null`` must equal.

    Returns:
        One result a check.

    Raises:
        ValueError: If only one of ``null`` and ``baseline``, or of ``of_steps`` and ``order``, is given, or ``shape``
            has not two entries.

    Example:
        >>> one_step = lambda: lambda network, noise: network(100 * noise, 100.0)
        >>> exact = lambda data: lambda x, sigma: data.denoise(x, 1.0, sigma)
        >>> [result.name for result in check_sampler(one_step, network=exact, calls=1).failures]
        ['check_gaussian_moments']
    """
    subject = SamplerSubject(
        make=make,
        network=network,
        calls=calls,
        shape=shape,
        random=random,
        bias=bias,
        of_steps=of_steps,
        order=order,
        steps=steps,
        null=null,
        baseline=baseline,
    )
    return run_checks(sampler_checks(subject))
