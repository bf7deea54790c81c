"""The momentum auxiliary network against averages by hand, its auxiliary networks written out, and back-propagation."""

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
from paperweight.loops import local_gradients
from paperweight.nets import LeNet, ResNet, ResNet18, halved
from paperweight.studies.training.momentum_auxiliary_network import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject
from paperweight.training.momentum_auxiliary_network import MomentumAuxiliaryNetwork, momentum_average


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def resnet(depth: int = 8, width: int = 2) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ResNet((1, 8, 8), 3, depth=depth, width=width)


def local(**given) -> MomentumAuxiliaryNetwork:
    return MomentumAuxiliaryNetwork(resnet(), **{"classes": 3, "hidden": 5, "generator": seeded(), **given})


# After a block of c channels: a convolution to 2 c channels, its normalization, 5 hidden units and 3 scores.
HEADS = sum(9 * c * 2 * c + 4 * c + 2 * c * 5 + 5 + 15 + 3 for c in (2, 4, 8))
NETWORK = 9 * 2 + 4 + (2 * 36 + 8) + (72 + 144 + 16) + (288 + 576 + 32) + 27
COPIES = (2 * 36 + 8) + (72 + 144 + 16) + (288 + 576 + 32)

CONTRACT = {
    "MomentumAuxiliaryNetwork": LayerSubject(
        make=lambda classes=3, momentum=0.9, parts=None, average=True, bias=True, hidden=5: MomentumAuxiliaryNetwork(
            resnet(), classes, momentum, parts, average, bias, hidden, seeded()
        ),
        inputs=(normal(4, 1, 8, 8).float(),),
        shape=None,
        parameter_count=NETWORK + 2 * COPIES + HEADS,
        bad={
            "classes": (1, 0, 2.5, True),
            "momentum": (-0.1, 1.1, math.nan),
            "parts": (0, 5, 1.5),
            "hidden": (0, 1.5, True),
        },
        null=lambda: MomentumAuxiliaryNetwork(resnet(), classes=3, parts=1),
        baseline=resnet,
        expected_failures={
            "check_gradients": "no gradient goes from a part to those before it, which differences do not know"
        },
    ),
    "momentum_average": FunctionSubject(
        make=momentum_average,
        arguments={"average": normal(3), "weight": normal(3, seed=1), "momentum": 0.9},
        bad={"momentum": (-0.1, 1.1, math.nan), "weight": (torch.zeros(2), torch.zeros(3, 1))},
    ),
}


def test_an_average_by_hand():
    found = momentum_average(torch.tensor([1.0, -2.0]), torch.tensor([5.0, 2.0]), momentum=0.75)
    assert found.tolist() == [2.0, -1.0]
    assert momentum_average(torch.tensor([1.0]), torch.tensor([5.0]), momentum=1.0).item() == 1.0
    assert momentum_average(torch.tensor([1.0]), torch.tensor([5.0]), momentum=0.0).item() == 5.0


def blocks(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.body if hasattr(layer, "residual")]


@pytest.mark.parametrize("by", ["sum", "parts"])
def test_averages_follow_the_layers_over_steps_in_closed_form(by):
    # a_t = mu^t w_0 + (1 - mu) sum over s of mu^(t - s) w_s, w_s being the weight at the beginning of step s.
    mu, model = 0.8, local(momentum=0.8, parts=2).double()
    following = blocks(model.model)[1]
    average = model.auxiliaries[0].copies["average"]
    expected = [p.detach().clone() for p in following.parameters()]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=1e-2)
    parts, losses, labels = model.local_parts(), model.local_objectives(), torch.arange(6) % 3
    for step in range(4):
        x = normal(6, 1, 8, 8, seed=step)
        for mean, weight in zip(expected, following.parameters(), strict=True):
            mean.copy_(mu * mean + (1 - mu) * weight.detach())
        optimizer.zero_grad()
        if by == "sum":
            sum(F.cross_entropy(scores, labels) for scores in model(x)).backward()
        else:
            local_gradients(parts, losses, x, labels)
        optimizer.step()
        for mean, found in zip(expected, average.parameters(), strict=True):
            torch.testing.assert_close(found, mean, rtol=1e-12, atol=1e-14)
            assert found.grad is None
            assert not found.requires_grad
    assert not torch.equal(next(average.parameters()), next(following.parameters()))


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_1_leaves_an_average_and_0_makes_it_the_layer(momentum):
    model = local(momentum=momentum)
    before = [p.clone() for p in model.auxiliaries[0].copies["average"].parameters()]
    with torch.no_grad():
        for p in blocks(model.model)[0].parameters():
            p.add_(1.0)
    model.eval()(normal(4, 1, 8, 8).float())
    assert all(map(torch.equal, model.auxiliaries[0].copies["average"].parameters(), before))
    model.train()(normal(4, 1, 8, 8).float())
    wanted = before if momentum else blocks(model.model)[0].parameters()
    assert all(map(torch.equal, model.auxiliaries[0].copies["average"].parameters(), wanted))


def test_an_auxiliary_network_written_out():
    model = local(parts=2).double()
    auxiliary = copy.deepcopy(model.auxiliaries[0])
    x = normal(4, 1, 8, 8)
    output = copy.deepcopy(model).local_parts()[0](x)
    seen = auxiliary.copies["average"](output) + auxiliary.copies["bias"](output)
    convolution, norm, _, _, _, first, _, second = auxiliary.head
    maps = torch.relu(norm(F.conv2d(seen, convolution.weight, stride=2, padding=1)))
    expected = torch.relu(maps.mean((2, 3)) @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(model(x)[0], expected)


@pytest.mark.parametrize(
    ("average", "bias", "names"),
    [(True, True, ["average", "bias"]), (True, False, ["average"]), (False, True, ["bias"]), (False, False, [])],
)
def test_copies_begin_as_the_first_layer_of_the_next_part(average, bias, names):
    model = local(parts=2, average=average, bias=bias)
    (auxiliary,) = model.auxiliaries
    assert list(auxiliary.copies) == names
    for part in auxiliary.copies.values():
        assert all(map(torch.equal, part.state_dict().values(), blocks(model.model)[1].state_dict().values()))
    assert auxiliary.head[0].in_channels == (4 if names else 2)
    assert [tuple(scores.shape) for scores in model(normal(4, 1, 8, 8).float())] == [(4, 3), (4, 3)]


@pytest.mark.parametrize("parts", [None, 2, 3])
def test_scores_and_gradients_are_those_of_a_loop_over_parts(parts):
    model = local(parts=parts, momentum=0.5).double()
    with torch.no_grad():
        for p in model.model.parameters():
            p.mul_(1.1)
    other = copy.deepcopy(model)
    x, labels = normal(6, 1, 8, 8), torch.arange(6) % 3
    scores = model(x)
    sum(F.cross_entropy(each, labels) for each in scores).backward()
    losses = local_gradients(other.local_parts(), other.local_objectives(), x, labels)
    assert losses.tolist() == [F.cross_entropy(each, labels).item() for each in scores]
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert (p.grad is None) is (q.grad is None) is not p.requires_grad
        assert p.grad is None or torch.equal(p.grad, q.grad)
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))


def test_no_gradient_goes_from_a_part_to_others_but_the_loss_reaches_it_through_the_average():
    model = local(bias=False)
    parts = model.local_parts()
    for number, scores in enumerate(model(normal(6, 1, 8, 8).float())):
        model.zero_grad()
        scores.square().sum().backward(retain_graph=True)
        reached = [any(p.grad is not None and p.grad.any() for p in part.parameters()) for part in parts]
        assert reached == [at == number for at in range(4)]


@pytest.mark.parametrize(
    "build", [resnet, lambda: ResNet18((1, 8, 8), 3, width=2), lambda: halved(ResNet)((1, 8, 8), 3)]
)
def test_with_one_part_a_network_trains_as_by_back_propagation_bit_for_bit(build):
    plain = build()
    model = MomentumAuxiliaryNetwork(copy.deepcopy(plain), 3, parts=1)
    assert not list(model.auxiliaries)
    for trained, scores_of in ((plain, plain), (model, lambda x: model(x)[0])):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            F.cross_entropy(scores_of(normal(6, 1, 8, 8, seed=step).float()), torch.arange(6) % 3).backward()
            optimizer.step()
    assert all(map(torch.equal, plain.state_dict().values(), model.model.state_dict().values()))


def test_the_trained_copy_has_a_gradient_and_objectives_move_no_average_in_eval_mode():
    model, x, labels = local(), normal(6, 1, 8, 8).float(), torch.arange(6) % 3
    sum(F.cross_entropy(scores, labels) for scores in model(x)).backward()
    for auxiliary in model.auxiliaries:
        assert all(p.grad is not None and p.grad.any() for p in auxiliary.copies["bias"].residual[0].parameters())
    with torch.no_grad():
        next(blocks(model.model)[0].parameters()).add_(1.0)
    before = [p.clone() for p in model.auxiliaries[0].copies["average"].parameters()]
    model.eval()
    local_gradients(model.local_parts(), model.local_objectives(), x, labels)
    assert all(map(torch.equal, model.auxiliaries[0].copies["average"].parameters(), before))


def test_modes_copies_pickles_states_and_resuming():
    model = local(momentum=0.5)
    x, labels = normal(4, 1, 8, 8).float(), torch.arange(4) % 3
    other = MomentumAuxiliaryNetwork(resnet(), 3, 0.5, hidden=5, generator=seeded(9))
    assert not torch.equal(other.auxiliaries[0].head[-1].weight, model.auxiliaries[0].head[-1].weight)
    sum(F.cross_entropy(scores, labels) for scores in model(x)).backward()
    other.load_state_dict(model.state_dict())
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), other]
    for _ in range(2):
        with torch.no_grad():
            for twin in (model, *twins):
                twin.model.head.weight.mul_(0.9)
                next(blocks(twin.model)[0].parameters()).add_(0.1)
        expected = model(x)
        assert all(torch.equal(a, b) for twin in twins for a, b in zip(twin(x), expected, strict=True))
    assert model.eval()(x).shape == (4, 3)
    with torch.no_grad():
        assert not any(scores.requires_grad for scores in model.train()(x))


def test_the_generator_alone_decides_the_heads():
    first, second, third = (local(generator=seeded(seed)).auxiliaries.state_dict() for seed in (1, 1, 2))
    assert all(map(torch.equal, first.values(), second.values()))
    assert not all(map(torch.equal, first.values(), third.values()))
    model, state = resnet(), torch.get_rng_state()
    MomentumAuxiliaryNetwork(model, 3, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_no_chain_of_residual_blocks_is_refused_and_the_recipe_says_so():
    with pytest.raises(InputError, match=r"must be a chain of residual blocks, .* got LeNet"):
        MomentumAuxiliaryNetwork(LeNet((1, 8, 8), 3), 3)
    data = SimpleNamespace(train=SimpleNamespace(images=normal(3, 1, 8, 8).float()))
    assert RECIPE.fits(resnet(), data) == ""
    assert RECIPE.fits(halved(ResNet)((1, 8, 8), 3), data) == ""
    assert "must be a chain of residual blocks" in RECIPE.fits(LeNet((1, 8, 8), 3), data)
    assert "must end in a torch.nn.Linear" in RECIPE.fits(nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), data)
    surgery = partial(RECIPE.surgery, resnet())
    assert len(surgery().auxiliaries) == 3


def test_a_network_that_does_more_than_call_its_layers_is_refused_at_the_first_batch():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            plain = resnet()
            self.body, self.head = plain.body, plain.head

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body((x - 25) / 3))

    model = MomentumAuxiliaryNetwork(Scaled(), 3)
    with pytest.raises(InputError, match="call its layers in order and do nothing else, Scaled does"):
        model(normal(4, 1, 8, 8).float())


def test_averages_are_frozen_from_the_beginning_and_again_after_everything_was_unfrozen():
    model = MomentumAuxiliaryNetwork(resnet(), 3)
    averages = [p for name, p in model.named_parameters() if ".average." in name]
    assert averages
    assert not any(p.requires_grad for p in averages)
    model.requires_grad_(True)
    model(normal(4, 1, 8, 8).float())
    assert not any(p.requires_grad for p in averages)
