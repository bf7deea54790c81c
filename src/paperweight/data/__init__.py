"""Data for methods and studies: loading, splitting, synthetic sets and tensor transforms.

The names below are imported when they are first used, so that importing this package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paperweight.data.cache import cache_root
    from paperweight.data.captions import DIGIT_WORDS, SHAPE_WORDS, Vocabulary
    from paperweight.data.embedded import is_drawn, is_embedded
    from paperweight.data.hashing import source_hash
    from paperweight.data.images import ImageData, ImageSet, load_images
    from paperweight.data.labelled import LabelledImages
    from paperweight.data.labels import long_tailed, wrong_labels
    from paperweight.data.named import available, data_root
    from paperweight.data.splits import Splits, split_images
    from paperweight.data.synthetic import gaussian_grid, gaussian_mixture, shapes
    from paperweight.data.table_splits import split_table
    from paperweight.data.tables import Table, load_table
    from paperweight.data.transforms import (
        adjust_colour,
        affine,
        channel_statistics,
        cutmix,
        cutout,
        gaussian_blur,
        mixup,
        normalise,
        random_crop,
        random_flip,
        resize,
        translate,
    )
    from paperweight.data.typesetting import glyphs
    from paperweight.data.worlds import CaptionedImages, captioned_digits, captioned_shapes

__all__ = [
    "DIGIT_WORDS",
    "SHAPE_WORDS",
    "CaptionedImages",
    "ImageData",
    "ImageSet",
    "LabelledImages",
    "Splits",
    "Table",
    "Vocabulary",
    "adjust_colour",
    "affine",
    "available",
    "cache_root",
    "captioned_digits",
    "captioned_shapes",
    "channel_statistics",
    "cutmix",
    "cutout",
    "data_root",
    "gaussian_blur",
    "gaussian_grid",
    "gaussian_mixture",
    "glyphs",
    "is_drawn",
    "is_embedded",
    "load_images",
    "load_table",
    "long_tailed",
    "mixup",
    "normalise",
    "random_crop",
    "random_flip",
    "resize",
    "shapes",
    "source_hash",
    "split_images",
    "split_table",
    "translate",
    "wrong_labels",
]

_HOMES = {
    "cache": ("cache_root",),
    "captions": ("DIGIT_WORDS", "SHAPE_WORDS", "Vocabulary"),
    "embedded": ("is_drawn", "is_embedded"),
    "typesetting": ("glyphs",),
    "hashing": ("source_hash",),
    "images": ("ImageData", "ImageSet", "load_images"),
    "labelled": ("LabelledImages",),
    "labels": ("long_tailed", "wrong_labels"),
    "named": ("available", "data_root"),
    "splits": ("Splits", "split_images"),
    "synthetic": ("gaussian_grid", "gaussian_mixture", "shapes"),
    "table_splits": ("split_table",),
    "tables": ("Table", "load_table"),
    "transforms": (
        "adjust_colour",
        "affine",
        "channel_statistics",
        "cutmix",
        "cutout",
        "gaussian_blur",
        "mixup",
        "normalise",
        "random_crop",
        "random_flip",
        "resize",
        "translate",
    ),
    "worlds": ("CaptionedImages", "captioned_digits", "captioned_shapes"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"paperweight.data.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
