"""What models that diffuse pixels share: images in [0, 1] are diffused as 2 x - 1, and nothing is encoded."""

from torch import Tensor

from paperweight.generators.process import NoiseSchedule, Prediction, split_prediction

__all__ = ["decode", "encode", "latent_mask", "network_times", "noise_in"]


def encode(images: Tensor) -> Tensor:
    """Map images in [0, 1] to [-1, 1]."""
    return 2 * images - 1


def decode(z: Tensor) -> Tensor:
    """Map [-1, 1] to images in [0, 1]."""
    return (z + 1) / 2


def latent_mask(mask: Tensor) -> Tensor:
    """Give the mask itself: pixels are what is diffused."""
    return mask


def network_times(t: Tensor, steps: int) -> Tensor:
    """Map training times, of which there are so many, to the range of 0 to 1000 that networks are called with."""
    return t * (1000 / steps)


def noise_in(z: Tensor, t: Tensor, output: Tensor, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
    """Give the noise in z (N, C, H, W) at training times t (N,) that a network's output stands for."""
    return split_prediction(z, output, schedule.abar[t.cpu()], prediction)[1]
