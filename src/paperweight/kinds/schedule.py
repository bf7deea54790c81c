"""The kind "schedule": what sets a hyper-parameter of an optimizer as a function of the step."""

from typing import Any, Protocol, runtime_checkable

__all__ = ["Schedule"]


@runtime_checkable
class Schedule(Protocol):
    """An object that is made from an optimizer and sets one setting of its groups, as torch's LR schedulers do.

    Step k is after k calls of ``step``; at step 0 the setting already has its first value. The contract, each law
    with the check that holds it:

    - It is made from an optimizer and has every member of this protocol (`check_meets_protocol`).
    - At the documented steps the setting has the documented values (`check_documented_values`).
    - Every value is finite and at least 0 (`check_values_are_finite`).
    - Groups that start alike stay alike (`check_every_group_is_scheduled`).
    - It changes no other setting, no parameter and no gradient (`check_other_settings_unmodified`).
    - A fresh object with the loaded state goes on exactly as the first would have (`check_resume_is_exact`).
    - The same start gives the same values, whatever the global random state (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - At its null setting it has the values of its baseline, bit for bit (`check_null`).

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        >>> isinstance(torch.optim.lr_scheduler.StepLR(optimizer, step_size=3), Schedule)
        True
    """

    def step(self) -> Any:
        """Go on to the next step, and set the value that belongs to it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take up what `state_dict` gave."""
        ...
