"""Audits of trained models: what they memorised, what was erased from them, what they withstand, and backdoors.

Generators that they audit are trained with `paperweight.generators` and `paperweight.loops`, or are adapted to them.
The names below are imported when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paperweight.audits.backdoor import BackdoorAudit, audit_backdoor
    from paperweight.audits.erasers import EraserFindings, judge_erasers
    from paperweight.audits.erasure import ErasureAudit, audit_erasure
    from paperweight.audits.memorization import MemorizationAudit, audit_memorization
    from paperweight.audits.planting import Planting, plant
    from paperweight.audits.robustness import RobustnessAudit, audit_robustness

__all__ = [
    "BackdoorAudit",
    "EraserFindings",
    "ErasureAudit",
    "MemorizationAudit",
    "Planting",
    "RobustnessAudit",
    "audit_backdoor",
    "audit_erasure",
    "audit_memorization",
    "audit_robustness",
    "judge_erasers",
    "plant",
]

_HOMES = {
    "BackdoorAudit": "paperweight.audits.backdoor",
    "EraserFindings": "paperweight.audits.erasers",
    "ErasureAudit": "paperweight.audits.erasure",
    "MemorizationAudit": "paperweight.audits.memorization",
    "Planting": "paperweight.audits.planting",
    "RobustnessAudit": "paperweight.audits.robustness",
    "audit_backdoor": "paperweight.audits.backdoor",
    "audit_erasure": "paperweight.audits.erasure",
    "audit_memorization": "paperweight.audits.memorization",
    "audit_robustness": "paperweight.audits.robustness",
    "judge_erasers": "paperweight.audits.erasers",
    "plant": "paperweight.audits.planting",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
