"""The kind "loss": a differentiable objective on predictions."""

from typing import Any, Protocol

__all__ = ["Loss"]


class Loss(Protocol):
    """A callable that maps a batch of predictions, and what it compares them with, to one number.

    The contract, each law with the check that holds it:

    - It gives a floating tensor without dimensions (`check_gives_a_scalar`).
    - In float64 it equals a slow, plain form (`check_equals_slow_form`).
    - In float64 its gradients are those of finite differences (`check_gradients`).
    - Value and gradients are finite at extreme inputs (`check_finite_at_extremes`).
    - The order of the samples does not matter (`check_order_of_samples`).
    - Where it has a ``reduction``, the terms of "none" have the mean of "mean" and the sum of "sum"
      (`check_reductions`).
    - The same inputs give the same bits, whatever the global random state (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - No input is modified, and a network among them keeps state, mode, gradients and hooks
      (`check_inputs_unmodified`).
    - The value is finite and has the dtype and device of the inputs, bfloat16 among them
      (`check_dtype_and_device_preserved`).
    - At its null setting value and gradients are those of its baseline, bit for bit (`check_null`).

    Example:
        >>> import torch
        >>> loss: Loss = torch.nn.CrossEntropyLoss()
        >>> round(float(loss(torch.zeros(2, 4), torch.tensor([0, 3]))), 4)
        1.3863
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the loss; a type checker takes these two catch-alls to stand for any signature."""
        ...
