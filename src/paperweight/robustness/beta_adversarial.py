"""BETA, the best targeted attack: raises the margin of each wrong class by itself, and gives the best of all.

Adversarial training usually has an attack raise the cross-entropy that the learner lowers. But a large cross-entropy
is no error, and an attack that raises it may miss one. Here the two want different things: the attack raises the margin
of a wrong class over the label, which is above 0 exactly where that class is preferred, and the learner lowers the
cross-entropy at what it gives. To train with it, give it to `paperweight.loops.fit_robust`.
Cost: for each wrong class what one run of projected gradient ascent costs, all at once in a batch of as many rows, and
a forward pass; the smoothed attack costs one such run.

Source:
    A. Robey, F. Latorre, G. J. Pappas, H. Hassani, V. Cevher, "Adversarial Training Should Be Cast as a Non-Zero-Sum
    Game", ICLR, 2024, https://arxiv.org/abs/2306.11035: the best targeted attack (BETA), its training, and the attack
    on a smooth maximum of the margins (SBETA). Of the paper only the abstract was read; the algorithms follow a
    summary of it.

Deviations:
    - The rate and the decay of RMSprop are ours, since the authors' could not be read: a rate in units of the radius.
    - Given is the point of largest margin of all that were passed, not the last one.
    - A random start outside the range of inputs is moved to its end, where the authors draw inside.
    - ``targets`` leaves out classes that are unlikely at the inputs, which the authors do not.
"""

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from paperweight.attacks import project, random_point
from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.robustness._attacking import check_bounds, check_inputs, over

__all__ = ["BestTargetedAttack", "SmoothedTargetedAttack"]

PAPER = Paper(
    title="Adversarial Training Should Be Cast as a Non-Zero-Sum Game",
    authors=("Alexander Robey", "Fabian Latorre", "George J. Pappas", "Hamed Hassani", "Volkan Cevher"),
    year=2023,
    url="https://arxiv.org/abs/2306.11035",
    provides={"BestTargetedAttack": "attack", "SmoothedTargetedAttack": "attack"},
    null={"radius": 0.0},
    claim="Adversarial training with an attack on margins is as robust as others, without overfitting to attacks.",
)

_EPS = 1e-8


def wrong_classes(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """Give the classes but the label of largest logits, int64, (N, count), the largest first."""
    return logits.scatter(1, labels[:, None], -math.inf).topk(count, dim=1).indices


def target_margin(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
    """Give M_j = f_j - f_y, the logit of each target less that of the label, (N,)."""
    return (logits.gather(1, targets[:, None]) - logits.gather(1, labels[:, None])).squeeze(1)


def smooth_margin(logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Give T log(sum of exp(M_j / T) over the classes j but the label), (N,): at most T log(classes - 1) above max M_j.

    The authors' mu is 1 / T.
    """
    own = labels[:, None]
    margins = (logits - logits.gather(1, own)).scatter(1, own, -math.inf)
    return temperature * torch.logsumexp(margins / temperature, dim=1)


def rmsprop_step(gradient: Tensor, squares: Tensor, lr: float, decay: float) -> tuple[Tensor, Tensor]:
    """Give the step lr g / (sqrt(v) + 1e-8), and v, the decaying mean of g squared."""
    squares = decay * squares + (1 - decay) * gradient.square()
    return lr * gradient / (squares.sqrt() + _EPS), squares


@final
class BestTargetedAttack:
    """Raises, for each wrong class, its margin over the label by RMSprop in a ball of norm infinity; gives the best.

    The model is in eval mode meanwhile. All wrong classes are attacked at once: a batch of N inputs passes through the
    model as N times ``targets`` rows. What is fooled is attacked further, as training wants it.

    Args:
        radius: Largest change of an entry, at least 0; at 0 the inputs are returned.
        steps: Steps for each class, at least 1; the paper has 10.
        lr: Rate of RMSprop in units of the radius, above 0.
        decay: What is left of the mean square of the gradients at each step, from 0 to below 1; at 0 a step follows the
            sign of the gradient.
        targets: Number of wrong classes that are attacked, at least 1, those of the largest logits at the inputs; all
            by default.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are, or labels are no class numbers.

    Example:
        >>> model = nn.Linear(2, 3, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        >>> attack, inputs = BestTargetedAttack(radius=0.25), torch.tensor([[0.75, 0.5]])
        >>> attack(model, inputs, torch.tensor([0]), generator=torch.Generator().manual_seed(0))
        tensor([[0.5000, 0.7500]])
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        steps: int = 10,
        lr: float = 0.25,
        decay: float = 0.9,
        targets: int | None = None,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        _check(radius, steps, lr, decay, bounds)
        if targets is not None:
            _check_whole("targets", targets)
        self.radius, self.steps, self.lr, self.decay = radius, steps, lr, decay
        self.targets, self.bounds = targets, bounds

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs.

        Args:
            model: Maps inputs to logits (N, classes), of at least 2 classes.
            inputs: Inputs within the bounds, (N, ...).
            labels: Class numbers, int64, (N,).
            generator: Source of the random starts; the global random state by default.

        Returns:
            Changed inputs, (N, ...).
        """
        _check_batch(inputs, labels, self.bounds)
        given = inputs.detach()
        if self.radius == 0 or not len(given):
            return given.clone()
        with evaluating(model):
            with torch.no_grad():
                logits = model(given)
            others = _other_classes(logits)
            count = others if self.targets is None else min(self.targets, others)
            wanted = wrong_classes(logits, labels, count).flatten()
            own = labels.repeat_interleave(count)
            found, margins = _climb(
                self,
                model,
                given.repeat_interleave(count, dim=0),
                lambda logits: target_margin(logits, wanted, own),
                generator,
            )
        best = margins.view(-1, count).argmax(dim=1)
        return found.unflatten(0, (-1, count))[torch.arange(len(given), device=given.device), best]


@final
class SmoothedTargetedAttack:
    """Raises a smooth maximum of all wrong classes' margins, by RMSprop in a ball of norm infinity.

    It is `BestTargetedAttack` at the cost of one class. The lower the temperature, the nearer it is to raising the
    largest margin alone, as `paperweight.attacks.margin_loss` does.

    Args:
        radius: Largest change of an entry, at least 0; at 0 the inputs are returned.
        steps: Steps, at least 1; the paper has 10.
        temperature: What margins are divided by in the smooth maximum, above 0; the paper's 1 / mu.
        lr: Rate of RMSprop in units of the radius, above 0.
        decay: What is left of the mean square of the gradients at each step, from 0 to below 1; at 0 a step follows the
            sign of the gradient.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are, or labels are no class numbers.

    Example:
        >>> model = nn.Linear(2, 3, bias=False)
        >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
        >>> attack, inputs = SmoothedTargetedAttack(radius=0.25), torch.tensor([[0.75, 0.5]])
        >>> attack(model, inputs, torch.tensor([0]), generator=torch.Generator().manual_seed(0))
        tensor([[0.5000, 0.7500]])
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        steps: int = 10,
        temperature: float = 1.0,
        lr: float = 0.25,
        decay: float = 0.9,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        _check(radius, steps, lr, decay, bounds)
        _check_positive("temperature", temperature)
        self.radius, self.steps, self.temperature = radius, steps, temperature
        self.lr, self.decay, self.bounds = lr, decay, bounds

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs.

        Args:
            model: Maps inputs to logits (N, classes), of at least 2 classes.
            inputs: Inputs within the bounds, (N, ...).
            labels: Class numbers, int64, (N,).
            generator: Source of the random starts; the global random state by default.

        Returns:
            Changed inputs, (N, ...).
        """
        _check_batch(inputs, labels, self.bounds)
        given = inputs.detach()
        if self.radius == 0 or not len(given):
            return given.clone()

        def margin(logits: Tensor) -> Tensor:
            _other_classes(logits)
            return smooth_margin(logits, labels, self.temperature)

        with evaluating(model):
            return _climb(self, model, given, margin, generator)[0]


def _climb(
    attack: BestTargetedAttack | SmoothedTargetedAttack,
    model: nn.Module,
    middle: Tensor,
    margin: Callable[[Tensor], Tensor],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Raise a margin of each row of logits from random points around the rows; give the best points and margins."""
    precise = torch.promote_types(middle.dtype, torch.float32)
    changed = random_point(middle, attack.radius, math.inf, attack.bounds, generator)
    squares = torch.zeros_like(middle, dtype=precise)
    points = middle.clone()
    largest = torch.full((len(middle),), -math.inf, dtype=precise, device=middle.device)
    for step in range(attack.steps + 1):
        with torch.set_grad_enabled(step < attack.steps):
            margins = margin(model(changed.requires_grad_()))
            gradient = torch.autograd.grad(margins.sum(), changed)[0] if step < attack.steps else None
        changed, margins = changed.detach(), margins.detach().to(largest)
        better = margins > largest
        points = torch.where(over(better, points), changed, points)
        largest = torch.where(better, margins, largest)
        if gradient is not None:
            move, squares = rmsprop_step(gradient.to(precise), squares, attack.lr * attack.radius, attack.decay)
            changed = project(changed + move.to(changed), middle, attack.radius, math.inf, attack.bounds)
    return points, largest


def _check(radius: float, steps: int, lr: float, decay: float, bounds: tuple[float, float]) -> None:
    if isinstance(radius, bool) or not 0 <= radius < math.inf:
        raise ValueError(f"radius must be at least 0 and finite, got {radius}")
    _check_whole("steps", steps)
    _check_positive("lr", lr)
    if isinstance(decay, bool) or not 0 <= decay < 1:
        raise ValueError(f"decay must be at least 0 and below 1, got {decay}")
    check_bounds(bounds)


def _check_positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be above 0 and finite, got {value}")


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value}")


def _check_batch(inputs: Tensor, labels: Tensor, bounds: tuple[float, float]) -> None:
    if inputs.ndim < 2 or not inputs.is_floating_point():
        found = f"shape {tuple(inputs.shape)} and {inputs.dtype}"
        raise ValueError(f"inputs must be floating numbers of shape (N, ...), got {found}")
    check_inputs(inputs, labels, bounds)
    if labels.ndim != 1 or labels.dtype != torch.int64:
        found = f"shape {tuple(labels.shape)} and {labels.dtype}"
        raise ValueError(f"labels must be class numbers, int64, of shape (N,), got {found}")


def _other_classes(logits: Tensor) -> int:
    if logits.ndim != 2 or logits.shape[1] < 2:
        found = tuple(logits.shape)
        raise ValueError(f"model must give logits (N, classes) of at least 2 classes, got shape {found}")
    return logits.shape[1] - 1
