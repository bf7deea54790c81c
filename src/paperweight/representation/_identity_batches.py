"""Batches that hold, of some identities, a few images with each auxiliary label, so that these can be compared.

Source:
    A. Ramakrishnan, M. Pham, J. Whitehill, "Harnessing Geometric Constraints from Emotion Labels to improve Face
    Verification", 2021, https://arxiv.org/abs/2103.03862, whose losses compare auxiliary labels within an identity.

Deviations:
    - How the authors draw batches is not known; these are ours.
"""

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor
from torch.utils.data import Sampler

from paperweight.representation._cells import check_numbers, check_whole

__all__ = ["IdentityAuxSampler"]


@final
class IdentityAuxSampler(Sampler[list[int]]):
    """Draws batches of identities times auxiliary labels times a few images, for a `torch.utils.data.DataLoader`.

    An epoch has each identity once, in random order, but for those that are left over after the last whole batch. Of
    each label that an identity has, images are drawn without replacement: fewer where there are fewer. Give it as
    ``batch_sampler``.

    Args:
        identity: Whose each image is, any whole numbers, int64, (N,), N at least 1.
        aux: Auxiliary label of each, int64, (N,); images with one below 0 are drawn as a label of their own.
        identities: Identities of a batch, from 2 to the number that there are.
        per_cell: Images of each identity with each label, at least 1.
        generator: Source of the draws, on the CPU; by default one of seed 0. Each epoch goes on with it.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> identity, aux = torch.arange(6).repeat_interleave(4), torch.arange(24) % 2
        >>> batches = list(IdentityAuxSampler(identity, aux, identities=3, per_cell=1))
        >>> len(batches), identity[batches[0]].unique().numel(), aux[batches[0]].tolist()
        (2, 3, [0, 1, 0, 1, 0, 1])
    """

    def __init__(
        self,
        identity: Tensor,
        aux: Tensor,
        *,
        identities: int = 8,
        per_cell: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        if identity.ndim != 1 or not len(identity):
            raise ValueError(f"identity must have shape (N,) with N at least 1, got {tuple(identity.shape)}")
        check_numbers("identity", identity, len(identity))
        check_numbers("aux", aux, len(identity))
        check_whole("identities", identities, 2)
        check_whole("per_cell", per_cell, 1)
        self.identity, self.aux, self.identities, self.per_cell = identity, aux, identities, per_cell
        self.generator = generator
        self._draw = torch.Generator().manual_seed(0) if generator is None else generator
        names, columns = identity.cpu().unique(), aux.cpu().clamp(min=-1)
        if identities > len(names):
            raise ValueError(f"identities must be at most {len(names)}, as many as there are, got {identities}")
        self._cells = [
            [torch.nonzero((identity.cpu() == name) & (columns == label)).flatten() for label in columns.unique()]
            for name in names
        ]

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self._cells) // self.identities

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the numbers of the images of each batch, by identity and then by label."""
        order = torch.randperm(len(self._cells), generator=self._draw).tolist()
        for start in range(0, len(self) * self.identities, self.identities):
            batch: list[int] = []
            for row in order[start : start + self.identities]:
                for members in self._cells[row]:
                    chosen = torch.randperm(len(members), generator=self._draw)[: self.per_cell]
                    batch.extend(members[chosen].tolist())
            yield batch
