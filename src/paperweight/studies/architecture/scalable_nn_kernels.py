"""A layer of random features is as accurate with a fifth of the numbers to learn (Sehanobish et al. 2024).

A network of two hidden layers learns characters at half their size by Adam, its rate rising over a tenth of the steps
and falling along a cosine; each arm has its own rate. Its second hidden layer is replaced, from its weights, by one
with about a fifth of the numbers to learn; biases are learned in all arms.

What it can show: how random features of inputs do beside the usual way to save numbers, two learned factors of low
rank. An accuracy that is below that of low rank by more than the minimal effect would refute the claim here. The same
random projections without ReLU, which come before the learned matrix, and a ReLU after it, ask whether a kernel is
needed or any frozen factor will do. The layer as it was shows what the saved numbers cost, and both hidden layers
replaced, what happens to a layer that reads the images.
"""

from collections.abc import Callable
from functools import partial
from typing import final

import torch
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.architecture.scalable_nn_kernels import SNNKLinear, replace_feedforward
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import MLP, halved
from paperweight.studies import (
    ACCURACY,
    TEST_LOSS,
    Arm,
    Metric,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)

_RATES = (0.001, 0.002, 0.004, 0.008, 0.016)
_SHARE = 0.2


@final
class _Factors(nn.Module):
    """Two factors in the place of a layer, the best of their rank at the start, and a ReLU."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        with torch.no_grad():
            u, sizes, v = torch.linalg.svd(layer.weight, full_matrices=False)
            roots = sizes[:rank].sqrt()
            self.left, self.right = nn.Parameter(u[:, :rank] * roots), nn.Parameter(roots[:, None] * v[:rank])
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(nn.functional.linear(x @ self.right.T, self.left, self.bias))


@final
class _Projected(nn.Module):
    """The projections of an SNNK layer without ReLU, a learned matrix as large as its own, and a ReLU."""

    def __init__(self, layer: SNNKLinear) -> None:
        super().__init__()
        self.register_buffer("projections", layer.projections / layer.features**0.5)
        bound = layer.in_features**-0.5
        self.weight = nn.Parameter(torch.empty_like(layer.weight).uniform_(-bound, bound))
        self.bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(nn.functional.linear(x @ self.get_buffer("projections").T, self.weight, self.bias))


def _replaced(model: nn.Module, make: Callable[[nn.Linear, SNNKLinear], nn.Module]) -> nn.Module:
    """Put another layer wherever an SNNK layer would be, made from the layer that was there and from the latter."""
    new = replace_feedforward(model, _SHARE)
    for name, part in list(new.named_modules()):
        old = model.get_submodule(name) if isinstance(part, SNNKLinear) else None
        if isinstance(part, SNNKLinear) and isinstance(old, nn.Linear):
            new.set_submodule(name, make(old, part))
    return new


def _low_rank(model: nn.Module) -> nn.Module:
    def make(old: nn.Linear, new: SNNKLinear) -> nn.Module:
        return _Factors(old, max(1, round(new.weight.numel() / (old.in_features + old.out_features))))

    return _replaced(model, make)


RECIPE = Recipe(
    words="the last hidden linear layer by ReLU features, a fifth of its numbers learned",
    line="model = replace_feedforward(model, share=0.2)",
    surgery=partial(replace_feedforward, share=_SHARE),
)

STUDY = Study(
    paper="scalable_nn_kernels",
    question="With a fifth of the numbers to learn, is a layer of random features as accurate as one of low rank?",
    claim="Random features are no less accurate than low rank with as many numbers to learn.",
    arms={
        "low_rank": Arm("two learned factors with as many numbers", _low_rank),
        "snnk": Arm("ReLU features and a learned matrix", RECIPE.surgery),
        "projected": Arm(
            "control: the projections without ReLU, a learned matrix, and a ReLU",
            partial(_replaced, make=lambda _, layer: _Projected(layer)),
        ),
        "snnk_all": Arm("ReLU features in both hidden layers", partial(replace_feedforward, share=_SHARE, last=2)),
        "dense": Arm("the layer as it was", lambda model: model),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "numbers": Metric.lower("numbers learned in the network", 100, "numbers"),
    },
    headline="accuracy",
    tuned="the learning rate, 5 tries an arm and seed, a factor of 2 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, one layer of 128 x 128 in a network that is trained "
        "from its start in a few hundred steps: nothing follows for adapters, for layers of transformers that are "
        "trained already, where the paper replaces them, or for wide layers. Projections are not trained but take "
        "memory and time. In a first weighing of the same seeds, from a rate of 0.002 on, random features had chosen "
        "the lowest for 6 of 16."
    ),
    seeds=16,
)


def run(arm: Arm[Callable[[nn.Module], nn.Module]], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(4_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=20, desk=400, gpu=8_000)

    def train(rate: float) -> Trained:
        model = setting.initialised(lambda: arm.make(task.network(halved(partial(MLP, hidden=(128, 128))))))
        optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=warmed_cosine(optimizer, steps))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    model = tuned.best.model
    return task.outcome(
        tuned,
        metrics={
            **tuned.best.accuracy_and_loss,
            "numbers": float(sum(p.numel() for p in model.parameters() if p.requires_grad)),
        },
        arguments={"features": sum(part.features for part in model.modules() if isinstance(part, SNNKLinear))},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
