"""The catalogue of papers: cards, look-up, lazy exports, official results. Standard library only, never torch."""

from paperweight.catalogue.card import FIELDS, KINDS, Paper
from paperweight.catalogue.fingerprint import code_hashes
from paperweight.catalogue.lookup import find, lazy_exports, nearest, select
from paperweight.catalogue.objects import load_named, load_object, object_hash
from paperweight.catalogue.reading import Entry, entries, package_root, signatures
from paperweight.catalogue.results import OfficialResult, official_result, results_root

__all__ = [
    "FIELDS",
    "KINDS",
    "Entry",
    "OfficialResult",
    "Paper",
    "code_hashes",
    "entries",
    "find",
    "lazy_exports",
    "load_named",
    "load_object",
    "nearest",
    "object_hash",
    "official_result",
    "package_root",
    "results_root",
    "select",
    "signatures",
]
