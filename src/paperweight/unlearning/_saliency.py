"""The salient weights of a model: a mask of them, and training that moves no other.

Source:
    C. Fan et al., "SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image
    Classification and Generation", ICLR 2024, https://arxiv.org/abs/2310.12508.

Deviations:
    those of `paperweight.unlearning.salun`
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Mask", "check_fraction", "masked_out_kept", "saliency_mask", "trainable"]

Batch = TypeVar("Batch")
Mask = Mapping[str, Tensor]


def saliency_mask(
    model: nn.Module, batches: Iterable[Batch], loss: Callable[[nn.Module, Batch], Tensor], fraction: float = 0.5
) -> dict[str, Tensor]:
    """Mark the weights with the largest |sum of the gradients of the loss of the forget set|, ranked globally.

    The sign of the loss does not matter. The model is used as a copy in eval mode and stays as it is.

    Args:
        model: The model that is to forget.
        batches: The forget set in batches, each seen once.
        loss: Maps the model and a batch to a scalar; summed, not averaged, over samples, the batches do not matter.
        fraction: Share of the weights to mark, in [0, 1]; the paper has 0.5.

    Returns:
        Name of each parameter that requires a gradient to a mask of its shape, bool, true for ``round(fraction * P)``
        of all P entries; of equal ones the first.

    Raises:
        ValueError: If the fraction is outside its range, no parameter requires a gradient or there are no batches.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> saliency_mask(model, [torch.tensor([[2.0, -3.0]])], lambda model, x: model(x).sum(), fraction=0.67)
        {'weight': tensor([[True, True]]), 'bias': tensor([False])}
    """
    check_fraction(fraction)
    model = copy.deepcopy(model).eval()
    weights = trainable(model)
    sums: list[Tensor] | None = None
    for batch in batches:
        gradients = torch.autograd.grad(loss(model, batch), [*weights.values()], allow_unused=True)
        dense = [
            torch.zeros_like(w, dtype=wide) if g is None else g.to(wide)
            for w, g in zip(weights.values(), gradients, strict=True)
            for wide in (torch.promote_types(w.dtype, torch.float32),)
        ]
        sums = dense if sums is None else [total + g for total, g in zip(sums, dense, strict=True)]
    if sums is None:
        raise ValueError("batches must hold at least one batch, got none")
    saliency = torch.cat([total.flatten() for total in sums]).abs()
    mask = torch.zeros_like(saliency, dtype=torch.bool)
    mask[saliency.argsort(descending=True, stable=True)[: round(fraction * len(mask))]] = True
    parts = mask.split([weight.numel() for weight in weights.values()])
    return {name: part.view(weight.shape) for (name, weight), part in zip(weights.items(), parts, strict=True)}


@contextmanager
def masked_out_kept(model: nn.Module, optimizer: torch.optim.Optimizer, mask: Mask) -> Iterator[None]:
    """Put the weights outside a mask m back after each step: theta_u = m (theta_o + delta) + (1 - m) theta_o.

    They keep their bits, whatever momentum and weight decay. Nothing stays behind.

    Args:
        model: The model that is trained, with its weights as they are to be kept.
        optimizer: The optimizer that trains it, one that moves each weight by its own gradient.
        mask: Name of parameters to a mask of their shape, bool, as of `saliency_mask`; a parameter not named is free.

    Yields:
        Nothing.

    Raises:
        ValueError: If the mask names no parameter of the model, or its shape or dtype is another.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> with masked_out_kept(model, sgd, {"weight": torch.tensor([[True, False]])}):
        ...     model(torch.ones(1, 2)).sum().backward()
        ...     sgd.step()
    """
    parameters = dict(model.named_parameters())
    for name, part in mask.items():
        if name not in parameters or part.shape != parameters[name].shape or part.dtype != torch.bool:
            raise ValueError(
                f"mask must be bool and of the shapes of the model's parameters, got {part.dtype} of shape "
                f"{tuple(part.shape)} for {name!r}; make it by saliency_mask of this model"
            )
    kept = [(parameters[name], part, parameters[name].detach().clone()) for name, part in mask.items()]

    @torch.no_grad()
    def put_back(*_: Any) -> None:
        for parameter, part, value in kept:
            parameter.copy_(torch.where(part, parameter, value))

    handle = optimizer.register_step_post_hook(put_back)
    try:
        yield
    finally:
        handle.remove()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    if weights := {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}:
        return weights
    raise ValueError("model must have a parameter that requires a gradient, got none")


def check_fraction(fraction: float) -> None:
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be from 0 to 1, got {fraction}")
