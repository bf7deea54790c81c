"""Whether the user's network still starts from the weights that a record was computed from."""

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from paperweight.bench.trial import FINISHED, TrialRecord, TrialSpec
from paperweight.studies import Setting

__all__ = ["starting_alike", "starting_weights"]


def starting_weights(spec: TrialSpec, places: Sequence[str]) -> dict[str, str]:
    """Return hashes of the weights that the user's network starts from, in this process.

    Args:
        spec: A trial with a network.
        places: What it is built for, as ``TrialRecord.starts`` has it.

    Raises:
        InputError: If the network cannot be used.
    """
    found: dict[str, str] = {}
    for place in places:
        study, seed, shape, classes = place.rsplit(" ", 3)
        setting = Setting(study=study, seed=int(seed), budget=spec.budget, network=spec.network)
        channels, height, width = map(int, shape.split("x"))
        setting.network((channels, height, width), int(classes), default=_no_default)
        found |= setting.starts
    return found


def _no_default(*_: object) -> nn.Module:
    raise NotImplementedError


def starting_alike(
    records: Mapping[str, TrialRecord], ask: Callable[[TrialSpec, list[str]], Mapping[str, str]]
) -> dict[str, TrialRecord]:
    """Return the records whose network starts from the same weights now, and those without a network.

    Args:
        records: Key to record.
        ask: Returns hashes of start weights: `Engine.starting_weights`.
    """
    given = [record for record in records.values() if record.spec.network is not None]
    places = sorted({place for record in given for place in record.starts})
    now = ask(given[0].spec, places) if places else dict[str, str]()

    def alike(record: TrialRecord) -> bool:
        if record.spec.network is None:
            return True
        if not record.starts:
            return record.status not in FINISHED
        return all(now.get(place) == start for place, start in record.starts.items())

    return {key: record for key, record in records.items() if alike(record)}
