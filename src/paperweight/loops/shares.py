"""A model whose batches several processes share, so that any loop trains it across devices."""

from typing import TYPE_CHECKING, final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from paperweight.errors import InputError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["InShares"]


@final
class InShares(nn.Module):
    """A model that computes its share of each batch, and has the outputs for the rest from the other processes.

    Every process calls it with the same whole batch and gets the same whole output, so that loops, losses, augmentation
    and evaluation stay what they are on one device. Gradients of a loss on the whole output are those of one process,
    whatever the loss is and however a batch divides, up to the order in which numbers are added; each process has
    them all after ``backward``, by way of `torch.nn.parallel.DistributedDataParallel`.

    Three things are not those of one process. Batch normalisation takes its statistics from a share. Layers that draw
    random numbers draw in each process their own. And an input's gradient is there in its own process alone.

    All processes must call it equally often: with a loop that one of them leaves earlier, the others fail.

    Args:
        model: Maps inputs (N, ...) to outputs (N, ...), examples independent of each other; no process leaves a
            parameter that needs a gradient without one. Its weights become those of the first process. It is trained
            in place: optimizers take its parameters before or after, and it can be used alone once it is trained.
        fabric: What connects the processes, as `paperweight.studies.across_devices` gives it.

    Raises:
        InputError: If no parameter needs a gradient, or, when it is called, the outputs are no tensor.

    Example:
        >>> from paperweight.studies import Arm, Outcome, Setting, across_devices
        >>> def train(arm, setting, fabric):
        ...     model = nn.Linear(4, 2)
        ...     same = InShares(model, fabric)(torch.eye(4)) == model(torch.eye(4))
        ...     return Outcome(metrics={"same": same.double().mean().item()})
        >>> setting = Setting(study="example", seed=0, budget="smoke")
        >>> across_devices(train, Arm("one device", 1), setting, devices=1).metrics
        {'same': 1.0}
    """

    def __init__(self, model: nn.Module, fabric: "Fabric") -> None:
        super().__init__()
        if not any(each.requires_grad for each in model.parameters()):
            raise InputError("model must have a parameter that needs a gradient, it has none; call it without InShares")
        self._fabric = fabric
        self._model = fabric.setup_module(model)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the outputs (N, ...) for inputs (N, ...), of which this process computes the share of its number."""
        processes, own_number = self._fabric.world_size, self._fabric.global_rank
        if processes == 1:
            return self._model(inputs)
        shares = inputs.tensor_split(processes)
        own = self._model(shares[own_number])
        if not isinstance(own, Tensor):
            raise InputError(f"model must give a tensor (N, ...), got {type(own).__name__}; give one alone")
        if own.requires_grad:
            own.register_hook(self._as_sum)
        padded = own.new_zeros(len(shares[0]), *own.shape[1:])
        padded[: len(own)] = own.detach()
        outputs = [torch.empty_like(padded) for _ in shares]
        dist.all_gather(outputs, padded)
        outputs = [output[: len(share)] for output, share in zip(outputs, shares, strict=True)]
        outputs[own_number] = own
        return torch.cat(outputs)

    def _as_sum(self, gradient: Tensor) -> Tensor:
        """Make of the mean over processes, which is taken of gradients, their sum.

        As a method it keeps what takes the mean alive until ``backward``, even where only the outputs are kept.
        """
        return self._fabric.world_size * gradient
