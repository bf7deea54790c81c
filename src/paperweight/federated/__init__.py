"""Federated and decentralised learning: many agents, each with data of its own.

Beside the papers' methods there is what they share: `partition` deals samples to agents, `mixing_matrix` says who hears
whom, `Simulation` takes agents through their rounds in one process, and `Processes` one agent in each of several.
"""

import importlib

from paperweight.catalogue import lazy_exports

_paper, _, _papers = lazy_exports(__name__)
_SHARED = {
    "Agent": "_agent",
    "Batches": "_agent",
    "CDSGD": "_baselines",
    "CGA": "_baselines",
    "Exchange": "_agent",
    "History": "_simulation",
    "Links": "_mixing",
    "LocalOnly": "_baselines",
    "Processes": "_processes",
    "SGP": "_baselines",
    "Simulation": "_simulation",
    "alternating": "_mixing",
    "check_mixing": "_mixing",
    "host_store": "_processes",
    "metropolis": "_mixing",
    "mixing_matrix": "_mixing",
    "partition": "_partition",
    "random_matching": "_mixing",
    "spectral_gap": "_mixing",
}
__all__ = sorted([*_papers, *_SHARED])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    """Import a name from its file when it is asked for."""
    if name in _SHARED:
        return getattr(importlib.import_module(f"{__name__}.{_SHARED[name]}"), name)
    return _paper(name)


def __dir__() -> list[str]:
    """List what can be imported."""
    return __all__
