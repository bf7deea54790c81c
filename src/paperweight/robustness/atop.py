"""AToP: adversarial training of a purifier, which restores what a random transform has destroyed, before a classifier.

A transform hides pixels and adds noise, a network restores the image, and a classifier that never changes sees what it
restored. The network is trained to restore, and then fine-tuned so that the classifier is right on images that an
attack on the whole of it has changed.
Cost: a pass of the purifier for each image, and as many as there are groups where all pixels are hidden in turn; the
fine-tuning costs what adversarial training of both networks would.

`PurifiedClassifier` goes into any loop of adversarial training with `atop_loss`, such as
`paperweight.loops.fit_robust`, with an optimizer of the purifier's parameters.

Source:
    G. Lin, C. Li, J. Zhang, T. Tanaka, Q. Zhao, "Adversarial Training on Purification (AToP): Advancing Both Robustness
    and Generalization", ICLR, 2024, https://arxiv.org/abs/2401.16352, and notebooks of the authors. Implemented: the
    three random transforms and the loss of the fine-tuning.

Deviations:
    - The purifier is trained by its mean absolute error alone. The paper's is a network for inpainting, of two stages,
      that is also trained against a critic.
    - Each image is hidden by patches of its own; in the authors' notebooks a batch shares them.
    - The attack of the fine-tuning is the caller's. The paper attacks the whole; the authors' notebooks for CIFAR-10
      fine-tune on images that were attacked for the classifier alone, restore these attacked images themselves, and
      have a weight of 0.05. The weight of 0.1 is the paper's.
    - Transforms hide a share of 1 / groups, a quarter by default, as in the notebooks; that the third one adds noise,
      too, is the paper's.
"""

import math
from collections.abc import Iterator
from typing import Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating

__all__ = ["PurifiedClassifier", "Transform", "atop_loss", "hidden_groups"]

PAPER = Paper(
    title="Adversarial Training on Purification (AToP): Advancing Both Robustness and Generalization",
    authors=("Guang Lin", "Chao Li", "Jianhai Zhang", "Toshihisa Tanaka", "Qibin Zhao"),
    year=2024,
    url="https://arxiv.org/abs/2401.16352",
    provides={"PurifiedClassifier": "defense", "atop_loss": "loss", "hidden_groups": "function"},
    null={"lam": 0.0},
    claim="A purifier that is fine-tuned on attacks withstands known and unseen ones better than adversarial training "
    "of a classifier or purification alone, at high accuracy.",
)

Transform = Literal["mask", "noise_mask", "multi_mask", "none"]
"""RT1 hides one group of patches, RT2 adds noise before, RT3 hides all groups in turn; or none."""


def hidden_groups(
    count: int, height: int, width: int, *, patch: int = 1, groups: int = 4, generator: torch.Generator
) -> Tensor:
    """Divide the patches of each image at random into groups of equal size, up to one patch.

    Args:
        count: Number of images, at least 0.
        height: Height of an image, at least 1.
        width: Width of an image, at least 1.
        patch: Side of a patch, at least 1; those at the lower and right edge may be smaller.
        groups: Number of groups, at least 2.
        generator: Draws the order of the patches of each image.

    Returns:
        Which pixels a group holds, bool, (groups, count, 1, height, width): each pixel is in one group.

    Raises:
        ValueError: If a number is outside its range, or there are more groups than patches.

    Example:
        >>> hidden_groups(1, 2, 4, groups=2, generator=torch.Generator().manual_seed(0)).sum(dim=(2, 3, 4)).tolist()
        [[4], [4]]
    """
    least = {
        "count": (count, 0),
        "height": (height, 1),
        "width": (width, 1),
        "patch": (patch, 1),
        "groups": (groups, 2),
    }
    for name, (value, smallest) in least.items():
        _check_whole(name, value, smallest)
    rows, columns = math.ceil(height / patch), math.ceil(width / patch)
    patches = rows * columns
    if groups > patches:
        raise ValueError(f"groups must be at most the number of patches, {patches}, got {groups}")
    drawn = torch.rand(count, patches, generator=generator, device=generator.device)
    group = (drawn.argsort(dim=1).argsort(dim=1) * groups // patches).view(count, 1, rows, columns)
    pixels = group.repeat_interleave(patch, dim=2).repeat_interleave(patch, dim=3)[..., :height, :width]
    return torch.stack([pixels == number for number in range(groups)])


@final
class PurifiedClassifier(nn.Module):
    """A classifier of images that were transformed at random and restored by a purifier.

    Every call draws patches and noise, so that an attack should average over several; its gradient goes through all.
    The classifier is called in eval mode, also while this is in train mode, and no optimizer should have its weights.

    Args:
        classifier: Maps images in [0, 1] to logits (N, classes).
        purifier: Maps images in [-1, 1], with 0 for what is hidden, and beside them a channel that is 1 there, all
            (N, C + 1, H, W), to images in [-1, 1], (N, C, H, W).
        transform: ``"mask"`` hides one group of patches and gives what the purifier makes of the rest,
            ``"noise_mask"`` adds noise before, ``"multi_mask"`` adds noise, hides each group in turn, and puts together
            what the purifier gave for the hidden ones, so that no pixel is left as it was; ``"none"`` does nothing.
        sigma: Standard deviation of the noise, at least 0, after which images are held to [0, 1]; 0.25 by the authors.
        patch: Side of a patch, at least 1; an eighth of the image's by the authors.
        groups: Number of groups, at least 2; 4 by the authors.
        generator: Draws patches and noise.

    Raises:
        ValueError: If an argument is outside its range, or images are not of shape (N, C, H, W).

    Example:
        >>> darkest = lambda images: images[:, :-1]  # leaves hidden pixels grey
        >>> model = PurifiedClassifier(nn.Flatten(), darkest, "mask", generator=torch.Generator().manual_seed(0))
        >>> model(torch.ones(1, 1, 2, 2)).sort().values
        tensor([[0.5000, 1.0000, 1.0000, 1.0000]])
    """

    def __init__(
        self,
        classifier: nn.Module,
        purifier: nn.Module,
        transform: Transform = "noise_mask",
        sigma: float = 0.25,
        patch: int = 1,
        groups: int = 4,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if transform not in get_args(Transform):
            raise ValueError(f"transform must be one of {', '.join(get_args(Transform))}; got {transform!r}")
        if isinstance(sigma, bool) or not 0 <= sigma < math.inf:
            raise ValueError(f"sigma must be at least 0 and finite, got {sigma}")
        _check_whole("patch", patch, 1)
        _check_whole("groups", groups, 2)
        self.classifier, self.purifier, self.sigma, self.patch, self.groups = classifier, purifier, sigma, patch, groups
        self.transform: Transform = transform
        self.generator = generator

    def purify(self, images: Tensor) -> Tensor:
        """Transform images in [0, 1], (N, C, H, W), and restore them; what is given may leave the range."""
        if images.ndim != 4 or not images.is_floating_point():
            found = f"{images.dtype} of shape {tuple(images.shape)}"
            raise ValueError(f"images must be floating numbers in [0, 1], (N, C, H, W), got {found}")
        given = images
        if self.transform in ("noise_mask", "multi_mask") and self.sigma:
            given = (images + self.sigma * self._normal(images)).clamp(0, 1)
        given = 2 * given - 1
        hidden = list(self._hidden(images))
        copies = torch.cat([torch.cat([given.masked_fill(mask, 0), mask.to(given)], dim=1) for mask in hidden])
        restored = self.purifier(copies).unflatten(0, (len(hidden), len(images)))
        if self.transform == "multi_mask":
            restored = torch.where(torch.stack(hidden), restored, 0).sum(dim=0)
        else:
            restored = restored[0]
        return (restored + 1) / 2

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits of restored images, (N, classes), with a gradient through all of it."""
        restored = self.purify(images)
        with evaluating(self.classifier):
            return self.classifier(restored)

    def _hidden(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the pixels to hide, (N, 1, H, W), once for each pass of the purifier."""
        count, _, height, width = images.shape
        if self.transform == "none":
            yield torch.zeros(count, 1, height, width, dtype=torch.bool, device=images.device)
            return
        parts = hidden_groups(count, height, width, patch=self.patch, groups=self.groups, generator=self.generator).to(
            images.device
        )
        yield from parts if self.transform == "multi_mask" else parts[:1]

    def _normal(self, images: Tensor) -> Tensor:
        source = self.generator
        return torch.randn(images.shape, generator=source, device=source.device, dtype=images.dtype).to(images.device)


def atop_loss(model: nn.Module, images: Tensor, attacked: Tensor, labels: Tensor, *, lam: float = 0.1) -> Tensor:
    """Compute the mean absolute error of restored images, plus lam times the cross-entropy on attacked ones.

    Images and attacked images are transformed and restored one after the other. The error is that of [-1, 1], twice
    that of [0, 1].

    Args:
        model: The purifier before its classifier, a `PurifiedClassifier`.
        images: Images in [0, 1], (N, C, H, W).
        attacked: What an attack on the model has made of them, of the same shape.
        labels: Class numbers (N,), or shares of classes (N, classes).
        lam: Weight of the cross-entropy, at least 0; 0.1 in the paper. At 0 attacked images do not count.

    Returns:
        A scalar.

    Raises:
        ValueError: If lam is outside its range, the model is another, or attacked images have another shape.

    Example:
        >>> same = lambda images: images[:, :-1]
        >>> model = PurifiedClassifier(nn.Flatten(), same, "none", generator=torch.Generator())
        >>> atop_loss(model, torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), torch.tensor([0]), lam=2.0)
        tensor(1.3863)
    """
    if isinstance(lam, bool) or not 0 <= lam < math.inf:
        raise ValueError(f"lam must be at least 0 and finite, got {lam}")
    if not isinstance(model, PurifiedClassifier):
        raise ValueError(f"model must be a PurifiedClassifier, got {type(model).__name__}; put the classifier into one")
    if attacked.shape != images.shape:
        raise ValueError(f"attacked must have the shape of images, {tuple(images.shape)}, got {tuple(attacked.shape)}")
    error = 2 * F.l1_loss(model.purify(images), images)
    return error if lam == 0 else error + lam * F.cross_entropy(model(attacked), labels)


def _check_whole(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
