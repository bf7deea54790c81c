"""Deeply-supervised nets against loops over classes and layers, gradients by hand, and a network without companions."""

import copy
import math
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.nets import MLP, LeNet, ResNet, ViT
from paperweight.studies.training.deeply_supervised import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject, LossSubject
from paperweight.training.deeply_supervised import (
    DeeplySupervised,
    Supervised,
    companion_objective,
    companion_weight,
    deeply_supervised_loss,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)
    )


class Idle(nn.Module):
    """Has a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.used, self.head = nn.Linear(2, 2), nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.used(x))


LABELS = torch.tensor([0, 2, 1, 2])
OUTPUTS = Supervised(
    normal(4, 3, seed=1).float(),
    (normal(4, 3, seed=2).float(), normal(4, 3, seed=3).float()),
    (torch.tensor(0.7), torch.tensor(1.3)),
)


def hinge(scores, labels) -> float:
    total = 0.0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        total += sum(max(0.0, 1 - (row[label] - row[k])) ** 2 for k in range(len(row)) if k != label)
    return total / len(labels)


def objective(outputs, labels, alpha=1.0, gamma=0.0, lam=2.5e-4) -> float:
    logits, companions, norms = outputs
    extra = [
        max(0.0, lam * float(norm) + hinge(scores, labels) - gamma)
        for scores, norm in zip(companions, norms, strict=True)
    ]
    return hinge(logits, labels) + alpha * sum(extra)


CONTRACT = {
    "DeeplySupervised": LayerSubject(
        make=lambda classes=3, taps=None, grid=2: DeeplySupervised(small(), classes, taps, grid, seeded()),
        inputs=(normal(4, 1, 6, 6).float(),),
        shape=None,
        parameter_count=20 + 132 + 12 + 3 * 9 + 3 * 5,
        bad={
            "classes": (1, 0, 2.5, True),
            "taps": ([], ["1"], ["0", "0"], ["nothing"]),
            "grid": (0, -1, 2.5, True),
        },
    ),
    "deeply_supervised_loss": LossSubject(
        make=partial(partial, deeply_supervised_loss),
        inputs=(OUTPUTS, LABELS),
        slow=objective,
        bad={
            "alpha": (-0.1, math.nan, math.inf),
            "gamma": (-0.1, math.nan, math.inf),
            "lam": (-0.1, math.nan, math.inf),
            "loss": ("hinge", None),
        },
        null=partial(partial, deeply_supervised_loss, alpha=0.0, loss="cross_entropy"),
        baseline=lambda: lambda outputs, labels: F.cross_entropy(outputs[0], labels),
    ),
    "companion_objective": FunctionSubject(
        make=companion_objective,
        arguments={"scores": normal(4, 3), "labels": LABELS, "norm": torch.tensor(2.0)},
        bad={
            "scores": (torch.zeros(0, 3), torch.zeros(4)),
            "labels": (torch.zeros(3, dtype=torch.int64),),
            "gamma": (-0.1, math.nan, math.inf),
            "lam": (-0.1, math.nan, math.inf),
            "loss": ("hinge",),
        },
    ),
    "companion_weight": FunctionSubject(
        make=companion_weight,
        arguments={"alpha": 1.0, "epoch": 3, "epochs": 10},
        bad={"alpha": (-0.1, math.nan, math.inf), "epoch": (-1, 11, math.nan), "epochs": (0, 2.5)},
    ),
}


def test_a_hinge_by_hand():
    # Label 0 has 2: 1 - (2 - 1.5) = 0.5 and 1 - (2 + 3) < 0, so 0.25; label 1 has -1: 1 + 1 = 2 each, so 8.
    scores = torch.tensor([[2.0, 1.5, -3.0], [0.0, -1.0, 0.0]])
    labels = torch.tensor([0, 1])
    assert companion_objective(scores, labels, torch.tensor(3.0), lam=0.5).item() == (0.25 + 8) / 2 + 1.5


@pytest.mark.parametrize("alpha", [0.0, 0.4])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 100.0])
def test_the_objective_is_the_sum_over_layers(alpha, gamma):
    outputs = Supervised(OUTPUTS.logits.double(), tuple(normal(4, 3, seed=s) for s in (2, 3)), OUTPUTS.norms)
    found = deeply_supervised_loss(outputs, LABELS, alpha, gamma, lam=0.3)
    assert found.item() == pytest.approx(objective(outputs, LABELS, alpha, gamma, 0.3), rel=1e-6)


@pytest.mark.parametrize("loss", ["squared_hinge", "cross_entropy"])
def test_a_companion_at_or_below_the_threshold_has_no_gradient_and_one_above_its_whole(loss):
    labels = torch.tensor([0, 1])
    scores = normal(2, 3).requires_grad_()
    norm = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    value = companion_objective(scores, labels, norm, loss=loss).item()
    companion_objective(scores, labels, norm, gamma=value, loss=loss).backward()
    assert not scores.grad.any()
    assert norm.grad == 0
    companion_objective(scores, labels, norm, gamma=value / 2, lam=0.3, loss=loss).backward()
    free = scores.detach().clone().requires_grad_()
    companion_objective(free, labels, torch.tensor(0.0), loss=loss).backward()
    assert torch.equal(scores.grad, free.grad)
    assert norm.grad == 0.3


def test_the_weight_falls_from_a_tenth_to_nothing():
    assert companion_weight(1.0, 0, 8) == 0.1
    assert companion_weight(0.6, 2, 8) == pytest.approx(0.045)
    assert companion_weight(1.0, 8, 8) == 0.0


def test_companions_see_what_their_layers_give_before_the_activation():
    model = small().double()
    supervised = DeeplySupervised(model, 3, grid=2, generator=seeded(1))
    x = normal(5, 1, 6, 6)
    found = supervised(x)
    maps = model[0](x)
    grid = torch.stack([maps[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 2) for j in (0, 2)], dim=2)
    hidden = model[3](torch.tanh(maps).flatten(1))
    first, second = supervised.heads
    torch.testing.assert_close(found.companions[0], grid.flatten(1) @ first.weight.T + first.bias)
    torch.testing.assert_close(found.companions[1], hidden @ second.weight.T + second.bias)
    assert torch.equal(found.logits, model(x))
    assert [norm.item() for norm in found.norms] == pytest.approx(
        [sum(w**2 for w in head.weight.flatten().tolist()) for head in (first, second)]
    )
    assert torch.equal(supervised.eval()(x), model(x))


def test_a_grid_of_the_size_of_the_map_is_every_pixel():
    model = small()
    supervised = DeeplySupervised(model, 3, taps=["0"], grid=4)
    x = normal(2, 1, 6, 6).float()
    assert torch.equal(supervised(x).companions[0], supervised.heads[0](model[0](x).flatten(1)))


def test_a_layer_is_reached_by_its_own_companion_and_those_above_it():
    model = small().double()
    supervised = DeeplySupervised(model, 3, grid=2)
    outputs = supervised(normal(5, 1, 6, 6))
    convolution, hidden = model[0].weight, model[3].weight
    for scores, reached in ((outputs.companions[0], [True, False]), (outputs.companions[1], [True, True])):
        gradients = torch.autograd.grad(
            scores.square().sum(), [convolution, hidden], allow_unused=True, retain_graph=True
        )
        assert [gradient is not None for gradient in gradients] == reached
    assert torch.autograd.grad(outputs.companions[0].sum(), [model[5].weight], allow_unused=True) == (None,)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("build", [MLP, LeNet, ResNet])
def test_at_alpha_0_a_network_trains_as_without_companions_bit_for_bit(build, inplace):
    torch.manual_seed(0)
    plain = build((1, 8, 8), 4)
    for part in plain.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = inplace
    supervised = DeeplySupervised(copy.deepcopy(plain), 4)
    results = []
    for model, loss in (
        (plain, F.cross_entropy),
        (supervised, partial(deeply_supervised_loss, alpha=0.0, loss="cross_entropy")),
    ):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            loss(model(normal(6, 1, 8, 8, seed=step).float()), torch.arange(6) % 4).backward()
            optimizer.step()
        model.eval()
        results.append(model(normal(6, 1, 8, 8).float()))
    assert torch.equal(*results)
    assert all(map(torch.equal, plain.state_dict().values(), supervised.model.state_dict().values()))
    assert all(p.grad is None for p in supervised.heads.parameters())


def test_what_an_activation_changes_in_place_is_not_what_a_companion_sees():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    supervised = DeeplySupervised(model, 3)
    x = normal(6, 4).float()
    outputs = supervised(x)
    assert torch.equal(outputs.companions[0], supervised.heads[0](model[0](x)))
    deeply_supervised_loss(outputs, torch.arange(6) % 3).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in supervised.parameters())


def test_copies_pickles_states_and_no_gradient():
    torch.manual_seed(0)
    supervised = DeeplySupervised(small(), 3, grid=2)
    x = normal(4, 1, 6, 6).float()
    other = DeeplySupervised(small(), 3, grid=2, generator=seeded(5))
    assert not torch.equal(other.heads[0].weight, supervised.heads[0].weight)
    other.load_state_dict(supervised.state_dict())
    for twin in (copy.deepcopy(supervised), pickle.loads(pickle.dumps(supervised)), other):
        assert all(map(torch.equal, twin(x).companions, supervised(x).companions))
        assert not any(part._forward_hooks for part in twin.modules())
    with torch.no_grad():
        assert not supervised(x).logits.requires_grad
    assert supervised.double()(x.double()).companions[1].dtype == torch.float64


def test_the_generator_alone_decides_the_companions():
    state = torch.get_rng_state()
    first, second, third = (DeeplySupervised(small(), 3, generator=seeded(seed)).heads[1].weight for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert first.abs().max() <= 0.5  # 1 / sqrt(4)
    model = small()
    torch.set_rng_state(state)
    DeeplySupervised(model, 3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_tokens_are_averaged_and_what_is_not_called_is_refused():
    tokens = nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(8, 2))
    supervised = DeeplySupervised(tokens, 2)
    x = normal(5, 2, 3).float()
    torch.testing.assert_close(supervised(x).companions[0], supervised.heads[0](tokens[0](x).mean(dim=1)))
    model = Idle()
    with pytest.raises(InputError, match="it does not call 'idle'; leave it out"):
        DeeplySupervised(model, 3, taps=["used", "idle"])(normal(2, 4).float())
    assert not any(part._forward_hooks for part in model.modules())


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (LeNet((1, 28, 28), 10), ""),
        (ResNet((1, 28, 28), 10), ""),
        (ViT((1, 28, 28), 10, dim=8, depth=1, heads=2), ""),
        (nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten()), "must end in a torch.nn.Linear"),
        (nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), "at least one hidden layer"),
    ],
)
def test_the_recipe_says_where_it_does_not_fit(model, reason):
    data = SimpleNamespace(train=SimpleNamespace(images=torch.zeros(3, 1, 28, 28)))
    state = copy.deepcopy(model.state_dict())
    assert reason in RECIPE.fits(model, data)
    assert bool(RECIPE.fits(model, data)) is bool(reason)
    assert all(map(torch.equal, state.values(), model.state_dict().values()))
