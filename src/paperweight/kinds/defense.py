"""The kind "defense": what makes a model withstand attacks."""

from typing import Any, Protocol

__all__ = ["Defense"]


class Defense(Protocol):
    """A class or function that makes a defended model from a classifier; the defended model is called as that is.

    A random one takes its randomness from the keyword ``generator`` with which it is made, so that an attack can call
    the defended model as any other. The contract, each law with the check that holds it:

    - The defended model gives finite outputs of the shape of the model's (`check_meets_protocol`).
    - An attack of larger radius or with more steps is never weaker on it (`check_stronger_attack_is_not_weaker`).
    - An attacker who knows the defense is not weaker than one who knows the model alone: its gradients are not masked
      (`check_gradients_are_not_masked`).
    - Where it certifies, no perturbation that the check finds within the certified radius changes the certified label
      (`check_certificates_hold`).
    - The model's weights, buffers, gradients, mode and hooks stay as they were (`check_model_unmodified`).
    - Inputs are not modified (`check_inputs_unmodified`).
    - The same generator gives the same bits, whatever the global random state, and another one others
      (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - The outputs have the dtype and device of the inputs (`check_dtype_and_device_preserved`).
    - At its null setting the outputs are those of its baseline, the model itself, bit for bit (`check_null`).

    Example:
        >>> import torch
        >>> def clamped(model: torch.nn.Module) -> torch.nn.Module:
        ...     return torch.nn.Sequential(torch.nn.Hardtanh(0, 1), model)
        >>> defense: Defense = clamped
        >>> defense(torch.nn.Flatten())(torch.tensor([[2.0, 0.5]]))
        tensor([[1.0000, 0.5000]])
    """

    def __call__(self, model: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Make the defended model; the last two stand for the hyper-parameters, ``generator`` among them."""
        ...
