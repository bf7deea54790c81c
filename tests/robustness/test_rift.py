"""RiFT: criticality in closed form and by another search, mixtures to the bit, and what fine-tuning leaves alone."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.attacks import ProjectedGradient
from paperweight.nets import MLP, LeNet
from paperweight.robustness.rift import critical_fine_tuning, interpolated, module_criticality, projected
from paperweight.testing import ExperimentSubject, FunctionSubject


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(hidden=(24, 16)):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLP((1, 3, 3), 3, hidden=hidden)
    with torch.no_grad():  # random features tell more of the images then
        model.body[1].weight.mul_(4)
        model.body[1].bias.sub_(model.body[1].weight.sum(dim=1) / 2)
    return model


IMAGES = torch.rand(40, 1, 3, 3, generator=seeded())
LABELS = IMAGES.flatten(1)[:, :3].argmax(dim=1)
ATTACK = ProjectedGradient(radius=0.05, steps=2)
STATES = {"first": network().state_dict(), "second": {n: t + 1 for n, t in network().state_dict().items()}}
TUNING = {
    "model": network(),
    "images": IMAGES,
    "labels": LABELS,
    "validation_images": IMAGES[:20],
    "validation_labels": LABELS[:20],
    "module": "body.3",
    "attack": ATTACK,
    "lr": 0.3,
    "epochs": 4,
    "batch_size": 16,
    "tolerance": 1.0,
}

CONTRACT = {
    "module_criticality": ExperimentSubject(
        make=module_criticality,
        arguments={"model": network(), "attacked": IMAGES, "labels": LABELS},
        fields=("body.1", "body.3", "head"),
        known=(({"lam": 0.0}, {"body.1": 0.0, "body.3": 0.0, "head": 0.0}),),
        random=False,
        bad={
            "lam": (-0.1, math.nan, math.inf, True),
            "steps": (0, 1.5, True),
            "attacked": (IMAGES[:0], IMAGES[:3]),
            "labels": (LABELS[:3], LABELS.float(), LABELS[:, None]),
            "model": (nn.Flatten(),),
        },
    ),
    "critical_fine_tuning": ExperimentSubject(
        make=critical_fine_tuning,
        arguments=TUNING,
        fields=("module", "share", "state", "shares", "accuracy", "under_attack"),
        known=(({"lr": 0.0}, {"share": 0.0, "state": dict(network().state_dict())}),),
        bad={
            "images": (IMAGES[:0], IMAGES[:3]),
            "labels": (LABELS.float(),),
            "validation_images": (IMAGES[:0], IMAGES[:3]),
            "module": ("body.9", "body.2"),
            "lr": (-0.1, math.nan, math.inf, True),
            "epochs": (0, 1.5, True),
            "batch_size": (0, 1.5, True),
            "momentum": (-0.1, math.nan),
            "weight_decay": (-0.1, math.nan),
            "tolerance": (-0.1, math.nan, math.inf),
        },
    ),
    "interpolated": FunctionSubject(
        make=interpolated,
        arguments={**STATES, "share": 0.3},
        bad={
            "share": (-0.1, 1.1, math.nan, True),
            "second": ({}, {**STATES["second"], "more": torch.zeros(1)}, network((6, 4)).state_dict()),
        },
        null=lambda first, second, share: interpolated(first, second, 0.0),
        baseline=lambda first, second, share: dict(first),
    ),
}


@pytest.mark.parametrize(("lam", "scale"), [(0.05, 1.0), (0.3, 4.0)])
def test_criticality_of_one_layer_and_one_image_in_closed_form(lam, scale):
    # The margin of two classes rises by (D_1 - D_0) x, at most sqrt(2) |D| |x|.
    weight, image = (
        scale * torch.randn(2, 5, generator=seeded(1)).double(),
        torch.rand(1, 5, generator=seeded(2)).double(),
    )
    model = nn.Sequential(nn.Linear(5, 2)).double()
    model[0].weight.data.copy_(weight)
    margin = (model(image)[0, 1] - model(image)[0, 0]).item()
    most = margin + math.sqrt(2) * lam * weight.norm().item() * image.norm().item()
    expected = math.log1p(math.exp(most)) - math.log1p(math.exp(margin))
    found = module_criticality(model, image, torch.tensor([0]), lam=lam)
    assert found["0"] == pytest.approx(expected, rel=1e-9)


def slow_rise(model, name, lam, seeds):
    """Look for the largest loss by Adam on the sphere, from several random changes."""
    weight = dict(model.named_parameters())[f"{name}.weight"].detach().clone()
    radius, best = lam * weight.norm(), -math.inf
    other = copy.deepcopy(model)
    for seed in range(seeds):
        change = torch.randn(weight.shape, generator=seeded(seed), dtype=weight.dtype).requires_grad_()

        def loss(change=change):
            state = {f"{name}.weight": weight + radius * change / change.norm()}
            return F.cross_entropy(torch.func.functional_call(other, state, (IMAGES.double(),)), LABELS)

        optimizer = torch.optim.Adam([change], lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            (-loss()).backward()
            optimizer.step()
        best = max(best, loss().item())
    return best - F.cross_entropy(model(IMAGES.double()), LABELS).item()


def test_criticality_is_what_another_search_finds():
    model = network().double().eval()
    found = module_criticality(model, IMAGES.double(), LABELS)
    long = module_criticality(model, IMAGES.double(), LABELS, steps=100)
    for name in found:
        assert found[name] == pytest.approx(long[name], rel=0.02)
        assert long[name] == pytest.approx(slow_rise(model, name, 0.1, seeds=3), rel=0.03)
    assert len(set(found.values())) == 3


def test_criticality_grows_with_the_radius_and_is_never_below_0():
    rises = [module_criticality(network(), IMAGES, LABELS, lam=lam, steps=5) for lam in (0.0, 0.01, 0.1, 0.3)]
    for name in rises[0]:
        values = [rise[name] for rise in rises]
        assert values[0] == 0
        assert values == sorted(set(values))
    # Where each weight is 0, or the loss is flat, nothing rises.
    flat = network()
    nn.init.zeros_(flat.head.weight)
    assert module_criticality(flat, IMAGES, LABELS)["body.1"] == 0
    assert module_criticality(flat, IMAGES, LABELS)["head"] == 0


def test_criticality_does_not_depend_on_the_order_or_on_how_images_are_split(monkeypatch):
    whole = module_criticality(network().double(), IMAGES.double(), LABELS)
    monkeypatch.setattr("paperweight.robustness.rift._BATCH", 7)
    order = torch.randperm(40, generator=seeded())
    split = module_criticality(network().double(), IMAGES[order].double(), LABELS[order])
    assert split == pytest.approx(whole, rel=1e-9)


def test_convolutions_count_and_batch_normalization_is_left_as_it_is():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3)
        )
        lenet = LeNet((1, 8, 8), 3)
    before = copy.deepcopy(model.state_dict())
    model.train()
    assert list(module_criticality(model, IMAGES, LABELS)) == ["0", "4"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(module_criticality(lenet, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), steps=1)) == 5


def test_projection_by_hand():
    change = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(projected(change, 1.0), torch.tensor([[0.6, 0.8]]))
    assert torch.equal(projected(change, 6.0), change)
    assert torch.equal(projected(torch.zeros(2), 1.0), torch.zeros(2))


def test_mixtures_are_the_states_themselves_at_both_ends_and_between_by_hand():
    first = {"w": torch.tensor([0.1, 0.7]), "n": torch.tensor(3)}
    second = {"w": torch.tensor([0.3, -1e8]), "n": torch.tensor(5)}
    for share, expected in ((0.0, first), (1.0, second)):
        found = interpolated(first, second, share)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert found["w"].data_ptr() != expected["w"].data_ptr()
    found = interpolated({"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([3.0, -8.0])}, 0.25)
    assert torch.equal(found["w"], torch.tensor([1.5, -2.0]))
    assert interpolated(first, second, 0.5)["n"] == 3


def test_only_the_named_layer_changes_and_the_model_stays():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(18, 3)
        )
    model.train()
    before = copy.deepcopy(model.state_dict())
    found = critical_fine_tuning(**TUNING | {"model": model, "module": "4"}, generator=seeded())
    assert found.share > 0
    changed = {name for name, tensor in found.state.items() if not torch.equal(tensor, before[name])}
    assert changed == {"4.weight", "4.bias"}
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    everything = critical_fine_tuning(**TUNING | {"module": ""}, generator=seeded())
    assert all(not torch.equal(everything.state[name], tensor) for name, tensor in network().state_dict().items())


def by_hand(model, module, epochs, lr, batch_size):
    """Give the states after each epoch, by a loop of its own."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.get_submodule(module).parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    source, states = seeded(), []
    for epoch in range(epochs):
        if epoch == math.ceil(epochs / 2):
            optimizer.param_groups[0]["lr"] = lr / 10
        for index in torch.randperm(len(IMAGES), generator=source).split(batch_size):
            model.zero_grad()
            F.cross_entropy(model(IMAGES[index]), LABELS[index]).backward()
            optimizer.step()
        states.append(copy.deepcopy(model.state_dict()))
    return states


@pytest.mark.parametrize(("lr", "epochs"), [(0.3, 5), (0.1, 6)])  # the best epoch is not the last, and is the last
def test_it_is_a_hand_written_loop_and_keeps_the_best_epoch(lr, epochs):
    states = by_hand(network(), "body.3", epochs, lr, 16)
    found = critical_fine_tuning(**TUNING | {"lr": lr, "epochs": epochs}, generator=seeded())
    model, accuracies = network(), []
    for state in states:
        model.load_state_dict(state)
        accuracies.append((model(IMAGES[:20]).argmax(1) == LABELS[:20]).double().mean().item())
    best = states[accuracies.index(max(accuracies))]
    assert found.shares == [number / 10 for number in range(11)]
    for share, accuracy, under_attack in zip(found.shares, found.accuracy, found.under_attack, strict=True):
        model.load_state_dict(interpolated(network().state_dict(), best, share))
        source = seeded()
        for _ in range(epochs):
            torch.randperm(40, generator=source)
        changed = ATTACK(model, IMAGES[:20], LABELS[:20], generator=source)
        assert accuracy == (model(IMAGES[:20]).argmax(1) == LABELS[:20]).double().mean().item()
        assert under_attack == (model(changed).argmax(1) == LABELS[:20]).double().mean().item()
    chosen = max(range(11), key=lambda number: (found.accuracy[number], -number))
    assert found.share == found.shares[chosen] > 0
    expected = interpolated(network().state_dict(), best, found.share)
    for name, tensor in found.state.items():
        torch.testing.assert_close(tensor, expected[name])


def test_a_mixture_may_lose_no_more_under_attack_than_is_allowed():
    strong = ProjectedGradient(radius=0.3, steps=5)
    robust = network((32,))
    optimizer = torch.optim.Adam(robust.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        changed = strong(robust, IMAGES, LABELS, generator=seeded())
        F.cross_entropy(robust(changed), LABELS).backward()
        optimizer.step()
    arguments = TUNING | {"model": robust, "module": "", "lr": 0.3, "epochs": 12, "attack": strong}
    arguments |= {"validation_images": IMAGES, "validation_labels": LABELS}
    found = {
        tolerance: critical_fine_tuning(**arguments | {"tolerance": tolerance}, generator=seeded())
        for tolerance in (0.0, 0.1, 1.0)
    }
    accuracies = []
    for tolerance, each in found.items():
        number = each.shares.index(each.share)
        assert each.under_attack[number] >= each.under_attack[0] - tolerance
        accuracies.append(each.accuracy[number])
    assert min(found[0.0].under_attack) < found[0.0].under_attack[0] - 0.1
    assert accuracies == sorted(accuracies)
    assert found[0.0].share < found[0.1].share < found[1.0].share


def test_it_works_where_gradients_are_off_and_in_double_precision():
    arguments = TUNING | {"model": network().double(), "images": IMAGES.double()}
    arguments["validation_images"] = IMAGES[:20].double()
    with torch.no_grad():
        found = critical_fine_tuning(**arguments, generator=seeded())
        rises = module_criticality(arguments["model"], IMAGES.double(), LABELS)
    assert found.state["head.weight"].dtype == torch.float64
    assert min(rises.values()) > 0
