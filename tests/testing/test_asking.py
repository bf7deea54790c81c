"""What an optimizer refuses in its own words is not applicable; its faults are found all the same."""

import pytest
import torch
from tests.testing.test_optimizer_checks import Momentum, failed
from torch import Tensor

from paperweight.testing import CheckReport, check_optimizer
from paperweight.testing.asking import ask, is_refusal, refusing
from paperweight.testing.report import CheckFailure, NotApplicable


def inapplicable(report: CheckReport) -> dict[str, str]:
    return {result.name: result.reason for result in report.inapplicable}


class MatricesOnly(Momentum):
    """Takes matrices only, as Muon does, and says so."""

    def __init__(self, params, lr=0.02):
        super().__init__(params, lr)
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.ndim != 2:
                raise ValueError(f"params must be matrices, got one of shape {tuple(p.shape)}")

    def update(self, p, lr):
        u, _, v = torch.linalg.svd(self.direction(p).float(), full_matrices=False)
        p.sub_(lr * (u @ v).to(p.dtype))


class ClosureOnly(Momentum):
    """Evaluates its closure twice a step, as methods that search along a line do, and has one group."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        if len(self.param_groups) > 1:
            raise ValueError("params must be one group")

    def add_param_group(self, param_group):
        if self.param_groups:
            raise ValueError("params must be one group")
        super().add_param_group(param_group)

    def step(self, closure):
        loss = torch.enable_grad()(closure)()
        super().step()
        torch.enable_grad()(closure)()
        super().step()
        return loss


class SaysClosure(Momentum):
    def step(self, closure=None):
        if closure is None:
            raise RuntimeError("closure must be given, got None")
        return super().step(closure)


class GradientsFirst(Momentum):
    """Steps by the gradients that are there, and then by those of its closure, as sharpness-aware methods do."""

    def step(self, closure=None):
        if closure is None:
            raise RuntimeError("closure must be given, got None")
        if all(p.grad is None for group in self.param_groups for p in group["params"]):
            raise RuntimeError("gradients must be there before step")
        return super().step(closure)


class LossAsValue(Momentum):
    """Takes from its closure the loss alone, of gradients that are there."""

    def step(self, closure=None):
        if closure is None:
            raise RuntimeError("closure must give the loss, got None")
        with torch.no_grad():
            loss = closure()
        super().step()
        return loss


class StartsLate(Momentum):
    """Its first ten steps of a parameter only gather gradients."""

    def update(self, p, lr):
        steps = self.state[p].setdefault("steps", torch.zeros(()))
        steps += 1
        direction = self.direction(p)
        if steps > 10:
            p.sub_(lr * direction)


class OneStepSize(Momentum):
    """Takes groups, but refuses in its step that they differ in their step size."""

    def step(self, closure=None):
        if len({group["lr"] for group in self.param_groups}) > 1:
            raise RuntimeError("lr must be the same in all groups")
        return super().step(closure)


class ScheduleFree(Momentum):
    """Its parameters are the mean of the iterates in eval mode, and the iterates in train mode."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr)
        for group in self.param_groups:
            group["training"] = False

    @torch.no_grad()
    def _swap(self, training):
        for group in self.param_groups:
            if group.get("training", True) != training:
                for p in (p for p in group["params"] if p in self.state):
                    other = self.state[p]["other"].clone()
                    self.state[p]["other"].copy_(p)
                    p.copy_(other)
            group["training"] = training

    def train(self):
        self._swap(True)

    def eval(self):
        self._swap(False)

    def update(self, p, lr):
        if not self.param_groups[0]["training"]:
            raise RuntimeError("the optimizer must be in train mode: call train() first")
        state = self.state[p]
        if not state:
            state["other"], state["steps"] = p.clone(), torch.zeros(())
        p.sub_(lr * p.grad)
        state["steps"] += 1
        state["other"].lerp_(p, (1 / state["steps"]).item())


class FillsStateFirst(Momentum):
    """Its first step of a parameter moves nothing."""

    def update(self, p, lr):
        first = p not in self.state
        direction = self.direction(p)
        p.sub_(0 * direction if first else lr * direction)


class SecondDerivatives(Momentum):
    """Needs gradients that can be differentiated, and says so."""

    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is not None and p.grad.grad_fn is None:
                raise RuntimeError("gradients must be made with create_graph=True")
        super().step()
        return loss

    def direction(self, p):
        return p.grad.detach()


class SparseOnly(Momentum):
    def direction(self, p):
        if not p.grad.is_sparse:
            raise RuntimeError("gradients must be sparse")
        return p.grad.to_dense()


class NoStepSize(Momentum):
    def __init__(self, params):
        super().__init__(params, 0.1)
        for group in self.param_groups:
            del group["lr"]

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] = 0.1
        loss = super().step(closure)
        for group in self.param_groups:
            del group["lr"]
        return loss


class SwallowsStepSize(NoStepSize):
    def __init__(self, params, **rest):
        super().__init__(params)


class PositiveStepSize(Momentum):
    def __init__(self, params, lr=0.1):
        if not lr > 0:
            raise ValueError(f"lr must be above 0, got {lr}")
        super().__init__(params, lr)


WITHOUT = {
    MatricesOnly: {"check_takes_every_shape"},
    ClosureOnly: {"check_steps_plainly", "check_groups_have_own_lr", "check_added_group_is_stepped"},
    SaysClosure: {"check_steps_plainly"},
    GradientsFirst: {"check_steps_plainly"},
    ScheduleFree: set(),
    FillsStateFirst: set(),
    SecondDerivatives: {"check_steps_plainly"},
    SparseOnly: {"check_steps_plainly"},
    StartsLate: set(),
    OneStepSize: {"check_groups_have_own_lr"},
    NoStepSize: {"check_zero_lr_is_identity", "check_groups_have_own_lr"},
    SwallowsStepSize: {"check_zero_lr_is_identity", "check_groups_have_own_lr"},
    PositiveStepSize: {"check_zero_lr_is_identity"},
}


@pytest.mark.parametrize("make", WITHOUT, ids=lambda make: make.__name__)
def test_what_is_refused_in_words_is_not_applicable_and_the_rest_is_checked(make):
    report = check_optimizer(make)
    assert report.passed, str(report)
    assert inapplicable(report).keys() == WITHOUT[make], str(report)
    assert all(inapplicable(report).values())


def test_a_closure_that_is_called_without_gradients_is_a_fault_where_it_is_the_only_way():
    report = check_optimizer(LossAsValue)
    assert failed(report) == {"check_closure"}
    assert inapplicable(report).keys() == {"check_steps_plainly"}


def test_the_reason_is_the_objects_own():
    assert inapplicable(check_optimizer(MatricesOnly))["check_takes_every_shape"] == (
        "it refuses parameters of shapes (), (1,), (2,), (7,), (2, 3, 3, 3): "
        "params must be matrices, got one of shape ()"
    )
    assert inapplicable(check_optimizer(ClosureOnly)) == {
        "check_steps_plainly": "it refuses a plain step: step must be given its argument closure",
        "check_groups_have_own_lr": "it refuses groups with different lr: params must be one group",
        "check_added_group_is_stepped": "it refuses a second group of parameters: params must be one group",
    }
    assert inapplicable(check_optimizer(PositiveStepSize)) == {
        "check_zero_lr_is_identity": "it refuses lr=0: lr must be above 0, got 0.0"
    }


class MatricesAscending(MatricesOnly):
    def update(self, p, lr):
        p.add_(lr * self.direction(p))


class MatricesForgetMomentum(MatricesOnly):
    def direction(self, p):
        self.kept = getattr(self, "kept", {})
        self.kept[p] = 0.9 * self.kept.get(p, 0) + p.grad
        return self.kept[p]


class ClosureLosesLoss(ClosureOnly):
    def step(self, closure):
        super().step(closure)


class ClosureChangesGradients(ClosureOnly):
    def direction(self, p):
        return p.grad.mul_(0.5)


class GraphIgnoresGroups(SecondDerivatives):
    def update(self, p, lr):
        super().update(p, self.defaults["lr"])


class FillsStateAndStops(FillsStateFirst):
    def update(self, p, lr):
        if p in self.state or len(self.state) < 1:
            super().update(p, lr)


class ScheduleFreeForgetsSteps(ScheduleFree):
    """A wrong mean after it is resumed, which only eval mode shows."""

    def state_dict(self):
        state = super().state_dict()
        state["state"] = {key: {**each, "steps": torch.zeros(())} for key, each in state["state"].items()}
        return state


class CallsClosureLastAndLate(Momentum):
    def step(self, closure=None):
        super().step()
        return None if closure is None else closure()


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (MatricesAscending, "check_decreases_convex_loss"),
        (MatricesForgetMomentum, "check_resume_is_exact"),
        (ClosureLosesLoss, "check_closure"),
        (ClosureChangesGradients, "check_gradients_unmodified"),
        (GraphIgnoresGroups, "check_groups_have_own_lr"),
        (FillsStateAndStops, "check_added_group_is_stepped"),
        (ScheduleFreeForgetsSteps, "check_resume_is_exact"),
        (CallsClosureLastAndLate, "check_closure"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_faults_of_those_that_refuse_are_found(make, check):
    report = check_optimizer(make)
    found = {result.name: result.reason for result in report.failures}
    assert check in found, str(report)
    assert not found[check].startswith("it raised"), str(report)


def test_one_that_steps_nothing_is_judged_as_it_is_and_fails_every_law_that_steps():
    class NeverSteps(Momentum):
        def update(self, p, lr):
            raise ValueError("nothing can be stepped")

    report = check_optimizer(NeverSteps)
    assert {"check_repeatable_steps", "check_decreases_convex_loss", "check_resume_is_exact"} <= failed(report)


def test_a_refusal_is_raised_by_the_objects_own_raise():
    def caught(action) -> Exception:
        try:
            action()
        except Exception as error:
            return error
        raise AssertionError("it raises nothing")

    def asserts():
        assert torch.ones(2).ndim == 2, "only matrices"

    def refuses():
        raise NotImplementedError("only matrices")

    def looks_up() -> Tensor:
        return {}["lr"]

    def ends_early():
        raise KeyError("lr")

    def says_nothing():
        raise NotImplementedError

    def fails_a_check():
        raise CheckFailure("it moved", "leave it")

    assert is_refusal(caught(refuses))
    assert not is_refusal(caught(asserts))
    assert not is_refusal(caught(looks_up))
    assert not is_refusal(caught(ends_early))
    assert not is_refusal(caught(fails_a_check))
    assert not is_refusal(caught(says_nothing))
    assert not is_refusal(caught(lambda: torch.ones(2) @ torch.ones(3)))
    assert not is_refusal(caught(lambda: torch.nn.functional.nll_loss(torch.ones(2, 3), torch.ones(3))))
    assert not is_refusal(caught(lambda: torch.nn.functional.interpolate(torch.ones(1, 1, 2))))  # torch's own raise
    assert not is_refusal(ValueError("never raised"))


def test_other_errors_go_through_refusing():
    with pytest.raises(ZeroDivisionError), refusing("nothing"):
        print(1 / 0)
    with pytest.raises(NotApplicable, match="it refuses sparse gradients: dense only"), refusing("sparse gradients"):
        raise NotImplementedError("dense only")


def test_asking_leaves_the_random_state():
    class Draws(Momentum):
        def update(self, p, lr):
            p.sub_(lr * torch.rand_like(p) * p.grad)

    before = torch.get_rng_state()
    ask(Draws)
    assert torch.equal(torch.get_rng_state(), before)


class DrawsGlobally(Momentum):
    """Masks its steps by draws from the global random state, and keeps all else right."""

    def update(self, p, lr):
        p.sub_(lr * torch.rand_like(p) * self.direction(p))


def test_of_random_steps_the_draws_alone_are_told():
    report = check_optimizer(DrawsGlobally)
    assert failed(report) == {"check_repeatable_steps", "check_steps_leave_random_state"}, str(report)
    assert inapplicable(report).keys() == {"check_missing_gradient_is_skipped", "check_parameter_order"}
    assert ask(DrawsGlobally).random
    assert not ask(Momentum).random


class DrawsAndForgets(DrawsGlobally):
    def direction(self, p):
        self.kept = getattr(self, "kept", {})
        self.kept[p] = 0.9 * self.kept.get(p, 0) + p.grad
        return self.kept[p]


def test_what_random_steps_forget_on_resume_is_found():
    assert "check_resume_is_exact" in failed(check_optimizer(DrawsAndForgets))
