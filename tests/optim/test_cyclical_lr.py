"""Cyclical learning rates against hand-computed cycles, torch's own CyclicLR and closed forms of a range test."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import ConstantLR, CyclicLR

from paperweight.optim.cyclical_lr import (
    CyclicalLR,
    exp_range,
    lr_range_test,
    suggest_bounds,
    triangular,
    triangular2,
)
from paperweight.testing import FunctionSubject, ScheduleSubject


def line(weight: float = 1.0, rate: float = 0.1, momentum: float = 0.0):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, weight)
    return model, SGD(model.parameters(), lr=rate, momentum=momentum)


def half_square(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch).square().mean() / 2


MODEL, OPTIMIZER = line()
ONE = torch.ones(1, 1, dtype=torch.float64)
BAD_RATES = {"base_lr": (-0.1, math.nan, math.inf, 9.0), "max_lr": (-0.1, math.nan, math.inf, 0.01)}
BAD_CYCLE = {**BAD_RATES, "step_size": (0, -1, 1.5, True)}
BAD_GAMMA = (0.0, -0.5, 1.1, math.nan)
CYCLE = {"base_lr": 0.1, "max_lr": 0.5, "step_size": 4}
POLICIES = {"triangular": triangular, "triangular2": triangular2, "exp_range": exp_range}

CONTRACT = {
    "CyclicalLR": ScheduleSubject(
        make=partial(CyclicalLR, **CYCLE, mode="triangular2"),
        values={0: 0.1, 1: 0.2, 4: 0.5, 6: 0.3, 8: 0.1, 10: 0.2, 12: 0.3},
        bad={**BAD_CYCLE, "gamma": BAD_GAMMA, "mode": ("triangle", "")},
        null=partial(CyclicalLR, base_lr=0.3, max_lr=0.3, step_size=3),
        baseline=lambda optimizer: constant(optimizer, 0.3),
    ),
    **{
        name: FunctionSubject(
            make=policy,
            arguments={"step": 5, **CYCLE},
            bad={**BAD_CYCLE, "step": (-1, 0.5), **({"gamma": BAD_GAMMA} if policy is exp_range else {})},
            null=lambda step, base_lr, max_lr, step_size, policy=policy: policy(step, base_lr, base_lr, step_size),
            baseline=lambda step, base_lr, max_lr, step_size: base_lr,
        )
        for name, policy in POLICIES.items()
    },
    "lr_range_test": FunctionSubject(
        make=lr_range_test,
        arguments={
            "model": MODEL,
            "optimizer": OPTIMIZER,
            "loss": half_square,
            "batches": [ONE],
            "max_lr": 1.0,
            "steps": 8,
            "base_lr": 0.5,
        },
        bad={"base_lr": (-0.1, math.nan, 2.0), "max_lr": (-1.0, math.inf, 0.1), "steps": (0, 1.5), "batches": ([],)},
    ),
    "suggest_bounds": FunctionSubject(
        make=suggest_bounds,
        arguments={"rates": torch.arange(3.0), "losses": torch.tensor([2.0, 1.0, 3.0])},
        bad={
            "rates": (torch.arange(4.0), torch.zeros(3, 1)),
            "losses": (torch.tensor([1.0, math.nan, 0.0]), torch.tensor([1.0, 1.0, 2.0]), torch.zeros(3)),
        },
    ),
}


def constant(optimizer, rate: float) -> ConstantLR:
    for group in optimizer.param_groups:
        group["lr"] = rate
    return ConstantLR(optimizer, factor=1.0)


def walk(schedule, optimizer, steps: int) -> list[float]:
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_hand_computed_cycles():
    cycle = {"base_lr": 1.0, "max_lr": 5.0, "step_size": 2}
    assert [triangular(step, **cycle) for step in range(9)] == [1, 3, 5, 3, 1, 3, 5, 3, 1]
    assert [triangular2(step, **cycle) for step in range(13)] == [1, 3, 5, 3, 1, 2, 3, 2, 1, 1.5, 2, 1.5, 1]
    # Above the lower bound: 2 / 2, 4 / 4, 2 / 8, 0, 2 / 32, 4 / 64, 2 / 128.
    expected = [1, 2, 2, 1.25, 1, 1.0625, 1.0625, 1.015625, 1]
    assert [exp_range(step, **cycle, gamma=0.5) for step in range(9)] == expected


def test_the_paper_cifar_settings():
    rate = partial(triangular, base_lr=0.001, max_lr=0.006, step_size=2000)
    assert [rate(step) for step in (0, 500, 2000, 3000, 4000, 6000)] == pytest.approx(
        [0.001, 0.00225, 0.006, 0.0035, 0.001, 0.006], rel=1e-12
    )


@pytest.mark.parametrize("mode", POLICIES)
@pytest.mark.parametrize("step_size", [1, 3, 7, 100])
@pytest.mark.parametrize("make", [partial(SGD, lr=1.0, momentum=0.9), partial(Adam, lr=1.0)])
def test_equals_torch(mode, step_size, make):
    ours, theirs = (make([torch.zeros(1, requires_grad=True)]) for _ in range(2))
    gamma = 0.99
    rates = walk(CyclicalLR(ours, 0.01, 0.3, step_size, mode=mode, gamma=gamma), ours, 1000)
    rival = CyclicLR(theirs, 0.01, 0.3, step_size_up=step_size, mode=mode, gamma=gamma, cycle_momentum=False)
    assert rates == pytest.approx(walk(rival, theirs, 1000), rel=1e-10)
    options = {"gamma": gamma} if mode == "exp_range" else {}
    assert rates == [POLICIES[mode](step, 0.01, 0.3, step_size, **options) for step in range(1001)]


def test_torch_moves_the_momentum_by_default_and_this_does_not():
    ours, theirs = (SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.85) for _ in range(2))
    rates = walk(CyclicalLR(ours, 0.01, 0.3, 5), ours, 5)
    assert rates == pytest.approx(walk(CyclicLR(theirs, 0.01, 0.3, step_size_up=5), theirs, 5), rel=1e-12)
    assert (ours.param_groups[0]["momentum"], theirs.param_groups[0]["momentum"]) == (0.85, 0.8)


def test_range_test_has_its_closed_form():
    # On w^2 / 2 a step at rate r multiplies w by 1 - r, and the rates are 0, 3/8, 6/8, ...
    model, optimizer = line(weight=3.0)
    rates, losses = lr_range_test(model, optimizer, half_square, [ONE], max_lr=3.0, steps=8)
    assert rates.tolist() == [k * 3 / 8 for k in range(8)]
    weights = [3.0 * math.prod(1 - j * 3 / 8 for j in range(k)) for k in range(8)]
    assert losses.tolist() == pytest.approx([w**2 / 2 for w in weights], rel=1e-12)


class Noisy(nn.Module):
    """A model with dropout, a buffer that training moves, and one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.body(x)


def test_range_test_leaves_model_optimizer_and_random_state_as_they_were():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, batch = Noisy().eval(), (torch.randn(6, 3), torch.tensor([0, 1] * 3))
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)

        def loss(model, batch):
            return nn.functional.cross_entropy(model(batch[0]), batch[1])

        loss(model, batch).backward()
        optimizer.step()
        schedule = CyclicalLR(optimizer, 0.01, 0.1, 5)

        def state():
            tensors = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters())]
            return tensors, optimizer.state_dict(), torch.get_rng_state()

        before = copy.deepcopy((state(), schedule.state_dict()))
        with torch.no_grad():
            rates, losses = lr_range_test(model, optimizer, loss, [batch], max_lr=0.1, steps=20)
        assert len(rates) == 20
        assert losses.unique().numel() == 20  # dropout drew
        torch.testing.assert_close(state(), before[0], rtol=0, atol=0)
        assert schedule.state_dict() == before[1]
        assert not any(module.training for module in model.modules())


def test_range_test_is_a_training_run_with_the_state_of_the_optimizer():
    model, optimizer = line(momentum=0.9)
    for _ in range(3):
        half_square(model, ONE).backward()
        optimizer.step()
    batches = [ONE * (k + 1) for k in range(3)]
    rates, losses = lr_range_test(model, optimizer, half_square, batches, max_lr=0.2, steps=7, base_lr=0.1)
    expected = []
    for k in range(7):
        optimizer.param_groups[0]["lr"] = rates[k].item()
        optimizer.zero_grad()
        value = half_square(model, batches[k % 3])
        value.backward()
        optimizer.step()
        expected.append(value.item())
    assert losses.tolist() == expected


def test_range_test_ends_where_the_loss_is_not_finite():
    model, optimizer = line()
    rates, losses = lr_range_test(model, optimizer, half_square, [ONE], max_lr=1e9, steps=1000)
    assert 2 < len(rates) == len(losses) < 1000
    assert losses.isfinite().all()


def test_used_up_batches_are_reported():
    model, optimizer = line()
    with pytest.raises(ValueError, match="batches must last for all steps"):
        lr_range_test(model, optimizer, half_square, iter([ONE, ONE]), max_lr=1.0, steps=3)


def test_bounds_of_a_broken_line():
    # Flat at 10 to rate 1, down by 10 a unit to 0 at rate 2, up by 30 a unit. An average over w = 0.15 has its minimum
    # where both ends are equally high, from 3 w / 4 before rate 2 on, and it is 3.75 w = 0.5625. Three quarters of the
    # fall from 10 end at 10 - 0.75 * 9.4375 = 2.921875, which the line has at rate 1.7078125.
    rates = torch.linspace(0, 3, 3001, dtype=torch.float64)
    losses = torch.where(rates < 1, 10.0, torch.where(rates < 2, 10 * (2 - rates), 30 * (rates - 2)))
    base, top = suggest_bounds(rates, losses)
    assert top == pytest.approx(1.7078, abs=0.002)
    assert base == top / 4
    shifted = suggest_bounds(rates, 7 * losses - 3)
    assert shifted == (base, top)


def test_bounds_of_noisy_losses_are_near_those_of_smooth_ones():
    rates = torch.linspace(0, 1, 400)
    losses = 2.3 - 2 * torch.sigmoid(20 * (rates - 0.3)) + 30 * (rates - 0.6).clamp(min=0) ** 2
    noise = 0.2 * torch.randn(400, generator=torch.Generator().manual_seed(0))
    assert suggest_bounds(rates, losses + noise) == pytest.approx(suggest_bounds(rates, losses), rel=0.15)
