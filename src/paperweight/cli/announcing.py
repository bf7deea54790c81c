"""What a command says of a person's images before it works with them; torch is not imported."""

from typing import TYPE_CHECKING

from paperweight.cli.printing import say

if TYPE_CHECKING:
    from paperweight.cli.bars import Bars
    from paperweight.data import ImageData, ImageSet

__all__ = ["announce", "described"]

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


def _counted(part: "ImageSet", classes: tuple[str, ...]) -> str:
    import numpy as np

    counts = np.bincount(part.labels, minlength=len(classes))
    shown = ", ".join(f"{name} {count}" for name, count in zip(classes[:SHOWN], counts, strict=False))
    rest = f", and {len(classes) - SHOWN} classes more" if len(classes) > SHOWN else ""
    return f"{len(part)} images of {' x '.join(map(str, part.images.shape[1:]))} ({shown}{rest})"
