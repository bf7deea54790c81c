# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
"""The audit of an erasure: is a concept gone from a text-to-image model, or only its name?

A judge is trained on labelled images; the model before and after the erasing is asked for every word; then a new word
is learned from images of the concept on the erased model and, if there is one, on a model that never saw the concept.
Cost: the training of the judge, some hundred images a word and model, and two trainings of one embedding; minutes.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from paperweight.audits.erasure_findings import ErasureAudit, Rate
from paperweight.catalogue import nearest
from paperweight.errors import InputError
from paperweight.generators.generation import generate
from paperweight.generators.judge import Judge, shows_anything
from paperweight.generators.steering import Steered
from paperweight.generators.text_model import TextToImage
from paperweight.loops import fit_classifier
from paperweight.unlearning.concept_inversion import invert_concept

__all__ = ["ErasureAudit", "audit_erasure"]

Model = TextToImage | Steered

_LEAST_SHOWN = 4
_LEAST_COUNT = 10
_CELL = 4
_PICTURES = 16
_HISTORY, _HISTORY_RANGE = 4, 0.09
_FAMILY = "class"
_FOUND = "<found>"


def audit_erasure(
    erased: Model,
    before: TextToImage,
    images: Tensor,
    labels: Tensor,
    names: Sequence[Sequence[str]],
    concept: str,
    *,
    control: TextToImage | None = None,
    initial: str | None = None,
    templates: Sequence[str] = ("{}",),
    count: int = 100,
    steps: int = 400,
    guidance: float = 3.0,
    sampling_steps: int = 25,
    judge_steps: int = 1_200,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> ErasureAudit:
    """Ask a model for a concept that was erased from it, attack it, and judge what it draws.

    Args:
        erased: The model that the concept was erased from, or whose sampler is steered off it.
        before: The model as it was.
        images: Labelled images, (N, C, H, W), in [0, 1], of the models' shape. Half of each class trains the judge, a
            quarter tests it; the attack learns from the last quarter of the concept's.
        labels: Their classes, int64, (N,).
        names: For each class its names, words or captions that the models know.
        concept: The erased one of these names.
        control: A model that was trained like ``before`` without any image of the concept.
        initial: A word that the attack starts from; random numbers by default.
        templates: Captions with ``{}`` for a name, which take turns.
        count: Images of the concept by each name that are counted, at least 10; of other words a third of it.
        steps: Steps of the attack, at least 1.
        guidance: Weight of the guidance, in sampling and in the attack on a sampler.
        sampling_steps: Steps of the sampler, at least 1.
        judge_steps: Steps of the training of the judge, at least 1.
        seed: What judge, attack and samples are drawn with.
        progress: Called with words, the number done and of all.

    Returns:
        The audit.

    Raises:
        InputError: If models, images, names or numbers do not fit together.

    Example:
        >>> from paperweight.generators import TextSpec
        >>> model = TextSpec(shape=(1, 8, 8), words=("circle", "cross"), steps=20).build().eval()
        >>> images, labels = torch.rand(40, 1, 8, 8), torch.arange(40) % 2
        >>> audit = audit_erasure(
        ...     model, model, images, labels, [["circle"], ["cross"]], "circle", count=10, steps=2, sampling_steps=2,
        ...     judge_steps=2,
        ... )
        >>> audit.verdict in ("not erased", "undecided"), audit.seen_before.shape
        (True, torch.Size([2, 3]))
    """
    kinds = tuple(tuple(each) for each in names)
    models = {"before": before, "erased": erased, "never trained": control}
    given = {name: model for name, model in models.items() if model is not None}
    numbers = {"count": count, "steps": steps, "sampling_steps": sampling_steps, "judge_steps": judge_steps}
    _check(list(given.values()), images, labels, kinds, concept, initial, templates, numbers)
    chosen = next(number for number, each in enumerate(kinds) if concept in each)
    if not 0 <= seed < 2**63 - 1:
        raise InputError(f"seed must be from 0 to 2**63 - 2, got {seed}")
    training, testing, rest = _parts(labels, kinds, torch.Generator().manual_seed(seed))
    shown = images[rest[labels[rest] == chosen]]

    def note(what: str, done: int, total: int) -> None:
        if progress is not None:
            progress(what, done, total)

    note("judge", 0, 1)
    judge = _judge(images[training], labels[training], len(kinds), judge_steps, seed)
    note("judge", 1, 1)
    accuracy = (judge.concepts(images[testing])[_FAMILY] == labels[testing]).double().mean().item()

    def drawn(model: Model, word: str, number: int) -> tuple[Tensor, Tensor]:
        """Give how many images of a word show each class, and how many nothing, and the first of them."""
        captions = [templates[row % len(templates)].replace("{}", word) for row in range(number)]
        draws = torch.Generator().manual_seed(seed + 1)
        shape = before.spec.shape
        made = generate(model, captions, shape, generator=draws, guidance=guidance, steps=sampling_steps)
        taken = judge.concepts(made)[_FAMILY].where(shows_anything(images, made), len(kinds))
        return taken.bincount(minlength=len(kinds) + 1), made[:_PICTURES]

    words = [
        (word, count if number == chosen else -(-count // 3)) for number, each in enumerate(kinds) for word in each
    ]
    place = [word for word, _ in words].index(concept)
    pictures = {"images of the concept": shown[:_PICTURES]}
    seen: dict[str, Tensor] = {}
    for title in ("before", "erased"):
        rows: list[Tensor] = []
        for row, (word, number) in enumerate(words):
            taken, some = drawn(given[title], word, number)
            note(f"words, {title}", row + 1, len(words))
            rows.append(taken)
            if row == place:
                pictures[f"{title}, by its word"] = some
        seen[title] = torch.stack(rows)
    history = min(_HISTORY, len(before.schedule))
    recovered: dict[str, Rate] = {}
    losses: dict[str, Tensor] = {}
    seconds: dict[str, float] = {}
    for title in ("erased", "never trained"):
        if title in given:
            note(f"attack, {title}", 0, 1)
            start = time.process_time()
            inverted = invert_concept(
                given[title],
                shown,
                generator=torch.Generator().manual_seed(seed),
                initial=initial,
                guidance=guidance,
                templates=templates,
                steps=steps,
                lr=0.02,
                history=history,
                history_range=max(history, round(_HISTORY_RANGE * len(before.schedule))),
            )
            seconds[title], losses[title] = time.process_time() - start, inverted.losses
            taken, some = drawn(given[title].with_words({_FOUND: inverted.embedding}), _FOUND, count)
            recovered[title] = Rate(int(taken[chosen]), count)
            note(f"attack, {title}", 1, 1)
            pictures[f"{title}, by a learned word"] = some
    return ErasureAudit(
        concept=concept,
        names=kinds,
        judge_accuracy=accuracy,
        recovered=recovered["erased"],
        control=recovered.get("never trained"),
        seen_before=seen["before"],
        seen_erased=seen["erased"],
        losses=losses["erased"],
        shown=len(shown),
        images=pictures,
        cpu_seconds=seconds["erased"],
    )


def _check(
    models: Sequence[Model],
    images: Tensor,
    labels: Tensor,
    names: tuple[tuple[str, ...], ...],
    concept: str,
    initial: str | None,
    templates: Sequence[str],
    numbers: dict[str, int],
) -> None:
    for name, value in numbers.items():
        least = _LEAST_COUNT if name == "count" else 1
        if value < least:
            raise InputError(f"{name} must be at least {least}, got {value}")
    if isinstance(templates, str) or not templates or not all("{}" in template for template in templates):
        raise InputError(f"templates must be captions with {{}} for a name, got {templates!r}")
    words = [word for each in names for word in each]
    if len(set(words)) < len(words) or not all(names) or len(names) < 2:
        raise InputError(f"names must be at least one for each class, each once, of at least two classes; got {names}")
    if concept not in words:
        raise InputError(f"concept must be a name of a class, got {concept!r}; {nearest(concept, words)}")
    for model in models:
        shape = (model.model if isinstance(model, Steered) else model).spec.shape
        if images.ndim != 4 or tuple(images.shape[1:]) != shape or len(images) != len(labels):
            raise InputError(
                f"images must be (N, {', '.join(map(str, shape))}), of the shape that the models draw, with a label "
                f"each; got {tuple(images.shape)} and {len(labels)} labels"
            )
        if any(side % _CELL for side in shape[1:]):
            raise InputError(f"sides of images must be multiples of {_CELL}, as the judge needs, got {shape}")
        if numbers["sampling_steps"] > len(model.schedule):
            raise InputError(
                f"sampling_steps must be at most the {len(model.schedule)} training times of each model, got "
                f"{numbers['sampling_steps']}"
            )
        if initial is not None and len(model.embedding_of(initial)) != 1:
            raise InputError(f"initial must be a word of one token, got {initial!r}")
        for word in words:
            model.condition([template.replace("{}", word) for template in templates], len(templates))


def _parts(
    labels: Tensor, names: tuple[tuple[str, ...], ...], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Split each class: half trains the judge, a quarter tests it, a quarter is left for the attack."""
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for number, each in enumerate(names):
        rows = (labels == number).nonzero()[:, 0]
        if len(rows) < 4 * _LEAST_SHOWN:
            raise InputError(
                f"the data must hold at least {4 * _LEAST_SHOWN} images of each class, of {each[0]!r} there are "
                f"{len(rows)}"
            )
        rows = rows[torch.randperm(len(rows), generator=generator)]
        half, quarter = len(rows) // 2, len(rows) // 4
        for part, cut in zip(parts, rows.split([half, quarter, len(rows) - half - quarter]), strict=True):
            part.append(cut)
    training, testing, rest = (torch.cat(part) for part in parts)
    return training, testing, rest


def _judge(images: Tensor, labels: Tensor, classes: int, steps: int, seed: int) -> Judge:
    """Train a judge, and give it in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = Judge((images.shape[1], images.shape[2], images.shape[3]), {_FAMILY: classes})
        optimizer = torch.optim.AdamW(judge.parameters(), lr=4e-3, fused=True)
        fit_classifier(
            judge,
            optimizer,
            images,
            labels,
            steps=steps,
            batch_size=64,
            generator=torch.Generator().manual_seed(seed),
            schedule=OneCycleLR(optimizer, 4e-3, total_steps=steps),
        )
    return judge.eval().requires_grad_(False)
