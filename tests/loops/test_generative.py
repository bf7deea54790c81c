from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import ExponentialMovingAverage, fit_generator


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def denoising(model: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
    return F.mse_loss(model(batch + torch.randn(batch.shape, generator=generator)), batch)


def constant(value: float) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, value)
    return model


def test_equals_a_hand_written_loop_bit_for_bit_with_the_average_in_closed_form():
    data = torch.randn(6, 4, generator=seeded(1)).double()
    model, reference = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    reference.load_state_dict(model.state_dict())
    ema = ExponentialMovingAverage(model, decay=0.6)
    seen: list[tuple[int, float, Tensor]] = []
    losses = fit_generator(
        model.eval(),
        torch.optim.SGD(model.parameters(), lr=0.1),
        data,
        loss=denoising,
        steps=4,
        batch_size=3,
        generator=seeded(),
        ema=ema,
        on_step=lambda step, loss: seen.append((step, loss.item(), ema.average.weight.clone())),
    )
    assert model.training

    generator, expected, path = seeded(), [], [reference.weight.detach().clone()]
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for _ in range(2):
        order = torch.randperm(6, generator=generator)
        for chosen in (order[:3], order[3:]):
            noise = torch.randn(3, 4, generator=generator)
            loss = (reference(data[chosen] + noise) - data[chosen]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
            path.append(reference.weight.detach().clone())
    assert losses.tolist() == expected
    assert torch.equal(model.weight, reference.weight)
    assert [(step, loss) for step, loss, _ in seen] == list(enumerate(expected))
    for k, (_, _, average) in enumerate(seen, start=1):
        closed = 0.6**k * path[0] + sum(0.4 * 0.6 ** (k - i) * path[i] for i in range(1, k + 1))
        torch.testing.assert_close(average, closed, rtol=1e-12, atol=1e-12)


def test_without_average_and_with_schedule_the_global_random_state_is_untouched():
    model, state = nn.Linear(4, 4), torch.get_rng_state()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    fit_generator(
        model,
        optimizer,
        torch.ones(4, 4),
        loss=denoising,
        steps=3,
        batch_size=2,
        generator=seeded(),
        schedule=schedule,
    )
    assert schedule.get_last_lr() == [0.0125]
    assert torch.equal(torch.get_rng_state(), state)


def test_average_of_a_constant_model_converges_by_powers_of_the_decay():
    ema, model = ExponentialMovingAverage(constant(1.0), decay=0.5), constant(3.0)
    values = []
    for _ in range(4):
        ema.update(model)
        values.append(ema.average.weight.item())
    assert values == [2.0, 2.5, 2.75, 2.875]


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 3.0), (1.0, 1.0)])
def test_the_ends_of_the_decay_copy_or_keep(decay: float, expected: float):
    ema = ExponentialMovingAverage(constant(1.0), decay)
    ema.update(constant(3.0))
    assert ema.average.weight.item() == expected


def test_buffers_are_copied_whole():
    model = nn.BatchNorm1d(2)
    ema = ExponentialMovingAverage(model, decay=0.9)
    model(torch.randn(5, 2, generator=seeded()))
    ema.update(model)
    assert torch.equal(ema.average.running_mean, model.running_mean)
    assert ema.average.num_batches_tracked == 1


def test_the_average_is_a_separate_model_in_eval_mode_without_gradients():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    model(torch.ones(1, 2)).sum().backward()
    ema = ExponentialMovingAverage(model, decay=0.5)
    assert model.training
    assert model[0].weight.requires_grad
    assert not any(module.training for module in ema.average.modules())
    assert all(p.grad is None and not p.requires_grad for p in ema.average.parameters())
    before = model[0].weight.clone()
    nn.init.zeros_(ema.average[0].weight)
    assert torch.equal(model[0].weight, before)
    ema.update(model)
    torch.testing.assert_close(ema.average[0].weight, before / 2)


def test_resumes_from_its_state():
    model = constant(1.0)
    straight = ExponentialMovingAverage(model, decay=0.75)
    resumed = ExponentialMovingAverage(constant(7.0), decay=0.75)
    nn.init.constant_(model.weight, 5.0)
    straight.update(model)
    resumed.load_state_dict(straight.state_dict())
    for ema in (straight, resumed):
        nn.init.constant_(model.weight, 2.0)
        ema.update(model)
    assert straight.average.weight.item() == resumed.average.weight.item() == 0.75 * 2.0 + 0.25 * 2.0


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_bad_decay_is_named(decay: float):
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\], got"):
        ExponentialMovingAverage(constant(1.0), decay)


def test_another_structure_is_an_error():
    ema = ExponentialMovingAverage(nn.Linear(2, 2), decay=0.5)
    with pytest.raises(ValueError, match="zip"):
        ema.update(nn.Linear(2, 2, bias=False))
