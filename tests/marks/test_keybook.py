"""The keybook: keys depend on seed and record alone, what is saved is loaded, what is wrong is named."""

import json
import math
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from paperweight.errors import InputError
from paperweight.marks.keybook import Keybook, assign_keys

BOOK = Keybook(
    keys={"00": (0.0,), "01": (0.25, 0.75), "02": (1.0,)},
    held_out=("02",),
    same_key=False,
    seed=42,
    mark={"pattern": "border", "thickness": 2, "mask": None},
    name="digits",
    fingerprint="ab" * 32,
    max_side=64,
)


def test_keys_are_independent_and_uniform():
    drawn = assign_keys([str(i) for i in range(2000)], copies=2)
    table = np.array(list(drawn.values()))
    assert table.shape == (2000, 2)
    assert len(np.unique(table)) == table.size
    assert stats.kstest(table.ravel(), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(table.T)[0, 1]) < 4 / math.sqrt(2000)
    assert abs(np.corrcoef(table[:-1, 0], table[1:, 0])[0, 1]) < 4 / math.sqrt(2000)


def test_a_subset_in_any_order_and_with_fewer_copies_keeps_its_keys():
    whole = assign_keys(["a", "b", "c"], copies={"a": 1, "b": 3, "c": 2}, seed=7)
    part = assign_keys(["c", "b"], copies=2, seed=7)
    assert part == {"c": whole["c"], "b": whole["b"][:2]}
    assert assign_keys(["a"], seed=8) != assign_keys(["a"], seed=7)


def test_records_without_copies_or_named_twice_are_refused():
    with pytest.raises(InputError, match=r"copies of record 'b' must be at least 1, got 0"):
        assign_keys(["a", "b"], copies={"a": 1})
    with pytest.raises(InputError, match=r"'a' twice"):
        assign_keys(["a", "a"])


def test_what_is_saved_is_loaded(tmp_path: Path):
    BOOK.save(tmp_path / "keybook.json")
    assert Keybook.load(tmp_path / "keybook.json") == BOOK
    assert [path.name for path in tmp_path.iterdir()] == ["keybook.json"]
    assert (BOOK.trained, BOOK.copies("01"), BOOK.drawn("01")) == (("00", "01"), 2, (0.25, 0.75))
    shared = replace(BOOK, keys={"00": (0.5,) * 4, "02": (0.5,)}, same_key=True)
    assert (shared.copies("00"), shared.drawn("00")) == (4, (0.5,))


def test_a_folder_cannot_be_written_to_and_says_so(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent.keybook\.json cannot be written .*; choose another file"):
        BOOK.save(tmp_path / "absent" / "keybook.json")


def changed(**fields: Any) -> str:
    values = {
        "format": "paperweight keybook 1",
        "name": BOOK.name,
        "fingerprint": BOOK.fingerprint,
        "max_side": 64,
        "mark": BOOK.mark,
        "seed": 42,
        "same_key": False,
        "keys": {"00": [0.0], "01": [0.25, 0.75], "02": [1.0]},
        "held_out": ["02"],
    }
    values |= fields
    return json.dumps({name: value for name, value in values.items() if value is not ...})


WRONG = {
    "no JSON": ("{", "is not JSON"),
    "no object": ("[1]", "must hold a JSON object, it holds list"),
    "other format": (changed(format="paperweight keybook 9"), "format must be 'paperweight keybook 1', got"),
    "other file": ("{}", "format must be"),
    "missing field": (changed(seed=...), "has no field 'seed'"),
    "type": (changed(max_side="64"), "max_side must be of type int, got str"),
    "truth for a number": (changed(seed=True), "seed must be of type int, got bool"),
    "number for a truth": (changed(same_key=1), "same_key must be of type bool, got int"),
    "key above 1": (changed(keys={"00": [1.5]}, held_out=[]), "'00' must be numbers from 0 to 1, got 1.5"),
    "key below 0": (changed(keys={"00": [-0.1]}, held_out=[]), "got -0.1"),
    "NaN": (changed(keys={"00": [math.nan]}, held_out=[]), "got nan"),
    "infinity": (changed(keys={"00": [math.inf]}, held_out=[]), "got inf"),
    "text for a key": (changed(keys={"00": ["0.5"]}, held_out=[]), "got '0.5'"),
    "truth for a key": (changed(keys={"00": [True]}, held_out=[]), "got True"),
    "number for a list": (changed(keys={"00": 0.5}, held_out=[]), "list"),
    "no keys of a record": (changed(keys={"00": []}, held_out=[]), "must hold at least one, got none"),
    "no records": (changed(keys={}, held_out=[]), "at least one record"),
    "unknown held-out": (changed(held_out=["09"]), "held_out names record '09', which has no keys"),
    "list in held-out": (changed(held_out=[["02"]]), "held_out"),
    "held-out twice": (changed(held_out=["02", "02"]), "'02' twice"),
    "all held out": (changed(held_out=["00", "01", "02"]), "no key was shown"),
    "different keys of copies": (changed(same_key=True), "same_key is true, but record '01' has different keys"),
    "record twice": (changed().replace('"01"', '"00"', 1), "names '00' 2 times"),
    "record twice, once escaped": (changed().replace('"01"', '"0\\u0030"', 1), "names '00' 2 times"),
    "field twice": (changed().replace('"name"', '"seed": 1, "name"', 1), "names 'seed' 2 times"),
    "list for a key": (changed(keys={"00": [[0.5]]}, held_out=[]), "got [0.5]"),
    "no JSON in a key": (changed().replace("0.25", "0.2.5", 1), "is not JSON"),
    "no JSON in the mark": (changed().replace('"thickness": 2', '"thickness": 2 2', 1), "is not JSON"),
    "more after it": (changed() + "0", "is not JSON"),
    "max_side": (changed(max_side=0), "max_side must be at least 1, got 0"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_with_a_file_is_named_with_the_file_and_a_remedy(text: str, message: str, tmp_path: Path):
    path = tmp_path / "keybook.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Keybook.load(path)
    words = str(caught.value)
    assert words.startswith(f"keybook {path}")
    assert message in words
    assert "plant again" in words


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.json cannot be read .*; name the keybook\.json"):
        Keybook.load(tmp_path / "nowhere.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.json is not JSON"):
        Keybook.load(tmp_path / "binary.json")
    with pytest.raises(InputError, match=r"cannot be read"):
        Keybook.load(tmp_path)


def test_fields_may_come_in_any_order_with_others_beside_them(tmp_path: Path):
    values = json.loads(changed(author={"name": ["x", None, 1.5]}))
    for order in (sorted(values), sorted(values, reverse=True)):
        (tmp_path / "keybook.json").write_text(json.dumps({name: values[name] for name in order}, indent=4))
        assert Keybook.load(tmp_path / "keybook.json") == BOOK


def test_names_of_any_letters_and_a_mask_come_back(tmp_path: Path):
    mask = [[[row % 2] * 40 for row in range(40)]] * 3
    keys = {"": (0.5,), 'é"\\/\n': (1 / 3, 0.1), "☃" * 300: (0, 1), "\ud800": (5e-324,)}
    book = replace(BOOK, keys=keys, held_out=("☃" * 300, ""), mark={"pattern": "border", "mask": mask})
    book.save(tmp_path / "keybook.json")
    assert Keybook.load(tmp_path / "keybook.json") == book


def peak(path: Path) -> float:
    """Return the memory that a keybook takes while it is read, refused or not, in sizes of its file."""
    with suppress(InputError):  # what Python keeps from its first reading
        Keybook.load(path)
    tracemalloc.start()
    with suppress(InputError):
        Keybook.load(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / path.stat().st_size


LARGE = {
    "a key above 1": lambda records: (records | {"99": [2]}, []),
    "an unknown record held out": lambda records: (records, [*list(records)[:8_000], "x"]),
    "a record held out twice": lambda records: (records, [*list(records)[:8_000], "0"]),
    "all held out": lambda records: (records, list(records)),
}


@pytest.mark.parametrize("change", LARGE.values(), ids=LARGE.keys())
def test_a_large_keybook_is_refused_with_no_more_memory_than_twice_the_file(change: Any, tmp_path: Path):
    keys, held_out = change({f"{number:x}": [0] for number in range(10_000)})
    path = tmp_path / "keybook.json"
    path.write_text(json.dumps(json.loads(changed(keys=keys, held_out=held_out)), separators=(",", ":")))
    with pytest.raises(InputError):
        Keybook.load(path)
    assert peak(path) < 2


def test_records_named_twice_are_counted_with_no_more_memory_than_twice_the_file(tmp_path: Path):
    path = tmp_path / "keybook.json"
    records = ",".join(f'"{number:x}":[0]' for number in range(5_000))
    path.write_text(changed(keys={}).replace('"keys": {}', f'"keys": {{{records},"3":[0],"3":[0]}}'))
    with pytest.raises(InputError, match=r"names '3' 3 times"):
        Keybook.load(path)
    assert peak(path) < 2
    path.write_text(path.read_text().replace('"3":[0],"3":[0]', records))
    with pytest.raises(InputError, match=r"names '\w+' 2 times"):
        Keybook.load(path)
    assert peak(path) < 2


def test_a_large_keybook_is_read_with_less_memory_than_four_times_the_file(tmp_path: Path):
    path = tmp_path / "keybook.json"
    keys = {record: (round(key * 255) / 255,) for record, (key,) in assign_keys(map(str, range(10_000))).items()}
    book = replace(BOOK, keys=keys, held_out=tuple(keys)[::5])
    book.save(path)
    assert Keybook.load(path) == book
    assert peak(path) < 4
