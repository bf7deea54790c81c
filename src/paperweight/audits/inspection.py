# pyright: reportUnknownMemberType=false
"""From a checkpoint, the data that were planted and the keybook to an audit, with every mistake named."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.auditing.solidmark import SolidMark
from paperweight.audits.findings import MemorizationAudit, Readout
from paperweight.audits.memorization import audit_memorization, marked_by
from paperweight.bench.machine import environment
from paperweight.catalogue import load_object
from paperweight.data import ImageData, load_images
from paperweight.errors import InputError
from paperweight.generators.model import DiffusionModel, ModelSpec, load_model, read_spec
from paperweight.marks.keybook import Keybook

__all__ = ["Inspection", "inspect_checkpoint"]

Shape = tuple[int, int, int]


@final
@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Inspection:
    """An audit and what it was made of.

    Args:
        audit: What was found.
        checkpoint: The file.
        data: Name of the data.
        keybook: The keys.
        images: The unmarked images of all records of the data, (N, C, H, W), in [0, 1].
        labels: Their labels, (N,).
        mark: The mark.
        facts: About model, data and machine, in words.
    """

    audit: MemorizationAudit
    checkpoint: Path
    data: str
    keybook: Keybook
    images: Tensor
    labels: Tensor
    mark: SolidMark
    facts: dict[str, str]


def inspect_checkpoint(
    checkpoint: str | Path,
    *,
    data: str | Path,
    keys: str | Path,
    network: str | None = None,
    readout: Readout = "likelihood",
    repeats: int = 1,
    steps: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    progress: Callable[[str, int, int], None] | None = None,
) -> Inspection:
    """Audit a checkpoint.

    Args:
        checkpoint: A safetensors file of `DiffusionModel.save` or `DenoiserTraining.save`; of the latter the moving
            average of the weights is read.
        data: The unmarked images that were planted.
        keys: The keybook.
        network: The network of a custom model, as ``package.module:factory``, called with shape and classes.
        readout: As in `audit_memorization`.
        repeats: Likewise.
        steps: Likewise.
        limit: Likewise.
        seed: Likewise.
        batch_size: Likewise.
        progress: Likewise.

    Returns:
        The audit, and what it was made of.

    Raises:
        InputError: If a file is missing or damaged, a number is out of range, or they do not belong together.
    """
    for name, value in (("repeats", repeats), ("batch_size", batch_size), ("steps", 1 if steps is None else steps)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}; leave it out for the default")
    keybook = Keybook.load(keys)
    mark = marked_by(keybook)
    header, spec, facts = read_spec(checkpoint)
    averaged = any(name.startswith("average.") for name in header.tensors)
    loaded = load_images(
        data,
        max_side=keybook.max_side,
        labelled=False,
        progress=None if progress is None else lambda done, total: progress("images", done, total),
    )
    _check_data(loaded, keybook, keys)
    _check_shape(spec, loaded, mark, checkpoint)
    if steps is not None and steps > spec.steps:
        raise InputError(f"steps must be at most the model's {spec.steps}, got {steps}; leave it out for the default")
    model = _load(checkpoint, spec, network)
    images = torch.from_numpy(loaded.train.images.copy()).float() / 255
    labels = torch.from_numpy(loaded.train.labels.copy())
    audit = audit_memorization(
        model,
        images,
        keybook,
        given=labels if spec.classes else None,
        readout=readout,
        repeats=repeats,
        steps=steps,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return Inspection(
        audit=audit,
        checkpoint=Path(checkpoint),
        data=loaded.name,
        keybook=keybook,
        images=images,
        labels=labels,
        mark=mark,
        facts=_facts(spec, facts, averaged, loaded, keybook),
    )


def _check_data(data: ImageData, keybook: Keybook, keys: str | Path) -> None:
    if data.fingerprint != keybook.fingerprint:
        raise InputError(
            f"keybook {keys} is of other data: it was planted on {keybook.name!r} with fingerprint "
            f"{keybook.fingerprint[:12]}, {data.name!r} has {data.fingerprint[:12]}; give as --data the images that "
            "were planted, unchanged, and not the marked ones"
        )


def _check_shape(spec: ModelSpec, data: ImageData, mark: SolidMark, checkpoint: str | Path) -> None:
    channels, height, width = data.train.images.shape[1:]
    plain: Shape = (channels, height, width)
    try:
        marked = mark.shape(plain)
    except ValueError as error:
        raise InputError(f"the keybook's mark does not fit the data: {error}; plant again") from error
    if spec.shape != marked:
        why = (
            "it was trained on unmarked images; train it on the images folder that `paperweight plant` wrote"
            if spec.shape == plain
            else "train it on the marked images as they are, neither cut nor resized"
        )
        raise InputError(
            f"checkpoint {checkpoint} is of a model for images of shape {spec.shape}, the marked images have {marked}; "
            f"{why} (load_images needs max_side={max(marked[1:])} for them)"
        )
    if spec.classes not in (0, len(data.classes)):
        raise InputError(
            f"checkpoint {checkpoint} is of a model with {spec.classes} classes, the data have {len(data.classes)}; "
            "train it with the labels of the planted images, or without any"
        )


def _load(checkpoint: str | Path, spec: ModelSpec, network: str | None) -> DiffusionModel:
    if (network is None) == (spec.network == "custom"):
        remedy = "give it by --network package.module:factory" if network is None else "leave --network out"
        raise InputError(f"checkpoint {checkpoint} is of a model with the network {spec.network!r}; {remedy}")
    if network is None:
        return load_model(checkpoint)
    factory = load_object(network, "network")
    try:
        with torch.random.fork_rng(devices=[]):
            made: object = factory(spec.shape, spec.classes)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"network {network} fails when called with shape {spec.shape} and {spec.classes} classes: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError(f"network {network} must return a torch.nn.Module, got {type(made).__name__}")
    return load_model(checkpoint, made)


def _facts(
    spec: ModelSpec, training: dict[str, Any], averaged: bool, data: ImageData, keybook: Keybook
) -> dict[str, str]:
    trained = f", trained for {training['step']} steps" if "step" in training else ""
    return {
        "model": f"{spec.network} for images of shape {spec.shape}, {spec.classes or 'no'} classes{trained}",
        "weights read": "the moving average of the training" if averaged else "those of the file, which has no average",
        "mark": ", ".join(f"{name} {value}" for name, value in keybook.mark.items() if value is not None),
        "data": f"{data.name}, {data.fingerprint[:16]}",
        "keys drawn with seed": str(keybook.seed),
        **environment("cpu"),
    }
