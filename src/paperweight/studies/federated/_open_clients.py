"""Clients of whose classes some are labelled nowhere, and the network that they start from.

The first six of ten classes are seen: half of their samples have labels. The next two are spread over all clients
(locally unseen), the last two are on one client each (globally unseen). The body of the network is trained by contrast
of two views on all images, without labels; its head gives cosines.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.agents.partition import partition
from paperweight.data import LabelledImages, Splits, random_crop
from paperweight.federated._open_world import OpenWorldAccuracy
from paperweight.federated.fedossl import open_world_accuracy
from paperweight.loops import fit_views, nt_xent
from paperweight.nets import MLP
from paperweight.studies import Setting, classification

__all__ = ["OpenClients", "open_clients", "view"]

_CLIENTS = 5
_WIDTHS = (256, 128)


@final
@dataclass(frozen=True, eq=False)
class OpenClients:
    """The clients of a seed.

    Attributes:
        data: The parts of the data.
        seen: The classes that have labels somewhere.
        single: The classes that are on one client each.
        clients: The images and labels of each client, -1 where there is no label.
        start: Gives the network that all arms start from.
    """

    data: Splits
    seen: list[int]
    single: list[int]
    clients: list[tuple[Tensor, Tensor]]
    start: Callable[[], nn.Module]

    def judge(self, model: nn.Module, part: LabelledImages) -> OpenWorldAccuracy:
        """Give the accuracies of a model on some images, predicted and true classes matched one to one."""
        with torch.inference_mode():
            return open_world_accuracy(model.eval()(part.images).argmax(1), part.labels, self.seen, self.single)

    def sizes(self) -> dict[str, object]:
        """Give the classes of either kind, and how many samples there are."""
        return {
            "seen": " ".join(self.data.classes[number] for number in self.seen),
            "globally_unseen": " ".join(self.data.classes[number] for number in self.single),
            "samples_of_clients": " ".join(str(len(labels)) for _, labels in self.clients),
            "test_images": len(self.data.test),
        }


def open_clients(setting: Setting) -> OpenClients:
    """Return the clients of a seed, the same for every arm."""
    data = classification(
        setting, smoke=(200, 50, 100), desk=(1000, 300, 497), gpu=(40_000, 5_000, 10_000), normalised=False
    ).data
    classes = len(data.classes)
    seen = list(range(max(1, round(0.6 * classes))))
    single = list(range(len(seen) + (classes - len(seen)) // 2, classes))
    clients = _dealt(data.train, seen, single, setting.generator("method"))
    network = partial(setting.initialised, lambda: _Network(data.shape, classes))

    def pretrained() -> dict[str, Tensor]:
        model = network()
        projection = setting.initialised(lambda: nn.Sequential(nn.ReLU(), nn.Linear(_WIDTHS[-1], 64)))
        encoder = nn.Sequential(model.body, projection)
        fit_views(
            encoder,
            torch.optim.Adam(encoder.parameters(), lr=1e-3),
            data.train.images,
            view=view,
            loss=partial(nt_xent, temperature=0.2),
            steps=setting.pick(smoke=20, desk=500, gpu=5_000),
            batch_size=128,
            generator=setting.generator("batches"),
        )
        return {name: value.detach().clone() for name, value in model.state_dict().items()}

    trained = setting.cached("body trained by contrast", pretrained)

    def start() -> nn.Module:
        model = network()
        model.load_state_dict(trained)
        return model

    return OpenClients(data, seen, single, clients, start)


class _Network(nn.Module):
    """Two hidden layers, and as head 10 times the cosines of features and class vectors, as ORCA has it."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        network = MLP(shape, classes, hidden=_WIDTHS)
        self.body, self.head = network.body[:-1], _Cosines(network.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class _Cosines(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        return 10 * F.normalize(features) @ F.normalize(self.weight).T


def _dealt(
    train: LabelledImages, seen: list[int], single: list[int], draw: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Deal samples to clients, each globally unseen class to one, and keep half of the labels of seen classes."""
    known = torch.isin(train.labels, torch.tensor(seen).to(train.labels))
    kept = known & (torch.rand(len(known), generator=draw) < 0.5).to(known.device)
    shown = torch.where(kept, train.labels, -1)
    spread = torch.where(torch.isin(train.labels, torch.tensor(single).to(train.labels)), -1, train.labels)
    shared = (spread >= 0).nonzero()[:, 0]
    parts = [shared[part] for part in partition(train.labels[shared], _CLIENTS, generator=draw)]
    for place, number in enumerate(single):
        own = (train.labels == number).nonzero()[:, 0]
        parts[place % _CLIENTS] = torch.cat([parts[place % _CLIENTS], own])
    return [(train.images[part], shown[part]) for part in parts]


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move every other image, at random, by up to a pixel each way, and add noise to all."""
    draw = {"generator": generator, "device": generator.device}
    moves = (torch.rand(len(images), 1, 1, 1, **draw) < 0.5).to(images.device)
    moved = torch.where(moves, random_crop(images, 1, generator=generator), images)
    return moved + 0.2 * torch.randn(images.shape, **draw).to(images)
