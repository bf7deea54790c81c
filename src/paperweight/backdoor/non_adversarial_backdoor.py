"""Non-adversarial backdoor (NAB): train on poisoned data with a second backdoor that undoes the first.

A few training images are suspected of poison. Where a suspect's label is not the one that it is believed to have, it
gets the believed label and the defender's stamp. The network so learns that the stamp outdoes an attacker's trigger,
and every image is stamped when the network is used. It suffices to catch a part of the poisoned images.
Cost: none in training or use; before it a short training that isolates suspects, and what gives believed labels.

Source:
    M. Liu, A. Sangiovanni-Vincentelli, X. Yue, "Beating Backdoor Attack at Its Own Game", ICCV 2023,
    https://arxiv.org/abs/2307.15539, and the authors' code. Implemented: the framework, isolation by local gradient
    ascent, believed labels by the nearest class centre, and the filter at test time. Local gradient ascent is from
    Y. Li et al., "Anti-Backdoor Learning", 2021, https://arxiv.org/abs/2110.11571, in the form of the authors' code.

Deviations:
    - The stamp has a value that the caller gives, black by default; the authors stamp images after normalisation with
      0, the mean grey. On images whose corner is black a black stamp is none.
    - The other believed labels of the paper, those of a classifier that is trained on a few verified images, are the
      caller's to make; the authors stamp the images for it too.
    - The features whose centres give believed labels are the caller's, in the paper those of self-supervised training;
      that suspects take no part in the centres, where there are others of the class, is this project's.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = [
    "NonAdversarialBackdoor",
    "StampedModel",
    "flooded_loss",
    "lowest_losses",
    "nearest_centres",
    "stamp",
]

PAPER = Paper(
    title="Beating Backdoor Attack at Its Own Game",
    authors=("Min Liu", "Alberto Sangiovanni-Vincentelli", "Xiangyu Yue"),
    year=2023,
    url="https://arxiv.org/abs/2307.15539",
    provides={
        "NonAdversarialBackdoor": "data-transform",
        "StampedModel": "defense",
        "flooded_loss": "loss",
        "lowest_losses": "function",
        "nearest_centres": "function",
        "stamp": "function",
    },
    null={"size": 0, "gamma": 0.0},
    claim="A stamp on a few relabelled suspects makes a network trained on poisoned data give stamped images of the "
    "attacker their true class, at hardly any cost in accuracy on clean images.",
)


def stamp(images: Tensor, size: int = 2, value: float = 0.0) -> Tensor:
    """Put a square of one value into the upper left corner of images.

    Args:
        images: Images, floating, (N, C, H, W); they are left as they are.
        size: Side of the square in pixels, at least 0 and at most that of the images; 2 in the paper.
        value: Value of its pixels, finite.

    Returns:
        Stamped copies, (N, C, H, W).

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> stamp(torch.ones(1, 1, 2, 3), size=1)
        tensor([[[[0., 1., 1.],
                  [1., 1., 1.]]]])
    """
    _check_stamp(size, value)
    given = f"{images.dtype} of shape {tuple(images.shape)}"
    _require(images.ndim == 4 and images.is_floating_point(), "images", "floating, of shape (N, C, H, W)", given)
    _require(size <= min(images.shape[2:]), "size", f"at most {min(images.shape[2:])}, the side of the images", size)
    result = images.clone()
    result[:, :, :size, :size] = value
    return result


def flooded_loss(logits: Tensor, labels: Tensor, gamma: float = 0.5) -> Tensor:
    """Compute |CE - gamma| + gamma of the mean cross-entropy: below gamma it rises again (local gradient ascent).

    A training with it in eval holds all losses near gamma but those of images that are learned by a shortcut.

    Args:
        logits: Shape (N, classes).
        labels: Class numbers, int64, (N,).
        gamma: The level, at least 0 and finite; at 0 it is the cross-entropy, 0.5 in the paper.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: If ``gamma`` is outside its range.

    Example:
        >>> flooded_loss(torch.tensor([[9.0, 0.0]]), torch.tensor([0]))
        tensor(0.9999)
    """
    _require(0 <= gamma < float("inf"), "gamma", "finite and at least 0", gamma)
    loss = F.cross_entropy(logits, labels)
    return (loss - gamma).abs() + gamma if gamma else loss


def lowest_losses(model: nn.Module, images: Tensor, labels: Tensor, share: float = 0.05) -> Tensor:
    """Suspect the images whose labels a model finds easiest, in eval mode.

    Args:
        model: Maps images to logits; in the paper trained for 20 epochs with `flooded_loss`.
        images: The training images, (N, ...).
        labels: Their labels, int64, (N,).
        share: Share of the images to suspect, at least 0 and at most 1, rounded down; 0.05 in the paper.

    Returns:
        Which are suspects, bool, (N,).

    Raises:
        ValueError: If ``share`` is outside its range, or there is not one label an image.

    Example:
        >>> lowest_losses(nn.Identity(), torch.tensor([[0.0, 9.0], [1.0, 0.0]]), torch.tensor([1, 0]), share=0.5)
        tensor([ True, False])
    """
    _require(0 <= share <= 1, "share", "at least 0 and at most 1", share)
    _require(labels.shape == images.shape[:1], "labels", f"one of each of {len(images)} images", tuple(labels.shape))
    suspects = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    if not len(images):
        return suspects
    with evaluating(model), torch.no_grad():
        parts = zip(images.split(512), labels.split(512), strict=True)
        losses = torch.cat([F.cross_entropy(model(part), of, reduction="none") for part, of in parts])
    suspects[losses.argsort(stable=True)[: int(share * len(images))]] = True
    return suspects


def nearest_centres(features: Tensor, labels: Tensor, suspects: Tensor) -> Tensor:
    """Believe of each image the class whose centre, the mean of its features, is nearest.

    Args:
        features: Features that were learned without labels, floating, (N, dim).
        labels: The given labels, int64, (N,).
        suspects: Which images take no part in the centres, bool, (N,), unless all of their class are suspects.

    Returns:
        The labels believed, int64, (N,): of the classes that occur the nearest, of equally near ones the first.

    Raises:
        ValueError: If shapes do not fit, or there are no images.

    Example:
        >>> nearest_centres(torch.tensor([[0.0], [1.0], [0.1]]), torch.tensor([0, 1, 1]), torch.tensor([False] * 3))
        tensor([0, 1, 0])
    """
    _require(features.ndim == 2 and len(features) > 0, "features", "of shape (N, dim), N above 0", features.shape)
    for name, given in (("labels", labels), ("suspects", suspects)):
        _require(given.shape == features.shape[:1], name, f"of shape ({len(features)},)", tuple(given.shape))
    classes = labels.unique()
    of_class = labels == classes[:, None]
    counted = torch.where((of_class & ~suspects).any(dim=1, keepdim=True), of_class & ~suspects, of_class)
    centres = counted.to(features) @ features / counted.sum(dim=1, keepdim=True)
    return classes[torch.cdist(features, centres).argmin(dim=1)]


@final
class NonAdversarialBackdoor:
    """Gives suspects their believed labels, and the stamp to those whose label this changes.

    It is called with all training images and labels, or with those of a batch, after augmentation, and their places.
    Train as usual on what it gives, and use the network in a `StampedModel`.

    Args:
        suspects: Which training images are suspects, bool, (N,); that few are suspected wrongly matters more than that
            all poisoned ones are caught.
        believed: The label that each training image is believed to have, int64, (N,); only those of suspects count.
        size: Side of the stamp in pixels, at least 0; 2 in the paper.
        value: Value of its pixels.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> suspects, believed = torch.tensor([True, True, False]), torch.tensor([0, 1, 1])
        >>> defend = NonAdversarialBackdoor(suspects, believed, size=1)
        >>> images, labels = defend(torch.ones(3, 1, 1, 2), torch.tensor([0, 0, 0]))
        >>> images.flatten(1), labels
        (tensor([[1., 1.],
                [0., 1.],
                [1., 1.]]), tensor([0, 1, 0]))
    """

    def __init__(self, suspects: Tensor, believed: Tensor, size: int = 2, value: float = 0.0) -> None:
        _check_stamp(size, value)
        given = f"{suspects.dtype} of shape {tuple(suspects.shape)}"
        _require(suspects.ndim == 1 and suspects.dtype == torch.bool, "suspects", "bool, of shape (N,)", given)
        fits = believed.shape == suspects.shape and not believed.is_floating_point()
        _require(fits, "believed", f"class numbers, of shape ({len(suspects)},)", f"{tuple(believed.shape)}")
        self.suspects, self.believed, self.size, self.value = suspects, believed, size, value

    def __call__(self, inputs: Tensor, labels: Tensor, index: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Give images and labels to train on.

        Args:
            inputs: Images, floating, (n, C, H, W).
            labels: The given labels, int64, (n,).
            index: Their places among the training images, int64, (n,); None where these are all, in order.

        Returns:
            Images and labels of the same shapes.

        Raises:
            ValueError: If there is not one label and one place an image.
        """
        suspects, believed = (given if index is None else given[index] for given in (self.suspects, self.believed))
        if not len(inputs) == len(labels) == len(suspects):
            raise ValueError(
                f"inputs must be as many as labels and as {'suspects' if index is None else 'index'}, "
                f"got {len(inputs)}, {len(labels)} and {len(suspects)}"
            )
        changed = suspects & (believed != labels)
        stamped = stamp(inputs, self.size, self.value)
        images = torch.where(changed[:, None, None, None], stamped, inputs)
        return images, torch.where(changed, believed.to(labels), labels)


@final
class StampedModel(nn.Module):
    """Stamps every image before a model sees it.

    Args:
        model: Maps images to logits; trained on what `NonAdversarialBackdoor` gave.
        size: Side of the stamp in pixels, at least 0; at 0 it is the model alone.
        value: Value of its pixels.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> StampedModel(nn.Flatten(), size=1)(torch.ones(1, 1, 1, 2))
        tensor([[0., 1.]])
    """

    def __init__(self, model: nn.Module, size: int = 2, value: float = 0.0) -> None:
        super().__init__()
        _check_stamp(size, value)
        self.model, self.size, self.value = model, size, value

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of stamped images, (N, classes), of images (N, C, H, W)."""
        return self.model(stamp(images, self.size, self.value))

    @torch.no_grad()
    def rejected(self, images: Tensor) -> Tensor:
        """Tell which images, of (N, C, H, W), the stamp makes another class of, and so may hold a trigger: bool, (N,).

        The model is asked in the mode that it is in.
        """
        return self(images).argmax(dim=1) != self.model(images).argmax(dim=1)


def _check_stamp(size: int, value: float) -> None:
    whole = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    _require(whole, "size", "a whole number of at least 0", size)
    _require(abs(value) < float("inf"), "value", "finite", value)


def _require(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} must be {rule}, got {value}")
