"""Feature sieve: what a small network can tell the class from early on is erased, so that complex features are learned.

A network prefers features that are simple, such as a colour, to those that are complex, such as a shape. A small head
learns the class from an early layer; now and then the layers up to there are changed so that the head can tell nothing.
What is simple is told early and is erased; what forms only in later layers is not. The head is thrown away.
Cost: in each step forward and backward pass of the head, and where something is erased the network's forward pass once
more and the backward pass of the early layers.

Source:
    R. Tiwari, P. Shenoy, "Overcoming Simplicity Bias in Deep Networks using a Feature Sieve", ICML 2023,
    https://arxiv.org/abs/2301.13293. Implemented: the three alternating updates, in the order and with the defaults of
    the authors' code, https://github.com/google-research/google-research/tree/master/sifer.

Deviations:
    - Where nothing is erased, the head learns from the features of the very pass that the main loss is taken of. The
      authors' code runs the network again, which gives the same features, but updates averages of batch normalization
      once more. Where something is erased, they are updated twice, in theirs three times.
    - Early are all parameters that the features depend on. The authors list them for their residual networks.
    - Their head is one to six residual blocks, 256 channels wide, a mean over all pixels and a linear layer; here the
      caller gives it, with its optimizer, which in their code is SGD with rate 0.01, momentum 0.9 and decay 1e-4.
"""

import math
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["FeatureSieve", "forget_loss"]

PAPER = Paper(
    title="Overcoming Simplicity Bias in Deep Networks using a Feature Sieve",
    authors=("Rishabh Tiwari", "Pradeep Shenoy"),
    year=2023,
    url="https://arxiv.org/abs/2301.13293",
    provides={"FeatureSieve": "training-procedure", "forget_loss": "regularizer"},
    null={"forget_every": None},
    claim="A network whose simple features are erased early relies less on shortcuts, and no label of these is needed.",
)


def forget_loss(logits: Tensor) -> Tensor:
    """Compute the mean cross-entropy between the uniform distribution and predictions, -(1/K) sum_k log p_k.

    It is least, log K, where all logits of a sample are equal.

    Args:
        logits: (N, K), N and K at least 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shape is another.

    Example:
        >>> round(forget_loss(torch.zeros(3, 4)).item(), 4), round(forget_loss(torch.tensor([[4.0, 0.0]])).item(), 4)
        (1.3863, 2.0181)
    """
    if logits.ndim != 2 or not logits.numel():
        raise ValueError(f"logits must have shape (N, K) with N and K at least 1, got {tuple(logits.shape)}")
    return -logits.log_softmax(dim=1).mean()


@final
class FeatureSieve:
    """Trains a classifier, and now and then erases what a head can tell the class from at an early place.

    A call of `step` is one update on the batch that is given, of three parts. Identify: the head learns the labels from
    the features, which do not change. Erase, in the first of every ``forget_every`` calls: all parameters that the
    features depend on take a step of plain gradient descent on `forget_loss` of the head, which does not change. Main:
    the network learns the labels. Without the second part it is plain training, bit for bit.

    Choose the place and ``forget_lr`` on validation data in which the shortcut does not hold, if there are any: on such
    as the training data, what does not erase looks best.

    Args:
        model: Maps inputs to logits, (B, classes); trained in place.
        optimizer: Holds the model's parameters; steps without a closure.
        place: Name of the module whose output are the features, as ``model.named_modules()`` has it: one that is called
            once in a pass. In the paper it is one of the four stages of a residual network.
        head: Maps the features to logits, (B, classes); small, and without parameters of the model.
        head_optimizer: Holds the head's parameters; steps without a closure.
        forget_every: How many steps there are to one that erases, at least 1; 5 in the authors' code. None for never.
        forget_lr: Step size of what erases, finite and at least 0; 0.01 in the authors' code, ten times the main rate.

    Raises:
        ValueError: If an argument is outside its range, there is no such place, or head and model share a parameter.

    Attributes:
        steps: Number of steps taken.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer, head = torch.optim.SGD(model.parameters(), lr=0.1), nn.Linear(8, 2)
        >>> head_optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9)
        >>> training = FeatureSieve(model, optimizer, "1", head, head_optimizer, forget_every=20, forget_lr=0.01)
        >>> for _ in range(40):
        ...     inputs = torch.randn(16, 2)
        ...     loss = training.step(inputs, (inputs[:, 0] > 0).long())
        >>> training.steps
        40
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        place: str,
        head: nn.Module,
        head_optimizer: torch.optim.Optimizer,
        forget_every: int | None = 5,
        forget_lr: float = 0.01,
    ) -> None:
        names = [name for name, _ in model.named_modules() if name]
        if place not in names:
            raise ValueError(f"place must be the name of a module of the model, one of {names}, got {place!r}")
        if {*model.parameters()} & {*head.parameters()}:
            raise ValueError("head must have no parameter of the model, got one that shares some; give it its own")
        if forget_every is not None and (type(forget_every) is not int or forget_every < 1):
            raise ValueError(f"forget_every must be a whole number of at least 1, or None, got {forget_every!r}")
        if not 0 <= forget_lr < math.inf:
            raise ValueError(f"forget_lr must be finite and at least 0, got {forget_lr}")
        self.model = model
        self.optimizer = optimizer
        self.place = place
        self.head = head
        self.head_optimizer = head_optimizer
        self.forget_every = forget_every
        self.forget_lr = forget_lr
        self.steps = 0

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Update head and model on a batch, in train mode.

        Args:
            inputs: (B, ...), B at least 1.
            labels: Class numbers, int64, (B,).

        Returns:
            The main loss before its update, a scalar.

        Raises:
            ValueError: If the model does not call the place once, or the head does not give logits (B, classes).
        """
        self.model.train()
        self.head.train()
        logits, features = self._pass(inputs)
        self._identify(features.detach(), labels)
        if self.forget_every is not None and self.steps % self.forget_every == 0:
            self._erase(features)
            logits, _ = self._pass(inputs)
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return loss.detach()

    def _pass(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Give the logits and the features."""
        seen: list[Tensor] = []
        hook = self.model.get_submodule(self.place).register_forward_hook(lambda *call: seen.append(call[2].clone()))
        try:
            logits = self.model(inputs)
        finally:
            hook.remove()
        if len(seen) != 1:
            raise ValueError(f"place must be called once in a pass of the model, {self.place!r} is {len(seen)} times")
        return logits, seen[0]

    def _identify(self, features: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(self._told(features), labels)
        self.head_optimizer.zero_grad()
        loss.backward()
        self.head_optimizer.step()

    def _erase(self, features: Tensor) -> None:
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(forget_loss(self._told(features)), parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(gradient, alpha=self.forget_lr)

    def _told(self, features: Tensor) -> Tensor:
        logits = self.head(features)
        if logits.ndim != 2 or len(logits) != len(features):
            raise ValueError(f"head must give logits ({len(features)}, classes), got shape {tuple(logits.shape)}")
        return logits

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, those of the head among it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "head": self.head.state_dict(),
            "head_optimizer": self.head_optimizer.state_dict(),
            "steps": self.steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.head.load_state_dict(state_dict["head"])
        self.head_optimizer.load_state_dict(state_dict["head_optimizer"])
        self.steps = state_dict["steps"]
