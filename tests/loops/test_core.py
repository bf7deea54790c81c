from itertools import islice, pairwise

import pytest
import torch

from paperweight.loops import at_points, clip_gradients, index_batches, minimise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quadratic(start: float) -> tuple[torch.Tensor, torch.optim.SGD]:
    weight = torch.tensor(start, requires_grad=True)
    return weight, torch.optim.SGD([weight], lr=0.25)


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (12, 12), (5, 1)])
def test_an_epoch_holds_every_sample_exactly_once(n: int, batch_size: int):
    stream = index_batches(n, batch_size, seeded())
    epochs = [torch.cat(list(islice(stream, n // batch_size))) for _ in range(3)]
    for epoch in epochs:
        assert epoch.sort().values.tolist() == list(range(n))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


def test_left_over_samples_sit_out_one_epoch():
    stream = index_batches(10, 4, seeded())
    missing = set()
    for _ in range(50):
        epoch = torch.cat(list(islice(stream, 2))).tolist()
        assert len(set(epoch)) == 8
        missing |= set(range(10)) - set(epoch)
    assert missing == set(range(10))


def test_a_set_below_the_batch_size_is_one_batch():
    stream = index_batches(3, 8, seeded())
    for _ in range(5):
        assert next(stream).sort().values.tolist() == [0, 1, 2]


def test_all_orders_are_equally_likely():
    stream = index_batches(3, 3, seeded())
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(6000):
        order = tuple(next(stream).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert all(abs(count - 1000) < 5 * (6000 * 1 / 6 * 5 / 6) ** 0.5 for count in counts.values())


def test_the_generator_alone_decides_and_is_drawn_from_once_an_epoch():
    state = torch.get_rng_state()
    generator = seeded()
    first = torch.stack(list(islice(index_batches(8, 4, generator), 4)))
    rest = torch.stack(list(islice(index_batches(8, 4, generator), 4)))
    straight = torch.stack(list(islice(index_batches(8, 4, seeded()), 8)))
    assert torch.equal(torch.cat([first, rest]), straight)
    assert torch.equal(torch.get_rng_state(), state)


def test_indices_go_to_the_device_asked_for():
    assert next(index_batches(4, 2, seeded(), "meta")).device.type == "meta"


@pytest.mark.parametrize(("n", "batch_size", "name"), [(0, 4, "n, the number of samples,"), (4, 0, "batch_size")])
def test_bad_sizes_are_named_at_once(n: int, batch_size: int, name: str):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        index_batches(n, batch_size, seeded())


def test_gradient_descent_on_a_parabola_follows_its_closed_form():
    # With w <- w - lr * 2 w = w / 2 from 8, the weights are 8 / 2^k and the losses their squares.
    weight, optimizer = quadratic(8.0)
    losses = minimise(lambda scale: scale * weight.square(), optimizer, iter(lambda: 1.0, None), steps=4)
    assert losses.tolist() == [64.0, 16.0, 4.0, 1.0]
    assert weight.item() == 0.5
    assert not losses.requires_grad


def test_takes_no_more_batches_than_steps_and_no_more_steps_than_batches():
    weight, optimizer = quadratic(8.0)
    batches = iter([1.0] * 5)
    assert len(minimise(lambda scale: scale * weight.square(), optimizer, batches, steps=3)) == 3
    assert len(list(batches)) == 2
    assert len(minimise(lambda scale: scale * weight.square(), optimizer, [1.0, 1.0], steps=3)) == 2


def test_old_gradients_are_not_added():
    weight, optimizer = quadratic(8.0)
    weight.grad = torch.tensor(100.0)
    minimise(lambda scale: scale * weight.square(), optimizer, [1.0], steps=1)
    assert weight.item() == 4.0


def test_what_adds_up_the_gradients_lives_on_to_the_next_step():
    weight, sgd = quadratic(4.0)
    adding: list[int] = []

    def loss(step: int) -> torch.Tensor:
        value = weight.square()
        if step == 0:
            value.grad_fn.next_functions[0][0].register_hook(lambda *_: adding.append(1))
        return value

    minimise(loss, sgd, range(5), steps=5)
    assert len(adding) == 5


def test_schedule_steps_and_on_step_sees_the_updated_weight():
    weight, optimizer = quadratic(8.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 2 else 0.0)
    seen: list[tuple[int, float, float]] = []
    losses = minimise(
        lambda scale: scale * weight.square(),
        optimizer,
        [1.0] * 4,
        steps=4,
        schedule=schedule,
        on_step=lambda step, loss: seen.append((step, loss.item(), weight.item())),
    )
    assert seen == [(0, 64.0, 4.0), (1, 16.0, 2.0), (2, 4.0, 2.0), (3, 4.0, 2.0)]
    assert losses.tolist() == [64.0, 16.0, 4.0, 4.0]
    assert schedule.last_epoch == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_run_that_stays_infinite_ends_at_the_next_fiftieth_step_and_a_single_bad_loss_does_not_end_it(bad: float):
    weight, optimizer = quadratic(8.0)
    optimizer.param_groups[0]["lr"] = 0.0

    def run(bad_steps: range) -> torch.Tensor:
        factors = [bad if step in bad_steps else 1.0 for step in range(200)]
        return minimise(lambda factor: factor + 0 * weight, optimizer, factors, steps=200)

    diverged = run(range(60, 200))
    assert len(diverged) == 100
    assert diverged.isfinite().sum() == 60
    recovered = run(range(60, 61))
    assert len(recovered) == 200
    assert recovered.isfinite().sum() == 199


def test_bad_arguments_are_named():
    weight, optimizer = quadratic(8.0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        minimise(lambda scale: scale * weight, optimizer, [1.0], steps=0)
    with pytest.raises(ValueError, match="batches must hold at least one batch, got none"):
        minimise(lambda scale: scale * weight, optimizer, [], steps=1)


def test_clipped_gradients_keep_their_direction_and_small_ones_stay():
    first, second = (torch.zeros(1, requires_grad=True) for _ in range(2))
    sgd = torch.optim.SGD([{"params": [first]}, {"params": [second]}], lr=1.0)
    clip_gradients(sgd, norm=1.0)
    minimise(lambda slope: slope * (3 * first + 4 * second).sum(), sgd, [10.0], steps=1)
    assert first.item() == pytest.approx(-0.6, rel=1e-5)
    assert second.item() == pytest.approx(-0.8, rel=1e-5)
    minimise(lambda slope: slope * (3 * first + 4 * second).sum(), sgd, [0.1], steps=1)
    assert first.item() == pytest.approx(-0.9, rel=1e-5)
    assert second.item() == pytest.approx(-1.2, rel=1e-5)


def test_a_bound_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match=r"norm must be above 0, got 0\.0"):
        clip_gradients(quadratic(1.0)[1], norm=0.0)


@pytest.mark.parametrize(("points", "steps"), [(1, 7), (4, 12), (6, 200), (5, 5), (6, 4)])
def test_points_on_the_way_are_even_and_leave_out_the_end(points: int, steps: int):
    seen: list[int] = []
    on_step = at_points(points, steps, seen.append)
    for step in range(steps):
        on_step(step, torch.zeros(()))
    assert len(seen) == min(points, steps) - 1
    ends = [0, *seen, steps]
    gaps = [after - before for before, after in pairwise(ends)]
    assert max(gaps) - min(gaps) <= 1


def test_no_points_are_refused():
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        at_points(0, 10, print)
