"""Randomized smoothing: votes of noisy copies, and the radius within which no perturbation changes their majority.

Source:
    J. Cohen, E. Rosenfeld, Z. Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019,
    https://arxiv.org/abs/1902.02918, its algorithm CERTIFY; for two branches the certificate of
    `paperweight.robustness.dual_randomized_smoothing`.

Deviations:
    those of `paperweight.robustness.dual_randomized_smoothing`
"""

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
import torch.nn.functional as F
from scipy.special import betaincinv
from torch import Tensor

__all__ = ["Classifier", "RandomizedSmoothing", "Smoothing", "certified_radius", "lower_bound", "require"]

Classifier = Callable[[Tensor], Tensor]
_FORWARD = 1_000  # noisy images a forward pass


def certified_radius(bounds: Sequence[Tensor], sigmas: Sequence[float]) -> Tensor:
    """Compute the radius of two branches, or of one, sigma a, from lower bounds of their probabilities."""
    total = sum(torch.special.ndtri(bound.double()) for bound in bounds)
    return torch.as_tensor(total).clamp_min(0) / math.hypot(*(1 / sigma for sigma in sigmas))


def lower_bound(successes: Tensor, trials: int, alpha: float) -> Tensor:
    """Bound a probability from below by Clopper and Pearson: the quantile alpha of Beta(k, n - k + 1), 0 at k = 0."""
    k = successes.cpu().double()
    bound = torch.as_tensor(betaincinv(k.clamp_min(1).numpy(), (trials - k + 1).numpy(), alpha))
    return torch.where(k > 0, bound, 0).to(successes.device)


class Smoothing:
    """Classifies and certifies by the votes of one branch or two, each a classifier of noisy images."""

    def __init__(self, branches: Sequence[Classifier], sigma: float, draws: int, generator: torch.Generator) -> None:
        require(0 <= sigma < math.inf, "sigma", "finite and at least 0", sigma)
        require(draws >= 1, "draws", "at least 1", draws)
        self.branches, self.sigma, self.draws, self.generator = branches, sigma, draws, generator

    def __call__(self, images: Tensor) -> Tensor:
        """Compute each class's share of the votes, the mean of the branches; at ``sigma=0`` their mean output.

        Args:
            images: Images, floating, (N, C, H, W).

        Returns:
            Shares in [0, 1], without a gradient, (N, classes).
        """
        if self.sigma == 0:
            return torch.stack([branch(images) for branch in self.branches]).mean(0)
        return (self._votes(images, self.draws).to(images.dtype) / self.draws).mean(0)

    def certify(self, images: Tensor, n0: int = 200, n: int = 100_000, alpha: float = 0.001) -> tuple[Tensor, Tensor]:
        """Choose a class for each image, and certify that no perturbation within a radius changes it.

        What is certified is the classifier with endless votes, each image by itself.

        Args:
            images: Images, floating, (N, C, H, W).
            n0: Noisy copies a branch that choose the class, at least 1; the authors have 200.
            n: Further noisy copies a branch that bound its probability, at least 1; the authors have 100,000.
            alpha: Probability of a false statement, in (0, 1), half of it for each of two branches; 0.001 in the paper.

        Returns:
            Classes, int64, and radii in norm 2, float64, both (N,). Where nothing is certified, -1 and 0.

        Raises:
            ValueError: If a number is outside its range, or ``sigma`` is 0.
        """
        require(self.sigma > 0, "sigma", "above 0 to certify", self.sigma)
        require(n0 >= 1, "n0", "at least 1", n0)
        require(n >= 1, "n", "at least 1", n)
        require(0 < alpha < 1, "alpha", "above 0 and below 1", alpha)
        chosen = self._votes(images, n0).sum(0).argmax(1)
        # Bounds hold only for draws that had no part in the choice.
        counts = self._votes(images, n)[:, torch.arange(len(images), device=chosen.device), chosen]
        bounds = lower_bound(counts, n, alpha / len(self.branches))
        radii = certified_radius(bounds.unbind(), [self.sigma] * len(bounds))
        return torch.where(radii > 0, chosen, -1), radii

    @torch.no_grad()
    def _votes(self, images: Tensor, draws: int) -> Tensor:
        """Count the votes for each class, int64, (branches, N, classes); each branch has noise of its own."""

        def votes(branch: Classifier, part: Tensor) -> Tensor:
            at_once = max(1, _FORWARD // len(part))
            counts = (self._count(branch, part, min(at_once, draws - done)) for done in range(0, draws, at_once))
            return torch.as_tensor(sum(counts))

        parts = images.split(_FORWARD)
        return torch.stack([torch.cat([votes(branch, part) for part in parts]) for branch in self.branches])

    def _count(self, branch: Classifier, images: Tensor, draws: int) -> Tensor:
        copies, source = images.expand(draws, *images.shape).flatten(0, 1), self.generator
        noise = torch.randn(copies.shape, generator=source, device=source.device, dtype=copies.dtype)
        outputs = branch(copies + self.sigma * noise.to(copies.device))
        return F.one_hot(outputs.argmax(1), outputs.shape[1]).unflatten(0, (draws, len(images))).sum(0)


@final
class RandomizedSmoothing(Smoothing):
    """Plain randomized smoothing (Cohen et al. 2019): one classifier votes on noisy copies of the whole image.

    It should be trained on images with noise of the same ``sigma``, and be in eval mode. `certify` gives the radius
    sigma times the normal quantile of the class's probability. At ``sigma=0`` a call is one of the classifier.

    Args:
        model: Maps images (N, C, H, W) to logits (N, classes).
        sigma: Standard deviation of the noise, in units of the images, at least 0; that paper has 0.12 to 1.
        draws: Votes for an image in a call, at least 1.
        generator: Source of the noise.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> smoothed = RandomizedSmoothing(torch.nn.Flatten(), sigma=0.5, generator=torch.Generator().manual_seed(0))
        >>> smoothed(torch.tensor([[[[0.0, 2.0]]]]))
        tensor([[0., 1.]])
    """

    def __init__(self, model: Classifier, sigma: float = 0.25, draws: int = 100, *, generator: torch.Generator) -> None:
        super().__init__((model,), sigma, draws, generator)
        self.model = model


def require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")
