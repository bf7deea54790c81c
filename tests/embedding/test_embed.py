"""The command: what it writes, reads back, says without labels, and refuses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from paperweight.cli import main
from paperweight.data import load_images
from paperweight.data.naming import image_names
from paperweight.embedding import Encoder, embed, load_encoder
from paperweight.embedding.learning import Learning, methods
from paperweight.embedding.run import _map
from paperweight.errors import InputError
from paperweight.nets import MLP
from paperweight.reports import render_embedding

OWN = """
from paperweight.nets import MLP

def network(shape, dim):
    return MLP(shape, dim)
"""


def status(*words: str) -> object:
    try:
        main(["embed", *words])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty digits, loose in a folder, without classes."""
    images = load_images("digits").train.images[:60, 0]
    (tmp_path / "loose").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "loose" / f"{number:02}.png")
    return tmp_path / "loose"


def test_the_command_writes_features_encoder_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "embedding.npz"
    assert status("--data", "digits", "--method", "noise_as_targets", "--steps", "10", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "An encoder learned 1,151 images of digits" in " ".join(said.split())
    with np.load(out, allow_pickle=False) as found:
        features, parts = found["features"], found["parts"]
        assert features.shape == (1797, 128)
        assert features.dtype == np.float32
        assert (found["labels"] == load_images("digits").train.labels).all()
        assert found["classes"].tolist() == list("0123456789")
        assert found["names"][3] == "train 3"
        assert (parts == "test").sum() == 359
    encoder = load_encoder(out.with_suffix(".safetensors"))
    images = torch.from_numpy(load_images("digits").train.images[:50].copy()).float() / 255
    assert torch.allclose(encoder(images), torch.from_numpy(features[:50]), atol=1e-5)
    assert encoder.card["method"] == "noise_as_targets"
    assert encoder.card["labels_used"] is False
    page = out.with_suffix(".html").read_text()
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page)
    assert "<script" not in page
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert list(numbers["judged"]) == ["learned", "untrained", "pixels", "with labels"]
    assert numbers["judged"]["pixels"]["nearest"]["value"] > 0.95
    assert f"{numbers['judged']['pixels']['best']['value']:.3g}" in page


@pytest.mark.parametrize("method", methods())
def test_every_method_learns_and_the_seed_decides(method: str) -> None:
    found = [embed("digits", method, steps=3, batch_size=32, seed=seed) for seed in (0, 0, 1)]
    assert (found[0].features == found[1].features).all()
    assert (found[0].features != found[2].features).any()
    assert found[0].losses
    assert np.isfinite(found[0].features).all()


@pytest.mark.parametrize("method", methods())
def test_a_method_trains_the_encoder_in_place_and_draws_from_its_generator_alone(method: str) -> None:
    images = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    network = torch.nn.Sequential(MLP((1, 8, 8), 16), torch.nn.BatchNorm1d(16))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    seen: list[tuple[str, int, int]] = []
    learning = Learning(network, images, 16, 6, 16, 0, lambda *told: seen.append(told))
    state = torch.random.get_rng_state()
    learned, losses, made = learning.by(method)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    changed = [n for n, p in learned.named_parameters() if not torch.equal(p, network.get_parameter(n))]
    assert len(changed) >= len(list(network.parameters())) - 1
    assert seen[-1] == ("learning without labels", 6, 6)
    assert len(losses) == len(seen)
    assert made == 6


def test_updates_are_told_as_they_were_made() -> None:
    images = torch.rand(36, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    learning = Learning(torch.nn.Sequential(MLP((1, 8, 8), 16)), images, 16, 7, 10, 0, lambda *told: None)
    assert learning.by("noise_as_targets")[2] == 8
    assert learning.by("contrastive_behaviour")[2] == 7


def test_probes_are_fitted_to_images_of_all_classes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("paperweight.embedding.run._PROBED", 60)
    images, labels = load_images("digits").train.images, load_images("digits").train.labels
    order = np.argsort(labels, kind="stable")
    np.savez(tmp_path / "sorted.npz", x=images[order, 0], y=labels[order])
    found = embed(tmp_path / "sorted.npz", "noise_as_targets", steps=3)
    assert found.judged["pixels"].best.value > 0.6


def test_features_that_are_all_the_same_have_a_map_of_one_place() -> None:
    assert (_map(torch.full((50, 8), 0.3)) == 0).all()


@pytest.mark.parametrize("out", ["digits.npz", "folder/inside/x.npz"])
def test_nothing_is_written_over_the_images_or_among_them(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "digits.npz").write_bytes(b"mine")
    data = "folder" if out.startswith("folder") else "digits.npz"
    assert status("--data", data, "--method", "noise_as_targets", "--out", out) == 2
    assert "lies in the data" in capsys.readouterr().err
    assert (tmp_path / "digits.npz").read_bytes() == b"mine"
    assert list((tmp_path / "folder").iterdir()) == []


def test_an_encoder_sees_files_as_they_were_learned(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(60):
        shape = (48, 96, 3) if number % 2 else (40, 40, 3)
        noise = draw.integers(0, 256, (6, 12, 3) if number % 2 else (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(noise).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
        (tmp_path / "ab"[number % 2]).mkdir(exist_ok=True)
        image.save(tmp_path / "ab"[number % 2] / f"{number}.png")
    found = embed(tmp_path, "contrastive_behaviour", steps=2)
    row = list(found.names).index("b/1.png")
    pixels = np.array(Image.open(tmp_path / "b" / "1.png"))
    own = found.encoder(torch.from_numpy(pixels / 255).movedim(2, 0)[None])[0]
    assert torch.nn.functional.cosine_similarity(own, torch.from_numpy(found.features[row]), dim=0) > 0.999


def test_without_labels_nothing_is_judged_and_that_is_said(folder: Path) -> None:
    found = embed(folder, "non_negative_contrastive", steps=2)
    assert found.verdict == "not judged"
    assert found.judged == {}
    assert "it cannot be judged whether they are of use" in found.words()
    assert "nothing says whether near images belong together" in found.limits()[0]
    assert list(found.names) == [f"{number:02}.png" for number in range(60)]
    page = render_embedding(found)
    assert "red frame" not in page
    assert "What the features are worth" not in page
    assert "00.png" in page or "01.png" in page


def test_names_are_in_the_order_of_the_images(tmp_path: Path) -> None:
    for part, label, number in [("train", "a", 0), ("train", "b", 1), ("test", "a", 2), ("test", "b", 3)]:
        place = tmp_path / part / label
        place.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 60 * number, np.uint8)).save(place / f"{number}.png")
    data = load_images(tmp_path)
    assert data.test is not None
    greys = np.concatenate([data.train.images, data.test.images])[:, 0, 0, 0] // 60
    assert image_names(tmp_path) == [
        f"{part}/{label}/{number}.png"
        for part, label, number in [("train", "a", 0), ("train", "b", 1), ("test", "a", 2), ("test", "b", 3)]
    ]
    assert greys.tolist() == [0, 1, 2, 3]


def test_a_network_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_embedding.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--data", "digits", "--method", "noise_as_targets", "--steps", "3", "--network", "own_embedding:network"]
    assert status(*words) == 0
    path = tmp_path / "embedding.safetensors"
    with pytest.raises(InputError, match="was trained with the network own_embedding:network; give it"):
        load_encoder(path)
    encoder = load_encoder(path, "own_embedding:network")
    features = np.load(tmp_path / "embedding.npz")["features"]
    images = torch.from_numpy(load_images("digits").train.images[:9].copy()).float() / 255
    assert torch.allclose(encoder(images), torch.from_numpy(features[:9]), atol=1e-5)


def test_what_is_no_encoder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"x\.safetensors is no encoder that paperweight embed wrote"):
        load_encoder(path)
    card = {"shape": [1, 8, 8], "network": None}
    Encoder(torch.nn.Linear(2, 2), torch.zeros(1), torch.ones(1), (1, 8, 8), card).save(path)
    with pytest.raises(InputError, match="do not fit the network"):
        load_encoder(path)
    card["shape"] = [1, 8, 3]
    Encoder(torch.nn.Linear(2, 2), torch.zeros(1), torch.ones(1), (1, 8, 8), card).save(path)
    with pytest.raises(InputError, match="is no encoder"):
        load_encoder(path)
    card["shape"] = [1, 8, 10**9]
    Encoder(torch.nn.Linear(2, 2), torch.zeros(1), torch.ones(1), (1, 8, 8), card).save(path)
    with pytest.raises(InputError, match="is no encoder"):
        load_encoder(path)


def test_an_encoder_takes_images_from_0_to_1() -> None:
    encoder = Encoder(torch.nn.Flatten(), torch.tensor([0.5]), torch.tensor([0.25]), (1, 2, 2), {})
    assert encoder(torch.full((1, 1, 2, 2), 0.75)).tolist() == [[1.0] * 4]
    for images, message in (
        (torch.full((1, 1, 2, 2), 7.0), "from 0 to 1"),
        (torch.zeros(1, 3, 2, 2), r"of shape \(N, 1, H, W\)"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "floating"),
    ):
        with pytest.raises(ValueError, match=message):
            encoder(images)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "nothing"], "method 'nothing' is none by which an encoder learns without labels"),
        (["--method", "noise_as_targets", "--steps", "0"], "steps must be a whole number from 1 to 1000000, got 0"),
        (["--method", "noise_as_targets", "--side", "7"], "side must be a whole number from 8 to 64, got 7"),
        (["--method", "noise_as_targets", "--out", "x.txt"], "--out must be the name of an .npz file, got 'x.txt'"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status("--data", "digits", *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
