"""Robust networks that are kept: training by hand bit for bit, what is trained anew and what is not, mistakes."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from paperweight.attacks import ProjectedGradient
from paperweight.data import LabelledImages
from paperweight.errors import InputError
from paperweight.loops import fit_robust, robust_network
from paperweight.nets import LeNet
from paperweight.provenance import Recording, here, recording

QUICK = {"radius": 0.1, "attack_steps": 2, "steps": 3, "batch_size": 8}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path))
    return tmp_path / "robust_networks"


@pytest.fixture
def data():
    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return LabelledImages(images, torch.arange(24) % 3)


class Told(list):
    def __call__(self, done, count):
        self.append((done, count))


def same(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def files(cache):
    return sorted(cache.glob("*.safetensors"))


def test_it_is_adversarial_training_from_the_seed_and_is_then_kept(data, cache):
    state, told, again = torch.get_rng_state(), Told(), Told()
    found = robust_network("lenet", data, **QUICK, seed=5, progress=told)
    kept = robust_network("lenet", data, **QUICK, seed=5, progress=again)
    assert torch.equal(state, torch.get_rng_state())
    assert (told, again) == ([(3, 3)], [])
    assert not found.training
    assert not kept.training
    assert len(files(cache)) == 1
    torch.manual_seed(5)
    by_hand = LeNet((1, 8, 8), 3)
    fit_robust(
        by_hand,
        torch.optim.Adam(by_hand.parameters(), lr=1e-3),
        data.images,
        data.labels,
        attack=ProjectedGradient(0.1, steps=2, keep_going=True),
        steps=3,
        batch_size=8,
        generator=torch.Generator().manual_seed(6),
    )
    assert same(found, by_hand)
    assert same(kept, by_hand)


def test_whatever_determines_the_weights_is_told_apart(data, cache):
    other = LabelledImages(data.images.clone(), data.labels)
    other.images[3, 0, 4, 4] /= 2
    renamed = LabelledImages(data.images, data.labels.flip(0))
    quick = QUICK | {"steps": 1}
    robust_network("lenet", data, **quick)
    for count, (given, changes) in enumerate(
        [
            (other, {}),
            (renamed, {}),
            (data, {"radius": 0.2}),
            (data, {"norm": 2}),
            (data, {"attack_steps": 1}),
            (data, {"steps": 2}),
            (data, {"batch_size": 4}),
            (data, {"lr": 2e-3}),
            (data, {"seed": 1}),
        ],
        start=2,
    ):
        robust_network("lenet", given, **quick | changes)
        assert len(files(cache)) == count
    robust_network("resnet", data, **quick)
    assert len(files(cache)) == 11


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


def rewritten(path, **changes):
    with safe_open(path, "pt") as stream:
        notes, tensors = stream.metadata(), {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={**notes, **changes})


def without_notes(path):
    rewritten(path, units="nothing")


def of_other_code(path):
    with safe_open(path, "pt") as stream:
        units = json.loads(stream.metadata()["units"])
    name = "loops.robust:adversarial_loss"
    rewritten(path, units=json.dumps(units | {name: units[name][::-1]}))


def unchanged(path):
    rewritten(path)


@pytest.mark.parametrize(
    ("spoil", "anew"),
    [(cut, 1), (flipped, 1), (emptied, 1), (without_notes, 1), (of_other_code, 1), (unchanged, 0)],
)
def test_what_is_damaged_or_of_other_code_is_trained_anew(data, cache, spoil, anew):
    first = robust_network("lenet", data, **QUICK)
    (path,) = files(cache)
    spoil(path)
    told = Told()
    assert same(first, robust_network("lenet", data, **QUICK, progress=told))
    assert len(told) == anew
    robust_network("lenet", data, **QUICK, progress=told)
    assert len(told) == anew


def test_an_interrupted_training_leaves_nothing(data, cache):
    def stop(done, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        robust_network("lenet", data, **QUICK, progress=stop)
    assert not files(cache)
    assert robust_network("lenet", data, **QUICK) is not None


def test_a_recording_takes_note_of_what_training_executed_whenever_that_was(data):
    robust_network("lenet", data, **QUICK)
    with recording(Recording(here().package)) as record:
        robust_network("lenet", data, **QUICK)
    assert "loops.robust:fit_robust" in record.units
    assert "nets.lenet:LeNet.__init__" in record.units


def test_a_source_gives_all_its_training_images(tmp_path):
    from paperweight.data import load_images, split_images

    digits = load_images("digits")
    drawn = split_images(
        digits, train=len(digits.train), validation=0, test=0, generator=torch.Generator().manual_seed(0)
    )
    assert same(robust_network("lenet", "digits", **QUICK), robust_network("lenet", drawn.train, **QUICK))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": "vgg"}, "network must be lenet or resnet, got 'vgg'"),
        ({"radius": 0.0}, "radius must be above 0"),
        ({"radius": float("nan")}, "radius must be above 0"),
        ({"radius": "0.1"}, "radius must be above 0 and finite, got '0.1'"),
        ({"radius": True}, "radius must be above 0"),
        ({"norm": 3}, "norm must be 1, 2"),
        ({"norm": True}, "norm must be 1, 2"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lr": None}, "lr must be above 0"),
        ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"attack_steps": 1.5}, "attack_steps must be a whole number"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"data": "digitz"}, "digitz"),
        ({"data": torch.rand(4, 1, 8, 8)}, "data must be LabelledImages, the name of a data set or a path, got Tensor"),
        ({"data": LabelledImages(torch.rand(4, 1, 8, 8).double(), torch.arange(4))}, "float32 .* got torch.float64"),
        ({"data": LabelledImages(torch.rand(4, 8, 8), torch.arange(4))}, r"images must be \(N, C, H, W\)"),
        ({"data": LabelledImages(torch.rand(4, 1, 8, 8), torch.arange(3))}, r"labels \(N,\)"),
        ({"data": LabelledImages(2 * torch.ones(4, 1, 8, 8), torch.arange(4))}, r"in \[0, 1\]"),
        ({"data": LabelledImages(torch.ones(4, 1, 8, 8).byte(), torch.arange(4))}, "float32"),
        ({"data": LabelledImages(torch.rand(4, 1, 8, 8), torch.zeros(4).long())}, "at least two classes"),
        ({"data": LabelledImages(torch.rand(4, 1, 7, 8), torch.arange(4))}, "lenet cannot take these images"),
        ({"lr": 1e30}, "training diverged"),
    ],
)
def test_mistakes_are_told_in_a_line(data, cache, changes, words):
    given = {"network": "lenet", "data": data, **QUICK, **changes}
    with pytest.raises(InputError, match=words) as caught:
        robust_network(given.pop("network"), given.pop("data"), **given)
    assert "\n" not in str(caught.value)
    assert not files(cache)


def test_a_cache_that_cannot_be_written_is_told(data, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("PAPERWEIGHT_CACHE", str(tmp_path / "taken"))
    with pytest.raises(InputError, match="set PAPERWEIGHT_CACHE to a folder with room"):
        robust_network("lenet", data, **QUICK)
