"""Models trained at once equal those trained one by one; what cannot be stacked exactly is refused in words."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import Pays, clip_gradients, fit_classifier, fit_stacked, stacking_pays
from paperweight.nets import MLP, LeNet
from paperweight.optim.lookahead import Lookahead

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=1e-3)
OPTIMIZERS = {"SGD": SGD, "Adam": partial(torch.optim.Adam, lr=0.01), "RMSprop": partial(torch.optim.RMSprop, lr=0.01)}


class Residual(nn.Module):
    """A network that is no chain of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.flatten(1)).tanh()
        return self.last(hidden + hidden.sin())


def models(build: Callable[[], nn.Module], count: int, dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    torch.manual_seed(0)
    return [build().to(dtype) for _ in range(count)]


def data(
    count: int, shape: tuple[int, ...] = (1, 1, 2), n: int = 100, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(count, n, *shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    return inputs, (inputs.flatten(2)[..., 0] * inputs.flatten(2)[..., 1] > 0).long()


def draws(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def difference(first: list[nn.Module], second: list[nn.Module]) -> float:
    both = zip(first, second, strict=True)
    return max((p - q).abs().max().item() for m, n in both for p, q in zip(m.parameters(), n.parameters(), strict=True))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (partial(MLP, (1, 1, 2), 2, (32, 32)), (1, 1, 2)),
    "no bias, rows": (
        lambda: nn.Sequential(nn.Linear(2, 8, bias=False), nn.Tanh(), nn.Flatten(), nn.Linear(24, 2)),
        (3, 2),
    ),
    "no chain": (Residual, (1, 1, 2)),
    "LeNet": (partial(LeNet, (1, 12, 12), 2), (1, 12, 12)),
    "batch normalization without statistics": (
        lambda: nn.Sequential(
            nn.Linear(2, 8, bias=False),  # Adam would enlarge the rounding of a slope that is 0
            nn.BatchNorm1d(8, track_running_stats=False),
            nn.Linear(8, 2),
        ),
        (2,),
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_model_is_trained_as_alone(network: str, optimizer: str) -> None:
    (build, shape), make = NETWORKS[network], OPTIMIZERS[optimizer]
    steps = 12 if network == "LeNet" else 60
    inputs, labels = data(5, shape)
    together, alone = models(build, 5), models(build, 5)
    ours, theirs = draws(5), draws(5)
    seen: list[tuple[int, Tensor]] = []
    losses = fit_stacked(
        together,
        make,
        inputs,
        labels,
        steps=steps,
        batch_size=16,
        generators=ours,
        on_step=lambda step, values: seen.append((step, values)),
    )
    expected = [
        fit_classifier(m, make(m.parameters()), x, y, steps=steps, batch_size=16, generator=draw)
        for m, x, y, draw in zip(alone, inputs, labels, theirs, strict=True)
    ]
    assert losses.shape == (5, steps)
    torch.testing.assert_close(losses, torch.stack(expected), rtol=0, atol=1e-9)
    assert difference(together, alone) < 1e-9
    assert difference(together, models(build, 5)) > 1e-3  # they have been trained
    assert all(torch.equal(a.get_state(), b.get_state()) for a, b in zip(ours, theirs, strict=True))
    assert [step for step, _ in seen] == [*range(steps)]
    assert torch.equal(torch.stack([values for _, values in seen], dim=1), losses)
    assert all(model.training for model in together)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_the_stated_tolerance_holds_after_two_hundred_steps(dtype: torch.dtype, tolerance: float) -> None:
    build = partial(MLP, (1, 1, 2), 2, (32, 32))
    inputs, labels = data(64, dtype=dtype)
    together, alone = models(build, 64, dtype), models(build, 64, dtype)
    fit_stacked(together, SGD, inputs, labels, steps=200, batch_size=32, generators=draws(64))
    for model, x, y, draw in zip(alone, inputs, labels, draws(64), strict=True):
        fit_classifier(model, SGD(model.parameters()), x, y, steps=200, batch_size=32, generator=draw)
    assert difference(together, alone) <= tolerance


def test_data_may_be_shared_and_fewer_than_a_batch_and_the_loss_another() -> None:
    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs.softmax(dim=1), F.one_hot(labels, 2).to(outputs.dtype))

    inputs, labels = data(1, n=10)
    build = partial(MLP, (1, 1, 2), 2, (8,))
    together, alone = models(build, 3), models(build, 3)
    shared = inputs.expand(3, *inputs.shape[1:]), labels.expand(3, 10)
    fit_stacked(together, SGD, *shared, steps=20, batch_size=32, generators=draws(3), loss=loss)
    for model, draw in zip(alone, draws(3), strict=True):
        optimizer = SGD(model.parameters())
        fit_classifier(model, optimizer, inputs[0], labels[0], steps=20, batch_size=32, generator=draw, loss=loss)
    assert difference(together, alone) < 1e-9


def test_frozen_weights_stay_and_a_model_that_diverges_leaves_the_others_alone() -> None:
    def build() -> nn.Module:
        network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        network[0].requires_grad_(False)
        return network

    inputs, labels = data(2, (2,))
    inputs[1] = float("inf")
    together, alone = models(build, 2), models(build, 1)
    start = together[0][0].weight.clone()
    losses = fit_stacked(together, SGD, inputs, labels, steps=60, batch_size=8, generators=draws(2))
    optimizer = SGD([p for p in alone[0].parameters() if p.requires_grad])
    fit_classifier(alone[0], optimizer, inputs[0], labels[0], steps=60, batch_size=8, generator=draws(1)[0])
    assert losses[0].isfinite().all()
    assert not losses[1].isfinite().any()
    assert torch.equal(together[0][0].weight, start)
    assert difference(together[:1], alone) < 1e-9


def shared_layer() -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.Sequential(layer, nn.ReLU(), layer)


def test_a_layer_that_stands_twice_is_trained_as_one() -> None:
    inputs, labels = data(2, (2,))
    together, alone = models(shared_layer, 2), models(shared_layer, 2)
    fit_stacked(together, SGD, inputs, labels, steps=20, batch_size=8, generators=draws(2))
    for model, x, y, draw in zip(alone, inputs, labels, draws(2), strict=True):
        fit_classifier(model, SGD(model.parameters()), x, y, steps=20, batch_size=8, generator=draw)
    assert difference(together, alone) < 1e-9


def clipped(parameters: list[Tensor]) -> torch.optim.Optimizer:
    optimizer = SGD(parameters)
    clip_gradients(optimizer, 1.0)
    return optimizer


PLAIN = partial(nn.Linear, 2, 2)


@pytest.mark.parametrize(
    ("build", "make", "says"),
    [
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), SGD, "no buffers.* got '1.running_mean'"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), SGD, "without dropout; it says: vmap: .*random"),
        (PLAIN, lambda ps: Lookahead(SGD(ps)), "treat each entry by itself, .* got Lookahead"),
        (PLAIN, clipped, "without a hook before the step, got SGD"),
    ],
)
def test_what_cannot_be_stacked_exactly_is_refused(build: Any, make: Any, says: str) -> None:
    inputs, labels = data(2, (2,))
    refused = models(build, 2)
    before = copy.deepcopy(refused)
    with pytest.raises(ValueError, match=f"(?s){says}.*one by one with fit_classifier"):
        fit_stacked(refused, make, inputs, labels, steps=3, batch_size=8, generators=draws(2))
    assert difference(refused, before) == 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"generators": draws(1)}, r"equally many, at least one, got \{'models': 2, .*'generators': 1\}"),
        ({"models": []}, "equally many, at least one, got {'models': 0"),
        ({"labels": torch.zeros(2, 99, dtype=torch.int64)}, "equally many samples a model"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"models": [nn.Linear(2, 2), nn.Linear(2, 3)]}, "one structure, got another one as number 1: Linear"),
        ({"models": [nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)]}, "one structure, got another one as number 1: LeakyReLU"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], says: str) -> None:
    inputs, labels = data(2, (2,))
    given = {"models": models(PLAIN, 2), "optimizer": SGD, "inputs": inputs, "labels": labels}
    sizes = {"steps": 3, "batch_size": 8, "generators": draws(2)}
    with pytest.raises(ValueError, match=says):
        fit_stacked(**(given | sizes | changes))


def test_a_measurement_of_three_steps_tells_what_pays_and_changes_nothing() -> None:
    inputs, labels = data(64)
    small = models(partial(MLP, (1, 1, 2), 2, (32, 32)), 64)
    before = copy.deepcopy(small)
    found = stacking_pays(small, SGD, inputs, labels, batch_size=16)
    assert found
    assert found.ratio > 3  # quiet: 17
    assert difference(small, before) == 0
    assert not Pays(stacked=2.0, single=1.0)
    assert Pays(stacked=2.0, single=1.0).ratio == 0.5
