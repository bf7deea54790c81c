"""Training of a model whose loss is its own affair (denoiser, autoencoder, flow), and the average of its weights."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.loops.core import OnStep, Schedule, index_batches, minimise

__all__ = ["ExponentialMovingAverage", "fit_generator"]


@final
class ExponentialMovingAverage:
    """A second model whose weights are a moving average of those of a model in training.

    Every update sets ``average = decay * average + (1 - decay) * weight``; the average starts at the weights at
    construction, without warm-up or correction. Buffers, such as the statistics of batch normalization, are copied.

    Args:
        model: The model to start from; it is copied.
        decay: Weight of the past in each update, in [0, 1]; with 0 the average is the model itself.

    Raises:
        ValueError: If ``decay`` is outside [0, 1].

    Attributes:
        average: The averaged model, in eval mode, without gradients.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 1.0)
        >>> ema = ExponentialMovingAverage(model, decay=0.75)
        >>> _ = nn.init.constant_(model.weight, 5.0)
        >>> ema.update(model)
        >>> ema.average.weight.item()
        2.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        self.decay = decay
        self.average = deepcopy(model).eval().requires_grad_(False)
        self.average.zero_grad()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards a model.

        Args:
            model: The model in training, of the structure of the one at construction.
        """
        for average, weight in zip(self.average.parameters(), model.parameters(), strict=True):
            average.lerp_(weight, 1 - self.decay)
        for average, buffer in zip(self.average.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the averaged model.

        Returns:
            The tensors by name, as `torch.nn.Module.state_dict` gives them.
        """
        return self.average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the state of an averaged model; the decay stays that of this object.

        Args:
            state: What `state_dict` gave.
        """
        self.average.load_state_dict(state)


def fit_generator(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Tensor,
    *,
    loss: Callable[[nn.Module, Tensor, torch.Generator], Tensor],
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    ema: ExponentialMovingAverage | None = None,
    schedule: Schedule | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Train a model in place on a loss that sees the model, the batch and the generator; leave it in train mode.

    Batches are those of `index_batches`, divergence is handled as in `minimise`. Only the generator is drawn from,
    except by a model that is random itself (dropout uses the global random state).

    Args:
        model: What is trained.
        optimizer: Holds the parameters to train; steps without a closure.
        data: Samples, (N, ...), on the model's device.
        loss: Maps the model, a batch and the generator to a scalar.
        steps: Number of optimizer steps, at least 1.
        batch_size: Samples a step, at least 1.
        generator: Source of the shuffles and of what ``loss`` draws.
        ema: Updated after every optimizer step, before ``on_step``.
        schedule: Stepped after every optimizer step.
        on_step: Called after every step, with the step's number from 0 and its loss.

    Returns:
        The loss of every step taken, each before its update, shape (steps,); shorter after a divergence.

    Raises:
        ValueError: If there is no data, or ``steps`` or ``batch_size`` is below 1.

    Example:
        >>> model = nn.Linear(4, 4)
        >>> def denoising(model, batch, generator):
        ...     noise = torch.randn(batch.shape, generator=generator)
        ...     return nn.functional.mse_loss(model(batch + noise), batch)
        >>> fit_generator(model, torch.optim.SGD(model.parameters(), lr=0.1), torch.eye(4), loss=denoising,
        ...     steps=3, batch_size=2, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """
    model.train()

    def batch_loss(index: Tensor) -> Tensor:
        return loss(model, data.index_select(0, index), generator)

    def after_step(step: int, value: Tensor) -> None:
        if ema is not None:
            ema.update(model)
        if on_step is not None:
            on_step(step, value)

    batches = index_batches(len(data), batch_size, generator, data.device)
    return minimise(batch_loss, optimizer, batches, steps=steps, schedule=schedule, on_step=after_step)
