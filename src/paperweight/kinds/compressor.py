"""The kind "compressor": what makes a model smaller."""

from typing import Any, Protocol

__all__ = ["Compressor"]


class Compressor(Protocol):
    """An object that maps a model to a smaller one, and tells the size of a model in its own unit.

    The data that it needs, it is made with. A random one takes its randomness from the keyword ``generator`` of the
    call. The contract, each law with the check that holds it:

    - It gives a model whose outputs have the shapes of the source's and are finite (`check_meets_protocol`).
    - The size that it tells of the smaller model and of the source is the counted one (`check_reported_size`).
    - The counted size is within the declared budget (`check_budget`).
    - The smaller model has no hook, no parametrization, no attribute and no parameter or buffer that the source has
      not, but those that are declared (`check_nothing_left_behind`).
    - The source keeps its weights, buffers, gradients, mode and hooks, and shares no memory with the smaller model
      (`check_source_unmodified`).
    - The same generator gives the same bits, whatever the global random state, and another one others
      (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - The smaller model works in the dtype and on the device of the source (`check_dtype_and_device_preserved`).
    - At its null setting it gives what its baseline gives, bit for bit; ratio 0 changes nothing (`check_null`).

    Example:
        >>> class Nothing:
        ...     def __call__(self, model: object) -> object:
        ...         return model
        ...     def size(self, model: object) -> int:
        ...         return 1
        >>> compressor: Compressor = Nothing()
        >>> compressor.size(compressor("a model"))
        1
    """

    def __call__(self, model: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Give the smaller model; the last two stand for what it takes beside, ``generator`` among them."""
        ...

    def size(self, model: Any, /) -> int:
        """Give the size of a model, in the unit in which the compressor has its budget."""
        ...
