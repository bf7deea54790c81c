"""Checkpoints and keybooks of strangers: refused in words, and nothing that they say sizes the memory."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paperweight.errors import InputError
from paperweight.generators import ModelSpec
from paperweight.generators.model import load_model, read_tensors
from paperweight.marks.keybook import Keybook

MODEL = ModelSpec(shape=(1, 4, 4), arguments={"width": 8, "blocks": 2}, classes=3, condition_dim=4)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_hostile_files_are_refused_in_words_and_with_little_memory():
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "benchmarks/hostile_files.py"), "--checkpoints", "36", "--keybooks", "11"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e39])
def test_a_weight_that_is_not_finite_in_float32_is_named(tmp_path: Path, value: float):
    path = tmp_path / "model"
    MODEL.build().save(path)
    tensors = load_file(path)
    with torch.no_grad():
        tensors["model.network.stem.bias"] = (
            tensors["model.network.stem.bias"].double().index_fill(0, torch.tensor([1]), value)
        )
    save_file(tensors, path, {"format": "paperweight diffusion model 1", "spec": '{"shape": [1, 4, 4]}', "facts": "{}"})
    with pytest.raises(InputError, match=r"model must have finite weights, 'model\.network\.stem\.bias' holds NaN"):
        read_tensors(path)


def test_a_model_of_every_network_comes_back_with_its_weights(tmp_path: Path):
    for network in ("mlp", "token", "unet"):
        model = ModelSpec(shape=(1, 8, 8), network=network, classes=2).build()
        model.save(tmp_path / network)
        again = load_model(tmp_path / network)
        assert again.spec == model.spec
        assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_model_is_read_without_loading_a_compiler(tmp_path: Path):
    ModelSpec(shape=(1, 4, 4), network="token", classes=2).build().save(tmp_path / "model")
    code = (
        "import sys\n"
        "from paperweight.generators.model import load_model\n"
        "load_model(sys.argv[1])\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=True)


def test_weights_in_half_precision_are_read_and_whole_numbers_refused(tmp_path: Path):
    path = tmp_path / "model"
    model = MODEL.build()
    model.half().save(path)
    assert load_model(path).network.stem.weight.dtype == torch.float32
    model.to(torch.float8_e4m3fn).save(path)
    with pytest.raises(InputError, match=r"must be one of F16, BF16, F32, F64, it is F8_E4M3"):
        load_model(path)


def test_a_model_of_more_steps_than_a_file_may_ask_for_is_refused_before_it_is_trained():
    with pytest.raises(InputError, match="at most 100,000 steps"):
        ModelSpec(shape=(1, 4, 4), steps=100_001)


def test_keys_beyond_the_bound_are_refused_before_they_are_planted():
    with pytest.raises(InputError, match="keys must be at most 100,000, got 100,001"):
        Keybook(
            keys={"0": (0.5,) * 100_000, "1": (0.5,)},
            held_out=("1",),
            same_key=False,
            seed=0,
            mark={},
            name="",
            fingerprint="",
            max_side=8,
        )
