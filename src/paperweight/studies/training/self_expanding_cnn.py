"""A network that grows while it trains, by the natural expansion score, becomes more accurate (Appolinary et al. 2024).

A network of three blocks with four channels each learns characters at half their size by SGD with momentum 0.9; the
rate falls along a cosine, pass by pass. Before every second pass the block and kind of expansion with the best score
are added, if they raise it by a tenth. The headline is test accuracy, against the network as it began.

The paper's factor is 2, with a damping of 1e-5. So written it did not let this network grow when it was tried out: the
score is a sum over parameters, to which an expansion adds far fewer than there are, and with that damping new channels,
which begin as noise of 1e-4, have no score at all. Factor and damping are the study's own.

What it can show: whether growing makes the network more accurate than staying small. A test accuracy not higher would
refute the claim here. Expansions drawn at random before the same passes ask whether the score chooses well; the size
that was reached, trained from the beginning, whether it is better to grow into it.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.loops import tune
from paperweight.nets import count_parameters
from paperweight.studies import ACCURACY, TEST_LOSS, Arm, Outcome, Recipe, Setting, Study, Trained, classification
from paperweight.studies.training._deepened import Deepened, can_be_deepened, deepening
from paperweight.training.self_expanding_cnn import Expansion, SelfExpandingCNN, SelfExpansion

_RATES = (0.01, 0.03, 0.1, 0.3)
_NEVER = 1_000_000_000
_KINDS: tuple[Literal["layer", "channels"], ...] = ("layer", "channels")

Events = list[tuple[int, Expansion]]


class _AtRandom(SelfExpansion):
    """Expands before the same passes as another training, by what is drawn at random."""

    passes: Sequence[int] = ()

    def choose(self) -> Expansion | None:
        if self.epoch not in self.passes:
            return None
        candidates = self.model.expansions(self.capacity)
        return candidates[int(torch.randint(len(candidates), (), generator=self.generator))]


class _Plan(NamedTuple):
    """Whether the network grows, by what, and whether it begins as large as it would become."""

    grows: bool = True
    at_random: bool = False
    from_the_beginning: bool = False


RECIPE = Recipe(
    words="1x1 convolutions added after convolutions where they raise the natural expansion score; channels stay",
    line="training = SelfExpansion(model, optimizer, inputs, labels, tau=1.01, damping=1e-12, generator=generator)"
    "  # a model with expansions and expand, such as SelfExpandingCNN",
    surgery=Deepened,
    training=deepening,
    fits=can_be_deepened,
)

STUDY = Study(
    paper="self_expanding_cnn",
    question="Is a small convolutional network more accurate if it is let grow while it trains?",
    claim="A network that grows by the natural expansion score has a higher test accuracy than it has without growing.",
    arms={
        "small": Arm("three blocks of 4 channels: the method without expansions", _Plan(grows=False)),
        "growing": Arm("the best expansion by score before every second pass, 4 channels or a layer", _Plan()),
        "at_random": Arm("control: expansions before the same passes, drawn at random", _Plan(at_random=True)),
        "final_size": Arm(
            "control: the size that growing reached, from the beginning", _Plan(grows=False, from_the_beginning=True)
        ),
    },
    metrics={"accuracy": ACCURACY, "test_loss": TEST_LOSS},
    headline="accuracy",
    tuned="the learning rate, 4 tries an arm and seed, a factor of about 3 apart, from one grid: by validation loss",
    limits=(
        "Small images, the same 4,000 to test on for every seed, 10 passes over 1,000 images and at most 4 expansions "
        "at the desk budget: nothing follows for the paper's 300 passes. Factor and damping of the score are not the "
        "paper's, with which no expansion was made when this was tried out, and were not tuned; the score sees 128 "
        "images. A control follows the expansions that growing made at the same rate; what is drawn at random ends "
        "smaller, with 1,789 parameters to 2,411 on average, so that it does not show what the score is good for."
    ),
    seeds=10,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once with each rate; report what the best on validation images does on test images."""
    task = classification(
        setting, smoke=(100, 50, 50), desk=(1_000, 1_000, 4_000), gpu=(20_000, 5_000, 10_000), default="glyphs"
    ).with_images(lambda images: F.avg_pool2d(images, 2))
    images, labels = task.train.images, task.train.labels
    passes, channels = setting.pick(smoke=(3, 2), desk=(10, 4), gpu=(100, 16))

    def network(sizes: Sequence[int]) -> SelfExpandingCNN:
        shape = (images.shape[1], images.shape[2], images.shape[3])
        return setting.initialised(lambda: SelfExpandingCNN(shape, task.classes, sizes))

    def train(rate: float, plan: _Plan = arm.make) -> Trained:
        events = grown(rate) if plan.at_random or plan.from_the_beginning else []
        model = network([channels] * 3)
        if plan.from_the_beginning:
            wider = [event.block for _, event in events if event.kind == "channels"]
            model = network([channels + channels * wider.count(block) for block in range(3)])
            for expansion in [event for _, event in events if event.kind == "layer"]:
                model.expand(expansion, noise=0.0)
        optimizer = SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        training = (_AtRandom if plan.at_random else SelfExpansion)(
            model,
            optimizer,
            images,
            labels,
            tau=1.1,
            extra=channels,
            cooldown=2 if plan.grows else _NEVER,
            damping=1e-12,
            scored=128,
            batch_size=32,
            generator=setting.generator("batches"),
        )
        if isinstance(training, _AtRandom):
            training.passes = [epoch for epoch, _ in events]
        return task.fit_by(training, passes, CosineAnnealingLR(optimizer, passes))

    def grown(rate: float) -> Events:
        """Give the expansions of growing at a rate, each with its pass."""

        def rows() -> dict[str, Tensor]:
            made = train(rate, _Plan()).made["training"].expanded
            return {
                "rows": torch.tensor([(epoch, _KINDS.index(kind), block) for epoch, (kind, block) in made]).view(-1, 3)
            }

        found = setting.cached(f"expansions at {rate}", rows)["rows"]
        return [(epoch, Expansion(_KINDS[kind], block)) for epoch, kind, block in found.long().tolist()]

    tuned = tune(_RATES, train, lambda tried: tried.validated.loss, better="lower")
    training = tuned.best.made["training"]
    made = [f"{kind} {block} before pass {epoch}" for epoch, (kind, block) in training.expanded]
    return task.outcome(
        tuned,
        metrics=tuned.best.accuracy_and_loss,
        arguments={"parameters": count_parameters(tuned.best.model), "expansions": ", ".join(made)},
    )
