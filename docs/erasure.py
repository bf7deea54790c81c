"""The page of verdicts on erasers, from the official result of the attack."""

from collections.abc import Iterator

from paperweight.audits.erasers import RULE, Spread, judge_erasers
from paperweight.catalogue import find, official_result

STUDY = "concept_inversion"
NEVER_TRAINED, NOT_ERASED = "never_trained", "not_erased"
IMAGES = 64


def page() -> Iterator[str]:
    """Yield the lines of the page."""
    official = official_result(find(STUDY))
    yield "# Erased concepts: removed, hidden or not erased?\n"
    if official is None:
        yield "Not weighed yet."
        return
    record = official.record
    models = len(record["measured"]["seeds"])
    yield (
        "Each eraser was told to erase one word of a small text-to-image model, at a strength chosen for at most five "
        f"points of damage to other words; then [{STUDY}]({STUDY}.md) learned a new word for the concept. Means over "
        f"{models} models with intervals: images by the concept's own word; images by the learned word, less those by "
        "one learned on a model that never saw the concept; and right images by all other words, against the model as "
        "it was.\n"
    )
    if official.stale:
        yield f"The result is stale: {', '.join(official.changed)} changed since.\n"
    yield "| eraser | verdict | by its word | recovered, beyond never trained | by another judge | other words |"
    yield "|---|---|---|---|---|---|"
    measured = record["measured"]
    erasers = [arm for arm in measured["arms"] if arm not in (NEVER_TRAINED, NOT_ERASED)]
    found = judge_erasers(
        measured["values"], erasers, never_trained=NEVER_TRAINED, not_erased=NOT_ERASED, images=IMAGES
    )
    for row in found:
        beyond = (_shown(value, "+") for value in (row.recovered, row.other_judge, row.others))
        yield f"| [{row.eraser}]({row.eraser}.md) | **{row.verdict}** | {' | '.join((_shown(row.word), *beyond))} |"
    yield f"\n{RULE}"
    yield (
        f"The intervals over models decide. Erasers do not fare alike on all models; taken one by one, with the "
        f"intervals of {IMAGES} images each:\n"
    )
    yield f"| eraser | {' | '.join(found[0].models)} |"
    yield "|---|" + "---|" * len(found[0].models)
    for row in found:
        yield f"| {row.eraser} | {' | '.join(str(count) for count in row.models.values())} |"
    yield f"\n{record['concluded']['limits']}"


def _shown(value: Spread, sign: str = "") -> str:
    return f"{value.mean:{sign}.2f} ({value.low:{sign}.2f} to {value.high:{sign}.2f})"
