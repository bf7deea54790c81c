"""Noise as targets (NAT): features without labels, trained to match fixed random vectors, one for each image.

As many vectors as there are images are drawn on the unit sphere and stay as they are. The network is trained to map
each image to its own, by the squared distance, and which vector is whose is chosen with it: now and then the vectors of
a batch change hands among its images so that the distances become least. One vector an image keeps features apart, as
spread out as the vectors are.
Cost: in a pass that reassigns an optimal assignment for each batch, O(b^3) for b images, on the CPU; the vectors are
held, N times d numbers.

Source:
    P. Bojanowski, A. Joulin, "Unsupervised Learning by Predicting Noise", ICML, 2017,
    https://arxiv.org/abs/1704.05310. Implemented: the objective, targets on the unit sphere, and the stochastic
    reassignment within batches. Written from the paper alone: its code, under a restrictive licence, was not read.

Deviations:
    - The paper's full text was not at hand: that vectors are reassigned every third pass, in the first one too, and
      batches of 256 are as this project remembers the paper.
    - Batches of a pass are of nearly equal size, so that none is of one image where there are more.
    - Images are not turned into image gradients, as the paper does; ``inputs`` and ``view`` can be anything.
    - A batch whose features are not finite keeps its vectors, so that a divergence shows in the loss.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any, final

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["NoiseAsTargets", "assign_targets", "nat_loss", "noise_targets"]

PAPER = Paper(
    title="Unsupervised Learning by Predicting Noise",
    authors=("Piotr Bojanowski", "Armand Joulin"),
    year=2017,
    url="https://arxiv.org/abs/1704.05310",
    provides={
        "NoiseAsTargets": "training-procedure",
        "assign_targets": "function",
        "nat_loss": "function",
        "noise_targets": "function",
    },
    null={"reassign_every": 0},
    claim="Features trained without labels to match noise are on a par with those of other unsupervised methods.",
)


def noise_targets(count: int, dim: int, *, generator: torch.Generator) -> Tensor:
    """Draw vectors uniformly from the unit sphere.

    Args:
        count: Number of vectors, at least 1.
        dim: Their length as lists of numbers, at least 2.
        generator: Source of the vectors.

    Returns:
        The vectors, (count, dim), each of norm 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> noise_targets(5, 3, generator=torch.Generator().manual_seed(0)).norm(dim=1).allclose(torch.ones(5))
        True
    """
    _check_whole("count", count, 1)
    _check_whole("dim", dim, 2)
    return F.normalize(torch.randn(count, dim, generator=generator, device=generator.device))


def nat_loss(features: Tensor, targets: Tensor) -> Tensor:
    """Compute half the mean squared distance of features, normalised, to their targets (equation 2 of the paper).

    Args:
        features: What the network gives, of any norm, (N, d).
        targets: The targets in the same order, of norm 1, (N, d).

    Returns:
        The loss, a scalar from 0 to 2.

    Raises:
        ValueError: If shapes differ or are not (N, d), or there is nothing.

    Example:
        >>> nat_loss(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        tensor(1.)
    """
    _check_pair(features, targets)
    return (F.normalize(features) - targets).square().sum(dim=1).mean() / 2


def assign_targets(features: Tensor, targets: Tensor) -> Tensor:
    """Give each feature one of the targets, none twice, so that `nat_loss` is least.

    Args:
        features: What the network gives, of any norm, finite, (N, d).
        targets: The targets, finite, (N, d).

    Returns:
        For each feature the number of its target, a permutation of 0 to N - 1, int64, (N,).

    Raises:
        ValueError: If shapes differ or are not (N, d), there is nothing, or something is not finite.

    Example:
        >>> assign_targets(torch.tensor([[1.0, 0.0], [0.9, 0.1]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist()
        [1, 0]
    """
    _check_pair(features, targets)
    if not (features.isfinite().all() and targets.isfinite().all()):
        raise ValueError("features and targets must be finite, got one that is not; was the learning rate too high?")
    products = F.normalize(features.detach().double()) @ targets.detach().double().T
    return torch.from_numpy(linear_sum_assignment(products.cpu().numpy(), maximize=True)[1]).to(features.device)


@final
class NoiseAsTargets:
    """Trains a network pass by pass to match fixed vectors, which now and then change hands within batches.

    With ``reassign_every=0`` each input keeps the vector that it began with: plain regression on noise. The squared
    distance is taken of normalised features; give the network a linear last layer, whose features can point anywhere,
    and use for a task what goes into that layer. Step a learning-rate schedule between passes.

    Args:
        model: Maps inputs to features, (N, d); trained in place.
        optimizer: Holds its parameters; steps without a closure.
        inputs: Inputs, (N, ...), N at least 1, on the model's device.
        targets: One vector an input, (N, d), as `noise_targets` draws them.
        reassign_every: Vectors change hands in the first pass of this many, at least 0; 0 for never.
        batch_size: Largest number of inputs a batch, at least 1: vectors change hands among so many.
        view: Maps a batch and the generator to what the model sees of it, such as a random crop; nothing by default.
        generator: Source of the shuffles and views.

    Raises:
        ValueError: If an argument is outside its range.

    Attributes:
        epoch: Number of passes taken.
        assignment: The number of each input's vector, always a permutation, int64, (N,).

    Example:
        >>> draw, inputs = torch.Generator().manual_seed(0), torch.eye(6)
        >>> model = nn.Linear(6, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        >>> training = NoiseAsTargets(model, optimizer, inputs, noise_targets(6, 2, generator=draw), generator=draw)
        >>> losses = [training.step() for _ in range(20)]
        >>> len(losses), sorted(training.assignment.tolist())
        (20, [0, 1, 2, 3, 4, 5])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        targets: Tensor,
        reassign_every: int = 3,
        batch_size: int = 256,
        view: Callable[[Tensor, torch.Generator], Tensor] | None = None,
        *,
        generator: torch.Generator,
    ) -> None:
        _check_whole("reassign_every", reassign_every, 0)
        _check_whole("batch_size", batch_size, 1)
        if not len(inputs):
            raise ValueError(f"inputs must hold at least one input, got shape {tuple(inputs.shape)}")
        if targets.ndim != 2 or len(targets) != len(inputs) or not targets.isfinite().all():
            raise ValueError(
                f"targets must be finite, of shape ({len(inputs)}, d), one an input, got {tuple(targets.shape)}; draw "
                f"them with noise_targets({len(inputs)}, d, generator=generator)"
            )
        self.model = model
        self.optimizer = optimizer
        self.inputs = inputs
        self.targets = targets
        self.reassign_every = reassign_every
        self.batch_size = batch_size
        self.view = view
        self.generator = generator
        self.epoch = 0
        self.assignment = torch.arange(len(inputs), device=targets.device)

    def step(self) -> Tensor:
        """Train the model for one pass in train mode, and reassign the vectors of each batch if it is time.

        Returns:
            The mean of the losses of its batches, before each update, a scalar.

        Raises:
            ValueError: If the model's features do not have the shape of the targets.
        """
        self.model.train()
        reassigns = self.reassign_every > 0 and self.epoch % self.reassign_every == 0
        order = torch.randperm(len(self.inputs), generator=self.generator, device=self.generator.device)
        losses: list[Tensor] = []
        for index in order.to(self.inputs.device).tensor_split(-(-len(self.inputs) // self.batch_size)):
            batch = self.inputs[index]
            features = self.model(batch if self.view is None else self.view(batch, self.generator))
            if reassigns:
                self._reassign(index.to(self.targets.device), features.detach())
            own = self.assignment[index.to(self.targets.device)]
            loss = nat_loss(features, self.targets[own].to(features))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        self.epoch += 1
        return torch.stack(losses).mean()

    def _reassign(self, index: Tensor, features: Tensor) -> None:
        """Let the vectors of some inputs change hands among them, so that the loss on these is least."""
        if features.isfinite().all():
            held = self.assignment[index]
            self.assignment[index] = held[assign_targets(features, self.targets[held].to(features)).to(held.device)]

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, the generator's state among it."""
        return {
            "optimizer": deepcopy(self.optimizer.state_dict()),
            "epoch": self.epoch,
            "targets": self.targets.clone(),
            "assignment": self.assignment.clone(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave.

        Raises:
            ValueError: If it is of another number of inputs.
        """
        if state_dict["assignment"].shape != self.assignment.shape:
            raise ValueError(
                f"state_dict must be of {len(self.inputs)} inputs, as this training has, got one of "
                f"{len(state_dict['assignment'])}"
            )
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.epoch = state_dict["epoch"]
        self.targets = state_dict["targets"].to(self.targets)
        self.assignment = state_dict["assignment"].to(self.assignment).clone()
        self.generator.set_state(state_dict["generator"])


def _check_whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _check_pair(features: Tensor, targets: Tensor) -> None:
    if features.ndim != 2 or not features.numel() or features.shape != targets.shape:
        raise ValueError(
            f"features and targets must have one shape (N, d) without a 0, got {tuple(features.shape)} and "
            f"{tuple(targets.shape)}"
        )
