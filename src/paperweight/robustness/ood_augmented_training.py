"""Out-of-distribution data augmented training (OAT, OST): images of other things are given the uniform label.

What a network should not rely on, textures or backgrounds, say, is in other images as well. Trained to be undecided
about these, it learns that such features tell nothing about the label. Half of each batch are other images, attacked
like the rest in adversarial training (OAT), as they are in standard training (OST).
Cost: none where the batches stay as large; the other images are to be had, and need no labels.

A label of -1 marks an image of something else.

Source:
    S. Lee, C. Park, H. Lee, J. Yi, J. Lee, S. Yoon, "Removing Undesirable Feature Contributions Using Out-of-
    Distribution Data", ICLR, 2021, https://arxiv.org/abs/2101.06639, https://openreview.net/forum?id=eIHYL6fpbkA, and
    the authors' code, https://github.com/Saehyung-Lee/OAT: batches, labels and loss. Of the paper's own text only the
    abstract was at hand. Implemented: OAT with projected gradient ascent, and OST. Left out: OAT with TRADES and with
    pseudo-labels, which concatenate both parts likewise.

Deviations:
    - The loss is the sum of two means, one for each part; the authors' code has the mean over the whole batch, which
      for parts of equal size is half of it: a rate of theirs is half as large here.
    - Which other images are taken is drawn anew for each batch, with replacement; the authors go through them in order.
    - Attacks of `paperweight.attacks` see the model in eval mode; the authors attack it in train mode.
    - `least_confident` takes any classifier; the authors' images were chosen by one that knows other images as a class.
"""

import math
from collections.abc import Callable
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["OODTraining", "least_confident", "ood_augmented_loss", "soft_targets", "uniform_target_loss"]

PAPER = Paper(
    title="Removing Undesirable Feature Contributions Using Out-of-Distribution Data",
    authors=("Saehyung Lee", "Changhwa Park", "Hyungyu Lee", "Jihun Yi", "Jonghyun Lee", "Sungroh Yoon"),
    year=2021,
    url="https://arxiv.org/abs/2101.06639",
    provides={
        "OODTraining": "training-procedure",
        "ood_augmented_loss": "loss",
        "uniform_target_loss": "loss",
        "soft_targets": "function",
        "least_confident": "function",
    },
    null={"alpha": 0.0},
    claim="Images of other things, labelled uniformly, improve standard and adversarial generalization.",
)


def uniform_target_loss(logits: Tensor) -> Tensor:
    """Compute the cross-entropy with the uniform label: the mean of -1/C sum over c of log p_c.

    Its gradient by the logits of an image is (p - 1/C) / N; its least value, log C, is that of equal logits.

    Args:
        logits: Shape (N, classes), N at least 1.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: If the shape is another.

    Example:
        >>> uniform_target_loss(torch.tensor([[2.0, 2.0, 2.0, 2.0]]))
        tensor(1.3863)
    """
    if logits.ndim != 2 or not logits.numel():
        raise ValueError(f"logits must have shape (N, classes) with N at least 1, got {tuple(logits.shape)}")
    return -logits.log_softmax(dim=1).mean()


def ood_augmented_loss(logits: Tensor, labels: Tensor, alpha: float = 1.0) -> Tensor:
    """Compute CE(f(x), y) + alpha CE(f(o), u) for images x with labels y, other images o, and the uniform label u.

    Each of the two is a mean; one without images counts 0. Without other images, or with ``alpha=0``, it is the
    cross-entropy of the images with labels bit for bit.

    Args:
        logits: Shape (N, classes), N at least 1.
        labels: Class numbers, int64, (N,), and -1 for an image of something else.
        alpha: Weight of the other images, finite and at least 0; the authors have 1.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [3.0, 0.0]])
        >>> ood_augmented_loss(logits, torch.tensor([1, -1]), alpha=0.5)
        tensor(1.4674)
    """
    _check_alpha(alpha)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.numel():
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"logits and labels must have shapes (N, classes) and (N,), N at least 1, got {shapes}")
    _check_labels(labels, logits.shape[1])
    known = labels >= 0
    loss = logits.new_zeros(())
    if known.any():
        loss = F.cross_entropy(logits[known], labels[known])
    if alpha > 0 and not known.all():
        loss = loss + alpha * uniform_target_loss(logits[~known])
    return loss


def soft_targets(labels: Tensor, classes: int) -> Tensor:
    """Give labels as shares of classes, as attacks take them: all of one class, or equal shares where it is -1.

    Args:
        labels: Class numbers, int64, (N,), and -1 for an image of something else.
        classes: Number of classes, at least 2.

    Returns:
        Shares, (N, classes), in the default floating format.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> soft_targets(torch.tensor([1, -1]), classes=2)
        tensor([[0.0000, 1.0000],
                [0.5000, 0.5000]])
    """
    _check_classes(classes)
    _check_labels(labels, classes)
    one = F.one_hot(labels.clamp(min=0), classes).to(torch.get_default_dtype())
    return torch.where(labels[:, None] >= 0, one, 1 / classes)


def least_confident(model: nn.Module, images: Tensor, count: int) -> Tensor:
    """Choose images that look least like any class: those whose most probable class has the lowest probability.

    Args:
        model: Maps images to logits (N, classes); called in eval mode, and left as it was.
        images: Images to choose from, (N, ...).
        count: How many to choose, from 1 to N.

    Returns:
        Their numbers, int64, (count,), the least confident first; of equal ones the earlier.

    Raises:
        ValueError: If ``count`` is outside its range.

    Example:
        >>> least_confident(nn.Identity(), torch.tensor([[5.0, 0.0], [1.0, 0.5], [0.0, 2.0]]), count=2)
        tensor([1, 2])
    """
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= len(images):
        raise ValueError(f"count must be a whole number from 1 to the {len(images)} images, got {count!r}")
    with evaluating(model), torch.no_grad():
        confidences = torch.cat([model(part).softmax(dim=1).amax(dim=1) for part in images.split(512)])
    return confidences.argsort(stable=True)[:count]


@final
class OODTraining:
    """Trains a classifier on labelled images and as many images of other things, attacked or as they are.

    An update costs as much as one on a batch of twice the size. With ``alpha=0`` no other images are drawn, and it is
    plain or adversarial training bit for bit.

    Args:
        model: Maps images to logits (N, classes); trained in place, in train mode.
        optimizer: Holds its parameters; steps without a closure.
        ood: Images of other things, (M, ...), M at least 1, in shape and range like the labelled ones.
        classes: Number of classes, at least 2.
        alpha: Weight of the other images, finite and at least 0; the authors have 1.
        attack: Changes images, called with the model, images, labels and ``generator``, like those of
            `paperweight.attacks`; with other images among them labels are shares of classes. The authors have
            ``ProjectedGradient(8 / 255, steps=10, step=2 / 255, keep_going=True)``. None for standard training (OST).
        generator: Source of the choice of other images, and of the attack.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> model = nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> training = OODTraining(model, optimizer, torch.rand(50, 2, generator=draw), classes=2, generator=draw)
        >>> loss = training.step(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 1]))
        >>> loss.shape
        torch.Size([])
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        ood: Tensor,
        classes: int,
        alpha: float = 1.0,
        attack: Callable[..., Tensor] | None = None,
        *,
        generator: torch.Generator,
    ) -> None:
        _check_classes(classes)
        _check_alpha(alpha)
        if ood.ndim < 2 or not len(ood):
            raise ValueError(f"ood must hold images (M, ...), M at least 1, got shape {tuple(ood.shape)}")
        self.model, self.optimizer, self.ood, self.classes = model, optimizer, ood, classes
        self.alpha, self.attack, self.generator = alpha, attack, generator

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Draw other images, attack all, make an update, and give its loss.

        Args:
            inputs: Images, (N, ...), N at least 1.
            labels: Class numbers, int64, (N,); with ``alpha=0`` also shares of classes, (N, classes).

        Returns:
            The loss before the update, a scalar.

        Raises:
            ValueError: If the images have another shape than the other ones, or a label is no class.
        """
        self.model.train()
        wanted = labels
        if self.alpha > 0:
            inputs, labels = self._with_others(inputs, labels)
            wanted = soft_targets(labels, self.classes).to(inputs)
        if self.attack is not None:
            inputs = self.attack(self.model, inputs, wanted, generator=self.generator)
        logits = self.model(inputs)
        loss = ood_augmented_loss(logits, labels, self.alpha) if self.alpha > 0 else F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Give the state of the optimizer and that of the generator."""
        return {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.generator.set_state(state_dict["generator"])

    def _with_others(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Give a batch with as many other images behind it, whose label is -1."""
        if inputs.shape[1:] != self.ood.shape[1:]:
            found = f"{tuple(self.ood.shape[1:])} and {tuple(inputs.shape[1:])}"
            raise ValueError(f"ood must have images of the shape of the inputs, got {found}")
        draw = self.generator
        chosen = torch.randint(len(self.ood), (len(inputs),), generator=draw, device=draw.device)
        others = self.ood[chosen.to(self.ood.device)].to(inputs)
        return torch.cat([inputs, others]), torch.cat([labels, labels.new_full((len(others),), -1)])


def _check_alpha(alpha: float) -> None:
    if isinstance(alpha, bool) or not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be finite and at least 0, got {alpha}")


def _check_classes(classes: int) -> None:
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 2:
        raise ValueError(f"classes must be a whole number of at least 2, got {classes!r}")


def _check_labels(labels: Tensor, classes: int) -> None:
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must be int64 of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}")
    if len(labels) and not -1 <= int(labels.min()) <= int(labels.max()) < classes:
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels must be from 0 to {classes - 1}, or -1 for other images, got {found}")
