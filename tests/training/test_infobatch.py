"""InfoBatch against every selection there is, gradients by hand, and a loop without it."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.testing import FunctionSubject, TrainingProcedureSubject
from paperweight.training.infobatch import InfoBatch, infobatch_selection


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Plain:
    """Epochs of shuffled batches, written out."""

    def __init__(self, model, data, *, generator):
        self.model, self.data, self.generator = model, data, generator
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def step(self):
        inputs, labels = self.data
        self.model.train()
        for batch in torch.randperm(len(inputs), generator=self.generator).split(8):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(inputs[batch]), labels[batch], reduction="none").mean().backward()
            self.optimizer.step()

    def state_dict(self):
        return {}

    def load_state_dict(self, state_dict): ...


def made(model: nn.Module, data: tuple[Tensor, ...], *, generator: torch.Generator, **given) -> InfoBatch:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    arguments = {"inputs": data[0], "labels": data[1], "epochs": 8, "batch_size": 8, **given}
    return InfoBatch(model, optimizer, generator=generator, **arguments)


CONTRACT = {
    "InfoBatch": TrainingProcedureSubject(
        make=made,
        evaluations=lambda training: training.samples,
        random=True,
        advance=lambda training, data, number: training.step(),
        bad={
            "ratio": (-0.1, 1.0, math.nan),
            "delta": (-0.1, 1.1),
            "epochs": (0, 1.5),
            "batch_size": (0, 2.0),
            "labels": (torch.zeros(3, dtype=torch.int64),),
            "inputs": (torch.zeros(0, 1, 4, 4),),
        },
        null=partial(made, ratio=0.0),
        baseline=Plain,
    ),
    "infobatch_selection": FunctionSubject(
        make=lambda **given: infobatch_selection(**{"generator": seeded(), **given}),
        arguments={"scores": torch.tensor([0.1, 5.0, 0.2, 0.3, 0.1])},
        bad={"scores": (torch.zeros(0), torch.zeros(2, 2)), "ratio": (-0.1, 1.0, math.nan)},
    ),
}

SCORES = torch.tensor([0.1, 4.0, 0.2, 0.3, 5.0, 0.1, 0.4])  # mean 1.44: five below it


def test_all_above_the_mean_stay_and_the_weights_add_up_to_all():
    for seed in range(20):
        index, weight = infobatch_selection(SCORES, 0.4, generator=seeded(seed))
        assert len(index) == 5
        assert index.tolist() == sorted(index.tolist())
        assert {1, 4} <= set(index.tolist())
        assert weight[(index == 1) | (index == 4)].tolist() == [1, 1]
        torch.testing.assert_close(weight.sum().item(), 7.0)


def test_expected_gradient_is_exactly_that_of_all_samples():
    """Of five samples below the mean three stay: every one of the ten choices is as likely."""
    gradients = torch.randn(7, 3, generator=seeded(3), dtype=torch.float64)
    seen: dict[tuple[int, ...], Tensor] = {}
    for seed in range(400):
        index, weight = infobatch_selection(SCORES, 0.4, generator=seeded(seed))
        seen[tuple(index.tolist())] = (weight.double()[:, None] * gradients[index]).sum(0)
    choices = {tuple(sorted((1, 4, *kept))) for kept in itertools.combinations((0, 2, 3, 5, 6), 3)}
    assert seen.keys() == choices
    mean = torch.stack([*seen.values()]).mean(0)
    torch.testing.assert_close(mean, gradients.sum(0), rtol=1e-6, atol=1e-6)


def test_every_choice_is_about_as_likely():
    left_out = torch.zeros(7)
    for seed in range(2_000):
        index, _ = infobatch_selection(SCORES, 0.4, generator=seeded(seed))
        left_out += 1 - torch.zeros(7).index_fill(0, index, 1)
    assert left_out[[1, 4]].tolist() == [0, 0]
    assert (left_out[[0, 2, 3, 5, 6]] / 2_000 - 0.4).abs().max() < 0.05


@pytest.mark.parametrize(
    ("scores", "ratio", "kept"),
    [
        ([1.0, 1.0, 1.0], 0.9, 3),  # none is below the mean
        ([math.inf] * 4, 0.5, 4),
        ([0.0, 1.0, math.nan], 0.9, 3),
        ([0.0, 9.0], 0.99, 2),  # one of those below stays
        ([0.0, 0.0, 0.0, 9.0], 0.99, 2),
        ([0.0, 0.0, 9.0], 0.0, 3),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 9.0], 0.5, 4),  # half of five is 2
    ],
)
def test_selections_at_the_edges(scores, ratio, kept):
    index, weight = infobatch_selection(torch.tensor(scores), ratio, generator=seeded())
    assert len(index) == kept
    torch.testing.assert_close(weight.sum().item(), float(len(scores)))


def problem(epochs: int, **given) -> tuple[InfoBatch, list[tuple[list[int], int]]]:
    """Make a training of 40 samples, and a note of the samples of each batch and how many there were."""
    inputs = torch.randn(40, 3, generator=seeded(1))
    labels = (inputs[:, 0] > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(3, 2)
    seen: list[list[int]] = []

    def loss(logits: Tensor, numbers: Tensor) -> Tensor:
        seen.append(numbers.tolist())
        return F.cross_entropy(logits, labels[numbers], reduction="none")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    training = InfoBatch(
        model, optimizer, inputs, torch.arange(40), epochs, batch_size=16, loss=loss, generator=seeded(), **given
    )
    return training, seen


def test_first_and_last_epochs_see_every_sample_once_and_others_fewer():
    training, seen = problem(epochs=8, delta=0.75)
    counts = []
    for _ in range(8):
        seen.clear()
        training.step()
        numbers = [number for batch in seen for number in batch]
        assert len(numbers) == len(set(numbers))
        counts.append(len(numbers))
    assert counts[0] == counts[6] == counts[7] == 40
    assert all(count < 40 for count in counts[1:6])
    assert training.samples == sum(counts)
    assert training.epoch == 8


def test_a_step_is_that_of_the_weighted_mean_by_hand():
    training, seen = problem(epochs=8)
    training.step()
    seen.clear()
    model, scores, generator = copy.deepcopy(training.model), training.scores.clone(), seeded()
    generator.set_state(training.generator.get_state())
    training.step()
    index, weight = infobatch_selection(scores, 0.5, generator=generator)
    order = torch.randperm(len(index), generator=generator)
    assert [index[order[start : start + 16]].tolist() for start in range(0, len(index), 16)] == seen
    inputs, labels = training.inputs, (training.inputs[:, 0] > 0).long()
    for start in range(0, len(index), 16):
        chosen = order[start : start + 16]
        logits = model(inputs[index[chosen]])
        losses = -logits.log_softmax(1)[torch.arange(len(chosen)), labels[index[chosen]]]
        (weight[chosen] * losses).sum().div(len(chosen)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.5 * parameter.grad
                parameter.grad = None
    torch.testing.assert_close(training.model.weight, model.weight)


def test_scores_are_the_latest_losses_without_weights_and_others_stay():
    training, seen = problem(epochs=8)
    training.step()
    before = training.scores.clone()
    assert before.isfinite().all()
    seen.clear()
    training.step()
    touched = torch.zeros(40, dtype=torch.bool)
    touched[[number for batch in seen for number in batch]] = True
    assert torch.equal(training.scores[~touched], before[~touched])
    assert not touched.all()
    training.optimizer.param_groups[0]["lr"] = 0.0
    seen.clear()
    training.step()
    again = [number for batch in seen for number in batch]
    expected = F.cross_entropy(training.model(training.inputs), (training.inputs[:, 0] > 0).long(), reduction="none")
    torch.testing.assert_close(training.scores[again], expected[again].detach())


def test_a_state_of_another_data_set_is_refused():
    training, _ = problem(epochs=2)
    state = training.state_dict()
    state["scores"] = state["scores"][:-1]
    with pytest.raises(ValueError, match="state_dict must be of 40 samples, got 39"):
        training.load_state_dict(state)
