"""Random features of inputs and of weights, whose products estimate a layer, and the projections that they share.

Source:
    Sehanobish et al. 2024, as in `paperweight.architecture.scalable_nn_kernels`.

Deviations:
    none known; see there for those of the layer.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["check_whole", "draw_projections", "relu_features", "urf_inputs", "urf_weights"]


def check_whole(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")


def draw_projections(
    features: int, dim: int, orthogonal: bool = True, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the vectors g onto which inputs and weights are projected, each standard normal.

    Args:
        features: Number of vectors m, at least 1.
        dim: Length of each, at least 1.
        orthogonal: Whether each ``dim`` of them are orthogonal to each other; each is normal all the same.
        generator: Source of the draw; torch's global stream where it is left out.

    Returns:
        G, float32, (features, dim), on the device of the generator.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> g = draw_projections(3, 5, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(g @ g.T, torch.diag(g.square().sum(1)), atol=1e-5)
        True
    """
    check_whole(features=features, dim=dim)
    device = "cpu" if generator is None else generator.device
    drawn = torch.randn(features, dim, generator=generator, device=device)
    if not orthogonal:
        return drawn
    blocks: list[Tensor] = []
    for _ in range(math.ceil(features / dim)):
        q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, device=device))
        blocks.append(q * r.diagonal().sign())  # which makes q uniform among the orthogonal matrices
    return torch.cat(blocks)[:features] * drawn.norm(dim=1, keepdim=True)


def urf_inputs(x: Tensor, frequencies: Tensor, projections: Tensor) -> Tensor:
    """Compute Phi_j(x) = m^(-1/2) exp(2 pi i xi_j g_j.x + 2 pi^2 xi_j^2 |x|^2).

    Its product with `urf_weights`, without conjugation, has the mean f(w.x + b) where f(z) is the sum over frequencies
    of F(xi) exp(2 pi i xi z).

    Args:
        x: Inputs, floating, (..., dim).
        frequencies: xi, drawn among those of f, (m,).
        projections: g, standard normal, (m, dim).

    Returns:
        Complex features, (..., m); not finite in float32 where 2 pi |xi| |x| is above about 13.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> urf_inputs(torch.zeros(3, 2), torch.full((4,), 0.5), torch.ones(4, 2)).shape
        torch.Size([3, 4])
    """
    _check_shapes(x, frequencies, projections)
    angle = 2 * math.pi * frequencies * (x @ projections.T)
    size = torch.exp(2 * math.pi**2 * frequencies**2 * x.square().sum(-1, keepdim=True))
    return torch.polar(size, angle) / math.sqrt(len(frequencies))


def urf_weights(weight: Tensor, bias: Tensor, frequencies: Tensor, projections: Tensor, coefficients: Tensor) -> Tensor:
    """Compute Psi_j(w, b) = m^(-1/2) c_j exp(2 pi i xi_j b) exp(g_j.w - |w|^2 / 2), with c = F(xi) / p(xi).

    Args:
        weight: Floating, (out, dim).
        bias: (out,).
        frequencies: xi, (m,).
        projections: g, (m, dim).
        coefficients: c, of f for each frequency by the probability that it was drawn with, real or complex, (m,). For
            cos(z), frequencies are 1 / (2 pi) and -1 / (2 pi), each with probability 1/2, and c is 1.

    Returns:
        Complex features, (out, m).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> frequencies, projections = torch.tensor([1.0, -1.0]) / (2 * torch.pi), torch.zeros(2, 3)
        >>> phi = urf_inputs(torch.zeros(1, 3), frequencies, projections)
        >>> psi = urf_weights(torch.zeros(1, 3), torch.tensor([0.5]), frequencies, projections, torch.ones(2))
        >>> torch.allclose((phi @ psi.T).real, torch.tensor(0.5).cos())
        True
    """
    _check_shapes(weight, frequencies, projections)
    if bias.shape != weight.shape[:-1] or coefficients.shape != frequencies.shape:
        raise ValueError(
            "bias and coefficients must have one number for each row of weight and for each frequency, got shapes "
            f"{tuple(bias.shape)} and {tuple(coefficients.shape)}"
        )
    size = torch.exp(weight @ projections.T - weight.square().sum(-1, keepdim=True) / 2)
    angle = 2 * math.pi * frequencies * bias[..., None]
    return coefficients * torch.polar(size, angle) / math.sqrt(len(frequencies))


def _check_shapes(x: Tensor, frequencies: Tensor, projections: Tensor) -> None:
    if frequencies.ndim != 1 or projections.shape != (len(frequencies), x.shape[-1]):
        raise ValueError(
            f"frequencies and projections must have shapes (m,) and (m, {x.shape[-1]}), got "
            f"{tuple(frequencies.shape)} and {tuple(projections.shape)}"
        )


def relu_features(x: Tensor, projections: Tensor) -> Tensor:
    """Compute m^(-1/2) ReLU(G x), features of inputs and of weights alike.

    The mean of the product of two of them is |x| |w| (sin t + (pi - t) cos t) / (2 pi), t the angle between x and w.

    Args:
        x: (..., dim).
        projections: G, standard normal, (m, dim).

    Returns:
        Features, (..., m).

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> relu_features(torch.tensor([[1.0, -1.0]]), torch.eye(2) * 2**0.5)
        tensor([[1., 0.]])
    """
    if projections.ndim != 2 or projections.shape[1] != x.shape[-1]:
        raise ValueError(f"projections must have shape (m, {x.shape[-1]}), got {tuple(projections.shape)}")
    return F.relu(x @ projections.T) / math.sqrt(len(projections))
