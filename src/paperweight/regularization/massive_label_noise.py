"""Massive label noise: beside each right label stand alpha random ones, and a network may still learn the right one.

As long as a class's own label is its most frequent one, the best prediction is right, however rare it is. But a batch
of b labels then holds b / (1 + alpha) with a signal; the others blur it.

Source:
    D. Rolnick, A. Veit, S. Belongie, N. Shavit, "Deep Learning is Robust to Massive Label Noise", 2017,
    https://arxiv.org/abs/1705.10694. Implemented: dilution of a data set by alpha noisy labels for each right one, by
    noise that is uniform or favours one wrong class, the loss of an infinitely large batch, and accuracy by alpha.

Deviations:
    - The full text was not at hand; formulas follow from the abstract and from accounts of the experiments. In the
      paper biased noise orders all classes by frequency, the more steeply the larger delta is, from 0 to 1. Here a
      share delta of the noise falls on the next class, and the rest is uniform.
    - Noisy labels on other images are left out.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = [
    "NoiseCurve",
    "biased_noise",
    "dilute",
    "expected_loss",
    "label_law",
    "label_noise_curve",
    "plurality",
]

PAPER = Paper(
    title="Deep Learning is Robust to Massive Label Noise",
    authors=("David Rolnick", "Andreas Veit", "Serge Belongie", "Nir Shavit"),
    year=2017,
    url="https://arxiv.org/abs/1705.10694",
    provides={
        "label_noise_curve": "experiment",
        "biased_noise": "function",
        "dilute": "function",
        "expected_loss": "function",
        "label_law": "function",
        "plurality": "function",
    },
    null={"alphas": (0,)},
    claim="A network learns from data in which wrong labels outnumber the right ones by far.",
)

_BATCH = 500


def biased_noise(classes: int, delta: float = 0.0) -> Tensor:
    """Compute P(noisy label | true class): a share delta on the next class, the rest uniform over all classes.

    Args:
        classes: Number of classes, at least 2.
        delta: The share, in [0, 1]; at 0 noise is uniform, and hits the true class as often as any other.

    Returns:
        The probabilities, float64, (classes, classes), a row for each true class.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> biased_noise(4, delta=0.2)[3].tolist()
        [0.4, 0.2, 0.2, 0.2]
    """
    _check_whole("classes", classes, least=2)
    if not 0 <= delta <= 1:
        raise ValueError(f"delta must be in [0, 1], got {delta}")
    uniform = torch.full((classes, classes), 1 / classes, dtype=torch.float64)
    return (1 - delta) * uniform + delta * torch.eye(classes, dtype=torch.float64).roll(1, dims=1)


def label_law(alpha: float, noise: Tensor) -> Tensor:
    """Compute P(label | true class) = (right + alpha noise) / (1 + alpha): one right label and alpha noisy ones.

    Args:
        alpha: Noisy labels for each right one, finite and at least 0.
        noise: P(noisy label | true class), (classes, classes), each row a law, such as that of `biased_noise`.

    Returns:
        The probabilities, float64, (classes, classes).

    Raises:
        ValueError: If ``alpha`` is outside its range, or ``noise`` is not as above.

    Example:
        >>> label_law(4, biased_noise(2)).tolist()
        [[0.6, 0.4], [0.4, 0.6]]
    """
    if not 0 <= alpha < math.inf:
        raise ValueError(f"alpha must be finite and at least 0, got {alpha}")
    _check_noise(noise)
    right = torch.eye(len(noise), dtype=torch.float64, device=noise.device)
    return (right + alpha * noise.to(torch.float64)) / (1 + alpha)


def plurality(law: Tensor) -> float:
    """Compute by how much the right label leads the most frequent wrong one, in the class where it leads least.

    Where it is above 0 the best prediction is the true class, for every class. Uniform noise leaves 1 / (1 + alpha),
    noise with a share delta on one class (1 - alpha delta) / (1 + alpha).

    Args:
        law: P(label | true class), (classes, classes), such as that of `label_law`.

    Returns:
        The smallest lead, from -1 to 1.

    Raises:
        ValueError: If ``law`` is not as above.

    Example:
        >>> round(plurality(label_law(10, biased_noise(10))), 4)
        0.0909
    """
    _check_noise(law, "law")
    right = law.diagonal()
    wrong = law.masked_fill(torch.eye(len(law), dtype=torch.bool, device=law.device), -1.0)
    return (right - wrong.amax(dim=1)).min().item()


def dilute(labels: Tensor, alpha: int, noise: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Put alpha noisy labels of the same inputs beside each label.

    ``inputs[index]`` with the labels returned is the diluted data set: first each input with its own label, then alpha
    times each with a drawn one. At alpha = 0 it is the data set, and nothing is drawn.

    Args:
        labels: Right labels, int64, (N,), N at least 1.
        alpha: Noisy labels for each, a whole number of at least 0.
        noise: P(noisy label | true class), (classes, classes).
        generator: Source of the noise, on the CPU.

    Returns:
        Numbers of the inputs, and labels, int64, ((1 + alpha) N,), on the device of ``labels``.

    Raises:
        ValueError: If an argument is not as above, or a label is not below the number of classes.

    Example:
        >>> index, diluted = dilute(torch.tensor([0, 2]), 2, biased_noise(3), generator=torch.Generator())
        >>> index.tolist(), diluted[:2].tolist(), len(diluted)
        ([0, 1, 0, 1, 0, 1], [0, 2], 6)
    """
    _check_whole("alpha", alpha, least=0)
    _check_noise(noise)
    _check_labels(labels, len(noise))
    index = torch.arange(len(labels), device=labels.device).repeat(1 + alpha)
    if alpha == 0:
        return index, labels.clone()
    laws = noise.cpu()[labels.cpu()]
    drawn = torch.multinomial(laws, alpha, replacement=True, generator=generator)
    return index, torch.cat([labels, drawn.T.flatten().to(labels.device)])


def expected_loss(logits: Tensor, labels: Tensor, law: Tensor) -> Tensor:
    """Compute the mean cross-entropy in expectation over the labels: that of an infinitely large noisy batch.

    With uniform noise it is cross-entropy with label smoothing of alpha / (1 + alpha).

    Args:
        logits: Logits, (N, classes), N at least 1.
        labels: True classes, int64, (N,).
        law: P(label | true class), (classes, classes), such as that of `label_law`.

    Returns:
        A scalar, in nats.

    Raises:
        ValueError: If shapes or values are not as above.

    Example:
        >>> round(expected_loss(torch.zeros(2, 4), torch.tensor([0, 3]), label_law(9, biased_noise(4))).item(), 4)
        1.3863
    """
    _check_noise(law, "law")
    _check_labels(labels, len(law))
    if logits.shape != (len(labels), len(law)):
        raise ValueError(f"logits must have shape ({len(labels)}, {len(law)}), got {tuple(logits.shape)}")
    return F.cross_entropy(logits, law.to(logits.device, logits.dtype)[labels])


@final
@dataclass(frozen=True)
class NoiseCurve:
    """What training under growing label noise gives.

    Attributes:
        alphas: Noisy labels for each right one.
        accuracies: Test accuracy with each, in [0, 1].
        leads: By how much the right label leads, with each; not above 0 where no training can be right everywhere.
        examples: Training examples with each, right and noisy.
    """

    alphas: tuple[int, ...]
    accuracies: tuple[float, ...]
    leads: tuple[float, ...]
    examples: tuple[int, ...]


def label_noise_curve(
    train: Callable[[Tensor, Tensor], nn.Module],
    inputs: Tensor,
    labels: Tensor,
    test_inputs: Tensor,
    test_labels: Tensor,
    alphas: Sequence[int] = (0, 5, 10, 20),
    noise: Tensor | None = None,
    *,
    generator: torch.Generator,
) -> NoiseCurve:
    """Measure how much label noise a training withstands: train under each amount, test on right labels.

    Args:
        train: Trains a new network on inputs, (M, ...), and labels, (M,), and returns it; it maps inputs to logits.
        inputs: Training inputs, (N, ...).
        labels: Their right labels, int64, (N,).
        test_inputs: Test inputs, (T, ...); T and N at least 1.
        test_labels: Their right labels, int64, (T,).
        alphas: Noisy labels for each right one, whole numbers of at least 0, at least one.
        noise: P(noisy label | true class), (classes, classes); left out, uniform up to the largest label.
        generator: Source of the noise, on the CPU.

    Returns:
        Accuracy, lead of the right label and number of examples, for each alpha.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> from paperweight.loops import fit_classifier
        >>> def train(inputs, labels):
        ...     model = nn.Linear(2, 2)
        ...     sgd = torch.optim.SGD(model.parameters(), lr=0.5)
        ...     fit_classifier(model, sgd, inputs, labels, steps=200, batch_size=64,
        ...         generator=torch.Generator().manual_seed(0))
        ...     return model
        >>> _ = torch.manual_seed(0)
        >>> x, y = torch.eye(2).repeat(100, 1), torch.arange(2).repeat(100)
        >>> label_noise_curve(train, x, y, x, y, alphas=(0, 5), generator=torch.Generator().manual_seed(0)).accuracies
        (1.0, 1.0)
    """
    if not len(alphas):
        raise ValueError("alphas must hold at least one number, got none")
    for alpha in alphas:
        _check_whole("alphas", alpha, least=0)
    if noise is None:
        _check_labels(labels, None)
        noise = biased_noise(max(2, 1 + int(labels.max())))
    _check_noise(noise)
    for name, given, of in (("labels", inputs, labels), ("test_labels", test_inputs, test_labels)):
        _check_labels(of, len(noise), name)
        if len(given) != len(of):
            raise ValueError(f"{name} must be one for each of {len(given)} inputs, got {len(of)}")
    accuracies, examples = list[float](), list[int]()
    for alpha in alphas:
        index, diluted = dilute(labels, alpha, noise, generator=generator)
        accuracies.append(_accuracy(train(inputs[index], diluted), test_inputs, test_labels))
        examples.append(len(index))
    leads = tuple(plurality(label_law(alpha, noise)) for alpha in alphas)
    return NoiseCurve(tuple(alphas), tuple(accuracies), leads, tuple(examples))


@torch.no_grad()
def _accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    with evaluating(model):
        parts = zip(inputs.split(_BATCH), labels.split(_BATCH), strict=True)
        return sum(int((model(part).argmax(dim=1) == given).sum()) for part, given in parts) / len(labels)


def _check_whole(name: str, value: int, least: int = 1) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def _check_noise(noise: Tensor, name: str = "noise") -> None:
    if noise.ndim != 2 or noise.shape[0] != noise.shape[1] or len(noise) < 2 or not noise.is_floating_point():
        raise ValueError(
            f"{name} must be floating, (classes, classes), of at least 2, got {noise.dtype} of {tuple(noise.shape)}"
        )
    if not bool((noise >= 0).all()) or not bool(((noise.sum(dim=1) - 1).abs() < 1e-5).all()):
        raise ValueError(f"{name} must have rows of probabilities that sum to 1, got sums {noise.sum(dim=1).tolist()}")


def _check_labels(labels: Tensor, classes: int | None, name: str = "labels") -> None:
    if labels.ndim != 1 or labels.dtype != torch.int64 or not len(labels):
        raise ValueError(f"{name} must be int64, (N,) with N at least 1, got {labels.dtype} of {tuple(labels.shape)}")
    if int(labels.min()) < 0 or (classes is not None and int(labels.max()) >= classes):
        raise ValueError(f"{name} must be in [0, {classes}), got {int(labels.min())} to {int(labels.max())}")
