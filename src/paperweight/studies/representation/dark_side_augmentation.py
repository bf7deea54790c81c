"""With anchors translated to night, images taken at night find the same place by day (Mohwald et al. 2023).

Landmarks are drawn: five coloured parts, dark before a bright sky by day; by night before a dark sky, some of them
floodlit and others hardly seen, with lamps at random places. A small convolutional network with generalized-mean
pooling learns embeddings from tuples of day images of 60 landmarks, each an anchor, a positive and its three hardest
negatives. A translator, trained once a seed, has seen those days and nights of 60 other landmarks, without labels. The
headline is the mean average precision with which night images of 100 unseen landmarks find their day images; beside it
stands that of other day images, which should not fall.

What it can show: whether translated anchors, with anchors chosen unlike each other, help night queries. A precision
that is not higher would refute the claim here. Anchors drawn at random, and diverse anchors that are not translated,
tell the two parts apart. The control that would embarrass the translator darkens images by a formula; true
nights of the same landmarks stand for what a perfect translator is worth.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.loops import loss_curve, minimise, tune, warmed_cosine
from paperweight.nets import evaluating
from paperweight.representation.dark_side_augmentation import (
    GeM,
    NightAugment,
    diverse_anchors,
    fit_translator,
    tuple_contrastive_loss,
)
from paperweight.studies import Arm, Metric, Outcome, Setting, Study
from paperweight.studies.representation._landmarks import Landmarks, drawn_landmarks, mean_average_precision

_SIDE, _TUPLES, _NEGATIVES, _P = 16, 12, 3, 0.25
_RATES = (0.002, 0.006, 0.02, 0.06)


class _Plan(NamedTuple):
    """What an anchor is translated by, and whether anchors are chosen unlike each other."""

    night: Literal["none", "translated", "darker", "true"] = "none"
    diverse: bool = False


STUDY = Study(
    paper="dark_side_augmentation",
    question="Do anchors translated to night help night images to find the same place by day?",
    claim="With night anchors and diverse anchors, night queries have a higher mean average precision among days.",
    arms={
        "day": Arm("day images alone, anchors at random", _Plan()),
        "method": Arm("a quarter of the anchors translated by HED^N-GAN, anchors diverse", _Plan("translated", True)),
        "random": Arm("the same with anchors at random", _Plan("translated")),
        "diverse": Arm("day images alone, anchors diverse", _Plan(diverse=True)),
        "darker": Arm("control: the same anchors darkened by a formula", _Plan("darker", True)),
        "true": Arm("control: true night images of their landmarks in their place", _Plan("true", True)),
    },
    metrics={
        "night": Metric.higher("mean average precision, night among days", 0.02),
        "day": Metric.higher("the same, day among days", 0.02),
    },
    headline="night",
    tuned="the learning rate, 4 tries an arm and seed, a factor of about 3 apart: by night queries of 30 landmarks",
    limits=(
        "Drawn landmarks of 16 pixels, networks of some thousand weights, 80 steps, a translator of 150 steps: "
        "only a direction can be compared with the paper's; nothing follows for photographs. The detector of edges "
        "learned on the drawn days, in place of HED; there is no contrast normalization (CLAHE), and HED-GAN, "
        "whose detector is frozen, is not weighed. The share of translated anchors and the weights of losses are "
        "the authors'; rates and sizes are ours. All arms are tuned by true night queries, which the authors do "
        "not do. The translator's training is left out of the costs. Weighed before on 8 and on 32 of these seeds, "
        "which decided nothing (+0.027, -0.035 to 0.095, and +0.017, -0.009 to 0.043)."
    ),
    seeds=60,
)


class _Embedder(nn.Module):
    """Three convolutions with batch normalization, and generalized-mean pooling; embeddings have length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), GeM(), nn.Linear(32, 32)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.body(images))


def _chain(width: int, last: int, stride: int = 1) -> nn.Sequential:
    """Three convolutions; with a stride of 2 their outputs are one for each patch."""
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, stride, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(width, width, 3, stride, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2)),
        nn.Conv2d(width, last, 3, 1, 1),
    )


def _darker(images: Tensor) -> Tensor:
    return 0.4 * images.square()


def _translator_weights(day: Tensor, night: Tensor, steps: tuple[int, int], draw: torch.Generator) -> dict[str, Tensor]:
    """Train a detector to see where neighbours differ in days, and a translator with it; give its weights."""
    across = (day - day.roll(1, -1)).abs().amax(dim=1, keepdim=True)
    down = (day - day.roll(1, -2)).abs().amax(dim=1, keepdim=True)
    edges = (torch.maximum(across, down) > 0.15).to(day.dtype)
    detector = _chain(8, 1).to(day.device)
    batches = iter(lambda: torch.randint(len(day), (16,), generator=draw).to(day.device), None)
    minimise(
        lambda rows: F.binary_cross_entropy_with_logits(detector(day[rows]), edges[rows]),
        AdamW(detector.parameters(), lr=0.01),
        batches,
        steps=steps[0],
    )
    translator, critic = _Translator().to(day.device), _chain(16, 1, stride=2).to(day.device)
    fit_translator(translator, critic, detector, day, night, steps=steps[1], lr=2e-3, detector_lr=3e-4, generator=draw)
    return dict(translator.state_dict())


class _Translator(nn.Module):
    """Three convolutions that change the image by what they give, before a sigmoid keeps it from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = _chain(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        return (4 * (images - 0.5) + self.chain(images)).sigmoid()


def _tuples(z: Tensor, anchors: Tensor, views: int, draw: torch.Generator) -> Tensor:
    """Give each anchor another view, and of other landmarks those that are nearest, one of each: (A, 2 + negatives)."""
    place = anchors // views
    turns = torch.randint(1, views, (len(anchors),), generator=draw).to(anchors.device)
    positives = place * views + (anchors + turns) % views
    near = (z[anchors] @ z.T).unflatten(1, (-1, views)).max(dim=2)
    others = near.values.scatter(1, place[:, None], -2.0).topk(_NEGATIVES, dim=1).indices
    return torch.cat([torch.stack([anchors, positives], 1), others * views + near.indices.gather(1, others)], dim=1)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each learning rate; measure unseen landmarks where night queries of validation landmarks are best."""
    plan = arm.make
    counts, views, steps = setting.pick(
        smoke=((8, 5, 6), 2, (2, 2, 3)),
        desk=((60, 30, 100), 4, (100, 150, 80)),
        gpu=((600, 200, 1_000), 8, (2_000, 2_000, 2_000)),
    )
    draw = setting.generator("data")
    train, other, validation, test = (
        Landmarks(*(part.to(setting.device) for part in drawn_landmarks(count, views, _SIDE, draw)))
        for count in (counts[0], *counts)
    )
    day = train.day.flatten(0, 1)
    weights = setting.cached(
        "translator",
        lambda: _translator_weights(
            day, other.night.flatten(0, 1), steps[:2], torch.Generator().manual_seed(setting.seed)
        ),
    )
    translator = _Translator().to(setting.device)
    translator.load_state_dict(weights)
    translate: Callable[[Tensor], Tensor] = _darker if plan.night == "darker" else translator
    augment = NightAugment(translate, p=0.0 if plan.night in ("none", "true") else _P)
    roles = torch.tensor([-1, 1, *[0] * _NEGATIVES], device=setting.device).repeat(_TUPLES)

    def trained(lr: float) -> tuple[AdamW, _Embedder, Tensor]:
        model = setting.initialised(_Embedder)
        optimizer = AdamW(model.parameters(), lr=lr)
        method, order = setting.generator("method"), setting.generator("batches")

        def tuples() -> Iterator[Tensor]:
            """Give rows of images, (tuples, 2 + negatives), for five steps by the present embeddings, and again."""
            pool = min(5 * _TUPLES, len(day))
            while True:
                with evaluating(model), torch.no_grad():
                    z = model(day)
                if plan.diverse:
                    anchors = diverse_anchors(z, pool, generator=order)
                else:
                    anchors = torch.randperm(len(day), generator=order)[:pool].to(z.device)
                for rows in anchors.split(_TUPLES):
                    yield _tuples(z, rows, views, order)

        def loss_of(rows: Tensor) -> Tensor:
            images, _ = augment(day[rows.flatten()], roles[: rows.numel()], generator=method)
            if plan.night == "true":
                chosen = torch.rand(len(images), generator=method).to(images.device) < _P
                chosen &= roles[: len(images)] == -1
                images[chosen] = train.night.flatten(0, 1)[rows.flatten()[chosen]]
            z = model(images).unflatten(0, tuple(rows.shape))
            return tuple_contrastive_loss(z[:, 0], z[:, 1], z[:, 2:])

        losses = minimise(loss_of, optimizer, tuples(), steps=steps[2], schedule=warmed_cosine(optimizer, steps[2]))
        return optimizer, model, losses

    def precision(model: nn.Module, part: Landmarks, by: Literal["night", "day"]) -> float:
        """Find half of the day views by the other half, or by as many night views."""
        half = views // 2
        sought, asked = part.day[:, :half], getattr(part, by)[:, half:]
        names = torch.arange(len(sought), device=sought.device).repeat_interleave(half)
        with evaluating(model), torch.no_grad():
            queries, gallery = model(asked.flatten(0, 1)), model(sought.flatten(0, 1))
        return mean_average_precision(queries, gallery, names[:, None] == names)

    tuned = tune(_RATES, trained, lambda tried: precision(tried[1], validation, "night"), better="higher")
    optimizer, model, losses = tuned.best
    start = setting.initialised(_Embedder)
    return Outcome(
        metrics={"night": precision(model, test, "night"), "day": precision(model, test, "day")},
        made={"optimizer": optimizer, "augment": augment},
        tuned={"lr": tuned},
        arguments={
            "steps": steps[2],
            "tuples": _TUPLES,
            "landmarks": counts,
            "night_untrained": round(precision(start, test, "night"), 4),
            "night_pixels": round(precision(nn.Flatten(), test, "night"), 4),
        },
        curves={
            "training loss, by step": loss_curve(losses),
            "validation precision at night, by log10 learning rate": tuned.curve(),
        },
    )
