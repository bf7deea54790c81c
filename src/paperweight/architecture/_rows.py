"""What filters are checked and scaled by, several along the first dimension."""

from torch import Tensor

__all__ = ["centred", "check_whole", "flat_patches", "unit"]


def unit(rows: Tensor) -> Tensor:
    """Give each of several tensors, along the first dimension, the length 1."""
    return rows / rows.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *[1] * (rows.ndim - 1))


def centred(patches: Tensor) -> Tensor:
    """Take its mean off each of several tensors, along the first dimension."""
    return patches - patches.flatten(1).mean(dim=1).view(-1, *[1] * (patches.ndim - 1))


def check_whole(name: str, value: int, least: int = 1, largest: int | None = None) -> None:
    """Raise where a number is not whole or out of its range."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (largest and value > largest):
        limit = f"of at least {least}" if largest is None else f"from {least} to {largest}"
        raise ValueError(f"{name} must be a whole number {limit}, got {value!r}")


def flat_patches(patches: Tensor) -> Tensor:
    """Check patches and give them as rows without their means."""
    if patches.ndim != 4 or not patches.numel() or not patches.is_floating_point():
        raise ValueError(f"patches must be floating, (P, C, k, k), got {patches.dtype} of {tuple(patches.shape)}")
    return centred(patches).flatten(1)
