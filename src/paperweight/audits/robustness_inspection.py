# pyright: reportUnknownMemberType=false
"""From a classifier's weights, its network and images to an audit of robustness, with every mistake named."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from paperweight.audits.robustness import audit_robustness
from paperweight.audits.robustness_findings import RobustnessAudit
from paperweight.bench.machine import environment
from paperweight.catalogue import load_object
from paperweight.data import ImageData, ImageSet, LabelledImages, load_images
from paperweight.errors import InputError
from paperweight.generators.checkpoint import read_file
from paperweight.nets import evaluating
from paperweight.texts import brief

__all__ = ["RobustnessInspection", "inspect_robustness"]

_FEWEST = 20
_MOST_TEST = 2_000
_MOST_TRAINING = 8_000

Shape = tuple[int, int, int]


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RobustnessInspection:
    """An audit and what it was made of.

    Args:
        audit: What was found.
        checkpoint: The file.
        data: Name of the data.
        facts: About model, data and machine, in words.
    """

    audit: RobustnessAudit
    checkpoint: Path
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


def inspect_robustness(
    checkpoint: str | Path,
    *,
    data: str | Path,
    network: str = "paperweight.nets:LeNet",
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    side: int = 32,
    radius: float = 8 / 255,
    norm: Literal["inf", "2"] = "inf",
    limit: int = 200,
    steps: int = 40,
    queries: int = 500,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> RobustnessInspection:
    """Audit the weights of a classifier.

    Args:
        checkpoint: A safetensors file of the network's state.
        data: Labelled images, best with a test part that the classifier has not learned; otherwise a third is drawn.
        network: The network, as ``package.module:factory``, called with shape and number of classes.
        mean: What is subtracted from images in [0, 1], one number or one a channel.
        std: What they are then divided by, likewise, above 0.
        side: Largest side of the images that the classifier takes; larger ones are resized.
        radius: As in `audit_robustness`.
        norm: Likewise.
        limit: Likewise.
        steps: Likewise.
        queries: Likewise.
        seed: Likewise.
        progress: Likewise.

    Returns:
        The audit, and what it was made of.

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
    audit = audit_robustness(
        model,
        test,
        training,
        loaded.classes,
        make=make,
        radius=radius,
        norm=norm,
        limit=limit,
        steps=steps,
        queries=queries,
        seed=seed,
        progress=progress,
    )
    facts = {
        "weights": str(checkpoint),
        "network": f"{network}, for images of {shape[0]} x {shape[1]} x {shape[2]} and {len(loaded.classes)} classes",
        "data": f"{loaded.name}, {loaded.fingerprint[:16]}, {len(test):,} test images, {len(training):,} for models "
        f"beside it; {note}",
        **environment("cpu"),
    }
    return RobustnessInspection(audit=audit, checkpoint=Path(checkpoint), data=loaded.name, facts=facts)


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
