"""Stochastic depth: in each training step some residual branches, drawn at random, are left out; all are used after.

A short network is trained and a deep one used. Each branch is trained to do without the others, and gradients reach the
first layers through fewer of them. A branch that is dropped is not computed, neither forward nor backward.
Cost: one random number a branch and call; with the paper's survival probabilities a quarter of the branches' time is
saved in training, nothing afterwards.

Source:
    G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger, "Deep Networks with Stochastic Depth", ECCV, 2016,
    https://arxiv.org/abs/1603.09382. Implemented: the rules for training and for test, and linear decay. That blocks
    which halve the map are counted and dropped as well is as in the authors' code,
    https://github.com/yueatsprograms/Stochastic_Depth.

Deviations:
    - The branch is wrapped and not the block, so that any block can be used: its shortcut, and what comes after the
      sum, stay the network's own. The authors' shortcuts to smaller maps average pixels; those of
      `paperweight.nets.ResNet` take every second one.
    - Weights of a dropped branch have no gradient, and PyTorch's optimizers leave them as they are in that step. The
      authors' code gives them a gradient of 0, so that momentum and weight decay move them.
    - The mode ``"row"`` is not the paper's: later networks draw for each sample, and scale in training.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.errors import InputError

__all__ = ["StochasticDepth", "add_stochastic_depth", "linear_decay_survival"]

PAPER = Paper(
    title="Deep Networks with Stochastic Depth",
    authors=("Gao Huang", "Yu Sun", "Zhuang Liu", "Daniel Sedra", "Kilian Q. Weinberger"),
    year=2016,
    url="https://arxiv.org/abs/1603.09382",
    provides={"StochasticDepth": "layer", "add_stochastic_depth": "function", "linear_decay_survival": "function"},
    null={"survival": 1.0},
    claim="Dropping residual blocks at random in training lowers the test error and saves a quarter of the time.",
)


def linear_decay_survival(branches: int, p_last: float = 0.5) -> tuple[float, ...]:
    """Compute p_l = 1 - l / L (1 - p_L) for l from 1 to L: linear decay from 1 at the input to p_L at the last branch.

    The expected number of branches that survive is the sum, L - (1 - p_L) (L + 1) / 2.

    Args:
        branches: L, at least 1.
        p_last: p_L, in (0, 1]; the paper's is 0.5.

    Returns:
        The probabilities, in the order of the branches.

    Raises:
        ValueError: If ``branches`` is no whole number of at least 1, or ``p_last`` outside its range.

    Example:
        >>> linear_decay_survival(4)
        (0.875, 0.75, 0.625, 0.5)
    """
    if not isinstance(branches, int) or branches < 1:
        raise ValueError(f"branches must be a whole number of at least 1, got {branches!r}")
    _check_probability("p_last", p_last)
    return tuple(1 - number / branches * (1 - p_last) for number in range(1, branches + 1))


def _check_probability(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {value}")


def _survivors(shape: tuple[int, ...], survival: float, generator: torch.Generator | None) -> Tensor:
    """Draw b of Bernoulli(p), where the generator is."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device) < survival


@final
class StochasticDepth(nn.Module):
    """Residual branch f of a block ``shortcut(x) + f(x)``, which in training is dropped at random.

    In the mode ``"batch"``, the paper's, training gives f(x) with probability p, and else 0; eval mode gives p f(x).
    In the mode ``"row"`` each sample survives by itself, training gives f(x) / p for those that do, and eval mode gives
    f(x). Only what survives is computed: batch normalization in f counts a step only where f survives, and in the mode
    ``"row"`` takes its statistics from the samples that do. Where nothing survives the output is one number 0 without
    dimensions, which fits a shortcut of any shape. With p = 1 it is the branch itself, bit for bit, and draws nothing.

    In the mode ``"row"`` a branch with batch normalization of flat features refuses a batch of which one sample
    survives. Weights of a dropped branch get no gradient. So `torch.nn.parallel.DistributedDataParallel` needs
    ``find_unused_parameters=True``, and generators of the same seed to drop the same branches everywhere; and
    `torch.optim.SGD` with momentum must not be ``fused``, which in torch 2.13 fails at a gradient that comes late.

    Args:
        branch: f, a module of one tensor; in the mode ``"row"`` it keeps the samples along the first dimension.
        survival: p, in (0, 1]; the paper's for the last of all branches is 0.5.
        mode: ``"batch"``, one draw for all samples, or ``"row"``, one for each.
        generator: Source of the draws, which several branches may share; torch's global stream on the CPU where it is
            left out, as it must be under activation checkpointing, which restores no other.

    Raises:
        ValueError: If ``survival`` is outside its range or ``mode`` neither of the two.

    Example:
        >>> branch = StochasticDepth(nn.Identity(), survival=0.5, generator=torch.Generator().manual_seed(0))
        >>> x = torch.ones(2)
        >>> [(x + branch(x)).tolist() for _ in range(3)]
        [[2.0, 2.0], [1.0, 1.0], [2.0, 2.0]]
        >>> x + branch.eval()(x)
        tensor([1.5000, 1.5000])
    """

    def __init__(
        self,
        branch: nn.Module,
        survival: float = 0.5,
        mode: Literal["batch", "row"] = "batch",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        _check_probability("survival", survival)
        if mode not in ("batch", "row"):
            raise ValueError(f"mode must be 'batch' or 'row', got {mode!r}")
        self.branch = branch
        self.survival = survival
        self.mode = mode
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """Compute what the block adds to its shortcut.

        Args:
            x: Input of the branch, floating.

        Returns:
            The branch's output, of its shape; in train mode a number 0 of shape () where it is dropped.
        """
        if self.survival == 1:
            return self.branch(x)
        if not self.training:
            return self.branch(x) if self.mode == "row" else self.survival * self.branch(x)
        if self.mode == "row":
            kept = _survivors((len(x),), self.survival, self.generator).nonzero()[:, 0].to(x.device)
            if len(kept):
                values = self.branch(x[kept]) / self.survival
                return values.new_zeros(len(x), *values.shape[1:]).index_copy(0, kept, values)
        elif _survivors((), self.survival, self.generator):
            return self.branch(x)
        return x.new_zeros(())


def _beside_shortcut(block: nn.Module, child: str) -> bool:
    return child == "residual" and isinstance(block._modules.get("shortcut"), nn.Module)


def add_stochastic_depth(
    model: nn.Module,
    survival: Callable[[int], Sequence[float]] = linear_decay_survival,
    *,
    mode: Literal["batch", "row"] = "batch",
    generator: torch.Generator | None = None,
    is_branch: Callable[[nn.Module, str], bool] = _beside_shortcut,
) -> nn.Module:
    """Copy a model with each residual branch wrapped in `StochasticDepth`.

    What is asked of a block: it computes ``shortcut(x) + f(x)``, where f is a module, called once, and nothing else is
    done with its output but what a number 0 would do for as well, such as a scale; f alone is wrapped, so what it
    needs, such as a norm before it, is best within it. After the sum may come a ReLU. A block that has its branch in
    several modules, as those of torchvision, first needs it in one.

    Args:
        model: The model; its modules must be registered in the order in which they are called.
        survival: Maps the number of branches to a probability for each, in (0, 1]; the paper's is linear decay to
            0.5, and ``functools.partial(linear_decay_survival, p_last=0.8)`` is one to 0.8.
        mode: Of each branch, as in `StochasticDepth`.
        generator: Source of the draws of all branches; torch's global stream where it is left out.
        is_branch: Tells from a block and the name of one of its children whether the child is a branch. By default
            it is where it is named ``residual`` and stands beside one named ``shortcut``, as in
            `paperweight.nets.ResNet`.

    Returns:
        The copy, in the modes of the model; the generator is not copied.

    Raises:
        InputError: If the model holds no branch, or one that is wrapped already.
        ValueError: If ``survival`` does not give a probability for each branch, or ``mode`` is neither of the two.

    Example:
        >>> from paperweight.nets import ResNet, ViT
        >>> deep = add_stochastic_depth(ResNet((1, 8, 8), 10, depth=20))
        >>> sum(module.survival for module in deep.modules() if isinstance(module, StochasticDepth))
        6.5
        >>> parts = ("attention", "perceptron")
        >>> transformer = add_stochastic_depth(
        ...     ViT((1, 8, 8), 10), mode="row", is_branch=lambda block, child: child in parts)
    """
    result = copy.deepcopy(model)
    found = [
        (block, name, child)
        for block in result.modules()
        for name, child in block._modules.items()
        if child is not None and is_branch(block, name)
    ]
    if not found:
        raise InputError(
            f"model must hold a residual branch, got {type(model).__name__} without one; name its branches with "
            "is_branch, or give each block its branch as a module named residual beside one named shortcut"
        )
    if any(isinstance(child, StochasticDepth) for _, _, child in found):
        raise InputError("model must hold branches that are not wrapped yet, got one in a StochasticDepth")
    probabilities = survival(len(found))
    if len(probabilities) != len(found):
        raise ValueError(
            f"survival must give a probability for each of {len(found)} branches, got {len(probabilities)} of them"
        )
    for (block, name, child), probability in zip(found, probabilities, strict=True):
        block._modules[name] = StochasticDepth(child, probability, mode, generator).train(child.training)
    return result
