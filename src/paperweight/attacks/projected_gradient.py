"""Projected gradient ascent: the standard white-box attack, with inputs that are fooled left out of later passes.

Source:
    A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu, "Towards Deep Learning Models Resistant to Adversarial
    Attacks", 2018, https://arxiv.org/abs/1706.06083, section 2.1; the mean over transformations: A. Athalye,
    L. Engstrom, A. Ilyas, K. Kwok, "Synthesizing Robust Adversarial Examples", 2018, https://arxiv.org/abs/1707.07397.

Deviations:
    the point of largest loss is given, not the last; a fooled input takes no further steps unless ``keep_going``; steps
    get shorter unless ``step`` is given, as in F. Croce, M. Hein 2020, https://arxiv.org/abs/2003.01690, but by a rule
    that is fixed beforehand, so that most inputs of a network without a defense are done after a step or two
"""

import math
from typing import final

import torch
from torch import Tensor, nn

from paperweight.attacks._rows import check_bounds, check_choice, check_inputs, check_number, check_whole, fooled_by
from paperweight.attacks.balls import NORMS, project, random_point, steepest_step
from paperweight.attacks.losses import AttackLoss, cross_entropy_loss
from paperweight.nets import evaluating

__all__ = ["ProjectedGradient", "step_lengths"]

_COMPACT = 8  # rows leave a batch when one in so many is done, since each new size costs a network some preparation


def step_lengths(first: float, steps: int) -> list[float]:
    """Give lengths of steps that fall to a fortieth of the first, each by the same factor.

    Args:
        first: The first length.
        steps: Number of steps, at least 1.

    Returns:
        The lengths.

    Example:
        >>> [round(length, 3) for length in step_lengths(2.0, 3)]
        [2.0, 0.316, 0.05]
    """
    return [first * 40 ** (-number / max(1, steps - 1)) for number in range(steps)]


@final
class ProjectedGradient:
    """Raises a loss by steepest steps within a ball around each input and the range of inputs (PGD).

    An input that fools the model takes no further part, and what first fooled it is given; of one that does not, the
    point of largest loss. With ``keep_going`` it is the point of largest loss for all, as training and transfer to
    other models want it. The model is in eval mode meanwhile.

    A step costs a forward and a backward pass of the inputs not yet fooled, a start one forward pass more; where
    there are random starts and fooled inputs are left out, the unchanged inputs are tried first, a pass more.

    Args:
        radius: Largest change of an input, in the norm, at least 0; at 0 the inputs are returned.
        norm: Norm of a change: 1, 2 or ``math.inf``.
        steps: Steps from each start, at least 1.
        step: Length of all steps, in the norm, above 0; the source has 2.5 radii divided by ``steps``. By default they
            fall as `step_lengths` says, the first of two radii, or in norm 1 of one.
        loss: What is raised: maps logits and labels to a number for each input; `cross_entropy_loss`, `margin_loss`,
            `dlr_loss`, for a targeted attack `targeted_dlr_loss`, or an own one.
        starts: Random starts, each for the inputs that are not yet fooled; 0 to start at the inputs themselves.
        samples: Forward passes whose losses, gradients and logits are averaged at each point, for a model that is
            random itself; what is fooled by chance is done all the same, but with ``keep_going``.
        targeted: Whether the labels are those that the model shall give; the loss is lowered then.
        keep_going: Whether fooled inputs are attacked further.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> attack = ProjectedGradient(radius=0.25, starts=0, keep_going=True)
        >>> attack(model, torch.tensor([[0.75, 0.5]]), torch.tensor([0]))
        tensor([[0.5000, 0.7500]])
    """

    def __init__(
        self,
        radius: float = 8 / 255,
        norm: float = math.inf,
        steps: int = 40,
        step: float | None = None,
        loss: AttackLoss = cross_entropy_loss,
        starts: int = 1,
        samples: int = 1,
        targeted: bool = False,
        keep_going: bool = False,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        check_number("radius", radius)
        check_choice("norm", norm, NORMS)
        if step is not None:
            check_number("step", step, above=True)
        for name, count, least in (("steps", steps, 1), ("starts", starts, 0), ("samples", samples, 1)):
            check_whole(name, count, least)
        check_bounds(bounds)
        self.radius, self.norm, self.steps, self.step, self.loss = radius, norm, steps, step, loss
        self.starts, self.samples, self.targeted = starts, samples, targeted
        self.keep_going, self.bounds = keep_going, bounds

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed inputs.

        Args:
            model: Maps inputs to logits (N, classes).
            inputs: Inputs within the bounds, (N, ...).
            labels: Class numbers, int64, (N,), or shares of classes, (N, classes), as the loss takes them; what is
                fooled is then judged by the largest.
            generator: Source of the random starts; the global random state by default.

        Returns:
            Changed inputs, (N, ...).
        """
        check_inputs(inputs, labels, self.bounds)
        given = inputs.detach()
        results = given.clone()
        if self.radius == 0 or not len(inputs):
            return results
        largest = given.new_full((len(given),), -math.inf)
        with evaluating(model):
            if self.starts and not self.keep_going:
                with torch.no_grad():
                    self._look(model, given, labels, results, largest, torch.arange(len(given), device=given.device))
            for _ in range(max(1, self.starts)):
                place = (largest < math.inf).nonzero().squeeze(1)
                if not len(place):
                    break
                start = given[place]
                if self.starts:
                    start = random_point(start, self.radius, self.norm, self.bounds, generator)
                self._climb(model, start, given, labels, results, largest, place)
        return results

    def _climb(
        self,
        model: nn.Module,
        changed: Tensor,
        inputs: Tensor,
        labels: Tensor,
        results: Tensor,
        largest: Tensor,
        place: Tensor,
    ) -> None:
        """Take the steps from one start of the inputs at these places, and note what is better than all before."""
        middle, wanted = inputs[place], labels[place]
        largest_step = self.radius if self.norm == 1 else 2 * self.radius
        lengths = step_lengths(largest_step, self.steps) if self.step is None else [self.step] * self.steps
        for length in lengths:
            changed.requires_grad_()
            with torch.enable_grad():
                loss = self._look(model, changed, wanted, results, largest, place)
                (gradient,) = torch.autograd.grad(loss, changed)
            changed = changed.detach()
            going = largest[place] < math.inf
            if _COMPACT * int(going.sum()) <= (_COMPACT - 1) * len(going):
                place, middle, wanted = place[going], middle[going], wanted[going]
                changed, gradient = changed[going], gradient[going]
                if not len(place):
                    return
            ahead = steepest_step(gradient, changed, length, self.norm, self.bounds)
            changed = project(ahead, middle, self.radius, self.norm, self.bounds)
        with torch.no_grad():
            self._look(model, changed, wanted, results, largest, place)

    def _look(
        self, model: nn.Module, changed: Tensor, labels: Tensor, results: Tensor, largest: Tensor, place: Tensor
    ) -> Tensor:
        """Give the sum of the losses, for its gradient, and note the points of largest loss, infinite if done."""
        logits = [model(changed) for _ in range(self.samples)]
        losses = sum(self.loss(each, labels) for each in logits) / self.samples
        losses = torch.as_tensor(-losses if self.targeted else losses)
        with torch.no_grad():
            values = losses.detach().to(largest)
            if not self.keep_going:
                mean = logits[0] if self.samples == 1 else torch.stack(logits).mean(dim=0)
                values = values.masked_fill(fooled_by(mean, labels, self.targeted), math.inf)
            better = values > largest[place]
            results[place[better]] = changed[better]
            largest[place[better]] = values[better]
        return losses.sum()
