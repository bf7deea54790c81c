"""The attack checks catch faulty attacks, each by the check that is meant to, and pass FGSM, PGD and a search."""

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from paperweight.testing import AttackSubject, CheckReport, attack, check_attack
from paperweight.testing.attack import best_step
from paperweight.testing.classifiers import linear_classifier, toy_images


def unchanged():
    return lambda model, inputs, labels, generator=None: inputs


def project(change, norm, radius):
    """Map each change to the nearest in the ball."""
    if radius == 0:
        return torch.zeros_like(change)
    if norm == math.inf:
        return change.clamp(-radius, radius)
    flat = change.flatten(1)
    if norm == 2:
        return (flat * (radius / flat.norm(dim=1, keepdim=True).clamp(min=radius))).view_as(change)
    ordered = flat.abs().sort(dim=1, descending=True).values
    excess = (ordered.cumsum(1) - radius) / torch.arange(1, flat.shape[1] + 1).to(flat)
    kept = (ordered > excess).sum(1, keepdim=True)
    threshold = excess.gather(1, kept - 1).clamp(min=0)
    return (flat.sign() * (flat.abs() - threshold).clamp(min=0)).view_as(change)


class PGD:
    """A sound attack: steepest ascent of the cross-entropy and projection; faulty ones replace its parts."""

    def __init__(self, radius=0.1, norm=math.inf, steps=10, start=False, targeted=False):
        if not radius >= 0:
            raise ValueError(f"radius must be at least 0, got {radius}")
        self.radius, self.norm, self.steps, self.start, self.targeted = radius, norm, steps, start, targeted

    def __call__(self, model, inputs, labels, generator=None):
        modes = {part: part.training for part in model.modules()}
        model.eval()
        given = inputs.clone()
        if self.start:
            noise = torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype, device=inputs.device)
            given = self.limit(inputs + self.radius * (2 * noise - 1), inputs)
        for _ in range(self.steps):
            step = 2 * self.radius / self.steps * self.direction(self.gradient(model, given, labels))
            given = self.limit(given + step, inputs)
        for part, training in modes.items():
            part.training = training
        return given

    def gradient(self, model, given, labels):
        given = given.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.loss(model(given), labels)
        return (-1 if self.targeted else 1) * torch.autograd.grad(loss, given)[0]

    def loss(self, outputs, labels):
        return nn.functional.cross_entropy(outputs, labels, reduction="sum")

    def direction(self, gradient):
        if self.norm == math.inf:
            return gradient.sign()
        flat = gradient.flatten(1)
        if self.norm == 2:
            return (flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)).view_as(gradient)
        return (flat.sign() * nn.functional.one_hot(flat.abs().argmax(1), flat.shape[1])).view_as(gradient)

    def limit(self, given, inputs):
        return (inputs + project(given - inputs, self.norm, self.radius)).clamp(0, 1)


class ReturnsPair(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        return super().__call__(model, inputs, labels), True


class KeepsGraph(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        return super().__call__(model, inputs, labels).requires_grad_()


class DividesByZero(PGD):
    def direction(self, gradient):
        return super().direction(gradient) * (0 * gradient / 0)


class NoProjection(PGD):
    def limit(self, given, inputs):
        return given.clamp(0, 1)


class WrongNorm(PGD):
    """It projects onto the ball of norm 2 with a radius of norm inf."""

    def limit(self, given, inputs):
        return (inputs + project(given - inputs, 2, 4 * self.radius)).clamp(0, 1)


class NoClamp(PGD):
    def limit(self, given, inputs):
        return inputs + project(given - inputs, self.norm, self.radius)


class Descends(PGD):
    def gradient(self, model, given, labels):
        return -super().gradient(model, given, labels)


class HalfTheWay(PGD):
    def limit(self, given, inputs):
        return (inputs + project(given - inputs, self.norm, self.radius / 2)).clamp(0, 1)


class LeavesEvalMode(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        results = super().__call__(model, inputs, labels)
        model.eval()
        return results


class LeavesGradients(PGD):
    def gradient(self, model, given, labels):
        given = given.detach().requires_grad_()
        with torch.enable_grad():
            self.loss(model(given), labels).backward()
        return given.grad


class ZeroesGradients(PGD):
    def gradient(self, model, given, labels):
        model.zero_grad()
        return super().gradient(model, given, labels)


class UpdatesBatchNorm(PGD):
    def gradient(self, model, given, labels):
        model.train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            gradient = super().gradient(model, given, labels)
        model.eval()
        return gradient


class LeavesHook(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        model.register_forward_hook(lambda *_: None)
        return super().__call__(model, inputs, labels)


class LeavesTensorHook(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        model[-1].weight.register_hook(lambda gradient: None)
        return super().__call__(model, inputs, labels)


class FreezesModel(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        model.requires_grad_(False)
        return super().__call__(model, inputs, labels)


class ChangesInputs(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        results = super().__call__(model, inputs, labels)
        return inputs.copy_(results)


class MarksInputs(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        results = super().__call__(model, inputs, labels)
        inputs.requires_grad_()
        return results


class NeedsGradientMode(PGD):
    def gradient(self, model, given, labels):
        given = given.detach().requires_grad_()
        return torch.autograd.grad(self.loss(model(given), labels), given)[0]


class SwitchesGradientsOn(PGD):
    def gradient(self, model, given, labels):
        torch.set_grad_enabled(True)
        return super().gradient(model, given, labels)


class ForTheBatch(PGD):
    """It takes one direction for all inputs."""

    def direction(self, gradient):
        return gradient.sum(0, keepdim=True).sign().expand_as(gradient)


class DrawsGlobally(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        return self.limit(super().__call__(model, inputs, labels) - 1e-3 * torch.rand_like(inputs), inputs)


class SeedsGlobally(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        torch.manual_seed(0)
        return super().__call__(model, inputs, labels)


class Downcasts(PGD):
    def __call__(self, model, inputs, labels, generator=None):
        return super().__call__(model, inputs, labels).float()


class DetourAtZero(PGD):
    def limit(self, given, inputs):
        return super().limit(given, inputs) * 3 / 3


FAULTY = {
    ReturnsPair: "check_meets_protocol",
    KeepsGraph: "check_meets_protocol",
    DividesByZero: "check_meets_protocol",
    NoProjection: "check_inside_the_ball",
    WrongNorm: "check_inside_the_ball",
    NoClamp: "check_inside_the_range",
    Descends: "check_optimum_on_linear_model",
    HalfTheWay: "check_optimum_on_linear_model",
    LeavesEvalMode: "check_model_unmodified",
    LeavesGradients: "check_model_unmodified",
    ZeroesGradients: "check_model_unmodified",
    UpdatesBatchNorm: "check_model_unmodified",
    LeavesHook: "check_model_unmodified",
    LeavesTensorHook: "check_model_unmodified",
    FreezesModel: "check_model_unmodified",
    ChangesInputs: "check_inputs_unmodified",
    MarksInputs: "check_inputs_unmodified",
    NeedsGradientMode: "check_gradient_mode",
    SwitchesGradientsOn: "check_gradient_mode",
    ForTheBatch: "check_samples_are_independent",
    DrawsGlobally: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
    Downcasts: "check_dtype_and_device_preserved",
    DetourAtZero: "check_null",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def checked(make: type[PGD], norm: float = math.inf, radius: float = 0.1, slack: float = 1e-3, **given) -> CheckReport:
    arguments = {"norm": norm, **given}
    return check_attack(
        partial(make, radius=radius, **arguments),
        norm=norm,
        radius=radius,
        random=given.get("start", False),
        targeted=given.get("targeted", False),
        slack=slack,
        null=partial(make, radius=0.0, **arguments),
        baseline=unchanged,
    )


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"radius": 0.7},
        {"steps": 2},
        {"start": True},
        {"targeted": True},
        {"norm": 2, "radius": 0.4},
        {"norm": 1, "radius": 0.3},
    ],
    ids=str,
)
def test_a_sound_attack_passes_every_check(given):
    report = checked(PGD, **given)
    assert report.passed, str(report)
    expected = {*FAULTY.values()} - ({"check_samples_are_independent"} if "start" in given else set())
    assert {result.name for result in report.results} == expected


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = checked(faulty)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


def test_every_check_has_a_fault_that_it_catches():
    assert {check.__name__ for check in attack.ATTACK_LAWS} <= {*FAULTY.values(), "check_null"}


class Nearest:
    """A sound attack without a radius: bisection on the radius of a sound one that has it."""

    longest = 4.0

    def __init__(self, norm=math.inf):
        self.norm = norm

    def __call__(self, model, inputs, labels):
        short, long = torch.zeros(len(inputs)), torch.full((len(inputs),), self.longest)
        results = inputs.clone()
        for _ in range(20):
            middle = (short + long) / 2
            tries = torch.cat([self.attempt(model, *sample) for sample in zip(middle, inputs, labels, strict=True)])
            errs = model(tries).argmax(1) != labels
            results = torch.where(errs[:, None, None, None], tries, results)
            short, long = torch.where(errs, short, middle), torch.where(errs, middle, long)
        return results

    def attempt(self, model, radius, image, label):
        return PGD(float(radius), self.norm, steps=2)(model, image[None], label[None])


class TooFar(Nearest):
    def __call__(self, model, inputs, labels):
        results = super().__call__(model, inputs, labels)
        return (inputs + 1.1 * (results - inputs)).clamp(0, 1)


class TooNear(Nearest):
    def __call__(self, model, inputs, labels):
        results = super().__call__(model, inputs, labels)
        return inputs + 0.9 * (results - inputs)


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_an_attack_without_a_radius_must_find_the_nearest(norm):
    def optimum(make):
        subject = AttackSubject(make=partial(make, norm), norm=norm, radius=None, slack=0.01)
        return attack.check_optimum_on_linear_model(subject)

    optimum(Nearest)
    with pytest.raises(attack.CheckFailure, match=r"is 1\.10\d* times the distance"):
        optimum(TooFar)
    with pytest.raises(attack.CheckFailure, match="16 of 16 inputs stay as they were"):
        optimum(TooNear)


@pytest.mark.parametrize("norm", [1.0, math.inf])
def test_best_step_is_that_of_a_linear_programme(norm):
    generator = torch.Generator().manual_seed(0)
    slope = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    low, high = -torch.rand(6, 5, generator=generator).double(), torch.rand(6, 5, generator=generator).double()
    for radius in (0.1, 0.5, 1.0, 10.0):
        steps = best_step(slope, low, high, norm, radius)
        for row in range(6):
            edges = [
                (max(a, -radius), min(b, radius)) for a, b in zip(low[row].tolist(), high[row].tolist(), strict=True)
            ]
            signs = np.array(list(itertools.product((-1, 1), repeat=5)))
            ball = {} if norm == math.inf else {"A_ub": signs, "b_ub": np.full(32, radius)}
            expected = linprog(slope[row].numpy(), bounds=edges, **ball).fun
            assert float(slope[row] @ steps[row]) == pytest.approx(expected, abs=1e-9)


def test_best_step_of_norm_2_meets_the_conditions_of_optimality():
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    low, high = -torch.rand(6, 5, generator=generator).double(), torch.rand(6, 5, generator=generator).double()
    steps = best_step(slope, low, high, 2.0, 0.6)
    assert torch.allclose(steps.norm(dim=1), torch.full((6,), 0.6, dtype=torch.float64))
    for step, row, least, most in zip(steps, slope, low, high, strict=True):
        free = (step > least) & (step < most)
        ratios = -step[free] / row[free]
        assert torch.allclose(ratios, ratios[0].expand_as(ratios))
        assert (step[~free].abs() <= (ratios[0] * row[~free]).abs() + 1e-12).all()


def test_subject_binds_bad_values_and_refuses_its_own():
    subject = AttackSubject(make=PGD, norm=math.inf, radius=0.1, null=partial(PGD, 0.0), baseline=unchanged)
    assert subject.use().shape == (8, 1, 4, 4)
    with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
        subject.use(radius=-1)
    for bad, message in (
        ({"norm": 3.0}, "norm must be 1, 2 or math.inf"),
        ({"radius": 0.0}, "radius must be above 0"),
        ({"null": None, "baseline": None}, "null must be given"),
    ):
        given = {"norm": 2.0, "radius": 1.0, "null": unchanged, "baseline": unchanged, **bad}
        with pytest.raises(ValueError, match=message):
            AttackSubject(make=PGD, **given)


def test_the_linear_classifier_has_its_boundary_in_the_middle():
    margins = linear_classifier()(toy_images(64)).diff(dim=1)
    assert 8 < int((margins > 0).sum()) < 56


def test_of_an_attack_that_draws_globally_the_draws_alone_are_told():
    report = checked(DrawsGlobally)
    drawn = {"check_repeatable", "check_global_random_state", "check_optimum_on_linear_model"}
    assert failed(report) == drawn, str(report)
    assert [result.name for result in report.inapplicable] == ["check_samples_are_independent"]
