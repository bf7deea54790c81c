"""Attacks on explainable models: change what a network says, and what an explanation says of it, both at once.

Who checks a prediction by its explanation sees three things: the input, the class and a map of what counted for it. An
attack may give a wrong class and leave the map as it was; leave the class and bend the map; or give a wrong class and a
map that speaks for it. All are one targeted ascent within a small ball, of the class's probability less the distance to
the wanted map.
Cost: a step takes a second backward pass, through the explanation.

========================================  ==================  ===============================================
to pass unnoticed                         labels              maps
========================================  ==================  ===============================================
a wrong class with the old explanation    the wrong classes   none: those of the inputs as they are
a new explanation of the right class      the right classes   what shall be shown
a wrong class with a fitting explanation  the wrong classes   such as explanations of inputs of these classes
========================================  ==================  ===============================================

Source:
    J. Vadillo, R. Santana, J. A. Lozano, "When and How to Fool Explainable Models (and Humans) with Adversarial
    Examples", 2021, https://arxiv.org/abs/2107.01943: which of class and explanation an attack changes; gradients as
    explanations: K. Simonyan et al. 2013, https://arxiv.org/abs/1312.6034; Grad-CAM: R. R. Selvaraju et al. 2017,
    https://arxiv.org/abs/1610.02391; softplus in place of ReLU: A.-K. Dombrowski et al. 2019,
    https://arxiv.org/abs/1906.07983.

Deviations:
    - The paper is a survey and gives no algorithm: objective, cosine distance and ascent are those that are usual.
    - Explanations by examples, and inputs that are ambiguous or of no class from the start, are left out.
"""

import math
from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import project, steepest_step
from paperweight.catalogue import Paper
from paperweight.nets import evaluating, replace_modules

__all__ = ["Explain", "JointAttack", "explanation_distance", "grad_cam", "input_gradient", "softened"]

PAPER = Paper(
    title="When and How to Fool Explainable Models (and Humans) with Adversarial Examples",
    authors=("Jon Vadillo", "Roberto Santana", "Jose A. Lozano"),
    year=2021,
    url="https://arxiv.org/abs/2107.01943",
    provides={
        "JointAttack": "attack",
        "input_gradient": "function",
        "grad_cam": "function",
        "explanation_distance": "function",
        "softened": "function",
    },
    null={"lam": 0.0},
    claim="An attack can change the class that a network gives and leave its explanation as it was.",
)

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Maps a model, inputs and class numbers to maps, (N, ...), through which gradients pass, `input_gradient` say."""


def input_gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Give the gradient of the logit of a class with respect to the input.

    Args:
        model: Maps inputs to logits (N, classes), each from its own input.
        inputs: Inputs, (N, ...).
        labels: Class numbers, int64, (N,).

    Returns:
        Maps of the shape of the inputs; gradients pass through them where the inputs require them.

    Raises:
        ValueError: If labels are not as above.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> input_gradient(model, torch.zeros(1, 2), torch.tensor([1]))
        tensor([[3., 4.]])
    """
    _check_labels(labels, len(inputs))
    place = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(place).gather(1, labels[:, None]).sum()
        (gradient,) = torch.autograd.grad(logits, place, create_graph=inputs.requires_grad)
    return gradient


def grad_cam(model: nn.Module, inputs: Tensor, labels: Tensor, *, layer: str) -> Tensor:
    """Give where channels that speak for a class are active: relu(sum over channels of mean gradient x activation).

    Args:
        model: Maps inputs to logits (N, classes), each from its own input.
        inputs: Inputs, (N, ...).
        labels: Class numbers, int64, (N,).
        layer: Name of the layer whose output, (N, channels, H, W), is looked at; called once in a pass.

    Returns:
        Maps, (N, H, W), at least 0; gradients pass through them where the inputs require them.

    Raises:
        ValueError: If labels are not as above, there is no such layer, or its output has another shape.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> grad_cam(model, torch.tensor([[[[4.0, -8.0]]]]), torch.tensor([0]), layer="0")
        tensor([[[2., 0.]]])
    """
    _check_labels(labels, len(inputs))
    parts = dict(model.named_modules())
    if layer not in parts:
        raise ValueError(f"layer must name a part of the model, got {layer!r}")
    seen = list[Tensor]()
    hook = parts[layer].register_forward_hook(lambda *call: seen.append(call[-1]))
    place = inputs if inputs.requires_grad else inputs.detach().requires_grad_()
    try:
        with torch.enable_grad():
            logits = model(place).gather(1, labels[:, None]).sum()
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].ndim != 4:
        raise ValueError(f"layer must be called once and give (N, channels, H, W), which {layer!r} does not")
    (gradient,) = torch.autograd.grad(logits, seen[0], create_graph=inputs.requires_grad)
    maps = (gradient.mean(dim=(2, 3), keepdim=True) * seen[0]).sum(dim=1).relu()
    return maps if inputs.requires_grad else maps.detach()


def explanation_distance(first: Tensor, second: Tensor) -> Tensor:
    """Give 1 less the cosine between maps: 0 for maps of one direction, 1 where nothing is in common, at most 2.

    Args:
        first: Maps, (N, ...).
        second: Maps of the same shape.

    Returns:
        Distances, (N,); 1 where one of the maps is 0.

    Raises:
        ValueError: If the shapes differ, or have no dimension beside the first.

    Example:
        >>> explanation_distance(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 3.0], [0.0, -1.0]]))
        tensor([1., 2.])
    """
    if first.shape != second.shape or first.ndim < 2:
        raise ValueError(f"first and second must be (N, ...) alike, got {tuple(first.shape)} and {tuple(second.shape)}")
    one, other = (F.normalize(maps.flatten(1), dim=1, eps=torch.finfo(maps.dtype).tiny) for maps in (first, second))
    return 1 - (one * other).sum(dim=1)


def softened(model: nn.Module, beta: float = 10.0) -> nn.Module:
    """Give a copy of a network with softplus(beta x) / beta in place of each ReLU, whose gradients can change.

    Args:
        model: A network with parts that are `torch.nn.ReLU`; it stays as it is.
        beta: How sharp the bend is, above 0; the larger, the nearer to ReLU.

    Returns:
        The copy, with the weights of the network and the names of its parts.

    Raises:
        ValueError: If beta is outside its range, or the network has no such part.

    Example:
        >>> softened(nn.Sequential(nn.ReLU()), beta=1.0)(torch.tensor([0.0]))
        tensor([0.6931])
    """
    if isinstance(beta, bool) or not 0 < beta < math.inf:
        raise ValueError(f"beta must be above 0 and finite, got {beta}")
    return replace_modules(
        model, lambda _, part: isinstance(part, nn.ReLU), lambda _: nn.Softplus(beta=beta), wanted="a torch.nn.ReLU"
    )


@final
class JointAttack:
    """Leads a network to classes, and its explanations of them to maps, within a ball of norm infinity.

    Lowered is, by steps along the sign of the gradient from the input on, the cross-entropy with the label plus ``lam``
    times the distance of the explanation of the label to the map. Given is the point where this is lowest of those at
    which the network gives the label; where there is none, of all. At ``lam=0`` it is targeted projected gradient
    descent from the input. The network is in eval mode meanwhile.

    Args:
        radius: Largest change of an entry, at least 0; at 0 the inputs are returned.
        steps: Number of steps, at least 1.
        step: Length of a step, above 0.
        lam: Weight of the explanation, at least 0.
        beta: Sharpness of the softplus with which gradients are taken, see `softened`; None for the network as it is,
            where a ReLU hides how an explanation changes. What is fooled is judged by the network as it is.
        explain: What explains.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If an argument is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> JointAttack(radius=0.25)(model, torch.tensor([[0.75, 0.5]]), torch.tensor([1]))
        tensor([[0.5000, 0.7500]])
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        steps: int = 40,
        step: float = 2 / 255,
        lam: float = 1.0,
        beta: float | None = None,
        explain: Explain = input_gradient,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        for name, value, least in (("radius", radius, 0), ("lam", lam, 0)):
            if isinstance(value, bool) or not least <= value < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite, got {value}")
        for name, value in (("step", step), ("beta", beta)):
            if value is not None and (isinstance(value, bool) or not 0 < value < math.inf):
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps must be a whole number of at least 1, got {steps}")
        if not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"bounds must be finite, the first below the second, got {bounds}")
        self.radius, self.steps, self.step, self.lam, self.beta = radius, steps, step, lam, beta
        self.explain, self.bounds = explain, bounds

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, maps: Tensor | None = None) -> Tensor:
        """Give the changed inputs.

        Args:
            model: Maps inputs to logits (N, classes).
            inputs: Inputs within the bounds, (N, ...).
            labels: The classes that the model shall give, int64, (N,); its own ones to change explanations alone.
            maps: What the explanations shall look like, of the shape of what ``explain`` gives; None for the
                explanations of the inputs as they are, of the classes that the model gives them.

        Returns:
            Changed inputs, (N, ...).
        """
        given = inputs.detach()
        if given.ndim < 2 or not given.is_floating_point():
            raise ValueError(f"inputs must be floating numbers, (N, ...), got {given.dtype} {tuple(given.shape)}")
        _check_labels(labels, len(given))
        if not bool(((given >= self.bounds[0]) & (given <= self.bounds[1])).all()):
            raise ValueError(f"inputs must be within bounds, {self.bounds}, got others; give their bounds")
        best = given.clone()
        if self.radius == 0 or not len(given):
            return best
        lowest = given.new_full((len(given),), math.inf)
        fooled = torch.zeros_like(labels, dtype=torch.bool)
        with evaluating(model):
            guide = model if self.beta is None else softened(model, self.beta)
            if maps is None and self.lam:
                with torch.no_grad():
                    own = model(given).argmax(dim=1)
                maps = self.explain(model, given, own).detach()
            point = given.clone()
            for number in range(self.steps + 1):
                place = point.requires_grad_()
                with torch.enable_grad():
                    loss = self._loss(guide, place, labels, maps)
                with torch.no_grad():
                    done = model(place).argmax(dim=1) == labels
                better = (done & ~fooled) | ((done == fooled) & (loss.detach() < lowest))
                best[better], lowest[better] = place.detach()[better], loss.detach()[better]
                fooled |= done
                if number < self.steps:
                    (gradient,) = torch.autograd.grad(loss, place, torch.ones_like(loss))
                    ahead = steepest_step(-gradient, place.detach(), self.step, math.inf, self.bounds)
                    point = project(ahead, given, self.radius, math.inf, self.bounds)
        return best

    def _loss(self, model: nn.Module, place: Tensor, labels: Tensor, maps: Tensor | None) -> Tensor:
        """Give what is lowered of each input."""
        entropy = F.cross_entropy(model(place), labels, reduction="none")
        if maps is None or self.lam == 0:
            return entropy
        return entropy + self.lam * explanation_distance(self.explain(model, place, labels), maps)


def _check_labels(labels: Tensor, count: int) -> None:
    if labels.shape != (count,) or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64, ({count},), got {labels.dtype} of shape {tuple(labels.shape)}")
