"""Columns of tables as people save them: decimal commas, percent, dates, identifiers, long times, no header."""

from pathlib import Path

import numpy as np
import pytest

from paperweight.data import Table, load_table
from paperweight.errors import InputError

ROWS = range(60)


def _table(root: Path, text: str, target: str | None = None) -> Table:
    (root / "t.csv").write_text(text, encoding="utf-8")
    return load_table(root / "t.csv", target=target)


@pytest.mark.parametrize("mark", ["?", "-", "unknown", "n. a.", "<5"])
def test_a_word_among_numbers_is_named(mark: str, tmp_path: Path) -> None:
    text = "age,ill\n" + "".join(f"{mark if i == 7 else 30 + i % 40},{i % 2}\n" for i in ROWS)
    with pytest.raises(InputError) as caught:
        _table(tmp_path, text)
    assert f"column 'age' holds {mark!r} in row 8, no number as 98% of its cells are" in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "delimiter", "numbers", "note"),
    [
        (["0,5", "-1,25", "12"], ";", [0.5, -1.25, 12], "decimal commas were read as points"),
        (["1.234,5", "0,5", "2"], ";", [1234.5, 0.5, 2], "decimal commas were read as points"),
        (["0,5", "1,234", "2"], "\t", [0.5, 1.234, 2], "decimal commas were read as points"),
        (['"1,234,567"', '"12,000"', "7"], ",", [1234567, 12000, 7], "commas between thousands were left out"),
        (['"0,5"', '"1,25"', '"2,0"'], ",", [0.5, 1.25, 2], "decimal commas were read as points"),
        (["5%", "12.5 %", "100%"], ",", [5, 12.5, 100], "signs of percent or currency were left out"),
        (["$5", "$12.5", "$ 100"], ",", [5, 12.5, 100], "signs of percent or currency were left out"),
        (["5 kg", "12.5kg", "-1 kg"], ",", [5, 12.5, -1], "the unit kg was left out"),
        (["5,5 °C", "12 °C"], ";", [5.5, 12], "decimal commas were read as points; the unit °C was left out"),
    ],
)
def test_numbers_in_other_writing(
    cells: list[str], delimiter: str, numbers: list[float], note: str, tmp_path: Path
) -> None:
    text = f"a{delimiter}y\n" + "".join(f"{cell}{delimiter}{i % 2}\n" for i, cell in enumerate(cells))
    table = _table(tmp_path, text)
    assert table.features[:, 0].tolist() == np.array(numbers, np.float32).tolist()
    assert table.notes == (f"column a: {note}",)


def test_text_of_many_values_is_told_and_such_as_names_the_rows_is_left_out(tmp_path: Path) -> None:
    rows = "".join(f"{i % 12} {'kg' if i % 2 else 'g'},person {i},{i},{i % 2}\n" for i in ROWS)
    table = _table(tmp_path, "weight,name,a,y\n" + rows)
    assert len(table.feature_names) == 12 + 1
    assert table.notes == (
        "column weight holds text, 12 values such as '0 g', each of which became a feature of 0 and 1",
        "column name holds another text in every row, such as 'person 0', and was left out",
    )


@pytest.mark.parametrize(
    "dates",
    [
        ("1/31/2024", "12/1/2024"),
        ("31.01.2024", "1.12.2024"),
        ("1/31/24 5:07 PM", "12/1/24 11:30 AM"),
        ("31-Jan-2024", "01-Dec-2024"),
        ("Jan 31 2024", "Dec 1 2024"),
        ("2024/1/31", "2024/12/1"),
        ("2024-01-31", "2024-12-01"),
    ],
)
def test_dates_are_left_out(dates: tuple[str, str], tmp_path: Path) -> None:
    table = _table(tmp_path, "d,b,y\n" + "".join(f"{dates[i % 2]},{i},{i % 2}\n" for i in ROWS))
    assert table.feature_names == ("b",)
    assert table.notes == ("column d holds dates and was left out",)
    with pytest.raises(InputError, match="target column 'd' holds dates"):
        _table(tmp_path, "d,b,y\n" + "".join(f"{dates[i % 2]},{i},{i % 2}\n" for i in ROWS), target="d")


def test_words_that_look_a_little_like_numbers_stay_words(tmp_path: Path) -> None:
    table = _table(tmp_path, "size,y\n" + "".join(f"{['10-12', '12-14', '7'][i % 3]},{i % 2}\n" for i in ROWS))
    assert table.feature_names == ("size=10-12", "size=12-14", "size=7")


@pytest.mark.parametrize(
    "first", ["5.1,3.5,0.2,setosa", "63,1,145,0", "5,2019,7,1.5"], ids=["iris", "whole numbers", "a year"]
)
def test_a_missing_header_is_noticed(first: str, tmp_path: Path) -> None:
    last = "virginica" if "setosa" in first else "1"
    with pytest.raises(InputError, match="begins with numbers where the names of the columns should be"):
        _table(tmp_path, f"{first}\n" + "".join(f"{i}.5,{i},{i % 7},{last}\n" for i in ROWS))


def test_numbered_columns_are_a_header(tmp_path: Path) -> None:
    table = _table(tmp_path, "0,1,2\n" + "".join(f"{i},{i * i},{i % 2}\n" for i in ROWS))
    assert (table.feature_names, len(table.target)) == (("0", "1"), 60)


def test_whole_numbers_written_with_a_point_are_classes(tmp_path: Path) -> None:
    table = _table(tmp_path, "a,y\n" + "".join(f"{i},{i % 2}.0\n" for i in ROWS))
    assert (table.classes, table.target[:3].tolist()) == (("0", "1"), [0, 1, 0])
    assert _table(tmp_path, "a,y\n" + "".join(f"{i},{i % 2}.5\n" for i in ROWS)).classes == ()
    assert _table(tmp_path, "a,y\n" + "".join(f"{i},{i}.0\n" for i in ROWS)).classes == ()


@pytest.mark.parametrize("name", ["", "id", "Patient ID", "user_id", "Unnamed: 0", "customerId", "index", "uuid"])
def test_identifiers_are_left_out(name: str, tmp_path: Path) -> None:
    table = _table(tmp_path, f"{name},a,y\n" + "".join(f"{9007199254740993 + i},{i},{i % 2}\n" for i in ROWS))
    assert table.feature_names == ("a",)
    assert len(table.notes) == 1
    assert "left out" in table.notes[0]


@pytest.mark.parametrize("name", ["key", "grid", "paid", "valid", "humid"])
def test_other_columns_of_distinct_numbers_stay(name: str, tmp_path: Path) -> None:
    table = _table(tmp_path, f"{name},y\n" + "".join(f"{i},{i % 2}\n" for i in ROWS))
    assert (table.feature_names, table.notes) == ((name,), ())


def test_identifiers_of_text_are_left_out_and_repeated_ones_stay(tmp_path: Path) -> None:
    table = _table(tmp_path, "id,group_id,y\n" + "".join(f"p{i},g{i % 3},{i % 2}\n" for i in range(99)))
    assert table.feature_names == ("group_id=g0", "group_id=g1", "group_id=g2")


def test_long_times_stay_apart(tmp_path: Path) -> None:
    table = _table(tmp_path, "ms,y\n" + "".join(f"{1700000000000 + 60000 * i},{i % 2}\n" for i in ROWS))
    assert table.features[:, 0].tolist() == [60000.0 * i for i in ROWS]
    assert table.notes == ("column ms was reduced by 1700000000000, so that 32 bits tell its values apart",)
    far = _table(tmp_path, "n,y\n" + "".join(f"{9223372036854775000 * (-1) ** i + i},{i % 2}\n" for i in ROWS))
    assert far.notes == (
        "column n was reduced by -9223372036854774999, so that 32 bits tell its values apart, of which 31 of 60 stay",
    )


def test_numbers_of_more_digits_than_a_float_holds_are_left_out(tmp_path: Path) -> None:
    rows = "".join(f"{12345678901234567890 + i},{i}e20,{i % 2}\n" for i in ROWS)
    table = _table(tmp_path, f"code,density,y\n{rows}")
    assert table.feature_names == ("density",)
    assert table.notes[0].startswith("column code holds whole numbers of more than 15 digits")


def test_missing_cells_are_nan_among_numbers_and_none_of_the_words(tmp_path: Path) -> None:
    rows = ["0,5;red;7;x", ";;8;y", "1,5;blue;;x", "12;;9;y"]
    table = _table(tmp_path, "size;colour;count;kind\n" + "\n".join(rows))
    nan = np.nan
    expected = {
        "size": [0.5, nan, 1.5, 12],
        "size is missing": [0, 1, 0, 0],
        "colour=blue": [0, 0, 1, 0],
        "colour=red": [1, 0, 0, 0],
        "colour is missing": [0, 1, 0, 1],
        "count": [7, 8, nan, 9],
        "count is missing": [0, 0, 1, 0],
    }
    assert table.feature_names == tuple(expected)
    assert np.array_equal(table.features, np.array(list(expected.values()), np.float32).T, equal_nan=True)
    assert table.notes == (
        "column size: decimal commas were read as points",
        "column size: 1 of 4 cells are missing, and stand for its mean over the training rows",
        "column colour: 2 of 4 cells are missing, and stand for none of its values",
        "column count: 1 of 4 cells are missing, and stand for its mean over the training rows",
    )


def test_long_times_with_missing_cells_stay_apart_and_such_identifiers_are_left_out(tmp_path: Path) -> None:
    rows = "".join(f"{'' if i == 5 else 1700000000000 + 60000 * i},{'' if i == 7 else f'k{i}'},{i % 2}\n" for i in ROWS)
    table = _table(tmp_path, "time,case_id,y\n" + rows)
    assert table.feature_names == ("time", "time is missing")
    assert len(np.unique(table.features[:, 0])) == len(ROWS)
    assert np.isnan(table.features[5, 0])
    assert "column case_id holds identifiers and was left out" in table.notes
