"""The kind "function": a pure function of tensors, an equation of the paper."""

from typing import Any, Protocol

__all__ = ["Function"]


class Function(Protocol):
    """A documented function without side effects.

    The contract, each law with the check that holds it:

    - The signature names every argument; there is no ``**kwargs`` (`check_no_var_keywords`).
    - The docstring's ``Args`` are the signature's (`check_documented_arguments`).
    - The docstring has an example, and it runs (`check_example_runs`).
    - The module's docstring has ``Source:`` and ``Deviations:`` (`check_source_and_deviations`).
    - A bad value raises ``ValueError`` naming the argument (`check_bad_values`).
    - An object keeps the arguments of its constructor unchanged under their names (`check_keeps_arguments`).
    - The same arguments give the same result (`check_repeatable`).
    - No argument is modified (`check_arguments_unmodified`).
    - The global random state is neither used nor touched (`check_global_random_state`).
    - At its null setting, where it has one, it gives what its baseline gives, bit for bit (`check_null`).

    The first six hold of every public object, whatever its kind; that arguments are kept, of every class.

    Example:
        >>> import torch
        >>> equation: Function = torch.sigmoid
        >>> equation(torch.zeros(2))
        tensor([0.5000, 0.5000])
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the equation; a type checker takes these two catch-alls to stand for any signature."""
        ...
