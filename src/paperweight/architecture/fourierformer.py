"""FourierFormer: attention whose weights are a product of sinc functions of query minus key, not exp of a dot product.

Attention is a regression of values on keys; this kernel follows dependence between features where the Gaussian kernel
behind the usual attention, which has one width for all, cannot. Cost: N^2 d sines in place of a matrix product, at
memory that grows with N d, and no parameters but the radii: see `benchmarks/fourier_attention.py`.

Source:
    T. Nguyen, M. Pham, T. Nguyen, K. Nguyen, S. Osher, N. Ho, "FourierFormer: Transformer Meets Generalized Fourier
    Integral Theorem", NeurIPS 2022, https://arxiv.org/abs/2206.00206. Implemented: attention by the product of sinc
    functions to an even power, with learned radii.

Deviations:
    - The radius is softplus of what is trained: at 0 the gradients of queries and keys would end. The authors train it
      as it is.
    - A single radius holds for all features. The authors' kernel reads d radii of a tensor of one.
    - Sums of logarithms take the place of the product, so that many features do not underflow, and the derivative
      cot x - 1/x is a series near 0 and finite at the zeros of the kernel, where theirs is not a number.
    - ``eps=0`` makes weights sum to 1 however far the keys are. With the authors' 1e-6 what is far from every key gets
      an output near 0.
    - The factor R^d of the density estimate cancels and is left out, as in the authors' kernel.
"""

from typing import Literal, final

import torch
from torch import Tensor, nn

from paperweight.architecture._attention_swap import swap_attention
from paperweight.architecture._fourier_chunks import chunked_attention, log_kernel
from paperweight.architecture._fourier_features import fourier_features, linear_fourier_attention
from paperweight.architecture._fourier_module import FourierAttention, Radii
from paperweight.architecture._kernel_attention import (
    attention_entropy,
    head_redundancy,
    kernel_attention,
    kernel_regression,
)
from paperweight.architecture._multihead import (
    KeyValueCache,
    as_added,
    check_mask,
    check_ranges,
    check_tokens,
    precise,
)
from paperweight.catalogue import Paper

__all__ = [
    "FourierAttention",
    "FourierTransformerEncoderLayer",
    "KeyValueCache",
    "attention_entropy",
    "fourier_attention",
    "fourier_features",
    "fourier_kernel",
    "fourierize",
    "head_redundancy",
    "kernel_attention",
    "kernel_regression",
    "linear_fourier_attention",
]

PAPER = Paper(
    title="FourierFormer: Transformer Meets Generalized Fourier Integral Theorem",
    authors=("Tan Nguyen", "Minh Pham", "Tam Nguyen", "Khai Nguyen", "Stanley Osher", "Nhat Ho"),
    year=2022,
    url="https://arxiv.org/abs/2206.00206",
    provides={
        "FourierAttention": "layer",
        "FourierTransformerEncoderLayer": "layer",
        "attention_entropy": "function",
        "fourier_attention": "function",
        "fourier_features": "function",
        "fourier_kernel": "function",
        "fourierize": "function",
        "head_redundancy": "function",
        "kernel_attention": "function",
        "kernel_regression": "function",
        "linear_fourier_attention": "function",
    },
    claim="Attention by Fourier integral kernels is more accurate than by dot products, and its heads repeat less.",
)


def fourier_kernel(q: Tensor, k: Tensor, radius: Tensor | float = 1.0, power: int = 4, log: bool = False) -> Tensor:
    """Compute K(q, k), the product over features j of (sin x / x)^p with x = R_j (q_j - k_j), for all pairs.

    Near q = k it is the Gaussian exp(-p/6 |R (q - k)|^2) up to terms of fourth order. All N M d factors are kept for
    the backward pass; `fourier_attention` keeps none.

    Args:
        q: Queries, (..., N, d).
        k: Keys, (..., M, d).
        radius: R, broadcast against the queries; a number, (d,), or for heads (H, 1, 1) or (H, 1, d).
        power: p, even and at least 2; the paper's is 4.
        log: Give log K, which does not underflow; at a zero of K it is about -69 p.

    Returns:
        K, (..., N, M), in [0, 1], in float32 or what is more precise.

    Raises:
        ValueError: If the power is not even, or queries and keys differ in features.

    Example:
        >>> fourier_kernel(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0], [torch.pi / 2, 0.0]]), power=2)
        tensor([[1.0000, 0.4053]])
    """
    check_tokens(q, k, radius)
    check_ranges(power)
    logs = log_kernel(precise(q) * radius, precise(k) * radius, power)
    return logs if log else logs.exp()


def fourier_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    radius: Tensor | float = 1.0,
    power: int = 4,
    mask: Tensor | None = None,
    eps: float = 1e-6,
    dropout: float = 0.0,
    chunk: int | None = None,
    *,
    causal: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Compute sum_j A_ij v_j with A_ij = K(q_i, k_j) / (sum_l K(q_i, k_l) + eps) over the keys that i may see.

    Only chunks of the weights exist at a time; backward makes them again. On a GPU with Triton and without mask and
    dropout one kernel does it.

    Args:
        q: Queries, (..., N, d).
        k: Keys, (..., M, d).
        v: Values, (..., M, e).
        radius: As in `fourier_kernel`; gets its gradient, too.
        power: p, even and at least 2; the paper's is 4.
        mask: Which keys each query may see, bool, or what is added to log K, floating; broadcast to (..., N, M); it
            gets no gradient.
        eps: Added to the sum of weights, at least 0; the authors' is 1e-6.
        dropout: Probability with which a weight is left out, in [0, 1).
        chunk: Queries a chunk; chosen for a processor's cache by default.
        causal: Let the last query see all keys, the one before all but the last, and so on.
        generator: Source of dropout; the global random state by default.

    Returns:
        Outputs, (..., N, e), in the format of the values. A query that may see no key gets 0.

    Raises:
        ValueError: If an argument is outside its range, or shapes do not fit.

    Example:
        >>> q, k, v = torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [torch.pi, 0.0]]), torch.tensor([[3.0], [9.0]])
        >>> fourier_attention(q, k, v)
        tensor([[3.0000]])
    """
    check_tokens(q, k, radius)
    check_ranges(power, eps, dropout=dropout)
    if v.shape[-2] != k.shape[-2]:
        raise ValueError(f"v must have as many rows as k, {k.shape[-2]}, got {v.shape[-2]}")
    check_mask(mask, q.shape[-2], k.shape[-2])
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a whole number of at least 1, got {chunk}")
    queries, keys = (precise(part) * radius for part in (q, k))
    return chunked_attention(
        queries,
        keys,
        precise(v),
        None if mask is None else as_added(mask),
        power,
        eps,
        causal=causal,
        dropout=dropout,
        generator=generator,
        chunk=chunk,
    ).to(v.dtype)


@final
class FourierTransformerEncoderLayer(nn.TransformerEncoderLayer):
    """`torch.nn.TransformerEncoderLayer` with Fourier attention.

    Args:
        d_model: Numbers a token, a multiple of ``nhead``.
        nhead: Number of heads.
        dim_feedforward: Width of the perceptron.
        dropout: Of tokens, in [0, 1); weights of the attention are all kept, as the authors do.
        activation: Of the perceptron, "relu" or "gelu".
        batch_first: Tokens are (B, N, d_model), else (N, B, d_model).
        norm_first: Normalise before attention and perceptron; the paper's language models do it after.
        power: As in `FourierAttention`.
        radius: As there.
        radius_init: As there.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> FourierTransformerEncoderLayer(8, 2, 16)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: Literal["relu", "gelu"] = "relu",
        batch_first: bool = True,
        norm_first: bool = False,
        power: int = 4,
        radius: Radii = "scalar",
        radius_init: float = 1.0,
    ) -> None:
        check_ranges(power, dropout=dropout)
        attention = FourierAttention(d_model, nhead, power, radius, radius_init, batch_first=batch_first)
        super().__init__(d_model, nhead, dim_feedforward, dropout, activation, 1e-5, batch_first, norm_first)
        self.self_attn = attention
        self.d_model, self.nhead, self.dim_feedforward, self.batch_first = d_model, nhead, dim_feedforward, batch_first
        self.power, self.radius, self.radius_init = power, radius, radius_init


def fourierize(model: nn.Module, power: int = 4, radius: Radii = "scalar", radius_init: float = 1.0) -> nn.Module:
    """Copy a model with Fourier attention in place of its attention; weights of projections and dropout are kept.

    Replaced are `torch.nn.MultiheadAttention`, as in torch's transformer layers, and self-attention that is called with
    the tokens alone and has ``qkv`` and ``proj`` or ``project_in`` and ``project_out``, and ``num_heads`` or ``heads``.

    Args:
        model: The model.
        power: As in `FourierAttention`.
        radius: As there.
        radius_init: As there.

    Returns:
        The copy.

    Raises:
        ValueError: If the model has no such attention, or one with options that are not supported.

    Example:
        >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), num_layers=2)
        >>> type(fourierize(model).layers[1].self_attn).__name__
        'FourierAttention'
    """

    def build(dim: int, heads: int, bias: bool, batch_first: bool, dropout: float) -> nn.Module:
        return FourierAttention(dim, heads, power, radius, radius_init, bias, dropout, batch_first=batch_first)

    return swap_attention(model, build)
