"""Faults in stored weights, the accuracy of a network that has them, and its area over rates of faults.

Source:
    L.-H. Hoang, M. A. Hanif, M. Shafique, "FT-ClipAct: Resilience Analysis of Deep Neural Networks and Improving their
    Fault Tolerance using Clipped Activation", DATE 2020, https://arxiv.org/abs/1912.00941: bits of weights that turn or
    are stuck, independently, with one probability a bit.

Deviations:
    the area is under accuracy by the logarithm of the rate, as a share of its largest possible value; an output that
    is not a number counts as wrong
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from paperweight.nets import evaluating

__all__ = ["FaultKind", "accuracy_under_faults", "area_under_rates", "check_whole", "weight_faults"]

_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_CHUNK = 1024

FaultKind = Literal["flip", "stuck at 0", "stuck at 1"]


@contextmanager
def weight_faults(
    weights: Iterable[Tensor], rate: float, *, generator: torch.Generator, kind: FaultKind = "flip"
) -> Iterator[int]:
    """Change bits of stored weights within a ``with`` block; afterwards each has the bits that it had.

    Args:
        weights: Floating tensors of 16, 32 or 64 bits, changed in place.
        rate: Probability that a bit is faulty, in [0, 1].
        generator: Source of the faults, on the CPU.
        kind: ``flip`` turns a faulty bit, ``stuck at 0`` and ``stuck at 1`` give it that value.

    Yields:
        The number of faulty bits.

    Raises:
        ValueError: If the rate is outside its range, the kind unknown, or a tensor of another type.

    Example:
        >>> weight = torch.ones(3)
        >>> with weight_faults([weight], 1.0, generator=torch.Generator(), kind="stuck at 0") as faults:
        ...     faults, weight
        (96, tensor([0., 0., 0.]))
        >>> weight
        tensor([1., 1., 1.])
    """
    if isinstance(rate, bool) or not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate!r}")
    if kind not in get_args(FaultKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(FaultKind))}; got {kind!r}")
    stored = [each.detach() for each in weights]
    for each in stored:
        if not each.is_floating_point() or each.element_size() not in _WORDS:
            raise ValueError(f"weights must be floating numbers of 16, 32 or 64 bits, got {each.dtype}")
    before = [each.clone() for each in stored]
    total = 0
    try:
        for each in stored:
            total += _spoil(each, rate, kind, generator)
        yield total
    finally:
        for each, old in zip(stored, before, strict=True):
            each.copy_(old)


def accuracy_under_faults(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    rates: Sequence[float],
    maps: int,
    generator: torch.Generator,
    kind: FaultKind = "flip",
    weights: Iterable[Tensor] | None = None,
) -> Tensor:
    """Measure the accuracy of a network, in eval mode, with faults in its weights.

    Args:
        model: Maps inputs to logits (N, classes); its weights are as they were afterwards.
        inputs: Inputs, (N, ...), at least one.
        labels: Class numbers, int64, (N,).
        rates: Probabilities that a bit is faulty.
        maps: Independent draws of the faults at each rate, at least 1.
        generator: Source of the faults, on the CPU.
        kind: As in `weight_faults`.
        weights: The tensors that faults are in; all parameters by default.

    Returns:
        Accuracies, float64, (rates, maps).

    Raises:
        ValueError: If a number is outside its range, or there are no inputs.

    Example:
        >>> model = nn.Linear(1, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[-1.0], [1.0]]))
        >>> accuracy_under_faults(model, torch.tensor([[2.0], [-2.0]]), torch.tensor([1, 0]), rates=(0.0,), maps=2,
        ...                       generator=torch.Generator())
        tensor([[1., 1.]], dtype=torch.float64)
    """
    check_whole("maps", maps, 1)
    if any(isinstance(rate, bool) or not 0 <= rate <= 1 for rate in rates):
        raise ValueError(f"rates must be in [0, 1], got {tuple(rates)}")
    if not len(inputs) or len(inputs) != len(labels):
        raise ValueError(f"inputs must be one at least, a label for each, got {len(inputs)} and {len(labels)} labels")
    spoilt = list(model.parameters() if weights is None else weights)
    found = torch.zeros(len(rates), maps, dtype=torch.float64)
    with evaluating(model), torch.no_grad():
        for row, rate in enumerate(rates):
            for column in range(maps):
                with weight_faults(spoilt, rate, generator=generator, kind=kind):
                    found[row, column] = _right(model, inputs, labels)
    return found


def area_under_rates(rates: Sequence[float], accuracies: Tensor) -> float:
    """Compute the area under accuracy by the logarithm of the rate, as a share of the largest possible one.

    Args:
        rates: Rates, above 0, ascending, at least two.
        accuracies: Accuracies, (rates,) or (rates, maps), of which the mean counts.

    Returns:
        A share, 0 to 1, by the trapezoidal rule.

    Raises:
        ValueError: If rates are not such, or not as many as accuracies.

    Example:
        >>> area_under_rates((1e-6, 1e-5, 1e-4), torch.tensor([1.0, 0.5, 0.0]))
        0.5
    """
    places = torch.tensor(list(rates), dtype=torch.float64).log10()
    if len(places) < 2 or not bool(places.isfinite().all()) or not bool((places.diff() > 0).all()):
        raise ValueError(f"rates must be at least two, above 0 and ascending, got {tuple(rates)}")
    if len(accuracies) != len(places):
        raise ValueError(f"accuracies must be one for each of {len(places)} rates, got {len(accuracies)}")
    means = accuracies.double().reshape(len(places), -1).mean(dim=1)
    return float(torch.trapezoid(means, places) / (places[-1] - places[0]))


def _spoil(weight: Tensor, rate: float, kind: FaultKind, generator: torch.Generator) -> int:
    """Change faulty bits of a tensor in place, and give their number."""
    size = 8 * weight.element_size()
    bits = weight.numel() * size
    trials, probability = (torch.tensor(float(value), dtype=torch.float64) for value in (bits, rate))
    places = _distinct(bits, int(torch.binomial(trials, probability, generator)), generator)
    words, ones = places // size, torch.ones(1, dtype=torch.int64) << (places % size)
    touched, order = words.unique(return_inverse=True)
    masks = torch.zeros(len(touched), dtype=torch.int64).index_add_(0, order, ones).to(_WORDS[weight.element_size()])
    stored = weight.reshape(-1)
    old = stored[touched.to(weight.device)].view(_WORDS[weight.element_size()])
    masks = masks.to(weight.device)
    new = {"flip": old ^ masks, "stuck at 0": old & ~masks, "stuck at 1": old | masks}[kind]
    stored[touched.to(weight.device)] = new.view(weight.dtype)
    weight.copy_(stored.view_as(weight))
    return len(places)


def _distinct(total: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw different numbers below a total, every set of them as likely, ascending."""
    if 2 * count > total:
        return torch.randperm(total, generator=generator)[:count].sort().values
    chosen = torch.empty(0, dtype=torch.int64)
    while len(chosen) < count:
        more = torch.randint(total, (count - len(chosen),), generator=generator)
        chosen = torch.cat([chosen, more]).unique()
    return chosen


def _right(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Give the share of inputs that a network is right on; what is not a number is not right."""
    hits = 0
    for chunk, wanted in zip(inputs.split(_CHUNK), labels.split(_CHUNK), strict=True):
        logits = model(chunk)
        hits += int(((logits.argmax(dim=1) == wanted) & ~logits.isnan().any(dim=1)).sum())
    return hits / len(labels)


def check_whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
