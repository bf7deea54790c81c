"""CondConv makes convolutional networks more accurate at nearly the same cost of inference (Yang et al. 2019).

A LeNet learns characters at half their size by Adam, its rate rising over a tenth of the steps and falling along a
cosine; each arm has its own rate. The convolution that does not read the images is mixed from experts in all arms but
the baseline, which start from the weights that it starts from.

What it can show: whether kernels mixed for each example make this network better. An accuracy that is not higher than
that of the plain network would refute the claim here. Experts mixed alike for all examples ask whether it is the
conditioning: they have the same numbers to learn, but for the routing, and are one plain convolution after training.
Routing by softmax is the paper's ablation; four experts ask whether eight are needed. Multiplications are those of one
image, routing and mixing included.
"""

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import Adam

from paperweight.architecture.condconv import CondConv2d, condition_convolutions
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import LeNet, count_multiplications, count_parameters, halved
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

_RATES = (0.0025, 0.0055, 0.012, 0.026)
_EXPERTS = 8


def _unconditional(model: nn.Module) -> nn.Module:
    """Mix experts alike for all examples: the shares are learned, and do not depend on the inputs."""
    new = condition_convolutions(model, _EXPERTS)
    for part in new.modules():
        if isinstance(part, CondConv2d):
            nn.init.zeros_(part.router.weight).requires_grad_(False)
    return new


RECIPE = Recipe(
    words="kernels of convolutions mixed for each example from 8 experts, but for those that read the images",
    line="model = condition_convolutions(model, num_experts=8)",
    surgery=partial(condition_convolutions, num_experts=_EXPERTS),
)

STUDY = Study(
    paper="condconv",
    question="Does an image classifier get better if the kernels of a convolution are mixed for each example?",
    claim="CondConv gives a higher test accuracy than a plain convolution, at little more multiplications.",
    arms={
        "plain": Arm("plain convolutions", lambda model: model),
        "condconv": Arm("CondConv, 8 experts", partial(condition_convolutions, num_experts=_EXPERTS)),
        "condconv_four": Arm("CondConv, 4 experts", partial(condition_convolutions, num_experts=4)),
        "softmax": Arm(
            "CondConv, 8 experts, routing by softmax",
            partial(condition_convolutions, num_experts=_EXPERTS, routing="softmax"),
        ),
        "unconditional": Arm("control: 8 experts in shares that are learned, alike for all examples", _unconditional),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "multiplications": Metric.lower("multiplications for one image", 1_000, "multiplications"),
    },
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of about 2.2 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, one replaced convolution of a small network, a few "
        "hundred steps without augmentation: nothing follows for deep networks, or for many images, which more "
        "numbers to learn ask for. A plain network of as many numbers, which would be wider and slower, is not among "
        "the arms. Twelve pairs could not decide, and twelve more were weighed. Multiplications of experts mixed alike "
        "for all examples count the mixing, which is none after training."
    ),
    seeds=24,
)


def run(arm: Arm[Callable[[nn.Module], nn.Module]], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(4_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=20, desk=400, gpu=8_000)

    def train(rate: float) -> Trained:
        model = setting.initialised(lambda: arm.make(task.network(halved(LeNet))))
        optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=warmed_cosine(optimizer, steps))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    layers = [part for part in tuned.best.model.modules() if isinstance(part, CondConv2d)]
    mixing = sum(part.experts.numel() + part.router.weight.numel() for part in layers)
    plain = count_multiplications(task.network(halved(LeNet)), task.data.test.images[:1])
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "multiplications": float(plain + mixing)},
        arguments={
            "experts": layers[0].num_experts if layers else 0,
            "routing": layers[0].routing if layers else "none",
            "numbers": count_parameters(tuned.best.model),
        },
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
