"""Global magnitude pruning against masks by hand, every subset of the weights, torch's pruning and SciPy's sizes."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import combinations

import pytest
import torch
from scipy import sparse
from torch import nn
from torch.nn.utils import parametrizations, prune

from paperweight.compression.global_magnitude_pruning import (
    GlobalMagnitudePruning,
    global_magnitude_masks,
    gradual_sparsity,
)
from paperweight.nets import LeNet, ResNet
from paperweight.testing import CompressorSubject, FunctionSubject


def rest(model: nn.Module) -> int:
    """Count what must stay: the entries other than 0 of biases and normalisation."""
    return sum(int(p.count_nonzero()) for p in model.parameters() if p.ndim == 1)


def allowed(model: nn.Module) -> int:
    """Count what sparsity 0.75 allows in the contract's model, of 36 + 192 weights."""
    return 57 + rest(model)


CONTRACT = {
    "GlobalMagnitudePruning": CompressorSubject(
        make=partial(GlobalMagnitudePruning, sparsity=0.75),
        budget=allowed,
        bad={"sparsity": (-0.1, 1.0, float("nan")), "min_per_layer": (-1, 0.5, 29)},
        null=partial(GlobalMagnitudePruning, sparsity=0.0),
        baseline=lambda: copy.deepcopy,
    ),
    "global_magnitude_masks": FunctionSubject(
        make=global_magnitude_masks,
        arguments={"weights": (torch.tensor([0.1, -0.9, 0.5]), torch.tensor([[0.2, -0.3]])), "kept": 3},
        bad={"weights": ((),), "kept": (-1, 6), "min_per_layer": (-1, 0.5, 2)},
    ),
    "gradual_sparsity": FunctionSubject(
        make=gradual_sparsity,
        arguments={"final": 0.9, "stage": 1, "stages": 4},
        bad={"final": (-0.1, 1.0, float("nan")), "stage": (-1, 5), "stages": (0,)},
    ),
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(cls: Callable[..., nn.Module] = ResNet, **options: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls((1, 8, 8), 10, **options)


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [p for p in model.parameters() if p.ndim > 1]


def test_masks_by_hand():
    first, second = torch.tensor([[0.5, -4.0], [3.0, 0.1]]), torch.tensor([-0.2, 0.3, 0.05])
    masks = partial(global_magnitude_masks, [first, second])
    assert [mask.int().tolist() for mask in masks(3)] == [[[1, 1], [1, 0]], [0, 0, 0]]
    assert [mask.int().tolist() for mask in masks(3, 1)] == [[[0, 1], [1, 0]], [0, 1, 0]]
    assert [mask.int().tolist() for mask in masks(6, 3)] == [[[1, 1], [1, 0]], [1, 1, 1]]
    assert [mask.int().tolist() for mask in masks(7, 100)] == [[[1, 1], [1, 1]], [1, 1, 1]]
    assert not any(mask.any() for mask in masks(0))


def test_equal_magnitudes_are_kept_from_the_first_and_to_the_number():
    layers = [torch.tensor([1.0, -1.0, 1.0]), torch.tensor([-1.0, 1.0])]
    kept = [[*map(int, torch.cat(global_magnitude_masks(layers, k)))] for k in range(6)]
    assert kept == [[1] * k + [0] * (5 - k) for k in range(6)]
    kept = [int(x) for x in torch.cat(global_magnitude_masks(layers, 3, 1))]
    assert kept == [1, 1, 0, 1, 0]
    zeros = [torch.zeros(50), torch.zeros(60)]
    assert [int(mask.sum()) for mask in global_magnitude_masks(zeros, 70, 30)] == [40, 30]


@pytest.mark.parametrize("minimum", [0, 1, 2, 3])
@pytest.mark.parametrize("kept", [5, 7, 8])
def test_no_other_subset_has_a_greater_sum(kept, minimum):
    layers = [normal(5), 0.1 * normal(3, seed=1), 0.5 * normal(2, 2, seed=2)]
    if kept < 3 * minimum:
        with pytest.raises(ValueError, match=f"kept must be from {3 * minimum}"):
            global_magnitude_masks(layers, kept, minimum)
        return
    masks = global_magnitude_masks(layers, kept, minimum)
    owner = torch.tensor([0] * 5 + [1] * 3 + [2] * 4)
    flat = torch.cat([layer.flatten() for layer in layers]).abs().double()

    def permitted(subset: tuple[int, ...]) -> bool:
        counts = torch.bincount(owner[list(subset)], minlength=3)
        return all(int(count) >= min(minimum, size) for count, size in zip(counts, (5, 3, 4), strict=True))

    best = max(filter(permitted, combinations(range(12), kept)), key=lambda subset: float(flat[list(subset)].sum()))
    chosen = torch.cat([mask.flatten() for mask in masks]).nonzero().flatten().tolist()
    assert chosen == list(best)


@pytest.mark.parametrize("sparsity", [0.3, 0.9, 0.987])
def test_equals_torch_where_no_two_weights_are_equal(sparsity):
    source = network(width=4)
    pruned = GlobalMagnitudePruning(sparsity)(source)
    theirs = copy.deepcopy(source)
    parts = [(part, "weight") for part in theirs.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    prune.global_unstructured(parts, pruning_method=prune.L1Unstructured, amount=sparsity)
    for part, name in parts:
        prune.remove(part, name)
    expected, found = theirs.state_dict(), pruned.state_dict()
    assert {*expected} == {*found}
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("minimum", [0, 7])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.95, 0.98])
def test_number_is_met_and_biases_and_normalisation_stay(sparsity, minimum):
    for source in (network(width=4), network(LeNet), network(width=4).bfloat16()):
        pruning = GlobalMagnitudePruning(sparsity, minimum)
        pruned = pruning(source)
        pairs = list(zip(pruned.parameters(), source.parameters(), strict=True))
        sizes = [q.numel() for _, q in pairs if q.ndim > 1]
        counts = [int((p != 0).sum()) for p, _ in pairs if p.ndim > 1]
        assert sum(counts) == round((1 - sparsity) * sum(sizes))
        assert all(count >= min(minimum, size) for count, size in zip(counts, sizes, strict=True))
        assert all(torch.equal(p, q) for p, q in pairs if p.ndim == 1)
        assert all(((p == q) | (p == 0)).all() for p, q in pairs)
        assert pruning.size(pruned) == sum(counts) + rest(source)


def test_a_layer_of_large_weights_is_spared_and_the_minimum_prevents_collapse():
    source = network(width=4)
    with torch.no_grad():
        weights_of(source)[2].mul_(1e4)
    share = 1 - weights_of(source)[2].numel() / sum(w.numel() for w in weights_of(source))
    counts = [int(w.count_nonzero()) for w in weights_of(GlobalMagnitudePruning(share)(source))]
    assert counts == [weights_of(source)[2].numel() if layer == 2 else 0 for layer in range(len(counts))]
    counts = [int(w.count_nonzero()) for w in weights_of(GlobalMagnitudePruning(share, 5)(source))]
    assert [count for layer, count in enumerate(counts) if layer != 2] == [5] * (len(counts) - 1)
    with pytest.raises(ValueError, match="change min_per_layer or the sparsity"):
        GlobalMagnitudePruning(0.99, 10)(source)


def test_shared_weights_count_once_and_other_layers_are_left():
    shared = nn.Linear(4, 4, bias=False)
    source = nn.Sequential(shared, nn.Embedding(3, 4), shared, nn.GRU(4, 4))
    pruned = GlobalMagnitudePruning(0.5)(source)
    assert pruned.get_parameter("0.weight") is pruned.get_parameter("2.weight")
    assert int(pruned.get_parameter("0.weight").count_nonzero()) == 8
    for part in ("1", "3"):
        for p, q in zip(source.get_submodule(part).parameters(), pruned.get_submodule(part).parameters(), strict=True):
            assert torch.equal(p, q)


def test_models_that_cannot_be_pruned_are_refused():
    with pytest.raises(ValueError, match="model must have a linear or convolutional layer"):
        GlobalMagnitudePruning()(nn.BatchNorm2d(2))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("compute", "says"),
    [
        (
            parametrizations.weight_norm,
            r"'0.weight' is parametrized; use .*remove_parametrizations\(module, 'weight'\)",
        ),
        (nn.utils.weight_norm, r"'0.weight' is normalized; use torch.nn.utils.remove_weight_norm\(module, 'weight'\)"),
        (nn.utils.spectral_norm, r"'0.weight' is normalized; use .*remove_spectral_norm\(module, 'weight'\)"),
        (
            partial(prune.l1_unstructured, name="weight", amount=1),
            r"'0.weight' is masked; use torch.nn.utils.prune.remove",
        ),
    ],
)
def test_weights_that_are_computed_are_refused_with_the_remedy(compute, says):
    with pytest.raises(ValueError, match=f"model must have plain weights, {says}"):
        GlobalMagnitudePruning()(nn.Sequential(compute(nn.Linear(2, 2))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_masks_are_those_of_a_stable_sort(dtype, decimals):
    """With many ties, zeros, infinities and undefined values as without, for every number that is kept."""
    values = normal(60).mul(2).round(decimals=decimals).to(dtype)
    values[7], values[[3, 11]], values[[20, 30, 31]] = float("-inf"), float("nan"), 0.0
    order = values.abs().argsort(descending=True, stable=True)
    for kept in range(61):
        expected = torch.zeros(60, dtype=torch.bool)
        expected[order[:kept]] = True
        (mask,) = global_magnitude_masks([values], kept)
        assert torch.equal(mask, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sparsity", [0.0, 0.6, 0.95])
def test_stored_bytes_are_those_of_scipy(sparsity, dtype):
    pruning = GlobalMagnitudePruning(sparsity)
    pruned = pruning(network(LeNet).to(dtype))
    expected = 0
    for parameter in pruned.parameters():
        array = parameter.detach().numpy()
        matrix = sparse.csr_matrix(array.reshape(len(array), -1))
        stored = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
        expected += min(array.nbytes, stored) if array.ndim > 1 else array.nbytes
    assert pruning.stored_bytes(pruned) == expected


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(normal(16, 1, 8, 8, seed=step)).square().sum().backward()
        optimizer.step()


def test_zeros_stay_in_training_and_nothing_stays_behind():
    pruning = GlobalMagnitudePruning(0.9, min_per_layer=20)
    pruned = pruning(network(LeNet))
    before = copy.deepcopy(pruned)
    optimizer = torch.optim.SGD(pruned.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-2)
    with pruning.zeros_kept(pruned, optimizer):
        train(pruned, optimizer)
    for p, q in zip(weights_of(pruned), weights_of(before), strict=True):
        assert torch.equal(p == 0, q == 0)
        assert not torch.equal(p, q)
    train(pruned, optimizer, steps=1)
    assert pruning.size(pruned) > pruning.size(before) * 2
    with pytest.raises(KeyError), pruning.zeros_kept(pruned, optimizer):
        raise KeyError
    assert not optimizer._optimizer_step_post_hooks


def test_fixed_zeros_train_as_the_masked_parametrization_of_torch():
    pruning = GlobalMagnitudePruning(0.8)
    ours = pruning(network(LeNet))
    theirs = copy.deepcopy(ours)
    parts = [part for part in theirs.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    for part in parts:
        prune.custom_from_mask(part, "weight", part.weight != 0)
    optimizer = torch.optim.SGD(ours.parameters(), lr=1e-3, momentum=0.9)
    with pruning.zeros_kept(ours, optimizer):
        train(ours, optimizer)
    train(theirs, torch.optim.SGD(theirs.parameters(), lr=1e-3, momentum=0.9))
    for part in parts:
        prune.remove(part, "weight")
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-5, atol=1e-7)


def test_gradual_pruning_ramps_and_keeps_what_is_zero():
    ramp = [gradual_sparsity(0.9, stage, 3) for stage in range(4)]
    assert ramp == pytest.approx([0.0, 0.9 * 19 / 27, 0.9 * 26 / 27, 0.9])
    model = network(width=4)
    for sparsity in ramp:
        smaller = GlobalMagnitudePruning(sparsity)(model)
        assert all((p[q == 0] == 0).all() for p, q in zip(weights_of(smaller), weights_of(model), strict=True))
        model = smaller
    total = sum(w.numel() for w in weights_of(model))
    assert sum(int(w.count_nonzero()) for w in weights_of(model)) == round(0.1 * total)
