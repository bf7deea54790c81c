"""An autoencoder trained in closed form, over clients, finds anomalies as well as one by gradients (DAEF, 2022).

Each class of images in turn is what is normal and alone trained on, images of every other class are anomalies, and
what is reported is the mean over the classes. Autoencoders of one shape score an image by how badly they reconstruct
it. The baseline trains on all normal images in one place by Adam, and its cost of communication is that of bringing
them there. DAEF has them on five clients and trains layer by layer; FedAvg averages the weights of five autoencoders
that are trained locally, 25 times. The claim is one of equal quality in far less time, so that the verdict to expect on
AUC, the headline, is "no effect"; the computing time is told as of every study, the bytes that are exchanged beside it.

What it can show: whether the closed form costs quality, and what it sends. What it cannot: anything about large data,
where what DAEF sends stays as it is and the images grow. An AUC below the baseline's would refute the claim. Two
controls: DAEF on one client, which must be equal to rounding, and principal components, which are DAEF's encoder
without the layers above it: as high an AUC there says that the decoder is not needed on these data. The mean and scale
of the features are of all clients together and not counted.
"""

import copy
import itertools
import math
from collections.abc import Callable

import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn

from paperweight.data import LabelledImages
from paperweight.federated.daef import DAEF, anomaly_scores, anomaly_threshold
from paperweight.loops import best_of
from paperweight.studies import Metric, Outcome, Setting, Study

STUDY = Study(
    paper="daef",
    question="Can an autoencoder that finds anomalies be trained without gradients, over clients that keep their data?",
    claim="DAEF over five clients finds anomalies as well as an autoencoder trained by Adam on all data in one place.",
    arms={
        "adam": "autoencoder by Adam on all normal images in one place",
        "daef": "DAEF over five clients, one exchange a layer",
        "daef_central": "control: DAEF on one client that has all",
        "pca": "control: as many principal components as is best, of all normal images in one place",
        "fedavg": "the autoencoder by Adam on five clients, weights averaged 25 times",
    },
    metrics={
        "auc": Metric(label="area under the ROC curve", unit="", better="higher", minimal_effect=0.005),
        "f1": Metric(label="F1 at the threshold of extreme outliers", unit="", better="higher", minimal_effect=0.02),
        "kilobytes": Metric(label="sent in both directions", unit="kB a data set", better="lower", minimal_effect=10.0),
    },
    headline="auc",
    tuned="learning rate, penalty or number of components: 4 tries an arm and seed, by AUC on validation images",
    limits=(
        "Images of 64 pixels, about a hundred normal ones a class, four classes of widths 64, 12, 32, 64, clients that "
        "differ by chance alone. Nothing follows for streams, for large data or for clients of other distributions."
    ),
)

_WIDTHS = (12, 32)
_CLIENTS = 5
_EPOCHS = 100
_ROUNDS = 25
_BATCH = 20
_RATES = (0.001, 0.003, 0.01, 0.03)
_PENALTIES = (0.001, 0.01, 0.1, 1.0)
_COMPONENTS = (4, 8, 12, 16)


def run(arm: str, setting: Setting) -> Outcome:
    """Train with each class as the normal one and each value of what is tuned; report the best on test images."""
    data = setting.images(
        default="digits",
        train=setting.pick(smoke=300, desk=1000, gpu=10_000),
        validation=setting.pick(smoke=100, desk=300, gpu=5_000),
        test=setting.pick(smoke=100, desk=497, gpu=10_000),
        max_side=32,
    )
    epochs, rounds = setting.pick(smoke=(4, 2), desk=(_EPOCHS, _ROUNDS), gpu=(_EPOCHS, _ROUNDS))
    features = math.prod(data.shape)
    tasks = [_Task(data.train, normal) for normal in range(len(data.classes))]
    values = {"adam": _RATES, "fedavg": _RATES, "pca": _COMPONENTS}.get(arm, _PENALTIES)

    def built() -> nn.Sequential:
        sizes = (features, *_WIDTHS, features)
        layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        return nn.Sequential(*[part for layer in layers for part in (layer, nn.Sigmoid())][:-1])

    def train(task: _Task, value: float) -> tuple[nn.Module, int]:
        model, draw = setting.initialised(built), setting.generator("batches")
        if arm == "adam":
            _descend(model, task.inputs, value, epochs, draw)
        elif arm == "fedavg":
            return model, _average(model, task.inputs.tensor_split(_CLIENTS), value, epochs // rounds, rounds, draw)
        elif arm == "pca":
            return _components(task.inputs, int(value)), task.inputs.nbytes
        else:
            clients = task.inputs.tensor_split(1 if arm == "daef_central" else _CLIENTS)
            training = DAEF(model, lam_hidden=value, lam_last=value, generator=setting.generator("method"))
            sent = _closed_form(training, clients)
            return model, task.inputs.nbytes if arm == "daef_central" else sent
        return model, task.inputs.nbytes

    trained = {value: [train(task, value) for task in tasks] for value in values}

    def judged(
        value: float, part: LabelledImages, judge: Callable[["_Task", nn.Module, LabelledImages], float]
    ) -> float:
        each = [judge(task, model, part) for task, (model, _) in zip(tasks, trained[value], strict=True)]
        return sum(each) / len(each)

    found = {value: judged(value, data.validation, _Task.auc) for value in values}
    value = best_of(found, lambda value: found[value], better="higher")
    return Outcome(
        metrics={
            "auc": judged(value, data.test, _Task.auc),
            "f1": judged(value, data.test, _Task.f1),
            "kilobytes": sum(sent for _, sent in trained[value]) / len(tasks) / 1_000,
        },
        arguments={
            "tuned_value": value,
            "tries": len(values),
            "layer_widths": " - ".join(map(str, (features, *_WIDTHS, features))),
            "normal_training_images": " ".join(str(len(task.inputs)) for task in tasks),
            "test_images": len(data.test),
        },
        curves={
            "validation AUC, by log10 of the tuned value": [(math.log10(value), auc) for value, auc in found.items()]
        },
    )


class _Task:
    """A class as the normal one: its training images, scaled by their mean and spread, and how models are judged."""

    def __init__(self, train: LabelledImages, normal: int) -> None:
        chosen = train.images[train.labels == normal].flatten(1)
        self.normal, self.mean, self.spread = normal, chosen.mean(dim=0), chosen.std()
        self.inputs = self.scaled(chosen)

    def scaled(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - self.mean) / self.spread

    def auc(self, model: nn.Module, part: LabelledImages) -> float:
        scores = anomaly_scores(model, self.scaled(part.images))
        return float(roc_auc_score((part.labels != self.normal).cpu().numpy(), scores.cpu().numpy()))

    def f1(self, model: nn.Module, part: LabelledImages) -> float:
        found = anomaly_scores(model, self.scaled(part.images)) > anomaly_threshold(anomaly_scores(model, self.inputs))
        return float(f1_score((part.labels != self.normal).cpu().numpy(), found.cpu().numpy()))


def _closed_form(training: DAEF, clients: tuple[Tensor, ...]) -> int:
    """Train every layer, and count the bytes that clients send and those of the layers that they get."""
    sent = 0
    for layer in training.layers:
        parts = [training.statistics(client) for client in clients]
        training.merge(parts)
        sent += sum(told.nbytes for part in parts for told in part)
        sent += len(clients) * (layer.weight.nbytes + layer.bias.nbytes)
    return sent


def _descend(model: nn.Module, inputs: Tensor, rate: float, epochs: int, draw: torch.Generator) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(inputs), generator=draw).to(inputs.device).split(_BATCH):
            optimizer.zero_grad()
            (model(inputs[batch]) - inputs[batch]).square().mean().backward()
            optimizer.step()


def _average(
    model: nn.Module, clients: tuple[Tensor, ...], rate: float, epochs: int, rounds: int, draw: torch.Generator
) -> int:
    """Train by FedAvg, clients weighing as many as their samples, and count the bytes of all weights that are sent."""
    total = sum(len(client) for client in clients)
    for _ in range(rounds):
        copies = [copy.deepcopy(model) for _ in clients]
        for local, client in zip(copies, clients, strict=True):
            _descend(local, client, rate, epochs, draw)
        with torch.no_grad():
            for parameter, *locals_ in zip(model.parameters(), *(local.parameters() for local in copies), strict=True):
                shares = (len(client) / total * value for client, value in zip(clients, locals_, strict=True))
                parameter.copy_(torch.stack([*shares]).sum(0))
    return 2 * rounds * len(clients) * sum(parameter.nbytes for parameter in model.parameters())


def _components(inputs: Tensor, number: int) -> nn.Module:
    """Build the projection on the first principal components of inputs whose mean is 0."""
    axes = torch.linalg.svd(inputs, full_matrices=False)[2][:number]
    model = nn.Linear(inputs.shape[1], inputs.shape[1], bias=False, device=inputs.device)
    with torch.no_grad():
        model.weight.copy_(axes.T @ axes)
    return model
