"""Lookahead against hand-computed cycles, slow loops, sums over end points, closed forms, Monte Carlo and torch."""

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import Parameter

from paperweight.optim.lookahead import Lookahead, noisy_quadratic_variance
from paperweight.testing import FunctionSubject, OptimizerSubject


def wrapped_sgd(params, lr=0.1, **lookahead):
    return Lookahead(torch.optim.SGD(params, lr=lr, momentum=0.9), **lookahead)


BAD = {"k": (0, -1, 1.5, True), "alpha": (0.0, -0.5, 1.1, math.nan)}
CONTRACT = {
    "Lookahead": OptimizerSubject(
        make=wrapped_sgd,
        bad={**BAD, "inner_state": ("none", "")},
        null=partial(wrapped_sgd, k=2, alpha=1.0),
        baseline=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    ),
    "noisy_quadratic_variance": FunctionSubject(
        make=noisy_quadratic_variance,
        arguments={"curvature": 0.5, "noise_variance": 2.0, "lr": 0.3},
        bad={
            **BAD,
            "curvature": (0.0, -1.0, math.nan, math.inf),
            "noise_variance": (-1.0, math.nan, math.inf),
            "lr": (0.0, -0.1, 5.0, math.nan, math.inf),
        },
    ),
}

INNER_STATES = ("maintain", "interpolate", "reset")
INNER = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1),
    "plain sgd": partial(torch.optim.SGD, lr=0.05),
    "adam": partial(torch.optim.Adam, lr=0.05),
    "amsgrad": partial(torch.optim.AdamW, lr=0.05, amsgrad=True),
    "rmsprop": partial(torch.optim.RMSprop, lr=0.05, momentum=0.5),
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def step_at(optimizer: torch.optim.Optimizer, parameters: list[Parameter], step: int) -> None:
    for index, p in enumerate(parameters):
        p.grad = p.detach() + normal(*p.shape, seed=100 * step + index, dtype=p.dtype)
    optimizer.step()


def fresh(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Parameter]:
    return [Parameter(normal(*shape, seed=7 + index, dtype=dtype)) for index, shape in enumerate(shapes)]


# The cycle


@pytest.mark.parametrize(
    ("inner_state", "ends"), [("maintain", (-8, -7.5)), ("interpolate", (-5, -6.375)), ("reset", (-4, -6))]
)
def test_two_cycles_by_hand(inner_state, ends):
    # Momentum 1/2, rate 1, gradients 8, 4, 0, 8, k = 2, alpha = 1/4.
    # Cycle 1: v = 8, 8; x = 0, -8, -16; back to 0 + (-16 - 0) / 4 = -4.
    # Maintained: v = 4, 10; x = -8, -18; back to -4 - 14 / 4 = -7.5.
    # Interpolated: v starts at 8 / 4 = 2, then 1, 8.5; x = -5, -13.5; back to -4 - 9.5 / 4 = -6.375.
    # Reset: v = 0, 8; x = -4, -12; back to -4 - 8 / 4 = -6.
    weight = Parameter(torch.zeros(1))
    inner = torch.optim.SGD([weight], lr=1.0, momentum=0.5)
    optimizer = Lookahead(inner, k=2, alpha=0.25, inner_state=inner_state)
    path = []
    for gradient in (8.0, 4.0, 0.0, 8.0):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        path.append(weight.item())
    assert path == [-8, -4, *ends]


def loop(x, noises, k, alpha, inner_state, lr, momentum):
    """Lookahead on SGD with momentum for one number with gradient x + noise, as the paper writes it."""
    slow, velocity, slow_velocity = x, 0.0, 0.0
    for cycle in range(0, len(noises), k):
        fast = slow
        for noise in noises[cycle : cycle + k]:
            velocity = momentum * velocity + fast + noise
            fast = fast - lr * velocity
        if len(noises) - cycle < k:
            return slow, fast
        slow = slow + alpha * (fast - slow)
        if inner_state == "interpolate":
            velocity = slow_velocity = slow_velocity + alpha * (velocity - slow_velocity)
        elif inner_state == "reset":
            velocity = 0.0
    return slow, slow


@pytest.mark.parametrize("inner_state", INNER_STATES)
@pytest.mark.parametrize(("k", "alpha", "count"), [(1, 0.7, 6), (3, 0.5, 9), (4, 0.8, 11), (5, 1.0, 12), (20, 0.5, 7)])
def test_equals_a_loop_over_numbers(inner_state, k, alpha, count):
    weight = Parameter(normal(3, 2))
    inner = torch.optim.SGD([weight], lr=0.2, momentum=0.6)
    optimizer = Lookahead(inner, k=k, alpha=alpha, inner_state=inner_state)
    starts, noises = weight.detach().flatten().tolist(), [normal(3, 2, seed=100 * t) for t in range(count)]
    for step in range(count):
        step_at(optimizer, [weight], step)
    with optimizer.slow_weights():
        slow = weight.detach().clone()
    for entry, start in enumerate(starts):
        noise = [drawn.flatten()[entry].item() for drawn in noises]
        ends = loop(start, noise, k, alpha, inner_state, lr=0.2, momentum=0.6)
        found = slow.flatten()[entry].item(), weight.detach().flatten()[entry].item()
        assert found == pytest.approx(ends, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("name", INNER)
def test_maintained_state_is_that_of_an_inner_optimizer_whose_weights_are_moved_by_hand(name):
    ours, theirs = fresh((4, 3), (), (2,)), fresh((4, 3), (), (2,))
    optimizer, inner = Lookahead(INNER[name](ours), k=3, alpha=0.4), INNER[name](theirs)
    slow = [p.detach().clone() for p in theirs]
    for step in range(8):
        step_at(optimizer, ours, step)
        step_at(inner, theirs, step)
        if step % 3 == 2:
            slow = [s + 0.4 * (p.detach() - s) for s, p in zip(slow, theirs, strict=True)]
            with torch.no_grad():
                for p, s in zip(theirs, slow, strict=True):
                    p.copy_(s)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", INNER)
def test_reset_state_is_that_of_a_new_inner_optimizer_in_each_cycle(name):
    (ours,), (theirs,) = fresh((4, 3)), fresh((4, 3))
    optimizer = Lookahead(INNER[name]([ours]), k=3, alpha=1.0, inner_state="reset")
    for cycle in range(3):
        inner = INNER[name]([theirs])
        for step in range(3 * cycle, 3 * cycle + 3):
            step_at(optimizer, [ours], step)
            step_at(inner, [theirs], step)
            assert torch.equal(ours, theirs)


def test_interpolated_averages_of_adam_are_averages_of_those_at_the_synchronisations():
    (weight,) = fresh((5,))
    inner = torch.optim.Adam([weight], lr=0.1, betas=(0.5, 0.75))
    optimizer = Lookahead(inner, k=2, alpha=0.25, inner_state="interpolate")
    first, second = torch.zeros(2, 5, dtype=torch.float64)
    for cycle in range(3):
        start = first, second
        for step in (2 * cycle, 2 * cycle + 1):
            gradient = weight.detach() + normal(5, seed=100 * step)
            first, second = 0.5 * first + 0.5 * gradient, 0.75 * second + 0.25 * gradient**2
            step_at(optimizer, [weight], step)
        first, second = (0.75 * old + 0.25 * new for old, new in zip(start, (first, second), strict=True))
        torch.testing.assert_close(inner.state[weight]["exp_avg"], first, rtol=1e-12, atol=0)
        torch.testing.assert_close(inner.state[weight]["exp_avg_sq"], second, rtol=1e-12, atol=0)
        assert inner.state[weight]["step"] == 2 * cycle + 2


def test_slow_weights_are_an_average_of_the_end_points():
    (weight,) = fresh((6,))
    start, alpha, k = weight.detach().clone(), 0.3, 4
    inner = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    optimizer, ends = Lookahead(inner, k=k, alpha=alpha), []
    inner.register_step_post_hook(lambda *_: ends.append(weight.detach().clone()))
    for step in range(6 * k):
        step_at(optimizer, [weight], step)
    expected = (1 - alpha) ** 6 * start
    expected = expected + sum(alpha * (1 - alpha) ** (5 - i) * end for i, end in enumerate(ends[k - 1 :: k]))
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_cycle_of_one_step_is_sgd_at_a_smaller_rate(momentum):
    (ours,), (theirs,) = fresh((7,)), fresh((7,))
    options = {"momentum": momentum, "weight_decay": 0.1}
    optimizer = Lookahead(torch.optim.SGD([ours], lr=0.2, **options), k=1, alpha=0.3)
    sgd = torch.optim.SGD([theirs], lr=0.06, **options)
    for step in range(10):
        step_at(optimizer, [ours], step)
        step_at(sgd, [theirs], step)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("inner_state", ["maintain", "interpolate"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", INNER)
def test_at_alpha_1_it_is_the_inner_optimizer_bit_for_bit(name, k, inner_state, dtype):
    shapes = ((3, 4), (5,), ())
    ours, theirs = fresh(*shapes, dtype=dtype), fresh(*shapes, dtype=dtype)
    optimizer = Lookahead(INNER[name](ours), k=k, alpha=1.0, inner_state=inner_state)
    inner = INNER[name](theirs)
    for step in range(7):
        step_at(optimizer, ours, step)
        step_at(inner, theirs, step)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# The noisy quadratic


@pytest.mark.parametrize("k", [1, 2, 5, 20])
@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0])
def test_variance_equals_the_formula_of_the_paper(k, alpha):
    for a, sigma2, lr in ((1.0, 1.0, 0.5), (0.1, 3.0, 1.0), (4.0, 0.5, 0.45), (1.0, 1.0, 1.0)):
        r = 1 - lr * a
        sgd = lr**2 * a**2 * sigma2 / (1 - r**2)
        numerator = alpha**2 * (1 - r ** (2 * k))
        expected = numerator / (numerator + 2 * alpha * (1 - alpha) * (1 - r**k)) * sgd
        found = noisy_quadratic_variance(a, sigma2, lr, k, alpha)
        assert found == pytest.approx(expected, rel=1e-12)
        assert found < sgd * (1 if alpha < 1 else 1 + 1e-12)
        assert sgd == pytest.approx(lr * a * sigma2 / (2 - lr * a), rel=1e-12)


@pytest.mark.parametrize(
    ("rate", "k", "alpha"), [(0.5, 5, 0.5), (1.8, 4, 0.8), (0.2, 3, 1.0), (2.0, 3, 0.5), (2.2, 5, 0.3)]
)
def test_variance_is_that_of_the_optimizer(rate, k, alpha):
    # In the last two SGD alone does not settle.
    a, copies = 2.0, 40_000
    weight = Parameter(torch.zeros(copies, dtype=torch.float64))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=rate / a), k=k, alpha=alpha)
    for step in range(60 * k):
        weight.grad = a * (weight.detach() - math.sqrt(3) * normal(copies, seed=step))
        optimizer.step()
    expected = noisy_quadratic_variance(a, 3.0, rate / a, k, alpha)
    assert weight.detach().square().mean().item() == pytest.approx(expected, rel=5 * math.sqrt(2 / copies))


def test_a_rate_at_which_nothing_settles_is_refused():
    assert noisy_quadratic_variance(1.0, 1.0, lr=2.5, k=1, alpha=0.5) > 0
    for lr, k, alpha in ((2.0, 5, 1.0), (2.0, 2, 0.5), (2.5, 2, 0.5), (2.5, 5, 0.5), (4.0, 1, 0.5)):
        with pytest.raises(ValueError, match=r"lr must be small enough .* take one below 2"):
            noisy_quadratic_variance(1.0, 1.0, lr, k, alpha)


# State


@pytest.mark.parametrize("inner_state", INNER_STATES)
@pytest.mark.parametrize("name", INNER)
def test_a_saved_run_goes_on_exactly_from_every_place_in_the_cycle(name, inner_state):
    shapes = ((3, 4), ())
    straight = fresh(*shapes)
    optimizer = Lookahead(INNER[name](straight), k=3, alpha=0.4, inner_state=inner_state)
    saves = []
    for step in range(8):
        saves.append(io.BytesIO())
        torch.save((straight, optimizer.state_dict()), saves[-1])
        step_at(optimizer, straight, step)
    for begin, save in enumerate(saves):
        save.seek(0)
        resumed, state = torch.load(save, weights_only=True)
        other = Lookahead(INNER[name](resumed), k=7, alpha=0.9)
        other.load_state_dict(state)
        assert other.param_groups is other.optimizer.param_groups
        assert other.state is other.optimizer.state
        for step in range(begin, 8):
            step_at(other, resumed, step)
        assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_loading_neither_changes_nor_shares_the_given_state():
    (weight,) = fresh((4,))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=0.1), k=2)
    step_at(optimizer, [weight], 0)
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    (other_weight,) = fresh((4,))
    other = Lookahead(torch.optim.SGD([other_weight], lr=0.1))
    other.load_state_dict(state)
    step_at(other, [other_weight], 1)
    assert state["param_groups"] == before["param_groups"]
    assert torch.equal(state["state"][0]["lookahead"]["weight"], before["state"][0]["lookahead"]["weight"])


def test_a_copy_goes_on_like_the_original():
    (weight,) = fresh((5,))
    optimizer = Lookahead(torch.optim.Adam([weight], lr=0.1), k=4, alpha=0.3)
    for step in range(6):
        step_at(optimizer, [weight], step)
    twin_weight, twin = copy.deepcopy((weight, optimizer))
    for step in range(6, 13):
        step_at(optimizer, [weight], step)
        step_at(twin, [twin_weight], step)
    assert torch.equal(weight, twin_weight)


def test_state_of_an_unwrapped_optimizer_begins_a_cycle():
    (weight,) = fresh((5,))
    plain = torch.optim.SGD([weight], lr=0.1, momentum=0.5)
    step_at(plain, [weight], 0)
    start, buffer = weight.detach().clone(), plain.state[weight]["momentum_buffer"].clone()
    optimizer = wrapped_sgd([weight], k=2, alpha=0.5)
    step_at(optimizer, [weight], 1)
    weight.detach().copy_(start)
    optimizer.load_state_dict(plain.state_dict())
    for step in (2, 3):
        gradient = weight.detach() + normal(5, seed=100 * step)
        buffer = 0.5 * buffer + gradient
        end = weight.detach() - 0.1 * buffer
        step_at(optimizer, [weight], step)
    torch.testing.assert_close(weight.detach(), (start + end) / 2, rtol=1e-12, atol=1e-14)


# Weights, groups and gradients


def test_slow_weights_come_and_go():
    frozen, weight = Parameter(torch.ones(2)), Parameter(torch.zeros(2))
    optimizer = Lookahead(torch.optim.SGD([frozen, weight], lr=1.0), k=3, alpha=0.5)
    seen = []

    def look_and_fail() -> None:
        with optimizer.slow_weights():
            seen.append(weight.tolist())
            raise RuntimeError("the evaluation failed")

    for _ in range(7):
        weight.grad = torch.tensor([-1.0, 2.0])
        optimizer.step()
        fast = weight.detach().clone()
        with pytest.raises(RuntimeError, match="the evaluation failed"):
            look_and_fail()
        assert torch.equal(weight, fast)
        assert frozen.tolist() == [1, 1]
    assert seen == [[0, 0]] * 2 + [[1.5, -3]] * 3 + [[3, -6]] * 2
    assert weight.tolist() == [4, -8]


@pytest.mark.parametrize("name", INNER)
def test_a_gradient_that_comes_late_moves_its_weight_from_where_it_is(name):
    early, late, alone = *fresh((3,), (4,)), fresh((3,), (4,))[1]
    start = late.detach().clone()
    optimizer, inner = Lookahead(INNER[name]([early, late]), k=3, alpha=0.5), INNER[name]([alone])
    for step in range(6):
        early.grad = normal(3, seed=step)
        if step > 3:
            late.grad, alone.grad = normal(4, seed=step), normal(4, seed=step)
            inner.step()
        optimizer.step()
    torch.testing.assert_close(late.detach(), (start + alone.detach()) / 2, rtol=1e-12, atol=1e-14)


def test_groups_have_their_own_cycles():
    first, second, third = (Parameter(torch.zeros(1)) for _ in range(3))
    groups = [{"params": [first]}, {"params": [second], "lookahead_k": 3, "lookahead_alpha": 1 / 3}]
    optimizer = Lookahead(torch.optim.SGD(groups, lr=1.0), k=2, alpha=0.5)
    paths = [[], [], []]
    for step in range(4):
        if step == 1:
            optimizer.add_param_group({"params": [third], "lr": 2.0})
        for weight, path in zip((first, second, third), paths, strict=True):
            weight.grad = torch.tensor([-1.0])
            path.append(weight)
        optimizer.step()
        paths = [[*path[:-1], path[-1].item()] for path in paths]
    assert paths[0] == [1, 1, 2, 2]
    assert paths[1] == pytest.approx([1, 2, 1, 2])
    assert paths[2] == [0, 2, 2, 4]
    for name, value in {"k": 0, "alpha": 2.0, "inner_state": "keep"}.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            optimizer.add_param_group({"params": [Parameter(torch.zeros(1))], f"lookahead_{name}": value})
    assert len(optimizer.param_groups) == len(optimizer.optimizer.param_groups) == 3


def test_settings_do_not_collide_with_those_of_the_inner_optimizer():
    (weight,) = fresh((3,))
    optimizer = Lookahead(torch.optim.RMSprop([weight], lr=0.1, alpha=0.9), alpha=0.5)
    assert (optimizer.param_groups[0]["alpha"], optimizer.param_groups[0]["lookahead_alpha"]) == (0.9, 0.5)


def test_tied_weights_stay_tied():
    embedding, head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
    head.weight = embedding.weight
    optimizer = Lookahead(torch.optim.SGD(nn.Sequential(embedding, head).parameters(), lr=0.1), k=2, alpha=0.5)
    start = embedding.weight.detach().clone()
    for _ in range(2):
        embedding.weight.grad = torch.ones(4, 3)
        optimizer.step()
    assert head.weight is embedding.weight
    torch.testing.assert_close(head.weight.detach(), start - 0.1)


def test_every_closure_call_belongs_to_one_inner_step():
    (weight,) = fresh((6,))
    start, ends = weight.detach().clone(), []
    inner = torch.optim.LBFGS([weight], lr=0.5, max_iter=4)
    inner.register_step_post_hook(lambda *_: ends.append(weight.detach().clone()))
    optimizer = Lookahead(inner, k=2, alpha=0.5)
    calls = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = ((weight - 1) ** 4).sum()
        loss.backward()
        calls.append(loss.item())
        return calls[-1]

    assert optimizer.step(closure) is calls[0]
    assert torch.equal(weight, ends[0])
    optimizer.step(closure)
    assert len(calls) > 3
    torch.testing.assert_close(weight.detach(), (start + ends[1]) / 2, rtol=1e-12, atol=1e-14)


def test_a_scheduler_drives_the_inner_rate():
    weight = Parameter(torch.zeros(1))
    optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), k=2, alpha=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    path = []
    for _ in range(4):
        weight.grad = torch.tensor([-8.0])
        optimizer.step()
        scheduler.step()
        path.append(weight.item())
    assert path == [8, 6, 8, 7.5]


def test_wrapping_twice_is_refused():
    with pytest.raises(ValueError, match="wrap it only once"):
        Lookahead(wrapped_sgd([torch.zeros(2)]))
