"""A table of models: derived numbers by hand, lines that are left out or misprinted, faults told by file and line."""

import pytest

from paperweight.errors import InputError
from paperweight.robustness.data_budget import effective_robustness, meta_table

LINES = (
    "name,family,val,v2,sketch,mean",
    "a,plain,0.5,0.3,0.1,0.2",
    "b,plain,0.8,0.6,0.4,0.5",
    "c,clip,0.8,0.7,0.0,0.7",
    "d,clip,0.7,,0.3,0.3",
    "e,clip,0,0.1,0.3,0.2",
    "f,plain,0.6,nan,0.3,",
)
GIVEN = {"accuracy": "val", "shifted": ["v2", "sketch"], "reference": lambda row: row["family"] == "plain"}


def written(folder, *lines):
    path = folder / "models.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_derived_number_is_computed_anew(tmp_path):
    table = meta_table(written(tmp_path, *LINES), **GIVEN, printed="mean")
    assert [row["name"] for row in table.rows] == ["a", "b", "c"]
    assert [row["average"] for row in table.rows] == pytest.approx([0.2, 0.5, 0.35])
    assert [row["ratio"] for row in table.rows] == pytest.approx([0.4, 0.625, 0.4375])
    found = effective_robustness(0.8, [0.7, 0.0], table.curve)
    assert [row["residual"] for row in table.rows] == pytest.approx([0.0, 0.0, found.residual.item()], abs=1e-9)
    assert found.residual.item() == pytest.approx(-0.15)
    assert table.incomplete == (5, 6, 7)
    assert table.misprinted == (4,)


def test_a_mark_of_byte_order_does_not_hide_the_first_column(tmp_path):
    path = tmp_path / "models.csv"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(line.split(",", 2)[2] for line in LINES[:3]).encode())
    assert len(meta_table(path, accuracy="val", shifted=["v2", "sketch"], reference=lambda row: True).rows) == 2


def test_what_cannot_be_read_is_told(tmp_path):
    path = written(tmp_path, *LINES)
    with pytest.raises(InputError, match=r"models\.csv has no column v3; its columns are name, family"):
        meta_table(path, **GIVEN | {"shifted": ["v2", "v3"]})
    with pytest.raises(InputError, match=r"to the 0 reference models"):
        meta_table(path, **GIVEN | {"reference": lambda row: False})
    with pytest.raises(InputError, match=r"line 2: v2 must be an accuracy from 0 to 1, got '30%'"):
        meta_table(written(tmp_path, LINES[0], "a,plain,0.5,30%,0.1,0.2"), **GIVEN)
    with pytest.raises(InputError, match="line 2: it has more entries than there are columns"):
        meta_table(written(tmp_path, LINES[0], "a,plain,0.5,0.3,0.1,0.2,9"), **GIVEN)
    with pytest.raises(InputError, match="names of columns that differ"):
        meta_table(written(tmp_path, LINES[0] + ",val", "a,plain,0.5,0.3,0.1,0.2,9"), **GIVEN)
    with pytest.raises(InputError, match=r"none\.csv must be a CSV file that can be read"):
        meta_table(tmp_path / "none.csv", **GIVEN)
    with pytest.raises(ValueError, match="shifted must be names of columns"):
        meta_table(path, **GIVEN | {"shifted": "v2"})
