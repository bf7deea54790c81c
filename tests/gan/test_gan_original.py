"""The adversarial losses, the best response and the Parzen window against theorem 1, loops and closed forms."""

import math
from functools import partial

import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import gaussian_kde, multivariate_normal

from paperweight.gan.gan_original import (
    gan_discriminator_loss,
    gan_generator_loss,
    optimal_discriminator,
    parzen_bandwidth,
    parzen_log_likelihood,
)
from paperweight.testing import FunctionSubject, LossSubject


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


def slow_discriminator(real, fake):
    """Equation 1 as the paper writes it, by probabilities."""
    value = sum(math.log(sigmoid(z)) for z in real.flatten().tolist()) / real.numel()
    return -value - sum(math.log(1 - sigmoid(z)) for z in fake.flatten().tolist()) / fake.numel()


def discriminator_loss(**given):
    return lambda real, fake: gan_discriminator_loss(**{"real_logits": real, "fake_logits": fake, **given})


def slow_nonsaturating(fake):
    return -sum(math.log(sigmoid(z)) for z in fake.flatten().tolist()) / fake.numel()


REAL, FAKE = 3 * normal(5, 2), 3 * normal(5, 2, seed=1)
SAMPLES, TEST = normal(7, 2, 3), normal(5, 2, 3, seed=1)

CONTRACT = {
    "gan_discriminator_loss": LossSubject(
        make=discriminator_loss,
        inputs=(REAL, FAKE),
        slow=slow_discriminator,
        differentiable=(0, 1),
        bad={"real_logits": (REAL[:0],), "fake_logits": (FAKE[:, :0],)},
    ),
    "gan_generator_loss": LossSubject(
        make=partial(partial, gan_generator_loss),
        inputs=(FAKE,),
        slow=slow_nonsaturating,
        bad={"form": ("", "saturating", None)},
    ),
    "optimal_discriminator": FunctionSubject(
        make=optimal_discriminator,
        arguments={"p_data": torch.rand(3, 2, generator=torch.Generator().manual_seed(0)), "p_model": torch.ones(3, 2)},
        bad={
            "p_data": (-torch.ones(3, 2), torch.full((3, 2), math.nan), torch.full((3, 2), math.inf)),
            "p_model": (torch.ones(3), -torch.ones(3, 2), torch.full((3, 2), math.inf)),
        },
    ),
    "parzen_bandwidth": FunctionSubject(
        make=parzen_bandwidth,
        arguments={"samples": SAMPLES, "validation": TEST},
        bad={"sigmas": ((), (0.0,), (1.0, -1.0))},
    ),
    "parzen_log_likelihood": FunctionSubject(
        make=parzen_log_likelihood,
        arguments={"samples": SAMPLES, "test": TEST, "sigma": 0.5},
        bad={
            "samples": (SAMPLES[:0], SAMPLES[:, :0]),
            "test": (TEST[:0], TEST[:, :1]),
            "sigma": (0.0, -1.0, math.inf, math.nan),
        },
    ),
}

# Two distributions on six atoms in hundredths: one with equal parts, one that the data lack, one that the model lacks.
DATA = torch.tensor([20, 5, 0, 30, 10, 35])
MODEL = torch.tensor([20, 40, 15, 25, 0, 0])


def logits_at(discriminator, counts):
    """The discriminator's logits of as many points of each atom as it has hundredths."""
    return discriminator.logit().repeat_interleave(counts)


def test_where_the_discriminator_cannot_tell_its_loss_is_log_4_and_the_generators_are_log_2():
    zeros = torch.zeros(3, 1, dtype=torch.float64)
    assert gan_discriminator_loss(zeros, zeros[:2]).item() == pytest.approx(math.log(4), rel=1e-15)
    assert gan_generator_loss(zeros, "minimax").item() == pytest.approx(-math.log(2), rel=1e-15)
    assert gan_generator_loss(zeros, "nonsaturating").item() == pytest.approx(math.log(2), rel=1e-15)


def test_value_at_the_best_response_is_twice_the_jensen_shannon_divergence_less_log_4():
    data, model = DATA.double() / 100, MODEL.double() / 100
    best = optimal_discriminator(data, model)
    value = -gan_discriminator_loss(logits_at(best, DATA), logits_at(best, MODEL)).item()
    divergence = sum(rel_entr(part.numpy(), (data + model).numpy() / 2).sum() for part in (data, model)) / 2
    assert 0.1 < divergence < math.log(2)
    assert value == pytest.approx(2 * divergence - math.log(4), rel=1e-13)


def test_the_best_response_is_where_the_discriminators_loss_is_stationary():
    both = (DATA > 0) & (MODEL > 0)
    logits = optimal_discriminator(DATA.double(), MODEL.double())[both].logit().requires_grad_()
    # The atoms that one of the two lacks are known for certain: their terms are 0.
    real = torch.cat([logits.repeat_interleave(DATA[both]), logits.new_full((int(DATA[~both].sum()),), 800.0)])
    fake = torch.cat([logits.repeat_interleave(MODEL[both]), logits.new_full((int(MODEL[~both].sum()),), -800.0)])
    gan_discriminator_loss(real, fake).backward()
    assert logits.grad.abs().max() < 1e-15


@pytest.mark.parametrize("logit", [-800.0, -30.0, -2.0, 0.0, 1.5, 30.0])
def test_derivatives_by_the_logit_are_minus_d_and_minus_one_less_d(logit):
    for form, expected in (("minimax", -sigmoid(max(logit, -700))), ("nonsaturating", -sigmoid(min(-logit, 700)))):
        leaf = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
        gan_generator_loss(leaf, form).backward()
        assert leaf.grad.item() == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_a_certain_discriminator_costs_its_logit_and_stops_the_minimax_generator_only():
    certain = torch.full((4,), -300.0)
    assert gan_discriminator_loss(-certain, certain).item() == 0
    assert gan_discriminator_loss(certain, -certain).item() == 600
    assert gan_generator_loss(certain, "minimax").item() == 0
    assert gan_generator_loss(certain, "nonsaturating").item() == 300


def test_minimax_is_the_generators_part_of_the_value_function():
    part = gan_discriminator_loss(torch.full((1,), 900.0).double(), FAKE)
    assert gan_generator_loss(FAKE, "minimax").item() == pytest.approx(-part.item(), rel=1e-15)


def test_discriminator_means_over_data_and_samples_each():
    # log 4 at logits 0, whatever their numbers, and log(4/3) + log 2 at logit log 3 of the data
    real = torch.full((7, 1), math.log(3.0))
    assert gan_discriminator_loss(real, torch.zeros(2)).item() == pytest.approx(math.log(8 / 3))


@pytest.mark.parametrize("empty", [(torch.zeros(0), torch.zeros(2)), (torch.zeros(2), torch.zeros(0, 1))])
def test_no_logits_are_refused(empty):
    with pytest.raises(ValueError, match=r"(real|fake)_logits must hold at least one value"):
        gan_discriminator_loss(*empty)
    with pytest.raises(ValueError, match="fake_logits must hold at least one value"):
        gan_generator_loss(torch.zeros(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_best_response_keeps_dtype_at_the_ends_of_the_range(dtype):
    tiny, huge = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    p_data = torch.tensor([0.0, 0.0, 1.0, tiny, huge, huge, 3.0], dtype=dtype, requires_grad=True)
    p_model = torch.tensor([0.0, 1.0, 0.0, tiny, huge, 0.0, 1.0], dtype=dtype)
    best = optimal_discriminator(p_data, p_model)
    assert best.dtype == dtype
    assert best.tolist() == [0.5, 0.0, 1.0, 0.5, 0.5, 1.0, 0.75]
    best.sum().backward()
    assert p_data.grad.isfinite().all()


def test_parzen_equals_a_loop_over_densities():
    for point, value in zip(TEST.flatten(1), parzen_log_likelihood(SAMPLES, TEST, 0.7), strict=True):
        density = sum(multivariate_normal(centre.numpy(), 0.49).pdf(point.numpy()) for centre in SAMPLES.flatten(1))
        assert value.item() == pytest.approx(math.log(density / len(SAMPLES)), rel=1e-11)


def test_parzen_is_scipys_kernel_density_with_the_same_kernel():
    # scipy's kernel has the covariance of the samples times a factor; turned white, that is the factor alone.
    points = normal(40, 2)
    centred = points - points.mean(dim=0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), centred.T, upper=False).T
    density = gaussian_kde(white.T.numpy(), bw_method=0.3)
    test = normal(9, 2, seed=1)
    expected = torch.from_numpy(density.logpdf(test.T.numpy()))
    torch.testing.assert_close(parzen_log_likelihood(white, test, 0.3), expected, rtol=1e-11, atol=0)


def test_parzen_likelihood_of_many_normal_samples_is_that_of_the_wider_normal():
    # The window adds its variance to that of the samples: 1 + 0.75 at sigma^2 = 0.75.
    # Samples at the middles of equally likely intervals are normal but for a small error.
    samples = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64)[:, None] + 0.5) / 20_000)
    test = torch.tensor([[0.0], [1.0], [-2.0]])
    expected = [-(x**2) / 3.5 - math.log(2 * math.pi * 1.75) / 2 for x in (0.0, 1.0, -2.0)]
    assert parzen_log_likelihood(samples, test, math.sqrt(0.75)).tolist() == pytest.approx(expected, rel=1e-3)


def test_parzen_in_parts_is_the_whole(monkeypatch):
    whole = parzen_log_likelihood(SAMPLES, TEST, 0.5)
    for pairs in (1, 15, 34):
        monkeypatch.setattr("paperweight.gan.gan_original._PAIRS", pairs)
        torch.testing.assert_close(parzen_log_likelihood(SAMPLES, TEST, 0.5), whole, rtol=1e-14, atol=0)


def test_parzen_far_from_all_samples_and_far_from_the_origin():
    centre = torch.full((2, 3), 4096.0)
    # Far away: one exponent of -1/2 (10^6)^2, which no exponential holds.
    value = parzen_log_likelihood(centre, centre[:1] + torch.tensor([1e6, 0.0, 0.0]), 1.0)
    assert value.item() == pytest.approx(-5e11 - 1.5 * math.log(2 * math.pi), rel=1e-15)
    # On samples that share a large offset: nothing of the distance is lost.
    near = torch.tensor([[0.0, 0.0, 0.0], [0.0, 2.0**-10, 0.0]], dtype=torch.float64)
    points = near + 2.0**20
    expected = parzen_log_likelihood(near, near[:1], 2.0**-10)
    torch.testing.assert_close(parzen_log_likelihood(points, points[:1], 2.0**-10), expected, rtol=1e-14, atol=0)


def test_parzen_is_float64_without_gradient_and_not_a_number_where_a_sample_is_none():
    samples = SAMPLES.float().requires_grad_()
    value = parzen_log_likelihood(samples, TEST.bfloat16(), 0.5)
    assert value.dtype == torch.float64
    assert not value.requires_grad
    broken = SAMPLES.clone()
    broken[0, 0, 0] = math.nan
    assert parzen_log_likelihood(broken, TEST, 0.5).isnan().all()


def test_bandwidth_of_one_sample_is_the_spread_around_it():
    # Under one Gaussian in D dimensions the likeliest width is the root of the mean square over all coordinates.
    points = 0.3 * normal(50, 4)
    likeliest = points.square().mean().sqrt().item()
    grid = [likeliest * factor for factor in (0.5, 0.9, 0.99, 1.0, 1.01, 1.1, 2.0)]
    assert parzen_bandwidth(torch.zeros(1, 4), points, grid) == likeliest
    assert parzen_bandwidth(torch.zeros(1, 4), points, grid[::-1]) == likeliest


def test_bandwidths_of_the_authors_are_ten_from_a_tenth_to_one_at_a_constant_ratio():
    default = parzen_bandwidth.__defaults__[0]
    assert list(default) == pytest.approx([10 ** (-1 + index / 9) for index in range(10)], rel=3e-3)
