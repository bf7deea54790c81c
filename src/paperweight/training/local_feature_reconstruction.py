"""Local feature reconstruction: parts of a transformer learn by themselves, and keep what they were given.

A transformer is cut into parts with no gradient from one to another. A part learns to classify through an auxiliary
head, and that alone lets it drop what later parts need; so a small decoder must also get back, from the tokens that the
part gives, those that it was given. InfoPro has every part reconstruct the image, which is harder.
Cost: a head and a decoder for each part but the last, in training; nothing afterwards.

Source:
    P. Pathak, J. Zhang, D. Samaras, "Local Learning on Transformers via Feature Reconstruction", 2022,
    https://arxiv.org/abs/2212.14215. Implemented: the loss of a part, with its input features as target or, as in
    InfoPro, the image, and weights that change linearly as in https://github.com/blackfeather-wang/InfoPro-Pytorch.
    Authors' code was not found, and of the paper only the abstract was at hand; the rest is from a summary of it.

Deviations:
    - Weights, head and decoder are not the authors', which could not be found. Here the weight of the reconstruction
      falls from 1 to 0 and that of the classification is 1; a head is layer norm, the mean over tokens and two linear
      layers; a decoder is two linear layers on each token, or what is given.
    - The first part reconstructs the tokens of its embedding in eval mode; whether the authors' does is not settled.
    - The image is reconstructed by patches and squared error; InfoPro has convolutions and binary cross-entropy.
    - The number of tokens stays the same. Swin's merging of patches, after which a decoder upsamples, is left out.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.training._local import Objective, check_count, check_order, joined, part_ends, seeded_by
from paperweight.training._transformer_layers import (
    given_tokens,
    image_patches,
    token_decoder,
    token_head,
    token_width,
    transformer_layers,
)

__all__ = [
    "LocalFeatureReconstruction",
    "LocalOutputs",
    "depth_weights",
    "local_reconstruction_loss",
    "reconstruction_error",
]

PAPER = Paper(
    title="Local Learning on Transformers via Feature Reconstruction",
    authors=("Priyank Pathak", "Jingwei Zhang", "Dimitris Samaras"),
    year=2022,
    url="https://arxiv.org/abs/2212.14215",
    provides={
        "LocalFeatureReconstruction": "network",
        "depth_weights": "function",
        "reconstruction_error": "function",
        "local_reconstruction_loss": "function",
    },
    null={"parts": 1},
    claim="Parts of a transformer that reconstruct their input features beat those that reconstruct the image.",
)

Ends = tuple[float, float]
Report = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


@final
class LocalOutputs(NamedTuple):
    """What a network that is trained in parts gives in train mode.

    Attributes:
        logits: Of the last part, (N, classes).
        scores: Of the heads of the others, each (N, classes).
        errors: Of their reconstructions, each a scalar; none where nothing is reconstructed.
    """

    logits: Tensor
    scores: tuple[Tensor, ...]
    errors: tuple[Tensor, ...]


def depth_weights(ends: Ends, parts: int) -> list[float]:
    """Compute (1 - r) first + r last with r = k / (K - 2): the weight of a loss in each part but the last.

    Args:
        ends: The weights in the first part and in the last that has an auxiliary loss, each finite and at least 0.
        parts: K, parts of the network, at least 1.

    Returns:
        The weight for k from 0 to K - 2; with two parts the first of ``ends``.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> depth_weights((1.0, 0.0), parts=4)
        [1.0, 0.5, 0.0]
    """
    check_count("parts", parts)
    _check_ends("ends", ends)
    first, last = ends
    ratios = [at / (parts - 2) if parts > 2 else 0.0 for at in range(parts - 1)]
    return [(1 - ratio) * first + ratio * last for ratio in ratios]


def _check_ends(name: str, ends: Ends) -> None:
    if len(ends) != 2 or not all(0 <= weight < math.inf for weight in ends):
        raise ValueError(f"{name} must be two weights, finite and at least 0, got {ends}")


def reconstruction_error(decoded: Tensor, target: Tensor) -> Tensor:
    """Compute the mean of ||Dec(h_k) - stopgrad(h_(k-1))||^2 over samples, tokens and numbers of a token.

    Args:
        decoded: What the decoder makes of a part's tokens, (N, L, numbers).
        target: What it is to be, of the same shape; no gradient goes to it.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> reconstruction_error(torch.ones(1, 2, 3), torch.tensor(3.0).expand(1, 2, 3))
        tensor(4.)
    """
    if decoded.shape != target.shape:
        raise ValueError(f"decoded must have the shape of target, {tuple(target.shape)}, got {tuple(decoded.shape)}")
    return F.mse_loss(decoded, target.detach())


def local_reconstruction_loss(
    outputs: LocalOutputs, labels: Tensor, reconstruction: Ends = (1.0, 0.0), classification: Ends = (1.0, 1.0)
) -> Tensor:
    """Compute the sum over parts of lambda_1 times the error of reconstruction plus lambda_2 times the cross-entropy.

    Args:
        outputs: Of the network in train mode.
        labels: Class numbers, (N,).
        reconstruction: lambda_1 in the first part and in the last but one; between them it changes linearly.
        classification: lambda_2, in the same way; in the last part it is 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If a weight is not finite or negative, or the outputs are those of eval mode.

    Example:
        >>> outputs = LocalOutputs(torch.zeros(1, 2), (torch.zeros(1, 2),), (torch.tensor(0.5),))
        >>> local_reconstruction_loss(outputs, torch.tensor([0]), reconstruction=(2.0, 0.0))
        tensor(2.3863)
    """
    if not isinstance(outputs, LocalOutputs):
        raise ValueError(f"outputs must be those of train mode, got {type(outputs).__name__}; call model.train()")
    _check_ends("reconstruction", reconstruction)
    _check_ends("classification", classification)
    parts = len(outputs.scores) + 1
    terms = [F.cross_entropy(outputs.logits, labels)]
    for weight, scores in zip(depth_weights(classification, parts), outputs.scores, strict=True):
        terms.append(weight * F.cross_entropy(scores, labels))
    for weight, error in zip(depth_weights(reconstruction, parts), outputs.errors, strict=False):
        terms.append(weight * error)
    return torch.stack(terms).sum()


@final
class LocalFeatureReconstruction(nn.Module):
    """A transformer whose parts are trained each by its own loss, a classification and a reconstruction.

    In train mode it gives what `local_reconstruction_loss` takes, without a gradient from one part to another, in eval
    mode the network's logits alone. The network is trained in place, and is ``model`` afterwards. To keep one part's
    activations at a time, hand `local_parts` and `local_objectives` to `paperweight.loops.local_gradients`; gradients
    are the same. With one part it is back-propagation, bit for bit.

    Args:
        model: A transformer such as `paperweight.nets.ViT`, maybe in a `torch.nn.Sequential`, or a
            `torch.nn.Sequential` with `torch.nn.TransformerEncoderLayer` in it, batch first.
        classes: Scores of a head, at least 2.
        parts: Number of parts, from 1 to that of blocks; left out, 4 as in the paper or that of blocks, if it is less.
        decoder: Makes a decoder from the numbers of a token of the part and of the target, two linear layers where left
            out; with ``None`` nothing is reconstructed.
        image: With ``None`` a part reconstructs the tokens that its first block was given. For InfoPro, whose parts all
            reconstruct the image, the numbers of a token's patch: channels times height times width.
        generator: Source of the weights of heads and decoders; torch's global stream where it is left out.

    Raises:
        ValueError: If an argument is outside its range.
        InputError: If the model is no such chain, or, at the first batch, does more than the chain.

    Example:
        >>> from paperweight.nets import ViT
        >>> model = LocalFeatureReconstruction(ViT((1, 8, 8), classes=10, dim=8, depth=2), classes=10)
        >>> outputs = model(torch.zeros(2, 1, 8, 8))
        >>> outputs.logits.shape, outputs.scores[0].shape, outputs.errors[0].shape
        (torch.Size([2, 10]), torch.Size([2, 10]), torch.Size([]))
    """

    def __init__(
        self,
        model: nn.Module,
        classes: int,
        parts: int | None = None,
        decoder: Callable[[int, int], nn.Module] | None = token_decoder,
        image: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_count("classes", classes, least=2)
        check_count("image", 1 if image is None else image)
        layers = transformer_layers(model)
        ends = part_ends(len(layers), min(4, len(layers)) if parts is None else parts)
        self.model = model
        self.classes = classes
        self.parts = parts
        self.decoder = decoder
        self.image = image
        self.generator = generator
        self._in_order = False
        widths = [token_width(layers[end]) for end in ends[:-1]]
        targets = [image or token_width(layers[first]) for first in (0, *(end + 1 for end in ends[:-1]))]

        with seeded_by(generator):
            heads = [token_head(width, classes) for width in widths]
            decoders = [] if decoder is None else [decoder(*pair) for pair in zip(widths, targets, strict=False)]
        self.heads = nn.ModuleList(heads).to(next(model.parameters()))
        self.decoders = nn.ModuleList(decoders).to(next(model.parameters()))

    def local_parts(self) -> list[nn.Sequential]:
        """Give the parts, whose layers are the network's own; each maps the output of the one before to its own."""
        return joined(transformer_layers(self.model), len(self.heads) + 1)

    def local_objectives(
        self, images: Tensor | None = None, reconstruction: Ends = (1.0, 0.0), classification: Ends = (1.0, 1.0)
    ) -> list[Objective]:
        """Give the loss of each part: it maps the part's output, its input and the labels to a scalar.

        Args:
            images: The batch, where parts reconstruct the image, and only there.
            reconstruction: As of `local_reconstruction_loss`.
            classification: As of `local_reconstruction_loss`.
        """
        if (self.image is None) is not (images is None):
            raise ValueError("images must be given where parts reconstruct the image, and only there")

        def of(report: Report, error_weight: float, score_weight: float) -> Objective:
            def objective(output: Tensor, given: Tensor, labels: Tensor) -> Tensor:
                scores, error = report(output, given, given if images is None else images)
                loss = score_weight * F.cross_entropy(scores, labels)
                return loss if error is None else loss + error_weight * error

            return objective

        parts = self.local_parts()
        weights = [depth_weights(ends, len(parts)) for ends in (reconstruction, classification)]
        auxiliary = [of(*each) for each in zip(self._reports(parts), *weights, strict=True)]
        return [*auxiliary, lambda output, _, labels: F.cross_entropy(output, labels)]

    def forward(self, x: Tensor) -> Tensor | LocalOutputs:
        """Compute the scores, and in train mode the errors of reconstruction.

        Args:
            x: Images, (N, C, H, W).

        Returns:
            In train mode what the parts give, in eval mode the network's logits, (N, classes).
        """
        if not self.training:
            return self.model(x)
        parts, given = self.local_parts(), x
        if not self._in_order:
            check_order(self.model, parts, x)
            self._in_order = True
        seen: list[tuple[Tensor, Tensor | None]] = []
        for part, report in zip(parts[:-1], self._reports(parts), strict=True):
            output = part(given)
            seen.append(report(output, given, x))
            given = output.detach()
        scores, errors = tuple(each for each, _ in seen), tuple(error for _, error in seen if error is not None)
        return LocalOutputs(parts[-1](given), scores, errors)

    def _reports(self, parts: list[nn.Sequential]) -> list[Report]:
        """Make what gives a part's scores and error, of its output, its input and the images, for all but the last."""

        def of(number: int) -> Report:
            def report(output: Tensor, given: Tensor, images: Tensor) -> tuple[Tensor, Tensor | None]:
                scores = self.heads[number](output)
                if self.decoder is None:
                    return scores, None
                decoded = self.decoders[number](output)
                if self.image is not None:
                    return scores, reconstruction_error(decoded, image_patches(images, decoded.shape[1], self.image))
                return scores, reconstruction_error(decoded, given if number else given_tokens(parts[0], given))

            return report

        return [of(number) for number in range(len(parts) - 1)]
