"""An autoencoder trained in closed form, over clients, finds anomalies as well as one by gradients (DAEF, 2022).

A fifth of the classes in turn are anomalies, all others are normal and alone trained on, and what is reported is the
mean over the five tasks: what is normal is of many kinds, so that there is room above every arm. Autoencoders of one
shape score an image by how badly they reconstruct it. The baseline trains on all normal images in one place by Adam,
and its cost of communication is that of bringing them there. DAEF has them on five clients and trains layer by layer;
FedAvg averages the weights of five autoencoders that are trained locally, 25 times. The claim is one of equal quality
in far less time: "no effect" on AUC, the headline, would bear it out, an AUC below the baseline's would refute it. The
computing time is told as of every study, the bytes that are exchanged beside it.

What it can show: whether the closed form costs quality, and what it sends. What it cannot: anything about large data,
where what DAEF sends stays as it is and the images grow. Three controls: DAEF on one client, whose AUC must be equal
to rounding; principal components, which are DAEF's encoder without the layers above it, and here may be as many as is
best: as high an AUC there says that the decoder is not needed on these data; and Adam for a twenty-fifth of the epochs,
in about DAEF's computing time. The mean and scale of the features are of all clients together and not counted.
"""

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn

from paperweight.data import LabelledImages
from paperweight.federated.daef import DAEF, anomaly_scores, anomaly_threshold
from paperweight.loops import tune
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification

_WIDTHS = (12, 32)
_CLIENTS = 5
_FOLDS = 5
_BATCH = 50
_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
_PENALTIES = (1e-5, 1e-3, 1e-2, 1e-1, 1.0)
_COMPONENTS = (4, 6, 8, 10, 12)


class _Task(NamedTuple):
    """Classes as anomalies: the other training images, scaled by mean and spread, and how models are judged."""

    setting: Setting
    anomalous: Callable[[Tensor], Tensor]
    mean: Tensor
    spread: Tensor
    inputs: Tensor
    epochs: int
    rounds: int

    def scaled(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - self.mean) / self.spread

    def auc(self, model: nn.Module, part: LabelledImages) -> float:
        scores = anomaly_scores(model, self.scaled(part.images))
        return float(roc_auc_score(self.anomalous(part.labels).cpu().numpy(), scores.cpu().numpy()))

    def f1(self, model: nn.Module, part: LabelledImages) -> float:
        raised = anomaly_scores(model, self.scaled(part.images)) > anomaly_threshold(anomaly_scores(model, self.inputs))
        return float(f1_score(self.anomalous(part.labels).cpu().numpy(), raised.cpu().numpy()))


class _Trained(NamedTuple):
    """A model, the bytes that were sent, and what was made to train it."""

    model: nn.Module
    sent: int
    made: dict[str, object]


def _central(task: _Task, model: nn.Sequential, rate: float, part: int = 1) -> _Trained:
    epochs = math.ceil(task.epochs / part)
    optimizer = _descend(model, task.inputs, rate, epochs, task.setting.generator("batches"))
    return _Trained(model, task.inputs.nbytes, {"optimizer": optimizer})


def _average(task: _Task, model: nn.Sequential, rate: float) -> _Trained:
    """Train by FedAvg, clients weighing as many as their samples, and count the bytes of all weights that are sent."""
    clients, draw = task.inputs.tensor_split(_CLIENTS), task.setting.generator("batches")
    shares = [len(client) / len(task.inputs) for client in clients]
    optimizers: list[torch.optim.Optimizer] = []
    for _ in range(task.rounds):
        copies = [copy.deepcopy(model) for _ in clients]
        for local, client in zip(copies, clients, strict=True):
            optimizers.append(_descend(local, client, rate, task.epochs // task.rounds, draw))
        with torch.no_grad():
            for parameter, *locals_ in zip(model.parameters(), *(local.parameters() for local in copies), strict=True):
                weighed = [share * value for share, value in zip(shares, locals_, strict=True)]
                parameter.copy_(torch.stack(weighed).sum(0))
    sent = 2 * task.rounds * len(clients) * sum(parameter.nbytes for parameter in model.parameters())
    return _Trained(model, sent, {"optimizer": optimizers[-1]})


def _descend(
    model: nn.Module, inputs: Tensor, rate: float, epochs: int, draw: torch.Generator
) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs), generator=draw).to(inputs.device).split(_BATCH):
            optimizer.zero_grad()
            (model(inputs[batch]) - inputs[batch]).square().mean().backward()
            optimizer.step()
    return optimizer


def _closed_form(task: _Task, model: nn.Sequential, penalty: float, clients: int) -> _Trained:
    """Train every layer, and count the bytes that clients send and those of the layers that they get."""
    draw = task.setting.generator("method")
    training, sent = DAEF(model, lam_hidden=penalty, lam_last=penalty, generator=draw), 0
    for layer in training.layers:
        parts = [training.statistics(client) for client in task.inputs.tensor_split(clients)]
        training.merge(parts)
        sent += sum(told.nbytes for part in parts for told in part)
        sent += clients * (layer.weight.nbytes + layer.bias.nbytes)
    return _Trained(model, sent if clients > 1 else task.inputs.nbytes, {"training": training})


def _components(task: _Task, _: nn.Sequential, number: float) -> _Trained:
    """Build the projection on the first principal components of inputs whose mean is 0."""
    inputs = task.inputs
    axes = torch.linalg.svd(inputs, full_matrices=False)[2][: int(number)]
    model = nn.Linear(inputs.shape[1], inputs.shape[1], bias=False, device=inputs.device)
    with torch.no_grad():
        model.weight.copy_(axes.T @ axes)
    return _Trained(model, inputs.nbytes, {"model": model})


class _Plan(NamedTuple):
    """How an autoencoder is trained, and the values that are tried of what is tuned."""

    train: Callable[[_Task, nn.Sequential, float], _Trained]
    values: tuple[float, ...]
    of: str


STUDY = Study(
    paper="daef",
    question="Can an autoencoder that finds anomalies be trained without gradients, over clients that keep their data?",
    claim="DAEF over five clients finds anomalies as well as an autoencoder trained by Adam on all data in one place.",
    arms={
        "adam": Arm("autoencoder by Adam on all normal images in one place", _Plan(_central, _RATES, "lr")),
        "daef": Arm(
            "DAEF over five clients, one exchange a layer",
            _Plan(partial(_closed_form, clients=_CLIENTS), _PENALTIES, "lam"),
        ),
        "daef_central": Arm(
            "control: DAEF on one client that has all", _Plan(partial(_closed_form, clients=1), _PENALTIES, "lam")
        ),
        "adam_short": Arm(
            "control: by Adam in one place for a twenty-fifth of the epochs",
            _Plan(partial(_central, part=25), _RATES, "lr"),
        ),
        "pca": Arm(
            "control: as many principal components as is best, of all normal images in one place",
            _Plan(_components, _COMPONENTS, "components"),
        ),
        "fedavg": Arm(
            "the autoencoder by Adam on five clients, weights averaged 25 times", _Plan(_average, _RATES, "lr")
        ),
    },
    metrics={
        "auc": Metric(label="area under the ROC curve", unit="", better="higher", minimal_effect=0.01),
        "f1": Metric(label="F1 at the threshold of extreme outliers", unit="", better="higher", minimal_effect=0.02),
        "kilobytes": Metric(label="sent in both directions", unit="kB a data set", better="lower", minimal_effect=10.0),
    },
    headline="auc",
    tuned="learning rate, penalty or number of components: 5 tries an arm and seed, by AUC on validation images",
    limits=(
        "Images of 64 pixels, about 800 normal ones of eight classes, widths 64, 12, 32, 64 for every autoencoder, one "
        "penalty for all layers, clients that differ by chance alone. Nothing follows for streams, for large data or "
        "for clients of other distributions."
    ),
    seeds=12,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Train with each fold of classes as anomalies and each value of what is tuned; judge the best by test images."""
    data = classification(
        setting, smoke=(300, 100, 100), desk=(1000, 300, 497), gpu=(10_000, 5_000, 10_000), normalised=False
    ).data
    epochs, rounds = setting.pick(smoke=(4, 2), desk=(75, 25), gpu=(100, 25))
    widths = (math.prod(data.shape), *_WIDTHS, math.prod(data.shape))

    def task(fold: int) -> _Task:
        def anomalous(labels: Tensor) -> Tensor:
            return labels % folds == fold

        chosen = data.train.images[~anomalous(data.train.labels)].flatten(1)
        mean, spread = chosen.mean(dim=0), chosen.std()
        return _Task(setting, anomalous, mean, spread, (chosen - mean) / spread, epochs, rounds)

    def built() -> nn.Sequential:
        layers = [nn.Linear(*pair) for pair in itertools.pairwise(widths)]
        return nn.Sequential(*[part for layer in layers for part in (layer, nn.Sigmoid())][:-1])

    def mean(
        tried: list[_Trained], judge: Callable[[_Task, nn.Module, LabelledImages], float], part: LabelledImages
    ) -> float:
        return sum(judge(task, each.model, part) for task, each in zip(tasks, tried, strict=True)) / len(tasks)

    folds = min(_FOLDS, len(data.classes))
    tasks = [task(fold) for fold in range(folds)]
    tuned = tune(
        arm.make.values,
        lambda value: [arm.make.train(task, setting.initialised(built), value) for task in tasks],
        lambda tried: mean(tried, _Task.auc, data.validation),
        better="higher",
    )
    best = tuned.best
    return Outcome(
        metrics={
            "auc": mean(best, _Task.auc, data.test),
            "f1": mean(best, _Task.f1, data.test),
            "kilobytes": sum(each.sent for each in best) / len(tasks) / 1_000,
        },
        made=best[0].made,
        tuned={arm.make.of: tuned},
        arguments={
            "layer_widths": " - ".join(map(str, widths)),
            "normal_training_images": " ".join(str(len(task.inputs)) for task in tasks),
            "test_images": len(data.test),
        },
    )
