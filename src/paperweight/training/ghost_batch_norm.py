"""Ghost batch normalization: of a large batch, small parts are each normalized by statistics of their own.

A large batch has means and variances with little noise, and few updates an epoch; both cost accuracy. Statistics of
parts of a fixed size keep the noise of small batches; the step size grows with the root of the batch; and training as
many updates as with small batches, not as many epochs, closes what is left of the gap.
Cost: on maps the time of batch normalization and a tenth more, on flat features, where a part is little work, up to
five times it; no memory but one more copy of the output.

Source:
    E. Hoffer, I. Hubara, D. Soudry, "Train longer, generalize better: closing the generalization gap in large batch
    training of neural networks", NeurIPS, 2017, https://arxiv.org/abs/1705.08741. Implemented: algorithm 1, ghost batch
    normalization; the rate by the root of the batch; regime adaptation. Clipping of gradients, which the paper has
    beside them, is torch's own. Left out: multiplicative noise, and the analysis of the distance that weights go.

Deviations:
    - The running average is taken over variances, as in `torch.nn.BatchNorm2d`, where the algorithm has deviations. So
      it is in the authors' code, https://github.com/eladhoffer/bigBatch, which runs the whole network on one part after
      the other; in a network whose layers see samples by themselves otherwise, the two are the same.
    - A batch that is no multiple of the size is cut into parts of nearly equal size, none larger; so none is a lone
      sample, which batch normalization refuses.
"""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from paperweight.catalogue import Paper
from paperweight.nets import replace_modules

__all__ = ["GhostBatchNorm", "adapted_milestones", "replace_batch_norms", "scaled_lr"]

PAPER = Paper(
    title="Train longer, generalize better: closing the generalization gap in large batch training of neural networks",
    authors=("Elad Hoffer", "Itay Hubara", "Daniel Soudry"),
    year=2017,
    url="https://arxiv.org/abs/1705.08741",
    provides={
        "GhostBatchNorm": "layer",
        "replace_batch_norms": "function",
        "scaled_lr": "function",
        "adapted_milestones": "function",
    },
    null={"ghost_size": 1_000_000_000},
    claim="Ghost batch normalization, a rate by the batch's root and as many updates close the gap of large batches.",
)


def scaled_lr(lr: float, large: int, small: int) -> float:
    """Compute lr sqrt(large / small), which keeps the covariance of an update as it is with small batches.

    Args:
        lr: The rate that is good for small batches, at least 0.
        large: Samples of a large batch, at least 1.
        small: Samples of a small batch, at least 1.

    Returns:
        The rate for large batches.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> scaled_lr(0.1, large=4096, small=1024)
        0.2
    """
    if not 0 <= lr < math.inf:
        raise ValueError(f"lr must be finite and at least 0, got {lr}")
    _check_counts({"large": large, "small": small})
    return lr * math.sqrt(large / small)


def adapted_milestones(epochs: Sequence[int], large: int, small: int) -> list[int]:
    """Compute the epochs at which as many updates are done with large batches as with small ones: e large / small.

    Args:
        epochs: Milestones in epochs of training with small batches, its end among them, each at least 0.
        large: Samples of a large batch, at least 1.
        small: Samples of a small batch, at least 1.

    Returns:
        The same milestones for large batches, rounded up.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> adapted_milestones([30, 60, 80], large=4096, small=128)
        [960, 1920, 2560]
    """
    _check_counts({"large": large, "small": small})
    if any(not isinstance(epoch, int) or epoch < 0 for epoch in epochs):
        raise ValueError(f"epochs must be whole numbers of at least 0, got {list(epochs)}")
    return [-(-epoch * large // small) for epoch in epochs]


def _check_counts(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {count}")


def _sizes(samples: int, most: int) -> list[int]:
    """Cut a number of samples into as few parts of at most so many as can be, of nearly equal size."""
    parts = max(1, -(-samples // most))
    return [samples // parts + (part < samples % parts) for part in range(parts)]


@final
class GhostBatchNorm(_BatchNorm):
    """Batch normalization of parts of the batch, each by its own mean and variance, with one scale and shift for all.

    In train mode the first samples of a batch are one part, the next another; shuffle the samples. Running averages are
    updated by one part after the other, mu = (1 - momentum) mu + momentum mu_part. In eval mode, and where a batch is
    no larger than ``ghost_size``, it is `torch.nn.BatchNorm1d`, 2d or 3d, bit for bit, and its state dictionary is
    theirs. ``num_batches_tracked`` counts parts.

    Args:
        num_features: Channels of the input, at least 1.
        ghost_size: Most samples a part, at least 2; the paper's is 128.
        eps: Added to the variance, above 0.
        momentum: Share of a part in the running averages, in [0, 1].
        affine: Whether there are a scale and a shift to learn.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [10.0], [14.0]])
        >>> GhostBatchNorm(1, ghost_size=2)(x).detach().flatten().round()
        tensor([-1.,  1., -1.,  1.])
    """

    def __init__(
        self,
        num_features: int,
        ghost_size: int = 128,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = True,
    ) -> None:
        _check_counts({"num_features": num_features})
        if not isinstance(ghost_size, int) or ghost_size < 2:
            raise ValueError(f"ghost_size must be a whole number of at least 2, got {ghost_size}")
        if not 0 < eps < math.inf:
            raise ValueError(f"eps must be finite and above 0, got {eps}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum}")
        super().__init__(num_features, eps, momentum, affine)
        self.ghost_size = ghost_size

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2 or input.shape[1] != self.num_features:
            raise ValueError(f"input must have shape (N, {self.num_features}, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalize.

        Args:
            input: (N, num_features, ...), with any number of further dimensions.

        Returns:
            The same shape.

        Raises:
            ValueError: If the shape is another, or a part has a single value a channel.
        """
        self._check_input_dim(input)
        sizes = _sizes(len(input), self.ghost_size) if self.training else [len(input)]
        if len(sizes) == 1:
            return super().forward(input)
        return torch.cat([super(GhostBatchNorm, self).forward(part) for part in input.split(sizes)])

    def extra_repr(self) -> str:
        """Say how it was made."""
        return f"{self.num_features}, ghost_size={self.ghost_size}, eps={self.eps}, momentum={self.momentum}"


def replace_batch_norms(model: nn.Module, ghost_size: int = 128) -> nn.Module:
    """Copy a model with `GhostBatchNorm` in place of batch normalization, whose weights and averages it takes over.

    Args:
        model: The model, which stays as it was.
        ghost_size: Most samples a part, at least 2.

    Returns:
        The copy.

    Raises:
        InputError: If the model holds no batch normalization.
        ValueError: If ``ghost_size`` is below 2, or one averages over all batches or keeps no averages.

    Example:
        >>> replace_batch_norms(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), ghost_size=16)[1]
        GhostBatchNorm(3, ghost_size=16, eps=1e-05, momentum=0.1)
    """

    def build(old: nn.Module) -> nn.Module:
        if not isinstance(old, _BatchNorm) or old.momentum is None or old.running_mean is None:
            raise ValueError(f"model must hold batch normalization with a momentum and running averages, got {old}")
        new = GhostBatchNorm(old.num_features, ghost_size, old.eps, old.momentum, old.affine).to(old.running_mean)
        new.load_state_dict(old.state_dict())
        return new

    def plain(_: str, part: nn.Module) -> bool:
        return isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)

    return replace_modules(model, plain, build, wanted="batch normalization (torch.nn.BatchNorm1d, 2d or 3d)")
