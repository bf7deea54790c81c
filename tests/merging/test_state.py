from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from tests.merging.networks import CASES, example, made
from torch import nn

from paperweight.errors import InputError
from paperweight.merging import Group, PermutationGraph, mean_state, permute_, permute_optimizer_state, permuted

LAYERS = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
GRAPH = PermutationGraph.for_mlp(LAYERS)


def test_rows_and_columns_move_as_in_a_case_computed_by_hand():
    state = {
        "0.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
        "0.bias": torch.tensor([7.0, 8.0, 9.0]),
        "2.weight": torch.tensor([[10.0, 11.0, 12.0]]),
        "2.bias": torch.tensor([13.0]),
    }
    new = permuted(state, GRAPH, {"0": torch.tensor([2, 0, 1])})
    assert new["0.weight"].tolist() == [[5, 6], [1, 2], [3, 4]]
    assert new["0.bias"].tolist() == [9, 7, 8]
    assert new["2.weight"].tolist() == [[12, 10, 11]]
    assert new["2.bias"].tolist() == [13]
    assert state["0.bias"].tolist() == [7, 8, 9]
    new["2.bias"].zero_()
    assert state["2.bias"].tolist() == [13]


@pytest.mark.parametrize("name", ["VGG", "ViT", "Recurrent"])
def test_in_place_is_as_anew_and_two_permutations_are_one(name: str):
    model = made(name)
    graph = PermutationGraph.trace(model, CASES[name][1])
    generator = torch.Generator().manual_seed(0)
    first, second = graph.random(generator), graph.random(generator)
    both = {key: first[key][second[key]] for key in first}
    expected = permuted(model.state_dict(), graph, both)
    permute_(model.state_dict(), graph, first)
    permute_(model.state_dict(), graph, second)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_running_statistics_move_with_their_channels():
    model = made("VGG")
    graph = PermutationGraph.trace(model, CASES["VGG"][1])
    new = permuted(model.state_dict(), graph, {"0": torch.tensor([3, 1, 0, 2])})
    for part in ("weight", "bias", "running_mean", "running_var"):
        assert torch.equal(new[f"1.{part}"], model.state_dict()[f"1.{part}"][[3, 1, 0, 2]])


@pytest.mark.parametrize(
    ("permutation", "says"),
    [
        ({"1": torch.arange(3)}, "'1' is none of 0"),
        ({"0": torch.tensor([0, 1])}, "3 units"),
        ({"0": torch.tensor([0, 1, 1])}, "each once"),
        ({"0": torch.tensor([0.0, 1.0, 2.0])}, "int64"),
    ],
)
def test_what_is_no_permutation_is_refused(permutation: dict[str, torch.Tensor], says: str):
    with pytest.raises(InputError, match=says):
        permuted(LAYERS.state_dict(), GRAPH, permutation)


def test_a_graph_of_another_network_is_refused():
    with pytest.raises(InputError, match=r"2\.weight is missing; trace this model"):
        permuted({"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(3)}, GRAPH, {"0": torch.arange(3)})


def test_heads_stay_together_and_kinds_apart():
    group = Group("attention", 2, (2, 1), (), ())
    assert group.size == 6
    assert [units.tolist() for units in group.units()] == [[[0, 1], [3, 4]], [[2], [5]]]
    assert group.allows(torch.tensor([1, 0, 2, 3, 4, 5]))
    assert group.allows(torch.tensor([4, 3, 5, 0, 1, 2]))
    assert not group.allows(torch.tensor([0, 2, 1, 3, 4, 5]))
    assert not group.allows(torch.tensor([3, 1, 2, 0, 4, 5]))
    assert not group.allows(torch.tensor([0, 1, 5, 3, 4, 2]))


def test_all_permutations_are_drawn():
    group = Group("attention", 2, (2, 1), (), ())
    generator = torch.Generator().manual_seed(0)
    drawn = {tuple(group.random(generator).tolist()) for _ in range(200)}
    assert len(drawn) == 2 * 2**2
    assert all(group.allows(torch.tensor(order)) for order in drawn)


def test_the_mean_is_that_of_exact_fractions():
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(5, generator=generator), "n": torch.tensor(number)} for number in (3, 4, 5)]
    mean = mean_state(states, (0.5, 0.375, 0.125))
    for place, value in enumerate(mean["w"].tolist()):
        parts = zip((Fraction(1, 2), Fraction(3, 8), Fraction(1, 8)), states, strict=True)
        exact = sum(weight * Fraction(state["w"][place].item()) for weight, state in parts)
        assert value == pytest.approx(float(exact), rel=1e-7)
    assert mean["n"].item() == 3


def test_the_mean_of_copies_is_the_copy_bit_for_bit():
    state = made("ResNet").state_dict()
    for count in (1, 2, 3, 7):
        assert all(torch.equal(value, state[key]) for key, value in mean_state([state] * count).items())


def test_weight_zero_leaves_out_what_is_not_even_finite():
    state = made("MLP").state_dict()
    broken = {key: torch.full_like(value, torch.nan) for key, value in state.items()}
    mean = mean_state([state, broken], (1, 0))
    assert all(torch.equal(value, state[key]) for key, value in mean.items())


@pytest.mark.parametrize(
    ("states", "weights", "says"),
    [
        ([], None, "at least one"),
        ([{"w": torch.zeros(1)}] * 3, (1 / 3, 1 / 3), "one for each of 3"),
        ([{"w": torch.zeros(1)}] * 2, (1 / 3, 1 / 3), "must sum to 1.*divide by it"),
        ([{"w": torch.zeros(1)}] * 2, (float("nan"), 1), "must sum to 1"),
        ([{"w": torch.zeros(1)}, {"v": torch.zeros(1)}], None, "v is only in one of the models 0 and 1"),
        (
            [{"w": torch.zeros(1)}, {"w": torch.zeros(2)}],
            None,
            r"w is of shape \(1,\) in model 0 and \(2,\) in model 1",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(states, weights, says: str):
    with pytest.raises(InputError, match=says):
        mean_state(states, weights)


OPTIMIZERS = {
    "SGD with momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.01),
    "AdamW, AMSGrad": lambda params: torch.optim.AdamW(params, lr=0.01, amsgrad=True),
    "NAdam": lambda params: torch.optim.NAdam(params, lr=0.01),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("name", ["MLP", "VGG", "ViT"])
def test_training_goes_on_as_if_nothing_had_been_permuted(name: str, make):
    """To permute and train on is to train on and permute: with moments left in place it would not be."""
    inputs = example(name).double()
    labels = torch.arange(len(inputs)) % 3
    straight, moved = made(name).double(), made(name).double()
    graph = PermutationGraph.trace(straight, inputs[:1])
    order = graph.random(torch.Generator().manual_seed(0))
    plain, other = make(straight.parameters()), make(moved.parameters())
    train(straight, plain, inputs, labels)
    train(moved, other, inputs, labels)
    permute_(moved.state_dict(), graph, order)
    state = other.state_dict()
    other.load_state_dict(permute_optimizer_state(state, moved, graph, order))
    train(straight, plain, inputs, labels)
    train(moved, other, inputs, labels)
    expected = permuted(straight.state_dict(), graph, order)
    error = max((value - expected[key]).abs().max().item() for key, value in moved.state_dict().items())
    assert error <= 1e-9


def train(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()


def test_the_old_state_of_an_optimizer_is_not_changed():
    model = made("MLP")
    graph = PermutationGraph.trace(model, CASES["MLP"][1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, example("MLP"), torch.arange(8) % 5)
    old = optimizer.state_dict()
    before = [entry["momentum_buffer"].clone() for entry in old["state"].values()]
    new = permute_optimizer_state(old, model, graph, graph.random(torch.Generator().manual_seed(0)))
    assert all(torch.equal(a["momentum_buffer"], b) for a, b in zip(old["state"].values(), before, strict=True))
    assert not torch.equal(new["state"][0]["momentum_buffer"], before[0])


def test_optimizers_of_other_parameters_or_shapes_are_refused():
    graph = PermutationGraph.for_mlp(LAYERS)
    some = torch.optim.SGD([LAYERS[0].weight], lr=0.1)
    with pytest.raises(InputError, match=r"model\.parameters\(\), got 1 parameters for the 4"):
        permute_optimizer_state(some.state_dict(), LAYERS, graph, graph.identity())
    state = torch.optim.SGD(LAYERS.parameters(), lr=0.1).state_dict()
    state["state"] = {0: {"row": torch.zeros(3)}}
    with pytest.raises(InputError, match=r"0\.weight, \(3, 2\), row has \(3,\); start a new optimizer"):
        permute_optimizer_state(state, LAYERS, graph, graph.identity())
