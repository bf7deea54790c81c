"""Attacks of other packages, made to keep what attacks of this library promise."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from paperweight.nets import evaluating

__all__ = ["AttackAdapter"]


@final
class AttackAdapter:
    """Makes an attack of another package one that studies, suites and audits of this library take.

    Such an attack is called with a model, inputs and labels, as most are made in three lines (below). The adapter
    switches gradients on, puts the model into eval mode, draws all randomness of torch, NumPy and Python from the
    ``generator`` of the call, and leaves modes, gradients and random states as they were. It changes no value: whether
    the attack stays within its radius, `paperweight check attack` tells. Calls with one model must not overlap in time.

    Args:
        attack: Called with model, inputs (N, ...) and labels (N,), it gives changed inputs, a tensor or an array.
        dtype: The only floating type that the attack knows, such as float32 for ART; where inputs have another, it is
            given these and a copy of the model in that type.

    Raises:
        ValueError: If the attack is called and gives another number or shape of inputs.

    Example:
        >>> def shift(model, inputs, labels):  # as by torchattacks: torchattacks.PGD(model, eps=0.1)(inputs, labels)
        ...     return (inputs + 0.1 * torch.rand_like(inputs)).clamp(0, 1)
        >>> attack = AttackAdapter(shift)
        >>> first, second = (attack(nn.Flatten(), torch.zeros(2, 3), torch.zeros(2).long(),
        ...                         generator=torch.Generator().manual_seed(0)) for _ in range(2))
        >>> torch.equal(first, second)
        True
    """

    def __init__(self, attack: Callable[[Any, Any, Any], Any], dtype: torch.dtype | None = None) -> None:
        self.attack, self.dtype = attack, dtype

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs, (N, ...), of inputs (N, ...) and labels (N,)."""
        given = inputs.detach().clone()
        if self.dtype not in (None, inputs.dtype):
            model, given = copy.deepcopy(model).to(self.dtype), given.to(self.dtype)
        with _drawn_from(generator, inputs), evaluating(model), _gradients_kept(model), torch.enable_grad():
            changed = self.attack(model, given, labels.clone())
        if not isinstance(changed, Tensor | np.ndarray) or changed.shape != inputs.shape:
            found = tuple(changed.shape) if isinstance(changed, Tensor | np.ndarray) else type(changed).__name__
            raise ValueError(f"attack must give inputs of shape {tuple(inputs.shape)}, as it was given, got {found}")
        return torch.as_tensor(changed).detach().to(inputs)


@contextmanager
def _drawn_from(generator: torch.Generator | None, inputs: Tensor) -> Iterator[None]:
    """Seed the global random states by a generator, and put them back; leave them alone where there is none."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**32, (), generator=generator, device=generator.device))
    arrays, plain = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
            torch.default_generator.manual_seed(seed)
            if inputs.is_cuda:
                with torch.cuda.device(inputs.device):
                    torch.cuda.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
            yield
    finally:
        np.random.set_state(arrays)
        random.setstate(plain)


@contextmanager
def _gradients_kept(model: nn.Module) -> Iterator[None]:
    """Take the gradients and the wish for them from all weights, and give both back."""
    before = [(weight, weight.grad, weight.requires_grad) for weight in model.parameters()]
    for weight, _, _ in before:
        weight.grad = None
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight, gradient, wanted in before:
            weight.requires_grad_(wanted)
            weight.grad = gradient
