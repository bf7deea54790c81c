"""AugLocal: parts of a network each learn from a loss of their own, through a copy in small of what follows them.

No gradient goes from one part to another, so that only one part's activations need be kept at a time. The auxiliary
network of a part has a few layers of the widths of later ones, picked evenly up to the last, so that what it asks of
the part is near to what the network will; later parts get shallower ones.
Cost: with depth 2 about two to three times the computation of back-propagation; nothing after training.

Source:
    C. Ma, J. Wu, C. Si, K. C. Tan, "Scaling Supervised Local Learning with Augmented Auxiliary Networks", ICLR, 2024,
    https://arxiv.org/abs/2402.17318. Implemented: the choice of layers, the pyramid of depths, auxiliary networks of
    residual blocks, as in the authors' code, https://github.com/ChenxiangMA/AugLocal. Left out: other networks than
    chains of residual blocks, and the analysis of representations.

Deviations:
    - An auxiliary block is one of two 3x3 convolutions, also where the network's own are bottlenecks.
    - With fewer parts than layers, layers are shared out evenly; in the authors' code the last part has all the rest.
    - With two parts the pyramid has no slope, where the formula divides by 0.
    - Defaults are those of the authors' example with 32 layers, maximal depth 2 and coefficient 0.5.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.training._local import (
    Objective,
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

__all__ = ["AugLocal", "aux_depths", "aux_layer_indices"]

PAPER = Paper(
    title="Scaling Supervised Local Learning with Augmented Auxiliary Networks",
    authors=("Chenxiang Ma", "Jibin Wu", "Chenyang Si", "Kay Chen Tan"),
    year=2024,
    url="https://arxiv.org/abs/2402.17318",
    provides={"AugLocal": "network", "aux_depths": "function", "aux_layer_indices": "function"},
    null={"parts": 1},
    claim="Local learning with auxiliary networks of later layers is as accurate as back-propagation, in less memory.",
)

Choose = Callable[[int, int, int], Sequence[int]]


def aux_depths(parts: int, max_depth: int = 2, pyramid: float = 0.5) -> list[int]:
    """Compute d_l = max(1, round(d (1 - r) + r)) with r = c l / (L - 2): the depth of each auxiliary network.

    Args:
        parts: L, parts of the network, at least 1; the last has no auxiliary network.
        max_depth: d, the depth of the first, at least 1; the paper has up to 9.
        pyramid: c, in [0, 1]; with 0 all have the same depth, with 1 the last has depth 1; the paper has 0.5.

    Returns:
        The depth for l from 0 to L - 2.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> aux_depths(7, max_depth=5)
        [5, 5, 4, 4, 3, 3]
    """
    check_count("parts", parts)
    check_count("max_depth", max_depth)
    if not 0 <= pyramid <= 1:
        raise ValueError(f"pyramid must be in [0, 1], got {pyramid}")
    slope = pyramid / (parts - 2) if parts > 2 else 0.0
    return [max(1, round(max_depth * (1 - slope * at) + slope * at)) for at in range(parts - 1)]


def aux_layer_indices(layer: int, layers: int, depth: int) -> list[int]:
    """Choose layers evenly among those that follow: round(l + j (L - 1 - l) / d) for j from 1 to d, numbered from 0.

    Args:
        layer: l, the layer that they follow, from 0 to L - 2.
        layers: L, layers of the network, at least 2.
        depth: d, at least 1; where fewer follow, all of them are chosen.

    Returns:
        Their numbers, ascending, the last one L - 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> aux_layer_indices(1, layers=16, depth=3)
        [6, 10, 15]
    """
    check_count("layers", layers, least=2)
    check_count("depth", depth)
    check_count("layer", layer, least=0)
    if layer > layers - 2:
        raise ValueError(f"layer must be followed by another of {layers}, numbered from 0, got {layer}")
    rest = layers - 1 - layer
    return [round(layer + rest / min(depth, rest) * number) for number in range(1, min(depth, rest) + 1)]


@final
class _Block(nn.Module):
    """A residual block of two 3x3 convolutions, with a 1x1 one as shortcut where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.residual(x))


def _strides(widths: Sequence[int]) -> list[int]:
    """Give the stride of each layer after the first width: 2 for each doubling, those of a jump one layer each."""
    strides: list[int] = []
    halvings = 0
    for before, after in pairwise(widths):
        halvings += int(math.log2(after // before))
        strides.append(2 if halvings else 1)
        halvings -= bool(halvings)
    return strides


def _chosen(choose: Choose, layer: int, layers: int, depth: int) -> list[int]:
    """Give a layer and those that are chosen after it."""
    chosen = [layer, *choose(layer, layers, depth)]
    if chosen != sorted(set(chosen)) or chosen[-1] >= layers:
        raise ValueError(f"choose must give ascending numbers from {layer + 1} to {layers - 1}, got {chosen[1:]}")
    return chosen


def _auxiliary(widths: Sequence[int], classes: int, normalised: bool) -> nn.Sequential:
    """Build blocks from the first width through the others, and a linear layer on the mean of their maps."""
    blocks = [_Block(*sizes) for sizes in zip(widths[:-1], widths[1:], _strides(widths), strict=True)]
    head = nn.Linear(widths[-1], classes)
    for part in nn.ModuleList(blocks).modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
    norm = [nn.BatchNorm1d(widths[-1])] if normalised else []
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), *norm, head)


@final
class AugLocal(nn.Module):
    """A residual network whose parts are trained each by its own loss, through an auxiliary network.

    In train mode it gives the scores of each auxiliary network and last those of the network itself, without a gradient
    from one part to another: the loss is the sum of their cross-entropies. In eval mode it gives the network's logits
    alone. The network is trained in place, and is ``model`` afterwards. To keep only one part's activations at a time,
    hand `local_parts` and `local_objectives` to `paperweight.loops.local_gradients`; the gradients are the same.

    With one part it is back-propagation, bit for bit. A part whose auxiliary network has depth 1 refuses to train on
    one sample, as batch normalization does.

    Args:
        model: A residual network such as `paperweight.nets.ResNet`: a chain of blocks, each with a module ``residual``
            and one ``shortcut``, whose channels do not become fewer.
        classes: Scores of an auxiliary network, at least 2.
        max_depth: Layers of the first auxiliary network, at least 1.
        pyramid: How much shallower the last one is, in [0, 1], as in `aux_depths`.
        parts: Number of parts, from 1 to that of layers, which are the stem and the blocks; left out, that of layers.
        choose: Maps a layer, the number of layers and a depth to those that an auxiliary network is made like.
        generator: Source of the auxiliary networks' weights; torch's global stream where it is left out.

    Raises:
        ValueError: If an argument is outside its range.
        InputError: If the model is no such chain, or, at the first batch, does more than the chain.

    Example:
        >>> from paperweight.nets import ResNet
        >>> model = AugLocal(ResNet((1, 8, 8), classes=10, depth=8, width=4), classes=10)
        >>> [tuple(scores.shape) for scores in model(torch.zeros(2, 1, 8, 8))]
        [(2, 10), (2, 10), (2, 10), (2, 10)]
        >>> model.eval()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        max_depth: int = 2,
        pyramid: float = 0.5,
        parts: int | None = None,
        choose: Choose = aux_layer_indices,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("classes", classes, least=2)
        layers = residual_layers(model)
        widths = [width(layer) for layer in layers]
        if widths != sorted(widths):
            raise InputError(f"model must have layers whose channels do not become fewer, got {widths}")
        ends = part_ends(len(layers), parts)
        depths = aux_depths(len(ends), max_depth, pyramid)
        self.model = model
        self.classes = classes
        self.max_depth = max_depth
        self.pyramid = pyramid
        self.parts = parts
        self.choose = choose
        self.generator = generator
        self._in_order = False
        with seeded_by(generator):
            auxiliaries = [
                _auxiliary([widths[at] for at in _chosen(choose, end, len(layers), depth)], classes, depth == 1)
                for end, depth in zip(ends[:-1], depths, strict=True)
            ]
        self.auxiliaries = nn.ModuleList(auxiliaries).to(next(model.parameters()))

    def local_parts(self) -> list[nn.Sequential]:
        """Give the parts, whose layers are the network's own; each maps the output of the one before to its own."""
        return joined(residual_layers(self.model), self.parts)

    def local_objectives(self) -> list[Objective]:
        """Give the loss of each part: it maps the part's output, its input and the labels to a scalar."""
        return objectives(self.auxiliaries)

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
        return isolated(parts, self.auxiliaries, x)
