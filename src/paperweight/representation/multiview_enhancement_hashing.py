"""Deep multi-view enhancement hashing: short binary codes learned from several views, made from one when asked.

Each view of an image, such as pixels or a histogram of gradients, has a branch that gives a code. Codes are fused by
weights, which say how much is lost without a view. A memory network learns to give fused codes from the first view.
Cost: all branches in training, the memory network in a search; the loss once a view and a pair of views for weights.

Source:
    C. Yan, B. Gong, Y. Wei, Y. Gao, "Deep Multi-View Enhancement Hashing for Image Retrieval", IEEE Transactions on
    Pattern Analysis and Machine Intelligence, 2020, https://arxiv.org/abs/2002.00169. Implemented: branches, weights
    from the stability of views, probability view pooling, losses, memory network, mean average precision.

Deviations:
    - Only the paper's abstract was at hand, and an account of its parts: the formulas are this project's reading.
    - A view is lost by dealing it anew among the samples. Its weight is the rise of the loss, 0 where there is none.
    - Each branch has a loss of its own, too. Fused codes take no gradient from the memory network.
    - Of the paper's three fusions, pooling is here; replication and concatenation of codes are left out.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.representation._hash_codes import mean_average_precision, pairwise_hash_loss

__all__ = [
    "HashCodes",
    "MultiViewHash",
    "mean_average_precision",
    "multi_view_hash_loss",
    "pairwise_hash_loss",
    "probability_view_pooling",
    "view_relations",
    "view_weights",
]

PAPER = Paper(
    title="Deep Multi-View Enhancement Hashing for Image Retrieval",
    authors=("Chenggang Yan", "Biao Gong", "Yuxuan Wei", "Yue Gao"),
    year=2020,
    url="https://arxiv.org/abs/2002.00169",
    provides={
        "MultiViewHash": "network",
        "mean_average_precision": "function",
        "multi_view_hash_loss": "function",
        "pairwise_hash_loss": "function",
        "probability_view_pooling": "function",
        "view_relations": "function",
        "view_weights": "function",
    },
    claim="Codes that a network learns from several fused views retrieve better than codes of one view.",
)


class HashCodes(NamedTuple):
    """What `MultiViewHash` gives, from -1 to 1.

    Attributes:
        fused: Fused codes, (N, bits).
        views: Codes of each view, (N, V, bits).
        memory: What the memory network gives from the first view, (N, bits).
    """

    fused: Tensor
    views: Tensor
    memory: Tensor


def view_relations(
    loss: Callable[[Sequence[Tensor]], Tensor], views: Sequence[Tensor], *, generator: torch.Generator
) -> Tensor:
    """Compute E[u, v], by how much the loss rises when views u and v are lost: each dealt anew among the samples.

    Args:
        loss: Maps views to a scalar, in evaluation mode.
        views: Views of the same samples, each (N, ...), at least one.
        generator: Decides the deal, one for each view.

    Returns:
        The symmetric matrix of rises, float64, (V, V); on its diagonal those without one view.

    Raises:
        ValueError: If there is no view or sample, or numbers of samples differ.

    Example:
        >>> views = torch.arange(4.0)[:, None], torch.ones(4, 1)
        >>> view_relations(lambda given: (given[0] - views[0]).abs().mean(), views, generator=torch.Generator())[1, 1]
        tensor(0., dtype=torch.float64)
    """
    if not views or len({len(view) for view in views}) != 1 or not len(views[0]):
        raise ValueError(f"views must be at least one, of one number of samples, got {[len(view) for view in views]}")
    dealt: list[Tensor] = []
    for view in views:
        order = torch.randperm(len(view), generator=generator, device=generator.device)
        dealt.append(view[order.to(view.device)])
    found = torch.zeros(len(views), len(views), dtype=torch.float64)
    with torch.no_grad():
        whole = float(loss(views))
        for first in range(len(views)):
            for second in range(first + 1):
                lost = {first, second}
                given = [dealt[place] if place in lost else view for place, view in enumerate(views)]
                found[first, second] = found[second, first] = float(loss(given)) - whole
    return found


def view_weights(relations: Tensor) -> Tensor:
    """Compute the weight of each view: the mean rise of the loss without it, alone and when another is lost as well.

    For view u the mean of E[u, u] and of E[u, v] - E[v, v] over all others v; below 0 it counts as 0.

    Args:
        relations: What `view_relations` gives, finite, (V, V).

    Returns:
        Weights of at least 0 that sum to 1, (V,); all alike where the loss rises without none of them.

    Raises:
        ValueError: If ``relations`` is not as above.

    Example:
        >>> view_weights(torch.tensor([[3.0, 4.0], [4.0, 1.0]]))
        tensor([0.7500, 0.2500])
    """
    fits = relations.ndim == 2 and relations.shape[0] == relations.shape[1] and relations.numel()
    if not fits or not relations.is_floating_point() or not bool(relations.isfinite().all()):
        raise ValueError(f"relations must be finite and floating, (V, V), got {relations}")
    alone = relations.diagonal()
    rises = (alone + (relations - alone).sum(dim=1)).clamp(min=0)
    total = rises.sum()
    return rises / total if bool(total > 0) else torch.full_like(alone, 1 / len(alone))


def probability_view_pooling(
    codes: Tensor, weights: Tensor, training: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Fuse codes: in training each entry is that of one view, drawn by the weights; else the mean by the weights.

    Args:
        codes: Codes of each view, (N, V, bits).
        weights: Weights of at least 0 that sum to 1, (V,).
        training: Whether to draw.
        generator: Source of the draws; torch's global stream on the CPU where it is left out.

    Returns:
        Fused codes, (N, bits).

    Raises:
        ValueError: If shapes or weights are not as above.

    Example:
        >>> codes = torch.tensor([[[1.0, -1.0], [-1.0, -1.0]]])
        >>> probability_view_pooling(codes, torch.tensor([0.75, 0.25]), training=False)
        tensor([[ 0.5000, -1.0000]])
    """
    if codes.ndim != 3 or not codes.numel():
        raise ValueError(f"codes must be (N, V, bits) without a 0, got {tuple(codes.shape)}")
    fits = weights.shape == codes.shape[1:2] and bool((weights >= 0).all())
    if not fits or not bool((weights.double().sum() - 1).abs() < 1e-3):
        raise ValueError(f"weights must be {codes.shape[1]} of at least 0 that sum to 1, got {weights.tolist()}")
    if not training:
        return torch.einsum("nvb,v->nb", codes, weights.to(codes))
    batch, _, bits = codes.shape
    device = "cpu" if generator is None else generator.device
    chosen = torch.multinomial(weights.to(device), batch * bits, replacement=True, generator=generator)
    return codes.gather(1, chosen.reshape(batch, 1, bits).to(codes.device))[:, 0]


def multi_view_hash_loss(output: HashCodes, labels: Tensor, quantization: float = 0.1, memory: float = 1.0) -> Tensor:
    """Compute what branches and memory network are trained by.

    The loss of fused codes and its mean over views; ``quantization`` times the mean squared distance of fused codes
    from signs; ``memory`` times that of the memory network's codes from fused ones, and their own loss.

    Args:
        output: What the network gives.
        labels: Class numbers, int64, (N,).
        quantization: Weight of the distance from signs, finite and at least 0.
        memory: Weight of what the memory network learns, finite and at least 0.

    Returns:
        A scalar.

    Raises:
        ValueError: If an argument is outside its range, or shapes do not fit.

    Example:
        >>> none = torch.zeros(2, 8)
        >>> loss = multi_view_hash_loss(HashCodes(none, none[:, None], none), torch.tensor([0, 1]))
        >>> round(loss.item() / math.log(2), 2)
        3.14
    """
    for name, weight in (("quantization", quantization), ("memory", memory)):
        if isinstance(weight, bool) or not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {weight!r}")
    fused, views, recalled = output
    each = torch.stack([pairwise_hash_loss(codes, labels) for codes in views.unbind(dim=1)])
    signs = torch.where(fused.detach() < 0, -1.0, 1.0).to(fused)
    target = fused.detach()
    return (
        pairwise_hash_loss(fused, labels)
        + each.mean()
        + quantization * F.mse_loss(fused, signs)
        + memory * (F.mse_loss(recalled, target) + pairwise_hash_loss(recalled, labels))
    )


@final
class MultiViewHash(nn.Module):
    """A branch for each view, their fusion, and the memory network that needs the first view alone.

    Args:
        branches: A `torch.nn.ModuleList` of one network a view, (N, ...) to (N, bits); tanh makes codes of that.
        memory: The memory network, maps the first view to (N, bits).
        generator: Source of the draws in training; torch's global stream on the CPU where it is left out.

    Raises:
        ValueError: If there is no list of branches.

    Attributes:
        weights: The weight of each view in the fusion, (V,): all alike until `weigh` is called.

    Example:
        >>> model = MultiViewHash(nn.ModuleList([nn.Linear(16, 4), nn.Linear(5, 4)]), nn.Linear(16, 4))
        >>> views = torch.randn(8, 16), torch.randn(8, 5)
        >>> model.weigh(views, torch.arange(8) % 2, generator=torch.Generator()).shape
        torch.Size([2, 2])
        >>> model(*views).fused.shape, model.search_codes(views[0]).unique().numel() <= 2
        (torch.Size([8, 4]), True)
    """

    weights: Tensor

    def __init__(self, branches: nn.ModuleList, memory: nn.Module, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not isinstance(branches, nn.ModuleList) or not len(branches):
            raise ValueError(f"branches must be a torch.nn.ModuleList of at least one network, got {branches!r}")
        self.branches = branches
        self.memory = memory
        self.generator = generator
        self.register_buffer("weights", torch.full((len(branches),), 1 / len(branches)))

    def forward(self, *views: Tensor) -> HashCodes:
        """Compute the codes of samples.

        Args:
            *views: The views, each (N, ...), as many as branches.

        Returns:
            The codes; fused ones are a draw in training and a mean else.

        Raises:
            ValueError: If there are more or fewer views than branches.
        """
        if len(views) != len(self.branches):
            raise ValueError(f"views must be {len(self.branches)}, as many as branches, got {len(views)}")
        codes = torch.stack([branch(view) for branch, view in zip(self.branches, views, strict=True)], dim=1).tanh()
        fused = probability_view_pooling(codes, self.weights, self.training, self.generator)
        return HashCodes(fused, codes, self.memory(views[0]).tanh())

    @torch.no_grad()
    def weigh(self, views: Sequence[Tensor], labels: Tensor, *, generator: torch.Generator) -> Tensor:
        """Set the weights by how much the similarity loss of codes fused alike rises without each view.

        Args:
            views: The views of some samples.
            labels: Their class numbers, int64, (N,).
            generator: Decides how lost views are dealt.

        Returns:
            What `view_relations` gives, (V, V).

        Raises:
            ValueError: If views or labels do not fit.
        """
        with evaluating(self):
            found = view_relations(
                lambda given: pairwise_hash_loss(self(*given).views.mean(dim=1), labels), views, generator=generator
            )
        self.weights.copy_(view_weights(found))
        return found

    @torch.no_grad()
    def search_codes(self, inputs: Tensor) -> Tensor:
        """Compute the binary codes that the memory network gives, in evaluation mode.

        Args:
            inputs: The first view, (N, ...).

        Returns:
            Entries -1 and 1, (N, bits).
        """
        with evaluating(self):
            codes = self.memory(inputs)
        return torch.where(codes < 0, -1.0, 1.0).to(codes)
