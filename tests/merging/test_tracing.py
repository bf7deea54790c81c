import copy
from dataclasses import dataclass
from itertools import permutations

import pytest
import torch
import torch.nn.functional as F
from tests.merging.networks import CASES, IMAGE, SEQUENCE, SMALL, VECTOR, example, made, vgg
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from paperweight.errors import InputError
from paperweight.merging import PermutationGraph, permuted
from paperweight.nets import MLP, LeNet, ResNet, ResNet18, UNet

every_network = pytest.mark.parametrize("name", CASES)


@every_network
def test_groups_are_those_worked_out_by_hand(name: str):
    graph = PermutationGraph.trace(made(name), CASES[name][1])
    assert [(group.name, group.blocks, group.kinds) for group in graph.groups] == CASES[name][2]


@every_network
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_a_permutation_keeps_the_function_and_moves_the_weights(name: str, dtype: torch.dtype, error: float):
    model, inputs = made(name).to(dtype), example(name)
    inputs = inputs.to(dtype) if inputs.is_floating_point() else inputs
    graph = PermutationGraph.trace(model, inputs[:1])
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = model(inputs)
    for seed in range(3):
        new = permuted(state, graph, graph.random(torch.Generator().manual_seed(seed)))
        model.load_state_dict(new)
        assert (model(inputs) - before).abs().max() <= error * max(1, before.abs().max())
        assert any(not torch.equal(new[key], state[key]) for key in state) == bool(graph.groups)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("ResNet")] + ["ResNet"])
def test_no_unit_could_be_left_out_of_a_group_alone(name: str):
    """Permuting the rows of one place alone changes the output: every place is needed."""
    model, inputs = made(name).double(), example(name)
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    graph = PermutationGraph.trace(model, inputs[:1])
    before = model(inputs)
    for group in graph.groups:
        order = torch.arange(group.size).view(group.blocks, -1).roll(1, dims=0 if group.blocks > 1 else 1).flatten()
        assert group.allows(order)
        state = model.state_dict(keep_vars=True)
        for key, axis in {(place.key, place.axis) for place in group.places if place.role != "statistic"}:
            some = tuple(place for place in group.places if state[place.key] is state[key] and place.axis == axis)
            alone = PermutationGraph((type(group)(group.name, group.blocks, group.kinds, some, ()),))
            changed = copy.deepcopy(model)
            changed.load_state_dict(permuted(model.state_dict(), alone, {group.name: order}))
            if not key.endswith(("k.bias", "in_proj_bias")):
                assert (changed(inputs) - before).abs().max() > 1e-9, (group.name, key, axis)


@pytest.mark.parametrize(
    ("model", "write"),
    [
        (MLP((3, 16, 16), 5, (20, 12)), PermutationGraph.for_mlp),
        (MLP((3, 16, 16), 5, ()), PermutationGraph.for_mlp),
        (LeNet((3, 16, 16), 5), PermutationGraph.for_vgg),
        (vgg(), PermutationGraph.for_vgg),
        (ResNet((3, 16, 16), 5, depth=14, width=4), PermutationGraph.for_resnet),
        (ResNet18((3, 16, 16), 5, width=4), PermutationGraph.for_resnet),
    ],
    ids=["MLP", "softmax regression", "LeNet", "VGG", "ResNet", "ResNet18"],
)
def test_what_is_written_down_is_what_is_traced(model: nn.Module, write):
    assert write(model) == PermutationGraph.trace(model, IMAGE)


def test_graphs_of_different_networks_differ():
    assert PermutationGraph.for_mlp(MLP((3, 16, 16), 5, (20, 12))) != PermutationGraph.for_mlp(
        MLP((3, 16, 16), 5, (20,))
    )


def test_flattened_channels_move_as_blocks():
    graph = PermutationGraph.trace(LeNet((1, 16, 16), 5), torch.zeros(1, 1, 16, 16))
    place = next(place for place in graph.groups[1].places if place.key == "body.7.weight")
    assert place.axis == 1
    assert torch.equal(place.index, torch.arange(16 * 4).view(16, 4))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("VGG", [["3.input"], ["7.input"], ["10.input"], ["15.input"]]),
        ("ResNet", [["body.4.residual.0.input"], ["body.3.residual.3.input"], ["body.4.residual.3.input"]]),
        (
            "ViT",
            [
                ["norm.input"],
                [*["blocks.0.attention.1.project_in.output"] * 2, "blocks.0.attention.1.project_out.input"],
            ],
        ),
        (
            "Encoder, norm first",
            [["2.input"], [f"1.layers.0.self_attn.{side}" for side in ("query", "key", "value")]],
        ),
        ("Heads", [["v.input"], ["q.output", "k.output", "o.input"]]),
        ("Gated", [["head.input"]]),
        ("Dense", [["c.input"], ["c.input"], ["head.input"]]),
        ("Series", [["head.input"]]),
        ("Recurrent", [["head.input"]]),
    ],
)
def test_units_are_observed_where_they_are_read(name: str, expected: list[list[str]]):
    """At the last of the readers with the most values; queries and keys where they are made."""
    groups = PermutationGraph.trace(made(name), CASES[name][1]).groups
    found = [[f"{point.module}.{point.side}" for point in group.points] for group in groups]
    assert found[: len(expected)] == expected


def test_a_padded_stream_keeps_old_and_new_channels_apart():
    graph = PermutationGraph.trace(made("ResNet"), IMAGE)
    head = [place for group in graph.groups for place in group.places if place.key == "head.weight"]
    assert [place.index.flatten().tolist() for place in head] == [[*range(4)], [*range(4, 8)], [*range(8, 16)]]


def test_heads_and_units_of_heads_are_all_the_symmetry_of_attention():
    """Of all orders of the four units of two heads of queries and keys, those that keep the function are allowed."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2, batch_first=True).double()
    model = _Attend(layer)
    inputs = torch.randn(3, 5, 4, dtype=torch.float64)
    (group,) = PermutationGraph.trace(model, inputs).groups
    before = model(inputs)
    for order in permutations(range(4)):
        rows = torch.tensor(order)
        changed = copy.deepcopy(model)
        for start in (0, 4, 8):
            changed.layer.in_proj_weight.data[start : start + 4] = layer.in_proj_weight[start + rows]
            changed.layer.in_proj_bias.data[start : start + 4] = layer.in_proj_bias[start + rows]
        changed.layer.out_proj.weight.data = layer.out_proj.weight[:, rows]
        keeps = torch.allclose(changed(inputs), before, atol=1e-12)
        # Units are numbered head by head, first those of query and key, then those of value.
        place = [0, 1, 4, 5]
        whole = torch.empty(8, dtype=torch.int64)
        for new, old in enumerate(order):
            whole[place[new]] = place[old]
            whole[place[new] + 2] = place[old] + 2
        assert group.allows(whole) == keeps


class _Attend(nn.Module):
    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, x, x, need_weights=False)[0]


def test_inputs_added_to_the_stream_keep_it_in_place():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 8)
            self.b = nn.Linear(8, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x + self.b(F.relu(self.a(x))))

    graph = PermutationGraph.trace(Skip(), VECTOR)
    assert [group.name for group in graph.groups] == ["a"]


class Roll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).cumsum(dim=1)[:, :4])


class Softened(nn.Module):
    """A softmax over pairs of units, which the labels alone do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x).unflatten(1, (4, 2)).softmax(dim=2).flatten(1))


class Overlapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.norm1 = nn.GroupNorm(4, 8)
        self.norm2 = nn.GroupNorm(2, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm2(self.norm1(self.a(x)).relu()).relu().mean((2, 3)))


class StandardizedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Standardized(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), StandardizedConv(4, 4, 1), nn.Flatten(), nn.Linear(256, 2))


class Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.named = nn.Bilinear(6, 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.named(x, x)


@pytest.mark.parametrize(
    ("model", "inputs", "says"),
    [
        (UNet(3), SMALL, r"must not overlap, those of 'up_half.first.0' \(GroupNorm\)"),
        (nn.Linear(5, 3), VECTOR, r"model must run on example_input, .*Linear\) fails: RuntimeError: mat1 and mat2"),
        (Roll(), VECTOR, r"cumsum in the model itself \(Roll\) is not"),
        (nn.Sequential(nn.Linear(6, 6), Roll()), VECTOR, r"cumsum in '1' \(Roll\) is not"),
        (Softened(), VECTOR, "a random permutation of the units that were found changes the output"),
        (Overlapping(), SMALL, "'norm2'"),
        (Bilinear(), VECTOR, r"bilinear in 'named' \(Bilinear\) is not; use what torch has"),
        (nn.ConvTranspose2d(4, 8, 3, groups=2), torch.zeros(1, 4, 8, 8), "2 for 4 and 8; write it as several"),
        (Standardized(), SMALL, r"weights must be parameters as they are, '1' \(.*computes its own at each call"),
        (nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 4))), VECTOR, "'0.weight' is parametrized; use"),
        (nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 4))), VECTOR, "'0.weight' is normalized; use"),
        (parametrizations.weight_norm(nn.Linear(6, 4)), VECTOR, "'weight' is parametrized; use"),
        (_Attend(nn.MultiheadAttention(6, 2, add_bias_kv=True, batch_first=True)), SEQUENCE, "no added key and value"),
    ],
    ids=[
        "blocks of two sizes",
        "shape",
        "function",
        "inner function",
        "trial",
        "blocks",
        "module",
        "convolution",
        "computed",
        "norm",
        "spectral norm",
        "root norm",
        "attention",
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(model: nn.Module, inputs: Tensor, says: str):
    with pytest.raises(InputError, match=says):
        PermutationGraph.trace(model, inputs)


@pytest.mark.parametrize(
    ("write", "model", "says"),
    [
        (PermutationGraph.for_mlp, LeNet((1, 8, 8), 3), "no parameters but in Linear.*body.0 has"),
        (PermutationGraph.for_vgg, nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), "Linear, Conv2d.*1 has"),
        (PermutationGraph.for_resnet, LeNet((1, 8, 8), 3), "got LeNet; use trace"),
    ],
)
def test_what_cannot_be_written_down_is_refused_by_name(write, model: nn.Module, says: str):
    with pytest.raises(InputError, match=says):
        write(model)


def test_tracing_leaves_the_model_and_the_random_state_alone():
    model = made("VGG").train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    PermutationGraph.trace(model, IMAGE)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


class Hidden(nn.Module):
    """Gives its hidden units besides the logits."""

    def __init__(self, give) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 7)
        self.head = nn.Linear(7, 3)
        self.give = give

    def forward(self, x: Tensor) -> object:
        a = self.a(x).relu()
        return self.give(self.head(self.b(a).relu()), a)


@dataclass
class Given:
    logits: Tensor
    hidden: Tensor


@pytest.mark.parametrize(
    ("give", "first", "second"),
    [
        (lambda logits, hidden: (logits, hidden), 0, "1"),
        (lambda logits, hidden: {"logits": logits, "hidden": hidden}, "logits", "hidden"),
        (lambda logits, hidden: {"logits": logits, "all": [hidden, hidden]}, "logits", "all.0"),
        (Given, "logits", "hidden"),
    ],
    ids=["tuple", "dict", "list within", "data class"],
)
def test_units_that_an_output_shows_keep_their_order_unless_another_output_counts(give, first, second: str):
    model = Hidden(give)
    graph = PermutationGraph.trace(model, VECTOR)
    assert [group.name for group in graph.groups] == ["b"]
    assert graph.shown[second] == ("a",)
    alone = PermutationGraph.trace(model, VECTOR, output=first)
    assert [group.name for group in alone.groups] == ["a", "b"]
    assert not alone.shown
    with pytest.raises(InputError, match="output must be one of the network's, got 'lost'"):
        PermutationGraph.trace(model, VECTOR, output="lost")


def test_a_compiled_network_is_traced_as_what_it_compiles():
    model = made("MLP")
    inner = nn.Sequential(torch.compile(made("MLP"), backend="eager"))
    plain = PermutationGraph.trace(model, IMAGE)
    assert PermutationGraph.trace(torch.compile(model, backend="eager"), IMAGE) == plain
    assert [group.size for group in PermutationGraph.trace(inner, IMAGE).groups] == [20, 12]


def test_arguments_by_name():
    named = PermutationGraph.trace(made("Gated"), {"x": VECTOR})
    assert named == PermutationGraph.trace(made("Gated"), VECTOR)
