"""Leaving out a random part of what is learned well saves a third of training and no accuracy (Qin et al. 2024).

The baseline is the method at ratio 0: every epoch sees every sample. The claim is that of a saving without a loss, so
that the verdict to expect on test accuracy, the headline, is "no effect"; the share of gradients that are evaluated is
told beside it, and the computing time as of every study. Half of the samples below the mean loss are left out in the
first seven eighths of the epochs, as in the paper; the learning rate falls along a cosine, epoch by epoch.

What it can show: whether so many gradients can be spared here. What it cannot: anything about large networks or about
data that are learned slowly. An accuracy below the baseline's would refute the claim. Since a network on small images
may need less training than it gets, the controls get as many gradients as the method took at the same rate and seed,
and no more: whole epochs of all samples, fewer of them; and in every epoch a random part of all samples, whatever their
loss. As high an accuracy with either would take the credit from the losses. Two more do what the paper says not to: no
rescaling, and the last epochs pruned as well.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.loops import tune
from paperweight.nets import LeNet
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification
from paperweight.training.infobatch import InfoBatch, infobatch_selection

_RATES = (0.01, 0.03, 0.1, 0.3)
_MOMENTUM = 0.9
_DECAY = 5e-4
_BATCH = 32
_RATIO = 0.5
_DELTA = 0.875


class _Plan(NamedTuple):
    """The arguments of InfoBatch; whether no more gradients are taken than it took; and what trains in its place."""

    ratio: float = 0.0
    delta: float = _DELTA
    as_spent: bool = False
    choose: Callable[[InfoBatch, int], Tensor] | None = None


def _any(training: InfoBatch, number: int) -> Tensor:
    """Choose samples whatever their losses."""
    return torch.randperm(len(training.inputs), generator=training.generator)[:number]


def _unweighted(training: InfoBatch, _: int) -> Tensor:
    """Choose those that InfoBatch would."""
    if training.epoch < _DELTA * training.epochs:
        index = infobatch_selection(training.scores, _RATIO, generator=training.generator)[0]
    else:
        index = torch.arange(len(training.inputs), device=training.inputs.device)
    return index[torch.randperm(len(index), generator=training.generator).to(index.device)]


_METHOD = _Plan(ratio=_RATIO)

STUDY = Study(
    paper="infobatch",
    question="Can training leave out a third of its gradients, by the losses it has seen, and lose no accuracy?",
    claim="InfoBatch evaluates fewer gradients than training on every sample in every epoch, and is as accurate.",
    arms={
        "all": Arm("every sample in every epoch, which the method is at ratio 0", _Plan()),
        "infobatch": Arm(
            "InfoBatch: half of the samples below the mean loss left out, the others rescaled, annealing", _METHOD
        ),
        "fewer_epochs": Arm(
            "control: every sample, in as many epochs as have no more gradients than InfoBatch took",
            _Plan(as_spent=True),
        ),
        "any_sample": Arm(
            "control: in each epoch random samples, in all as many as InfoBatch took, whatever their loss",
            _Plan(as_spent=True, choose=_any),
        ),
        "no_rescaling": Arm("variant: InfoBatch with weight 1 for all", _Plan(choose=_unweighted)),
        "no_annealing": Arm("variant: InfoBatch to the end", _Plan(ratio=_RATIO, delta=1.0)),
    },
    metrics={
        "accuracy": Metric(label="test accuracy", unit="", better="higher", minimal_effect=0.01),
        "test_loss": Metric(label="test loss", unit="nats", better="lower", minimal_effect=0.02),
        "gradients": Metric(
            label="gradients evaluated", unit="share of those of the baseline", better="lower", minimal_effect=0.05
        ),
    },
    headline="accuracy",
    tuned="the learning rate: 4 tries an arm and seed, a factor of about 3 apart, by validation loss",
    limits=(
        "Small images, a network of five layers and 24 epochs at the desk budget: nothing follows for large data. The "
        "ratio and the share of epochs are the paper's, not tuned. No augmentation."
    ),
    seeds=16,
)


class _Trained(NamedTuple):
    model: nn.Module
    training: InfoBatch
    losses: list[float]


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each rate; report what the best on validation images does on test images."""
    task = classification(setting, smoke=(100, 50, 50), desk=(600, 400, 790), gpu=(20_000, 5_000, 10_000))
    epochs, samples = setting.pick(smoke=4, desk=24, gpu=100), len(task.train)

    def train(rate: float, plan: _Plan, spent: int = 0) -> _Trained:
        model = task.network(LeNet)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM, weight_decay=_DECAY)
        whole = plan.as_spent and plan.choose is None
        length = max(1, spent // samples) if whole else epochs
        training = InfoBatch(
            model,
            optimizer,
            task.train.images,
            task.train.labels,
            epochs=length,
            ratio=plan.ratio,
            delta=plan.delta,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
        )
        schedule = CosineAnnealingLR(optimizer, length)
        losses: list[float] = []
        for _ in range(length):
            loss = training.step() if plan.choose is None else _epoch(training, plan.choose(training, spent // epochs))
            losses.append(loss.item())
            schedule.step()
        return _Trained(model, training, losses)

    def count() -> dict[str, Tensor]:
        return {str(rate): torch.tensor(train(rate, _METHOD).training.samples) for rate in _RATES}

    spent = setting.cached("gradients of infobatch", count) if arm.make.as_spent else {}
    tuned = tune(
        _RATES,
        lambda rate: train(rate, arm.make, int(spent.get(str(rate), 0))),
        lambda tried: task.validate(tried.model).loss,
        better="lower",
    )
    best = tuned.best
    tested = task.test(best.model)

    def share(tried: _Trained) -> float:
        return tried.training.samples / (epochs * samples)

    return task.outcome(
        tuned,
        losses=torch.tensor(best.losses),
        tested=tested,
        metrics={"accuracy": tested.accuracy, "test_loss": tested.loss, "gradients": share(best)},
        made={"training": best.training, "optimizer": best.training.optimizer},
        curves={"share of the gradients, by log10 learning rate": tuned.curve(share)},
    )


def _epoch(training: InfoBatch, chosen: Tensor) -> Tensor:
    """Train for one epoch on the chosen samples, in their order, each with weight 1."""
    training.model.train()
    means: list[Tensor] = []
    for batch in chosen.to(training.inputs.device).split(training.batch_size):
        losses = F.cross_entropy(training.model(training.inputs[batch]), training.labels[batch], reduction="none")
        training.scores[batch] = losses.detach()
        training.optimizer.zero_grad()
        losses.mean().backward()
        training.optimizer.step()
        means.append(losses.detach().mean())
    training.epoch += 1
    training.samples += len(chosen)
    return torch.stack(means).mean()
