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
    from paperweight.diffusion._text_model import TextSpec, load_text_model
    from paperweight.loops.denoising import DenoiserTraining
    from paperweight.loops.text_to_image import fit_text_to_image

__all__ = [
    "DenoiserTraining",
    "ErasureAudit",
    "Keybook",
    "MemorizationAudit",
    "ModelSpec",
    "Planting",
    "TextSpec",
    "audit_erasure",
    "audit_memorization",
    "fit_text_to_image",
    "load_model",
    "load_text_model",
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
    "TextSpec": "paperweight.diffusion._text_model",
    "fit_text_to_image": "paperweight.loops.text_to_image",
    "load_model": "paperweight.diffusion._model",
    "load_text_model": "paperweight.diffusion._text_model",
    "plant": "paperweight.audits.planting",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
