"""The kind "training-procedure": what replaces the training loop."""

from typing import Any, Protocol, runtime_checkable

__all__ = ["TrainingProcedure"]


@runtime_checkable
class TrainingProcedure(Protocol):
    """An object that is made with a model and trains it in place, round by round.

    A round is one call of ``step``: one update on the batch that is given, or, of a procedure that chooses its batches
    itself, one pass over the data that it was made with. A random one takes its randomness from the keyword
    ``generator`` with which it is made. The contract, each law with the check that holds it:

    - It is made with a model and has every member of this protocol (`check_meets_protocol`).
    - It lowers the loss that it trains for (`check_lowers_the_loss`).
    - It evaluates the gradient as often as it declares, counted in samples (`check_gradient_evaluations`).
    - A fresh object with the loaded state, of a model with the loaded weights, goes on exactly as the first would have
      (`check_resume_is_exact`).
    - The data are not modified (`check_data_unmodified`).
    - The same generator gives the same bits, whatever the global random state, and another one others
      (`check_repeatable`).
    - The rounds leave the global random state untouched; making it may initialise networks of its own, as torch does
      (`check_global_random_state`).
    - The model keeps its dtype and device (`check_dtype_and_device_preserved`).
    - At its null setting the model becomes what it becomes by its baseline, plain SGD, bit for bit (`check_null`).

    Example:
        >>> class Nothing:
        ...     def step(self) -> None: ...
        ...     def state_dict(self) -> dict[str, object]: return {}
        ...     def load_state_dict(self, state_dict: dict[str, object]) -> None: ...
        >>> isinstance(Nothing(), TrainingProcedure)
        True
    """

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Train for one round; a type checker takes these two catch-alls to stand for any signature."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the weights of the model, the generator's state among it."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take up what `state_dict` gave."""
        ...
