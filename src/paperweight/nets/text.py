"""A tokenizer of a fixed list of words, and an encoder of captions, whose embeddings an attack may add to."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.nets._common import check_at_least

__all__ = ["TextEncoder", "Tokenizer"]

_PAD, _END = 0, 1
_FIRST = 2


@final
@dataclass(frozen=True)
class Tokenizer:
    """Turns captions into numbers: 0 for padding, 1 for the end, then the words in their order.

    Args:
        words: The words, each once, in small letters and without spaces.
        length: Number of tokens of a caption, with its end and padding, at least 2.
        placeholders: Further words of an embedding of their own; each stands for as many tokens as is said here, whose
            numbers follow those of the words.

    Raises:
        InputError: If a word is empty, double, or has capital letters or spaces, or a number is too small.

    Example:
        >>> tokenizer = Tokenizer(("a", "red", "circle"), length=5, placeholders={"<new>": 2})
        >>> tokenizer(["a red circle", "<new>", ""]).tolist()
        [[2, 3, 4, 1, 0], [5, 6, 1, 0, 0], [1, 0, 0, 0, 0]]
    """

    words: tuple[str, ...]
    length: int = 12
    placeholders: Mapping[str, int] = field(default_factory=dict[str, int])

    def __post_init__(self) -> None:
        if not isinstance(self.length, int) or self.length < 2:
            raise InputError(f"length of a caption must be a whole number of at least 2 tokens, got {self.length!r}")
        seen: set[str] = set()
        for word in (*self.words, *self.placeholders):
            if not word or word != word.lower() or word.split() != [word] or word in seen:
                raise InputError(
                    f"words must be in small letters, without spaces, and each once; got {word!r}; choose another"
                )
            seen.add(word)
        for word, count in self.placeholders.items():
            if not isinstance(count, int) or count < 1:
                raise InputError(f"placeholder {word!r} must stand for at least 1 token, got {count!r}")

    def __len__(self) -> int:
        return _FIRST + len(self.words) + sum(self.placeholders.values())

    def tokens(self, word: str) -> list[int]:
        """Give the numbers of a word: one, or as many as a placeholder stands for.

        Raises:
            InputError: If the word is unknown; the message suggests near ones.
        """
        known = self._known()
        if word not in known:
            near = difflib.get_close_matches(word, known, n=3)
            remedy = f"did you mean {' or '.join(near)}?" if near else f"the words are {', '.join(known)}"
            raise InputError(f"captions must be of known words, {word!r} is not one; {remedy}")
        return list(known[word])

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Turn captions into numbers, (N, length), int64; capital letters do not count.

        Raises:
            InputError: If a word is unknown, a caption too long, or ``captions`` one text.
        """
        rows: list[list[int]] = []
        for caption, pieces in zip(captions, self._pieces(captions), strict=True):
            row = [number for _, numbers in pieces for number in numbers]
            if len(row) >= self.length:
                raise InputError(
                    f"captions must have at most {self.length - 1} tokens, {caption!r} has {len(row)}; shorten it"
                )
            rows.append([*row, _END, *[_PAD] * (self.length - len(row) - 1)])
        return torch.tensor(rows, dtype=torch.int64).view(len(rows), self.length)

    def positions(self, captions: Sequence[str], words: Iterable[str]) -> Tensor:
        """Mark where some words stand in captions, bool, (N, length).

        Raises:
            InputError: If a word is unknown or a caption too long.
        """
        wanted = torch.tensor([number for word in words for number in self.tokens(word)], dtype=torch.int64)
        return torch.isin(self(captions), wanted)

    def ends(self, captions: Sequence[str]) -> Tensor:
        """Give the position of the end of each caption, int64, (N,); the last word stands one before it.

        Raises:
            InputError: If a word is unknown or a caption too long.
        """
        return (self(captions) == _END).int().argmax(dim=1)

    def with_words(self, placeholders: Mapping[str, int]) -> "Tokenizer":
        """Give a tokenizer that has further placeholders, behind those it has.

        Raises:
            InputError: If a word is known already, or not as it must be.
        """
        twice = [word for word in placeholders if word in self._known()]
        if twice:
            raise InputError(f"placeholder must be a new word, {twice[0]!r} is known already; choose another")
        return Tokenizer(self.words, self.length, {**self.placeholders, **placeholders})

    def _known(self) -> dict[str, range]:
        known = {word: range(number, number + 1) for number, word in enumerate(self.words, _FIRST)}
        start = _FIRST + len(self.words)
        for word, count in self.placeholders.items():
            known[word] = range(start, start + count)
            start += count
        return known

    def _pieces(self, captions: Sequence[str]) -> list[list[tuple[str, range]]]:
        if isinstance(captions, str):
            raise InputError(f"captions must be a sequence of texts, got the text {captions!r}; give a list")
        known = self._known()
        return [
            [(word, known[word] if word in known else range(*self.tokens(word))) for word in caption.lower().split()]
            for caption in captions
        ]


@final
class TextEncoder(nn.Module):
    """Embeddings of words and positions, one pre-norm transformer layer in which a token sees those before it, a norm.

    Args:
        words: Number of rows of the embedding table: the words, padding and end.
        length: Number of tokens of a caption.
        dim: Size of a token, a multiple of ``heads``.
        heads: Number of heads of the attention.
        placeholders: Number of further rows, kept apart from the table as the parameter ``placeholders``.

    Raises:
        ValueError: If a size is not a whole number of the size that it must have.

    Example:
        >>> encoder = TextEncoder(words=5, length=3, dim=8)
        >>> numbers, new = torch.tensor([[5, 1, 0]]), torch.zeros(1, 8, requires_grad=True)
        >>> encoder(numbers, new).sum().backward()
        >>> encoder(numbers, new).shape, new.grad.shape
        (torch.Size([1, 3, 8]), torch.Size([1, 8]))
    """

    def __init__(self, words: int, length: int, dim: int = 32, heads: int = 4, placeholders: int = 0) -> None:
        super().__init__()
        check_at_least(1, {"words": words, "length": length, "dim": dim, "heads": heads})
        check_at_least(0, {"placeholders": placeholders})
        if dim % heads:
            raise ValueError(f"dim must be a multiple of heads, got {dim} and {heads}")
        self.heads = heads
        self.table = nn.Embedding(words, dim)
        self.placeholders = nn.Parameter(torch.zeros(placeholders, dim)) if placeholders else None
        self.position = nn.Parameter(0.02 * torch.randn(length, dim))
        self.norm1 = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.to_out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.ff = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norm = nn.LayerNorm(dim)

    def embedding_table(self, rows: Tensor | None = None) -> Tensor:
        """Give all embeddings, with gradients: the table, then the placeholders.

        Args:
            rows: What stands in place of the placeholders, (K, dim).

        Returns:
            (words + K, dim).
        """
        further = self.placeholders if rows is None else rows
        return self.table.weight if further is None else torch.cat([self.table.weight, further])

    def encode(self, embedded: Tensor) -> Tensor:
        """Encode embeddings, of words or of anything else, as an attack that mixes or shifts them needs.

        Args:
            embedded: Embeddings without their positions, (N, length, dim).

        Returns:
            Tokens, (N, length, dim).
        """
        x = embedded + self.position
        parts = self.to_qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.to_out(attended.transpose(1, 2).flatten(2))
        return self.norm(x + self.ff(self.norm2(x)))

    def forward(self, numbers: Tensor, rows: Tensor | None = None) -> Tensor:
        """Encode captions.

        Args:
            numbers: What a `Tokenizer` gives, int64, (N, length).
            rows: Embeddings of the numbers behind the table, (K, dim), in place of the placeholders.

        Returns:
            Tokens, (N, length, dim).
        """
        return self.encode(F.embedding(numbers, self.embedding_table(rows)))
