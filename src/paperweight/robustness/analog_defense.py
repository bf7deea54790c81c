"""Robustness by design through analog computing: a secret random projection, learned around by synthetic gradients.

Features are binarised and sent through |R b|^2, which an optical processor computes with a complex matrix R that nobody
knows, and a linear layer classifies what comes out. Layers below learn from a synthetic gradient, the error of the
output sent straight back through another random matrix (direct feedback alignment), so that R is never needed; an
attacker who does not know R has no other gradient, either. `AnalogHead.exposed` is the network of one who knows R.
Cost: the projection, which is simulated here, a matrix product of inner by outer numbers an input.

Source:
    A. Cappelli, R. Ohana, J. Launay, L. Meunier, I. Poli, F. Krzakala, "Adversarial Robustness by Design through
    Analog Computing and Synthetic Gradients", 2021, https://arxiv.org/abs/2101.02115; the authors' code (MIT),
    https://github.com/lightonai/adversarial-robustness-by-design, for the layers and where the feedback enters.

Deviations:
    - R is complex, and the projection centred, as the device's; the authors' simulation squares a real product and does
      not centre it, so that the ReLU behind does nothing there. Its output has no 8 bits here.
    - Entries of R have mean square 1 / inner, so that the projection of signs has mean 1 whatever the sizes.
    - What is binarised is centred by each input's own mean and not by the batch's, which would make the answer for an
      input depend on others.
    - The dropout in front is left to the caller.
"""

import copy
import math
from typing import Any, Self, final

import torch
from torch import Tensor, nn

from paperweight.catalogue import Paper

__all__ = ["AnalogHead", "ObfuscatedProjection", "centred_sign", "direct_feedback"]

PAPER = Paper(
    title="Adversarial Robustness by Design through Analog Computing and Synthetic Gradients",
    authors=(
        "Alessandro Cappelli",
        "Ruben Ohana",
        "Julien Launay",
        "Laurent Meunier",
        "Iacopo Poli",
        "Florent Krzakala",
    ),
    year=2021,
    url="https://arxiv.org/abs/2101.02115",
    provides={
        "AnalogHead": "layer",
        "ObfuscatedProjection": "layer",
        "centred_sign": "function",
        "direct_feedback": "function",
    },
    claim="Features that are binarised and randomly projected, trained by synthetic gradients, withstand attacks.",
)


def centred_sign(x: Tensor, slope: float | None = None) -> Tensor:
    """Give sign(x - mean of the input's entries), -1, 0 or 1, or a smooth form of it.

    Args:
        x: Features, (N, features).
        slope: For the smooth form, tanh(slope (x - mean) / standard deviation), which has a gradient for an attacker,
            above 0; signs, whose gradient is 0, if left out.

    Returns:
        Signs, same shape.

    Raises:
        ValueError: If there are no features, the shape is another, or the slope is not above 0 and finite.

    Example:
        >>> centred_sign(torch.tensor([[0.0, 1.0, 5.0]]))
        tensor([[-1., -1.,  1.]])
    """
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"x must be features, (N, features), one at least, got shape {tuple(x.shape)}")
    _check_slope(slope)
    centred = x - x.mean(dim=1, keepdim=True)
    if slope is None:
        return centred.sign()
    spread = centred.square().mean(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny).sqrt()
    return torch.tanh(slope * centred / spread)


class _DirectFeedback(torch.autograd.Function):
    """Logits as they are, with a gradient to the hidden features that leaves out what lies between."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, logits: Tensor, feedback: Tensor) -> Tensor:
        ctx.save_for_backward(feedback)
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (feedback,) = ctx.saved_tensors
        return gradients[0] @ feedback, gradients[0], None


def direct_feedback(hidden: Tensor, logits: Tensor, feedback: Tensor) -> Tensor:
    """Give logits from which a loss sends its gradient e back to the logits, and e B to the hidden features.

    For the cross-entropy e is softmax(logits) - label. Compute the logits from features without a gradient to
    ``hidden``, such as their signs.

    Args:
        hidden: Features, (N, features), which get the synthetic gradient alone.
        logits: Logits, (N, classes).
        feedback: The fixed random matrix B, (classes, features).

    Returns:
        The logits.

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> hidden = torch.zeros(1, 3, requires_grad=True)
        >>> feedback = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        >>> direct_feedback(hidden, torch.zeros(1, 2), feedback)[0, 1].backward()
        >>> hidden.grad
        tensor([[4., 5., 6.]])
    """
    if feedback.ndim != 2 or hidden.shape[1:] != feedback.shape[1:] or logits.shape[1:] != feedback.shape[:1]:
        found = f"{tuple(hidden.shape)}, {tuple(logits.shape)} and {tuple(feedback.shape)}"
        raise ValueError(f"feedback must be (classes, features) of logits and hidden, got shapes {found}")
    return _DirectFeedback.apply(hidden, logits, feedback)


class _Obfuscated(torch.autograd.Function):
    """The square of a complex product, with a backward pass through another matrix."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, real: Tensor, imaginary: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return (x @ real).square() + (x @ imaginary).square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        return gradients[0] @ back.T, None, None, None


@final
class ObfuscatedProjection(nn.Module):
    """Gives |x R|^2 with a fixed complex Gaussian R, and in the backward pass g W^T with another random matrix W.

    Nothing in it is trained. Entries of R have mean square 1 / in_features, those of W 1 / out_features.

    Args:
        in_features: Entries of an input, at least 1.
        out_features: Entries of an output, at least 1.
        known: Whether the backward pass is the true one, as for an attacker who knows R.
        generator: Source of both matrices, on the CPU.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> ObfuscatedProjection(3, 5, generator=torch.Generator().manual_seed(0))(torch.ones(2, 3)).shape
        torch.Size([2, 5])
    """

    real: Tensor
    imaginary: Tensor
    back: Tensor

    def __init__(self, in_features: int, out_features: int, known: bool = False, *, generator: torch.Generator) -> None:
        super().__init__()
        _check_sizes(in_features=in_features, out_features=out_features)
        self.in_features, self.out_features, self.known, self.generator = in_features, out_features, known, generator
        for name in ("real", "imaginary"):
            self.register_buffer(name, _normal(in_features, out_features, 2 * in_features, generator))
        self.register_buffer("back", _normal(in_features, out_features, out_features, generator))

    def forward(self, x: Tensor) -> Tensor:
        """Project inputs, (N, in_features), to (N, out_features), at least 0."""
        if self.known:
            return (x @ self.real).square() + (x @ self.imaginary).square()
        return _Obfuscated.apply(x, self.real, self.imaginary, self.back)


@final
class AnalogHead(nn.Module):
    """The end of a classifier: linear, ReLU, signs, projection, ReLU of what is above its mean, linear.

    With signs the layers below learn by direct feedback from the output, without them by the projection's own backward
    pass. The projection and the feedback stay as they are; keep them, which are in its state, from attackers.

    Args:
        features: Entries of an input, at least 1; 512 in the paper.
        classes: Number of classes, at least 1.
        inner: Entries that are binarised and projected, at least 1.
        outer: Entries of the projection, at least 1.
        binary: Whether what is projected is binarised.
        generator: Source of the random matrices, on the CPU; the linear layers begin from the global random state.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> head = AnalogHead(4, 3, inner=8, outer=16, generator=torch.Generator().manual_seed(0))
        >>> head(torch.ones(2, 4)).shape
        torch.Size([2, 3])
    """

    feedback: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        inner: int = 1024,
        outer: int = 8000,
        binary: bool = True,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        _check_sizes(features=features, classes=classes, inner=inner, outer=outer)
        self.features, self.classes, self.inner, self.outer = features, classes, inner, outer
        self.binary, self.generator = binary, generator
        self.first = nn.Linear(features, inner)
        self.projection = ObfuscatedProjection(inner, outer, generator=generator)
        self.last = nn.Linear(outer, classes)
        self.register_buffer("feedback", _normal(classes, inner, classes, generator))
        self._slope: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Give logits, (N, classes), of features, (N, features)."""
        hidden = self.first(x).relu()
        projected = self.projection(centred_sign(hidden, self._slope) if self.binary else hidden)
        logits = self.last((projected - projected.mean(dim=1, keepdim=True)).relu())
        return direct_feedback(hidden, logits, self.feedback) if self.binary and self._slope is None else logits

    def exposed(self, slope: float = 10.0, generator: torch.Generator | None = None) -> Self:
        """Give a copy with a gradient, for an attacker: signs are smooth, and the projection has its true gradient.

        Args:
            slope: As in `centred_sign`; where nothing is binarised, the copy gives what the head gives. Try several.
            generator: Source of a guess of R, on the CPU, for an attacker who knows all but R; R itself if left out.

        Returns:
            The copy.

        Raises:
            ValueError: If the slope is not above 0 and finite.
        """
        _check_slope(slope)
        result = copy.deepcopy(self)
        result._slope, result.projection.known = slope, True
        if generator is not None:
            guess = ObfuscatedProjection(self.inner, self.outer, True, generator=generator)
            result.projection = guess.to(self.projection.real)
        return result


def _normal(rows: int, columns: int, divisor: int, generator: torch.Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator, device=generator.device) / math.sqrt(divisor)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")


def _check_slope(slope: float | None) -> None:
    if slope is not None and (isinstance(slope, bool) or not 0 < slope < math.inf):
        raise ValueError(f"slope must be above 0 and finite, got {slope!r}")
