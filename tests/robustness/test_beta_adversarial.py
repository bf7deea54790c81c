"""BETA against a loop with torch's RMSprop over classes, closed forms of linear models, and an error that CE misses."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
from torch import nn

from paperweight.attacks import ProjectedGradient, margin_loss, random_point
from paperweight.loops import evaluate_classifier, fit_classifier, fit_robust
from paperweight.nets import MLP
from paperweight.robustness.beta_adversarial import (
    BestTargetedAttack,
    SmoothedTargetedAttack,
    smooth_margin,
    target_margin,
    wrong_classes,
)
from paperweight.testing import AttackSubject
from paperweight.testing.classifiers import toy_images

BAD = {
    "radius": (-0.1, math.nan, math.inf, True),
    "steps": (0, -1, 2.0, True),
    "lr": (0.0, -1.0, math.nan, math.inf, True),
    "decay": (-0.1, 1.0, math.nan, False),
    "bounds": ((1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)),
}


def unchanged():
    return lambda model, inputs, labels, generator: inputs


def subject(attack, **bad):
    return AttackSubject(
        make=partial(attack, radius=0.1),
        norm=math.inf,
        radius=0.1,
        random=True,
        bad=BAD | bad,
        null=partial(attack, radius=0.0),
        baseline=unchanged,
    )


CONTRACT = {
    "BestTargetedAttack": subject(BestTargetedAttack, targets=(0, -1, 1.5, True)),
    "SmoothedTargetedAttack": subject(SmoothedTargetedAttack, temperature=(0.0, -1.0, math.nan, math.inf, True)),
}
BOTH = pytest.mark.parametrize("attack", [BestTargetedAttack, SmoothedTargetedAttack])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(classes=4, hidden=(32,)):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MLP((1, 5, 5), classes, hidden=hidden).double().eval()
    with torch.no_grad():  # far from linear within the ball
        model.body[1].weight.mul_(4)
        model.head.weight.mul_(4)
    return model


def problem(count=12, classes=4, hidden=(32,)):
    model, images = network(classes, hidden), toy_images(count, (1, 5, 5)).double()
    return model, images, model(images).argmax(dim=1)


def difference(j, label, logits):
    return logits[j] - logits[label]


def slow_climb(model, image, start, margin, radius, steps, lr, decay):
    """Raise a margin of one image by torch's own RMSprop, and give the point of largest margin that was passed."""
    point = start.clone().requires_grad_()
    optimizer = torch.optim.RMSprop([point], lr=lr * radius, alpha=decay, maximize=True)
    best, largest = None, -math.inf
    for _ in range(steps + 1):
        value = margin(model(point)[0])
        if value.item() > largest:
            best, largest = point.detach().clone(), value.item()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            point.copy_(torch.min(torch.max(point, image - radius), image + radius).clamp(0, 1))
    return best, largest


def test_it_is_a_loop_over_images_and_classes_with_torchs_rmsprop():
    model, images, labels = problem(12)
    radius, steps, lr, decay = 0.2, 7, 0.3, 0.8
    found = BestTargetedAttack(radius, steps, lr, decay)(model, images, labels, generator=seeded())
    starts = random_point(images.repeat_interleave(3, dim=0), radius, math.inf, generator=seeded())
    logits, chosen = model(images), []
    for row, (image, label) in enumerate(zip(images.split(1), labels.tolist(), strict=True)):
        order = [j for j in logits[row].argsort(descending=True).tolist() if j != label]
        tries = [
            slow_climb(model, image, starts[None, 3 * row + k], partial(difference, j, label), radius, steps, lr, decay)
            for k, j in enumerate(order)
        ]
        best, _ = max(tries, key=lambda tried: tried[1])
        chosen.append([largest for _, largest in tries].index(max(largest for _, largest in tries)))
        torch.testing.assert_close(found[row : row + 1], best, rtol=0, atol=1e-9)
    assert len(set(chosen)) > 1


def test_the_smoothed_one_is_a_loop_with_torchs_rmsprop():
    model, images, labels = problem(4)
    attack = SmoothedTargetedAttack(radius=0.1, steps=7, temperature=0.5, lr=0.3, decay=0.8)
    found = attack(model, images, labels, generator=seeded())
    starts = random_point(images, 0.1, math.inf, generator=seeded())
    for row, (image, label) in enumerate(zip(images.split(1), labels.tolist(), strict=True)):

        def margin(z, label=label):
            return 0.5 * sum(((z[j] - z[label]) / 0.5).exp() for j in range(4) if j != label).log()

        best, _ = slow_climb(model, image, starts[row : row + 1], margin, 0.1, 7, 0.3, 0.8)
        torch.testing.assert_close(found[row : row + 1], best, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "attack", [BestTargetedAttack(radius=0.1), SmoothedTargetedAttack(radius=0.1, temperature=1e-3, steps=40)]
)
def test_on_a_linear_model_the_largest_margin_is_the_closed_form(attack):
    weight = torch.randn(5, 25, generator=seeded(1), dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(25, 5, bias=False)).double()
    model[1].weight.data.copy_(weight)
    images, labels = 0.3 + 0.4 * toy_images(20, (1, 5, 5)).double(), torch.arange(20) % 5
    margins = margin_loss(model(attack(model, images, labels, generator=seeded())), labels)
    for image, label, margin in zip(images.flatten(1), labels.tolist(), margins.tolist(), strict=True):
        gaps = [weight[j] - weight[label] for j in range(5) if j != label]
        exact = max((gap @ image + 0.1 * gap.abs().sum()).item() for gap in gaps)
        assert margin <= exact + 1e-9
        if isinstance(attack, BestTargetedAttack):
            assert margin == pytest.approx(exact, abs=1e-9)
    if isinstance(attack, SmoothedTargetedAttack):  # it may climb to the class that is best at the start
        assert (margins > margin_loss(model(images), labels) + 1).all()


def test_it_finds_the_error_where_the_cross_entropy_is_largest_elsewhere():
    # By d, the change of the one entry: M_1 = 4 d - 1, and eight classes of M_j = -2 d - 0.7. The cross-entropy is
    # largest at d = -0.3, where all margins are below 0; at d = 0.3 class 1 wins by 0.2.
    model = nn.Linear(1, 10).double()
    model.weight.data.copy_(torch.tensor([[0.0], [4.0], *[[-2.0]] * 8]))
    model.bias.data.copy_(torch.tensor([0.0, -3.0, *[0.3] * 8]))
    inputs, labels = torch.full((20, 1), 0.5).double(), torch.zeros(20, dtype=torch.int64)
    missed = ProjectedGradient(radius=0.3, keep_going=True, starts=5)(model, inputs, labels, generator=seeded())
    torch.testing.assert_close(missed, torch.full_like(missed, 0.2))
    assert evaluate_classifier(model, missed, labels).accuracy == 1
    found = BestTargetedAttack(radius=0.3)(model, inputs, labels, generator=seeded())
    torch.testing.assert_close(found, torch.full_like(found, 0.8))
    assert evaluate_classifier(model, found, labels).accuracy == 0


@BOTH
def test_of_two_classes_without_memory_it_is_projected_gradient_ascent_on_the_margin(attack):
    model, images, labels = problem(classes=2)
    found = attack(radius=0.1, steps=9, lr=0.3, decay=0.0)(model, images, labels, generator=seeded())
    plain = ProjectedGradient(radius=0.1, steps=9, step=0.03, loss=margin_loss, keep_going=True)
    torch.testing.assert_close(found, plain(model, images, labels, generator=seeded()), rtol=0, atol=1e-4)


def test_margins_and_classes_by_hand():
    logits, labels = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]]), torch.tensor([0, 2])
    assert wrong_classes(logits, labels, 2).tolist() == [[2, 1], [1, 0]]
    assert target_margin(logits, torch.tensor([1, 0]), labels).tolist() == [-2.0, -1.0]
    expected = [2 * math.log(math.exp(-1) + math.exp(-0.5)), 2 * math.log(math.exp(-0.5) + math.exp(2))]
    torch.testing.assert_close(smooth_margin(logits, labels, 2.0), torch.tensor(expected))


@pytest.mark.parametrize("temperature", [1e-4, 0.3, 10.0])
def test_the_smooth_maximum_is_above_the_largest_margin_by_little(temperature):
    logits, labels = 3 * torch.randn(50, 6, generator=seeded()).double(), torch.arange(50) % 6
    above = smooth_margin(logits, labels, temperature) - margin_loss(logits, labels)
    assert above.min() >= 0
    assert above.max() <= temperature * math.log(5) + 1e-12


class Counting(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, images):
        self.seen += len(images)
        return self.model(images)


def test_fewer_targets_cost_less_and_are_the_likeliest():
    model, images, labels = problem(8)
    margins = {}
    for targets, rows in ((None, 3), (3, 3), (7, 3), (2, 2), (1, 1)):
        counting = Counting(model)
        found = BestTargetedAttack(radius=0.2, targets=targets)(counting, images, labels, generator=seeded())
        assert counting.seen == 8 + 8 * rows * 11
        margins[targets] = margin_loss(model(found), labels).mean().item()
    assert margins[None] == margins[3] == margins[7]
    assert margins[1] < margins[3]
    # With one target it follows that class, whatever the others do.
    found = BestTargetedAttack(radius=0.2, targets=1)(model, images, labels, generator=seeded())
    second = model(images).topk(2, dim=1).indices[:, 1]
    before, after = (target_margin(model(x), second, labels) for x in (images, found))
    assert (after > before).all()


def test_it_is_at_least_as_strong_as_an_attack_on_the_cross_entropy():
    model, images, labels = problem(200, classes=8, hidden=(64,))
    plain = ProjectedGradient(radius=0.1, steps=10, keep_going=True)(model, images, labels, generator=seeded())
    best = BestTargetedAttack(radius=0.1)(model, images, labels, generator=seeded())
    assert margin_loss(model(best), labels).mean() >= margin_loss(model(plain), labels).mean()
    assert evaluate_classifier(model, best, labels).accuracy <= evaluate_classifier(model, plain, labels).accuracy


@BOTH
def test_starts_are_drawn_from_the_generator_within_ball_and_range(attack):
    model, images, labels = problem()
    small = attack(radius=0.1, steps=1, lr=1e-6, decay=0.0)
    found = [small(model, images, labels, generator=seeded(seed)) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    change = (found[0] - images).abs()
    assert 0.03 < change.mean() < 0.06
    assert found[0].min() >= 0
    assert found[0].max() <= 1


@BOTH
def test_batches_of_none_and_one_flat_inputs_and_low_precision(attack):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
    model.weight.data[:, 0] = 0  # an entry without a gradient
    assert attack()(model, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
    for dtype in (torch.float16, torch.bfloat16):
        model, inputs = model.to(dtype), torch.full((1, 4), 0.5, dtype=dtype)
        found = attack(radius=0.1)(model, inputs, torch.tensor([0]), generator=seeded())
        assert found.dtype == dtype
        change = (found - inputs).abs()[0]
        assert change.max() <= 0.102
        assert change[1:].min() >= 0.098


@BOTH
def test_where_gradients_vanish_or_logits_are_not_numbers_results_are_finite(attack):
    class Flat(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return x.flatten(1)[:, :3] * self.factor

    images = toy_images(3)
    for factor in (0.0, 1e30, math.nan):
        found = attack(radius=0.1)(Flat(factor), images, torch.arange(3), generator=seeded())
        assert found.isfinite().all()
        assert (found - images).abs().max() <= 0.1 + 1e-6
    assert torch.equal(found, images)


@BOTH
@pytest.mark.parametrize(
    ("inputs", "labels", "words"),
    [
        (torch.full((2, 4), 1.5), torch.tensor([0, 1]), "inputs must be within bounds"),
        (torch.zeros(2, 4), torch.tensor([0]), "labels must be one for each of 2 inputs, got 1"),
        (torch.zeros(2, 4), torch.full((2, 3), 1 / 3), "labels must be class numbers"),
        (torch.zeros(2, 4), torch.tensor([0.0, 1.0]), "labels must be class numbers"),
        (torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0, 1]), "inputs must be floating"),
        (torch.zeros(2), torch.tensor([0, 1]), "inputs must be floating"),
    ],
)
def test_bad_batches_are_refused(attack, inputs, labels, words):
    with pytest.raises(ValueError, match=words):
        attack()(nn.Linear(4, 3), inputs, labels)


@BOTH
def test_a_model_of_one_class_is_refused(attack):
    with pytest.raises(ValueError, match="at least 2 classes, got shape"):
        attack()(nn.Linear(4, 1), torch.zeros(2, 4), torch.tensor([0, 0]))


@BOTH
def test_it_is_copied_and_pickled(attack):
    model, images, labels = problem(3)
    made = attack(radius=0.1, steps=3)
    for other in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        results = [each(model, images, labels, generator=seeded()) for each in (made, other)]
        assert torch.equal(*results)


@BOTH
def test_training_with_it_makes_a_network_robust(attack):
    images = torch.rand(200, 1, 4, 4, generator=seeded(1))
    labels = (images.flatten(1) @ torch.randn(16, 3, generator=seeded(2))).argmax(dim=1)
    accuracies = []
    for radius in (0.0, 0.1):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MLP((1, 4, 4), 3, hidden=(16,))
        keywords = {"steps": 120, "batch_size": 50, "generator": seeded()}
        fit_robust(
            model,
            torch.optim.Adam(model.parameters(), lr=0.01),
            images,
            labels,
            attack=attack(radius=radius, steps=5),
            **keywords,
        )
        changed = ProjectedGradient(radius=0.1, loss=margin_loss)(model, images, labels, generator=seeded())
        accuracies.append(evaluate_classifier(model, changed, labels).accuracy)
        if radius == 0:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                plain = MLP((1, 4, 4), 3, hidden=(16,))
            fit_classifier(
                plain,
                torch.optim.Adam(plain.parameters(), lr=0.01),
                images,
                labels,
                **keywords | {"generator": seeded()},
            )
            assert all(map(torch.equal, model.parameters(), plain.parameters()))
    assert accuracies[1] > accuracies[0] + 0.05
