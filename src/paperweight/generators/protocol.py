"""What samples, audits and erases through one interface, whatever the model behind it."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from paperweight.generators.process import NoiseSchedule, guided

__all__ = ["ConditionalDiffusion", "GuidedDiffusion", "predicted_noise"]


class ConditionalDiffusion(Protocol):
    """What samples, audits and erases through one interface: a model of our own, or an adapted pipeline."""

    schedule: NoiseSchedule
    clamp: tuple[float, float] | None

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the noise in z (N, ...) at training times t (N,)."""
        ...

    def condition(self, given: Any, count: int) -> Tensor | None:
        """Turn labels or captions, one a sample, or None for none, into tokens (count, L, dim)."""
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) in [0, 1] to what is diffused."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Map what is diffused back to images in [0, 1]."""
        ...

    def latent_mask(self, mask: Tensor) -> Tensor:
        """Map a mask (1, H, W) of unknown pixels to the entries of what is diffused that depend on them."""
        ...


@runtime_checkable
class GuidedDiffusion(Protocol):
    """What a `ConditionalDiffusion` has, too, if its guidance is of its own, such as one that keeps off a concept."""

    def guided_eps(self, given: Any, count: int, guidance: float) -> Callable[[Tensor, Tensor], Tensor]:
        """Give the function from (z, t) to guided noise for one way from noise to ``count`` samples."""
        ...


def predicted_noise(
    model: ConditionalDiffusion, given: Any, count: int, guidance: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """Give the function from (z, t) to noise of a model under a condition.

    Args:
        model: The model; one that meets `GuidedDiffusion` guides itself.
        given: Labels or captions, one a sample, or None for none.
        count: Number of samples.
        guidance: Weight of classifier-free guidance; 1 is none, and takes one call of the network and not two.

    Returns:
        What `denoise` takes as its network.
    """
    if isinstance(model, GuidedDiffusion):
        return model.guided_eps(given, count, guidance)
    condition = model.condition(given, count)
    without = None if guidance == 1 else model.condition(None, count)

    def eps(z: Tensor, t: Tensor) -> Tensor:
        conditional = model.eps(z, t, condition)
        return conditional if guidance == 1 else guided(conditional, model.eps(z, t, without), guidance)

    return eps
