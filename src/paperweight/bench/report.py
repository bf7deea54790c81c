"""The report of a weighing: one self-contained page, nothing fetched, everything escaped."""

from functools import cache
from statistics import median

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from paperweight.bench.figures import ARM_COLOURS, curve_figure, gains_figure, pairs_figure
from paperweight.bench.weighing import Weighing, number
from paperweight.catalogue import Paper

__all__ = ["render", "render_summary"]


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("paperweight.bench"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["number"] = number  # pyright: ignore[reportUnknownMemberType]
    return environment


def render(weighing: Weighing) -> str:
    """Return the whole report.

    Args:
        weighing: The weighing.

    Returns:
        An HTML page that needs no network and no script.
    """
    study = weighing.study
    paper: Paper | None = None if weighing.loaded.entry is None else weighing.loaded.entry.paper
    finished = [record for record in weighing.records if record.metrics]
    curves = dict.fromkeys(name for record in finished for name in record.curves)
    arguments = dict.fromkeys(name for record in finished for name in record.arguments)
    secondary = [name for name in study.metrics if name != study.headline]
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            **_common(weighing),
            paper=paper,
            secondary=[
                (study.metrics[name], Markup(gains_figure(weighing, name)), weighing.comparisons(name))
                for name in secondary
            ],
            curves=[Markup(curve_figure(weighing, name)) for name in curves],
            costs={arm: _costs(weighing, arm) for arm in weighing.arms},
            ratios={arm: weighing.cost(arm) for arm in weighing.arms[1:]},
            examples=weighing.by_example(weighing.method),
            images=_images(weighing),
            arguments={name: [_argument(weighing, arm, name) for arm in weighing.arms] for name in arguments},
            notes=list(dict.fromkeys(note for record in finished for note in record.message.splitlines() if note)),
            failures=weighing.failures,
            environment=weighing.environment,
            code=weighing.spec.code,
        )
    )


def render_summary(weighing: Weighing) -> str:
    """Return the verdict and the headline's figures, for a notebook.

    Args:
        weighing: The weighing.

    Returns:
        An HTML fragment with its own style.
    """
    return _templates().get_template("summary.html.j2").render(**_common(weighing))


def _common(weighing: Weighing) -> dict[str, object]:
    headline = weighing.study.headline
    return {
        "weighing": weighing,
        "study": weighing.study,
        "metric": weighing.study.metrics[headline],
        "comparisons": weighing.comparisons(headline),
        "pairs_figure": Markup(pairs_figure(weighing)),
        "gains_figure": Markup(gains_figure(weighing, headline)),
        "colour_of": {arm: index % ARM_COLOURS for index, arm in enumerate(weighing.arms)},
    }


def _costs(weighing: Weighing, arm: str) -> dict[str, float | None]:
    records = [weighing.trial(arm, seed) for seed in range(weighing.seeds)]
    peaks = [record.peak_bytes for record in records if record.peak_bytes is not None]
    return {
        "wall": median(record.wall_seconds for record in records),
        "cpu": median(record.cpu_seconds for record in records),
        "memory": median(peaks) / 2**20 if peaks else None,
    }


def _argument(weighing: Weighing, arm: str, name: str) -> str:
    """Return an argument's values over seeds: one where all agree, otherwise each with how often it occurs."""
    values = [weighing.trial(arm, seed).arguments.get(name) for seed in range(weighing.seeds)]
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values if value is not None]
    distinct = sorted(set(shown), key=lambda text: (-shown.count(text), text))
    return ", ".join(distinct) if len(distinct) < 2 else ", ".join(f"{text} ({shown.count(text)})" for text in distinct)


def _images(weighing: Weighing) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Return captions with the images of each arm at the first seed."""
    first = [(arm, weighing.trial(arm, 0).images) for arm in weighing.arms]
    captions = dict.fromkeys(caption for _, images in first for caption in images)
    return [(caption, [(arm, images[caption]) for arm, images in first if caption in images]) for caption in captions]
