"""Images of identities with an auxiliary label: drawn faces with expressions, and given images turned and changed."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from paperweight.data import load_images
from paperweight.errors import InputError
from paperweight.studies import Setting

__all__ = ["AUX_LABELS", "LabelledIdentities", "drawn_faces", "unseen_identities"]

AUX_LABELS = 4
_LEAST = 24
_WAVES = [(i, j) for i in range(-3, 4) for j in range(4) if 0 < i * i + j * j <= 9 and (j or i > 0)]


class LabelledIdentities(NamedTuple):
    """Images, (N, C, H, W), whose they are, (N,), and their auxiliary labels, (N,)."""

    images: Tensor
    identity: Tensor
    aux: Tensor

    def first(self, per_cell: int) -> "LabelledIdentities":
        """Keep so many images of each identity with each label, of which there are as many of each, in order."""
        count = len(self.images) // ((int(self.identity.max()) + 1) * AUX_LABELS)
        kept = torch.arange(len(self.images), device=self.images.device) % count < per_cell
        return LabelledIdentities(self.images[kept], self.identity[kept], self.aux[kept])


def unseen_identities(
    setting: Setting, identities: tuple[int, int, int], per_cell: tuple[int, int, int], side: int
) -> list[LabelledIdentities]:
    """Give parts for training, validation and tests that share no identity: drawn faces, or the images that are given.

    Of given images a class is an identity, and the auxiliary label says what is done to an image: nothing, a quarter
    turn, a half turn, or its grey levels inverted. Where the data have a test part, identities of tests are classes
    that the training part does not have; where there are fewer classes than asked for, parts shrink in proportion.

    Args:
        setting: The setting of the run.
        identities: How many each part has.
        per_cell: Images of each identity with each of the four labels, in each part.
        side: Largest height and width in pixels.

    Raises:
        InputError: If the data have too few classes, or classes with too few images.
    """
    draw = setting.generator("data")
    if setting.data is None:
        parts = [drawn_faces(n, k, side, draw) for n, k in zip(identities, per_cell, strict=True)]
    else:
        parts = _given(setting, identities, per_cell, side, draw)
    parts = [LabelledIdentities(*(tensor.to(setting.device) for tensor in part)) for part in parts]
    mean, deviation = parts[0].images.mean(), parts[0].images.std()
    return [part._replace(images=(part.images - mean) / deviation) for part in parts]


def _given(
    setting: Setting, identities: tuple[int, int, int], per_cell: tuple[int, int, int], side: int, draw: torch.Generator
) -> list[LabelledIdentities]:
    data = load_images(setting.data or "", max_side=side)
    setting.take_over(data.notes, {data.name: data.fingerprint})
    needed = AUX_LABELS * max(per_cell)
    images, labels = (torch.from_numpy(array.copy()) for array in (data.train.images, data.train.labels))
    known, new = _frequent(labels, needed), labels[:0]
    if data.test is not None:
        more, of = (torch.from_numpy(array.copy()) for array in (data.test.images, data.test.labels))
        new = _frequent(of[~torch.isin(of, labels)], needed)
        added = torch.isin(of, new)
        images, labels = torch.cat([images, more[added]]), torch.cat([labels, of[added]])
    if len(known) + len(new) < _LEAST:
        raise InputError(
            f"this study needs at least {_LEAST} classes, its identities, of at least {needed} images each, and "
            f"{data.name} has {len(known) + len(new)}; give more, or leave --data out"
        )
    known, new = (names[torch.randperm(len(names), generator=draw)] for names in (known, new))
    if not len(new):
        new = known[-max(2, len(known) * identities[2] // sum(identities)) :]
        known = known[: -len(new)]
    seen = max(2, min(identities[0], len(known) * identities[0] // sum(identities[:2])))
    parts: list[LabelledIdentities] = []
    for names, count in zip((known[:seen], known[seen:][: identities[1]], new[: identities[2]]), per_cell, strict=True):
        rows = torch.cat([_some(labels == name, AUX_LABELS * count, draw) for name in names])
        identity = torch.arange(len(names)).repeat_interleave(AUX_LABELS * count)
        aux = torch.arange(AUX_LABELS).repeat_interleave(count).repeat(len(names))
        parts.append(LabelledIdentities(_changed(images[rows].float() / 255, aux), identity, aux))
    return parts


def _frequent(labels: Tensor, least: int) -> Tensor:
    names, counts = labels.unique(return_counts=True)
    return names[counts >= least]


def _some(members: Tensor, count: int, draw: torch.Generator) -> Tensor:
    rows = members.nonzero().flatten()
    return rows[torch.randperm(len(rows), generator=draw)[:count]]


def _changed(images: Tensor, aux: Tensor) -> Tensor:
    """Do to square images, (N, C, H, W) in [0, 1], what their label says."""
    changed = torch.stack([images, images.rot90(1, (2, 3)), images.rot90(2, (2, 3)), 1 - images])
    return changed[aux, torch.arange(len(images))]


def drawn_faces(identities: int, per_cell: int, side: int, generator: torch.Generator) -> LabelledIdentities:
    """Draw faces: a head with eyes and a mouth, the same for all, plus a random sum of low waves, one an identity.

    An expression bends, stretches or twists the plane in the same way for every identity: none, bent, stretched,
    twisted. Images of one identity differ most in that; besides in place, in a small random bend of their own, in
    contrast, brightness and noise.

    Args:
        identities: How many.
        per_cell: Images of each identity with each of the four expressions.
        side: Height and width in pixels.
        generator: Decides what is drawn.
    """
    waves = torch.tensor(_WAVES, dtype=torch.float32)
    size = (identities, AUX_LABELS, per_cell)
    falling = 1 / waves.norm(dim=1)
    weights = torch.randn(identities, 2, len(waves), generator=generator) * falling
    draws = torch.randn(*size, 8, generator=generator)
    noise = torch.randn(*size, side, side, generator=generator)
    line = torch.linspace(-1, 1, side)
    v, u = torch.meshgrid(line, line, indexing="ij")
    moved = _expressions(u, v)[None, :, None]
    bends = torch.stack([(math.pi * v).sin(), (math.pi * u).sin()], dim=-1)
    place = moved + 0.05 * draws[..., None, None, :2] + 0.04 * draws[..., None, None, 2:4] * bends
    phase = math.pi * 0.6 * (place @ waves.T)
    own = weights[:, :, None, None, None, None]
    field = _common(place) + 0.3 * (own[:, 0] * phase.cos() + own[:, 1] * phase.sin()).sum(dim=-1)
    contrast = (0.2 * draws[..., 4]).exp()[..., None, None]
    images = (contrast * field).tanh() + 0.2 * draws[..., 5, None, None] + 0.3 * noise
    identity, aux, _ = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    return LabelledIdentities(images.reshape(-1, 1, side, side), identity.flatten(), aux.flatten())


def _common(place: Tensor) -> Tensor:
    """Give what all faces have: a bright head with two dark eyes and a dark mouth, (..., H, W)."""
    u, v = place.unbind(dim=-1)
    head = 4 * (0.8 - (u / 0.8).square() - v.square()).clamp(min=-0.5, max=0.3)
    eyes = (-((u.abs() - 0.35) / 0.16).square() - ((v + 0.25) / 0.14).square()).exp()
    mouth = (-(u / 0.4).square() - ((v - 0.4) / 0.12).square()).exp()
    return head - 2 * eyes - 2 * mouth


def _expressions(u: Tensor, v: Tensor) -> Tensor:
    """Give where each expression takes its points from, (4, H, W, 2)."""
    angle = 0.9 * (1 - u.square() - v.square()).clamp(min=0)
    return torch.stack(
        [
            torch.stack([u, v], dim=-1),
            torch.stack([u, v + 0.5 * u.square() - 0.2], dim=-1),
            torch.stack([0.7 * u, 1.3 * v], dim=-1),
            torch.stack([angle.cos() * u - angle.sin() * v, angle.sin() * u + angle.cos() * v], dim=-1),
        ]
    )
