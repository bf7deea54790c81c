"""The command ``paperweight embed``; torch is imported when it runs."""

from pathlib import Path
from typing import TYPE_CHECKING

from paperweight.cli.printing import print_whole, printed, shown
from paperweight.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from paperweight.embedding import Embedded

__all__ = ["embed"]


def embed(
    *,
    data: str,
    method: str,
    network: str | None = None,
    steps: int = 1_000,
    batch_size: int = 128,
    side: int = 32,
    seed: int = 0,
    out: Path = Path("embedding.npz"),
) -> int:
    """Train an encoder on your images without labels, and see what its features are worth.

    Written are the features of all images, the encoder as safetensors with its card, and a report with neighbours, a
    map, duplicates and, where there are labels, what classifiers on the features are right on.

    Args:
        data: Your images, as paperweight weigh takes them; a folder without class folders will do.
        method: The paper by whose method it learns: one that paperweight list --embed names.
        network: Your network, as package.module:factory, called with the shape of an image and the number of features,
            128; a small one where left out.
        steps: Updates.
        batch_size: Images an update.
        side: Largest side of the images that are learned, in pixels, from 8 to 64; larger ones are resized.
        seed: What everything random is drawn with.
        out: The file of the features, an .npz; encoder and report stand beside it.
    """
    if out.suffix != ".npz":
        raise InputError(f"--out must be the name of an .npz file, got {str(out)!r}; end it with .npz")
    from paperweight.embedding import embed as run
    from paperweight.embedding.learning import find_embedding
    from paperweight.reports import write_embedding_report
    from paperweight.reports.pages import check_folder

    find_embedding(method)
    _check_apart(out, data)
    check_folder(out.parent)
    from paperweight.cli.bars import Bars

    with Bars() as bars:
        found = run(
            data,
            method,
            network=network,
            steps=steps,
            batch_size=batch_size,
            side=side,
            seed=seed,
            out=out,
            progress=bars.progress("embed"),
        )
    found.save(out)
    found.encoder.save(encoder := out.with_suffix(".safetensors"))
    report = write_embedding_report(found, out.with_suffix(".html"))
    with printed() as console:
        _print_embedded(console, found, [out, encoder, report])
    return 0


def _check_apart(out: Path, data: str) -> None:
    """Refuse to write over the images, or among them, where the next start would read what was written."""
    source, place = Path(data).expanduser().resolve(), out.expanduser().resolve()
    if place == source or (source.is_dir() and place.is_relative_to(source)):
        raise InputError(f"--out {out} lies in the data, {data}, which nothing is written over; choose another place")


def _print_embedded(console: "Console", found: "Embedded", files: list[Path]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    from paperweight.bench.wording import number

    tone = {"worth it": "green", "not worth it": "red"}.get(found.verdict, "yellow")
    console.print(f"[bold {tone}]{found.verdict.upper()}[/bold {tone}]  {shown(found.words())}\n")
    if found.judged:
        table = Table(box=SIMPLE, padding=(0, 1, 0, 0), title="Test accuracy", title_justify="left")
        table.add_column("features", overflow="fold")
        for column in ("linear", "nearest", "better one", "rank"):
            table.add_column(column, no_wrap=True)
        for each in found.judged.values():
            table.add_row(
                each.words,
                number(each.linear.value),
                "" if each.nearest is None else number(each.nearest.value),
                f"{number(each.best.low)} to {number(each.best.high)}",
                number(each.rank),
            )
        print_whole(console, table)
    for name, path in zip(("Features", "Encoder", "Report"), files, strict=True):
        console.print(f"{name}: {shown(str(path))}")
