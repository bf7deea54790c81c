from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.loops import evaluate_classifier, fit_classifier
from paperweight.nets import evaluating


@pytest.fixture(autouse=True)
def _fixed_weights() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(n: int = 30) -> tuple[Tensor, Tensor]:
    images = torch.randn(n, 1, 4, 4, generator=seeded(1))
    return images, images.mean(dim=(1, 2, 3)).mul(12).long().clamp(-1, 1) + 1


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def state(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_equals_a_hand_written_loop_bit_for_bit():
    images, labels = problem(30)
    model, reference = network(), network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = fit_classifier(model, optimizer, images, labels, steps=11, batch_size=8, generator=seeded())

    generator = seeded()
    by_hand = torch.optim.AdamW(reference.parameters(), lr=0.01)
    expected: list[float] = []
    while len(expected) < 11:
        order = torch.randperm(30, generator=generator)
        for start in (0, 8, 16):
            if len(expected) == 11:
                break
            chosen = order[start : start + 8]
            by_hand.zero_grad()
            loss = nn.CrossEntropyLoss()(reference(images[chosen]), labels[chosen])
            loss.backward()
            by_hand.step()
            expected.append(loss.item())
    assert losses.tolist() == expected
    assert same(state(model), state(reference))


def test_augmentation_loss_and_schedule_are_used_in_the_order_documented():
    images, labels = problem(8)
    targets = F.one_hot(labels, 3).float()
    calls: list[str] = []

    def augment(batch: Tensor, generator: torch.Generator) -> Tensor:
        calls.append("augment")
        return batch + torch.rand(batch.shape, generator=generator)

    class Count:
        def step(self) -> None:
            calls.append("schedule")

    model, reference = network(), network()
    losses = fit_classifier(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        images,
        targets,
        steps=2,
        batch_size=8,
        generator=seeded(),
        loss=F.mse_loss,
        augment=augment,
        schedule=Count(),
        on_step=lambda step, loss: calls.append(f"step {step}"),
    )
    assert calls == ["augment", "schedule", "step 0", "augment", "schedule", "step 1"]
    generator = seeded()
    order = torch.randperm(8, generator=generator)
    first = reference(images[order] + torch.rand(8, 1, 4, 4, generator=generator))
    assert losses[0].item() == (first - targets[order]).square().mean().item()


def test_two_runs_of_whole_epochs_equal_one_and_a_restored_generator_repeats():
    images, labels = problem(24)

    def run(*parts: int) -> tuple[Tensor, list[Tensor]]:
        model, generator = network(), seeded(5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        losses = [
            fit_classifier(model, optimizer, images, labels, steps=steps, batch_size=8, generator=generator)
            for steps in parts
        ]
        return torch.cat(losses), state(model)

    straight, weights = run(9)
    resumed, resumed_weights = run(3, 6)
    assert torch.equal(straight, resumed)
    assert same(weights, resumed_weights)
    again, _ = run(9)
    assert torch.equal(straight, again)


def test_trains_in_train_mode_and_touches_neither_data_nor_global_random_state():
    images, labels = problem(16)
    model = network().eval()
    kept, random_state = images.clone(), torch.get_rng_state()
    modes: list[bool] = []
    fit_classifier(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        images,
        labels,
        steps=2,
        batch_size=4,
        generator=seeded(),
        on_step=lambda step, loss: modes.append(all(module.training for module in model.modules())),
    )
    assert modes == [True, True]
    assert model.training
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_evaluation_equals_one_image_at_a_time(batch_size: int):
    images, labels = problem(30)
    model = network().double()
    model(images.double())
    model.eval()
    losses, correct = [], []
    for image, label in zip(images.double(), labels.tolist(), strict=True):
        logits = model(image[None])[0]
        losses.append((logits.exp().sum().log() - logits[label]).item())
        correct.append(max(range(3), key=logits.tolist().__getitem__) == label)
    assert 0 < sum(correct) < 30
    result = evaluate_classifier(model, images.double(), labels, batch_size=batch_size)
    assert result.correct.tolist() == correct
    assert result.accuracy == sum(correct) / 30
    assert result.loss == pytest.approx(sum(losses) / 30, rel=1e-12)


def test_evaluation_leaves_the_model_as_it_was_and_gives_an_ordinary_tensor():
    images, labels = problem(30)
    model = network()
    model[2].eval()
    before = state(model)
    result = evaluate_classifier(model, images, labels)
    assert [module.training for module in model] == [True, True, False, True, True]
    assert model.training
    assert same(state(model), before)
    assert not result.correct.is_inference()


def test_modes_come_back_after_an_error():
    model = network()
    model[2].eval()
    modes: list[bool] = []

    def fail() -> None:
        with evaluating(model):
            modes.extend(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not any(modes)
    assert [module.training for module in model] == [True, True, False, True, True]


def test_an_evaluation_cannot_be_changed():
    images, labels = problem(4)
    result = evaluate_classifier(network(), images, labels)
    with pytest.raises(AttributeError):
        result.accuracy = 1.0


def test_bad_arguments_are_named():
    images, labels = problem(8)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def fit(images: Tensor, labels: Tensor, steps: int = 1, batch_size: int = 4) -> None:
        fit_classifier(model, optimizer, images, labels, steps=steps, batch_size=batch_size, generator=seeded())

    with pytest.raises(ValueError, match=r"images and labels must have the same length, at least 1, got 8 and 7"):
        fit(images, labels[:7])
    with pytest.raises(ValueError, match=r"images and labels must have the same length, at least 1, got 0 and 0"):
        fit(images[:0], labels[:0])
    with pytest.raises(ValueError, match="steps must be at least 1, got -1"):
        fit(images, labels, steps=-1)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        fit(images, labels, batch_size=0)
    with pytest.raises(ValueError, match=r"images and labels must have the same length, at least 1, got 8 and 7"):
        evaluate_classifier(model, images, labels[:7])
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate_classifier(model, images, labels, batch_size=0)
