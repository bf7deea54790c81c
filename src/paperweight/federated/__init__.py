"""Federated and decentralised learning: many agents or clients, each with data of its own."""

from paperweight.catalogue import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
