"""The checks of training procedures catch faulty ones, each by the check that is meant to, and pass sound ones."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from paperweight.testing import (
    CheckReport,
    PlainTraining,
    TrainingProcedureSubject,
    always,
    check_training_procedure,
    training_procedure,
)


class SharpnessAware:
    """A sound procedure of two gradients a step, the second where the first leads; faulty ones replace its parts."""

    def __init__(self, model, radius=0.05, lr=0.1, generator=None):
        if not radius >= 0:
            raise ValueError(f"radius must be at least 0, got {radius}")
        self.model, self.radius, self.generator = model, radius, generator
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)

    def step(self, inputs, labels):
        self.model.train()
        self.evaluate(inputs, labels)
        if self.radius:
            moves = [self.radius * p.grad * (1 + self.draw(p)) for p in self.model.parameters()]
            with torch.no_grad():
                for parameter, move in zip(self.model.parameters(), moves, strict=True):
                    parameter += move
            self.evaluate(inputs, labels)
            with torch.no_grad():
                for parameter, move in zip(self.model.parameters(), moves, strict=True):
                    parameter -= move
        self.optimizer.step()

    def draw(self, like):
        return torch.rand(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def evaluate(self, inputs, labels):
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.model(inputs), labels).backward()

    def state_dict(self):
        return {"optimizer": self.optimizer.state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict):
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.generator.set_state(state_dict["generator"])


class CannotResume:
    def __init__(self, model, generator=None):
        self.inner = SharpnessAware(model, generator=generator)

    def step(self, inputs, labels):
        self.inner.step(inputs, labels)


class Ascends(SharpnessAware):
    def evaluate(self, inputs, labels):
        super().evaluate(inputs, labels)
        for parameter in self.model.parameters():
            parameter.grad.neg_()


class TrainsACopy(SharpnessAware):
    def __init__(self, model, radius=0.05, lr=0.1, generator=None):
        super().__init__(copy.deepcopy(model), radius, lr, generator)


class ThirdGradient(SharpnessAware):
    def step(self, inputs, labels):
        super().step(inputs, labels)
        self.evaluate(inputs, labels)


class GradientByAutograd(SharpnessAware):
    """Its further gradients are not accumulated, and of half of the batch."""

    def step(self, inputs, labels):
        super().step(inputs, labels)
        loss = nn.functional.cross_entropy(self.model(inputs[:4]), labels[:4])
        torch.autograd.grad(loss, [*self.model.parameters()])


class ForgetsMomentum(SharpnessAware):
    def load_state_dict(self, state_dict):
        self.generator.set_state(state_dict["generator"])


class ForgetsGenerator(SharpnessAware):
    def load_state_dict(self, state_dict):
        self.optimizer.load_state_dict(state_dict["optimizer"])


class ForgetsStep(SharpnessAware):
    count = 0

    def step(self, inputs, labels):
        self.count += 1
        self.optimizer.param_groups[0]["lr"] = 0.1 / self.count
        super().step(inputs, labels)


class ChangesData(SharpnessAware):
    def evaluate(self, inputs, labels):
        super().evaluate(inputs.mul_(0.99), labels)


class DrawsGlobally(SharpnessAware):
    def draw(self, like):
        return torch.rand_like(like)


class IgnoresGenerator(SharpnessAware):
    def draw(self, like):
        return torch.zeros_like(like)


class SeedsGlobally(SharpnessAware):
    def draw(self, like):
        torch.manual_seed(0)
        return super().draw(like)


class Downcasts(SharpnessAware):
    def step(self, inputs, labels):
        self.model.to(inputs.dtype)
        super().step(inputs, labels)
        self.model.float()


class StillMoves(SharpnessAware):
    def __init__(self, model, radius=0.05, lr=0.1, generator=None):
        super().__init__(model, max(radius, 1e-4), lr, generator)


FAULTY = {
    CannotResume: "check_meets_protocol",
    Ascends: "check_lowers_the_loss",
    TrainsACopy: "check_lowers_the_loss",
    ThirdGradient: "check_gradient_evaluations",
    GradientByAutograd: "check_gradient_evaluations",
    ForgetsMomentum: "check_resume_is_exact",
    ForgetsGenerator: "check_resume_is_exact",
    ForgetsStep: "check_resume_is_exact",
    ChangesData: "check_data_unmodified",
    DrawsGlobally: "check_repeatable",
    IgnoresGenerator: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
    Downcasts: "check_dtype_and_device_preserved",
    StillMoves: "check_null",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def plain(model, data, generator=None):
    return PlainTraining(model, lr=0.1, momentum=0.9)


def checked(procedure: type) -> CheckReport:
    def make(model, data, generator, **given):
        return procedure(model, generator=generator, **given)

    null = {} if procedure is CannotResume else {"null": partial(make, radius=0.0), "baseline": plain}
    return check_training_procedure(make, evaluations=2 * 8 * 8, random=True, **null)


def test_a_sound_procedure_passes_every_check():
    report = checked(SharpnessAware)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values()}
    laws = training_procedure.TRAINING_PROCEDURE_LAWS.items()
    assert {check.__name__ for check, applies in laws if applies is always} <= {*FAULTY.values()}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = checked(faulty)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


class EasySamplesLess:
    """A sound procedure that chooses its batches: in each pass it leaves out half of the samples of low loss."""

    def __init__(self, model, inputs, labels, share=0.5, generator=None):
        self.model, self.inputs, self.labels, self.share, self.generator = model, inputs, labels, share, generator
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.losses = torch.full((len(labels),), 3.0, dtype=inputs.dtype, device=inputs.device)
        self.evaluations = 0

    def step(self):
        self.model.train()
        order = torch.randperm(len(self.labels), generator=self.generator, device=self.inputs.device)
        drawn = torch.rand(len(order), generator=self.generator, device=self.inputs.device)
        easy = self.losses < self.losses.mean()
        weights = torch.where(easy, 1 / (1 - self.share), 1.0).to(self.losses)
        for chosen in order[~(easy & (drawn < self.share))[order]].split(8):
            self.optimizer.zero_grad()
            losses = nn.functional.cross_entropy(self.model(self.inputs[chosen]), self.labels[chosen], reduction="none")
            (weights[chosen] * losses).mean().backward()
            self.optimizer.step()
            self.losses[chosen] = losses.detach()
            self.evaluations += len(chosen)

    def state_dict(self):
        generator = self.generator.get_state()
        return {"optimizer": self.optimizer.state_dict(), "losses": self.losses, "generator": generator}

    def load_state_dict(self, state_dict):
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.losses = state_dict["losses"]
        self.generator.set_state(state_dict["generator"])


class ForgetsTheWarmUp(EasySamplesLess):
    """It leaves a pass over all samples out of its own count."""

    def __init__(self, model, inputs, labels, share=0.5, generator=None):
        super().__init__(model, inputs, labels, share, generator)
        self.evaluations = -len(labels)


@pytest.mark.parametrize(
    ("procedure", "expected"), [(EasySamplesLess, set()), (ForgetsTheWarmUp, {"check_gradient_evaluations"})]
)
def test_a_procedure_that_chooses_its_batches_counts_for_itself(procedure, expected):
    report = check_training_procedure(
        lambda model, data, generator: procedure(model, *data, generator=generator),
        evaluations=lambda trained: trained.evaluations,
        random=True,
        rounds=4,
        advance=lambda trained, data, round: trained.step(),
    )
    assert failed(report) == expected, str(report)


class LocalLearning:
    """A sound procedure of two blocks with a loss each; no gradient goes from the second to the first."""

    def __init__(self, model):
        self.first, self.second = model[:3], model[3:]
        self.head = nn.Linear(64, 3).to(next(model.parameters()))
        self.optimizer = torch.optim.SGD([*model.parameters(), *self.head.parameters()], lr=0.1)

    def step(self, inputs, labels):
        self.optimizer.zero_grad()
        features = self.first.train()(inputs)
        nn.functional.cross_entropy(self.head(features.flatten(1)), labels).backward()
        nn.functional.cross_entropy(self.second.train()(features.detach()), labels).backward()
        self.optimizer.step()

    def state_dict(self):
        return {"optimizer": self.optimizer.state_dict(), "head": self.head.state_dict()}

    def load_state_dict(self, state_dict):
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.head.load_state_dict(state_dict["head"])


class ForgetsHead(LocalLearning):
    def load_state_dict(self, state_dict):
        self.optimizer.load_state_dict(state_dict["optimizer"])


@pytest.mark.parametrize(("procedure", "expected"), [(LocalLearning, set()), (ForgetsHead, {"check_resume_is_exact"})])
def test_a_procedure_with_a_network_of_its_own_keeps_it_in_its_state(procedure, expected):
    report = check_training_procedure(lambda model, data: procedure(model), evaluations=64)
    assert failed(report) == expected, str(report)


def test_plain_training_steps_as_by_hand():
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    loss = PlainTraining(model, lr=0.5).step(torch.tensor([[2.0]]), torch.tensor([1]))
    assert loss.item() == pytest.approx(0.693147, abs=1e-6)
    assert model.weight.flatten().tolist() == [-0.5, 0.5]


def test_subject_binds_bad_values_and_refuses_its_own():
    subject = TrainingProcedureSubject(make=lambda model, data, **given: SharpnessAware(model, **given), evaluations=1)
    with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
        subject.use(radius=-1)
    with pytest.raises(ValueError, match="rounds must be at least 2, got 1"):
        TrainingProcedureSubject(make=plain, evaluations=1, rounds=1)
