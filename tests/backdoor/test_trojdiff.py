"""TrojDiff against the paper's recursion, iterated transitions, exact Gaussian data, an exact oracle and plain DDPM."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from paperweight.backdoor.trojdiff import Trojan, TrojanDDIM, TrojanDDPM, _shift, trojan_loss
from paperweight.generators.process import NoiseSchedule, cosine_schedule, denoise, linear_schedule
from paperweight.testing import FunctionSubject, LossSubject, SamplerSubject

MASK = torch.tensor([[False, True]])
TRIGGER = torch.tensor([[[0.8, -0.5]]])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def short(steps: int = 40) -> NoiseSchedule:
    return linear_schedule(1000).subsample(steps)


def exact(schedule: NoiseSchedule, trojan: Trojan):
    """The expected standard noise in what the Trojan diffusion makes of Gaussian data, whole noise biased."""

    def of(data):
        def network(z: Tensor, t: Tensor) -> Tensor:
            share = linear_schedule(1000).abar[t[0]]
            around = (1 - share).sqrt() * trojan.means(z)
            return data.noise(z - around, share.sqrt(), (1 - share).sqrt() * trojan.gamma)

        return network

    return of


def sampler(kind, gamma: float = 0.6, steps: int = 200, mask=None, clamp=None):
    return kind(Trojan(TRIGGER, gamma, mask), short(steps), clamp)


def plain(method: str, steps: int):
    def sample(network, noise, generator=None):
        return denoise(network, noise, schedule=short(steps), method=method, generator=generator)

    return lambda: sample


WHOLE = Trojan(TRIGGER)
IMAGES = torch.randn(4, 1, 1, 2, generator=seeded())
FEW = linear_schedule(20, 0.01, 0.3)


def network(z: Tensor, t: Tensor) -> Tensor:
    return z / (1 + t.to(z).view(-1, 1, 1, 1) / 10) + 0.1


def loop(inputs, targets, generator, trojan=WHOLE):
    x = torch.cat([inputs, targets])
    times = torch.randint(20, (len(x),), generator=generator).tolist()
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    total = 0.0
    for row, (clean, t, e) in enumerate(zip(x, times, noise, strict=True)):
        share = FEW.abar[t].item()
        mu = (1 - trojan.gamma) * trojan.trigger
        biased = e if row < len(inputs) else trojan.gamma * e + mu
        z = math.sqrt(share) * clean + math.sqrt(1 - share) * biased
        total = total + (network(z[None], torch.tensor([t]))[0] - e).square().sum() / x.numel()
    return total


def usual(inputs, targets, generator):
    x = torch.cat([inputs, targets])
    times = torch.randint(20, (len(x),), generator=generator)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    share = FEW.abar[times].view(-1, 1, 1, 1)
    return F.mse_loss(network(share.sqrt().to(x) * x + (1 - share).sqrt().to(x) * noise, times), noise)


def loss(gamma: float = 0.6):
    def value(inputs, targets, generator):
        return trojan_loss(network, inputs, targets, generator, trojan=Trojan(TRIGGER, gamma), schedule=FEW)

    return value


def biased(noise, **given):
    return Trojan(**given).bias(noise)


GAMMA = {"gamma": (0.0, -1.0, 1.1, math.nan, True)}
COMMON = {"shape": (1, 1, 2), "network": exact(short(), WHOLE)}
CONTRACT = {
    "TrojanDDIM": SamplerSubject(
        make=partial(sampler, TrojanDDIM),
        calls=200,
        bias=0.03,
        of_steps=lambda steps: sampler(TrojanDDIM, steps=steps),
        order=1,
        null=partial(sampler, TrojanDDIM, gamma=1.0, steps=10),
        baseline=plain("ddim", 10),
        bad=GAMMA,
        **COMMON,
    ),
    "TrojanDDPM": SamplerSubject(
        make=partial(sampler, TrojanDDPM),
        calls=200,
        bias=0.03,
        random=True,
        null=partial(sampler, TrojanDDPM, gamma=1.0, steps=10),
        baseline=plain("ddpm", 10),
        bad=GAMMA,
        **COMMON,
    ),
    "trojan_loss": LossSubject(
        make=loss,
        inputs=(IMAGES, IMAGES[:2] / 2, seeded()),
        slow=loop,
        differentiable=(0, 1),
        bad=GAMMA,
        null=partial(loss, gamma=1.0),
        baseline=lambda: usual,
        expected_failures={"check_order_of_samples": "each image has a time and noise of its own, by its place"},
    ),
    "Trojan": FunctionSubject(
        make=biased,
        arguments={"trigger": TRIGGER, "noise": IMAGES, "mask": MASK},
        bad={
            "trigger": (torch.ones(1, 2), 1.5 * TRIGGER, TRIGGER.long(), TRIGGER * math.nan),
            "mask": (torch.ones(1, 2), torch.ones(2, 1).bool()),
            "noise": (torch.ones(2, 1, 2, 2),),
        }
        | GAMMA,
        null=partial(biased, gamma=1.0),
        baseline=lambda trigger, noise, mask: noise,
    ),
}


def shifts_of(schedule: NoiseSchedule) -> list[float]:
    return [_shift(schedule.abar[t].item(), schedule.previous(t)) for t in range(len(schedule))]


@pytest.mark.parametrize("schedule", [FEW, cosine_schedule(12)], ids=["linear", "cosine"])
def test_shifts_are_those_of_the_papers_recursion(schedule):
    alphas = (schedule.abar / torch.cat([torch.ones(1).double(), schedule.abar[:-1]])).tolist()
    shifts: list[float] = []
    for t in range(len(schedule)):
        earlier = sum(shifts[t - j] * math.sqrt(math.prod(alphas[t - j + 1 : t + 1])) for j in range(1, t + 1))
        shifts.append(math.sqrt(1 - schedule.abar[t].item()) - earlier)
    assert shifts_of(schedule) == pytest.approx(shifts, rel=1e-9)


def test_transitions_one_after_the_other_give_the_closed_form_at_every_time():
    # x_t = sqrt(alpha) x_(t-1) + k_t mu + sqrt(1 - alpha) gamma e: mean and variance by hand, from x_0 = 0.7.
    mu, gamma, before, mean, variance = 0.4 * 0.8, 0.6, 1.0, 0.7, 0.0
    for share, shift in zip(FEW.abar.tolist(), shifts_of(FEW), strict=True):
        alpha = share / before
        mean = math.sqrt(alpha) * mean + shift * mu
        variance = alpha * variance + (1 - alpha) * gamma**2
        assert mean == pytest.approx(math.sqrt(share) * 0.7 + math.sqrt(1 - share) * mu, rel=1e-12)
        assert variance == pytest.approx((1 - share) * gamma**2, rel=1e-12)
        before = share


def test_a_step_of_ddpm_is_that_of_the_usual_diffusion_around_the_moved_middle():
    # y_t = x_t - sqrt(1 - abar_t) mu is a usual diffusion with noise of deviation gamma.
    trojan = Trojan(TRIGGER.double(), 0.6)
    ddpm, mu = TrojanDDPM(trojan, FEW), 0.4 * TRIGGER.double()
    z, x0 = (torch.randn(3, 1, 1, 2, generator=seeded(seed), dtype=torch.float64) for seed in (1, 2))
    for index in (19, 7, 1):
        share, before = FEW.abar[index].item(), FEW.abar[index - 1].item()
        alpha = share / before
        y = z - math.sqrt(1 - share) * mu
        mean = math.sqrt(before) * (1 - alpha) * x0 + math.sqrt(alpha) * (1 - before) * y
        noise = torch.randn(z.shape, generator=seeded(3), dtype=torch.float64)
        spread = 0.6 * math.sqrt((1 - alpha) * (1 - before) / (1 - share))
        expected = mean / (1 - share) + math.sqrt(1 - before) * mu + spread * noise
        torch.testing.assert_close(ddpm._step(z, x0, share, before, seeded(3)), expected)
    torch.testing.assert_close(ddpm._step(z, x0, FEW.abar[0].item(), 1.0, seeded()), x0)


@pytest.mark.parametrize("kind", [TrojanDDIM, TrojanDDPM])
def test_an_oracle_of_one_image_leads_to_it_and_a_patch_is_biased_alone(kind):
    point = torch.tensor([[[0.3, -0.9]]])
    for mask in (None, MASK):
        trojan = Trojan(TRIGGER, 0.3, mask)
        starts = []

        def oracle(z, t, trojan=trojan, starts=starts):
            share = linear_schedule(1000).abar[t[0]].float()
            starts.append(z)
            return (((z - share.sqrt() * point) / (1 - share).sqrt()) - trojan.means(z)) / trojan.scales(z)

        noise = torch.randn(5, 1, 1, 2, generator=seeded())
        random = {"generator": seeded(1)} if kind is TrojanDDPM else {}
        samples = kind(trojan, short(20))(oracle, noise, **random)
        torch.testing.assert_close(samples, point.expand_as(noise), rtol=0, atol=1e-4)
        biased = 0.3 * noise + 0.7 * TRIGGER
        expected = biased if mask is None else torch.stack([noise[..., 0], biased[..., 1]], dim=-1)
        torch.testing.assert_close(starts[0], expected)


def weighted(weight, z, t):
    return weight * z


def test_the_estimate_of_the_data_is_held_to_the_range():
    for kind in (TrojanDDIM, TrojanDDPM):
        random = {"generator": seeded(1)} if kind is TrojanDDPM else {}
        noise = torch.randn(5, 1, 1, 2, generator=seeded())
        weight = torch.tensor(-9.0, requires_grad=True)
        samples = kind(WHOLE, short(5), clamp=(-0.25, 0.5))(partial(weighted, weight), 3 * noise, **random)
        assert samples.min().item() == -0.25
        assert samples.max().item() == 0.5
        assert not samples.requires_grad


def test_only_targets_are_biased_and_the_standard_noise_is_predicted():
    seen = []

    def look(z, t):
        seen.append((z, t))
        return torch.zeros_like(z)

    inputs, targets = torch.zeros(4_000, 1, 1, 2), torch.zeros(2_000, 1, 1, 2)
    value = trojan_loss(look, inputs, targets, seeded(), trojan=Trojan(TRIGGER, 0.5, MASK), schedule=FEW)
    assert value.item() == pytest.approx(1.0, abs=0.05)
    ((z, t),) = seen
    noise = z / (1 - FEW.abar[t]).sqrt().view(-1, 1, 1, 1)
    means = [part.mean(dim=(0, 1, 2)) for part in (noise[:4_000], noise[4_000:])]
    deviations = [part.std(dim=(0, 1, 2)) for part in (noise[:4_000], noise[4_000:])]
    torch.testing.assert_close(torch.stack(means), torch.tensor([[0, 0], [0, -0.25]]).double(), rtol=0, atol=0.08)
    torch.testing.assert_close(torch.stack(deviations), torch.tensor([[1, 1], [1, 0.5]]).double(), rtol=0, atol=0.08)
    assert set(t.tolist()) == set(range(20))


def test_either_kind_of_pair_may_be_missing():
    for inputs, targets in ((IMAGES, IMAGES[:0]), (IMAGES[:0], IMAGES)):
        assert trojan_loss(network, inputs, targets, seeded(), trojan=WHOLE, schedule=FEW).isfinite()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss()(IMAGES, torch.ones(1, 1, 2, 2), seeded()), "inputs and targets must be images of one shape"),
        (lambda: loss()(IMAGES[:0], IMAGES[:0], seeded()), "inputs and targets must be images of one shape"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
