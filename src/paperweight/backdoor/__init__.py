"""Backdoors and their detection."""

from paperweight.catalogue import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
