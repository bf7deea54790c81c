"""English prose, the documentation of Python's language, and small causal language models that learn its characters."""

import math
from collections.abc import Callable
from pydoc_data.topics import topics
from typing import NamedTuple, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.loops import Tuned, fit_classifier, tune, warmed_cosine
from paperweight.nets import evaluating
from paperweight.studies import Setting

__all__ = ["Reader", "bits_of_prose"]

_RATES = (2.5e-3, 1e-2, 4e-2, 1.6e-1)


class Reader(NamedTuple):
    """A language model and the loss of every step of its training."""

    model: nn.Module
    losses: Tensor


def bits_of_prose(swapped: Callable[..., nn.Module], setting: Setting) -> tuple[float, Tuned[Reader]]:
    """Train language models with an attention; give the bits a character of the best on test text, and the tries."""
    length = setting.pick(smoke=4_000, desk=200_000, gpu=600_000)
    context, dim = setting.pick(smoke=16, desk=32, gpu=256), setting.pick(smoke=16, desk=32, gpu=256)
    steps, batch_size = setting.pick(smoke=4, desk=240, gpu=3_000), setting.pick(smoke=8, desk=16, gpu=64)
    prose = "\n".join(topics[name] for name in sorted(topics)).lower()
    shift = int(torch.randint(len(prose), (), generator=setting.generator("data")))
    prose = (prose[shift:] + prose[:shift])[:length]
    known = {character: number for number, character in enumerate(sorted(set(prose)))}
    codes = torch.tensor([known[character] for character in prose]).to(setting.device)
    windows = codes[: (len(codes) - 1) // context * context + 1].unfold(0, context + 1, context)
    parts = windows.split([len(windows) - 2 * (len(windows) // 10), len(windows) // 10, len(windows) // 10])

    def loss(logits: Tensor, following: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), following.flatten())

    def measured(model: nn.Module, part: Tensor) -> float:
        with evaluating(model), torch.no_grad():
            losses = [loss(model(batch[:, :-1]), batch[:, 1:]) * len(batch) for batch in part.split(256)]
        return (torch.stack(losses).sum() / len(part) / math.log(2)).item()

    def train(rate: float) -> Reader:
        start = setting.initialised(lambda: _Language(len(known), context, dim, setting.pick(smoke=1, desk=2, gpu=6)))
        model = swapped(start, radius_init=0.5).to(setting.device)
        optimizer = AdamW(model.parameters(), lr=rate, weight_decay=0.01)
        losses = fit_classifier(
            model,
            optimizer,
            parts[0][:, :-1],
            parts[0][:, 1:],
            steps=steps,
            batch_size=batch_size,
            generator=setting.generator("batches"),
            loss=loss,
            schedule=warmed_cosine(optimizer, steps),
        )
        return Reader(model, losses)

    tuned = tune(_RATES, train, lambda tried: measured(tried.model, parts[1]), better="lower")
    return measured(tuned.best.model, parts[2]), tuned


@final
class _Language(nn.Module):
    """Causal transformer on characters: (N, L) to logits (N, L, characters)."""

    def __init__(self, characters: int, context: int, dim: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, dim)
        self.position = nn.Parameter(0.02 * torch.randn(context, dim))
        block = nn.TransformerEncoderLayer(dim, dim // 16, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, characters)
        self.register_buffer("unseen", torch.ones(context, context, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Compute the logits of the next characters."""
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x, mask=self.unseen)))
