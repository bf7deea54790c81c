"""The kind "optimizer": what updates parameters from their gradients."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

__all__ = ["Optimizer"]


@runtime_checkable
class Optimizer(Protocol):
    """An object that steps parameters by their gradients, as those of `torch.optim` do.

    The contract, each law with the check that holds it:

    - It builds from parameters and a step size, and has every member of this protocol (`check_meets_protocol`).
    - It steps parameters of any shape (`check_takes_every_shape`).
    - ``step`` needs no closure and no other gradients than those of ``backward()`` (`check_steps_plainly`).
    - The same start gives the same steps, whatever the global random state (`check_repeatable_steps`).
    - The global random state is untouched (`check_steps_leave_random_state`).
    - A step leaves each gradient as it was, the same tensor with the same values (`check_gradients_unmodified`).
    - A step size of 0 leaves the parameters as they are (`check_zero_lr_is_identity`).
    - Parameters keep their identity, shape, dtype and device (`check_dtype_and_device_preserved`).
    - It decreases the loss of a convex problem (`check_decreases_convex_loss`).
    - A fresh object with the loaded state goes on exactly as the first would have (`check_resume_is_exact`).
    - A parameter without a gradient is untouched and does not change how the others move
      (`check_missing_gradient_is_skipped`).
    - Each parameter group has its own step size (`check_groups_have_own_lr`).
    - ``step`` calls its closure with gradients enabled, steps on what it made and returns its loss
      (`check_closure`).
    - In bfloat16 the parameters stay finite (`check_finite_in_bfloat16`).
    - ``zero_grad`` drops the gradients, or zeroes them where asked (`check_zero_grad`).
    - A group that is added later is stepped, too (`check_added_group_is_stepped`).
    - The order in which the parameters are given does not matter (`check_parameter_order`).
    - At its null setting it takes the steps of its baseline, bit for bit (`check_null`).

    Attributes:
        param_groups: One mapping a group, with its ``params`` and its hyper-parameters.
        state: What is remembered of each parameter.

    Example:
        >>> import torch
        >>> isinstance(torch.optim.SGD([torch.zeros(1)], lr=0.1), Optimizer)
        True
    """

    param_groups: list[dict[str, Any]]
    state: Any

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return what ``closure``, if given, returned."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop every gradient, or set it to zero."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on: state and hyper-parameters."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        ...

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take further parameters, with hyper-parameters of their own where the mapping names them."""
        ...
