"""Laplacian smoothing against dense solves, closed forms, Monte Carlo and torch's own SGD."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import Parameter

from paperweight.optim.laplacian_smoothing import (
    LaplacianSmoothing,
    LaplacianSmoothingSGD,
    laplacian_smooth,
    noise_reduction_factor,
    smoothing_spectrum,
)
from paperweight.testing import FunctionSubject, OptimizerSubject


def wrapped_sgd(params, lr=0.1, **smoothing):
    return LaplacianSmoothing(torch.optim.SGD(params, lr=lr, momentum=0.9), **smoothing)


BAD_SMOOTHING = {"sigma": (-1.0, math.nan, math.inf), "order": (0, 1.5)}
CONTRACT = {
    "LaplacianSmoothingSGD": OptimizerSubject(
        make=partial(LaplacianSmoothingSGD, lr=0.1, momentum=0.9),
        bad={
            **BAD_SMOOTHING,
            "lr": (-0.1, math.nan),
            "momentum": (-0.1,),
            "dampening": (-0.1, math.nan),
            "weight_decay": (-0.1,),
        },
        null=partial(LaplacianSmoothingSGD, lr=0.1, sigma=0.0, momentum=0.9, weight_decay=0.01, nesterov=True),
        baseline=partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True),
    ),
    "LaplacianSmoothing": OptimizerSubject(
        make=wrapped_sgd,
        bad=BAD_SMOOTHING,
        null=partial(wrapped_sgd, sigma=0.0),
        baseline=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    ),
    "laplacian_smooth": FunctionSubject(
        make=laplacian_smooth,
        arguments={"gradient": torch.arange(12.0).reshape(3, 4) ** 2, "sigma": 2.0},
        bad={**BAD_SMOOTHING, "gradient": (torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.complex64))},
    ),
    "smoothing_spectrum": FunctionSubject(
        make=smoothing_spectrum, arguments={"n": 8}, bad={**BAD_SMOOTHING, "n": (0, -3)}
    ),
    "noise_reduction_factor": FunctionSubject(
        make=noise_reduction_factor, arguments={"n": 8}, bad={**BAD_SMOOTHING, "n": (0, -3)}
    ),
}

SIZES = (1, 2, 3, 5, 8, 17, 64)
SIGMAS = (0.05, 0.5, 1.0, 3.0, 10.0)
ORDERS = (1, 2, 3, 4, 5)


def dense_operator(n: int, sigma: float, order: int) -> np.ndarray:
    """I + (-1)^m sigma L^m, L built entry by entry; a ring of two meets its neighbour on both sides."""
    laplacian = np.zeros((n, n))
    for i in range(n):
        laplacian[i, i] -= 2
        laplacian[i, (i - 1) % n] += 1
        laplacian[i, (i + 1) % n] += 1
    return np.eye(n) + (-1) ** order * sigma * np.linalg.matrix_power(laplacian, order)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# The operator


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", SIZES)
def test_equals_a_dense_solve(n, order):
    gradient = normal(n)
    for sigma in SIGMAS:
        operator = dense_operator(n, sigma, order)
        expected = np.linalg.solve(operator, gradient.numpy())
        error = np.abs(laplacian_smooth(gradient, sigma, order).numpy() - expected).max()
        assert error <= 1e-15 * np.linalg.cond(operator) * 4 + 1e-14


@pytest.mark.parametrize("n", SIZES)
def test_spectrum_holds_the_eigenvalues_of_the_dense_operator(n):
    for sigma in SIGMAS:
        for order in ORDERS:
            half = smoothing_spectrum(n, sigma, order)
            ring = np.concatenate([half.numpy(), half.numpy()[1 : (n + 1) // 2]])
            expected = np.linalg.eigvalsh(dense_operator(n, sigma, order))
            np.testing.assert_allclose(np.sort(ring), expected, rtol=1e-12, atol=1e-11)


def test_inverse_row_has_its_closed_form():
    n = 17
    row = laplacian_smooth(torch.eye(n, dtype=torch.float64)[0], sigma := 3.0)
    r = (2 * sigma + 1 - math.sqrt(4 * sigma + 1)) / (2 * sigma)
    expected = [(r**d + r ** (n - d)) / ((1 - r**n) * math.sqrt(1 + 4 * sigma)) for d in range(n)]
    torch.testing.assert_close(row, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-14)


def test_hand_computed_rings():
    assert laplacian_smooth(torch.tensor([7.0]), 5.0).tolist() == [7.0]
    torch.testing.assert_close(laplacian_smooth(torch.tensor([1.0, 3.0]), 1.0), torch.tensor([1.8, 2.2]))
    # Three entries: the mean stays, what differs from it is divided by 1 + 3 sigma.
    torch.testing.assert_close(laplacian_smooth(torch.tensor([0.0, 0.0, 3.0]), 1.0), torch.tensor([0.75, 0.75, 1.5]))
    assert laplacian_smooth(torch.tensor(2.0), 1.0).shape == ()
    assert laplacian_smooth(torch.zeros(0, 3), 1.0).shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [4099, 130_003])
def test_long_rings_equal_the_sum_over_the_closed_form(n, dtype):
    gradient = normal(n)
    for sigma in SIGMAS:
        root = math.sqrt(1 + 4 * sigma)
        r = 2 * sigma / (2 * sigma + 1 + root)  # the closed form without cancellation at small sigma
        reach = math.ceil(math.log(1e-18) / math.log(r))
        expected = sum(r ** abs(d) * torch.roll(gradient, d) for d in range(-reach, reach + 1)) / root
        smooth = laplacian_smooth(gradient.to(dtype), sigma)
        resolution = torch.finfo(dtype).eps * gradient.abs().max().item()
        assert (smooth.double() - expected).abs().max() <= 8 * resolution


@pytest.mark.parametrize("order", [2, 3, 5])
def test_long_rings_of_high_order_solve_their_stencil(order):
    n = 20011
    gradient = normal(n)
    for sigma in SIGMAS:
        back = smooth = laplacian_smooth(gradient, sigma, order)
        for _ in range(order):
            back = 2 * back - torch.roll(back, 1) - torch.roll(back, -1)
        torch.testing.assert_close(smooth + sigma * back, gradient, rtol=0, atol=1e-13 * (1 + sigma * 4**order))


def test_extreme_strengths_are_the_identity_and_the_mean():
    gradient = normal(9)
    torch.testing.assert_close(laplacian_smooth(gradient, 5e-324), gradient, rtol=1e-14, atol=0)
    torch.testing.assert_close(laplacian_smooth(gradient, 1e300), gradient.mean().expand(9), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("n", [2, 17, 5003])
def test_algebraic_properties(n):
    u, v = normal(n, seed=1), normal(n, seed=2)
    for sigma in SIGMAS:
        for order in ORDERS:
            smooth = partial(laplacian_smooth, sigma=sigma, order=order)
            close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
            close(smooth(u).sum(), u.sum())
            close(smooth(torch.full((n,), 3.0, dtype=torch.float64)), torch.full((n,), 3.0, dtype=torch.float64))
            close(smooth(2 * u - 3 * v), 2 * smooth(u) - 3 * smooth(v))
            close(u @ smooth(v), smooth(u) @ v)
            close(smooth(torch.roll(u, 1)), torch.roll(smooth(u), 1))
            assert smooth(u).norm() <= u.norm()
        assert laplacian_smooth(u, sigma).max() < u.max()
        assert laplacian_smooth(u, sigma).min() > u.min()


@pytest.mark.parametrize("order", [1, 2])
def test_noise_variance_falls_by_the_factor(order):
    n, draws, sigma = 16, 4000, 1.0
    smooth = torch.stack([laplacian_smooth(noise, sigma, order) for noise in normal(draws, n)])
    squares = smooth.square().mean(dim=1)
    four_sigma = 4 * squares.std().item() / math.sqrt(draws)
    assert abs(squares.mean().item() - noise_reduction_factor(n, sigma, order)) < four_sigma < 0.05


def test_noise_factor_equals_the_dense_trace_and_its_limit():
    for n in SIZES:
        for sigma in SIGMAS:
            for order in ORDERS:
                inverse = np.linalg.inv(dense_operator(n, sigma, order))
                assert noise_reduction_factor(n, sigma, order) == pytest.approx(np.sum(inverse**2) / n, rel=1e-9)
    for sigma in SIGMAS:
        limit = (1 + 2 * sigma) / (1 + 4 * sigma) ** 1.5
        assert noise_reduction_factor(5001, sigma) == pytest.approx(limit, rel=1e-12)
    assert [round(noise_reduction_factor(4000, s), 3) for s in (0.5, 1, 3, 10)] == [0.385, 0.268, 0.149, 0.080]


def test_memory_format_changes_nothing():
    gradient = normal(4, 3, 5, 2)
    other = gradient.contiguous(memory_format=torch.channels_last)
    assert torch.equal(laplacian_smooth(other), laplacian_smooth(gradient))
    assert torch.equal(laplacian_smooth(gradient.flatten()), laplacian_smooth(gradient).flatten())
    assert torch.equal(laplacian_smooth(gradient.mT), laplacian_smooth(gradient.mT.contiguous()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_rounded_once(dtype):
    gradient = normal(3, 700, dtype=dtype)
    smooth = laplacian_smooth(gradient, 2.0)
    assert smooth.dtype == dtype
    assert torch.equal(smooth, laplacian_smooth(gradient.float(), 2.0).to(dtype))


def test_smoothing_is_differentiable_after_a_run_in_inference_mode():
    with torch.inference_mode():
        laplacian_smooth(torch.ones(11, dtype=torch.float64), 0.7)
    assert torch.autograd.gradcheck(lambda g: laplacian_smooth(g, 0.7), normal(11).requires_grad_())


def test_sparse_gradients_are_refused_and_nothing_moves():
    dense, embedding = Parameter(torch.ones(4)), nn.Embedding(5, 2, sparse=True)
    start = embedding.weight.detach().clone()
    for make in (partial(LaplacianSmoothingSGD, lr=0.1), wrapped_sgd):
        optimizer = make([dense, embedding.weight])
        (embedding(torch.tensor([1])).sum() + dense.sum()).backward()
        gradients = [dense.grad, embedding.weight.grad]
        with pytest.raises(ValueError, match=r"gradient must be dense and real, got torch\.sparse_coo"):
            optimizer.step()
        assert dense.grad is gradients[0]
        assert embedding.weight.grad is gradients[1]
        assert torch.equal(dense, torch.ones(4))
        assert torch.equal(embedding.weight, start)
        dense.grad = embedding.weight.grad = None


# The optimizer


VARIANTS = [
    {},
    {"momentum": 0.9, "dampening": 0.3},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.8, "weight_decay": 0.05, "nesterov": True},
]


def gradients_at(parameters: list[Parameter], step: int) -> None:
    for index, p in enumerate(parameters):
        p.grad = p.detach() + normal(*p.shape, seed=100 * step + index, dtype=p.dtype)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_without_smoothing_it_is_torch_sgd_bit_for_bit(options):
    ours, theirs = ([Parameter(normal(*s, dtype=torch.float32)) for s in ((1,), (2,), (3, 5))] for _ in range(2))
    smoothed = LaplacianSmoothingSGD(ours, lr=0.1, sigma=0.0, **options)
    plain = torch.optim.SGD(theirs, lr=0.1, **options)
    for step in range(6):
        for parameters, optimizer in ((ours, smoothed), (theirs, plain)):
            gradients_at(parameters, step)
            optimizer.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("order", [1, 2])
def test_trajectory_equals_a_dense_derivation(options, order):
    lr, sigma, n = 0.1, 1.5, 6
    momentum, dampening = options.get("momentum", 0.0), options.get("dampening", 0.0)
    decay, nesterov = options.get("weight_decay", 0.0), options.get("nesterov", False)
    inverse = np.linalg.inv(dense_operator(n, sigma, order))
    weight = Parameter(normal(2, 3))
    optimizer = LaplacianSmoothingSGD([weight], lr=lr, sigma=sigma, order=order, **options)
    w, buffer = weight.detach().numpy().ravel().copy(), None
    for step in range(8):
        noise = normal(2, 3, seed=step + 1)
        weight.grad = weight.detach() * 0.5 + noise
        optimizer.step()
        direction = inverse @ (0.5 * w + noise.numpy().ravel()) + decay * w
        buffer = direction if buffer is None else momentum * buffer + (1 - dampening) * direction
        w = w - lr * (direction + momentum * buffer if nesterov else buffer if momentum else direction)
        np.testing.assert_allclose(weight.detach().numpy().ravel(), w, rtol=1e-12, atol=1e-12)


def test_largest_stable_step_on_a_quadratic():
    n, sigma = 20, 1.0
    hessian = np.diag([0.5 if i % 2 else 2.0 for i in range(n)])
    limit = 2 / np.linalg.eigvals(np.linalg.inv(dense_operator(n, sigma, 1)) @ hessian).real.max()
    assert limit > 1.4 * 2 / hessian.max()

    def distance(lr: float) -> float:
        weight = Parameter(normal(n))
        optimizer = LaplacianSmoothingSGD([weight], lr=lr, sigma=sigma)
        for _ in range(3000):
            weight.grad = torch.from_numpy(hessian) @ weight.detach()
            optimizer.step()
        return weight.detach().norm().item()

    assert distance(0.99 * limit) < 1e-3
    assert distance(1.01 * limit) > 1e3


def test_groups_have_their_own_smoothing_and_it_may_change():
    start, gradient = normal(5), normal(5, seed=3)
    first, second = Parameter(start.clone()), Parameter(start.clone())
    optimizer = LaplacianSmoothingSGD([{"params": [first]}, {"params": [second], "sigma": 4.0, "order": 2}], lr=1.0)
    for weight in (first, second):
        weight.grad = gradient.clone()
    optimizer.step()
    assert torch.equal(first, start - laplacian_smooth(gradient, 0.05))
    assert torch.equal(second, start - laplacian_smooth(gradient, 4.0, 2))
    optimizer.param_groups[1]["sigma"] = 0.0
    before = second.detach().clone()
    optimizer.step()
    assert torch.equal(second, before - gradient)
    optimizer.param_groups[1]["sigma"] = -1.0
    with pytest.raises(ValueError, match=r"sigma must be .* got -1"):
        optimizer.step()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_momentum_without_dampening(options):
    with pytest.raises(ValueError, match="nesterov needs momentum above 0 and dampening 0"):
        LaplacianSmoothingSGD([torch.zeros(2)], lr=0.1, nesterov=True, **options)


# The wrapper


@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_wrapped_optimizer_equals_it_on_smoothed_gradients(base):
    ours, theirs = Parameter(normal(4, 3)), Parameter(normal(4, 3))
    wrapped, plain = LaplacianSmoothing(base([ours], lr=0.05), sigma=2.0), base([theirs], lr=0.05)
    inverse = torch.from_numpy(np.linalg.inv(dense_operator(12, 2.0, 1)))
    for step in range(6):
        gradients_at([ours], step)
        gradients_at([theirs], step)
        theirs.grad = (inverse @ theirs.grad.flatten()).reshape(4, 3)
        wrapped.step()
        plain.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_wrapped_sgd_equals_the_sgd_class():
    ours, theirs = Parameter(normal(7)), Parameter(normal(7))
    wrapped = LaplacianSmoothing(torch.optim.SGD([ours], lr=0.1, momentum=0.9, weight_decay=0.1), sigma=0.7, order=2)
    direct = LaplacianSmoothingSGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.1, sigma=0.7, order=2)
    for step in range(5):
        for weight, optimizer in ((ours, wrapped), (theirs, direct)):
            gradients_at([weight], step)
            optimizer.step()
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("make", [partial(LaplacianSmoothingSGD, lr=0.1, sigma=3.0), partial(wrapped_sgd, sigma=3.0)])
def test_clipping_after_a_step_sees_the_original_gradient(make):
    weight, gradient = Parameter(normal(9)), normal(9, seed=1)
    optimizer = make([weight])
    weight.grad = gradient.clone()
    optimizer.step()
    norm = nn.utils.clip_grad_norm_([weight], 1e9)
    torch.testing.assert_close(norm, gradient.norm())


def test_gradients_are_back_when_the_wrapped_step_fails():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            assert not torch.equal(weight.grad, gradient)
            raise RuntimeError("no step today")

    weight, gradient = Parameter(normal(4)), normal(4, seed=1)
    weight.grad = gradient
    with pytest.raises(RuntimeError, match="no step today"):
        LaplacianSmoothing(Failing([weight], lr=0.1)).step()
    assert weight.grad is gradient


@pytest.mark.parametrize("keep", [False, True])
def test_every_gradient_that_a_closure_makes_is_smoothed(keep):
    n, sigma = 8, 2.0
    curvature, inverse = torch.linspace(1, 3, n, dtype=torch.float64), np.linalg.inv(dense_operator(n, sigma, 1))
    seen = []

    class TwoCalls(torch.optim.SGD):
        def step(self, closure):
            for _ in range(2):
                with torch.enable_grad():
                    loss = closure()
                seen.append(weight.grad.clone())
                super().step()
            return loss

    weight = Parameter(normal(n))
    optimizer = LaplacianSmoothing(TwoCalls([weight], lr=0.1), sigma=sigma)
    w = weight.detach().numpy().copy()

    def closure():
        optimizer.zero_grad(set_to_none=not keep)
        loss = (curvature * weight**2).sum() / 2
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        for _ in range(2):
            raw = curvature.numpy() * w
            np.testing.assert_allclose(seen.pop(0), inverse @ raw, rtol=1e-11, atol=1e-12)
            w = w - 0.1 * inverse @ raw
        np.testing.assert_allclose(weight.detach().numpy(), w, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(weight.grad.numpy(), raw, rtol=1e-11, atol=1e-12)


def test_lbfgs_converges_on_smoothed_gradients():
    weight = Parameter(normal(6))
    optimizer = LaplacianSmoothing(torch.optim.LBFGS([weight], lr=0.5, max_iter=10), sigma=0.3)

    def closure():
        optimizer.zero_grad()
        loss = ((weight - 1) ** 2).sum()
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(6)]
    assert losses[-1] < 1e-6 * losses[0]


def test_schedulers_drive_both_classes():
    for make in (partial(LaplacianSmoothingSGD, momentum=0.9), wrapped_sgd):
        weight = Parameter(torch.ones(3))
        optimizer = make([weight], lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
        moves = []
        for _ in range(4):
            weight.grad = torch.ones(3)
            optimizer.param_groups[0]["momentum"] = 0.0
            before = weight.detach().clone()
            optimizer.step()
            scheduler.step()
            moves.append((before - weight.detach())[0].item())
        assert moves == pytest.approx([1.0, 1.0, 0.1, 0.1])
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=10)
        rates = []
        for _ in range(9):
            optimizer.step()
            cycle.step()
            rates.append(optimizer.param_groups[0]["lr"])
        assert max(rates) == pytest.approx(0.5, rel=0.05)
        assert rates[-1] < 1e-3


def test_state_and_smoothing_travel_through_a_copy_and_a_new_wrapper():
    weight = Parameter(normal(5))
    optimizer = LaplacianSmoothing(torch.optim.Adam([{"params": [weight], "sigma": 3.0}], lr=0.1))
    gradients_at([weight], 0)
    optimizer.step()
    assert optimizer.state is optimizer.optimizer.state
    twin_weight, twin = copy.deepcopy((weight, optimizer))
    fresh_weight = copy.deepcopy(weight)
    fresh = LaplacianSmoothing(torch.optim.Adam([fresh_weight], lr=0.7), sigma=0.1, order=2)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert fresh.param_groups is fresh.optimizer.param_groups
    assert (fresh.param_groups[0]["sigma"], fresh.param_groups[0]["order"]) == (3.0, 1)
    for current, given in ((weight, optimizer), (twin_weight, twin), (fresh_weight, fresh)):
        gradients_at([current], 1)
        given.step()
    assert torch.equal(weight, twin_weight)
    assert torch.equal(weight, fresh_weight)


def test_wrapping_twice_is_refused():
    with pytest.raises(ValueError, match="smooth only once"):
        LaplacianSmoothing(LaplacianSmoothing(torch.optim.SGD([torch.zeros(2)], lr=0.1)))


def test_state_of_an_unwrapped_optimizer_takes_the_default_smoothing():
    weight = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
    plain = torch.optim.SGD([weight], lr=1.0)
    wrapped = LaplacianSmoothing(torch.optim.SGD([weight], lr=0.5), sigma=1.0)
    wrapped.load_state_dict(plain.state_dict())
    weight.grad = torch.tensor([1.0, 3.0])
    wrapped.step()
    assert torch.allclose(weight.detach(), torch.tensor([1.0 - 1.8, 3.0 - 2.2]))
