"""The schedule checks catch faulty schedules, each by the check that is meant to, and pass torch's own."""

import random
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler

from paperweight.testing import CheckReport, ScheduleSubject, check_schedule

VALUES = {0: 1.0, 1: 0.9, 2: 0.81, 12: 0.9**12}


class Decay:
    """A sound schedule, lr times 0.9 a step, whose parts the faulty ones replace."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.count = 0
        self.starts = [group["lr"] for group in optimizer.param_groups]
        self.set()

    def factor(self):
        return 0.9**self.count

    def set(self):
        for group, start in zip(self.optimizer.param_groups, self.starts, strict=True):
            group["lr"] = start * self.factor()

    def step(self):
        self.count += 1
        self.set()

    def state_dict(self):
        return {"count": self.count, "starts": self.starts}

    def load_state_dict(self, state):
        self.count, self.starts = state["count"], state["starts"]


class LacksState(Decay):
    state_dict = None


class OneStepLate(Decay):
    def factor(self):
        return 0.9 ** max(self.count - 1, 0)


class OneStepEarly(Decay):
    def factor(self):
        return 0.9 ** (self.count + 1)


class FallsBelowZero(Decay):
    def factor(self):
        return 1 - 0.1 * self.count


class Diverges(Decay):
    def factor(self):
        return float("inf") if self.count > 11 else super().factor()


class FirstGroupOnly(Decay):
    def set(self):
        self.optimizer.param_groups[0]["lr"] = self.starts[0] * self.factor()


class DecaysWeights(Decay):
    def set(self):
        super().set()
        for group in self.optimizer.param_groups:
            group["weight_decay"] = 0.1 * self.factor()


class StepsOptimizer(Decay):
    def step(self):
        super().step()
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.data.add_(1)


class DropsGradients(Decay):
    def step(self):
        super().step()
        self.optimizer.zero_grad()


class ForgetsCount(Decay):
    def state_dict(self):
        return {"count": 0, "starts": self.starts}


class ForgetsPhase(Decay):
    """What it forgets matters late only."""

    best = 0

    def factor(self):
        self.best = max(self.best, self.count % 7)
        return 0.9**self.count * (0.5 if self.best == 6 else 1)


class Jitters(Decay):
    def factor(self):
        return super().factor() * random.uniform(0.9, 1)


class SeedsGlobally(Decay):
    def factor(self):
        torch.manual_seed(0)
        return super().factor()


FAULTY = {
    LacksState: "check_meets_protocol",
    OneStepLate: "check_documented_values",
    OneStepEarly: "check_documented_values",
    FallsBelowZero: "check_values_are_finite",
    Diverges: "check_values_are_finite",
    FirstGroupOnly: "check_every_group_is_scheduled",
    DecaysWeights: "check_other_settings_unmodified",
    StepsOptimizer: "check_other_settings_unmodified",
    DropsGradients: "check_other_settings_unmodified",
    ForgetsCount: "check_resume_is_exact",
    ForgetsPhase: "check_resume_is_exact",
    Jitters: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def test_the_sound_schedule_passes_every_check():
    report = check_schedule(Decay, values=VALUES, null=Decay, baseline=Decay)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values(), "check_null"}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = check_schedule(faulty, values=VALUES)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


def test_null_law_catches_one_bit():
    class OneBitOff(Decay):
        def factor(self):
            return super().factor() * (1 + 2**-52)

    assert failed(check_schedule(Decay, null=OneBitOff, baseline=Decay)) == {"check_null"}


def test_another_setting_than_lr():
    class DecaysMomentum(Decay):
        def __init__(self, optimizer):
            self.optimizer, self.count, self.starts = optimizer, 0, []

        def set(self):
            for group in self.optimizer.param_groups:
                group["sigma"] = 2 * self.factor()

    assert check_schedule(DecaysMomentum, setting="sigma", start=2.0, values={0: 2.0, 2: 1.62}).passed
    assert "check_other_settings_unmodified" in failed(check_schedule(Decay, setting="sigma"))


def test_steps_of_values_must_be_taken():
    with pytest.raises(ValueError, match=r"values must name steps within 0 to steps=12, got \[13\]"):
        ScheduleSubject(make=Decay, values={13: 1.0})
    with pytest.raises(ValueError, match="steps must be at least 4, got 3"):
        ScheduleSubject(make=Decay, values={}, steps=3)


def warm_up_then_cosine(optimizer):
    parts = [
        lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=3),
        lr_scheduler.CosineAnnealingLR(optimizer, T_max=8),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [3])


def chained(optimizer):
    parts = [lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.ChainedScheduler(parts)


CONTROLS = {
    "StepLR": (partial(lr_scheduler.StepLR, step_size=3), {2: 1.0, 3: 0.1, 6: 0.01}),
    "MultiStepLR": (partial(lr_scheduler.MultiStepLR, milestones=[2, 5]), {1: 1.0, 2: 0.1, 5: 0.01}),
    "ConstantLR": (partial(lr_scheduler.ConstantLR, factor=0.5, total_iters=4), {0: 0.5, 3: 0.5, 4: 1.0}),
    "LinearLR": (partial(lr_scheduler.LinearLR, start_factor=0.5, total_iters=4), {0: 0.5, 2: 0.75, 4: 1.0}),
    "ExponentialLR": (partial(lr_scheduler.ExponentialLR, gamma=0.5), {0: 1.0, 3: 0.125}),
    "PolynomialLR": (partial(lr_scheduler.PolynomialLR, total_iters=4), {1: 0.75, 4: 0.0, 9: 0.0}),
    "CosineAnnealingLR": (partial(lr_scheduler.CosineAnnealingLR, T_max=12), {0: 1.0, 4: 0.75, 6: 0.5, 8: 0.25}),
    "WarmRestarts": (partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=6), {3: 0.5, 6: 1.0, 9: 0.5}),
    "LambdaLR": (partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)), {1: 0.5, 3: 0.25}),
    "MultiplicativeLR": (partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda step: 0.5), {2: 0.25}),
    "CyclicLR": (
        partial(lr_scheduler.CyclicLR, base_lr=0.1, max_lr=0.5, step_size_up=4, cycle_momentum=False),
        {0: 0.1, 2: 0.3, 4: 0.5, 8: 0.1},
    ),
    "OneCycleLR": (
        partial(lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=13, pct_start=4 / 13, cycle_momentum=False),
        {0: 0.04, 3: 1.0, 12: 0.04 / 1e4},
    ),
    "SWALR": (partial(torch.optim.swa_utils.SWALR, swa_lr=0.1, anneal_epochs=4), {0: 1.0, 4: 0.1, 5: 0.1}),
    "SequentialLR": (warm_up_then_cosine, {0: 0.25, 1: 0.5, 3: 1.0, 7: 0.5, 11: 0.0}),
    "ChainedScheduler": (chained, {0: 0.5, 1: 0.45, 2: 0.81}),
}


@pytest.mark.parametrize("name", CONTROLS)
def test_torch_schedules_pass_and_have_their_documented_values(name):
    make, values = CONTROLS[name]
    report = check_schedule(make, values=values)
    assert report.passed, str(report)
    wrong = check_schedule(make, values={step: 1.01 * value + 0.001 for step, value in values.items()})
    assert failed(wrong) == {"check_documented_values"}


def test_a_schedule_that_is_stepped_by_a_measurement():
    plateau = partial(lr_scheduler.ReduceLROnPlateau, patience=2, factor=0.5)
    report = check_schedule(
        plateau, advance=lambda schedule, step: schedule.step(1.0), values={3: 1.0, 4: 0.5, 7: 0.25}
    )
    assert report.passed, str(report)


def test_one_cycle_moves_the_momentum_too():
    # It is meant to: with cycle_momentum, its default, it sets two settings.
    report = check_schedule(partial(lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=13))
    assert failed(report) == {"check_other_settings_unmodified"}
