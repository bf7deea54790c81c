"""PubDef: a classifier learns from examples that were made, once and for all, on a few public models of other kinds.

An attacker who has no access to a model attacks public ones and sends what fools them. So the defender attacks a few
public models, one of each way of training, keeps the changed images in a bank, and trains on them beside the images
themselves, in the hope that what withstands a few models and one attack withstands the others. It is no defense against
an attacker who knows the model or may query it.
Cost: the bank once, ``sources x copies`` times the images in memory; then a pass with two images for each.

Source:
    C. Sitawarin, J. Chang, D. Huang, W. Altoyan, D. Wagner, "PubDef: Defending Against Transfer Attacks From Public
    Models", ICLR 2024, https://arxiv.org/abs/2310.17645; the authors' code,
    https://github.com/wagner-group/pubdef, for the bank of four copies, equal weights, and a source drawn for each
    image at random, as its example script has it.

Deviations:
    - Of the authors' losses fixed and dynamic weights are left out. Weights of sources are equal.
    - The code's top-k loss gives the clean image a share 1 / (k + 1); here it keeps ``clean_weight`` in every mode.
    - A public model's reach is the mean share of the others that it fools; the paper chooses sources by experiments.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = [
    "Mode",
    "PubDefTraining",
    "TransferAccuracies",
    "select_sources",
    "transfer_accuracies",
    "transfer_bank",
]

PAPER = Paper(
    title="PubDef: Defending Against Transfer Attacks From Public Models",
    authors=("Chawin Sitawarin", "Jaewon Chang", "David Huang", "Wesson Altoyan", "David Wagner"),
    year=2023,
    url="https://arxiv.org/abs/2310.17645",
    provides={
        "PubDefTraining": "training-procedure",
        "select_sources": "function",
        "transfer_accuracies": "function",
        "transfer_bank": "function",
    },
    null={"clean_weight": 1.0},
    claim="Trained on examples from a few public models, a classifier withstands those of others, at hardly any cost.",
)

Mode = Literal["random", "all", "top"]
"""Which sources an image is learned with: one drawn at random, all of them, or those that it is worst at."""

_CHUNK = 512


def select_sources(fooled: Tensor, groups: Sequence[str]) -> list[int]:
    """Choose one public model of each group: the one whose examples fool the others most.

    Args:
        fooled: Share of the examples made on model i that fool model j, (models, models); the diagonal does not count.
        groups: How each model was trained.

    Returns:
        Numbers of models, by the first appearance of their group; of equal ones the first.

    Raises:
        ValueError: If the matrix is not square with a group for each, of at least two models, or not within 0 and 1.

    Example:
        >>> select_sources(torch.tensor([[1.0, 0.2, 0.2], [0.6, 1.0, 0.4], [0.0, 0.1, 1.0]]), ["a", "a", "b"])
        [1, 2]
    """
    count = len(groups)
    if fooled.ndim != 2 or fooled.shape[0] != fooled.shape[1] or len(fooled) < 2:
        raise ValueError(f"fooled must be (models, models), two at least, got shape {tuple(fooled.shape)}")
    if count != len(fooled):
        raise ValueError(f"groups must be one for each of {len(fooled)} models, got {list(groups)}")
    if not bool(((fooled >= 0) & (fooled <= 1)).all()):
        raise ValueError(f"fooled must be shares from 0 to 1, got {fooled.tolist()}")
    reach = (fooled.sum(dim=1) - fooled.diagonal()) / (count - 1)
    members = {group: [n for n, other in enumerate(groups) if other == group] for group in groups}
    return [max(numbers, key=lambda number: reach[number].item()) for numbers in members.values()]


def transfer_bank(
    sources: Sequence[nn.Module],
    inputs: Tensor,
    labels: Tensor,
    attack: Callable[..., Tensor],
    copies: int = 4,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Attack public models with images, several times each.

    Args:
        sources: The models, at least one; each is left as it was.
        inputs: Images, (N, ...).
        labels: Class numbers, int64, (N,).
        attack: Called with a model, images, labels and ``generator``, like those of `paperweight.attacks`; the authors
            have ``ProjectedGradient(8 / 255, steps=10, step=2 / 255, keep_going=True)``, to the last step.
        copies: How often, at least 1.
        generator: Source of the attacks' randomness.

    Returns:
        Changed images, (sources, copies, N, ...).

    Raises:
        ValueError: If there is no source, or ``copies`` is below 1.

    Example:
        >>> shift = lambda model, images, labels, *, generator: images + 1
        >>> transfer_bank([nn.Identity()], torch.zeros(3, 2), torch.arange(3), shift, copies=2,
        ...               generator=torch.Generator()).shape
        torch.Size([1, 2, 3, 2])
    """
    if not sources:
        raise ValueError("sources must be one model at least, got none")
    _check_whole("copies", copies)
    parts = list(zip(inputs.split(_CHUNK), labels.split(_CHUNK), strict=True))
    return torch.stack(
        [
            torch.stack(
                [
                    torch.cat([attack(model, part, of, generator=generator).detach() for part, of in parts])
                    for _ in range(copies)
                ]
            )
            for model in sources
        ]
    )


class TransferAccuracies(NamedTuple):
    """Accuracy under each pair of source and attack, under the strongest pair, and under all pairs at once."""

    pairs: Mapping[str, float]
    strongest: float
    together: float


def transfer_accuracies(model: nn.Module, attacked: Mapping[str, Tensor], labels: Tensor) -> TransferAccuracies:
    """Measure what a model makes of images that were changed elsewhere.

    Args:
        model: Maps images to logits (N, classes); looked at in eval mode.
        attacked: By the name of a pair of source and attack its changed images, (N, ...).
        labels: Class numbers, int64, (N,), N at least 1.

    Returns:
        The accuracies; in ``together`` an image is right if it is so under every pair.

    Raises:
        ValueError: If there is no pair, no image, or not a label for each.

    Example:
        >>> images = torch.eye(2)
        >>> transfer_accuracies(nn.Identity(), {"one": images, "other": images.flip(0)}, torch.tensor([0, 1])).strongest
        0.0
    """
    if not attacked or not len(labels) or any(len(images) != len(labels) for images in attacked.values()):
        found = f"{ {name: len(images) for name, images in attacked.items()} } and {len(labels)} labels"
        raise ValueError(f"attacked must hold one pair at least, with an image for each label, got {found}")
    with evaluating(model), torch.no_grad():
        right = {
            name: torch.cat([model(part).argmax(dim=1) for part in images.split(_CHUNK)]) == labels
            for name, images in attacked.items()
        }
    pairs = {name: each.double().mean().item() for name, each in right.items()}
    together = torch.stack(list(right.values())).all(dim=0).double().mean().item()
    return TransferAccuracies(pairs, min(pairs.values()), together)


def transfer_loss(losses: Tensor, mode: Mode = "random", top: int = 1) -> Tensor:
    """Give the mean over images of the mean over sources, or over the ``top`` largest losses of each image.

    Args:
        losses: The loss of each image with each source, (sources, N), one source where they are drawn.
        mode: Which sources count.
        top: How many, with ``"top"``.

    Returns:
        A scalar.
    """
    counted = losses.topk(top, dim=0).values if mode == "top" else losses
    return counted.mean()


@final
class PubDefTraining:
    """Trains on batches of images and of their changed copies: w CE(f(x), y) + (1 - w) CE(f(x'), y).

    Both go through the model at once. A copy is drawn for each image; so is its source, with ``"random"``.

    Args:
        model: Maps images to logits (N, classes); trained in place, in train mode.
        optimizer: Holds its parameters; steps without a closure.
        inputs: Images, (N, ...), N at least 1.
        labels: Class numbers, int64, (N,).
        bank: Changed images, (sources, copies, N, ...), as `transfer_bank` gives them.
        mode: Which sources are learned with; the authors' script has ``"random"``.
        top: How many sources an image is learned with in the mode ``"top"``, at most as many as there are.
        clean_weight: w, from 0 to 1; at 1 changed images are not looked at, and it is plain training bit for bit.
        generator: Source of the choice of copies and sources.

    Raises:
        ValueError: If an argument is outside its range or shapes do not fit.

    Example:
        >>> model, images = nn.Linear(2, 2), torch.eye(2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> bank = images.expand(3, 4, 2, 2)
        >>> training = PubDefTraining(model, optimizer, images, torch.arange(2), bank, generator=torch.Generator())
        >>> training.step(torch.tensor([0, 1])).shape
        torch.Size([])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        inputs: Tensor,
        labels: Tensor,
        bank: Tensor,
        mode: Mode = "random",
        top: int = 1,
        clean_weight: float = 0.5,
        *,
        generator: torch.Generator,
    ) -> None:
        if not len(inputs) or len(inputs) != len(labels):
            raise ValueError(f"inputs must be one at least, with a label each, got {len(inputs)} and {len(labels)}")
        if bank.ndim < 3 or not bank.numel() or bank.shape[2:] != inputs.shape:
            found = f"{tuple(bank.shape)}, inputs {tuple(inputs.shape)}"
            raise ValueError(f"bank must be (sources, copies, N, ...), one at least of each, got {found}")
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}; got {mode!r}")
        _check_whole("top", top)
        if top > len(bank):
            raise ValueError(f"top must be at most the number of sources, {len(bank)}, got {top}")
        if isinstance(clean_weight, bool) or not 0 <= clean_weight <= 1 or math.isnan(clean_weight):
            raise ValueError(f"clean_weight must be from 0 to 1, got {clean_weight!r}")
        self.model, self.optimizer, self.inputs, self.labels, self.bank = model, optimizer, inputs, labels, bank
        self.top, self.clean_weight, self.generator = top, clean_weight, generator
        self.mode: Mode = mode

    def step(self, index: Tensor) -> Tensor:
        """Take one update on some of the images.

        Args:
            index: Their numbers, int64, (n,), n at least 1.

        Returns:
            The loss before the update, a scalar.
        """
        self.model.train()
        images, labels = self.inputs[index], self.labels[index]
        self.optimizer.zero_grad()
        if self.clean_weight == 1:
            loss = F.cross_entropy(self.model(images), labels)
        else:
            changed = self._drawn(index)
            logits = self.model(torch.cat([images, changed.flatten(0, 1)]))
            losses = F.cross_entropy(logits, labels.repeat(1 + len(changed)), reduction="none").view(-1, len(index))
            attacked = transfer_loss(losses[1:], self.mode, self.top)
            loss = self.clean_weight * losses[0].mean() + (1 - self.clean_weight) * attacked
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _drawn(self, index: Tensor) -> Tensor:
        """Draw a copy of each image from each source, or from one, (sources or 1, n, ...)."""
        sources, copies, rows = len(self.bank), self.bank.shape[1], 1 if self.mode == "random" else len(self.bank)
        shape, device = (rows, len(index)), self.generator.device
        copy = torch.randint(copies, shape, generator=self.generator, device=device).to(index.device)
        if self.mode == "random":
            source = torch.randint(sources, shape, generator=self.generator, device=device).to(index.device)
        else:
            source = torch.arange(sources, device=index.device)[:, None]
        return self.bank[source, copy, index]

    def state_dict(self) -> dict[str, Any]:
        """Give what is needed to go on beside the weights: the states of the optimizer and of the generator."""
        return {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.generator.set_state(state_dict["generator"])


def _check_whole(name: str, count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
