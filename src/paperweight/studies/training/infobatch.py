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

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from paperweight.data import channel_statistics, normalise
from paperweight.loops import best_of, evaluate_classifier
from paperweight.nets import LeNet
from paperweight.studies import Metric, Outcome, Setting, Study
from paperweight.training.infobatch import InfoBatch, infobatch_selection

STUDY = Study(
    paper="infobatch",
    question="Can training leave out a third of its gradients, by the losses it has seen, and lose no accuracy?",
    claim="InfoBatch evaluates fewer gradients than training on every sample in every epoch, and is as accurate.",
    arms={
        "all": "every sample in every epoch, which the method is at ratio 0",
        "infobatch": "InfoBatch: half of the samples below the mean loss left out, the others rescaled, annealing",
        "fewer_epochs": "control: every sample, in as many epochs as have no more gradients than InfoBatch took",
        "any_sample": "control: in each epoch random samples, in all as many as InfoBatch took, whatever their loss",
        "no_rescaling": "variant: InfoBatch with weight 1 for all",
        "no_annealing": "variant: InfoBatch to the end",
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
)

_RATES = (0.01, 0.03, 0.1, 0.3)
_MOMENTUM = 0.9
_DECAY = 5e-4
_BATCH = 32
_DELTA = 0.875
_UNWEIGHTED = ("any_sample", "no_rescaling")


def run(arm: str, setting: Setting) -> Outcome:
    """Train with each rate; report what the best on validation images does on test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=100, desk=600, gpu=20_000),
        validation=setting.pick(smoke=50, desk=400, gpu=5_000),
        test=setting.pick(smoke=50, desk=790, gpu=10_000),
        max_side=32,
    )
    epochs = setting.pick(smoke=4, desk=24, gpu=100)
    statistics = channel_statistics(data.train.images)
    images, validation, test = (
        normalise(part.images, *statistics) for part in (data.train, data.validation, data.test)
    )

    def train(rate: float, arm: str = arm, spent: int = 0) -> tuple[nn.Module, int, list[float]]:
        model = setting.network(data.shape, len(data.classes), default=LeNet)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=_MOMENTUM, weight_decay=_DECAY)
        length = max(1, spent // len(images)) if arm == "fewer_epochs" else epochs
        training = InfoBatch(
            model,
            optimizer,
            images,
            data.train.labels,
            epochs=length,
            ratio=0.5 if arm in ("infobatch", "no_annealing") else 0.0,
            delta=1.0 if arm == "no_annealing" else _DELTA,
            batch_size=_BATCH,
            generator=setting.generator("batches"),
        )
        step = partial(_unweighted, training, arm, spent // epochs) if arm in _UNWEIGHTED else training.step
        schedule = CosineAnnealingLR(optimizer, length)
        losses: list[float] = []
        for _ in range(length):
            losses.append(step().item())
            schedule.step()
        return model, training.samples, losses

    def count() -> dict[str, Tensor]:
        return {str(rate): torch.tensor(train(rate, "infobatch")[1]) for rate in _RATES}

    spent = setting.cached("gradients of infobatch", count) if arm in ("fewer_epochs", "any_sample") else {}
    tries = {rate: train(rate, spent=int(spent.get(str(rate), 0))) for rate in _RATES}
    found = {
        rate: evaluate_classifier(model, validation, data.validation.labels) for rate, (model, *_) in tries.items()
    }
    rate = best_of(found, lambda rate: found[rate].loss, better="lower")
    model, samples, losses = tries[rate]
    tested = evaluate_classifier(model, test, data.test.labels)
    return Outcome(
        metrics={
            "accuracy": tested.accuracy,
            "test_loss": tested.loss,
            "gradients": samples / (epochs * len(images)),
        },
        arguments={
            "learning_rate": rate,
            "tries": len(_RATES),
            "epochs": len(losses),
            "gradients": samples,
            "batch_size": _BATCH,
            "training_images": len(images),
            "test_images": len(test),
            "image_shape": " x ".join(map(str, data.shape)),
        },
        curves={
            "training loss, by epoch": [(float(epoch), loss) for epoch, loss in enumerate(losses, start=1)],
            "validation loss, by log10 learning rate": [(math.log10(rate), each.loss) for rate, each in found.items()],
            "share of the gradients, by log10 learning rate": [
                (math.log10(rate), spent / (epochs * len(images))) for rate, (_, spent, _) in tries.items()
            ],
        },
        correct=tested.correct,
    )


def _unweighted(training: InfoBatch, arm: str, count: int) -> Tensor:
    """Train for one epoch on so many samples, or on those that InfoBatch would choose, each with weight 1."""
    draw, samples = training.generator, len(training.inputs)
    if arm == "no_rescaling" and training.epoch < _DELTA * training.epochs:
        index, _ = infobatch_selection(training.scores, 0.5, generator=draw)
    else:
        index = torch.arange(samples, device=training.inputs.device)
    order = torch.randperm(len(index), generator=draw).to(index.device)
    order = order[:count] if arm == "any_sample" else order
    training.model.train()
    means: list[Tensor] = []
    for batch in index[order].split(training.batch_size):
        losses = F.cross_entropy(training.model(training.inputs[batch]), training.labels[batch], reduction="none")
        training.scores[batch] = losses.detach()
        training.optimizer.zero_grad()
        losses.mean().backward()
        training.optimizer.step()
        means.append(losses.detach().mean())
    training.epoch += 1
    training.samples += len(order)
    return torch.stack(means).mean()
