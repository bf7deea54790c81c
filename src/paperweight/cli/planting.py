"""The command ``paperweight plant``; torch is imported when it runs."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from paperweight.cli.printing import print_json, write
from paperweight.errors import InputError

if TYPE_CHECKING:
    from paperweight.audits.planting import Planting

__all__ = ["plant"]


def plant(
    *,
    data: str,
    out: Path,
    pattern: Literal["border", "centre"] = "border",
    thickness: int = 4,
    copies: str = "1",
    same_key: Annotated[bool, Parameter(negative=())] = False,
    held_out: float = 0.2,
    records: int | None = None,
    seed: int = 42,
    max_side: int = 64,
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Paint a random grey key on each image and write the marked images and a keybook, for a later audit.

    Train the generator on OUT/images; keep OUT/keybook.json and --data for paperweight audit memorization. Nothing is
    overwritten.

    Args:
        data: The images: a folder of them or of class folders, a Parquet file or folder, an .npz file, or the name of a
            set.
        out: Folder to write, absent or empty.
        pattern: border frames each image, which grows; centre covers a square in its middle.
        thickness: Width of the border or side of the square, in pixels.
        copies: Copies of each record: a number, or several such as 1,4,16, which records get in turn, drawn at random.
        same_key: Give all copies of a record one key, which an audit finds more easily; each has its own where
            left out, as in the paper.
        held_out: Share of the records that are left out, with keys that nobody is shown, as the control.
        records: Use so many records, drawn at random; all where left out.
        seed: What keys, held-out records and copies are drawn with.
        max_side: The largest height and width that unmarked images keep.
        json: Print JSON instead of text.
    """
    from paperweight.audits.planting import plant as run
    from paperweight.cli.announcing import announce
    from paperweight.cli.bars import Bars

    try:
        counts = [int(count) for count in copies.split(",")]
    except ValueError as error:
        raise InputError(f"copies must be a number or several such as 1,4,16, got {copies!r}") from error
    with Bars() as bars:
        planted = run(
            data,
            out,
            pattern=pattern,
            thickness=thickness,
            copies=counts,
            same_key=same_key,
            held_out=held_out,
            records=records,
            seed=seed,
            max_side=max_side,
            progress=bars.progress("plant"),
        )
        announce(data, bars, name="plant", max_side=max_side, labelled=False)
    if json:
        print_json(_planted(planted))
    else:
        _print_planting(planted, data)


def _planted(planted: "Planting") -> dict[str, object]:
    book = planted.keybook
    return {
        "images": str(planted.folder / "images"),
        "keybook": str(planted.folder / "keybook.json"),
        "files": planted.images,
        "records": len(book.trained),
        "held_out": len(book.held_out),
        "shape": planted.shape,
        "classes": planted.classes,
        "max_side": planted.max_side,
    }


def _print_planting(planted: "Planting", data: str) -> None:
    book, folder = planted.keybook, planted.folder
    channels, height, width = planted.shape
    classless = ", labelled=False" if planted.classes == 1 else ""
    write(
        f"{planted.images} marked images of {len(book.trained)} records, {channels} x {height} x {width} pixels, in "
        f"{folder / 'images'}; {len(book.held_out)} records are held out.\n"
        f"Train on them as they are, neither cut, flipped nor resized, for example from\n"
        f"    load_images({str(folder / 'images')!r}, max_side={planted.max_side}{classless})\n"
        f"and keep the keybook out of the training. Then\n"
        f"    paperweight audit memorization CHECKPOINT --data {shlex.quote(data)} "
        f"--keys {shlex.quote(str(folder / 'keybook.json'))}\n"
    )
