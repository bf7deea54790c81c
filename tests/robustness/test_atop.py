"""AToP against transforms by hand, a loop over the hidden groups, plain reconstruction, and a classifier kept."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient
from paperweight.loops import fit_robust
from paperweight.robustness.atop import PurifiedClassifier, atop_loss, hidden_groups
from paperweight.testing import DefenseSubject, FunctionSubject, LossSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Restorer(nn.Module):
    """Adds to each pixel a part of the mean and of the channel that tells what is hidden."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.parts = nn.Parameter(torch.tensor([0.3, 0.2]))
        self.channels = channels

    def forward(self, given: Tensor) -> Tensor:
        images, hidden = given[:, :-1], given[:, -1:]
        return images + self.parts[0] * images.mean(dim=(1, 2, 3), keepdim=True) + self.parts[1] * hidden


def defended(model, transform="noise_mask", sigma=0.1, generator=None, **given):
    return PurifiedClassifier(model, Restorer(), transform, sigma, generator=generator or seeded(), **given)


def loss(lam: float = 0.1, transform="noise_mask"):
    def value(images, attacked, labels):
        model = PurifiedClassifier(nn.Flatten(), Restorer(), transform, generator=seeded()).to(images.dtype)
        return atop_loss(model, images, attacked, labels, lam=lam)

    return value


def restored_by_loop(images: Tensor, generator: torch.Generator) -> Tensor:
    """The second transform, of one image after the other; the noise of all is drawn before the patches of all."""
    noise = torch.randn(images.shape, generator=generator, dtype=images.dtype)
    order = torch.rand(len(images), images[0].numel(), generator=generator).argsort(dim=1)
    purifier, results = Restorer().to(images.dtype), []
    for image, drawn, places in zip(images, noise, order, strict=True):
        noisy = (2 * (image + 0.25 * drawn).clamp(0, 1) - 1).flatten()
        hidden = torch.zeros_like(noisy)
        for place in places[: len(places) // 4].tolist():
            noisy[place], hidden[place] = 0, 1
        given = torch.stack([noisy.view_as(image[0]), hidden.view_as(image[0])])
        results.append((purifier(given[None])[0] + 1) / 2)
    return torch.stack(results)


def slow(images, attacked, labels):
    drawn = seeded()
    error = (restored_by_loop(images, drawn) - images).abs().sum() / images.numel()
    chances = restored_by_loop(attacked, drawn).flatten(1).log_softmax(dim=1)
    wrong = -sum(row[label] for row, label in zip(chances, labels, strict=True)) / len(labels)
    return 2 * error + 0.1 * wrong


def reconstruction(images, attacked, labels):
    model = PurifiedClassifier(nn.Flatten(), Restorer(), generator=seeded()).to(images.dtype)
    return 2 * F.l1_loss(model.purify(images), images)


NUMBERS = (-0.1, math.nan, math.inf, True)
CONTRACT = {
    "PurifiedClassifier": DefenseSubject(
        make=defended,
        random=True,
        tolerance=0.12,
        bad={"transform": ("blur",), "sigma": NUMBERS, "patch": (0, 1.5, True), "groups": (1, 2.5, True, 17)},
    ),
    "atop_loss": LossSubject(
        make=loss,
        inputs=(toy_images(4), toy_images(4, seed=1), torch.tensor([0, 3, 2, 15])),
        slow=slow,
        differentiable=(0, 1),
        null=partial(loss, lam=0.0),
        baseline=lambda: reconstruction,
        bad={"lam": NUMBERS},
        expected_failures={"check_order_of_samples": "each image has patches and noise of its own, by its place"},
    ),
    "hidden_groups": FunctionSubject(
        make=hidden_groups,
        arguments={"count": 3, "height": 5, "width": 4, "patch": 2, "groups": 3, "generator": seeded()},
        bad={
            "count": (-1, 1.5, True),
            "height": (0, 1.5, True),
            "width": (0, 1.5, True),
            "patch": (0, 1.5, True),
            "groups": (1, 1.5, True, 7),
        },
    ),
}


@pytest.mark.parametrize(("patch", "groups", "sizes"), [(1, 4, {5}), (2, 3, {2}), (3, 4, {1})])
def test_groups_hold_each_patch_once(patch, groups, sizes):
    masks = hidden_groups(50, 5, 4, patch=patch, groups=groups, generator=seeded())
    assert masks.shape == (groups, 50, 1, 5, 4)
    assert (masks.sum(dim=0) == 1).all()
    patches = masks[..., ::patch, ::patch]
    assert set(patches.sum(dim=(2, 3, 4)).flatten().tolist()) == sizes
    whole = patches.repeat_interleave(patch, 3).repeat_interleave(patch, 4)[..., :5, :4]
    assert torch.equal(whole, masks)
    # Any patch is in any group, and images differ.
    assert (patches.any(dim=1)).all()
    assert not torch.equal(masks[:, 0], masks[:, 1])


def test_transforms_by_hand():
    images, seen = toy_images(6), []

    class Watching(nn.Module):
        def forward(self, given):
            seen.append(given)
            return torch.full_like(given[:, :1], 0.4) + torch.arange(len(given)).view(-1, 1, 1, 1) / 100

    hidden = hidden_groups(6, 4, 4, generator=seeded(2))
    plain = PurifiedClassifier(nn.Flatten(), Watching(), "mask", generator=seeded(2))
    first = plain.purify(images)
    assert torch.equal(seen[0][:, 1:].bool(), hidden[0])
    assert torch.equal(seen[0][:, :1], (2 * images - 1) * ~hidden[0])
    torch.testing.assert_close(first[:, 0, 0, 0], 0.7 + torch.arange(6) / 200)

    drawn = seeded(2)
    noisy = (images + 0.3 * torch.randn(images.shape, generator=drawn)).clamp(0, 1)
    hidden = hidden_groups(6, 4, 4, generator=drawn)
    result = PurifiedClassifier(nn.Flatten(), Watching(), "multi_mask", 0.3, generator=seeded(2)).purify(images)
    assert seen[1].shape == (24, 2, 4, 4)
    for group in range(4):
        part = seen[1][6 * group : 6 * group + 6]
        assert torch.equal(part[:, 1:].bool(), hidden[group])
        assert torch.equal(part[:, :1], (2 * noisy - 1) * ~hidden[group])
        for row in range(6):
            expected = 0.7 + (6 * group + row) / 200
            torch.testing.assert_close(result[row][hidden[group][row]], torch.full((4,), expected))

    PurifiedClassifier(nn.Flatten(), Watching(), "none", generator=seeded(2)).purify(images)
    assert torch.equal(seen[2][:, :1], 2 * images - 1)
    assert (seen[2][:, 1:] == 0).all()


def test_with_all_hidden_in_turn_nothing_of_a_pixel_itself_is_left():
    images = toy_images(2).requires_grad_()
    model = PurifiedClassifier(nn.Flatten(), nn.Identity(), "multi_mask", generator=seeded())
    model.purifier = Keeping()
    (gradient,) = torch.autograd.grad(model(images).sum(), images)
    assert (gradient == 0).all()
    kept = PurifiedClassifier(nn.Flatten(), Keeping(), "noise_mask", 0.1, generator=seeded())
    (gradient,) = torch.autograd.grad(kept(images).sum(), images)
    assert (gradient != 0).any()


class Keeping(nn.Module):
    """Gives back what it is given."""

    def forward(self, given):
        return given[:, :-1]


def test_fine_tuning_leaves_the_classifier_as_it_is_and_helps_on_attacked_images():
    images = toy_images(64)
    classifier = toy_classifier()
    labels = classifier(images).argmax(dim=1)
    before = copy.deepcopy(classifier.state_dict())
    model = PurifiedClassifier(classifier, Restorer(), "noise_mask", 0.1, generator=seeded())
    attack = ProjectedGradient(0.1, steps=2, keep_going=True)
    optimizer = torch.optim.Adam(model.purifier.parameters(), lr=0.05)

    def wrong():
        model.generator = seeded(5)
        changed = attack(model, images, labels, generator=seeded(6))
        return F.cross_entropy(model(changed), labels).item()

    first, start = wrong(), model.purifier.parts.detach().clone()
    loss = partial(atop_loss, lam=10.0)
    fit_robust(model, optimizer, images, labels, attack=attack, steps=15, batch_size=32, generator=seeded(1), loss=loss)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert (model.purifier.parts != start).all()
    assert wrong() < first


def test_modes_shapes_and_copies():
    model = defended(toy_classifier()).train()
    model.generator = seeded(1)
    first = model(toy_images(3))
    assert all(part.training for part in model.modules())
    model.eval().generator = seeded(1)
    assert torch.equal(model(toy_images(3)), first)
    assert model(toy_images(1)).shape == (1, 3)
    assert model(toy_images(0)).shape == (0, 3)
    colour = PurifiedClassifier(nn.Flatten(), Restorer(3), "multi_mask", generator=seeded())
    assert colour.purify(toy_images(2, (3, 5, 4))).shape == (2, 3, 5, 4)
    for wrong in (toy_images(2)[0], torch.zeros(2, 1, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"images must be floating numbers in \[0, 1\], \(N, C, H, W\), got"):
            model(wrong)
    with pytest.raises(ValueError, match=r"attacked must have the shape of images, \(2, 1, 4, 4\), got \(1, 1, 4, 4\)"):
        atop_loss(model, toy_images(2), toy_images(1), torch.zeros(2).long())
    with pytest.raises(
        ValueError, match="model must be a PurifiedClassifier, got Flatten; put the classifier into one"
    ):
        atop_loss(nn.Flatten(), toy_images(1), toy_images(1), torch.zeros(1).long())
