"""The schedulers of diffusers, as subjects of the contract of samplers, with the exact network of Gaussian data."""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from paperweight.testing import GaussianData, SamplerSubject, Subject

Found = Iterator[tuple[str, str, Subject]]
"""Kind, name and subject."""

MANY, FEW = 500, 100
"""Steps at which the moments are compared: many for solvers of order 1 and for random ones, else few."""
COARSE = 32
DIVIDING = 125
"""Numbers of steps at which the order is first measured: 32, 64 and 128, and 125, 250 and 500, which divide 1000."""


def _noise_levels(data: GaussianData) -> Callable[[Tensor, float, float], Tensor]:
    return lambda y, alpha, sigma: data.noise(y, alpha, sigma)


def _velocity(data: GaussianData) -> Callable[[Tensor, float, float], Tensor]:
    return lambda y, alpha, sigma: data.noise(y, alpha, sigma) - data.denoise(y, alpha, sigma)


def _vp_levels(scheduler: Any, index: int) -> tuple[float, float]:
    """Give alpha and sigma of the input, by the scheduler's own levels."""
    timestep = scheduler.timesteps[index]
    if hasattr(scheduler, "sigmas"):
        ratio = float(scheduler.sigmas[index])
        if hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order:
            back = "Ancestral" in type(scheduler).__name__
            ratio = float(scheduler.sigmas_interpol[index - back])
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
        coarse: int = COARSE,
        most: int = MANY,
    ) -> SamplerSubject:
        make = partial(getattr(diffusers, name), **given)
        of_steps = partial(_sampler, make, levels=levels, random=random)
        steps = most if order is None or order == 1 else FEW
        counting = make()
        counting.set_timesteps(steps)
        return SamplerSubject(
            make=lambda: of_steps(steps),
            network=network,
            calls=len(counting.timesteps),
            random=random,
            of_steps=None if order is None else of_steps,
            order=order,
            steps=coarse,
        )

    whole, dividing = {"clip_sample": False}, {"coarse": DIVIDING}
    karras = {"use_karras_sigmas": True}
    flow = {"network": _velocity, "levels": _flow_levels}
    random = {"random": True}
    rows: list[tuple[str, float | None, dict[str, Any], dict[str, Any]]] = [
        ("DDIMScheduler", 1, whole, dividing),
        ("DDIMScheduler", 1, whole, {}),
        ("DDIMScheduler", 1, whole | {"timestep_spacing": "trailing"}, dividing),
        ("DDPMScheduler", None, whole, random),
        ("PNDMScheduler", 2, {}, dividing),
        ("PNDMScheduler", 2, {"skip_prk_steps": True}, dividing),
        ("EulerDiscreteScheduler", 1, {}, {}),
        ("EulerDiscreteScheduler", 1, karras, {}),
        ("EulerAncestralDiscreteScheduler", None, {}, random),
        ("HeunDiscreteScheduler", 2, {}, {}),
        ("HeunDiscreteScheduler", 2, karras, {}),
        ("KDPM2DiscreteScheduler", 2, {}, {}),
        ("KDPM2DiscreteScheduler", 2, karras, {}),
        ("KDPM2AncestralDiscreteScheduler", None, {}, random | {"most": FEW}),
        ("LMSDiscreteScheduler", 2, {}, {}),
        ("LMSDiscreteScheduler", 2, karras, {}),
        ("DEISMultistepScheduler", 2, {}, {}),
        ("DEISMultistepScheduler", 2, karras, {}),
        ("DPMSolverMultistepScheduler", 1, {"solver_order": 1}, {}),
        ("DPMSolverMultistepScheduler", 2, {}, {}),
        ("DPMSolverMultistepScheduler", 2, karras, {}),
        ("DPMSolverMultistepScheduler", 3, {"solver_order": 3}, {}),
        ("DPMSolverMultistepScheduler", 3, {"solver_order": 3} | karras, {}),
        ("DPMSolverMultistepScheduler", None, {"algorithm_type": "sde-dpmsolver++"}, random),
        ("DPMSolverSinglestepScheduler", 2, {}, {}),
        ("DPMSolverSinglestepScheduler", 2, karras, {}),
        ("UniPCMultistepScheduler", 2, {}, {}),
        ("UniPCMultistepScheduler", 2, karras, {}),
        ("SASolverScheduler", None, {}, random),
        ("FlowMatchEulerDiscreteScheduler", 1, {}, flow),
        ("FlowMatchHeunDiscreteScheduler", 2, {}, flow),
    ]
    for name, order, given, rest in rows:
        told = [f"{key}={value}" for key, value in given.items() if key != "clip_sample"]
        told += ["order from 125 steps"] if "coarse" in rest else []
        words = ", ".join(told)
        yield "sampler", f"{name} ({words})" if words else name, subject(name, order, given, **rest)
