# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""The report of an embedding: one self-contained page, and its numbers as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from markupsafe import Markup

from paperweight.catalogue import find
from paperweight.embedding import Embedded
from paperweight.reports.drawing import look
from paperweight.reports.embedding_figures import accuracy_figure, loss_figure, map_figure
from paperweight.reports.pages import png, rendered, write_page

__all__ = ["render_embedding", "write_embedding_report"]

_PAIRS = 12
_LEGEND = 36
_TONES = {"worth it": "helps", "not worth it": "hurts"}


class Picture(NamedTuple):
    """An image in a page: as PNG in base64, its class where there are some, and its name."""

    png: str
    label: str
    name: str


def write_embedding_report(found: Embedded, path: str | Path) -> Path:
    """Write a page and, beside it, its numbers as JSON; earlier ones are replaced.

    Args:
        found: What came of learning.
        path: The file of the page.

    Returns:
        The path of the page.

    Raises:
        InputError: If a file cannot be written.
    """
    return write_page(Path(path), render_embedding(found), found.numbers())


def render_embedding(found: Embedded) -> str:
    """Return the whole report.

    Args:
        found: What came of learning.

    Returns:
        An HTML page that needs no network and no script.
    """
    labelled = len(found.classes) > 1

    def picture(row: int) -> Picture:
        label = found.classes[found.labels[row]] if labelled else ""
        return Picture(png(torch.from_numpy(found.images[row]).float() / 255), label, found.names[row])

    def pictures(rows: Sequence[int]) -> list[Picture]:
        return [picture(row) for row in rows]

    near, near_pixels = cast(list[list[int]], found.near.tolist()), cast(list[list[int]], found.near_pixels.tolist())
    names = list(found.classes) if labelled and len(found.classes) <= _LEGEND else []
    return rendered(
        "embedding.html.j2",
        found=found,
        card=found.encoder.card,
        paper=find(found.method).paper,
        line=found.encoder.card["line"],
        tone=_TONES.get(found.verdict, "inconclusive"),
        tested=int((found.parts == "test").sum()),
        accuracy=Markup(accuracy_figure(found)) if found.judged else None,
        map=Markup(map_figure(found)),
        loss=Markup(loss_figure(found)),
        legend=[(name, look(number)) for number, name in enumerate(names)],
        rows=[
            (picture(row), pictures(near[place]), pictures(near_pixels[place])) for place, row in enumerate(found.shown)
        ],
        pairs=[
            (
                picture(pair.one),
                picture(pair.other),
                pair.correlation,
                found.labels[pair.one] != found.labels[pair.other],
            )
            for pair in found.alike[:_PAIRS]
        ],
    )
