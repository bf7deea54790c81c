from itertools import permutations, product

import pytest
import torch
import torch.nn.functional as F
from tests.merging.networks import CASES, example, made
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging import (
    Group,
    PermutationGraph,
    activation_correlation,
    match_activations,
    match_correlations,
    match_weights,
    match_zipit,
    permuted,
    zip_states,
)
from paperweight.merging.matching import assign


def plain(size: int) -> PermutationGraph:
    return PermutationGraph((Group("units", 1, (size,), (), ()),))


def best(similarity: Tensor, group: Group) -> float:
    """Try all permutations that the group allows."""
    rows = torch.arange(group.size)
    orders = (torch.tensor(order) for order in permutations(range(group.size)))
    return max(similarity[rows, order].sum().item() for order in orders if group.allows(order))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7])
def test_an_assignment_is_the_best_of_all(size: int):
    generator = torch.Generator().manual_seed(size)
    for _ in range(1 if size > 6 else 4):
        similarity = torch.rand(size, size, generator=generator, dtype=torch.float64) * 2 - 1
        group = plain(size).groups[0]
        order = assign(similarity, group)
        assert group.allows(order)
        assert similarity[torch.arange(size), order].sum().item() == pytest.approx(best(similarity, group), abs=1e-12)


@pytest.mark.parametrize(("blocks", "kinds"), [(2, (2, 1)), (3, (1, 1)), (3, (2,)), (1, (3, 2)), (6, (1,))])
def test_an_assignment_of_heads_is_the_best_of_all(blocks: int, kinds: tuple[int, ...]):
    generator = torch.Generator().manual_seed(0)
    group = Group("heads", blocks, kinds, (), ())
    for _ in range(2):
        similarity = torch.rand(group.size, group.size, generator=generator, dtype=torch.float64) - 0.5
        order = assign(similarity, group)
        assert group.allows(order)
        found = similarity[torch.arange(group.size), order].sum().item()
        assert found == pytest.approx(best(similarity, group), abs=1e-12)


@pytest.mark.parametrize(
    "group", [Group("", 1, (6,), (), ()), Group("", 2, (2, 1), (), ()), Group("", 3, (2,), (), ())]
)
def test_ties_are_broken_towards_the_identity(group: Group):
    identity = torch.arange(group.size)
    assert torch.equal(assign(torch.zeros(6, 6), group), identity)
    assert torch.equal(assign(torch.full((6, 6), -0.7), group), identity)
    assert torch.equal(assign(torch.rand(6, 1).expand(6, 6), group), identity)


def test_units_that_never_change_keep_their_place_if_it_is_free():
    correlation = torch.zeros(10, 10)
    correlation[0, 8] = correlation[8, 0] = 0.9
    order = match_correlations({"units": correlation}, plain(5))[1]["units"]
    assert order.tolist() == [3, 1, 2, 0, 4]


def test_a_gain_above_rounding_outweighs_the_identity():
    similarity = torch.eye(5, dtype=torch.float64)[[1, 0, 2, 3, 4]] * 1e-6
    similarity += torch.eye(5, dtype=torch.float64) * (1e-6 - 1e-12)
    assert assign(similarity, plain(5).groups[0]).tolist() == [1, 0, 2, 3, 4]


RECOVERED = ["MLP", "LeNet", "VGG", "ResNet", "ResNet18", "ViT", "Grouped", "Encoder, norm first", "Text"]


def permuted_copy(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module, PermutationGraph, dict]:
    model, other = made(name, shaken=False).to(dtype), made(name, shaken=False).to(dtype)
    graph = PermutationGraph.trace(model, CASES[name][1].to(dtype) if name != "Text" else CASES[name][1])
    order = graph.random(torch.Generator().manual_seed(3))
    other.load_state_dict(permuted(model.state_dict(), graph, order))
    return model, other, graph, order


@pytest.mark.parametrize("name", RECOVERED)
@pytest.mark.parametrize("how", ["activations", "weights"])
def test_a_permuted_copy_is_put_back(name: str, how: str):
    model, other, graph, order = permuted_copy(name)
    inputs = example(name, 64)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    if how == "weights":
        found = match_weights(model, other, graph)
    else:
        found = match_activations([model, other], graph, inputs.split(16))[1]
    state = permuted(other.state_dict(), graph, found)
    wrong = sum((order[key][found[key]] != torch.arange(len(order[key]))).sum().item() for key in order)
    if how == "weights":
        assert wrong == 0
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    else:
        correlation = activation_correlation([model], graph, inputs.split(16))
        alive = {key: value.diagonal() == 1 for key, value in correlation.items()}
        assert all((order[key][found[key]] == torch.arange(len(order[key])))[alive[key]].all() for key in order)
        assert sum(value.sum() for value in alive.values()) >= 0.6 * sum(group.size for group in graph.groups)


@pytest.mark.parametrize("reference", [0, 1, 2])
def test_the_units_of_the_reference_stay(reference: int):
    models = [made("MLP", seed) for seed in range(3)]
    graph = PermutationGraph.trace(models[0], CASES["MLP"][1])
    inputs = example("MLP", 40)
    found = match_activations(models, graph, inputs.split(20), reference=reference)
    correlation = activation_correlation(models, graph, [inputs])
    for group in graph.groups:
        assert torch.equal(found[reference][group.name], torch.arange(group.size))
        for number, order in enumerate(found):
            grid = correlation[group.name][reference * group.size :][: group.size, number * group.size :][
                :, : group.size
            ]
            rows = torch.arange(group.size)
            for other in permutations(range(group.size), 2):
                swapped = order[group.name].clone()
                swapped[list(other)] = swapped[list(other[::-1])]
                assert grid[rows, swapped].sum() <= grid[rows, order[group.name]].sum() + 1e-8


def test_scaling_units_changes_no_match():
    models = [made("MLP", seed).double() for seed in range(2)]
    graph = PermutationGraph.trace(models[0], example("MLP", 1).double())
    inputs = example("MLP", 40).double()
    expected = match_activations(models, graph, [inputs])[1]
    factors = torch.logspace(-4, 4, 20, dtype=torch.float64)
    with torch.no_grad():
        models[1].body[1].weight *= factors[:, None]
        models[1].body[1].bias *= factors
        models[1].body[3].weight /= factors
    found = match_activations(models, graph, [inputs])[1]
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_without_hidden_units_nothing_is_permuted():
    models = [made("softmax regression", seed) for seed in range(2)]
    graph = PermutationGraph.trace(models[0], CASES["softmax regression"][1])
    assert match_activations(models, graph, [example("softmax regression")]) == [{}, {}]
    assert match_weights(*models, graph) == {}


def test_models_to_match_must_be_there():
    model = made("MLP")
    graph = PermutationGraph.trace(model, CASES["MLP"][1])
    with pytest.raises(InputError, match="reference must be a number from 0 to 0, got 1"):
        match_activations([model], graph, [example("MLP")], reference=1)
    with pytest.raises(InputError, match="reference must be a number from 0 to 0, got -1"):
        match_correlations(activation_correlation([model], graph, [example("MLP")]), graph, reference=-1)


def test_weights_of_one_hidden_layer_are_matched_as_well_as_can_be():
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double() for _ in range(2))
    graph = PermutationGraph.for_mlp(a)

    def product_of(order: Tensor) -> float:
        state = permuted(b.state_dict(), graph, {"0": order})
        return sum((value * state[key]).sum().item() for key, value in a.state_dict().items())

    found = product_of(match_weights(a, b, graph)["0"])
    assert found == pytest.approx(max(product_of(torch.tensor(order)) for order in permutations(range(5))), abs=1e-12)


def test_no_group_gains_when_weights_are_matched():
    """Coordinate ascent ends where no exchange of two units of a group is a gain; in any order of the groups."""
    a, b = (made("VGG", seed).double() for seed in (0, 1))
    graph = PermutationGraph.trace(a, CASES["VGG"][1].double())
    keys = {place.key for group in graph.groups for place in group.places if place.role != "statistic"}
    weights = {key: value for key, value in a.state_dict().items() if key in keys}

    def product_of(permutation: dict[str, Tensor]) -> float:
        state = permuted(b.state_dict(), graph, permutation)
        return sum((value * state[key]).sum().item() for key, value in weights.items())

    for generator in (None, torch.Generator().manual_seed(1)):
        found = match_weights(a, b, graph, generator=generator)
        reached = product_of(found)
        assert reached > product_of(graph.identity())
        for group in graph.groups:
            for i, j in product(range(group.size), repeat=2):
                swapped = found[group.name].clone()
                swapped[[i, j]] = swapped[[j, i]]
                assert product_of({**found, group.name: swapped}) <= reached + 1e-9


def test_the_order_of_groups_is_drawn_from_the_generator():
    a, b = made("VGG", 0), made("VGG", 1)
    graph = PermutationGraph.trace(a, CASES["VGG"][1])
    random = torch.get_rng_state()
    first, second = (match_weights(a, b, graph, generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(InputError, match="max_sweeps must be at least 1, got 0"):
        match_weights(a, b, graph, max_sweeps=0)


def test_running_statistics_have_no_say_in_a_match_of_weights():
    model, other, graph, order = permuted_copy("VGG")
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.copy_(torch.linspace(1, 1e6, len(module.running_var)))
    found = match_weights(model, other, graph)
    assert all(torch.equal(order[key][found[key]], torch.arange(len(order[key]))) for key in order)


def correlation_of(pairs: dict[tuple[int, int], float], count: int) -> Tensor:
    correlation = torch.eye(count, dtype=torch.float64)
    for (i, j), value in pairs.items():
        correlation[i, j] = correlation[j, i] = value
    return correlation


def test_zipping_merges_within_a_network_as_far_as_it_may():
    # Units 0, 1, 2 are of the first network, 3, 4, 5 of the second; 0 and 1 are twins, and so are 3 and 4.
    pairs = {(0, 1): 0.99, (3, 4): 0.95, (2, 5): 0.9, (0, 3): 0.5, (1, 4): 0.4}
    correlation = {"units": correlation_of(pairs, 6)}
    assert match_zipit(correlation, plain(3), beta=1)["units"].tolist() == [[0, 0, 1], [2, 2, 1]]
    assert match_zipit(correlation, plain(3), beta=0)["units"].tolist() == [[0, 1, 2], [0, 1, 2]]


def test_zipping_keeps_a_share_of_merges_within_a_network():
    # Six merges, three a network; half of them, rounded down, is one: the twins 0 and 1, and not 2 and 3.
    pairs = {(0, 1): 0.99, (2, 3): 0.98, (0, 6): 0.1, (2, 8): 0.2, (3, 9): 0.2, (4, 10): 0.9, (5, 11): 0.8}
    merged = match_zipit({"units": correlation_of(pairs, 12)}, plain(6), beta=0.34)["units"]
    assert merged[0, 0] == merged[0, 1]
    assert merged[0].tolist()[2:] == sorted(set(merged[0].tolist()[2:]))


def test_what_was_merged_is_merged_again_only_if_nothing_else_is_left():
    # 0 and 2 are merged first. Then 3 is more alike to them (0.8) than to unit 1 (0.3), but damped.
    pairs = {(0, 2): 0.9, (0, 3): 0.8, (2, 3): 0.8, (1, 3): 0.3}
    correlation = {"units": correlation_of(pairs, 4)}
    assert match_zipit(correlation, plain(2), beta=1)["units"].tolist() == [[0, 1], [0, 1]]
    assert match_zipit(correlation, plain(2), alpha=1, beta=1)["units"].tolist() == [[0, 1], [0, 0]]


def test_what_was_merged_is_as_alike_as_the_less_alike_of_its_parts():
    pairs = {(0, 2): 0.9, (0, 3): 0.8, (2, 3): 0.1, (1, 3): 0.3}
    merged = match_zipit({"units": correlation_of(pairs, 4)}, plain(2), alpha=1, beta=1)["units"]
    assert merged.tolist() == [[0, 1], [0, 1]]


def test_zipping_breaks_ties_towards_the_identity():
    assert match_zipit({"units": torch.zeros(12, 12)}, plain(4), beta=1)["units"].tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize("models", [2, 3, 4])
@pytest.mark.parametrize("beta", [0, 0.075, 1])
def test_zipping_leaves_as_many_units_as_one_network_has(models: int, beta: float):
    values = torch.randn(12 * models, 20, generator=torch.Generator().manual_seed(models), dtype=torch.float64)
    merged = match_zipit({"units": torch.corrcoef(values)}, plain(12), beta=beta)["units"]
    assert sorted(set(merged.flatten().tolist())) == list(range(12))
    first = [merged.flatten().tolist().index(unit) for unit in range(12)]
    assert first == sorted(first)


def test_zipping_matches_a_permuted_copy():
    model, other, graph, order = permuted_copy("MLP")
    inputs = example("MLP", 64).double()
    merged = match_zipit(activation_correlation([model, other], graph, [inputs]), graph)
    alive = activation_correlation([model], graph, [inputs])
    for key, units in merged.items():
        live = alive[key].diagonal() == 1
        assert torch.equal(units[1][order[key].argsort()][live], units[0][live])
        assert torch.equal(units[0], torch.arange(len(units[0])))


def test_zipped_networks_of_twins_compute_the_mean_of_both():
    """The first has units a, a, b, the second c, b, c: merged to a, b, c, the mean network is the mean function."""
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 4, dtype=torch.float64).unbind()
    first, second = (nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)).double() for _ in range(2))
    graph = PermutationGraph.for_mlp(first)
    first[0].weight.data, second[0].weight.data = torch.stack([a, a, b]), torch.stack([c, b, c])
    inputs = torch.randn(200, 4, dtype=torch.float64)
    merged = match_zipit(activation_correlation([first, second], graph, [inputs]), graph, beta=1)
    assert merged["0"].tolist() == [[0, 0, 1], [2, 1, 2]]
    weights = (0.3, 0.7)
    states = zip_states([first.state_dict(), second.state_dict()], graph, merged, weights)
    mean = {key: 0.3 * states[0][key] + 0.7 * states[1][key] for key in states[0]}
    whole = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2)).double()
    whole.load_state_dict(mean)
    assert torch.allclose(whole[0].weight, torch.stack([a, b, c]), atol=1e-12)
    assert torch.allclose(whole(inputs), 0.3 * first(inputs) + 0.7 * second(inputs), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("ViT", {}, 'project_in has them; use matching "activation"'),
        ("MLP", {"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ("MLP", {"beta": -0.1}, r"beta must be in \[0, 1\], got -0.1"),
    ],
)
def test_what_cannot_be_zipped_is_refused(name: str, arguments: dict[str, float], says: str):
    graph = PermutationGraph.trace(made(name), CASES[name][1])
    with pytest.raises(InputError, match=says):
        match_zipit({}, graph, **arguments)


def test_trained_networks_of_different_beginnings_are_matched_far_above_chance():
    inputs = torch.randn(256, 2, generator=torch.Generator().manual_seed(0))
    labels = (inputs.prod(dim=1) > 0).long()
    models: list[nn.Module] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        models.append(model)
    graph = PermutationGraph.for_mlp(models[0])
    grid = activation_correlation(models, graph, [inputs])["0"][:32, 32:]
    found = match_activations(models, graph, [inputs])[1]["0"]
    shuffled = torch.stack([grid[torch.arange(32), torch.randperm(32)].mean() for _ in range(200)])
    assert grid[torch.arange(32), found].mean() > 0.8
    assert shuffled.max() < 0.5
