"""The catalogue of papers: cards, look-up, lazy exports, official results. Standard library only, never torch."""

from paperweight.catalogue.card import FIELDS, KINDS, Paper
from paperweight.catalogue.lookup import find, lazy_exports, nearest, select
from paperweight.catalogue.objects import load_named, load_object, object_hash
from paperweight.catalogue.reading import Entry, entries, package_root, signatures
from paperweight.catalogue.results import OfficialResult, official_result, result_path, results_root, write_result

__all__ = [
    "FIELDS",
    "KINDS",
    "Entry",
    "OfficialResult",
    "Paper",
    "entries",
    "find",
    "lazy_exports",
    "load_named",
    "load_object",
    "nearest",
    "object_hash",
    "official_result",
    "package_root",
    "result_path",
    "results_root",
    "select",
    "signatures",
    "write_result",
]
