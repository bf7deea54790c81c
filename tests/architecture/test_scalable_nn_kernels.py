"""Random features against what they estimate in closed form and in the mean, and layers against products and solves."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from paperweight.architecture.scalable_nn_kernels import (
    SNNKLinear,
    bundle,
    draw_projections,
    relu_features,
    replace_feedforward,
    ridge_weights,
    urf_inputs,
    urf_weights,
)
from paperweight.nets import MLP, LeNet, ResNet
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(build, *args: object, **given: object):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*args, **given)


WHOLE = (0, -1, 2.5, True)
PLAIN = nn.Sequential(seeded(nn.Linear, 6, 4), nn.ReLU(), seeded(nn.Linear, 4, 3))

CONTRACT = {
    "SNNKLinear": LayerSubject(
        make=lambda in_features=6, out_features=4, features=5: SNNKLinear(
            in_features, out_features, features, generator=drawn()
        ),
        inputs=(normal(3, 2, 6).float(),),
        shape=(3, 2, 4),
        parameter_count=4 * 5 + 4,
        bad={"in_features": WHOLE, "out_features": WHOLE, "features": WHOLE},
    ),
    "draw_projections": FunctionSubject(
        make=draw_projections,
        arguments={"features": 7, "dim": 3, "generator": drawn()},
        bad={"features": WHOLE, "dim": WHOLE},
    ),
    "urf_inputs": FunctionSubject(
        make=urf_inputs,
        arguments={"x": normal(3, 4), "frequencies": normal(5), "projections": normal(5, 4)},
        bad={"frequencies": (normal(4), normal(5, 1)), "projections": (normal(5, 3), normal(4, 4))},
    ),
    "urf_weights": FunctionSubject(
        make=urf_weights,
        arguments={
            "weight": normal(3, 4),
            "bias": normal(3),
            "frequencies": normal(5),
            "projections": normal(5, 4),
            "coefficients": torch.ones(5),
        },
        bad={
            "bias": (normal(4),),
            "frequencies": (normal(4),),
            "projections": (normal(5, 3),),
            "coefficients": (torch.ones(4),),
        },
    ),
    "relu_features": FunctionSubject(
        make=relu_features,
        arguments={"x": normal(3, 4), "projections": normal(5, 4)},
        bad={"projections": (normal(4, 5), normal(4))},
    ),
    "bundle": FunctionSubject(
        make=lambda layer, following: dict(bundle(layer, following).state_dict()),
        arguments={"layer": SNNKLinear(6, 4, 5, generator=drawn()), "following": nn.Linear(4, 3)},
        bad={"following": (nn.Linear(3, 4),)},
    ),
    "ridge_weights": FunctionSubject(
        make=ridge_weights,
        arguments={"features": normal(9, 4), "targets": normal(9, 2, seed=1), "lam": 0.5},
        bad={
            "features": (normal(8, 4), normal(9)),
            "targets": (normal(8, 2), normal(9)),
            "lam": (0.0, -1.0, math.nan, math.inf),
        },
    ),
    "replace_feedforward": FunctionSubject(
        make=lambda model, share=0.5, last=1: dict(
            seeded(replace_feedforward, model, share, last, generator=drawn()).state_dict()
        ),
        arguments={"model": PLAIN},
        bad={
            "model": (nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Tanh())),
            "share": (0.0, -1.0, math.nan, math.inf),
            "last": WHOLE,
        },
    ),
}


def trigonometric(function: str, count: int) -> tuple[Tensor, Tensor]:
    """Give frequencies drawn with probability 1/2 each, and coefficients by that probability."""
    signs = torch.where(torch.rand(count, generator=drawn(5), dtype=torch.float64) < 0.5, -1.0, 1.0)
    coefficients = torch.ones(count, dtype=torch.complex128) if function == "cos" else -1j * signs
    return signs / (2 * math.pi), coefficients


@pytest.mark.parametrize("orthogonal", [True, False])
@pytest.mark.parametrize("function", ["cos", "sin"])
def test_universal_features_estimate_the_function_without_bias(function, orthogonal):
    x, weight, bias = normal(3, 6) / 3, normal(2, 6, seed=1) / 2, normal(2, seed=2)
    expected = {"cos": torch.cos, "sin": torch.sin}[function](x @ weight.T + bias)
    count, dim = 60_000, 6
    frequencies, coefficients = trigonometric(function, count)
    projections = draw_projections(count, dim, orthogonal, drawn(3)).double()
    phi = urf_inputs(x, frequencies, projections)
    psi = urf_weights(weight, bias, frequencies, projections, coefficients)
    terms = count * (phi[:, None] * psi[None]).real  # of the mean, (3, 2, count)
    blocks = terms.unflatten(-1, (-1, dim)).mean(-1)  # independent of each other, in either case
    error = (blocks.mean(-1) - expected) / (blocks.std(-1) / math.sqrt(blocks.shape[-1]))
    assert error.abs().max() < 3.5
    assert (blocks.std(-1) / math.sqrt(blocks.shape[-1])).max() < 0.03
    torch.testing.assert_close((phi @ psi.T).real, blocks.mean(-1))


def test_universal_features_are_those_of_a_loop_over_numbers():
    x, weight, bias, xi, g = (
        normal(2, 3),
        normal(2, 3, seed=1),
        normal(2, seed=2),
        normal(4, seed=3),
        normal(4, 3, seed=4),
    )
    coefficients = torch.tensor([1.0, 2.0, -1.0, 0.5]).double() + 0.3j
    phi, psi = urf_inputs(x, xi, g), urf_weights(weight, bias, xi, g, coefficients)
    for n in range(2):
        for j in range(4):
            gx, gw, f = (g[j] @ x[n]).item(), (g[j] @ weight[n]).item(), xi[j].item()
            one = np.exp(2j * np.pi * f * gx + 2 * np.pi**2 * f**2 * (x[n] @ x[n]).item()) / 2
            other = np.exp(2j * np.pi * f * bias[n].item()) * np.exp(gw - (weight[n] @ weight[n]).item() / 2) / 2
            assert phi[n, j].item() == pytest.approx(one)
            assert psi[n, j].item() == pytest.approx(coefficients[j].item() * other)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_relu_features_estimate_the_arc_cosine_kernel(orthogonal):
    x, w = normal(3, 5), normal(2, 5, seed=1)
    norms = x.norm(dim=1)[:, None] * w.norm(dim=1)
    angle = torch.acos(x @ w.T / norms)
    expected = norms * (angle.sin() + (math.pi - angle) * angle.cos()) / (2 * math.pi)
    g = draw_projections(50_000, 5, orthogonal, drawn()).double()
    found = relu_features(x, g) @ relu_features(w, g).T
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02)


def test_the_error_of_the_estimate_falls_with_features_and_orthogonality():
    x, w = normal(20, 16), normal(20, 16, seed=1)
    norms = x.norm(dim=1)[:, None] * w.norm(dim=1)
    angle = torch.acos(x @ w.T / norms)
    expected = norms * (angle.sin() + (math.pi - angle) * angle.cos()) / (2 * math.pi)

    def error(features: int, orthogonal: bool) -> float:
        squares = []
        for seed in range(40):
            g = draw_projections(features, 16, orthogonal, drawn(seed)).double()
            squares.append((relu_features(x, g) @ relu_features(w, g).T - expected).square().mean().item())
        return math.sqrt(np.mean(squares))

    assert error(256, False) / error(16, False) == pytest.approx(1 / 4, rel=0.15)
    assert error(64, True) < 0.95 * error(64, False)


@pytest.mark.parametrize("orthogonal", [True, False])
def test_projections_are_normal_and_orthogonal_where_asked(orthogonal):
    g = draw_projections(3_000, 6, orthogonal, drawn())
    assert stats.kstest(g[:, 2].numpy(), "norm").pvalue > 0.01
    assert stats.kstest(g.square().sum(1).numpy(), stats.chi2(6).cdf).pvalue > 0.01
    inner = torch.stack([block @ block.T for block in g.split(6)])
    off = (inner - torch.diag_embed(inner.diagonal(dim1=1, dim2=2))).abs().max().item()
    assert (off < 1e-4) == orthogonal
    assert draw_projections(8, 6, orthogonal).shape == (8, 6)
    assert torch.equal(draw_projections(8, 6, orthogonal, drawn(3)), draw_projections(8, 6, orthogonal, drawn(3)))


def test_a_layer_is_the_product_of_features_and_weights():
    layer = SNNKLinear(6, 4, 5, generator=drawn()).double()
    x = normal(3, 6)
    by_hand = torch.zeros(3, 4, dtype=torch.float64)
    for n in range(3):
        for o in range(4):
            for j in range(5):
                feature = max(0.0, (layer.projections[j] @ x[n]).item()) / math.sqrt(5)
                by_hand[n, o] += layer.weight[o, j].item() * feature
    torch.testing.assert_close(layer(x), by_hand + layer.bias)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}
    assert torch.equal(draw_projections(5, 6, True, drawn()).double(), layer.projections)
    assert SNNKLinear(6, 4, 5, bias=False).bias is None
    assert not torch.equal(SNNKLinear(6, 4, 5, orthogonal=False, generator=drawn()).projections, layer.projections)


def test_outputs_start_about_as_large_as_those_of_a_linear_layer():
    x = normal(500, 100).float()
    plain, layer = seeded(nn.Linear, 100, 200), seeded(SNNKLinear, 100, 200, 50)
    ratio = layer(x).square().mean() / F.relu(plain(x)).square().mean()
    assert 0.7 < ratio < 1.4


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_bundle_equals_the_layers_in_a_row(first, second):
    layer = seeded(SNNKLinear, 6, 8, 5, bias=first).double()
    following = seeded(nn.Linear, 8, 3, bias=second).double()
    before = copy.deepcopy(layer.state_dict())
    new, x = bundle(layer, following), normal(4, 6)
    torch.testing.assert_close(new(x), following(layer(x)), rtol=1e-12, atol=1e-13)
    assert (new.bias is not None) == (first or second)
    assert new.weight.shape == (3, 5)
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in before.items())


def test_ridge_weights_are_the_minimum():
    features, targets = normal(30, 6), normal(30, 2, seed=1)
    found = ridge_weights(features, targets, 0.7)
    weights = found.clone().requires_grad_()
    loss = (features @ weights.T - targets).square().sum() + 0.7 * weights.square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert gradient.abs().max() < 1e-10
    stacked = torch.cat([features, math.sqrt(0.7) * torch.eye(6, dtype=torch.float64)])
    solved = torch.linalg.lstsq(stacked, torch.cat([targets, torch.zeros(6, 2, dtype=torch.float64)])).solution
    torch.testing.assert_close(found, solved.T)


def test_the_last_layers_are_replaced_and_begin_from_their_weights():
    torch.manual_seed(0)
    model = MLP((1, 8, 8), 5, hidden=(40, 30)).double().eval()
    old = copy.deepcopy(model.state_dict())
    for last, names in ((1, {"body.3"}), (2, {"body.1", "body.3"}), (7, {"body.1", "body.3"})):
        new = replace_feedforward(model, 0.25, last, drawn())
        found = {name: part for name, part in new.named_modules() if isinstance(part, SNNKLinear)}
        assert found.keys() == names
        assert {type(new.get_submodule(f"body.{i}")) for i in (2, 4)} == (
            {nn.Identity} if last > 1 else {nn.ReLU, nn.Identity}
        )
        for name, part in found.items():
            layer = model.get_submodule(name)
            assert part.features == round(0.25 * layer.in_features)
            expected = F.relu(layer.weight @ part.projections.T) / math.sqrt(part.features)
            torch.testing.assert_close(part.weight, expected, rtol=1e-5, atol=1e-6)
            assert torch.equal(part.bias, layer.bias)
            assert part.weight.dtype == torch.float64
        assert new(normal(2, 1, 8, 8)).shape == (2, 5)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in old.items())


def test_networks_without_such_a_layer_are_refused_and_others_are_found():
    new = replace_feedforward(LeNet((1, 12, 12), 5))
    assert [name for name, part in new.named_modules() if isinstance(part, SNNKLinear)] == ["body.9"]
    assert type(replace_feedforward(PLAIN)[0]) is SNNKLinear
    for model in (ResNet((1, 8, 8), 3, width=4), MLP((1, 8, 8), 3, hidden=())):
        with pytest.raises(ValueError, match="model must hold a Linear and a ReLU one after the other"):
            replace_feedforward(model)


def test_what_is_frozen_stays_frozen():
    model = copy.deepcopy(PLAIN)
    model[0].weight.requires_grad_(False)
    new = replace_feedforward(model)
    assert {name for name, p in new.named_parameters() if not p.requires_grad} == {"0.weight"}
    model[0].requires_grad_().bias.requires_grad_(False)
    new = replace_feedforward(model)
    assert {name for name, p in new.named_parameters() if not p.requires_grad} == {"0.bias"}


def test_a_generator_gives_the_same_network_and_none_takes_the_global_stream():
    first, second = (replace_feedforward(PLAIN, generator=drawn(4)) for _ in range(2))
    assert torch.equal(first[0].projections, second[0].projections)
    layers = [seeded(replace_feedforward, PLAIN)[0] for _ in range(2)]
    assert torch.equal(layers[0].projections, layers[1].projections)
    assert not torch.equal(replace_feedforward(PLAIN)[0].projections, replace_feedforward(PLAIN)[0].projections)
