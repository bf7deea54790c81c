from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from paperweight.loops import fit_views


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jitter(images: Tensor, generator: torch.Generator) -> Tensor:
    return images + torch.randn(images.shape, generator=generator)


def distance(first: Tensor, second: Tensor) -> Tensor:
    return (first - 2 * second).square().sum()


def test_equals_a_hand_written_loop_bit_for_bit():
    images = torch.randn(6, 4, generator=seeded(1))
    encoder = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    reference = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    reference.load_state_dict(encoder.state_dict())
    seen: list[tuple[int, float]] = []
    losses = fit_views(
        encoder,
        torch.optim.SGD(encoder.parameters(), lr=0.01, momentum=0.9),
        images,
        view=jitter,
        loss=distance,
        steps=4,
        batch_size=3,
        generator=seeded(),
        on_step=lambda step, loss: seen.append((step, loss.item())),
    )

    generator, expected = seeded(), []
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.01, momentum=0.9)
    for _ in range(2):
        order = torch.randperm(6, generator=generator)
        for chosen in (order[:3], order[3:]):
            left = images[chosen] + torch.randn(3, 4, generator=generator)
            right = images[chosen] + torch.randn(3, 4, generator=generator)
            loss = distance(reference(left), reference(right))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            expected.append(loss.item())
    assert losses.tolist() == expected
    assert seen == list(enumerate(expected))
    for trained, by_hand in zip(encoder.state_dict().values(), reference.state_dict().values(), strict=True):
        assert torch.equal(trained, by_hand)


def test_schedule_is_stepped_and_the_global_random_state_untouched():
    encoder = nn.Linear(4, 2)
    before, state = encoder.weight.clone(), torch.get_rng_state()
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 0))

    def run(steps: int) -> None:
        fit_views(
            encoder,
            optimizer,
            torch.ones(4, 4),
            view=jitter,
            loss=distance,
            steps=steps,
            batch_size=2,
            generator=seeded(),
            schedule=schedule,
        )

    run(1)
    after = encoder.weight.clone()
    run(3)
    assert not torch.equal(before, after)
    assert torch.equal(after, encoder.weight)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_images_is_an_error():
    encoder = nn.Linear(4, 2)
    with pytest.raises(ValueError, match="number of samples, must be at least 1, got 0"):
        fit_views(
            encoder,
            torch.optim.SGD(encoder.parameters(), lr=1.0),
            torch.ones(0, 4),
            view=jitter,
            loss=distance,
            steps=1,
            batch_size=2,
            generator=seeded(),
        )
