import copy

import pytest
import torch
from tests.merging.networks import CASES, Dense, example, made
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging import PermutationGraph, merge, permuted, repair_batchnorm, rescale


class Noisy(nn.Module):
    """Two normalizations, dropout, and batches whose statistics can be computed without the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(3, momentum=0.3)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(3, 2)
        self.second = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.linear(self.drop(self.first(x))))


def test_running_statistics_are_the_mean_of_those_of_the_batches_by_their_samples():
    torch.manual_seed(0)
    model = Noisy().double().train()
    model.drop.eval()
    model.second.running_mean.fill_(100)
    model.first.num_batches_tracked.fill_(5)
    batches = [torch.randn(5, 3, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64) * 2 + 1]
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    repair_batchnorm(model, [(batch, None) for batch in batches])
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert (model.first.momentum, model.second.momentum) == (0.3, 0.1)
    hidden = [(batch - batch.mean(0)) / (batch.var(0, correction=0) + 1e-5).sqrt() for batch in batches]
    outputs = [batch @ model.linear.weight.T + model.linear.bias for batch in hidden]
    for layer, values in ((model.first, batches), (model.second, outputs)):
        mean, var = (sum(len(part) * getattr(part, kind)(0) for part in values) / 12 for kind in ("mean", "var"))
        assert torch.allclose(layer.running_mean, mean, atol=1e-12)
        assert torch.allclose(layer.running_var, var, atol=1e-12)
        assert layer.num_batches_tracked.item() == 2


def test_a_small_batch_counts_less_than_a_large_one():
    """A batch of 100 around 0.2 and one of 4 around 5: 0.385 and not 2.6."""
    model = nn.Sequential(nn.BatchNorm1d(1))
    repair_batchnorm(model, [torch.full((100, 1), 0.2), torch.full((4, 1), 5.0)])
    assert model[0].running_mean.item() == pytest.approx((100 * 0.2 + 4 * 5) / 104, rel=1e-5)


@pytest.mark.parametrize("size", [1, 2, 8, 32])
def test_batches_of_one_are_joined_to_their_neighbours(size: int):
    inputs = example("MLP", 33)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(768))
    repair_batchnorm(model, list(inputs.split(size)))
    assert torch.allclose(model[1].running_mean, inputs.flatten(1).mean(0), atol=1e-5)
    expected = [inputs[:32], inputs[32:]] if size < 32 else [inputs]
    assert int(model[1].num_batches_tracked) == (16 if size in (1, 2) else 4 if size == 8 else len(expected))


def test_one_sample_alone_is_refused_in_words():
    with pytest.raises(InputError, match=r"data must be what the model is called with.*more than 1 value per channel"):
        repair_batchnorm(nn.BatchNorm1d(3), [torch.zeros(1, 3)])


@pytest.mark.parametrize("data", [[], [torch.randn(6, 3), torch.randn(6, 4)], [torch.zeros(4, 3), "images"]])
def test_statistics_modes_and_momenta_are_restored_after_an_error(data):
    model = Noisy().train()
    model.first.running_mean.fill_(7)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="data must"):
        repair_batchnorm(model, data)
    assert model.first.momentum == 0.3
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_network_without_batch_normalization_is_left_alone():
    model = made("LeNet")
    before = copy.deepcopy(model.state_dict())
    repair_batchnorm(model, [])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def statistics(model: nn.Module, name: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each output row of a layer, over all else."""
    outputs: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        model(inputs)
    handle.remove()
    value = outputs[0]
    axis = 1 if isinstance(model.get_submodule(name), nn.Conv2d | nn.ConvTranspose2d) else -1
    rows = value.movedim(axis, 0).flatten(1)
    return rows.mean(dim=1), rows.std(dim=1, correction=0)


@pytest.mark.parametrize("name", ["MLP", "LeNet", "ViT", "Excited"])
def test_mean_and_spread_of_units_become_those_of_the_models(name: str):
    models = [made(name, seed).double() for seed in (0, 1)]
    inputs = example(name, 40).double()
    weights = (0.3, 0.7)
    graph = PermutationGraph.trace(models[0], inputs[:1])
    merged, info = merge(models, graph, weights=weights, data=inputs.split(15), repair="rescale")
    plain, _ = merge(models, graph, weights=weights, data=inputs.split(15), repair=None)
    layers = {place.key.rpartition(".")[0] for group in graph.groups for place in group.places if place.role == "out"}
    wrong = 0.0
    for layer in layers:
        if not isinstance(merged.get_submodule(layer), nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            continue
        places = [place for group in graph.groups for place in group.places if place.role == "out"]
        place = next(place for place in places if place.key == f"{layer}.weight")
        mean, std = torch.zeros(2, place.index.numel(), dtype=torch.float64)
        rows = place.index.flatten()
        for weight, model, order in zip(weights, models, info.permutations, strict=True):
            part = copy.deepcopy(model)
            part.load_state_dict(permuted(model.state_dict(), graph, order))
            values = statistics(part, layer, inputs)
            mean, std = mean + weight * values[0][rows], std + weight * values[1][rows]
        found = statistics(merged, layer, inputs)
        assert torch.allclose(found[0][rows], mean, atol=1e-9)
        live = statistics(plain, layer, inputs)[1][rows] > 1e-9
        assert torch.allclose(found[1][rows][live], std[live], atol=1e-9)
        wrong += (statistics(plain, layer, inputs)[1][rows] - std).abs().max().item()
    assert wrong > 1e-3
    assert [type(module) for module in merged.modules()] == [type(module) for module in models[0].modules()]
    assert not any(module._forward_hooks for module in merged.modules())


def test_rescaling_a_copy_changes_nothing_bit_for_bit():
    for name in ("MLP", "ViT", "Excited"):
        model = made(name)
        inputs = example(name, 20)
        merged, _ = merge([model, made(name, 1)], weights=(1, 0), data=inputs.split(6), repair="rescale")
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in merged.state_dict().items())


def test_a_unit_that_never_changes_is_shifted_only():
    model, other = made("MLP"), made("MLP", 1)
    for part in (model, other):
        part.body[1].weight.data[0] = 0
    other.body[1].bias.data[0] = model.body[1].bias.data[0] + 2
    merged, _ = merge([model, other], data=[example("MLP", 20)], repair="rescale")
    assert all(value.isfinite().all() for value in merged.state_dict().values())
    assert (merged.body[1].weight[0] == 0).all()
    assert merged.body[1].bias[0].item() == pytest.approx(model.body[1].bias[0].item() + 1, abs=1e-6)


def test_what_cannot_be_rescaled_is_refused():
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    graph = PermutationGraph.for_mlp(model)
    with pytest.raises(InputError, match="0 has none; use repair=None"):
        rescale(model, [model], graph, [torch.zeros(2, 3)])
    dense = Dense()
    with pytest.raises(InputError, match='repair must be "bn" for a model with batch normalization'):
        rescale(dense, [dense], PermutationGraph.trace(dense, CASES["Dense"][1]), [CASES["Dense"][1]])
