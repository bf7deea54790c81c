"""DyBAT (dynamically selecting batches): train mostly on the batches that had the highest loss when last seen.

The data are cut once into batches that stay as they are. A first pass visits all of them; every later round visits the
share ``delta`` with the highest loss of all that are noted, each as it was at the batch's latest update.
Cost: nothing beside training; as many updates take as long as without it.

Source:
    S. Sahayam, J. Zakkam, U. Jayaraman, "Can we learn better with hard samples?", 2023,
    https://arxiv.org/abs/2304.03486, and the authors' training loop, https://github.com/imjohnzakkam/DyBAT, which this
    follows: of the paper's own text only the abstract was at hand.

Deviations:
    - A round has at least one batch. The authors' code stops updating after the first pass where ``delta`` times the
      number of batches is below 1.
    - Of batches with equal losses the earlier ones come first. The authors' list keeps the order that earlier rounds
      left it in.
    - Fewer samples than a batch are one batch. The authors' loader, which leaves out what does not fill a batch as is
      done here, would have none.
    - Nothing is evaluated here. The authors' code evaluates in train mode, so that test images would move the running
      statistics of batch normalization.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["HardBatches", "hardest_batches"]

PAPER = Paper(
    title="Can we learn better with hard samples?",
    authors=("Subin Sahayam", "John Zakkam", "Umarani Jayaraman"),
    year=2023,
    url="https://arxiv.org/abs/2304.03486",
    provides={"HardBatches": "training-procedure", "hardest_batches": "function"},
    null={"delta": 1.0},
    claim="Training on the batches with the highest loss alone generalizes sooner and better, at as many updates.",
)


def hardest_batches(losses: Tensor, delta: float = 0.5) -> Tensor:
    """Choose the batches of a round: the share with the highest losses, in the order of the data.

    Args:
        losses: Most recent loss of each batch, (B,), B at least 1; one that is not a number counts as the highest.
        delta: Share of the batches, above 0 and at most 1; the paper tries 0.2, 0.5 and 0.8.

    Returns:
        Their numbers, ascending, int64, (M,), M being ``delta * B`` rounded down, and at least 1; of equal losses those
        of the earlier batches count as higher.

    Raises:
        ValueError: If there is no loss, or ``delta`` is outside its range.

    Example:
        >>> losses = torch.tensor([0.3, 2.0, 0.1, 0.9, 0.5])
        >>> hardest_batches(losses, delta=0.5)
        tensor([1, 3])
    """
    _check_delta(delta)
    if losses.ndim != 1 or not len(losses):
        raise ValueError(f"losses must have shape (B,) with B at least 1, got {tuple(losses.shape)}")
    count = max(1, int(delta * len(losses)))
    return losses.argsort(descending=True, stable=True)[:count].sort().values


class HardBatches:
    """Trains a model on fixed batches, after the first pass on those with the highest losses only.

    A call of `step` makes as many updates as there are batches, so that it costs one pass over the data, whatever
    ``delta`` is; a round that it does not finish goes on in the next call. With ``delta=1`` it is plain training
    on batches that are never shuffled. The batches are cut in the order of the data: shuffle data that are sorted.
    Samples that do not fill a batch, fewer than ``batch_size``, are never trained on. Where labels are wrong, batches
    that hold many of them keep a high loss and are visited most.

    Args:
        model: What is trained, in place.
        optimizer: Holds the model's parameters; steps without a closure.
        inputs: Inputs, (N, ...), N at least 1, on the model's device.
        labels: What ``loss`` compares with, (N, ...).
        delta: Share of the batches that a round visits, above 0 and at most 1; the paper tries 0.2, 0.5 and 0.8.
        batch_size: Samples a batch, at least 1; the paper has 64 to 512. Fewer samples than that are one batch.
        loss: Maps outputs and labels of a batch to a scalar; cross-entropy by default.

    Raises:
        ValueError: If an argument is outside its range, or inputs and labels differ in number.

    Attributes:
        losses: Loss of each batch at its latest update, before it, float32, (B,); infinite before its first.
        visits: Number of updates that each batch has had, int64, (B,).
        pending: Numbers of the batches that the present round has still to visit.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> labels = (torch.arange(40) >= 30).long()
        >>> training = HardBatches(model, optimizer, torch.rand(40, 2), labels, delta=0.5, batch_size=10)
        >>> for _ in range(5):
        ...     loss = training.step()
        >>> len(training.visits), training.visits.sum().item(), training.visits.min().item() < 5
        (4, 20, True)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        delta: float = 0.5,
        batch_size: int = 64,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    ) -> None:
        _check_delta(delta)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size}")
        if len(inputs) != len(labels) or not len(inputs):
            raise ValueError(
                f"inputs and labels must have the same length, at least 1, got {len(inputs)} and {len(labels)}"
            )
        self.model = model
        self.optimizer = optimizer
        self.inputs = inputs
        self.labels = labels
        self.delta = delta
        self.batch_size = batch_size
        self.loss = loss
        batches = max(1, len(inputs) // batch_size)
        self.losses = torch.full((batches,), torch.inf, device=inputs.device)
        self.visits = torch.zeros(batches, dtype=torch.int64)
        self.pending = list(range(batches))

    def step(self) -> Tensor:
        """Make as many updates as there are batches, in train mode.

        Returns:
            The mean of the losses of the batches that it visits, each before its update, a scalar.
        """
        self.model.train()
        return torch.stack([self._update() for _ in range(len(self.losses))]).mean()

    def next_round(self) -> Tensor:
        """Choose the batches of the next round, int64, (M,), in the order in which it visits them."""
        return hardest_batches(self.losses, self.delta)

    def _update(self) -> Tensor:
        if not self.pending:
            self.pending = self.next_round().tolist()
        batch = self.pending.pop(0)
        samples = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        loss = self.loss(self.model(self.inputs[samples]), self.labels[samples])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.losses[batch] = loss.detach()
        self.visits[batch] += 1
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses.clone(),
            "visits": self.visits.clone(),
            "pending": list(self.pending),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            ValueError: If it is of another number of batches.
        """
        losses = state_dict["losses"]
        if losses.shape != self.losses.shape:
            raise ValueError(f"state_dict must be of {len(self.losses)} batches, got {len(losses)}; load it as saved")
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.losses.copy_(losses)
        self.visits.copy_(state_dict["visits"])
        self.pending = list(state_dict["pending"])


def _check_delta(delta: float) -> None:
    if not 0 < delta <= 1:
        raise ValueError(f"delta must be above 0 and at most 1, got {delta}")
