"""The audit against generators whose memory is known, and against keys that nobody was shown."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.audits.oracles import Lookup, Rounding, lookup
from torch import Tensor

from paperweight.auditing.solidmark import recall_keys
from paperweight.audits import MemorizationAudit, audit_memorization, plant
from paperweight.audits.judging import Facts, judge
from paperweight.audits.memorization import marked_by
from paperweight.errors import InputError
from paperweight.generators import ModelSpec
from paperweight.marks.chance import draw_keys
from paperweight.marks.keybook import Keybook


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Keybook:
    folder = tmp_path_factory.mktemp("planting") / "out"
    return plant("digits", folder, thickness=2, copies=[1, 4], records=60, held_out=1 / 3).keybook


def replaced(model: Lookup, digits: Tensor, book: Keybook) -> MemorizationAudit:
    return audit_memorization(model, digits, book, readout="replace", permutations=499)


def test_a_generator_that_knows_every_record_is_found_out(book: Keybook, digits: Tensor):
    audit = replaced(lookup(book, digits, set(book.trained)), digits, book)
    assert max(score.score for score in audit.trained) < 1e-5
    assert [score.record for score in audit.trained] == sorted(book.trained)
    assert audit.alarm
    assert audit.verdict == "alarm"
    assert audit.total_p == 1 / 500
    assert audit.auc > 0.99
    assert [count.trained for count in audit.counts] == [40, 40, 40]
    assert all(count.null.mean < 20 for count in audit.counts)
    assert [group.auc > 0.98 for group in audit.groups] == [True, True]
    assert len(audit.found) == 40
    assert audit.control_p is not None
    assert audit.control_p > 0.01
    assert audit.floor is None
    assert "can only know from these records" in audit.words()
    for score in audit.trained:
        p = 1 / 255 if 0 < score.key < 1 else 1 / 510
        assert score.p == pytest.approx(1 - (1 - p) ** len(score.keys))
        assert score.key == pytest.approx(book.keys[score.record][-1])


def test_a_generator_that_knows_half_of_them_is_found_out_and_only_that_half(book: Keybook, digits: Tensor):
    known = set(sorted(book.trained)[::2])
    audit = replaced(lookup(book, digits, known), digits, book)
    for score in audit.trained:
        if score.record in known:
            assert score.score < 1e-5
        else:
            assert score.estimate == pytest.approx(0.5, abs=1e-5)
    assert audit.alarm
    assert {score.record for score in audit.found} >= known
    assert 0.6 < audit.auc < 0.9


def test_a_generator_that_knows_nothing_raises_no_alarm_and_gets_no_certificate(book: Keybook, digits: Tensor):
    audit = replaced(lookup(book, digits, set()), digits, book)
    assert not audit.alarm
    assert audit.found == ()
    assert audit.auc_null[0] < audit.auc < audit.auc_null[1]
    assert "It was not shown" in audit.words()
    assert "No alarm is no certificate" in " ".join(audit.limits())
    ones = [score for score in audit.trained if score.copies == 1]
    for score in ones:  # an estimate of 0.5 has P(nearer) = 2 l, up to the rounding of keys
        assert score.p == pytest.approx(min(1, 2 * abs(0.5 - score.key)), abs=1 / 255 + 1e-6)


def test_keys_that_got_out_are_noticed_at_the_held_out_records(book: Keybook, digits: Tensor):
    audit = replaced(lookup(book, digits, set(book.held_out)), digits, book)
    assert not audit.alarm
    assert audit.control_p == 1 / 500
    assert "Beware: the held-out records" in audit.words()


def test_the_floor_of_a_vae_is_how_far_it_moves_a_key(book: Keybook, digits: Tensor):
    audit = replaced(lookup(book, digits, set(book.trained), Rounding), digits, book)
    first = np.array([book.keys[score.record][0] for score in audit.records])
    assert audit.floor == pytest.approx(np.abs(0.25 - first / 2).mean(), abs=1e-6)
    assert "Encoding and decoding alone" in " ".join(audit.limits())


def test_false_alarms_are_rarer_than_one_in_twenty(book: Keybook, digits: Tensor):
    """The keys of 200 runs are drawn anew; the read-out sees no keys, so that one generator's estimates serve all."""
    records = (sorted(book.trained), sorted(book.held_out))
    index = [int(record) for part in records for record in part]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ModelSpec(shape=(1, 12, 12), arguments={"width": 32}, steps=20).build().eval()
    seeded = torch.Generator().manual_seed(0)
    estimates = recall_keys(model, digits[index], marked_by(book), readout="replace", generator=seeded)
    generator = np.random.default_rng(3)
    audits = []
    for _ in range(200):
        keys = {record: tuple(draw_keys(generator, (len(own),), 256).tolist()) for record, own in book.keys.items()}
        facts = Facts("replace", 1, None, 0, None, 0.0, 0.0)
        audits.append(judge(replace(book, keys=keys), records, estimates.double().numpy(), 99, facts))
    assert sum(audit.alarm for audit in audits) <= 10
    assert sum(bool(audit.found) for audit in audits) <= 10 + 4 * math.sqrt(200 * 0.05 * 0.95)
    count = [audit.counts[0] for audit in audits]
    assert np.mean([c.null.low <= c.trained <= c.null.high for c in count]) >= 0.9
    assert abs(np.mean([audit.auc for audit in audits]) - 0.5) < 4 * 0.08 / math.sqrt(200)


def test_repeats_labels_and_a_limit(book: Keybook, digits: Tensor):
    seen: list[tuple[str, int, int]] = []
    audit = audit_memorization(
        lookup(book, digits, set(book.trained)),
        digits,
        book,
        given=torch.zeros(len(digits), dtype=torch.int64),
        readout="replace",
        repeats=3,
        steps=5,
        limit=30,
        permutations=99,
        progress=lambda *done: seen.append(done),
    )
    assert (len(audit.trained), len(audit.held_out)) == (20, 10)
    assert audit.alarm
    assert all(score.hits == 3 for score in audit.trained)
    assert seen[-1] == ("keys read", 90, 90)
    smallest = audit_memorization(
        lookup(book, digits, set()), digits, book, readout="replace", steps=2, limit=2, permutations=99
    )
    assert (len(smallest.trained), len(smallest.held_out)) == (1, 1)


def test_without_held_out_records_there_is_no_control(tmp_path: Path, digits: Tensor):
    book = plant("digits", tmp_path / "out", records=20, held_out=0).keybook
    audit = replaced(lookup(book, digits, set(book.trained)), digits, book)
    assert audit.alarm
    assert math.isnan(audit.auc)
    assert (audit.control_p, audit.roc, audit.held_out) == (None, (), ())
    assert "no control and no AUC" in " ".join(audit.limits())
    assert audit.record()["auc"] is None


def test_rows_and_record_are_plain(book: Keybook, digits: Tensor):
    audit = replaced(lookup(book, digits, set()), digits, book)
    rows = audit.to_rows()
    assert len(rows) == 60
    assert {type(value) for row in rows for value in row.values()} <= {str, int, float, bool, type(None)}
    record = audit.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["counts"][0]["delta"] == 0.1
    assert record["records"][0]["record"] == rows[0]["record"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"limit": 1}, "limit must be at least 2"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"seed": 10**40}, "seed must be from 0 to"),
        ({"permutations": 50}, "permutations must be at least 99"),
        ({"repeats": 0}, "repeats and batch_size must be at least 1"),
        ({"given": torch.zeros(3)}, "given must be one label or caption an image, got 3 for 1797"),
        ({"readout": "guess"}, "readout must be"),
    ],
)
def test_what_does_not_fit_is_refused(book: Keybook, digits: Tensor, arguments: dict, message: str):
    with pytest.raises(InputError, match=message):
        audit_memorization(lookup(book, digits, set()), digits, book, **{"readout": "replace", "steps": 1, **arguments})


def test_images_and_marks_that_are_not_those_of_the_keybook_are_refused(book: Keybook, digits: Tensor):
    model = lookup(book, digits, set())
    with pytest.raises(InputError, match="all of the data that were planted"):
        audit_memorization(model, digits[:5], book)
    with pytest.raises(InputError, match="the keybook's mark"):
        audit_memorization(model, digits, replace(book, mark={"pattern": "frame"}))


def test_a_model_that_diverged_is_named(book: Keybook, digits: Tensor):
    model = lookup(book, digits, set())
    model.memory = model.memory * math.nan
    with pytest.raises(InputError, match="not finite"):
        replaced(model, digits, book)
