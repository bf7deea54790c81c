"""Recordings inside other traces of calls: neither hides anything from the other."""

import sys
from pathlib import Path
from types import FrameType

from paperweight.provenance import Recording, recording


def inner() -> None:
    pass


def outer(record: Recording) -> None:
    with recording(record):
        inner()


def names(record: Recording) -> set[int]:
    return {line for file, line in record.lines if file == __file__}


def test_an_inner_recording_hides_nothing_from_one_around_it() -> None:
    one, another = (Recording(Path(__file__).parent) for _ in range(2))
    with recording(one):
        outer(another)
    assert names(another) == {inner.__code__.co_firstlineno}
    assert names(one) == {inner.__code__.co_firstlineno, outer.__code__.co_firstlineno}


def test_a_trace_that_was_on_sees_what_a_recording_does_and_is_on_afterwards() -> None:
    """A replay of an older revision traces calls; what is built for a cache is recorded inside it."""
    seen: list[str] = []

    def trace(frame: FrameType, event: str, _: object) -> None:
        seen.append(f"{event} {frame.f_code.co_name}")

    record = Recording(Path(__file__).parent)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        outer(record)
        inner()
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert seen.count("call inner") == 2
    assert names(record) == {inner.__code__.co_firstlineno}
