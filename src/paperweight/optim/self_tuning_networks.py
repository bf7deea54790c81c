"""Self-tuning networks (STN): dropout rates and other hyperparameters are tuned by gradients while a network trains.

Each layer has a second set of weights, of which it adds to the first as much as the hyperparameters say, so that the
network learns what its weights would become under hyperparameters near the present ones, drawn for each example: its
response. A step on held-out examples moves the hyperparameters to where the response has a lower loss.
Cost: twice the weights and multiplications; one held-out pass to two training steps. `settled` undoes the first.

Source:
    M. MacKay, P. Vicol, J. Lorraine, D. Duvenaud, R. Grosse, "Self-Tuning Networks: Bilevel Optimization of
    Hyperparameters using Structured Best-Response Functions", ICLR 2019, https://arxiv.org/abs/1903.03088, and the
    authors' code, https://github.com/asteroidhouse/self-tuning-networks, for defaults, initial values, spread, modes.
    Implemented: the responses of linear layers and convolutions, both updates, the entropy.

Deviations:
    - Of layers: see `_responses`. The authors change networks by hand; here `self_tuned` changes a copy of a given one.
    - Draws that a batch shares, and two step sizes for Adam are left out.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError
from paperweight.nets import evaluating, replace_modules
from paperweight.optim._hyperparameters import (
    Hyperparameter,
    Hyperparameters,
    Responding,
    SelfTuned,
    TunedDropout,
    gaussian_entropy,
    inverse_softplus,
)
from paperweight.optim._responses import HyperConv2d, HyperLinear, best_response, is_plain, plain, responding

__all__ = [
    "HyperConv2d",
    "HyperLinear",
    "Hyperparameter",
    "SelfTuned",
    "SelfTuner",
    "best_response",
    "self_tuned",
    "settled",
]

PAPER = Paper(
    title="Self-Tuning Networks: Bilevel Optimization of Hyperparameters using Structured Best-Response Functions",
    authors=("Matthew MacKay", "Paul Vicol", "Jonathan Lorraine", "David Duvenaud", "Roger Grosse"),
    year=2019,
    url="https://arxiv.org/abs/1903.03088",
    provides={
        "HyperLinear": "layer",
        "HyperConv2d": "layer",
        "SelfTuner": "training-procedure",
        "best_response": "function",
        "self_tuned": "function",
        "settled": "function",
    },
    null={"hyperparameters": 0},
    claim="Hyperparameters tuned while a network trains beat fixed ones found by search in the same time.",
)

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_MOST = 0.9  # the bound of a dropout rate, as in the authors' code


def self_tuned(model: nn.Module, more: Sequence[Hyperparameter] = ()) -> SelfTuned:
    """Copy a model with layers that respond to hyperparameters, the rate of each of its dropouts among them.

    Linear layers and convolutions padded by zeros get a second set of weights, but for those that are frozen. The rates
    of `torch.nn.Dropout` and of the dropouts of channels are hyperparameters of the names that the modules have; those
    that begin at 0, or not below the bound of 0.9, stay as they are. In training each example has rates of its own.

    Args:
        model: The model, which stays as it was.
        more: Further hyperparameters, which the objective given to `SelfTuner` uses.

    Returns:
        The copy.

    Raises:
        ValueError: If there is no such layer, or no hyperparameter, or two have the same name.

    Example:
        >>> model = self_tuned(nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2)))
        >>> {name: round(value, 4) for name, value in model.present().items()}
        {'0': 0.3}
    """
    places = [
        (f"{place}.{name}" if place else name, part)
        for place, parent in model.named_modules()
        for name, part in parent._modules.items()
        if isinstance(part, _DROPOUTS) and type(part) in _DROPOUTS and 0 < part.p < _MOST
    ]
    given = [*(Hyperparameter(name, part.p, 0.0, _MOST) for name, part in places), *more]
    if not given:
        raise InputError("model must hold a dropout at a rate above 0, or more a hyperparameter, got neither")
    if len({each.name for each in given}) < len(given):
        raise ValueError(f"more must have names of their own, no dropout's, got {more}")
    hyperparameters = Hyperparameters(given)
    network = replace_modules(
        model,
        lambda _, part: is_plain(part) and part.get_parameter("weight").requires_grad,
        lambda layer: Responding(responding(layer, len(given)), hyperparameters),
        wanted="a linear layer, or a convolution padded by zeros, that is not frozen",
    )
    for number, (name, part) in enumerate(places):
        parent, _, last = name.rpartition(".")
        tuned = TunedDropout(number, type(part), hyperparameters)
        network.get_submodule(parent).register_module(last, tuned.train(part.training))
    return SelfTuned(network, hyperparameters.to(next(network.parameters()).device)).train(model.training)


def settled(model: SelfTuned) -> nn.Module:
    """Copy a model with the weights that it has under the present hyperparameters, as plain layers.

    Args:
        model: A model from `self_tuned`, which stays as it was.

    Returns:
        A network as the one that was given to `self_tuned`, its dropouts at the present rates.

    Raises:
        ValueError: If the model is another.

    Example:
        >>> settled(self_tuned(nn.Sequential(nn.Dropout(0.25), nn.Linear(4, 2))))
        Sequential(
          (0): Dropout(p=0.25, inplace=False)
          (1): Linear(in_features=4, out_features=2, bias=True)
        )
    """
    _check_tuned(model)
    present = [round(value, 6) for value in model.present().values()]
    network = replace_modules(
        model.network,
        lambda _, part: isinstance(part, Responding),
        lambda part: plain(part.get_submodule("layer"), model.hyperparameters.raw),
        wanted="a layer that responds",
    )
    for name, part in list(network.named_modules()):
        if isinstance(part, TunedDropout):
            parent, _, last = name.rpartition(".")
            network.get_submodule(parent).register_module(last, part.plain(present[part.number]).train(part.training))
    return network


@final
class SelfTuner:
    """Trains a model that responds to hyperparameters, and tunes them on held-out examples.

    Call `step` on training batches, and `tune` on held-out batches: in the paper once after every two steps, after some
    epochs without.

    Args:
        model: A model from `self_tuned`; trained in place.
        optimizer: Holds the model's parameters, which hyperparameters are not among.
        hyper_lr: Step size of Adam for raw values and spreads, finite and at least 0; 0.003 in the authors' code.
        sigma: Spread of the raw values about the present ones to begin with, finite and above 0; 0.5 in their code.
        entropy_weight: tau, what a unit of entropy of the spreads is worth, finite and at least 0; 0.001 in their
            command for CIFAR-10.
        loss: Maps outputs and labels to a scalar; cross-entropy by default.
        objective: Gives the loss to train on from the model, inputs, labels and the values of each example by name,
            (B,); that of the outputs where left out. What hyperparameters other than dropout rates do, it does.
        generator: Source of the draws. Dropout draws from the global random state, as torch's own does.

    Raises:
        ValueError: If an argument is outside its range, the model another, or the optimizer lacks a parameter of it.

    Attributes:
        raw, raw_sigma: Raw values of the hyperparameters, as the model's, and their spreads before a softplus, (n,).

    Example:
        >>> model = self_tuned(nn.Sequential(nn.Dropout(0.05), nn.Linear(4, 2)))
        >>> optimizer, draw = torch.optim.SGD(model.parameters(), lr=0.1), torch.Generator().manual_seed(0)
        >>> tuner = SelfTuner(model, optimizer, generator=draw)
        >>> for number in range(6):
        ...     loss = tuner.step(torch.randn(8, 4), torch.arange(8) % 2)
        ...     if number % 2:
        ...         held_loss = tuner.tune(torch.randn(8, 4), torch.arange(8) % 2)
        >>> model.present()["0"] != 0.05
        True
    """

    def __init__(
        self,
        model: SelfTuned,
        optimizer: torch.optim.Optimizer,
        hyper_lr: float = 3e-3,
        sigma: float = 0.5,
        entropy_weight: float = 1e-3,
        loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        objective: Callable[[nn.Module, Tensor, Tensor, dict[str, Tensor]], Tensor] | None = None,
        *,
        generator: torch.Generator,
    ) -> None:
        _check_tuned(model)
        for name, value in (("hyper_lr", hyper_lr), ("entropy_weight", entropy_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma must be finite and above 0, got {sigma}")
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if not held.issuperset(parameter for parameter in model.parameters() if parameter.requires_grad):
            raise ValueError("optimizer must hold all trained parameters of the model; make it of what self_tuned gave")
        self.model = model
        self.optimizer = optimizer
        self.hyper_lr = hyper_lr
        self.sigma = sigma
        self.entropy_weight = entropy_weight
        self.loss = loss
        self.objective = objective
        self.generator = generator
        raw = model.hyperparameters.raw
        self.raw = nn.Parameter(raw.to(torch.promote_types(raw.dtype, torch.float32), copy=True))
        self.raw_sigma = nn.Parameter(torch.full_like(self.raw, inverse_softplus(sigma)))
        self._hyper_optimizer = torch.optim.Adam([self.raw, self.raw_sigma], lr=hyper_lr)

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Update the weights on a training batch, in train mode, under hyperparameters drawn for each example.

        Args:
            inputs: (B, ...), B at least 1.
            labels: What ``loss`` compares with, (B, ...).

        Returns:
            The loss before the update, a scalar.
        """
        self.model.train()
        hyperparameters = self.model.hyperparameters
        with hyperparameters.of_batch(self._drawn(inputs).detach()):
            if self.objective is None:
                loss = self.loss(self.model(inputs), labels)
            else:
                loss = self.objective(self.model, inputs, labels, hyperparameters.values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def tune(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Update the hyperparameters and their spreads on a held-out batch, in eval mode, in which nothing is dropped.

        Args:
            inputs: (B, ...), B at least 1.
            labels: (B, ...).

        Returns:
            The loss before the update, without the entropy.
        """
        hyperparameters = self.model.hyperparameters
        if not torch.equal(self.raw.detach().to(hyperparameters.raw), hyperparameters.raw):
            with torch.no_grad():
                self.raw.copy_(hyperparameters.raw)  # the model was loaded since
        with evaluating(self.model), hyperparameters.of_batch(self._drawn(inputs)):
            loss = self.loss(self.model(inputs), labels)
        objective = loss - self.entropy_weight * gaussian_entropy(F.softplus(self.raw_sigma))
        self.raw.grad, self.raw_sigma.grad = torch.autograd.grad(objective, (self.raw, self.raw_sigma))
        self._hyper_optimizer.step()
        hyperparameters.raw.copy_(self.raw.detach())
        return loss.detach()

    def _drawn(self, inputs: Tensor) -> Tensor:
        """Draw raw values for each example, (B, n)."""
        if not len(inputs):
            raise ValueError(f"inputs must hold at least one example, got shape {tuple(inputs.shape)}")
        draws, like = self.generator, self.raw
        noise = torch.randn(len(inputs), len(like), generator=draws, dtype=like.dtype, device=draws.device)
        return self.raw + F.softplus(self.raw_sigma) * noise.to(like.device)

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, the generator's state among it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "raw": self.raw.detach().clone(),
            "raw_sigma": self.raw_sigma.detach().clone(),
            "hyper_optimizer": self._hyper_optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        with torch.no_grad():
            self.raw.copy_(state_dict["raw"])
            self.raw_sigma.copy_(state_dict["raw_sigma"])
        self.model.hyperparameters.raw.copy_(state_dict["raw"])
        self._hyper_optimizer.load_state_dict(state_dict["hyper_optimizer"])
        self.generator.set_state(state_dict["generator"])


def _check_tuned(model: nn.Module) -> None:
    if not isinstance(model, SelfTuned):
        raise ValueError(f"model must be one that self_tuned made, got {type(model).__name__}")
