"""Masks against loops over entries and finite differences, layers against sums of blocks, and the step to a budget."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.architecture.gaudi_gblr import (
    GBLRLinear,
    boxcar_mask,
    budget_penalty,
    gaudi_mask,
    proximal_step,
    structure_linears,
)
from paperweight.nets import MLP, LeNet, ResNet
from paperweight.studies.architecture.gaudi_gblr import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(build, *args: object, **given: object):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(*args, **given)


def stepped(model: nn.Module, threshold: float, budget: float) -> dict[str, Tensor]:
    copied = seeded(GBLRLinear, 6, 4, 5) if isinstance(model, GBLRLinear) else model
    proximal_step(copied, threshold, budget)
    return dict(copied.state_dict())


WIDTHS, STARTS = uniform(3, 2), uniform(3, 2, seed=1)
MASKS = {
    "widths": (WIDTHS[:2], WIDTHS.long()),
    "starts": (STARTS[:2],),
    "n": (0, -1, 2.5, True),
}
NOT_POSITIVE = (0.0, -1.0, math.nan)
LINEAR = seeded(nn.Linear, 40, 32)

CONTRACT = {
    "GBLRLinear": LayerSubject(
        make=lambda in_features=6, out_features=4, rank=5, init_width=0.6, sigma=3.0: GBLRLinear(
            in_features, out_features, rank, init_width=init_width, sigma=sigma
        ),
        inputs=(normal(3, 2, 6).float(),),
        shape=(3, 2, 4),
        parameter_count=5 * (6 + 4 + 4) + 4,
        bad={
            "in_features": (0, -1, 2.5, True),
            "out_features": (0, -1, 2.5),
            "rank": (0, -1, 2.5),
            "init_width": (0.0, -0.1, 1.1, math.nan),
            "sigma": NOT_POSITIVE,
        },
    ),
    "gaudi_mask": FunctionSubject(
        make=gaudi_mask,
        arguments={"widths": WIDTHS, "starts": STARTS, "n": 7, "sigma": 2.0},
        bad={**MASKS, "sigma": NOT_POSITIVE},
    ),
    "boxcar_mask": FunctionSubject(make=boxcar_mask, arguments={"widths": WIDTHS, "starts": STARTS, "n": 7}, bad=MASKS),
    "proximal_step": FunctionSubject(
        make=stepped,
        arguments={"model": seeded(GBLRLinear, 6, 4, 5), "threshold": 0.1, "budget": 0.5},
        bad={"model": (nn.Linear(2, 2),), "threshold": (-0.1, math.nan, math.inf), "budget": NOT_POSITIVE},
    ),
    "budget_penalty": FunctionSubject(
        make=budget_penalty,
        arguments={"model": seeded(GBLRLinear, 6, 4, 5), "budget": 0.5},
        bad={"model": (nn.Linear(2, 2),), "budget": NOT_POSITIVE},
    ),
    "structure_linears": FunctionSubject(
        make=lambda model, start=1.0, sigma=None: dict(
            seeded(structure_linears, model, start, sigma=sigma).state_dict()
        ),
        arguments={"model": nn.Sequential(LINEAR)},
        bad={
            "model": (nn.Linear(40, 31), nn.Conv2d(32, 32, 3), nn.ReLU()),
            "start": (0.0, -1.0, math.nan, math.inf),
            "sigma": NOT_POSITIVE,
        },
    ),
}


@pytest.mark.parametrize("n", [1, 2, 7, 8, 25])
def test_whole_intervals_are_ones_between_zeros(n):
    for first in range(n):
        for count in range(n + 1):
            by_hand = torch.zeros(n, dtype=torch.float64)
            for place in range(first, first + count):
                by_hand[place % n] = 1
            width, start = torch.tensor(count / n, dtype=torch.float64), torch.tensor(first / n, dtype=torch.float64)
            torch.testing.assert_close(gaudi_mask(width, start, n), by_hand, rtol=0, atol=1e-12)
            assert torch.equal(boxcar_mask(width, start, n), by_hand)
            assert torch.equal(boxcar_mask(width, start + 3, n), by_hand)
            assert torch.equal(boxcar_mask(width, start - 2, n), by_hand)


@pytest.mark.parametrize(("n", "sigma"), [(7, None), (8, None), (8, 1.5), (9, 1.5)])
def test_masks_are_sums_of_their_coefficients(n, sigma):
    w, start = 0.41, 0.23
    by_hand = []
    for j in range(n):
        total = 0.0
        for k in range(-((n - 1) // 2), n // 2 + 1):
            sine = math.sin(math.pi * w * k) / math.sin(math.pi * k / n) / n if k else w
            weight = math.exp(-(k**2) / (2 * sigma**2)) if sigma else 1.0
            total += weight * sine * math.cos(2 * math.pi * k * j / n + math.pi * k * (1 / n - w - 2 * start))
        by_hand.append(total)
    found = gaudi_mask(torch.tensor(w, dtype=torch.float64), torch.tensor(start, dtype=torch.float64), n, sigma)
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64), rtol=1e-10, atol=1e-12)


def test_masks_are_whole_in_sum_repeat_with_the_start_and_are_smoother_with_a_small_sigma():
    mask = gaudi_mask(WIDTHS, STARTS, 20, 2.0)
    torch.testing.assert_close(mask.sum(-1), 20 * WIDTHS)
    torch.testing.assert_close(gaudi_mask(WIDTHS, STARTS - 2, 20, 2.0), mask)
    torch.testing.assert_close(gaudi_mask(WIDTHS, STARTS + 0.25, 20, 2.0), mask.roll(5, -1))
    rough = gaudi_mask(WIDTHS, STARTS, 20)
    assert (mask - mask.roll(1, -1)).norm() < (rough - rough.roll(1, -1)).norm() / 2


@pytest.mark.parametrize("n", [7, 8])
def test_gradients_by_width_and_start_are_finite_differences_even_at_width_0(n):
    widths = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    starts = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, s: gaudi_mask(w, s, n, 3.0), (widths, starts))
    (by_width,) = torch.autograd.grad((gaudi_mask(widths, starts, n) * normal(n)).sum(), widths)
    assert by_width[0].abs() > 0.1


def test_a_layer_is_the_sum_of_its_blocks():
    layer = seeded(GBLRLinear, 6, 4, 3, init_width=0.5, sigma=2.0).double()
    x = normal(5, 6)
    for training in (True, False):
        layer.train(training)
        masks = (lambda *given: gaudi_mask(*given, 2.0)) if training else boxcar_mask
        rows, columns = masks(layer.row_widths, layer.row_starts, 4), masks(layer.column_widths, layer.column_starts, 6)
        weight = sum(torch.outer(rows[k] * layer.left[k], columns[k] * layer.right[k]) for k in range(3))
        torch.testing.assert_close(layer(x), x @ weight.T + layer.bias, rtol=1e-10, atol=1e-12)


def test_boxcars_are_rounded_to_the_nearest_entry():
    mask = boxcar_mask(torch.tensor([0.29, 0.21, 0.04]), torch.tensor([0.59, 0.61, 0.5]), 10)
    assert mask.tolist() == [[0] * 6 + [1, 1, 1, 0], [0] * 6 + [1, 1, 0, 0], [0] * 10]


@pytest.mark.parametrize("training", [True, False])
def test_widths_beyond_their_ends_are_as_those_at_the_ends(training):
    layer = seeded(GBLRLinear, 6, 4, 2, init_width=0.5).train(training)
    outputs = []
    for low, high in ((0.0, 1.0), (-0.7, 1.4)):
        with torch.no_grad():
            layer.row_widths.copy_(torch.tensor([high, low]))
            layer.column_widths.copy_(torch.tensor([high, 0.4]))
        outputs.append(layer(normal(3, 6).float()))
    assert torch.equal(*outputs)


def test_with_all_widths_1_it_is_of_low_rank():
    layer = seeded(GBLRLinear, 6, 4, 3).double()
    x = normal(5, 6)
    torch.testing.assert_close(layer(x), x @ layer.right.T @ layer.left + layer.bias)
    assert torch.equal(layer.eval()(x), F.linear(F.linear(x, layer.right), layer.left.T, layer.bias))


def test_multiplications_are_the_entries_that_are_not_0():
    layer = seeded(GBLRLinear, 10, 8, 4, init_width=0.3).eval()
    with torch.no_grad():
        layer.row_widths.copy_(torch.tensor([0.25, 0.0, 1.7, 0.5]))
        layer.column_widths.copy_(torch.tensor([0.3, 0.5, 0.1, -0.2]))
    left, right = layer.factors()
    kept = (left != 0).any(1) & (right != 0).any(1)
    assert layer.multiplications == (2 + 3) + (8 + 1) == ((left[kept] != 0).sum() + (right[kept] != 0).sum()).item()
    assert layer.share.item() == pytest.approx((1.75 * 8 + 0.9 * 10) / 80)


def test_the_weight_starts_with_the_variance_of_a_linear_layer():
    for width in (1.0, 0.5):
        layer = seeded(GBLRLinear, 200, 300, 100, init_width=width).eval()
        left, right = layer.factors()
        plain = nn.Linear(200, 300).weight
        assert (left.T @ right).std().item() == pytest.approx(plain.std().item(), rel=0.15)


def test_the_step_is_the_proximal_map_of_the_penalty():
    layer = seeded(GBLRLinear, 6, 4, 3)
    with torch.no_grad():
        layer.row_widths.copy_(torch.tensor([0.9, 0.05, 1.3]))
    before, columns = layer.row_widths.detach().double().clone(), layer.column_widths.detach().clone()
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    best = torch.stack([grid[((grid - w) ** 2 / 2 + 0.1 * grid).argmin()] for w in before])
    share = proximal_step(layer, 0.1, budget=0.01)
    torch.testing.assert_close(layer.row_widths.double(), best, rtol=0, atol=1e-5)
    torch.testing.assert_close(layer.column_widths, (columns - 0.1))
    assert share == pytest.approx(layer.share.item())


def test_steps_end_at_the_budget_of_all_layers_and_still_clip():
    model = structure_linears(nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 32)))
    for _ in range(200):
        share = proximal_step(model, 0.01, budget=0.3)
    layers = [part for part in model.modules() if isinstance(part, GBLRLinear)]
    total = sum(layer.share.item() * layer.in_features * layer.out_features for layer in layers)
    assert share == pytest.approx(total / (64 * 40 + 40 * 32))
    assert 0.27 < share <= 0.3
    with torch.no_grad():
        layers[0].row_widths[0] = 1.5
        layers[0].row_widths[1] = -0.5
        layers[0].column_widths.zero_()
    proximal_step(model, 0.0, budget=0.3)
    assert layers[0].row_widths[:2].tolist() == [1.0, 0.0]


def test_the_penalty_is_what_is_above_the_budget():
    layer = seeded(GBLRLinear, 6, 4, 5, init_width=0.5)
    share = 5 * 0.5 * (4 + 6) / 24
    assert budget_penalty(layer, 0.4).item() == pytest.approx(share - 0.4)
    assert budget_penalty(layer, 1.1).item() == 0
    budget_penalty(layer, 0.4).backward()
    torch.testing.assert_close(layer.row_widths.grad, torch.full((5,), 1 / 6))


def test_layers_start_as_the_best_approximation_of_their_rank():
    torch.manual_seed(0)
    model = MLP((1, 8, 8), 5, hidden=(40, 48)).eval()
    x = normal(3, 1, 8, 8).float()
    new = structure_linears(model, 0.5)
    found = {name: part for name, part in new.named_modules() if isinstance(part, GBLRLinear)}
    assert {name: part.rank for name, part in found.items()} == {"body.1": 12, "body.3": 11}
    for name, part in found.items():
        weight = model.get_submodule(name).weight
        left, right = part.factors()
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
        torch.testing.assert_close(
            left.T @ right, (u[:, : part.rank] * s[: part.rank]) @ v[: part.rank], atol=1e-5, rtol=1e-4
        )
        assert torch.equal(part.bias, model.get_submodule(name).bias)
    whole = structure_linears(model, 3.0)
    torch.testing.assert_close(whole(x), model(x), rtol=1e-4, atol=1e-5)


def test_what_is_frozen_stays_frozen():
    layer = nn.Linear(40, 40)
    layer.weight.requires_grad_(False)
    new = structure_linears(nn.Sequential(layer))
    assert {name for name, p in new.named_parameters() if p.requires_grad} == {"0.bias"}
    layer.requires_grad_()
    layer.bias.requires_grad_(False)
    new = structure_linears(nn.Sequential(layer))
    assert {name for name, p in new.named_parameters() if not p.requires_grad} == {"0.bias"}


def test_a_choice_is_kept_to_and_what_cannot_be_replaced_is_said():
    model = LeNet((1, 12, 12), 5)
    assert sum(isinstance(part, GBLRLinear) for part in structure_linears(model).modules()) == 2
    chosen = structure_linears(model, replaced=lambda name, layer: name == "head")
    assert [name for name, part in chosen.named_modules() if isinstance(part, GBLRLinear)] == ["head"]
    attention = structure_linears(nn.ModuleList([nn.MultiheadAttention(32, 2), nn.Linear(32, 32)]))
    assert [name for name, part in attention.named_modules() if isinstance(part, GBLRLinear)] == ["1"]
    with pytest.raises(ValueError, match="model must hold a linear layer of at least 32"):
        structure_linears(ResNet((1, 8, 8), 3, width=4))


def test_structure_is_found_by_gradients():
    # a block of ones in a matrix of zeros; from a wider block elsewhere, width and start are learned
    target = torch.zeros(20, 20)
    target[4:10, 8:14] = 1
    torch.manual_seed(0)
    layer = GBLRLinear(20, 20, 1, bias=False, init_width=0.6, sigma=2.0)
    with torch.no_grad():
        layer.row_starts.fill_(0.1)
        layer.column_starts.fill_(0.3)
        layer.left.fill_(0.5)
        layer.right.fill_(0.5)
    structure = [layer.row_widths, layer.column_widths, layer.row_starts, layer.column_starts]
    optimizer = torch.optim.Adam([layer.left, layer.right, *structure], lr=0.01)
    for step in range(400):
        layer.sigma = 2.0 if step < 200 else 10.0
        optimizer.zero_grad()
        (layer(torch.eye(20)) - target.T).square().sum().backward()
        optimizer.step()
        proximal_step(layer, 0.001, budget=0.03)
    assert (layer.eval()(torch.eye(20)).T - target).square().sum() < 0.02 * target.square().sum()
    assert layer.multiplications < 18


def test_frozen_widths_do_not_shrink_and_a_network_that_reads_weights_does_not_fit():
    layer = GBLRLinear(8, 8, rank=4)
    layer.row_widths.requires_grad_(False)
    proximal_step(layer, 0.25, budget=0.1)
    assert (layer.row_widths == 1).all()
    assert (layer.column_widths == 0.75).all()
    data = SimpleNamespace(train=SimpleNamespace(images=torch.zeros(2, 5, 32)))
    model = nn.Sequential(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), nn.Flatten(), nn.Linear(160, 3))
    assert "must call its linear layers" in RECIPE.fits(model, data)
