"""Slow start, fast decay against values by hand, a recursion of factors, and torch's own schedules."""

import copy
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, ExponentialLR

from paperweight.attacks import ProjectedGradient
from paperweight.loops import evaluate_classifier, fit_classifier, fit_robust
from paperweight.robustness.adversarial_finetune_schedule import SlowStartFastDecay, slow_start_fast_decay
from paperweight.testing import FunctionSubject, ScheduleSubject
from paperweight.testing.classifiers import toy_images

BAD = {
    "steps": (0, -1, 2.0, True),
    "base_lr": (0.0, -0.1, math.nan, math.inf, True),
    "max_lr": (1e-6, math.nan, math.inf, True),
    "warm": (0.0, 1.0, -0.1, math.nan, True),
}


def constant(optimizer):
    """A constant rate of 0.1, whatever the optimizer was made with."""
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    return ConstantLR(optimizer, factor=1.0)


CONTRACT = {
    "SlowStartFastDecay": ScheduleSubject(
        make=partial(SlowStartFastDecay, steps=12, base_lr=0.01, max_lr=1.0, warm=1 / 3),
        values={0: 0.01, 2: 0.505, 4: 1.0, 8: 0.1, 12: 0.01},
        bad=BAD,
        null=partial(SlowStartFastDecay, steps=12, base_lr=0.1, max_lr=0.1),
        baseline=constant,
    ),
    "slow_start_fast_decay": FunctionSubject(
        make=slow_start_fast_decay,
        arguments={"step": 3, "steps": 12},
        bad={"step": (-1, 2.0, True), **BAD},
    ),
}


@pytest.mark.parametrize(("steps", "warm"), [(10, 0.5), (100, 0.3), (7, 0.9), (1, 0.5), (40, 0.05)])
def test_it_starts_and_ends_at_the_base_meets_the_most_and_is_monotone_before_and_after(steps, warm):
    rates = [slow_start_fast_decay(step, steps, 0.002, 0.4, warm) for step in range(steps + 1)]
    assert rates[0] == 0.002
    assert rates[-1] == pytest.approx(0.002)
    assert all(0.002 <= rate <= 0.4 or rate == pytest.approx(0.002) for rate in rates)
    top = rates.index(max(rates))
    assert abs(top - warm * steps) < 1
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert slow_start_fast_decay(10 * steps, steps, 0.002, 0.4, warm) == pytest.approx(0.002)


def test_the_most_is_met_where_the_share_is_a_whole_number_of_steps():
    for steps, warm in ((8, 0.25), (10, 0.5), (20, 0.75)):
        assert slow_start_fast_decay(round(warm * steps), steps, 0.001, 0.3, warm) == pytest.approx(0.3)


def test_the_parts_are_torchs_cosine_backwards_and_its_exponential():
    falling = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    cosine = CosineAnnealingLR(falling, T_max=20, eta_min=0.004)
    expected = []
    for _ in range(21):
        expected.append(falling.param_groups[0]["lr"])
        falling.step()
        cosine.step()
    rates = [slow_start_fast_decay(step, 50, 0.004, 0.5, warm=0.4) for step in range(51)]
    assert rates[:21] == pytest.approx(expected[::-1])

    decaying = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    exponential = ExponentialLR(decaying, gamma=(0.004 / 0.5) ** (1 / 30))
    expected = []
    for _ in range(31):
        expected.append(decaying.param_groups[0]["lr"])
        decaying.step()
        exponential.step()
    assert rates[20:] == pytest.approx(expected)


def test_decay_is_by_the_same_factor_in_each_step():
    rates = [slow_start_fast_decay(step, 30, 0.01, 1.0, warm=0.5) for step in range(15, 31)]
    factors = [after / before for before, after in pairwise(rates)]
    assert factors == pytest.approx([0.01 ** (1 / 15)] * 15)


def problem():
    images = toy_images(200)
    return images, images.flatten(1)[:, :3].argmax(1)


def test_it_makes_a_trained_network_robust_and_is_plain_fine_tuning_without_attack():
    images, labels = problem()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.Adam(trained.parameters(), lr=0.02)
    draw = torch.Generator().manual_seed(0)
    fit_classifier(trained, optimizer, images, labels, steps=150, batch_size=50, generator=draw)

    def tuned(fit):
        model = copy.deepcopy(trained)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = SlowStartFastDecay(sgd, steps=40, base_lr=0.001, max_lr=0.1)
        draw = torch.Generator().manual_seed(1)
        fit(model, sgd, images, labels, steps=40, batch_size=50, generator=draw, schedule=schedule)
        return model

    def on_attacked(radius):
        return partial(fit_robust, attack=ProjectedGradient(radius=radius, steps=3, keep_going=True))

    def robust(model):
        changed = ProjectedGradient(radius=0.1)(model, images, labels, generator=torch.Generator().manual_seed(2))
        return evaluate_classifier(model, changed, labels).accuracy

    assert robust(tuned(on_attacked(0.1))) > robust(trained) + 0.05
    assert all(map(torch.equal, tuned(on_attacked(0.0)).parameters(), tuned(fit_classifier).parameters()))


def test_groups_that_are_added_later_take_part_and_a_copy_goes_on_alike():
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD(parameters[:1], lr=5.0)
    schedule = SlowStartFastDecay(optimizer, steps=10, base_lr=0.1, max_lr=1.0)
    optimizer.add_param_group({"params": parameters[1:], "lr": 3.0, "initial_lr": 3.0})
    for _ in range(5):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 1.0]
    again = SlowStartFastDecay(torch.optim.SGD(parameters, lr=1.0), steps=3)
    again.load_state_dict(schedule.state_dict())
    again.step()
    schedule.step()
    assert again.get_last_lr()[0] == schedule.get_last_lr()[0]
