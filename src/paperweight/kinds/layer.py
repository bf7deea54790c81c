"""The kind "layer": what maps tensors to tensors inside a network."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

__all__ = ["Layer"]


class Layer(Protocol):
    """A `torch.nn.Module` that maps a batch, its samples along the first dimension, to tensors.

    The contract, each law with the check that holds it:

    - It is a module and gives tensors in train and in eval mode (`check_meets_protocol`).
    - The outputs have the documented shapes (`check_shape`), for one sample as for many (`check_batch_sizes`).
    - It has the documented number of parameters (`check_parameter_count`).
    - In float64 its gradients are those of finite differences, in both modes (`check_gradients`).
    - The outputs depend on every trained parameter (`check_every_parameter_has_a_gradient`).
    - In eval mode a sample's output does not depend on the other samples (`check_samples_are_independent`).
    - In eval mode two calls give the same bits (`check_eval_is_repeatable`), and a call changes neither its state
      (`check_eval_leaves_state`) nor the global random state (`check_eval_leaves_random_state`).
    - No input is modified (`check_inputs_unmodified`).
    - Outputs are finite and have the dtype and device of the inputs, bfloat16 among them
      (`check_dtype_and_device_preserved`).
    - A fresh object with the loaded state is the same layer, bit for bit (`check_state_round_trip`).
    - At its null setting outputs and gradients are those of its baseline, bit for bit (`check_null`).

    Example:
        >>> import torch
        >>> layer: Layer = torch.nn.Linear(2, 3)
        >>> layer(torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """

    training: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Map the inputs; a type checker takes these two catch-alls to stand for any signature."""
        ...

    def parameters(self) -> Iterator[Any]:
        """Give what is trained."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Give parameters and buffers, all that the outputs depend on."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> Any:
        """Take up what `state_dict` gave."""
        ...
