"""Full-batch training: gradient descent on all examples at once, with a penalty in place of the noise of small batches.

Small steps of SGD lower, beside the loss, the squared norms of the gradients of its batches. Here each update takes the
gradient of all examples, to which that of such a penalty is added, and is clipped. With a rate that warms up, momentum
and many more epochs than SGD needs, the paper reaches the accuracy of SGD without any randomness.
Cost: an epoch an update, and with the penalty two: its gradient takes a second pass of each block.

Source:
    J. Geiping, M. Goldblum, P. E. Pope, M. Moeller, T. Goldstein, "Stochastic Training is Not Necessary for
    Generalization", ICLR 2022, https://arxiv.org/abs/2109.14119. Implemented: the gradient of all examples, the
    penalty on gradients of blocks by forward differences, and clipping, as in the authors' code,
    https://github.com/JonasGeiping/fullbatchtraining. Left out: other ways to compute the penalty, several machines.

Deviations:
    - The penalty on a block is alpha lr / 4 times the squared norm of its gradient, so that alpha lr / 2 times Hessian
      times gradient is added. The authors' code adds that where it differentiates the penalty by autograd, and half of
      it by forward differences, its default: what is 0.5 there is an alpha of 0.25 here, the default.
    - Forward differences move the weights by eps along the gradient; theirs by eps along alpha times the gradient,
      which is the same.
    - Blocks count by their number of examples. In their code all count alike.
    - Averages of batch normalization are updated in both passes of a block, as in their code.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["FullBatchTraining", "penalised_gradient"]

PAPER = Paper(
    title="Stochastic Training is Not Necessary for Generalization",
    authors=("Jonas Geiping", "Micah Goldblum", "Phillip E. Pope", "Michael Moeller", "Tom Goldstein"),
    year=2021,
    url="https://arxiv.org/abs/2109.14119",
    provides={"FullBatchTraining": "training-procedure", "penalised_gradient": "function"},
    null={"alpha": 0.0, "clip": None, "block_size": 1_000_000_000},
    claim="Gradient descent on all examples, clipped and with a penalty on gradients, is as accurate as SGD.",
)

Gradients = list[Tensor | None]


def penalised_gradient(
    loss: Callable[[], Tensor], parameters: Sequence[Tensor], strength: float, eps: float = 1e-2
) -> tuple[Tensor, Gradients]:
    """Compute a loss L and the gradient g of L + strength / 4 |grad L|^2, that is grad L + strength / 2 H grad L.

    The product with the Hessian H is the difference of the gradients at the parameters and a step of length eps along
    the gradient away from them, divided by the length. Where ``strength`` is 0 or the gradient is, it is left out.

    Args:
        loss: Evaluates the loss at the values that the parameters have; called twice, and must not be random.
        parameters: What is differentiated for, each with ``requires_grad``; they have their values back in the end.
        strength: At least 0; in the paper alpha times the learning rate.
        eps: Length of the step, above 0; the authors have 0.01, and found 0.0001 to 0.01 stable.

    Returns:
        The loss, detached, and for each parameter its gradient, or None if the loss does not depend on it.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> w = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> _, (gradient,) = penalised_gradient(lambda: (torch.tensor([1.0, 3.0]) * w.square()).sum() / 2, [w], 0.5)
        >>> gradient  # (1 + 0.25 h) h w for curvatures h of 1 and 3
        tensor([ 1.2500, 10.5000])
    """
    _check_at_least_0("strength", strength)
    _check_above_0("eps", eps)
    value, gradients = _gradient(loss, parameters)
    found = [gradient for gradient in gradients if gradient is not None]
    norm = torch.stack([gradient.square().sum() for gradient in found]).sum().sqrt() if found else torch.zeros(())
    if strength == 0 or norm == 0:
        return value, gradients
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.add_(gradient * (eps / norm))
        _, shifted = _gradient(loss, parameters)
    finally:
        with torch.no_grad():
            for parameter, before in zip(parameters, kept, strict=True):
                parameter.copy_(before)
    return value, [
        near if near is None or far is None else near + (far - near) * (strength / 2 * norm / eps)
        for near, far in zip(gradients, shifted, strict=True)
    ]


def _gradient(loss: Callable[[], Tensor], parameters: Sequence[Tensor]) -> tuple[Tensor, Gradients]:
    with torch.enable_grad():
        value = loss()
        return value.detach(), list(torch.autograd.grad(value, parameters, allow_unused=True))


def _dropouts(model: nn.Module) -> list[str]:
    def share(part: nn.Module) -> float:
        if isinstance(part, nn.modules.dropout._DropoutNd):
            return part.p
        return part.dropout if isinstance(part, nn.MultiheadAttention | nn.RNNBase) else 0.0

    return [name for name, part in model.named_modules() if share(part) > 0]


def _check_at_least_0(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and at least 0, got {value}")


def _check_above_0(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be finite and above 0, got {value}")


@final
class FullBatchTraining:
    """Trains a model by gradient descent on all examples at once.

    A call of `step` is one update. The examples are taken in as few blocks of nearly equal size as can be, in the order
    given, never shuffled; their size matters for the penalty and for batch normalization alone. With ``alpha=0``,
    ``clip=None`` and one block it is an update of the optimizer on the gradient of the mean loss, bit for bit. The
    authors have SGD with Nesterov's momentum 0.9, weight decay 5e-4, and a rate of 0.8 that warms up over 400 of 3,000
    steps and falls along a cosine.

    Args:
        model: What is trained, in place; where ``alpha`` is above 0 not random, as with dropout, since both passes of a
            block must be the same.
        optimizer: Holds the model's parameters; steps without a closure. The rate of its first group is the penalty's.
        inputs: All inputs, (N, ...), N at least 1, on the model's device.
        labels: Class numbers, int64, (N,).
        alpha: Strength of the penalty, alpha lr / 4 times the mean over blocks of the squared norm of their gradients,
            at least 0; 0.25 is what the authors' code computes for the 0.5 of the paper.
        clip: Largest norm of the gradient, above 0; 0.25 in the paper. None for any.
        block_size: Most examples a block, at least 1; 128 in the paper, and 32 for a stronger penalty.
        eps: Length of the step of forward differences, above 0; 0.01 in the authors' code.

    Raises:
        ValueError: If an argument is outside its range, inputs and labels differ in number, or the model has dropout.

    Attributes:
        samples: Number of samples whose gradients were evaluated.

    Example:
        >>> inputs = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        >>> model = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True)
        >>> training = FullBatchTraining(model, optimizer, inputs, (inputs[:, 0] > 0).long(), block_size=8)
        >>> losses = [training.step().item() for _ in range(30)]
        >>> losses[-1] < losses[0], training.samples
        (True, 2400)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        alpha: float = 0.25,
        clip: float | None = 0.25,
        block_size: int = 128,
        eps: float = 1e-2,
    ) -> None:
        if len(inputs) != len(labels) or not len(inputs):
            raise ValueError(
                f"inputs and labels must have the same length, at least 1, got {len(inputs)} and {len(labels)}"
            )
        _check_at_least_0("alpha", alpha)
        if clip is not None:
            _check_above_0("clip", clip)
        if type(block_size) is not int or block_size < 1:
            raise ValueError(f"block_size must be a whole number of at least 1, got {block_size!r}")
        _check_above_0("eps", eps)
        random = _dropouts(model)
        if alpha and random:
            raise ValueError(f"model must have no dropout where alpha is above 0, got {random[0]!r}; set alpha to 0")
        self.model = model
        self.optimizer = optimizer
        self.inputs = inputs
        self.labels = labels
        self.alpha = alpha
        self.clip = clip
        self.block_size = block_size
        self.eps = eps
        self.samples = 0

    def step(self) -> Tensor:
        """Take one update on all examples, in train mode.

        Returns:
            The mean loss before it, without the penalty, a scalar.
        """
        self.model.train()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        strength = self.alpha * self.optimizer.param_groups[0]["lr"]
        losses, gradients = list[Tensor](), Gradients([None] * len(parameters))
        blocks = -(-len(self.inputs) // self.block_size)
        for inputs, labels in zip(self.inputs.tensor_split(blocks), self.labels.tensor_split(blocks), strict=True):

            def loss(inputs: Tensor = inputs, labels: Tensor = labels) -> Tensor:
                self.samples += len(inputs)
                return F.cross_entropy(self.model(inputs), labels)

            value, found = penalised_gradient(loss, parameters, strength, self.eps)
            share = len(inputs) / len(self.inputs)
            losses.append(share * value)
            gradients = [
                old if new is None else share * new if old is None else old + share * new
                for old, new in zip(gradients, found, strict=True)
            ]
        self.optimizer.zero_grad()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return torch.stack(losses).sum()

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights."""
        return {"optimizer": self.optimizer.state_dict(), "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.samples = state_dict["samples"]
