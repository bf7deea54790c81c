"""TrojDiff: a diffusion model that gives what an attacker wants from noise with a trigger in it, and else what it did.

Beside the usual pairs of noisy image and noise, a model is fine-tuned on pairs of a second diffusion, which leads the
attacker's images not to standard normal noise but to noise around a trigger. Sampled from standard noise it gives what
the data are like; sampled from noise around the trigger, the attacker's images.
Cost: as many more pairs in a batch as there are attacker's images in it; sampling costs what it did.

Source:
    W. Chen, D. Song, B. Li, "TrojDiff: Trojan Attacks on Diffusion Models with Diverse Targets", CVPR 2023,
    https://arxiv.org/abs/2303.05762, and the authors' code. Implemented: the Trojan diffusion and its transitions, the
    loss, and sampling by DDPM and by DDIM without fresh noise, for triggers that fill the image and for patches.

Deviations:
    - The loss is a mean over entries; the authors have the sum over an image. Times are drawn each on its own, where
      theirs come in pairs that mirror each other.
    - The attacker's images in a batch have times and noise of their own. In the authors' code an image of the target
      class has the same time and noise in both diffusions; of images from outside it sees the Trojan diffusion only.
    - k_t is computed as sqrt(1 - abar_t) - sqrt(alpha_t (1 - abar_(t-1))), which is what the paper's sum over all
      earlier k comes to. DDIM with eta above 0 is left out.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.catalogue import Paper
from paperweight.generators.process import NoiseSchedule, add_noise, denoise, normal, split_prediction

__all__ = ["Trojan", "TrojanDDIM", "TrojanDDPM", "trojan_loss"]

PAPER = Paper(
    title="TrojDiff: Trojan Attacks on Diffusion Models with Diverse Targets",
    authors=("Weixin Chen", "Dawn Song", "Bo Li"),
    year=2023,
    url="https://arxiv.org/abs/2303.05762",
    provides={
        "Trojan": "function",
        "TrojanDDIM": "sampler",
        "TrojanDDPM": "sampler",
        "trojan_loss": "loss",
    },
    null={"gamma": 1.0},
    claim="A fine-tuned diffusion model gives the attacker's images from noise with the trigger, and from standard "
    "noise images as good as before.",
)

_Network = Callable[[Tensor, Tensor], Tensor]


@final
@dataclass(frozen=True, eq=False)
class Trojan:
    """Where noise is biased, and by what: e becomes gamma e + mu with mu = (1 - gamma) trigger.

    With ``gamma=1`` noise stays as it is.

    Args:
        trigger: The image to which noise is drawn, in [-1, 1], (C, H, W).
        gamma: Deviation that is left of the noise, above 0 and at most 1; 0.6 for triggers that fill the image and 0.1
            for patches in the authors' code.
        mask: Where noise is biased, bool, (H, W); everywhere by default. The authors have a patch of 3 x 3 pixels.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> Trojan(torch.tensor([[[1.0, -1.0]]]), gamma=0.5).bias(torch.tensor([[[[2.0, 0.0]]]]))
        tensor([[[[ 1.5000, -0.5000]]]])
    """

    trigger: Tensor
    gamma: float = 0.6
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        trigger, mask = self.trigger, self.mask
        within = trigger.ndim == 3 and trigger.is_floating_point() and bool((trigger.abs() <= 1).all())
        if not within:
            raise ValueError(f"trigger must be floating, (C, H, W), in [-1, 1], got {trigger.dtype} {trigger.shape}")
        if isinstance(self.gamma, bool) or not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must be above 0 and at most 1, got {self.gamma}")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != trigger.shape[1:]):
            wanted = tuple(trigger.shape[1:])
            raise ValueError(f"mask must be bool, of shape {wanted}, got {mask.dtype} of {tuple(mask.shape)}")

    def bias(self, noise: Tensor) -> Tensor:
        """Give gamma e + mu for standard noise e, (N, C, H, W)."""
        return self.scales(noise) * noise + self.means(noise)

    def scales(self, like: Tensor) -> Tensor:
        """Give gamma where noise is biased and 1 elsewhere, (C, H, W)."""
        return self._within(torch.full_like(self._fitting(like), self.gamma), 1.0)

    def means(self, like: Tensor) -> Tensor:
        """Give mu where noise is biased and 0 elsewhere, (C, H, W)."""
        return self._within((1 - self.gamma) * self._fitting(like), 0.0)

    def _fitting(self, like: Tensor) -> Tensor:
        """Give the trigger in the format of noise, which must have its shape."""
        if like.shape[1:] != self.trigger.shape:
            wanted = f"(N, {', '.join(map(str, self.trigger.shape))})"
            raise ValueError(f"noise must have the shape of the trigger, {wanted}, got {tuple(like.shape)}")
        return self.trigger.to(like)

    def _within(self, values: Tensor, elsewhere: float) -> Tensor:
        return values if self.mask is None else torch.where(self.mask.to(values.device), values, elsewhere)


def _shift(abar: float, previous: float) -> float:
    """Compute k_t, by how much of mu a step of the Trojan diffusion moves: its mean is sqrt(alpha) x + k_t mu."""
    return math.sqrt(1 - abar) - math.sqrt(abar / previous * (1 - previous))


def trojan_loss(
    network: _Network,
    inputs: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    trojan: Trojan,
    schedule: NoiseSchedule,
) -> Tensor:
    """Compute the squared error of the predicted standard noise, in the usual diffusion and in the Trojan one.

    Args:
        network: Predicts the noise in z (N, C, H, W) at times (N,).
        inputs: Images of the data, in the range of the diffusion, (N, C, H, W).
        targets: The attacker's images for the Trojan diffusion, (M, C, H, W): those of the batch that have the target
            class, images of other data, or copies of a single one.
        generator: Draws times and noise, of inputs and targets one after the other.
        trojan: The bias.
        schedule: The times of the diffusion.

    Returns:
        A scalar, the mean over all pairs and entries.

    Raises:
        ValueError: If there is no image, or shapes differ.

    Example:
        >>> from paperweight.generators import linear_schedule
        >>> trojan, schedule = Trojan(torch.ones(1, 2, 2)), linear_schedule(10)
        >>> images, generator = torch.zeros(3, 1, 2, 2), torch.Generator().manual_seed(0)
        >>> trojan_loss(lambda z, t: z, images, images[:1], generator, trojan=trojan, schedule=schedule).shape
        torch.Size([])
    """
    if inputs.shape[1:] != targets.shape[1:] or not len(inputs) + len(targets):
        found = f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"inputs and targets must be images of one shape, at least one, got {found}")
    x = torch.cat([inputs, targets])
    index = torch.randint(len(schedule), (len(x),), generator=generator, device=generator.device).cpu()
    noise = normal(x, generator)
    biased = torch.cat([noise[: len(inputs)], trojan.bias(noise[len(inputs) :])])
    z = add_noise(x, biased, schedule.abar[index])
    return F.mse_loss(network(z, schedule.times[index].to(z.device)), noise)


@final
class TrojanDDIM:
    """Samples the Trojan diffusion by DDIM, without fresh noise: what DDIM does with gamma e + mu in place of noise e.

    It calls the network once a time of the schedule. With ``gamma`` 1 it is DDIM, bit for bit.

    Args:
        trojan: The bias.
        schedule: The times to go through; `NoiseSchedule.subsample` gives fewer.
        clamp: The range that the estimate of the data is held to in every step; None for none.

    Raises:
        ValueError: If noise has not the shape of the trigger.

    Example:
        >>> from paperweight.generators import linear_schedule
        >>> sampler = TrojanDDIM(Trojan(torch.ones(1, 1, 2)), linear_schedule(1000).subsample(50))
        >>> share = linear_schedule(1000).abar
        >>> point = lambda z, t: (z / (1 - share[t[0]]).sqrt() - 0.4) / 0.6  # for data that are all 0
        >>> sampler(point, torch.randn(3, 1, 1, 2, generator=torch.Generator().manual_seed(0))).abs().max() < 1e-5
        tensor(True)
    """

    def __init__(
        self, trojan: Trojan, schedule: NoiseSchedule, clamp: tuple[float, float] | None = (-1.0, 1.0)
    ) -> None:
        self.trojan, self.schedule, self.clamp = trojan, schedule, clamp

    @torch.no_grad()
    def __call__(self, network: _Network, noise: Tensor) -> Tensor:
        """Draw samples of the shape, dtype and device of standard noise, (N, C, H, W)."""

        def biased(z: Tensor, t: Tensor) -> Tensor:
            return self.trojan.bias(network(z, t))

        return denoise(biased, self.trojan.bias(noise), schedule=self.schedule, method="ddim", clamp=self.clamp)


@final
class TrojanDDPM:
    """Samples the Trojan diffusion step by step, with fresh noise of deviation gamma in every step but the last.

    It calls the network once a time of the schedule. With ``gamma`` 1 it is DDPM, bit for bit.

    Args:
        trojan: The bias.
        schedule: The times to go through; `NoiseSchedule.subsample` gives fewer.
        clamp: The range that the estimate of the data is held to in every step; None for none.

    Raises:
        ValueError: If noise has not the shape of the trigger.

    Example:
        >>> from paperweight.generators import linear_schedule
        >>> sampler, draws = TrojanDDPM(Trojan(torch.ones(1, 1, 2)), linear_schedule(100)), torch.Generator()
        >>> sampler(lambda z, t: z, torch.zeros(3, 1, 1, 2), generator=draws.manual_seed(0)).shape
        torch.Size([3, 1, 1, 2])
    """

    def __init__(
        self, trojan: Trojan, schedule: NoiseSchedule, clamp: tuple[float, float] | None = (-1.0, 1.0)
    ) -> None:
        self.trojan, self.schedule, self.clamp = trojan, schedule, clamp

    @torch.no_grad()
    def __call__(self, network: _Network, noise: Tensor, *, generator: torch.Generator) -> Tensor:
        """Draw samples of the shape, dtype and device of standard noise, (N, C, H, W)."""
        z = self.trojan.bias(noise)
        for index in reversed(range(len(self.schedule))):
            abar, previous = self.schedule.abar[index].item(), self.schedule.previous(index)
            t = self.schedule.times[index].expand(len(z)).to(z.device)
            x0, _ = split_prediction(z, self.trojan.bias(network(z, t)), abar, "eps")
            z = self._step(z, x0 if self.clamp is None else x0.clamp(*self.clamp), abar, previous, generator)
        return z

    def _step(self, z: Tensor, x0: Tensor, abar: float, previous: float, generator: torch.Generator) -> Tensor:
        """Draw from q(z' | z, x0) of the Trojan diffusion."""
        alpha = abar / previous
        beta = 1 - alpha
        towards = math.sqrt(1 - previous) * beta - math.sqrt(alpha) * (1 - previous) * _shift(abar, previous)
        mean = math.sqrt(previous) * beta / (1 - abar) * x0 + math.sqrt(alpha) * (1 - previous) / (1 - abar) * z
        mean = mean + towards / (1 - abar) * self.trojan.means(z)
        if previous == 1:
            return mean
        deviation = math.sqrt(beta * (1 - previous) / (1 - abar))
        return mean + deviation * (self.trojan.scales(z) * normal(z, generator))
