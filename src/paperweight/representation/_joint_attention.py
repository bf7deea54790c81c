"""Attention among the pixels of feature maps: sine position codes, a layer of attention, and that of a pair to both.

Source:
    Q. Guo et al., "Enhancing Environmental Robustness in Few-shot Learning via Conditional Representation Learning",
    2025, https://arxiv.org/abs/2502.01183. Implemented from the authors' code.

Deviations:
    none known
"""

import math
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

__all__ = ["JointCrossAttention", "PairOfTensors", "PixelAttention", "check_attention", "positions", "tokens"]


class PairOfTensors(NamedTuple):
    """What belongs to the support images and to the queries: maps (B, C, H, W), or embeddings (B, C)."""

    support: Tensor
    query: Tensor


def check_attention(channels: int, heads: int, ffn: int, dropout: float) -> None:
    """Raise `ValueError` where attention with position codes cannot be built of these."""
    sizes = {"heads": heads, "ffn": ffn, "channels": channels}
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")
    if channels % 4 or channels % heads:
        raise ValueError(f"channels must be a multiple of 4 and of heads, {heads}, got {channels}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be from 0 to below 1, got {dropout!r}")


def positions(maps: Tensor) -> Tensor:
    """Give the sine position code of each pixel of maps (B, C, H, W) as tokens, (H W, C): of its row, then column."""
    _, channels, height, width = maps.shape
    number = torch.arange(channels // 2, device=maps.device)
    wave = 10_000 ** (2 * (number // 2) / (channels // 2))

    def code(length: int) -> Tensor:
        place = torch.arange(1, length + 1, device=maps.device) / (length + 1e-6) * 2 * math.pi
        angle = place[:, None] / wave
        return torch.where(number % 2 == 0, angle.sin(), angle.cos())

    rows, columns = code(height)[:, None].expand(-1, width, -1), code(width).expand(height, -1, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1).to(maps.dtype)


def tokens(maps: Tensor) -> Tensor:
    """Give the pixels of maps (B, C, H, W) in a row, (B, H W, C)."""
    return maps.flatten(2).transpose(1, 2)


class PixelAttention(nn.Module):
    """Attention, then a network on each token, each with what went in added, and normalised."""

    def __init__(self, channels: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.norm = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(
            *(nn.Linear(channels, ffn), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(ffn, channels), nn.Dropout(dropout)),
        )
        self.ffn_norm = nn.LayerNorm(channels)
        _xavier(self)

    def forward(self, added: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        x = self.norm(added + self.attention(query, key, value, need_weights=False)[0])
        return self.ffn_norm(x + self.ffn(x))


class _Projections(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))


def _xavier(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)


@final
class JointCrossAttention(nn.Module):
    """Attention of each image of a pair to both, by projections of its own and weights that both share.

    Args:
        channels: C of the maps, a multiple of 4 and of ``heads``.
        heads: Heads of the attention.
        ffn: Width of the network after it.
        dropout: Share of units that this network drops in training, from 0 to below 1; 0.1 in the authors' code.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> maps = torch.zeros(2, 8, 3, 3)
        >>> JointCrossAttention(8, heads=2)(maps, maps).query.shape
        torch.Size([2, 8, 3, 3])
    """

    def __init__(self, channels: int, heads: int = 8, ffn: int = 2048, dropout: float = 0.1) -> None:
        super().__init__()
        check_attention(channels, heads, ffn, dropout)
        self.channels, self.heads, self.ffn, self.dropout = channels, heads, ffn, dropout
        self.support, self.query = _Projections(channels), _Projections(channels)
        self.shared = PixelAttention(channels, heads, ffn, dropout)
        _xavier(self)

    def forward(self, support: Tensor, query: Tensor) -> PairOfTensors:
        """Give maps of both images, each of which has looked at both.

        Args:
            support: Maps, (B, C, H, W).
            query: Maps, of the same shape.

        Returns:
            New maps, of the same shapes.

        Raises:
            ValueError: If shapes do not fit.
        """
        if support.ndim != 4 or support.shape != query.shape or support.shape[1] != self.channels:
            raise ValueError(
                f"support and query must have one shape (B, {self.channels}, height, width), got "
                f"{tuple(support.shape)} and {tuple(query.shape)}"
            )
        both = torch.cat([support, query], dim=2)
        keys, at_keys, at_pixels = tokens(both), positions(both), positions(support)

        def attended(maps: Tensor, own: _Projections) -> Tensor:
            asked = own.query(tokens(maps)) + at_pixels
            new = self.shared(asked, asked, own.key(keys) + at_keys, own.value(keys))
            return new.transpose(1, 2).reshape(maps.shape)

        return PairOfTensors(attended(support, self.support), attended(query, self.query))
