"""Preconditioned training and second-order sampling give better samples for the same calls (Karras et al. 2022).

A small fully connected denoiser is trained on images, and samples are judged by the sliced Wasserstein distance to test
images at 35 calls of the network a sample, the paper's number. The baseline is what the paper starts from: a network
that predicts the noise, trained at times drawn evenly along the variance-preserving schedule, and the deterministic
first-order sampler along that schedule (DDIM). Training and sampler are changed together, and each alone. In all arms
network, updates, and the encoding of the noise level, ln(sigma) / 4, are the same. Beside it each arm's sampler
alone is judged, on points whose ideal denoiser is known in closed form, where training plays no part.

What it can show: whether the training, the sampler or both bring samples closer to the data, after short training on
small images. What it cannot: the paper's distances, large networks, or that a network that predicts the noise stays
behind in long training. A distance not below the baseline's would refute the claim. A network that simply predicts the
clean data, without the paper's factors, would take the credit if it did as well.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import gaussian_grid
from paperweight.diffusion.edm import EDMPrecond, HeunSampler, StochasticSampler, edm_loss
from paperweight.loops import ExponentialMovingAverage, best_of, fit_generator, loss_curve
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.studies.gan._world import sliced_wasserstein

STUDY = Study(
    paper="edm",
    question="Do preconditioned training and a second-order sampler give better samples for the same calls?",
    claim="At 35 calls of the network samples are closer to the data than those of a noise predictor with DDIM.",
    arms={
        "ddim": "the network predicts the noise; DDIM along the variance-preserving schedule it was trained on",
        "edm": "preconditioning and loss of the paper; Heun's method along its noise levels",
        "training_only": "variant: the paper's training, the baseline's sampler",
        "sampler_only": "variant: the baseline's training, the paper's sampler",
        "churn": "variant: the paper's training, its stochastic sampler, with fresh noise at levels of 0.01 to 1",
        "data_prediction": "control: as edm, but the network predicts the clean data, by their squared error",
    },
    metrics={
        "distance": Metric(label="distance to test images, 35 calls", unit="", better="lower", minimal_effect=0.005),
        "distance_few": Metric(label="distance to test images, 9 calls", unit="", better="lower", minimal_effect=0.01),
        "points": Metric(
            label="distance to points, exact denoiser, 35 calls", unit="", better="lower", minimal_effect=0.005
        ),
    },
    headline="distance",
    tuned=(
        "the learning rate of Adam, 3 tries an arm and seed from one grid, by the distance of samples at 35 calls to "
        "validation images; nothing of the samplers was tuned"
    ),
    limits=(
        "Small images, a small fully connected network and 400 updates at the desk budget: a network that predicts the "
        "noise must be very exact at high noise levels, for which it may need more updates. The distance is of pixels "
        "scaled to a standard deviation of 0.5, the mean over random directions; two sets of images are not at 0."
    ),
)

_CALLS, _FEW = 35, 9
_RATES = (1e-3, 4e-3, 1.6e-2)
_BATCH = 64
_DECAY = 0.99
_DEVIATION = 0.5
_EARLIEST = 1e-3
_POINTS = 4_000
_SCALE = 0.05

Denoiser = Callable[[Tensor, Tensor], Tensor]


def run(arm: str, setting: Setting) -> Outcome:
    """Train once with each rate; judge samples of the best on validation images by test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=900, gpu=40_000),
        validation=setting.pick(smoke=50, desk=400, gpu=5_000),
        test=setting.pick(smoke=50, desk=400, gpu=5_000),
        max_side=setting.pick(smoke=8, desk=16, gpu=32),
    )
    centre = data.train.images.mean()
    unit = data.train.images.std() / _DEVIATION
    train, validation, test = ((part.images - centre) / unit for part in (data.train, data.validation, data.test))
    steps = setting.pick(smoke=20, desk=400, gpu=50_000)
    width = setting.pick(smoke=32, desk=128, gpu=2_048)

    def samples(network: Denoiser, shape: torch.Size, calls: int) -> Tensor:
        noise = torch.randn(shape, generator=setting.generator("evaluation")).to(setting.device)
        return _sample(arm, network, noise, calls, setting.generator("method"))

    def distance(given: Tensor, others: Tensor) -> float:
        return sliced_wasserstein(given, others, setting.generator("evaluation"))

    def fit(rate: float) -> tuple[nn.Module, Tensor]:
        network = setting.initialised(lambda: _Network(math.prod(data.shape), width))
        denoiser = _DENOISERS.get(arm, EDMPrecond)(network).to(setting.device)
        ema = ExponentialMovingAverage(denoiser, _DECAY)
        losses = fit_generator(
            denoiser,
            torch.optim.Adam(denoiser.parameters(), lr=rate, fused=True),
            train,
            loss=_LOSSES.get(arm, edm_loss),
            steps=steps,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
            ema=ema,
        )
        return ema.average, losses

    tries = {rate: fit(rate) for rate in _RATES}
    scores = {
        rate: distance(samples(model, validation.shape, _CALLS), validation) for rate, (model, _) in tries.items()
    }
    rate = best_of(tries, lambda rate: scores[rate], better="lower")
    model, losses = tries[rate]
    chosen = samples(model, test.shape, _CALLS)
    points, _ = gaussian_grid(_POINTS, spacing=1 / math.sqrt(8), scale=_SCALE, generator=setting.generator("data"))
    points = points.to(setting.device)
    return Outcome(
        metrics={
            "distance": distance(chosen, test),
            "distance_few": distance(samples(model, test.shape, _FEW), test),
            "points": distance(samples(_exact, points.shape, _CALLS), points),
        },
        arguments={
            "rate": rate,
            "tries": len(_RATES),
            "steps": steps,
            "batch_size": _BATCH,
            "width": width,
            "decay_of_the_average": _DECAY,
            "training_images": len(train),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, data.shape)),
            "distance_of_validation_images": distance(validation[: len(test)], test[: len(validation)]),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "distance to validation images, by log10 rate": [
                (math.log10(rate), score) for rate, score in scores.items() if math.isfinite(score)
            ],
        },
        images={"samples": (chosen[:64] * unit + centre).clamp(0, 1)},
    )


def _sample(arm: str, network: Denoiser, noise: Tensor, calls: int, generator: torch.Generator) -> Tensor:
    """Draw samples with the arm's sampler and an odd number of calls of the network."""
    steps = (calls + 1) // 2
    if arm == "churn":
        churned = StochasticSampler(steps, s_churn=30.0, s_tmin=0.01, s_tmax=1.0, s_noise=1.007)
        return churned(network, noise, generator=generator)
    if arm not in ("ddim", "training_only"):
        return HeunSampler(steps)(network, noise)
    levels = [*_level(torch.linspace(1, _EARLIEST, calls, dtype=torch.float64)).tolist(), 0.0]
    x = levels[0] * noise
    with torch.no_grad():
        for sigma, following in pairwise(levels):
            x = x + (following - sigma) / sigma * (x - network(x, x.new_full((len(x),), sigma)))
    return x


def _level(time: Tensor) -> Tensor:
    """Give the noise level at a time in [0, 1] of the variance-preserving schedule, rates of 0.1 to 20."""
    return torch.expm1(19.9 / 2 * time.square() + 0.1 * time).sqrt()


def _noise_loss(denoiser: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Compute the squared error of the predicted noise at evenly drawn times."""
    time = _EARLIEST + (1 - _EARLIEST) * torch.rand(len(inputs), generator=generator)
    errors, sigma = _errors(denoiser, inputs, _level(time), generator)
    return (errors / sigma).square().mean()


def _data_loss(denoiser: nn.Module, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Compute the squared error of the predicted data at the noise levels of the paper's loss."""
    errors, _ = _errors(denoiser, inputs, (1.2 * torch.randn(len(inputs), generator=generator) - 1.2).exp(), generator)
    return errors.square().mean()


def _errors(denoiser: nn.Module, inputs: Tensor, sigma: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Give the errors of a denoiser at noise levels (N,), and the levels with the dimensions of the inputs."""
    level = sigma.to(inputs.device).view(-1, *[1] * (inputs.ndim - 1))
    noise = torch.randn(inputs.shape, generator=generator).to(inputs.device)
    return denoiser(inputs + level * noise, level.flatten()) - inputs, level


def _exact(x: Tensor, sigma: Tensor) -> Tensor:
    """Give the ideal denoiser of the grid of Gaussians."""
    line = (torch.arange(5, device=x.device) - 2) / math.sqrt(8)
    centres = torch.cartesian_prod(line, line)
    noise, own = sigma[:, None].square(), _SCALE**2
    shares = (-torch.cdist(x, centres).square() / (2 * (noise + own))).softmax(dim=1)
    return (own * x + noise * (shares @ centres)) / (noise + own)


@final
class _Network(nn.Module):
    """Two residual layers on flattened images and the sinusoids of the noise level."""

    frequencies: Tensor

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(1.0, 9.0))
        self.inputs = nn.Linear(features + 16, width)
        self.hidden = nn.ModuleList([nn.Linear(width, width) for _ in range(2)])
        self.outputs = nn.Linear(width, features)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        angles = c_noise[:, None] * self.frequencies
        hidden = F.silu(self.inputs(torch.cat([x.flatten(1), angles.cos(), angles.sin()], dim=1)))
        for layer in self.hidden:
            hidden = hidden + F.silu(layer(hidden))
        return self.outputs(hidden).view_as(x)


@final
class _NoisePrediction(nn.Module):
    """D = x - sigma F, with inputs scaled as the variance-preserving schedule scales them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.view(-1, *[1] * (x.ndim - 1))
        return x - level * self.model(x / (1 + level.square()).sqrt(), sigma.log() / 4)


@final
class _DataPrediction(nn.Module):
    """D = F, with inputs scaled to unit variance."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.view(-1, *[1] * (x.ndim - 1))
        return self.model(x / (_DEVIATION**2 + level.square()).sqrt(), sigma.log() / 4)


_DENOISERS = {"ddim": _NoisePrediction, "sampler_only": _NoisePrediction, "data_prediction": _DataPrediction}
_LOSSES = {"ddim": _noise_loss, "sampler_only": _noise_loss, "data_prediction": _data_loss}
