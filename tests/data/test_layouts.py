"""Layouts that people bring: folders of parts, archives, binary and Parquet files as well-known tools write them."""

import gzip
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.data.corpus import encode, npz, picture, ramp, tree

from paperweight.data import ImageData, load_images
from paperweight.data.parts import role
from paperweight.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def _png(number: int) -> bytes:
    return encode(picture(colour=(number, 100, 200)))


def _images(*names: str) -> dict[str, bytes]:
    return {name: _png(number) for number, name in enumerate(names)}


def _parts(data: ImageData) -> tuple[dict[str, int], dict[str, int] | None]:
    def count(labels: np.ndarray) -> dict[str, int]:
        return {name: int((labels == index).sum()) for index, name in enumerate(data.classes)}

    return count(data.train.labels), None if data.test is None else count(data.test.labels)


def test_usual_names_of_parts_are_known() -> None:
    known = {
        "train": "train Training TRAIN train2017 seg_train train_set trainset train-images imgs_train split=train trn",
        "test": "test Testing seg_test testset test_images t10k holdout",
        "eval": "eval evaluation",
        "validation": "val valid validation dev val2017 valset",
        "unlabelled": "seg_pred unlabeled",
    }
    for found, names in known.items():
        assert {role(name) for name in names.split()} == {found}
    strange = "trains trainspotting contest latest device invalid approval fold_0 images data cat valley evaluator"
    assert {role(name) for name in strange.split()} == {None}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("train", "eval"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("TRAIN", "dev"),
        ("train_set", "test_set"),
        ("data/train", "data/validation"),
    ],
)
def test_folders_of_parts_are_no_classes(train: str, test: str, tmp_path: Path) -> None:
    names = (f"{train}/a/1.png", f"{train}/b/1.png", f"{train}/b/2.png", f"{test}/a/3.png", f"{test}/b/3.png")
    assert _parts(load_images(tree(tmp_path, _images(*names)))) == ({"a": 1, "b": 2}, {"a": 1, "b": 1})


def test_parts_inside_class_folders_are_parts(tmp_path: Path) -> None:
    names = [f"{c}/{p}/{i}.png" for c in "ab" for p in ("train", "test") for i in range(2)]
    assert _parts(load_images(tree(tmp_path, _images(*names)))) == ({"a": 2, "b": 2}, {"a": 2, "b": 2})


def test_images_to_predict_and_other_folders_are_left_out_of_the_parts(tmp_path: Path) -> None:
    names = [f"seg_{p}/{c}/1.png" for p in ("train", "test") for c in "ab"] + ["seg_pred/1.png", "more/x/1.png"]
    data = load_images(tree(tmp_path, _images(*names)))
    assert _parts(data) == ({"a": 1, "b": 1}, {"a": 1, "b": 1})
    assert "left out, holding no images of a class: more, seg_pred" in data.notes


def test_a_test_folder_without_classes_is_left_out(tmp_path: Path) -> None:
    data = load_images(tree(tmp_path, _images("train/a/1.png", "train/b/1.png", "test/1.png", "test/2.png")))
    assert _parts(data) == ({"a": 1, "b": 1}, None)
    assert any("test" in note for note in data.notes)


@pytest.mark.parametrize("names", [("fold_0", "fold_1"), ("site A", "site B", "site C"), ("train", "more")])
def test_folders_that_may_be_parts_are_asked_about(names: tuple[str, ...], tmp_path: Path) -> None:
    root = tree(tmp_path, _images(*(f"{n}/{c}/1.png" for n in names for c in ("cat", "dog"))))
    with pytest.raises(InputError, match=r"which hold the folders cat, dog: name them train, test and validation"):
        load_images(root)
    assert load_images(root / names[0]).classes == ("cat", "dog")


def test_deeper_folders_of_classes_stay_classes(tmp_path: Path) -> None:
    assert load_images(tree(tmp_path, _images("a/images/1.png", "b/images/1.png"))).classes == ("a", "b")


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("__pycache__", "a.pyc"),
        ("@eaDir", "thumbnail.jpg"),
        ("lost+found", ""),
        ("annotations", "a.xml"),
        ("labels", "1.txt"),
        ("$RECYCLE.BIN", "x.ini"),
    ],
)
def test_folders_without_images_are_left_out_and_named(folder: str, file: str, tmp_path: Path) -> None:
    data = load_images(
        tree(
            tmp_path,
            _images("a/1.png", "b/1.png") | {f"{folder}/{file}": b"x"}
            if file
            else _images("a/1.png", "b/1.png") | {f"{folder}/": b""},
        )
    )
    assert data.classes == ("a", "b")
    assert data.notes == (f"left out, holding no images of a class: {folder}",)


def test_folders_partitioned_by_label(tmp_path: Path) -> None:
    assert load_images(tree(tmp_path, _images("label=cat/1.png", "label=guinea%20pig/1.png"))).classes == (
        "cat",
        "guinea pig",
    )


def test_notes_follow_the_folder_and_not_the_cache(tmp_path: Path) -> None:
    root = tree(tmp_path, _images("a/1.png", "b/1.png"))
    assert load_images(root).notes == ()
    (root / "a/2.heic").write_bytes(b"x")
    assert load_images(root).notes == ("1 file was ignored, being outside the class folders or no images: .heic",)
    (root / "a/2.heic").unlink()
    assert load_images(root).notes == ()


def test_images_without_classes_are_of_one_class_where_none_are_needed(tmp_path: Path) -> None:
    root = tree(tmp_path / "faces", _images("1.png", "2.png", "3.png"))
    with pytest.raises(InputError, match="no class folders"):
        load_images(root)
    data = load_images(root, labelled=False)
    assert _parts(data) == ({"images": 3}, None)
    assert load_images(root.parent, labelled=False).classes == ("faces",)
    with pytest.raises(InputError, match="only one class"):
        load_images(root.parent)
    arrays = load_images(npz(tmp_path, x=ramp(3, 4, 6)), labelled=False)
    assert _parts(arrays) == ({"images": 3}, None)


# --- archives ----------------------------------------------------------------------------------------------------


def _pixels(start: int, count: int) -> np.ndarray:
    pixels = np.zeros((count, 4, 6), np.uint8)
    pixels[:, 0, 0] = start + np.arange(count)
    pixels[:, 1, 1] = 255
    return pixels


def test_archive_as_keras_writes_mnist(tmp_path: Path) -> None:
    """Keras 3: `keras.datasets.mnist` reads `x_train`, `y_train`, `x_test`, `y_test` of mnist.npz."""
    data = load_images(npz(tmp_path, x_train=_pixels(0, 4), y_train=[0, 1, 0, 1], x_test=_pixels(9, 2), y_test=[1, 0]))
    assert data.test is not None
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert (data.test.images[:, 0, 0, 0].tolist(), data.test.labels.tolist()) == ([9, 10], [1, 0])


def test_archive_as_medmnist_writes_it(tmp_path: Path) -> None:
    """MedMNIST 3.0.2: `{split}_images`, `{split}_labels` of shape (n, 1), splits train, val and test."""
    counts = {"train": 4, "val": 2, "test": 2}
    arrays: dict[str, Any] = {f"{p}_images": _pixels(10 * n, counts[p]) for n, p in enumerate(counts)}
    arrays |= {f"{p}_labels": (np.arange(n) % 2)[:, None].astype(np.uint8) for p, n in counts.items()}
    data = load_images(npz(tmp_path, **arrays))
    assert data.test is not None
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 10, 11]
    assert data.test.images[:, 0, 0, 0].tolist() == [20, 21]
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert data.notes == ("the images of validation were joined to the training images",)


@pytest.mark.parametrize("names", [("X", "Y"), ("images", "labels"), ("data", "target"), ("arr_0", "arr_1")])
def test_other_names_of_arrays(names: tuple[str, str], tmp_path: Path) -> None:
    data = load_images(npz(tmp_path, **{names[0]: _pixels(0, 3), names[1]: [1, 0, 1]}))
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "classes", "numbers"),
    [
        (np.eye(3)[[2, 0, 1]], ("0", "1", "2"), [2, 0, 1]),
        (np.eye(3, dtype=np.int64)[[2, 0, 1]], ("0", "1", "2"), [2, 0, 1]),
        (np.eye(3, dtype=bool)[[2, 0, 1]], ("0", "1", "2"), [2, 0, 1]),
        (np.array([[1], [0], [1]]), ("0", "1"), [1, 0, 1]),
        (np.array([1.0, 0.0, 1.0], np.float32), ("0", "1"), [1, 0, 1]),
        (np.array([True, False, True]), ("False", "True"), [1, 0, 1]),
        (np.array([b"b", "ä".encode(), b"b"]), ("b", "ä"), [0, 1, 0]),
    ],
    ids=["one-hot", "one-hot whole", "one-hot bool", "column", "floats", "bool", "bytes"],
)
def test_labels_of_other_types(
    labels: np.ndarray, classes: tuple[str, ...], numbers: list[int], tmp_path: Path
) -> None:
    data = load_images(npz(tmp_path, x=_pixels(0, 3), y=labels))
    assert (data.classes, data.train.labels.tolist()) == (classes, numbers)


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    path = npz(tmp_path, x=_pixels(0, 3), y=[0, 1, 0], weights_of_rows=[1.0, 2.0, 3.0], x_mean=[0.5])
    data = load_images(path)
    assert data.notes == (f"{path.name}: arrays weights_of_rows, x_mean left out",)
    assert load_images(path).notes == data.notes
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "no array")
    assert load_images(path).notes == data.notes
    alone = load_images(npz(tmp_path, x=_pixels(0, 3), y=[0, 1, 0]), labelled=False)
    assert alone.notes == ()


def test_held_back_labels_leave_a_part_out(tmp_path: Path) -> None:
    arrays = {"x": _pixels(0, 2), "y": [0, 1], "x_val": _pixels(5, 2), "y_val": [0, 1]}
    data = load_images(npz(tmp_path, **arrays, x_test=_pixels(9, 2), y_test=[-1, -1]))
    assert data.test is not None
    assert data.test.images[:, 0, 0, 0].tolist() == [5, 6]
    assert data.notes == ("the part test was left out, as its labels are held back",)


# --- IDX and CIFAR's binary files --------------------------------------------------------------------------------


def _idx(values: np.ndarray) -> bytes:
    """Encode as on the page of MNIST: two zeros, the type, the number of axes, their sizes big-endian, the values."""
    kinds = {"uint8": 8, "int16": 11, "int32": 12, "float32": 13}
    head = struct.pack(f">HBB{values.ndim}I", 0, kinds[values.dtype.name], values.ndim, *values.shape)
    return head + values.astype(values.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_of_mnist(packed: bool, tmp_path: Path) -> None:
    files = {
        "train-images-idx3-ubyte": _pixels(0, 3),
        "train-labels-idx1-ubyte": np.array([1, 0, 1], np.uint8),
        "t10k-images-idx3-ubyte": _pixels(7, 2),
        "t10k-labels-idx1-ubyte": np.array([0, 1], np.uint8),
    }
    for name, values in files.items():
        content = _idx(values)
        (tmp_path / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    data = load_images(tmp_path)
    assert data.test is not None
    np.testing.assert_array_equal(data.train.images[:, 0], files["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(data.test.images[:, 0], files["t10k-images-idx3-ubyte"])
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([1, 0, 1], [0, 1])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "does not begin as an IDX file"),
        (b"\x1f\x8b junk", "cannot be read as IDX"),
        (_idx(_pixels(0, 3))[:-1], "holds fewer"),
        (_idx(_pixels(0, 3)) + b"x", "holds more"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 4), "declares"),
    ],
)
def test_damaged_idx_files_are_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(InputError, match="no file of its labels"):
        load_images(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(_idx(np.array([0, 1, 0], np.uint8)))
    with pytest.raises(InputError, match=words):
        load_images(tmp_path)


def test_binary_batches_of_cifar(tmp_path: Path) -> None:
    """The binary version: a byte of label, or two (coarse, fine), then 1,024 bytes each of red, green and blue."""
    colours = np.repeat(np.array([10, 20, 30], np.uint8), 1024)
    ten, hundred = tmp_path / "cifar-10-batches-bin", tmp_path / "cifar-100-binary"
    records = [bytes([label]) + bytes(colours + label) for label in (1, 0, 1)]
    tree(ten, {"data_batch_1.bin": records[0], "data_batch_2.bin": records[1], "test_batch.bin": records[2]})
    (ten / "batches.meta.txt").write_text("airplane\nautomobile\n\n")
    data = load_images(ten)
    assert data.test is not None
    assert data.classes == ("airplane", "automobile")
    assert data.train.labels.tolist() == [1, 0]
    assert data.train.images[0, :, 5, 6].tolist() == [11, 21, 31]
    tree(hundred, {"train.bin": b"\5" + records[0] + b"\5" + records[1], "test.bin": b"\5" + records[2]})
    assert load_images(hundred).train.labels.tolist() == [1, 0]
    (hundred / "train.bin").write_bytes(records[0])
    with pytest.raises(InputError, match="not records of 3,074"):
        load_images(hundred)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("opened",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"data_batch_1 is a pickle.*binary version"):
        load_images(tmp_path)


# --- Parquet -----------------------------------------------------------------------------------------------------


def _write(path: Path, first: int, label: str = "label", image: str = "image", labels: Any = (0, 1)) -> None:
    rows = [{"bytes": _png(first + n), "path": None} for n in range(len(labels))]
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table = pa.table({image: rows, label: pa.array(list(labels))})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            "data/test-00000-of-00001.parquet",
        ),
        (["train-00000-of-00001-9f3c1a2b4d5e6f70.parquet"], "test-00000-of-00001-0d5e6f709f3c1a2b.parquet"),
        (["default/train/0000.parquet", "default/train/0001.parquet"], "default/test/0000.parquet"),
        (["plain_text/partial-train/0000.parquet"], "plain_text/partial-test/0000.parquet"),
    ],
)
def test_repositories_of_data_hubs(train: list[str], test: str, tmp_path: Path) -> None:
    for number, name in enumerate([*train, test]):
        _write(tmp_path / name, 10 * number)
    tree(tmp_path, {"README.md": b"a card", "assets/logo.png": _png(99)})
    data = load_images(tmp_path)
    assert data.test is not None
    assert (len(data.train), len(data.test), data.classes) == (2 * len(train), 2, ("cat", "dog"))
    assert data.test.images[:, 0, 0, 0].tolist() == [10 * len(train), 10 * len(train) + 1]


def test_one_shard_by_path_says_so(tmp_path: Path) -> None:
    _write(tmp_path / "train-00000-of-00002.parquet", 0)
    assert (
        load_images(tmp_path / "train-00000-of-00002.parquet")
        .notes[0]
        .startswith("train-00000-of-00002.parquet is one of 2 shards; give the folder")
    )


def test_several_sets_in_one_folder_are_asked_about(tmp_path: Path) -> None:
    for name in ("small", "large"):
        _write(tmp_path / name / "train-00000-of-00001.parquet", 0)
    with pytest.raises(InputError, match=r"several sets \(large, small\)"):
        load_images(tmp_path)


@pytest.mark.parametrize(
    ("image", "label", "note"),
    [("img", "label", "the column img"), ("image", "labels", "column labels"), ("scan", "fine_label", "fine_label")],
)
def test_columns_of_other_names(image: str, label: str, note: str, tmp_path: Path) -> None:
    _write(tmp_path / "x.parquet", 0, label, image, labels=(1, 0))
    data = load_images(tmp_path / "x.parquet")
    assert (data.classes, data.train.labels.tolist()) == (("cat", "dog"), [1, 0])
    assert any(note in words for words in data.notes)


def test_labels_of_parquet_of_other_types(tmp_path: Path) -> None:
    for name, labels, classes in [("bool", (True, False), ("False", "True")), ("float", (1.0, 0.0), ("0", "1"))]:
        _write(tmp_path / f"{name}.parquet", 0, labels=labels)
        data = load_images(tmp_path / f"{name}.parquet")
        assert (data.classes, data.train.labels.tolist()) == (classes, [1, 0])


def test_held_back_labels_of_parquet(tmp_path: Path) -> None:
    for number, (name, labels) in enumerate({"train": (0, 1), "validation": (1, 0), "test": (-1, -1)}.items()):
        _write(tmp_path / f"{name}.parquet", 10 * number, labels=labels)
    data = load_images(tmp_path)
    assert data.test is not None
    assert (len(data.train), data.test.images[:, 0, 0, 0].tolist()) == (2, [10, 11])
    _write(tmp_path / "train.parquet", 0, labels=(0, -1))
    with pytest.raises(InputError, match="row 1: the label is -1"):
        load_images(tmp_path)


def test_parquet_partitioned_by_label(tmp_path: Path) -> None:
    for number, name in enumerate(("ant", "bee")):
        path = tmp_path / f"label={name}/part-0.parquet"
        path.parent.mkdir()
        pq.write_table(pa.table({"image": [{"bytes": _png(10 * number + n), "path": None} for n in range(2)]}), path)
    data = load_images(tmp_path)
    assert (data.classes, data.train.labels.tolist()) == (("ant", "bee"), [0, 0, 1, 1])
