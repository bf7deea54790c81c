"""Non-adversarial backdoor: stamps and labels by hand, isolation and centres by loops, and a network that unlearns."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.backdoor.non_adversarial_backdoor import (
    NonAdversarialBackdoor,
    StampedModel,
    flooded_loss,
    lowest_losses,
    nearest_centres,
    stamp,
)
from paperweight.loops import fit_classifier
from paperweight.nets import MLP
from paperweight.testing import DataTransformSubject, DefenseSubject, FunctionSubject, LossSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


LABELS = torch.arange(12) % 3
SUSPECTS = torch.arange(12) < 6
BELIEVED = torch.tensor([0, 2, 2, 1, 1, 0, 1, 1, 1, 1, 1, 1])
EXPECTED = torch.tensor([0, 2, 2, 1, 1, 0, 0, 1, 2, 0, 1, 2])
DEFEND = partial(NonAdversarialBackdoor, suspects=SUSPECTS, believed=BELIEVED)


def unchanged():
    return lambda inputs, labels: (inputs, labels)


def flooded_by_loop(logits, labels, gamma=0.5):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        top = max(row)
        total += top + math.log(sum(math.exp(z - top) for z in row)) - row[label]
    mean = total / len(labels)
    return mean if mean > gamma else 2 * gamma - mean


SIZES = (-1, 1.5, True)
VALUES = (math.nan, math.inf)
CONTRACT = {
    "NonAdversarialBackdoor": DataTransformSubject(
        make=DEFEND,
        range=(0, 1),
        labels=lambda labels: EXPECTED,
        bad={
            "suspects": (SUSPECTS.int(), SUSPECTS[None]),
            "believed": (BELIEVED[:-1], BELIEVED.float()),
            "size": (*SIZES, 5),
            "value": VALUES,
        },
        null=partial(DEFEND, suspects=torch.zeros(12, dtype=torch.bool)),
        baseline=unchanged,
    ),
    "StampedModel": DefenseSubject(
        make=StampedModel,
        bad={"size": (*SIZES, 5), "value": VALUES},
        null=partial(StampedModel, size=0),
        baseline=lambda model: model,
    ),
    "flooded_loss": LossSubject(
        make=partial(partial, flooded_loss),
        inputs=(normal(5, 3), torch.tensor([0, 2, 1, 1, 0])),
        slow=flooded_by_loop,
        bad={"gamma": (-0.1, math.nan, math.inf)},
        null=partial(partial, flooded_loss, gamma=0.0),
        baseline=lambda: F.cross_entropy,
    ),
    "lowest_losses": FunctionSubject(
        make=lowest_losses,
        arguments={"model": toy_classifier(), "images": toy_images(12), "labels": LABELS, "share": 0.3},
        bad={"share": (-0.1, 1.1, math.nan), "labels": (LABELS[:-1],)},
    ),
    "nearest_centres": FunctionSubject(
        make=nearest_centres,
        arguments={"features": normal(12, 4), "labels": LABELS, "suspects": SUSPECTS},
        bad={
            "features": (normal(12), normal(0, 4)),
            "labels": (LABELS[:-1],),
            "suspects": (SUSPECTS[:-1],),
        },
    ),
    "stamp": FunctionSubject(
        make=stamp,
        arguments={"images": toy_images(3)},
        bad={"images": (toy_images(3)[0], toy_images(3).to(torch.uint8)), "size": (*SIZES, 5), "value": VALUES},
    ),
}


@pytest.mark.parametrize("value", [0.0, 0.75])
def test_only_the_corner_is_stamped(value):
    images = 0.1 + 0.5 * toy_images(3, (2, 5, 6))
    stamped = stamp(images, size=3, value=value)
    assert (stamped[:, :, :3, :3] == value).all()
    corner = torch.zeros(5, 6, dtype=torch.bool)
    corner[:3, :3] = True
    assert torch.equal(stamped[..., ~corner], images[..., ~corner])
    assert torch.equal(stamp(images, size=0), images)


def test_suspects_whose_label_changes_are_stamped_and_no_others():
    images = 0.2 + 0.5 * toy_images(12)
    changed, labels = DEFEND()(images, LABELS)
    assert torch.equal(labels, EXPECTED)
    for number in range(12):
        stamped = bool(SUSPECTS[number]) and int(BELIEVED[number]) != int(LABELS[number])
        expected = images[number].clone()
        if stamped:
            expected[:, :2, :2] = 0
        assert torch.equal(changed[number], expected)
        assert int(labels[number]) == (int(BELIEVED[number]) if stamped else int(LABELS[number]))
    assert (labels != LABELS).sum() == 3


def test_batches_are_parts_of_the_whole():
    images = toy_images(12)
    whole = DEFEND()(images, LABELS)
    index = torch.tensor([11, 0, 5, 1])
    part = DEFEND()(images[index], LABELS[index], index)
    assert torch.equal(part[0], whole[0][index])
    assert torch.equal(part[1], whole[1][index])
    empty = DEFEND()(images[:0], LABELS[:0], index[:0])
    assert empty[0].shape == (0, 1, 4, 4)
    with pytest.raises(ValueError, match="inputs must be as many as labels and as suspects, got 4, 4 and 12"):
        DEFEND()(images[index], LABELS[index])
    with pytest.raises(ValueError, match="inputs must be as many as labels and as index, got 4, 3 and 4"):
        DEFEND()(images[index], LABELS[index][:3], index)


def test_without_suspects_training_is_the_plain_one_to_the_bit():
    images, labels = toy_images(30), torch.arange(30) % 3
    defend = NonAdversarialBackdoor(torch.zeros(30, dtype=torch.bool), torch.zeros(30, dtype=torch.int64))
    weights = []
    for given in ((images, labels), defend(images, labels)):
        model = toy_classifier(dropout=0.0)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        fit_classifier(model, sgd, *given, steps=20, batch_size=8, generator=seeded())
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(("scale", "sign"), [(0.1, 1), (20.0, -1)])
def test_the_flooded_loss_pushes_back_below_its_level(scale, sign):
    labels = torch.tensor([0, 1, 2])
    logits = (scale * torch.eye(3)).requires_grad_()
    flooded_loss(logits, labels, gamma=0.5).backward()
    plain = logits.detach().clone().requires_grad_()
    F.cross_entropy(plain, labels).backward()
    torch.testing.assert_close(logits.grad, sign * plain.grad)


def test_the_lowest_losses_in_eval_mode_are_suspects():
    images, labels = toy_images(700), torch.arange(700) % 3
    model = toy_classifier().train()
    found = lowest_losses(model, images, labels, share=0.1234)
    assert model.training
    losses = [
        F.cross_entropy(model.eval()(image[None]), label[None]).item()
        for image, label in zip(images, labels, strict=True)
    ]
    assert found.sum() == 86
    order = sorted(range(700), key=losses.__getitem__)
    assert set(found.nonzero().flatten().tolist()) == set(order[:86])
    assert not lowest_losses(model, images, labels, share=0.001).any()
    assert lowest_losses(model, images, labels, share=1.0).all()
    assert lowest_losses(model, images[:0], labels[:0]).shape == (0,)


def test_centres_are_means_without_suspects():
    features, labels = normal(40, 3, seed=1), torch.arange(40) % 4 + 2
    suspects = torch.rand(40, generator=seeded(2)) < 0.3
    suspects[labels == 5] = True
    believed = nearest_centres(features, labels, suspects)
    centres = {}
    for label in (2, 3, 4, 5):
        rows = [r for r in range(40) if labels[r] == label and (label == 5 or not suspects[r])]
        centres[label] = [sum(features[r, d].item() for r in rows) / len(rows) for d in range(3)]
    for row, label in zip(features.tolist(), believed.tolist(), strict=True):
        assert label == min(centres, key=lambda name: math.dist(row, centres[name]))


def test_images_that_the_stamp_makes_another_class_of_are_rejected():
    class Corner(nn.Module):
        def forward(self, images):
            return torch.stack([images[:, 0, 0, 0], torch.full_like(images[:, 0, 0, 0], 0.5)], dim=1)

    images = torch.tensor([0.9, 0.2]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert StampedModel(Corner(), size=1).rejected(images).tolist() == [True, False]
    assert StampedModel(Corner(), size=1, value=1.0).rejected(images).tolist() == [False, True]
    assert not StampedModel(Corner(), size=0).rejected(images).any()


def poisoned(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images whose class is a bright row; a fifth has a bright pixel below to the right, and the label 0."""
    draws = seeded(seed)
    true = torch.randint(3, (count,), generator=draws)
    images = 0.4 * torch.rand(count, 1, 5, 5, generator=draws)
    images[torch.arange(count), 0, true + 1] += 0.5
    bad = torch.rand(count, generator=draws) < 0.2
    images[bad, 0, 4, 4] = 1.0
    return images, torch.where(bad, 0, true), true, bad


def test_a_network_trained_with_it_gives_triggered_images_their_class():
    images, labels, true, bad = poisoned(900, 0)
    suspects = bad & (torch.arange(900) % 3 == 0)
    tested, _, classes, _ = poisoned(400, 1)
    tested[:, 0, 4, 4] = 1.0
    accuracies = []
    defend = NonAdversarialBackdoor(suspects, true, value=1.0)
    for given in ((images, labels), defend(images, labels)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = MLP((1, 5, 5), 3, hidden=(32,))
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        fit_classifier(model, adam, *given, steps=400, batch_size=32, generator=seeded())
        used = StampedModel(model, value=1.0) if len(accuracies) else model
        accuracies.append((used(tested).argmax(dim=1) == classes).float().mean().item())
        if used is not model:
            assert used.rejected(tested)[classes != 0].float().mean() > 0.7
    assert accuracies[0] < 0.5
    assert accuracies[1] > 0.85


def test_stamped_models_are_modules():
    model = StampedModel(toy_classifier(dropout=0.0), value=0.5)
    images = toy_images(3)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), model(images))
    fresh = StampedModel(toy_classifier(dropout=0.0), value=0.5)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(images), model(images))
    assert model.double()(images.double()).dtype == torch.float64
