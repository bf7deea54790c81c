"""Features of support image and query that depend on each other find the character that two images share (Guo et al.).

An image shows two drawn characters side by side. Support and query of one class share one of them, and what stands
beside it is another in each: only the other image tells which of the two characters counts. A small backbone learns to
classify single characters, and is frozen, as the authors' is. A head on its features then learns from pairs of images
whether they share a character. Characters that neither has seen make episodes: five support images, and queries that
share a character with one of them.

In the baseline the head is the same network, with the same initial weights, trained by the same loss on the same pairs,
but embeds each image as if it was paired with itself. An accuracy that is not higher with the other image would refute
the claim. The controls: each image embedded with one of another pair, which tells nothing, and the backbone's features
without a head. Where an image shows one character twice there is nothing to choose: the other image should not help.

What it can show: whether conditioning on the other image helps where that can matter, apart from what a larger network
and more training give. The paper compares with other methods on real images of its own benchmark; of that nothing is
shown.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.loops import index_batches, loss_curve, minimise, tune, warmed_cosine
from paperweight.nets import evaluating
from paperweight.representation.crlnet import CRLNet, PairOfTensors, episode_scores, pair_loss
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.representation._episodes import (
    Pairs,
    disturbed,
    drawn_characters,
    episodes,
    pairs,
    side_by_side,
)

_CHANNELS, _SIDE, _EACH, _SPREAD = 32, 16, 12, 0.5
_WAYS, _QUERIES, _BATCH = 5, 3, 96
_RATES = (0.001, 0.004, 0.016, 0.064)


class _Plan(NamedTuple):
    """What the head embeds an image with; nothing where there is no head."""

    beside: Literal["itself", "the other", "a stranger"] | None


STUDY = Study(
    paper="crlnet",
    question="Do features of support and query that depend on each other find which of two characters counts?",
    claim="5-way 1-shot accuracy on images of two characters is higher where each image is embedded with the other.",
    arms={
        "alone": Arm("the head embeds each image as if it was paired with itself", _Plan("itself")),
        "joint": Arm("the head embeds each image with the other (CRLNet)", _Plan("the other")),
        "stranger": Arm("control: the head embeds each image with one of another pair", _Plan("a stranger")),
        "backbone": Arm("control: no head, the backbone's own features", _Plan(None)),
    },
    metrics={
        "accuracy": Metric.higher("accuracy, two characters an image, 1 shot", 0.02),
        "disturbed": Metric.higher("the same where queries are disturbed by noise, weak contrast or blur", 0.02),
        "one_character": Metric.higher("accuracy where images show one character, twice", 0.02),
        "dependence": Metric.higher("share of the variance of queries' embeddings that the other image causes", 0.05),
    },
    headline="accuracy",
    tuned=(
        "the learning rate, 4 tries an arm and seed, a factor of 4 apart, by the accuracy on episodes of validation "
        "characters; without a head all tries are alike"
    ),
    limits=(
        "Drawn characters of 16 pixels, each seen by the backbone on its own: maps of 32 channels and 1 by 2 pixels, "
        "standardised so that they have the scale of the head's features; heads of width 64, trained on 200 batches of "
        "96 pairs. The task is made for conditioning: nothing follows for photographs, for images of one object or "
        "for large backbones. All heads start favourably, with weights under which the condition map says how alike a "
        "character is to the other image: from PyTorch's own start no head came to use the other image in so few "
        "steps, and untrained ones that start favourably are no better than the backbone (trials on a seed that is not "
        "weighed here). At the two highest rates the baseline's head adds next to nothing to the backbone and is as "
        "accurate as that (tried on the same seed): for what other rates could give it, compare with the backbone. "
        "Disturbances are met in tests only. Of computing times nothing follows: in training the baseline "
        "computes an embedding in vain for each that it uses, and in tests the method computes one for each pair. "
        "No other method for few-shot learning is weighed, and no more than one support image a class. Weighed "
        "before on 6 of these seeds with rates up to 0.016, which the baseline chose in all (+0.102, 0.081 to 0.117), "
        "and an earlier study of other images, in which heads hardly used the other image, on all of them."
    ),
    seeds=9,
)


class _Embedder(nn.Module):
    """Embeds pairs of what it prepares of maps; the images of an episode, or of a pair, are a row."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        self.plan = plan
        self.head = CRLNet(_CHANNELS, (1, 2), heads=4, ffn=64, hidden=64, dropout=0.0)
        _start_favourably(self.head)

    def prepared(self, support: Tensor, query: Tensor) -> PairOfTensors:
        """Give what is computed once an image, (E, S, ...) and (E, Q, ...): embeddings, unless they need the other."""
        if self.plan.beside == "the other":
            return PairOfTensors(support, query)
        if self.plan.beside is None:
            return PairOfTensors(support.mean(dim=(3, 4)), query.mean(dim=(3, 4)))
        queries, supports = support, query
        if self.plan.beside == "a stranger":
            queries = query.roll(1, dims=0)[:, torch.arange(support.shape[1]) % query.shape[1]]
            supports = support.roll(1, dims=0)[:, torch.arange(query.shape[1]) % support.shape[1]]
        codes = self.head(
            torch.cat([support.flatten(0, 1), supports.flatten(0, 1)]),
            torch.cat([queries.flatten(0, 1), query.flatten(0, 1)]),
        )
        count = support.shape[0] * support.shape[1]
        return PairOfTensors(
            codes.support[:count].view(*support.shape[:2], -1), codes.query[count:].view(*query.shape[:2], -1)
        )

    def forward(self, support: Tensor, query: Tensor) -> PairOfTensors:
        return self.head(support, query) if self.plan.beside == "the other" else PairOfTensors(support, query)


class _Trained(NamedTuple):
    model: _Embedder
    optimizer: AdamW
    losses: Tensor


def _start_favourably(head: CRLNet) -> None:
    """Let the condition say at first how alike a pixel is to the other image, and the network on each pixel hear it."""
    head.cross.query.load_state_dict(head.cross.support.state_dict())
    head.query.load_state_dict(head.support.state_dict())
    weight, bias = head.condition[0].parameters()
    with torch.no_grad():
        weight.zero_()
        weight[..., 1, 1] = 0.5
        bias.zero_()
        for layer in head.pixels:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        next(head.pixels.parameters())[:, -1] *= 4


def _features(setting: Setting, classes: tuple[int, int, int], steps: int) -> dict[str, Tensor]:
    """Train a backbone to classify single characters; give its features of all, standardised."""
    draw = setting.generator("data")
    parts = [drawn_characters(n, _EACH, _SIDE, draw, _SPREAD) for n in classes]
    train = parts[0]

    def built() -> nn.Sequential:
        backbone = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, _CHANNELS, 3, stride=2, padding=1), nn.BatchNorm2d(_CHANNELS), nn.ReLU()),
            *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(_CHANNELS, _CHANNELS), nn.BatchNorm1d(_CHANNELS)),
        )
        return nn.Sequential(backbone, nn.Linear(_CHANNELS, classes[0]))

    model = setting.initialised(built)
    images, labels = train.images.to(setting.device), train.labels.to(setting.device)
    optimizer = AdamW(model.parameters(), lr=0.01)
    batches = index_batches(len(train), 64, setting.generator("batches"), setting.device)
    minimise(
        lambda batch: F.cross_entropy(model(images[batch]), labels[batch]),
        optimizer,
        batches,
        steps=steps,
        schedule=warmed_cosine(optimizer, steps),
    )
    shown = [part.images for part in parts]
    shown.append(disturbed(shown[2], draw))
    with evaluating(model), torch.no_grad():
        codes = [model[0](images.to(setting.device)) for images in shown]
    mean, deviation = codes[0].mean(dim=0), codes[0].std(dim=0)
    names = ("train", "validation", "test", "disturbed")
    return {name: (code - mean) / deviation for name, code in zip(names, codes, strict=True)} | {
        "images": torch.cat([shown[2][:48:_EACH], shown[3][:48:_EACH]])
    }


class _Rows(NamedTuple):
    """Rows of the characters of episodes: of one a class for support, (E, 5), of queries, (E, 15), and beside them."""

    support: Tensor
    query: Tensor
    by_support: Tensor
    by_query: Tensor


def _rows(classes: int, count: int, draw: torch.Generator) -> _Rows:
    """Draw episodes in which no character beside another is of the same class as any other character."""
    labels, queries = torch.arange(classes).repeat_interleave(_EACH), _WAYS * _QUERIES
    drawn = episodes(labels, count, ways=_WAYS * (2 + _QUERIES), shots=1, queries=_QUERIES, generator=draw)
    support, query = torch.stack([e.support for e in drawn]), torch.stack([e.query for e in drawn])
    return _Rows(
        support[:, :_WAYS], query[:, :queries], support[:, _WAYS : 2 * _WAYS], query[:, 2 * queries :: _QUERIES]
    )


def _correct(model: _Embedder, scenes: PairOfTensors) -> Tensor:
    """Say which queries are scored highest with the support image of their class, (E, 15)."""
    labels = torch.arange(_WAYS, device=scenes.support.device)
    with evaluating(model), torch.no_grad():
        scores = [episode_scores(model, s, labels, q) for s, q in zip(*model.prepared(*scenes), strict=True)]
    return torch.stack(scores).argmax(dim=2) == labels.repeat_interleave(_QUERIES)


def _dependence(model: _Embedder, scenes: PairOfTensors) -> float:
    """Compute how much of the variance of queries' embeddings, of length 1, is among those of one query."""
    with evaluating(model), torch.no_grad():
        support, query = model.prepared(*scenes)
        ways, queries = support.shape[1], query.shape[1]
        others = torch.cat([support] * queries, dim=1).flatten(0, 1)
        codes = F.normalize(model(others, query.repeat_interleave(ways, dim=1).flatten(0, 1)).query, dim=1)
    of_one = codes.unflatten(0, (-1, ways)).var(dim=1, correction=0).sum(dim=1).mean()
    return (of_one / codes.var(dim=0, correction=0).sum()).item()


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train once at each rate; measure on episodes of unseen characters where validation characters are best."""
    plan = arm.make
    first, steps, count = setting.pick(smoke=(2, 2, 2), desk=(300, 200, 60), gpu=(6_000, 6_000, 1_000))
    classes = setting.pick(smoke=(8, 25, 25), desk=(200, 60, 100), gpu=(1_000, 200, 400))
    known = setting.cached("features", lambda: _features(setting, classes, first))
    labels = torch.arange(classes[0], device=setting.device).repeat_interleave(_EACH)

    def trained(rate: float) -> _Trained:
        model = setting.initialised(lambda: _Embedder(plan))
        optimizer = AdamW(model.parameters(), lr=rate, weight_decay=0.05, fused=True)
        if plan.beside is None:
            return _Trained(model, optimizer, torch.zeros(1))
        noise = setting.generator("method")

        def loss(batch: Pairs) -> Tensor:
            shown: list[Tensor] = []
            for own in (batch.first, batch.second):
                beside = torch.randint(len(labels), own.shape, generator=noise)
                shown.append(side_by_side(known["train"][own], known["train"][beside], noise)[:, None])
            codes: PairOfTensors = model(*(each.flatten(0, 1) for each in model.prepared(*shown)))
            return pair_loss(codes.support, codes.query, batch.same)

        batches = pairs(labels, _BATCH, setting.generator("batches"))
        schedule = warmed_cosine(optimizer, steps)
        return _Trained(model, optimizer, minimise(loss, optimizer, batches, steps=steps, schedule=schedule))

    def scenes(rows: _Rows, part: str, queries: str, twice: bool = False) -> PairOfTensors:
        by_support, by_query = (rows.support, rows.query) if twice else (rows.by_support, rows.by_query)
        return PairOfTensors(
            side_by_side(known[part][rows.support], known[part][by_support], draw),
            side_by_side(known[queries][rows.query], known[queries][by_query], draw),
        )

    draw = setting.generator("evaluation")
    chosen_by, tested = _rows(classes[1], count, draw), _rows(classes[2], count, draw)
    validation = scenes(chosen_by, "validation", "validation")
    tuned = tune(
        _RATES, trained, lambda tried: _correct(tried.model, validation).double().mean().item(), better="higher"
    )
    best, usual = tuned.best.model, scenes(tested, "test", "test")
    correct = _correct(best, usual)

    def accuracy(queries: str, twice: bool) -> float:
        return _correct(best, scenes(tested, "test", queries, twice)).double().mean().item()

    return Outcome(
        metrics={
            "accuracy": correct.double().mean().item(),
            "disturbed": accuracy("disturbed", twice=False),
            "one_character": accuracy("test", twice=True),
            "dependence": _dependence(best, usual),
        },
        made={"optimizer": tuned.best.optimizer} | ({"head": best.head} if plan.beside else {}),
        tuned={"lr": tuned},
        arguments={
            "steps": steps,
            "batch_size": _BATCH,
            "classes": list(classes),
            "training_characters": len(labels),
            "test_queries": correct.numel(),
        },
        curves={
            "training loss, by step": loss_curve(tuned.best.losses),
            "validation accuracy, by log10 learning rate": tuned.curve(),
        },
        images={
            "characters": known["images"][:4].sigmoid(),
            "the same, disturbed": known["images"][4:].sigmoid(),
        },
        correct=correct.flatten(),
    )
