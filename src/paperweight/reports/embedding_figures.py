# pyright: reportUnknownMemberType=false
"""The figures of an embedding's report: the map of the images, and what classifiers on the features are right on."""

import matplotlib
import numpy as np

from paperweight.embedding import Embedded
from paperweight.embedding.judging import Score
from paperweight.reports.drawing import MUTED, STYLE, colour, look, new_figure, svg, title
from paperweight.texts import visible

__all__ = ["accuracy_figure", "loss_figure", "map_figure"]

_MOST_CLASSES = 36


def map_figure(found: Embedded) -> str:
    """Return the places of images in two dimensions, a mark and a colour each class, as far as there are 36."""
    labels = found.labels[found.map_rows]
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(6.4, 6.0)
        for label in np.unique(labels):
            few = len(found.classes) <= _MOST_CLASSES
            tone, marker = (colour(int(label)), look(int(label)).marker) if few else (colour(1), "o")
            places = found.map[labels == label]
            axes.scatter(places[:, 0], places[:, 1], s=11, color=tone, marker=marker, alpha=0.7, linewidth=0)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_title(title(f"{len(labels):,} images, near ones by near features (t-SNE)", 60))
    return svg(figure, "images in two dimensions, near ones have near features", "map")


def accuracy_figure(found: Embedded) -> str:
    """Return the accuracy of a linear classifier, and of nearest neighbours, on each kind of features."""
    rows = list(found.judged.items())
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.6, 1.1 + 0.55 * len(rows))

        def drawn(score: Score, height: float, tone: str, marker: str) -> None:
            axes.plot([score.low, score.high], [height] * 2, color=tone, linewidth=2)
            axes.scatter([score.value], [height], color=tone, marker=marker, s=34, zorder=3)

        for place, (_, judged) in enumerate(rows):
            drawn(judged.linear, place - 0.12, colour(1), "o")
            if judged.nearest is not None:
                drawn(judged.nearest, place + 0.17, colour(2), "s")
        axes.axvline(found.judged["learned"].best.value, color=MUTED, linewidth=0.8)
        axes.set_yticks(range(len(rows)), [visible(name) for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("test accuracy")
        axes.set_title(title("What the features are worth", 44))
    return svg(figure, "test accuracy on each kind of features, with intervals", "accuracy")


def loss_figure(found: Embedded) -> str:
    """Return the loss of every update, or of every pass."""
    with matplotlib.rc_context(STYLE):
        figure, axes = new_figure(4.6, 2.6)
        losses = np.array(found.losses, dtype=np.float64)
        width = max(1, len(losses) // 100)
        whole = losses[: len(losses) // width * width].reshape(-1, width).mean(axis=1)
        places = [found.encoder.card["steps"] * (row + 1) / len(whole) for row in range(len(whole))]
        axes.plot(places, whole, color=colour(1), linewidth=1.6)
        axes.set_xlabel("update")
        axes.set_title(title("Loss without labels", 44))
    return svg(figure, "loss over the updates", "loss")
