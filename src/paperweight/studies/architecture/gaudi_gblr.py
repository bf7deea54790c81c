"""Matrices whose structure is learned are more accurate than low rank at equal multiplications (Lee and Kim 2023).

A network of two hidden layers learns characters at half their size by Adam, its rate rising over a tenth of the steps
and falling along a cosine; each arm has its own rate. Both hidden layers take a tenth of the multiplications of dense
ones, in all arms but the last. Learned blocks start with half of them, all of width 1, from the singular vectors of the
dense layers, and shrink while masks get sharper; after two thirds of the steps masks stay as zeros and ones, and only
factors and biases are trained. Low rank starts from singular vectors, too.

What it can show: whether structure that is learned beats the simplest one that is not. An accuracy that is not higher
than that of low rank would refute the claim here. Blocks at random places ask whether places have to be learned, or any
will do; a block diagonal is structure by hand; dense layers show what a tenth of the multiplications costs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.architecture.gaudi_gblr import GBLRLinear, proximal_step, structure_linears
from paperweight.data import Splits
from paperweight.errors import InputError
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import MLP, count_parameters, evaluating, halved
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
from paperweight.studies.architecture._structures import BlockDiagonal, Fixed, block_diagonal, low_rank, random_blocks

_RATES = (0.004, 0.008, 0.016, 0.032, 0.064)
_BUDGET = 0.1


def _blocks(model: nn.Module) -> list[GBLRLinear]:
    return [part for part in model.modules() if isinstance(part, GBLRLinear)]


def _share(model: nn.Module) -> float:
    """Compute the multiplications of all layers that were replaced as a share of those of dense ones."""
    counts = [part.counts for part in model.modules() if isinstance(part, Fixed | BlockDiagonal)]
    counts += [(layer.multiplications, layer.in_features * layer.out_features) for layer in _blocks(model)]
    return sum(taken for taken, _ in counts) / sum(dense for _, dense in counts) if counts else 1.0


def _course(model: nn.Module, step: int, steps: int) -> None:
    """Do what follows an update: sharpen masks and shrink widths, and after two thirds of the steps keep both."""
    done = 1.5 * step / steps
    for layer in _blocks(model):
        layer.sigma = 100 ** min(1.0, done)
        layer.train(done < 1)
    if done < 1:
        proximal_step(model, 2 / steps, _BUDGET)


def _before_each_call(model: nn.Module, _: Tensor, steps: int, __: torch.Generator) -> None:
    done = 0

    def follow(model: nn.Module, _: Any) -> None:
        nonlocal done
        if model.training:
            _course(model, done, steps)
            done += 1

    model.register_forward_pre_hook(follow)


def _fits(model: nn.Module, data: Splits) -> str:
    """Say why structured layers cannot stand in a network, and nothing where they can."""
    try:
        changed = structure_linears(model)
        with evaluating(changed), torch.no_grad():
            changed(data.train.images[:2])
    except InputError as error:
        return str(error)
    except Exception:  # what a network does with its layers beside calling them is its own
        return f"{type(model).__name__} must call its linear layers, and not read their weights"
    return ""


RECIPE = Recipe(
    words="hidden linear layers as blocks of learned places and sizes, shrunk to a tenth of their multiplications",
    line="model = structure_linears(model, 0.5); after each step: proximal_step(model, 2 / steps, budget=0.1)",
    surgery=partial(structure_linears, start=0.5, sigma=1.0),
    pretraining=_before_each_call,
    fits=_fits,
)

STUDY = Study(
    paper="gaudi_gblr",
    question="Is a network more accurate if the structure of its matrices is learned, at a tenth of multiplications?",
    claim="Learned blocks give a higher test accuracy than low rank at equal multiplications.",
    arms={
        "low_rank": Arm("low rank: blocks of width 1, not learned", partial(low_rank, budget=_BUDGET)),
        "gblr": Arm("blocks of learned places and widths", RECIPE.surgery),
        "random_blocks": Arm(
            "control: blocks at random places of random widths, not learned", partial(random_blocks, budget=_BUDGET)
        ),
        "block_diagonal": Arm("control: ten blocks along the diagonal", partial(block_diagonal, budget=_BUDGET)),
        "dense": Arm("dense layers, ten times the multiplications", lambda model: model),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "share": Metric.lower("multiplications of the hidden layers, as a share of dense ones", 0.02),
    },
    headline="accuracy",
    tuned="the learning rate, 5 tries an arm and seed, a factor of 2 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, two matrices of at most 128 x 196 and a few hundred "
        "steps: nothing follows for transformers, where the paper reports its gain, or for networks that are trained "
        "already. With 0.3 of the multiplications, on two other seeds, low rank was as accurate as dense layers, and "
        "nothing was left to gain. How fast widths shrink was not tuned; time is that of training, in which "
        "learned blocks save nothing."
    ),
    seeds=14,
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
        return task.fit(
            model,
            optimizer,
            steps=steps,
            batch_size=32,
            schedule=warmed_cosine(optimizer, steps),
            on_step=(lambda step, _: _course(model, step, steps)) if _blocks(model) else None,
        )

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    model = tuned.best.model
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "share": _share(model)},
        arguments={"numbers": count_parameters(model)},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
