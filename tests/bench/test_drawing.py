# pyright: reportUnknownMemberType=false
from itertools import combinations, product

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from paperweight.reports.drawing import label, new_figure

CLOUD = {str(number): (0.5 + x / 40, 0.5 + y / 40) for number, (x, y) in enumerate(product(range(5), range(4)))}
CORNER = {"a": (0.99, 0.99), "b": (0.01, 0.99), "c": (0.99, 0.01), "d": (0.99, 0.98), "e": (0.99, 0.98)}


@pytest.mark.parametrize("marks", [CLOUD, CORNER])
def test_labels_hide_no_mark_and_no_other_label_and_stay_in_the_picture(marks: dict[str, tuple[float, float]]) -> None:
    figure, axes = new_figure(4.4, 3.4)
    canvas = FigureCanvasAgg(figure)
    label(figure, axes, marks)
    canvas.draw()
    texts = [child for child in axes.get_children() if isinstance(child, Annotation)]
    assert {text.get_text(): text.xy for text in texts} == marks
    boxes = [Text.get_window_extent(text, canvas.get_renderer()).padded(-0.5) for text in texts]
    assert not [1 for one, other in combinations(boxes, 2) if one.overlaps(other)]
    centres = [axes.transData.transform(mark) for mark in marks.values()]
    assert not [1 for box, centre in product(boxes, centres) if box.contains(*centre)]
    picture = axes.get_window_extent()
    assert all(Bbox.union([picture, box]).width == picture.width for box in boxes)


def test_a_mark_that_stands_alone_has_its_label_beside_it() -> None:
    figure, axes = new_figure(4.4, 3.4)
    label(figure, axes, {"1": (0.5, 0.5)})
    (text,) = (child for child in axes.get_children() if isinstance(child, Annotation))
    assert text.xyann == pytest.approx((8, 7))
    assert text.arrow_patch is None
