"""Nested dropout: in each batch the features after a random place are 0, so that the first ones matter most.

A feature is kept only together with all that stand before it. The first are thus trained in every batch and learn what
most examples share; what is left to memorise wrong labels stands last, and is cut off after training.
Cost: one random number a batch, and a mask on the features; none of it in eval mode at full width.

Source:
    Y. Chen, S. X. Hu, X. Shen, C. Ai, J. A. K. Suykens, "Compressing Features for Learning With Noisy Labels", IEEE
    Transactions on Neural Networks and Learning Systems, 2022, https://arxiv.org/abs/2206.13140. Implemented: the first
    of two stages, nested dropout, and the choice of a width on validation data. The law of the cut is that of the
    authors' code, https://github.com/yingyichen-cyy/Nested-Co-teaching.

Deviations:
    - The second stage, in which two such networks are trained further by Co-teaching, is left out. Of the paper's two
      ways to compress features the other is `torch.nn.Dropout`.
    - The authors' law has a centre mu besides, which is 0 in all of their commands; here it is 0.
    - Their choice of a width takes 1e-5 from the accuracy for each feature, and is made again after each epoch together
      with that of the best epoch. Here the shortest of the widths with the highest accuracy is left to the caller.
    - Their classifier has no bias; here it is the network's own. In a VGG they cut before one of the last two linear
      layers, drawn for each batch; here a layer cuts in every batch, and stands where the caller puts it.
"""

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.nets import evaluating

__all__ = ["NestedDropout", "accuracy_by_width", "cut_law"]

PAPER = Paper(
    title="Compressing Features for Learning With Noisy Labels",
    authors=("Yingyi Chen", "Shell Xu Hu", "Xi Shen", "Chunrong Ai", "Johan A. K. Suykens"),
    year=2022,
    url="https://arxiv.org/abs/2206.13140",
    provides={"NestedDropout": "layer", "accuracy_by_width": "function", "cut_law": "function"},
    null={"std": None},
    claim="A network whose features are compressed by nested dropout memorises fewer wrong labels, and errs less.",
)

_BATCH = 500


def cut_law(dim: int, std: float) -> Tensor:
    """Compute P(K = k), proportional to exp(-(k / std)^2), for k from 1 to dim: how many features a batch keeps.

    It is half of a normal law whose standard deviation is ``std`` / sqrt(2), cut off at ``dim``.

    Args:
        dim: Number of features, at least 1.
        std: Spread of the law, finite and above 0.

    Returns:
        The probabilities, float64, (dim,); those of 1, 2, ... features.

    Raises:
        ValueError: If ``dim`` is no whole number of at least 1, or ``std`` outside its range.

    Example:
        >>> [round(chance, 4) for chance in cut_law(3, std=1.0).tolist()]
        [0.9523, 0.0474, 0.0003]
    """
    _check_whole("dim", dim)
    if not 0 < std < float("inf"):
        raise ValueError(f"std must be finite and above 0, got {std}")
    return torch.softmax(-(torch.arange(1, dim + 1, dtype=torch.float64) / std).square(), dim=0)


def _keep_first(x: Tensor, count: Tensor) -> Tensor:
    """Give x_i for i up to the count, and 0 after it, along the last dimension."""
    return x.where(torch.arange(x.shape[-1], device=x.device) < count, x.new_zeros(()))


def _check_whole(name: str, value: int, largest: int | None = None) -> None:
    if not isinstance(value, int) or value < 1 or (largest is not None and value > largest):
        limit = "of at least 1" if largest is None else f"from 1 to {largest}"
        raise ValueError(f"{name} must be a whole number {limit}, got {value!r}")


@final
class NestedDropout(nn.Module):
    """Keeps the first K features of a batch and sets the rest to 0, with K drawn anew at each call in train mode.

    What is kept is not scaled. In eval mode the first ``width`` features are kept: all of them until `truncate`, and
    then the layer is the identity. It belongs before the last layer of a classifier. With a ``std`` far below ``dim``
    the last features are hardly ever trained, and at full width disturb the logits: choose a width by
    `accuracy_by_width`. The width is stored in the state.

    Args:
        dim: Number of features.
        std: Spread of `cut_law`, above 0. The authors' is 10 for CIFAR-10, and 100 elsewhere, the default, for 512
            and for 4,096 features. With None every feature is kept.
        generator: Source of the draws; torch's global stream on the CPU where it is left out.

    Raises:
        ValueError: If ``dim`` is no whole number of at least 1, or ``std`` outside its range.

    Example:
        >>> layer = NestedDropout(4, std=2.0, generator=torch.Generator().manual_seed(0))
        >>> [layer(torch.ones(4)).tolist() for _ in range(2)]
        [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
        >>> layer.truncate(3)
        >>> layer.eval()(torch.ones(4))
        tensor([1., 1., 1., 0.])
    """

    width: Tensor

    def __init__(self, dim: int, std: float | None = 100.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        _check_whole("dim", dim)
        self.dim = dim
        self.std = std
        self.generator = generator
        self._law = None if std is None else cut_law(dim, std)
        self.register_buffer("width", torch.tensor(dim))

    def truncate(self, width: int) -> None:
        """Keep the first features in eval mode from now on.

        Args:
            width: Their number, from 1 to ``dim``, which undoes it.

        Raises:
            ValueError: If ``width`` is no whole number in that range.
        """
        _check_whole("width", width, self.dim)
        self.width.fill_(width)

    def forward(self, x: Tensor) -> Tensor:
        """Cut the features.

        Args:
            x: Features, floating, (..., dim).

        Returns:
            Their first ones with zeros after them, of the same shape.

        Raises:
            ValueError: If the last dimension of ``x`` is not of size ``dim``.
        """
        if not x.ndim or x.shape[-1] != self.dim:
            raise ValueError(f"x must have shape (..., {self.dim}), got {tuple(x.shape)}")
        if not self.training:
            return _keep_first(x, self.width)
        return x if self._law is None else _keep_first(x, self._cut(self._law).to(x.device))

    def _cut(self, law: Tensor) -> Tensor:
        """Draw K, (1,), where the generator is."""
        device = "cpu" if self.generator is None else self.generator.device
        return 1 + torch.multinomial(law.to(device), 1, generator=self.generator)

    def extra_repr(self) -> str:
        """Say what stands between the brackets when the layer is printed."""
        return f"dim={self.dim}, std={self.std}, width={int(self.width)}"


@torch.no_grad()
def accuracy_by_width(model: nn.Module, inputs: Tensor, labels: Tensor, widths: Sequence[int]) -> dict[int, float]:
    """Evaluate a classifier at several widths of its nested dropout, in eval mode.

    With ``accuracies`` on validation data, ``layer.truncate(max(accuracies, key=accuracies.get))`` takes the best
    width, and of several the first. The model is left as it was. It runs once for each width.

    Args:
        model: Maps inputs to logits, (N, classes); one of its modules is a `NestedDropout`.
        inputs: Inputs, (N, ...), at least one.
        labels: Class numbers, int64, (N,).
        widths: The widths, each from 1 to the number of features, at least one.

    Returns:
        The accuracy at each width, in the order given.

    Raises:
        InputError: If the model does not hold one `NestedDropout`.
        ValueError: If ``labels`` are not one for each of at least one input, or ``widths`` are not as above.

    Example:
        >>> model = nn.Sequential(NestedDropout(2), nn.Linear(2, 2, bias=False))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
        >>> accuracy_by_width(model, torch.ones(4, 2), torch.tensor([0, 0, 0, 1]), widths=(1, 2))
        {1: 0.75, 2: 0.25}
    """
    layers = [module for module in model.modules() if isinstance(module, NestedDropout)]
    if len(layers) != 1:
        raise InputError(f"model must hold one NestedDropout, got {type(model).__name__} with {len(layers)} of them")
    if labels.shape != inputs.shape[:1] or not len(labels):
        raise ValueError(
            "labels must have shape (N,) for inputs (N, ...) with N at least 1, "
            f"got {tuple(labels.shape)} for {tuple(inputs.shape)}"
        )
    layer, accuracies = layers[0], dict[int, float]()
    if not widths or not all(isinstance(width, int) and 1 <= width <= layer.dim for width in widths):
        raise ValueError(f"widths must be whole numbers from 1 to {layer.dim}, at least one, got {widths!r}")
    before = int(layer.width)
    try:
        with evaluating(model):
            for width in widths:
                layer.truncate(width)
                parts = zip(inputs.split(_BATCH), labels.split(_BATCH), strict=True)
                right = sum(int((model(part).argmax(dim=1) == given).sum()) for part, given in parts)
                accuracies[width] = right / len(labels)
    finally:
        layer.truncate(before)
    return accuracies
