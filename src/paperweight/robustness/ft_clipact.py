"""FT-ClipAct: activations beyond a threshold are set to zero, so that faults in stored weights do less harm.

A bit of a stored weight that turns may make the weight huge, and with it the activations, which swamp all that follows.
Every ReLU gives 0 above a threshold of its layer, at first the largest activation without faults; then each threshold
is searched for, one layer after the other, by the accuracy under faults in that layer. No weight is trained.
Cost: one comparison an activation; to find the thresholds some passes over images for each layer, rate and fault map.

Source:
    L.-H. Hoang, M. A. Hanif, M. Shafique, "FT-ClipAct: Resilience Analysis of Deep Neural Networks and Improving their
    Fault Tolerance using Clipped Activation", DATE 2020, https://arxiv.org/abs/1912.00941.

Deviations:
    - The search stops after ``rounds``, or once a round raises the area by no more than ``tolerance``; the paper's
      exact rule is uncertain. Every threshold of a layer is judged under the same faults.
    - The layer of a ReLU is what has weights and is called after the ReLU before.
    - Accuracy under faults is measured as the part that measures it says.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating, replace_modules
from paperweight.robustness._weight_faults import (
    FaultKind,
    accuracy_under_faults,
    area_under_rates,
    check_whole,
)

__all__ = [
    "ClippedReLU",
    "accuracy_under_faults",
    "activation_maxima",
    "area_under_rates",
    "clip_activations",
    "tuned_thresholds",
]

PAPER = Paper(
    title="FT-ClipAct: Resilience Analysis of Deep Neural Networks and Improving their Fault Tolerance using Clipped "
    "Activation",
    authors=("Le-Ha Hoang", "Muhammad Abdullah Hanif", "Muhammad Shafique"),
    year=2020,
    url="https://arxiv.org/abs/1912.00941",
    provides={
        "ClippedReLU": "layer",
        "accuracy_under_faults": "function",
        "activation_maxima": "function",
        "area_under_rates": "function",
        "clip_activations": "defense",
        "tuned_thresholds": "function",
    },
    claim="Zeroing activations beyond tuned thresholds keeps accuracy under faults in weights, without training.",
)

_CHUNK = 1024


@final
class ClippedReLU(nn.Module):
    """ReLU that gives 0 above a threshold, and for what is not a number.

    Args:
        threshold: Largest activation that is passed on, at least 0; infinity for plain ReLU.

    Raises:
        ValueError: If the threshold is negative or not a number.

    Example:
        >>> ClippedReLU(2.0)(torch.tensor([-1.0, 0.5, 2.0, 2.1, math.inf]))
        tensor([0.0000, 0.5000, 2.0000, 0.0000, 0.0000])
    """

    def __init__(self, threshold: float) -> None:
        super().__init__()
        if isinstance(threshold, bool) or not threshold >= 0:
            raise ValueError(f"threshold must be at least 0, got {threshold!r}")
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Give the activations, of the shape of ``x``."""
        return torch.relu(x).masked_fill(~(x <= self.threshold), 0)

    def extra_repr(self) -> str:
        """Describe it in its network's printed form."""
        return f"threshold={self.threshold:g}"


def clip_activations(model: nn.Module, thresholds: float | Mapping[str, float]) -> nn.Module:
    """Copy a network with each `torch.nn.ReLU` replaced by a `ClippedReLU`.

    Args:
        model: The network; ReLU that it calls as a function is not found.
        thresholds: One for all, at least 0, or for each ReLU by its name in the network.

    Returns:
        The copy.

    Raises:
        ValueError: If a threshold is negative, not a number or missing, or the network has no ReLU.

    Example:
        >>> clip_activations(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), {"1": 3.0})
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): ClippedReLU(threshold=3)
        )
    """
    values = thresholds.values() if isinstance(thresholds, Mapping) else (thresholds,)
    if any(isinstance(value, bool) or not value >= 0 for value in values):
        raise ValueError(f"thresholds must be at least 0, got {thresholds!r}")
    place = ""

    def matches(name: str, part: nn.Module) -> bool:
        nonlocal place
        place = name
        return isinstance(part, (nn.ReLU, ClippedReLU))

    def build(_: nn.Module) -> nn.Module:
        if not isinstance(thresholds, Mapping):
            return ClippedReLU(thresholds)
        if place not in thresholds:
            raise ValueError(f"thresholds must have one for each ReLU, got none for {place!r}")
        return ClippedReLU(thresholds[place])

    return replace_modules(model, matches, build, wanted="a module of type ReLU")


def activation_maxima(model: nn.Module, inputs: Tensor) -> dict[str, float]:
    """Find the largest activation of each ReLU.

    Args:
        model: The network, looked at in eval mode.
        inputs: Inputs, (N, ...), at least one.

    Returns:
        By the name of each ReLU its largest activation.

    Raises:
        ValueError: If there are no inputs, or the network has no ReLU.

    Example:
        >>> activation_maxima(nn.Sequential(nn.Flatten(), nn.ReLU()), torch.tensor([[1.0, -3.0], [2.0, 0.0]]))
        {'1': 2.0}
    """
    if not len(inputs):
        raise ValueError("inputs must be one at least, got none")
    open_ = clip_activations(model, math.inf)
    found: dict[str, float] = {}

    def note(name: str, value: Any) -> None:
        found[name] = max(found.get(name, 0.0), value.max().item())

    for name, part in _clipped(open_).items():
        part.register_forward_hook(lambda _, __, value, name=name: note(name, value))
    with evaluating(open_), torch.no_grad():
        for chunk in inputs.split(_CHUNK):
            open_(chunk)
    return found


def tuned_thresholds(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    rates: Sequence[float],
    maps: int,
    generator: torch.Generator,
    kind: FaultKind = "flip",
    points: int = 4,
    rounds: int = 4,
    tolerance: float = 0.0,
) -> dict[str, float]:
    """Search a threshold for each ReLU, one after the other, by the area under accuracy with faults in its layer.

    In each round ``points`` thresholds that divide an interval evenly are judged; the next interval lies between the
    neighbours of the best so far. The first interval goes from 0 to the largest activation, which stays where no other
    is better. Layers that are not tuned yet have their largest activation as threshold.

    Args:
        model: Maps inputs to logits (N, classes).
        inputs: Inputs to judge by, (N, ...).
        labels: Class numbers, int64, (N,).
        rates: Rates of faults, above 0, ascending, at least two.
        maps: Draws of the faults at each rate, at least 1.
        generator: Source of the faults, on the CPU.
        kind: As in `weight_faults`.
        points: Thresholds a round, with both ends of the interval, at least 3.
        rounds: Most rounds for a layer, at least 1.
        tolerance: Gain of area of a round that is too little to go on, at least 0.

    Returns:
        By the name of each ReLU its threshold.

    Raises:
        ValueError: If a number is outside its range, or the network has no ReLU.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 2)).requires_grad_(False)
        >>> found = tuned_thresholds(model, torch.ones(4, 1), torch.zeros(4, dtype=torch.int64), rates=(1e-3, 1e-2),
        ...                          maps=2, generator=torch.Generator().manual_seed(0))
        >>> 0 <= found["1"] <= activation_maxima(model, torch.ones(4, 1))["1"]
        True
    """
    check_whole("points", points, 3)
    check_whole("rounds", rounds, 1)
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be at least 0 and finite, got {tolerance!r}")
    maxima = activation_maxima(model, inputs)
    clipped = clip_activations(model, maxima)
    layers = _weights_before(clipped, inputs[:1])
    for name, part in _clipped(clipped).items():
        seed = int(torch.randint(2**62, (1,), generator=generator))
        areas: dict[float, float] = {}

        def area(threshold: float, part: ClippedReLU = part, seed: int = seed, name: str = name) -> float:
            part.threshold = threshold
            source = torch.Generator().manual_seed(seed)
            accuracies = accuracy_under_faults(
                clipped, inputs, labels, rates=rates, maps=maps, generator=source, kind=kind, weights=layers[name]
            )
            return area_under_rates(rates, accuracies)

        low, high = 0.0, maxima[name]
        best = high
        areas[best] = before = area(best)
        for _ in range(rounds):
            grid = torch.linspace(low, high, points, dtype=torch.float64).tolist()
            for threshold in grid:
                if threshold not in areas and threshold > 0:
                    areas[threshold] = area(threshold)
            best = max(areas, key=lambda threshold: (areas[threshold], threshold))
            if areas[best] - before <= tolerance:
                break
            before = areas[best]
            known = sorted({0.0, *areas})
            place = known.index(best)
            low, high = known[place - 1], known[min(place + 1, len(known) - 1)]
        part.threshold = best
    return {name: part.threshold for name, part in _clipped(clipped).items()}


def _clipped(model: nn.Module) -> dict[str, ClippedReLU]:
    return {name: part for name, part in model.named_modules() if isinstance(part, ClippedReLU)}


def _weights_before(model: nn.Module, inputs: Tensor) -> dict[str, list[Tensor]]:
    """Give for each clipped ReLU the parameters of the modules that are called after the ReLU before."""
    looked = copy.deepcopy(model)
    real = dict(model.named_modules())
    found: dict[str, list[Tensor]] = {}
    since: list[Tensor] = []

    def note(name: str) -> None:
        if isinstance(real[name], ClippedReLU):
            found[name] = list(since)
            since.clear()
        else:
            since.extend(real[name].parameters(recurse=False))

    for name, part in looked.named_modules():
        part.register_forward_hook(lambda _, __, ___, name=name: note(name))
    with evaluating(looked), torch.no_grad():
        looked(inputs)
    return {name: found.get(name, []) for name in _clipped(model)}
