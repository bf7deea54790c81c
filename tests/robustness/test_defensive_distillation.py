"""FGSM and Carlini-Wagner against closed forms on linear models and torch's own Adam; the loss against a loop."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.nets import MLP
from paperweight.robustness._carlini_wagner import cw_objective, from_tanh_space, margins, to_tanh_space
from paperweight.robustness.defensive_distillation import FGSM, CarliniWagnerL2, distillation_loss
from paperweight.testing import AttackSubject, LossSubject
from paperweight.testing.classifiers import linear_classifier, toy_images


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loop(logits, teacher_logits, temperature=100.0):
    total = 0.0
    for row, teacher in zip(logits.tolist(), teacher_logits.tolist(), strict=True):
        soft = [math.exp(z / temperature) for z in teacher]
        normaliser = math.log(sum(math.exp(z / temperature) for z in row))
        total -= sum(p / sum(soft) * (z / temperature - normaliser) for p, z in zip(soft, row, strict=True))
    return total / len(logits)


def unchanged():
    return lambda model, inputs, labels: inputs


BOUNDS = ((1.0, 0.0), (0.0, math.inf), (math.nan, 1.0))
SEARCH = partial(CarliniWagnerL2, c=0.003, lr=0.002, steps=100, patience=20, binary_search_steps=3)

CONTRACT = {
    "FGSM": AttackSubject(
        make=FGSM,
        norm=math.inf,
        radius=0.1,
        bad={"eps": (-0.1, math.nan, math.inf), "bounds": BOUNDS},
        null=partial(FGSM, eps=0.0),
        baseline=unchanged,
    ),
    "CarliniWagnerL2": AttackSubject(
        make=SEARCH,
        norm=2.0,
        radius=None,
        slack=0.05,
        bad={
            "c": (0.0, -1.0, math.nan, math.inf),
            "kappa": (-0.1, math.nan, math.inf),
            "steps": (0,),
            "lr": (0.0, math.nan),
            "binary_search_steps": (-1,),
            "patience": (0,),
            "bounds": BOUNDS,
        },
    ),
    "distillation_loss": LossSubject(
        make=partial(partial, distillation_loss),
        inputs=(30 * normal(4, 3), 30 * normal(4, 3, seed=1)),
        slow=loop,
        bad={"temperature": (0.0, -1.0, math.nan, math.inf)},
        null=partial(partial, distillation_loss, temperature=1.0),
        baseline=lambda: lambda logits, teacher: F.cross_entropy(logits, teacher.softmax(dim=1)),
    ),
}


def network(classes=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP((1, 5, 5), classes, hidden=(32,)).eval()


def problem(count=12, classes=4):
    """Give a small network, images with black and white pixels among them, and the classes that it sees."""
    model, images = network(classes), (1.4 * toy_images(count, (1, 5, 5)) - 0.2).clamp(0, 1)
    return model, images, model(images).argmax(dim=1)


def boundary(model):
    """Give the slope of the margin of a linear model of two classes."""
    weight = next(model.parameters()).detach()
    return weight[1] - weight[0]


class Counting(nn.Module):
    """Counts the images that pass through a network."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, images):
        self.seen += len(images)
        return self.model(images)


def test_fgsm_by_hand():
    # Class 0 gains from the first entry and loses by the second; the third, of weight 0, must stay.
    model = nn.Linear(3, 2, bias=False)
    model.weight.data.copy_(torch.tensor([[1.0, -2.0, 0.0], [0.0, 0.0, 0.0]]))
    inputs = torch.tensor([[0.8, 0.1, 0.4], [0.05, 0.0, 1.0]])
    expected = torch.tensor([[0.7, 0.2, 0.4], [0.0, 0.1, 1.0]])
    torch.testing.assert_close(FGSM(eps=0.1)(model, inputs, torch.tensor([0, 0])), expected)


def test_fgsm_is_blind_where_the_softmax_is_saturated_and_sees_again_at_a_temperature():
    model, images, labels = problem()

    def at(scale):
        class Scaled(nn.Module):
            def forward(self, x):
                return scale * model(x)

        return FGSM(eps=0.1)(Scaled(), images, labels)

    assert torch.equal(at(1e5), images)
    assert ((at(1.0) - images).abs() > 0).float().mean() > 0.8
    assert (at(1.0) - images).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("attack", [FGSM(), CarliniWagnerL2(steps=5)])
def test_what_is_misclassified_already_stays_to_the_bit(attack):
    model, images, labels = problem()
    wrong = torch.arange(len(images)) % 2 == 0
    labels = torch.where(wrong, (labels + 1) % 4, labels)
    counting = Counting(model)
    results = attack(counting, images, labels)
    assert torch.equal(results[wrong], images[wrong])
    assert counting.seen <= 12 + 5 * 6


def test_if_all_is_misclassified_one_pass_tells():
    model, images, labels = problem()
    counting = Counting(model)
    assert torch.equal(CarliniWagnerL2()(counting, images, (labels + 1) % 4), images)
    assert counting.seen == 12


def test_margin_and_objective_by_hand():
    logits, labels = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]]), torch.tensor([0, 2])
    torch.testing.assert_close(margins(logits, labels), torch.tensor([1.0, -4.0]))
    torch.testing.assert_close(margins(logits, labels, targeted=True), torch.tensor([-1.0, 4.0]))
    # 0.5 + 2 * 1 and 0.5 + 2 * -3
    objective = cw_objective(torch.full((2,), 0.5), margins(logits, labels), 2.0, kappa=3.0)
    torch.testing.assert_close(objective, torch.tensor([2.5, -5.5]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-2.0, 3.0)])
def test_tanh_space_and_back_only_shrinks_towards_the_middle(bounds, dtype):
    low, high = bounds
    x = torch.linspace(low, high, 11, dtype=dtype)
    w = to_tanh_space(x, bounds)
    assert w.isfinite().all()
    middle, shrink = (low + high) / 2, 0.999 if dtype != torch.bfloat16 else 1 - 2**-7
    expected = middle + shrink * (x - middle)
    torch.testing.assert_close(from_tanh_space(w, bounds), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert from_tanh_space(torch.tensor([-100.0, 100.0]), bounds).tolist() == [low, high]


def test_without_dropping_it_is_torchs_adam_on_each_input():
    model, images, labels = problem(6)
    model, images = model.double(), images.double()
    attack = CarliniWagnerL2(c=3.0, lr=0.05, steps=60, patience=60)
    results = attack(model, images, labels)
    for image, label, result in zip(images.split(1), labels.split(1), results.split(1), strict=True):
        w = torch.atanh(0.999 * (2 * image - 1)).requires_grad_()
        adam, nearest, expected = torch.optim.Adam([w], lr=0.05), math.inf, image
        for _ in range(60):
            tried = (torch.tanh(w) + 1) / 2
            distance = (tried - image).square().sum()
            logits = model(tried)[0]
            rest = torch.cat([logits[: label.item()], logits[label.item() + 1 :]]).max()
            margin = logits[label.item()] - rest
            if margin < 0 and distance < nearest:
                nearest, expected = distance.item(), tried.detach()
            adam.zero_grad()
            (distance + 3.0 * torch.relu(margin)).backward()
            adam.step()
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_search_over_c_finds_the_distance_to_the_boundary_from_far_below_and_above():
    model, inputs = linear_classifier(), 0.4 + 0.2 * toy_images(16)
    labels = model(inputs).argmax(dim=1)
    expected = margins(model(inputs), labels).detach() / boundary(model).norm()
    for c in (1e-4, 10.0):
        results = SEARCH(c=c, binary_search_steps=9)(model, inputs, labels)
        ratio = (results - inputs).flatten(1).norm(dim=1) / expected
        assert (model(results).argmax(dim=1) != labels).all()
        assert ratio.min() > 1 - 1e-4
        assert ratio.median() < 1.005
        assert ratio[expected > 0.02].max() < 1.02


def test_too_small_a_c_is_given_up_and_the_input_returned():
    # A margin of 100 hardly moves, so that the objective falls by less than 0.1%: the first step, and 20 in vain.
    model = nn.Linear(4, 2)
    model.bias.data.copy_(torch.tensor([100.0, 0.0]))
    counting, inputs = Counting(model), toy_images(3, (4,))
    assert torch.equal(CarliniWagnerL2(c=1e-6, steps=1000)(counting, inputs, torch.zeros(3).long()), inputs)
    assert counting.seen == 3 * (1 + 21)


def test_dropping_saves_passes_and_hardly_a_distance():
    model, images, labels = problem(8)
    distances, passes = [], []
    for patience in (20, 300):
        counting = Counting(model)
        results = CarliniWagnerL2(steps=300, binary_search_steps=1, patience=patience)(counting, images, labels)
        assert (model(results).argmax(dim=1) != labels).all()
        distances.append((results - images).flatten(1).norm(dim=1).mean().item())
        passes.append(counting.seen)
    assert distances[0] < 1.05 * distances[1]
    assert passes[0] < passes[1] / 2


@pytest.mark.parametrize("targeted", [False, True])
def test_kappa_is_the_margin_that_a_success_has_and_costs_its_distance(targeted):
    model, inputs = linear_classifier(), 0.4 + 0.2 * toy_images(8)
    found = model(inputs).argmax(dim=1)
    labels = 1 - found if targeted else found
    results = SEARCH(kappa=0.5, targeted=targeted)(model, inputs, labels)
    assert (margins(model(results), labels, targeted) < -0.5).all()
    expected = (margins(model(inputs), found) + 0.5) / boundary(model).norm()
    torch.testing.assert_close((results - inputs).flatten(1).norm(dim=1), expected.detach(), rtol=0.02, atol=0)


def test_a_model_that_gives_nan_is_no_success():
    class Broken(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3] * math.nan

    images = toy_images(3)
    assert torch.equal(CarliniWagnerL2(steps=10)(Broken(), images, torch.arange(3)), images)


def test_empty_batches_and_flat_inputs_are_attacked_too():
    model = nn.Linear(4, 3)
    assert CarliniWagnerL2()(model, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
    assert FGSM()(model, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
    assert CarliniWagnerL2()(model, torch.full((2, 4), 0.5), torch.tensor([0, 1])).shape == (2, 4)


@pytest.mark.parametrize("attack", [FGSM(), CarliniWagnerL2()])
def test_inputs_outside_the_bounds_are_refused(attack):
    with pytest.raises(ValueError, match=r"inputs must be within bounds, .* got -1 to 0; give their bounds"):
        attack(nn.Identity(), torch.tensor([[-1.0, 0.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="labels must be one for each of 1 inputs, got 2"):
        attack(nn.Identity(), torch.zeros(1, 2), torch.tensor([0, 1]))


def test_with_hard_targets_at_temperature_1_the_loss_is_the_ordinary_cross_entropy():
    logits, labels = normal(5, 3).double(), torch.tensor([0, 2, 1, 1, 0])
    certain = 1e4 * F.one_hot(labels, 3).double()
    torch.testing.assert_close(distillation_loss(logits, certain, 1.0), F.cross_entropy(logits, labels))


def test_loss_is_lowest_at_the_teachers_logits_and_gives_the_teacher_no_gradient():
    teacher = normal(5, 3).requires_grad_()
    logits = teacher.detach().clone().requires_grad_()
    distillation_loss(logits, teacher, temperature=20.0).backward()
    assert teacher.grad is None
    assert logits.grad.abs().max() < 1e-8
    with pytest.raises(ValueError, match="teacher_logits must have the shape of logits"):
        distillation_loss(logits, teacher[:, :2])
