"""DomainDrop: channels by which a discriminator tells the domain of an example are dropped while a classifier trains.

Each of several places of a network has a discriminator, a linear layer on the means of its channels, that is trained to
tell the domain, while the network is trained that it cannot. In most steps one place drops, of each example, those
channels that speak most for its domain; two passes with different draws are to agree. After training nothing is left.
Cost: twice the passes in training, for the agreement, and a linear layer at each place; nothing afterwards.

Source:
    J. Guo, L. Qi, Y. Shi, "DomainDrop: Suppressing Domain-Sensitive Channels for Domain Generalization", ICCV 2023,
    https://arxiv.org/abs/2308.10285, and the authors' code, https://github.com/lingeringlight/DomainDrop, which the
    scores, the reduction of the divergence and all defaults follow.

Deviations:
    - Of scores and masks: see `_channels`.
    - The gradient is reversed at the means of the channels, not at the maps: the same, since means are linear.
    - Places are any modules of any network, named; the authors have the four stages of a ResNet.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, cast, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.regularization._channels import check_drop, domain_sensitivity, drop_mask, reverse_gradient

__all__ = ["DomainDrop", "DomainOutputs", "consistency_loss", "domain_sensitivity", "domaindrop_loss", "drop_mask"]

PAPER = Paper(
    title="DomainDrop: Suppressing Domain-Sensitive Channels for Domain Generalization",
    authors=("Jintao Guo", "Lei Qi", "Yinghuan Shi"),
    year=2023,
    url="https://arxiv.org/abs/2308.10285",
    provides={
        "DomainDrop": "layer",
        "consistency_loss": "loss",
        "domain_sensitivity": "function",
        "drop_mask": "function",
        "domaindrop_loss": "function",
    },
    null={"drop": 0.0},
    claim="Classifiers that cannot rely on domain-sensitive channels are more accurate on domains they never saw.",
)


def consistency_loss(first: Tensor, second: Tensor, temperature: float = 5.0) -> Tensor:
    """Compute half the sum of both divergences between two predictions, the mean over examples and classes.

    Args:
        first: Logits, (N, classes), N at least 1.
        second: Logits of the same examples.
        temperature: What they are divided by, finite and above 0; 5 in the authors' code.

    Returns:
        A scalar; divided by the number of classes, as the authors' code has it.

    Raises:
        ValueError: If the shapes differ or are others, or the temperature is outside its range.

    Example:
        >>> consistency_loss(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor(0.)
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be finite and above 0, got {temperature}")
    if first.shape != second.shape or first.ndim != 2 or not first.numel():
        raise ValueError(
            f"second must have shape (N, classes) of first, got {tuple(second.shape)} for {tuple(first.shape)}"
        )
    p, q = (F.log_softmax(logits / temperature, dim=1) for logits in (first, second))
    return 0.5 * ((p.exp() - q.exp()) * (p - q)).mean()


class DomainOutputs(NamedTuple):
    """Logits of the classes, (N, classes), and of the domains at each place, (N, domains)."""

    logits: Tensor
    domain_logits: tuple[Tensor, ...]


@final
class DomainDrop(nn.Module):
    """A network with a discriminator of domains at several places, which drops channels in train mode.

    In train mode it is called with domains, and gives `DomainOutputs`; in eval mode it gives the network's outputs.
    Draws are from the global random state, as those of torch's dropout.

    Args:
        model: The network; what is trained is this, not a copy.
        places: Names of modules that the network calls once, with the number of channels C of their outputs,
            (N, C, ...); at least one.
        domains: Number of domains, at least 2.
        drop: Share of the channels that is dropped, at least 0 and below 1; 0.33 in the authors' code.
        reversal: What the gradient that reaches the network from the discriminators is multiplied by, and reversed;
            finite and at least 0; 0.25 in the authors' code.
        probability: Of dropping at one of the places, each as often, in a pass; from 0 to 1; 0.8 in their code.

    Raises:
        ValueError: If an argument is outside its range, or there is no such place.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5))
        >>> model = DomainDrop(network, {"1": 6}, domains=3)
        >>> images, labels, domains = torch.rand(9, 1, 4, 4), torch.arange(9) % 5, torch.arange(9) % 3
        >>> domaindrop_loss(model, images, labels, domains).backward()
        >>> model.eval()(images).shape
        torch.Size([9, 5])
    """

    def __init__(
        self,
        model: nn.Module,
        places: Mapping[str, int],
        domains: int,
        drop: float = 0.33,
        reversal: float = 0.25,
        probability: float = 0.8,
    ) -> None:
        check_drop(drop)
        names = [name for name, _ in model.named_modules() if name]
        if not places or any(place not in names for place in places):
            raise ValueError(f"places must be names of modules of the model, out of {names}, got {places}")
        for name, number, least in [
            ("domains", domains, 2),
            *(("places", channels, 1) for channels in places.values()),
        ]:
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise ValueError(f"{name} must have a whole number of at least {least}, got {number!r}")
        if not 0 <= reversal < math.inf:
            raise ValueError(f"reversal must be finite and at least 0, got {reversal}")
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, got {probability}")
        super().__init__()
        self.model = model
        self.places = dict(places)
        self.domains = domains
        self.drop = drop
        self.reversal = reversal
        self.probability = probability
        self.discriminators = nn.ModuleList(nn.Linear(channels, domains) for channels in places.values())

    def forward(self, x: Tensor, domains: Tensor | None = None) -> Tensor | DomainOutputs:
        """Compute the network's outputs, and in train mode those of the discriminators.

        Args:
            x: What the network takes, (N, ...), N at least 1.
            domains: Domain numbers, int64, (N,); not used in eval mode.

        Returns:
            The logits in eval mode, `DomainOutputs` in train mode.

        Raises:
            ValueError: If there are no domains in train mode, or others, or a place is not called once, or its channels
                are not as many.
        """
        if not self.training:
            return self.model(x)
        if domains is None or domains.shape != (len(x),) or domains.dtype != torch.int64 or not len(x):
            got = "none" if domains is None else f"{domains.dtype} of shape {tuple(domains.shape)}"
            raise ValueError(f"domains must be int64 of shape ({max(1, len(x))},) in train mode, got {got}")
        if domains.amin() < 0 or domains.amax() >= self.domains:
            raise ValueError(f"domains must be from 0 to {self.domains - 1}, got {domains.unique().tolist()}")
        dropped = int(torch.randint(len(self.places), ())) if torch.rand(()) < self.probability else -1
        found: list[list[Tensor]] = [[] for _ in self.places]

        def visit(number: int, _part: nn.Module, _inputs: Any, features: Any) -> Tensor:
            found[number].append(self._told(number, features))
            return self._suppressed(number, features, domains) if number == dropped else features

        hooks = [
            self.model.get_submodule(place).register_forward_hook(partial(visit, number))
            for number, place in enumerate(self.places)
        ]
        try:
            logits = self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        for place, calls in zip(self.places, found, strict=True):
            if len(calls) != 1:
                raise ValueError(f"places must be called once in a pass, {place!r} is {len(calls)} times")
        return DomainOutputs(logits, tuple(calls[0] for calls in found))

    def _told(self, number: int, features: Any) -> Tensor:
        """Give the logits of the domains, through which the gradient goes back reversed."""
        place, channels = list(self.places.items())[number]
        if not isinstance(features, Tensor) or features.ndim < 2 or features.shape[1] != channels:
            got = f"shape {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"places must give outputs (N, {channels}, ...) as said, {place!r} gives {got}")
        means = features.flatten(2).mean(2) if features.ndim > 2 else features
        return self.discriminators[number](reverse_gradient(means, self.reversal))

    def _suppressed(self, number: int, features: Tensor, domains: Tensor) -> Tensor:
        """Drop the channels that speak for the domains."""
        if int(self.drop * features.shape[1]) == 0:
            return features
        weights = cast(nn.Linear, self.discriminators[number]).weight.detach()[domains]
        mask = drop_mask(domain_sensitivity(features.detach(), weights), self.drop)
        return features * mask.view(*mask.shape, *[1] * (features.ndim - 2))


def domaindrop_loss(
    model: DomainDrop,
    inputs: Tensor,
    labels: Tensor,
    domains: Tensor,
    consistency: float = 1.5,
    temperature: float = 5.0,
) -> Tensor:
    """Compute the loss to train on: two passes at once, classified and told apart, which are to agree.

    It is the cross-entropy of the classes, plus the mean over the places of that of the domains, plus the weighted
    `consistency_loss` of both passes.

    Args:
        model: In train mode.
        inputs: (N, ...), N at least 1.
        labels: Class numbers, int64, (N,).
        domains: Domain numbers, int64, (N,).
        consistency: Weight of the agreement, finite and at least 0; 1.5 in the authors' code. At 0 one pass is made.
        temperature: As of `consistency_loss`.

    Returns:
        A scalar.

    Raises:
        ValueError: If an argument is outside its range, or the model is in eval mode.

    Example:
        >>> model = DomainDrop(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3)), {"1": 8}, domains=2)
        >>> loss = domaindrop_loss(model, torch.rand(6, 2), torch.arange(6) % 3, torch.arange(6) % 2)
        >>> bool(loss > 0)
        True
    """
    if not 0 <= consistency < math.inf:
        raise ValueError(f"consistency must be finite and at least 0, got {consistency}")
    if not model.training:
        raise ValueError("model must be in train mode, got one in eval mode; call model.train()")
    if consistency > 0:
        inputs, labels, domains = (torch.cat([tensor, tensor]) for tensor in (inputs, labels, domains))
    outputs = model(inputs, domains)
    told = torch.stack([F.cross_entropy(logits, domains) for logits in outputs.domain_logits])
    loss = F.cross_entropy(outputs.logits, labels) + told.mean()
    if consistency > 0:
        first, second = outputs.logits.chunk(2)
        loss = loss + consistency * consistency_loss(first, second, temperature)
    return loss
