"""The model as one object: its predictions, its loss against slow sums, and its file, good and bad."""

import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from paperweight.errors import InputError
from paperweight.generators.model import (
    DiffusionModel,
    ModelSpec,
    denoising_loss,
    load_model,
    read_tensors,
    write_tensors,
)
from paperweight.generators.process import add_noise, normal, target
from paperweight.generators.protocol import predicted_noise
from paperweight.loops.denoising import DenoiserTraining

SMALL = ModelSpec(shape=(1, 4, 4), arguments={"width": 8, "blocks": 1}, classes=3, condition_dim=5)


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 4, 4, generator=drawn(seed))


class Spy(nn.Module):
    """A network that remembers what it is called with, and gives what it is told to."""

    def __init__(self, answer=torch.zeros_like) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.answer = answer
        self.calls = []

    def forward(self, z, t, *condition):
        self.calls.append((z, t, *condition))
        return self.weight * self.answer(z)


def custom(network: nn.Module, **more) -> DiffusionModel:
    return ModelSpec(shape=(1, 4, 4), network="custom", **more).build(network)


@pytest.mark.parametrize("network", ["mlp", "token", "unet"])
@pytest.mark.parametrize("classes", [0, 3])
def test_every_network_is_built_and_predicts(network: str, classes: int):
    model = ModelSpec(shape=(2, 8, 4), network=network, classes=classes).build()
    z, t = torch.randn(3, 2, 8, 4, generator=drawn()), torch.tensor([0, 50, 199])
    condition = model.condition(torch.arange(3) if classes else None, 3)
    assert (condition is None) == (classes == 0)
    assert model.eps(z, t, condition).shape == z.shape


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_a_network_that_knows_the_truth_gives_the_noise(prediction):
    x, noise, t = normal(images(3), drawn(1)), normal(images(3), drawn(2)), torch.tensor([0, 60, 99])
    model = custom(Spy(), steps=100, prediction=prediction)
    abar = model.schedule.abar[t]
    model.network.answer = lambda z: target(x, noise, abar, prediction)
    torch.testing.assert_close(model.eps(add_noise(x, noise, abar), t, None), noise, rtol=1e-3, atol=1e-3)
    assert torch.equal(model.network.calls[0][1], t * 10.0)


def test_a_linear_schedule_ends_in_noise_at_every_number_of_times():
    published = ModelSpec(shape=(1, 4, 4), schedule="linear", steps=1000)
    assert published.build().schedule.abar[-1].item() == pytest.approx(4.0358e-05, rel=1e-4)
    for steps in (21, 50, 200):
        assert ModelSpec(shape=(1, 4, 4), schedule="linear", steps=steps).build().schedule.abar[-1] < 1e-4
    assert len(ModelSpec(shape=(1, 4, 4), schedule="linear", steps=1).build().schedule) == 1


def test_labels_are_embedded_and_none_is_a_label_of_its_own():
    model = SMALL.build()
    assert torch.equal(model.condition(torch.tensor([2, 0]), 2), model.labels.weight[[2, 0]][:, None])
    assert torch.equal(model.condition(None, 2), model.labels.weight[[3, 3]][:, None])
    assert torch.equal(model.condition(torch.tensor([3, 3]), 2), model.condition(None, 2))
    for bad in ([0], [0, 4], [-1, 0]):
        with pytest.raises(ValueError, match=r"labels must be 2 numbers from 0 to 3, got \["):
            model.condition(torch.tensor(bad), 2)


def test_images_are_diffused_in_the_range_from_minus_one_to_one():
    model = SMALL.build()
    assert model.encode(torch.tensor([0.0, 0.25, 1.0])).tolist() == [-1, -0.5, 1]
    x = images(2)
    torch.testing.assert_close(model.decode(model.encode(x)), x)
    mask = torch.eye(4)[None]
    assert model.latent_mask(mask) is mask
    assert model.clamp == (-1, 1)


def test_guidance_of_weight_1_is_one_call_and_the_prediction_itself():
    model = custom(Spy(lambda z: 2 * z), classes=3)
    z, t, labels = normal(images(2), drawn()), torch.tensor([5, 150]), torch.tensor([0, 2])
    with torch.no_grad():
        once = predicted_noise(model, labels, 2)(z, t)
        assert len(model.network.calls) == 1
        assert torch.equal(once, model.eps(z, t, model.condition(labels, 2)))
        model = SMALL.build()
        values = {w: predicted_noise(model, labels, 2, w)(z, t) for w in (0.0, 1.0, 3.0)}
        assert torch.equal(values[0.0], model.eps(z, t, model.condition(None, 2)))
    assert not torch.allclose(values[0.0], values[1.0], atol=1e-4)
    torch.testing.assert_close(values[3.0], 3 * values[1.0] - 2 * values[0.0])


def test_guidance_asks_with_and_without_the_condition():
    model = custom(Spy(), classes=3)
    predicted_noise(model, torch.tensor([1]), 1, 2.0)(images(1), torch.tensor([5]))
    asked = torch.cat([call[2][:, 0] for call in model.network.calls])
    assert torch.equal(asked, model.labels.weight[[1, 3]])


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_the_loss_of_a_network_that_gives_zero_is_the_mean_square_of_what_is_wanted(prediction):
    x = images(2_000)
    model = custom(Spy(), prediction=prediction, steps=50)
    loss = denoising_loss(model, x, None, drawn(3)).item()
    data = (2 * x - 1).square().mean().item()
    # Noise has mean square 1, and is independent of the data: v has abar + (1 - abar) E x^2, over all times alike.
    abar = model.schedule.abar.mean().item()
    expected = {"eps": 1.0, "x0": data, "v": abar + (1 - abar) * data}[prediction]
    assert loss == pytest.approx(expected, rel=1e-6 if prediction == "x0" else 0.03)


def test_the_network_is_shown_data_with_the_noise_of_its_time():
    x = torch.full((4_000, 1, 4, 4), 0.75)
    model = custom(Spy(), steps=10)
    denoising_loss(model, x, None, drawn(3))
    z, t = model.network.calls[0]
    assert sorted(t.unique().tolist()) == [100.0 * index for index in range(10)]
    for index in range(10):
        chosen, abar = z[t == 100.0 * index], model.schedule.abar[index].item()
        assert 300 < len(chosen) < 500
        assert chosen.mean().item() == pytest.approx(0.5 * abar**0.5, abs=0.07)
        assert chosen.std().item() == pytest.approx((1 - abar) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("dropout", "low", "high"), [(0.0, 0, 0), (0.25, 200, 300), (1.0, 1000, 1000)])
def test_labels_are_left_out_as_often_as_asked(dropout: float, low: int, high: int):
    model = custom(Spy(), classes=3)
    labels = torch.arange(1000) % 3
    denoising_loss(model, images(1000), labels, drawn(4), dropout)
    z, t, condition = model.network.calls[0]
    left_out = (condition[:, 0] == model.labels.weight[3]).all(dim=1)
    assert low <= left_out.sum().item() <= high
    assert torch.equal(condition[~left_out], model.condition(labels, 1000)[~left_out])
    # What is left out of the labels changes neither times nor noise.
    denoising_loss(model, images(1000), labels, drawn(4), 0.0)
    assert torch.equal(model.network.calls[1][0], z)
    assert torch.equal(model.network.calls[1][1], t)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "resnet"}, "network of a diffusion model must be one of mlp, token, unet, custom; got 'resnet'"),
        ({"schedule": "sigmoid"}, "schedule of a diffusion model must be one of cosine, linear; got 'sigmoid'"),
        ({"prediction": "score"}, "prediction of a diffusion model must be one of eps, x0, v; got 'score'"),
        ({"shape": (1, 4)}, "shape of a diffusion model must be"),
        ({"shape": (1, 0, 4)}, "shape of a diffusion model must be"),
        ({"steps": 0}, "steps and condition_dim at least 1"),
        ({"condition_dim": 0}, "steps and condition_dim at least 1"),
        ({"classes": -1}, "classes of a diffusion model must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_specs(change, message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        ModelSpec(**{"shape": (1, 4, 4), **change})


def test_networks_that_cannot_be_built():
    for arguments in ({"width": 7}, {"depth": 3}, {"condition_dim": 3}):
        with pytest.raises(InputError, match="network 'mlp' cannot be built for images of shape"):
            ModelSpec(shape=(1, 4, 4), arguments=arguments).build()
    with pytest.raises(InputError, match="network must be given for a diffusion model whose network is 'custom'"):
        ModelSpec(shape=(1, 4, 4), network="custom").build()
    with pytest.raises(InputError, match="network must not be given but for"):
        SMALL.build(nn.Linear(1, 1))


def test_a_saved_model_is_read_bit_for_bit_and_draws_nothing(tmp_path: Path):
    model = SMALL.build()
    path = tmp_path / "new" / "model.safetensors"
    model.save(path)
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
    before = torch.random.get_rng_state()
    loaded = load_model(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.spec == model.spec
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    model.save(path)
    assert load_model(path).spec == SMALL


def test_a_custom_model_is_read_into_its_network(tmp_path: Path):
    model = custom(nn.Linear(3, 2))
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", nn.Linear(3, 2))
    assert torch.equal(loaded.network.weight, model.network.weight)
    with pytest.raises(InputError, match=r"checkpoint .*model cannot be used: network must be given"):
        load_model(tmp_path / "model")
    with pytest.raises(InputError, match=r"the weights in checkpoint .*model do not fit the network"):
        load_model(tmp_path / "model", nn.Linear(2, 2))


def test_a_file_whose_first_bytes_are_those_of_a_pickle_is_read(tmp_path: Path):
    # The file starts with the length of its header; 640, 896, 1152 and 1408 have the bytes of pickle protocols 2 to 5.
    spec, found = ModelSpec(shape=(1, 4, 4), network="custom"), set()
    for size in range(0, 1500, 8):
        path = tmp_path / "model"
        write_tensors(path, {"model.network.weight": torch.ones(1)}, spec, {"pad": "x" * size})
        start = path.read_bytes()[:2]
        assert read_tensors(path)[2] == {"pad": "x" * size}
        found.add(start)
    assert {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"} <= found


class Trap:
    """An object that makes a file as soon as it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def zipped(path: Path, trap: Trap) -> None:
    torch.save({"weight": torch.ones(2), "trap": trap}, path)


def pickled(protocol: int):
    return lambda path, trap: path.write_bytes(pickle.dumps({"trap": trap}, protocol=protocol))


def legacy(path: Path, trap: Trap) -> None:
    torch.save({"weight": torch.ones(2), "trap": trap}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("make", [zipped, legacy, *map(pickled, range(6))])
def test_a_pickle_is_never_unpickled(tmp_path: Path, make):
    sprung = tmp_path / "sprung"
    path = tmp_path / "model.pt"
    make(path, Trap(sprung))
    for load in (load_model, read_tensors, DenoiserTraining(SMALL.build()).load):
        with pytest.raises(InputError, match=r"checkpoint .*model\.pt is "):
            load(path)
    assert not sprung.exists()
    # The trap does work.
    with path.open("rb") as file:
        torch.load(file, weights_only=False) if make in (zipped, legacy) else pickle.load(file)
    assert sprung.exists()


@pytest.mark.parametrize("make", [zipped, legacy, *map(pickled, range(2, 6))])
def test_a_pickle_is_called_one(tmp_path: Path, make):
    make(tmp_path / "model.pt", Trap(tmp_path / "sprung"))
    with pytest.raises(InputError, match=r"model\.pt is a pickle, which may run code .* write the weights as safe"):
        load_model(tmp_path / "model.pt")


def test_missing_files_folders_and_truncated_files(tmp_path: Path):
    path = tmp_path / "model"
    with pytest.raises(InputError, match=r"checkpoint .*model cannot be read \(No such file"):
        load_model(path)
    with pytest.raises(InputError, match=r"checkpoint .* cannot be read \(Is a directory"):
        load_model(tmp_path)
    SMALL.build().save(path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"checkpoint .*model is truncated or not a safetensors file"):
            load_model(path)


def test_files_that_do_not_say_what_they_are(tmp_path: Path):
    weights = {f"model.{name}": value.clone() for name, value in SMALL.build().state_dict().items()}
    spec = json.dumps({"shape": [1, 4, 4]})
    named = {"format": "paperweight diffusion model 1"}
    for metadata, message in (
        (None, "does not say of what model it is"),
        ({"format": "pt"}, "does not say of what model it is"),
        (named, "are damaged"),
        ({**named, "spec": "{", "facts": "{}"}, "are damaged"),
        ({**named, "spec": "[]", "facts": "{}"}, "are damaged"),
        ({**named, "spec": '{"shape": 3}', "facts": "{}"}, "are damaged"),
        ({**named, "spec": '{"shape": [1, 4, 4], "depth": 3}', "facts": "{}"}, "are damaged"),
        ({**named, "spec": '{"shape": [1, 4, 4], "network": "lstm"}', "facts": "{}"}, "are damaged"),
        ({**named, "spec": spec, "facts": "3"}, "are damaged"),
        ({**named, "spec": spec, "facts": "{}"}, "do not fit the network"),
    ):
        save_file(weights, tmp_path / "odd", metadata)
        with pytest.raises(InputError, match=rf"checkpoint .*odd {message}"):
            load_model(tmp_path / "odd")


def test_weights_of_another_architecture(tmp_path: Path):
    other = ModelSpec(shape=(1, 4, 4), arguments={"width": 10}, classes=3, condition_dim=5).build()
    tensors = {f"model.{name}": value for name, value in other.state_dict().items()}
    write_tensors(tmp_path / "model", tensors, SMALL)
    with pytest.raises(InputError, match=r"the weights in checkpoint .*model do not fit the network: size mismatch"):
        load_model(tmp_path / "model")


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.partial").mkdir()
    (tmp_path / "file").write_text("kept")
    before = sorted(tmp_path.iterdir())
    for name in ("folder", "taken", "file/model"):
        with pytest.raises(InputError, match=rf"checkpoint .*{name} cannot be written \(.*\); choose another file"):
            SMALL.build().save(tmp_path / name)
    with pytest.raises(InputError, match=r"a checkpoint must have a file name, got '\.'"):
        SMALL.build().save("")
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_a_full_disk_is_told_with_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("paperweight.generators.checkpoint.save_file", fail)
    with pytest.raises(InputError, match=r"model cannot be written \(No space left on device, [\d,]+ bytes are free"):
        SMALL.build().save(tmp_path / "model")
