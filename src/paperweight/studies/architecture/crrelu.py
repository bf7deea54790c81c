"""CRReLU trains networks for images to a higher accuracy than ReLU and the activations made from it (Sun et al. 2024).

A LeNet learns characters at half their size by Adam, without weight decay, its rate rising over a tenth of the steps
and falling along a cosine. Wherever the network has a ReLU or GELU it has the arm's activation; a learned number of an
activation has the rate of the weights.

What it can show: whether the bump of CRReLU makes this network better. An accuracy that is not higher than ReLU's would
refute the claim here. The bump frozen at the paper's start, 0.01, asks whether learning it matters; one frozen at a
size of 0.5, whether a bump of fixed size would do. PReLU learns one number a layer, too, and GELU is what transformers
have: both are one line of code. A curve shows the sizes that were learned.
"""

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import Adam

from paperweight.architecture.crrelu import CRReLU
from paperweight.loops import tune, warmed_cosine
from paperweight.nets import LeNet, halved, replace_modules
from paperweight.studies import (
    ACCURACY,
    EARLY_LOSS,
    TEST_LOSS,
    Arm,
    Outcome,
    Recipe,
    Setting,
    Study,
    Trained,
    classification,
)

_RATES = (0.003, 0.006, 0.012, 0.024)


def _with_crrelu(model: nn.Module) -> nn.Module:
    return replace_modules(
        model, lambda _, part: isinstance(part, nn.ReLU), lambda _: CRReLU(), wanted="a module of type ReLU"
    )


RECIPE = Recipe(
    words="every ReLU a CRReLU, the size of its bump learned from 0.01",
    line=(
        "model = replace_modules(model, lambda _, part: isinstance(part, nn.ReLU), lambda _: CRReLU(), "
        'wanted="a module of type ReLU")'
    ),
    surgery=_with_crrelu,
)

STUDY = Study(
    paper="crrelu",
    question="Does an image classifier get better with CRReLU, once every activation has its own learning rate?",
    claim="CRReLU gives a higher test accuracy than ReLU, and than PReLU and GELU.",
    arms={
        "relu": Arm("ReLU: the method at eps 0, frozen", nn.ReLU),
        "crrelu": Arm("CRReLU, eps learned from 0.01", CRReLU),
        "crrelu_frozen": Arm("control: CRReLU, eps 0.01 not learned", partial(CRReLU, learnable=False)),
        "crrelu_frozen_large": Arm("control: CRReLU, eps 0.5 not learned", partial(CRReLU, init=0.5, learnable=False)),
        "prelu": Arm("control: one number a layer learned, the slope on the negative side", nn.PReLU),
        "gelu": Arm("control: GELU", nn.GELU),
    },
    metrics={
        "accuracy": ACCURACY,
        "test_loss": TEST_LOSS,
        "early_loss": EARLY_LOSS,
    },
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor 2 apart: by validation loss, the early loss by itself",
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small convolutional network and 300 steps at the "
        "desk budget: nothing follows for transformers, where the paper reports its gain, for language models, long "
        "training or deep networks."
    ),
    seeds=16,
)


def run(arm: Arm[Callable[[], nn.Module]], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(2_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    )
    steps = setting.pick(smoke=20, desk=300, gpu=8_000)

    def train(rate: float) -> Trained:
        model = replace_modules(
            task.network(halved(LeNet)),
            lambda _, part: isinstance(part, nn.ReLU | nn.GELU),
            lambda _: arm.make(),
            wanted="a module of type ReLU or GELU",
        ).to(setting.device)
        optimizer = Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
        return task.fit(model, optimizer, steps=steps, batch_size=32, schedule=warmed_cosine(optimizer, steps))

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    early = tuned.by(lambda tried: tried.losses[: max(1, steps // 4)].mean().item(), better="lower")
    bumps = [part.eps.item() for part in tuned.best.model.modules() if isinstance(part, CRReLU)]
    return task.outcome(
        tuned,
        metrics={**tuned.best.accuracy_and_loss, "early_loss": early.scores[early.value]},
        made={"activation": partial(arm.make)},
        more_tuned={"lr_of_first_quarter": early},
        curves={
            "test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy),
            **({"eps after training, by layer": [(float(i), eps) for i, eps in enumerate(bumps, 1)]} if bumps else {}),
        },
    )
