"""AugLocal against hand-computed depths and layers, a loop over its parts, and back-propagation."""

import copy
import math
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.loops import local_gradients, peak_saved_bytes
from paperweight.nets import LeNet, ResNet, ResNet18, ViT, halved
from paperweight.studies.training.auglocal import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject
from paperweight.training.auglocal import AugLocal, aux_depths, aux_layer_indices


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def resnet(depth: int = 8, width: int = 2, side: int = 8) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNet((1, side, side), 3, depth=depth, width=width)


class Smooth(nn.Module):
    """A block without a kink, whose derivative differences can find."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Tanh())
        self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.residual(x)


def smooth() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 1), Smooth(2), nn.Tanh(), Smooth(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3)
    )


def local(**given) -> AugLocal:
    return AugLocal(resnet(), **{"classes": 3, "generator": seeded(), **given})


CONTRACT = {
    # The differences of its gradients are taken of smooth parts with linear auxiliaries.
    "AugLocal": LayerSubject(
        make=lambda classes=3, max_depth=1, pyramid=0.5, parts=None, choose=lambda *_: (): AugLocal(
            smooth(), classes, max_depth, pyramid, parts, choose, seeded()
        ),
        inputs=(normal(4, 1, 3, 3).float(),),
        shape=None,
        parameter_count=4 + 6 + 6 + 9 + 2 * (4 + 9),
        bad={
            "classes": (1, 0, 2.5, True),
            "max_depth": (0, 1.5, True),
            "pyramid": (-0.1, 1.1, math.nan),
            "parts": (0, 4, 1.5),
            "choose": (lambda *_: (0,), lambda *_: (2, 1), lambda *_: (3,)),
        },
        null=lambda: AugLocal(smooth(), classes=3, parts=1),
        baseline=smooth,
        expected_failures={
            "check_gradients": "no gradient goes from a part to those before it, which differences do not know"
        },
    ),
    "aux_depths": FunctionSubject(
        make=aux_depths,
        arguments={"parts": 7, "max_depth": 5},
        bad={
            "parts": (0, 2.5, True),
            "max_depth": (0, 1.5),
            "pyramid": (-0.1, 1.1, math.nan),
        },
    ),
    "aux_layer_indices": FunctionSubject(
        make=aux_layer_indices,
        arguments={"layer": 1, "layers": 16, "depth": 3},
        bad={"layer": (-1, 15, 1.5), "layers": (1, 2.5), "depth": (0, 1.5)},
    ),
}


def test_depths_by_hand():
    # c = 1/2, L = 6: 4 (1 - l / 8) + l / 8 is 4, 3.625, 3.25, 2.875, 2.5, and halves go to the even number.
    assert aux_depths(6, max_depth=4, pyramid=0.5) == [4, 4, 3, 3, 2]
    assert aux_depths(5, max_depth=9, pyramid=1.0) == [9, 6, 4, 1]
    assert aux_depths(5, max_depth=3, pyramid=0.0) == [3] * 4
    assert aux_depths(2, max_depth=3) == [3]
    assert aux_depths(1) == []


@pytest.mark.parametrize("parts", [2, 3, 7, 16, 55])
@pytest.mark.parametrize("pyramid", [0.0, 0.5, 1.0])
def test_depths_do_not_grow_and_are_one_throughout_where_the_first_is(parts, pyramid):
    assert aux_depths(parts, 1, pyramid) == [1] * (parts - 1)
    depths = aux_depths(parts, 9, pyramid)
    assert depths == sorted(depths, reverse=True)
    assert depths[0] == 9


def test_layers_by_hand():
    # 15 - 1 = 14 follow layer 1 of 16: steps of 14 / 3 lead to 5.67, 10.33 and 15.
    assert aux_layer_indices(1, layers=16, depth=3) == [6, 10, 15]
    assert aux_layer_indices(12, layers=16, depth=5) == [13, 14, 15]
    assert aux_layer_indices(0, layers=2, depth=1) == [1]


@pytest.mark.parametrize("layers", [2, 3, 8, 16])
def test_layers_ascend_among_those_that_follow_and_end_at_the_last(layers):
    for layer in range(layers - 1):
        for depth in range(1, layers + 2):
            chosen = aux_layer_indices(layer, layers, depth)
            assert len(chosen) == min(depth, layers - 1 - layer)
            assert chosen == sorted(set(chosen))
            assert layer < chosen[0]
            assert chosen[-1] == layers - 1


def sizes(auxiliary: nn.Module) -> list[tuple[int, int, int]]:
    first = [part.residual[0] for part in auxiliary if hasattr(part, "residual")]
    return [(layer.in_channels, layer.out_channels, layer.stride[0]) for layer in first]


def test_auxiliary_networks_are_like_the_chosen_layers():
    # Layers have 2, 2, 2, 4, 4, 8, 8 channels; with depth 2 layers 3 and 6, 4 and 6 ... are chosen.
    model = AugLocal(resnet(depth=14), 3)
    assert [sizes(auxiliary) for auxiliary in model.auxiliaries] == [
        [(2, 4, 2), (4, 8, 2)],
        [(2, 4, 2), (4, 8, 2)],
        [(2, 4, 2), (4, 8, 2)],
        [(4, 4, 1), (4, 8, 2)],
        [(4, 8, 2), (8, 8, 1)],
        [(8, 8, 1)],
    ]
    assert not any(isinstance(part, nn.BatchNorm1d) for part in model.auxiliaries.modules())


def test_of_a_jump_by_four_each_layer_halves_the_map_once():
    last = AugLocal(resnet(depth=14), 3, choose=lambda layer, layers, depth: range(max(layer + 1, 5), 7)).auxiliaries[0]
    assert sizes(last) == [(2, 8, 2), (8, 8, 2)]
    assert last[:2](normal(2, 2, 8, 8).float()).shape == (2, 8, 2, 2)


def test_an_auxiliary_network_written_out():
    block, pool, flat, norm, head = (*local(max_depth=1).double().eval().auxiliaries[0],)
    x = normal(4, 2, 8, 8)
    first, first_norm, _, second, second_norm = block.residual
    hidden = torch.relu(first_norm(F.conv2d(x, first.weight, stride=2, padding=1)))
    hidden = second_norm(F.conv2d(hidden, second.weight, padding=1))
    short, short_norm = block.shortcut
    hidden = torch.relu(hidden + short_norm(F.conv2d(x, short.weight, stride=2)))
    expected = norm(hidden.mean((2, 3))) @ head.weight.T + head.bias
    torch.testing.assert_close(head(norm(flat(pool(block(x))))), expected)


@pytest.mark.parametrize("parts", [None, 2, 3])
def test_scores_and_gradients_are_those_of_a_loop_over_parts(parts):
    model = local(parts=parts).double()
    other = copy.deepcopy(model)
    x, labels = normal(6, 1, 8, 8), torch.arange(6) % 3
    scores = model(x)
    sum(F.cross_entropy(each, labels) for each in scores).backward()
    losses = local_gradients(other.local_parts(), other.local_objectives(), x, labels)
    assert losses.tolist() == [F.cross_entropy(each, labels).item() for each in scores]
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_no_gradient_goes_from_a_part_to_those_before_it():
    model = local()
    parts = model.local_parts()
    assert len(parts) == 4
    for number, scores in enumerate(model(normal(6, 1, 8, 8).float())):
        model.zero_grad()
        scores.square().sum().backward(retain_graph=True)
        reached = [any(p.grad is not None and p.grad.any() for p in part.parameters()) for part in parts]
        assert reached == [at == number for at in range(4)]


def test_parts_share_out_the_layers_in_their_order():
    model = AugLocal(resnet(depth=14), 3, parts=3)
    assert [sum(hasattr(part, "residual") for part in each) for each in model.local_parts()] == [2, 2, 2]
    assert [len(each) for each in model.local_parts()] == [5, 2, 5]
    assert [len(sizes(each)) for each in model.auxiliaries] == [2, 2]
    x = normal(4, 1, 8, 8).float()
    assert torch.equal(nn.Sequential(*model.eval().local_parts())(x), model(x))


@pytest.mark.parametrize(
    "build", [resnet, lambda: ResNet18((1, 8, 8), 3, width=2), lambda: halved(ResNet)((1, 8, 8), 3)]
)
def test_with_one_part_a_network_trains_as_by_back_propagation_bit_for_bit(build):
    plain = build()
    model = AugLocal(copy.deepcopy(plain), 3, parts=1)
    assert not list(model.auxiliaries)
    for trained, scores_of in ((plain, plain), (model, lambda x: model(x)[0])):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            F.cross_entropy(scores_of(normal(6, 1, 8, 8, seed=step).float()), torch.arange(6) % 3).backward()
            optimizer.step()
    assert all(map(torch.equal, plain.state_dict().values(), model.model.state_dict().values()))


def test_less_is_kept_for_backward_passes_than_in_back_propagation():
    x, labels = normal(16, 1, 16, 16).float(), torch.arange(16) % 3

    def kept(**given) -> int:
        model = AugLocal(resnet(depth=26, side=16), 3, **given)
        run = partial(local_gradients, model.local_parts(), model.local_objectives(), x, labels)
        return peak_saved_bytes(run, model.parameters())

    assert kept() < 0.5 * kept(parts=1)


def test_modes_copies_pickles_and_states():
    model = local()
    x = normal(4, 1, 8, 8).float()
    other = AugLocal(resnet(), 3, generator=seeded(9))
    assert not torch.equal(other.auxiliaries[0][-1].weight, model.auxiliaries[0][-1].weight)
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), other, pickle.loads(pickle.dumps(local()))):
        assert all(map(torch.equal, twin(x), copy.deepcopy(model)(x)))
        twin.model.head.weight.data.zero_()
        assert not torch.equal(twin(x)[-1], copy.deepcopy(model)(x)[-1])
    assert model.eval()(x).shape == (4, 3)
    names = [name for name in model.state_dict() if name.startswith("model.")]
    assert [name.removeprefix("model.") for name in names] == list(model.model.state_dict())


def test_depth_1_has_batch_normalization_before_its_linear_layer_and_an_activation_at_two_places_stays():
    assert all(isinstance(each[-2], nn.BatchNorm1d) for each in local(max_depth=1).auxiliaries)
    relu = nn.ReLU()
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), relu, Smooth(2), relu, Smooth(2), relu, nn.Flatten(), nn.Linear(8, 3))
    model = AugLocal(plain, 3)
    assert [len(part) for part in model.local_parts()] == [2, 2, 4]
    x = normal(4, 1, 4, 4).float()
    assert torch.equal(model(x)[-1], plain(x))


def test_the_generator_alone_decides_the_auxiliaries():
    first, second, third = (local(generator=seeded(seed)).auxiliaries.state_dict() for seed in (1, 1, 2))
    assert all(map(torch.equal, first.values(), second.values()))
    assert not all(map(torch.equal, first.values(), third.values()))
    model, state = resnet(), torch.get_rng_state()
    AugLocal(model, 3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)
    weights = AugLocal(resnet(width=16), 3, generator=seeded()).auxiliaries[0][0].residual[0].weight
    assert weights.std().item() == pytest.approx(math.sqrt(2 / (9 * weights.shape[0])), rel=0.05)


def test_frozen_weights_stay_and_no_gradient_is_asked_for():
    model = local()
    model.model.body[0].weight.requires_grad_(False)
    scores = model(normal(4, 1, 8, 8).float())
    sum(each.sum() for each in scores).backward()
    assert model.model.body[0].weight.grad is None
    with torch.no_grad():
        assert not any(each.requires_grad for each in model(normal(4, 1, 8, 8).float()))


def narrowing() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        model = smooth()
        model.insert(2, nn.Conv2d(2, 1, 1))
        model[4] = Smooth(1)
        return model


def shared() -> nn.Module:
    block = Smooth(2)
    return nn.Sequential(nn.Conv2d(1, 2, 1), block, block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: LeNet((1, 8, 8), 3), "must be a chain of residual blocks, .* got LeNet"),
        (lambda: ViT((1, 8, 8), 3, dim=8, depth=1, heads=2), "must be a chain of residual blocks"),
        (shared, "layers that share no weights"),
        (narrowing, "channels do not become fewer, got"),
    ],
)
def test_what_cannot_be_cut_is_refused(build, reason):
    with pytest.raises(InputError, match=reason):
        AugLocal(build(), 3)


class Backwards(nn.Module):
    """Calls its layers in another order than they are registered in."""

    def __init__(self) -> None:
        super().__init__()
        plain = resnet(depth=14)
        self.body, self.head = plain.body, plain.head

    def forward(self, x: Tensor) -> Tensor:
        order = [0, 1, 2, 4, 3, *range(5, len(self.body))]
        for at in order:
            x = self.body[at](x)
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (resnet(), ""),
        (halved(ResNet)((1, 8, 8), 3), ""),
        (LeNet((1, 8, 8), 3), "must be a chain of residual blocks"),
        (Backwards(), "must be called in order"),
        (nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), "must end in a torch.nn.Linear"),
    ],
)
def test_the_recipe_says_where_it_does_not_fit(model, reason):
    data = SimpleNamespace(train=SimpleNamespace(images=normal(3, 1, 8, 8).float()))
    state = copy.deepcopy(model.state_dict())
    assert reason in RECIPE.fits(model, data)
    assert bool(RECIPE.fits(model, data)) is bool(reason)
    assert all(map(torch.equal, state.values(), model.state_dict().values()))


def test_a_network_that_does_more_than_call_its_layers_is_refused_at_the_first_batch():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            plain = resnet()
            self.body, self.head = plain.body, plain.head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body((x - 25) / 3))

    model = AugLocal(Scaled(), 3)
    with pytest.raises(InputError, match="call its layers in order and do nothing else, Scaled does"):
        model(normal(4, 1, 8, 8).float())
