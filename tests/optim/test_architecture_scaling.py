"""Scaling by architecture against enumerated paths, the paper's power laws, exact second moments and a slow loop."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.nets import MLP, LeNet, ResNet
from paperweight.optim.architecture_scaling import (
    DagCNN,
    DagMLP,
    dag_init_,
    in_degrees,
    lr_scale,
    path_depths,
)
from paperweight.studies.optim.architecture_scaling import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject

W, S, N = "weight", "skip", "none"
DIAMOND = ((W,), (W, N), (N, W, W))
GRAPHS = {
    "chain": ((W,), (N, W), (N, N, W)),
    "diamond": DIAMOND,
    "dense": ((W,), (W, W), (W, W, W), (W, W, W, W)),
    "residual": ((W,), (S, W), (N, N, W), (N, N, S, W)),
    "mixed": ((W,), (S, N), (W, S, W), (N, W, N, W)),
}
SHAPE = (1, 4, 4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def inputs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def chain(depth: int) -> nn.Sequential:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(3, 3), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(3, 2))


class Traceless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Constant(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(2)


BAD_DAGS = (((W, W),), ((W,), (W,)), (("wight",),), ((W,), (N, N)), ((W,), (W, N)), ((N,),))
CONTRACT = {
    "path_depths": FunctionSubject(
        make=path_depths, arguments={"model": chain(3)}, bad={"model": (Traceless(), Constant())}
    ),
    "in_degrees": FunctionSubject(make=in_degrees, arguments={"model": chain(3)}, bad={"model": (Traceless(),)}),
    "lr_scale": FunctionSubject(
        make=lr_scale,
        arguments={"depths": {2: 1, 3: 2}, "base_depths": {1: 1}, "kernel": 5, "base_kernel": 3},
        bad={
            "depths": ({}, {0: 2}, {-1: 1}, {2: -1}, {1.5: 1}, {2: 0}),
            "base_depths": ({}, {0: 1}, {True: 1}),
            "kernel": (0, -3, 1.5, True),
            "base_kernel": (0, 2.0),
        },
        null=lambda depths, base_depths, kernel, base_kernel: lr_scale(depths, depths, kernel, kernel),
        baseline=lambda depths, base_depths, kernel, base_kernel: 1.0,
    ),
    "dag_init_": FunctionSubject(
        make=lambda model, seed=0: dag_init_(model, seeded(seed)).state_dict(),
        arguments={"model": chain(3)},
        bad={"model": (Traceless(), nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))},
    ),
    "DagMLP": LayerSubject(
        make=lambda dag=DIAMOND, shape=SHAPE, classes=3, width=5: DagMLP(dag, shape, classes, width),
        inputs=(inputs(4, 1, 4, 4),),
        shape=(4, 3),
        parameter_count=17 * 5 + 4 * 30 + 18,
        bad={"dag": BAD_DAGS, "shape": ((1, 4), (0, 4, 4)), "classes": (0, 1.5), "width": (0, 2.5)},
    ),
    "DagCNN": LayerSubject(
        make=lambda dag=DIAMOND, shape=(2, 4, 5), classes=3, width=5, kernel=3: DagCNN(
            dag, shape, classes, width, kernel
        ),
        inputs=(inputs(4, 2, 4, 5),),
        shape=(4, 3),
        parameter_count=19 * 5 + 4 * (9 * 25 + 5) + 18,
        bad={
            "dag": BAD_DAGS,
            "shape": ((2, 4), (0, 4, 4)),
            "classes": (0, 1.5),
            "width": (0, 2.5),
            "kernel": (0, 2, 3.0, -1),
        },
    ),
}


def enumerated(dag, vertex: int = 0, depth: int = 1) -> list[int]:
    """Walk every path; a ReLU comes before every layer but the first one, and so before the last."""
    if vertex == len(dag):
        return [depth]
    return [
        found
        for target in range(vertex + 1, len(dag) + 1)
        if dag[target - 1][vertex] != N
        for found in enumerated(dag, target, depth + (dag[target - 1][vertex] == W))
    ]


@pytest.mark.parametrize("dag", GRAPHS.values(), ids=GRAPHS)
def test_traced_paths_are_those_of_the_graph(dag):
    for model in (DagMLP(dag, SHAPE, 3, width=4), DagCNN(dag, SHAPE, 3, width=4)):
        assert sorted(path_depths(model).elements()) == sorted(enumerated(dag))


@pytest.mark.parametrize("dag", GRAPHS.values(), ids=GRAPHS)
def test_traced_degrees_are_those_of_the_graph(dag):
    found = in_degrees(DagMLP(dag, SHAPE, 3, width=4))
    expected = {
        f"layers.{source}_{target}": sum(edge != N for edge in edges)
        for target, edges in enumerate(dag, start=1)
        for source, edge in enumerate(edges)
        if edge == W
    }
    assert found == {"stem": 1, **expected, "head": 0}


def test_paths_of_residual_networks_are_a_binomial():
    """Each of n blocks of relu(x + second(relu(first(x)))) is passed or not: 1 + n + k ReLUs, n over k times."""
    model = ResNet((1, 16, 16), 10)
    blocks = sum(hasattr(module, "residual") for module in model.modules())
    assert path_depths(model) == {1 + blocks + k: math.comb(blocks, k) for k in range(blocks + 1)}
    degrees = in_degrees(model)
    assert all(degrees[name] == 2 for name in degrees if name.endswith("residual.3"))
    assert sum(degree == 2 for degree in degrees.values()) == blocks


def test_sizes_of_tensors_are_no_paths():
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(x).view(x.size(0), x.shape[1] * x.numel() // len(x.shape) // 4).relu_())

    class Viewed(Viewing):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.relu(x).view(x.size(0), -1).relu())

    assert path_depths(Viewed()) == {2: 1}


def test_a_layer_used_twice_has_the_larger_degree():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            return self.head(torch.add(F.relu(y), self.layer(F.relu(y)).mul(1.0)) + x)

    class TwiceTurned(Twice):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layer(F.relu(self.layer(x) + x)))

    assert in_degrees(Twice()) == {"layer": 3, "head": 0}
    assert in_degrees(TwiceTurned()) == {"layer": 2, "head": 0}


def test_a_sum_that_is_normalised_or_reshaped_is_a_vertex():
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(F.relu(self.norm(self.one(x) + self.norm(self.other(x))).flatten(1)))

    assert in_degrees(Normalised()) == {"one": 2, "other": 2, "head": 0}


def test_what_multiplies_comes_after_a_layer():
    turned = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.ConvTranspose2d(2, 1, 3))
    assert in_degrees(turned) == {"0": 1}
    assert in_degrees(nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.LayerNorm((2, 4)))) == {"0": 0}

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.words = nn.Linear(4, 4), nn.Embedding(7, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(torch.sub(F.relu(self.layer(x)), self.layer(x)), self.words.weight)

    assert in_degrees(Tied()) == {"layer": 2}


def test_other_activations_are_refused():
    for activation in (nn.GELU(), nn.ReLU6(), nn.Tanh()):
        with pytest.raises(ValueError, match=f"no activations but ReLUs.* got {type(activation).__name__}"):
            path_depths(nn.Sequential(nn.Linear(2, 2), activation, nn.Linear(2, 2), nn.ReLU()))

    class Functional(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.gelu(x).relu()

    with pytest.raises(ValueError, match="got gelu"):
        path_depths(Functional())


def test_the_recipe_says_what_does_not_fit():
    data = None
    fits = RECIPE.fits
    assert fits(chain(2), data) == ""
    assert "plain weights" in fits(
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2)), data
    )
    assert "layers built" in fits(nn.Sequential(nn.LazyLinear(2), nn.ReLU(), nn.Linear(2, 2)), data)
    assert "torch.fx" in fits(Traceless(), data)
    frozen = chain(1)
    frozen[0].requires_grad_(False)
    assert "two linear layers or convolutions that are trained" in fits(frozen, data)


def test_frozen_layers_keep_their_weights():
    model = chain(2)
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    dag_init_(model, seeded())
    changed = {name: not torch.equal(value, before[name]) for name, value in model.state_dict().items()}
    assert changed == {name: not name.startswith("0.") for name in before}


def test_power_laws_of_the_paper():
    base = path_depths(chain(1))
    for depth in (1, 2, 4, 9):
        assert lr_scale(path_depths(chain(depth)), base) == pytest.approx(depth**-1.5, rel=1e-12)
    two = path_depths(DagMLP(DIAMOND, SHAPE, 3, width=4))
    one = path_depths(DagMLP(((W,), (N, W)), SHAPE, 3, width=4))
    assert two == {3: 2}
    assert lr_scale(two, one) == pytest.approx(1 / math.sqrt(2), rel=1e-12)
    assert lr_scale(one, one, kernel=7, base_kernel=3) == pytest.approx(3 / 7, rel=1e-12)
    # The sum of equation 8 by hand: 2^3 + 3 * 4^3 = 200 against 3^3 = 27.
    assert lr_scale({2: 1, 4: 3}, {3: 1}) == pytest.approx(math.sqrt(27 / 200), rel=1e-12)


def test_forward_is_equation_1():
    dag = GRAPHS["mixed"]
    model = DagMLP(dag, SHAPE, 3, width=6).double()
    x = inputs(5, *SHAPE).double()
    vertices = [F.linear(x.flatten(1), model.stem.weight, model.stem.bias)]
    for target, edges in enumerate(dag, start=1):
        total = torch.zeros_like(vertices[0])
        for source, edge in enumerate(edges):
            if edge == S:
                total = total + vertices[source]
            elif edge == W:
                layer = model.layers[f"{source}_{target}"]
                total = total + vertices[source].clamp(min=0) @ layer.weight.T + layer.bias
        vertices.append(total)
    expected = vertices[-1].clamp(min=0) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), expected, rtol=1e-12, atol=1e-12)


def test_a_convolution_of_side_1_is_a_linear_layer_at_each_pixel():
    dag = GRAPHS["dense"]
    network, pixel = DagCNN(dag, (2, 3, 3), 3, width=4, kernel=1), DagMLP(dag, (2, 1, 1), 3, width=4)
    pixel.load_state_dict({name: value.flatten(2).squeeze(-1) if value.ndim == 4 else value
                           for name, value in network.state_dict().items()})  # fmt: skip
    image = inputs(5, 2, 1, 1).expand(5, 2, 3, 3)
    torch.testing.assert_close(network(image), pixel(image[:, :, :1, :1]))


def second_moments(dag, draws: int) -> torch.Tensor:
    """Give the mean square of the last vertex over that of the first, for draws of weights."""
    ratios = []
    for seed in range(draws):
        model = dag_init_(DagMLP(dag, (1, 16, 16), 3, width=256), seeded(seed))
        seen = {}
        model.stem.register_forward_hook(lambda _, __, output, seen=seen: seen.update(first=output))
        model.head.register_forward_pre_hook(lambda _, given, seen=seen: seen.update(last=given[0]))
        with torch.no_grad():
            model(inputs(200, 1, 16, 16, seed=1000 + seed))
        # Of a symmetric vertex the ReLU keeps half of the mean square.
        ratios.append(2 * seen["last"].square().mean() / seen["first"].square().mean())
    return torch.stack(ratios)


@pytest.mark.parametrize("name", ["chain", "diamond", "dense"])
def test_vertices_are_as_large_as_those_before(name):
    ratios = second_moments(GRAPHS[name], 40)
    assert ratios.mean().item() == pytest.approx(1.0, abs=0.1)
    assert abs(ratios.mean().item() - 1) < 4 * ratios.std().item() / math.sqrt(40)


def test_the_degree_of_the_source_as_equation_4_has_it_does_not_keep_the_scale():
    """In the diamond both sources have in-degree 1: with 2 / 1 in place of 2 / 2 the last vertex is twice as large."""
    model = DagMLP(DIAMOND, (1, 16, 16), 3, width=256)
    ratios = []
    for seed in range(40):
        dag_init_(model, seeded(seed))
        with torch.no_grad():
            first = model.stem(inputs(200, 1, 16, 16, seed=1000 + seed).flatten(1))
            hidden = model.layers["0_1"](F.relu(first)), model.layers["0_2"](F.relu(first))
            last = sum(
                math.sqrt(2) * model.layers[name](F.relu(vertex))
                for name, vertex in zip(("1_3", "2_3"), hidden, strict=True)
            )
            ratios.append(last.square().mean() / first.square().mean())
    assert torch.stack(ratios).mean().item() == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("model", [LeNet((1, 28, 28), 10), MLP((1, 8, 8), 10, hidden=(400, 300))], ids=["LeNet", "MLP"])
def test_variances_of_a_chain(model):
    dag_init_(model, seeded())
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    for layer in layers:
        fan_in = layer.weight[0].numel()
        expected = 2 / fan_in**2 if layer is layers[-1] else 2 / fan_in
        count = layer.weight.numel()
        assert layer.weight.var().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / count))
        assert layer.bias.eq(0).all()


def test_init_draws_from_its_generator_and_keeps_what_is_no_layer():
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
    model = nn.Sequential(*model, nn.Linear(32, 5, bias=False)).double()
    nn.init.normal_(model[1].weight)
    normal, twin = copy.deepcopy(model[1].state_dict()), copy.deepcopy(model)
    state = torch.get_rng_state()
    assert dag_init_(model, seeded(3)) is model
    assert torch.equal(state, torch.get_rng_state())
    dag_init_(twin, seeded(3))
    assert torch.equal(model[0].weight, twin[0].weight)
    assert model[0].weight.dtype == torch.float64
    assert all(torch.equal(value, normal[name]) for name, value in model[1].state_dict().items())
    wide = dag_init_(nn.Sequential(nn.Conv1d(64, 64, 3, groups=4), nn.ReLU(), nn.Conv1d(64, 2, 1)), seeded())
    assert wide[0].weight.var().item() == pytest.approx(2 / 48, rel=0.15)


@pytest.mark.parametrize("kernel", [3, 5])
def test_maps_keep_their_size(kernel):
    seen = []
    model = DagCNN(DIAMOND, (1, 6, 7), 3, width=2, kernel=kernel)
    model.layers["2_3"].register_forward_hook(lambda _, __, output: seen.append(output.shape))
    model(inputs(4, 1, 6, 7))
    assert seen == [(4, 2, 6, 7)]


def test_the_rule_makes_changes_of_vertices_alike():
    """One step of SGD changes the last vertex of chains of depth 2 and 8 by as much."""
    changes = {}
    for depth in (2, 8):
        scale = lr_scale({depth: 1}, {1: 1})
        moved = []
        for seed in range(30):
            dag = tuple((N,) * vertex + (W,) for vertex in range(depth - 1))
            model = dag_init_(DagMLP(dag, (1, 16, 16), 1, width=256), seeded(seed))
            x, seen = inputs(1, 1, 16, 16, seed=1000 + seed), []
            model.head.register_forward_pre_hook(partial(lambda seen, _, given: seen.append(given[0].detach()), seen))
            (model(x) - 1).square().sum().div(2).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.3 * scale * parameter.grad
                model(x)
            moved.append((seen[1] - seen[0]).square().sum())
        changes[depth] = torch.stack(moved).mean().item()
    assert 0.25 < changes[8] / changes[2] < 4
