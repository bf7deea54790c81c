"""Numbers as a person reads them."""

import math

__all__ = ["number"]


def number(value: float | None) -> str:
    """Return a number as a person reads it.

    Example:
        >>> number(0.012345), number(None), number(float("inf"))
        ('0.0123', 'unknown', 'infinite')
    """
    if value is None or math.isnan(value):
        return "unknown"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return f"{value:.3g}"
