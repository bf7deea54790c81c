"""Deeply-supervised nets: in training each hidden layer has a classifier of its own, whose loss is added to the last's.

A hidden layer is told by its companion, and not only through the layers above it, what its features are for. The
threshold gamma lets go of a companion that errs little, and a weight that falls to 0 lets go of all in the end. The
companions are left out where the network is used.
Cost: a small linear layer for each hidden one in training; nothing afterwards.

Source:
    C.-Y. Lee, S. Xie, P. Gallagher, Z. Zhang, Z. Tu, "Deeply-Supervised Nets", AISTATS, 2015,
    https://arxiv.org/abs/1409.5185. Implemented: the objective with companions (section 2), its squared hinge loss, the
    softmax loss that the authors take for more than ten classes, and the falling weight. Where companions are, and
    the weights of the losses, are as in the authors' code, https://github.com/s9xie/DSN. Left out: the analysis.

Deviations:
    - The paper leaves the values of alpha, gamma and the weight of ||w||^2 open. Defaults are what the authors' code
      amounts to: alpha 1, no threshold, and its weight decay 0.0005 for the last. Its companions are switched off after
      a first run of training, not faded out; and they learn at a thousandth of the rate, which is left to the caller.
    - One alpha and gamma serve all layers; ||w||^2 of the output layer is left to the optimizer's weight decay.
    - The squared hinge compares the label's score with each other one, as the paper writes it; the authors' code
      compares each score with 1 or -1. Both take the mean over a batch.
    - The paper's rule alpha 0.1 (1 - t / N) is taken of the first alpha, since one that shrinks tenfold at every epoch
      would be gone after two. The paper does not always use it.
    - Large maps are averaged to a grid before a companion sees them, so that the size of an image need not be known;
      the authors' code takes every pixel, which a grid of the size of the map does, too.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError

__all__ = [
    "DeeplySupervised",
    "Supervised",
    "companion_objective",
    "companion_weight",
    "deeply_supervised_loss",
]

PAPER = Paper(
    title="Deeply-Supervised Nets",
    authors=("Chen-Yu Lee", "Saining Xie", "Patrick Gallagher", "Zhengyou Zhang", "Zhuowen Tu"),
    year=2014,
    url="https://arxiv.org/abs/1409.5185",
    provides={
        "DeeplySupervised": "network",
        "deeply_supervised_loss": "loss",
        "companion_objective": "function",
        "companion_weight": "function",
    },
    null={"alpha": 0.0},
    claim="Classifiers on the hidden layers, trained along, make a convolutional network more accurate.",
)

Loss = Literal["squared_hinge", "cross_entropy"]


class Supervised(NamedTuple):
    """Scores of the output layer and of each companion, (N, classes), and ||w||^2 of each companion, a scalar."""

    logits: Tensor
    companions: tuple[Tensor, ...]
    norms: tuple[Tensor, ...]


def _squared_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean over samples of sum over k != y of max(0, 1 - (s_y - s_k))^2, the loss of a multi-class SVM."""
    margins = 1 - scores.gather(1, labels[:, None]) + scores
    others = torch.arange(scores.shape[1], device=scores.device) != labels[:, None]
    return (margins.relu().square() * others).sum(dim=1).mean()


def _loss_of(scores: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    if scores.ndim != 2 or not len(scores) or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"scores and labels must have shapes (N, classes) and (N,) with N at least 1, got {tuple(scores.shape)} "
            f"and {tuple(labels.shape)}"
        )
    return (_squared_hinge if loss == "squared_hinge" else F.cross_entropy)(scores, labels)


def companion_objective(
    scores: Tensor,
    labels: Tensor,
    norm: Tensor,
    gamma: float = 0.0,
    lam: float = 2.5e-4,
    loss: Loss = "squared_hinge",
) -> Tensor:
    """Compute max(0, lam ||w||^2 + l - gamma), what a hidden layer adds to the objective before its weight alpha.

    Args:
        scores: Scores of the companion, (N, classes), N at least 1.
        labels: Class numbers, int64, (N,).
        norm: ||w||^2, a scalar.
        gamma: Threshold at which the objective and its gradient are 0, at least 0.
        lam: Weight of the norm, at least 0; in the paper's equation 1, in the authors' code half of 0.0005.
        loss: l, ``"squared_hinge"`` or ``"cross_entropy"``.

    Returns:
        The objective, a scalar.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> scores, labels = torch.tensor([[2.0, 1.5, -3.0]]), torch.tensor([0])
        >>> companion_objective(scores, labels, torch.tensor(4.0), gamma=0.5, lam=0.1)
        tensor(0.1500)
    """
    _check_weights({"gamma": gamma, "lam": lam}, loss)
    return (lam * norm + _loss_of(scores, labels, loss) - gamma).relu()


def companion_weight(alpha: float, epoch: float, epochs: int) -> float:
    """Compute 0.1 alpha (1 - t / N), the weight of the companions when they are faded out.

    Args:
        alpha: The weight to begin with, at least 0.
        epoch: t, in [0, epochs]; a part of an epoch counts.
        epochs: N, at least 1.

    Returns:
        The weight.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [companion_weight(2.0, epoch, epochs=4) for epoch in (0, 2, 4)]
        [0.2, 0.1, 0.0]
    """
    _check_weights({"alpha": alpha})
    _check_count("epochs", epochs)
    if not 0 <= epoch <= epochs:
        raise ValueError(f"epoch must be in [0, epochs], got {epoch} of {epochs}")
    return 0.1 * alpha * (1 - epoch / epochs)


def deeply_supervised_loss(
    outputs: Supervised,
    labels: Tensor,
    alpha: float = 1.0,
    gamma: float = 0.0,
    lam: float = 2.5e-4,
    loss: Loss = "squared_hinge",
) -> Tensor:
    """Compute L + alpha sum over m of max(0, lam ||w_m||^2 + l_m - gamma), the objective of the whole network.

    With ``alpha=0`` it is L, bit for bit, and the companions have no gradient.

    Args:
        outputs: What `DeeplySupervised` gives in training.
        labels: Class numbers, int64, (N,).
        alpha: Weight of every companion, at least 0.
        gamma: Threshold of every companion, at least 0.
        lam: Weight of the companions' norms, at least 0.
        loss: L and l, ``"squared_hinge"`` or ``"cross_entropy"``.

    Returns:
        The objective, a scalar.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> outputs = Supervised(torch.zeros(2, 3), (torch.zeros(2, 3),), (torch.tensor(0.0),))
        >>> deeply_supervised_loss(outputs, torch.tensor([0, 1]), alpha=0.5)
        tensor(3.)
    """
    _check_weights({"alpha": alpha, "gamma": gamma, "lam": lam}, loss)
    logits, companions, norms = outputs
    total = _loss_of(logits, labels, loss)
    if alpha:
        for scores, norm in zip(companions, norms, strict=True):
            total = total + alpha * companion_objective(scores, labels, norm, gamma, lam, loss)
    return total


@final
class DeeplySupervised(nn.Module):
    """A classifier with a linear companion on each of its hidden layers.

    In train mode it gives `Supervised`, for `deeply_supervised_loss`; in eval mode the classifier's logits alone. The
    classifier is trained in place, and is ``model`` afterwards. A companion sees what its layer gives, before the
    activation; of a layer that is called several times it sees the last call.

    Args:
        model: The classifier.
        classes: Scores a companion, at least 2.
        taps: Names of the hidden layers in the model, each a `torch.nn.Conv2d` or `torch.nn.Linear`; left out, all of
            these but the one that is registered last.
        grid: Maps are averaged to ``grid x grid`` pixels, at least 1.
        generator: Source of the companions' initial weights, on the CPU; torch's global stream where it is left out.

    Raises:
        ValueError: If an argument is outside its range, or a name is not that of such a layer.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))
        >>> supervised = DeeplySupervised(model, classes=10)
        >>> supervised.names, supervised.heads
        (('0',), ModuleList(
          (0): Linear(in_features=96, out_features=10, bias=True)
        ))
        >>> images, labels = torch.zeros(5, 1, 8, 8), torch.arange(5)
        >>> deeply_supervised_loss(supervised(images), labels, loss="cross_entropy").backward()
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        taps: Sequence[str] | None = None,
        grid: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_count("classes", classes, least=2)
        _check_count("grid", grid)
        layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
        names = tuple(layers)[:-1] if taps is None else tuple(taps)
        if not names or len(set(names)) < len(names) or not set(names) <= set(layers):
            given = f"got {list(names)} of {list(layers)}"
            raise ValueError(f"taps must name at least one hidden layer, Conv2d or Linear, each once, {given}")
        self.model = model
        self.classes = classes
        self.taps = taps
        self.names = names
        self.grid = grid
        self.generator = generator
        self.heads = nn.ModuleList([_head(layers[name], classes, grid, generator) for name in names])

    def forward(self, x: Tensor) -> Supervised | Tensor:
        """Compute the scores.

        Args:
            x: Inputs of the classifier, (N, ...).

        Returns:
            In train mode scores of all classifiers, in eval mode the logits, (N, classes).

        Raises:
            InputError: If the model does not call one of the layers.
        """
        if not self.training:
            return self.model(x)
        seen: dict[nn.Module, Tensor] = {}

        def watch(layer: nn.Module, _: object, output: Tensor) -> None:
            seen[layer] = _features(layer, output, self.grid)

        layers = [self.model.get_submodule(name) for name in self.names]
        hooks = [layer.register_forward_hook(watch) for layer in layers]
        try:
            logits = self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        if idle := [name for name, layer in zip(self.names, layers, strict=True) if layer not in seen]:
            raise InputError(f"taps must be layers that the model calls, it does not call {idle[0]!r}; leave it out")
        heads = [head for head in self.heads if isinstance(head, nn.Linear)]
        companions = tuple(head(seen[layer]) for layer, head in zip(layers, heads, strict=True))
        return Supervised(logits, companions, tuple(head.weight.square().sum() for head in heads))


def _features(layer: nn.Module, output: Tensor, grid: int) -> Tensor:
    """Give a layer's output as (N, features): of maps the means of a grid, of tokens the mean; and always a copy."""
    if isinstance(layer, nn.Conv2d):
        return F.adaptive_avg_pool2d(output, grid).flatten(1)
    return output.reshape(len(output), -1, output.shape[-1]).mean(dim=1)


def _head(layer: nn.Conv2d | nn.Linear, classes: int, grid: int, generator: torch.Generator | None) -> nn.Linear:
    """Make a companion on the device and of the format of its layer, as `torch.nn.Linear` is initialised."""
    features = layer.out_channels * grid**2 if isinstance(layer, nn.Conv2d) else layer.out_features
    head = nn.Linear(features, classes, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(features)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return head.to(next(layer.parameters()))


def _check_weights(weights: dict[str, float], loss: Loss = "squared_hinge") -> None:
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"{name} must be finite and at least 0, got {weight}")
    if loss not in get_args(Loss):
        raise ValueError(f"loss must be 'squared_hinge' or 'cross_entropy', got {loss!r}")


def _check_count(name: str, count: int, least: int = 1) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")
