"""What is left of a classifier's accuracy when each image may be moved a little, by projected gradient ascent."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import Evaluation, evaluate_classifier

__all__ = ["evaluate_nearby"]


def evaluate_nearby(model: nn.Module, images: Tensor, labels: Tensor, *, radius: float, steps: int) -> Evaluation:
    """Evaluate a classifier on images that are moved uphill in loss, at most a radius in Euclidean norm.

    Args:
        model: Maps images to logits; left as it was, but in eval mode.
        images: Images, (N, ...), without bounds on a pixel.
        labels: Their classes, (N,).
        radius: How far an image is moved at most.
        steps: Number of steps, each of two and a half radii over their number, from the image itself.
    """
    model.eval()
    size = 2.5 * radius / steps

    def length(moved: Tensor) -> Tensor:
        return moved.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *[1] * (moved.ndim - 1))

    def moved(part: Tensor, given: Tensor) -> Tensor:
        offset = torch.zeros_like(part)
        for _ in range(steps):
            offset.requires_grad_()
            slope = torch.autograd.grad(F.cross_entropy(model(part + offset), given, reduction="sum"), offset)[0]
            offset = offset.detach() + size * slope / length(slope)
            offset = offset * (radius / length(offset)).clamp_max(1)
        return part + offset

    parts = zip(images.split(500), labels.split(500), strict=True)
    return evaluate_classifier(model, torch.cat([moved(part, given) for part, given in parts]), labels)
