"""IGNITE against second derivatives, quadratic predictions in closed form, steps written out, and plain training."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.optim.ignite import SurrogateTraining, ascend, prediction_gradient, sharpness_gradient
from paperweight.studies.optim._designs import SharpnessAware, offline_designs
from paperweight.testing import FunctionSubject, PlainTraining, TrainingProcedureSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(inputs: int = 3, outputs: int = 1, seed: int = 0) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(inputs, 5), nn.Tanh(), nn.Linear(5, outputs)).double()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.7 * normal(*parameter.shape, seed=10 * seed + number))
    return model


def product(first: float, second: float) -> nn.Sequential:
    """A network that maps x to first * second * x, whose mean is quadratic in its weights."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        for layer, value in zip(model, (first, second), strict=True):
            layer.weight.fill_(value)
    return model


def made(model: nn.Module, data: tuple[Tensor, ...] = (), **given) -> SurrogateTraining:
    arguments = {"eta": 0.05, "lam": 0.2, **given}
    return SurrogateTraining(model, torch.optim.SGD(model.parameters(), lr=0.1), loss=F.cross_entropy, **arguments)


OUTSIDE = (-0.1, math.nan, math.inf)
POSITIVE = (0.0, -1.0, math.nan, math.inf)

CONTRACT = {
    "SurrogateTraining": TrainingProcedureSubject(
        make=made,
        evaluations=8 * 8 * 3,
        bad={"rho": OUTSIDE, "eps": OUTSIDE, "lam": OUTSIDE, "eta": OUTSIDE, "r": POSITIVE},
        null=lambda model, data: made(model, rho=0.0),
        baseline=lambda model, data: PlainTraining(model, lr=0.1),
    ),
    "sharpness_gradient": FunctionSubject(
        make=sharpness_gradient,
        arguments={"model": network(), "inputs": normal(6, 3)},
        bad={"r": POSITIVE, "inputs": (normal(0, 3),), "model": (nn.Tanh(),)},
    ),
    "prediction_gradient": FunctionSubject(
        make=prediction_gradient,
        arguments={"model": network(), "inputs": normal(6, 3)},
        bad={"inputs": (normal(0, 3),), "model": (nn.Tanh(),)},
    ),
    "ascend": FunctionSubject(
        make=ascend,
        arguments={"model": network(), "designs": normal(6, 3)},
        bad={"steps": (-1, 1.5, True), "lr": POSITIVE},
    ),
}


def by_autograd(model: nn.Module, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The norm of the gradient of the mean prediction and its gradient, by a second backward pass."""
    parameters = list(model.parameters())
    first = torch.autograd.grad(model(inputs).mean(), parameters, create_graph=True, materialize_grads=True)
    norm = torch.cat([gradient.flatten() for gradient in first]).norm()
    return norm, list(torch.autograd.grad(norm, parameters, materialize_grads=True))


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_difference_tends_to_the_gradient_of_the_norm(outputs):
    model, inputs = network(outputs=outputs), normal(7, 3, seed=5)
    norm, slopes = by_autograd(model, inputs)
    found, h = sharpness_gradient(model, inputs, r=1e-6)
    assert found == pytest.approx(norm.item(), rel=1e-12)
    for value, slope in zip(h.values(), slopes, strict=True):
        torch.testing.assert_close(value, slope, rtol=1e-4, atol=1e-7)
    errors = []
    for r in (0.2, 0.1, 0.05):
        differences = zip(sharpness_gradient(model, inputs, r)[1].values(), slopes, strict=True)
        errors.append(sum((value - slope).square().sum().item() for value, slope in differences) ** 0.5)
    assert errors[0] > 1.8 * errors[1] > 3.2 * errors[2] > 0  # of first order


@pytest.mark.parametrize("r", [1e-3, 0.05, 7.0])
def test_a_quadratic_mean_prediction_gives_the_exact_gradient_at_any_length(r):
    # G = a b m with m = mean x = 2: gradient m (b, a), norm m |(a, b)|, the gradient of that m (a, b) / |(a, b)|
    inputs = torch.tensor([[1.0], [3.0]]).double()
    norm, h = sharpness_gradient(product(3.0, -4.0), inputs, r)
    assert norm == pytest.approx(10.0)
    assert [value.item() for value in h.values()] == pytest.approx([2 * 0.6, 2 * -0.8])


def test_a_linear_prediction_has_no_gradient_of_sharpness_and_its_sharpness_is_reached():
    model, inputs = nn.Linear(3, 1).double(), normal(6, 3)
    norm, h = sharpness_gradient(model, inputs)
    assert norm == pytest.approx(torch.cat([inputs.mean(0), torch.ones(1)]).norm().item())
    assert all(value.abs().max() < 1e-12 for value in h.values())
    mean, gradient = model(inputs).mean().item(), prediction_gradient(model, inputs)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.3 / norm * gradient[name])
    assert model(inputs).mean().item() - mean == pytest.approx(0.3 * norm)


def test_where_the_norm_is_0_so_is_its_gradient():
    norm, h = sharpness_gradient(product(0.0, 0.0), torch.ones(2, 1).double())
    assert norm == 0.0
    assert not any(value.any() for value in h.values())


def test_a_step_and_the_course_of_the_weight_written_out():
    model = product(3.0, 4.0)
    x, y = torch.tensor([[1.0], [1.0]]).double(), torch.tensor([[10.0], [12.0]]).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    training = SurrogateTraining(model, optimizer, rho=0.5, eps=2.0, lam=0.4, eta=0.1, r=1.0)
    # loss ((12 - 10)^2 + 0) / 2, slope by the product (2 * 2 + 0) / 2 = 2; norm 5, h = (0.6, 0.8), weight 0.4 * 0.5
    assert training.step(x, y).item() == pytest.approx(2.0)
    assert model[0].weight.item() == pytest.approx(3 - 0.01 * (2 * 4 + 0.4 * 0.5 * 0.6))
    assert model[1].weight.item() == pytest.approx(4 - 0.01 * (2 * 3 + 0.4 * 0.5 * 0.8))
    assert training.sharpness == pytest.approx(2.5)
    assert training.weight == pytest.approx(0.4 + 0.1 * (2.5 - 2.0))
    training.eps = 1e3
    training.step(x, y)
    assert training.weight == 0.0
    training.eps, training.eta = 0.0, 0.0
    training.weight = 0.7
    training.step(x, y)
    assert training.weight == 0.7


def test_sharpness_falls_to_its_bound():
    model, x = network(seed=1), normal(40, 3)
    y = (x[:, :1] * 1.5).sin()
    training = SurrogateTraining(
        model, torch.optim.Adam(model.parameters(), lr=0.01), rho=1.0, eps=1.1, lam=0.0, eta=0.05
    )
    training.step(x, y)
    assert training.sharpness > 1.3
    for _ in range(800):
        training.step(x, y)
    assert training.sharpness == pytest.approx(1.1, abs=0.03)
    assert training.weight > 0


def test_weights_gradients_statistics_modes_and_random_states_are_left_alone():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1)).double()
    model[0].bias.requires_grad_(False)
    model[1].eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    inputs = normal(6, 3)
    with torch.no_grad():
        norm, h = sharpness_gradient(model, inputs)
        reached = ascend(model, inputs, steps=2)
    assert norm > 0
    assert h.keys() == {name for name, _ in model.named_parameters()} - {"0.bias"}
    assert not reached.requires_grad
    assert torch.equal(inputs, normal(6, 3))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model] == [True, False, True, True]
    again = SurrogateTraining(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1))
    again.step(inputs, normal(6, 1, seed=1))
    assert torch.equal(model[0].bias, before["0.bias"])
    assert model.training


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False)).double()
    model[2].weight = model[0].weight
    inputs = normal(5, 3)
    norm, slopes = by_autograd(model, inputs)
    found, h = sharpness_gradient(model, inputs, r=1e-6)
    assert found == pytest.approx(norm.item())
    torch.testing.assert_close(h["0.weight"], slopes[0], rtol=1e-4, atol=1e-7)
    training = SurrogateTraining(model, torch.optim.SGD(model.parameters(), lr=0.0))
    training.step(inputs, inputs)
    assert model[2].weight is model[0].weight


def test_scores_of_another_shape_are_refused():
    model = network()
    training = SurrogateTraining(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r"scores must have shape \(6, 1\), got \(6,\)"):
        training.step(normal(6, 3), normal(6))
    assert training.step(normal(1, 3), normal(1, 1)).isfinite()


def test_ascent_by_hand():
    # g = -(x - 2)^2 / 2: x - 2 shrinks by 1 - lr each step
    class Bowl(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return -(x - 2).square() / 2

    found = ascend(Bowl(), torch.tensor([[0.0], [5.0]]), steps=3, lr=0.5)
    torch.testing.assert_close(found, torch.tensor([[2 - 2 / 8], [2 + 3 / 8]]))
    start = torch.zeros(2, 1)
    unmoved = ascend(Bowl(), start, steps=0)
    assert torch.equal(unmoved, start)
    unmoved.add_(1)
    assert not start.any()


def test_training_goes_on_from_its_state():
    x, y = normal(20, 3), normal(20, 1, seed=1)
    models = network(), network(seed=4)
    first, second = (SurrogateTraining(m, torch.optim.Adam(m.parameters(), lr=0.05), eta=0.5) for m in models)
    for _ in range(3):
        first.step(x, y)
    models[1].load_state_dict(copy.deepcopy(models[0].state_dict()))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(first.step(x, y), second.step(x, y))
    assert torch.equal(first.step(x, y), second.step(x, y))
    assert first.weight == second.weight


def test_designs_of_the_study_hide_the_better_ones():
    data = offline_designs(50, 4, torch.Generator().manual_seed(0), hidden=0.4, pool=400)
    assert data.designs.shape == (50, 4)
    assert data.scores.mean().item() == pytest.approx(0.0, abs=1e-5)
    truth = data.truth(data.designs)
    torch.testing.assert_close(data.unscaled(data.scores[:, 0]), truth, rtol=1e-4, atol=1e-5)
    assert 0 <= truth.min() < truth.max() < 0.8
    order = data.best(5)
    assert torch.equal(data.scores[order, 0], data.scores[:, 0].sort(descending=True).values[:5])


def test_sharpness_aware_steps_take_the_gradient_where_the_loss_is_higher():
    model = product(1.0, 2.0)
    x, y = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    # loss (a b)^2 = 4 with gradient (2 a b^2, 2 a^2 b) = (8, 4); from (1, 2) by 0.5 along it
    a, b = 1 + 0.5 * 8 / 80**0.5, 2 + 0.5 * 4 / 80**0.5
    assert SharpnessAware(model, torch.optim.SGD(model.parameters(), lr=0.01), rho=0.5).step(x, y).item() == 4.0
    assert model[0].weight.item() == pytest.approx(1 - 0.01 * 2 * a * b**2)
    assert model[1].weight.item() == pytest.approx(2 - 0.01 * 2 * a**2 * b)


def test_a_batch_that_is_not_a_number_leaves_the_multiplier():
    model = nn.Linear(2, 1)
    training = SurrogateTraining(model, torch.optim.SGD(model.parameters(), lr=0.0), lam=3.0)
    training.step(torch.full((4, 2), torch.nan), torch.zeros(4, 1))
    assert training.weight == 3.0


def test_an_optimizer_of_another_model_is_refused():
    other = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="optimizer must hold all trained parameters"):
        SurrogateTraining(nn.Linear(2, 1), torch.optim.SGD(other.parameters(), lr=0.1))
