"""The behaviour of the contrastive loss: losses by loops, gradients as the paper derives them, limits, measures."""

import copy
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import nt_xent
from paperweight.nets import MLP, LeNet, ResNet, ViT
from paperweight.representation import contrastive_behaviour
from paperweight.representation.contrastive_behaviour import (
    hard_contrastive_loss,
    penalty_distribution,
    simple_contrastive_loss,
    tolerance,
    uniformity,
)
from paperweight.studies import Setting, classification
from paperweight.studies.representation._last_linear import Features, last_linear
from paperweight.studies.representation._two_views import view
from paperweight.studies.representation.contrastive_behaviour import RECIPE, _random
from paperweight.testing import FunctionSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


VIEWS = {"first": normal(5, 3), "second": normal(5, 3, seed=1)}
BAD_VIEWS = {
    "first": (normal(5), normal(4, 3), normal(5, 2), normal(0, 3)),
    "second": (normal(5), normal(4, 3), normal(0, 3)),
    "share": (0.0, -0.1, 1.1, math.nan, math.inf),
}
BAD_FEATURES = (normal(6), normal(0, 3), normal(1, 3), torch.ones(4, 3, dtype=torch.int64), normal(6, 4) * math.nan)
FEATURES, LABELS = normal(6, 4), torch.tensor([0, 1, 2, 0, 1, 1])

CONTRACT = {
    "penalty_distribution": FunctionSubject(
        make=penalty_distribution,
        arguments={"cosines": normal(2, 5).tanh(), "temperature": 0.2},
        bad={
            "cosines": (torch.tensor(1.0), normal(2, 0), torch.arange(3)),
            "temperature": (0.0, -1.0, math.nan, math.inf),
        },
    ),
    "hard_contrastive_loss": FunctionSubject(
        make=hard_contrastive_loss,
        arguments=VIEWS,
        bad=BAD_VIEWS | {"temperature": (0.0, -1.0, math.nan, math.inf)},
        null=partial(hard_contrastive_loss, share=1.0),
        baseline=partial(nt_xent, temperature=1.0),
    ),
    "simple_contrastive_loss": FunctionSubject(
        make=simple_contrastive_loss, arguments=VIEWS, bad=BAD_VIEWS | {"weight": (-1.0, math.nan, math.inf)}
    ),
    "uniformity": FunctionSubject(
        make=uniformity,
        arguments={"features": FEATURES},
        bad={"features": BAD_FEATURES, "scale": (0.0, -1.0, math.nan, math.inf)},
    ),
    "tolerance": FunctionSubject(
        make=tolerance,
        arguments={"features": FEATURES, "labels": LABELS},
        bad={"features": BAD_FEATURES, "labels": (LABELS[:4], LABELS.float(), LABELS - 1, LABELS > 0)},
    ),
}


def by_loop(first: Tensor, second: Tensor, share: float, combine) -> float:
    """Combine, for each view, the cosine with its twin and those with its hardest negatives."""
    views = [view / view.norm() for view in torch.cat([first, second])]
    size, total = len(views), 0.0
    for i, anchor in enumerate(views):
        twin = (i + size // 2) % size
        negatives = sorted((float(anchor @ views[j]) for j in range(size) if j not in (i, twin)), reverse=True)
        total += combine(float(anchor @ views[twin]), negatives[: math.ceil(share * len(negatives))])
    return total / size


@pytest.mark.parametrize("share", [0.01, 0.25, 0.3, 0.75, 1.0])
def test_losses_by_loops(share):
    first, second = normal(5, 3, seed=3).double(), normal(5, 3, seed=4).double()

    def contrast(twin: float, negatives: list[float]) -> float:
        scores = [math.exp(s / 0.2) for s in negatives]
        return -math.log(math.exp(twin / 0.2) / (math.exp(twin / 0.2) + sum(scores)))

    def simple(twin: float, negatives: list[float]) -> float:
        return -twin + 0.7 * sum(negatives) / len(negatives)

    expected = by_loop(first, second, share, contrast)
    assert hard_contrastive_loss(first, second, 0.2, share).item() == pytest.approx(expected, rel=1e-9)
    expected = by_loop(first, second, share, simple)
    assert simple_contrastive_loss(first, second, 0.7, share).item() == pytest.approx(expected, rel=1e-9)


def test_with_all_negatives_value_and_gradient_are_those_of_simclr_bit_for_bit():
    for dtype in (torch.float32, torch.bfloat16):
        found = []
        for loss in (partial(hard_contrastive_loss, share=1.0), nt_xent):
            first, second = (normal(6, 4, seed=seed).to(dtype).requires_grad_(True) for seed in (1, 2))
            value = loss(first, second, temperature=0.1)
            value.backward()
            found.append((value, first.grad, second.grad))
        assert all(map(torch.equal, *found))


def test_gradients_by_cosines_are_what_the_paper_derives():
    # The gradient by the twin's cosine is minus the sum of those by the negatives' (equations 4 and 5), which are
    # shared as the relative penalty says.
    t, cosines = 0.3, normal(7, seed=5).double().tanh().requires_grad_(True)
    loss = -(cosines[0] / t - (cosines / t).logsumexp(dim=0))
    (gradient,) = torch.autograd.grad(loss, cosines)
    torch.testing.assert_close(gradient[0], -gradient[1:].sum())
    torch.testing.assert_close(gradient[1:] / gradient[1:].sum(), penalty_distribution(cosines[1:], t))


def test_penalties_at_both_ends_of_the_temperature():
    cosines = torch.tensor([[0.2, 0.9, -0.5, 0.8], [0.1, 0.0, 0.3, -1.0]])
    cold, hot = penalty_distribution(cosines, 1e-3), penalty_distribution(cosines, 1e6)
    torch.testing.assert_close(cold, torch.eye(4)[[1, 2]])
    torch.testing.assert_close(hot, torch.full((2, 4), 0.25))
    entropies = [
        torch.special.entr(penalty_distribution(cosines, t)).sum(dim=1).mean().item() for t in (0.05, 0.2, 1.0, 5.0)
    ]
    assert entropies == sorted(entropies)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_at_a_huge_temperature_the_gradient_is_that_of_the_simple_loss(share):
    first, second = (normal(5, 3, seed=seed).double().requires_grad_(True) for seed in (1, 2))
    hot, kept = 1e7, math.ceil(share * 8)
    found = torch.autograd.grad(hard_contrastive_loss(first, second, hot, share), (first, second))
    expected = torch.autograd.grad(simple_contrastive_loss(first, second, 1.0, share), (first, second))
    for g, e in zip(found, expected, strict=True):
        torch.testing.assert_close(g * hot * (1 + kept) / kept, e, rtol=1e-5, atol=1e-8)


def test_a_cold_loss_is_a_triplet_with_the_hardest_negative():
    first, second = normal(6, 3, seed=1).double(), normal(6, 3, seed=2).double()
    expected = by_loop(first, second, 1.0, lambda twin, negatives: max(0.0, negatives[0] - twin))
    for share in (0.1, 1.0):
        assert 1e-4 * hard_contrastive_loss(first, second, 1e-4, share).item() == pytest.approx(expected, rel=1e-3)


def test_negatives_that_are_dropped_have_no_gradient_and_equal_ones_are_kept_together():
    first = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.1]], requires_grad=True)
    second = first.detach().clone()
    value = hard_contrastive_loss(first, second, 1.0, 0.25)
    # The hardest of each view's four negatives are two views of one image, which are alike.
    cosines = F.normalize(first.detach()) @ F.normalize(first.detach()).T
    hardest = [max(float(cosines[i, j]) for j in range(3) if j != i) for i in range(3)]
    expected = sum(math.log(1 + 2 * math.exp(h - 1)) for h in hardest) / 3
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value = simple_contrastive_loss(first, second, 1.0, 0.25)
    assert value.item() == pytest.approx(sum(hardest) / 3 - 1, rel=1e-5)
    # The third image is nobody's hardest negative, and its own is the second.
    codes = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-0.6, 0.8]], requires_grad=True)
    others = codes.detach() @ torch.tensor([[0.9, 0.1], [-0.1, 0.9]])

    def cosines_used(share: float) -> Tensor:
        (gradient,) = torch.autograd.grad(simple_contrastive_loss(codes, others, 1.0, share), codes)
        return gradient

    assert not torch.allclose(cosines_used(0.25), cosines_used(1.0))


def test_extremes_are_finite():
    assert hard_contrastive_loss(normal(1, 3), normal(1, 3, seed=1), 0.1, 0.1).item() == 0
    one = simple_contrastive_loss(normal(1, 3), 2 * normal(1, 3))
    assert one.item() == pytest.approx(-1)
    for loss in (hard_contrastive_loss, simple_contrastive_loss):
        for scale in (0.0, 1e-30, 1e18):
            x = (scale * normal(4, 3)).requires_grad_(True)
            value = loss(x, x.detach(), share=0.3)
            value.backward()
            assert value.isfinite()
            assert x.grad.isfinite().all()
        kept = normal(4, 3)
        loss(kept, kept, share=0.3)
        assert torch.equal(kept, normal(4, 3))


def test_measures_by_loops_in_parts(monkeypatch):
    monkeypatch.setattr(contrastive_behaviour, "_ENTRIES", 100)
    features, labels = normal(40, 5, seed=6).double() * 7, torch.arange(40) % 4
    codes = [each / each.norm() for each in features]
    pairs = [(i, j) for i in range(40) for j in range(40) if i != j]
    near = [math.exp(-3 * float((codes[i] - codes[j]).square().sum())) for i, j in pairs]
    assert uniformity(features, 3.0) == pytest.approx(-math.log(sum(near) / len(near)), rel=1e-9)
    same = [float(codes[i] @ codes[j]) for i, j in pairs if labels[i] == labels[j]]
    assert tolerance(features, labels) == pytest.approx(sum(same) / len(same), rel=1e-9)


def test_measures_at_their_ends():
    equal = torch.full((5, 3), 0.3)
    assert uniformity(equal) == pytest.approx(0, abs=1e-12)
    assert tolerance(equal, torch.zeros(5, dtype=torch.int64)) == pytest.approx(1)
    assert tolerance(-3 * equal, torch.zeros(5, dtype=torch.uint8)) == pytest.approx(1)
    assert math.isnan(tolerance(equal, torch.arange(5)))
    # On the circle E exp(-2 ||x - y||^2) is exp(-4) I0(4).
    drawn = normal(3_000, 2, seed=7)
    exact = 4 - math.log(torch.special.i0(torch.tensor(4.0)).item())
    assert uniformity(drawn) == pytest.approx(exact, abs=0.02)
    assert uniformity(drawn.abs()) < uniformity(drawn)
    assert uniformity(torch.cat([torch.zeros(1, 2), drawn])) == pytest.approx(exact, abs=0.02)


def test_measures_leave_gradients_alone():
    features = normal(6, 4).requires_grad_(True)
    assert uniformity(features) == uniformity(features.detach())
    assert tolerance(features, LABELS) == tolerance(features.detach(), LABELS)


def test_the_control_draws_as_many_negatives_at_random():
    first, second = normal(20, 6), normal(20, 6, seed=1)
    draws = torch.Generator().manual_seed(0)
    full = _random(0.5, draws, first, second, share=1.0)
    torch.testing.assert_close(full, nt_xent(first, second, 0.5))
    some = [_random(0.5, draws, first, second, share=0.3).item() for _ in range(30)]
    assert len(set(some)) == 30
    hard = hard_contrastive_loss(first, second, 0.5, 0.3).item()
    assert max(some) < hard < full.item()
    # Of 38 negatives 12 are kept: the mean sum of their exponentials is 12 / 38 of the sum of all.
    equal = torch.ones(20, 2)
    assert _random(1.0, draws, equal, equal, share=0.3).item() == pytest.approx(math.log(13), rel=1e-5)


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
        (lambda: nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten()), "must be what a linear layer"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "trained before its last linear layer"),
        (frozen, "trained before its last linear layer"),
    ],
)
def test_the_recipe_trains_what_is_before_the_last_linear_layer_alone_where_it_fits(build, reason):
    torch.manual_seed(0)
    model, images = build(), normal(30, 1, 8, 8)
    data = SimpleNamespace(train=SimpleNamespace(images=images))
    before = copy.deepcopy(model.state_dict())
    found = RECIPE.fits(model, data)
    assert reason in found
    assert bool(found) is bool(reason)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    if not reason:
        state = torch.get_rng_state()
        RECIPE.pretraining(model, images, 10, torch.Generator().manual_seed(0))
        assert torch.equal(state, torch.get_rng_state())
        own = {id(p) for p in last_linear(model, images[:2]).parameters()}
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        for name, p in model.named_parameters():
            assert p.grad is None
            assert torch.equal(p, before[name]) is (id(p) in own), name


def test_the_recipe_tells_images_apart():
    torch.manual_seed(0)
    sizes = (200, 20, 20)
    digits = classification(Setting(study="example", seed=0, budget="smoke"), smoke=sizes, desk=sizes, gpu=sizes)
    model, images = LeNet((1, 8, 8), 10), digits.train.images
    before = copy.deepcopy(model)
    RECIPE.pretraining(model, images, 200, torch.Generator().manual_seed(0))
    first, second = (view(images, torch.Generator().manual_seed(seed)) for seed in (1, 2))

    def found(each: nn.Module) -> float:
        """Give the share of images of whose other views their own is the most similar."""
        features = Features(each, each.head)
        cosines = F.normalize(features(first)) @ F.normalize(features(second)).T
        return (cosines.argmax(dim=1) == torch.arange(200)).double().mean().item()

    assert found(model) > 2 * found(before)
