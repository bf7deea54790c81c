"""Randomized feature defense: noise against closed forms on linear networks, ratios by hand, a bisection."""

import copy
import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from paperweight.attacks import cross_entropy_loss
from paperweight.nets import MLP
from paperweight.robustness.randomized_feature_defense import (
    RandomizedFeatureDefense,
    feature_spreads,
    gradient_ratios,
    largest_noise,
)
from paperweight.testing import DefenseSubject, FunctionSubject
from paperweight.testing.classifiers import toy_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def defended(model, nu=0.01, layers=None, *, generator):
    name = "1" if len(model) > 2 else "0"
    return RandomizedFeatureDefense(model, layers or {name: 1.0}, nu, generator=generator)


def network() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)).double()


MODEL = network()
INPUTS = torch.randn(40, 6, generator=seeded(1), dtype=torch.float64)
LABELS = MODEL(INPUTS).argmax(dim=1)
BAD = {"layers": ({}, {"9": 1.0}, "0"), "inputs": (INPUTS[:0],)}

CONTRACT = {
    "RandomizedFeatureDefense": DefenseSubject(
        make=defended,
        random=True,
        attacked=lambda defense: defense.model,
        bad={
            "nu": (-0.1, math.nan, math.inf, True),
            "layers": ({"9": 1.0}, {"1": -1.0}, {"1": math.nan}, {"1": math.inf}, {"1": True}, "1"),
        },
        null=partial(defended, nu=0.0),
        baseline=lambda model, *, generator: model,
    ),
    "feature_spreads": FunctionSubject(
        make=feature_spreads, arguments={"model": MODEL, "layers": ("0", "1"), "inputs": INPUTS}, bad=BAD
    ),
    "gradient_ratios": FunctionSubject(
        make=gradient_ratios,
        arguments={"model": MODEL, "layers": ("0", "1"), "inputs": INPUTS, "labels": LABELS},
        bad=BAD | {"labels": (LABELS[:3],), "inputs": (INPUTS[:0], INPUTS.long())},
    ),
    "largest_noise": FunctionSubject(
        make=lambda generator=None, **given: largest_noise(generator=generator or seeded(), **given),
        arguments={"model": MODEL, "layers": {"1": 1.0}, "inputs": INPUTS, "labels": LABELS},
        bad=BAD
        | {
            "labels": (LABELS[:3],),
            "max_drop": (-0.1, 1.1, math.nan, True),
            "draws": (0, 1.0, True),
            "tries": (0, 1.0, True),
        },
    ),
}


@pytest.mark.parametrize("layers", [{"1": 2.0}, {"0": 0.3, "1": 1.0}])
def test_noise_of_logits_has_the_covariance_of_a_linear_tail(layers: dict[str, float]) -> None:
    model: Any = nn.Sequential(nn.Linear(4, 5), nn.Identity(), nn.Linear(5, 2)).double()
    defense = RandomizedFeatureDefense(model, layers, 0.5, generator=seeded(3))
    x = torch.randn(1, 4, dtype=torch.float64, generator=seeded())
    with torch.no_grad():
        noise = defense(x.expand(8_000, 4)) - model(x)
        tail = model[2].weight
        exact = sum((0.5 * unit) ** 2 for unit in layers.values()) * tail @ tail.T
    torch.testing.assert_close(noise.T.cov(), exact, rtol=0.06, atol=0.03 * exact.max().item())
    standard = noise / exact.diagonal().sqrt()
    assert all(stats.kstest(column.numpy(), "norm").pvalue > 1e-3 for column in standard.T)


def test_noise_is_fresh_for_each_input_entry_and_call_and_each_call_of_a_module() -> None:
    shared = nn.Identity()
    model: Any = nn.Sequential(nn.Flatten(), shared, shared)
    defense = RandomizedFeatureDefense(model, {"1": 1.0}, 1.0, generator=seeded())
    first, second = defense(torch.zeros(500, 8)), defense(torch.zeros(500, 8))
    assert torch.cat([first, second]).unique().numel() == 8_000
    assert first.var().item() == pytest.approx(2.0, rel=0.1)


def test_noise_comes_after_the_module_and_gradients_pass_it() -> None:
    model: Any = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Identity())
    model[0].weight.data.fill_(0.0)
    model[0].bias.data.fill_(-1.0)
    after = RandomizedFeatureDefense(model, {"1": 1.0}, 1.0, generator=seeded())(torch.zeros(200, 1))
    assert 0.3 < (after < 0).double().mean() < 0.7
    x = torch.ones(3, 6, dtype=torch.float64, requires_grad=True)
    defense = RandomizedFeatureDefense(MODEL, {"0": 1.0}, 1e-9, generator=seeded())
    given = torch.autograd.grad(defense(x).sum(), x)[0]
    torch.testing.assert_close(given, torch.autograd.grad(MODEL(x).sum(), x)[0])


def test_it_is_copied_and_kept_with_its_source_of_noise() -> None:
    defense = RandomizedFeatureDefense(MODEL, {"1": 1.0}, 0.1, generator=seeded(5))
    copies = [copy.deepcopy(defense), pickle.loads(pickle.dumps(defense))]
    outputs = defense(INPUTS)
    assert all(torch.equal(each(INPUTS), outputs) for each in copies)
    assert not torch.equal(defense(INPUTS), outputs)


def test_a_failing_call_leaves_no_hook() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 5), nn.Linear(4, 3))
    with pytest.raises(RuntimeError):
        RandomizedFeatureDefense(model, {"0": 1.0}, 0.1, generator=seeded())(torch.ones(2, 6))
    assert not model[0]._forward_hooks


class _Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused, self.pair = nn.Identity(), _Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.pair(x)[0]


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(("name", "words"), [("unused", "did not call unused"), ("pair", "'pair' gives tuple")])
def test_a_module_without_features_to_disturb_is_told(name: str, words: str) -> None:
    defense = RandomizedFeatureDefense(_Odd(), {name: 1.0}, 0.1, generator=seeded())
    with pytest.raises(ValueError, match=words):
        defense(torch.ones(2, 3))


def test_one_module_by_two_names_is_refused() -> None:
    shared = nn.Identity()
    with pytest.raises(ValueError, match="layers must be different modules"):
        RandomizedFeatureDefense(nn.Sequential(shared, shared), {"0": 1.0, "1": 1.0}, generator=seeded())


def test_spreads_are_those_of_all_features_together_over_every_chunk() -> None:
    many = torch.randn(2_500, 6, generator=seeded(2), dtype=torch.float64) + 3
    found = feature_spreads(MODEL, ["0", "2"], many)
    with torch.no_grad():
        assert found == pytest.approx(
            {"0": MODEL[0](many).std(correction=0).item(), "2": MODEL(many).std(correction=0).item()}
        )


def test_spreads_are_looked_at_in_eval_mode() -> None:
    model: Any = nn.Sequential(nn.Dropout(0.5)).train()
    assert feature_spreads(model, ["0"], torch.ones(50, 4)) == {"0": 0.0}
    assert model.training


def test_ratios_are_those_of_gradients_by_a_loop() -> None:
    found = gradient_ratios(MODEL, ["0", "1"], INPUTS, LABELS, cross_entropy_loss)
    ratios: dict[str, list[float]] = {"0": [], "1": []}
    for x, y in zip(INPUTS, LABELS, strict=True):
        jacobian = MODEL[0].weight.detach()
        hidden = MODEL[0](x[None]).detach()
        active = (hidden > 0).double()
        p = MODEL(x[None]).softmax(dim=1).detach()
        p[0, y] -= 1
        after = p @ MODEL[2].weight.detach()
        size = (after * active @ jacobian).norm().item()
        if size > 0:
            ratios["0"].append((after * active).norm().item() / size)
            ratios["1"].append(after.norm().item() / size)
    assert found == pytest.approx({name: sum(each) / len(each) for name, each in ratios.items()})


def test_inputs_without_a_gradient_do_not_count() -> None:
    model: Any = nn.Sequential(nn.ReLU(), nn.Linear(2, 2, bias=False))
    model[1].weight.data.copy_(torch.eye(2))
    inputs = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    assert gradient_ratios(model, ["0"], inputs, torch.zeros(2, dtype=torch.int64)) == pytest.approx({"0": 1.0})


def test_the_largest_noise_is_that_of_the_normal_law() -> None:
    """A margin of 1 falls under noise of both logits with probability Phi(-1 / (sqrt(2) nu))."""
    model: Any = nn.Sequential(nn.Identity())
    inputs = torch.tensor([[1.0, 0.0]]).expand(5_000, 2)
    labels = torch.zeros(5_000, dtype=torch.int64)
    for drop in (0.01, 0.3):
        nu = largest_noise(model, {"0": 1.0}, inputs, labels, generator=seeded(), max_drop=drop)
        assert nu == pytest.approx(-1 / (math.sqrt(2) * stats.norm.ppf(drop)), rel=0.06)


def test_the_largest_noise_keeps_the_accuracy_and_what_is_tried_next_would_not() -> None:
    wrong = LABELS.clone()
    wrong[:4] = (wrong[:4] + 1) % 3
    given = {"layers": {"1": 1.0}, "inputs": INPUTS, "labels": wrong, "draws": 3, "max_drop": 0.05}
    seed = int(torch.randint(2**62, (1,), generator=seeded(4)))

    def accuracy(nu: float) -> float:
        defense = RandomizedFeatureDefense(MODEL, {"1": 1.0}, nu, generator=seeded(seed))
        found = [(defense(INPUTS).argmax(dim=1) == wrong).double().mean().item() for _ in range(3)]
        return sum(found) / 3

    nu = largest_noise(MODEL, generator=seeded(4), tries=20, **given)
    assert accuracy(nu) >= 0.9 - 0.05 > accuracy(nu * 1.001)


def test_noise_is_looked_for_in_eval_mode_and_0_where_none_is_small_enough() -> None:
    model: Any = nn.Sequential(nn.Dropout(0.99), nn.Identity()).train()
    inputs, labels = torch.tensor([[1.0, 0.0]]).expand(50, 2), torch.zeros(50, dtype=torch.int64)
    assert largest_noise(model, {"1": 1.0}, inputs, labels, generator=seeded(), max_drop=0.0) > 0.05
    assert largest_noise(model, {"1": 1.0}, inputs, labels, generator=seeded(), max_drop=0.0, tries=1) == 0
    assert model.training


def test_a_network_of_the_library_is_defended_by_name() -> None:
    model = MLP((1, 4, 4), 3, hidden=(8, 8))
    defense = RandomizedFeatureDefense(model, {"body.2": 1.0, "body.4": 1.0}, 0.1, generator=seeded())
    assert defense(toy_images(5)).shape == (5, 3)
    assert not torch.equal(defense(toy_images(5)), model(toy_images(5)))
    assert [name for name, _ in defense.named_parameters()] == [f"model.{name}" for name, _ in model.named_parameters()]


def test_without_noise_nothing_is_drawn() -> None:
    source = seeded(6)
    RandomizedFeatureDefense(MODEL, {"1": 1.0}, 0.0, generator=source)(INPUTS)
    assert torch.equal(source.get_state(), seeded(6).get_state())
