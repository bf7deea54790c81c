"""RAID, randomized adversarial-input detection: tells attacked inputs by what they make neurons do.

An input that an attack has led to a class does not use neurons quite as inputs of this class do. A small second network
learns to tell benign from attacked inputs by how the activations differ from what is usual for the class that the first
one sees. Where an attacker may know the detector, there are several, each with a random share of the neurons, of which
chance takes one for each input. The protected network stays as it is.
Cost: attacked inputs to learn from; then a small network's forward pass for each input.

`DetectorPool` is trained on differences by any loop with `detection_loss`, and its scores are those of all detectors.

Source:
    H. F. Eniser, M. Christakis, V. Wüstholz, "RAID: Randomized Adversarial-Input Detection for Neural Networks", 2020,
    https://arxiv.org/abs/2002.02776: a secondary classifier on differences of neuron activation values between benign
    and adversarial inputs, and its randomized extension, as the abstract describes them.

Deviations:
    - Only the abstract and the beginning of the introduction could be read, and no code of the authors was found. What
      a difference is taken to, the mean activation of benign inputs of the class that the network sees, is ours, and so
      are the detector, a perceptron of one hidden layer, and the pool, of random shares of neurons.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = [
    "DetectorPool",
    "activation_differences",
    "activation_values",
    "chosen_scores",
    "class_means",
    "detection_loss",
]

PAPER = Paper(
    title="RAID: Randomized Adversarial-Input Detection for Neural Networks",
    authors=("Hasan Ferit Eniser", "Maria Christakis", "Valentin Wüstholz"),
    year=2020,
    url="https://arxiv.org/abs/2002.02776",
    provides={
        "DetectorPool": "layer",
        "detection_loss": "loss",
        "activation_values": "function",
        "activation_differences": "function",
        "class_means": "function",
        "chosen_scores": "function",
    },
    null={"detectors": 1, "share": 1.0},
    claim="A classifier of neuron activations detects attacks of kinds that it has not learned from.",
)


def activation_values(model: nn.Module, inputs: Tensor, layers: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Give what a network makes of inputs, and what its neurons do, by one forward pass.

    Args:
        model: The network, used in the mode it is in.
        inputs: Inputs, (N, ...), N at least 1.
        layers: Names of the layers whose outputs are the activations, each called once in a pass; None for all
            `torch.nn.ReLU`.

    Returns:
        Outputs, (N, classes), and activations, (N, D), of the layers in the order in which they are called.

    Raises:
        ValueError: If there is no such layer, or one is not called once.

    Example:
        >>> model = nn.Sequential(nn.ReLU(), nn.Linear(2, 3))
        >>> activation_values(model, torch.tensor([[1.0, -1.0]]))[1]
        tensor([[1., 0.]])
    """
    parts = dict(model.named_modules())
    names = [name for name, part in parts.items() if isinstance(part, nn.ReLU)] if layers is None else list(layers)
    if not names or any(name not in parts for name in names) or len(set(names)) < len(names):
        raise ValueError(f"layers must name parts of the model, each once, or this have a torch.nn.ReLU, got {layers}")
    seen = list[tuple[str, Tensor]]()

    def note(name: str, _: nn.Module, __: object, out: Tensor) -> None:
        seen.append((name, out.flatten(1).clone()))  # what follows may change it in place

    hooks = [parts[name].register_forward_hook(partial(note, name)) for name in names]
    try:
        outputs = model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    called = [name for name, _ in seen]
    if sorted(called) != sorted(names):
        raise ValueError(f"layers must be called once each in a pass, {', '.join(names)}; got {', '.join(called)}")
    return outputs, torch.cat([values for _, values in seen], dim=1)


def class_means(activations: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Give the mean activations of the inputs of each class.

    Args:
        activations: Activations of benign inputs, (N, D).
        labels: Class numbers, int64, (N,), such as those that the network sees; each class once at least.
        classes: Number of classes, at least 1.

    Returns:
        Means, (classes, D).

    Raises:
        ValueError: If the arguments do not fit, or a class has no input.

    Example:
        >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), 2)
        tensor([[2.],
                [5.]])
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
        raise ValueError(f"classes must be a whole number of at least 1, got {classes}")
    _check_rows(activations, "labels", labels, classes)
    counts = torch.bincount(labels, minlength=classes)
    if not bool((counts > 0).all()):
        missing = (counts == 0).nonzero()[0].item()
        raise ValueError(f"labels must hold each of {classes} classes, got none of class {missing}; give more inputs")
    sums = torch.zeros(classes, activations.shape[1], dtype=torch.float64, device=activations.device)
    return (sums.index_add(0, labels, activations.double()) / counts[:, None]).to(activations.dtype)


def activation_differences(activations: Tensor, predicted: Tensor, means: Tensor) -> Tensor:
    """Give by how much activations differ from the mean of the class that the network sees.

    Args:
        activations: Activations, (N, D).
        predicted: The classes that the network sees, int64, (N,).
        means: Mean activations of each class, (classes, D), see `class_means`.

    Returns:
        Differences, (N, D).

    Raises:
        ValueError: If the arguments do not fit each other.

    Example:
        >>> means = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
        >>> activation_differences(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), means)
        tensor([[0., 1.]])
    """
    if means.ndim != 2 or means.shape[1:] != activations.shape[1:]:
        found = f"{tuple(means.shape)} for activations {tuple(activations.shape)}"
        raise ValueError(f"means must be (classes, D) for activations (N, D), got {found}")
    _check_rows(activations, "predicted", predicted, len(means))
    return activations - means[predicted]


def chosen_scores(scores: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Give of each input the score of one detector, which chance chooses.

    Args:
        scores: Scores of all detectors, (N, detectors), at least one.
        generator: Source of randomness; the global random state by default.

    Returns:
        Scores, (N,).

    Raises:
        ValueError: If scores are not (N, detectors).

    Example:
        >>> chosen_scores(torch.tensor([[0.5], [2.0]]))
        tensor([0.5000, 2.0000])
    """
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(f"scores must be (N, detectors), of at least one, got {tuple(scores.shape)}")
    device = scores.device if generator is None else generator.device
    places = torch.randint(scores.shape[1], (len(scores), 1), generator=generator, device=device)
    return scores.gather(1, places.to(scores.device))[:, 0]


def detection_loss(scores: Tensor, attacked: Tensor) -> Tensor:
    """Give the mean binary cross-entropy of all detectors.

    Args:
        scores: Logits of being attacked, (N, detectors).
        attacked: Whether each input is, bool, (N,).

    Returns:
        A scalar.

    Raises:
        ValueError: If the two do not fit.

    Example:
        >>> detection_loss(torch.zeros(2, 3), torch.tensor([True, False]))
        tensor(0.6931)
    """
    if scores.ndim != 2:
        raise ValueError(f"scores must be (N, detectors), got {tuple(scores.shape)}")
    if attacked.shape != scores.shape[:1] or attacked.dtype != torch.bool:
        found = f"{attacked.dtype} of shape {tuple(attacked.shape)} for scores {tuple(scores.shape)}"
        raise ValueError(f"attacked must be bool, (N,), for scores (N, detectors), got {found}")
    return F.binary_cross_entropy_with_logits(scores, attacked[:, None].to(scores).expand_as(scores))


@final
class DetectorPool(nn.Module):
    """Several small detectors, each of which looks at a random share of the features.

    Each is a perceptron of one hidden layer with ReLU. One detector of all features is a plain perceptron.

    Args:
        features: Number of features, at least 1.
        detectors: Number of detectors, at least 1.
        share: Share of the features that each looks at, above 0, at most 1; one feature at least.
        hidden: Hidden units of each, at least 1.
        generator: Decides which features; the global random state by default, which decides initial weights, too.

    Raises:
        ValueError: If an argument is outside its range.

    Attributes:
        places: Numbers of the features that each looks at, ascending, int64, (detectors, looked at).

    Example:
        >>> pool = DetectorPool(6, detectors=4, share=0.5)
        >>> pool.places.shape, pool(torch.zeros(5, 6)).shape
        (torch.Size([4, 3]), torch.Size([5, 4]))
    """

    places: Tensor

    def __init__(
        self,
        features: int,
        detectors: int = 10,
        share: float = 0.5,
        hidden: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("features", features), ("detectors", detectors), ("hidden", hidden)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value}")
        if isinstance(share, bool) or not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        self.features, self.detectors, self.share, self.hidden = features, detectors, share, hidden
        self.generator = generator
        looked_at = max(1, math.floor(share * features + 0.5))
        device = None if generator is None else generator.device
        orders = [torch.randperm(features, generator=generator, device=device) for _ in range(detectors)]
        self.register_buffer("places", torch.stack([order[:looked_at].sort().values.cpu() for order in orders]))
        self.members = nn.ModuleList(
            nn.Sequential(nn.Linear(looked_at, hidden), nn.ReLU(), nn.Linear(hidden, 1)) for _ in range(detectors)
        )

    def forward(self, differences: Tensor) -> Tensor:
        """Compute the scores.

        Args:
            differences: Features, (N, features).

        Returns:
            Logits of being attacked, (N, detectors).
        """
        if differences.ndim != 2 or differences.shape[1] != self.features:
            raise ValueError(f"differences must be (N, {self.features}), got {tuple(differences.shape)}")
        return torch.cat(
            [member(differences[:, places]) for member, places in zip(self.members, self.places, strict=True)], dim=1
        )


def _check_rows(activations: Tensor, name: str, labels: Tensor, classes: int) -> None:
    if activations.ndim != 2:
        raise ValueError(f"activations must be (N, D), got {tuple(activations.shape)}")
    if labels.shape != activations.shape[:1] or labels.dtype != torch.int64:
        found = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"{name} must be int64, one for each row of activations, got {found}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"{name} must be within 0 and {classes - 1}, got others")
