"""The defense checks catch faulty defenses, each by the check that is meant to, and pass sound ones."""

from functools import partial

import pytest
import torch
from scipy.stats import norm
from torch import nn

from paperweight.testing import CheckReport, DefenseSubject, check_defense, defense


class Noise:
    """A sound defense: the mean of the outputs at noisy inputs; faulty ones replace its parts."""

    def __init__(self, model, sigma=0.1, draws=8, generator=None):
        if not sigma >= 0:
            raise ValueError(f"sigma must be at least 0, got {sigma}")
        self.model, self.sigma, self.draws, self.generator = model, sigma, draws, generator

    def __call__(self, inputs):
        if self.sigma == 0:
            return self.model(inputs)
        return torch.stack([self.model(self.noisy(inputs)) for _ in range(self.draws)]).mean(0)

    def noisy(self, inputs):
        return inputs + self.sigma * self.draw(inputs)

    def draw(self, inputs):
        return torch.randn(inputs.shape, generator=self.generator, dtype=inputs.dtype, device=inputs.device)


class GivesLabels(Noise):
    def __call__(self, inputs):
        return super().__call__(inputs).argmax(1)


class DividesByZero(Noise):
    def __call__(self, inputs):
        return super().__call__(inputs) / self.sigma * torch.tensor(0.0).log()


class RemembersFarInputs(Noise):
    """It looks better the farther an input is moved, since it then answers for another."""

    def noisy(self, inputs):
        far = (inputs - 0.5).abs().mean(dim=(1, 2, 3), keepdim=True) > 0.33
        return super().noisy(torch.where(far, 1 - inputs, inputs))


class Rounds(Noise):
    def noisy(self, inputs):
        return torch.round(8 * super().noisy(inputs)) / 8


class Detaches(Noise):
    def noisy(self, inputs):
        return super().noisy(inputs).detach()


class FreezesModel(Noise):
    def __init__(self, model, sigma=0.1, draws=8, generator=None):
        super().__init__(model.requires_grad_(False), sigma, draws, generator)


class LeavesHook(Noise):
    def __init__(self, model, sigma=0.1, draws=8, generator=None):
        super().__init__(model, sigma, draws, generator)
        model[0].register_forward_hook(lambda *_: None)


class ChangesInputs(Noise):
    def noisy(self, inputs):
        return super().noisy(inputs.clamp_(0, 1) if not inputs.requires_grad else inputs)


class DrawsGlobally(Noise):
    def draw(self, inputs):
        return torch.randn_like(inputs)


class OwnGenerator(Noise):
    def draw(self, inputs):
        self.generator = torch.Generator().manual_seed(0)
        return super().draw(inputs)


class SeedsGlobally(Noise):
    def draw(self, inputs):
        torch.manual_seed(0)
        return super().draw(inputs)


class Upcasts(Noise):
    def __call__(self, inputs):
        return super().__call__(inputs).double()


class DetourAtZero(Noise):
    def __call__(self, inputs):
        return self.model(inputs) * 3 / 3 if self.sigma == 0 else super().__call__(inputs)


FAULTY = {
    GivesLabels: "check_meets_protocol",
    DividesByZero: "check_meets_protocol",
    RemembersFarInputs: "check_stronger_attack_is_not_weaker",
    Detaches: "check_stronger_attack_is_not_weaker",
    Rounds: "check_gradients_are_not_masked",
    FreezesModel: "check_model_unmodified",
    LeavesHook: "check_model_unmodified",
    ChangesInputs: "check_inputs_unmodified",
    DrawsGlobally: "check_repeatable",
    OwnGenerator: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
    Upcasts: "check_dtype_and_device_preserved",
    DetourAtZero: "check_null",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def model_itself(model, generator=None):
    return model


def checked(make: type[Noise], **given) -> CheckReport:
    null = partial(make, sigma=0.0)
    return check_defense(make, random=True, tolerance=0.05, null=null, baseline=model_itself, **given)


def test_a_sound_defense_passes_every_check():
    report = checked(Noise)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values()}
    assert {check.__name__ for check in defense.DEFENSE_LAWS} <= {
        *FAULTY.values(),
        "check_null",
        "check_certificates_hold",
    }


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = checked(faulty)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


@pytest.mark.parametrize("masked", [Rounds, Detaches])
def test_a_masked_gradient_passes_where_the_attacker_gets_another(masked):
    report = checked(masked, attacked=lambda defended: defended.model)
    assert failed(report) == set(), str(report)


def test_without_a_gradient_the_attacker_must_be_given_one():
    (result, _) = checked(Detaches).failures
    assert "has no gradient; declare attacked" in str(result)


def saturated(model):
    """Logits so large that the softmax has no gradient; the attacks are not blinded by it."""
    return lambda inputs: 1e6 * model(inputs)


def test_saturation_is_no_masking():
    assert check_defense(saturated).passed


class Smoothed:
    """Randomized smoothing (Cohen, Rosenfeld and Kolter, 2019): the share of the votes at noisy inputs."""

    factor = 1.0

    def __init__(self, model, sigma=0.5, votes=400, generator=None):
        self.model, self.sigma, self.votes, self.generator = model, sigma, votes, generator

    def __call__(self, inputs):
        shape = (self.votes, *inputs.shape)
        noise = torch.randn(shape, generator=self.generator, dtype=inputs.dtype, device=inputs.device)
        labels = self.model((inputs + self.sigma * noise).flatten(0, 1)).argmax(1)
        classes = self.model(inputs[:1]).shape[1]
        return nn.functional.one_hot(labels, classes).to(inputs.dtype).unflatten(0, (self.votes, -1)).mean(0)

    def certify(self, inputs):
        share, labels = self(inputs).max(1)
        low = (share - 3 * (share * (1 - share) / self.votes).sqrt()).clamp(1e-6, 1 - 1e-3)
        radii = self.factor * self.sigma * torch.from_numpy(norm.ppf(low.numpy()))
        return labels, radii


class Overclaims(Smoothed):
    factor = 2.0


class Unbounded(Smoothed):
    factor = float("inf")


class Abstains(Smoothed):
    factor = -1.0


CERTIFY = {"random": True, "tolerance": 0.05, "certify": lambda defended, inputs: defended.certify(inputs)}


def test_a_sound_certificate_holds():
    report = check_defense(Smoothed, attacked=lambda defended: defended.model, **CERTIFY)
    assert report.passed, str(report)
    assert "check_certificates_hold" in {result.name for result in report.results}


@pytest.mark.parametrize("faulty", [Overclaims, Unbounded, Abstains])
def test_a_certificate_that_claims_too_much_or_nothing_is_caught(faulty):
    report = check_defense(faulty, attacked=lambda defended: defended.model, **CERTIFY)
    assert failed(report) == {"check_certificates_hold"}, str(report)


def test_the_radius_of_a_linear_model_is_found_to_a_tenth():
    def exact(factor, model, inputs):
        margin = model(inputs).diff(dim=1)[:, 0]
        distance = margin.abs() / (model[1].weight[1] - model[1].weight[0]).norm()
        return (margin > 0).long(), factor * distance

    for factor, holds in ((1.0, True), (1.1, True), (1.15, False)):
        report = check_defense(lambda model: model, certify=partial(exact, factor))
        assert report.passed == holds, str(report)


def test_subject_binds_bad_values():
    subject = DefenseSubject(make=Noise, random=True)
    assert subject.use().shape == (8, 3)
    with pytest.raises(ValueError, match="sigma must be at least 0, got -1"):
        subject.use(sigma=-1)
