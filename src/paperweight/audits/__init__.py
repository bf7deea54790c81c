"""Audits of trained models on a person's own data: what a generator memorised, and what was erased from it.

With them come a model and a training whose checkpoints an audit reads.
The names below are imported when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paperweight.auditing._keybook import Keybook
    from paperweight.audits.erasure import ErasureAudit, audit_erasure
    from paperweight.audits.memorization import MemorizationAudit, audit_memorization
    from paperweight.audits.planting import Planting, plant
    from paperweight.diffusion._model import ModelSpec, load_model
    from paperweight.loops.denoising import DenoiserTraining

__all__ = [
    "DenoiserTraining",
    "ErasureAudit",
    "Keybook",
    "MemorizationAudit",
    "ModelSpec",
    "Planting",
    "audit_erasure",
    "audit_memorization",
    "load_model",
    "plant",
]

_HOMES = {
    "DenoiserTraining": "paperweight.loops.denoising",
    "ErasureAudit": "paperweight.audits.erasure",
    "Keybook": "paperweight.auditing._keybook",
    "MemorizationAudit": "paperweight.audits.memorization",
    "ModelSpec": "paperweight.diffusion._model",
    "Planting": "paperweight.audits.planting",
    "audit_erasure": "paperweight.audits.erasure",
    "audit_memorization": "paperweight.audits.memorization",
    "load_model": "paperweight.diffusion._model",
    "plant": "paperweight.audits.planting",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
