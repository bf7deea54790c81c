"""MSBReg: features without labels by three forces on embeddings: attraction, random dispersion, and even spread.

Embeddings of several views of an image are pulled to where a slowly following copy of the network puts the image. Alone
that may end with all images at one place. Two forces keep them apart: each image is kicked in a random direction of its
own, as a particle in Brownian motion is; and the singular values of a batch are pulled towards those of embeddings that
point everywhere alike.
Cost: the views also go through the following copy, without gradients, and each view's embeddings, (N, d), through a
singular value decomposition; the copy is held.

Source:
    S. Moon, D. Buracas, S. Park, J. Kim, J. Canny, "An Embedding-Dynamic Approach to Self-supervised Learning", WACV,
    2023, https://arxiv.org/abs/2207.03552. Implemented: the multiview centroid loss, the singular value loss, the
    Brownian diffusive loss, and training with a target that follows. No code of the authors was found.

Deviations:
    - The paper's full text was not at hand. Kicks are as its abstract and figures say; which distance from even
      singular values is meant is this project's reading, as is its weight.
    - Each view is pulled to the target's centroid, as the abstract has it. The distance between the centroids of both
      networks, of which a caption speaks, would be 0 for any network that is its own target, whatever it does to views.
    - The momentum of the target stays as it is; it may rise to 1 in the paper, as in BYOL.
    - A kick is 1 plus the cosine with the random direction, so that it is 1 on average.
"""

import copy
import math
from collections.abc import Callable
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["MSBReg", "brownian_loss", "centroid_loss", "singular_value_loss"]

PAPER = Paper(
    title="An Embedding-Dynamic Approach to Self-supervised Learning",
    authors=("Suhong Moon", "Domas Buracas", "Seunghyun Park", "Jinkyu Kim", "John Canny"),
    year=2023,
    url="https://arxiv.org/abs/2207.03552",
    provides={
        "MSBReg": "training-procedure",
        "brownian_loss": "function",
        "centroid_loss": "function",
        "singular_value_loss": "function",
    },
    null={"singular": 0.0, "brownian": 0.0},
    claim="Even and random dispersion beside attraction give better features than attraction alone, and no collapse.",
)


def centroid_loss(online: Tensor, target: Tensor) -> Tensor:
    """Compute how far views are from the centroid where the target puts their image: 2 - 2 cos, the mean.

    The centroid is the mean of the target's embeddings of all views, each of length 1. No gradient flows to it.

    Args:
        online: Embeddings by the network that is trained, of any length, (views, N, d).
        target: The same by the one that follows, (views, N, d).

    Returns:
        The loss, a scalar from 0 to 4.

    Raises:
        ValueError: If shapes differ or are not (views, N, d) without a 0.

    Example:
        >>> views = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
        >>> centroid_loss(torch.ones_like(views), views).abs() < 1e-6
        tensor(True)
    """
    _check_codes("online", online)
    if target.shape != online.shape:
        raise ValueError(f"target must have the shape of online, {tuple(online.shape)}, got {tuple(target.shape)}")
    centroids = F.normalize(F.normalize(target.detach(), dim=-1).mean(dim=0), dim=-1)
    return (2 - 2 * (F.normalize(online, dim=-1) * centroids).sum(dim=-1)).mean()


def brownian_loss(codes: Tensor, *, generator: torch.Generator) -> Tensor:
    """Compute what kicks each image away from a random direction, the same for all of its views: 1 + cos, the mean.

    Over directions it is 1 on average, and its gradient 0: only chance moves an image.

    Args:
        codes: Embeddings, of any length, (views, N, d).
        generator: Source of one direction an image.

    Returns:
        The loss, a scalar from 0 to 2.

    Raises:
        ValueError: If the shape is not (views, N, d) without a 0.

    Example:
        >>> brownian_loss(torch.ones(2, 3, 4), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([])
    """
    _check_codes("codes", codes)
    drawn = torch.randn(codes.shape[1:], generator=generator, device=generator.device).to(codes)
    return (1 + (F.normalize(codes, dim=-1) * F.normalize(drawn, dim=-1)).sum(dim=-1)).mean()


def singular_value_loss(codes: Tensor) -> Tensor:
    """Compute how far the embeddings of a batch are from pointing everywhere alike: the sum of (s - d^-1/2)^2.

    The d singular values s are those of the matrix of embeddings of length 1, divided by the root of N; all are d^-1/2
    where the second moments of embeddings are the same in all directions, which takes N of at least d. Where all
    embeddings are the same, one is 1 and the others are 0.

    Args:
        codes: Embeddings, of any length, (views, N, d); the mean over views is returned.

    Returns:
        The loss, a scalar from 0 to below 2.

    Raises:
        ValueError: If the shape is not (views, N, d) without a 0.

    Example:
        >>> singular_value_loss(torch.eye(3)[None]).abs() < 1e-6, singular_value_loss(torch.ones(1, 3, 4)) > 0.9
        (tensor(True), tensor(True))
    """
    _check_codes("codes", codes)
    matrix = F.normalize(codes, dim=-1) / codes.shape[1] ** 0.5
    even = codes.shape[2] ** -0.5
    found = torch.linalg.svdvals(matrix.to(torch.promote_types(codes.dtype, torch.float32)))
    missing = codes.shape[2] - found.shape[1]  # singular values of 0 that fewer samples than dimensions leave
    return ((found - even).square().sum(dim=1).mean() + missing * even**2).to(codes.dtype)


@final
class MSBReg:
    """Trains a network without labels so that views of an image agree, while images spread.

    The network that is trained has a predictor on it; another one, the target, follows without: after each update its
    weights move to those of the network, ``target = momentum * target + (1 - momentum) * weight``. With ``singular``
    and ``brownian`` of 0 it is BYOL with centroids. Use for a task what goes into the projector, the last layers of
    ``model``, which are not needed then.

    Args:
        model: Maps views to embeddings, (N, d); trained in place.
        predictor: Maps embeddings to embeddings, (N, d); trained in place.
        optimizer: Holds the parameters of both; steps without a closure.
        view: Maps a batch and the generator to a random view of it, such as a crop.
        views: Number of views of each image, at least 1.
        singular: Weight of `singular_value_loss`, finite and at least 0.
        brownian: Weight of `brownian_loss`, finite and at least 0; about 0.1 in the paper.
        momentum: How much of the target stays at an update, in [0, 1]; 0.996 as in BYOL.
        generator: Source of views and kicks.

    Raises:
        ValueError: If an argument is outside its range.

    Attributes:
        target: The network that follows, without gradients.

    Example:
        >>> draw, inputs = torch.Generator().manual_seed(0), torch.eye(4)
        >>> model, predictor = nn.Linear(4, 2), nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD([*model.parameters(), *predictor.parameters()], lr=0.1)
        >>> def noisy(batch, generator):
        ...     return batch + 0.1 * torch.randn(batch.shape, generator=generator)
        >>> training = MSBReg(model, predictor, optimizer, noisy, views=2, generator=draw)
        >>> training.step(inputs).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: nn.Module,
        predictor: nn.Module,
        optimizer: torch.optim.Optimizer,
        view: Callable[[Tensor, torch.Generator], Tensor],
        views: int = 4,
        singular: float = 0.1,
        brownian: float = 0.1,
        momentum: float = 0.996,
        *,
        generator: torch.Generator,
    ) -> None:
        if not isinstance(views, int) or isinstance(views, bool) or views < 1:
            raise ValueError(f"views must be a whole number of at least 1, got {views!r}")
        for name, value in (("singular", singular), ("brownian", brownian)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {value!r}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must be in [0, 1], got {momentum!r}")
        self.model = model
        self.predictor = predictor
        self.optimizer = optimizer
        self.view = view
        self.views = views
        self.singular = singular
        self.brownian = brownian
        self.momentum = momentum
        self.generator = generator
        self.target = copy.deepcopy(model).requires_grad_(False)
        self.target.zero_grad()

    def step(self, inputs: Tensor) -> Tensor:
        """Update the network on a batch, in train mode, and let the target follow.

        Args:
            inputs: A batch, (N, ...).

        Returns:
            The loss before the update, a scalar.
        """
        for network in (self.model, self.predictor, self.target):
            network.train()
        seen = [self.view(inputs, self.generator) for _ in range(self.views)]
        codes = torch.stack([self.model(each) for each in seen])
        with torch.no_grad():
            followed = torch.stack([self.target(each) for each in seen])
        loss = centroid_loss(torch.stack([self.predictor(each) for each in codes]), followed)
        if self.singular:
            loss = loss + self.singular * singular_value_loss(codes)
        if self.brownian:
            loss = loss + self.brownian * brownian_loss(codes, generator=self.generator)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for follower, weight in zip(self.target.parameters(), self.model.parameters(), strict=True):
                follower.lerp_(weight, 1 - self.momentum)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the weights of the model, the predictor among it."""
        return {
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "predictor": {name: value.clone() for name, value in self.predictor.state_dict().items()},
            "target": {name: value.clone() for name, value in self.target.state_dict().items()},
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.predictor.load_state_dict(state_dict["predictor"])
        self.target.load_state_dict(state_dict["target"])
        self.generator.set_state(state_dict["generator"])


def _check_codes(name: str, codes: Tensor) -> None:
    if codes.ndim != 3 or not codes.numel() or not codes.is_floating_point():
        raise ValueError(
            f"{name} must be floating, of shape (views, N, d) without a 0, got {codes.dtype} {tuple(codes.shape)}"
        )
