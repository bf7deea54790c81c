"""CBNet: several copies of a pre-trained backbone, each of which feeds its features into the next one's stages.

An image goes through assistant backbones first. What their stages put out is brought to the size and the channels of
the next backbone's stages and added to the inputs of these; the last backbone, the lead, gives the features that a
detector works on. So a stronger backbone is made of an existing one without pre-training anything larger. In training
the detector's head works on the assistants' features, too.
Cost: with K backbones K times the computation and the weights of one, and a 1x1 convolution for each connection.

Source:
    T. Liang, X. Chu, Y. Liu, Y. Wang, Z. Tang, W. Chu, J. Chen, H. Ling, "CBNet: A Composite Backbone Network
    Architecture for Object Detection", IEEE Transactions on Image Processing, 2022, https://arxiv.org/abs/2107.00420.
    Implemented: same-level, adjacent higher-level, adjacent lower-level and dense higher-level composition, and the
    supervision of assistants. Left out: detectors, Swin, and assistants that are cut short. The authors' code may be
    used for research alone and is not followed; what the text leaves open is listed below.

Deviations:
    - The convolution of a connection has no bias, and the gain of its batch normalization starts at 0, so that at first
      the lead does what the backbone alone did.
    - Smaller maps are enlarged to their nearest pixels; larger ones, in adjacent lower-level composition, are averaged.
    - Same-level composition feeds the second stage, too, as in the conference paper of 2020; the later text begins with
      the third.
    - Each backbone has a first stage of its own, which gets the image alone.
    - The composition in which each stage is fed by all is left out.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["CompositeBackbone", "CompositeConnection", "CompositeFeatures", "composite_loss", "connected_stages"]

PAPER = Paper(
    title="CBNet: A Composite Backbone Network Architecture for Object Detection",
    authors=(
        "Tingting Liang",
        "Xiaojie Chu",
        "Yudong Liu",
        "Yongtao Wang",
        "Zhi Tang",
        "Wei Chu",
        "Jingdong Chen",
        "Haibin Ling",
    ),
    year=2022,
    url="https://arxiv.org/abs/2107.00420",
    provides={
        "CompositeBackbone": "network",
        "CompositeConnection": "layer",
        "composite_loss": "function",
        "connected_stages": "function",
    },
    null={"count": 1},
    claim="Composite backbones detect better than deeper and wider ones, without pre-training anything larger.",
)

Composition = Literal["same", "higher", "lower", "dense"]

_COMPOSITIONS = ("same", "higher", "lower", "dense")
_PAPER_WEIGHTS: dict[int, tuple[float, ...]] = {0: (), 1: (0.5,), 2: (0.5, 1.0)}


def connected_stages(stage: int, stages: int, composition: Composition = "dense") -> list[int]:
    """List the stages of the backbone before whose outputs are added to the input of a stage, numbered from 1.

    Args:
        stage: l, from 2 to the number of stages; the first gets the image alone.
        stages: L, stages of a backbone, at least 2.
        composition: "same" level, l - 1, as the input itself is; adjacent "higher" level, l; adjacent "lower" level,
            l - 2, none for l = 2; or "dense" higher levels, l to L, the paper's choice.

    Returns:
        Their numbers, ascending.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> [connected_stages(stage, 5) for stage in (2, 3, 4, 5)]
        [[2, 3, 4, 5], [3, 4, 5], [4, 5], [5]]
    """
    _check_composition(composition)
    _check_count("stages", stages, 2)
    _check_count("stage", stage, 2)
    if stage > stages:
        raise ValueError(f"stage must be at most the number of stages, {stages}, got {stage}")
    found = {"same": [stage - 1], "higher": [stage], "lower": [stage - 2], "dense": [*range(stage, stages + 1)]}
    return [number for number in found[composition] if number > 0]


def composite_loss(lead: Tensor, assistants: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    """Compute L_lead + sum_i lambda_i L_i, over the losses of the head on the features of each backbone.

    Args:
        lead: Loss on the features of the lead, a scalar.
        assistants: Losses on those of the assistants, scalars, in the order in which they run.
        weights: lambda, one for each assistant, finite and at least 0; left out, the paper's for one, 0.5, and for two,
            0.5 and 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If there is not one weight for each assistant, or one is outside its range.

    Example:
        >>> composite_loss(torch.tensor(1.0), [torch.tensor(4.0)])
        tensor(3.)
    """
    shares = _PAPER_WEIGHTS.get(len(assistants)) if weights is None else weights
    if shares is None or len(shares) != len(assistants):
        raise ValueError(f"weights must be one for each of {len(assistants)} assistants, got {weights}")
    if not all(0 <= share < math.inf for share in shares):
        raise ValueError(f"weights must be finite and at least 0, got {weights}")
    return torch.stack([lead, *(share * loss for share, loss in zip(shares, assistants, strict=True))]).sum()


def _check_composition(composition: str) -> None:
    if composition not in _COMPOSITIONS:
        raise ValueError(f"composition must be one of {', '.join(_COMPOSITIONS)}, got {composition!r}")


def _check_count(name: str, count: int, least: int = 1) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")


@final
class CompositeConnection(nn.Module):
    """A 1x1 convolution and batch normalization that bring a map to the channels of another, and then to its size.

    What it gives is 0 at first.

    Args:
        in_channels: Channels of the map, at least 1.
        out_channels: Channels of what it is added to, at least 1.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> CompositeConnection(8, 4)(torch.ones(2, 8, 3, 3), size=(6, 5)).shape
        torch.Size([2, 4, 6, 5])
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        _check_count("in_channels", in_channels)
        _check_count("out_channels", out_channels)
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, height, width)."""
        mapped = self.norm(self.convolution(x))
        if mapped.shape[2] > size[0] or mapped.shape[3] > size[1]:
            return F.adaptive_avg_pool2d(mapped, size)
        return F.interpolate(mapped, size=size, mode="nearest")


@final
class CompositeFeatures(NamedTuple):
    """What the stages of a composite backbone put out.

    Attributes:
        lead: The maps of the last backbone, one for each stage, (N, C, H, W).
        assistants: The same of each of the others, in the order in which they run.
    """

    lead: tuple[Tensor, ...]
    assistants: tuple[tuple[Tensor, ...], ...]


@final
class CompositeBackbone(nn.Module):
    """A backbone, the lead, whose stages are fed by those of a copy of it, and these by those of another.

    With connections that give 0, as at the beginning, the lead does what it does alone; without a copy it always does,
    bit for bit.

    Args:
        stages: The backbone, pre-trained where that helps, of at least two stages: each maps the output of the one
            before to its own, (N, C, H, W). It is trained in place; assistants are copies of it as it is now.
        channels: C of the output of each stage.
        count: K, number of backbones, at least 1; the paper has 2 and 3.
        composition: As of `connected_stages`.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> stages = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1))
        >>> features = CompositeBackbone(stages, channels=(4, 8))(torch.zeros(2, 3, 8, 8))
        >>> [tuple(maps.shape) for maps in features.lead], len(features.assistants)
        ([(2, 4, 8, 8), (2, 8, 4, 4)], 1)
    """

    def __init__(
        self, stages: nn.Sequential, channels: Sequence[int], count: int = 2, composition: Composition = "dense"
    ) -> None:
        super().__init__()
        _check_count("count", count)
        _check_composition(composition)
        if not isinstance(stages, nn.Sequential) or len(stages) < 2:
            raise ValueError(f"stages must be a torch.nn.Sequential of at least 2, got {stages}")
        if len(channels) != len(stages):
            raise ValueError(f"channels must be one number for each of {len(stages)} stages, got {channels}")
        for number in channels:
            _check_count("channels", number)
        self.stages = stages
        self.channels = channels
        self.count = count
        self.composition: Composition = composition
        self.assistants = nn.ModuleList(copy.deepcopy(stages) for _ in range(count - 1))
        self.connections = nn.ModuleList(self._connected() for _ in range(count - 1))
        weight = next(stages.parameters(), None)
        if weight is not None:
            self.connections.to(weight)

    def _connected(self) -> nn.ModuleList:
        """Make the connections into one backbone, for each stage from the second on."""
        levels = len(self.channels)
        return nn.ModuleList(
            nn.ModuleList(
                CompositeConnection(self.channels[source - 1], self.channels[stage - 2])
                for source in connected_stages(stage, levels, self.composition)
            )
            for stage in range(2, levels + 1)
        )

    def forward(self, x: Tensor) -> CompositeFeatures:
        """Compute the maps of all stages of all backbones.

        Args:
            x: What the first stage takes, images (N, C, H, W).

        Returns:
            The maps.
        """
        outputs: list[tuple[Tensor, ...]] = []
        backbones: list[Any] = [*self.assistants, self.stages]
        for backbone, connections in zip(backbones, [None, *self.connections], strict=True):
            maps = (x,)
            for stage, run in enumerate(backbone, 1):
                given = maps[-1]
                if connections is not None and stage > 1:
                    sources = connected_stages(stage, len(self.channels), self.composition)
                    for source, connect in zip(sources, cast(Any, connections)[stage - 2], strict=True):
                        given = given + connect(outputs[-1][source - 1], given.shape[2:])
                maps = (*maps, run(given))
            outputs.append(maps[1:])
        return CompositeFeatures(outputs[-1], tuple(outputs[:-1]))
