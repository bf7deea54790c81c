"""Labelled images as tensors."""

from dataclasses import dataclass

import torch

__all__ = ["LabelledImages"]


@dataclass(frozen=True)
class LabelledImages:
    """Images, float32 of shape (N, C, H, W) in [0, 1], and their labels, int64 of shape (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)
