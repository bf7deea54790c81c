"""Regional adversarial training: paths by hand and on a linear model, points in their region, labels against a loop."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.loops import adversarial_loss, fit_robust
from paperweight.robustness.regional_adversarial_training import (
    DistanceAwareLoss,
    RegionalAttack,
    distance_aware_labels,
    points_of_region,
)
from paperweight.testing import AttackSubject, FunctionSubject, LossSubject
from paperweight.testing.classifiers import linear_classifier, toy_classifier, toy_images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def unchanged():
    return lambda model, inputs, labels, *, generator: inputs


IMAGES = toy_images(6)
POINTS = (IMAGES + 0.1 * torch.rand(IMAGES.shape, generator=seeded(1)) - 0.02).clamp(0, 1)
LABELS = torch.arange(6) % 3
PATH = torch.rand(5, 7, 1, 3, 3, generator=seeded(2))
SHORT = "it draws points short of the optimum, as is its purpose; its end point is tested apart"


def loop_loss(model, images, attacked, labels):
    total = 0.0
    for image, point, label in zip(images, attacked, labels.tolist(), strict=True):
        changes = [abs(a - b) for a, b in zip(image.flatten().tolist(), point.flatten().tolist(), strict=True)]
        spread = 0.3 * min(1.0, sum(changes) / len(changes) / 0.08)
        row = model(point[None])[0].tolist()
        normaliser = math.log(sum(math.exp(z) for z in row))
        shares = [1 - spread if j == label else spread / (len(row) - 1) for j in range(len(row))]
        total -= sum(q * (z - normaliser) for q, z in zip(shares, row, strict=True))
    return total / len(images)


CONTRACT = {
    "RegionalAttack": AttackSubject(
        make=partial(RegionalAttack, radius=0.1, step=0.03),
        norm=math.inf,
        radius=0.1,
        random=True,
        bad={
            "radius": (-0.1, math.nan, math.inf, True),
            "steps": (0, 2.0, True),
            "step": (0.0, -0.1, math.nan, math.inf, True),
            "region": ("box", ""),
            "bounds": ((1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)),
        },
        null=partial(RegionalAttack, radius=0.0),
        baseline=unchanged,
        expected_failures={"check_optimum_on_linear_model": SHORT},
    ),
    "DistanceAwareLoss": LossSubject(
        make=partial(DistanceAwareLoss, radius=0.08, smoothing=0.3),
        inputs=(toy_classifier(), IMAGES, POINTS, LABELS),
        slow=loop_loss,
        differentiable=(2,),
        bad={"radius": (0.0, -0.1, math.nan, math.inf, True), "smoothing": (-0.1, 1.1, math.nan, True)},
        null=partial(DistanceAwareLoss, smoothing=0.0),
        baseline=lambda: adversarial_loss,
    ),
    "distance_aware_labels": FunctionSubject(
        make=distance_aware_labels,
        arguments={"labels": LABELS, "distances": torch.linspace(0, 0.2, 6), "classes": 3, "radius": 0.1},
        bad={
            "labels": (LABELS.float(), LABELS[:5], LABELS[:, None]),
            "classes": (1, 3.0, True),
            "radius": (0.0, math.nan, True),
            "smoothing": (-0.1, 1.1, math.nan, True),
        },
    ),
    "points_of_region": FunctionSubject(
        make=points_of_region,
        arguments={"path": PATH, "generator": seeded()},
        bad={"path": (PATH[:1], torch.rand(5, 7)), "region": ("box", "")},
    ),
}


def path_by_hand(model, images, labels, radius, steps, step, source):
    """Projected gradient ascent as in Madry et al. 2018, point by point, in eval mode."""
    model.eval()
    points = [(images + radius * (2 * torch.rand(images.shape, generator=source) - 1)).clamp(0, 1)]
    for _ in range(steps):
        place = points[-1].clone().requires_grad_()
        losses = [-model(one[None]).log_softmax(1)[0, label] for one, label in zip(place, labels, strict=True)]
        (gradient,) = torch.autograd.grad(losses, place)
        ahead = points[-1] + step * gradient.sign()
        points.append(torch.min(torch.max(ahead, images - radius), images + radius).clamp(0, 1))
    return torch.stack(points)


def test_the_end_is_the_last_point_of_projected_gradient_ascent():
    model = toy_classifier().train()
    images = (1.4 * toy_images(6) - 0.2).clamp(0, 1)
    attack = RegionalAttack(radius=0.1, steps=6, step=0.03, region="end")
    found = attack(model, images, LABELS, generator=seeded())
    assert model.training
    expected = path_by_hand(copy.deepcopy(model), images, LABELS, 0.1, 6, 0.03, seeded())
    torch.testing.assert_close(found, expected[-1])


def test_the_end_is_the_optimum_on_a_linear_model():
    model, images = linear_classifier(), 0.3 + 0.4 * toy_images(9)
    labels = model(images).argmax(1)
    weight = model.get_parameter("1.weight").detach()
    slope = (weight[1] - weight[0]).view(1, 4, 4)
    found = RegionalAttack(radius=0.1, step=0.03, region="end")(model, images, labels, generator=seeded())
    expected = images + 0.1 * slope.sign() * (1 - 2 * labels)[:, None, None, None]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("region", ["boxes", "segments"])
def test_points_are_on_their_own_path_and_within_ball_and_bounds(region):
    images = (1.4 * toy_images(6) - 0.2).clamp(0, 1)
    model = toy_classifier()
    attack = RegionalAttack(radius=0.1, steps=6, step=0.03, region=region)
    path = path_by_hand(copy.deepcopy(model), images, LABELS, 0.1, 6, 0.03, seeded())
    for seed in range(5):
        found = attack(model, images, LABELS, generator=seeded())
        draw = seeded()
        torch.rand(images.shape, generator=draw)
        torch.testing.assert_close(found, points_of_region(path, region, draw))
        others = attack(model, images, LABELS, generator=seeded(seed))
        assert (others - images).abs().max() <= 0.1 + 1e-6
        assert 0 <= others.min() <= others.max() <= 1


def test_a_point_of_a_box_is_between_neighbours_entry_by_entry_and_of_a_segment_on_a_line():
    low, high = torch.minimum(PATH[:-1], PATH[1:]), torch.maximum(PATH[:-1], PATH[1:])
    off_line = 0
    for seed in range(40):
        for region in ("boxes", "segments"):
            found = points_of_region(PATH, region, seeded(seed))
            inside = ((found >= low - 1e-6) & (found <= high + 1e-6)).flatten(2).all(dim=2)
            assert inside.any(dim=0).all()
            shares = ((found - PATH[:-1]) / (PATH[1:] - PATH[:-1])).flatten(2)
            on_line = ((shares.amax(dim=2) - shares.amin(dim=2)) < 1e-3).any(dim=0)
            assert on_line.all() or region == "boxes"
            off_line += int((~on_line).sum())
    assert off_line > 200


def test_all_legs_of_the_path_and_all_shares_are_equally_likely():
    path = torch.arange(5.0)[:, None, None].expand(5, 20_000, 2)
    for region in ("boxes", "segments"):
        found = points_of_region(path, region, seeded())
        assert torch.histc(found[:, 0], bins=8, min=0, max=4).div(20_000).sub(1 / 8).abs().max() < 0.012
        same = (found[:, 0] == found[:, 1]).float().mean().item()
        assert same == (1 if region == "segments" else pytest.approx(0, abs=0.01))
        assert torch.equal(found.floor()[:, 0], found.floor()[:, 1])
    assert torch.equal(points_of_region(path, "end"), path[-1])


def test_labels_by_hand_are_shares_and_harder_near_the_image():
    found = distance_aware_labels(LABELS, torch.linspace(0, 0.25, 6), classes=3, radius=0.2, smoothing=0.4)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(6))
    own = found[torch.arange(6), LABELS]
    torch.testing.assert_close(own, torch.tensor([1.0, 0.9, 0.8, 0.7, 0.6, 0.6]))
    assert found[1].tolist() == pytest.approx([0.05, 0.9, 0.05])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_at_its_null_setting_training_is_adversarial_training_bit_for_bit(smoothing):
    def end(model, inputs, labels, *, generator):
        model_ = copy.deepcopy(model).eval()
        point = (inputs + 0.1 * (2 * torch.rand(inputs.shape, generator=generator) - 1)).clamp(0, 1)
        for _ in range(3):
            point = point.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model_(point), labels, reduction="sum"), point)
            point = torch.clamp(
                point.detach() + 0.05 * gradient.sign(), (inputs - 0.1).clamp(min=0), (inputs + 0.1).clamp(max=1)
            )
        return point

    states = []
    attack = RegionalAttack(radius=0.1, steps=3, step=0.05, region="end")
    for how, loss in ((attack, DistanceAwareLoss(0.1, smoothing)), (end, adversarial_loss)):
        model = toy_classifier(dropout=0.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        keywords = {"attack": how, "loss": loss, "steps": 4, "batch_size": 3, "generator": seeded()}
        fit_robust(model, optimizer, IMAGES, LABELS, **keywords)
        states.append(list(model.state_dict().values()))
    assert all(map(torch.equal, *states)) == (smoothing == 0)


def test_an_unchanged_image_keeps_its_label_whole():
    loss = DistanceAwareLoss(radius=0.1, smoothing=0.5)
    model = toy_classifier()
    torch.testing.assert_close(loss(model, IMAGES, IMAGES, LABELS), F.cross_entropy(model(IMAGES), LABELS))


def test_empty_batches_flat_inputs_shares_and_copies():
    attack = RegionalAttack(radius=0.1)
    model = nn.Linear(4, 3)
    assert attack(model, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 4)
    assert attack(model, torch.full((1, 4), 0.5), torch.full((1, 3), 1 / 3), generator=seeded()).shape == (1, 4)
    again = pickle.loads(pickle.dumps(attack))
    assert (again.radius, again.region) == (0.1, "boxes")


def test_inputs_that_do_not_fit_are_refused():
    attack, labels = RegionalAttack(radius=0.1), torch.tensor([0])
    for inputs, words in (
        (torch.full((1, 4), 1.5), "inputs must be within bounds"),
        (torch.full((1, 4), math.nan), "inputs must be within bounds"),
        (torch.ones(1, 4, dtype=torch.uint8), "inputs must be floating"),
        (torch.zeros(2, 4), "with a label each"),
    ):
        with pytest.raises(ValueError, match=words):
            attack(nn.Identity(), inputs, labels)
    with pytest.raises(ValueError, match="attacked must have the shape of images"):
        DistanceAwareLoss()(nn.Identity(), torch.zeros(1, 4), torch.zeros(1, 3), labels)
