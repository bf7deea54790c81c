"""Learning a person's images without labels, from the data to what the features are worth."""

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.manifold import TSNE
from torch import Tensor

from paperweight import __version__
from paperweight.data import ImageData, channel_statistics, load_images, normalise
from paperweight.data.naming import image_names
from paperweight.embedding.encoder import DIM, Encoder, encoded, new_network
from paperweight.embedding.judging import compared, duplicates, neighbours, picked, scored, small_pixels
from paperweight.embedding.learning import Learning, find_embedding
from paperweight.embedding.outcome import CEILING, LEARNED, PIXELS, UNTRAINED, Embedded, Judged
from paperweight.embedding.parts import TEST, TRAIN, VALIDATION, Parts, divided
from paperweight.errors import InputError
from paperweight.loops import Probed, effective_rank, knn_probe, linear_probe

__all__ = ["embed"]

_MOST_STEPS = 1_000_000
_SIDES = 8, 64
_PROBED, _MAPPED, _SHOWN, _NEAR = 10_000, 1_500, 8, 6

Tell = Callable[[str, int, int], None]


def embed(
    data: str | Path,
    method: str,
    *,
    network: str | None = None,
    steps: int = 1_000,
    batch_size: int = 128,
    side: int = 32,
    seed: int = 0,
    out: str | Path = "embedding.npz",
    progress: Tell | None = None,
) -> Embedded:
    """Train an encoder on images without their labels, and judge its features where there are labels.

    Beside the learned features stand those of the same network untrained, the pixels, and a network that learned with
    labels; a linear classifier and nearest neighbours on each are fitted to training images, chosen on validation
    images and judged on test images, of which the encoder has seen none.

    Args:
        data: Images, as ``paperweight weigh`` takes them; class folders are optional.
        method: The paper by whose method it learns.
        network: The person's network as ``package.module:factory``, called with the shape of an image and the number
            of features, 128; a small one where left out.
        steps: Updates, from 1 to a million.
        batch_size: Images an update, at least 2.
        side: Largest side of the images that are learned, in pixels, from 8 to 64; larger ones are resized.
        seed: What everything random is drawn with, from 0.
        out: Where the command writes, for the words of it.
        progress: Called with words and (done, total).

    Returns:
        What came of it.

    Raises:
        InputError: If an argument or the data cannot be used, or the training diverged.

    Example:
        >>> embed("digits", "noise_as_targets", steps=0)
        Traceback (most recent call last):
        ...
        paperweight.errors.InputError: steps must be a whole number from 1 to 1000000, got 0
    """
    for name, value, low, high in (
        ("steps", steps, 1, _MOST_STEPS),
        ("batch_size", batch_size, 2, 65_536),
        ("side", side, *_SIDES),
        ("seed", seed, 0, 2**62),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
    started, tell = time.monotonic(), progress or (lambda words, done, total: None)
    how = find_embedding(method)
    source = load_images(
        data, max_side=side, labelled=False, progress=lambda done, total: tell("reading images", done, total)
    )
    parts = divided(source, seed)
    train = parts.rows(TRAIN)
    mean, std = channel_statistics(_unit(parts.images[train]))
    std = std.clamp(min=1e-3)
    shape = (int(parts.images.shape[1]), int(parts.images.shape[2]), int(parts.images.shape[3]))
    if min(shape[1:]) < 4:
        raise InputError(f"{source.name} must have images of at least 4 x 4 pixels, got {shape[1]} x {shape[2]}")
    card = {
        "paperweight": __version__,
        "method": method,
        "words": how.words,
        "line": how.line,
        "data": source.name,
        "data_hash": source.fingerprint,
        "images": len(train),
        "shape": list(shape),
        "features": DIM,
        "network": network,
        "steps": steps,
        "batch_size": min(batch_size, len(train)),
        "seed": seed,
        "labels_used": False,
    }
    prepared = normalise(_unit(parts.images), mean, std)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        learning = Learning(
            new_network(network, shape, seed),
            prepared[torch.from_numpy(train)],
            DIM,
            steps,
            min(batch_size, len(train)),
            seed,
            tell,
        )
        learned, losses, card["steps"] = learning.by(method)
        features = encoded(learned, prepared)
        judged = _judged(learning, source, parts, prepared, features, card["steps"]) if len(source.classes) > 1 else {}
    rows = parts.rows(TEST) if judged else np.arange(len(parts.images))
    draw = np.random.default_rng(seed)
    shown = picked(parts.labels.tolist(), draw.permutation(rows).tolist(), _SHOWN)
    unique = torch.from_numpy(np.unique(parts.first))
    mapped = np.sort(draw.permutation(rows)[:_MAPPED])
    words = ["paperweight", "embed", "--data", str(data), "--method", method]
    words += [] if network is None else ["--network", network]
    words += [
        text
        for name, value, usual in (
            ("steps", steps, 1_000),
            ("batch-size", batch_size, 128),
            ("side", side, 32),
            ("seed", seed, 0),
        )
        if value != usual
        for text in (f"--{name}", str(value))
    ]
    tell("neighbours and map", 0, 1)
    placed = _map(features[torch.from_numpy(mapped)])
    alike = duplicates(prepared, features, parts.first)
    tell("neighbours and map", 1, 1)
    return Embedded(
        encoder=Encoder(learned.eval(), mean, std, shape, card),
        features=features.float().numpy(),
        images=parts.images,
        labels=parts.labels,
        classes=source.classes,
        names=image_names(data, labelled=False),
        parts=parts.of,
        judged=judged,
        rank=effective_rank(features),
        losses=losses,
        shown=shown,
        near=neighbours(features, torch.tensor(shown), unique, _NEAR),
        near_pixels=neighbours(prepared.flatten(1), torch.tensor(shown), unique, _NEAR),
        alike=alike,
        copies=int((parts.first != np.arange(len(parts.first))).sum()),
        map_rows=mapped,
        map=placed,
        notes=source.notes,
        seconds=time.monotonic() - started,
        command=shlex.join([*words, "--out", str(out)]),
    )


def _unit(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).float() / 255


def _judged(
    learning: Learning, source: ImageData, parts: Parts, prepared: Tensor, features: Tensor, steps: int
) -> dict[str, Judged]:
    """Fit probes to all kinds of features, and train the network with labels."""
    labels = torch.from_numpy(parts.labels)
    rows = {part: torch.from_numpy(parts.rows(part)) for part in (TRAIN, VALIDATION, TEST)}
    drawn = torch.randperm(len(rows[TRAIN]), generator=torch.Generator().manual_seed(learning.seed))
    fitted = rows[TRAIN][drawn[:_PROBED]]
    kinds = {
        LEARNED: ("the learned features", features),
        UNTRAINED: ("those of the same network untrained", encoded(learning.untrained(), prepared)),
        PIXELS: ("pixels", small_pixels(prepared)),
    }
    linear, nearest, best = dict[str, Probed](), dict[str, Probed](), dict[str, Probed]()
    for number, (name, (_, each)) in enumerate(kinds.items()):
        learning.tell("probing", number, len(kinds))
        given = [(each[index], labels[index]) for index in (fitted, rows[VALIDATION], rows[TEST])]
        linear[name] = linear_probe(given[0], given[1], given[2])
        most = [count for count in (1, 5, 20) if count <= len(fitted)]
        nearest[name] = knn_probe(given[0], given[1], given[2], neighbours=most)
        best[name] = max(linear[name], nearest[name], key=lambda probed: probed.validated)
    learning.tell("probing", len(kinds), len(kinds))
    model = learning.by_labels(torch.arange(len(rows[TRAIN])), labels[rows[TRAIN]], len(source.classes), steps)
    right = encoded(model, prepared[rows[TEST]]).argmax(dim=1) == labels[rows[TEST]]
    found = {
        name: Judged(
            words,
            linear=scored(linear[name].correct),
            nearest=scored(nearest[name].correct),
            best=scored(best[name].correct),
            ahead=None if name == LEARNED else compared(best[LEARNED].correct, best[name].correct),
            rank=effective_rank(each[rows[TEST]]),
        )
        for name, (words, each) in kinds.items()
    }
    ceiling = Judged(
        "the same network trained with labels",
        linear=scored(right),
        nearest=None,
        best=scored(right),
        ahead=compared(best[LEARNED].correct, right),
        rank=effective_rank(encoded(model[0], prepared[rows[TEST]])),
    )
    return found | {CEILING: ceiling}


def _map(features: Tensor) -> np.ndarray:
    """Return places in two dimensions, (N, 2), in which near features are near (t-SNE); one where all are the same."""
    count = len(features)
    if effective_rank(features) == 0:
        return np.zeros((count, 2))
    found = TSNE(init="pca", perplexity=min(30.0, (count - 1) / 3), random_state=0).fit_transform(features.numpy())
    return np.asarray(found, dtype=np.float64)
