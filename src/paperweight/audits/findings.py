"""What an audit of memorisation finds, and what may be concluded from it."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, final

from paperweight.bench.wording import number
from paperweight.marks.chance import NullCount

__all__ = ["ALARM_LEVEL", "FOUND_LEVEL", "GROUP_DELTA", "Count", "Group", "MemorizationAudit", "Readout", "RecordScore"]

ALARM_LEVEL = 0.01
"""An alarm is an accusation: stricter than the usual 0.05."""
FOUND_LEVEL = 0.05
GROUP_DELTA = 0.05

Readout = Literal["likelihood", "replace", "resample"]

_READOUTS: dict[Readout, str] = {
    "likelihood": "The likelihood read-out tries a grid of 40 keys: it misses a key by up to 1/78 even where the model "
    "knows it exactly. On small models of digits 60 records shown once were enough for it; when copies had keys of "
    "their own it mostly failed.",
    "replace": "The replacement read-out, the paper's, misses keys that a model does know, as the mark settles before "
    "the image is clear: on small models of digits it failed even with 16 copies of 60 records. Audit again with the "
    "likelihood read-out.",
    "resample": "The resampling read-out misses keys that a model does know, if fewer than the paper's. Audit again "
    "with the likelihood read-out.",
}


@final
@dataclass(frozen=True, slots=True)
class RecordScore:
    """What was found on one record.

    Args:
        record: Its name.
        held_out: Whether its keys were never shown.
        copies: Number of its copies in the training data, or that it would have had.
        keys: Its independently drawn keys.
        estimate: The key read out, the mean over repeats.
        key: The key nearest to it.
        score: Distance to the nearest key, the mean over repeats; lower is more memorised.
        hits: Repeats within 0.05 of a key.
        p: Probability that keys which were never shown come as near.
        q: The same adjusted by Benjamini and Hochberg's rule over the trained records; ``None`` where held out.
    """

    record: str
    held_out: bool
    copies: int
    keys: tuple[float, ...]
    estimate: float
    key: float
    score: float
    hits: int
    p: float
    q: float | None


@final
@dataclass(frozen=True, slots=True)
class Count:
    """How many records are within a distance of their key, beside what is expected of keys that were never shown.

    Args:
        delta: The distance.
        trained: Trained records within it.
        null: What is expected of them without memory.
        held_out: Held-out records within it.
        held_out_null: What is expected of those; ``None`` where there are none.
    """

    delta: float
    trained: int
    null: NullCount
    held_out: int
    held_out_null: NullCount | None


@final
@dataclass(frozen=True, slots=True)
class Group:
    """The trained records with one number of copies.

    Args:
        copies: Their number of copies.
        records: How many there are.
        hits: How many are within 0.05 of a key.
        null: What is expected of them without memory.
        auc: Probability that one of them has a lower p than a held-out record; 0.5 at chance.
        auc_null: The range that holds it with 95% probability without memory.
        p: Total p of this group alone; a hint, on which no alarm rests.
    """

    copies: int
    records: int
    hits: int
    null: NullCount
    auc: float
    auc_null: tuple[float, float]
    p: float


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MemorizationAudit:
    """What an audit found.

    Args:
        records: All records asked for, the trained ones first, each part by name.
        counts: Records within 0.1, 0.05 and 0.005 of their key, each beside its null.
        groups: The trained records by number of copies.
        total_p: Probability that keys dealt anew to the trained records come as near, by Fisher's combination.
        control_p: The same of the held-out records, which must be small by chance only; ``None`` where there are none.
        auc: Probability that a trained record has a lower p than a held-out one; not a number without held-out records.
        auc_null: The range that holds it with 95% probability without memory.
        roc: Shares of held-out and of trained records at or below each p.
        floor: Mean distance between a key and the one read after encoding and decoding alone; ``None`` without a vae.
        readout: How the keys were read.
        repeats: Estimates a record.
        steps: Steps of outpainting asked for.
        seed: What noise and permutations were drawn with.
        wall_seconds: Time on the clock of asking for the keys.
        cpu_seconds: Computing time of it.
        guidance: Weight of classifier-free guidance in outpainting; 1 is none.
    """

    records: tuple[RecordScore, ...]
    counts: tuple[Count, ...]
    groups: tuple[Group, ...]
    total_p: float
    control_p: float | None
    auc: float
    auc_null: tuple[float, float]
    roc: tuple[tuple[float, float], ...]
    floor: float | None
    readout: Readout
    repeats: int
    steps: int | None
    seed: int
    wall_seconds: float
    cpu_seconds: float
    guidance: float = 1.0

    @property
    def alarm(self) -> bool:
        """Whether the total p is at most 0.01: stricter than the usual 0.05, as an alarm is an accusation."""
        return self.total_p <= ALARM_LEVEL

    @property
    def trained(self) -> tuple[RecordScore, ...]:
        """The records whose keys were shown."""
        return tuple(score for score in self.records if not score.held_out)

    @property
    def held_out(self) -> tuple[RecordScore, ...]:
        """The records whose keys never were."""
        return tuple(score for score in self.records if score.held_out)

    @property
    def found(self) -> tuple[RecordScore, ...]:
        """The records with q at most 0.05, by p: among them an expected share of at most 5% is found wrongly."""
        significant = [score for score in self.trained if score.q is not None and score.q <= FOUND_LEVEL]
        return tuple(sorted(significant, key=lambda score: (score.p, score.score)))

    @property
    def verdict(self) -> str:
        """``alarm`` or ``no alarm``."""
        return "alarm" if self.alarm else "no alarm"

    def words(self) -> str:
        """Return the verdict in sentences: what was found, beside what chance gives."""
        count = next(count for count in self.counts if count.delta == GROUP_DELTA)
        records = len(self.trained)
        p = f"p = {self.total_p:.2g}, over {_many(records, 'record')}"
        if self.alarm:
            first = (
                f"The generator gives back keys that it can only know from these records: the keys read out are nearer "
                f"to the true ones than keys that were never shown would be ({p})."
            )
        else:
            first = (
                f"It was not shown that the generator memorised these records: the keys read out are no nearer to "
                f"the true ones than chance allows ({p}; an alarm needs at most {ALARM_LEVEL:g})."
            )
        sentences = [first, _beside_chance(count, records, len(self.held_out))]
        named = len(self.found)
        sentences.append(
            f"{_many(named, 'single record')} can be named with a false discovery rate of at most {FOUND_LEVEL:.0%}."
            if named
            else "No single record can be named."
        )
        if self.control_p is not None and self.control_p <= ALARM_LEVEL:
            sentences.append(
                f"Beware: the held-out records, whose keys were never shown, stand out too (p = {self.control_p:.2g}). "
                "Chance does so in one audit in a hundred; maybe they, or the keybook, did get into the training."
            )
        return " ".join(sentences)

    def limits(self) -> list[str]:
        """Return in sentences what may not be concluded."""
        held_out = self.control_p is not None
        sentences = [
            "An alarm says that keys were memorised, in records of this training set; how much of a content came with "
            "them it does not say."
            if self.alarm
            else "No alarm is no certificate: a high p does not show that nothing is memorised, only that this "
            "read-out, with so many records, did not show it.",
            _READOUTS[self.readout],
            "A key has 256 levels, so that a perfect recall of one key has p = 1/255 (1/510 of black and white): "
            "single records can be named only where many are recalled.",
            "Nothing follows about images without a key, about other training runs, or about prompts other than the "
            "record's own.",
        ]
        if not held_out:
            sentences.append("Without held-out records there is no control and no AUC; the p-values do not need them.")
        if self.floor is not None:
            sentences.append(
                f"Encoding and decoding alone, without diffusion, moves a key by {number(self.floor)} on average: no "
                "read-out of this model comes nearer."
            )
        return sentences

    def record(self) -> dict[str, Any]:
        """Return all of it as plain values for JSON; what is no number is ``None``."""
        plain: dict[str, Any] = _plain({"verdict": self.verdict, "alarm": self.alarm, "words": self.words()})
        return {**plain, "limits": self.limits(), **_plain(asdict(self))}

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one flat row a record."""
        return [
            {**asdict(score), "keys": " ".join(f"{key:.4f}" for key in score.keys), "readout": self.readout}
            for score in self.records
        ]


def _plain(value: Any) -> Any:
    """Give nested plain values with ``None`` for what is no number."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in cast(dict[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast(list[Any], value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _beside_chance(count: Count, records: int, held_out: int) -> str:
    control = f", and {count.held_out} of {_many(held_out, 'held-out record')} are" if held_out else ""
    return (
        f"{count.trained} of {_many(records, 'record')} are within {count.delta:g} of their key, where "
        f"{number(count.null.mean)} ({count.null.low} to {count.null.high}) are expected without memory{control}."
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
