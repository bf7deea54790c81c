"""The user's network starts anew and alike at each call, or it is refused with what to do."""

import random
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from paperweight.errors import InputError
from paperweight.studies import Setting

FACTORIES = """
    import random
    import numpy as np
    import torch
    from torch import nn

    def linear(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))

    KEPT = linear(None, 10)
    TWO = [linear(None, 10), linear(None, 10)]
    TWO[1].load_state_dict(TWO[0].state_dict())
    CALLS = []

    def same(shape, classes):
        return KEPT

    def shared(shape, classes):
        model = linear(shape, classes)
        model[1].weight = KEPT[1].weight
        return model

    def own_stream(shape, classes):
        model = linear(shape, classes)
        with torch.no_grad():
            generator = torch.Generator()
            generator.seed()
            model[1].weight.normal_(generator=generator)
        return model

    def of_numpy_and_random(shape, classes):
        model = linear(shape, classes)
        with torch.no_grad():
            model[1].weight.copy_(torch.from_numpy(np.random.randn(classes, 64)) * random.random())
        return model

    def in_turn(shape, classes):
        CALLS.append(1)
        return TWO[len(CALLS) % 2]

    class Training(nn.Module):


        def __init__(self, does):
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))
            self.does = does

        def forward(self, x):
            return self.does(self.body(x)) if self.training else self.body(x)

    def two_outputs(shape, classes):
        return Training(lambda logits: (logits, logits))

    def raises(shape, classes):
        return Training(lambda logits: logits.missing)

    def frozen(shape, classes):
        return linear(shape, classes).requires_grad_(False)

    def counting(shape, classes):
        return Training(lambda logits: logits + torch.randn(1))

    def fails(shape, classes):
        raise TypeError("not like this")
"""


@pytest.fixture(autouse=True)
def _factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "network_factories.py").write_text(textwrap.dedent(FACTORIES))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "network_factories", raising=False)


def setting(name: str, seed: int = 0) -> Setting:
    return Setting(study="s", seed=seed, budget="smoke", network=f"network_factories:{name}")


def weights(of: Setting) -> torch.Tensor:
    return of.network((1, 8, 8), 10, default=torch.nn.Identity)[1].weight.detach().clone()  # type: ignore[index]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("same", "returned the same weights twice"),
        ("shared", "returned the same weights twice"),
        ("own_stream", "started with other weights the second time"),
        ("two_outputs", r"must return .* to logits \(N, 10\); for N = 2 it returned tuple while it trains"),
        ("raises", "must return .* it failed on zeros of that shape while it trains: .*missing"),
        ("frozen", "must return .* that can be trained; none of its weights wants a gradient"),
        ("fails", r"cannot be built for images of shape \(1, 8, 8\) and 10 classes: TypeError: not like this"),
    ],
)
def test_a_network_that_does_not_start_alike_is_refused(name: str, says: str) -> None:
    with pytest.raises(InputError, match=f"network network_factories:{name} {says}"):
        weights(setting(name))


@pytest.mark.parametrize("name", ["linear", "of_numpy_and_random"])
def test_networks_start_alike_in_a_pair_and_otherwise_at_another_seed(name: str) -> None:
    one, again, other = setting(name), setting(name), setting(name, seed=1)
    assert torch.equal(weights(one), weights(one))
    assert torch.equal(weights(one), weights(again))
    assert not torch.equal(weights(one), weights(other))
    assert one.starts == again.starts
    assert list(one.starts) == ["s 0 1x8x8 10"]
    assert list(other.starts) == ["s 1 1x8x8 10"]
    assert one.starts["s 0 1x8x8 10"] != other.starts["s 1 1x8x8 10"]


def test_building_a_network_leaves_the_global_streams_as_they_were() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    weights(setting("of_numpy_and_random"))
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]
    assert before[2] == random.getstate()


def test_a_network_that_is_tried_in_training_starts_as_it_was_built() -> None:
    torch.manual_seed(5)
    model = setting("counting").network((1, 8, 8), 10, default=torch.nn.Identity)
    assert torch.initial_seed() == 5
    assert torch.equal(torch.rand(1), torch.rand(1, generator=torch.Generator().manual_seed(5)))
    assert model.training
    assert model.state_dict()["body.1.num_batches_tracked"] == 0
    assert (model.state_dict()["body.1.running_mean"] == 0).all()


def test_a_network_that_was_trained_and_comes_back_later_is_refused() -> None:
    trial = setting("in_turn")
    model = trial.network((1, 8, 8), 10, default=torch.nn.Identity)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    with pytest.raises(InputError, match="started with other weights"):
        weights(trial)
