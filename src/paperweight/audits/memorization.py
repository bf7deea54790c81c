"""The audit of memorisation: a generator is asked for the keys that were painted on its training images.

Cost: one outpainting or some thousand evaluations of the network a record and repeat; the statistics take seconds.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paperweight.auditing.solidmark import SolidMark, recall_keys
from paperweight.audits.findings import MemorizationAudit, Readout
from paperweight.audits.judging import Facts, judge
from paperweight.audits.planting import record_ids
from paperweight.errors import InputError
from paperweight.generators.protocol import ConditionalDiffusion
from paperweight.marks.keybook import Keybook
from paperweight.texts import brief

__all__ = ["MemorizationAudit", "audit_memorization", "marked_by"]


def audit_memorization(
    model: ConditionalDiffusion,
    images: Tensor,
    keybook: Keybook,
    *,
    given: Tensor | Sequence[str] | None = None,
    readout: Readout = "likelihood",
    repeats: int = 1,
    steps: int | None = None,
    guidance: float = 1.0,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    permutations: int = 4999,
    progress: Callable[[str, int, int], None] | None = None,
) -> MemorizationAudit:
    """Ask a generator for the keys of its training images, and of held-out ones, and compare them with the true ones.

    Args:
        model: The generator, in eval mode; its estimates must not depend on the keybook.
        images: All unmarked images of the planted data, in [0, 1], in the data's order, (N, C, H, W).
        keybook: Their keys, as `plant` wrote them.
        given: Labels (N,) or captions that the model is asked with, or None.
        readout: ``likelihood``, which needs no sampling and finds most; ``replace``, the paper's outpainting, which
            misses memorised keys; ``resample``, the same with five passes a step.
        repeats: Estimates a record, at least 1.
        steps: Steps of outpainting; by default 250 or all that the model has; 100 in the authors' code for Stable
            Diffusion.
        guidance: Weight of classifier-free guidance while outpainting; 1 is none, 3 in the authors' code for Stable
            Diffusion. The likelihood is that of the condition alone.
        limit: Ask for so many records only, drawn at random, trained and held out in their shares.
        seed: What noise, ``limit`` and permutations are drawn with.
        batch_size: Images a call of the network.
        permutations: Deals of the keys for the total p, which is at least 1 / (1 + permutations).
        progress: Called with words, the number done and of all.

    Returns:
        The audit.

    Raises:
        InputError: If images, labels or records do not fit together, or a number is out of range.

    Example:
        >>> from paperweight.audits import plant
        >>> from paperweight.data import load_images
        >>> from paperweight.generators import ModelSpec
        >>> planted = plant("digits", getfixture("tmp_path") / "planted", thickness=1, records=20)
        >>> images = torch.from_numpy(load_images("digits").train.images / 255).float()
        >>> model = ModelSpec(shape=planted.shape, arguments={"width": 8}, steps=10).build().eval()
        >>> audit = audit_memorization(model, images, planted.keybook, readout="replace", permutations=99)
        >>> len(audit.records), audit.counts[0].delta, 0 < audit.total_p <= 1
        (20, 0.1, True)
    """
    if not 0 <= seed < 2**63 - 1:
        raise InputError(f"seed must be from 0 to 2**63 - 2, got {seed}")
    mark = marked_by(keybook)
    index = _indices(keybook, images, given)
    trained, held_out = _chosen(keybook, limit, seed)
    chosen = [index[record] for record in (*trained, *held_out)]
    asked = given[chosen] if isinstance(given, Tensor) else None if given is None else [given[i] for i in chosen]
    shown = images[chosen]
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        recalled = recall_keys(
            model,
            shown,
            mark,
            given=asked,
            readout=readout,
            repeats=repeats,
            steps=steps,
            guidance=guidance,
            batch_size=batch_size,
            generator=torch.Generator().manual_seed(seed),
            progress=None if progress is None else lambda done, total: progress("keys read", done, total),
        )
    except ValueError as error:
        raise InputError(f"the keys cannot be read: {error}") from error
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not torch.isfinite(recalled).all():
        raise InputError("the keys read are not finite; the model's weights are damaged or its training diverged")
    first = torch.tensor([keybook.keys[record][0] for record in (*trained, *held_out)])
    floor = _floor(model, shown, first, mark, batch_size)
    facts = Facts(readout, repeats, steps, seed, floor, wall, cpu, guidance)
    return judge(keybook, (trained, held_out), recalled.detach().cpu().double().numpy(), permutations, facts)


def marked_by(keybook: Keybook) -> SolidMark:
    """Make the mark of a keybook.

    Raises:
        InputError: If it describes none.
    """
    try:
        return SolidMark.from_dict(dict(keybook.mark))
    except (KeyError, TypeError, ValueError) as error:
        shown = brief(str(dict(keybook.mark)), 300)
        raise InputError(
            f"the keybook's mark {shown} is none ({brief(str(error), 300)}); restore the keybook or plant again"
        ) from error


def _indices(keybook: Keybook, images: Tensor, given: Tensor | Sequence[str] | None) -> dict[str, int]:
    index = {record: number for number, record in enumerate(record_ids(len(images)))}
    unknown = [record for record in keybook.keys if record not in index]
    if images.ndim != 4 or unknown:
        more = f", the keybook has record {unknown[0]!r}" if unknown else ""
        raise InputError(
            f"images must be (N, C, H, W), all of the data that were planted, got {tuple(images.shape)}{more}"
        )
    if given is not None and len(given) != len(images):
        raise InputError(f"given must be one label or caption an image, got {len(given)} for {len(images)} images")
    return index


def _chosen(keybook: Keybook, limit: int | None, seed: int) -> tuple[list[str], list[str]]:
    """Return the trained and the held-out records to ask for."""
    parts = [sorted(keybook.trained), sorted(keybook.held_out)]
    if limit is None or limit >= len(keybook.keys):
        return parts[0], parts[1]
    if limit < 2:
        raise InputError(f"limit must be at least 2, one trained and one held-out record, got {limit}")
    least = min(1, len(parts[1]))
    held_out = max(least, min(limit - 1, round(limit * len(parts[1]) / len(keybook.keys))))
    generator = np.random.default_rng(seed)
    first, second = (
        sorted(generator.permutation(part)[:count].tolist())
        for part, count in zip(parts, (limit - held_out, held_out), strict=True)
    )
    return first, second


def _floor(model: Any, images: Tensor, keys: Tensor, mark: SolidMark, batch_size: int) -> float | None:
    """Give the mean distance between a key and that read after encoding and decoding, for a model that can do so."""
    round_trip = getattr(model, "round_trip", None)
    if round_trip is None or getattr(model, "vae", True) is None:
        return None
    errors: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        with torch.no_grad():
            read = mark.read(round_trip(mark.insert(images[part], keys[part].to(images))))
        errors.append((read.cpu().float() - keys[part]).abs())
    return float(torch.cat(errors).mean())
