"""States in a file: what goes in comes out, and what is none is refused."""

import math
import pickle

import pytest
import torch
from torch import nn

from paperweight.agents.checkpoint import read_state, write_state
from paperweight.errors import InputError


def same(found, expected):
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list | tuple):
        return type(found) is type(expected) and all(map(same, found, expected)) and len(found) == len(expected)
    return type(found) is type(expected) and (found == expected or math.isnan(found))


def test_a_state_comes_out_as_it_went_in(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.8, 0.9))
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    shared = torch.arange(6.0)
    state = {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "generator": torch.Generator().manual_seed(3).get_state(),
        "views": [shared[:3], shared[3:], shared.reshape(2, 3).T],
        "facts": {"none": None, "yes": True, "number": 3, "rate": 0.1, "not": math.nan, "text": "a", 4: (1, "b", [])},
    }
    file = tmp_path / "folder" / "agent.safetensors"
    write_state(file, state)
    assert same(read_state(file), state)
    assert [path.name for path in file.parent.iterdir()] == ["agent.safetensors"]


def test_what_cannot_be_written_or_read_is_refused(tmp_path):
    with pytest.raises(ValueError, match="state must hold tensors, numbers, texts and None, got set"):
        write_state(tmp_path / "a", {"a": {1}})
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*choose another file"):
        write_state(tmp_path / "file" / "a", {})
    with pytest.raises(InputError, match="cannot be read"):
        read_state(tmp_path / "missing")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"state": 1}))
    with pytest.raises(InputError, match="delete it to start anew"):
        read_state(tmp_path / "pickle")
    write_state(tmp_path / "cut", {"a": torch.zeros(100)})
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-8])
    with pytest.raises(InputError, match="was not written by an agent"):
        read_state(tmp_path / "cut")


def test_a_file_of_weights_alone_is_no_state(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "weights")
    with pytest.raises(InputError, match="was not written by an agent"):
        read_state(tmp_path / "weights")
