"""Concept inversion: a new word whose embedding is learned from images brings back what an eraser hid.

Everything but the embedding stays as it is. If an erased model draws the concept when it is asked by the new word, it
still knew it, and only the name was gone; what a model that never knew it learns in the same way is the measure.
Cost: one forward and backward pass of the denoiser and the text encoder a step; the embedding is all that is stored.

Source:
    M. Pham, K. O. Marshall, N. Cohen, G. Mittal, C. Hegde, "Circumventing Concept Erasure Methods For Text-to-Image
    Generative Models", ICLR, 2024, https://arxiv.org/abs/2308.01508, and the authors' code. Implemented: the attacks on
    erasers that change weights, on a negative prompt and on safe latent diffusion.

Deviations:
    - ``lr`` and ``batch_size`` are those that act: the authors' 5e-3 is multiplied by 4 images and 4 accumulated
      batches, which gives 0.08 and 16.
    - Templates are an argument, the word alone by default; the authors have lists for objects, styles and persons.
      Images are neither flipped nor augmented.
    - The norm of the embedding may be bounded; in the authors' code it is not, and leaves that of words far behind.
    - Errors are those of what the network predicts: the noise in the authors' networks, and maybe the data here.
    - Safe latent diffusion is taken to be past its warm-up at the time that is learned from; the authors' code compares
      the warm-up with the step of the attack. Their batch for it is 1, which with their scaling is 4 images a step.
"""

from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.generators.process import add_noise, guided, normal, target
from paperweight.generators.steering import Steered
from paperweight.generators.text_model import TextToImage
from paperweight.unlearning._fine_tuning import as_predicted, predict
from paperweight.unlearning.safe_latent_diffusion import SafeLatentDiffusion

__all__ = ["InvertedConcept", "invert_concept", "negative_prompt_error"]

PAPER = Paper(
    title="Circumventing Concept Erasure Methods For Text-to-Image Generative Models",
    authors=("Minh Pham", "Kelly O. Marshall", "Niv Cohen", "Govind Mittal", "Chinmay Hegde"),
    year=2024,
    url="https://arxiv.org/abs/2308.01508",
    provides={"invert_concept": "function", "negative_prompt_error": "function"},
    claim="A learned word embedding brings back concepts that erasers were thought to have removed.",
    builds_on=("safe_latent_diffusion",),
)

WORD = "<inverted>"


class InvertedConcept(NamedTuple):
    """What the attack found.

    Attributes:
        embedding: The embedding of the new word, (vectors, dim), for `TextToImage.with_words`.
        losses: The loss of every step, (steps,).
    """

    embedding: Tensor
    losses: Tensor


def negative_prompt_error(without: Tensor, concept: Tensor, inverted: Tensor, guidance: float) -> Tensor:
    """Compute the error of guided noise under a negative prompt against that of the concept without one.

    A sampler with the concept as negative prompt uses e_c + w (e_v - e_c) for the new word v; it should be
    e_0 + w (e_c - e_0), of the empty caption. It is so where e_v = e_c + (w - 1) / w (e_c - e_0).

    Args:
        without: The noise e_0 predicted for the empty caption, (N, ...).
        concept: The noise e_c predicted for the concept, (N, ...).
        inverted: The noise e_v predicted for the new word, (N, ...).
        guidance: The weight w, above 0.

    Returns:
        The mean squared error, a scalar.

    Raises:
        ValueError: If the weight is not above 0 and finite.

    Example:
        >>> zero, one = torch.zeros(1, 2), torch.ones(1, 2)
        >>> negative_prompt_error(zero, one, 1.5 * one, guidance=2.0)
        tensor(0.)
    """
    if not 0 < guidance < inf:
        raise ValueError(f"guidance must be above 0 and finite, got {guidance}")
    return F.mse_loss(guided(inverted, concept, guidance), guided(concept, without, guidance))


def invert_concept(
    model: TextToImage | Steered,
    images: Tensor,
    *,
    generator: torch.Generator,
    vectors: int = 1,
    initial: str | None = None,
    guidance: float = 7.5,
    history: int = 35,
    history_range: int = 90,
    templates: Sequence[str] = ("{}",),
    steps: int = 5000,
    lr: float = 0.08,
    batch_size: int = 16,
    weight_decay: float = 0.01,
    largest_norm: float = inf,
) -> InvertedConcept:
    """Learn the embedding of a new word from images of a concept, by AdamW.

    Of a model with weights of its own the loss is that of denoising. Of a model whose sampler was steered off the
    concept it is the error of guided noise against that for the concept without steering: `negative_prompt_error`, or,
    for safe latent diffusion, the like after ``history`` steps, through which its momentum has formed.

    Args:
        model: The erased model, or the steered one; it stays as it is.
        images: Images of the concept in [0, 1], (N, C, H, W), that are not used to judge the attack.
        generator: Draws batches, templates, times, noise, and the start where ``initial`` is left out.
        vectors: Number of tokens that the new word stands for, at least 1; 1 in the paper.
        initial: A word of one token whose embedding each starts from; by default normal numbers of the table's spread.
        guidance: The weight of a steered sampler, above 0.
        history: Times, from the noisiest to the one that is learned from, of a steered sampler with momentum, at least
            1; 13 in the authors' code by default, 35 in their script.
        history_range: How many of the model's training times these are drawn from, at least ``history``.
        templates: Captions with ``{}`` for the new word, at least one.
        steps: Steps, at least 0; 5000 in the paper.
        lr: Rate of AdamW, at least 0.
        batch_size: Images a step, at least 1.
        weight_decay: Decay of the embedding towards 0, at least 0.
        largest_norm: Bound on the norm of each vector after each step, above 0; none in the paper.

    Returns:
        The embedding and the losses.

    Raises:
        ValueError: If there are no images, a number is out of range, or a template has no ``{}``.
        InputError: If a word is unknown or a caption too long.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle",)).build()
        >>> inverted = invert_concept(
        ...     model, torch.rand(4, 1, 8, 8), initial="circle", steps=2, generator=torch.Generator().manual_seed(0)
        ... )
        >>> model.with_words({"<v>": inverted.embedding}).condition(["<v>"], 1).shape
        torch.Size([1, 12, 32])
    """
    if not len(images):
        raise ValueError("images must hold at least one of the concept, got none")
    if vectors < 1 or batch_size < 1 or steps < 0:
        raise ValueError(f"vectors and batch_size must be at least 1, steps 0, got {vectors}, {batch_size} and {steps}")
    if not (0 <= lr < inf and 0 <= weight_decay < inf and largest_norm > 0):
        raise ValueError(
            f"lr and weight_decay must be at least 0 and finite, largest_norm above 0, got {lr}, {weight_decay} and "
            f"{largest_norm}"
        )
    if isinstance(templates, str) or not templates or not all("{}" in template for template in templates):
        raise ValueError(f"templates must be a list of captions with {{}} for the new word, got {templates!r}")
    if not 1 <= history <= history_range:
        raise ValueError(f"history must be at least 1 and at most history_range, got {history} and {history_range}")
    if not 0 < guidance < inf:
        raise ValueError(f"guidance must be above 0 and finite, got {guidance}")
    source, rule, concept = (
        (model.model, model.rule, model.concept) if isinstance(model, Steered) else (model, None, "")
    )
    if isinstance(rule, SafeLatentDiffusion) and history_range > len(source.schedule):
        raise ValueError(
            f"history_range must be at most the model's {len(source.schedule)} training times, got {history_range}"
        )
    copy = source.with_words({WORD: _start(source, vectors, initial, generator)}).eval().requires_grad_(False)
    rows = copy.text.placeholders
    if rows is None:
        raise ValueError("the model must take new words, this one has none")
    before = len(rows) - vectors
    new = nn.Parameter(rows[before:].clone())
    captions = [template.replace("{}", WORD) for template in templates]
    optimizer = torch.optim.AdamW([new], lr=lr, weight_decay=weight_decay)

    def asked(count: int) -> Tensor:
        chosen = torch.randint(len(captions), (count,), generator=generator, device=generator.device)
        numbers = copy.numbers([captions[row] for row in chosen.tolist()], count)
        return copy.text(numbers, torch.cat([rows[:before], new]))

    def kept_off(count: int) -> Tensor:
        return copy.condition([concept] * count, count)

    def loss(x: Tensor) -> Tensor:
        t = torch.randint(len(copy.schedule), (len(x),), generator=generator, device=generator.device)
        tokens, noise, abar = asked(len(x)), normal(x, generator), copy.schedule.abar[t.cpu()]
        z, t = add_noise(x, noise, abar), t.to(x.device)
        if rule is None:
            return F.mse_loss(copy(z, t, tokens), target(x, noise, abar, copy.spec.prediction))
        with torch.no_grad():
            without, unwanted = predict(copy, z, t, None), predict(copy, z, t, kept_off(len(x)))
        return negative_prompt_error(without, unwanted, predict(copy, z, t, tokens), guidance)

    def safe_loss(x: Tensor, safety: SafeLatentDiffusion) -> Tensor:
        tokens, noise = asked(len(x)), normal(x, generator)
        off, momentum = kept_off(len(x)), torch.zeros(())
        predicted = wanted = x
        for times in _history(len(copy.schedule), history, history_range, len(x), generator):
            z, t = add_noise(x, noise, copy.schedule.abar[times.cpu()]), times.to(x.device)
            with torch.no_grad():
                without, unwanted = copy.eps(z, t, None), copy.eps(z, t, off)
            given = copy.eps(z, t, tokens)
            gamma, momentum = safety.keep_off(without, given, unwanted, momentum)
            predicted = as_predicted(copy, z, t, without + guidance * (given - without - gamma))
            wanted = as_predicted(copy, z, t, guided(unwanted, without, guidance))
        return F.mse_loss(predicted, wanted)

    losses: list[Tensor] = []
    for _ in range(steps):
        index = torch.randint(len(images), (batch_size,), generator=generator, device=generator.device)
        x = copy.encode(images[index.to(images.device)])
        optimizer.zero_grad()
        value = safe_loss(x, rule) if isinstance(rule, SafeLatentDiffusion) else loss(x)
        value.backward()
        optimizer.step()
        with torch.no_grad():
            new.mul_((largest_norm / new.norm(dim=1, keepdim=True)).clamp(max=1))
        losses.append(value.detach())
    return InvertedConcept(new.detach().clone(), torch.stack(losses) if losses else new.new_empty(0))


def _start(model: TextToImage, vectors: int, initial: str | None, generator: torch.Generator) -> Tensor:
    table = model.embedding_table().detach()
    if initial is not None:
        start = model.embedding_of(initial)
        if len(start) != 1:
            raise ValueError(f"initial must be a word of one token, {initial!r} stands for {len(start)}")
        return start.expand(vectors, -1)
    return table.std() * normal(table.new_empty(vectors, table.shape[1]), generator)


def _history(times: int, count: int, span: int, samples: int, generator: torch.Generator) -> Tensor:
    """Draw for each sample distinct times from the ``span`` below a random one, falling, (count, samples)."""
    device = generator.device
    last = torch.randint(span, times + 1, (samples,), generator=generator, device=device)
    order = torch.rand(samples, span, generator=generator, device=device).argsort(dim=1)[:, :count]
    return (last[:, None] - span + order.sort(dim=1, descending=True).values).T
