"""Laplacian smoothing gradient descent (LSGD): multiply each gradient by the inverse of I - sigma L.

L is the periodic Laplacian on the flattened tensor. Smoothing keeps the mean of a gradient and draws its largest and
smallest component together: it damps noise and permits larger steps.
Cost: two real FFTs a parameter and step, on blocks short enough to stay in cache; no extra state.

Source:
    S. Osher, B. Wang, P. Yin, X. Luo, F. Barekat, M. Pham, A. Lin, "Laplacian smoothing gradient descent", Research in
    the Mathematical Sciences, 2022, https://arxiv.org/abs/1806.06317. Implemented: smoothing of any order, SGD on it.

Deviations:
    - The mean is kept at every size: a ring of two counts its neighbour twice; the authors' code fails at one and two.
    - `sigma` and `order` belong to a group and may change; a ring is in C order whatever its memory format.
    - `p.grad` is left as it is, so that clipping and logging see it; the authors' code overwrites it.
    - A long ring is smoothed in overlapping blocks, exactly to the resolution of the dtype; the authors use one FFT.
    - Only the raw gradient is smoothed, and weight decay added to it, as in the authors' code.
"""

import cmath
import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor
from torch.optim.sgd import sgd

from paperweight.catalogue import Paper
from paperweight.optim._changed_gradients import step_on_changed

__all__ = [
    "LaplacianSmoothing",
    "LaplacianSmoothingSGD",
    "laplacian_smooth",
    "noise_reduction_factor",
    "smoothing_spectrum",
]

PAPER = Paper(
    title="Laplacian smoothing gradient descent",
    authors=("Stanley Osher", "Bao Wang", "Penghang Yin", "Xiyang Luo", "Farzin Barekat", "Minh Pham", "Alex Lin"),
    year=2022,
    url="https://arxiv.org/abs/1806.06317",
    provides={
        "LaplacianSmoothingSGD": "optimizer",
        "LaplacianSmoothing": "optimizer",
        "laplacian_smooth": "function",
        "smoothing_spectrum": "function",
        "noise_reduction_factor": "function",
    },
    null={"sigma": 0.0},
    claim="Smoothing stochastic gradients lowers their variance and allows larger steps than plain SGD.",
)


def _check(amounts: dict[str, float], order: int) -> None:
    for name, value in amounts.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {value}; 0 leaves it out")
    if not isinstance(order, int) or isinstance(order, bool) or order < 1:
        raise ValueError(f"order must be a whole number of at least 1, got {order}; 1 is the plain Laplacian")


def smoothing_spectrum(n: int, sigma: float = 1.0, order: int = 1) -> Tensor:
    """Give the eigenvalues of I + (-1)^m sigma L^m on a ring: 1 + sigma (2 - 2 cos(2 pi k / n))^m.

    Args:
        n: Number of entries of the ring, at least 1.
        sigma: Strength of smoothing, at least 0.
        order: The power m of the Laplacian, at least 1.

    Returns:
        The eigenvalues for k = 0 .. n // 2 in float64, shape ``(n // 2 + 1,)``: one for each output of a real FFT.

    Raises:
        ValueError: If ``n`` or ``order`` is below 1, or ``sigma`` is negative or not finite.

    Example:
        >>> smoothing_spectrum(2, sigma=1.0)
        tensor([1., 5.], dtype=torch.float64)
    """
    _check({"sigma": sigma}, order)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}; it is the number of entries of the ring")
    half_angles = math.pi / n * torch.arange(n // 2 + 1, dtype=torch.float64, device="cpu")
    return 1 + sigma * (4 * torch.sin(half_angles) ** 2) ** order


def noise_reduction_factor(n: int, sigma: float = 1.0, order: int = 1) -> float:
    """Give the factor by which smoothing multiplies the variance of independent gradient noise.

    It is the mean of the inverse squared eigenvalues; for order 1 and a long ring, (1 + 2 sigma) / (1 + 4 sigma)^1.5.

    Args:
        n: Number of entries of the ring, at least 1.
        sigma: Strength of smoothing, at least 0.
        order: The power m of the Laplacian, at least 1.

    Returns:
        The factor, between 1 / n and 1.

    Raises:
        ValueError: If ``n`` or ``order`` is below 1, or ``sigma`` is negative or not finite.

    Example:
        >>> round(noise_reduction_factor(1000, sigma=1.0), 3)
        0.268
    """
    inverse_squares = smoothing_spectrum(n, sigma, order) ** -2
    inverse_squares[1 : (n + 1) // 2] *= 2
    return float(inverse_squares.sum()) / n


@lru_cache(maxsize=256)
def _gain(n: int, sigma: float, order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return (1 / smoothing_spectrum(n, sigma, order)).to(dtype).to(device)


def _reach(sigma: float, order: int, dtype: torch.dtype) -> int:
    """Count the entries after which the inverse is below what ``dtype`` resolves.

    It decays as exp(-d |Im z|), z being the zero of 1 + sigma (2 - 2 cos z)^m that is nearest to the real axis.
    """
    zero = 2 * cmath.asin(cmath.rect(sigma ** (-0.5 / order) / 2, math.pi / (2 * order)))
    return math.ceil(-math.log(torch.finfo(dtype).eps) / abs(zero.imag))


def _smooth_ring(ring: Tensor, sigma: float, order: int) -> Tensor:
    """Multiply a ring of shape ``(n,)`` by the inverse of I + (-1)^m sigma L^m, a long one in overlapping blocks."""
    n = ring.numel()
    margin = _reach(sigma, order, ring.dtype)
    block = max(512, 1 << (8 * margin).bit_length())
    if n < 2 * block:
        block, margin = n, 0
    hop = block - 2 * margin
    padded = torch.cat([ring[n - margin :], ring, ring[: margin + -n % hop]])
    gain = _gain(block, sigma, order, ring.dtype, ring.device)
    chunks = padded.unfold(0, block, hop).split(256)  # small enough for the allocator to reuse their memory
    smooth = [torch.fft.irfft(torch.fft.rfft(c).mul_(gain), n=block)[:, margin : block - margin] for c in chunks]
    return torch.cat(smooth).reshape(-1)[:n]


def laplacian_smooth(gradient: Tensor, sigma: float = 1.0, order: int = 1) -> Tensor:
    """Multiply a tensor, flattened to one ring in C order, by the inverse of I + (-1)^m sigma L^m.

    Args:
        gradient: A real floating-point tensor of any shape; half precision is computed in float32.
        sigma: Strength of smoothing, at least 0; 0 gives a copy. The authors train with 0.05 to 1.5.
        order: The power m of the Laplacian L, at least 1.

    Returns:
        A new tensor with the shape, dtype and device of ``gradient``.

    Raises:
        ValueError: If ``gradient`` is not dense and real, ``sigma`` is negative or not finite, or ``order`` is below 1.

    Example:
        >>> laplacian_smooth(torch.tensor([1.0, 3.0]), sigma=1.0)
        tensor([1.8000, 2.2000])
    """
    _check({"sigma": sigma}, order)
    if gradient.layout != torch.strided or not gradient.is_floating_point():
        raise ValueError(f"gradient must be dense and real, got {gradient.layout} {gradient.dtype}; convert it first")
    if sigma == 0 or gradient.numel() < 2:
        return gradient.clone()
    ring = gradient.reshape(-1).to(torch.promote_types(gradient.dtype, torch.float32))
    return _smooth_ring(ring, sigma, order).reshape(gradient.shape).to(gradient.dtype)


@final
class LaplacianSmoothingSGD(torch.optim.Optimizer):
    """SGD on smoothed gradients; weight decay, momentum and Nesterov act as in `torch.optim.SGD`.

    At ``sigma=0`` it is `torch.optim.SGD`. Parameter groups may differ in every argument.

    Args:
        params: Parameters or parameter groups, as for any torch optimizer.
        lr: Step size, at least 0; the paper's gain is a larger one than plain SGD stands.
        sigma: Strength of smoothing, at least 0; the default is that of the authors' class.
        order: The power m of the Laplacian, at least 1.
        momentum: Momentum factor, at least 0.
        dampening: Share of the new direction that is kept out of the momentum, at least 0.
        weight_decay: Multiple of the parameter that is added to the smoothed gradient, at least 0.
        nesterov: Whether to use Nesterov momentum; it needs momentum and no dampening.

    Raises:
        ValueError: If a number is negative or not finite, ``order`` is below 1, or ``nesterov`` has no momentum.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([-1.0, -3.0])
        >>> LaplacianSmoothingSGD([weight], lr=1.0, sigma=1.0).step()
        >>> weight.detach()
        tensor([1.8000, 2.2000])
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        sigma: float = 0.05,
        order: int = 1,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        rates = {"lr": lr, "sigma": sigma, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        _check(rates, order)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(f"nesterov needs momentum above 0 and dampening 0, got {momentum} and {dampening}")
        super().__init__(params, {**rates, "order": order, "nesterov": nesterov})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step; ``closure``, if given, makes the gradients, and the loss it returns is returned."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            gradients = [laplacian_smooth(p.grad, group["sigma"], group["order"]) for p in params]
            buffers = [self.state[p].get("momentum_buffer") for p in params]
            options = {name: group[name] for name in ("lr", "momentum", "dampening", "weight_decay", "nesterov")}
            sgd(params, gradients, buffers, maximize=False, **options)
            for p, buffer in zip(params, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer
        return loss


@final
class LaplacianSmoothing(torch.optim.Optimizer):
    """Any torch optimizer, stepped on smoothed gradients.

    Groups and state are the wrapped optimizer's; each group has ``sigma`` and ``order``. A step puts ``p.grad`` back.

    Args:
        optimizer: The optimizer to wrap; from here on step this object, and not the wrapped one.
        sigma: Strength of smoothing, at least 0, of groups that name none; 0 leaves ``optimizer`` as it is.
        order: The power m of the Laplacian, at least 1, of groups that name none.

    Raises:
        ValueError: If ``sigma`` is negative or not finite, ``order`` is below 1, or ``optimizer`` has either already.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([-1.0, -3.0])
        >>> LaplacianSmoothing(torch.optim.SGD([weight], lr=1.0), sigma=1.0).step()
        >>> weight.detach(), weight.grad
        (tensor([1.8000, 2.2000]), tensor([-1., -3.]))
    """

    def __init__(self, optimizer: torch.optim.Optimizer, sigma: float = 1.0, order: int = 1) -> None:
        _check({"sigma": sigma}, order)
        if {"sigma", "order"} & optimizer.defaults.keys():
            raise ValueError("optimizer must have no sigma or order of its own; smooth only once")
        super().__init__(optimizer.param_groups, {**optimizer.defaults, "sigma": sigma, "order": order})
        self.optimizer = optimizer
        self.param_groups, self.state = optimizer.param_groups, optimizer.state

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "optimizer": self.optimizer}

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the wrapped optimizer, whose groups hold ``sigma`` and ``order``."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back the state that `state_dict` gave; that of an unwrapped optimizer takes the default smoothing."""
        self.optimizer.load_state_dict(state_dict)
        for group in self.optimizer.param_groups:
            group |= {name: group.get(name, self.defaults[name]) for name in ("sigma", "order")}
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step the wrapped optimizer; each time it calls ``closure``, that finds the original gradients."""

        def smoothed(gradient: Tensor, group: dict[str, Any]) -> Tensor:
            return laplacian_smooth(gradient, group["sigma"], group["order"])

        return step_on_changed(self.optimizer, smoothed, closure)
