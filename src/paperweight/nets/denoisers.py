"""Denoisers that train on two cores: one of linear layers, one of tokens with attention to a condition."""

from math import prod
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets._common import check_at_least, check_classifier
from paperweight.nets._time import sinusoids

__all__ = ["MLPDenoiser", "TokenDenoiser"]


@final
class MLPDenoiser(nn.Module):
    """Residual layers on flattened images, to each of which time and condition are added; the fastest denoiser.

    Args:
        shape: Shape (C, H, W) of one image.
        width: Width of the layers, even.
        blocks: Number of residual blocks, each of two linear layers.
        condition_dim: Size of a token of the condition, 0 for none.

    Raises:
        ValueError: If a size is not a positive whole number, ``width`` odd, or ``condition_dim`` negative.

    Example:
        >>> MLPDenoiser((1, 8, 8), width=32)(torch.zeros(5, 1, 8, 8), torch.arange(5)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, shape: tuple[int, int, int], width: int = 384, blocks: int = 3, condition_dim: int = 0) -> None:
        super().__init__()
        check_classifier(shape, 1)
        _check_sizes(width, blocks, condition_dim)
        self.width = width
        self.stem = nn.Linear(prod(shape), width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_dim, width, bias=False) if condition_dim else None
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(blocks)])
        self.first = nn.ModuleList([nn.Linear(width, width) for _ in range(blocks)])
        self.second = nn.ModuleList([nn.Linear(width, width) for _ in range(blocks)])
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, prod(shape)))

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map images with noise to images.

        Args:
            x: Images with noise, (N, C, H, W).
            t: Time of each image, (N,), of a range of about 0 to 1000.
            condition: Tokens of the condition, (N, L, condition_dim); their mean is taken.

        Returns:
            Images, (N, C, H, W).
        """
        code = self.time(sinusoids(t.float(), self.width).to(x.dtype))
        if self.condition is not None and condition is not None:
            code = code + self.condition(condition.mean(dim=1))
        hidden = self.stem(x.flatten(1))
        for norm, first, second in zip(self.norms, self.first, self.second, strict=True):
            hidden = hidden + second(F.silu(first(norm(hidden) + code)))
        return self.out(hidden).view_as(x)


@final
class _Attention(nn.Module):
    """Attention with several heads, of tokens to themselves or to a context; named as pipelines name it."""

    def __init__(self, width: int, heads: int, context_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_dim, width, bias=False)
        self.to_v = nn.Linear(context_dim, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@final
class _Block(nn.Module):
    """Attention of the tokens to themselves, to the condition, and a layer of their own, each a residual."""

    def __init__(self, width: int, heads: int, condition_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = _Attention(width, heads, width)
        self.norm2 = nn.LayerNorm(width) if condition_dim else None
        self.attn2 = _Attention(width, heads, condition_dim) if condition_dim else None
        self.norm3 = nn.LayerNorm(width)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        normal = self.norm1(x)
        x = x + self.attn1(normal, normal)
        if self.attn2 is not None and self.norm2 is not None and condition is not None:
            x = x + self.attn2(self.norm2(x), condition)
        return x + self.ff(self.norm3(x))


@final
class TokenDenoiser(nn.Module):
    """A transformer on patches of the image, with attention to the tokens of a condition.

    The attention to the condition is ``blocks[i].attn2`` with ``to_q``, ``to_k``, ``to_v`` and ``to_out``, as in the
    usual text-to-image networks.

    Args:
        shape: Shape (C, H, W) of one image.
        patch: Side of a patch; divides H and W.
        width: Width of a token, even and a multiple of ``heads``.
        blocks: Number of blocks.
        heads: Number of heads of each attention.
        condition_dim: Size of a token of the condition, 0 for none.

    Raises:
        ValueError: If a size is not a positive whole number or does not divide what it must.

    Example:
        >>> model = TokenDenoiser((1, 8, 8), condition_dim=16)
        >>> model(torch.zeros(5, 1, 8, 8), torch.arange(5), torch.zeros(5, 3, 16)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int = 2,
        width: int = 64,
        blocks: int = 3,
        heads: int = 4,
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        check_classifier(shape, 1)
        _check_sizes(width, blocks, condition_dim)
        check_at_least(1, {"patch": patch, "heads": heads})
        channels, height, side = shape
        if height % patch or side % patch:
            raise ValueError(f"patch must divide height and width, got {patch} for {height} x {side}")
        if width % heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}")
        self.width = width
        self.stem = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(height // patch * (side // patch), width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList([_Block(width, heads, condition_dim) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.out = nn.ConvTranspose2d(width, channels, patch, stride=patch)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        """Map images with noise to images.

        Args:
            x: Images with noise, (N, C, H, W).
            t: Time of each image, (N,), of a range of about 0 to 1000.
            condition: Tokens of the condition, (N, L, condition_dim).

        Returns:
            Images, (N, C, H, W).
        """
        patches = self.stem(x)
        code = self.time(sinusoids(t.float(), self.width).to(x.dtype))
        tokens = patches.flatten(2).transpose(1, 2) + self.position + code[:, None]
        for block in self.blocks:
            tokens = block(tokens, condition)
        return self.out(self.norm(tokens).transpose(1, 2).view_as(patches))


def _check_sizes(width: int, blocks: int, condition_dim: int) -> None:
    check_at_least(1, {"width": width, "blocks": blocks})
    check_at_least(0, {"condition_dim": condition_dim})
    if width % 2:
        raise ValueError(f"width must be even, got {width}")
