"""Saliency unlearning (SalUn): forget samples by training on wrong labels, moving only the weights that matter to them.

A mask marks the weights for which the loss of the forget set has the largest gradients; all others keep their values.
The marked ones are trained on the forget set with wrong labels drawn at random and on the retain set with true ones.
Cost: a forward and a backward pass over the forget set and one sort of all weights, then the epochs of fine-tuning.

Source:
    C. Fan, J. Liu, Y. Zhang, E. Wong, D. Wei, S. Liu, "SalUn: Empowering Machine Unlearning via Gradient-based Weight
    Saliency in Both Image Classification and Generation", ICLR, 2024, https://arxiv.org/abs/2310.12508. Implemented:
    the saliency mask, SalUn for classifiers (the mask with random labelling) and its loss for conditional diffusion
    models. Order of the passes, optimizer and batch size are those of the authors' code for CIFAR-10,
    https://github.com/OPTML-Group/Unlearn-Saliency.

Deviations:
    - A wrong label is any other label, with equal probability, drawn anew each epoch, as in the paper's equation. The
      authors' code draws among all labels, the true one included.
    - Each epoch is a pass over the forget set, then one over the retain set, as in the authors' code, in place of the
      weighted sum of the two terms in the paper's equation.
    - The mask holds ``round(fraction * P)`` of P weights, of equal gradients the first. The authors' code rounds down
      and leaves equal ones to the sort. Gradients are summed over samples, in the authors' code over means of batches.
    - Masked-out weights are put back after each step: with SGD the same as masking gradient, momentum and decay.
    - All runs in eval mode: batch normalisation uses its running statistics and leaves them as they are, and dropout is
      off. The authors' code trains in train mode, so that these statistics follow the data.
    - In the loss for diffusion models no gradient flows into the prediction for the substitute, as in the authors'
      code, and both terms are means over all entries; in that code the second is a sum over the entries of an image.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from paperweight.catalogue import Paper
from paperweight.unlearning._saliency import Mask, check_fraction, masked_out_kept, saliency_mask, trainable

__all__ = ["SalUn", "masked_out_kept", "saliency_mask", "salun_diffusion_loss"]

PAPER = Paper(
    title="SalUn: Empowering Machine Unlearning via Gradient-based Weight Saliency in Both Image Classification and "
    "Generation",
    authors=("Chongyu Fan", "Jiancheng Liu", "Yihua Zhang", "Eric Wong", "Dennis Wei", "Sijia Liu"),
    year=2023,
    url="https://arxiv.org/abs/2310.12508",
    provides={"SalUn": "unlearner", "saliency_mask": "function", "salun_diffusion_loss": "loss"},
    null={"fraction": 1.0},
    claim="Moving only the salient weights brings unlearning closer to retraining than moving all weights.",
)

Model = TypeVar("Model", bound=nn.Module)


def _wrong_labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Draw for each label one of the others, with equal probability; int64 (N,) to (N,)."""
    shift = torch.randint(1, classes, labels.shape, generator=generator, device=generator.device)
    return (labels + shift.to(labels.device)) % classes


@final
class SalUn:
    """Gives a copy of a classifier that has unlearned samples: random labelling of the salient weights.

    With ``fraction=1.0`` it is random labelling of all weights, without a mask. With fraction 0, or nothing to forget,
    the copy equals the model. It is trained in eval mode: the statistics of batch normalisation stay, dropout is off.

    Args:
        fraction: Share of the weights that may move, in [0, 1]; the paper has 0.5.
        lr: Learning rate of SGD, at least 0; the authors tune it and have 0.013 for CIFAR-10.
        epochs: Number of passes over the forget set, each followed by one over the retain set; the paper has 10.
        batch_size: Samples a step, at least 1; the last batch of a pass may be smaller.
        momentum: Momentum of SGD, in [0, 1).
        weight_decay: Weight decay of SGD, at least 0; it acts on the salient weights alone.

    Raises:
        ValueError: If a number is outside its range.

    Example:
        >>> inputs, labels = torch.eye(4), torch.tensor([0, 1, 2, 0])
        >>> pairs = [*zip(inputs, labels)]
        >>> unlearned = SalUn(lr=1.0)(nn.Linear(4, 3), pairs[:1], pairs[1:], generator=torch.Generator().manual_seed(0))
        >>> bool(unlearned(inputs[0]).argmax() == 0)
        False
    """

    def __init__(
        self,
        fraction: float = 0.5,
        lr: float = 0.013,
        epochs: int = 10,
        batch_size: int = 256,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
    ) -> None:
        check_fraction(fraction)
        for name, count in (("epochs", epochs), ("batch_size", batch_size)):
            if not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count}")
        limits = {"lr": (lr, math.inf), "momentum": (momentum, 1), "weight_decay": (weight_decay, math.inf)}
        for name, (value, limit) in limits.items():
            if not 0 <= value < limit:
                raise ValueError(f"{name} must be at least 0 and below {limit}, got {value}")
        self.fraction = fraction
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.momentum = momentum
        self.weight_decay = weight_decay

    def __call__(
        self, model: Model, forget: Any, retain: Any, *, generator: torch.Generator, mask: Mask | None = None
    ) -> Model:
        """Return a copy of a classifier that has unlearned samples, and leave the classifier as it is.

        Args:
            model: Maps inputs (N, ...) to logits (N, classes), classes at least 2.
            forget: Pairs of an input and its label that the model was trained on and is to forget.
            retain: Pairs that it is to retain; may be empty.
            generator: Source of the wrong labels and of the order of the samples.
            mask: Which weights may move, in place of ``fraction``; by default the saliency mask of ``forget``.

        Returns:
            The copy, in the modes that the modules of ``model`` are in.

        Raises:
            ValueError: If no parameter requires a gradient, or ``mask`` does not fit the model.
        """
        result = copy.deepcopy(model)
        if len(forget) == 0:
            return result
        modes = [(part, part.training) for part in result.modules()]
        result.eval()
        weights = [*trainable(result).values()]
        device = weights[0].device
        if mask is None and self.fraction < 1:
            mask = saliency_mask(
                result,
                _batches(forget, range(len(forget)), self.batch_size, device),
                lambda model, batch: F.cross_entropy(model(batch[0]), batch[1], reduction="sum"),
                self.fraction,
            )
        optimizer = torch.optim.SGD(weights, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        with nullcontext() if mask is None else masked_out_kept(result, optimizer, mask):
            for _ in range(self.epochs):
                for data, forgetting in ((forget, True), (retain, False)):
                    order = torch.randperm(len(data), generator=generator, device=generator.device).tolist()
                    for inputs, labels in _batches(data, order, self.batch_size, device):
                        logits = result(inputs)
                        if forgetting:
                            labels = _wrong_labels(labels, logits.shape[1], generator)
                        optimizer.zero_grad()
                        F.cross_entropy(logits, labels).backward()
                        optimizer.step()
        optimizer.zero_grad()
        for part, training in modes:
            part.training = training
        return result


def salun_diffusion_loss(
    prediction: Tensor, substitute: Tensor, retained: Tensor, noise: Tensor, beta: float = 3.072
) -> Tensor:
    """Compute mean (eps(x_t|c) - eps(x_t|c'))^2 on forgotten images, plus beta times the denoising loss on retained.

    The network eps predicts the noise in x_t under a condition: c is to be forgotten, c' is another. Train it inside
    `masked_out_kept`, with a `saliency_mask` of the denoising loss on the images to forget.

    Args:
        prediction: Predictions eps(x_t|c) for images to forget, (N, ...).
        substitute: Predictions eps(x_t|c') of the same network for the same x_t; no gradient flows into them.
        retained: Predictions for images to retain under their own conditions, (M, ...).
        noise: The noise that is in these images, of the same shape.
        beta: Weight of the second term, at least 0; the authors' code has 1e-3 for the sum over an image of CIFAR-10.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If beta is outside its range, or the shapes of a pair differ.

    Example:
        >>> one = torch.ones(2, 3)
        >>> salun_diffusion_loss(one, 3 * one, one, 2 * one, beta=0.5)
        tensor(4.5000)
    """
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta must be finite and at least 0, got {beta}")
    for name, first, second in (("substitute", prediction, substitute), ("noise", retained, noise)):
        if first.shape != second.shape:
            raise ValueError(f"{name} must have the predictions' shape {tuple(first.shape)}, got {tuple(second.shape)}")
    return F.mse_loss(prediction, substitute.detach()) + beta * F.mse_loss(retained, noise)


def _batches(data: Any, order: Sequence[int], batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(order), batch_size):
        inputs, labels = default_collate([data[index] for index in order[start : start + batch_size]])
        yield inputs.to(device), labels.to(device)
