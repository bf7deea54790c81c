"""LQ-VAE: images pass a variational auto-encoder of smooth encoder and quantised code in front of any classifier.

The encoder is trained to change little when its input does, and each entry of the code is rounded to one of a few
levels, so that small changes of an image vanish where they do not cross the border of a cell. The filter knows neither
classifier nor attacks. Rounding has no gradient, which is no robustness: `QuantizedFilter.exposed` has one.
Cost: an encoder and a decoder in front of each call; in training a second backward pass for the penalty.

Source:
    V. Kyatham, M. Mishra, T. K. Yadav, D. Mishra, Prathosh AP, "Variational Inference with Latent Space Quantization
    for Adversarial Resilience", 2019, https://arxiv.org/abs/1903.09940. Implemented: what its abstract describes.

Deviations:
    - Only the abstract was at hand, and no code of the authors was found. It says that a Lipschitz-constrained encoder
      maps to a quantised latent space of a variational auto-encoder; the rest is a reconstruction. Ours are the
      penalty, the mean squared norm of the Jacobian of the code's mean; the levels, evenly spaced; and that rounding
      takes place in use and not in training.
"""

import copy
import math
from collections.abc import Callable
from typing import Self, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["QuantizedFilter", "filter_loss", "jacobian_penalty", "quantized"]

PAPER = Paper(
    title="Variational Inference with Latent Space Quantization for Adversarial Resilience",
    authors=("Vinay Kyatham", "Mayank Mishra", "Tarun Kumar Yadav", "Deepak Mishra", "Prathosh AP"),
    year=2019,
    url="https://arxiv.org/abs/1903.09940",
    provides={
        "QuantizedFilter": "defense",
        "filter_loss": "function",
        "jacobian_penalty": "function",
        "quantized": "function",
    },
    null={"levels": None},
    claim="A filter with a smooth encoder and a quantised code takes attacks out of images, for any classifier.",
)


def quantized(z: Tensor, levels: int = 9, width: float = 2.0, straight: bool = False) -> Tensor:
    """Round each entry to the nearest of evenly spaced levels from -width to width.

    Within that range an entry moves by at most half a cell, width / (levels - 1); beyond it becomes the outermost one.

    Args:
        z: Codes, floating, any shape.
        levels: How many levels, at least 2.
        width: The largest level, above 0, in standard deviations of the prior.
        straight: Whether gradients pass as if nothing were rounded, as an attacker has it; they are 0 else.

    Returns:
        Codes of the same shape.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> quantized(torch.tensor([-9.0, 0.4, 0.6]), levels=5)
        tensor([-2.,  0.,  1.])
    """
    _check_levels(levels)
    _check_positive("width", width)
    cell = 2 * width / (levels - 1)
    rounded = ((z.clamp(-width, width) + width) / cell).round() * cell - width
    return z + (rounded - z).detach() if straight else rounded


def jacobian_penalty(
    encoder: Callable[[Tensor], Tensor], inputs: Tensor, generator: torch.Generator, directions: int = 1
) -> Tensor:
    """Estimate the mean over inputs of |J|^2, the squared Frobenius norm of the Jacobian of a code, with a gradient.

    It is the mean of |grad (u . code)|^2 over standard normal directions u, which has that expectation.

    Args:
        encoder: Maps inputs to codes (N, dimensions), each input by itself.
        inputs: Floating, (N, ...), N at least 1.
        generator: Source of the directions.
        directions: How many, at least 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If ``directions`` is below 1, or there are no floating inputs.

    Example:
        >>> doubled = lambda inputs: 2 * inputs
        >>> round(jacobian_penalty(doubled, torch.ones(9999, 2), torch.Generator().manual_seed(0)).item())
        8
    """
    if not isinstance(directions, int) or isinstance(directions, bool) or directions < 1:
        raise ValueError(f"directions must be a whole number of at least 1, got {directions!r}")
    given = _floating(inputs).detach().requires_grad_()
    with torch.enable_grad():
        code = encoder(given)
        norms: list[Tensor] = []
        for _ in range(directions):
            u = torch.randn(code.shape, generator=generator, device=generator.device).to(code)
            (gradient,) = torch.autograd.grad((u * code).sum(), given, create_graph=True)
            norms.append(gradient.flatten(1).square().sum(dim=1).mean())
    return torch.stack(norms).mean()


def filter_loss(
    encoder: nn.Module,
    decoder: nn.Module,
    inputs: Tensor,
    generator: torch.Generator,
    beta: float = 0.1,
    lam: float = 0.01,
) -> Tensor:
    """Compute the mean of |x - decoder(z)|^2 + beta KL(q(z | x) || N(0, I)) + lam |J|^2, with z drawn from q.

    Noise of the code makes the decoder map a neighbourhood of each code to its image.

    Args:
        encoder: Maps images to means and logarithms of variances, (N, 2 x dimensions).
        decoder: Maps codes (N, dimensions) to images.
        inputs: Images, floating, (N, ...), N at least 1.
        generator: Source of the noise, and of the penalty's directions.
        beta: Weight of the divergence, finite and at least 0.
        lam: Weight of `jacobian_penalty` of the means, finite and at least 0; at 0 it is not computed, and the loss is
            that of a variational auto-encoder.

    Returns:
        A scalar.

    Raises:
        ValueError: If a weight is outside its range, there are no floating images, or the encoder's outputs are odd.

    Example:
        >>> encoder, decoder = nn.Linear(4, 6), nn.Linear(3, 4)
        >>> filter_loss(encoder, decoder, torch.rand(5, 4), torch.Generator().manual_seed(0)).shape
        torch.Size([])
    """
    for name, weight in (("beta", beta), ("lam", lam)):
        if isinstance(weight, bool) or not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be at least 0 and finite, got {weight!r}")
    mean, log_variance = _moments(encoder, _floating(inputs))
    noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
    rebuilt = decoder(mean + (log_variance / 2).exp() * noise)
    error = (rebuilt - inputs).flatten(1).square().sum(dim=1).mean()
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1).mean() / 2
    loss = error + beta * divergence
    if lam == 0:
        return loss
    return loss + lam * jacobian_penalty(lambda given: _moments(encoder, given)[0], inputs, generator)


@final
class QuantizedFilter(nn.Module):
    """Calls a classifier with what a decoder makes of the rounded means of an encoder.

    Args:
        model: The classifier, used as it is.
        encoder: Maps images to means and logarithms of variances, (N, 2 x dimensions).
        decoder: Maps codes (N, dimensions) to images as the classifier takes them.
        levels: As in `quantized`; None for codes that are not rounded.
        width: As in `quantized`.

    Raises:
        ValueError: If ``levels`` is below 2, or the width not above 0.

    Example:
        >>> filtered = QuantizedFilter(nn.Identity(), nn.Linear(4, 6), nn.Linear(3, 4))
        >>> filtered(torch.zeros(2, 4)).shape
        torch.Size([2, 4])
    """

    def __init__(
        self,
        model: nn.Module,
        encoder: nn.Module,
        decoder: nn.Module,
        levels: int | None = 9,
        width: float = 2.0,
    ) -> None:
        super().__init__()
        if levels is not None:
            _check_levels(levels)
        _check_positive("width", width)
        self.model, self.encoder, self.decoder, self.levels, self.width = model, encoder, decoder, levels, width
        self._straight = False

    def clean(self, inputs: Tensor) -> Tensor:
        """Give images for images, (N, ...)."""
        mean, _ = _moments(self.encoder, inputs)
        code = mean if self.levels is None else quantized(mean, self.levels, self.width, self._straight)
        return self.decoder(code)

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the classifier's logits of the cleaned images."""
        return self.model(self.clean(inputs))

    def exposed(self) -> Self:
        """Give a copy that gives the same, and whose gradients pass the rounding, for who knows the filter."""
        result = copy.deepcopy(self)
        result._straight = True
        return result


def _moments(encoder: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Give means and logarithms of variances."""
    both = encoder(inputs)
    if both.ndim != 2 or both.shape[1] % 2:
        raise ValueError(f"encoder must give (N, 2 x dimensions), means and log variances, got {tuple(both.shape)}")
    mean, log_variance = both.chunk(2, dim=1)
    return mean, log_variance


def _floating(inputs: Tensor) -> Tensor:
    if not len(inputs) or not inputs.is_floating_point():
        raise ValueError(f"inputs must be floating, one at least, got {len(inputs)} of {inputs.dtype}")
    return inputs


def _check_levels(levels: int) -> None:
    if not isinstance(levels, int) or isinstance(levels, bool) or levels < 2:
        raise ValueError(f"levels must be a whole number of at least 2, got {levels!r}")


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value!r}")
