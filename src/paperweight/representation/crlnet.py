"""CRLNet: few-shot classification by features of a support image and a query that depend on each other.

An image is represented anew for each image that it is compared with: cross-attention over both feature maps, and a map
of what correlates with the other image, go into a small network whose output is added to the backbone's features. Where
a query is hard to see, what the support shows may tell what to look for.
Cost: every pair of support and query passes the whole head, so that an episode costs ways x shots x queries passes
where embeddings of single images cost one an image; the backbone runs once an image.

Source:
    Q. Guo, J. Wu, T. Wu, H. Wang, W. Ge, W. Zhang, "Enhancing Environmental Robustness in Few-shot Learning via
    Conditional Representation Learning", IEEE Transactions on Image Processing, 2025,
    https://arxiv.org/abs/2502.01183. Implemented from the authors' code,
    https://github.com/guoqianyu-alberta/Conditional-Representation-Learning: cross-attention, correlation with its 3-D
    convolution, the network on each pixel, the self-attention encoder, and the loss on pairs.

Deviations:
    - The paper's equations were not at hand; its code was.
    - ``share`` is this project's: the paper's average of old and new features is ``share=0.5``.
    - The score of a class with several support images is the mean cosine. The authors fit a logistic regression on the
      support embeddings of each query instead; with one support image a class they take the cosine, too.
    - The backbone is the caller's, and frozen or not as the caller has it. The authors' is frozen, but for its batch
      normalization, which runs in training mode while the head is trained.
    - As in the authors' code the keys hold the support above the query in one tall map, whose positions tell which is
      which: even with tied projections a pair and its reverse are not the same to it.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.representation._joint_attention import (
    JointCrossAttention,
    PairOfTensors,
    PixelAttention,
    check_attention,
    positions,
    tokens,
)

__all__ = ["CRLNet", "JointCrossAttention", "PairOfTensors", "correlation", "episode_scores", "pair_loss"]

PAPER = Paper(
    title="Enhancing Environmental Robustness in Few-shot Learning via Conditional Representation Learning",
    authors=("Qianyu Guo", "Jingrong Wu", "Tianxing Wu", "Haofen Wang", "Weifeng Ge", "Wenqiang Zhang"),
    year=2025,
    url="https://arxiv.org/abs/2502.01183",
    provides={
        "CRLNet": "network",
        "JointCrossAttention": "layer",
        "correlation": "function",
        "episode_scores": "function",
        "pair_loss": "function",
    },
    null={"share": 0.0},
    claim="Features of support and query that depend on each other classify disturbed queries of new classes better.",
)


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Compute the inner product of each pixel's features in one map with each pixel's in the other.

    Args:
        first: Maps, (B, C, H, W).
        second: Maps to compare with, (B, C, X, Y).

    Returns:
        Inner products over channels, (B, H, W, X, Y).

    Raises:
        ValueError: If the maps have not four dimensions, or differ in number or channels.

    Example:
        >>> correlation(torch.ones(1, 3, 2, 2), torch.ones(1, 3, 1, 1)).flatten()
        tensor([3., 3., 3., 3.])
    """
    if first.ndim != 4 or second.ndim != 4 or first.shape[:2] != second.shape[:2]:
        raise ValueError(
            f"first and second must be maps (B, C, height, width) of one B and C, got {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    return torch.einsum("bchw,bcxy->bhwxy", first, second)


def pair_loss(support: Tensor, query: Tensor, same: Tensor) -> Tensor:
    """Compute the mean squared difference of the cosine of two embeddings from 1 for one class, from 0 for two.

    Args:
        support: Embeddings, (B, C), B at least 1.
        query: Embeddings, (B, C).
        same: Whether support and query are of one class, bool, (B,).

    Returns:
        The mean over pairs, a scalar.

    Raises:
        ValueError: If shapes do not fit, or ``same`` is not of bools.

    Example:
        >>> axes = torch.eye(2)
        >>> pair_loss(axes, axes, torch.tensor([True, False]))
        tensor(0.5000)
    """
    if support.ndim != 2 or not support.numel() or support.shape != query.shape:
        raise ValueError(
            f"support and query must have one shape (B, C) without a 0, got {tuple(support.shape)} and "
            f"{tuple(query.shape)}"
        )
    if same.dtype != torch.bool or same.shape != support.shape[:1]:
        raise ValueError(f"same must be bools of shape ({len(support)},), got {same.dtype} {tuple(same.shape)}")
    return F.mse_loss(F.cosine_similarity(support, query, eps=1e-6), same.to(support.dtype))


def episode_scores(model: nn.Module, support: Tensor, labels: Tensor, query: Tensor, batch_size: int = 256) -> Tensor:
    """Score each query against each class: the mean cosine with its support images, each pair embedded together.

    The model runs in evaluation mode, and is given back in the mode that it had.

    Args:
        model: Called with support and query maps (B, ...) and giving a pair of embeddings (B, C), such as `CRLNet`.
        support: What it takes of support images, (S, ...).
        labels: Their classes, whole numbers that are 0 to ways - 1, each at least once, (S,).
        query: What it takes of queries, (Q, ...), Q at least 1.
        batch_size: Pairs to embed at once, at least 1; the result does not depend on it.

    Returns:
        Scores from -1 to 1, (Q, ways), of which the highest is the prediction.

    Raises:
        ValueError: If shapes do not fit, a class is without support, or ``batch_size`` is below 1.

    Example:
        >>> class Alone(nn.Module):
        ...     def forward(self, support, query):
        ...         return PairOfTensors(support, query)
        >>> episode_scores(Alone(), torch.eye(2), torch.tensor([1, 0]), torch.tensor([[0.0, 3.0]]))
        tensor([[1., 0.]])
    """
    if not len(query) or not len(support) or support.shape[1:] != query.shape[1:]:
        raise ValueError(
            f"support and query must differ in their number only, at least 1 each, got {tuple(support.shape)} and "
            f"{tuple(query.shape)}"
        )
    whole = not labels.is_floating_point() and labels.dtype != torch.bool and labels.shape == support.shape[:1]
    if not whole or set(labels.tolist()) != set(range(int(labels.max()) + 1)):
        raise ValueError(
            f"labels must be whole numbers 0 to ways - 1, each at least once, of shape ({len(support)},), got {labels}"
        )
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    rows = torch.arange(len(query) * len(support), device=query.device)
    cosines: list[Tensor] = []
    with evaluating(model):
        for pairs in rows.split(batch_size):
            codes = model(support[pairs % len(support)], query[pairs // len(support)])
            cosines.append(F.cosine_similarity(*codes, eps=1e-6))
    members = F.one_hot(labels.long()).to(cosines[0])
    return torch.cat(cosines).view(len(query), len(support)) @ (members / members.sum(dim=0))


@final
class CRLNet(nn.Module):
    """The head on a backbone's feature maps: embeddings of a support image and a query that depend on each other.

    Args:
        channels: C of the maps, a multiple of 4 and of ``heads``; 640 in the paper, of ResNet-12.
        size: Height and width of the maps.
        heads: Heads of both attentions.
        ffn: Width of the networks after them.
        hidden: Width of the network on each pixel.
        dropout: As in `JointCrossAttention`, whose network alone has it.
        share: Share of the new features in an embedding, from 0 to 1; 0 leaves the backbone's, averaged over pixels.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model = CRLNet(8, (3, 3), heads=2, ffn=16, hidden=16)
        >>> support, query = torch.zeros(2, 5, 8, 3, 3)
        >>> model(support, query).query.shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        heads: int = 8,
        ffn: int = 2048,
        hidden: int = 2048,
        dropout: float = 0.1,
        share: float = 0.5,
    ) -> None:
        super().__init__()
        check_attention(channels, heads, ffn, dropout)
        if len(size) != 2:
            raise ValueError(f"size must be (height, width), got {size!r}")
        for name, number in (("size", size[0]), ("size", size[1]), ("hidden", hidden)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f"{name} must be of whole numbers of at least 1, got {number!r}")
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, got {share!r}")
        height, width = size
        self.channels, self.size, self.heads, self.ffn = channels, size, heads, ffn
        self.hidden, self.dropout, self.share = hidden, dropout, share
        self.cross = JointCrossAttention(channels, heads, ffn, dropout)
        self.condition = nn.Sequential(
            nn.Conv3d(height, 1, (width, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(1), nn.ReLU()
        )
        self.pixels = nn.Sequential(
            *(nn.Linear(channels + 1, hidden), nn.ReLU()),
            *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, channels)),
        )
        self.support, self.query = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.encoder_norm = nn.LayerNorm(channels)
        self.encoder = PixelAttention(channels, heads, ffn, dropout=0.0)

    def forward(self, support: Tensor, query: Tensor) -> PairOfTensors:
        """Embed pairs.

        Args:
            support: The backbone's maps of support images, (B, C, H, W), B at least 1.
            query: Its maps of queries, of the same shape: row i is compared with row i.

        Returns:
            Embeddings, (B, C) each, to be compared by their cosine.

        Raises:
            ValueError: If shapes do not fit.
        """
        expected = (self.channels, *self.size)
        if support.shape != query.shape or support.shape[1:] != expected or not len(support):
            raise ValueError(
                f"support and query must have one shape (B, {', '.join(map(str, expected))}), B at least 1, got "
                f"{tuple(support.shape)} and {tuple(query.shape)}"
            )
        crossed = self.cross(support, query)
        # The axes of the other image come first: they are what the convolution sums over.
        for_support = self.condition(correlation(crossed.query, crossed.support)).squeeze(2)
        for_query = self.condition(correlation(crossed.support, crossed.query)).squeeze(2)
        return PairOfTensors(
            self._embedded(support, for_support, self.support), self._embedded(query, for_query, self.query)
        )

    def _embedded(self, maps: Tensor, condition: Tensor, projection: nn.Linear) -> Tensor:
        x = projection(self.pixels(tokens(torch.cat([maps, condition], dim=1)))) + positions(maps)
        normed = self.encoder_norm(x)
        new = self.encoder(x, normed, normed, normed)
        return (1 - self.share) * maps.mean(dim=(2, 3)) + self.share * new.mean(dim=1)
