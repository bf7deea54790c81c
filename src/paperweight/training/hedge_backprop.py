"""Hedge backpropagation: a classifier at every depth, weighed by how well it has done so far on the stream.

Shallow classifiers learn fast and deep ones learn more; how deep a network should be shows only once the stream has
been seen. Here each layer's input has a classifier, the prediction is their weighted mean, and weights, which share out
the gradient, too, are discounted by the loss after every example.
Cost: a linear layer for each layer, in training and afterwards.

Source:
    D. Sahoo, Q. Pham, J. Lu, S. C. H. Hoi, "Online Deep Learning: Learning Deep Neural Networks on the Fly", IJCAI,
    2018, https://arxiv.org/abs/1711.03705. Implemented: algorithm 1 and the prediction (equation 1). How losses are
    brought to [0, 1] is as in the authors' code, https://github.com/LIBOL/ODL.

Deviations:
    - Losses that are all equal discount nothing; the authors' code divides 0 by 0.
    - Any network may be given; its last layer is the deepest classifier. As in the paper there is one on the input.
    - Maps are averaged to a grid before a classifier sees them, and tokens to their mean; the paper has neither.
    - A batch counts as one example, with its mean losses. Any optimizer may be used; the paper has SGD.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from paperweight.catalogue import Paper
from paperweight.errors import InputError

__all__ = ["HedgeBackprop", "Hedged", "HedgedNetwork", "hedge_weights", "hedged_loss"]

PAPER = Paper(
    title="Online Deep Learning: Learning Deep Neural Networks on the Fly",
    authors=("Doyen Sahoo", "Quang Pham", "Jing Lu", "Steven C. H. Hoi"),
    year=2017,
    url="https://arxiv.org/abs/1711.03705",
    provides={
        "HedgeBackprop": "training-procedure",
        "HedgedNetwork": "network",
        "hedged_loss": "loss",
        "hedge_weights": "function",
    },
    null={"taps": ()},
    claim="On streams, with drift or without, it errs less than a network of any fixed depth.",
)


class Hedged(NamedTuple):
    """Scores of each classifier, (N, classes), the shallowest first, and their weights, (classifiers,)."""

    scores: tuple[Tensor, ...]
    weights: Tensor


def _mixture(outputs: Hedged) -> Tensor:
    """Compute log F(x) = log sum_l alpha_l softmax(s_l), equation 1."""
    logs = torch.stack(outputs.scores).log_softmax(dim=2)
    return torch.logsumexp(logs + outputs.weights.log()[:, None, None], dim=0)


def _losses(scores: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Compute the cross-entropy L_l of each classifier, (classifiers,), each the mean over the batch."""
    shapes = [tuple(each.shape) for each in scores]
    if any(len(shape) != 2 or 0 in shape or shape[:1] != tuple(labels.shape) for shape in shapes):
        raise ValueError(f"labels must be one for each row of scores, got {tuple(labels.shape)} for {shapes}")
    return torch.stack([F.cross_entropy(each, labels) for each in scores])


def hedged_loss(outputs: Hedged, labels: Tensor) -> Tensor:
    """Compute sum_l alpha_l L_l, whose gradients are those of equations 2 and 3.

    Args:
        outputs: What `HedgedNetwork` gives in training.
        labels: Class numbers, int64, (N,).

    Returns:
        The loss, a scalar.

    Example:
        >>> outputs = Hedged((torch.zeros(2, 4), torch.zeros(2, 4)), torch.tensor([0.25, 0.75]))
        >>> hedged_loss(outputs, torch.tensor([0, 3]))
        tensor(1.3863)
    """
    scores, weights = outputs
    return (weights.clone() * _losses(scores, labels)).sum()


def hedge_weights(weights: Tensor, losses: Tensor, beta: float = 0.99, smooth: float = 0.2) -> Tensor:
    """Discount each weight by beta^l, with losses l scaled to [0, 1]; raise it to the floor; make them sum to 1.

    Args:
        weights: Weight of each classifier, (classifiers,).
        losses: Its loss, (classifiers,); where one is not finite the weights stay as they are.
        beta: The discount, above 0 and at most 1; the paper has 0.99. At 1 no weight is discounted.
        smooth: The floor times the number of classifiers, from 0 to 1; the paper has 0.2.

    Returns:
        The new weights.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> hedge_weights(torch.tensor([0.5, 0.5]), torch.tensor([3.0, 1.0]), beta=0.5)
        tensor([0.3333, 0.6667])
    """
    _check_hedge(beta, smooth)
    if weights.ndim != 1 or not len(weights) or weights.shape != losses.shape:
        shapes = f"{tuple(weights.shape)} and {tuple(losses.shape)}"
        raise ValueError(f"weights and losses must be one each for a classifier, got shapes {shapes}")
    spread = losses.max() - losses.min()
    scaled = (losses - losses.min()) / torch.where(spread == 0, torch.ones_like(spread), spread)
    raised = (weights * beta**scaled).clamp(min=smooth / len(weights))
    return torch.where(losses.isfinite().all(), raised / raised.sum(), weights).to(weights)


@final
class HedgedNetwork(nn.Module):
    """A classifier with a linear classifier on what each of its layers takes, the input among them.

    In train mode it gives `Hedged`, in eval mode the logarithm of the weighted mean of all predictions. The classifier
    is trained in place, as the deepest. Of a layer that is called several times the last call counts.

    Args:
        model: The classifier.
        classes: Scores a classifier, at least 2, as many as the model gives.
        taps: Names of the layers in the model before which a classifier stands, from shallow to deep, each a
            `torch.nn.Conv2d` or `torch.nn.Linear`; left out, all of these but those inside attention, which
            torch does not call, and the one that is registered last. With
            none it is the model alone.
        grid: Maps are averaged to ``grid x grid`` pixels, at least 1.
        generator: Source of the classifiers' initial weights, on the CPU; torch's global stream where it is left out.

    Attributes:
        weights: The weight alpha of each classifier, a buffer, (classifiers,).

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> hedged = HedgedNetwork(model, classes=10)
        >>> hedged.names, [head.in_features for head in hedged.heads], hedged.weights
        (('1',), [64], tensor([0.5000, 0.5000]))
        >>> hedged.eval()(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
    """

    weights: Tensor

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        taps: Sequence[str] | None = None,
        grid: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, count, least in (("classes", classes, 2), ("grid", grid, 1)):
            if not isinstance(count, int) or isinstance(count, bool) or count < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {count!r}")
        layers = {name: part for name, part in model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
        called = [name for name, part in layers.items() if not isinstance(part, NonDynamicallyQuantizableLinear)]
        names = tuple(called)[:-1] if taps is None else tuple(taps)
        if len(set(names)) < len(names) or not set(names) <= set(layers):
            raise ValueError(f"taps must name Conv2d or Linear layers, each once, got {list(names)} of {list(layers)}")
        self.model, self.classes, self.taps, self.grid, self.generator = model, classes, taps, grid, generator
        self.names = names
        self.heads = nn.ModuleList([_head(layers[name], classes, grid, generator) for name in names])
        like = next(model.parameters(), torch.zeros(()))
        self.register_buffer("weights", like.new_full((len(names) + 1,), 1 / (len(names) + 1), requires_grad=False))

    def forward(self, x: Tensor) -> Hedged | Tensor:
        """Compute the scores.

        Args:
            x: Inputs of the classifier, (N, ...).

        Returns:
            In train mode scores and weights of all classifiers, in eval mode log-probabilities, (N, classes).

        Raises:
            InputError: If the model does not call one of the layers, or gives other scores than the number of classes.
        """
        seen: dict[nn.Module, Tensor] = {}

        def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[layer] = _features(layer, inputs[0], self.grid)

        layers = [self.model.get_submodule(name) for name in self.names]
        hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
        try:
            logits = self.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        if idle := [name for name, layer in zip(self.names, layers, strict=True) if layer not in seen]:
            raise InputError(f"taps must be layers that the model calls, it does not call {idle[0]!r}; leave it out")
        if not isinstance(logits, Tensor) or logits.ndim < 2 or logits.shape[-1] != self.classes:
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"model must give scores (N, {self.classes}), classes being {self.classes}, got {got}")
        scores = (*(head(seen[layer]) for layer, head in zip(layers, self.heads, strict=True)), logits)
        outputs = Hedged(scores, self.weights)
        return outputs if self.training else _mixture(outputs)


def _features(layer: nn.Module, taken: Tensor, grid: int) -> Tensor:
    """Give what a layer takes as (N, features): of maps the means of a grid, of tokens the mean; and always a copy."""
    if isinstance(layer, nn.Conv2d):
        return F.adaptive_avg_pool2d(taken, grid).flatten(1)
    return taken.reshape(len(taken), -1, taken.shape[-1]).mean(dim=1)


def _head(layer: nn.Conv2d | nn.Linear, classes: int, grid: int, generator: torch.Generator | None) -> nn.Linear:
    """Make a classifier on the device and of the format of its layer, as `torch.nn.Linear` is initialised."""
    features = layer.in_channels * grid**2 if isinstance(layer, nn.Conv2d) else layer.in_features
    head = nn.Linear(features, classes, device="meta").to_empty(device="cpu")
    bound = 1 / math.sqrt(features)
    for parameter in head.parameters():
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return head.to(next(layer.parameters()))


def _check_hedge(beta: float, smooth: float) -> None:
    if isinstance(beta, bool) or not 0 < beta <= 1:
        raise ValueError(f"beta must be above 0 and at most 1, got {beta}; at 1 no weight is discounted")
    if isinstance(smooth, bool) or not 0 <= smooth <= 1:
        raise ValueError(f"smooth must be from 0 to 1, got {smooth}")


@final
class HedgeBackprop:
    """Training on a stream: predict, learn from what is shown, and hedge.

    Args:
        model: The network with its classifiers; trained in place.
        optimizer: Holds all its parameters; with SGD it is the paper's online gradient descent.
        beta: The discount of `hedge_weights`, above 0 and at most 1.
        smooth: The floor of `hedge_weights`, from 0 to 1.

    Attributes:
        predictions: The class numbers that the last step predicted before it saw the labels, (N,).

    Raises:
        ValueError: If an argument is outside its range, or ``optimizer`` lacks a parameter.

    Example:
        >>> model = HedgedNetwork(nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2)), classes=2)
        >>> training = HedgeBackprop(model, torch.optim.SGD(model.parameters(), lr=0.01))
        >>> loss = training.step(torch.tensor([[0.5, -1.0]]), torch.tensor([1]))
        >>> training.predictions.shape, round(model.weights.sum().item(), 4)
        (torch.Size([1]), 1.0)
    """

    def __init__(
        self, model: HedgedNetwork, optimizer: torch.optim.Optimizer, beta: float = 0.99, smooth: float = 0.2
    ) -> None:
        _check_hedge(beta, smooth)
        if not isinstance(model, HedgedNetwork):
            raise ValueError(f"model must be a HedgedNetwork, got {type(model).__name__}")
        held = {p for group in optimizer.param_groups for p in group["params"]}
        if missing := [name for name, p in model.named_parameters() if p.requires_grad and p not in held]:
            raise ValueError(f"optimizer must hold all of model, not without {missing[0]}; make it after the network")
        self.model, self.optimizer, self.beta, self.smooth = model, optimizer, beta, smooth
        self.predictions = torch.zeros(0, dtype=torch.int64)

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Predict a batch, train on it, and give its loss; one example is a batch of one.

        Args:
            inputs: What the model takes, (N, ...), N at least 1.
            labels: Class numbers, int64, (N,).

        Returns:
            The loss before the update.
        """
        outputs: Hedged = self.model.train()(inputs)
        loss = hedged_loss(outputs, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.predictions = _mixture(outputs).argmax(dim=1)
            losses = _losses(outputs.scores, labels)
            self.model.weights.copy_(hedge_weights(outputs.weights, losses, self.beta, self.smooth))
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the optimizer, the classifiers, and their weights."""
        heads, weights = self.model.heads.state_dict(), self.model.weights
        return {"heads": heads, "weights": weights, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave; the weights of the classifier itself are its own."""
        self.model.heads.load_state_dict(state_dict["heads"])
        self.model.weights.copy_(state_dict["weights"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
