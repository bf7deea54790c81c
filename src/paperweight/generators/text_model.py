"""A text-to-image model as one object: words, text encoder, denoiser with cross attention; its loss and its file."""

import copy
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, TypeAdapter
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.generators.checkpoint import parsed, read_header, write_file
from paperweight.generators.cross_attention import attention_maps
from paperweight.generators.pixels import decode, encode, latent_mask, network_times, noise_in
from paperweight.generators.process import (
    MOST_NUMBERS,
    MOST_STEPS,
    Prediction,
    add_noise,
    cosine_schedule,
    normal,
    target,
)
from paperweight.generators.weights import check_layers, load_weights
from paperweight.nets import TokenDenoiser
from paperweight.nets.text import TextEncoder, Tokenizer
from paperweight.texts import brief

__all__ = ["TextSpec", "TextToImage", "caption_loss", "load_text_model"]

_FORMAT = "paperweight text-to-image model 1"


@final
@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """What a text-to-image model is built from; it is stored beside the weights.

    Args:
        shape: Shape (C, H, W) of one image.
        words: The words of captions.
        length: Number of tokens of a caption, with its end and padding.
        dim: Size of a token.
        arguments: Further arguments of `TokenDenoiser`.
        steps: Number of training times, of a cosine schedule.
        prediction: What the network predicts: ``eps``, ``x0`` or ``v``.
        placeholders: Words of an embedding of their own, and for how many tokens each stands.

    Raises:
        InputError: If a value is not one of these.

    Example:
        >>> TextSpec(shape=(1, 8, 8), words=("a", "circle")).build().condition(["a circle"], 1).shape
        torch.Size([1, 12, 32])
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    shape: tuple[int, int, int]
    words: tuple[str, ...]
    length: int = 12
    dim: int = 32
    arguments: dict[str, int] = field(default_factory=dict[str, int])
    steps: int = 200
    prediction: Prediction = "v"
    placeholders: dict[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        if self.prediction not in ("eps", "x0", "v"):
            raise InputError(f"prediction of a text-to-image model must be eps, x0 or v; got {self.prediction!r}")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise InputError(f"steps of a text-to-image model must be a whole number of at least 1, got {self.steps!r}")
        if self.steps > MOST_STEPS or max(math.prod(self.shape), self.length, self.dim) > MOST_NUMBERS:
            raise InputError(
                f"a text-to-image model must have at most {MOST_STEPS:,} steps, and {MOST_NUMBERS:,} numbers an image, "
                f"caption and token; got {self.steps}, {self.shape}, {self.length}, {self.dim}; choose smaller ones"
            )
        self.tokenizer()

    def tokenizer(self) -> Tokenizer:
        """Make the tokenizer."""
        return Tokenizer(self.words, self.length, self.placeholders)

    def build(self) -> "TextToImage":
        """Make the model with new weights, from the global random state.

        Raises:
            InputError: If the networks cannot be built from the arguments.
        """
        try:
            network = TokenDenoiser(self.shape, condition_dim=self.dim, **self.arguments)
            further = sum(self.placeholders.values())
            text = TextEncoder(len(self.tokenizer()) - further, self.length, self.dim, placeholders=further)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"a text-to-image model cannot be built for images of shape {self.shape} with {self.arguments}: {error}"
            ) from error
        return TextToImage(self, text, network)


@final
class TextToImage(nn.Module):
    """Meets `ConditionalDiffusion` with captions; images in [0, 1] are diffused as 2 x - 1.

    Args:
        spec: What it is built from.
        text: The encoder of captions.
        network: The denoiser; its cross attention is ``blocks.i.attn2``.

    Attributes:
        tokenizer: Turns captions into numbers.
        schedule: All training times.
        clamp: The range of what is diffused.

    Example:
        >>> model = TextSpec(shape=(1, 8, 8), words=("a", "red", "circle")).build()
        >>> copied = model.with_words({"<new>": model.embedding_of("circle")})
        >>> bool((copied.condition(["a <new>"], 1) == model.condition(["a circle"], 1)).all())
        True
    """

    encode = staticmethod(encode)
    decode = staticmethod(decode)
    latent_mask = staticmethod(latent_mask)

    def __init__(self, spec: TextSpec, text: TextEncoder, network: TokenDenoiser) -> None:
        super().__init__()
        self.spec = spec
        self.tokenizer = spec.tokenizer()
        self.text = text
        self.network = network
        with torch.device("cpu"):
            self.schedule = cosine_schedule(spec.steps)
        self.clamp: tuple[float, float] | None = (-1.0, 1.0)

    def numbers(self, captions: Sequence[str] | None, count: int) -> Tensor:
        """Turn captions, or the empty one for None, into numbers (count, length) on the model's device.

        Raises:
            InputError: If there are not ``count`` captions, one is too long, or a word is unknown.
        """
        given = [""] * count if captions is None else captions
        numbers = self.tokenizer(given)
        if len(numbers) != count:
            raise InputError(
                f"captions must be {count} texts, one for each sample, or None for the empty one; got {given!r}"
            )
        return numbers.to(self.text.position.device)

    def condition(self, given: Sequence[str] | Tensor | None, count: int) -> Tensor:
        """Encode captions, with gradients where the text encoder has them.

        Args:
            given: One caption a sample, or what `numbers` made of them, or None for the empty caption.
            count: Number of samples.

        Returns:
            Tokens, (count, length, dim); equal captions give equal tokens.

        Raises:
            InputError: If there are not ``count`` captions, one is too long, or a word is unknown.
        """
        return self.text(given if isinstance(given, Tensor) else self.numbers(given, count))

    def forward(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Call the network: z (N, C, H, W) at training times t (N,) gives what it predicts, as z in shape and dtype."""
        tokens = self.condition(None, len(z)) if condition is None else condition
        return self.network(z.to(tokens.dtype), network_times(t, self.spec.steps), tokens).to(z.dtype)

    def eps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> Tensor:
        """Predict the noise in z (N, C, H, W) at training times t (N,); a condition of None is the empty caption."""
        return noise_in(z, t, self(z, t, condition), self.schedule, self.spec.prediction)

    def attention_maps(self, z: Tensor, t: Tensor, condition: Tensor | None) -> dict[str, Tensor]:
        """Give the probabilities of every cross attention, by name, (N, heads, patches, length), with gradients."""
        return attention_maps(self.network, lambda: self(z, t, condition))

    def tokens_of(self, captions: Sequence[str], words: Iterable[str], *, end: bool = False) -> Tensor:
        """Mark where words stand in captions.

        Args:
            captions: The captions.
            words: The words, such as the names of a concept.
            end: Whether the end of each caption is marked, too.

        Returns:
            bool, (N, length), on the model's device.

        Raises:
            InputError: If a word is unknown or a caption too long.
        """
        marked = self.tokenizer.positions(captions, words)
        if end:
            marked = marked.scatter(1, self.tokenizer.ends(captions)[:, None], True)
        return marked.to(self.text.position.device)

    def embedding_table(self) -> Tensor:
        """Give the embeddings of all tokens, (len(tokenizer), dim), with gradients."""
        return self.text.embedding_table()

    def embedding_of(self, word: str) -> Tensor:
        """Give a copy of the embeddings of a word: one row, or as many as a placeholder stands for, (k, dim).

        Raises:
            InputError: If the word is unknown.
        """
        return self.embedding_table()[self.tokenizer.tokens(word)].detach().clone()

    def with_words(self, words: Mapping[str, Tensor]) -> "TextToImage":
        """Give a copy that has further words; this model stays as it is.

        The new embeddings are rows of the copy's ``text.placeholders``, in order: whoever trains those alone trains no
        other weight.

        Args:
            words: New words and their embeddings, (dim,), or (k, dim) for a word that stands for k tokens.

        Raises:
            InputError: If a word is known already, or an embedding has another shape.
        """
        rows = {word: value.detach().reshape(-1, value.shape[-1]) for word, value in words.items() if value.ndim}
        for word, value in words.items():
            if value.ndim not in (1, 2) or not value.numel() or value.shape[-1] != self.spec.dim:
                raise InputError(
                    f"embedding of {word!r} must have shape ({self.spec.dim},) or (k, {self.spec.dim}), "
                    f"got {tuple(value.shape)}"
                )
        added = self.tokenizer.with_words({word: len(value) for word, value in rows.items()})
        model = copy.deepcopy(self)
        model.spec = replace(self.spec, placeholders=dict(added.placeholders))
        model.tokenizer = added
        old = [] if self.text.placeholders is None else [self.text.placeholders.detach()]
        if rows:
            table = self.text.table.weight
            new = torch.cat([*old, *(value.to(table) for value in rows.values())])
            model.text.placeholders = nn.Parameter(new, requires_grad=table.requires_grad)
        return model

    def save(self, path: str | Path) -> None:
        """Write weights and spec to a safetensors file, whole or not at all.

        Raises:
            InputError: If the file cannot be written.
        """
        write_file(path, self.state_dict(), {"format": _FORMAT, "spec": json.dumps(asdict(self.spec))})


_SPEC = TypeAdapter(TextSpec)


def caption_loss(
    model: TextToImage, images: Tensor, numbers: Tensor, generator: torch.Generator, dropout: float = 0.1
) -> Tensor:
    """Compute the mean squared error of what the network predicts, at one random time a sample.

    Args:
        model: The model.
        images: Images in [0, 1], (N, C, H, W).
        numbers: Their captions, as `TextToImage.numbers` gives them, (N, length).
        generator: Draws times, noise, and which captions are left out.
        dropout: Share of the samples that are shown with the empty caption, as guidance needs.

    Returns:
        A scalar.
    """
    count = len(images)
    t = torch.randint(len(model.schedule), (count,), generator=generator, device=generator.device)
    left_out = torch.rand(count, generator=generator, device=generator.device) < dropout
    x = model.encode(images)
    noise = normal(x, generator)
    numbers = torch.where(left_out.to(numbers.device)[:, None], model.numbers(None, 1), numbers)
    abar = model.schedule.abar[t.cpu()]
    output = model(add_noise(x, noise, abar), t.to(x.device), model.condition(numbers, count))
    return F.mse_loss(output, target(x, noise, abar, model.spec.prediction))


def load_text_model(path: str | Path) -> TextToImage:
    """Read what `TextToImage.save` wrote, in eval mode and without gradients.

    Nothing is built before the file is known to hold the weights of the model that it says it is of.

    Raises:
        InputError: If the file is missing, damaged, a pickle, not of a text-to-image model, or its weights do not fit
            or are not finite.
    """
    header = read_header(path)
    if header.texts.get("format") != _FORMAT:
        raise InputError(
            f"checkpoint {path} holds no text-to-image model (format {brief(repr(header.texts.get('format')), 100)} in "
            f"its metadata, wanted {_FORMAT!r}); write it with TextToImage.save"
        )
    spec = parsed(_SPEC, path, header, "spec")
    check_layers(path, header, spec.arguments)
    return load_weights(path, header, {name: name for name in header.tensors}, spec.build)
