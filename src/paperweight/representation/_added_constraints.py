"""The sum of a loss on identities and of weighted constraints from auxiliary labels.

Source:
    A. Ramakrishnan, M. Pham, J. Whitehill, "Harnessing Geometric Constraints from Emotion Labels to improve Face
    Verification", 2021, https://arxiv.org/abs/2103.03862: that two losses are added to a triplet loss or to ArcFace.

Deviations:
    - The weights are ours.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

__all__ = ["AuxiliaryGeometryLoss", "Parts"]


class Parts(NamedTuple):
    """The losses that are added, without their weights; 0 for one whose weight is 0."""

    metric: Tensor
    pdp: Tensor
    fbv: Tensor


@final
class AuxiliaryGeometryLoss(nn.Module):
    """A loss on identities plus weighted PDP and FBV, each of which is given and can be another.

    With ``pdp=0`` and ``fbv=0`` it is the loss on identities, bit for bit.

    Args:
        metric: Maps embeddings (N, d) and identities (N,) to a scalar, as `TripletLoss`, or a loss of another library.
        parallel: Maps embeddings, identities and auxiliary labels to a scalar, as `ParallelDifferenceLoss`.
        fixed: The same, as `FixedBasisLoss`.
        pdp: Weight of ``parallel``, at least 0.
        fbv: Weight of ``fixed``, at least 0.

    Raises:
        ValueError: If a loss cannot be called, or a weight is outside its range.

    Example:
        >>> from paperweight.representation import FixedBasisLoss, ParallelDifferenceLoss, TripletLoss
        >>> loss = AuxiliaryGeometryLoss(TripletLoss(), ParallelDifferenceLoss(), FixedBasisLoss(2, 2, basis="axes"))
        >>> z = torch.tensor([[0.0, 0.0], [0.3, 0.0], [0.0, 2.0], [0.3, 2.0]])
        >>> identity, aux = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
        >>> loss(z, identity, aux).item()
        0.0

        Labels that a detector is not sure of are left out:

        >>> sure = torch.tensor([0.9, 0.9, 0.9, 0.4])
        >>> loss(z, identity, aux.where(sure > 0.5, -1)).item()
        0.0
    """

    def __init__(
        self,
        metric: Callable[[Tensor, Tensor], Tensor],
        parallel: Callable[[Tensor, Tensor, Tensor], Tensor],
        fixed: Callable[[Tensor, Tensor, Tensor], Tensor],
        *,
        pdp: float = 1.0,
        fbv: float = 1.0,
    ) -> None:
        for name, given in (("metric", metric), ("parallel", parallel), ("fixed", fixed)):
            if not callable(given):
                raise ValueError(f"{name} must be a loss that can be called, got {given!r}")
        for name, weight in (("pdp", pdp), ("fbv", fbv)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {weight!r}")
        super().__init__()
        self.metric, self.parallel, self.fixed = metric, parallel, fixed
        self.pdp, self.fbv = pdp, fbv

    def parts(self, z: Tensor, identity: Tensor, aux: Tensor) -> Parts:
        """Compute what is added, without weights; takes what the call takes."""
        metric = self.metric(z, identity)
        pdp, fbv = (
            loss(z, identity, aux) if weight else torch.zeros_like(metric)
            for loss, weight in ((self.parallel, self.pdp), (self.fixed, self.fbv))
        )
        return Parts(metric, pdp, fbv)

    def forward(self, z: Tensor, identity: Tensor, aux: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            z: Embeddings, floating, (N, d).
            identity: Whose they are, int64, (N,).
            aux: Auxiliary labels, int64, (N,); those below 0 are not known, and left out.

        Returns:
            A scalar.

        Raises:
            ValueError: If a shape, a type or a label is not as above.
        """
        parts = self.parts(z, identity, aux)
        loss = parts.metric
        if self.pdp:
            loss = loss + self.pdp * parts.pdp
        if self.fbv:
            loss = loss + self.fbv * parts.fbv
        return loss
