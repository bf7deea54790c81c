"""Schedules against a scalar loop, conversions against each other, steps against Bayes, sampling of exact Gaussians."""

import math
from functools import partial

import pytest
import torch

from paperweight.generators.process import (
    NoiseSchedule,
    add_noise,
    cosine_schedule,
    ddim_step,
    ddpm_step,
    denoise,
    guided,
    linear_schedule,
    normal,
    renoise,
    split_prediction,
    target,
)
from paperweight.testing import CheckFailure, GaussianData, SamplerSubject
from paperweight.testing.sampler import sampler_checks


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=drawn(seed), dtype=torch.float64)


def cosine_by_hand(steps: int) -> list[float]:
    def f(t: int) -> float:
        return math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2

    share, shares = 1.0, []
    for t in range(steps):
        share *= 1 - min(1 - f(t + 1) / f(t), 0.999)
        shares.append(share)
    return shares


def linear_by_hand(steps: int, first: float, last: float) -> list[float]:
    share, shares = 1.0, []
    for t in range(steps):
        share *= 1 - (first + (last - first) * t / (steps - 1))
        shares.append(share)
    return shares


@pytest.mark.parametrize("steps", [1, 2, 50, 200, 1000])
def test_cosine_schedule_is_a_scalar_loop(steps: int):
    schedule = cosine_schedule(steps)
    assert schedule.abar.tolist() == pytest.approx(cosine_by_hand(steps), rel=1e-10)
    assert schedule.times.tolist() == list(range(steps))
    assert schedule.abar.dtype == torch.float64


def test_cosine_schedule_is_that_of_its_function_but_for_the_last_beta():
    # abar_t = f(t) / f(0) as the paper has it; only the last beta is clipped, from 1 to 0.999.
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    abar = cosine_schedule(1000).abar
    assert abar[:-1].tolist() == pytest.approx([value / f[0] for value in f[1:-1]], rel=1e-9)
    assert (abar[-1] / abar[-2]).item() == pytest.approx(0.001)


def test_linear_schedule_is_a_scalar_loop_and_has_the_published_end():
    assert linear_schedule().abar.tolist() == pytest.approx(linear_by_hand(1000, 1e-4, 0.02), rel=1e-10)
    assert linear_schedule(7, 0.1, 0.3).abar.tolist() == pytest.approx(linear_by_hand(7, 0.1, 0.3))
    assert linear_schedule().abar[-1].item() == pytest.approx(4.0358e-05, rel=1e-4)
    assert linear_schedule().abar[0].item() == pytest.approx(0.9999)


def test_a_thousand_times_are_thinned_to_250():
    whole = cosine_schedule(1000)
    thin = whole.subsample(250)
    times = [index * 999 // 249 for index in range(250)]
    assert times[:3] == [0, 4, 8]
    assert times[-2:] == [994, 999]
    assert thin.times.tolist() == times
    assert torch.equal(thin.abar, whole.abar[times])
    # The betas of the thin schedule, 1 - abar_i / abar_{i-1}, lead back to its shares.
    betas = [1 - thin.abar[i].item() / thin.previous(i) for i in range(250)]
    assert all(0 < beta < 1 for beta in betas)
    assert math.prod(1 - beta for beta in betas) == pytest.approx(whole.abar[-1].item())
    assert thin.previous(0) == 1
    assert thin.previous(7) == whole.abar[times[6]].item()


@pytest.mark.parametrize("count", [2, 3, 10, 200, 256, 1000])
def test_thinning_is_exact_at_every_number_of_steps(count: int):
    whole = cosine_schedule(count)
    for steps in range(2, min(count, 300) + 1):
        assert whole.subsample(steps).times.tolist() == [i * (count - 1) // (steps - 1) for i in range(steps)]
    assert whole.subsample(1).times.tolist() == [count - 1]
    assert len(whole.subsample(2).subsample(1)) == 1


@pytest.mark.parametrize("steps", [0, -1, 11, 2.0])
def test_thinning_refuses_other_numbers(steps):
    with pytest.raises(ValueError, match="steps must be a whole number from 1 to 10, got"):
        cosine_schedule(10).subsample(steps)


@pytest.mark.parametrize(
    ("abar", "times", "message"),
    [
        ([0.5, 0.9], [0, 1], "abar must fall"),
        ([0.9, 0.9], [0, 1], "abar must fall"),
        ([1.0, 0.9], [0, 1], "abar must fall"),
        ([0.9, 0.0], [0, 1], "abar must fall"),
        ([0.9, math.nan], [0, 1], "abar must fall"),
        ([0.9, 0.5], [0], "one shape"),
        ([], [], "one shape"),
        ([0.9, 0.5], [3, 3], "times must rise"),
    ],
)
def test_bad_schedules(abar, times, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(torch.tensor(abar), torch.tensor(times, dtype=torch.int64))


@pytest.mark.parametrize("bad", [0, -3, 2.5])
def test_bad_numbers_of_times(bad):
    for make in (cosine_schedule, linear_schedule):
        with pytest.raises(ValueError, match="steps must be a whole number of at least 1, got"):
            make(bad)


@pytest.mark.parametrize(("first", "last"), [(0.0, 0.1), (0.2, 0.1), (0.1, 1.0), (math.nan, 0.1)])
def test_bad_betas(first, last):
    with pytest.raises(ValueError, match="first and last must be 0 < first <= last < 1, got"):
        linear_schedule(10, first, last)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("abar", [0.9999, 0.37, 1e-6])
def test_every_prediction_leads_back_to_data_and_noise(prediction, abar: float):
    x, noise = gaussian(4, 2, 3, 3, seed=1), gaussian(4, 2, 3, 3, seed=2)
    z = add_noise(x, noise, abar)
    found = split_prediction(z, target(x, noise, abar, prediction), abar, prediction)
    for value, truth in zip(found, (x, noise), strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_any_output_stands_for_data_and_noise_that_make_z(prediction):
    z, output, abar = gaussian(3, 5), gaussian(3, 5, seed=1), torch.tensor([0.9, 0.5, 0.02]).double()
    x0, noise = split_prediction(z, output, abar, prediction)
    torch.testing.assert_close(add_noise(x0, noise, abar), z)
    torch.testing.assert_close(target(x0, noise, abar, prediction), output)
    for row in range(3):
        alone = split_prediction(z[row : row + 1], output[row : row + 1], abar[row].item(), prediction)
        torch.testing.assert_close(alone[0], x0[row : row + 1])


def test_values_by_hand():
    # abar 0.64: signal 0.8, spread 0.6.
    x, noise = torch.tensor([[2.0]]), torch.tensor([[-1.0]])
    assert add_noise(x, noise, 0.64).item() == pytest.approx(1.0)
    assert target(x, noise, 0.64, "v").item() == pytest.approx(0.8 * -1 - 0.6 * 2)
    assert ddim_step(x, noise, 0.36).item() == pytest.approx(0.6 * 2 - 0.8)


@pytest.mark.parametrize("index", [1, 7, 99])
def test_ddpm_step_is_the_product_of_two_gaussians(index: int):
    schedule = cosine_schedule(100)
    abar, before = schedule.abar[index].item(), schedule.previous(index)
    alpha = abar / before
    x0, z = gaussian(2_000, 1, seed=3), gaussian(2_000, 1, seed=4)
    # q(z' | x0) = N(sqrt(abar') x0, 1 - abar') times q(z | z') = N(sqrt(alpha) z', 1 - alpha), as functions of z'.
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (math.sqrt(before) * x0 / (1 - before) + math.sqrt(alpha) * z / (1 - alpha)) / precision
    stepped = ddpm_step(z, x0, abar, before, drawn(5))
    torch.testing.assert_close(stepped - mean, normal(z, drawn(5)) / math.sqrt(precision))


def test_the_mean_of_a_ddpm_step_is_that_of_ho_et_al_in_the_noise():
    # mu = (z - beta / sqrt(1 - abar) e) / sqrt(alpha), equation 11, where x0 is what z and e stand for.
    schedule = linear_schedule(50, 1e-3, 0.3)
    abar, before = schedule.abar[20].item(), schedule.previous(20)
    alpha = abar / before
    z, e = gaussian(6, 2), gaussian(6, 2, seed=1)
    x0 = (z - math.sqrt(1 - abar) * e) / math.sqrt(abar)
    mean = (z - (1 - alpha) / math.sqrt(1 - abar) * e) / math.sqrt(alpha)
    noise = math.sqrt((1 - alpha) * (1 - before) / (1 - abar)) * normal(z, drawn(2))
    torch.testing.assert_close(ddpm_step(z, x0, abar, before, drawn(2)), mean + noise)


def test_the_last_ddpm_step_is_the_data_and_draws_nothing():
    generator = drawn(1)
    state = generator.get_state()
    x0 = gaussian(5, 3).float()
    assert torch.equal(ddpm_step(torch.full((5, 3), 9.0), x0, 0.93, 1.0, generator), x0)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("index", [0, 3, 49])
def test_a_step_there_and_back_keeps_the_law(index: int):
    schedule, count = cosine_schedule(50), 200_000
    abar, before = schedule.abar[index].item(), schedule.previous(index)
    generator, x0 = drawn(6), torch.full((count, 1), 0.7, dtype=torch.float64)
    z = add_noise(x0, normal(x0, generator), abar)
    nearer = ddpm_step(z, x0, abar, before, generator)
    back = renoise(nearer, abar, before, generator)
    for value, share in ((nearer, before), (back, abar)):
        deviation = math.sqrt(1 - share)
        assert value.mean().item() == pytest.approx(0.7 * math.sqrt(share), abs=5 * deviation / math.sqrt(count) + 1e-9)
        assert value.std().item() == pytest.approx(deviation, abs=5 * deviation / math.sqrt(2 * count) + 1e-9)


def test_guidance_of_weight_1_is_the_condition_itself_and_else_it_is_linear():
    given, without = gaussian(2, 3, seed=1).float(), gaussian(2, 3, seed=2).float()
    assert guided(given, without, 1) is given
    assert torch.equal(guided(given, without, 0.0), without)
    torch.testing.assert_close(guided(given, without, 3.0), 3 * given - 2 * without)
    torch.testing.assert_close(
        guided(given, without, 5.0) + guided(given, without, -2.0), 2 * guided(given, without, 1.5)
    )


def test_noise_is_that_of_the_generator():
    assert torch.equal(normal(torch.zeros(3, 2), drawn(4)), torch.randn(3, 2, generator=drawn(4)))
    assert normal(torch.zeros(2, dtype=torch.float16), drawn()).dtype == torch.float16


def exact(schedule: NoiseSchedule):
    """Give from Gaussian data the network that predicts the noise as well as it can be."""
    signal, spread = schedule.abar.sqrt(), (1 - schedule.abar).sqrt()
    return lambda data: lambda z, t: data.noise(z, signal[t], spread[t])


FINE = cosine_schedule(16_384)


def ddim_of(steps: int):
    return partial(denoise, schedule=FINE.subsample(steps))


def ddpm():
    return partial(denoise, schedule=FINE.subsample(256), method="ddpm")


CHECKS = {
    **{
        f"ddim {name}": check
        for name, check in sampler_checks(
            SamplerSubject(
                make=lambda: ddim_of(256), network=exact(FINE), calls=256, of_steps=ddim_of, order=1, steps=64
            )
        ).items()
    },
    **{
        f"ddpm {name}": check
        for name, check in sampler_checks(
            SamplerSubject(make=ddpm, network=exact(FINE), calls=256, random=True)
        ).items()
    },
}


@pytest.mark.parametrize("name", CHECKS)
def test_sampling_of_exact_gaussians(name: str):
    CHECKS[name]()


def test_the_error_of_ddim_halves_as_the_steps_double():
    data = GaussianData(torch.zeros(1).double(), torch.full((1, 1), 0.25).double())
    unit = torch.ones(
        1, 1, dtype=torch.float64
    )  # the sampler is linear in its noise: where it takes 1 is its deviation
    errors = [abs(denoise(exact(FINE)(data), unit, schedule=FINE.subsample(n)).item() - 0.5) for n in (64, 128, 256)]
    assert errors[0] > 1e-3
    assert [errors[0] / errors[1], errors[1] / errors[2]] == pytest.approx([2, 2], rel=0.05)


def test_the_checks_find_times_that_are_wrong():
    # The network is told the number of the step in place of the time.
    wrong = NoiseSchedule(FINE.subsample(128).abar, torch.arange(128))
    subject = SamplerSubject(make=lambda: partial(denoise, schedule=wrong), network=exact(FINE), calls=128)
    with pytest.raises(CheckFailure, match=r"is .* and not"):
        sampler_checks(subject)["check_gaussian_moments"]()


@pytest.mark.parametrize("method", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_a_single_data_point_is_hit(method, steps: int):
    schedule = cosine_schedule(1000).subsample(steps)
    point = torch.tensor([[0.3, -0.8]]).double()

    def oracle(z, t):
        share = cosine_schedule(1000).abar[t][:, None]
        return (z - share.sqrt() * point) / (1 - share).sqrt()

    samples = denoise(oracle, gaussian(6, 2), schedule=schedule, method=method, generator=drawn(1))
    torch.testing.assert_close(samples, point.expand(6, 2), rtol=0, atol=1e-9)


def test_the_data_are_held_to_a_range_and_the_noise_is_not():
    # Shares 0.64 and 0.36, z = 2 and noise 0: x0 = 2 / 0.6 is held to 1 and leads to 0.8; there x0 = 1. With noise 1:
    # x0 = (2 - 0.8) / 0.6 = 2 is held to 1 and leads to 0.8 + 0.6 = 1.4; there x0 = (1.4 - 0.6) / 0.8 = 1.
    schedule = NoiseSchedule(torch.tensor([0.64, 0.36]).double(), torch.tensor([5, 8]))
    seen = []

    def network(z, t):
        seen.append((t.tolist(), z.tolist()))
        return torch.tensor([[0.0], [1.0]]).double()

    noise = torch.full((2, 1), 2.0).double()
    samples = denoise(network, noise, schedule=schedule, clamp=(-1.0, 1.0))
    torch.testing.assert_close(samples, torch.ones(2, 1).double())
    assert [times for times, _ in seen] == [[8, 8], [5, 5]]
    torch.testing.assert_close(torch.tensor(seen[1][1]), torch.tensor([[0.8], [1.4]]))
    free = denoise(network, noise, schedule=schedule)
    torch.testing.assert_close(free, torch.tensor([[2 / 0.6], [2.0]]).double())


def test_samples_carry_no_gradient():
    weight = torch.ones(1, requires_grad=True)
    assert not denoise(lambda z, t: weight * z, torch.ones(2, 1), schedule=cosine_schedule(3)).requires_grad


def test_methods_that_are_unknown_or_lack_a_generator():
    with pytest.raises(ValueError, match="method must be 'ddim' or 'ddpm', got 'euler'"):
        denoise(lambda z, t: z, torch.ones(1, 1), schedule=cosine_schedule(3), method="euler")
    with pytest.raises(ValueError, match="generator must be given for method 'ddpm'"):
        denoise(lambda z, t: z, torch.ones(1, 1), schedule=cosine_schedule(3), method="ddpm")
