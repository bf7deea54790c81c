"""Layer sustainability: errors against loops and activations by hand, the loss against a hand-written one."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.attacks import ProjectedGradient
from paperweight.loops import adversarial_loss, fit_robust
from paperweight.nets import LeNet
from paperweight.robustness.layer_sustainability import (
    LayerRegularizedLoss,
    layer_errors,
    most_vulnerable_layers,
    relative_error,
)
from paperweight.testing import FunctionSubject, LossSubject
from paperweight.testing.classifiers import toy_images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(normalised=False):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        middle = [nn.BatchNorm1d(6)] if normalised else []
        return nn.Sequential(
            nn.Flatten(), nn.Linear(16, 6), *middle, nn.ReLU(), nn.Linear(6, 5), nn.ELU(), nn.Linear(5, 3)
        )


IMAGES = toy_images(8)
ATTACKED = (IMAGES + 0.1 * torch.randn(IMAGES.shape, generator=seeded(1))).clamp(0, 1)
LABELS = torch.arange(8) % 3
GAMMAS = {"2": 0.5, "4": 0.25}


def loop_error(clean, attacked):
    pairs = list(zip(clean.flatten().tolist(), attacked.flatten().tolist(), strict=True))
    size = math.sqrt(sum(c**2 for c, _ in pairs))
    return math.sqrt(sum((c - a) ** 2 for c, a in pairs)) / size


def loop_loss(model, images, attacked, labels):
    """The loss of AT-LR with GAMMAS, layer by layer and sample by sample."""

    def layers(given):
        first = model[2](model[1](given.flatten(1)))
        second = model[4](model[3](first))
        return first, second, model[5](second)

    (first, second, _), (first_attacked, second_attacked, logits) = layers(images), layers(attacked)
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total += math.log(sum(math.exp(z - row[label]) for z in row)) / len(logits)
    return total + 0.5 * loop_error(first, first_attacked) + 0.25 * loop_error(second, second_attacked)


def named(errors, count=None):
    return [list(errors).index(name) for name in most_vulnerable_layers(errors, count)]


CONTRACT = {
    "LayerRegularizedLoss": LossSubject(
        make=partial(LayerRegularizedLoss, gammas=GAMMAS),
        inputs=(network(), IMAGES, ATTACKED, LABELS),
        slow=loop_loss,
        differentiable=(1, 2),
        bad={"gammas": ({"2": -0.1}, {"2": math.nan}, {"2": math.inf}, {"2": True})},
        null=partial(LayerRegularizedLoss, gammas={}),
        baseline=lambda: adversarial_loss,
    ),
    "layer_errors": FunctionSubject(
        make=layer_errors,
        arguments={"model": network(), "inputs": IMAGES, "attacked": ATTACKED},
        bad={"attacked": (ATTACKED[:7],), "kinds": ((nn.Tanh,), ())},
    ),
    "most_vulnerable_layers": FunctionSubject(
        make=named,
        arguments={"errors": {"a": 0.1, "b": 0.3, "c": 0.2}},
        bad={"errors": ({}, {"a": math.nan}), "count": (0, -1, 4, 1.0, True)},
    ),
    "relative_error": FunctionSubject(
        make=relative_error,
        arguments={"clean": IMAGES, "attacked": ATTACKED},
        bad={"attacked": (ATTACKED[:, :, :2],)},
    ),
}


def test_an_unchanged_input_has_no_error_in_any_layer():
    assert layer_errors(network(), IMAGES, IMAGES) == {"2": 0.0, "4": 0.0}


def test_errors_are_those_of_activations_computed_by_hand_and_the_model_stays_as_it_was():
    model = network(normalised=True).train()
    before = copy.deepcopy(model.state_dict())
    found = layer_errors(model, IMAGES, ATTACKED)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())
    model.eval()
    pairs = [(model[:4](given), model[:6](given)) for given in (IMAGES, ATTACKED)]
    expected = [loop_error(clean, attacked) for clean, attacked in zip(*pairs, strict=True)]
    assert list(found) == ["3", "5"]
    assert list(found.values()) == pytest.approx(expected, rel=1e-5)


def test_of_a_linear_layer_without_bias_the_scale_of_input_and_weights_does_not_matter():
    layer = nn.Linear(16, 5, bias=False)
    large = copy.deepcopy(layer)
    large.weight.data.mul_(8.0)
    inputs, attacked = IMAGES.flatten(1), ATTACKED.flatten(1)
    small = layer_errors(layer, inputs, attacked, (nn.Linear,))
    assert layer_errors(large, inputs, attacked, (nn.Linear,)) == pytest.approx(small, rel=1e-5)
    assert layer_errors(layer, 4 * inputs, 4 * attacked, (nn.Linear,)) == pytest.approx(small, rel=1e-5)
    twice = layer_errors(layer, inputs, 2 * attacked - inputs, (nn.Linear,))
    assert twice[""] == pytest.approx(2 * small[""], rel=1e-5)


def test_a_layer_that_gives_0_has_no_error_and_no_gradient_that_is_not_finite():
    clean = torch.zeros(3, requires_grad=True)
    attacked = torch.tensor([1.0, 20.0, 0.0], requires_grad=True)
    for pair in ((clean, attacked), (attacked, attacked), (clean, clean)):
        error = relative_error(*pair)
        gradients = torch.autograd.grad(error, list({id(t): t for t in pair}.values()))
        assert error == 0
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_errors_of_low_precision_are_computed_in_more():
    clean = torch.full((200_000,), 200.0, dtype=torch.float16)
    assert relative_error(clean, 0.5 * clean) == 0.5


class Twice(nn.Module):
    """Calls one activation twice, and changes what it gives in place."""

    def __init__(self):
        super().__init__()
        self.activation = nn.ReLU()
        self.unused = nn.ReLU()

    def forward(self, x):
        first = self.activation(x.flatten(1)[:, :3])
        first.mul_(100.0)
        return self.activation(0.01 * first - 0.2)


def test_a_layer_that_is_called_twice_is_one_representation_and_an_idle_one_is_left_out():
    def both(given):
        first = given.flatten(1)[:, :3].relu()
        return torch.cat([first.flatten(), (first - 0.2).relu().flatten()])

    found = layer_errors(Twice(), IMAGES, ATTACKED)
    assert list(found) == ["activation"]
    assert found["activation"] == pytest.approx(loop_error(both(IMAGES), both(ATTACKED)), rel=1e-4)


def test_the_most_vulnerable_layers_are_those_above_the_mean_or_as_many_as_asked_for():
    errors = {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2}
    assert most_vulnerable_layers(errors) == ("b", "c")
    assert most_vulnerable_layers(errors, 3) == ("b", "c", "d")
    assert most_vulnerable_layers({"a": 0.1, "b": 0.1, "c": 0.1}) == ("a", "b", "c")
    assert most_vulnerable_layers({"only": 0.7}) == ("only",)


@pytest.mark.parametrize("gammas", [{}, {"3": 0.0}])
def test_without_weights_images_do_not_pass_the_model_and_training_is_adversarial_training_bit_for_bit(gammas):
    states = []
    for loss in (LayerRegularizedLoss(gammas), adversarial_loss):
        model = network(normalised=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        attack = ProjectedGradient(radius=0.1, steps=2, keep_going=True)
        fit_robust(
            model, optimizer, IMAGES, LABELS, attack=attack, loss=loss, steps=5, batch_size=4, generator=seeded()
        )
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])


def test_gradients_flow_through_both_passes_and_reach_the_layers_before_and_not_after():
    model = network()
    parameters = [model.get_parameter(name) for name in ("1.weight", "3.weight")]
    plain = torch.autograd.grad(F.cross_entropy(model(ATTACKED), LABELS), parameters)
    found = torch.autograd.grad(LayerRegularizedLoss({"2": 1.0})(model, IMAGES, ATTACKED, LABELS), parameters)
    clean, attacked = (model[:3](given) for given in (IMAGES, ATTACKED))
    expected = torch.autograd.grad((clean - attacked).norm() / clean.norm(), parameters[:1])[0]
    torch.testing.assert_close(found[0] - plain[0], expected)
    torch.testing.assert_close(found[1], plain[1])


def test_training_with_the_term_lowers_the_errors_of_the_layers_that_it_weighs():
    labels = (IMAGES.flatten(1)[:, :3]).argmax(dim=1)
    errors = []
    for gamma in (0.0, 3.0):
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        fit_robust(
            model,
            optimizer,
            IMAGES,
            labels,
            attack=ProjectedGradient(radius=0.1, steps=3, keep_going=True),
            loss=LayerRegularizedLoss({"2": gamma}),
            steps=80,
            batch_size=8,
            generator=seeded(),
        )
        errors.append(layer_errors(model, IMAGES, ATTACKED)["2"])
    assert errors[1] < 0.8 * errors[0]


def test_it_takes_shares_of_classes_a_batch_of_one_frozen_layers_and_other_networks():
    model = LeNet((1, 8, 8), 3)
    frozen, other = (model.get_parameter(f"body.{place}.weight") for place in (0, 3))
    frozen.requires_grad_(False)
    image = toy_images(1, (1, 8, 8))
    loss = LayerRegularizedLoss({"body.1": 0.1, "body.10": 0.1})
    loss(model, image, (image + 0.1).clamp(0, 1), torch.full((1, 3), 1 / 3)).backward()
    assert frozen.grad is None
    assert other.grad is not None
    assert other.grad.abs().sum() > 0
    assert pickle.loads(pickle.dumps(loss)).gammas == loss.gammas


def test_names_that_a_model_does_not_have_or_call_are_refused():
    with pytest.raises(ValueError, match="gammas must name layers of the model, got 'body'"):
        LayerRegularizedLoss({"body": 0.1})(network(), IMAGES, ATTACKED, LABELS)
    with pytest.raises(ValueError, match="gammas must name layers that the model calls, it does not call 'unused'"):
        LayerRegularizedLoss({"unused": 0.1})(Twice(), IMAGES, ATTACKED, LABELS)


def test_hooks_are_gone_where_the_model_fails():
    model = network()
    with pytest.raises(RuntimeError):
        LayerRegularizedLoss(GAMMAS)(model, IMAGES, ATTACKED[:, :, :2], LABELS)
    assert not any(part._forward_hooks for part in model.modules())
