"""Networks that are a chain of transformer blocks, cut at these; `_local` joins them to parts."""

import math
from itertools import pairwise, takewhile
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.nets import evaluating

__all__ = ["given_tokens", "image_patches", "token_decoder", "token_head", "token_width", "transformer_layers"]

_HIDDEN = 128  # units of a head


@final
class _Embedding(nn.Module):
    """What a vision transformer does before its blocks."""

    def __init__(self, embed: nn.Module, position: Tensor) -> None:
        super().__init__()
        self.embed = embed
        self.position = position

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).flatten(2).transpose(1, 2) + self.position


@final
class _TokenMean(nn.Module):
    """The mean over tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def _pieces(model: nn.Module) -> list[nn.Module]:
    """List what a network calls one after the other; itself where its structure does not tell."""
    if type(model) is nn.Sequential:
        return [piece for child in model for piece in _pieces(child)]
    parts = dict(model.named_children())
    position = getattr(model, "position", None)
    if set(parts) == {"embed", "blocks", "norm", "head"} and isinstance(position, Tensor):
        embedding = _Embedding(parts["embed"], position)
        return [embedding, *_pieces(parts["blocks"]), parts["norm"], _TokenMean(), parts["head"]]
    return [model]


def _is_block(piece: nn.Module) -> bool:
    names = {name for name, _ in piece.named_children()}
    return isinstance(piece, nn.TransformerEncoderLayer) or {"attention", "perceptron"} <= names


def transformer_layers(model: nn.Module) -> list[nn.Sequential]:
    """Cut a transformer into its blocks, each with what follows it, and the first also with what comes before it.

    Args:
        model: Such as `paperweight.nets.ViT`, maybe in a `torch.nn.Sequential`, or a `torch.nn.Sequential` with
            `torch.nn.TransformerEncoderLayer` in it. Blocks are these, and what has modules ``attention`` and
            ``perceptron``.

    Returns:
        The layers, whose modules are the network's own.

    Raises:
        InputError: If it is no such chain, or layers share weights.
    """
    pieces = _pieces(model)
    blocks = [at for at, piece in enumerate(pieces) if _is_block(piece)]
    if not blocks:
        raise InputError(
            f"model must be a chain of transformer blocks, such as paperweight.nets.ViT, got {type(model).__name__}; "
            "build it as a torch.nn.Sequential with torch.nn.TransformerEncoderLayer in it"
        )
    layers = [nn.Sequential(*pieces[start:end]) for start, end in pairwise([0, *blocks[1:], len(pieces)])]
    own = [parameter for layer in layers for parameter in layer.parameters()]
    if len(set(own)) < len(own):
        raise InputError("model must have layers that share no weights; give each layer weights of its own")
    return layers


def token_width(layer: nn.Sequential) -> int:
    """Give the numbers of a token, over which a block normalises."""
    block = next(piece for piece in layer if _is_block(piece))
    norms = [part for part in block.modules() if isinstance(part, nn.LayerNorm)]
    if not norms:
        raise InputError("model must have a torch.nn.LayerNorm in each block, one has none")
    return norms[0].normalized_shape[-1]


@torch.no_grad()
def given_tokens(part: nn.Sequential, x: Tensor) -> Tensor:
    """Compute the tokens that the first block of a part is given, as in eval mode."""
    stem = nn.Sequential(*takewhile(lambda piece: not _is_block(piece), part))
    with evaluating(stem):
        return stem(x)


def image_patches(images: Tensor, tokens: int, numbers: int) -> Tensor:
    """Cut images (N, C, H, W) into one square patch for each token, (N, tokens, numbers).

    Raises:
        ValueError: If they cannot be cut so.
    """
    channels, *sides = images.shape[1:]
    side = math.isqrt(numbers // channels)
    if channels * side**2 != numbers or any(length % side for length in sides) or tokens * numbers != images[0].numel():
        raise ValueError(
            f"image must be the numbers of a square patch of images of shape {(channels, *sides)}, of which there is "
            f"one for each of {tokens} tokens, got {numbers}"
        )
    return F.unfold(images, side, stride=side).transpose(1, 2)


def token_decoder(inputs: int, outputs: int) -> nn.Module:
    """Make a decoder of two linear layers that sees each token alone: (N, L, inputs) to (N, L, outputs)."""
    return nn.Sequential(nn.Linear(inputs, inputs), nn.GELU(), nn.Linear(inputs, outputs))


def token_head(inputs: int, classes: int) -> nn.Module:
    """Make a classifier of the mean over tokens: (N, L, inputs) to (N, classes)."""
    perceptron = nn.Linear(inputs, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, classes)
    return nn.Sequential(nn.LayerNorm(inputs), _TokenMean(), *perceptron)
