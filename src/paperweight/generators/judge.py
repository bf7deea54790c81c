"""A judge of generated images: which concepts does an image show, and does it show anything at all?

`Judge` is an untrained network; a study or an audit trains it on labelled images, as any classifier.
"""

from typing import final

import torch
from torch import Tensor, nn

from paperweight.nets import evaluating

__all__ = ["Judge", "shows_anything"]


@final
class Judge(nn.Module):
    """A convolutional network that tells the concept of each family in an image.

    Args:
        shape: Shape (C, H, W) of an image, H and W multiples of 4.
        classes: By family its number of concepts.
        width: Channels of the first layers.
    """

    def __init__(self, shape: tuple[int, int, int], classes: dict[str, int], width: int = 24) -> None:
        super().__init__()
        channels, height, side = shape
        self.classes = classes
        sizes = ((channels, width), (width, width), (width, 2 * width))
        first, second, third = ((nn.Conv2d(*size, 3, padding=1), nn.BatchNorm2d(size[1]), nn.ReLU()) for size in sizes)
        self.body = nn.Sequential(
            *first,
            *second,
            nn.MaxPool2d(2),
            *third,
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(2 * width * (height // 4) * (side // 4), 4 * width),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.head = nn.Linear(4 * width, sum(classes.values()))

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to the logits of all families, side by side."""
        return self.head(self.body(images))

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        """Give by family the logits, (N, concepts)."""
        return dict(zip(self.classes, self(images).split(list(self.classes.values()), dim=1), strict=True))

    @torch.no_grad()
    def concepts(self, images: Tensor) -> dict[str, Tensor]:
        """Give by family the number of the most likely concept, int64, (N,)."""
        with evaluating(self):
            return {family: scores.argmax(dim=1) for family, scores in self.logits(images).items()}


def shows_anything(real: Tensor, images: Tensor) -> Tensor:
    """Say of each image, (N,), whether it has as much contrast as all but one in a hundred real ones.

    A judge must choose among concepts, and what erased models draw may be next to nothing. The contrast is the largest
    standard deviation over the pixels of a channel.

    Example:
        >>> real = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> shows_anything(real, torch.cat([real[:2], 0.1 * real[:1], torch.zeros(1, 3, 8, 8)])).tolist()
        [True, True, False, False]
    """
    contrasts = [each.flatten(2).std(dim=2).amax(dim=1) for each in (real, images)]
    return contrasts[1] >= contrasts[0].quantile(0.01)
