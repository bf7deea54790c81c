"""Learning from captions by contrast, classifying without training on labels, and cross-entropy of several labels.

Source:
    B. Feuer, A. Joshi, M. Pham, C. Hegde, "Distributionally Robust Classification on a Data Budget", 2023,
    https://arxiv.org/abs/2308.03821, and its code, https://github.com/penfever/vlhub. The contrastive loss and the
    zero-shot classifier are those of A. Radford et al., "Learning Transferable Visual Models From Natural Language
    Supervision", 2021, https://arxiv.org/abs/2103.00020, with the initial scale 1 / 0.07 and its bound 100.

Deviations:
    - With several labels an image counts by the mean over them, so that its weight depends neither on their number nor
      on the size of the batch; the authors' code sums over both.
    - Features that are not finite give a loss that is not finite; their code puts 1e-10 in their place.
    - The scale is bounded where it is used, with a gradient beyond the bound, and not clipped after each step.
"""

import math
from typing import Literal, NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ContrastiveClassifier", "Embedded", "ZeroShotHead", "clip_loss", "multi_tag_ce"]

_SCALE = 1 / 0.07
_MOST = 100.0


class Embedded(NamedTuple):
    """Images and captions in one space, rows of length 1, (N, d) each, and the scale of their cosines, a scalar."""

    images: Tensor
    texts: Tensor
    scale: Tensor


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor | float,
    weights: tuple[float, float] = (0.5, 0.5),
) -> Tensor:
    """Compute the cross-entropy by which images find their captions among all of the batch, and captions their images.

    Args:
        image_features: Floating, (N, d), N at least 1; they are made to have length 1.
        text_features: Of the captions, in the same order and of the same shape and type.
        scale: What cosines are multiplied by, above 0; learned by `ContrastiveClassifier`.
        weights: Of images that find captions, and of captions that find images, each at least 0; the paper's are 0.5.

    Returns:
        A scalar in nats; 0 for a batch of one. Images with equal captions in one batch count as wrong for each other.

    Raises:
        ValueError: If a shape, a weight or the scale is not as above.

    Example:
        >>> round(clip_loss(torch.eye(2), torch.eye(2), scale=1.0).item(), 4)
        0.3133
    """
    if image_features.ndim != 2 or not image_features.numel() or not image_features.is_floating_point():
        raise ValueError(
            f"image_features must be floating, of shape (N, d) without a 0, got {image_features.dtype} "
            f"{tuple(image_features.shape)}"
        )
    if text_features.shape != image_features.shape or text_features.dtype != image_features.dtype:
        raise ValueError(
            f"text_features must be like image_features, {image_features.dtype} {tuple(image_features.shape)}, got "
            f"{text_features.dtype} {tuple(text_features.shape)}"
        )
    if isinstance(scale, Tensor):
        if scale.numel() != 1:
            raise ValueError(f"scale must be one number, got shape {tuple(scale.shape)}")
    elif not 0 < scale < math.inf:
        raise ValueError(f"scale must be above 0 and finite, got {scale}")
    if len(weights) != 2 or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(f"weights must be two numbers of at least 0, got {weights}")
    precise = torch.promote_types(image_features.dtype, torch.float32)
    images, texts = (F.normalize(features.to(precise)) for features in (image_features, text_features))
    logits = scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    loss = weights[0] * F.cross_entropy(logits, own) + weights[1] * F.cross_entropy(logits.T, own)
    return loss.to(image_features.dtype)


def multi_tag_ce(logits: Tensor, tags: Tensor, reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
    """Compute cross-entropy with several labels an image: the mean over its labels.

    With one label each it is the ordinary cross-entropy, and with several that with all of them equally likely.

    Args:
        logits: Floating, (N, classes), N at least 1.
        tags: Class numbers, int64, (N, most), each row at least one; -1 stands for none.
        reduction: ``"mean"`` or ``"sum"`` over images, or ``"none"``.

    Returns:
        A scalar in nats, or (N,).

    Raises:
        ValueError: If a shape or a type is not as above, or a row has no label or one that is no class.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> multi_tag_ce(logits, torch.tensor([[0, 1], [1, -1]]), reduction="none")
        tensor([1.2395, 0.5514])
    """
    if logits.ndim != 2 or not logits.numel() or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating, of shape (N, classes) without a 0, got {logits.dtype} {tuple(logits.shape)}"
        )
    if tags.dtype != torch.int64 or tags.ndim != 2 or len(tags) != len(logits):
        raise ValueError(f"tags must be int64 of shape ({len(logits)}, most), got {tags.dtype} {tuple(tags.shape)}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    there = tags != -1
    if not there.any(dim=1).all():
        missing = int((~there.any(dim=1)).sum())
        raise ValueError(
            f"tags must name a class for each image, got {missing} of {len(tags)} without; leave these out"
        )
    if ((tags < -1) | (tags >= logits.shape[1])).any():
        raise ValueError(f"tags must be from 0 to {logits.shape[1] - 1}, or -1 for none, got {tags.unique().tolist()}")
    log_shares = logits.log_softmax(dim=1).gather(1, tags.clamp(min=0)) * there
    terms = -log_shares.sum(dim=1) / there.sum(dim=1)
    if reduction == "none":
        return terms
    return terms.mean() if reduction == "mean" else terms.sum()


@final
class ContrastiveClassifier(nn.Module):
    """Two networks that map images and captions into one space, and a learned scale of cosines, for `clip_loss`.

    ``clip_loss(*model(images, captions))`` is the loss of a batch, `zero_shot` makes a classifier.

    Args:
        image_tower: Maps images (N, ...) to features (N, d).
        text_tower: Maps captions, in numbers, (N, ...), to features (N, d).

    Attributes:
        log_scale: The logarithm of the scale, at first that of 1 / 0.07; the scale is at most 100.

    Raises:
        ValueError: If a tower is no module, or, when it is called, they do not give features (N, d) of one size.

    Example:
        >>> model = ContrastiveClassifier(nn.Linear(4, 2), nn.Embedding(5, 2))
        >>> found = model(torch.rand(3, 4), torch.tensor([0, 1, 4]))
        >>> found.images.shape, round(found.scale.item(), 2)
        (torch.Size([3, 2]), 14.29)
    """

    def __init__(self, image_tower: nn.Module, text_tower: nn.Module) -> None:
        for name, tower in (("image_tower", image_tower), ("text_tower", text_tower)):
            if not isinstance(tower, nn.Module):
                raise ValueError(f"{name} must be a module, got {tower!r}")
        super().__init__()
        self.image_tower, self.text_tower = image_tower, text_tower
        self.log_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))

    def forward(self, images: Tensor, captions: Tensor) -> Embedded:
        """Embed images (N, ...) and their captions (N, ...), N each."""
        seen, said = self.image_tower(images), self.text_tower(captions)
        if seen.ndim != 2 or seen.shape != said.shape:
            raise ValueError(
                f"image_tower and text_tower must both give (N, d), got {tuple(seen.shape)} and {tuple(said.shape)}"
            )
        beyond = (self.log_scale - self.log_scale.clamp(max=math.log(_MOST))).detach()
        return Embedded(F.normalize(seen), F.normalize(said), (self.log_scale - beyond).exp())

    def zero_shot(self, class_prompts: Tensor, scale: float = 100.0) -> nn.Sequential:
        """Make a classifier of images out of captions of the classes; it goes stale when the text tower changes.

        Args:
            class_prompts: For each class as many captions as for the others, in numbers, (classes, prompts, ...).
            scale: What cosines are multiplied by, above 0.

        Returns:
            The image tower itself, then a `ZeroShotHead`: maps images to logits (N, classes).

        Raises:
            ValueError: If there is no class or no prompt, or the scale is outside its range.
        """
        if class_prompts.ndim < 2 or not class_prompts.numel():
            raise ValueError(
                f"class_prompts must be of shape (classes, prompts, ...) without a 0, got {tuple(class_prompts.shape)}"
            )
        training = {part: part.training for part in self.text_tower.modules()}
        self.text_tower.eval()
        try:
            with torch.no_grad():
                features = self.text_tower(class_prompts.flatten(0, 1)).unflatten(0, class_prompts.shape[:2])
        finally:
            for part, mode in training.items():
                part.training = mode
        return nn.Sequential(self.image_tower, ZeroShotHead(features, scale))


@final
class ZeroShotHead(nn.Module):
    """Classifies features of images by their cosines with the mean direction of the captions of each class.

    Args:
        class_features: Features of captions, floating and finite, (classes, prompts, d); their order does not matter.
        scale: What cosines are multiplied by, above 0.

    Raises:
        ValueError: If an argument is not as above.

    Example:
        >>> head = ZeroShotHead(torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]]))
        >>> head(torch.tensor([[3.0, 0.0]]))
        tensor([[100.,   0.]])
    """

    class_features: Tensor

    def __init__(self, class_features: Tensor, scale: float = 100.0) -> None:
        if class_features.ndim != 3 or not class_features.numel() or not class_features.is_floating_point():
            raise ValueError(
                f"class_features must be floating, of shape (classes, prompts, d) without a 0, got "
                f"{class_features.dtype} {tuple(class_features.shape)}"
            )
        if not class_features.isfinite().all():
            raise ValueError("class_features must be finite")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be above 0 and finite, got {scale}")
        super().__init__()
        self.scale = scale
        self.register_buffer("class_features", class_features.detach().clone())

    def forward(self, features: Tensor) -> Tensor:
        """Map features of images, (N, d), to logits, (N, classes)."""
        if features.ndim != 2 or features.shape[1] != self.class_features.shape[2]:
            raise ValueError(
                f"features must be of shape (N, {self.class_features.shape[2]}), got {tuple(features.shape)}"
            )
        directions = F.normalize(F.normalize(self.class_features, dim=2).mean(dim=1))
        return self.scale * F.normalize(features) @ directions.to(features.dtype).T
