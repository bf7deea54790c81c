"""DIAL, domain invariant adversarial learning: features from which attacked and natural images cannot be told apart.

Natural images are one domain and their attacked versions another. Beside the classifier a small head learns to tell the
domains apart by the features, and its gradient reaches the features with the opposite sign, so that they learn to hide
the domain. The rest is adversarial training, by cross-entropy or by a divergence as in TRADES. Give `dial_loss` to
`paperweight.loops.fit_robust`, and have its ``on_step`` raise the reversal by `reversal_ramp`.
Cost: beside that of adversarial training two passes of features through two small layers.

Source:
    M. Levi, I. Attias, A. Kontorovich, "Domain Invariant Adversarial Learning", Transactions on Machine Learning
    Research, 2022, https://arxiv.org/abs/2104.00322, and its code, https://github.com/matanle51/DIAL: the loss with
    cross-entropy (DIAL_CE) and with the divergence (DIAL_KL), the domain head, and the ramp.

Deviations:
    - The attack is not part of the loss. The authors' attack begins at the image with noise of 0.001, and for the
      divergence raises that; see `paperweight.loops.own_predictions`.
    - The authors' ramp begins with their first epoch, numbered 1, and so ends a little above; here it begins at 0.
    - At a domain ratio of 0 the domain head is not called. ``together`` is ours.
    - Perturbed weights (DIAL with AWP) are left out.
"""

import math
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["DomainInvariantNetwork", "GradientReversal", "dial_loss", "reversal_ramp"]

PAPER = Paper(
    title="Domain Invariant Adversarial Learning",
    authors=("Matan Levi", "Idan Attias", "Aryeh Kontorovich"),
    year=2021,
    url="https://arxiv.org/abs/2104.00322",
    provides={
        "DomainInvariantNetwork": "network",
        "GradientReversal": "layer",
        "dial_loss": "loss",
        "reversal_ramp": "function",
    },
    null={"domain_ratio": 0.0},
    claim="It is more accurate than adversarial training and TRADES, with attacks and without.",
)


class _Reversal(torch.autograd.Function):
    """The identity, with a gradient of -ratio times the one that comes."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, ratio: float) -> Tensor:
        ctx.ratio = ratio
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.ratio * gradients[0], None


def reversal_ramp(progress: float, largest: float = 1.0, speed: float = 10.0) -> float:
    """Give the ratio of the reversal at a share of the training: largest (2 / (1 + exp(-speed p)) - 1).

    Args:
        progress: Share p of the training that is done, at least 0.
        largest: What it tends to, at least 0; the paper has 1.
        speed: How soon, above 0; the paper has 10.

    Returns:
        The ratio, 0 at first.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> [round(reversal_ramp(p), 4) for p in (0.0, 0.1, 1.0)]
        [0.0, 0.4621, 0.9999]
    """
    _check_number("progress", progress)
    _check_number("largest", largest)
    if isinstance(speed, bool) or not 0 < speed < math.inf:
        raise ValueError(f"speed must be above 0 and finite, got {speed}")
    return largest * math.tanh(speed * progress / 2)


@final
class GradientReversal(nn.Module):
    """Gives its input, and to its input -ratio times the gradient.

    Args:
        ratio: Factor of the gradient, at least 0; at 0 none passes. It may be changed between steps.

    Raises:
        ValueError: If the ratio is outside its range.

    Example:
        >>> features = torch.ones(2, requires_grad=True)
        >>> GradientReversal(ratio=0.5)(features).sum().backward()
        >>> features.grad
        tensor([-0.5000, -0.5000])
    """

    def __init__(self, ratio: float = 1.0) -> None:
        super().__init__()
        _check_number("ratio", ratio)
        self.ratio = ratio

    def forward(self, features: Tensor) -> Tensor:
        """Give the features.

        Args:
            features: A tensor of any shape.

        Returns:
            The same values.
        """
        return _Reversal.apply(features, self.ratio)  # pyright: ignore[reportReturnType]


@final
class DomainInvariantNetwork(nn.Module):
    """A classifier of features with a second head, behind a reversal, that tells natural from attacked.

    Called as it is, it gives the logits of the classes, in train mode, too; the domain head takes part in `domains`
    alone. Its batch normalization needs two images at least in train mode.

    Args:
        features: Maps images to features, (N, head.in_features).
        head: Maps features to logits.
        hidden: Units of the hidden layer of the domain head, at least 1; the authors have 100.

    Raises:
        ValueError: If ``hidden`` is not as above, or ``head`` no linear layer.

    Attributes:
        domain: The domain head: a linear layer, batch normalization, ReLU, a linear layer of 2 outputs.
        reversal: The `GradientReversal` before it, of ratio 1.

    Example:
        >>> network = DomainInvariantNetwork(nn.Flatten(), nn.Linear(4, 3))
        >>> images = torch.zeros(2, 1, 2, 2)
        >>> network(images).shape, network.domains(network.features(images)).shape
        (torch.Size([2, 3]), torch.Size([2, 2]))
    """

    def __init__(self, features: nn.Module, head: nn.Linear, hidden: int = 100) -> None:
        super().__init__()
        if not isinstance(head, nn.Linear):
            raise ValueError(f"head must be a torch.nn.Linear, got {type(head).__name__}")
        if isinstance(hidden, bool) or not isinstance(hidden, int) or hidden < 1:
            raise ValueError(f"hidden must be a whole number of at least 1, got {hidden}")
        self.features = features
        self.head = head
        self.hidden = hidden
        self.reversal = GradientReversal()
        self.domain = nn.Sequential(
            nn.Linear(head.in_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 2)
        ).to(head.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of the classes.

        Args:
            images: Images, (N, ...).

        Returns:
            Logits, (N, classes).
        """
        return self.head(self.features(images))

    def domains(self, features: Tensor) -> Tensor:
        """Compute the logits of natural and attacked, (N, 2), from features (N, ...) behind the reversal."""
        return self.domain(self.reversal(features))


def dial_loss(
    model: DomainInvariantNetwork,
    images: Tensor,
    attacked: Tensor,
    labels: Tensor,
    *,
    lam: float = 6.0,
    domain_ratio: float = 0.1,
    divergence: bool = False,
    together: bool = False,
) -> Tensor:
    """Give the cross-entropy on the images, plus ``lam`` times that on the attacked ones, plus that of the domains.

    With ``divergence`` the second is KL(p(images) || p(attacked)), as in TRADES, to which the loss is equal at
    ``domain_ratio=0``. All are means over the batch. Images and attacked images pass one after the other.

    Args:
        model: The network.
        images: Images (N, ...).
        attacked: What the attack made of them.
        labels: Class numbers, int64, (N,).
        lam: Weight of the second, at least 0; the authors have 6 for MNIST, and 8 with the divergence for CIFAR-10.
        domain_ratio: Weight of the third, at least 0: the cross-entropy of the domain head on natural images, of class
            0, plus that on attacked ones, of class 1; the authors have 0.1 for MNIST and 6 for CIFAR-10.
        divergence: Whether the second compares the predictions with those on the images, not with the labels.
        together: Whether natural and attacked features pass the domain head as one batch. The authors pass one after
            the other; in train mode its batch normalization then takes away by how much their means differ.

    Returns:
        A scalar.

    Raises:
        ValueError: If a weight is outside its range.

    Example:
        >>> network, images = DomainInvariantNetwork(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(2, 1, 2, 2)
        >>> _ = [nn.init.zeros_(weight) for weight in network.parameters()]
        >>> round(dial_loss(network, images, images, torch.tensor([0, 1]), lam=2.0, domain_ratio=0.5).item(), 4)
        2.7726
    """
    _check_number("lam", lam)
    _check_number("domain_ratio", domain_ratio)
    natural, unnatural = model.features(images), model.features(attacked)
    logits, changed = model.head(natural), model.head(unnatural)
    if divergence:
        robust = F.kl_div(changed.log_softmax(dim=1), logits.log_softmax(dim=1), reduction="batchmean", log_target=True)
    else:
        robust = F.cross_entropy(changed, labels)
    loss = F.cross_entropy(logits, labels) + lam * robust
    if domain_ratio == 0:
        return loss
    if together:
        first, second = model.domains(torch.cat([natural, unnatural])).split(len(images))
    else:
        first, second = model.domains(natural), model.domains(unnatural)
    return loss + domain_ratio * domain_loss(first, second)


def domain_loss(natural: Tensor, attacked: Tensor) -> Tensor:
    """Give CE(d(x), 0) + CE(d(x'), 1), of logits (N, 2) of natural and of attacked images."""
    return -(natural.log_softmax(dim=1)[:, 0].mean() + attacked.log_softmax(dim=1)[:, 1].mean())


def _check_number(name: str, value: float) -> None:
    if isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value}")
