"""Loading: caching, the data root, fingerprints and progress."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits
from tests.data.corpus import encode, npz, parquet, picture, ramp, tree

import paperweight.data
from paperweight.data import available, cache_root, load_images, load_table
from paperweight.data.named import find
from paperweight.errors import InputError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path_factory.mktemp("cache")))


def _entry() -> Path:
    (entry,) = (cache_root() / "images").iterdir()
    return entry


def test_every_public_name_is_there() -> None:
    for name in paperweight.data.__all__:
        assert getattr(paperweight.data, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = paperweight.data.nonsense


def test_digits_are_those_of_scikit_learn() -> None:
    data = load_images("digits")
    bunch = load_digits()
    np.testing.assert_allclose(data.train.images[:, 0] / 255 * 16, bunch["images"], atol=16 / 255 / 2)
    np.testing.assert_array_equal(data.train.labels, bunch["target"])
    assert data.classes == tuple("0123456789")
    assert data.test is None


def test_second_load_is_mapped_from_the_cache_and_decodes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = parquet(tmp_path / "x.parquet")
    first = load_images(source)
    monkeypatch.setattr("paperweight.data.images.decode", lambda *_: pytest.fail("decoded again"))
    second = load_images(source)
    assert isinstance(second.train.images, np.memmap)
    assert not second.train.images.flags.writeable
    assert second.fingerprint == first.fingerprint
    assert second.notes == first.notes
    np.testing.assert_array_equal(second.train.images, first.train.images)


def test_the_same_bytes_at_another_place_share_an_entry(tmp_path: Path) -> None:
    one = load_images(tree(tmp_path / "one", {f"{c}/1.png": encode(picture()) for c in "ab"}))
    two = load_images(tree(tmp_path / "two", {f"{c}/1.png": encode(picture()) for c in "ab"}))
    assert one.fingerprint == two.fingerprint
    assert (one.name, two.name) == ("one", "two")
    assert _entry().is_dir()


def test_content_classes_and_size_limit_each_change_what_is_loaded(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {f"{c}/1.png": encode(picture(size=(20, 20))) for c in "ab"})
    plain = load_images(root)
    assert load_images(root, max_side=10).train.images.shape == (2, 3, 10, 10)
    (root / "b").rename(root / "c")
    renamed = load_images(root)
    (root / "c/1.png").write_bytes(encode(picture(size=(20, 20), colour="red")))
    assert len({plain.fingerprint, renamed.fingerprint, load_images(root).fingerprint}) == 3


@pytest.mark.parametrize("damage", ["bit", "cut", "missing", "meta", "meta type", "file"])
def test_damaged_cache_entry_is_built_again(tmp_path: Path, damage: str) -> None:
    source = parquet(tmp_path / "x.parquet")
    whole = load_images(source)
    entry = _entry()
    array, meta = entry / "train_images.npy", entry / "meta.json"
    content = array.read_bytes()
    if damage == "bit":
        array.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        array.write_bytes(content[:-1])
    elif damage == "missing":
        array.unlink()
    elif damage == "meta":
        meta.write_text("{", encoding="utf-8")
    elif damage == "meta type":
        meta.write_text("[]", encoding="utf-8")
    else:
        for path in entry.iterdir():
            path.unlink()
        entry.rmdir()
        entry.write_bytes(b"not a folder")
    again = load_images(source)
    assert again.fingerprint == whole.fingerprint
    assert json.loads((_entry() / "meta.json").read_text(encoding="utf-8"))["fingerprint"] == whole.fingerprint
    assert (_entry() / "train_images.npy").read_bytes() == content


def test_entry_of_a_faster_process_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet(tmp_path / "x.parquet")
    load_images(source)
    before = (_entry() / "train_images.npy").stat().st_ino
    misses = iter([None])
    read = paperweight.data.cache.read_entry
    monkeypatch.setattr("paperweight.data.images.read_entry", lambda key: next(misses, None))
    data = load_images(source)
    assert (_entry() / "train_images.npy").stat().st_ino == before
    assert read(_entry().name) is not None
    assert data.train.images.shape == (2, 3, 4, 6)


def test_unwritable_cache_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_bytes(b"")
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path / "taken"))
    with pytest.raises(InputError, match="set PAPERWEIGHT_CACHE"):
        load_images(parquet(tmp_path / "x.parquet"))


def test_unreadable_file_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = parquet(tmp_path / "x.parquet")

    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match=r"x\.parquet cannot be read \(Permission denied\)"):
        load_images(source)


def test_parquet_that_declares_far_more_than_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    image = pa.array([bytes(4 << 20)] * 2, pa.binary())
    pq.write_table(pa.table({"image": image, "label": [0, 1]}), path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr("paperweight.data.parquet.SUSPICIOUS_BYTES", 1 << 20)
    with pytest.raises(InputError, match=r"x\.parquet declares 8,\d+,\d+ bytes, implausible"):
        load_images(path)


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_images(npz(tmp_path, x=ramp(600, 4, 6), y=np.arange(600) % 2), progress=lambda *s: seen.append(s))
    assert seen == [(256, 600), (512, 600), (600, 600)]


def test_resizing_keeps_the_centre_and_averages(tmp_path: Path) -> None:
    x = np.zeros((2, 80, 100), np.uint8)
    x[:, :, :10] = x[:, :, 90:] = 255  # outside the centred square
    x[1, ::2, 10:90] = 200  # stripes finer than the result can show
    images = load_images(npz(tmp_path, x=x, y=[0, 1]), max_side=20).train.images
    assert images.shape == (2, 1, 20, 20)
    assert images[0, :, :, 1:-1].max() == 0
    assert images[0].max() < 255 / 4
    assert set(np.unique(images[1, :, 1:-1, 1:-1])) <= set(range(95, 106))


@pytest.mark.parametrize("side", [0, -1, 2.5])
def test_bad_size_limit_is_refused(side: int) -> None:
    with pytest.raises(InputError, match="max_side"):
        load_images("digits", max_side=side)


def test_names_are_folders_of_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "letters/train.parquet")
    tree(tmp_path, {"rows/x.csv": b"a,y\n1,2.5\n2,3.5\n", ".hidden/": b"", "note.txt": b""})
    monkeypatch.setenv("PAPERWEIGHT_DATA", str(tmp_path))
    assert available() == ("digits", "glyphs", "glyphs-colour", "letters", "rows")
    assert load_images("letters").name == "letters"
    assert load_table("rows").feature_names == ("a",)
    with pytest.raises(InputError, match="did you mean letters"):
        find("leters")
    monkeypatch.setenv("PAPERWEIGHT_DATA", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="PAPERWEIGHT_DATA must name a folder"):
        find("letters")


def test_mnist_of_the_data_root() -> None:
    if "mnist" not in available():
        pytest.skip("PAPERWEIGHT_DATA names no folder with mnist")
    data = load_images("mnist")
    assert data.test is not None
    assert data.train.images.shape == (60000, 1, 28, 28)
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(float(data.train.images.mean() / 255), 4) == 0.1307
    assert round(float(data.train.images.std() / 255), 4) == 0.3081
