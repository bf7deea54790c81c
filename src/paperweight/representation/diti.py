"""Diffusion time-steps (DiTi): features in groups, each of which repairs what noise has destroyed by its times.

A little noise destroys fine attributes of an image, much noise coarse ones too. A denoiser trained without labels
therefore errs at a time by what is lost there. An encoder learns features of the clean image, from which a second
network corrects that error. Features are split into groups, ordered as times are: at a time of group i it is shown
groups 1 to i, so that group i is to hold what is lost in its own times and not before. With one group for all times it
is the autoencoder of pre-trained diffusion models (PDAE).
Cost: beside a plain denoiser's step, a pass of the frozen denoiser and of the encoder; no parameters for the groups.

Source:
    Z. Yue, J. Wang, Q. Sun, L. Ji, E. I-C. Chang, H. Zhang, "Exploring Diffusion Time-steps for Unsupervised
    Representation Learning", ICLR, 2024, https://arxiv.org/abs/2401.11430. Implemented: groups of features by time,
    the weighted loss with and without the gradient of earlier groups and with both, and counterfactual images by
    features taken from another image. Formulas were compared with the authors' code,
    https://github.com/yue-zhongqi/diti.

Deviations:
    - The paper's text was not at hand; scale, weights, masks and modes are those of the authors' code.
    - The authors' second network shares the frozen denoiser's encoding half; here it is any network.
    - Sizes and times of groups are given one by one. The authors spread features evenly over the groups of a stage,
      and what does not divide goes to its last group.
    - Counterfactual images scale the correction as in training; the authors scale it by minus sqrt(1 - abar) there, and
      hold each estimate of the image to [-1, 1]. They draw the inverted noise towards the second image's as well, which
      they can switch off. An image is inverted by the noise predicted for the time that is stepped to, from the image
      itself on; the authors take the image for one at the first time.
    - Averaged weights, and the contrastive loss that the authors can add, are the caller's to add.
"""

import copy
import math
from collections.abc import Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.generators import NoiseSchedule, add_noise, ddim_step, denoise, normal, split_prediction
from paperweight.nets import evaluating
from paperweight.representation._time_stages import check_places, is_whole, masked_features, stage_masks, time_groups

__all__ = ["DiTi", "masked_features", "noise_loss", "noise_weights", "shift_scale", "stage_masks", "time_groups"]

PAPER = Paper(
    title="Exploring Diffusion Time-steps for Unsupervised Representation Learning",
    authors=("Zhongqi Yue", "Jiankun Wang", "Qianru Sun", "Lei Ji", "Eric I-Chao Chang", "Hanwang Zhang"),
    year=2024,
    url="https://arxiv.org/abs/2401.11430",
    provides={
        "DiTi": "network",
        "masked_features": "function",
        "noise_loss": "function",
        "noise_weights": "function",
        "shift_scale": "function",
        "stage_masks": "function",
        "time_groups": "function",
    },
    null={"dims": None},
    claim="Features in groups by time of diffusion tell attributes better than features that serve all times.",
)

Mode = Literal["base", "stop_grad", "dual"]
_DETACHED: dict[str, tuple[bool, ...]] = {"base": (False,), "stop_grad": (True,), "dual": (False, True)}


def shift_scale(abar: Tensor) -> Tensor:
    """Compute what a correction is multiplied by: -sqrt(alpha_t) (1 - abar_{t-1}) / sqrt(1 - abar_t).

    Args:
        abar: Share of signal in the variance at each time, falling, within (0, 1), (T,), T at least 1.

    Returns:
        Factors of at most 0, (T,); 0 at the first time, before which there is no noise.

    Raises:
        ValueError: If ``abar`` is not as above.

    Example:
        >>> shift_scale(torch.tensor([0.75, 0.1875]))
        tensor([-0.0000, -0.1387])
    """
    _check_abar(abar)
    before = torch.cat([torch.ones_like(abar[:1]), abar[:-1]])
    return -(abar / before).sqrt() * (1 - before) / (1 - abar).sqrt()


def noise_weights(abar: Tensor, gamma: float = 0.1) -> Tensor:
    """Compute the weight of each time in the loss: r^gamma / (1 + r), for r = abar / (1 - abar).

    Args:
        abar: As in `shift_scale`.
        gamma: How much times of little noise count, finite and at least 0; 0.1 in the authors' code.

    Returns:
        Weights, (T,).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> noise_weights(torch.tensor([0.75, 0.5]), gamma=1.0)
        tensor([0.7500, 0.5000])
    """
    _check_abar(abar)
    if isinstance(gamma, bool) or not 0 <= gamma < math.inf:
        raise ValueError(f"gamma must be finite and at least 0, got {gamma!r}")
    ratio = abar / (1 - abar)
    return ratio**gamma / (1 + ratio)


def noise_loss(predicted: Tensor, noise: Tensor, weights: Tensor) -> Tensor:
    """Compute the mean squared error of predicted noise, each sample's times its weight.

    Args:
        predicted: Predicted noise, (N, ...), N at least 1.
        noise: The noise that was added, of that shape.
        weights: Weights of the samples, (N,).

    Returns:
        The mean over samples and entries.

    Raises:
        ValueError: If shapes do not fit.

    Example:
        >>> noise_loss(torch.zeros(2, 3), torch.ones(2, 3), torch.tensor([1.0, 3.0])).item()
        2.0
    """
    if predicted.shape != noise.shape or not predicted.numel() or weights.shape != predicted.shape[:1]:
        raise ValueError(
            f"predicted and noise must have one shape (N, ...) without a 0, and weights (N,), got "
            f"{tuple(predicted.shape)}, {tuple(noise.shape)} and {tuple(weights.shape)}"
        )
    return (weights.to(noise) * (predicted - noise).square().flatten(1).mean(dim=1)).mean()


@final
class DiTi(nn.Module):
    """An encoder, and what corrects a frozen denoiser by its features, group by group of them.

    Train the parameters that ask for gradients on `loss`; the encoder's output is the representation.

    Args:
        denoiser: Predicts noise from noisy images (N, ...) and times (N,), int64; a copy is kept, frozen, in eval mode.
        encoder: Maps images (N, ...) to features (N, d).
        corrector: Maps noisy images, times and features that are kept, (N, d), to a correction of the images' shape.
        schedule: The denoiser's schedule of all its times, 0 to T - 1.
        dims: How many features each group has, d in all; None shows all features at all times, as PDAE does.
        bounds: The first time after each group, as in `time_groups`; only where ``dims`` are given.

    Attributes:
        groups: The group of each time, int64, (T,).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> from paperweight.generators import linear_schedule
        >>> class Nothing(nn.Module):
        ...     def forward(self, noisy, times, features=None):
        ...         return torch.zeros_like(noisy)
        >>> model = DiTi(Nothing(), nn.Identity(), Nothing(), linear_schedule(10), dims=(1, 2))
        >>> model(torch.ones(4, 3), torch.ones(4, 3), torch.arange(4)).shape
        torch.Size([4, 3])
    """

    masks: Tensor | None

    def __init__(
        self,
        denoiser: nn.Module,
        encoder: nn.Module,
        corrector: nn.Module,
        schedule: NoiseSchedule,
        dims: Sequence[int] | None = None,
        bounds: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not torch.equal(schedule.times, torch.arange(len(schedule))):
            raise ValueError(f"schedule must have all times from 0 on, got {schedule.times.tolist()}")
        if dims is not None and len(dims) > len(schedule):
            raise ValueError(f"dims must hold at most one for each of {len(schedule)} times, got {dims!r}")
        if dims is None and bounds is not None:
            raise ValueError(f"bounds must be None where dims are, got {bounds!r}")
        self.dims, self.bounds, self.schedule = dims, bounds, schedule
        self.register_buffer("masks", None if dims is None else stage_masks(dims), persistent=False)
        self.groups = time_groups(len(schedule), 1 if dims is None else len(dims), bounds)
        self._scale, self._weights = shift_scale(schedule.abar), noise_weights(schedule.abar)
        self.denoiser = copy.deepcopy(denoiser).eval().requires_grad_(False)
        self.encoder, self.corrector = encoder, corrector

    def train(self, mode: bool = True) -> "DiTi":
        """Set the mode of all but the denoiser, which stays in eval mode."""
        super().train(mode)
        self.denoiser.eval()
        return self

    def forward(self, images: Tensor, noisy: Tensor, times: Tensor) -> Tensor:
        """Predict the noise in noisy images, helped by features of the clean ones.

        Args:
            images: The clean images, (N, ...).
            noisy: The same with noise, (N, ...).
            times: The time of each, int64, from 0 to T - 1, (N,).

        Returns:
            Noise, of the shape of ``noisy``.
        """
        return self.predict(self.encoder(images), noisy, times)

    def predict(self, features: Tensor, noisy: Tensor, times: Tensor, detach_earlier: bool = False) -> Tensor:
        """Predict noise from all features (N, d), of which those that the time asks for are used; else as `forward`."""
        check_places("times", times, len(noisy), len(self.schedule))
        where, kept = times.cpu(), features
        if self.masks is not None:
            kept = masked_features(features, self.masks, self.groups[where], detach_earlier)
        scale = self._scale[where].to(noisy).view(-1, *[1] * (noisy.ndim - 1))
        return self.denoiser(noisy, times) + scale * self.corrector(noisy, times, kept)

    def loss(self, images: Tensor, mode: Mode = "base", *, generator: torch.Generator) -> Tensor:
        """Draw a time and noise for each image, and compute the weighted error of the noise predicted.

        Args:
            images: Images, of the range that the denoiser was trained with, (N, ...), N at least 1.
            mode: ``"base"``; ``"stop_grad"``, where only the group of a sample's own time gets its gradient; or
                ``"dual"``, the sum of both.
            generator: Source of times and noise.

        Returns:
            A scalar.

        Raises:
            ValueError: If an argument is outside its range.
        """
        if mode not in _DETACHED:
            raise ValueError(f"mode must be 'base', 'stop_grad' or 'dual', got {mode!r}")
        drawn = torch.randint(len(self.schedule), (len(images),), generator=generator, device=generator.device)
        noise, where = normal(images, generator), drawn.cpu()
        noisy, features = add_noise(images, noise, self.schedule.abar[where]), self.encoder(images)
        losses = [
            noise_loss(self.predict(features, noisy, drawn.to(images.device), detached), noise, self._weights[where])
            for detached in _DETACHED[mode]
        ]
        return torch.stack(losses).sum()

    @torch.no_grad()
    def counterfactual(self, first: Tensor, second: Tensor, groups: Sequence[int], steps: int = 100) -> Tensor:
        """Make the first images with features of the second in some groups, all else of the first kept.

        The first images are inverted to noise by DDIM with their own features, and come back with the changed ones.

        Args:
            first: Images, (N, ...).
            second: Images that features are taken from, of that shape.
            groups: Which groups are taken, from 0; the only group is 0 where ``dims`` is None.
            steps: Times that are gone through each way, from 1 to T; 100 in the authors' code for the way back.

        Returns:
            Images, (N, ...), not held to a range.

        Raises:
            ValueError: If an argument is outside its range.
        """
        count = 1 if self.dims is None else len(self.dims)
        if not all(is_whole(each) and 0 <= each < count for each in groups):
            raise ValueError(f"groups must be whole numbers from 0 to {count - 1}, got {groups!r}")
        if first.shape != second.shape:
            raise ValueError(f"second must have the shape of first, {tuple(first.shape)}, got {tuple(second.shape)}")
        path = self.schedule.subsample(steps)
        with evaluating(self):
            own, other = self.encoder(first), self.encoder(second)
            owner = torch.arange(count).repeat_interleave(torch.tensor(self.dims or (own.shape[1],)))
            taken = torch.isin(owner, torch.tensor(list(groups), dtype=torch.long)).to(own.device)
            z = first
            for index, abar in enumerate(path.abar.tolist()):
                eps = self.predict(own, z, path.times[index].expand(len(z)).to(z.device))
                z = ddim_step(split_prediction(z, eps, path.previous(index), "eps")[0], eps, abar)
            mixed = torch.where(taken, other, own)
            return denoise(lambda noisy, times: self.predict(mixed, noisy, times), z, schedule=path)


def _check_abar(abar: Tensor) -> None:
    falling = abar.ndim == 1 and len(abar) and abar[-1] > 0 and abar[0] < 1 and bool((abar[1:] < abar[:-1]).all())
    if not falling:
        raise ValueError(f"abar must fall within (0, 1), (T,), got {abar!r}")
