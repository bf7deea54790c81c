"""Features of support image and query that depend on each other classify disturbed queries better (Guo et al. 2025).

A small backbone learns to classify clean drawn characters, and is frozen, as the authors' is. A head on its feature
maps then learns from pairs of a clean image and one disturbed by noise, weak contrast or blur whether they show one
character. Characters that neither has seen make episodes: five classes, one clean support image of each, disturbed
queries.

In the baseline the head is the same network, of the same size, trained by the same loss on the same pairs, but embeds
each image as if it was paired with itself: nothing of the other image is there. An accuracy that is not higher with the
other image would refute the claim. The controls ask whether the head is worth anything at all: the cosine of the
backbone's own features, and a backbone that goes on to learn from the pairs in place of a head.

What it can show: whether conditioning on the other image helps at this size, apart from what a larger network and more
training give. The paper compares with other methods on real images of its own benchmark; of that nothing is shown.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.data import LabelledImages
from paperweight.loops import index_batches, loss_curve, minimise, tune
from paperweight.nets import evaluating
from paperweight.representation.crlnet import CRLNet, PairOfTensors, episode_scores, pair_loss
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.representation._episodes import (
    Episode,
    Pairs,
    disturbed,
    drawn_characters,
    episodes,
    pairs,
)

_CHANNELS, _SIDE, _EACH = 32, 16, 12
_RATES = (0.0005, 0.004, 0.03)


class _Plan(NamedTuple):
    """Whether there is a head, whether it sees the other image, and whether the backbone learns."""

    head: bool = True
    joint: bool = False
    backbone: bool = False


STUDY = Study(
    paper="crlnet",
    question="Do features of support and query that depend on each other classify disturbed queries better?",
    claim="5-way 1-shot accuracy on disturbed queries is higher where each image is embedded with the other.",
    arms={
        "alone": Arm("the head embeds each image as if it was paired with itself", _Plan()),
        "joint": Arm("the head embeds each image with the other (CRLNet)", _Plan(joint=True)),
        "backbone": Arm("control: no head, the backbone's own features", _Plan(head=False)),
        "tuned_backbone": Arm("control: no head, the backbone learns from the pairs", _Plan(head=False, backbone=True)),
    },
    metrics={
        "accuracy": Metric.higher("accuracy on disturbed queries, 1 shot", 0.02),
        "clean": Metric.higher("the same on clean queries", 0.02),
    },
    headline="accuracy",
    tuned=(
        "the learning rate, 3 tries an arm and seed, a factor of 8 apart, by the accuracy on disturbed queries "
        "of characters of their own; where nothing is trained all tries are alike"
    ),
    limits=(
        "Drawn characters of 16 pixels, maps of 32 channels and 4 by 4 pixels, heads of width 64 trained on 80 "
        "batches of 32 pairs, where the authors' code makes 500 passes over its data; disturbances of the same "
        "kinds in training and in tests: nothing follows for photographs, large backbones or long training. No other "
        "method for few-shot learning is weighed here, and no more than one support image a class. Batch normalization "
        "of the frozen backbone stays in evaluation mode, which the authors' does not. "
        "The heads hardly use what they are given: on seed 1000, at the rate that is chosen, 0.03, their features are "
        "the same for all images, in both arms, and at lower rates the other image changes them by less than 1% of "
        "their variance. Two heads of which neither looks cannot tell whether looking at the other image helps."
    ),
    seeds=9,
)


class _Backbone(nn.Sequential):
    """Three convolutions with batch normalization: maps of a quarter of the height and width."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, _CHANNELS, 3, stride=2, padding=1), nn.BatchNorm2d(_CHANNELS), nn.ReLU()),
            *(nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.BatchNorm2d(_CHANNELS), nn.ReLU()),
        )


class _Embedder(nn.Module):
    """Embeds pairs of what it prepares of images; a backbone that does not learn stays in evaluation mode."""

    def __init__(self, plan: _Plan, backbone: _Backbone) -> None:
        super().__init__()
        self.plan, self.backbone = plan, backbone.requires_grad_(plan.backbone)
        self.head = CRLNet(_CHANNELS, (_SIDE // 4, _SIDE // 4), heads=4, ffn=64, hidden=64, dropout=0.0)

    def train(self, mode: bool = True) -> "_Embedder":
        super().train(mode)
        self.backbone.train(mode and self.plan.backbone)
        return self

    def prepared(self, images: Tensor) -> Tensor:
        """Give what is computed once an image: maps, or both embeddings where they do not depend on another image."""
        maps = self.backbone(images)
        if self.plan.joint:
            return maps
        codes = self.head(maps, maps) if self.plan.head else [maps.mean(dim=(2, 3))] * 2
        return torch.stack([*codes], dim=1)

    def forward(self, support: Tensor, query: Tensor) -> PairOfTensors:
        return self.head(support, query) if self.plan.joint else PairOfTensors(support[:, 0], query[:, 1])


class _Trained(NamedTuple):
    model: _Embedder
    optimizer: AdamW
    losses: Tensor


def _pretrained(setting: Setting, part: LabelledImages, steps: int) -> dict[str, Tensor]:
    """Train a backbone to classify clean characters."""
    model = setting.initialised(
        lambda: nn.Sequential(
            _Backbone(), nn.AvgPool2d(_SIDE // 4), nn.Flatten(), nn.Linear(_CHANNELS, len(part) // _EACH)
        )
    )

    def loss(batch: Tensor) -> Tensor:
        return F.cross_entropy(model(part.images[batch]), part.labels[batch])

    batches = index_batches(len(part), 64, setting.generator("batches"), part.images.device)
    minimise(loss, AdamW(model.parameters(), lr=0.01), batches, steps=steps)
    return dict(model[0].state_dict())


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once at each rate; measure on episodes of unseen characters where validation characters are best."""
    plan, draw = arm.make, setting.generator("data")
    first, steps, count = setting.pick(smoke=(2, 2, 5), desk=(300, 80, 70), gpu=(6_000, 6_000, 1_000))
    classes = setting.pick(smoke=(8, 5, 5), desk=(200, 60, 100), gpu=(1_000, 200, 400))
    train, validation, test = (
        LabelledImages(*(tensor.to(setting.device) for tensor in (part.images, part.labels)))
        for part in (drawn_characters(n, _EACH, _SIDE, draw) for n in classes)
    )
    start = setting.cached("backbone", lambda: _pretrained(setting, train, first))

    def trained(rate: float) -> _Trained:
        backbone = _Backbone()
        backbone.load_state_dict(start)
        model = setting.initialised(lambda: _Embedder(plan, backbone))
        optimizer = AdamW(model.parameters(), lr=rate, weight_decay=0.05)
        if not plan.head and not plan.backbone:
            return _Trained(model, optimizer, torch.zeros(1))
        noise = setting.generator("method")

        def loss(batch: Pairs) -> Tensor:
            images = torch.cat([train.images[batch.first], disturbed(train.images[batch.second], noise)])
            support, query = model.prepared(images).chunk(2)
            codes: PairOfTensors = model(support, query)
            return pair_loss(codes.support, codes.query, batch.same)

        batches = pairs(train.labels, 32, setting.generator("batches"))
        return _Trained(model, optimizer, minimise(loss, optimizer, batches, steps=steps))

    def right(tried: _Trained, part: LabelledImages, drawn: list[Episode], clean: bool = False) -> Tensor:
        with evaluating(tried.model), torch.no_grad():
            supports = tried.model.prepared(part.images)
            shown = part.images if clean else disturbed(part.images, setting.generator("evaluation"))
            queries = tried.model.prepared(shown)
            scores = [episode_scores(tried.model, supports[e.support], e.labels, queries[e.query]) for e in drawn]
        return torch.cat([s.argmax(dim=1) == e.expected for s, e in zip(scores, drawn, strict=True)])

    def accuracy(*given: Any, **how: Any) -> float:
        return right(*given, **how).double().mean().item()

    chosen_by, tested = (
        episodes(part.labels, n, ways=5, shots=1, queries=3, generator=draw)
        for part, n in ((validation, count // 2), (test, count))
    )
    tuned = tune(_RATES, trained, lambda tried: accuracy(tried, validation, chosen_by), better="higher")
    best, correct = tuned.best, right(tuned.best, test, tested)
    return Outcome(
        metrics={
            "accuracy": correct.double().mean().item(),
            "clean": accuracy(best, test, tested, clean=True),
        },
        made={"optimizer": best.optimizer} | ({"head": best.model.head} if plan.head else {}),
        tuned={"lr": tuned},
        arguments={
            "steps": steps,
            "batch_size": 32,
            "classes": list(classes),
            "training_images": len(train),
            "test_queries": len(correct),
        },
        curves={
            "training loss, by step": loss_curve(best.losses),
            "validation accuracy, by log10 learning rate": tuned.curve(),
        },
        images={
            "test images": test.images[:8].sigmoid(),
            "the same, disturbed": disturbed(test.images, setting.generator("evaluation"))[:8].sigmoid(),
        },
        correct=correct,
    )
