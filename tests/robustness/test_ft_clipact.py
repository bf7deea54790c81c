"""FT-ClipAct: bits against struct, faults counted and undone, areas by hand, a search against trying everything."""

import math
import struct
from functools import partial

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.robustness._weight_faults import weight_faults
from paperweight.robustness.ft_clipact import (
    ClippedReLU,
    accuracy_under_faults,
    activation_maxima,
    area_under_rates,
    clip_activations,
    tuned_thresholds,
)
from paperweight.testing import DefenseSubject, FunctionSubject, LayerSubject

RATES = (1e-4, 1e-3, 1e-2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


MODEL = network()
INPUTS = normal(40, 6, seed=1)
LABELS = MODEL(INPUTS).argmax(dim=1)

CONTRACT = {
    "ClippedReLU": LayerSubject(
        make=partial(ClippedReLU, threshold=0.7),
        inputs=(normal(4, 5),),
        shape=(4, 5),
        parameter_count=0,
        bad={"threshold": (-0.1, math.nan, True)},
        null=partial(ClippedReLU, threshold=math.inf),
        baseline=nn.ReLU,
    ),
    "clip_activations": DefenseSubject(
        make=lambda model, thresholds=4.0: clip_activations(nn.Sequential(nn.ReLU(), model), thresholds),
        bad={"thresholds": (-0.1, math.nan, {"elsewhere": 1.0})},
        null=lambda model: clip_activations(nn.Sequential(nn.ReLU(), model), math.inf),
        baseline=lambda model: nn.Sequential(nn.ReLU(), model),
    ),
    "activation_maxima": FunctionSubject(
        make=activation_maxima, arguments={"model": MODEL, "inputs": INPUTS}, bad={"inputs": (INPUTS[:0],)}
    ),
    "area_under_rates": FunctionSubject(
        make=area_under_rates,
        arguments={"rates": RATES, "accuracies": torch.tensor([0.9, 0.5, 0.1])},
        bad={
            "rates": ((1e-3,), (1e-3, 1e-4, 1e-2), (0.0, 1e-3, 1e-2), (1e-3, 1e-3, 1e-2)),
            "accuracies": (torch.ones(2),),
        },
    ),
    "accuracy_under_faults": FunctionSubject(
        make=lambda generator=None, **given: accuracy_under_faults(generator=generator or seeded(), **given),
        arguments={"model": MODEL, "inputs": INPUTS, "labels": LABELS, "rates": RATES, "maps": 3},
        bad={"rates": ((-0.1,), (1.1,), (math.nan,)), "maps": (0, 1.0, True), "inputs": (INPUTS[:0], INPUTS[:3])},
    ),
    "tuned_thresholds": FunctionSubject(
        make=lambda generator=None, **given: tuned_thresholds(generator=generator or seeded(), **given),
        arguments={"model": MODEL, "inputs": INPUTS, "labels": LABELS, "rates": RATES, "maps": 2},
        bad={
            "rates": ((1e-3,), (1e-3, 2.0)),
            "maps": (0,),
            "points": (2, 4.0, True),
            "rounds": (0, True),
            "tolerance": (-0.1, math.nan, math.inf),
        },
    ),
}


@pytest.mark.parametrize("x", [2.0000002, 1e30, math.inf, math.nan, -math.inf, -1.0])
def test_what_is_above_the_threshold_or_no_number_becomes_zero(x):
    assert ClippedReLU(2.0)(torch.tensor([x])).item() == 0


def test_what_is_below_passes_with_its_gradient_and_the_rest_has_none():
    x = torch.tensor([-1.0, 0.5, 2.0, 3.0], requires_grad=True)
    ClippedReLU(2.0)(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


def test_with_the_largest_activations_as_thresholds_nothing_changes_on_the_inputs():
    clipped = clip_activations(MODEL, activation_maxima(MODEL, INPUTS))
    assert torch.equal(clipped(INPUTS), MODEL(INPUTS))
    assert not torch.equal(clipped(100 * INPUTS), MODEL(100 * INPUTS))


def test_largest_activations_are_those_of_every_batch():
    hidden = MODEL[1](MODEL[0](INPUTS))
    found = activation_maxima(MODEL, torch.cat([INPUTS, INPUTS.repeat(60, 1) / 9]))
    assert found == {"1": hidden.max().item(), "3": pytest.approx(MODEL[3](MODEL[2](hidden)).max().item())}


def test_a_relu_at_two_places_has_a_threshold_at_each():
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Linear(2, 2), shared)
    found = activation_maxima(model, normal(9, 2))
    assert set(found) == {"1", "3"}
    assert [clip_activations(model, {"1": 1.0, "3": 2.0})[place].threshold for place in (1, 3)] == [1.0, 2.0]


def test_a_network_without_relu_is_told():
    with pytest.raises(InputError, match="ReLU"):
        clip_activations(nn.Linear(2, 2), 1.0)


def test_a_bit_is_a_bit_of_the_stored_number():
    """Every bit of one number, one after the other, against the bytes that Python packs."""
    weight = torch.tensor([0.15625])
    found: set[float] = set()
    source = seeded(2)
    for _ in range(800):
        with weight_faults([weight], 1 / 32, generator=source) as faults:
            if faults == 1:
                found.add(weight.item())
    (word,) = struct.unpack("<I", struct.pack("<f", 0.15625))
    flipped = {struct.unpack("<f", struct.pack("<I", word ^ 1 << bit))[0] for bit in range(32)}
    assert found == flipped
    assert max(found) > 1e37


@pytest.mark.parametrize(("kind", "value"), [("stuck at 0", 0), ("stuck at 1", -1)])
@pytest.mark.parametrize(
    ("dtype", "words"), [(torch.float32, torch.int32), (torch.float64, torch.int64), (torch.bfloat16, torch.int16)]
)
def test_stuck_bits_have_their_value(kind, value, dtype, words):
    weight = normal(50).to(dtype)
    with weight_faults([weight], 1.0, generator=seeded(), kind=kind) as faults:
        assert faults == 50 * 8 * weight.element_size()
        assert (weight.view(words) == value).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_flipping_all_bits_gives_the_complement_and_afterwards_all_is_as_before(dtype):
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    weight = normal(4, 5, seed=3).to(dtype).t()
    before, kind = weight.clone(), words[weight.element_size()]
    with weight_faults([weight], 1.0, generator=seeded()):
        assert torch.equal(weight.contiguous().view(kind), ~before.contiguous().view(kind))
    assert torch.equal(weight.contiguous().view(kind), before.contiguous().view(kind))


def test_all_is_as_before_after_an_error_too():
    weight = normal(9)
    before = weight.clone()
    with pytest.raises(KeyError), weight_faults([weight], 0.5, generator=seeded()):
        raise KeyError
    assert torch.equal(weight, before)


def test_the_same_faults_twice_restore_every_weight():
    weight = normal(200)
    before = weight.clone()
    with weight_faults([weight], 0.01, generator=seeded(5)) as first:
        assert not torch.equal(weight, before)
        with weight_faults([weight], 0.01, generator=seeded(5)) as second:
            assert torch.equal(weight.view(torch.int32), before.view(torch.int32))
    assert first == second > 0


def test_faults_are_as_many_as_a_binomial_law_has_and_anywhere():
    weight = torch.zeros(25, 4)
    source, total = seeded(6), 0
    hit = torch.zeros(3200)
    for _ in range(500):
        with weight_faults([weight], 0.01, generator=source) as faults:
            total += faults
            bits = (weight.view(torch.int32).flatten()[:, None] >> torch.arange(32)) & 1
            hit += bits.flatten()
            assert int(bits.sum()) == faults
    assert stats.binomtest(total, 500 * 3200, 0.01).pvalue > 1e-3
    assert stats.chisquare(hit.view(100, 32).sum(dim=0).numpy()).pvalue > 1e-3
    assert stats.chisquare(hit.view(100, 32).sum(dim=1).numpy()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("named", "given"),
    [
        ("rate", {"rate": -0.1}),
        ("rate", {"rate": 1.1}),
        ("rate", {"rate": math.nan}),
        ("rate", {"rate": True}),
        ("kind", {"kind": "stuck"}),
        ("weights", {"weights": [torch.zeros(3, dtype=torch.int64)]}),
    ],
)
def test_bad_faults_are_named(named, given):
    usual = {"weights": [torch.zeros(3)], "rate": 0.1, "generator": seeded()}
    with pytest.raises(ValueError, match=f"^{named} must"), weight_faults(**{**usual, **given}):
        pass


def test_accuracy_under_faults_is_that_of_a_loop():
    source = seeded(7)
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for row, rate in enumerate(RATES):
        for column in range(4):
            with weight_faults(MODEL.parameters(), rate, generator=source), torch.no_grad():
                logits = MODEL(INPUTS)
                right = [
                    bool(one.argmax() == y) and not one.isnan().any() for one, y in zip(logits, LABELS, strict=True)
                ]
                expected[row, column] = sum(right) / len(right)
    found = accuracy_under_faults(MODEL, INPUTS, LABELS, rates=RATES, maps=4, generator=seeded(7))
    assert torch.equal(found, expected)
    assert 0.3 < found.mean() < 1
    assert found[0].mean() > found[2].mean()


def test_what_is_not_a_number_is_wrong():
    broken = nn.Sequential(nn.Linear(2, 2)).requires_grad_(False)
    broken[0].weight.fill_(math.nan)
    found = accuracy_under_faults(
        broken, torch.ones(4, 2), torch.zeros(4, dtype=torch.int64), rates=(0.0,), maps=1, generator=seeded()
    )
    assert found.item() == 0


def test_without_faults_accuracy_is_that_without():
    found = accuracy_under_faults(MODEL, INPUTS, LABELS, rates=(0.0,), maps=2, generator=seeded())
    assert (found == 1).all()


def test_faults_can_be_in_some_weights_alone():
    bias = [MODEL[4].bias]
    before = MODEL[4].bias.clone()
    found = accuracy_under_faults(
        MODEL, INPUTS, LABELS, rates=(0.5,), maps=20, generator=seeded(), kind="stuck at 1", weights=bias
    )
    assert torch.equal(MODEL[4].bias, before)
    assert found.mean() < 0.9


def test_an_area_by_hand():
    accuracies = torch.tensor([[1.0, 0.8], [0.6, 0.4], [0.2, 0.2]])
    # Between 1e-6, 1e-5 and 1e-3 there are one and two decades.
    assert area_under_rates((1e-6, 1e-5, 1e-3), accuracies) == pytest.approx(
        ((0.9 + 0.5) / 2 + (0.5 + 0.2) / 2 * 2) / 3
    )
    assert area_under_rates((1e-6, 1e-2), torch.ones(2)) == 1


def test_the_search_finds_the_best_of_its_thresholds_and_is_no_worse_than_the_largest_activation():
    given = {"rates": RATES, "maps": 6}
    found = tuned_thresholds(MODEL, INPUTS, LABELS, generator=seeded(8), rounds=1, points=5, **given)
    maxima = activation_maxima(MODEL, INPUTS)
    thresholds = dict(maxima)
    source = seeded(8)
    for place, layer in (("1", 0), ("3", 2)):
        seed = int(torch.randint(2**62, (1,), generator=source))
        areas = {}
        for share in (0.25, 0.5, 0.75, 1.0):
            clipped = clip_activations(MODEL, {**thresholds, place: share * maxima[place]})
            areas[share] = area_under_rates(
                RATES,
                accuracy_under_faults(
                    clipped, INPUTS, LABELS, generator=seeded(seed), weights=clipped[layer].parameters(), **given
                ),
            )
        thresholds[place] = max(areas, key=lambda share: (areas[share], share)) * maxima[place]
    assert found == pytest.approx(thresholds)


def test_more_rounds_are_no_worse_and_stay_within_the_largest_activation():
    maxima = activation_maxima(MODEL, INPUTS)
    found = tuned_thresholds(MODEL, INPUTS, LABELS, generator=seeded(8), rates=RATES, maps=6, rounds=5)
    assert all(0 < found[name] <= maxima[name] for name in maxima)

    def area(thresholds: dict[str, float]) -> float:
        clipped = clip_activations(MODEL, thresholds)
        seed = int(torch.randint(2**62, (1,), generator=seeded(8)))
        with_faults = accuracy_under_faults(
            clipped, INPUTS, LABELS, rates=RATES, maps=6, generator=seeded(seed), weights=clipped[0].parameters()
        )
        return area_under_rates(RATES, with_faults)

    assert area({**maxima, "1": found["1"]}) >= area(maxima)


def test_a_layer_that_is_never_active_keeps_its_threshold():
    dead = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).requires_grad_(False)
    dead[0].weight.zero_()
    dead[0].bias.fill_(-1)
    labels = torch.zeros(4, dtype=torch.int64)
    assert tuned_thresholds(dead, torch.ones(4, 2), labels, rates=RATES, maps=2, generator=seeded()) == {"1": 0}


def test_a_normalisation_before_a_relu_belongs_to_its_layer():
    """Faults that make every weight of that layer huge change what it gives; so the search has seen both tensors."""
    from paperweight.robustness.ft_clipact import _weights_before

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2), nn.ReLU())
    clipped = clip_activations(model, 1.0)
    found = _weights_before(clipped, torch.zeros(1, 1, 4, 4))
    assert [[id(each) for each in found[name]] for name in ("2", "5")] == [
        [id(each) for part in clipped[:2] for each in part.parameters()],
        [id(each) for each in clipped[4].parameters()],
    ]


def test_each_threshold_is_judged_by_the_same_faults_in_its_own_layer(monkeypatch):
    asked: list[tuple[tuple[int, ...], int]] = []

    def recorded(model, inputs, labels, *, weights, generator, **given):
        asked.append((tuple(weight.shape[0] for weight in weights), generator.initial_seed()))
        return accuracy_under_faults(model, inputs, labels, weights=weights, generator=generator, **given)

    monkeypatch.setattr("paperweight.robustness.ft_clipact.accuracy_under_faults", recorded)
    tuned_thresholds(MODEL, INPUTS, LABELS, rates=RATES, maps=1, generator=seeded(), points=3, rounds=2)
    seeds = [{seed for rows, seed in asked if rows == wanted} for wanted in ((16, 16), (12, 12))]
    assert {rows for rows, _ in asked} == {(16, 16), (12, 12)}
    assert [len(each) for each in seeds] == [1, 1]
    assert seeds[0] != seeds[1]
    assert len(asked) >= 4


def test_where_all_thresholds_do_as_well_the_largest_stays():
    model = network().requires_grad_(False)
    model[4].weight.zero_()
    labels = model(INPUTS).argmax(dim=1)
    found = tuned_thresholds(model, INPUTS, labels, rates=RATES, maps=2, generator=seeded())
    assert found == activation_maxima(model, INPUTS)


def test_accuracy_is_measured_in_eval_mode_and_the_mode_is_restored():
    model = nn.Sequential(nn.Dropout(0.99), *network()).train()
    found = accuracy_under_faults(model, INPUTS, LABELS, rates=(0.0,), maps=1, generator=seeded())
    assert found.item() == 1
    assert model.training
