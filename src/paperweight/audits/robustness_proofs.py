# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""What is proved of a classifier: images that no change within a radius makes wrong, by bounds on all it can answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from paperweight.data import LabelledImages
from paperweight.errors import InputError
from paperweight.nets import evaluating
from paperweight.robustness.diffai import ball, propagate, verify

__all__ = ["Proofs", "prove"]

_MOST_ENTRIES = 1024  # of an image with an error for each
_ROWS = 2048  # of errors at a time


@final
@dataclass(frozen=True, slots=True, eq=False)
class Proofs:
    """Which images are proved to stay right.

    Args:
        by_radius: By radius, which images no change of that size makes wrong, bool, (N,); what is proved at a radius
            is so at each smaller one. Empty where nothing can be proved.
        words: By what bounds, or why there are none.
    """

    by_radius: Mapping[float, Tensor]
    words: str


def prove(model: nn.Module, data: LabelledImages, radii: Sequence[float]) -> Proofs:
    """Prove of images that they stay right, by interval bounds, and where these fail by zonotopes.

    A zonotope has an error for each entry of an image, which costs as many passes, so that images of more than 1,024
    entries have interval bounds alone, and so do networks that pass no error on, as those with max pooling. A change of
    a radius in norm 2 is one in norm infinity, too.

    Args:
        model: Maps images in [0, 1], (N, C, H, W), to logits (N, classes).
        data: The images and their labels.
        radii: Largest changes of an entry, above 0.

    Returns:
        What is proved; nothing, with the reason, where bounds cannot pass through the model.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.eye(2))
        >>> found = prove(model, LabelledImages(torch.tensor([[[[0.75, 0.25]]]]), torch.tensor([0])), [0.125, 0.25])
        >>> {radius: proved.tolist() for radius, proved in found.by_radius.items()}
        {0.125: [True], 0.25: [False]}
    """
    entries = data.images[0].numel()
    few_entries = entries <= _MOST_ENTRIES
    try:
        with evaluating(model), torch.no_grad():
            zonotopes = len(propagate(model, ball(data.images[:1], radii[0], shared=few_entries)).ids) > 0
    except InputError as error:
        return Proofs({}, str(error).partition(";")[0])
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return Proofs({}, "bounds cannot pass through this network")
    found: dict[float, Tensor] = {}
    left = torch.ones(len(data), dtype=torch.bool)
    for radius in sorted(radii):
        proved = verify(model, data.images, data.labels, radius)
        open_still = (left & ~proved).nonzero().flatten()
        if zonotopes and len(open_still):
            for few in open_still.split(max(1, _ROWS // entries)):
                proved[few] = verify(model, data.images[few], data.labels[few], radius, shared=True)
        found[radius] = left = proved
    largest = torch.zeros_like(left)
    for radius in sorted(found, reverse=True):
        largest = found[radius] = found[radius] | largest
    if zonotopes:
        return Proofs(found, f"interval bounds, and zonotopes with an error for each of {entries:,} entries")
    why = "the network passes no shared errors on" if few_entries else f"an image has {entries:,} entries"
    return Proofs(found, f"interval bounds alone, since {why}")
