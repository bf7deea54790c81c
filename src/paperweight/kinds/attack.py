"""The kind "attack": what changes inputs so that a model errs."""

from typing import Any, Protocol

__all__ = ["Attack"]


class Attack(Protocol):
    """A callable that maps a classifier, a batch of inputs and their labels to changed inputs.

    The labels are the true ones, or of a targeted attack those that the model shall give. An attack with a radius
    stays in a ball and does what harm it can; one without looks for the nearest input that is misclassified. A random
    one takes its randomness from the keyword ``generator`` of the call. The contract, each law with the check that
    holds it:

    - It gives finite inputs of the same shape that carry no graph (`check_meets_protocol`).
    - Each is within the declared radius of its original, in the declared norm (`check_inside_the_ball`).
    - Every entry is within the input range (`check_inside_the_range`).
    - On a linear model it does as much harm as the closed form of its norm, ball and range allows, or, without a
      radius, comes as near (`check_optimum_on_linear_model`).
    - The model's weights, buffers, gradients, mode and hooks stay as they were, in train and in eval mode
      (`check_model_unmodified`).
    - Inputs and labels are not modified (`check_inputs_unmodified`).
    - It works where gradients are switched off, and leaves them so (`check_gradient_mode`).
    - If it is not random, an input's result does not depend on the other inputs (`check_samples_are_independent`).
    - The same generator gives the same bits, whatever the global random state (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - The results have the dtype and device of the inputs (`check_dtype_and_device_preserved`).
    - At its null setting it gives what its baseline gives, bit for bit; radius 0 returns the inputs (`check_null`).

    Example:
        >>> import torch
        >>> attack: Attack = lambda model, inputs, labels: 1 - inputs
        >>> attack(torch.nn.Flatten(), torch.zeros(1, 2), torch.zeros(1))
        tensor([[1., 1.]])
    """

    def __call__(self, model: Any, inputs: Any, labels: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Give the changed inputs; the last two stand for what an attack takes beside, ``generator`` among them."""
        ...
