"""The schedulers of diffusers, as subjects of the contract of samplers: each with the exact network of Gaussian data."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paperweight.testing import GaussianData, SamplerSubject, Subject

Found = Iterator[tuple[str, str, Subject]]
"""Kind, name and subject."""

STEPS = 100
COARSE = 32
"""The number of steps at which the order is first measured; diffusers has 1000 levels, so that 128 is the most here."""


def _noise_levels(data: GaussianData) -> Callable[[Tensor, float, float], Tensor]:
    return lambda y, alpha, sigma: data.noise(y, alpha, sigma)


def _velocity(data: GaussianData) -> Callable[[Tensor, float, float], Tensor]:
    return lambda y, alpha, sigma: data.noise(y, alpha, sigma) - data.denoise(y, alpha, sigma)


def _denoised(data: GaussianData) -> Callable[[Tensor, float, float], Tensor]:
    return lambda y, alpha, sigma: data.denoise(y, alpha, sigma)


def _vp_levels(scheduler: Any, index: int) -> tuple[float, float]:
    """Give alpha and sigma of the input, by the scheduler's own levels."""
    timestep = scheduler.timesteps[index]
    if hasattr(scheduler, "sigmas") and scheduler.sigmas is not None:
        ratio = float(scheduler.sigmas[index])
        return (1 + ratio**2) ** -0.5, ratio * (1 + ratio**2) ** -0.5
    alpha_bar = float(scheduler.alphas_cumprod[int(timestep)])
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5


def _flow_levels(scheduler: Any, index: int) -> tuple[float, float]:
    sigma = float(scheduler.sigmas[index])
    return 1 - sigma, sigma


def _sampler(
    make: Callable[[], Any],
    steps: int,
    levels: Callable[[Any, int], tuple[float, float]] = _vp_levels,
    random: bool = False,
) -> Callable[..., Tensor]:
    """Make the loop of a pipeline around a scheduler."""

    def sample(network: Any, noise: Tensor, generator: torch.Generator | None = None) -> Tensor:
        scheduler = make()
        scheduler.set_timesteps(steps)
        x = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for index, timestep in enumerate(scheduler.timesteps):
            given = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
            prediction = network(given, *levels(scheduler, index))
            keyword = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
            x = scheduler.step(prediction, timestep, x, **keyword).prev_sample
        return x

    return sample if random else lambda network, noise: sample(network, noise)


def diffusers_strangers() -> Found:
    """Give the schedulers that sample from noise by a network, with the order that theory gives their solver."""
    import diffusers

    def subject(
        name: str,
        order: float | None,
        given: dict[str, Any],
        network: Callable[[GaussianData], Callable[..., Tensor]] = _noise_levels,
        levels: Callable[[Any, int], tuple[float, float]] = _vp_levels,
        random: bool = False,
    ) -> SamplerSubject:
        make = partial(getattr(diffusers, name), **given)
        of_steps = partial(_sampler, make, levels=levels, random=random)
        counting = make()
        counting.set_timesteps(STEPS)
        return SamplerSubject(
            make=lambda: of_steps(STEPS),
            network=network,
            calls=len(counting.timesteps),
            random=random,
            of_steps=None if order is None else of_steps,
            order=order,
            steps=COARSE,
        )

    exact = {"clip_sample": False}
    trailing = {"timestep_spacing": "trailing"}
    rows: list[tuple[str, float | None, dict[str, Any], dict[str, Any]]] = [
        ("DDIMScheduler", 1, exact, {}),
        ("DDIMScheduler", 1, exact | trailing, {}),
        ("DDIMParallelScheduler", 1, exact, {}),
        ("DDPMScheduler", None, exact, {"random": True}),
        ("DDPMParallelScheduler", None, exact, {"random": True}),
        ("PNDMScheduler", 2, {}, {}),
        ("PNDMScheduler", 2, {"skip_prk_steps": True}, {}),
        ("EulerDiscreteScheduler", 1, {}, {}),
        ("EulerAncestralDiscreteScheduler", None, {}, {"random": True}),
        ("HeunDiscreteScheduler", 2, {}, {}),
        ("KDPM2DiscreteScheduler", 2, {}, {}),
        ("KDPM2AncestralDiscreteScheduler", None, {}, {"random": True}),
        ("LMSDiscreteScheduler", 2, {}, {}),
        ("DEISMultistepScheduler", 2, {}, {}),
        ("DPMSolverMultistepScheduler", 2, {}, {}),
        ("DPMSolverMultistepScheduler", None, {"algorithm_type": "sde-dpmsolver++"}, {"random": True}),
        ("DPMSolverMultistepScheduler", 1, {"solver_order": 1}, {}),
        ("DPMSolverMultistepScheduler", 3, {"solver_order": 3}, {}),
        ("DPMSolverSinglestepScheduler", 2, {}, {}),
        ("UniPCMultistepScheduler", 2, {}, {}),
        ("SASolverScheduler", None, {}, {"random": True}),
        ("LCMScheduler", None, {"clip_sample": False}, {"random": True}),
        ("TCDScheduler", None, {"clip_sample": False}, {"random": True}),
        ("FlowMatchEulerDiscreteScheduler", 1, {}, {"network": _velocity, "levels": _flow_levels}),
        ("FlowMatchHeunDiscreteScheduler", 2, {}, {"network": _velocity, "levels": _flow_levels}),
    ]
    for name, order, given, rest in rows:
        words = ", ".join(f"{key}={value}" for key, value in given.items() if key != "clip_sample")
        yield "sampler", f"{name}({words})" if words else name, subject(name, order, given, **rest)
