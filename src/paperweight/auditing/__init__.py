"""Audits of what a model memorised, and what lessens it when the model is asked."""

from paperweight.catalogue import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
