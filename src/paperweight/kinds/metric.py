"""The kind "metric": what measures a model or its samples."""

from typing import Any, Protocol

__all__ = ["Metric"]


class Metric(Protocol):
    """A callable that maps a batch to a value, or an object that takes a stream by ``update`` and has ``compute``.

    The value is a number, a tensor, or a sequence or mapping of them. The contract, each law with the check that
    holds it:

    - Inputs whose value is known give it (`check_known_values`).
    - Every value is within the documented range (`check_range`).
    - The declared symmetries keep the value (`check_symmetries`).
    - With ``update`` and ``compute`` a stream of parts has the value of the whole batch, and after ``reset`` nothing
      of the last stream is left (`check_stream_equals_batch`).
    - The same inputs give the same bits, whatever the global random state, and so does a second ``compute``
      (`check_repeatable`).
    - The global random state is untouched (`check_global_random_state`).
    - No input is modified, and a network among them keeps state, mode, gradients and hooks
      (`check_inputs_unmodified`).
    - At its null setting it has the value of its baseline, bit for bit (`check_null`).

    Example:
        >>> import torch
        >>> metric: Metric = torch.dist
        >>> metric(torch.zeros(2), torch.tensor([3.0, 4.0]))
        tensor(5.)
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Measure; a type checker takes these two catch-alls to stand for any signature."""
        ...
