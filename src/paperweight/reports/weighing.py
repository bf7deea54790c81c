"""The report of a weighing: one self-contained page, nothing fetched, everything escaped."""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from statistics import median

from markupsafe import Markup

from paperweight.bench import Weighing
from paperweight.catalogue import Paper
from paperweight.reports.drawing import look
from paperweight.reports.pages import rendered, write_page
from paperweight.reports.weighing_figures import curve_figure, curves_of, gains_figure, pairs_figure

__all__ = ["render_report", "render_summary", "write_report"]

_IMAGE_LETTERS = 800_000
_MESSAGE_LETTERS = 100_000


def write_report(weighing: Weighing, out: str | Path = "weighings") -> Path:
    """Write ``<study>-<budget>-<hash>.html``; an earlier one of the same weighing is replaced.

    Args:
        weighing: The weighing.
        out: The folder.

    Returns:
        The path of the page.

    Raises:
        InputError: If the file cannot be written.
    """
    name = f"{weighing.loaded.stem}-{weighing.spec.budget}-{weighing.spec.key()[:8]}.html"
    return write_page(Path(out) / name, render_report(weighing))


def render_report(weighing: Weighing) -> str:
    """Return the whole report.

    Args:
        weighing: The weighing.

    Returns:
        An HTML page that needs no network and no script.
    """
    study = weighing.study
    paper: Paper | None = None if weighing.loaded.entry is None else weighing.loaded.entry.paper
    finished = [record for record in weighing.records if record.metrics]
    arguments = dict.fromkeys(name for record in finished for name in record.arguments)
    secondary = [name for name in study.metrics if name != study.headline]
    return rendered(
        "report.html.j2",
        **_common(weighing),
        paper=paper,
        secondary=[
            (study.metrics[name], Markup(gains_figure(weighing.conclusion, name)), weighing.comparisons(name))
            for name in secondary
        ],
        curves=[Markup(curve_figure(name, weighing.arms, points)) for name, points in curves_of(weighing).items()],
        costs={arm: _costs(weighing, arm) for arm in weighing.arms},
        ratios={arm: weighing.cost(arm) for arm in weighing.arms[1:]},
        examples=weighing.by_example(weighing.method),
        images=_images(weighing),
        arguments={name: [_argument(weighing, arm, name) for arm in weighing.arms] for name in arguments},
        notes=list(dict.fromkeys(note for record in finished for note in record.message.splitlines() if note)),
        failures=weighing.failures,
        message_letters=max(500, _MESSAGE_LETTERS // max(1, len(weighing.failures))),
        environment=weighing.environment,
        revision=weighing.conclusion.measured["revision"],
        units=len(weighing.conclusion.measured["units"]),
    )


def render_summary(weighing: Weighing) -> str:
    """Return the verdict and the headline's figures, for a notebook.

    Args:
        weighing: The weighing.

    Returns:
        An HTML fragment with its own style.
    """
    return rendered("summary.html.j2", **_common(weighing))


def _common(weighing: Weighing) -> dict[str, object]:
    headline = weighing.study.headline
    return {
        "weighing": weighing,
        "study": weighing.study,
        "metric": weighing.study.metrics[headline],
        "comparisons": weighing.comparisons(headline),
        "pairs_figure": Markup(pairs_figure(weighing.conclusion)),
        "gains_figure": Markup(gains_figure(weighing.conclusion, headline)),
        "look_of": {arm: look(index) for index, arm in enumerate(weighing.arms)},
    }


def _costs(weighing: Weighing, arm: str) -> dict[str, float | None]:
    records = [weighing.trial(arm, seed) for seed in weighing.seeds]
    peaks = [record.peak_bytes for record in records if record.peak_bytes is not None]
    return {
        "wall": median(record.wall_seconds for record in records),
        "cpu": median(record.cpu_seconds for record in records),
        "memory": median(peaks) / 2**20 if peaks else None,
    }


def _argument(weighing: Weighing, arm: str, name: str) -> str:
    """Return an argument's values over seeds: one where all agree, otherwise each with how often it occurs."""
    values = [weighing.trial(arm, seed).arguments.get(name) for seed in weighing.seeds]
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values if value is not None]
    distinct = sorted(set(shown), key=lambda text: (-shown.count(text), text))
    return ", ".join(distinct) if len(distinct) < 2 else ", ".join(f"{text} ({shown.count(text)})" for text in distinct)


def _images(weighing: Weighing) -> list[tuple[str, list[tuple[str, list[str], int]]]]:
    """Return captions with the images of each arm at the first seed that a page has room for, and how many it has not.

    Every arm has as much room as any other.
    """
    first = [(arm, weighing.trial(arm, weighing.seeds[0]).images) for arm in weighing.arms]
    captions = dict.fromkeys(caption for _, images in first for caption in images)
    room = _IMAGE_LETTERS // max(1, len(captions) * len(first))

    def fitting(arm: str, files: Sequence[str]) -> tuple[str, list[str], int]:
        ends = accumulate(map(len, files))
        shown = [file for file, end in zip(files, ends, strict=True) if end <= room]
        return arm, shown, len(files) - len(shown)

    return [
        (caption, [fitting(arm, images[caption]) for arm, images in first if caption in images]) for caption in captions
    ]
