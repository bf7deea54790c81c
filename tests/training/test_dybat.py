"""HardBatches against rounds by hand, a loop over a list of pairs, and torch's own loader."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from paperweight.testing import FunctionSubject, TrainingProcedureSubject
from paperweight.training.dybat import HardBatches, hardest_batches


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Loader:
    """Epochs of a loader that does not shuffle."""

    def __init__(self, model, data):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        self.batches = DataLoader(TensorDataset(*data), batch_size=8, drop_last=True, generator=seeded())

    def step(self):
        self.model.train()
        for inputs, labels in self.batches:
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(inputs), labels).backward()
            self.optimizer.step()

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict): ...


def made(model: nn.Module, data: tuple[Tensor, ...], **given) -> HardBatches:
    """Make a training of four batches, of which a round has three, so that rounds end inside of calls."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return HardBatches(
        model, optimizer, **{"inputs": data[0], "labels": data[1], "delta": 0.8, "batch_size": 8, **given}
    )


CONTRACT = {
    "HardBatches": TrainingProcedureSubject(
        make=made,
        evaluations=8 * 32,
        advance=lambda training, data, number: training.step(),
        bad={
            "delta": (0.0, -0.1, 1.1, math.nan),
            "batch_size": (0, 2.0),
            "labels": (torch.zeros(3, dtype=torch.int64),),
            "inputs": (torch.zeros(0, 1, 4, 4),),
        },
        null=partial(made, delta=1.0),
        baseline=Loader,
    ),
    "hardest_batches": FunctionSubject(
        make=hardest_batches,
        arguments={"losses": torch.tensor([0.3, 2.0, 0.1, 0.9, 0.5])},
        bad={"losses": (torch.zeros(0), torch.zeros(2, 2)), "delta": (0.0, -0.1, 1.1, math.nan)},
    ),
}


@pytest.mark.parametrize(
    ("losses", "delta", "expected"),
    [
        ([0.3, 2.0, 0.1, 0.9, 0.5], 0.5, [1, 3]),  # two and a half are two
        ([0.3, 2.0, 0.1, 0.9, 0.5], 0.8, [0, 1, 3, 4]),
        ([0.3, 2.0, 0.1, 0.9, 0.5], 1.0, [0, 1, 2, 3, 4]),
        ([0.3, 2.0, 0.1, 0.9, 0.5], 0.1, [1]),  # none is one
        ([1.0, 2.0, 1.0, 1.0, 2.0, 1.0], 0.5, [0, 1, 4]),
        ([1.0] * 40, 0.25, list(range(10))),
        ([1.0, math.inf, 2.0, math.nan], 0.5, [1, 3]),
        ([7.0], 0.5, [0]),
    ],
)
def test_the_highest_losses_in_the_order_of_the_data(losses, delta, expected):
    assert hardest_batches(torch.tensor(losses), delta).tolist() == expected


def scripted(script: dict[int, list[float]], delta: float) -> tuple[HardBatches, list[int]]:
    """Make a training whose batches have the losses of a script, visit by visit, and a note of the visits."""
    left = {batch: iter(losses) for batch, losses in script.items()}
    visited: list[int] = []

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        batch = int(labels[0])
        visited.append(batch)
        return 0 * outputs.sum() + next(left[batch])

    model = nn.Linear(1, 1)
    numbers = torch.arange(len(script)).repeat_interleave(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    return HardBatches(model, optimizer, torch.zeros(len(numbers), 1), numbers, delta, 3, loss), visited


def test_half_of_four_batches_by_hand():
    """Losses 1 4 2 3: batches 1 and 3; then 1 0.5 2 2.5: 2 and 3; then 1 0.5 0.2 0.1: 0 and 1, long unseen or not."""
    script = {0: [1.0, 0.3], 1: [4.0, 0.5, 0.4], 2: [2.0, 0.2], 3: [3.0, 2.5, 0.1]}
    training, visited = scripted(script, 0.5)
    means = [training.step().item() for _ in range(2)]
    assert visited == [0, 1, 2, 3, 1, 3, 2, 3]
    torch.testing.assert_close(means, [2.5, (0.5 + 2.5 + 0.2 + 0.1) / 4])
    torch.testing.assert_close(training.losses, torch.tensor([1.0, 0.5, 0.2, 0.1]))
    assert training.next_round().tolist() == [0, 1]
    assert training.visits.tolist() == [1, 2, 2, 3]


def test_rounds_of_three_of_four_batches_go_on_in_the_next_call():
    script = {0: [1.0, 9.0, 0.0], 1: [4.0, 3.0, 3.0, 3.0], 2: [2.0, 0.5], 3: [3.0, 2.0, 2.0, 2.0]}
    training, visited = scripted(script, 0.75)
    training.step()
    training.step()
    assert visited == [0, 1, 2, 3, 1, 2, 3, 0]  # the round 0 1 3 has begun
    assert training.pending == [1, 3]
    training.step()
    assert visited[8:] == [1, 3, 0, 1]
    assert training.pending == [3]


def problem(**given) -> HardBatches:
    inputs = torch.randn(43, 3, generator=seeded(1))
    labels = (inputs[:, 0] + 0.5 * torch.randn(43, generator=seeded(2)) > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    return HardBatches(model, optimizer, inputs, labels, **{"batch_size": 4, **given})


@pytest.mark.parametrize("delta", [0.2, 0.5, 0.8])
def test_training_is_that_of_a_list_of_pairs_and_gradients_by_hand(delta):
    training, plain = problem(delta=delta), problem(delta=delta)
    for _ in range(6):
        training.step()
    weight, bias = (p.detach().clone() for p in plain.model.parameters())
    velocities = [torch.zeros(2, 3), torch.zeros(2)]
    noted = [(math.inf, number) for number in range(10)]
    chosen, updates = list(range(10)), 0
    while updates < 60:
        for number in chosen[: 60 - updates]:
            inputs, labels = plain.inputs[4 * number : 4 * number + 4], plain.labels[4 * number : 4 * number + 4]
            logarithms = (inputs @ weight.T + bias).log_softmax(1)
            noted[number] = (-logarithms[torch.arange(4), labels].mean().item(), number)
            errors = (logarithms.exp() - F.one_hot(labels, 2)) / 4
            gradients = errors.T @ inputs, errors.sum(0)
            for parameter, velocity, gradient in zip((weight, bias), velocities, gradients, strict=True):
                velocity.mul_(0.9).add_(gradient)
                parameter -= 0.5 * velocity
            updates += 1
        chosen = sorted(number for _, number in sorted(noted, reverse=True)[: int(delta * 10)])
    for parameter, expected in zip(training.model.parameters(), (weight, bias), strict=True):
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(training.losses, torch.tensor([loss for loss, _ in noted]), rtol=1e-3, atol=1e-4)


def test_a_round_changes_as_many_losses_as_it_has_batches_and_has_the_hardest():
    training = problem(delta=0.5)
    training.step()
    for _ in range(6):
        before, visits = training.losses.clone(), training.visits.clone()
        training.step()
        rounds = training.visits - visits
        assert rounds.sum() == 10
        assert rounds[before.argmax()] >= 1
        assert torch.equal(training.losses[rounds == 0], before[rounds == 0])
        assert (training.losses[rounds > 0] != before[rounds > 0]).all()
    assert training.visits.sum() == 70
    assert training.visits.min() < training.visits.max()


def test_samples_that_fill_no_batch_are_left_out_and_few_samples_are_one_batch():
    training = problem(delta=1.0)
    training.inputs[40:] = math.nan
    for _ in range(3):
        assert training.step().isfinite()
    assert training.visits.tolist() == [3] * 10
    few = problem(batch_size=64)
    expected = F.cross_entropy(few.model(few.inputs), few.labels)
    torch.testing.assert_close(few.step(), expected.detach())
    few.step()
    assert few.visits.tolist() == [2]


def test_a_state_of_other_batches_is_refused():
    state = problem().state_dict()
    with pytest.raises(ValueError, match="state_dict must be of 14 batches, got 10"):
        problem(batch_size=3).load_state_dict(state)


def test_a_state_does_not_change_with_the_training():
    training = problem()
    training.step()
    state = training.state_dict()
    kept = state["losses"].clone(), state["visits"].clone(), list(state["pending"])
    training.step()
    assert torch.equal(state["losses"], kept[0])
    assert torch.equal(state["visits"], kept[1])
    assert state["pending"] == kept[2]


def test_a_loaded_state_has_the_visits():
    training, fresh = problem(), problem()
    for _ in range(3):
        training.step()
    fresh.load_state_dict(training.state_dict())
    assert torch.equal(fresh.visits, training.visits)
    assert fresh.visits.sum() == 30
