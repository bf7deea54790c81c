"""Early-learning regularization (ELR): cross-entropy that keeps a classifier near its own earlier predictions.

A network fits right labels before it memorises wrong ones. So each training example gets a target, a running average
of what was predicted for it, and a penalty makes predictions agree with targets: wrong labels then pull in vain.
Cost: a softmax and a sort of the batch's indices a step; one number an example and class of memory.

Source:
    S. Liu, J. Niles-Weed, N. Razavian, C. Fernandez-Granda, "Early-Learning Regularization Prevents Memorization of
    Noisy Labels", NeurIPS, 2020, https://arxiv.org/abs/2007.00151. Implemented: the loss ELR, with targets by temporal
    ensembling. Limits of the probabilities, initial targets and the order of update and penalty, which the paper does
    not spell out, are those of the authors' code, https://github.com/shengliu66/ELR.

Deviations:
    - ELR+, which adds a second network, averaged weights and mixup, is left out.
    - Where an example is in a batch more than once, its target moves once, towards the mean of its predictions. The
      authors' code keeps one of them, on a GPU an arbitrary one.
    - In eval mode targets stay as they are; the authors' code knows training only.
    - Where logits have less precision than float32, probabilities and penalty are computed in float32.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["ELRLoss"]

PAPER = Paper(
    title="Early-Learning Regularization Prevents Memorization of Noisy Labels",
    authors=("Sheng Liu", "Jonathan Niles-Weed", "Narges Razavian", "Carlos Fernandez-Granda"),
    year=2020,
    url="https://arxiv.org/abs/2007.00151",
    provides={"ELRLoss": "loss"},
    null={"lam": 0.0},
    claim="It keeps a network from memorising wrong labels, so that it classifies better.",
)

_MARGIN = 1e-4  # least distance of a probability from 0 and from 1, so that 1 - <p, t> is at least as much


def _clamped_probabilities(logits: Tensor) -> Tensor:
    """Compute p = softmax(z), kept within [1e-4, 1 - 1e-4]; a probability at a limit has no gradient."""
    precise = torch.promote_types(logits.dtype, torch.float32)
    return logits.softmax(dim=1, dtype=precise).clamp(_MARGIN, 1 - _MARGIN)


def _next_targets(targets: Tensor, probabilities: Tensor, beta: float) -> Tensor:
    """Compute t = beta t + (1 - beta) p / sum(p), temporal ensembling; p may be a sum of several predictions."""
    return beta * targets + (1 - beta) * probabilities / probabilities.sum(dim=1, keepdim=True)


def _penalties(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Compute log(1 - <p, t>), one an example, at most 0."""
    return (1 - (probabilities * targets).sum(dim=1)).log()


@final
class ELRLoss(nn.Module):
    """Cross-entropy plus ``lam`` times the mean of log(1 - <p, t>), with a target t for every training example.

    In train mode a call first moves the targets of its examples towards the predictions p, then compares with them; in
    eval mode, which `torch.nn.Module.eval` of this loss sets, targets stay. No gradient flows into targets. An example
    not seen so far has target 0 and adds nothing. Targets are a buffer: they are saved in the ``state_dict``, and move
    with the module, where float32 is the format to keep. At ``lam=0`` the loss is cross-entropy, bit for bit.

    Args:
        samples: Number of training examples, at least 1.
        classes: Number of classes, at least 2.
        lam: Weight of the penalty, at least 0; the paper has 3 for CIFAR-10 and 7 for CIFAR-100.
        beta: Weight of the past in the targets, in [0, 1); the paper has 0.7 for CIFAR-10 and 0.9 for CIFAR-100.

    Raises:
        ValueError: If a number is outside its range.

    Attributes:
        targets: Average prediction for each training example, shape (samples, classes).

    Example:
        >>> loss = ELRLoss(samples=50_000, classes=2, lam=3.0, beta=0.5)
        >>> logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
        >>> loss(logits, labels, index=torch.tensor([7, 40_000]))
        tensor(-0.1699)
        >>> loss.targets[7]
        tensor([0.2500, 0.2500])
    """

    targets: Tensor

    def __init__(self, samples: int, classes: int, lam: float = 3.0, beta: float = 0.7) -> None:
        for name, count, least in (("samples", samples, 1), ("classes", classes, 2)):
            if not isinstance(count, int) or count < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {count}")
        if not 0 <= lam < math.inf:
            raise ValueError(f"lam must be finite and at least 0, got {lam}")
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), got {beta}")
        super().__init__()
        self.samples = samples
        self.classes = classes
        self.lam = lam
        self.beta = beta
        self.register_buffer("targets", torch.zeros(samples, classes))

    def forward(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Compute the loss of a batch; in train mode update its targets first.

        Args:
            logits: Logits, floating, (N, classes).
            labels: Labels, right or wrong, int64, (N,).
            index: Which training examples these are, int64 from 0 to ``samples - 1``, (N,).

        Returns:
            The mean over the batch, a scalar; below 0 where predictions agree with labels and targets.

        Raises:
            ValueError: If a shape, or an index, is not as above.
        """
        if logits.ndim != 2 or logits.shape[1] != self.targets.shape[1] or not len(logits):
            raise ValueError(
                f"logits must have shape (N, {self.targets.shape[1]}) with N at least 1, got {tuple(logits.shape)}"
            )
        for name, given in (("labels", labels), ("index", index)):
            if given.shape != logits.shape[:1] or given.dtype != torch.int64:
                raise ValueError(
                    f"{name} must be int64 of shape ({len(logits)},), as logits are, "
                    f"got {given.dtype} of shape {tuple(given.shape)}"
                )
        low, high = torch.aminmax(index)
        if low < 0 or high >= len(self.targets):
            raise ValueError(
                f"index must be from 0 to {len(self.targets) - 1}, the number of samples less 1, "
                f"got {int(low)} to {int(high)}; count the training examples from 0"
            )
        probabilities = _clamped_probabilities(logits)
        if self.training:
            self._update(index, probabilities.detach())
        loss = F.cross_entropy(logits, labels)
        penalty = _penalties(probabilities, self.targets[index]).mean()
        return loss + (self.lam * penalty).to(loss.dtype)

    def _update(self, index: Tensor, probabilities: Tensor) -> None:
        seen, group = index.unique(return_inverse=True)
        sums = probabilities.new_zeros(len(seen), probabilities.shape[1]).index_add(0, group, probabilities)
        self.targets[seen] = _next_targets(self.targets[seen], sums, self.beta).to(self.targets.dtype)
