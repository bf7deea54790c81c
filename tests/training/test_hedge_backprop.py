"""Hedge backpropagation against fractions, the bound of Freund and Schapire, gradients of one classifier at a time."""

import copy
import io
import math
import pickle
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.errors import InputError
from paperweight.nets import MLP, LeNet, ResNet
from paperweight.studies.training.hedge_backprop import RECIPE
from paperweight.testing import FunctionSubject, LayerSubject, LossSubject, PlainTraining, TrainingProcedureSubject
from paperweight.training.hedge_backprop import HedgeBackprop, Hedged, HedgedNetwork, hedge_weights, hedged_loss


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)
    )


def deep() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)
        return nn.Sequential(*layers).double()


def hedge(model, data, taps=None, lr=0.1, **options) -> HedgeBackprop:
    network = HedgedNetwork(model, 3, taps, generator=seeded())
    return HedgeBackprop(network, torch.optim.SGD(network.parameters(), lr=lr), **options)


class Idle(nn.Module):
    """Has a layer that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.used, self.head = nn.Linear(2, 2), nn.Linear(4, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.used(x))


LABELS = torch.tensor([0, 2, 1, 2])
SCORES = tuple(normal(4, 3, seed=seed).float() for seed in (1, 2, 3))
OUTPUTS = Hedged(SCORES, torch.tensor([0.5, 0.2, 0.3]))


def slow_loss(outputs, labels) -> float:
    total = 0.0
    for scores, weight in zip(outputs[0], outputs[1].tolist(), strict=True):
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
            total -= weight * math.log(math.exp(row[label]) / sum(map(math.exp, row))) / len(labels)
    return total


BAD_HEDGE = {"beta": (0.0, -0.1, 1.1, math.nan, True), "smooth": (-0.1, 1.1, math.nan, True)}
CONTRACT = {
    "HedgeBackprop": TrainingProcedureSubject(
        make=hedge,
        evaluations=8 * 8,
        bad=BAD_HEDGE,
        null=partial(hedge, taps=()),
        baseline=lambda model, data: PlainTraining(model, lr=0.1),
    ),
    "HedgedNetwork": LayerSubject(
        make=lambda classes=3, taps=None, grid=2: HedgedNetwork(small(), classes, taps, grid, seeded()),
        inputs=(normal(4, 1, 6, 6).float(),),
        shape=None,
        parameter_count=20 + 132 + 12 + 3 * 5 + 3 * 33,
        bad={
            "classes": (1, 0, 2.5, True),
            "taps": (["1"], ["0", "0"], ["nothing"]),
            "grid": (0, -1, 2.5, True),
        },
    ),
    "hedged_loss": LossSubject(
        make=partial(partial, hedged_loss),
        inputs=(OUTPUTS, LABELS),
        slow=slow_loss,
        expected_failures={
            "check_bad_values": "it has no arguments but outputs and labels, for which see below",
            "check_order_of_samples": "the weights are one a classifier, not one a sample",
        },
    ),
    "hedge_weights": FunctionSubject(
        make=hedge_weights,
        arguments={"weights": torch.tensor([0.5, 0.2, 0.3]), "losses": torch.tensor([0.4, 2.0, 0.7])},
        bad={
            "weights": (torch.ones(2), torch.ones(3, 1), torch.ones(0)),
            "losses": (torch.ones(4), torch.ones(3, 1)),
            **BAD_HEDGE,
        },
    ),
}

# The weights


def by_fractions(weights, losses, beta, smooth):
    low, high = min(losses), max(losses)
    scaled = [(loss - low) / (high - low) for loss in losses]
    raised = [max(w * beta**e, smooth / len(weights)) for w, e in zip(weights, scaled, strict=True)]
    return [w / sum(raised) for w in raised]


def test_weights_by_fractions():
    # Losses 1, 3, 5 scale to 0, 1/2, 1; with beta 1/4 discounts are 1, 1/2, 1/4.
    weights = [Fraction(1, 2), Fraction(1, 4), Fraction(1, 4)]
    losses = [Fraction(1), Fraction(3), Fraction(5)]
    for smooth in (Fraction(0), Fraction(1, 4), Fraction(1)):
        expected = [float(w) for w in by_fractions(weights, losses, Fraction(1, 4), smooth)]
        found = hedge_weights(
            torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), torch.tensor([1.0, 3, 5]), 0.25, float(smooth)
        )
        assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_by_hand_with_a_floor():
    # 0.5 and 0.5 / 4 = 0.125; the floor of 0.5 / 2 raises the second to 0.25; they sum to 0.75.
    found = hedge_weights(torch.tensor([0.5, 0.5]), torch.tensor([2.0, 9.0]), beta=0.25, smooth=0.5)
    torch.testing.assert_close(found, torch.tensor([2 / 3, 1 / 3]))


@pytest.mark.parametrize("smooth", [0.2, 1.0, 0.01])
def test_weights_sum_to_1_and_never_fall_below_what_the_floor_leaves(smooth):
    weights = torch.full((7,), 1 / 7, dtype=torch.float64)
    for step in range(400):
        weights = hedge_weights(weights, normal(7, seed=step).exp() + torch.arange(7), beta=0.7, smooth=smooth)
        assert weights.sum().item() == pytest.approx(1)
        assert weights.min() >= smooth / 7 / (1 + smooth) - 1e-12
    assert (weights.argmax() == 0) == (smooth < 1)


def test_without_a_floor_a_weight_is_beta_to_the_sum_of_losses_and_regret_is_bounded():
    beta, rounds, count = 0.9, 300, 6
    weights, totals, suffered = torch.full((count,), 1 / count, dtype=torch.float64), torch.zeros(count).double(), 0.0
    for step in range(rounds):
        losses = torch.rand(count, generator=seeded(step), dtype=torch.float64)
        losses[step % count], losses[(step + 1) % count] = 0.0, 1.0  # so that scaling leaves them
        suffered += (weights * losses).sum().item()
        totals += losses
        weights = hedge_weights(weights, losses, beta, smooth=0.0)
        torch.testing.assert_close(weights, beta**totals / (beta**totals).sum())
    assert suffered <= (math.log(1 / beta) * totals.min().item() + math.log(count)) / (1 - beta)


def test_equal_losses_and_a_beta_of_1_discount_nothing():
    weights = torch.tensor([0.5, 0.2, 0.3])
    torch.testing.assert_close(hedge_weights(weights, torch.full((3,), 4.0), beta=0.5), weights)
    torch.testing.assert_close(hedge_weights(weights, torch.tensor([1.0, 2.0, 3.0]), beta=1.0), weights)
    assert hedge_weights(torch.ones(1), torch.tensor([3.0])).tolist() == [1.0]


# Prediction and gradients


def by_hand(network: HedgedNetwork, x: Tensor) -> list[Tensor]:
    """Scores of the classifiers of ``deep`` on its input and on its two hidden layers."""
    first, second, last = (network.model[at] for at in (0, 2, 4))
    hidden = torch.tanh(F.linear(x, first.weight, first.bias))
    deeper = torch.tanh(F.linear(hidden, second.weight, second.bias))
    parts = [(x, network.heads[0]), (hidden, network.heads[1]), (deeper, last)]
    return [F.linear(taken, layer.weight, layer.bias) for taken, layer in parts]


def test_classifiers_see_the_input_and_the_hidden_layers_and_predict_together():
    network = HedgedNetwork(deep(), 3, generator=seeded())
    network.weights.copy_(torch.tensor([0.1, 0.6, 0.3]))
    x = normal(4, 5)
    expected = by_hand(network, x)
    for found, scores in zip(network.train()(x).scores, expected, strict=True):
        torch.testing.assert_close(found, scores)
    mixed = sum(w * scores.softmax(dim=1) for w, scores in zip((0.1, 0.6, 0.3), expected, strict=True))
    torch.testing.assert_close(network.eval()(x), mixed.log())


def test_every_gradient_is_the_weighted_sum_of_those_of_the_classifiers_above():
    network = HedgedNetwork(deep(), 3, generator=seeded())
    network.weights.copy_(torch.tensor([0.5, 0.2, 0.3]))
    x = normal(4, 5)
    hedged_loss(network.train()(x), LABELS).backward()
    alone = []
    for scores in by_hand(network, x):
        loss = F.cross_entropy(scores, LABELS)
        alone.append(torch.autograd.grad(loss, list(network.parameters()), retain_graph=True, allow_unused=True))
    for index, (name, p) in enumerate(network.named_parameters()):
        parts = [w * g[index] for w, g in zip((0.5, 0.2, 0.3), alone, strict=True) if g[index] is not None]
        torch.testing.assert_close(p.grad, sum(parts), msg=name)
    assert [sum(g[index] is not None for g in alone) for index in range(6)] == [2, 2, 1, 1, 1, 1]
    assert [sum(g[index] is not None for g in alone) for index in range(6, 10)] == [1, 1, 1, 1]


def test_one_classifier_on_the_input_is_online_softmax_regression():
    model = nn.Linear(5, 3).double()
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    training = hedge(model, None, taps=(), lr=0.05)
    for step in range(20):
        x, label = normal(1, 5, seed=step), torch.tensor([step % 3])
        slope = torch.softmax(weight @ x[0] + bias, dim=0) - F.one_hot(label[0], 3)
        predicted = (weight @ x[0] + bias).argmax()
        weight, bias = weight - 0.05 * slope[:, None] * x, bias - 0.05 * slope
        training.step(x, label)
        assert training.predictions.tolist() == [predicted.item()]
        torch.testing.assert_close(model.weight.detach(), weight)
        torch.testing.assert_close(model.bias.detach(), bias)
    assert training.model.weights.tolist() == [1.0]


def test_a_step_by_its_equations():
    training = hedge(deep(), None, beta=0.5, smooth=0.3)
    network = training.model
    network.weights.copy_(torch.tensor([0.5, 0.2, 0.3]))
    x = normal(4, 5)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    scores = [each.detach() for each in by_hand(network, x)]
    losses = torch.stack([F.cross_entropy(each, LABELS) for each in scores])
    loss = training.step(x, LABELS)
    assert loss.item() == pytest.approx(0.5 * losses[0].item() + 0.2 * losses[1].item() + 0.3 * losses[2].item())
    shares = sum(w * each.softmax(dim=1) for w, each in zip((0.5, 0.2, 0.3), scores, strict=True))
    assert torch.equal(training.predictions, shares.argmax(dim=1))
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * p.grad)
    expected = by_fractions([0.5, 0.2, 0.3], losses.tolist(), 0.5, 0.3)
    assert network.weights.tolist() == pytest.approx(expected, rel=1e-6)


def test_on_a_stream_the_weights_go_to_the_depth_that_errs_least():
    # The label is whether two signs agree, which no linear classifier on the input can tell.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    network = HedgedNetwork(model, 2)
    training = HedgeBackprop(network, torch.optim.SGD(network.parameters(), lr=0.1))
    wrong = []
    for step in range(600):
        x = normal(4, 2, seed=step).float()
        labels = (x[:, 0] * x[:, 1] > 0).long()
        training.step(x, labels)
        wrong.append((training.predictions != labels).float().mean().item())
    assert network.weights[1] > 0.8
    assert sum(wrong[-100:]) / 100 < 0.2 < sum(wrong[:100]) / 100


# Networks of other kinds, and use


@pytest.mark.parametrize(
    ("model", "count"), [(partial(MLP, hidden=(8, 8)), 3), (LeNet, 5), (partial(ResNet, width=4), None)]
)
def test_it_takes_other_networks(model, count):
    network = HedgedNetwork(model((1, 8, 8), 10), 10)
    outputs = network.train()(torch.zeros(3, 1, 8, 8))
    assert len(outputs.scores) == len(outputs.weights) == (count or len(network.names) + 1)
    assert all(scores.shape == (3, 10) for scores in outputs.scores)
    assert network.eval()(torch.zeros(1, 1, 8, 8)).exp().sum().item() == pytest.approx(1, rel=1e-5)


def test_tokens_are_averaged_and_one_pixel_is_spread():
    network = HedgedNetwork(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3)), 3, taps=["0"])
    x = normal(2, 5, 4).float()
    shallow = network.train()(x)[0][0]
    torch.testing.assert_close(shallow, network.heads[0](x.mean(dim=1)))
    spread = HedgedNetwork(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(3, 3)), 3, taps=["0"], grid=2)
    image = normal(2, 2, 1, 1).float()
    torch.testing.assert_close(spread.train()(image)[0][0], spread.heads[0](image.expand(-1, -1, 2, 2).flatten(1)))


def test_an_activation_in_place_does_not_disturb_gradients():
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)
    )
    network = HedgedNetwork(model, 3)
    hedged_loss(network.train()(normal(4, 4).float()), LABELS).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_a_layer_that_is_not_called_is_named():
    with pytest.raises(InputError, match="does not call 'idle'"):
        HedgedNetwork(Idle(), 3)(torch.zeros(2, 4))
    assert HedgedNetwork(Idle(), 3, taps=["used"])(torch.zeros(2, 4)).scores[0].shape == (2, 3)


def test_hooks_are_gone_after_a_call_that_fails():
    network = HedgedNetwork(deep(), 3)
    with pytest.raises(RuntimeError):
        network(torch.zeros(2, 4).double())
    assert not any(part._forward_pre_hooks for part in network.model.modules())


def test_an_optimizer_that_was_made_before_is_refused_and_frozen_layers_stay():
    model = deep()
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    network = HedgedNetwork(model, 3)
    with pytest.raises(ValueError, match=r"not without heads\.0\.weight; make it after"):
        HedgeBackprop(network, early)
    model[0].requires_grad_(False)
    frozen = model[0].weight.detach().clone()
    training = HedgeBackprop(network, torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1))
    training.step(normal(4, 5), LABELS)
    assert torch.equal(model[0].weight, frozen)


def test_labels_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match=r"labels must be one for each row of scores, got \(3,\)"):
        hedged_loss(OUTPUTS, LABELS[:3])
    with pytest.raises(ValueError, match="labels must be one for each row of scores"):
        hedged_loss(Hedged((torch.zeros(0, 3),), torch.ones(1)), LABELS[:0])


def test_a_step_trains_and_an_evaluation_leaves_everything():
    training = hedge(deep(), None)
    network = training.model.eval()
    with torch.no_grad():
        before = network(normal(4, 5))
        assert torch.equal(before, network(normal(4, 5)))
    training.step(normal(4, 5), LABELS)
    assert network.training
    assert not torch.equal(network.weights, torch.full((3,), 1 / 3, dtype=torch.float64))


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
def test_copies_hold_the_weights(way):
    training = hedge(deep(), None)
    for step in range(5):
        training.step(normal(4, 5, seed=step), LABELS)
    network = training.model
    if way == "state_dict":
        buffer = io.BytesIO()
        torch.save(network.state_dict(), buffer)
        buffer.seek(0)
        other = HedgedNetwork(deep(), 3)
        other.load_state_dict(torch.load(buffer, weights_only=True))
    else:
        other = copy.deepcopy(network) if way == "deepcopy" else pickle.loads(pickle.dumps(network))
    assert torch.equal(other.weights, network.weights)
    assert torch.equal(other.eval()(normal(4, 5)), network.eval()(normal(4, 5)))


def test_a_saved_training_goes_on_exactly():
    training = hedge(deep(), None)
    for step in range(5):
        training.step(normal(4, 5, seed=step), LABELS)
    again = deep()
    again.load_state_dict(training.model.model.state_dict())
    resumed = HedgeBackprop(network := HedgedNetwork(again, 3), torch.optim.SGD(network.parameters(), lr=0.1))
    resumed.load_state_dict(copy.deepcopy(training.state_dict()))
    for step in range(5, 8):
        for each in (training, resumed):
            each.step(normal(4, 5, seed=step), LABELS)
        assert torch.equal(training.predictions, resumed.predictions)
    for one, other in zip(training.model.state_dict().values(), network.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_generator_and_a_precision_are_those_of_the_caller():
    state = torch.random.get_rng_state()
    model = deep()
    first, second, other = (HedgedNetwork(model, 3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.heads[0].weight, second.heads[0].weight)
    assert not torch.equal(first.heads[0].weight, other.heads[0].weight)
    assert first.heads[0].weight.dtype == first.weights.dtype == torch.float64
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_recipe_hedges_as_the_training_does():
    x, labels = normal(4, 5), LABELS
    training = hedge(deep(), None)
    network = copy.deepcopy(training.model)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loss = RECIPE.loss(4, 3)
    for _ in range(5):
        optimizer.zero_grad()
        value = loss(network.train()(x), labels, torch.arange(4))
        value.backward()
        optimizer.step()
        assert value.item() == training.step(x, labels).item()
    assert torch.equal(network.weights, training.model.weights)
    assert all(map(torch.equal, network.parameters(), training.model.parameters()))


def test_the_recipe_says_what_it_does_not_fit():
    data = SimpleNamespace(train=SimpleNamespace(images=torch.zeros(4, 1, 8, 8), labels=torch.zeros(4).long()))
    assert RECIPE.fits(LeNet((1, 8, 8), 10), data) == ""
    assert "must end in a torch.nn.Linear" in RECIPE.fits(nn.Conv2d(1, 2, 3), data)


def test_losses_that_are_not_finite_leave_the_weights():
    weights = torch.tensor([0.25, 0.75])
    for bad in (math.nan, math.inf):
        assert torch.equal(hedge_weights(weights, torch.tensor([bad, 1.0])), weights)


def test_scores_of_other_classes_and_other_networks_are_named():
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"must give scores \(N, 2\)"):
        HedgedNetwork(network, classes=2)(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="must be a HedgedNetwork, got Sequential"):
        HedgeBackprop(network, torch.optim.SGD(network.parameters(), lr=0.1))


def test_what_attention_holds_and_never_calls_is_no_tap():
    encoder = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(24, 3))
    hedged = HedgedNetwork(encoder, classes=3)
    assert hedged.names == ("0.linear1", "0.linear2")
    assert hedged.train()(torch.zeros(4, 3, 8)).scores[0].shape == (4, 3)
