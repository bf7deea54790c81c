"""What all reports share: templates, images in pages, and files."""

import base64
import io
import json
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor

from paperweight.bench.wording import number
from paperweight.errors import InputError
from paperweight.files import write_failure
from paperweight.texts import brief, visible

__all__ = ["check_folder", "png", "rendered", "write_page"]


_MOST_SIDE = 80


def rendered(template: str, **values: object) -> str:
    """Return a page, or a part of one: what it is given is escaped, and its control characters are written out."""
    return visible(_templates().get_template(template).render(**values))


@cache
def _templates() -> Environment:
    loader = PackageLoader("paperweight.reports")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(number=number, brief=brief)  # pyright: ignore[reportUnknownMemberType]
    return environment


def png(image: Tensor) -> str:
    """Return an image, (C, H, W) in [0, 1], as PNG in base64, with sides of at most 80 pixels."""
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    stream = io.BytesIO()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((_MOST_SIDE, _MOST_SIDE))
    picture.save(stream, "png")
    return base64.b64encode(stream.getvalue()).decode()


def check_folder(folder: Path) -> None:
    """Make the folder of a report, and see that files can be written there before work begins.

    Raises:
        InputError: If that is not so.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"a page")
    except OSError as error:
        raise InputError(
            f"folder {folder} cannot be written ({write_failure(error, folder)}); choose another --out"
        ) from error


def write_page(path: Path, html: str, numbers: Mapping[str, Any] | None = None) -> Path:
    """Write a page and, beside it, its numbers as JSON; earlier ones are replaced, each at once.

    Args:
        path: The file of the page.
        html: The page.
        numbers: What goes into the JSON file; none is written where left out.

    Returns:
        ``path``.

    Raises:
        InputError: If a file cannot be written.
    """
    texts = {path: html}
    if numbers is not None:
        texts[path.with_suffix(".json")] = json.dumps(numbers, indent=1, allow_nan=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for place, text in texts.items():
            partial = place.with_name(f".{place.name}.partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(place)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({write_failure(error, path)}); choose another --out") from error
    return path
