"""Momentum auxiliary network (MAN): a part that learns by itself sees a slow copy of the layer that will follow it.

Parts of a network are trained each by a loss of its own, with no gradient from one to another. Before its auxiliary
head, a part has two copies of the next part's first layer, whose outputs are added: one whose weights follow that
layer's as a moving average, by which the part learns for what comes after it, and one that is trained along, which
makes up for where the average does not fit.
Cost: two layers and a head for each part in training; nothing afterwards.

Source:
    J. Su, C. Cai, F. Zhu, C. He, X. Xu, D. Guan, C. Si, "Momentum Auxiliary Network for Supervised Local Learning",
    ECCV, 2024, https://arxiv.org/abs/2407.05623, and the authors' code, https://github.com/JunhaoSu0/MAN. Implemented:
    the two copies, the moving average and the head, for chains of residual blocks. Left out: the reconstruction of the
    image, which the authors have beside the cross-entropy from InfoPro; other networks.

Deviations:
    - Both copies begin as the layer that they are copies of. The authors' code draws their weights anew.
    - The average is updated at the beginning of a step, from weights that the last step has updated. In the authors'
      code it is updated after the part's backward pass, from the same weights; so the copy there is one step older.
    - The momentum 0.999 is the default of the authors' network. Their script passes 1 where none is given, with which
      the copy never moves; whether results are from 0.995 or 0.999 could not be settled.
    - The head has one form at every depth. InfoPro's, which the authors take, neither halves the map nor doubles the
      channels in the last stage.
    - Layers are shared out evenly among parts, of which the authors' code has a list.
"""

import copy
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.training._local import (
    Objective,
    Scores,
    check_count,
    check_order,
    isolated,
    joined,
    objectives,
    part_ends,
    residual_layers,
    seeded_by,
    width,
)

__all__ = ["MomentumAuxiliaryNetwork", "momentum_average"]

PAPER = Paper(
    title="Momentum Auxiliary Network for Supervised Local Learning",
    authors=(
        "Junhao Su",
        "Changpeng Cai",
        "Feiyu Zhu",
        "Chenghao He",
        "Xiaojie Xu",
        "Dongzhi Guan",
        "Chenyang Si",
    ),
    year=2024,
    url="https://arxiv.org/abs/2407.05623",
    provides={"MomentumAuxiliaryNetwork": "network", "momentum_average": "function"},
    null={"parts": 1},
    claim="Slow copies of the next part's first layer make local learning more accurate, in less memory than whole.",
)


def momentum_average(average: Tensor, weight: Tensor, momentum: float = 0.999) -> Tensor:
    """Compute mu a + (1 - mu) w, the moving average of a weight.

    Args:
        average: a, the average so far.
        weight: w, of the same shape.
        momentum: mu, in [0, 1].

    Returns:
        The new average, of the same shape.

    Raises:
        ValueError: If ``momentum`` is outside its range, or shapes differ.

    Example:
        >>> momentum_average(torch.tensor([1.0]), torch.tensor([3.0]), momentum=0.75)
        tensor([1.5000])
    """
    _check_momentum(momentum)
    if average.shape != weight.shape:
        raise ValueError(
            f"average and weight must have the same shape, got {tuple(average.shape)} and {tuple(weight.shape)}"
        )
    return momentum * average + (1 - momentum) * weight


def _check_momentum(momentum: float) -> None:
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")


@final
class _Auxiliary(nn.Module):
    """The two copies of a layer, where they are wanted, and a head on the sum of their outputs."""

    def __init__(self, copies: dict[str, nn.Module], channels: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.copies = nn.ModuleDict(copies)
        self.head = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * channels, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs = [layer(x) for layer in self.copies.values()] or [x]
        return self.head(outputs[0] if len(outputs) == 1 else outputs[0] + outputs[1])


@final
class MomentumAuxiliaryNetwork(nn.Module):
    """A residual network whose parts are trained each by its own loss, through copies of the layer that follows it.

    In train mode it gives the scores of each part's auxiliary network and last those of the network itself, without a
    gradient from one part to another: the loss is the sum of their cross-entropies. Before that it moves the averages a
    step, as a call in train mode does to running statistics. In eval mode it gives the network's logits alone. The
    network is trained in place, and is ``model`` afterwards. To keep only one part's activations at a time, hand
    `local_parts` and `local_objectives` to `paperweight.loops.local_gradients`; gradients and averages are the same.

    With one part it is back-propagation, bit for bit. The averages' weights are frozen, and no optimizer moves them.

    Args:
        model: A residual network such as `paperweight.nets.ResNet`: a chain of blocks, each with a module ``residual``
            and one ``shortcut``.
        classes: Scores of an auxiliary network, at least 2.
        momentum: mu of the averages, in [0, 1]; with 1 they stay what they are. An average looks back over about
            1 / (1 - mu) steps, which training should have many times.
        parts: Number of parts, from 1 to that of layers, which are the stem and the blocks; left out, that of layers.
        average: Whether a part sees the average of the layer that follows it.
        bias: Whether it sees a copy of that layer which is trained along.
        hidden: Units of the head's hidden layer, at least 1; the authors have 128.
        generator: Source of the heads' weights; torch's global stream where it is left out.

    Raises:
        ValueError: If an argument is outside its range.
        InputError: If the model is no such chain, or, at the first batch, does more than the chain.

    Example:
        >>> from paperweight.nets import ResNet
        >>> model = MomentumAuxiliaryNetwork(ResNet((1, 8, 8), classes=10, depth=8, width=4), classes=10, parts=2)
        >>> [tuple(scores.shape) for scores in model(torch.zeros(2, 1, 8, 8))]
        [(2, 10), (2, 10)]
        >>> model.eval()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        momentum: float = 0.999,
        parts: int | None = None,
        average: bool = True,
        bias: bool = True,
        hidden: int = 128,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("classes", classes, least=2)
        check_count("hidden", hidden)
        _check_momentum(momentum)
        layers = residual_layers(model)
        ends = part_ends(len(layers), parts)[:-1]
        self.model = model
        self.classes = classes
        self.momentum = momentum
        self.parts = parts
        self.average = average
        self.bias = bias
        self.hidden = hidden
        self.generator = generator
        self._in_order = False

        def auxiliary(end: int) -> _Auxiliary:
            following = layers[end + 1][0]
            copies: dict[str, nn.Module] = {}
            if average:
                copies["average"] = copy.deepcopy(following).requires_grad_(False)
            if bias:
                copies["bias"] = copy.deepcopy(following)
            return _Auxiliary(copies, width(layers[end + 1 if copies else end]), classes, hidden)

        with seeded_by(generator):
            auxiliaries = nn.ModuleList([auxiliary(end) for end in ends])
        self.auxiliaries = auxiliaries.to(next(model.parameters()))

    def local_parts(self) -> list[nn.Sequential]:
        """Give the parts, whose layers are the network's own; each maps the output of the one before to its own."""
        return joined(residual_layers(self.model), self.parts)

    def local_objectives(self) -> list[Objective]:
        """Give the loss of each part: it moves the part's average, and maps its output and the labels to a scalar."""
        return objectives(self._scores(self.local_parts()))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the scores.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            In train mode those of each auxiliary network and last of the network, in eval mode the network's alone,
            (N, classes).
        """
        if not self.training:
            return self.model(x)
        parts = self.local_parts()
        if not self._in_order:
            check_order(self.model, parts, x)
            self._in_order = True
        return isolated(parts, self._scores(parts), x)

    def _scores(self, parts: list[nn.Sequential]) -> list[Scores]:
        """Make what moves the average of a part's auxiliary network and then runs it, for each part but the last."""

        def of(auxiliary: nn.Module, following: nn.Module) -> Scores:
            def scores(output: Tensor) -> Tensor:
                if self.average and self.training:
                    self._follow(auxiliary.get_submodule("copies.average"), following)
                return auxiliary(output)

            return scores

        return [of(auxiliary, part[0]) for auxiliary, part in zip(self.auxiliaries, parts[1:], strict=True)]

    @torch.no_grad()
    def _follow(self, average: nn.Module, layer: nn.Module) -> None:
        for mean, weight in zip(average.parameters(), layer.parameters(), strict=True):
            mean.requires_grad_(False).copy_(momentum_average(mean, weight, self.momentum))
