# pyright: reportUnknownMemberType=false
"""A classifier from its weights, its network and labelled images, with every mistake named; audits begin with it."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from torch import Tensor, nn

from paperweight.bench.machine import environment
from paperweight.catalogue import load_object
from paperweight.data import ImageData, ImageSet, LabelledImages, load_images
from paperweight.errors import InputError
from paperweight.generators.checkpoint import read_file
from paperweight.nets import evaluating
from paperweight.texts import brief

__all__ = ["Classifier", "read_classifier"]

_FEWEST = 20
_MOST_TEST = 2_000
_MOST_TRAINING = 8_000

Shape = tuple[int, int, int]


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Classifier:
    """A classifier and what it is audited with.

    Args:
        model: Maps images in [0, 1] to logits.
        make: Makes a new network of the same kind, drawn from the global random state.
        test: Test images.
        training: Images that models beside it learn from.
        classes: Names of the classes.
        data: Name of the data.
        facts: About model, data and machine, in words.
    """

    model: nn.Module
    make: Callable[[], nn.Module]
    test: LabelledImages
    training: LabelledImages
    classes: tuple[str, ...]
    data: str
    facts: dict[str, str]


@final
class _Normalised(nn.Module):
    """Takes images in [0, 1], and gives the network those with the mean and deviation that it has learned with."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)


def read_classifier(
    checkpoint: str | Path,
    *,
    data: str | Path,
    network: str,
    mean: Sequence[float],
    std: Sequence[float],
    side: int,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> Classifier:
    """Read the weights of a classifier and labelled images.

    Args:
        checkpoint: A safetensors file of the network's state.
        data: Labelled images, best with a test part that the classifier has not learned; otherwise a third is drawn.
        network: The network, as ``package.module:factory``, called with shape and number of classes.
        mean: What is subtracted from images in [0, 1], one number or one a channel.
        std: What they are then divided by, likewise, above 0.
        side: Largest side of the images that the classifier takes; larger ones are resized.
        seed: What images are drawn with.
        progress: Called with words, the number done and of all.

    Returns:
        The classifier, its data, and facts about them.

    Raises:
        InputError: If a file is missing or damaged, a number is out of range, or they do not belong together.
    """
    state = read_file(checkpoint)
    loaded = load_images(
        data,
        max_side=side,
        progress=None if progress is None else lambda done, total: progress("images", done, total),
    )
    training, test, note = _parts(loaded, seed)
    shape: Shape = (test.images.shape[1], test.images.shape[2], test.images.shape[3])
    centre, scale = _per_channel("mean", mean, shape), _per_channel("std", std, shape)
    if not (scale > 0).all():
        raise InputError(f"std must be above 0, got {' '.join(f'{each:g}' for each in std)}")
    factory = load_object(network, "network")

    def make() -> nn.Module:
        return _Normalised(_built(factory, network, shape, len(loaded.classes)), centre, scale)

    model = _Normalised(_built(factory, network, shape, len(loaded.classes)), centre, scale)
    try:
        model.network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"checkpoint {checkpoint} does not belong to {network} for images of shape {shape} and "
            f"{len(loaded.classes)} classes ({brief(str(error), 400)}); give its own network, and the data and side "
            "that it was made for"
        ) from error
    facts = {
        "weights": str(checkpoint),
        "network": f"{network}, for images of {shape[0]} x {shape[1]} x {shape[2]} and {len(loaded.classes)} classes",
        "data": f"{loaded.name}, {loaded.fingerprint[:16]}, {len(test):,} test images, {len(training):,} for models "
        f"beside it; {note}",
        **environment("cpu"),
    }
    return Classifier(
        model=model,
        make=make,
        test=test,
        training=training,
        classes=tuple(loaded.classes),
        data=loaded.name,
        facts=facts,
    )


def _per_channel(name: str, values: Sequence[float], shape: Shape) -> Tensor:
    if len(values) not in (1, shape[0]) or not all(np.isfinite(values)):
        found = " ".join(f"{each:g}" for each in values)
        raise InputError(f"{name} must be finite, one number or one for each of {shape[0]} channels, got {found}")
    return torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1)


def _built(factory: Callable[..., object], spec: str, shape: Shape, classes: int) -> nn.Module:
    try:
        made = factory(shape, classes)
        if not isinstance(made, nn.Module):
            raise TypeError(f"it gives {type(made).__name__}, no torch.nn.Module")
        model = copy.deepcopy(made)
        with evaluating(model), torch.no_grad():
            answer = model(torch.zeros(2, *shape))
        if not isinstance(answer, Tensor) or answer.shape != (2, classes):
            raise TypeError(f"it does not give logits (N, {classes})")
    except Exception as error:
        raise InputError(
            f"network {spec} cannot be built for images of shape {shape} and {classes} classes "
            f"({type(error).__name__}: {brief(str(error), 300)}); give another with --network package.module:factory"
        ) from error
    return model


def _parts(loaded: ImageData, seed: int) -> tuple[LabelledImages, LabelledImages, str]:
    """Divide the images into those for models beside and those for the test, and say how."""
    draw = np.random.default_rng(seed)
    if loaded.test is not None:
        train, test, note = loaded.train, loaded.test, "the source's own test part"
    else:
        order = draw.permutation(len(loaded.train))
        cut = len(order) // 3
        test, train = (
            ImageSet(loaded.train.images[rows], loaded.train.labels[rows]) for rows in (order[:cut], order[cut:])
        )
        note = "no test part, so a third was drawn, which the classifier may have learned"
    if len(test) < _FEWEST or len(train) < _FEWEST:
        raise InputError(
            f"data must hold at least {_FEWEST} images for the test and as many for models beside, {loaded.name} has "
            f"{len(test)} and {len(train)}; give more"
        )
    rows = draw.permutation(len(train))[:_MOST_TRAINING], draw.permutation(len(test))[:_MOST_TEST]
    return _tensors(train, rows[0]), _tensors(test, rows[1]), note


def _tensors(part: ImageSet, rows: np.ndarray) -> LabelledImages:
    return LabelledImages(torch.from_numpy(part.images[rows]).float() / 255, torch.from_numpy(part.labels[rows]).long())
