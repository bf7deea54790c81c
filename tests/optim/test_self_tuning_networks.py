"""Self-tuning networks against layers of each example's own weights, finite differences, and ridge regression."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.data import LabelledImages, Splits
from paperweight.nets import MLP, LeNet, ResNet
from paperweight.optim._responses import plain
from paperweight.optim.self_tuning_networks import (
    HyperConv2d,
    HyperLinear,
    Hyperparameter,
    SelfTuned,
    SelfTuner,
    best_response,
    self_tuned,
    settled,
)
from paperweight.studies.optim._dropouts import START, fits_self_tuning, responding, with_dropouts
from paperweight.testing import FunctionSubject, LayerSubject, TrainingProcedureSubject


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Alone(nn.Module):
    """A layer called without what else it takes."""

    def __init__(self, layer: nn.Module, responds: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.responds = responds

    def forward(self, x: Tensor, raw: Tensor) -> Tensor:
        return self.layer(x, raw[:, :0]) if self.responds else self.layer(x)


def decayed(model: nn.Module, inputs: Tensor, labels: Tensor, values: dict[str, Tensor]) -> Tensor:
    """The cross-entropy of inputs that are scaled by 1 + scale, each by its own."""
    scale = values["scale"].to(inputs.dtype).view(-1, *[1] * (inputs.ndim - 1))
    return F.cross_entropy(model(inputs * (1 + scale)), labels)


SCALE = Hyperparameter("scale", 0.2, 0.0, math.inf)
COUNTS = (0, -1, 2.5, True)


def changed(model: nn.Module) -> SelfTuned:
    torch.manual_seed(3)
    return self_tuned(model, more=[SCALE])


def small() -> nn.Module:
    torch.manual_seed(0)
    return changed(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))


def made(given_model: nn.Module, data: tuple[Tensor, ...] = (), generator=None, **given) -> SelfTuner:
    optimizer = torch.optim.SGD(given_model.parameters(), lr=0.1)
    arguments = {"model": given_model, "hyper_lr": 0.05, "objective": decayed, **given}
    return SelfTuner(optimizer=optimizer, generator=generator or draw(), **arguments)


def advance(tuner: SelfTuner, data: tuple[Tensor, ...], number: int) -> None:
    part = [tensor[8 * (number % 4) : 8 * (number % 4) + 8] for tensor in data]
    tuner.step(*part)
    if number % 2:
        tuner.tune(*part)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


CONTRACT = {
    "HyperLinear": LayerSubject(
        make=lambda in_features=3, out_features=4, hyperparameters=2: HyperLinear(
            in_features, out_features, hyperparameters
        ),
        inputs=(normal(5, 3).float(), normal(5, 2, seed=1).float()),
        shape=(5, 4),
        parameter_count=2 * (4 * 3 + 4) + 2 * 4 * 2,
        bad={"in_features": COUNTS, "out_features": COUNTS, "hyperparameters": (-1, 1.5, False)},
        null=lambda: Alone(HyperLinear(3, 4, 0), responds=True),
        baseline=lambda: Alone(nn.Linear(3, 4)),
    ),
    "HyperConv2d": LayerSubject(
        make=lambda in_channels=2, out_channels=4, kernel_size=(3, 2), hyperparameters=2, groups=1: HyperConv2d(
            in_channels, out_channels, kernel_size, hyperparameters, (2, 1), (0, 1), 1, groups
        ),
        inputs=(normal(3, 2, 7, 5).float(), normal(3, 2, seed=1).float()),
        shape=(3, 4, 3, 6),
        parameter_count=2 * (4 * 2 * 6 + 4) + 2 * 4 * 2,
        bad={
            "in_channels": COUNTS,
            "out_channels": COUNTS,
            "kernel_size": (0, (3, 0), (0, 3)),
            "hyperparameters": (-1, 1.5, False),
            "groups": (0, 3, 1.5),
        },
        null=lambda: Alone(HyperConv2d(2, 4, 3, 0, padding=1), responds=True),
        baseline=lambda: Alone(nn.Conv2d(2, 4, 3, padding=1)),
    ),
    "SelfTuner": TrainingProcedureSubject(
        make=made,
        random=True,
        model=small,
        advance=advance,
        evaluations=8 * (8 + 4),
        bad={
            "model": (nn.Linear(2, 2),),
            "hyper_lr": (-0.1, math.nan, math.inf),
            "sigma": (0.0, -1.0, math.nan, math.inf),
            "entropy_weight": (-0.1, math.nan, math.inf),
        },
    ),
    "best_response": FunctionSubject(
        make=best_response,
        arguments={
            "first": normal(4, 3),
            "second": normal(4, 3, seed=1),
            "gates": normal(4, 2, seed=2),
            "raw": normal(2, seed=3),
        },
        bad={
            "second": (normal(4), normal(3, 4)),
            "gates": (normal(4), normal(3, 2), normal(4, 3)),
            "raw": (normal(3), normal(1, 2), torch.tensor(1.0)),
        },
    ),
    "self_tuned": FunctionSubject(
        make=lambda model, more=(): tensors(_seeded(partial(self_tuned, model, more))),
        arguments={"model": nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2))},
        bad={
            "model": (nn.Linear(2, 2), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.0), nn.Linear(2, 2))),
            "more": ([SCALE, SCALE], [Hyperparameter("0", 0.5)]),
        },
    ),
    "settled": FunctionSubject(
        make=lambda model: tensors(settled(model)),
        arguments={"model": self_tuned(nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2)))},
        bad={"model": (nn.Sequential(nn.Linear(2, 2)),)},
    ),
}


def _seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("middle", [(), (5,), (2, 3)])
def test_a_linear_layer_gives_each_example_the_output_of_its_own_weights(bias, middle):
    torch.manual_seed(0)
    layer = HyperLinear(4, 3, 2, bias=bias).double()
    x, raw = normal(6, *middle, 4), normal(6, 2, seed=1)
    expected = []
    for i in range(6):
        weight = layer.weight + torch.diag(layer.weight_gates @ raw[i]) @ layer.second_weight
        shift = layer.bias + (layer.bias_gates @ raw[i]) * layer.second_bias if bias else None
        expected.append(F.linear(x[i], weight, shift))
    torch.testing.assert_close(layer(x, raw), torch.stack(expected), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(layer(x, raw[:1]), plain(layer, raw[0])(x), rtol=1e-12, atol=1e-13)


GEOMETRIES = {
    "plain": ({}, 3, 4, 3),
    "strided": ({"stride": (2, 1), "padding": (0, 1)}, 3, 4, (3, 2)),
    "dilated": ({"padding": "same", "dilation": 2}, 3, 4, 3),
    "depthwise": ({"groups": 4, "padding": 1, "bias": False}, 4, 4, 3),
}


@pytest.mark.parametrize(("options", "channels", "out", "size"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_convolution_gives_each_example_the_output_of_its_own_kernels(options, channels, out, size):
    torch.manual_seed(0)
    layer = HyperConv2d(channels, out, size, 3, **options).double()
    x, raw = normal(4, channels, 8, 7), normal(4, 3, seed=1)
    expected = []
    for i in range(4):
        gates = (layer.weight_gates * raw[i]).sum(1)
        weight = torch.stack([layer.weight[c] + gates[c] * layer.second_weight[c] for c in range(out)])
        each = nn.Conv2d(channels, out, size, **options).double()
        with torch.no_grad():
            each.weight.copy_(weight)
            if each.bias is not None:
                each.bias.copy_(layer.bias + (layer.bias_gates @ raw[i]) * layer.second_bias)
        expected.append(each(x[i : i + 1])[0])
    torch.testing.assert_close(layer(x, raw), torch.stack(expected), rtol=1e-12, atol=1e-13)


def test_gates_of_0_leave_the_linear_layer():
    layer = HyperLinear(4, 3, 2)
    nn.init.zeros_(layer.weight_gates)
    nn.init.zeros_(layer.bias_gates)
    x = normal(6, 4).float()
    assert torch.equal(layer(x, normal(6, 2, seed=1).float()), F.linear(x, layer.weight, layer.bias))


def test_a_case_by_hand():
    layer = HyperLinear(1, 1, 2).double()
    values = {"weight": 2.0, "bias": 5.0, "second_weight": 10.0, "second_bias": -1.0}
    with torch.no_grad():
        for name, value in values.items():
            getattr(layer, name).fill_(value)
        layer.weight_gates.copy_(torch.tensor([[1.0, 0.5]]))
        layer.bias_gates.copy_(torch.tensor([[0.0, 3.0]]))
    # gates at raw (0.2, -0.4): weights 0.2 - 0.2 = 0, biases -1.2; at (1, 2): 2 and 6
    found = layer(torch.tensor([[3.0], [3.0]]).double(), torch.tensor([[0.2, -0.4], [1.0, 2.0]]).double())
    torch.testing.assert_close(found, torch.tensor([[2 * 3 + 5 + 1.2], [2 * 3 + 5 + 2 * 30 - 6]]).double())


def test_raw_values_must_fit():
    layer = HyperLinear(4, 3, 2)
    for x, raw in ((6, (5, 2)), (6, (6, 3)), (6, (6,)), (6, (0, 2))):
        with pytest.raises(ValueError, match="raw must have shape"):
            layer(torch.zeros(x, 4), torch.zeros(raw))
    assert layer(torch.zeros(0, 4), torch.zeros(1, 2)).shape == (0, 3)


BOUNDS = [(0.0, 1.0), (-2.0, 5.0), (0.0, math.inf), (-math.inf, 3.0), (-math.inf, math.inf)]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_values_stay_within_bounds_and_begin_at_the_start(low, high):
    for start in (0.3, 0.9, 1e-3):
        given = Hyperparameter("h", start, low, high)
        assert given.value(torch.tensor(given.raw, dtype=torch.float64)).item() == pytest.approx(start, rel=1e-9)
        values = given.value(torch.linspace(-30, 30, 101, dtype=torch.float64))
        assert (values >= low).all()
        assert (values <= high).all()
        assert values.diff().ne(0).any()
    assert Hyperparameter("h", 40.0, 0.0, math.inf).raw == pytest.approx(40.0)
    assert Hyperparameter("h", 2.5, 0.0, 5.0, whole=True).value(torch.tensor([0.0, 0.5])).tolist() == [2.0, 3.0]


@pytest.mark.parametrize(("start", "low", "high"), [(0, 0, 1), (1, 0, 1), (2, 0, 1), (math.nan, 0, 1), (0.5, 1, 0)])
def test_starts_outside_their_bounds_are_refused(start, low, high):
    with pytest.raises(ValueError, match="start of h must be above"):
        Hyperparameter("h", start, low, high)
    with pytest.raises(ValueError, match="start of h must be above"):
        Hyperparameter("h", math.inf, 0.0, math.inf)
    with pytest.raises(ValueError, match="name must not be empty"):
        Hyperparameter("", 0.5)


def test_the_response_to_ridge_has_the_slope_of_the_closed_form():
    # y = w x in one dimension, penalty exp(raw) w^2: w* = mean(xy) / (mean(x^2) + exp(raw))
    x = torch.tensor([[1.0], [-2.0], [0.5], [1.5]]).double()
    y = 1.3 * x + torch.tensor([[0.2], [0.1], [-0.3], [0.0]]).double()
    a, b, start = (x * y).mean().item(), x.square().mean().item(), 0.4
    torch.manual_seed(1)
    layer = nn.Linear(1, 1, bias=False).double()
    model = self_tuned(layer, more=[Hyperparameter("decay", math.exp(start), 0.0, math.inf)])
    inner = model.network.layer

    def objective(model: nn.Module, inputs: Tensor, labels: Tensor, values: dict[str, Tensor]) -> Tensor:
        raw = model.hyperparameters.at_hand()
        weights = model(torch.ones(len(raw), 1).double())
        return (model(inputs) - labels).square().mean() + (raw.exp() * weights.square()).mean()

    parts = (inner.weight, inner.second_weight, inner.weight_gates)
    with torch.no_grad():
        model.hyperparameters.raw.fill_(start)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    tuner = SelfTuner(model, optimizer, sigma=0.3, loss=F.mse_loss, objective=objective, generator=draw())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
    for _ in range(600):
        tuner.step(x.repeat(50, 1), y.repeat(50, 1))
        schedule.step()
    raw = torch.tensor([start]).double()
    exact = a / (b + math.exp(start))
    slope = -a * math.exp(start) / (b + math.exp(start)) ** 2
    assert best_response(*parts, raw).item() == pytest.approx(exact, rel=0.02)
    assert (inner.weight_gates * inner.second_weight).item() == pytest.approx(slope, rel=0.05)
    before = F.mse_loss(model(x), 2 * y).item()
    for _ in range(20):
        tuner.tune(x, 2 * y)
    assert F.mse_loss(model(x), 2 * y).item() < before


def test_hyperparameters_move_along_the_gradient_through_the_response_alone():
    torch.manual_seed(0)
    model = self_tuned(
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), more=[SCALE, Hyperparameter("b", 0.5)]
    )
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(normal(*parameter.shape, seed=len(parameter)))
    x, labels = normal(6, 3), torch.arange(6) % 2
    tuner = SelfTuner(
        model, torch.optim.SGD(model.parameters(), lr=1.0), sigma=0.3, entropy_weight=0.0, generator=draw(5)
    )
    old, weights = tuner.raw.detach().clone(), tensors(model)
    noise = torch.randn(6, 2, generator=draw(5), dtype=torch.float64)

    def loss(raw: Tensor, sigma: Tensor) -> float:
        with model.hyperparameters.of_batch(raw + sigma * noise):
            return F.cross_entropy(model(x), labels).item()

    held = tuner.tune(x, labels)
    sigma = torch.full((2,), 0.3, dtype=torch.float64)
    assert held.item() == pytest.approx(loss(old, sigma), rel=1e-12)
    for number in range(2):
        step = torch.zeros(2).double()
        step[number] = 1e-5
        by_raw = (loss(old + step, sigma) - loss(old - step, sigma)) / 2e-5
        by_sigma = (loss(old, sigma + step) - loss(old, sigma - step)) / 2e-5
        assert tuner.raw.grad[number].item() == pytest.approx(by_raw, rel=1e-6)
        slope = 1 - math.exp(-0.3)  # of the softplus that gives 0.3
        assert tuner.raw_sigma.grad[number].item() == pytest.approx(by_sigma * slope, rel=1e-6)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name]) == (name != "hyperparameters.raw")
    assert torch.equal(model.hyperparameters.raw, tuner.raw)
    # Adam's first step is the rate, against the sign
    torch.testing.assert_close(tuner.raw - old, -3e-3 * tuner.raw.grad.sign(), rtol=1e-4, atol=0.0)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_entropy_widens_the_spread_by_its_weight_alone():
    model = self_tuned(nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 2))).double()
    tuner = SelfTuner(
        model,
        torch.optim.SGD(model.parameters(), lr=1.0),
        sigma=0.7,
        entropy_weight=0.25,
        loss=lambda outputs, labels: 0 * outputs.sum(),
        generator=draw(),
    )
    tuner.tune(normal(4, 3), torch.zeros(4).long())
    # d entropy / d log sigma = 1, d log sigma / d raw_sigma = (1 - exp(-sigma)) / sigma
    assert tuner.raw_sigma.grad.item() == pytest.approx(-0.25 * (1 - math.exp(-0.7)) / 0.7, rel=1e-6)
    assert not tuner.raw.grad.any()


def test_a_step_trains_the_weights_under_draws_and_leaves_hyperparameters():
    model = small().double()
    x, labels = normal(8, 1, 4, 4), torch.arange(8) % 3
    tuner = made(model, generator=draw(2), sigma=0.4)
    reference = copy.deepcopy(model)
    raw = reference.hyperparameters.raw + 0.4 * torch.randn(8, 1, generator=draw(2), dtype=torch.float64)
    with reference.hyperparameters.of_batch(raw):
        loss = F.cross_entropy(reference(x * (1 + F.softplus(raw)[..., None, None])), labels)
    slopes = torch.autograd.grad(loss, list(reference.parameters()))
    before = tensors(model)
    torch.testing.assert_close(tuner.step(x, labels), loss.detach(), rtol=1e-12, atol=0.0)
    for (name, parameter), slope in zip(model.named_parameters(), slopes, strict=True):
        torch.testing.assert_close(parameter.detach(), before[name] - 0.1 * slope, rtol=1e-9, atol=1e-12)
    assert torch.equal(tuner.raw, before["hyperparameters.raw"])
    assert tuner.raw.grad is None
    assert model.hyperparameters.at_hand().shape == (1, 1)


def test_training_is_in_train_mode_and_tuning_in_eval_mode_which_it_leaves():
    class Watch(nn.Module):
        modes: tuple = ()

        def forward(self, x: Tensor) -> Tensor:
            self.modes = (*self.modes, self.training)
            return x

    model = self_tuned(nn.Sequential(Watch(), nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Linear(3, 2)))
    tuner = SelfTuner(model.eval(), torch.optim.SGD(model.parameters(), lr=0.1), generator=draw())
    x, labels = normal(6, 3).float(), torch.arange(6) % 2
    tuner.tune(x, labels)
    assert not model.training
    tuner.step(x, labels)
    statistics = model.network[2].running_mean.clone()
    tuner.tune(x, labels)
    assert model.network[0].modes == (False, True, False)
    assert model.training
    assert torch.equal(model.network[2].running_mean, statistics)


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d])
def test_each_example_is_dropped_from_at_its_own_rate(kind):
    torch.manual_seed(0)
    model = self_tuned(nn.Sequential(kind(0.3), nn.Conv2d(50, 2, 1)))
    dropout = model.network[0]
    x = torch.ones(400, 50, 3, 3)
    rates = torch.tensor([0.1, 0.6]).repeat(200)
    raw = (rates / (0.9 - rates)).log()[:, None]
    with model.hyperparameters.of_batch(raw):
        found = dropout(x)
    for start, rate in enumerate((0.1, 0.6)):
        part = found[start::2]
        assert (part == 0).float().mean().item() == pytest.approx(rate, abs=0.02)
        assert part.max().item() == pytest.approx(1 / (1 - rate), rel=1e-4)
        whole = (part == part[..., :1, :1]).all()
        assert bool(whole) == (kind is nn.Dropout2d)
    assert (dropout(x) == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(dropout.eval()(x), x)


def test_settled_networks_are_plain_and_compute_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.2), LeNet((1, 8, 8), 4), nn.Dropout1d(0.5)).eval()
    found = self_tuned(model)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        found.hyperparameters.raw.add_(torch.tensor([0.5, -1.0]))
    back = settled(found)
    assert [type(part) for part in back.modules()] == [type(part) for part in model.modules()]
    assert [name for name, _ in back.named_parameters()] == [name for name, _ in model.named_parameters()]
    x = normal(5, 1, 8, 8).float()
    torch.testing.assert_close(back(x), found(x), rtol=1e-4, atol=1e-5)
    assert [back[0].p, back[2].p] == pytest.approx(list(found.present().values()), abs=1e-6)
    assert 0.28 < back[0].p < 0.32


def test_a_network_starts_near_what_it_was_and_keeps_weights_ties_and_what_is_frozen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[3] = model[0]
    model[4].weight.requires_grad_(False)
    old = copy.deepcopy(model.state_dict())
    found = self_tuned(model).eval()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in old.items())
    network = found.network
    assert network[0].layer.weight is network[2].layer.weight
    assert network[0] is network[3]
    assert type(network[4]) is nn.Linear
    assert torch.equal(network[0].layer.weight, model[0].weight)
    x = normal(6, 4).float()
    difference = (found(x) - model.eval()(x)).abs().max()
    assert 0 < difference < 0.2
    assert "hyperparameters.raw" in dict(found.named_buffers())
    assert not any("raw" in name for name, _ in found.named_parameters())


def test_a_dropout_at_two_places_has_a_rate_at_each_and_a_shared_block_one():
    shared = nn.Dropout(0.2)
    block = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.4))
    found = self_tuned(nn.Sequential(shared, nn.Linear(3, 3), shared, block, block, nn.Dropout(0.0)))
    assert list(found.present()) == ["0", "2", "3.1"]
    assert found.network[3] is found.network[4]
    assert type(found.network[5]) is nn.Dropout


def test_a_tuner_made_before_the_weights_are_loaded_takes_up_the_hyperparameters():
    first, second = made(small(), generator=draw(1)), made(small(), generator=draw(2))
    x, labels = normal(8, 1, 4, 4).float(), torch.arange(8) % 3
    first.tune(x, labels)
    second.model.load_state_dict(first.model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(second.raw, first.raw)
    for tuner in (first, second):
        tuner.tune(x, labels)
    assert torch.equal(first.raw, second.raw)
    assert torch.equal(second.raw, second.model.hyperparameters.raw)


def test_a_layer_that_does_more_is_not_replaced():
    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model = self_tuned(
        nn.Sequential(
            nn.Dropout(0.2), Doubled(3, 3), nn.Linear(3, 2), nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
        )
    )
    assert [type(part).__name__ for part in model.network] == ["TunedDropout", "Doubled", "Responding", "Conv2d"]


def test_copies_pickles_and_other_precisions_keep_to_themselves():
    model = small()
    x, labels = normal(8, 1, 4, 4).float(), torch.arange(8) % 3
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        tuner = made(other)
        tuner.tune(x, labels)
        assert not torch.equal(other.hyperparameters.raw, model.hyperparameters.raw)
        plainly = other(x)
        with other.hyperparameters.of_batch(torch.full((8, 1), 9.0)):
            assert not torch.equal(other(x), plainly)
        assert torch.equal(other(x), plainly)
    half = copy.deepcopy(model).bfloat16()
    tuner = made(half, hyper_lr=1e-3)
    tuner.step(x.bfloat16(), labels)
    start = tuner.raw.item()
    assert tuner.tune(x.bfloat16(), labels).isfinite()
    assert abs(tuner.raw.item() - start) == pytest.approx(1e-3, rel=1e-2)  # which bfloat16 would round away
    one = made(copy.deepcopy(model))
    assert one.step(x[:1], labels[:1]).isfinite()
    assert one.tune(x[:1], labels[:1]).isfinite()
    for call in (one.step, one.tune):
        with pytest.raises(ValueError, match="inputs must hold at least one example"):
            call(x[:0], labels[:0])


def test_an_optimizer_made_too_early_is_refused():
    plainly = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(plainly.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer must hold all trained parameters of the model"):
        SelfTuner(self_tuned(plainly), optimizer, generator=draw())
    frozen = self_tuned(plainly)
    frozen.network[1].layer.bias.requires_grad_(False)
    SelfTuner(frozen, torch.optim.SGD([p for p in frozen.parameters() if p.requires_grad], lr=0.1), generator=draw())


def splits(shape: tuple[int, int, int], count: int = 10) -> Splits:
    part = LabelledImages(torch.rand(count, *shape, generator=draw()), torch.arange(count) % 3)
    return Splits(train=part, validation=part, test=part, classes=("a", "b", "c"), shape=shape)


def test_recipes_say_which_networks_do_not_fit():
    shape = (3, 8, 8)
    for network in (MLP(shape, 3), LeNet(shape, 3), ResNet(shape, 3)):
        assert fits_self_tuning(network, splits(shape)) == ""
    assert "needs 5 at least, got 4" in fits_self_tuning(MLP(shape, 3), splits(shape, 4))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(8, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x.reshape(-1, 8))).reshape(len(x), -1, 3).mean(1)

    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    attending = nn.Sequential(nn.Flatten(2), nn.Linear(64, 8), encoder, nn.Flatten(), nn.Linear(24, 3))
    assert "cannot be called with dropout" in fits_self_tuning(attending, splits(shape))
    assert "an entry for each" in fits_self_tuning(Tokens(), splits(shape))
    assert "a linear layer" in fits_self_tuning(nn.Flatten(), splits(shape))


def test_dropouts_are_put_before_layers_and_of_channels_before_later_convolutions():
    model = with_dropouts(LeNet((1, 8, 8), 3), [0.1, 0.2])
    found = [part for part in model.modules() if isinstance(part, nn.Dropout | nn.Dropout2d)]
    assert [part.p for part in found] == [0.1, 0.2, START, START, START]
    assert [type(part) for part in found] == [nn.Dropout, nn.Dropout2d, nn.Dropout, nn.Dropout, nn.Dropout]
    assert len(responding(LeNet((1, 8, 8), 3)).present()) == 5


@pytest.mark.parametrize(("start", "high"), [(3.0, 5.0), (3.0, 7.0), (7.0, 8.0), (10.0, 17.0), (0.5, 1.0)])
def test_a_whole_hyperparameter_begins_where_it_is_said_to(start, high):
    holes = Hyperparameter("holes", start, 0.0, high, whole=True)
    assert self_tuned(nn.Sequential(nn.Linear(2, 2)), [holes]).present() == {"holes": float(int(start))}


def test_a_model_that_was_loaded_keeps_its_rates():
    model, other = (self_tuned(nn.Sequential(nn.Dropout(rate), nn.Linear(4, 2))) for rate in (0.3, 0.1))
    tuner = SelfTuner(model, torch.optim.SGD(model.parameters(), lr=0.1), hyper_lr=0.0, generator=draw())
    model.load_state_dict(other.state_dict())
    tuner.tune(torch.randn(8, 4, generator=draw()), torch.arange(8) % 2)
    assert model.present()["0"] == pytest.approx(0.1, abs=1e-6)
