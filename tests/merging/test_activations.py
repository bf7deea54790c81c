import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from tests.merging.networks import CASES, example, made
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging import Group, PermutationGraph, activation_correlation, permuted
from paperweight.nets import ViT


def test_correlations_of_a_perceptron_are_those_of_numpy():
    models = [made("MLP", seed).double() for seed in (0, 1, 2)]
    inputs = example("MLP", 50).double()
    graph = PermutationGraph.trace(models[0], inputs[:1])
    found = activation_correlation(models, graph, inputs.split(17))
    for name, upto in (("body.1", 3), ("body.3", 5)):
        hidden = torch.cat([model.body[:upto](inputs) for model in models], dim=1)
        live = hidden.std(dim=0) > 0
        expected = np.corrcoef(hidden[:, live].detach().numpy().T)
        assert np.abs(found[name][live][:, live].numpy() - expected).max() < 1e-12


def test_correlations_of_maps_go_over_images_and_pixels():
    models = [made("LeNet", seed).double() for seed in (0, 1)]
    inputs = example("LeNet", 9).double()
    graph = PermutationGraph.trace(models[0], inputs[:1])
    found = activation_correlation(models, graph, inputs.split(4))["body.0"]
    maps = torch.cat([model.body[:2](inputs) for model in models], dim=1)
    expected = np.corrcoef(maps.detach().movedim(1, 0).flatten(1).numpy())
    assert np.abs(found.numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("reference", [0, 1, 2])
@pytest.mark.parametrize("case", ["MLP", "LeNet", "ViT"])
def test_with_a_reference_its_rows_of_all_correlations_are_computed(case: str, reference: int):
    models = [made(case, seed) for seed in (0, 1, 2)]
    inputs = example(case, 12)
    graph = PermutationGraph.trace(models[0], inputs[:1])
    whole = activation_correlation(models, graph, inputs.split(5))
    rows = activation_correlation(models, graph, inputs.split(5), reference=reference)
    assert rows.keys() == whole.keys()
    for group in graph.groups:
        own = slice(reference * group.size, (reference + 1) * group.size)
        assert rows[group.name].shape == (group.size, 3 * group.size)
        assert (rows[group.name] - whole[group.name][own]).abs().max() < 1e-12
        assert torch.equal(rows[group.name][:, own].diagonal(), whole[group.name].diagonal()[own])


def test_a_reference_must_be_there():
    model = made("MLP")
    graph = PermutationGraph.trace(model, CASES["MLP"][1])
    with pytest.raises(InputError, match="reference must be a number from 0 to 0, got 1"):
        activation_correlation([model], graph, [example("MLP")], reference=1)


@pytest.mark.parametrize("fused", [True, False])
def test_queries_and_keys_are_both_observed(fused: bool):
    """The covariances of both are added, each about its own mean."""
    torch.manual_seed(0)
    inputs = torch.randn(4, 3, 8, 8, dtype=torch.float64) + 1
    if fused:
        model = ViT((3, 8, 8), 5, dim=6, depth=1, heads=2).double()
        name = "blocks.0.attention.1.project_in"
        with torch.no_grad():
            block = model.blocks[0]
            tokens = block.attention[0](model.embed(inputs).flatten(2).transpose(1, 2) + model.position)
            query, key, _ = model.get_submodule(name)(tokens).flatten(0, 1).chunk(3, dim=1)
    else:
        inputs = inputs.flatten(2)
        layer = nn.TransformerEncoderLayer(64, 4, 16, batch_first=True).double().eval()
        model, name = nn.Sequential(layer, nn.Linear(64, 2).double()), "0.self_attn"
        with torch.no_grad():
            rows = inputs.flatten(0, 1) @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias
            query, key, _ = rows.chunk(3, dim=1)
    graph = PermutationGraph.trace(model, inputs[:1])
    group = next(group for group in graph.groups if group.name == name)
    found = activation_correlation([model], graph, inputs.split(3))[name]
    units = group.units()[0].flatten()
    covariance = np.cov(query.numpy().T, bias=True) + np.cov(key.numpy().T, bias=True)
    scale = np.sqrt(np.diag(covariance))
    assert np.abs(found[units][:, units].numpy() - covariance / np.outer(scale, scale)).max() < 1e-12


@pytest.mark.parametrize("name", ["VGG", "ResNet", "ViT", "Encoder, norm first", "Text, batch second"])
def test_units_are_alike_to_themselves_whatever_the_order_and_size_of_batches(name: str):
    models = [made(name, seed) for seed in (0, 1)]
    models = [model.double() for model in models]
    inputs = example(name, 24)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    graph = PermutationGraph.trace(models[0], inputs[:2])
    whole = activation_correlation(models, graph, [inputs])
    parts = activation_correlation(models, graph, [(batch, None) for batch in inputs.flip(0).split(7)])
    for group in graph.groups:
        found = whole[group.name]
        assert found.shape == (2 * group.size, 2 * group.size)
        assert torch.equal(found, found.T)
        assert ((found.diagonal() == 1) | (found == 0).all(dim=1)).all()
        assert (found - parts[group.name]).abs().max() < 1e-9


def test_a_permuted_model_has_permuted_correlations():
    model = made("ResNet").double()
    inputs = example("ResNet", 12).double()
    graph = PermutationGraph.trace(model, inputs[:1])
    order = graph.random(torch.Generator().manual_seed(0))
    other = made("ResNet").double()
    other.load_state_dict(permuted(model.state_dict(), graph, order))
    found = activation_correlation([model, other], graph, inputs.split(5))
    for group in graph.groups:
        rows, moved = torch.arange(group.size), group.size + torch.argsort(order[group.name])
        live = found[group.name].diagonal()[rows] == 1
        assert live.any()
        assert (found[group.name][rows, moved][live] > 1 - 1e-9).all()


def test_units_that_never_change_are_alike_to_nothing():
    model = made("MLP")
    with torch.no_grad():
        model.body[1].weight[:3] = 0
        model.body[1].bias[:3] = torch.tensor([-1.0, 0.1, 1e6])
    inputs = example("MLP", 40)
    graph = PermutationGraph.trace(model, inputs[:1])
    for split in (40, 7):
        found = activation_correlation([model], graph, inputs.split(split))["body.1"]
        assert (found[:3] == 0).all()
        assert (found[:, :3] == 0).all()
        assert found.isfinite().all()


def test_units_that_change_by_rounding_alone_are_alike_to_nothing():
    model = made("MLP")
    with torch.no_grad():
        model.body[1].weight[0] *= 5e-4 / model.body[1].weight[0].norm()
        model.body[1].bias[0] = 1e4
    inputs = example("MLP", 40)
    assert len(model.body[:2](inputs)[:, 0].unique()) > 1
    graph = PermutationGraph.trace(model, inputs[:1])
    found = activation_correlation([model], graph, [inputs])["body.1"]
    assert (found[0] == 0).all()
    assert (found[:, 0] == 0).all()


def test_a_large_mean_does_not_drown_the_changes():
    model = nn.Sequential(nn.Linear(3, 4), nn.Identity(), nn.Linear(4, 2)).double()
    inputs = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = PermutationGraph.for_mlp(model)
    expected = activation_correlation([model], graph, inputs.split(10))["0"]
    with torch.no_grad():
        model[0].bias += 1e5
    assert (activation_correlation([model], graph, inputs.split(10))["0"] - expected).abs().max() < 1e-9


@pytest.mark.parametrize("scale", [1e-8, 1e6])
def test_scaling_a_unit_changes_nothing(scale: float):
    model = made("MLP").double()
    inputs = example("MLP", 30).double()
    graph = PermutationGraph.trace(model, inputs[:1])
    expected = activation_correlation([model], graph, [inputs])["body.1"]
    with torch.no_grad():
        model.body[1].weight[0] *= scale
        model.body[1].bias[0] *= scale
    assert (activation_correlation([model], graph, [inputs])["body.1"] - expected).abs().max() < 1e-9


def test_models_are_left_as_they_were_even_after_an_error():
    model = made("VGG").train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    graph = PermutationGraph.trace(model, CASES["VGG"][1])
    random = torch.get_rng_state()
    activation_correlation([model], graph, [example("VGG")])
    with pytest.raises(InputError, match=r"a batch of float32 \(2, 1, 4, 4\) made it fail"):
        activation_correlation([model], graph, [example("VGG"), torch.zeros(2, 1, 4, 4)])
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.is_grad_enabled()


def test_a_batch_is_let_go_before_the_one_after_the_next():
    alive: list[weakref.ref[Tensor]] = []

    class Data:
        def __iter__(self) -> Iterator[Tensor]:
            for seed in range(6):
                assert sum(other() is not None for other in alive) <= 1
                batch = example("ResNet", 3, seed)
                alive.append(weakref.ref(batch))
                yield batch
                del batch

    model = made("ResNet")
    activation_correlation([model, model], PermutationGraph.trace(model, CASES["ResNet"][1]), Data())
    assert len(alive) == 6


def test_what_cannot_be_observed_is_refused():
    model = made("MLP")
    graph = PermutationGraph.trace(model, CASES["MLP"][1])
    with pytest.raises(InputError, match="models must hold at least one"):
        activation_correlation([], graph, [])
    with pytest.raises(InputError, match="at least one batch"):
        activation_correlation([model], graph, [])
    with pytest.raises(InputError, match="got dict"):
        activation_correlation([model], graph, [{"inputs": "images"}])
    blind = PermutationGraph((Group("body.1", 1, (20,), graph.groups[0].places, ()),))
    with pytest.raises(InputError, match=r"body\.1 has none; call its modules once"):
        activation_correlation([model], blind, [example("MLP")])
