"""The optimizer checks catch faulty optimizers, each by the check that is meant to, and pass torch's own."""

from functools import partial

import numpy as np
import pytest
import torch

from paperweight.testing import CheckReport, check_optimizer
from paperweight.testing.optimizer import OPTIMIZER_LAWS, check_null


class Momentum(torch.optim.Optimizer):
    """A sound optimizer, gradient descent with momentum, whose parts the faulty ones replace."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, group["lr"])
        return loss

    def direction(self, p):
        buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
        return buffer.mul_(0.9).add_(p.grad)

    def update(self, p, lr):
        p.sub_(lr * self.direction(p))


class Ascends(Momentum):
    def update(self, p, lr):
        p.add_(lr * self.direction(p))


class ForgetsMomentumOnResume(Momentum):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.buffers = {}

    def direction(self, p):
        self.buffers[p] = 0.9 * self.buffers.get(p, 0) + p.grad
        return self.buffers[p]


class ForgetsStepCountOnResume(Momentum):
    steps = 0

    def step(self, closure=None):
        self.steps += 1
        return super().step(closure)

    def update(self, p, lr):
        p.sub_(lr / self.steps * p.grad)


class ChangesGradientInPlace(Momentum):
    def direction(self, p):
        return p.grad.mul_(0.5)


class ReplacesGradient(Momentum):
    def direction(self, p):
        p.grad = p.grad.clone()
        return p.grad


class AddsGlobalNoise(Momentum):
    def update(self, p, lr):
        p.sub_(lr * (p.grad + 0.01 * torch.randn_like(p)))


class SeedsGlobally(Momentum):
    def update(self, p, lr):
        np.random.seed(0)
        p.sub_(lr * p.grad)


class ShiftsIndices(Momentum):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.scales = [1.0 / (1 + i) for i, _ in enumerate(self.param_groups[0]["params"])]

    def step(self, closure=None):
        self.index = 0
        return super().step(closure)

    def update(self, p, lr):
        p.sub_(lr * self.scales[self.index % len(self.scales)] * p.grad)
        self.index += 1


class DecaysWithoutGradient(Momentum):
    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.mul_(1 - 0.01 * group["lr"])
        return loss


class IgnoresGroups(Momentum):
    def update(self, p, lr):
        super().update(p, self.defaults["lr"])


class IgnoresClosure(Momentum):
    def step(self, closure=None):
        return super().step(None)


class LosesLoss(Momentum):
    def step(self, closure=None):
        super().step(closure)


class CallsClosureWithoutGradients(Momentum):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else closure()
        super().step(None)
        return loss


class CallsClosureLast(Momentum):
    def step(self, closure=None):
        super().step(None)
        return None if closure is None else closure()


class Upcasts(Momentum):
    def update(self, p, lr):
        p.data = p.data.double() - lr * p.grad.double()


class DecouplesNoiseFromLr(Momentum):
    def update(self, p, lr):
        p.sub_(lr * p.grad + 1e-3)


class SharesMomentum(Momentum):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.state["shared"] = {}

    def direction(self, p):
        buffers = self.state["shared"]
        buffers[p.shape] = 0.9 * buffers.get(p.shape, 0) + p.grad
        return buffers[p.shape].clone()


class OverflowsInBfloat16(Momentum):
    def direction(self, p):
        return p.grad * (1 / (1 + torch.tensor(1e-3, dtype=p.dtype) - 1))


class KeepsGradients(Momentum):
    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none=False)


class DropsGradientsAlways(Momentum):
    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none=True)


class FreezesParametersAtStart(Momentum):
    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        self.known = [p for group in self.param_groups for p in group["params"]]

    def update(self, p, lr):
        if any(p is known for known in self.known):
            super().update(p, lr)


class CrashesAtScalars(Momentum):
    def update(self, p, lr):
        p.sub_(lr * self.direction(p) / p.shape[0])


class CrashesAtStrides(Momentum):
    def update(self, p, lr):
        p.view(-1).sub_(lr * self.direction(p).view(-1))


class CrashesWithoutClosure(Momentum):
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        super().step(None)
        return loss


class LacksStateDict:
    state_dict = None

    def __init__(self, params, lr=0.1):
        self.param_groups = [{"params": list(params), "lr": lr}]

    def step(self, closure=None):
        return None


FAULTY = {
    Ascends: "check_decreases_convex_loss",
    ForgetsMomentumOnResume: "check_resume_is_exact",
    ForgetsStepCountOnResume: "check_resume_is_exact",
    ChangesGradientInPlace: "check_gradients_unmodified",
    ReplacesGradient: "check_gradients_unmodified",
    AddsGlobalNoise: "check_repeatable_steps",
    SeedsGlobally: "check_steps_leave_random_state",
    ShiftsIndices: "check_missing_gradient_is_skipped",
    DecaysWithoutGradient: "check_missing_gradient_is_skipped",
    IgnoresGroups: "check_groups_have_own_lr",
    IgnoresClosure: "check_closure",
    LosesLoss: "check_closure",
    CallsClosureWithoutGradients: "check_closure",
    CallsClosureLast: "check_closure",
    Upcasts: "check_dtype_and_device_preserved",
    DecouplesNoiseFromLr: "check_zero_lr_is_identity",
    SharesMomentum: "check_parameter_order",
    OverflowsInBfloat16: "check_finite_in_bfloat16",
    KeepsGradients: "check_zero_grad",
    DropsGradientsAlways: "check_zero_grad",
    FreezesParametersAtStart: "check_added_group_is_stepped",
    LacksStateDict: "check_meets_protocol",
    CrashesAtScalars: "check_takes_every_shape",
    CrashesAtStrides: "check_takes_every_shape",
    CrashesWithoutClosure: "check_steps_plainly",
}


LAWS = [check.__name__ for check in OPTIMIZER_LAWS if check is not check_null]


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def test_the_sound_optimizer_passes():
    report = check_optimizer(Momentum)
    assert report.passed, str(report)
    assert [result.name for result in report.results] == LAWS


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = check_optimizer(faulty)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    result = caught[FAULTY[faulty]]
    assert result.reason
    assert not result.reason.startswith("it raised"), str(result)
    assert result.remedy


def test_every_check_catches_some_fault():
    assert set(FAULTY.values()) == set(LAWS)


CONTROLS = {
    name: set()
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adamax", "NAdam", "RAdam", "ASGD", "Adadelta", "Muon")
}
# Rprop clamps its step sizes from below at 1e-6, so that lr=0 still moves.
CONTROLS["Rprop"] = {"check_zero_lr_is_identity"}


@pytest.mark.parametrize("name", CONTROLS)
def test_torch_optimizers_pass(name):
    report = check_optimizer(getattr(torch.optim, name))
    assert failed(report) == CONTROLS[name], str(report)


def test_a_required_lr_is_given_and_a_factory_serves():
    class Required(Momentum):
        def __init__(self, params, lr):
            super().__init__(params, lr)

    assert check_optimizer(Required).passed
    assert check_optimizer(lambda params, **hyper: torch.optim.SGD(params, **({"lr": 0.1} | hyper))).passed
    assert check_optimizer(partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)).passed


def test_null_law_accepts_equal_and_catches_one_bit():
    baseline = partial(torch.optim.SGD, lr=0.1)
    report = check_optimizer(Momentum, null=partial(torch.optim.SGD, lr=0.1, momentum=0.0), baseline=baseline)
    assert report.passed
    assert report.results[-1].name == "check_null"

    class OneBitOff(Momentum):
        def update(self, p, lr):
            p.sub_(p.grad / 3 * lr * 3)

    assert failed(check_optimizer(Momentum, null=OneBitOff, baseline=baseline)) == {"check_null"}


def test_null_law_reaches_a_fault_at_one_shape_only():
    class WrongForScalars(Momentum):
        def update(self, p, lr):
            p.add_(p.grad, alpha=-lr if p.ndim else -2 * lr)

    with pytest.raises(Exception, match=r"shapes \(\) differ"):
        check_null(WrongForScalars, partial(torch.optim.SGD, lr=0.1))


def test_null_and_baseline_come_together():
    with pytest.raises(ValueError, match="null and baseline must be given together"):
        check_optimizer(Momentum, null=Momentum)
