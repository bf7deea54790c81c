"""The kind "data-transform": what changes the data that a model is trained on."""

from typing import Any, Protocol

__all__ = ["DataTransform"]


class DataTransform(Protocol):
    """A callable that maps inputs and their labels to changed inputs and labels.

    A random one takes its randomness from the keyword ``generator`` of the call. The contract, each law with the check
    that holds it:

    - It gives a pair of tensors of one length, without a graph (`check_meets_protocol`).
    - There are as many samples, of such a shape, as it declares (`check_length_and_shape`).
    - The labels are those that it declares; most leave them as they are (`check_labels`).
    - Every entry is finite and within the declared range (`check_range`).
    - Inputs and labels are not modified (`check_inputs_unmodified`).
    - The same generator gives the same bits, whatever the global random state, and another one others
      (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - The results have the dtype and device of the inputs (`check_dtype_and_device_preserved`).
    - At its null setting it gives what its baseline gives, bit for bit (`check_null`).

    Example:
        >>> import torch
        >>> transform: DataTransform = lambda inputs, labels: (inputs.flip(-1), labels)
        >>> transform(torch.tensor([[1, 2]]), torch.tensor([0]))
        (tensor([[2, 1]]), tensor([0]))
    """

    def __call__(self, inputs: Any, labels: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Give inputs and labels; the last two stand for what it takes beside, ``generator`` among them."""
        ...
