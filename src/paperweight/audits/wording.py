"""The findings of an audit in sentences."""

from paperweight.audits.findings import ALARM_LEVEL, FOUND_LEVEL, GROUP_DELTA, Count, MemorizationAudit
from paperweight.bench.weighing import number

__all__ = ["in_words", "limits_in_words"]

_READOUTS = {
    "likelihood": "The likelihood read-out tries a grid of 40 keys: it misses a key by up to 1/78 even where the model "
    "knows it exactly. On small models of digits 60 records shown once were enough for it; when copies had keys of "
    "their own it mostly failed.",
    "replace": "The replacement read-out, the paper's, misses keys that a model does know, as the mark settles before "
    "the image is clear: on small models of digits it failed even with 16 copies of 60 records. Audit again with the "
    "likelihood read-out.",
    "resample": "The resampling read-out misses keys that a model does know, if fewer than the paper's. Audit again "
    "with the likelihood read-out.",
}


def in_words(audit: MemorizationAudit) -> str:
    """Return the verdict: what was found, beside what chance gives."""
    count = next(count for count in audit.counts if count.delta == GROUP_DELTA)
    records = len(audit.trained)
    p = f"p = {audit.total_p:.2g}, over {_many(records, 'record')}"
    if audit.alarm:
        first = (
            f"The generator gives back keys that it can only know from these records: the keys read out are nearer to "
            f"the true ones than keys that were never shown would be ({p})."
        )
    else:
        first = (
            f"It was not shown that the generator memorised these records: the keys read out are no nearer to the true "
            f"ones than chance allows ({p}; an alarm needs at most {ALARM_LEVEL:g})."
        )
    sentences = [first, _beside_chance(count, records, len(audit.held_out))]
    found = len(audit.found)
    sentences.append(
        f"{_many(found, 'single record')} can be named with a false discovery rate of at most {FOUND_LEVEL:.0%}."
        if found
        else "No single record can be named."
    )
    if audit.control_p is not None and audit.control_p <= ALARM_LEVEL:
        sentences.append(
            f"Beware: the held-out records, whose keys were never shown, stand out too (p = {audit.control_p:.2g}). "
            "Chance does so in one audit in a hundred; maybe they, or the keybook, did get into the training."
        )
    return " ".join(sentences)


def _beside_chance(count: Count, records: int, held_out: int) -> str:
    control = f", and {count.held_out} of {_many(held_out, 'held-out record')} are" if held_out else ""
    return (
        f"{count.trained} of {_many(records, 'record')} are within {count.delta:g} of their key, where "
        f"{number(count.null.mean)} ({count.null.low} to {count.null.high}) are expected without memory{control}."
    )


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def limits_in_words(audit: MemorizationAudit) -> list[str]:
    """Return what may not be concluded."""
    held_out = audit.control_p is not None
    sentences = [
        "An alarm says that keys were memorised, in records of this training set; how much of a content came with them "
        "it does not say."
        if audit.alarm
        else "No alarm is no certificate: a high p does not show that nothing is memorised, only that this read-out, "
        "with so many records, did not show it.",
        _READOUTS[audit.readout],
        "A key has 256 levels, so that a perfect recall of one key has p = 1/255 (1/510 of black and white): single "
        "records can be named only where many are recalled.",
        "Nothing follows about images without a key, about other training runs, or about prompts other than the "
        "record's own.",
    ]
    if not held_out:
        sentences.append("Without held-out records there is no control and no AUC; the p-values do not need them.")
    if audit.floor is not None:
        sentences.append(
            f"Encoding and decoding alone, without diffusion, moves a key by {number(audit.floor)} on average: no "
            "read-out of this model comes nearer."
        )
    return sentences
