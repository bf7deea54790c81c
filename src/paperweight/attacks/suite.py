"""Several attacks as one: each is tried on what none before has fooled.

Source:
    that an ensemble of attacks of different kinds is needed, and towards each other class in turn: F. Croce, M. Hein,
    "Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free Attacks", 2020,
    https://arxiv.org/abs/2003.01690.

Deviations:
    steps of lengths fixed beforehand in place of the source's adaptive ones, no FAB, and the margin in place of the
    ratio of logits towards a class
"""

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from paperweight.attacks._rows import check_inputs, check_whole, class_numbers, fooled_by
from paperweight.attacks.losses import cross_entropy_loss, margin_loss
from paperweight.attacks.projected_gradient import ProjectedGradient
from paperweight.attacks.square import SquareAttack
from paperweight.nets import evaluating

__all__ = ["AttackSuite", "TowardsOthers", "standard_suite"]


@final
class TowardsOthers:
    """Goes towards the most likely other classes, one after the other, by the gradient of one difference of logits.

    Where the margin's gradient changes between classes that are about as likely, an ascent towards one of them is
    straighter. An input that fools the model, into whatever class, takes no further part.

    Args:
        radius: Largest change of an input, in the norm, at least 0; at 0 the inputs are returned.
        norm: Norm of a change: 1, 2 or ``math.inf``.
        classes: How many other classes, at least 1; no more than there are.
        steps: Steps towards each, at least 1.
        samples: Forward passes that are averaged at each point, for a model that is random itself.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> TowardsOthers(radius=0.25, steps=5)(model, torch.tensor([[0.75, 0.5]]), torch.tensor([0])).diff() > 0
        tensor([[True]])
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        norm: float = math.inf,
        classes: int = 9,
        steps: int = 40,
        samples: int = 1,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        check_whole("classes", classes, 1)
        self.classes, self.bounds = classes, bounds
        self._ascent = ProjectedGradient(radius, norm, steps, loss=_towards, samples=samples, bounds=bounds)

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs, (N, ...), of inputs (N, ...) and labels (N,), or shares of classes (N, classes)."""
        check_inputs(inputs, labels, self.bounds)
        if not len(inputs):
            return inputs.detach().clone()
        numbers = class_numbers(labels)
        with evaluating(model), torch.no_grad():
            logits = model(inputs.detach())
        others = logits.scatter(1, numbers[:, None], -math.inf).argsort(dim=1, descending=True)
        ways = [
            (self._ascent, _label_and_target(numbers, others[:, rank], logits.shape[1]))
            for rank in range(min(self.classes, logits.shape[1] - 1))
        ]
        return _in_turn(ways, model, inputs, numbers, generator)


@final
class AttackSuite:
    """Tries attacks one after the other, each on the inputs that none before has fooled.

    Of an input that fools the model the first point that does is given, of another the point with the largest margin.

    Args:
        attacks: Each is called as ``(model, inputs, labels, generator=...)`` and gives changed inputs; at least one.

    Raises:
        ValueError: If there is no attack.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> weak, strong = (ProjectedGradient(radius, starts=0) for radius in (0.1, 0.25))
        >>> suite = AttackSuite([weak, strong])
        >>> changed = suite(model, torch.tensor([[0.75, 0.5], [0.6, 0.5]]), torch.tensor([0, 0]))
        >>> (changed - torch.tensor([[0.75, 0.5], [0.6, 0.5]])).abs().amax(dim=1)
        tensor([0.2500, 0.1000])
    """

    def __init__(self, attacks: Sequence[Callable[..., Tensor]]) -> None:
        if not attacks:
            raise ValueError("attacks must be at least one, got none")
        self.attacks = tuple(attacks)

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs, (N, ...), of inputs (N, ...) and labels (N,), or shares of classes (N, classes)."""
        return _in_turn([(attack, labels) for attack in self.attacks], model, inputs, labels, generator)


def standard_suite(
    radius: float = 8 / 255,
    norm: float = math.inf,
    *,
    steps: int = 40,
    classes: int = 9,
    queries: int = 1000,
    samples: int = 1,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> AttackSuite:
    """Give the attacks that this library takes for an evaluation: by gradients, towards each class, and by scores.

    Args:
        radius: Largest change of an input, in the norm, at least 0.
        norm: Norm of a change: 2 or ``math.inf``.
        steps: Steps of each ascent, at least 1.
        classes: How many other classes are gone towards, at least 1.
        queries: Queries for each input of the attack by scores, at least 2.
        samples: Forward passes that are averaged at each point, for a model that is random itself.
        bounds: Smallest and largest entry of an input.

    Returns:
        The suite: `ProjectedGradient` on cross-entropy and on the margin, `TowardsOthers`, `SquareAttack`.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> [type(attack).__name__ for attack in standard_suite().attacks]
        ['ProjectedGradient', 'ProjectedGradient', 'TowardsOthers', 'SquareAttack']
    """
    return AttackSuite(
        [
            *(
                ProjectedGradient(radius, norm, steps, loss=loss, samples=samples, bounds=bounds)
                for loss in (cross_entropy_loss, margin_loss)
            ),
            TowardsOthers(radius, norm, classes, steps, samples, bounds),
            SquareAttack(radius, norm, queries, bounds=bounds),
        ]
    )


def _in_turn(
    ways: Sequence[tuple[Callable[..., Tensor], Tensor]],
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Try attacks, each with labels of its own, on what is not fooled, and keep the points of largest margin."""
    results = inputs.detach().clone()
    if not len(inputs):
        return results
    keyword = {} if generator is None else {"generator": generator}
    with evaluating(model), torch.no_grad():
        logits = model(results)
    largest, open_ = margin_loss(logits, labels), ~fooled_by(logits, labels)
    for attack, given in ways:
        place = open_.nonzero().squeeze(1)
        if not len(place):
            break
        changed = attack(model, inputs[place], given[place], **keyword).detach()
        with evaluating(model), torch.no_grad():
            logits = model(changed)
        margins, fooled = margin_loss(logits, labels[place]), fooled_by(logits, labels[place])
        better = fooled | (margins > largest[place])
        results[place[better]], largest[place[better]] = changed[better], margins[better]
        open_[place[fooled]] = False
    return results


def _label_and_target(labels: Tensor, targets: Tensor, classes: int) -> Tensor:
    """Give shares of classes, the larger one of the label and the rest of the target, as `_towards` takes them."""
    shares = torch.zeros(len(labels), classes, device=labels.device)
    shares[torch.arange(len(labels)), labels] = 0.75
    shares[torch.arange(len(labels)), targets] = 0.25
    return shares


def _towards(logits: Tensor, shares: Tensor) -> Tensor:
    """Give the logit of the class with the second largest share less that of the class with the largest."""
    both = logits.gather(1, shares.topk(2, dim=1).indices)
    return both[:, 1] - both[:, 0]
