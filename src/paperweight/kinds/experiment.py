"""The kind "experiment": a measurement that the paper makes, whose result is what it contributes."""

from typing import Any, Protocol

__all__ = ["Experiment"]


class Experiment(Protocol):
    """A callable that measures something from its arguments alone and returns a record of what it found.

    The record is a dataclass or a mapping with names as keys; its values are numbers, tensors, texts, or sequences or
    mappings of them. A random experiment takes its randomness from the keyword ``generator``. The contract, each law
    with the check that holds it:

    - The record has the documented fields and no others, and every number in it is finite (`check_fields`).
    - A degenerate setting whose answer is known gives it (`check_known_answers`).
    - The same generator gives the same bits, whatever the global random state, and another one others
      (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - No argument is modified, and a network among them keeps state, mode, gradients and hooks
      (`check_arguments_unmodified`).
    - At its null setting it finds what its baseline finds, bit for bit (`check_null`).

    Example:
        >>> import torch
        >>> def coin(throws: int, generator: torch.Generator) -> dict[str, float]:
        ...     return {"heads": torch.rand(throws, generator=generator).round().mean().item()}
        >>> experiment: Experiment = coin
        >>> 0.4 < experiment(1_000, generator=torch.Generator().manual_seed(0))["heads"] < 0.6
        True
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Measure; a type checker takes these two catch-alls to stand for any signature."""
        ...
