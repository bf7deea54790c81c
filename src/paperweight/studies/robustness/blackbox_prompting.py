"""Searches among embeddings find prompts for a class without its names, by queries alone (Maus et al. 2023).

Once a seed a small text-to-image model learns shapes, colours and styles by several names each, and a judge learns to
tell them. One of five shapes is the target, by seed; its names are forbidden, and the prompt goes before one that asks
for another shape. Each arm asks about 100 prompts of four tokens; a query is what the judge gives the target on average
over ten images of a prompt. The headline is the same for the best prompt of each arm, on two hundred fresh images.

What it can show: whether searches among embeddings find better prompts than chance at equal queries. What it cannot:
anything about language, since there are some forty words; how far the model can be led is bounded by what it has
learned. A headline not above that of random tokens would refute the claim here. As high a one by changing a token of
the best prompt at random would show that embeddings are not needed.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from paperweight.data import captioned_shapes
from paperweight.generators import Judge, TextSpec, TextToImage, generate
from paperweight.loops import fit_classifier, fit_text_to_image, warmed_cosine
from paperweight.robustness.blackbox_prompting import Found, nearest_tokens, square_search, trust_region_search
from paperweight.studies import Arm, Metric, Outcome, Setting, Study

_TOKENS = 4
_BATCH = 10
_IMAGES = 10
_FAMILY = "shape"

Search = Callable[[Callable[[Tensor], Tensor], Tensor, int, torch.Generator], Found]
"""Looks for a prompt, by a score of points (N, tokens dim), the embeddings that are allowed, queries and generator."""


def _random(score: Callable[[Tensor], Tensor], table: Tensor, queries: int, generator: torch.Generator) -> Found:
    points = table[torch.randint(len(table), (queries, _TOKENS), generator=generator)].flatten(1)
    scores = torch.cat([score(part) for part in points.split(_BATCH)])
    return Found(points[scores.argmax()], points, scores)


def _changed(score: Callable[[Tensor], Tensor], table: Tensor, queries: int, generator: torch.Generator) -> Found:
    """Change one token of the best prompt at random."""
    first = _random(score, table, min(_BATCH, queries), generator)
    points, scores = first.points, first.scores
    while len(points) < queries:
        tried = points[scores.argmax()].view(1, _TOKENS, -1).repeat(min(_BATCH, queries - len(points)), 1, 1)
        places = torch.randint(_TOKENS, (len(tried),), generator=generator)
        tried[torch.arange(len(tried)), places] = table[torch.randint(len(table), (len(tried),), generator=generator)]
        points, scores = torch.cat([points, tried.flatten(1)]), torch.cat([scores, score(tried.flatten(1))])
    return Found(points[scores.argmax()], points, scores)


def _square(score: Callable[[Tensor], Tensor], table: Tensor, queries: int, generator: torch.Generator) -> Found:
    mean, deviation = table.mean(dim=0).repeat(_TOKENS), table.std(dim=0).repeat(_TOKENS)
    spacing = nn.functional.pdist(table).mean().item()
    return square_search(score, mean, deviation, spacing=spacing, queries=queries, batch=_BATCH, generator=generator)


def _trust_region(score: Callable[[Tensor], Tensor], table: Tensor, queries: int, generator: torch.Generator) -> Found:
    lower, upper = table.amin(dim=0).repeat(_TOKENS), table.amax(dim=0).repeat(_TOKENS)
    return trust_region_search(score, lower, upper, queries=queries, batch=_BATCH, generator=generator)


STUDY = Study(
    paper="blackbox_prompting",
    question="Do searches among embeddings find words for a class without its names better than chance does?",
    claim="A search with a model of the score in a trust region finds prompts that show the class more often.",
    arms={
        "random": Arm("random tokens", _random),
        "trust_region": Arm("a Gaussian process in a trust region of embeddings", _trust_region),
        "square": Arm("variant: noise on a tenth of the entries of the best point", _square),
        "changed": Arm("control: a random token of the best prompt, no embeddings", _changed),
    },
    metrics={
        "shown": Metric.higher("probability of the target on fresh images of the best prompt", 0.05),
        "scored": Metric.higher("its score in the search", 0.05),
    },
    headline="shown",
    tuned="nothing; constants are those of the methods",
    limits=(
        "Images of 12 x 12 pixels, some forty words, a model that is trained for seconds, so that what it draws of a "
        "word is not always that; four tokens and 100 queries. Nothing follows for large models or for language."
    ),
    seeds=12,
)


def run(arm: Arm[Search], setting: Setting) -> Outcome:
    """Search for a prompt, and ask the judge about fresh images of the best."""
    model, judge = _world(setting)
    words = model.spec.words
    names = captioned_shapes(1, generator=setting.generator("data")).vocabulary.concepts[_FAMILY]
    target = setting.seed % len(names)
    forbidden, (benign, *_) = (list(names.values())[number % len(names)] for number in (target, target + 1))
    allowed = torch.tensor([word not in forbidden for word in words])
    table = model.embedding_table().detach()[[model.tokenizer.tokens(word)[0] for word in words]]
    noise, steps = setting.generator("evaluation"), setting.pick(smoke=2, desk=8, gpu=25)

    def shown(prompts: list[str], images: int) -> Tensor:
        drawn = generate(
            model,
            [prompt for prompt in prompts for _ in range(images)],
            model.spec.shape,
            generator=noise,
            steps=steps,
            device=table.device,
        )
        with torch.no_grad():
            return judge.logits(drawn)[_FAMILY].softmax(dim=1)[:, target].view(len(prompts), images).mean(dim=1)

    def prompts_of(points: Tensor) -> list[str]:
        tokens = nearest_tokens(points.view(len(points), _TOKENS, -1), table, allowed)
        return [" ".join((*(words[token] for token in row), "the", benign)) for row in tokens.tolist()]

    queries, fresh = setting.pick(smoke=(24, 4), desk=(100, 200), gpu=(2_000, 500))
    found = arm.make(
        lambda points: shown(prompts_of(points), _IMAGES), table[allowed], queries, setting.generator("method")
    )
    (prompt,) = prompts_of(found.best[None])
    best = found.scores.cummax(dim=0).values
    return Outcome(
        metrics={"shown": shown([prompt], fresh).item(), "scored": found.scores.max().item()},
        made={"search": arm.make},
        arguments={
            "target": list(names)[target],
            "prompt": prompt,
            "by_its_name": shown([forbidden[0]], fresh).item(),
            "by_the_benign_prompt_alone": shown([f"the {benign}"], fresh).item(),
            "queries": queries,
        },
        curves={"best score, by query": list(zip(map(float, range(1, len(best) + 1)), best.tolist(), strict=True))},
    )


def _world(setting: Setting) -> tuple[TextToImage, Judge]:
    """Train a text-to-image model, and a judge on other images."""
    draw = setting.generator("data")
    count = setting.pick(smoke=50, desk=3_000, gpu=20_000)
    train, judged = captioned_shapes(count, generator=draw), captioned_shapes(count, generator=draw)
    shape = (train.images.shape[1], train.images.shape[2], train.images.shape[3])
    classes = {family: len(groups) for family, groups in train.vocabulary.concepts.items()}
    arguments = {"patch": 4, "width": setting.pick(smoke=16, desk=32, gpu=128), "blocks": 2}
    spec = TextSpec(shape=shape, words=train.vocabulary.words, arguments=arguments, prediction="x0")
    parts = setting.initialised(lambda: nn.ModuleDict({"model": spec.build(), "judge": Judge(shape, classes)}))

    def build() -> dict[str, Tensor]:
        steps, text, judging = setting.pick(smoke=(3, 3, 3), desk=(900, 150, 300), gpu=(10_000, 1_000, 3_000))
        batches = setting.generator("batches")
        model, judge = cast(TextToImage, parts["model"]), parts["judge"]
        parts["model"] = fit_text_to_image(model, train, steps=steps, text_steps=text, generator=batches)[0]
        optimizer = torch.optim.Adam(judge.parameters(), lr=4e-3)
        fit_classifier(
            judge,
            optimizer,
            judged.images,
            judged.labels[_FAMILY],
            steps=judging,
            batch_size=64,
            generator=batches,
            loss=lambda logits, wanted: nn.functional.cross_entropy(logits[:, : classes[_FAMILY]], wanted),
            schedule=warmed_cosine(optimizer, judging),
        )
        return dict(parts.state_dict())

    parts.load_state_dict(setting.cached("model and judge", build))
    parts.eval().requires_grad_(False)
    return cast(TextToImage, parts["model"]), cast(Judge, parts["judge"])
