"""Defensive distillation, and the two attacks that it is weighed with: FGSM and the Carlini-Wagner attack in norm 2.

A student learns the soft predictions that a teacher makes at a high temperature, and is deployed at temperature 1: its
saturated softmax hides the gradient from FGSM. The Carlini-Wagner attack descends on logits, which nothing saturates.
Cost: one forward and backward pass for FGSM, and for Carlini-Wagner one a step and input that is not done yet.

Source:
    T. R. Sarkar, N. Das, P. S. Maitra, B. Some, R. Saha, O. Adhikary, B. Bose, J. Sen, "Evaluating Adversarial
    Robustness: A Comparison Of FGSM, Carlini-Wagner Attacks, And The Role of Distillation as Defense Mechanism", 2024,
    https://arxiv.org/abs/2404.04245. Implemented: both attacks and the loss of the distillation. The search over `c`
    is that of N. Carlini, D. Wagner, "Towards Evaluating the Robustness of Neural Networks", 2017,
    https://arxiv.org/abs/1608.04644.

Deviations:
    - Attacks drop inputs: one that is fooled from the start is returned unchanged, by FGSM too, so that no wrong
      prediction is made right. When Carlini-Wagner drops others is told there; its authors stop whole batches.
    - Each further `c` begins at the nearest success, or goes on where the descent is, and not at the input; a `c` is
      large enough if its descent ends fooled or made the squared distance of a success 2% smaller.
    - Inputs are shrunk by 0.999 before arctanh, not by 0.999999: black and white pixels, where tanh is flat, then
      begin to move within tens of steps, and not hundreds. The distance is measured from the input itself.
    - The report's networks and sizes of change are for large images; the study has its own, and temperatures.
"""

import math
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.robustness._attacking import attacked, check_bounds, check_inputs, over
from paperweight.robustness._carlini_wagner import CarliniWagnerL2

__all__ = ["FGSM", "CarliniWagnerL2", "distillation_loss"]

PAPER = Paper(
    title="Evaluating Adversarial Robustness: A Comparison Of FGSM, Carlini-Wagner Attacks, "
    "And The Role of Distillation as Defense Mechanism",
    authors=("T. R. Sarkar", "N. Das", "P. S. Maitra", "B. Some", "R. Saha", "O. Adhikary", "B. Bose", "J. Sen"),
    year=2024,
    url="https://arxiv.org/abs/2404.04245",
    provides={"FGSM": "attack", "CarliniWagnerL2": "attack", "distillation_loss": "loss"},
    null={"eps": 0.0, "temperature": 1.0},
    claim="Defensive distillation stops FGSM, and does not stop the Carlini-Wagner attack.",
)


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 100.0) -> Tensor:
    """Compare student and teacher at one temperature: the mean of -<softmax(teacher / T), log softmax(student / T)>.

    Train the teacher by the cross-entropy of logits / T, and deploy the student without T.

    Args:
        logits: The student's, shape (N, classes).
        teacher_logits: The teacher's, same shape; no gradient flows to them.
        temperature: T, above 0, commonly 20 to 100; at 1 this is the cross-entropy with the teacher's predictions.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: If the temperature is not above 0 and finite, or the shapes differ.

    Example:
        >>> logits = torch.tensor([[0.0, 20.0]])
        >>> round(distillation_loss(logits, logits, temperature=10.0).item(), 4)
        0.3653
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    if logits.shape != teacher_logits.shape:
        raise ValueError(f"teacher_logits must have the shape of logits, {logits.shape}, got {teacher_logits.shape}")
    return F.cross_entropy(logits / temperature, (teacher_logits.detach() / temperature).softmax(dim=1))


def fgsm_step(inputs: Tensor, gradient: Tensor, eps: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Take the step clip(x + eps sign(gradient)), to the bounds."""
    return (inputs + eps * gradient.sign()).clamp(*bounds)


@final
class FGSM:
    """Moves every entry of an input by eps against the model: x + eps sign(gradient of the cross-entropy), clipped.

    An input that is misclassified already is returned unchanged; to leave it out of the one pass would need another.

    Args:
        eps: Size of the change of each entry, at least 0, in the unit of the inputs; at 0 the inputs are returned.
        bounds: Smallest and largest entry of an input.

    Raises:
        ValueError: If a number is outside its range, or inputs are.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = model.weight.data.copy_(torch.eye(2))
        >>> FGSM(eps=0.25)(model, torch.tensor([[0.75, 0.5], [0.0, 1.0]]), torch.tensor([0, 0]))
        tensor([[0.5000, 0.7500],
                [0.0000, 1.0000]])
    """

    def __init__(self, eps: float = 0.1, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        if not 0 <= eps < math.inf:
            raise ValueError(f"eps must be at least 0 and finite, got {eps}")
        check_bounds(bounds)
        self.eps, self.bounds = eps, bounds

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        """Give the changed inputs, (N, ...), of inputs (N, ...) and their labels, int64, (N,)."""
        check_inputs(inputs, labels, self.bounds)
        with attacked(model):
            given = inputs.detach().clone().requires_grad_()
            logits = model(given)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), given)
        moved = fgsm_step(inputs.detach(), gradient, self.eps, self.bounds)
        return torch.where(over(logits.argmax(dim=1) == labels, inputs), moved, inputs.detach())
