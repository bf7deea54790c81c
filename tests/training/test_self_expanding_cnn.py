"""Self-expansion against a loop over samples, closed forms of the score, and networks before and after they grow."""

import copy
import math
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import LeNet, ResNet
from paperweight.studies.training._deepened import Deepened
from paperweight.studies.training.self_expanding_cnn import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject, TrainingProcedureSubject
from paperweight.training.self_expanding_cnn import (
    Expansion,
    SelfExpandingCNN,
    SelfExpansion,
    natural_expansion_score,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(channels: tuple[int, ...] = (2, 3), side: int = 4, classes: int = 3) -> SelfExpandingCNN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SelfExpandingCNN((1, side, side), classes, channels)


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


class Plain:
    """Passes of shuffled batches of nearly equal size, written out."""

    def __init__(self, model, data, *, generator):
        self.model, self.data, self.generator = model, data, generator
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def step(self):
        inputs, labels = self.data
        self.model.train()
        for index in torch.randperm(len(inputs), generator=self.generator).tensor_split(4):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(inputs[index]), labels[index]).backward()
            self.optimizer.step()

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict): ...


def made(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator, **given) -> SelfExpansion:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    arguments = {"inputs": data[0], "labels": data[1], "tau": 0.0, "cooldown": 2, "scored": 8, "batch_size": 8}
    arguments |= {"damping": 1e-12, "noise": 0.1}
    return SelfExpansion(model, optimizer, generator=generator, **{**arguments, **given})


CONTRACT = {
    "SelfExpansion": TrainingProcedureSubject(
        make=made,
        # The samples of a score are side by side under torch.func.vmap, which looks like one; four candidates a time.
        evaluations=lambda training: 32 * training.epoch + 5 * len(training.expanded),
        random=True,
        advance=lambda training, data, number: training.step(),
        model=network,
        bad={
            "tau": (-0.1, math.nan, math.inf),
            "lam": (-0.1, math.nan, math.inf),
            "extra": (0, 1.5, True),
            "capacity": (0, 1.5),
            "cooldown": (0, 1.5),
            "noise": (-0.1, math.nan, math.inf),
            "damping": (0.0, -1.0, math.nan, math.inf),
            "scored": (0, 1.5),
            "batch_size": (0, 2.0),
            "labels": (torch.zeros(3, dtype=torch.int64),),
            "inputs": (torch.zeros(0, 1, 4, 4),),
        },
        null=partial(made, cooldown=1_000_000_000),
        baseline=Plain,
    ),
    "SelfExpandingCNN": LayerSubject(
        make=lambda shape=(1, 4, 4), classes=3, channels=(2, 3): SelfExpandingCNN(shape, classes, channels),
        inputs=(normal(4, 1, 4, 4).float(),),
        shape=(4, 3),
        parameter_count=(18 + 2 + 4) + (54 + 3 + 6) + (15 + 3) + (9 + 3),
        bad={
            "shape": ((0, 4, 4), (1, 2.5, 4)),
            "classes": (0, 1.5),
            "channels": ((), (0,), (2, 1.5)),
        },
    ),
    "natural_expansion_score": FunctionSubject(
        make=natural_expansion_score,
        arguments={"model": small(), "inputs": normal(5, 1, 2, 2).float(), "labels": torch.arange(5) % 2},
        bad={
            "damping": (0.0, -1e-5, math.nan, math.inf),
            "inputs": (torch.zeros(0, 1, 2, 2),),
            "labels": (torch.zeros(3, dtype=torch.int64),),
        },
    ),
}


@pytest.mark.parametrize("damping", [1e-5, 0.3])
def test_the_score_by_a_loop_over_samples(damping):
    model, x, labels = network().double(), normal(7, 1, 4, 4), torch.arange(7) % 3
    model(x)  # so that running statistics are not those to begin with
    model.eval()
    gradients = []
    for one, label in zip(x, labels, strict=True):
        loss = F.cross_entropy(model(one[None]), label[None])
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))]))
    stacked = torch.stack(gradients)
    expected = (stacked.mean(0) ** 2 / (stacked.square().mean(0) + damping)).sum().item()
    model.train()
    state = copy.deepcopy(model.state_dict())
    assert natural_expansion_score(model, x, labels, damping) == pytest.approx(expected, rel=1e-10)
    assert model.training
    assert all(map(torch.equal, state.values(), model.state_dict().values()))
    assert all(p.grad is None for p in model.parameters())


class One(nn.Module):
    """Logits (v, w x) with v frozen at 0, of which the gradient by w is x (p - y) with p = sigmoid(w x)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.0, dtype=torch.float64))
        self.v = nn.Parameter(torch.tensor(0.0, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.v + torch.zeros_like(x), self.w * x], dim=1)


def test_of_one_parameter_the_score_is_the_square_of_the_mean_over_the_mean_of_squares():
    # With w = 0 the gradients are x / 2 for label 0 and -x / 2 for label 1: 1, -2 and 3 for these.
    x, labels = torch.tensor([[2.0], [4.0], [6.0]], dtype=torch.float64), torch.tensor([0, 1, 0])
    expected = (2 / 3) ** 2 / (14 / 3 + 1e-9)
    assert natural_expansion_score(One(), x, labels, 1e-9) == pytest.approx(expected, rel=1e-12)
    assert natural_expansion_score(One(), x[:1], labels[:1], 1e-9) == pytest.approx(1.0, rel=1e-8)


EXPANSIONS = [Expansion(kind, block) for kind in ("layer", "channels") for block in range(3)]


@pytest.mark.parametrize("expansion", EXPANSIONS)
@pytest.mark.parametrize("channels", [(2, 3, 4), (3, 2, 2)])
def test_an_expansion_without_noise_leaves_the_logits(expansion, channels):
    model = network(channels, side=9).double()
    x = normal(5, 1, 9, 9)
    model(x)
    model.eval()
    before, parameters = model(x), sum(p.numel() for p in model.parameters())
    for _ in range(2):
        model.expand(expansion, extra=3, noise=0.0)
        torch.testing.assert_close(model(x), before, rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in model.parameters()) > parameters
    model.train()(x).sum().backward()


def test_what_is_added_by_hand():
    model = network((2, 3), side=4)
    first, second = model.blocks
    old = first.conv.weight.clone(), second.conv.weight.clone(), model.mix.weight.clone(), first.norm.weight.clone()
    model.expand(Expansion("layer", 0), noise=0.0)
    assert torch.equal(first.added[0].weight[:, :, 0, 0], torch.eye(2))
    model.expand(Expansion("channels", 0), extra=2, noise=0.5, generator=seeded())
    assert first.conv.weight.shape == (4, 1, 3, 3)
    assert first.added[0].weight.shape == (4, 4, 1, 1)
    assert second.conv.weight.shape == (3, 4, 3, 3)
    assert model.mix.weight.shape == (3, 7, 1, 1)
    assert torch.equal(first.conv.weight[:2], old[0])
    assert torch.equal(second.conv.weight[:, :2], old[1])
    assert torch.equal(model.mix.weight[:, :2], old[2][:, :2])
    assert torch.equal(model.mix.weight[:, 4:], old[2][:, 2:])
    assert torch.equal(first.norm.weight, torch.cat([old[3], torch.ones(2)]))
    assert torch.equal(first.conv.bias[2:], torch.zeros(2))
    assert (first.norm.running_mean[2:].tolist(), first.norm.running_var[2:].tolist()) == ([0.0, 0.0], [1.0, 1.0])
    assert (first.norm.num_features, first.conv.out_channels, second.conv.in_channels) == (4, 4, 4)
    noise = torch.cat([first.conv.weight[2:].flatten(), second.conv.weight[:, 2:].flatten()])
    assert 0.3 < noise.std() < 0.7
    model.expand(Expansion("channels", 1), extra=1, noise=0.0)
    assert model.mix.weight.shape == (3, 8, 1, 1)
    assert not model.mix.weight[:, 7].any()
    with pytest.raises(ValueError, match="expansion must name a block of 2"):
        model.expand(Expansion("channels", 2))
    with pytest.raises(ValueError, match="extra must be a whole number"):
        model.expand(Expansion("channels", 0), extra=0)
    with pytest.raises(ValueError, match="noise must be finite"):
        model.expand(Expansion("channels", 0), noise=-1.0)


def test_a_network_of_one_block_has_its_channels_beside_themselves():
    model = network((2,), side=4).double().eval()
    x = normal(3, 1, 4, 4)
    before, old = model(x), model.mix.weight.clone()
    model.expand(Expansion("channels", 0), extra=1, noise=0.0)
    torch.testing.assert_close(model(x), before)
    assert torch.equal(model.mix.weight[:, [0, 1, 3, 4]], old)


def test_candidates_are_channels_everywhere_and_layers_up_to_the_capacity():
    model = network((2, 2))
    assert len(model.expansions(capacity=2)) == 4
    model.expand(Expansion("layer", 1))
    assert model.expansions(capacity=2) == [Expansion("layer", 0), Expansion("channels", 0), Expansion("channels", 1)]


def test_a_network_takes_up_the_state_of_one_that_has_grown_also_inside_another():
    model = network()
    for expansion in (Expansion("layer", 0), Expansion("channels", 0), Expansion("channels", 1), Expansion("layer", 0)):
        model.expand(expansion, noise=0.1, generator=seeded())
    x = normal(4, 1, 4, 4).float()
    model(x)
    for twin in (network(), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.load_state_dict(model.state_dict())
        assert torch.equal(twin.eval()(x), copy.deepcopy(model).eval()(x))
    outer = nn.Sequential(network())
    outer.load_state_dict(nn.Sequential(model).state_dict())
    assert torch.equal(outer.eval()(x), model.eval()(x))
    half = network().to(torch.bfloat16)
    half.expand(Expansion("layer", 0))
    half.expand(Expansion("channels", 0))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


DATA = normal(32, 1, 4, 4, seed=1).float(), torch.arange(32) % 3


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_optimizer_goes_on_with_zeros_for_what_is_new(optimizer):
    model = network()
    make = {"sgd": partial(torch.optim.SGD, momentum=0.9), "adam": torch.optim.Adam}[optimizer]
    training = made(model, DATA, generator=seeded())
    training.optimizer = make(model.parameters(), lr=0.01)
    training.step()
    name = "momentum_buffer" if optimizer == "sgd" else "exp_avg_sq"
    old = {key: training.optimizer.state[p][name].clone() for key, p in model.named_parameters()}
    training._expand(model, Expansion("channels", 0))
    for key, p in model.named_parameters():
        state = training.optimizer.state[p][name]
        assert state.shape == p.shape
        assert state.sum().item() == pytest.approx(old[key].sum().item(), rel=1e-5)
    assert torch.equal(training.optimizer.state[model.mix.weight][name][:, 4:], old["mix.weight"][:, 2:])
    assert not training.optimizer.state[model.mix.weight][name][:, 2:4].any()
    training._expand(model, Expansion("layer", 1))
    held = training.optimizer.param_groups[0]["params"]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    before = [p.detach().clone() for p in model.parameters()]
    training.step()
    for (key, p), q in zip(model.named_parameters(), before, strict=True):
        assert key.endswith("conv.bias") or not torch.equal(p, q)  # batch normalization makes that bias idle


def scores(training: SelfExpansion) -> dict[Expansion, float]:
    """Score each candidate as the paper has it, on the samples and with the noise that are due."""
    generator = copy.deepcopy(training.generator)
    index = torch.randperm(32, generator=generator)[: training.scored]
    state, found = generator.get_state(), {}
    for candidate in training.model.expansions(training.capacity):
        generator.set_state(state)
        larger = copy.deepcopy(training.model)
        larger.expand(candidate, training.extra, training.noise, generator)
        new = sum(p.numel() for p in larger.parameters()) - sum(p.numel() for p in training.model.parameters())
        score = natural_expansion_score(larger, training.inputs[index], training.labels[index], training.damping)
        found[candidate] = score * math.exp(-training.lam * new**2)
    present = natural_expansion_score(training.model, training.inputs[index], training.labels[index], training.damping)
    return {candidate: score / present for candidate, score in found.items()}


@pytest.mark.parametrize("lam", [0.0, 1e-3, 10.0])
def test_the_best_candidate_is_chosen_where_it_raises_the_score_by_the_factor(lam):
    training = made(network(), DATA, generator=seeded(), lam=lam, damping=1e-12, noise=0.1)
    training.step()
    ratios = scores(training)
    best = max(ratios, key=ratios.__getitem__)
    for tau, wanted in ((0.0, best), (0.99 * ratios[best], best), (1.01 * ratios[best], None)):
        again = made(copy.deepcopy(training.model), DATA, generator=copy.deepcopy(training.generator), lam=lam)
        again.tau, again.damping, again.noise = tau, 1e-12, 0.1
        assert again.choose() == wanted


def test_expansions_wait_for_the_cooldown_and_the_network_that_is_kept_is_the_one_that_was_scored():
    training = made(network(), DATA, generator=seeded(), cooldown=3, noise=0.1)
    sizes = []
    for _ in range(8):
        training.step()
        sizes.append(sum(p.numel() for p in training.model.parameters()))
    assert [epoch for epoch, _ in training.expanded] == [3, 6]
    assert sizes[0] == sizes[2] < sizes[3] == sizes[5] < sizes[6]
    training = made(network(), DATA, generator=seeded(), noise=0.1)
    draws, expected = copy.deepcopy(training.generator), copy.deepcopy(training.model)
    torch.randperm(32, generator=draws)
    found = training.choose()
    expected.expand(found, training.extra, 0.1, draws)
    training._expand(training.model, found)
    assert all(map(torch.equal, expected.state_dict().values(), training.model.state_dict().values()))


def test_an_optimizer_of_other_parameters_is_refused():
    model = network()
    for groups in ([{"params": [p]} for p in model.parameters()], [next(model.parameters())]):
        optimizer = torch.optim.SGD(groups, lr=0.1)
        with pytest.raises(ValueError, match="optimizer must hold the parameters of the model"):
            SelfExpansion(model, optimizer, *DATA, generator=seeded())


def test_frozen_weights_stay_frozen_as_they_grow():
    model = network()
    model.mix.weight.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    training = SelfExpansion(model, optimizer, *DATA, tau=0.0, cooldown=1, scored=8, batch_size=8, generator=seeded())
    training._expand(model, Expansion("channels", 0))
    assert not model.mix.weight.requires_grad
    before = model.mix.weight.clone()
    training.step()
    assert torch.equal(model.mix.weight[:, -1], before[:, -1])


class Branching(nn.Module):
    """Asks what its input holds."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 3, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.convolution(x if x.sum().item() > 0 else -x).flatten(1)


@pytest.mark.parametrize("build", [LeNet, ResNet])
def test_the_recipe_deepens_any_network_with_convolutions_and_says_where_there_are_none(build):
    torch.manual_seed(0)
    plain = build((1, 8, 8), 3)
    data = SimpleNamespace(train=SimpleNamespace(images=normal(3, 1, 8, 8).float(), labels=torch.arange(3)))
    assert RECIPE.fits(plain, data) == ""
    assert "must hold a module of type Conv2d" in RECIPE.fits(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), data)
    assert "branch on no value" in RECIPE.fits(Branching(), data)
    model = Deepened(plain).eval()
    x = normal(4, 1, 8, 8).float()
    before = plain.eval()(x)
    for expansion in model.expansions(capacity=2):
        model.expand(expansion, 2, 0.0, seeded())
    torch.testing.assert_close(model(x), before)
    assert model.expansions(capacity=2) == []
    assert len(model.expansions(capacity=3)) == sum(isinstance(part, nn.Conv2d) for part in plain.modules())


def test_state_is_refused_where_the_optimizer_was_made_before_the_model_was_loaded():
    draw = torch.Generator().manual_seed(0)
    data = torch.rand(20, 1, 4, 4, generator=draw), torch.arange(20) % 2

    def made(model: SelfExpandingCNN) -> SelfExpansion:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return SelfExpansion(model, optimizer, *data, tau=0.0, cooldown=1, generator=torch.Generator().manual_seed(1))

    grown = made(SelfExpandingCNN((1, 4, 4), 2, channels=(2,)))
    for _ in range(2):
        grown.step()
    assert grown.expanded
    early = made(SelfExpandingCNN((1, 4, 4), 2, channels=(2,)))
    early.model.load_state_dict(grown.model.state_dict())
    with pytest.raises(ValueError, match="make it after the model has been loaded"):
        early.load_state_dict(grown.state_dict())
    late = SelfExpandingCNN((1, 4, 4), 2, channels=(2,))
    late.load_state_dict(grown.model.state_dict())
    resumed = made(late)
    resumed.load_state_dict(copy.deepcopy(grown.state_dict()))
    assert torch.equal(resumed.step(), grown.step())
    assert all(map(torch.equal, resumed.model.state_dict().values(), grown.model.state_dict().values()))
