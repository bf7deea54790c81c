"""Full-batch training against double backpropagation, quadratics in closed form, and the update written out."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.studies.training.full_batch_training import _without_dropout
from paperweight.testing import FunctionSubject, PlainTraining, TrainingProcedureSubject
from paperweight.training.full_batch_training import FullBatchTraining, penalised_gradient


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class WholeBatch:
    """An update on all examples, written out."""

    def __init__(self, model: nn.Module, data: tuple[Tensor, ...]) -> None:
        self.plain, self.data = PlainTraining(model, lr=0.1, momentum=0.9), data

    def step(self) -> None:
        self.plain.step(*self.data)

    def state_dict(self) -> dict[str, object]:
        return self.plain.state_dict()

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self.plain.load_state_dict(state_dict)


def made(model: nn.Module, data: tuple[Tensor, ...], **given) -> FullBatchTraining:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return FullBatchTraining(model, optimizer, **{"inputs": data[0], "labels": data[1], "block_size": 8, **given})


def bowl(strength: float = 0.5, eps: float = 0.01) -> Tensor:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    return torch.cat(
        [part for part in penalised_gradient(lambda: w.square().sum(), [w], strength, eps)[1] if part is not None]
    )


CONTRACT = {
    "FullBatchTraining": TrainingProcedureSubject(
        make=made,
        evaluations=8 * 2 * 32,
        advance=lambda training, data, number: training.step(),
        bad={
            "alpha": (-0.1, math.nan, math.inf),
            "clip": (0.0, -1.0, math.nan, math.inf),
            "block_size": (0, -1, 2.0, True),
            "eps": (0.0, -0.1, math.nan, math.inf),
            "labels": (torch.zeros(3, dtype=torch.int64),),
            "inputs": (torch.zeros(0, 1, 4, 4),),
        },
        null=partial(made, alpha=0.0, clip=None, block_size=1_000),
        baseline=WholeBatch,
    ),
    "penalised_gradient": FunctionSubject(
        make=bowl,
        arguments={},
        bad={"strength": (-0.1, math.nan, math.inf), "eps": (0.0, -0.1, math.nan, math.inf)},
        null=lambda: bowl(strength=0.0),
        baseline=lambda: torch.tensor([2.0, 4.0]),
    ),
}

INPUTS, LABELS = normal(10, 3), torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 1, 2])


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=10 + number))
    return model


def exact(model: nn.Module, inputs: Tensor, labels: Tensor, strength: float) -> list[Tensor]:
    """The gradient of L + strength / 4 |grad L|^2 by double backpropagation."""
    parameters = [*model.parameters()]
    loss = F.cross_entropy(model(inputs), labels)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    penalty = strength / 4 * sum(gradient.square().sum() for gradient in gradients)
    return [*torch.autograd.grad(loss + penalty, parameters)]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


@pytest.mark.parametrize(("eps", "error"), [(1e-2, 2e-2), (1e-5, 2e-5)])
def test_the_penalty_is_that_of_double_backpropagation(eps, error):
    model = network()
    loss, found = penalised_gradient(lambda: F.cross_entropy(model(INPUTS), LABELS), [*model.parameters()], 2.0, eps)
    expected, plain = flat(exact(model, INPUTS, LABELS, 2.0)), flat(exact(model, INPUTS, LABELS, 0.0))
    added = expected - plain
    assert added.norm() > 0.05 * plain.norm()
    assert (flat(found) - expected).norm() < error * added.norm()
    torch.testing.assert_close(loss, F.cross_entropy(model(INPUTS), LABELS).detach())


def test_quadratics_are_exact_and_linear_losses_have_no_penalty():
    curvature = torch.tensor([1.0, 3.0], dtype=torch.float64)
    w = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    _, (found,) = penalised_gradient(lambda: (curvature * w.square()).sum() / 2, [w], 0.5)
    torch.testing.assert_close(found, (1 + 0.25 * curvature) * curvature * w.detach(), rtol=1e-10, atol=0)
    _, (found,) = penalised_gradient(lambda: 3 * w.sum(), [w], 0.5)
    assert found.tolist() == [3.0, 3.0]


def test_where_the_gradient_is_0_it_stays_0_and_what_is_not_used_has_none():
    w, unused = torch.zeros(2, requires_grad=True), torch.ones(1, requires_grad=True)
    _, found = penalised_gradient(lambda: w.square().sum(), [w, unused], 0.5)
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1] is None


def test_parameters_have_their_values_back_even_if_the_loss_fails():
    model, calls = network(), []
    before = copy.deepcopy(model.state_dict())

    def loss() -> Tensor:
        calls.append(0)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return F.cross_entropy(model(INPUTS), LABELS)

    with pytest.raises(RuntimeError, match="out of memory"):
        penalised_gradient(loss, [*model.parameters()], 0.5)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    with torch.no_grad():
        penalised_gradient(lambda: F.cross_entropy(model(INPUTS), LABELS), [*model.parameters()], 0.5)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))


def trained(steps: int, **given) -> FullBatchTraining:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.01)
    training = FullBatchTraining(model, optimizer, INPUTS, LABELS, **given)
    for _ in range(steps):
        training.step()
    return training


@pytest.mark.parametrize("block_size", [1, 3, 4, 10])
def test_without_a_penalty_the_size_of_blocks_does_not_matter(block_size):
    whole = trained(4, alpha=0.0, clip=0.25, block_size=100)
    parts = trained(4, alpha=0.0, clip=0.25, block_size=block_size)
    for found, expected in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert parts.samples == whole.samples == 40


@pytest.mark.parametrize(("clip", "bound"), [(None, math.inf), (0.1, 0.1)])
def test_updates_are_those_written_out_in_blocks_of_nearly_equal_size_at_the_present_rate(clip, bound):
    training = trained(0, alpha=0.8, clip=clip, block_size=4, eps=1e-5)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.01)
    for rate in (0.5, 0.3, 0.1):
        for groups in (training.optimizer.param_groups, optimizer.param_groups):
            groups[0]["lr"] = rate
        blocks = [slice(0, 4), slice(4, 7), slice(7, 10)]
        gradients = [exact(model, INPUTS[block], LABELS[block], 0.8 * rate) for block in blocks]
        sums = [(4 * first + 3 * second + 3 * third) / 10 for first, second, third in zip(*gradients, strict=True)]
        norm = flat(sums).norm().item()
        for parameter, gradient in zip(model.parameters(), sums, strict=True):
            parameter.grad = gradient * min(1.0, bound / norm)
        expected = F.cross_entropy(model(INPUTS), LABELS).detach()
        optimizer.step()
        torch.testing.assert_close(training.step(), expected, rtol=1e-4, atol=0)
        assert flat([p.grad for p in training.model.parameters()]).norm() < bound * (1 + 1e-6)
        for found, wanted in zip(training.model.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert training.samples == 3 * 2 * 10


def test_frozen_and_unused_parameters_stay_where_they_are():
    training = trained(0, block_size=4)
    training.model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    training.optimizer.add_param_group({"params": [training.model.unused]})
    training.model[0].bias.requires_grad_(False)
    frozen = training.model[0].bias.clone()
    for _ in range(3):
        training.step()
    assert torch.equal(training.model[0].bias, frozen)
    assert training.model.unused.tolist() == [1.0, 1.0]
    assert training.model.unused.grad is None


def test_dropout_is_refused_where_both_passes_must_be_the_same():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = normal(4, 1, 2, 2).float(), torch.tensor([0, 1, 2, 0])
    with pytest.raises(ValueError, match="model must have no dropout where alpha is above 0, got '1'"):
        FullBatchTraining(model, optimizer, *data)
    FullBatchTraining(model, optimizer, *data, alpha=0.0).step()
    part = LabelledImages(*data)
    splits = Splits(train=part, validation=part, test=part, classes=("a", "b", "c"), shape=(1, 2, 2))
    assert "no dropout" in _without_dropout(model, splits)
    model[1].p = 0.0
    assert _without_dropout(model, splits) == ""
    FullBatchTraining(model, optimizer, *data)


def test_blocks_are_of_nearly_equal_size_so_that_none_is_a_lone_example():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    training = FullBatchTraining(
        model, torch.optim.SGD(model.parameters(), lr=0.1), INPUTS[:7], LABELS[:7], alpha=0.0, block_size=3
    )
    training.step()
    assert int(model[2].num_batches_tracked) == 3


@pytest.mark.parametrize(
    "part",
    [nn.MultiheadAttention(4, 2, dropout=0.3), nn.LSTM(4, 4, num_layers=2, dropout=0.3)],
    ids=["attention", "lstm"],
)
def test_dropout_inside_attention_and_recurrent_layers_is_seen(part):
    model = nn.ModuleDict({"part": part})
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="must have no dropout where alpha is above 0, got 'part'"):
        FullBatchTraining(model, sgd, torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
