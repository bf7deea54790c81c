"""Diffusion in discrete time: noise schedules, what a network may predict, and single reverse steps.

Source:
    J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS, 2020 (linear schedule, equations 4
    and 7); J. Song, C. Meng, S. Ermon, "Denoising Diffusion Implicit Models", ICLR, 2021 (equation 12, eta 0);
    A. Nichol, P. Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML, 2021 (equation 17, sub-sampled
    times); T. Salimans, J. Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR, 2022 (v);
    J. Ho, T. Salimans, "Classifier-Free Diffusion Guidance", 2022 (guidance, with weight 1 for none).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

__all__ = [
    "MOST_NUMBERS",
    "MOST_STEPS",
    "Method",
    "NoiseSchedule",
    "Prediction",
    "add_noise",
    "cosine_schedule",
    "ddim_step",
    "ddpm_step",
    "denoise",
    "guided",
    "linear_schedule",
    "normal",
    "renoise",
    "split_prediction",
    "target",
]

Prediction = Literal["eps", "x0", "v"]
Method = Literal["ddim", "ddpm"]

MOST_STEPS = 100_000
"""Training times that a model may have: a file that asks for more is no reason to take memory for them."""
MOST_NUMBERS = 1 << 26
"""Numbers that an image or an embedding may have, likewise."""


@final
@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The share of signal in the variance at each time: z = sqrt(abar) x + sqrt(1 - abar) e.

    Args:
        abar: The share, falling, within (0, 1), float64, (S,).
        times: The training time that each entry belongs to, rising, int64, (S,); what a network is called with.

    Raises:
        ValueError: If the two differ in length, ``abar`` does not fall within (0, 1), or ``times`` do not rise.

    Example:
        >>> NoiseSchedule(torch.tensor([0.9, 0.5]), torch.tensor([0, 1])).previous(0)
        1.0
    """

    abar: Tensor
    times: Tensor

    def __post_init__(self) -> None:
        if self.abar.ndim != 1 or self.abar.shape != self.times.shape or not len(self.abar):
            raise ValueError(f"abar and times must have one shape (S,), got {self.abar.shape} and {self.times.shape}")
        falling = (self.abar[1:] < self.abar[:-1]).all() and self.abar[-1] > 0 and self.abar[0] < 1
        if not falling:
            raise ValueError(f"abar must fall within (0, 1), got {self.abar[0]:g} to {self.abar[-1]:g}")
        if not (self.times[1:] > self.times[:-1]).all():
            raise ValueError(f"times must rise, got {self.times.tolist()}")

    def __len__(self) -> int:
        return len(self.times)

    def previous(self, index: int) -> float:
        """Give abar one step nearer to the data: 1 before the first entry."""
        return self.abar[index - 1].item() if index else 1.0

    def subsample(self, steps: int) -> "NoiseSchedule":
        """Give the schedule at ``steps`` evenly spaced entries, the first and the last among them; one is the last.

        Raises:
            ValueError: If ``steps`` is not within 1 and the number of entries.
        """
        if not isinstance(steps, int) or not 1 <= steps <= len(self):
            raise ValueError(f"steps must be a whole number from 1 to {len(self)}, got {steps!r}")
        last = len(self) - 1
        chosen = torch.arange(steps) * last // (steps - 1) if steps > 1 else torch.tensor([last])
        return NoiseSchedule(self.abar[chosen], self.times[chosen])


def cosine_schedule(steps: int = 1000) -> NoiseSchedule:
    """Make the cosine schedule: beta_t = min(1 - f(t + 1) / f(t), 0.999), f(t) = cos^2((t / T + 0.008) / 1.008 pi / 2).

    Args:
        steps: Number of training times T, at least 1.

    Raises:
        ValueError: If ``steps`` is below 1.

    Example:
        >>> cosine_schedule(4).abar.round(decimals=3)
        tensor([0.8470, 0.4940, 0.1440, 0.0000], dtype=torch.float64)
    """
    _check_steps(steps)
    t = torch.arange(steps + 1, dtype=torch.float64)
    f = ((t / steps + 0.008) / 1.008 * math.pi / 2).cos().square()
    return _of_betas((1 - f[1:] / f[:-1]).clamp(max=0.999))


def linear_schedule(steps: int = 1000, first: float = 1e-4, last: float = 0.02) -> NoiseSchedule:
    """Make the linear schedule: beta_t from ``first`` to ``last``.

    Args:
        steps: Number of training times T, at least 1.
        first: The smallest beta, above 0; the paper's for T = 1000.
        last: The largest beta, below 1.

    Raises:
        ValueError: If ``steps`` is below 1, or the betas are not 0 < first <= last < 1.

    Example:
        >>> linear_schedule().abar[-1]
        tensor(4.0358e-05, dtype=torch.float64)
    """
    _check_steps(steps)
    if not 0 < first <= last < 1:
        raise ValueError(f"first and last must be 0 < first <= last < 1, got {first} and {last}")
    return _of_betas(torch.linspace(first, last, steps, dtype=torch.float64))


def _of_betas(betas: Tensor) -> NoiseSchedule:
    return NoiseSchedule((1 - betas).cumprod(0), torch.arange(len(betas)))


def _check_steps(steps: int) -> None:
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")


def _roots(abar: float | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Give sqrt(abar) and sqrt(1 - abar), (N, 1, ...) or scalars, in the dtype and on the device of ``like``."""
    share = torch.as_tensor(abar, dtype=torch.float64)
    share = share.view(-1, *[1] * (like.ndim - 1)) if share.ndim else share
    return share.sqrt().to(like), (1 - share).sqrt().to(like)


def add_noise(x: Tensor, noise: Tensor, abar: float | Tensor) -> Tensor:
    """Compute z = sqrt(abar) x + sqrt(1 - abar) e; ``abar`` is a number or (N,)."""
    signal, spread = _roots(abar, x)
    return signal * x + spread * noise


def target(x: Tensor, noise: Tensor, abar: float | Tensor, prediction: Prediction) -> Tensor:
    """Give what a network is to predict: the noise, the data, or v = sqrt(abar) e - sqrt(1 - abar) x."""
    signal, spread = _roots(abar, x)
    return {"eps": noise, "x0": x, "v": signal * noise - spread * x}[prediction]


def split_prediction(z: Tensor, output: Tensor, abar: float | Tensor, prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Give the data x0 and the noise e that an output stands for: z = sqrt(abar) x0 + sqrt(1 - abar) e."""
    signal, spread = _roots(abar, z)
    if prediction == "eps":
        return (z - spread * output) / signal, output
    if prediction == "x0":
        return output, (z - signal * output) / spread
    return signal * z - spread * output, spread * z + signal * output


def guided(with_condition: Tensor, without: Tensor, guidance: float) -> Tensor:
    """Compute e_0 + w (e_c - e_0), classifier-free guidance of weight w; 1 is the conditional prediction itself."""
    return with_condition if guidance == 1 else without + guidance * (with_condition - without)


def ddim_step(x0: Tensor, eps: Tensor, previous: float) -> Tensor:
    """Compute sqrt(abar') x0 + sqrt(1 - abar') e, where abar' is the share of signal after the step."""
    return add_noise(x0, eps, previous)


def ddpm_step(z: Tensor, x0: Tensor, abar: float, previous: float, generator: torch.Generator) -> Tensor:
    """Draw from q(z' | z, x0), whose variance is beta (1 - abar') / (1 - abar); nothing is drawn in the last step."""
    alpha = abar / previous
    beta = 1 - alpha
    mean = math.sqrt(previous) * beta / (1 - abar) * x0 + math.sqrt(alpha) * (1 - previous) / (1 - abar) * z
    if previous == 1:
        return mean
    return mean + math.sqrt(beta * (1 - previous) / (1 - abar)) * normal(z, generator)


def renoise(z: Tensor, abar: float, previous: float, generator: torch.Generator) -> Tensor:
    """Go one step back towards noise: z = sqrt(alpha) z' + sqrt(1 - alpha) e, where alpha = abar / abar'."""
    return add_noise(z, normal(z, generator), abar / previous)


def normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draw standard normal noise where the generator is; shape, dtype and device of ``like``."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)


@torch.no_grad()
def denoise(
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    *,
    schedule: NoiseSchedule,
    method: Method = "ddim",
    clamp: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw samples by going through a schedule from noise to data.

    Args:
        network: Predicts the noise in z (N, ...) at times (N,).
        noise: Standard normal noise, (N, ...).
        schedule: The times to go through; one call of the network each.
        method: ``ddim``, deterministic, or ``ddpm``, which draws fresh noise in every step but the last.
        clamp: The range that the estimate of the data is held to in every step; the estimate of the noise is not.
        generator: Draws the fresh noise of ``ddpm``.

    Returns:
        Samples of the shape, dtype and device of ``noise``.

    Raises:
        ValueError: If ``method`` is unknown, or ``ddpm`` has no generator.

    Example:
        >>> point = lambda z, t: z
        >>> denoise(point, torch.zeros(2, 1), schedule=linear_schedule(10)).tolist()
        [[0.0], [0.0]]
    """
    if method not in ("ddim", "ddpm"):
        raise ValueError(f"method must be 'ddim' or 'ddpm', got {method!r}")
    if method == "ddpm" and generator is None:
        raise ValueError("generator must be given for method 'ddpm', which draws noise in every step")
    z = noise
    for index in reversed(range(len(schedule))):
        abar, previous = schedule.abar[index].item(), schedule.previous(index)
        x0, eps = split_prediction(z, network(z, schedule.times[index].expand(len(z)).to(z.device)), abar, "eps")
        if clamp is not None:
            x0 = x0.clamp(*clamp)
        if method == "ddim" or generator is None:
            z = ddim_step(x0, eps, previous)
        else:
            z = ddpm_step(z, x0, abar, previous, generator)
    return z
