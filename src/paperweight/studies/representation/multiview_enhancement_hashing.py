"""A network that searches by one view learns better codes beside richer views (Yan et al. 2020).

Of the paper only the abstract was at hand: what is weighed is this project's reading of it. Small networks learn codes
of 12 bits from 1,000 digits with their classes, by Adam. The first view is all that a search has: the image at 4 x 4
pixels with noise. Three others are there in training alone: the image, a histogram of its gradients, and a view that is
nothing but noise. The headline is the mean average precision of 500 test images that search the 1,000, both coded by
the memory network. In the baseline the same network learns from the first view alone, by the same loss.

What it can show: whether training beside other views helps a search that does not have them; codes no better would
refute it here. Controls: the same fusion with all weights alike, which asks whether the evaluation of views matters;
and fused codes, which need all views in the search: what could be reached at most. The weight that the view of noise
gets is recorded.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from paperweight.data import LabelledImages
from paperweight.loops import index_batches, minimise, tune
from paperweight.representation.multiview_enhancement_hashing import (
    MultiViewHash,
    mean_average_precision,
    multi_view_hash_loss,
    pairwise_hash_loss,
)
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification

_RATES = (0.001, 0.004, 0.016)
_BITS, _HIDDEN, _BATCH, _EVERY = 12, 64, 64, 50


class _Plan(NamedTuple):
    """Whether other views are learned from, whether they are weighed, and what a search is made with."""

    views: bool = True
    weighed: bool = True
    search: Literal["memory", "fused"] = "memory"


STUDY = Study(
    paper="multiview_enhancement_hashing",
    question="Does a network that codes images by one poor view learn better codes beside richer views?",
    claim="Codes of a memory network trained with fused codes of several views retrieve better than those of one view.",
    arms={
        "single": Arm("the first view alone", _Plan(views=False)),
        "weighed": Arm("beside fused codes of all views, weighed by their stability", _Plan()),
        "alike": Arm("control: the same with all weights alike", _Plan(weighed=False)),
        "fused": Arm("control: fused codes in the search, which need all views", _Plan(search="fused")),
        "fused_alike": Arm(
            "control: fused codes in the search, all weights alike", _Plan(weighed=False, search="fused")
        ),
    },
    metrics={"precision": Metric.higher("mean average precision of test images", 0.02, "fraction")},
    headline="precision",
    tuned="the learning rate, 3 tries an arm and seed, a factor of 4 apart: by the precision of validation images",
    limits=(
        "Images of 8 x 8, codes of 12 bits, 400 updates at the desk budget: the paper has photographs with features of "
        "large networks. The formulas of stability, fusion and losses are a reading of the abstract: nothing follows "
        "for those of the paper."
    ),
    seeds=8,
)


def _views(images: Tensor, generator: torch.Generator) -> list[Tensor]:
    """Give a poor view, the image, a histogram of its gradients, and noise, each (N, d)."""
    poor = F.adaptive_avg_pool2d(images, 4).flatten(1)
    poor = poor + 0.2 * torch.randn(poor.shape, generator=generator).to(poor)
    grey = images.mean(dim=1, keepdim=True)
    across, down = grey.diff(dim=3)[:, :, 1:], grey.diff(dim=2)[..., 1:]
    sectors = ((torch.atan2(down, across) / torch.pi + 1) * 4).long().clamp(max=7)
    strength = (across.square() + down.square()).sqrt() * F.one_hot(sectors[:, 0], 8).permute(0, 3, 1, 2)
    noise = torch.randn(len(images), 16, generator=generator).to(poor)
    return [poor, images.flatten(1), F.adaptive_avg_pool2d(strength, 2).flatten(1), noise]


def _network(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, _BITS))


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Learn codes, once with each rate; let test images search the training images."""
    plan = arm.make
    task = classification(setting, smoke=(100, 60, 60), desk=(1_000, 297, 500), gpu=(20_000, 5_000, 10_000))
    data, labels, draw = task.data, task.train.labels, setting.generator("evaluation")
    known, *others = (_views(part.images, draw) for part in (data.train, data.validation, data.test))
    steps = setting.pick(smoke=4, desk=400, gpu=20_000)

    def learned(rate: float) -> MultiViewHash:
        sizes = [view.shape[1] for view in known]
        networks = setting.initialised(lambda: nn.ModuleList(map(_network, [*sizes, sizes[0]])))
        branches, memory = networks[:-1], networks[-1]
        model, deal = MultiViewHash(branches, memory, setting.generator("method")), setting.generator("init")

        def loss(index: Tensor) -> Tensor:
            if not plan.views:
                return pairwise_hash_loss(memory(known[0][index]).tanh(), labels[index])
            return multi_view_hash_loss(model(*(view[index] for view in known)), labels[index])

        def weigh(step: int, _: Tensor) -> None:
            if plan.views and plan.weighed and (step + 1) % _EVERY == 0:
                model.weigh([view[:250] for view in known], labels[:250], generator=deal)

        batches = index_batches(len(labels), _BATCH, setting.generator("batches"), labels.device)
        minimise(loss, Adam(model.parameters(), lr=rate, fused=True), batches, steps=steps, on_step=weigh)
        return model.eval()

    @torch.no_grad()
    def precision(model: MultiViewHash, views: list[Tensor], part: LabelledImages) -> float:
        fused = plan.search == "fused"
        codes = [model(*given).fused if fused else model.search_codes(given[0]) for given in (views, known)]
        return mean_average_precision(codes[0], part.labels, codes[1], labels)

    tuned = tune(_RATES, learned, lambda model: precision(model, others[0], data.validation), better="higher")
    weights = tuned.best.weights.tolist()
    return Outcome(
        metrics={"precision": precision(tuned.best, others[1], data.test)},
        made={"model": tuned.best},
        tuned={"lr": tuned},
        arguments={
            "steps": steps,
            "batch_size": _BATCH,
            "bits": _BITS,
            "weight_of_poor_view": round(weights[0], 4),
            "weight_of_noise": round(weights[3], 4),
        },
        curves={"validation precision, by log10 lr": tuned.curve()},
    )
