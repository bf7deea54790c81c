"""The sampler checks catch faulty samplers, each by the check that is meant to, and pass four sound ones."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch import nn

from paperweight.testing import CheckReport, GaussianData, SamplerSubject, check_sampler, sampler


def denoiser(data):
    return lambda x, level: data.denoise(x, 1.0, level)


def levels(steps, highest=60.0, lowest=1e-3):
    """Noise levels whose fifth roots are evenly spaced."""
    return torch.linspace(highest**0.2, lowest**0.2, steps + 1, dtype=torch.float64).pow(5).tolist()


class Heun:
    """A sound sampler of the probability-flow equation dx/ds = (x - D(x, s)) / s; faulty ones replace its parts."""

    def __init__(self, steps=48, corrected=True, churn=0.0):
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps, self.corrected, self.churn = steps, corrected, churn

    def __call__(self, network, noise, generator=None):
        scale = levels(self.steps)
        x = scale[0] * noise
        for now, then in itertools.pairwise(scale):
            x, now = self.stir(x, now, generator)
            slope = self.slope(network, x, now)
            end = x + (then - now) * slope
            if self.corrected:
                slope = (slope + self.slope(network, end, then)) / 2
                end = x + (then - now) * slope
            x = end
        return x

    def stir(self, x, level, generator):
        if self.churn == 0:
            return x, level
        raised = level * (1 + self.churn)
        return x + math.sqrt(raised**2 - level**2) * self.draw(x, generator), raised

    def draw(self, x, generator):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)

    def slope(self, network, x, level):
        return (x - network(x, level)) / level


Euler = partial(Heun, corrected=False)
Churned = partial(Heun, churn=0.3)


class GivesTrajectory(Heun):
    def __call__(self, network, noise, generator=None):
        return [super().__call__(network, noise, generator)]


class EndsAtZero(Heun):
    def __call__(self, network, noise, generator=None):
        x = super().__call__(network, noise, generator)
        return x + 0 * (x - network(x, 1e-9)) * math.inf


class ForgetsToScale(Heun):
    def __call__(self, network, noise, generator=None):
        return super().__call__(network, noise / 10, generator)


class Doubles(Heun):
    """It integrates the equation of the reverse process without its noise."""

    def slope(self, network, x, level):
        return 2 * super().slope(network, x, level)


class OneMore(Heun):
    def __call__(self, network, noise, generator=None):
        network(noise, 1.0)
        return super().__call__(network, noise, generator)


class SlopeOfTheStart(Heun):
    """Its second slope is evaluated at the first point."""

    def __call__(self, network, noise, generator=None):
        scale = levels(self.steps)
        x = scale[0] * noise
        for now, then in itertools.pairwise(scale):
            first = self.slope(network, x, now)
            x = x + (then - now) * (first + self.slope(network, x, now)) / 2
        return x


class IgnoresSteps(Heun):
    def __init__(self, steps=48, corrected=True, churn=0.0):
        super().__init__(48, corrected, churn)


class SwitchesMode(Heun):
    def __call__(self, network, noise, generator=None):
        network.eval()
        return super().__call__(network, noise, generator)


class LeavesHook(Heun):
    def __call__(self, network, noise, generator=None):
        network.register_forward_hook(lambda *_: None)
        return super().__call__(network, noise, generator)


class ScalesInPlace(Heun):
    def __call__(self, network, noise, generator=None):
        return super().__call__(network, noise.mul_(1.0000001), generator)


class DrawsGlobally(Heun):
    def stir(self, x, level, generator):
        return x + 1e-3 * torch.randn_like(x), level


class SeedsGlobally(Heun):
    def stir(self, x, level, generator):
        torch.manual_seed(0)
        return x, level


class Upcasts(Heun):
    def __call__(self, network, noise, generator=None):
        return super().__call__(network, noise, generator).double()


FAULTY = {
    GivesTrajectory: "check_meets_protocol",
    EndsAtZero: "check_meets_protocol",
    ForgetsToScale: "check_gaussian_moments",
    Doubles: "check_gaussian_moments",
    OneMore: "check_network_calls",
    SlopeOfTheStart: "check_order_of_convergence",
    IgnoresSteps: "check_order_of_convergence",
    SwitchesMode: "check_network_unmodified",
    LeavesHook: "check_network_unmodified",
    ScalesInPlace: "check_noise_unmodified",
    DrawsGlobally: "check_repeatable",
    SeedsGlobally: "check_global_random_state",
    Upcasts: "check_dtype_and_device_preserved",
}


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.failures}


def checked(make: type[Heun]) -> CheckReport:
    null, baseline = partial(make, churn=0.0), make
    return check_sampler(make, network=denoiser, calls=96, of_steps=make, order=2, null=null, baseline=baseline)


def test_a_sound_sampler_passes_every_check():
    report = checked(Heun)
    assert report.passed, str(report)
    assert {result.name for result in report.results} == {*FAULTY.values(), "check_null"}
    assert {check.__name__ for check in sampler.SAMPLER_LAWS} <= {*FAULTY.values(), "check_null"}


@pytest.mark.parametrize("faulty", FAULTY, ids=lambda faulty: faulty.__name__)
def test_a_fault_is_caught_by_the_check_that_is_meant_to(faulty):
    report = checked(faulty)
    caught = {result.name: result for result in report.failures}
    assert FAULTY[faulty] in caught, str(report)
    assert not caught[FAULTY[faulty]].reason.startswith("it raised"), str(report)


def test_euler_is_of_order_1_and_not_of_order_2():
    declared = {"network": denoiser, "calls": 48, "bias": 0.2, "of_steps": Euler, "steps": 128}
    assert check_sampler(Euler, order=1, **declared).passed
    assert failed(check_sampler(Euler, order=2, **declared)) == {"check_order_of_convergence"}


def test_few_steps_must_declare_their_bias():
    assert failed(check_sampler(Euler, network=denoiser, calls=48)) == {"check_gaussian_moments"}
    assert check_sampler(Euler, network=denoiser, calls=48, bias=0.2).passed


def test_null_law_catches_one_bit():
    class Detour(Heun):
        def slope(self, network, x, level):
            return (x / level) - network(x, level) / level

    report = check_sampler(Heun, network=denoiser, calls=96, null=Detour, baseline=Heun)
    assert failed(report) == {"check_null"}


class TooMuchNoise(Heun):
    def stir(self, x, level, generator):
        x, raised = super().stir(x, level, generator)
        return x + 0.5 * level * self.draw(x, generator), raised


class OwnGenerator(Heun):
    def draw(self, x, generator):
        return super().draw(x, torch.Generator().manual_seed(int(1e6 * float(x.abs().sum()))))


def test_a_stochastic_sampler_passes_and_its_faults_are_caught():
    report = check_sampler(Churned, network=denoiser, calls=96, random=True, bias=0.05)
    assert report.passed, str(report)
    report = check_sampler(partial(TooMuchNoise, churn=0.3), network=denoiser, calls=96, random=True, bias=0.05)
    assert failed(report) == {"check_gaussian_moments"}
    report = check_sampler(partial(OwnGenerator, churn=0.3), network=denoiser, calls=96, random=True, bias=0.05)
    assert failed(report) == {"check_repeatable"}


def ancestral(network, noise, generator=None, steps=200):
    """The sampler of Ho, Jain and Abbeel (2020), on a network that predicts the noise."""
    betas = torch.linspace(1e-4, 0.08, steps, dtype=torch.float64)
    kept = (1 - betas).cumprod(0)
    x = noise
    for t in reversed(range(steps)):
        mean = (x - betas[t] / (1 - kept[t]).sqrt() * network(x, t)) / (1 - betas[t]).sqrt()
        before = kept[t - 1] if t else torch.ones((), dtype=torch.float64)
        spread = (betas[t] * (1 - before) / (1 - kept[t])).sqrt()
        x = mean + spread * torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    return x.to(noise.dtype)


def test_ancestral_sampling_passes():
    kept = (1 - torch.linspace(1e-4, 0.08, 200, dtype=torch.float64)).cumprod(0)

    def predictor(data):
        return lambda x, t: data.noise(x, kept[t].sqrt(), (1 - kept[t]).sqrt())

    report = check_sampler(lambda: ancestral, network=predictor, calls=200, random=True, bias=0.05)
    assert report.passed, str(report)


def flow(network, noise, steps=64):
    """Euler on the straight path from noise at 0 to data at 1."""
    x = noise
    for step in range(steps):
        x = x + network(x, step / steps) / steps
    return x


def test_flow_matching_passes():
    def velocity(data):
        return lambda x, t: data.denoise(x, t, 1 - t) - data.noise(x, t, 1 - t)

    def of_steps(steps):
        return partial(flow, steps=steps)

    report = check_sampler(
        partial(partial, flow), network=velocity, calls=64, bias=0.05, of_steps=lambda n: of_steps(n), order=1
    )
    assert report.passed, str(report)


def test_the_denoiser_is_the_mean_that_least_squares_finds():
    covariance = torch.tensor([[2.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    data = GaussianData(torch.tensor([1.0, -1.0], dtype=torch.float64), covariance)
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2, 200_000, 2, generator=generator, dtype=torch.float64)
    x = data.mean + normal[0] @ torch.linalg.cholesky(covariance).T
    y = 0.8 * x + 0.6 * normal[1]
    design = torch.cat([y, torch.ones(len(y), 1, dtype=torch.float64)], dim=1)
    for truth, exact in ((x, data.denoise), (normal[1], data.noise)):
        fitted = design @ torch.linalg.lstsq(design, truth).solution
        assert float((fitted - exact(y, 0.8, 0.6)).abs().max()) < 0.05
        assert float((fitted - exact(y, 0.8, 0.6)).abs().mean()) < 0.005


def test_subject_binds_bad_values_and_refuses_its_own():
    subject = SamplerSubject(make=Heun, network=denoiser, calls=96)
    assert isinstance(subject.use(), torch.Tensor)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        subject.use(steps=0)
    with pytest.raises(ValueError, match="of_steps and order must be given together"):
        SamplerSubject(make=Heun, network=denoiser, calls=96, order=2)


class ForImages(Heun):
    """It gives the network one level an image."""

    def slope(self, network, x, level):
        return super().slope(network, x, torch.full((len(x), 1, 1, 1), level, dtype=x.dtype, device=x.device))


def test_a_sampler_of_images_gets_images():
    report = check_sampler(ForImages, network=denoiser, calls=96, shape=(1, 1, 2), of_steps=ForImages, order=2)
    assert report.passed, str(report)
    with pytest.raises(ValueError, match="shape must have two entries"):
        SamplerSubject(make=Heun, network=denoiser, calls=96, shape=(1, 4, 4))
    with pytest.raises(ValueError, match="sigma must be one number for all samples"):
        GaussianData(torch.zeros(1), torch.ones(1, 1)).denoise(torch.zeros(2, 1), 1.0, torch.tensor([1.0, 2.0]))


def test_the_network_is_a_module_with_a_parameter():
    seen = []

    def look(network, noise):
        seen.append((isinstance(network, nn.Module), next(network.parameters()).dtype))
        return noise

    SamplerSubject(make=lambda: look, network=denoiser, calls=0).use()
    assert seen == [(True, torch.float32)]
