"""Reports: one self-contained page for a weighing, a screen or an audit, nothing fetched, everything escaped.

The names below are imported when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paperweight.reports.backdoor import render_backdoor, write_backdoor_report
    from paperweight.reports.embedding import render_embedding, write_embedding_report
    from paperweight.reports.erasure import render_erasure, write_erasure_report
    from paperweight.reports.memorization import render_memorization, write_memorization_report
    from paperweight.reports.robustness import render_robustness, write_robustness_report
    from paperweight.reports.screening import render_screen, write_screen_report
    from paperweight.reports.weighing import render_report, render_summary, write_report

__all__ = [
    "render_backdoor",
    "render_embedding",
    "render_erasure",
    "render_memorization",
    "render_report",
    "render_robustness",
    "render_screen",
    "render_summary",
    "write_backdoor_report",
    "write_embedding_report",
    "write_erasure_report",
    "write_memorization_report",
    "write_report",
    "write_robustness_report",
    "write_screen_report",
]

_HOMES = {
    "render_backdoor": "backdoor",
    "render_embedding": "embedding",
    "render_erasure": "erasure",
    "render_memorization": "memorization",
    "render_report": "weighing",
    "render_robustness": "robustness",
    "render_screen": "screening",
    "render_summary": "weighing",
    "write_backdoor_report": "backdoor",
    "write_embedding_report": "embedding",
    "write_erasure_report": "erasure",
    "write_memorization_report": "memorization",
    "write_report": "weighing",
    "write_robustness_report": "robustness",
    "write_screen_report": "screening",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
