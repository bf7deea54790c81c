"""Noisy Softmax: cross-entropy that lowers the logit of the right class by noise, the less the better it is learned.

Once the right class has a probability near 1, an example gives no gradient any more. Noise that takes from its logit
keeps it contributing; its size falls by itself as features turn towards the weights of their class.
Cost: two norms and a dot product an example, one normal number each, and none in eval mode.

Source:
    B. Chen, W. Deng, J. Du, "Noisy Softmax: Improving the Generalization Ability of DCNN via Postponing the Early
    Softmax Saturation", CVPR, 2017, https://arxiv.org/abs/1708.03769. Implemented: the annealed noise and the loss with
    it, equations 5 and 6. Left out: noise of a constant size, or of either sign, which the paper compares with.

Deviations:
    - No code of the authors was found. That a bias is in the logits but not in the noise, and that gradients flow
      through norms and angle, are readings of the equations.
    - The paper tells the strength by alpha^2; here it is alpha, as in its equations.
    - With ||W|| ||x|| - W x in place of ||W|| ||x|| (1 - cos), features of length 0 need no angle. Where rounding makes
      it negative, it is 0.
    - Where features have less precision than float32, the noise is computed in float32.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["NoisySoftmaxLoss"]

PAPER = Paper(
    title="Noisy Softmax: Improving the Generalization Ability of DCNN via Postponing the Early Softmax Saturation",
    authors=("Binghui Chen", "Weihong Deng", "Junping Du"),
    year=2017,
    url="https://arxiv.org/abs/1708.03769",
    provides={"NoisySoftmaxLoss": "loss"},
    null={"alpha": 0.0},
    claim="Annealed noise on the logit of the right class postpones saturation, and a network then errs less.",
)


def _gaps(features: Tensor, weights: Tensor) -> Tensor:
    """Compute ||W|| ||x|| (1 - cos(W, x)) for each row, (N,), at least 0: what anneals the noise in equation 5."""
    lengths = torch.linalg.vector_norm(weights, dim=1) * torch.linalg.vector_norm(features, dim=1)
    return (lengths - (weights * features).sum(dim=1)).clamp(min=0)


def _lowered(logits: Tensor, labels: Tensor, amounts: Tensor) -> Tensor:
    """Take an amount from the logit of each right class: f_y - n, the logits of equation 6."""
    return logits.scatter_add(1, labels[:, None], -amounts[:, None].to(logits.dtype))


@final
class NoisySoftmaxLoss(nn.Module):
    """Cross-entropy of a network's last layer, which learns the right class y from a logit that noise has lowered.

    That logit is f_y - alpha |xi| ||W_y|| ||x|| (1 - cos(W_y, x)) for features x, with a normal number xi for each
    example and call. The loss is called with features and holds the layer, whose parameters are thus its own, too: an
    optimizer should have them once. In eval mode, which `torch.nn.Module.eval` of this loss sets, and at ``alpha=0``,
    it is the cross-entropy of the layer's logits, bit for bit; noise makes it larger.

    The noise is also less where features are shorter. Where nothing normalises them, as in a network without batch
    normalization, training may shrink them to 0 and stay at chance; a smaller ``alpha`` then helps.

    Args:
        layer: The network's last layer, from features to logits, with or without a bias.
        alpha: Strength of the noise, at least 0; the paper gives its square: 0.1 for MNIST and CIFAR-10, which is the
            default, and values from 0.05 to 1 elsewhere.
        generator: Draws the noise, in float32.

    Raises:
        ValueError: If ``layer`` is no linear layer, or ``alpha`` is outside its range.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> _ = layer.weight.data.copy_(torch.eye(2))
        >>> loss = NoisySoftmaxLoss(layer, alpha=0.5, generator=torch.Generator().manual_seed(0))
        >>> aligned, across, labels = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]]), torch.tensor([0])
        >>> [round(loss(features, labels).item(), 3) for features in (aligned, across)]
        [0.049, 3.472]
        >>> _ = loss.eval()
        >>> [round(loss(features, labels).item(), 3) for features in (aligned, across)]
        [0.049, 3.049]
    """

    def __init__(self, layer: nn.Linear, alpha: float = 0.1**0.5, *, generator: torch.Generator) -> None:
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"layer must be a torch.nn.Linear, the last one of the network, got {type(layer).__name__}"
            )
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be finite and at least 0, got {alpha}")
        super().__init__()
        self.layer = layer
        self.alpha = alpha
        self.generator = generator

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss of a batch.

        Args:
            features: What the last layer gets, floating, (N, in_features).
            labels: Class numbers, int64, (N,).

        Returns:
            The mean over the batch, a scalar.

        Raises:
            ValueError: If a shape, or a label, is not as above.
        """
        classes, size = self.layer.out_features, self.layer.in_features
        if features.ndim != 2 or features.shape[1] != size or not len(features):
            raise ValueError(f"features must have shape (N, {size}) with N at least 1, got {tuple(features.shape)}")
        if labels.shape != features.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(
                f"labels must be int64 of shape ({len(features)},), as features are, "
                f"got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        low, high = torch.aminmax(labels)
        if low < 0 or high >= classes:
            raise ValueError(f"labels must be from 0 to {classes - 1}, got {int(low)} to {int(high)}")
        logits = self.layer(features)
        if self.training and self.alpha > 0:
            precise = torch.promote_types(features.dtype, torch.float32)
            gaps = _gaps(features.to(precise), self.layer.weight[labels].to(precise))
            logits = _lowered(logits, labels, self.alpha * self._noise(gaps) * gaps)
        return F.cross_entropy(logits, labels)

    def _noise(self, like: Tensor) -> Tensor:
        draw = self.generator
        return torch.randn(len(like), generator=draw, device=draw.device, dtype=torch.float32).abs().to(like)
