"""PS-KD, progressive self-knowledge distillation: a classifier's predictions of the last epoch soften its targets.

The target of an example is its label, mixed with what the model itself predicted for it one epoch earlier, and more so
from epoch to epoch. Examples on which the model has improved since then count for less, and it becomes less certain.
Cost: a softmax a step; one number an example and class of memory.

Source:
    K. Kim, B. Ji, D. Yoon, S. Hwang, "Self-Knowledge Distillation with Progressive Refinement of Targets", ICCV, 2021,
    https://arxiv.org/abs/2006.12000. Implemented: the refined targets, their linear schedule, and the cross-entropy
    with them. The number of the first epoch in the schedule, hard labels in that epoch, and which prediction is kept
    are those of the authors' code, https://github.com/lgcnsai/PS-KD-Pytorch.

Deviations:
    - Checked against the paper's abstract and the authors' code, not against its full text. There the teacher is the
      model of the epoch before. As in the code the prediction of an example is the one recorded when it was last
      trained on: in train mode, in the course of that epoch, before the update of its batch. The variant that keeps the
      weights of the epoch before, and makes a second forward pass with them, is left out; the two differ.
    - Batches of an epoch are of nearly equal size, so that none has a lone example, which layers of batch normalization
      refuse to train on; torch's loader fills all but the last.
    - Several processes, and mixed images (CutMix), are left out.
    - After ``epochs`` epochs the strength stays at ``alpha_T``; the authors' training ends there.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["PSKD", "refined_targets", "soft_cross_entropy"]

PAPER = Paper(
    title="Self-Knowledge Distillation with Progressive Refinement of Targets",
    authors=("Kyungyul Kim", "ByeongMoon Ji", "Doyoung Yoon", "Sangheum Hwang"),
    year=2020,
    url="https://arxiv.org/abs/2006.12000",
    provides={"PSKD": "training-procedure", "refined_targets": "function", "soft_cross_entropy": "function"},
    null={"alpha_T": 0.0},
    claim="Labels mixed with a model's own past predictions make it more accurate, and its confidence more reliable.",
)


def refined_targets(labels: Tensor, predictions: Tensor, alpha: float) -> Tensor:
    """Compute (1 - alpha) y + alpha P, the labels mixed with past predictions.

    Args:
        labels: Class numbers, int64, (N,).
        predictions: Probabilities that were predicted before, (N, classes).
        alpha: Share of the predictions, in [0, 1].

    Returns:
        The targets, (N, classes), in the dtype of the predictions; at alpha 0 the labels as they are.

    Raises:
        ValueError: If alpha is outside its range, the shapes do not fit, or a label is no class number.

    Example:
        >>> refined_targets(torch.tensor([1]), torch.tensor([[0.75, 0.25]]), alpha=0.5)
        tensor([[0.3750, 0.6250]])
    """
    _check_share("alpha", alpha)
    if predictions.ndim != 2 or labels.shape != predictions.shape[:1]:
        raise ValueError(
            f"labels and predictions must have shapes (N,) and (N, classes), "
            f"got {tuple(labels.shape)} and {tuple(predictions.shape)}"
        )
    return torch.lerp(_one_hot(labels, predictions), predictions, alpha)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the mean over examples of -sum over c of y_c log p_c, the cross-entropy with soft targets.

    Args:
        logits: Logits, (N, classes), N at least 1.
        targets: Probabilities, of the same shape.

    Returns:
        The mean, a scalar.

    Raises:
        ValueError: If a shape is not as above.

    Example:
        >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.25, 0.75]]))
        tensor(0.6931)
    """
    if logits.ndim != 2 or targets.shape != logits.shape or not len(logits):
        raise ValueError(
            f"logits and targets must have the same shape (N, classes) with N at least 1, "
            f"got {tuple(logits.shape)} and {tuple(targets.shape)}"
        )
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


class PSKD:
    """Trains a classifier epoch by epoch, each time with its own predictions of the epoch before in the targets.

    A call of `step` is one epoch. In the first one targets are the labels. With ``alpha_T=0`` it is plain training with
    cross-entropy on shuffled batches, bit for bit. Step a learning-rate schedule between epochs. A subclass may
    override `alpha` or `targets`.

    Args:
        model: What is trained, in place: maps inputs to logits, (B, classes).
        optimizer: Holds the model's parameters; steps without a closure.
        inputs: Inputs, (N, ...), N at least 1, on the model's device.
        labels: Class numbers, int64, (N,), on the model's device.
        epochs: Number of epochs that training will have, at least 1.
        alpha_T: Share of the predictions in the targets of the last epoch, in [0, 1]; the paper has 0.8 for CIFAR-100.
        batch_size: Largest number of examples a batch, at least 1; an epoch has as few batches as that allows, of
            nearly equal size.
        generator: Source of the shuffles.

    Raises:
        ValueError: If an argument is outside its range, or inputs and labels do not fit.

    Attributes:
        predictions: The latest prediction for each example, (N, classes); none before the first epoch.
        epoch: Number of epochs taken.

    Example:
        >>> model, draw = nn.Linear(2, 2), torch.Generator().manual_seed(0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> training = PSKD(model, optimizer, torch.rand(10, 2), torch.arange(10) % 2, epochs=8, generator=draw)
        >>> for _ in range(8):
        ...     loss = training.step()
        >>> training.predictions.shape, training.alpha
        (torch.Size([10, 2]), 0.8)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        epochs: int,
        alpha_T: float = 0.8,
        batch_size: int = 128,
        *,
        generator: torch.Generator,
    ) -> None:
        _check_share("alpha_T", alpha_T)
        for name, count in (("epochs", epochs), ("batch_size", batch_size)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count}")
        if len(inputs) != len(labels) or not len(inputs):
            raise ValueError(
                f"inputs and labels must have the same length, at least 1, got {len(inputs)} and {len(labels)}"
            )
        if labels.ndim != 1 or labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be class numbers, int64 of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        self.model = model
        self.optimizer = optimizer
        self.inputs = inputs
        self.labels = labels
        self.epochs = epochs
        self.alpha_T = alpha_T
        self.batch_size = batch_size
        self.generator = generator
        self.predictions: Tensor | None = None
        self.epoch = 0

    @property
    def alpha(self) -> float:
        """Share of the predictions in the targets of the next epoch, alpha_T t / T with t from 1 to T."""
        return self.alpha_T * min(self.epoch + 1, self.epochs) / self.epochs

    def targets(self, index: Tensor, past: Tensor) -> Tensor:
        """Give the targets of some examples in the next epoch.

        Args:
            index: Numbers of the examples, int64, (B,).
            past: What was last predicted for them, (B, classes); in the first epoch their labels.

        Returns:
            The targets, (B, classes).
        """
        return refined_targets(self.labels[index], past, self.alpha)

    def step(self) -> Tensor:
        """Train for one epoch in train mode.

        Returns:
            The mean of the losses of its batches, before each update, a scalar.
        """
        count = len(self.inputs)
        order = torch.randperm(count, generator=self.generator, device=self.generator.device).to(self.inputs.device)
        self.model.train()
        losses: list[Tensor] = []
        for index in order.tensor_split(-(-count // self.batch_size)):
            logits = self.model(self.inputs[index])
            if self.predictions is None:
                self.predictions = _one_hot(self.labels, logits)
            loss = soft_cross_entropy(logits, self.targets(index, self.predictions[index]))
            self.predictions[index] = logits.detach().softmax(dim=1)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        self.epoch += 1
        return torch.stack(losses).mean()

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, the generator's state among it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "predictions": None if self.predictions is None else self.predictions.clone(),
            "epoch": self.epoch,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            ValueError: If it is of another number of examples.
        """
        predictions: Tensor | None = state_dict["predictions"]
        if predictions is not None and len(predictions) != len(self.inputs):
            raise ValueError(
                f"state_dict must be of {len(self.inputs)} examples, got {len(predictions)}; load it as saved"
            )
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.predictions = None if predictions is None else predictions.to(self.inputs.device, copy=True)
        self.epoch = state_dict["epoch"]
        self.generator.set_state(state_dict["generator"])


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    classes = like.shape[1]
    if labels.dtype != torch.int64 or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
        raise ValueError(
            f"labels must be class numbers, int64 from 0 to {classes - 1}, got {labels.dtype} {labels[:5].tolist()} ..."
        )
    return F.one_hot(labels, like.shape[1]).to(like.dtype)


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"{name} must be from 0 to 1, got {share}")
