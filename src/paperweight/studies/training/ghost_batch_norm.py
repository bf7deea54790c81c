"""Ghost batch normalization and a larger rate close the gap of large batches with no more updates (Hoffer et al. 2017).

A network of one hidden layer with batch normalization learns characters by SGD with momentum 0.9, gradients clipped at
norm 5, and a rate that falls to a tenth after half and three quarters of the steps. A batch of 256 in as many epochs
as batches of 32 makes 8 times fewer updates. A rate tuned for large batches is what a practitioner has anyway: the
baseline. So the headline asks what ghost statistics add to it, at equal epochs; the paper's root rule, from the rate
that is best for batches of 32, is an arm beside it.

What it can show: whether parts of 32 with statistics of their own, in a batch of 256, make this network more accurate
than the statistics of the whole batch, and how much of the gap to small batches that closes. An accuracy that is not
higher than that of large batches at their own best rate would refute the claim here. Small batches are the goal. Large
batches with four times the updates, and the work, ask whether it is the number of updates that is missed; the root
rule in place of a tuned rate, whether it hits. Where large batches lose nothing, there is no gap to close.
"""

from functools import partial
from typing import NamedTuple

from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR

from paperweight.loops import clip_gradients, tune
from paperweight.nets import NormalisedMLP
from paperweight.studies import ACCURACY, TEST_LOSS, Arm, Outcome, Recipe, Setting, Study, Trained, classification
from paperweight.training.ghost_batch_norm import replace_batch_norms, scaled_lr

_SMALL = 32
_LARGE = 256
_RATES = (0.004, 0.012, 0.04, 0.12, 0.4, 1.2)


class _Plan(NamedTuple):
    """Samples a batch and a part, a factor of the epochs, and whether the rate is that of small batches by the rule."""

    batch: int
    part: int
    longer: int = 1
    by_rule: bool = False


_OF_SMALL = _Plan(_SMALL, _SMALL)


RECIPE = Recipe(
    words="batch normalization over parts of at most 16 samples, each by its own statistics",
    line="model = replace_batch_norms(model, ghost_size=16)",
    surgery=partial(replace_batch_norms, ghost_size=16),
)

STUDY = Study(
    paper="ghost_batch_norm",
    question="Do statistics of parts of a large batch make a network more accurate, once the rate is tuned for it?",
    claim="In large batches, ghost batch normalization gives a higher test accuracy than batch normalization.",
    arms={
        "large": Arm("batches of 256, normalized as a whole, rate tuned", _Plan(_LARGE, _LARGE)),
        "ghost": Arm("the same in parts of 32, rate tuned", _Plan(_LARGE, _SMALL)),
        "ghost_root_rule": Arm(
            "the same, the rate that is best for batches of 32 times the root of 8",
            _Plan(_LARGE, _SMALL, by_rule=True),
        ),
        "small": Arm("the goal: batches of 32, rate tuned, 8 times the updates", _OF_SMALL),
        "large_adapted": Arm(
            "control: batches of 256 with half of the updates of small ones, 4 times the work",
            _Plan(_LARGE, _LARGE, longer=4),
        ),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS},
    headline="accuracy",
    tuned=(
        "the learning rate, 6 tries an arm and seed, a factor of about 3 apart, from one grid: by validation loss; for "
        "the root rule in batches of 32"
    ),
    limits=(
        "Small images, the same 4,000 to test on for every seed, a small network without convolutions and 12 epochs at "
        "the desk budget: nothing follows for deep networks or long training. The size of a part is not tuned. Adapted "
        "training has half of the updates of small batches, for its cost; the paper has all. A first weighing over 12 "
        "pairs, with batches of 512, could not decide, and its small batches chose the lowest rate that there was."
    ),
    seeds=32,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(2_048, 1_000, 4_000), gpu=(40_000, 5_000, 10_000), default="glyphs"
    )
    updates = setting.pick(smoke=2, desk=12, gpu=100) * max(1, len(task.train) // _SMALL)

    def train(rate: float, plan: _Plan = arm.make) -> Trained:
        model = replace_batch_norms(task.network(partial(NormalisedMLP, hidden=(64,))), plan.part)
        optimizer = SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        clip_gradients(optimizer, 5.0)
        steps = max(4, updates * _SMALL // plan.batch * plan.longer)
        schedule = MultiStepLR(optimizer, [steps // 2, steps * 3 // 4])
        return task.fit(model, optimizer, steps=steps, batch_size=plan.batch, schedule=schedule)

    def by_loss(tried: Trained) -> float:
        return tried.validated.loss

    if arm.make.by_rule:
        tuned = tune(_RATES, partial(train, plan=_OF_SMALL), by_loss, better="lower")
        best = train(scaled_lr(tuned.value, _LARGE, _SMALL))
    else:
        tuned = tune(_RATES, train, by_loss, better="lower")
        best = tuned.best
    return task.outcome(
        tuned,
        trained=best,
        metrics=best.accuracy_and_loss,
        arguments={"part": arm.make.part, "updates": len(best.losses)},
        curves={"test accuracy, by log10 lr": tuned.curve(lambda tried: tried.tested.accuracy)},
    )
