"""What a command says of a person's images before it works with them."""

from pathlib import Path

import numpy as np

from paperweight.cli.announcing import described, described_table
from paperweight.data import ImageData, ImageSet, load_table


def _part(labels: list[int]) -> ImageSet:
    return ImageSet(np.zeros((len(labels), 1, 4, 6), np.uint8), np.array(labels, np.int64))


def test_parts_classes_counts_and_notes_are_said() -> None:
    data = ImageData(_part([0, 1, 1]), _part([1]), ("cat", "dog"), "pets", "", ("one thing", "another"))
    assert described(data).splitlines() == [
        "pets: 2 classes",
        "training part: 3 images of 1 x 4 x 6 (cat 1, dog 2)",
        "test part: 1 images of 1 x 4 x 6 (cat 0, dog 1)",
        "note: one thing",
        "note: another",
    ]


def test_of_many_classes_the_first_are_said() -> None:
    many = tuple(f"c{n}" for n in range(700))
    said = described(ImageData(_part(list(range(700))), None, many, "many", "", ()))
    assert said.splitlines()[0] == "many: 700 classes"
    assert "c11 1, and 688 classes more" in said
    assert said.splitlines()[2].startswith("no test part")


def test_of_a_table_rows_classes_and_columns_that_were_left_out_are_said(tmp_path: Path) -> None:
    rows = "".join(f"{7 * n + 100_000},{n % 9},{'ill' if n % 4 == 0 else 'well'}\n" for n in range(40))
    path = tmp_path / "people.csv"
    path.write_text(f"patient_id,age,outcome\n{rows}")
    assert described_table(load_table(path)).splitlines() == [
        "people: 40 rows of 1 feature, 2 classes (ill 10, well 30)",
        "note: column patient_id holds identifiers and was left out",
    ]
