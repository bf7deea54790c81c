"""XGrad against hand-computed steps, loops over numbers, torch's Nesterov momentum, and heavy balls on a quadratic."""

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch.nn import Parameter

from paperweight.optim.xgrad import XGrad
from paperweight.testing import OptimizerSubject


def wrapped_sgd(params, lr=0.1, **xgrad):
    return XGrad(torch.optim.SGD(params, lr=lr, momentum=0.9), **xgrad)


CONTRACT = {
    "XGrad": OptimizerSubject(
        make=wrapped_sgd,
        bad={"steps": (-1, -0.5, math.nan, math.inf, True)},
        null=partial(wrapped_sgd, steps=0),
        baseline=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
    ),
}

INNER = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=0.1),
    "damped sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, dampening=0.5, maximize=True),
    "adam": partial(torch.optim.Adam, lr=0.05),
    "adamw": partial(torch.optim.AdamW, lr=0.05, betas=(0.8, 0.9), weight_decay=0.2),
    "amsgrad": partial(torch.optim.AdamW, lr=0.05, betas=(0.5, 0.6), amsgrad=True),
    "nadam": partial(torch.optim.NAdam, lr=0.05),
}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def fresh(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Parameter]:
    return [Parameter(normal(*shape, seed=7 + index, dtype=dtype)) for index, shape in enumerate(shapes)]


def step_at(optimizer: torch.optim.Optimizer, parameters: list[Parameter], step: int) -> None:
    """Take a step by a gradient of 3 x + noise at the weights that the parameters hold."""
    for index, p in enumerate(parameters):
        p.grad = 3 * p.detach() + normal(*p.shape, seed=100 * step + index, dtype=p.dtype)
    optimizer.step()


def true_values(optimizer: XGrad, parameters: list[Parameter]) -> list[torch.Tensor]:
    with optimizer.true_weights():
        return [p.detach().clone() for p in parameters]


# SGD with momentum


def test_three_steps_by_hand():
    # Momentum 1/2, rate 1/4, s = 1, gradient 4 x from x = 1. v = 4, x = 0, and x - v / 4 = -1 is predicted;
    # v = 2 - 4 = -2, x = 1/2, predicted 1; v = -1 + 4 = 3, x = -1/4, predicted -1.
    weight = Parameter(torch.ones(1))
    optimizer = XGrad(torch.optim.SGD([weight], lr=0.25, momentum=0.5))
    path = []
    for _ in range(3):
        weight.grad = 4 * weight.detach()
        optimizer.step()
        path.append((true_values(optimizer, [weight])[0].item(), weight.item()))
    assert path == [(0, -1), (0.5, 1), (-0.25, -1)]


@pytest.mark.parametrize("steps", [1, 2, 0.5])
def test_gradients_on_a_quadratic_are_taken_ahead_by_the_velocity(steps):
    curvature, centre = normal(5, 5, seed=1), normal(5, seed=2)
    curvature = curvature @ curvature.T / 5
    (weight,) = fresh((5,))
    optimizer = XGrad(torch.optim.SGD([weight], lr=0.1, momentum=0.9), steps=steps)
    x, velocity = weight.detach().clone(), torch.zeros(5, dtype=torch.float64)
    for _ in range(20):
        optimizer.zero_grad()
        shift = weight - centre
        (shift @ curvature @ shift / 2).backward()
        expected = curvature @ (x - steps * 0.1 * velocity - centre)
        torch.testing.assert_close(weight.grad, expected, rtol=1e-11, atol=1e-13)
        optimizer.step()
        velocity = 0.9 * velocity + expected
        x = x - 0.1 * velocity
        torch.testing.assert_close(true_values(optimizer, [weight])[0], x, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.3, 0.9])
def test_as_many_steps_ahead_as_the_momentum_it_is_torchs_nesterov_momentum(momentum):
    ours, theirs = fresh((4, 3), (2,)), fresh((4, 3), (2,))
    optimizer = XGrad(torch.optim.SGD(ours, lr=0.1, momentum=momentum), steps=momentum)
    nesterov = torch.optim.SGD(theirs, lr=0.1, momentum=momentum, nesterov=True)
    for step in range(12):
        step_at(optimizer, ours, step)
        step_at(nesterov, theirs, step)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("steps", [1, 3, 0.25])
def test_predicted_weights_follow_a_recursion_of_their_own(steps):
    # With y = x - s lr v, v' = mu v + g: y' = y - lr (((1 + s) mu - s) v + (1 + s) g).
    (weight,) = fresh((6,))
    optimizer = XGrad(torch.optim.SGD([weight], lr=0.02, momentum=0.8), steps=steps)
    y, velocity = weight.detach().clone(), torch.zeros(6, dtype=torch.float64)
    for step in range(12):
        gradient = 3 * y + normal(6, seed=100 * step)
        y = y - 0.02 * (((1 + steps) * 0.8 - steps) * velocity + (1 + steps) * gradient)
        velocity = 0.8 * velocity + gradient
        step_at(optimizer, [weight], step)
        torch.testing.assert_close(weight.detach(), y, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 2])
def test_on_a_quadratic_of_one_curvature_it_is_a_heavy_ball_of_less_momentum(steps):
    # a (x - s lr v) = a x - s lr a v, so that v' = (mu - s lr a) v + a x.
    ours, theirs = fresh((3,)), fresh((3,))
    optimizer = XGrad(torch.optim.SGD(ours, lr=0.1, momentum=0.9), steps=steps)
    ball = torch.optim.SGD(theirs, lr=0.1, momentum=0.9 - steps * 0.1 * 3)
    for step in range(15):
        step_at(optimizer, ours, step)
        step_at(ball, theirs, step)
        torch.testing.assert_close(true_values(optimizer, ours)[0], theirs[0].detach(), rtol=1e-11, atol=1e-13)


# Adam


def loop(x, noises, steps, lr, betas, decay=0.0, eps=1e-8, amsgrad=False):
    """XGrad on AdamW for one number with gradient 3 x + noise; gives the true and the predicted weight."""
    m = v = largest = 0.0
    predicted = x
    for t, noise in enumerate(noises, start=1):
        g = 3 * predicted + noise
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        largest = max(largest, v) if amsgrad else v
        delta = m / (1 - betas[0] ** t) / (math.sqrt(largest / (1 - betas[1] ** t)) + eps)
        x = x - lr * decay * x - lr * delta
        predicted = x - steps * lr * delta
    return x, predicted


ADAMS = [
    (torch.optim.Adam, {"lr": 0.1, "betas": (0.9, 0.999)}, {}),
    (torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.8), "eps": 0.5}, {}),
    (torch.optim.AdamW, {"lr": 0.1, "betas": (0.9, 0.99)}, {"weight_decay": 0.3}),
    (torch.optim.AdamW, {"lr": 0.1, "betas": (0.5, 0.6), "amsgrad": True}, {"weight_decay": 0.0}),
]


@pytest.mark.parametrize(("adam", "options", "decay"), ADAMS, ids=lambda value: str(value))
@pytest.mark.parametrize("steps", [1, 3])
def test_adam_equals_a_loop_over_numbers(adam, options, decay, steps):
    (weight,) = fresh((7,))
    starts, noises = weight.tolist(), [normal(7, seed=100 * t) for t in range(10)]
    optimizer = XGrad(adam([weight], **options, **decay), steps=steps)
    for step in range(10):
        step_at(optimizer, [weight], step)
    found = zip(true_values(optimizer, [weight])[0].tolist(), weight.tolist(), strict=True)
    for entry, (start, pair) in enumerate(zip(starts, found, strict=True)):
        expected = loop(
            start, [n[entry].item() for n in noises], steps, decay=decay.get("weight_decay", 0.0), **options
        )
        assert pair == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("make", "error"), [(torch.optim.Adam, 1e-6), (torch.optim.NAdam, 0.8)])
def test_where_gradients_stay_the_same_it_predicts_the_next_step(make, error):
    (weight,) = fresh((4,))
    optimizer = XGrad(make([weight], lr=0.1))
    weight.grad = torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    optimizer.step()
    before, predicted = true_values(optimizer, [weight])[0], weight.detach().clone()
    optimizer.step()
    after = true_values(optimizer, [weight])[0]
    assert ((after - predicted).abs() < error * (after - before).abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", INNER)
def test_at_no_steps_ahead_it_is_the_inner_optimizer_bit_for_bit(name, dtype):
    ours, theirs = fresh((3, 4), (5,), (), dtype=dtype), fresh((3, 4), (5,), (), dtype=dtype)
    optimizer, inner = XGrad(INNER[name](ours), steps=0), INNER[name](theirs)
    for step in range(7):
        step_at(optimizer, ours, step)
        step_at(inner, theirs, step)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_without_momentum_it_is_the_inner_optimizer_bit_for_bit():
    ours, theirs = fresh((3, 4)), fresh((3, 4))
    optimizer, inner = XGrad(torch.optim.SGD(ours, lr=0.05)), torch.optim.SGD(theirs, lr=0.05)
    for step in range(4):
        step_at(optimizer, ours, step)
        step_at(inner, theirs, step)
        assert torch.equal(ours[0], theirs[0])


# State, weights and groups


@pytest.mark.parametrize("name", INNER)
def test_a_saved_run_goes_on_exactly(name):
    straight, saves = fresh((3, 4), (), dtype=torch.float32), []  # at another precision NAdam rounds what it loads
    optimizer = XGrad(INNER[name](straight), steps=2)
    for step in range(6):
        saves.append(io.BytesIO())
        torch.save((straight, optimizer.state_dict()), saves[-1])
        step_at(optimizer, straight, step)
    for begin, save in enumerate(saves):
        save.seek(0)
        resumed, state = torch.load(save, weights_only=True)
        other = XGrad(INNER[name](resumed), steps=7)
        other.load_state_dict(state)
        assert other.param_groups is other.optimizer.param_groups
        assert other.state is other.optimizer.state
        for step in range(begin, 6):
            step_at(other, resumed, step)
        assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
        assert all(map(torch.equal, true_values(optimizer, straight), true_values(other, resumed)))


def test_loading_neither_changes_nor_shares_the_given_state():
    (weight,), (twin,) = fresh((3,)), fresh((3,))
    optimizer, other = wrapped_sgd([weight]), wrapped_sgd([twin])
    step_at(optimizer, [weight], 0)
    state = optimizer.state_dict()
    kept = copy.deepcopy(state)
    other.load_state_dict(state)
    for step in range(1, 4):
        step_at(other, [twin], step)
    assert torch.equal(state["state"][0]["xgrad"], kept["state"][0]["xgrad"])
    assert set(state["state"][0]) == set(kept["state"][0]) == {"momentum_buffer", "xgrad"}


def test_the_state_of_an_unwrapped_optimizer_goes_on_from_the_weights_there_are():
    (weight,), (twin,) = fresh((3,)), fresh((3,))
    inner = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    step_at(inner, [weight], 0)
    optimizer = wrapped_sgd([twin])
    step_at(optimizer, [twin], 5)
    with torch.no_grad():
        twin.copy_(weight)
    optimizer.load_state_dict(copy.deepcopy(inner.state_dict()))
    for each, p in ((inner, weight), (optimizer, twin)):
        step_at(each, [p], 1)
    assert torch.equal(true_values(optimizer, [twin])[0], weight)
    assert not torch.equal(twin, weight)


def test_a_copy_goes_on_as_the_first():
    (weight,) = fresh((3,))
    optimizer = wrapped_sgd([weight])
    step_at(optimizer, [weight], 0)
    other = copy.deepcopy(optimizer)
    twin = other.param_groups[0]["params"][0]
    for step in range(1, 4):
        step_at(optimizer, [weight], step)
        step_at(other, [twin], step)
    assert twin is not weight
    assert torch.equal(weight, twin)
    assert torch.equal(true_values(optimizer, [weight])[0], true_values(other, [twin])[0])


def test_true_weights_come_and_go_and_change_no_run():
    (weight,), (alone,) = fresh((3,)), fresh((3,))
    optimizer, unseen = wrapped_sgd([weight]), wrapped_sgd([alone])

    def look_and_fail() -> None:
        with optimizer.true_weights():
            raise RuntimeError("the evaluation failed")

    for step in range(4):
        for each, p in ((optimizer, weight), (unseen, alone)):
            step_at(each, [p], step)
        with pytest.raises(RuntimeError, match="the evaluation failed"):
            look_and_fail()
        assert torch.equal(weight, alone)


def test_restored_weights_stay_and_may_be_changed():
    weight = Parameter(torch.zeros(1))
    optimizer = XGrad(torch.optim.SGD([weight], lr=1.0, momentum=0.5))
    weight.grad = torch.tensor([-1.0])
    optimizer.step()
    optimizer.restore()
    assert weight.item() == 1
    assert "xgrad" not in optimizer.state_dict()["state"][0]
    with torch.no_grad():
        weight.fill_(10.0)
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert (true_values(optimizer, [weight])[0].item(), weight.item()) == (10.5, 11)


def test_weights_that_are_restored_while_true_ones_are_looked_at_stay_true():
    weight = Parameter(torch.ones(2))
    optimizer = XGrad(torch.optim.SGD([weight], lr=0.1, momentum=0.9))
    weight.grad = torch.ones(2)
    optimizer.step()
    with optimizer.true_weights():
        optimizer.restore()
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.9))


def test_a_closure_is_called_once_at_the_predicted_weights():
    (ours,), (theirs,) = fresh((4,)), fresh((4,))
    plain, closed = wrapped_sgd([ours]), wrapped_sgd([theirs])
    seen = []
    for step in range(5):

        def closure(step: int = step) -> float:
            closed.zero_grad()
            loss = (1.5 * theirs.square() + normal(4, seed=100 * step) * theirs).sum()
            loss.backward()
            seen.append(theirs.detach().clone())
            return loss.item()

        before = ours.detach().clone()
        step_at(plain, [ours], step)
        assert closed.step(closure) == (1.5 * before.square() + normal(4, seed=100 * step) * before).sum().item()
        torch.testing.assert_close(seen[-1], before, rtol=1e-12, atol=1e-14)
    assert len(seen) == 5


def test_a_weight_that_gets_no_gradient_any_more_is_at_its_true_value():
    kept, left = fresh((3,), (3,))
    optimizer = wrapped_sgd([kept, left])
    for step in range(3):
        step_at(optimizer, [kept, left], step)
    true = true_values(optimizer, [left])[0]
    left.grad = None
    for step in range(3, 5):
        step_at(optimizer, [kept], step)
        assert torch.equal(left, true)


def test_groups_are_predicted_by_their_own_steps_and_rates():
    first, second, third = (Parameter(torch.zeros(1)) for _ in range(3))
    groups = [{"params": [first]}, {"params": [second], "lr": 2.0, "xgrad_steps": 3}]
    optimizer = XGrad(torch.optim.SGD(groups, lr=1.0, momentum=0.5), steps=2)
    optimizer.add_param_group({"params": [third], "xgrad_steps": 0})
    for weight in (first, second, third):
        weight.grad = torch.tensor([-1.0])
    optimizer.step()
    assert [weight.item() for weight in (first, second, third)] == [3, 8, 1]
    with pytest.raises(ValueError, match="steps must be finite and at least 0, got -1"):
        optimizer.add_param_group({"params": [Parameter(torch.zeros(1))], "xgrad_steps": -1})
    assert len(optimizer.param_groups) == len(optimizer.optimizer.param_groups) == 3


def test_a_scheduler_drives_the_inner_rate():
    weight = Parameter(torch.zeros(1))
    optimizer = XGrad(torch.optim.SGD([weight], lr=1.0, momentum=0.5))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    path = []
    for _ in range(3):
        weight.grad = torch.tensor([-8.0])
        optimizer.step()
        scheduler.step()
        path.append((true_values(optimizer, [weight])[0].item(), weight.item()))
    assert path == [(8, 16), (14, 20), (17.5, 21)]


@pytest.mark.parametrize("make", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.LBFGS, wrapped_sgd])
def test_an_optimizer_whose_state_does_not_tell_its_next_step_is_refused(make):
    inner = make([Parameter(torch.zeros(2))], lr=0.1)
    with pytest.raises(ValueError, match=f"optimizer must be SGD, Adam, .* got {type(inner).__name__}"):
        XGrad(inner)
