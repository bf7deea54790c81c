"""Noise as targets: assignments against all permutations, a pass written out, and features of any classifier."""

import copy
import itertools
import math
import pickle
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.nets import MLP, LeNet, ResNet, ViT
from paperweight.representation.noise_as_targets import NoiseAsTargets, assign_targets, nat_loss, noise_targets
from paperweight.studies.representation._last_linear import Features, last_linear
from paperweight.studies.representation.noise_as_targets import RECIPE
from paperweight.testing import FunctionSubject, TrainingProcedureSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


INPUTS = normal(24, 4)
TARGETS = noise_targets(24, 3, generator=seeded(1))


def made(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator, **given) -> NoiseAsTargets:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    arguments = {"inputs": data[0], "targets": TARGETS, "reassign_every": 3, "batch_size": 8}
    return NoiseAsTargets(model, optimizer, generator=generator, **{**arguments, **given})


class Regression:
    """Regression on fixed vectors in shuffled batches, written out."""

    def __init__(self, model, data, *, generator):
        self.model, self.data, self.generator = model, data, generator
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(self):
        for index in torch.randperm(24, generator=self.generator).split(8):
            self.optimizer.zero_grad()
            apart = F.normalize(self.model(self.data[0][index])) - TARGETS[index].to(self.data[0])
            (apart.square().sum(dim=1).mean() / 2).backward()
            self.optimizer.step()

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict): ...


def least_loss(model: nn.Module, data: tuple[Tensor, ...]) -> Tensor:
    features = model(data[0])
    return nat_loss(features, TARGETS[assign_targets(features, TARGETS)])


CONTRACT = {
    "NoiseAsTargets": TrainingProcedureSubject(
        make=made,
        evaluations=8 * 24,
        random=True,
        advance=lambda training, data, number: training.step(),
        model=network,
        data=(INPUTS,),
        loss=least_loss,
        bad={
            "reassign_every": (-1, 1.5, True),
            "batch_size": (0, 1.5, True),
            "inputs": (torch.zeros(0, 4),),
            "targets": (TARGETS[:5], TARGETS[:, 0], TARGETS * math.nan, TARGETS[:, :2]),
        },
        null=partial(made, reassign_every=0),
        baseline=Regression,
    ),
    "noise_targets": FunctionSubject(
        make=lambda count, dim, seed=0: noise_targets(count, dim, generator=seeded(seed)),
        arguments={"count": 4, "dim": 3},
        bad={"count": (0, 1.5, True), "dim": (1, 0, 2.5, True)},
    ),
    "nat_loss": FunctionSubject(
        make=nat_loss,
        arguments={"features": normal(5, 3), "targets": TARGETS[:5]},
        bad={"features": (normal(5), normal(4, 3), normal(5, 2)), "targets": (TARGETS[0], TARGETS[:0])},
    ),
    "assign_targets": FunctionSubject(
        make=assign_targets,
        arguments={"features": normal(5, 3), "targets": TARGETS[:5]},
        bad={
            "features": (normal(5), normal(4, 3), normal(5, 3) * math.nan, normal(5, 3) / 0),
            "targets": (TARGETS[0], TARGETS[:0], TARGETS[:5] * math.inf),
        },
    ),
}


def test_targets_are_uniform_on_the_sphere():
    drawn = noise_targets(20_000, 3, generator=seeded())
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(20_000))
    # On the sphere in three dimensions each coordinate is uniform on [-1, 1] (Archimedes).
    for column in drawn.T:
        apart = (column.sort().values - torch.linspace(-1, 1, 20_000)).abs().max()
        assert apart < 0.04
    torch.testing.assert_close(drawn.T @ drawn / 20_000, torch.eye(3) / 3, atol=0.01, rtol=0)


def test_the_loss_by_a_loop_and_at_its_ends():
    features, targets = normal(6, 3, seed=2).double(), TARGETS[:6].double()
    total = 0.0
    for f, c in zip(features.tolist(), targets.tolist(), strict=True):
        length = math.hypot(*f)
        total += sum((a / length - b) ** 2 for a, b in zip(f, c, strict=True))
    assert nat_loss(features, targets).item() == pytest.approx(total / 12, rel=1e-12)
    cosines = torch.cosine_similarity(features, targets)
    assert nat_loss(features, targets).item() == pytest.approx(1 - cosines.mean().item(), rel=1e-6)
    assert nat_loss(7 * targets, targets).item() == pytest.approx(0, abs=1e-12)
    assert nat_loss(-targets, targets).item() == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_permutation_has_a_lower_loss_than_the_one_that_is_found(seed):
    # Lengths differ widely, so that an assignment of features that are not normalised would be another.
    features = (normal(5, 3, seed=seed) * torch.tensor([0.1, 1.0, 5.0, 20.0, 100.0])[:, None]).double()
    targets = TARGETS[:5].double()
    losses = {each: nat_loss(features, targets[list(each)]).item() for each in itertools.permutations(range(5))}
    found = tuple(assign_targets(features, targets).tolist())
    assert losses[found] == min(losses.values())
    assert assign_targets(features[:1], targets[:1]).tolist() == [0]


@pytest.mark.parametrize("reassign_every", [1, 3])
def test_passes_written_out(reassign_every):
    training = made(network(), (INPUTS,), generator=seeded(5), reassign_every=reassign_every)
    model, draws, held = network(), seeded(5), list(range(24))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number in range(5):
        losses = []
        for index in torch.randperm(24, generator=draws).split(8):
            features = F.normalize(model(INPUTS[index]))
            if number % reassign_every == 0:
                owners, vectors = index.tolist(), [held[i] for i in index.tolist()]
                chosen = assign_targets(features, TARGETS[vectors]).tolist()
                for owner, place in zip(owners, chosen, strict=True):
                    held[owner] = vectors[place]
            loss = (features - TARGETS[[held[i] for i in index.tolist()]]).square().sum() / 16
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        before = training.assignment.clone()
        assert training.step().item() == pytest.approx(sum(losses) / 3, rel=1e-5)
        assert training.assignment.tolist() == held
        assert torch.equal(before, training.assignment) is (number % reassign_every != 0)
    for p, q in zip(training.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert training.epoch == 5


def test_vectors_stay_one_an_input_and_a_reassignment_lowers_the_loss():
    training = made(network(), (INPUTS,), generator=seeded(), reassign_every=1, batch_size=5)
    training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.0)
    losses = [training.step().item() for _ in range(10)]
    assert sorted(training.assignment.tolist()) == list(range(24))
    assert losses[-1] < losses[0]
    features = training.model(INPUTS)
    last = nat_loss(features, TARGETS[training.assignment])
    assert last < nat_loss(features, TARGETS)
    training.batch_size = 24
    training.step()
    assert nat_loss(features, TARGETS[training.assignment]) <= last
    torch.testing.assert_close(least_loss(training.model, (INPUTS,)), nat_loss(features, TARGETS[training.assignment]))


def test_with_batches_of_one_nothing_changes_hands():
    training = made(network(), (INPUTS,), generator=seeded(), reassign_every=1, batch_size=1)
    training.step()
    assert training.assignment.tolist() == list(range(24))


def test_views_are_what_the_model_sees_and_draw_from_the_generator():
    seen = []

    def view(batch: Tensor, generator: torch.Generator) -> Tensor:
        return batch + torch.randn(batch.shape, generator=generator)

    inputs, training = INPUTS.clone(), made(network(), (INPUTS,), generator=seeded(3), view=view, batch_size=24)
    training.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    draws = seeded(3)
    for _ in range(2):
        training.step()
        expected = INPUTS[torch.randperm(24, generator=draws)] + torch.randn(24, 4, generator=draws)
        assert torch.equal(seen.pop(), expected)
    assert torch.equal(inputs, INPUTS)


def test_a_divergence_shows_in_the_loss_and_leaves_the_assignment():
    training = made(network(), (INPUTS,), generator=seeded())
    training.model[0].weight.data.fill_(math.nan)
    assert training.step().isnan()
    assert training.assignment.tolist() == list(range(24))


def test_training_goes_on_from_a_copy_and_another_number_of_inputs_is_refused():
    training = made(network(), (INPUTS,), generator=seeded(), reassign_every=2)
    training.step()
    state = pickle.loads(pickle.dumps(training.state_dict()))
    twin = copy.deepcopy(training)
    again = made(copy.deepcopy(training.model), (INPUTS,), generator=seeded(9), reassign_every=2)
    again.targets = noise_targets(24, 3, generator=seeded(8))
    again.load_state_dict(state)
    for _ in range(3):
        loss = training.step()
        assert torch.equal(loss, twin.step())
        assert torch.equal(loss, again.step())
    assert not torch.equal(state["assignment"], training.assignment)
    with pytest.raises(ValueError, match="state_dict must be of 5 inputs"):
        made(network(), (INPUTS[:5],), generator=seeded(), targets=TARGETS[:5]).load_state_dict(state)
    wide = made(network(), (INPUTS,), generator=seeded(), targets=noise_targets(24, 4, generator=seeded()))
    with pytest.raises(ValueError, match="features and targets must have one shape"):
        wide.step()


def test_a_saved_state_stays_as_it_was_and_the_model_is_trained_in_train_mode():
    training = made(network().eval(), (INPUTS,), generator=seeded(), reassign_every=1)
    state = training.state_dict()
    kept = state["assignment"].clone()
    training.step()
    assert training.model.training
    assert not torch.equal(training.assignment, kept)
    assert torch.equal(state["assignment"], kept)


def test_half_precision_and_frozen_parameters():
    model = network().bfloat16()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    training = made(model, (INPUTS.bfloat16(),), generator=seeded(), reassign_every=1)
    assert training.step().dtype == torch.bfloat16
    assert sorted(training.assignment.tolist()) == list(range(24))
    assert torch.equal(model[0].weight, before)


class Doubled(nn.Module):
    """Logits that are twice what a linear layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.head(self.body(x.flatten(1)).relu())


class Tied(nn.Module):
    """One linear layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.head(self.body(x.flatten(1))).relu())


def frozen() -> nn.Module:
    model = MLP((1, 8, 8), 3)
    model.body.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: LeNet((1, 8, 8), 3), ""),
        (lambda: MLP((1, 8, 8), 3), ""),
        (lambda: ResNet((1, 8, 8), 3), ""),
        (lambda: ViT((1, 8, 8), 3), ""),
        (Tied, ""),
        (Doubled, "must be what a linear layer"),
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), "must be what a linear layer"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "trained before its last linear layer"),
        (frozen, "trained before its last linear layer"),
    ],
)
def test_the_recipe_changes_what_is_before_the_last_linear_layer_alone_where_it_fits(build, reason):
    torch.manual_seed(0)
    model = build()
    images = normal(30, 1, 8, 8)
    data = SimpleNamespace(train=SimpleNamespace(images=images))
    before = copy.deepcopy(model.state_dict())
    assert reason in RECIPE.fits(model, data)
    assert bool(RECIPE.fits(model, data)) is bool(reason)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    if not reason:
        state = torch.get_rng_state()
        RECIPE.pretraining(model, images, 10, seeded())
        assert torch.equal(state, torch.get_rng_state())
        last = last_linear(model, images[:2])
        for name, module in model.named_modules():
            assert not module._forward_pre_hooks, name
            assert not module._forward_hooks, name
        own = {id(p) for p in last.parameters()}
        for name, p in model.named_parameters():
            assert p.grad is None
            assert torch.equal(p, before[name]) is (id(p) in own and build is not Tied), name


def test_features_are_what_the_last_layer_sees():
    torch.manual_seed(0)
    model = LeNet((1, 8, 8), 3)
    images = normal(4, 1, 8, 8)
    assert last_linear(model, images) is model.head
    assert torch.equal(Features(model, model.head)(images), model.body(images))


def test_the_recipe_keeps_classes_apart_that_are_apart():
    # Without labels, features of images of two kinds become more unlike each other than at the start.
    torch.manual_seed(0)
    model, wide = MLP((1, 1, 6), 2, hidden=(16,)), normal(200, 1, 1, 6)
    before = copy.deepcopy(model)
    RECIPE.pretraining(model, wide, 200, seeded())

    def spread(each: nn.Module) -> float:
        codes = F.normalize(Features(each, each.head)(wide))
        return (codes @ codes.T).mean().item()

    assert spread(model) < spread(before)
