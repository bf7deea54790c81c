"""RAID: activations and differences by hand, detectors against plain networks, chance against the frequencies."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paperweight.loops import fit_classifier
from paperweight.nets import LeNet
from paperweight.robustness.raid_detector import (
    DetectorPool,
    activation_differences,
    activation_values,
    chosen_scores,
    class_means,
    detection_loss,
)
from paperweight.testing import FunctionSubject, LayerSubject, LossSubject


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LeNet((1, 8, 8), 3).eval()


IMAGES = torch.rand(9, 1, 8, 8, generator=seeded())
VALUES, LABELS = torch.randn(9, 5, generator=seeded(1)), torch.arange(9) % 3
MEANS = torch.randn(3, 5, generator=seeded(2))
SCORES, TOLD = torch.randn(6, 4, generator=seeded(3)), torch.arange(6) < 2


def plain():
    """Give a perceptron of one hidden layer, as a pool of one has it."""

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.members = nn.ModuleList([nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 1))])
            self.register_buffer("places", torch.arange(5)[None])

        def forward(self, rows):
            return self.members[0](rows)

    return One()


def slow_loss(scores, attacked):
    total = 0.0
    for row, told in zip(scores.tolist(), attacked.tolist(), strict=True):
        total += sum(math.log1p(math.exp(-score if told else score)) for score in row)
    return total / scores.numel()


CONTRACT = {
    "DetectorPool": LayerSubject(
        make=lambda **given: DetectorPool(
            **{"features": 5, "detectors": 3, "share": 0.6, "hidden": 7, "generator": seeded(), **given}
        ),
        inputs=(VALUES,),
        shape=(9, 3),
        parameter_count=3 * (3 * 7 + 7 + 7 + 1),
        bad={
            "features": (0, 1.5, True),
            "detectors": (0, 1.5, True),
            "share": (0.0, 1.1, math.nan, True),
            "hidden": (0, 1.5, True),
        },
        null=lambda: DetectorPool(5, detectors=1, share=1.0, hidden=7, generator=seeded()),
        baseline=plain,
    ),
    "detection_loss": LossSubject(
        make=lambda **given: (
            lambda scores, attacked: detection_loss(**{"scores": scores, "attacked": attacked, **given})
        ),
        inputs=(SCORES, TOLD),
        slow=slow_loss,
        bad={"attacked": (TOLD.float(), TOLD[:3], TOLD[:, None]), "scores": (SCORES[0],)},
    ),
    "activation_values": FunctionSubject(
        make=activation_values,
        arguments={"model": network(), "inputs": IMAGES},
        bad={"layers": (("body.9", "body.9"), ("head", "tail"), ()), "model": (nn.Flatten(),)},
    ),
    "activation_differences": FunctionSubject(
        make=activation_differences,
        arguments={"activations": VALUES, "predicted": LABELS, "means": MEANS},
        bad={
            "activations": (VALUES[0],),
            "predicted": (LABELS.float(), LABELS[:3], LABELS + 1, LABELS - 1),
            "means": (MEANS[0], MEANS[:, :2]),
        },
    ),
    "class_means": FunctionSubject(
        make=class_means,
        arguments={"activations": VALUES, "labels": LABELS, "classes": 3},
        bad={
            "activations": (VALUES[0],),
            "labels": (LABELS.float(), LABELS[:3], LABELS - 1, torch.zeros_like(LABELS)),
            "classes": (0, 1.5, True),
        },
    ),
    "chosen_scores": FunctionSubject(
        make=chosen_scores,
        arguments={"scores": SCORES, "generator": seeded()},
        bad={"scores": (SCORES[0], SCORES[:, :0])},
    ),
}


def test_activations_are_those_of_all_relus_in_order_and_hooks_are_gone():
    model, expected, values = network(), [], IMAGES
    for layer in model.body:
        values = layer(values)
        if isinstance(layer, nn.ReLU):
            expected.append(values.flatten(1))
    outputs, found = activation_values(model, IMAGES)
    assert torch.equal(found, torch.cat(expected, dim=1))
    assert torch.equal(outputs, model(IMAGES))
    assert torch.equal(activation_values(model, IMAGES, ["head"])[1], outputs)
    assert not any(part._forward_hooks for part in model.modules())
    twice = nn.Sequential(relu := nn.ReLU(), relu)
    with pytest.raises(ValueError, match="once each in a pass, 0; got 0, 0"):
        activation_values(twice, IMAGES)
    changing = nn.Sequential(nn.ReLU(), nn.Hardtanh(0.0, 0.5, inplace=True))
    assert torch.equal(activation_values(changing, IMAGES)[1], IMAGES.flatten(1))


def test_differences_are_0_at_the_mean_of_the_class_and_by_hand_elsewhere():
    means = class_means(VALUES, LABELS, 3)
    for label in range(3):
        rows = [VALUES[number].tolist() for number in range(9) if LABELS[number] == label]
        assert means[label].tolist() == pytest.approx([sum(column) / 3 for column in zip(*rows, strict=True)], abs=1e-6)
    assert not activation_differences(means, torch.arange(3), means).any()
    found = activation_differences(VALUES, LABELS, MEANS)
    for number in range(9):
        assert torch.equal(found[number], VALUES[number] - MEANS[number % 3])
    uneven = class_means(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([1, 0, 1]), 2)
    assert uneven[:, 0].tolist() == [2.0, 3.5]


def test_each_detector_looks_at_its_own_features_alone():
    pool = DetectorPool(20, detectors=6, share=0.4, generator=seeded())
    assert pool.places.shape == (6, 8)
    assert all(row.tolist() == sorted(set(row.tolist())) for row in pool.places)
    assert len({tuple(row.tolist()) for row in pool.places}) == 6
    rows = torch.randn(2, 20, generator=seeded())
    for feature in range(0, 20, 3):
        changed = rows.clone()
        changed[:, feature] += 1
        moved = (pool(changed) != pool(rows)).any(dim=0)
        assert moved.tolist() == (pool.places == feature).any(dim=1).tolist()
    for number, member in enumerate(pool.members):
        torch.testing.assert_close(pool(rows)[:, number], member(rows[:, pool.places[number]])[:, 0])
    counts = torch.bincount(DetectorPool(20, detectors=400, share=0.25).places.flatten(), minlength=20)
    assert (counts.min() > 60, counts.max() < 145) == (True, True)  # 100 each on average, deviation about 9
    assert DetectorPool(3, share=0.01).places.shape == (10, 1)


def test_each_input_gets_the_score_of_a_detector_that_is_drawn_for_it_alone():
    scores = torch.arange(4.0).expand(8_000, 4)
    found = chosen_scores(scores, seeded())
    assert torch.bincount(found.long(), minlength=4).div(8_000).sub(0.25).abs().max() < 0.02
    assert (found[1:] == found[:-1]).float().mean().item() == pytest.approx(0.25, abs=0.02)
    rows = torch.randn(50, 4, generator=seeded())
    assert (chosen_scores(rows, seeded())[:, None] == rows).any(dim=1).all()
    assert torch.equal(chosen_scores(rows[:, :1]), rows[:, 0])


def test_a_pool_of_one_trains_as_a_plain_perceptron_bit_for_bit():
    states = []
    for make in (lambda: DetectorPool(5, detectors=1, share=1.0, hidden=7, generator=seeded()), plain):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            model = make()
        loss = detection_loss if isinstance(model, DetectorPool) else by_hand
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit_classifier(model, optimizer, VALUES, LABELS == 0, steps=4, batch_size=4, generator=seeded(), loss=loss)
        states.append(list(model.state_dict().values()))
    assert all(map(torch.equal, *states))


def by_hand(scores, attacked):
    return F.binary_cross_entropy_with_logits(scores[:, 0], attacked.float())


def test_what_does_not_fit_is_refused_and_a_copy_scores_alike():
    pool = DetectorPool(5, generator=seeded())
    other = DetectorPool(5, generator=seeded(1))
    other.load_state_dict(pool.state_dict())
    assert torch.equal(other(VALUES), pool(VALUES))
    assert torch.equal(copy.deepcopy(pool)(VALUES), pool(VALUES))
    with pytest.raises(ValueError, match=r"differences must be \(N, 5\)"):
        pool(VALUES[:, :4])


class TwiceAndNever(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, inputs):
        return self.first(self.first(inputs))


def test_a_layer_called_twice_does_not_stand_for_one_that_is_not():
    with pytest.raises(ValueError, match="once each in a pass, first, second; got first, first"):
        activation_values(TwiceAndNever(), torch.ones(2, 3))
