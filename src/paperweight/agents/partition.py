"""Dealing the samples of one set to agents, evenly or by class."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Scheme", "partition"]

Scheme = Literal["iid", "classes", "half_half", "dirichlet"]

_SCHEMES: tuple[Scheme, ...] = ("iid", "classes", "half_half", "dirichlet")


def partition(
    labels: Tensor, agents: int, scheme: Scheme = "iid", *, alpha: float = 0.5, generator: torch.Generator
) -> list[Tensor]:
    """Deal samples to agents; every sample goes to exactly one agent, and every agent gets at least one.

    The schemes:

    - ``"iid"`` deals the samples of each class like cards: the numbers of an agent's samples, in all and of one class,
      differ by at most 1 from any other agent's.
    - ``"classes"`` deals whole classes: the first to agent 0, the second to agent 1, and around again. Where there are
      more agents than classes, the agents go around instead, and those of one class share it evenly.
    - ``"half_half"`` deals half of the samples of each class by ``"iid"`` and the others by ``"classes"``. To have the
      halves apart, as for pre-training on one and tuning on the other, halve by ``partition(labels, 2)`` and deal each.
    - ``"dirichlet"`` draws for each class the shares of the agents from a symmetric Dirichlet distribution. An agent
      that would be left without a sample gets one of the agent with most.

    Args:
        labels: Class number of each sample, int64, (N,), N at least ``agents``; class numbers may have gaps.
        agents: Number of agents, at least 1.
        scheme: How to deal.
        alpha: Concentration of ``"dirichlet"``, above 0: small for few classes an agent, large for even shares.
        generator: Decides which samples go where, and of ``"dirichlet"`` the shares. On the CPU.

    Returns:
        For each agent the indices of its samples, int64, ascending, on the device of ``labels``.

    Raises:
        ValueError: If an argument is outside its range, or there are fewer samples than agents.

    Example:
        >>> labels = torch.arange(100) % 10
        >>> parts = partition(labels, 5, "classes", generator=torch.Generator().manual_seed(0))
        >>> [labels[part].unique().tolist() for part in parts[:2]], len(parts[0])
        ([[0, 5], [1, 6]], 20)
    """
    if scheme not in _SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(_SCHEMES)}; got {scheme!r}")
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (N,), got {tuple(labels.shape)}")
    if not isinstance(agents, int) or not 1 <= agents <= len(labels):
        raise ValueError(f"agents must be a whole number from 1 to {len(labels)}, one sample each, got {agents}")
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}")
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels.cpu()[order]
    members = [order[shuffled == number] for number in shuffled.unique()]
    if scheme == "iid":
        owners = _dealt(members, agents)
    elif scheme == "classes":
        owners = _by_class(members, agents)
    elif scheme == "half_half":
        owners = _half_half(members, agents)
    else:
        owners = _dirichlet(members, agents, alpha, generator)
    hands = [torch.cat(hand).sort().values for hand in owners]
    for hand in (number for number, hand in enumerate(hands) if not len(hand)):
        most = max(range(agents), key=lambda agent: len(hands[agent]))
        hands[hand], hands[most] = hands[most][-1:], hands[most][:-1]
    return [hand.to(labels.device) for hand in hands]


def _dealt(members: list[Tensor], agents: int) -> list[list[Tensor]]:
    """Deal all samples in turn, class after class, so that each class begins where the last one ended."""
    cards = torch.cat(members)
    return [[cards[agent::agents]] for agent in range(agents)]


def _by_class(members: list[Tensor], agents: int) -> list[list[Tensor]]:
    """Deal whole classes in turn; where there are fewer classes than agents, the agents of one share it."""
    hands: list[list[Tensor]] = [[members[0][:0]] for _ in range(agents)]
    for number, samples in enumerate(members):
        owners = [number % agents] if agents <= len(members) else range(number, agents, len(members))
        for place, owner in enumerate(owners):
            hands[owner].append(samples[place :: len(owners)])
    return hands


def _half_half(members: list[Tensor], agents: int) -> list[list[Tensor]]:
    halves = [(samples[: len(samples) // 2], samples[len(samples) // 2 :]) for samples in members]
    even, by_class = zip(*halves, strict=True)
    return [a + b for a, b in zip(_dealt([*even], agents), _by_class([*by_class], agents), strict=True)]


def _dirichlet(members: list[Tensor], agents: int, alpha: float, generator: torch.Generator) -> list[list[Tensor]]:
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    hands: list[list[Tensor]] = [[] for _ in range(agents)]
    for samples in members:
        ends = np.rint(draw.dirichlet([alpha] * agents).cumsum() * len(samples)).astype(int)[:-1]
        for hand, part in zip(hands, samples.tensor_split(torch.from_numpy(ends)), strict=True):
            hand.append(part)
    return hands
