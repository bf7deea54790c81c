"""Adversarial training: a classifier is trained on inputs that are attacked as it learns.

Source:
    A. Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018,
    https://arxiv.org/abs/1706.06083; TRADES: H. Zhang et al., "Theoretically Principled Trade-off between Robustness
    and Accuracy", 2019, https://arxiv.org/abs/1901.08573, equation 5; MART: Y. Wang et al., "Improving Adversarial
    Robustness Requires Revisiting Misclassified Examples", 2020, https://openreview.net/forum?id=rklOg6EFwS,
    equations 9 and 10.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops.core import OnStep, Schedule, index_batches, minimise
from paperweight.nets import evaluating

__all__ = [
    "RobustLoss",
    "TrainingAttack",
    "adversarial_loss",
    "fit_robust",
    "mart_loss",
    "own_predictions",
    "trades_loss",
]

RobustLoss = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""Maps the model in train mode, images, attacked images and labels of a batch to a scalar."""


class TrainingAttack(Protocol):
    """An attack that takes its randomness from a generator, as those of `paperweight.attacks` do."""

    def __call__(self, model: nn.Module, inputs: Tensor, labels: Tensor, /, *, generator: torch.Generator) -> Tensor:
        """Give changed inputs."""
        ...


def adversarial_loss(model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor) -> Tensor:
    """Give the mean cross-entropy on the attacked images: plain adversarial training.

    Args:
        model: Maps images to logits (N, classes).
        images: Images (N, ...), which do not count.
        attacked: What the attack made of them.
        labels: Class numbers (N,), or shares of classes (N, classes).

    Returns:
        A scalar.

    Example:
        >>> adversarial_loss(nn.Identity(), torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
    """
    return F.cross_entropy(model(attacked), labels)


def trades_loss(model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor, *, lam: float = 6.0) -> Tensor:
    """Give the mean cross-entropy on the images, plus ``lam`` times the divergence of the attacked predictions.

    It goes with an attack on the model's own predictions, see `own_predictions`. Images and attacked images pass
    through the model one after the other.

    Args:
        model: Maps images to logits (N, classes).
        images: Images (N, ...).
        attacked: What the attack made of them.
        labels: Class numbers (N,), or shares of classes (N, classes).
        lam: Weight of KL(p(images) || p(attacked)), at least 0; the paper's 1 / lambda of 1 to 6.

    Returns:
        A scalar.

    Example:
        >>> trades_loss(nn.Identity(), torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.6931)
    """
    logits = model(images)
    divergence = F.kl_div(
        F.log_softmax(model(attacked), dim=1), F.log_softmax(logits, dim=1), reduction="batchmean", log_target=True
    )
    return F.cross_entropy(logits, labels) + lam * divergence


def mart_loss(model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor, *, lam: float = 5.0) -> Tensor:
    """Give the boosted cross-entropy on the attacked images, plus the divergence weighted by how unsure images are.

    The first is -log p_y - log(1 - max over j != y of p_j) of the attacked image; the second ``lam`` times
    KL(p(image) || p(attacked)) (1 - p_y(image)). All are means over the batch.

    Args:
        model: Maps images to logits (N, classes).
        images: Images (N, ...).
        attacked: What the attack made of them.
        labels: Class numbers, int64, (N,).
        lam: Weight of the divergence, at least 0; the paper has 5.

    Returns:
        A scalar.

    Example:
        >>> round(mart_loss(nn.Identity(), torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        1.3863
    """
    clean, changed = F.log_softmax(model(images), dim=1), F.log_softmax(model(attacked), dim=1)
    place = labels[:, None]
    others = changed.scatter(1, place, -torch.inf).amax(dim=1).exp()
    boosted = -changed.gather(1, place).squeeze(1) - torch.log1p(-others.clamp(max=1 - 1e-6))
    divergence = (clean.exp() * (clean - changed)).sum(dim=1)
    return boosted.mean() + lam * (divergence * (1 - clean.gather(1, place).squeeze(1).exp())).mean()


def own_predictions(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Give what TRADES has its attack lead away from: the model's probabilities on the images, in eval mode.

    Cross-entropy with these shares has the gradient of KL(p(images) || p(attacked)).

    Args:
        model: Maps images to logits (N, classes).
        images: Images (N, ...).
        labels: Labels, which do not count.

    Returns:
        Probabilities, (N, classes), without a gradient.

    Example:
        >>> own_predictions(nn.Identity(), torch.zeros(1, 4), torch.tensor([0]))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    with evaluating(model), torch.no_grad():
        return model(images).softmax(dim=1)


def _given_labels(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return labels


def fit_robust(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    *,
    attack: TrainingAttack,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    loss: RobustLoss = adversarial_loss,
    attack_labels: Callable[[nn.Module, Tensor, Tensor], Tensor] = _given_labels,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    schedule: Schedule | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Train a model in place on batches that are attacked with the weights of the moment; leave it in train mode.

    With an attack of radius 0 and `adversarial_loss` it is `fit_classifier`, bit for bit. The attack sees the model as
    it leaves it, `paperweight.attacks` in eval mode; it should go on where inputs are fooled (``keep_going=True``).

    Args:
        model: Maps images (N, ...) to logits (N, classes).
        optimizer: Holds the parameters to train; steps without a closure.
        images: Inputs, (N, ...), on the model's device.
        labels: Class numbers, int64 (N,), or other labels that loss and attack take, on the model's device.
        attack: Changes a batch of images, called with model, images, labels and ``generator``.
        steps: Number of optimizer steps, at least 1.
        batch_size: Images a step, at least 1.
        generator: Source of the shuffles, of ``augment`` and of the attack.
        loss: Maps model, images, attacked images and labels to a scalar; `trades_loss` or `mart_loss`, say.
        attack_labels: Maps model, images and labels to the labels that the attack is given; `own_predictions`, say.
        augment: Maps a batch of images to the batch to attack.
        schedule: Stepped after every optimizer step.
        on_step: Called after every step, with the step's number from 0 and its loss.

    Returns:
        The loss of every step taken, each before its update, shape (steps,); shorter after a divergence.

    Raises:
        ValueError: If images and labels differ in number, there are none, or ``steps`` or ``batch_size`` is below 1.

    Example:
        >>> from paperweight.attacks import ProjectedGradient
        >>> _ = torch.manual_seed(0)
        >>> images, labels = torch.eye(4), torch.arange(4)
        >>> model = nn.Linear(4, 4)
        >>> attack = ProjectedGradient(radius=0.1, steps=3, keep_going=True)
        >>> losses = fit_robust(model, torch.optim.SGD(model.parameters(), lr=1.0), images, labels, attack=attack,
        ...     steps=100, batch_size=4, generator=torch.Generator().manual_seed(0))
        >>> losses.shape, bool(losses[-1] < 0.4)
        (torch.Size([100]), True)
    """
    if len(images) < 1 or len(images) != len(labels):
        found = f"{len(images)} and {len(labels)}"
        raise ValueError(f"images and labels must have the same length, at least 1, got {found}")
    model.train()

    def batch_loss(index: Tensor) -> Tensor:
        batch, target = images.index_select(0, index), labels.index_select(0, index)
        if augment is not None:
            batch = augment(batch, generator)
        attacked = attack(model, batch, attack_labels(model, batch, target), generator=generator)
        return loss(model, batch, attacked, target)

    batches = index_batches(len(images), batch_size, generator, images.device)
    return minimise(batch_loss, optimizer, batches, steps=steps, schedule=schedule, on_step=on_step)
