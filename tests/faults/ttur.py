"""Faults of the Fréchet distance."""

from tests.faults.planting import Fault

FAULTS = (
    Fault("divided by N", "return mean, scatter / (samples - 1)", "return mean, scatter / samples"),
    Fault("means of parts not weighted", "a.mean + step * (b.samples / samples)", "a.mean + step / 2"),
    Fault("spread between parts left out", "(a.samples * b.samples / samples)", "0"),
    Fault("one root for two", "total - 2 * _trace_of_root", "total - _trace_of_root"),
    Fault(
        "roots of what is lost in rounding",
        "if squares[0] > _LOST * (first.norm() * second.norm()):",
        "if squares[0] > 0:",
    ),
    Fault("no rank", "kept = values > floor * values[-1].clamp(min=0)", "kept = values > 0"),
    Fault("factor on the wrong side", "vectors[:, kept] * values[kept].sqrt()", "vectors[:, kept] * values[kept]"),
    Fault(
        "both into one set",
        "known, new = self._sets[index], _moments(part)",
        "index, known, new = 0, self._sets[0], _moments(part)",
    ),
)
