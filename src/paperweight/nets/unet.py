"""Small U-Net (Ronneberger et al., 2015) with an optional time and condition, as diffusion models have them."""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets._common import check_at_least
from paperweight.nets._time import sinusoids

__all__ = ["UNet"]


@final
class _Block(nn.Module):
    """Two normalized 3x3 convolutions with a residual; the time is added between them."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.time = nn.Linear(time, outputs)
        self.second = nn.Sequential(nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        hidden = self.first(x)
        if time is not None:
            hidden = hidden + self.time(time)[:, :, None, None]
        return self.shortcut(x) + self.second(hidden)


@final
class UNet(nn.Module):
    """Image to image of the same shape, over three resolutions: full, half and a quarter.

    One residual block a resolution on the way down (``base``, ``2 * base``, ``4 * base`` channels) and one on the way
    up, average pooling and nearest-neighbour upsampling, skip connections by concatenation, group normalization.
    Called without a time, the layers that take it in are left out, and get no gradient.

    Args:
        channels: Channels of the images.
        base: Channels at full resolution, a multiple of 8 (the number of normalization groups).
        condition_dim: Size of a token of the condition, 0 for none.

    Raises:
        ValueError: If ``channels`` is not a positive whole number, ``base`` not a positive multiple of 8, or
            ``condition_dim`` negative.

    Example:
        >>> net = UNet(1)
        >>> net(torch.zeros(5, 1, 8, 8), torch.arange(5)).shape
        torch.Size([5, 1, 8, 8])
    """

    def __init__(self, channels: int, base: int = 16, condition_dim: int = 0) -> None:
        super().__init__()
        check_at_least(1, {"channels": channels, "base": base})
        check_at_least(0, {"condition_dim": condition_dim})
        if base % 8:
            raise ValueError(f"base must be a multiple of 8, got {base}")
        self.base = base
        time = 4 * base
        self.embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.condition = nn.Linear(condition_dim, base) if condition_dim else None
        self.stem = nn.Conv2d(channels, base, 3, padding=1)
        self.down_full = _Block(base, base, time)
        self.down_half = _Block(base, 2 * base, time)
        self.quarter = _Block(2 * base, 4 * base, time)
        self.up_half = _Block((4 + 2) * base, 2 * base, time)
        self.up_full = _Block((2 + 1) * base, base, time)
        self.out = nn.Sequential(nn.GroupNorm(8, base), nn.SiLU(), nn.Conv2d(base, channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Map images to images.

        Args:
            x: Images, (N, C, H, W), with H and W multiples of 4.
            t: Time of each image, (N,), whole or real numbers; the encoding resolves a range of about 0 to 1000, so
                multiply a time in [0, 1] by 1000.
            condition: Tokens of the condition, (N, L, condition_dim); their mean is taken, and needs a time.

        Returns:
            Images, (N, C, H, W).

        Raises:
            ValueError: If H or W is not a multiple of 4, or ``t`` is not of shape (N,).
        """
        if x.shape[-2] % 4 or x.shape[-1] % 4:
            raise ValueError(f"height and width of x must be multiples of 4 (pad it), got {tuple(x.shape)}")
        time = None
        if t is not None:
            if t.shape != x.shape[:1]:
                raise ValueError(f"t must have shape ({len(x)},), one time for each image, got {tuple(t.shape)}")
            code = sinusoids(t.float(), self.base).to(x.dtype)
            if self.condition is not None and condition is not None:
                code = code + self.condition(condition.mean(dim=1))
            time = self.embed(code)
        full = self.down_full(self.stem(x), time)
        half = self.down_half(F.avg_pool2d(full, 2), time)
        quarter = self.quarter(F.avg_pool2d(half, 2), time)
        half = self.up_half(torch.cat([F.interpolate(quarter, scale_factor=2), half], dim=1), time)
        full = self.up_full(torch.cat([F.interpolate(half, scale_factor=2), full], dim=1), time)
        return self.out(full)
