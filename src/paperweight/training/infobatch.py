"""InfoBatch: leave out a random part of what is learned well already, and let the rest of it count for more.

In each epoch samples with a loss below the mean are left out with some probability, and the gradients of those that
stay are scaled up, so that the expected sum of all gradients is that of all samples. The last epochs see everything.
Cost: nothing beside training, since the losses are those of earlier passes; it saves the passes of what is left out.

Source:
    Z. Qin, K. Wang, Z. Zheng, J. Gu, X. Peng, Z. Xu, D. Zhou, L. Shang, B. Sun, X. Xie, Y. You, "InfoBatch: Lossless
    Training Speed Up by Unbiased Dynamic Data Pruning", ICLR 2024, https://arxiv.org/abs/2303.04947. Implemented: the
    soft pruning by the mean, the rescaling and the annealing. Left out: other ratios for other quantiles, several
    processes.

Deviations:
    - Of n samples below the mean ``n - round(ratio * n)`` stay, at least one, and weigh n over their number, so that
      the expectation is exact. The authors' code keeps ``int((1 - ratio) * n)`` with weight 1 / (1 - ratio), which is
      less than the whole wherever that is no whole number, and keeps at least a tenth.
    - Epochs are numbered from 0, and those below ``delta * epochs`` are pruned. The authors' code prunes that epoch,
      too, and prepares one selection before the first.
    - Scores start at infinity, so that the first epoch leaves nothing out; theirs start at 3, with the same effect.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["InfoBatch", "infobatch_selection"]

PAPER = Paper(
    title="InfoBatch: Lossless Training Speed Up by Unbiased Dynamic Data Pruning",
    authors=(
        "Ziheng Qin",
        "Kai Wang",
        "Zangwei Zheng",
        "Jianyang Gu",
        "Xiangyu Peng",
        "Zhaopan Xu",
        "Daquan Zhou",
        "Lei Shang",
        "Baigui Sun",
        "Xuansong Xie",
        "Yang You",
    ),
    year=2023,
    url="https://arxiv.org/abs/2303.04947",
    provides={"InfoBatch": "training-procedure", "infobatch_selection": "function"},
    null={"ratio": 0.0},
    claim="Leaving out a part of the samples with low loss, without bias, saves a third of training and no accuracy.",
)


def infobatch_selection(scores: Tensor, ratio: float = 0.5, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose the samples of an epoch: all with a score of at least the mean, and a random part of the others.

    Args:
        scores: Most recent loss of each sample, (N,), N at least 1; infinite where there is none yet. Where one is not
            a number, nothing is left out.
        ratio: Share of the samples below the mean that is left out, in [0, 1); the paper has 0.5.
        generator: Decides which.

    Returns:
        The samples, int64, in ascending order, (M,), and the weight of each in the loss, (M,): 1, or for one below the
        mean the number of those over the number of those that stay.

    Raises:
        ValueError: If there is no score, or the ratio is outside its range.

    Example:
        >>> scores = torch.tensor([0.1, 5.0, 0.2, 0.3, 0.1])
        >>> index, weight = infobatch_selection(scores, ratio=0.5, generator=torch.Generator().manual_seed(0))
        >>> len(index), weight.sum().item(), weight[index == 1].item()
        (3, 5.0, 1.0)
    """
    _check_ratio(ratio)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"scores must have shape (N,) with N at least 1, got {tuple(scores.shape)}")
    low = (scores < scores.mean()).nonzero().squeeze(1)
    left_out = min(round(ratio * len(low)), len(low) - 1) if len(low) else 0
    order = torch.randperm(len(low), generator=generator, device=generator.device).to(low.device)
    weight = torch.ones_like(scores)
    weight[low] = len(low) / max(1, len(low) - left_out)
    weight[low[order[:left_out]]] = 0
    index = weight.nonzero().squeeze(1)
    return index, weight[index]


class InfoBatch:
    """Trains a model epoch by epoch, and leaves out in each a part of what is learned well.

    A call of `step` is one epoch, of what `order` draws, which a subclass may override. With ``ratio=0`` it is
    plain training on shuffled batches. A batch's loss is the mean of its samples' losses times their weights, so that a
    step is larger where much is left out: fewer steps go as far. Step a learning-rate schedule between epochs, or by
    the share of the epoch.

    Args:
        model: What is trained, in place.
        optimizer: Holds the model's parameters; steps without a closure.
        inputs: Inputs, (N, ...), N at least 1, on the model's device.
        labels: What ``loss`` compares with, (N, ...).
        epochs: Number of epochs that training will have, at least 1.
        ratio: Share of the samples below the mean loss that is left out, in [0, 1); the paper has 0.5.
        delta: Share of the epochs in which samples are left out, in [0, 1]; the paper has 0.875.
        batch_size: Samples a batch, at least 1; the last batch of an epoch may be smaller.
        loss: Maps outputs and labels of a batch to the loss of each of its samples, (B,); cross-entropy by default.
        generator: Source of the shuffles and of what is left out.

    Raises:
        ValueError: If an argument is outside its range, or inputs and labels differ in number.

    Attributes:
        scores: Most recent loss of each sample, float32, (N,); infinite before its first.
        epoch: Number of epochs taken.
        samples: Number of samples whose gradients were evaluated.

    Example:
        >>> model, draw = nn.Linear(2, 2), torch.Generator().manual_seed(0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> training = InfoBatch(model, optimizer, torch.rand(100, 2), torch.arange(100) % 2, epochs=8, generator=draw)
        >>> for _ in range(8):
        ...     loss = training.step()
        >>> training.epoch, training.samples < 800
        (8, True)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        epochs: int,
        ratio: float = 0.5,
        delta: float = 0.875,
        batch_size: int = 128,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        generator: torch.Generator,
    ) -> None:
        _check_ratio(ratio)
        if not 0 <= delta <= 1:
            raise ValueError(f"delta must be from 0 to 1, got {delta}")
        for name, count in (("epochs", epochs), ("batch_size", batch_size)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count}")
        if len(inputs) != len(labels) or not len(inputs):
            raise ValueError(
                f"inputs and labels must have the same length, at least 1, got {len(inputs)} and {len(labels)}"
            )
        self.model = model
        self.optimizer = optimizer
        self.inputs = inputs
        self.labels = labels
        self.epochs = epochs
        self.ratio = ratio
        self.delta = delta
        self.batch_size = batch_size
        self.loss = loss
        self.generator = generator
        self.scores = torch.full((len(inputs),), math.inf, device=inputs.device)
        self.epoch = 0
        self.samples = 0

    def step(self) -> Tensor:
        """Train for one epoch in train mode.

        Returns:
            The mean of the weighted losses of its batches, before each update, a scalar.
        """
        index, weights = self.order()
        losses_of = _cross_entropies if self.loss is None else self.loss
        self.model.train()
        means: list[Tensor] = []
        for batch, weight in zip(index.split(self.batch_size), weights.split(self.batch_size), strict=True):
            losses = losses_of(self.model(self.inputs[batch]), self.labels[batch])
            self.scores[batch] = losses.detach().to(self.scores.dtype)
            mean = (weight.to(losses.dtype) * losses).mean()
            self.optimizer.zero_grad()
            mean.backward()
            self.optimizer.step()
            means.append(mean.detach())
        self.epoch += 1
        self.samples += len(index)
        return torch.stack(means).mean()

    def order(self) -> tuple[Tensor, Tensor]:
        """Draw what the next epoch sees.

        Returns:
            The samples in the order in which it sees them, int64, (M,), and the weight of each in the loss, (M,).
        """
        index, weight = self._selected()
        order = torch.randperm(len(index), generator=self.generator, device=self.generator.device).to(index.device)
        return index[order], weight[order]

    def _selected(self) -> tuple[Tensor, Tensor]:
        if self.ratio == 0 or self.epoch >= self.delta * self.epochs:
            return torch.arange(len(self.scores), device=self.scores.device), torch.ones_like(self.scores)
        return infobatch_selection(self.scores, self.ratio, generator=self.generator)

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, the generator's state among it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scores": self.scores.clone(),
            "epoch": self.epoch,
            "samples": self.samples,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            ValueError: If it is of another number of samples.
        """
        scores = state_dict["scores"]
        if scores.shape != self.scores.shape:
            raise ValueError(f"state_dict must be of {len(self.scores)} samples, got {len(scores)}; load it as saved")
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.scores.copy_(scores)
        self.epoch = state_dict["epoch"]
        self.samples = state_dict["samples"]
        self.generator.set_state(state_dict["generator"])


def _cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _check_ratio(ratio: float) -> None:
    if not 0 <= ratio < 1:
        raise ValueError(f"ratio must be at least 0 and below 1, got {ratio}")
