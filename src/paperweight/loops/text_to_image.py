"""Training of a text-to-image model on captioned images: first its text encoder, then both of its parts together."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from paperweight.data import CaptionedImages
from paperweight.generators.text_model import TextToImage, caption_loss
from paperweight.loops.core import index_batches, minimise
from paperweight.loops.generative import ExponentialMovingAverage, fit_generator

__all__ = ["fit_text_to_image"]


def fit_text_to_image(
    model: TextToImage,
    world: CaptionedImages,
    *,
    steps: int,
    generator: torch.Generator,
    text_steps: int = 300,
    batch_size: int = 64,
    lr: float = 2e-3,
    decay: float = 0.995,
    dropout: float = 0.1,
) -> tuple[TextToImage, Tensor]:
    """Train a model in place, first its text encoder by what captions tell of images, then both parts together.

    Args:
        model: The model.
        world: The images and captions.
        steps: Steps of AdamW for both parts, with a rate that rises for a tenth of them and then falls to 0.
        generator: Source of shuffles, times, noise and left out captions, and of the weights of the readers that the
            text encoder is first taught with.
        text_steps: Steps for the text encoder alone, 0 for none.
        batch_size: Samples a step.
        lr: The largest rate.
        decay: Weight of the past in the moving average of the weights.
        dropout: Share of the samples that are shown with the empty caption.

    Returns:
        The model with averaged weights, in eval mode and without gradients, and the loss of every step, (steps,).

    Raises:
        ValueError: If ``steps`` or ``batch_size`` is below 1, or ``decay`` outside [0, 1].
        InputError: If a caption has a word that the model does not know.

    Example:
        >>> from paperweight.data import captioned_shapes
        >>> from paperweight.generators import TextSpec
        >>> world = captioned_shapes(8, generator=torch.Generator().manual_seed(0))
        >>> model = TextSpec(shape=(3, 12, 12), words=world.vocabulary.words, arguments={"patch": 4}).build()
        >>> average, losses = fit_text_to_image(
        ...     model, world, steps=2, text_steps=2, generator=torch.Generator().manual_seed(0)
        ... )
        >>> losses.shape
        torch.Size([2])
    """
    numbers = model.numbers(world.captions, len(world))
    images = world.images.to(numbers.device)
    if text_steps:
        _teach_text(model, numbers, world, text_steps, generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), fused=True)
    ema = ExponentialMovingAverage(model, decay)

    def loss(trained: nn.Module, index: Tensor, draw: torch.Generator) -> Tensor:
        return caption_loss(model, images[index], numbers[index], draw, dropout)

    losses = fit_generator(
        model,
        optimizer,
        torch.arange(len(images), device=images.device),
        loss=loss,
        steps=steps,
        batch_size=batch_size,
        generator=generator,
        ema=ema,
        schedule=OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.1),
    )
    average = ema.average
    if not isinstance(average, TextToImage):
        raise TypeError(f"average must be a TextToImage, as the model is, got {type(average).__name__}")
    return average, losses


def _teach_text(
    model: TextToImage, numbers: Tensor, world: CaptionedImages, steps: int, generator: torch.Generator
) -> None:
    """Train the text encoder so that a linear layer on the mean of a caption's tokens tells what its image shows."""
    classes = [len(groups) for groups in world.vocabulary.concepts.values()]
    labels = torch.stack([world.labels[family] for family in world.vocabulary.concepts], dim=1).to(numbers.device)
    weight = torch.randn(sum(classes), model.spec.dim, generator=generator) * model.spec.dim**-0.5
    weight = weight.to(numbers.device).requires_grad_()

    def loss(index: Tensor) -> Tensor:
        logits = F.linear(model.text(numbers[index]).mean(dim=1), weight).split(classes, dim=1)
        return sum((F.cross_entropy(part, labels[index, k]) for k, part in enumerate(logits)), numbers.new_zeros(()))

    optimizer = torch.optim.AdamW([*model.text.parameters(), weight], lr=3e-3, fused=True)
    minimise(loss, optimizer, index_batches(len(numbers), 128, generator, numbers.device), steps=steps)
