"""Self-expanding convolutional networks: a small network gets layers and channels while it trains, where they pay.

After a pass over the data each block is tried with one more layer and with more channels. What would raise the natural
expansion score most, an estimate of how far a natural gradient step would lower the loss, is kept if it raises it by a
factor. An addition hardly changes what the network computes, so that training goes on from where it was.
Cost: for each candidate the gradients of some samples one by one, once a pass.

Source:
    B. Appolinary, A. Deaconu, S. Yang, Q. Li, "Self Expanding Convolutional Neural Networks", 2024,
    https://arxiv.org/abs/2401.05686. Implemented: the score (equations 1 to 3) and the rules of expansion (section 3).
    Left out: what the authors train with beside it, dropout, an L1 penalty and flipped images.

Deviations:
    - The score is the paper's, a sum over parameters of gradients of single samples. Public code of the same design,
      maybe the authors', takes gradients of batches and the mean over parameters, and as penalty exp(-5e-5 n) for n
      new parameters in place of exp(-lam n^2). The default of lam, which the paper leaves open, gives the same for 256.
    - An added layer is a 1x1 convolution at the end of its block, after the activation, so that at first it changes
      nothing and yet adds to what the block can learn. In that code it is before the block's activation.
    - One linear layer follows the 1x1 convolution that mixes the first block and the last, not two.
    - The optimizer goes on with its state: zeros for what is new.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.training._expanding import Expansion, SelfExpandingCNN, check_count

__all__ = ["Expansion", "SelfExpandingCNN", "SelfExpansion", "natural_expansion_score"]

PAPER = Paper(
    title="Self Expanding Convolutional Neural Networks",
    authors=("Blaise Appolinary", "Alex Deaconu", "Sophia Yang", "Qingze Li"),
    year=2024,
    url="https://arxiv.org/abs/2401.05686",
    provides={
        "SelfExpansion": "training-procedure",
        "SelfExpandingCNN": "network",
        "natural_expansion_score": "function",
    },
    null={"cooldown": 1_000_000_000},
    claim="A network that grows by the natural expansion score while it trains becomes more accurate with few weights.",
)


def natural_expansion_score(model: nn.Module, inputs: Tensor, labels: Tensor, damping: float = 1e-5) -> float:
    """Compute g F^-1 g, with the diagonal of the empirical Fisher matrix: sum of mean(a)^2 / (mean(a^2) + damping).

    The sum is over parameters that are trained, a being the gradients of the cross-entropies of single samples, in eval
    mode, all held at once: samples times parameters. Each parameter gives at most 1.

    Args:
        model: A classifier; it stays as it was.
        inputs: (N, ...), N at least 1.
        labels: Class numbers, int64, (N,).
        damping: Added to the Fisher matrix, above 0; the code that is named above has 1e-5.

    Returns:
        The score, at least 0.

    Raises:
        ValueError: If ``damping`` is not above 0, or inputs and labels differ in number.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> 0 < natural_expansion_score(nn.Linear(2, 2), torch.eye(2), torch.tensor([0, 1])) < 6
        True
    """
    _check_damping(damping)
    _check_samples(inputs, labels)
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss(parameters: dict[str, Tensor], one: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (one[None],)), label[None])

    with evaluating(model):
        gradients = vmap(grad(loss), (None, 0, 0))(trained, inputs, labels)
    terms = [each.mean(0).square() / (each.square().mean(0) + damping) for each in gradients.values()]
    return math.fsum(term.double().sum().item() for term in terms)


class SelfExpansion:
    """Trains a network pass by pass, and lets it grow before a pass where an expansion raises its score by a factor.

    The score of a candidate with n new parameters is multiplied by exp(-lam n^2). With a ``cooldown`` of more passes
    than there are it is plain training on shuffled batches, bit for bit. The optimizer goes on: what is new has no
    momentum. Step a learning-rate schedule between passes. A subclass may override `choose`.

    New weights of the size of ``noise`` have gradients of that size, and a score only if ``damping`` is well below
    their square; and since the score is a sum, a factor of 2 takes about as many new parameters as there are.

    Args:
        model: What is trained, in place: `SelfExpandingCNN`, or a network with ``expansions`` and ``expand`` as it has.
        optimizer: Holds the model's trained parameters in one group; steps without a closure.
        inputs: Inputs, (N, ...), N at least 1, on the model's device.
        labels: Class numbers, int64, (N,).
        tau: Factor by which an expansion must raise the score, at least 0; the paper has 2.
        lam: Weight of the penalty for new parameters, at least 0; the paper's is not known.
        extra: Channels that are added at once, at least 1; the paper has 2, later 4.
        capacity: Most layers a block, at least 1; the paper has 10.
        cooldown: Passes without an expansion at the beginning and after each, at least 1; the paper has 10.
        noise: Standard deviation of new weights, at least 0; the paper has 1e-4.
        damping: Of the score, above 0; the code that is named above has 1e-5.
        scored: Samples whose gradients make a score, at least 1.
        batch_size: Largest number of samples a batch, at least 1; batches of a pass are of nearly equal size.
        generator: Source of the shuffles, of the scored samples and of the noise.

    Raises:
        ValueError: If an argument is outside its range.

    Attributes:
        epoch: Number of passes taken.
        expanded: The expansions, each with the number of the pass before which it was made.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, draw = SelfExpandingCNN((1, 4, 4), classes=2, channels=(2,)), torch.Generator().manual_seed(0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> data = torch.rand(20, 1, 4, 4), torch.arange(20) % 2
        >>> training = SelfExpansion(model, optimizer, *data, tau=0.0, cooldown=2, generator=draw)
        >>> for _ in range(6):
        ...     loss = training.step()
        >>> [epoch for epoch, _ in training.expanded]
        [2, 4]
    """

    def __init__(
        self,
        model: Any,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        tau: float = 2.0,
        lam: float = 2e-7,
        extra: int = 2,
        capacity: int = 10,
        cooldown: int = 10,
        noise: float = 1e-4,
        damping: float = 1e-5,
        scored: int = 512,
        batch_size: int = 128,
        *,
        generator: torch.Generator,
    ) -> None:
        counts = {
            "extra": extra,
            "capacity": capacity,
            "cooldown": cooldown,
            "scored": scored,
            "batch_size": batch_size,
        }
        for name, count in counts.items():
            check_count(name, count)
        for name, value in {"tau": tau, "lam": lam, "noise": noise}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and at least 0, got {value}")
        _check_damping(damping)
        _check_samples(inputs, labels)
        _check_held(model, optimizer)
        self.model = model
        self.optimizer = optimizer
        self.inputs = inputs
        self.labels = labels
        self.tau = tau
        self.lam = lam
        self.extra = extra
        self.capacity = capacity
        self.cooldown = cooldown
        self.noise = noise
        self.damping = damping
        self.scored = scored
        self.batch_size = batch_size
        self.generator = generator
        self.epoch = 0
        self.expanded: list[tuple[int, Expansion]] = []

    def step(self) -> Tensor:
        """Expand the model where it pays, and train it for one pass in train mode.

        Returns:
            The mean of the losses of its batches, before each update, a scalar.
        """
        since = self.epoch - (self.expanded[-1][0] if self.expanded else 0)
        if since >= self.cooldown and (found := self.choose()) is not None:
            self._expand(self.model, found)
            self.expanded.append((self.epoch, found))
        self.model.train()
        losses: list[Tensor] = []
        for index in self._order().tensor_split(-(-len(self.inputs) // self.batch_size)):
            loss = F.cross_entropy(self.model(self.inputs[index]), self.labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        self.epoch += 1
        return torch.stack(losses).mean()

    def choose(self) -> Expansion | None:
        """Score every expansion on the same samples, and give the best if it raises the score by the factor tau."""
        index = self._order()[: self.scored]
        inputs, labels = self.inputs[index], self.labels[index]
        before = sum(p.numel() for p in _trained(self.model))
        state = self.generator.get_state()
        best, highest = None, self.tau * natural_expansion_score(self.model, inputs, labels, self.damping)
        for candidate in self.model.expansions(self.capacity):
            self.generator.set_state(state)
            larger = copy.deepcopy(self.model)
            larger.expand(candidate, self.extra, self.noise, self.generator)
            new = sum(p.numel() for p in _trained(larger)) - before
            score = natural_expansion_score(larger, inputs, labels, self.damping) * math.exp(-self.lam * new**2)
            if score > highest:
                best, highest = candidate, score
        self.generator.set_state(state)
        return best

    def _expand(self, model: Any, expansion: Expansion) -> None:
        """Expand the model, with the noise that was scored, and hand the optimizer what is new."""
        grown = model.expand(expansion, self.extra, self.noise, self.generator)
        for old, (new, larger) in grown.items():
            state = self.optimizer.state.pop(old, {})
            self.optimizer.state[new] = {
                name: larger(value) if isinstance(value, Tensor) and value.shape == old.shape else value
                for name, value in state.items()
            }
        self.optimizer.param_groups[0]["params"] = _trained(model)

    def _order(self) -> Tensor:
        device = self.generator.device
        return torch.randperm(len(self.inputs), generator=self.generator, device=device).to(self.inputs.device)

    def state_dict(self) -> dict[str, Any]:
        """Give all that is needed to go on beside the model's weights, the generator's state among it."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "expanded": [(epoch, tuple(expansion)) for epoch, expansion in self.expanded],
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, with a model that had its weights before the optimizer was made.

        Raises:
            ValueError: If the optimizer holds parameters that the model had before it was loaded.
        """
        _check_held(self.model, self.optimizer)
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.epoch = state_dict["epoch"]
        self.expanded = [(epoch, Expansion(*expansion)) for epoch, expansion in state_dict["expanded"]]
        self.generator.set_state(state_dict["generator"])


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _check_held(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if len(optimizer.param_groups) > 1 or set(held) != set(_trained(model)):
        raise ValueError(
            "optimizer must hold the parameters of the model that are trained, in one group; make it after the model "
            "has been loaded"
        )


def _check_damping(damping: float) -> None:
    if not 0 < damping < math.inf:
        raise ValueError(f"damping must be finite and above 0, got {damping}")


def _check_samples(inputs: Tensor, labels: Tensor) -> None:
    if not len(inputs) or labels.shape != inputs.shape[:1]:
        raise ValueError(
            f"inputs and labels must have shapes (N, ...) and (N,), N at least 1, got {tuple(inputs.shape)} and "
            f"{tuple(labels.shape)}"
        )
