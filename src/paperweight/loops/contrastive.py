"""Training of an encoder on two random views of every image."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops.core import OnStep, Schedule, index_batches, minimise

__all__ = ["fit_views", "nt_xent"]


def fit_views(
    encoder: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    *,
    view: Callable[[Tensor, torch.Generator], Tensor],
    loss: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    schedule: Schedule | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Train an encoder in place so that two views of an image suit each other; leave it in train mode.

    The two views of a batch pass through the encoder one after the other, so that batch normalization sees each by
    itself. Batches are those of `index_batches`, divergence is handled as in `minimise`. Only the generator is drawn
    from, except by an encoder that is random itself (dropout uses the global random state).

    Args:
        encoder: Maps views (N, ...) to what ``loss`` takes.
        optimizer: Holds the parameters to train; steps without a closure.
        images: Inputs, (N, ...), on the encoder's device.
        view: Draws one random view of every image in a batch.
        loss: Maps the codes of the first and of the second views, in the same order, to a scalar.
        steps: Number of optimizer steps, at least 1.
        batch_size: Images a step, at least 1.
        generator: Source of the shuffles and of the views.
        schedule: Stepped after every optimizer step.
        on_step: Called after every step, with the step's number from 0 and its loss.

    Returns:
        The loss of every step taken, each before its update, shape (steps,); shorter after a divergence.

    Raises:
        ValueError: If there are no images, or ``steps`` or ``batch_size`` is below 1.

    Example:
        >>> encoder = nn.Linear(4, 2)
        >>> def jitter(images, generator):
        ...     return images + 0.1 * torch.randn(images.shape, generator=generator)
        >>> fit_views(encoder, torch.optim.SGD(encoder.parameters(), lr=0.1), torch.eye(4), view=jitter,
        ...     loss=nn.functional.mse_loss, steps=3, batch_size=2,
        ...     generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3])
    """
    encoder.train()

    def batch_loss(index: Tensor) -> Tensor:
        batch = images.index_select(0, index)
        first = view(batch, generator)
        second = view(batch, generator)
        return loss(encoder(first), encoder(second))

    batches = index_batches(len(images), batch_size, generator, images.device)
    return minimise(batch_loss, optimizer, batches, steps=steps, schedule=schedule, on_step=on_step)


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Compute the normalised temperature-scaled cross-entropy of SimCLR (Chen et al. 2020): each view finds its twin.

    Args:
        first: Codes of the first views, (N, d).
        second: Codes of the second views, in the same order, (N, d).
        temperature: What the cosines of codes are divided by, above 0.

    Returns:
        The mean over all 2N views of the cross-entropy of the other view of the same image among the other views.

    Example:
        >>> codes = torch.eye(3)
        >>> bool(nt_xent(codes, codes, temperature=0.2) < nt_xent(codes, codes.flip(0), temperature=0.2))
        True
    """
    codes = F.normalize(torch.cat([first, second]))
    scores = (codes @ codes.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(scores, torch.arange(len(codes), device=codes.device).roll(len(first)))
