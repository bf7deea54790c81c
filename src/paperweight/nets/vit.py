"""Small vision transformer (Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021)."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets._common import check_at_least, check_classifier

__all__ = ["ViT"]


@final
class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(dim, 3 * dim)
        self.project_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project_in(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.project_out(mixed.transpose(1, 2).flatten(2))


@final
class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), _Attention(dim, heads))
        self.perceptron = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.perceptron(x)


@final
class ViT(nn.Module):
    """Pre-norm transformer on square patches, with learned positions and without dropout.

    The logits come from the mean over all patches after a last layer norm; there is no class token. Positions belong
    to the image size at construction.

    Args:
        shape: Channels, height and width of one image; height and width multiples of ``patch``.
        classes: Number of logits.
        patch: Side of a patch, in pixels.
        dim: Numbers a patch, a multiple of ``heads``.
        depth: Number of transformer blocks.
        heads: Attention heads a block.

    Raises:
        ValueError: If a size is not a positive whole number, ``patch`` does not divide the image, or ``heads`` does not
            divide ``dim``.

    Example:
        >>> ViT((1, 8, 8), 10)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        patch: int = 4,
        dim: int = 64,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        check_classifier(shape, classes)
        check_at_least(1, {"patch": patch, "dim": dim, "depth": depth, "heads": heads})
        channels, height, width = shape
        if height % patch or width % patch:
            raise ValueError(f"patch must divide height {height} and width {width}, got {patch}")
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads = {heads}, got {dim}")
        self.embed = nn.Conv2d(channels, dim, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(height // patch * (width // patch), dim))
        self.blocks = nn.Sequential(*(_Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            Logits, (N, classes).
        """
        tokens = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))
