import copy

import pytest
import torch
import torch.nn.functional as F
from tests.merging.networks import CASES, example, made
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.merging import PermutationGraph, match_activations, merge, permuted

NETWORKS = ["MLP", "LeNet", "VGG", "ResNet", "ResNet18", "ViT", "Grouped", "Encoder, norm last", "Text"]


def batches(name: str, count: int = 48) -> list[Tensor]:
    return list(example(name, count).split(16))


def distance(a: nn.Module, b: nn.Module) -> float:
    other = b.state_dict()
    return max((value.double() - other[key].double()).abs().max().item() for key, value in a.state_dict().items())


def moved_copies(name: str, count: int) -> list[nn.Module]:
    model = made(name, shaken=False)
    graph = PermutationGraph.trace(model, CASES[name][1])
    models = [model]
    for seed in range(count):
        other = copy.deepcopy(model)
        other.load_state_dict(permuted(model.state_dict(), graph, graph.random(torch.Generator().manual_seed(seed))))
        models.append(other)
    return models


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("matching", ["activation", "weight"])
def test_permuted_copies_merge_to_what_they_are_copies_of(name: str, matching):
    """Weights are recovered to 1e-6, which a shrinkage by a part in 100 000, as in the authors' code, would break.

    Units that do nothing on the data cannot be told apart by their activations, and are of no consequence for them.
    """
    models, data = moved_copies(name, 2), batches(name)
    merged, info = merge(models, matching=matching, data=data, repair=None)
    assert max((merged(inputs) - models[0](inputs)).abs().max() for inputs in data) <= 1e-5
    if matching == "weight" or all(value > 1 - 1e-6 for value in info.after.values()):
        assert distance(merged, models[0]) <= 1e-6
    else:
        assert name in ("MLP", "LeNet", "VGG")


@pytest.mark.parametrize("name", ["MLP", "VGG", "ResNet"])
def test_zipping_a_permuted_copy_gives_the_function(name: str):
    models = moved_copies(name, 1)
    merged, info = merge(models, matching="zipit", data=batches(name), repair=None)
    inputs = example(name, 8, seed=9)
    assert (merged(inputs) - models[0](inputs)).abs().max() <= 1e-5
    assert info.permutations == ()
    assert set(info.merged) == {group.name for group in info.graph.groups}


@pytest.mark.parametrize("matching", ["activation", "weight", "zipit", "none"])
@pytest.mark.parametrize("name", ["MLP", "VGG", "ResNet", "softmax regression"])
def test_all_weight_on_the_first_gives_it_bit_for_bit(name: str, matching):
    models = [made(name, seed) for seed in range(3)]
    for weights, some in (((1, 0, 0), models), ((1.0,), models[:1]), (None, models[:1])):
        merged, _ = merge(some, weights=weights, matching=matching, data=batches(name), repair=None)
        assert all(torch.equal(value, models[0].state_dict()[key]) for key, value in merged.state_dict().items())


def test_without_matching_it_is_the_plain_average():
    models = [made("ViT", seed) for seed in range(3)]
    merged, info = merge(models, weights=(0.5, 0.25, 0.25), matching="none", repair=None)
    states = [model.state_dict() for model in models]
    for key, value in merged.state_dict().items():
        expected = 0.5 * states[0][key] + 0.25 * states[1][key] + 0.25 * states[2][key]
        assert torch.allclose(value, expected, rtol=1e-6, atol=1e-7)
    assert info.graph.groups == ()
    assert info.permutations == ({}, {}, {})


def test_a_merge_is_the_average_of_the_permuted():
    models = [made("ResNet", seed) for seed in range(3)]
    data = batches("ResNet")
    graph = PermutationGraph.trace(models[0], data[0])
    orders = match_activations(models, graph, data)
    merged, info = merge(models, weights=(0.2, 0.3, 0.5), data=data, repair=None)
    states = [permuted(model.state_dict(), graph, order) for model, order in zip(models, orders, strict=True)]
    for key, value in merged.state_dict().items():
        if value.is_floating_point():
            expected = 0.2 * states[0][key] + 0.3 * states[1][key] + 0.5 * states[2][key]
            assert torch.allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(order[key], orders[1][key]) for order in info.permutations[1:2] for key in order)
    assert set(info.before) == set(info.after) == {group.name for group in graph.groups}
    assert all(info.after[key] >= info.before[key] for key in info.after)


@pytest.mark.parametrize("matching", ["activation", "weight", "zipit", "none"])
@pytest.mark.parametrize("name", ["VGG", "MLP"])
def test_models_are_not_changed_and_share_nothing_with_the_merged(name: str, matching):
    models = [made(name, seed).train() for seed in range(2)]
    before = [copy.deepcopy(model.state_dict()) for model in models]
    random = torch.get_rng_state()
    merged, _ = merge(models, matching=matching, data=batches(name))
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        for value in merged.state_dict().values():
            value.zero_()
    for model, state in zip(models, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(module.training for module in model.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert merged.training
    assert all(parameter.requires_grad for parameter in merged.parameters())


def test_repair_of_batch_normalization_is_that_of_the_data():
    models = [made("VGG", seed) for seed in range(2)]
    inputs = example("VGG", 48)
    merged, _ = merge(models, matching="none", data=[inputs])
    seen = merged[0](inputs)
    assert torch.allclose(merged[1].running_mean, seen.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(merged[1].running_var, seen.var((0, 2, 3)), rtol=1e-4)


def test_data_are_asked_for_only_where_they_are_needed():
    mlps, vggs = ([made(name, seed) for seed in range(2)] for name in ("MLP", "VGG"))
    merge(mlps, matching="weight", example_input=CASES["MLP"][1])
    merge(vggs, matching="none", repair=None)
    with pytest.raises(InputError, match=r"data must be given.*'none' with repair 'bn'.*repair=None"):
        merge(vggs, matching="none")
    with pytest.raises(InputError, match="data must be given for matching 'activation'"):
        merge(mlps)
    with pytest.raises(InputError, match="example_input must be given"):
        merge(mlps, matching="weight")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"weights": (0.5, 0.4)}, "weights must sum to 1"),
        ({"weights": (1 / 3, 1 / 3, 1 / 3)}, "one for each of 2"),
        ({"matching": "activations"}, 'matching must be "activation", "weight", "zipit" or "none"'),
        ({"repair": "batchnorm"}, 'repair must be "bn", "rescale" or None'),
        ({"matching": "zipit", "repair": "rescale"}, 'repair must be "bn" or None for matching "zipit"'),
        ({"matching": "zipit", "weights": (1.5, -0.5)}, "weights must not be negative"),
        ({"data": iter([torch.zeros(2, 3, 16, 16)])}, r"more than once, got an iterator; use list\(data\)"),
        ({"data": []}, "at least one batch"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, says: str):
    models = [made("MLP", seed) for seed in range(2)]
    with pytest.raises(InputError, match=says):
        merge(models, **{"data": batches("MLP"), **arguments})


def test_other_architectures_are_refused():
    with pytest.raises(InputError, match="models must be of one architecture"):
        merge([made("MLP"), made("LeNet")], data=batches("MLP"))
    with pytest.raises(InputError, match="at least one"):
        merge([], data=batches("MLP"))


def test_networks_trained_apart_are_better_merged_than_averaged():
    """Residual networks that classify where a bright spot is: the average has forgotten, the merged one has not."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 4
    inputs = 0.3 * torch.randn(256, 1, 8, 8, generator=generator)
    for number, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        inputs[number, 0, 4 * row : 4 * row + 3, 4 * column : 4 * column + 3] += 1

    def trained(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = nn.Sequential(
                *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
                *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 4)),
            )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(15):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
        return model.eval()

    def loss(model: nn.Module) -> float:
        with torch.no_grad():
            return F.cross_entropy(model(inputs), labels).item()

    models = [trained(1), trained(2)]
    data = inputs.split(64)
    averaged = loss(merge(models, matching="none", data=data)[0])
    for matching in ("activation", "zipit"):
        assert loss(merge(models, matching=matching, data=data)[0]) < 0.7 * averaged


class Named(nn.Module):
    """Takes images by name, as encoders of text and images do, and may give its hidden units."""

    def __init__(self, show: bool = False) -> None:
        super().__init__()
        self.a = nn.Linear(48, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)
        self.show = show

    def forward(self, pixel_values: Tensor, scale: Tensor | None = None, labels: Tensor | None = None) -> object:
        if labels is not None:
            raise TypeError("labels are not used")
        hidden = F.relu(self.norm(self.a(pixel_values.flatten(1))))
        logits = self.head(hidden) * (1 if scale is None else scale[:, None])
        return (logits, hidden) if self.show else logits


def named(show: bool = False) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [Named(show).eval() for _ in range(2)]


def test_batches_by_name_are_the_same_as_batches():
    images = torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    models = named()
    plain = merge(models, data=list(images.split(16)))[0].state_dict()
    for extra in ({}, {"labels": torch.zeros(16)}, {"labels": torch.zeros(16), "scale": torch.ones(16), "other": "x"}):
        merged, _ = merge(models, data=[{"pixel_values": part, **extra} for part in images.split(16)])
        assert all(torch.equal(value, plain[key]) for key, value in merged.state_dict().items())
    mlps = [made("MLP", seed) for seed in range(2)]
    expected = merge(mlps, data=[example("MLP")])[0].state_dict()
    merged, _ = merge(mlps, data=[{"image": example("MLP"), "label": torch.zeros(8)}])
    assert all(torch.equal(value, expected[key]) for key, value in merged.state_dict().items())


@pytest.mark.parametrize("size", [1, 13, 32])
def test_a_last_batch_of_one_is_no_obstacle(size: int):
    images = torch.randn(65, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    merged, _ = merge(named(), data=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), size))
    assert torch.isfinite(merged(images)).all()


def test_bytes_are_refused_with_the_remedy_unless_the_model_takes_them():
    data = [torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)]
    models = [made("MLP", seed) for seed in range(2)]
    with pytest.raises(
        InputError, match=r"^data must be what.*uint8 \(2, 3, 16, 16\).*images\.float\(\) / 255 for bytes$"
    ):
        merge(models, data=data)

    class Scaled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.float() / 255)

    merged, _ = merge([Scaled(model) for model in models], data=data)
    expected, _ = merge(models, data=[data[0].float() / 255])
    assert distance(merged.inner, expected) == 0


def test_compiled_models_are_merged_as_what_they_compile():
    models = [made("MLP", seed) for seed in range(2)]
    expected, _ = merge(models, data=batches("MLP"))
    for some in ([True, True], [False, True]):
        given = [torch.compile(m, backend="eager") if c else m for m, c in zip(models, some, strict=True)]
        merged, _ = merge(given, data=batches("MLP"))
        assert type(merged) is type(models[0])
        assert distance(merged, expected) == 0


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    "compute",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.orthogonal,
        lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
@pytest.mark.parametrize("matching", ["activation", "none"])
def test_weights_that_are_computed_are_refused_with_the_remedy(compute, matching):
    models = [nn.Sequential(compute(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 2)) for _ in range(2)]
    with pytest.raises(InputError, match=r"^models must have plain weights, '0\.weight' is .*; use torch\.nn\.utils"):
        merge(models, matching=matching, data=[torch.randn(4, 6)])


def test_hidden_units_as_an_output_are_an_error_or_are_named_away():
    models, data = named(True), [torch.randn(32, 3, 4, 4)]
    with pytest.raises(
        InputError, match=r"models must have units that no output shows, but '1' shows those of a; name"
    ):
        merge(models, data=data)
    merged, info = merge(models, data=data, output=0)
    plain, _ = merge(models, matching="none", data=data)
    assert [group.name for group in info.graph.groups] == ["a"]
    assert distance(merged, plain) > 1e-3
    assert info.after["a"] > info.before["a"]


def test_hidden_units_as_an_output_beside_others_are_a_warning():
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = self.a(x).relu()
            return {"logits": self.c(self.b(hidden).relu()), "hidden": hidden}

    with pytest.warns(UserWarning, match="averaged as they are: 'hidden' shows those of a; name the output"):
        _, info = merge([Deep(), Deep()], data=[torch.randn(16, 6)])
    assert list(info.after) == ["b"]
