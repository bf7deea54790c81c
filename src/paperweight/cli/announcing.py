"""What a command says of a person's data before it works with them; torch is not imported."""

from typing import TYPE_CHECKING

from paperweight.cli.printing import say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from paperweight.cli.bars import Bars
    from paperweight.data import ImageData, ImageSet, Table

__all__ = ["announce", "announce_table", "described", "described_table"]

SHOWN = 12


def announce(data: str, bars: "Bars", *, name: str, max_side: int = 32, labelled: bool = True) -> None:
    """Read a person's images, and say on the error stream how many of each class are in which part, and what was done.

    Of embedded sets nothing is said.

    Args:
        data: The images, as `load_images` takes them.
        bars: Shows how far the reading is.
        name: What the bar belongs to.
        max_side: The size limit of `load_images`.
        labelled: Whether images without classes are refused.

    Raises:
        InputError: If they cannot be read.
    """
    from paperweight.data import is_embedded, load_images

    if is_embedded(data):
        return
    progress = bars.progress(name)
    loaded = load_images(
        data,
        max_side=max_side,
        labelled=labelled,
        progress=lambda done, total: progress("decoding images", done, total),
    )
    say(described(loaded))


def described(data: "ImageData") -> str:
    """Return in words the parts, classes and notes of a set of images.

    Example:
        >>> from paperweight.data import load_images
        >>> described(load_images("digits")).splitlines()[0]
        'digits: 10 classes'
    """
    lines = [f"{data.name}: {len(data.classes)} class{'' if len(data.classes) == 1 else 'es'}"]
    lines.append(f"training part: {_counted(data.train, data.classes)}")
    if data.test is None:
        lines.append("no test part: where tests are needed, their images are drawn from the training part")
    else:
        lines.append(f"test part: {_counted(data.test, data.classes)}")
    return "\n".join([*lines, *(f"note: {note}" for note in data.notes)])


def announce_table(data: str, target: str | None) -> None:
    """Read a person's table, and say on the error stream how many rows each class has, and what was done to columns.

    Raises:
        InputError: If it cannot be read.
    """
    from paperweight.data import load_table

    say(described_table(load_table(data, target=target)))


def described_table(table: "Table") -> str:
    """Return in words the rows, features, classes and notes of a table.

    Example:
        >>> import numpy as np
        >>> from paperweight.data import Table
        >>> table = Table(np.zeros((3, 1)), np.array([0, 1, 1]), ("age",), ("ill", "well"), "people", "", ())
        >>> described_table(table)
        'people: 3 rows of 1 feature, 2 classes (ill 1, well 2)'
    """
    import numpy as np

    rows, features = table.features.shape
    line = f"{table.name}: {rows} rows of {features} feature{'' if features == 1 else 's'}"
    if table.classes:
        counts = np.bincount(table.target, minlength=len(table.classes))
        line += f", {len(table.classes)} classes ({_by_class(table.classes, counts)})"
    return "\n".join([line, *(f"note: {note}" for note in table.notes)])


def _by_class(classes: tuple[str, ...], counts: "NDArray[np.int64]") -> str:
    shown = ", ".join(f"{name} {count}" for name, count in zip(classes[:SHOWN], counts, strict=False))
    return shown + (f", and {len(classes) - SHOWN} classes more" if len(classes) > SHOWN else "")


def _counted(part: "ImageSet", classes: tuple[str, ...]) -> str:
    import numpy as np

    counts = np.bincount(part.labels, minlength=len(classes))
    return f"{len(part)} images of {' x '.join(map(str, part.images.shape[1:]))} ({_by_class(classes, counts)})"
