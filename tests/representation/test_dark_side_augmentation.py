"""Dark side augmentation: pooling, losses and anchors by loops, who is translated, and a translator by hand."""

import copy
import itertools
import math
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from paperweight.representation.dark_side_augmentation import (
    GeM,
    NightAugment,
    detector_loss,
    diverse_anchors,
    edge_consistency_loss,
    fit_translator,
    tuple_contrastive_loss,
)
from paperweight.testing import DataTransformSubject, FunctionSubject, LayerSubject, LossSubject


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def darker(images: Tensor) -> Tensor:
    return images / 4


def contrastive(anchors, positives, negatives, margin=0.75):
    total = 0.0
    for anchor, positive, others in zip(anchors, positives, negatives, strict=True):
        total = total + ((anchor - positive) ** 2).sum() / 2
        for other in others:
            distance = ((anchor - other) ** 2).sum().sqrt()
            total = total + torch.relu(margin - distance) ** 2 / 2
    return total / len(anchors)


def scale(weight: float = 1.0, bias: float | None = None) -> nn.Conv2d:
    part = nn.Conv2d(1, 1, 1, bias=bias is not None)
    nn.init.constant_(part.weight, weight)
    if bias is not None:
        nn.init.constant_(part.bias, bias)
    return part


def train(**given):
    with torch.random.fork_rng(devices=[]):
        parts = [given.pop(name, None) or scale(0.5, 0.1) for name in ("translator", "critic", "detector")]
    day, night = normal(5, 1, 3, 3), normal(4, 1, 3, 3, seed=1)
    return fit_translator(*parts, **{"day": day, "night": night, "steps": 4, "generator": seeded(), **given})


ROLES = torch.tensor([-1, 1, 0, 0] * 3)
MAPS = normal(3, 2, 4, 5).abs() + 0.1
EDGES = normal(4, 1, 3, 3)

CONTRACT = {
    "NightAugment": DataTransformSubject(
        make=lambda translate=darker, p=0.5: NightAugment(translate, p),
        range=(0, 1),
        random=True,
        targets=ROLES,
        bad={"translate": (None, 0.5, lambda images: images[:, :, 1:]), "p": (-0.1, 1.1, math.nan, True)},
        null=partial(NightAugment, darker, p=0.0),
        baseline=lambda: lambda images, roles, *, generator: (images, roles),
    ),
    "GeM": LayerSubject(
        make=GeM,
        inputs=(MAPS,),
        shape=(3, 2),
        parameter_count=1,
        bad={"p": (0.0, -1.0, math.nan, math.inf, True), "eps": (0.0, -1.0, math.nan, math.inf, True)},
        null=partial(GeM, p=1.0),
        baseline=lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ),
    "tuple_contrastive_loss": LossSubject(
        make=partial(partial, tuple_contrastive_loss),
        inputs=(normal(4, 3) / 3, normal(4, 3, seed=1) / 3, normal(4, 2, 3, seed=2) / 3),
        slow=contrastive,
        differentiable=(0, 1, 2),
        bad={"margin": (0.0, -1.0, math.nan, math.inf, True)},
    ),
    "edge_consistency_loss": FunctionSubject(
        make=edge_consistency_loss,
        arguments={"edges": EDGES, "translated": EDGES + 1},
        bad={"edges": (EDGES[:2], EDGES[:0]), "translated": (EDGES[:2], EDGES[:0])},
    ),
    "detector_loss": FunctionSubject(
        make=detector_loss,
        arguments={"day": EDGES, "night": EDGES + 1, "target": EDGES - 1},
        bad={"day": (EDGES[:2], EDGES[:0]), "night": (EDGES[:2],), "target": (EDGES[:2],)},
    ),
    "diverse_anchors": FunctionSubject(
        make=lambda **given: diverse_anchors(**{"generator": seeded(), **given}),
        arguments={"z": normal(12, 3), "count": 5},
        bad={
            "z": (normal(12), normal(12, 3) / 0, torch.zeros(0, 3), torch.arange(12)[:, None]),
            "count": (0, 13, 2.0, True),
            "exclude": (-0.1, 0.9, math.nan),
            "include": (0.1, 1.1, math.nan),
        },
    ),
    "fit_translator": FunctionSubject(
        make=train,
        arguments={},
        bad={
            "steps": (0, 1.5, True),
            "batch_size": (0, 1.5, True),
            "edge": (-1.0, math.nan, math.inf, True),
            "lr": (0.0, -1.0, math.nan, math.inf, True),
            "detector_lr": (-1.0, math.nan, math.inf, True),
            "day": (normal(5, 3, 3), normal(0, 1, 3, 3), torch.ones(5, 1, 3, 3, dtype=torch.int64)),
            "night": (normal(5, 2, 3, 3), normal(0, 1, 3, 3)),
            "translator": (nn.Conv2d(1, 1, 2), nn.Flatten()),
        },
    ),
}


def test_anchors_alone_are_translated_each_with_probability_p():
    images, roles = normal(6000, 1, 1, 1).abs() + 1, torch.tensor([-1, 1, 0]).repeat(2000)
    changed, same = NightAugment(darker, 0.25)(images, roles, generator=seeded())
    moved = (changed != images).flatten()
    assert not moved[roles != -1].any()
    assert torch.equal(changed[moved], images[moved] / 4)
    assert abs(moved[roles == -1].double().mean().item() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000)
    assert torch.equal(same, roles)
    everyone, _ = NightAugment(darker, 1.0)(images, roles, generator=seeded())
    assert torch.equal((everyone != images).flatten(), roles == -1)
    empty, _ = NightAugment(darker, 1.0)(images[:0], roles[:0], generator=seeded())
    assert empty.shape == (0, 1, 1, 1)


def test_a_module_translates_in_evaluation_mode_without_a_gradient():
    module = nn.Sequential(scale(0.5), nn.BatchNorm2d(1), nn.Dropout(0.9))
    before = copy.deepcopy(module.state_dict())
    augment = pickle.loads(pickle.dumps(NightAugment(module, 1.0)))
    for night in (NightAugment(module, 1.0), augment):
        images, _ = night(torch.ones(3, 1, 2, 2), torch.tensor([-1, 1, -1]), generator=seeded())
        assert not images.requires_grad
        torch.testing.assert_close(images[[0, 2]], torch.full((2, 1, 2, 2), 0.5 / math.sqrt(1 + 1e-5)))
    assert module.training
    assert all(map(torch.equal, module.state_dict().values(), before.values()))


@pytest.mark.parametrize(
    ("images", "roles"),
    [
        (torch.ones(3, 2, 2), torch.tensor([-1, 1, 0])),
        (torch.ones(3, 1, 2, 2, dtype=torch.uint8), torch.tensor([-1, 1, 0])),
        (torch.ones(3, 1, 2, 2), torch.tensor([-1, 1])),
        (torch.ones(3, 1, 2, 2), torch.tensor([-1, 1, 2])),
        (torch.ones(3, 1, 2, 2), torch.tensor([-1.0, 1.0, 0.0])),
    ],
)
def test_what_are_no_images_with_roles_is_refused(images, roles):
    with pytest.raises(ValueError, match=r"must be"):
        NightAugment(darker)(images, roles, generator=seeded())


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 8.0])
def test_pooling_by_a_loop(p):
    maps = normal(2, 3, 4, 5).double()
    pooled = GeM(p).double()(maps)
    for n, c in itertools.product(range(2), range(3)):
        powers = [max(x, 1e-6) ** p for x in maps[n, c].flatten().tolist()]
        assert pooled[n, c].item() == pytest.approx((sum(powers) / 20) ** (1 / p), rel=1e-6)


def test_pooling_at_1_is_the_mean_and_comes_to_the_maximum_and_takes_any_size():
    maps = MAPS * torch.tensor([1.0, 1e3])[:, None, None]
    torch.testing.assert_close(GeM(1.0)(maps), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(GeM(40.0)(maps), maps.amax(dim=(2, 3)), rtol=0.08, atol=0)
    for large in (torch.full((1, 1, 2, 2), 1e30), torch.full((1, 1, 2, 2), 6e4).half()):
        torch.testing.assert_close(GeM(3.0)(large), large[:, :, 0, 0])
    pool = GeM(3.0)
    pool(torch.zeros(2, 1, 3, 3)).sum().backward()
    assert pool.p.grad.isfinite()
    torch.testing.assert_close(pool(torch.zeros(1, 1, 2, 2)), torch.full((1, 1), 1e-6))
    for bad in (torch.ones(2, 3), torch.ones(0, 1, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="maps must be"):
            pool(bad)


def test_tuples_by_hand_and_what_does_not_fit():
    anchors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    negatives = torch.tensor([[[1.0, 0.0]], [[0.0, 0.5]]])
    loss = tuple_contrastive_loss(anchors, anchors.flip(1), negatives, margin=1.0)
    assert loss.item() == pytest.approx((2 + 1 + 2 + 0.25) / 2 / 2)
    same = anchors.clone().requires_grad_(True)
    tuple_contrastive_loss(same, same, same[:, None]).backward()
    assert same.grad.isfinite().all()
    for bad in ((anchors, anchors[:1], negatives), (anchors, anchors, negatives[:, 0]), (anchors[:0],) * 3):
        with pytest.raises(ValueError, match="must"):
            tuple_contrastive_loss(*bad)
    for bad in ((EDGES, EDGES[:2]), (EDGES[:0], EDGES[:0])):
        with pytest.raises(ValueError, match="one shape"):
            edge_consistency_loss(*bad)


def test_losses_of_edges_by_a_loop():
    day, night, target = EDGES, normal(4, 1, 3, 3, seed=1), normal(4, 1, 3, 3, seed=2)
    rows = list(zip(day.flatten().tolist(), night.flatten().tolist(), target.flatten().tolist(), strict=True))
    assert edge_consistency_loss(day, night).item() == pytest.approx(sum(abs(a - b) for a, b, _ in rows) / 36, rel=1e-5)
    expected = sum(abs(a - c) + abs(b - c) for a, b, c in rows) / 36
    assert detector_loss(day, night, target).item() == pytest.approx(expected, rel=1e-5)


def ranked(z, chosen, left):
    """What is left in the order of its largest cosine with what is chosen, by loops."""
    cosines = {i: max(float(z[i] @ z[j] / z[i].norm() / z[j].norm()) for j in chosen) for i in left}
    return sorted(left, key=cosines.__getitem__)


@pytest.mark.parametrize(("exclude", "include"), [(0.2, 0.8), (0.0, 0.5), (0.5, 1.0), (0.3, 0.3), (1.0, 1.0)])
def test_each_anchor_is_in_the_window_of_ranks(exclude, include):
    z = normal(15, 3, seed=2).double()
    seen = set()
    for seed in range(60):
        chosen = diverse_anchors(z, 15, exclude, include, generator=seeded(seed)).tolist()
        assert sorted(chosen) == list(range(15))
        for k in range(1, 15):
            order = ranked(z, chosen[:k], [i for i in range(15) if i not in chosen[:k]])
            last = max(int(len(order) * (1 - exclude)), 1)
            first = min(int(len(order) * (1 - include)), last - 1)
            assert first <= order.index(chosen[k]) < last
            seen.add((k, order.index(chosen[k]) - first, last - first))
    # Every place of the window of the second anchor comes up.
    window = {(place, width) for k, place, width in seen if k == 1}
    assert {place for place, _ in window} == set(range(next(iter(window))[1]))


def test_the_full_window_draws_uniformly_and_equal_embeddings_are_chosen_once():
    pairs = [tuple(diverse_anchors(normal(4, 2), 2, 0.0, 1.0, generator=seeded(s)).tolist()) for s in range(2400)]
    for pair in itertools.permutations(range(4), 2):
        assert abs(pairs.count(pair) - 200) < 5 * math.sqrt(200)
    assert sorted(diverse_anchors(torch.ones(6, 2), 6, 0.0, 1.0, generator=seeded()).tolist()) == list(range(6))
    longer = normal(9, 3) * torch.arange(1, 10)[:, None]
    assert torch.equal(
        diverse_anchors(longer, 6, generator=seeded()), diverse_anchors(normal(9, 3), 6, generator=seeded())
    )


def test_translated_training_by_the_equations():
    """Repeat the updates with optimizers and losses of its own."""
    torch.manual_seed(3)
    parts = [nn.Conv2d(1, 1, 3, padding=1).double() for _ in range(3)]
    mine = copy.deepcopy(parts)
    day, night = normal(5, 1, 4, 4).double(), normal(6, 1, 4, 4, seed=1).double()
    losses = fit_translator(
        *parts, day, night, steps=6, batch_size=3, edge=5.0, lr=0.02, detector_lr=0.01, generator=seeded(7)
    )
    translator, critic, detector = mine
    frozen, draw = copy.deepcopy(detector), seeded(7)
    adams = [
        torch.optim.Adam(critic.parameters(), betas=(0.5, 0.999)),
        torch.optim.Adam(detector.parameters()),
        torch.optim.Adam(translator.parameters(), betas=(0.5, 0.999)),
    ]
    for step in range(6):
        for adam, lr in zip(adams, (0.02, 0.01, 0.02), strict=True):
            adam.param_groups[0]["lr"] = lr * (1, 1, 1, 1, 2 / 3, 1 / 3)[step]
        real, dark = (x[torch.randint(len(x), (3,), generator=draw)] for x in (day, night))
        with torch.no_grad():
            fake, target = translator(real), frozen(real)
        values = [((critic(dark) - 1) ** 2).mean() / 2 + (critic(fake) ** 2).mean() / 2]
        adams[0].zero_grad()
        values[0].backward()
        adams[0].step()
        values.append((detector(real) - target).abs().mean() + (detector(fake) - target).abs().mean())
        adams[1].zero_grad()
        values[1].backward()
        adams[1].step()
        fake = translator(real)
        values += [((critic(fake) - 1) ** 2).mean(), (detector(fake).sigmoid() - target.sigmoid()).abs().mean()]
        adams[2].zero_grad()
        (values[2] + 5 * values[3]).backward()
        adams[2].step()
        found = [losses.critic[step], losses.detector[step], losses.adversarial[step], losses.edge[step]]
        torch.testing.assert_close(torch.stack(found), torch.stack(values).detach())
    for own, other in zip(parts, mine, strict=True):
        torch.testing.assert_close(own.state_dict(), other.state_dict())
        assert all(weight.grad is None for weight in own.parameters())


def test_a_frozen_detector_stays_and_the_identity_has_no_edge_loss():
    detector = nn.Sequential(scale(0.5, 0.1), nn.Dropout(0.5))
    before = copy.deepcopy(detector.state_dict())
    losses = train(translator=scale().requires_grad_(False), detector=detector, detector_lr=0.0)
    assert not losses.edge.any()
    assert not losses.detector.any()
    assert all(map(torch.equal, detector.state_dict().values(), before.values()))
    assert detector.training
    assert not train(translator=scale(0.7), detector=detector, detector_lr=0.0).detector.any()
    held = scale(0.5, 0.1)
    held.bias.requires_grad_(False)
    train(translator=held, lr=0.1)
    assert held.bias.item() == pytest.approx(0.1)
    assert held.weight.item() != 0.5
