"""Audits of trained models on a person's own data: what a generator memorised, and what was erased from it.

What they audit is trained with `paperweight.generators` and `paperweight.loops`, or is adapted to them.
The names below are imported when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paperweight.audits.erasers import EraserFindings, judge_erasers
    from paperweight.audits.erasure import ErasureAudit, audit_erasure
    from paperweight.audits.memorization import MemorizationAudit, audit_memorization
    from paperweight.audits.planting import Planting, plant

__all__ = [
    "EraserFindings",
    "ErasureAudit",
    "MemorizationAudit",
    "Planting",
    "audit_erasure",
    "audit_memorization",
    "judge_erasers",
    "plant",
]

_HOMES = {
    "EraserFindings": "paperweight.audits.erasers",
    "ErasureAudit": "paperweight.audits.erasure",
    "MemorizationAudit": "paperweight.audits.memorization",
    "Planting": "paperweight.audits.planting",
    "audit_erasure": "paperweight.audits.erasure",
    "audit_memorization": "paperweight.audits.memorization",
    "judge_erasers": "paperweight.audits.erasers",
    "plant": "paperweight.audits.planting",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
