"""The kind "unlearner": what removes what a model learned from some data."""

from typing import Any, Protocol

__all__ = ["Unlearner"]


class Unlearner(Protocol):
    """A callable that maps a model, what to forget and what to retain to a new model.

    What to forget and what to retain are map-style data sets, with ``len`` and an index: of samples, or of the
    concepts of a generator. A random unlearner takes its randomness from the keyword ``generator`` of the call. The
    contract, each law with the check that holds it:

    - It gives a model whose outputs have the shapes of the source's and are finite (`check_meets_protocol`).
    - It changes what the model does (`check_changes_the_model`).
    - With nothing to forget the new model equals the source, bit for bit (`check_empty_forget_set`).
    - The source keeps its weights, buffers, gradients, mode and hooks, and shares no memory with the new model
      (`check_source_unmodified`).
    - It reads the data sets that it declares to read, and no other data (`check_reads_only_declared_data`).
    - The data are not modified (`check_data_unmodified`).
    - The same generator gives the same bits, whatever the global random state, and another one others
      (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - The new model has the dtype and device of the source (`check_dtype_and_device_preserved`).
    - At its null setting it gives what its baseline gives, bit for bit (`check_null`).

    Example:
        >>> import copy
        >>> unlearner: Unlearner = lambda model, forget, retain: copy.deepcopy(model)
        >>> unlearner([1], [2], [3])
        [1]
    """

    def __call__(self, model: Any, forget: Any, retain: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Give the new model; the last two stand for what it takes beside, ``generator`` among them."""
        ...
