"""Expose before you defend: ascent by torch's own Adam, counts and masks by hand, and a backdoor that stands alone."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.backdoor.expose_before_defend import CleanUnlearning, exposure, pruned, recovery_masks
from paperweight.loops import fit_classifier
from paperweight.nets import MLP, ResNet
from paperweight.testing import ExperimentSubject, FunctionSubject, UnlearnerSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def copied():
    return lambda model, forget, retain, generator: copy.deepcopy(model)


UNLEARN = partial(CleanUnlearning, lr=0.02, epochs=3, stop_accuracy=0.0, batch_size=4)
NUMBERS = (-0.1, math.nan, math.inf)
LABELS = torch.arange(12) % 3
CONTRACT = {
    "CleanUnlearning": UnlearnerSubject(
        make=UNLEARN,
        random=True,
        reads=("forget",),
        bad={
            "lr": NUMBERS,
            "epochs": (0, 1.5, True),
            "stop_accuracy": (-0.1, 1.0, math.nan),
            "batch_size": (0, 1.5),
            "weight_decay": NUMBERS,
        },
        null=partial(UNLEARN, lr=0.0),
        baseline=copied,
    ),
    "exposure": ExperimentSubject(
        make=exposure,
        arguments={"exposed": toy_classifier(), "images": toy_images(9)},
        fields=("target", "dominance", "entropy", "shares"),
        known=(
            (
                {"exposed": nn.Identity(), "images": torch.eye(4)},
                {"target": 0, "dominance": 0.25, "entropy": math.log(4), "shares": torch.full((4,), 0.25)},
            ),
            (
                {"exposed": nn.Identity(), "images": torch.eye(3)[[2, 2]]},
                {"target": 2, "dominance": 1.0, "entropy": 0.0, "shares": torch.tensor([0.0, 0.0, 1.0])},
            ),
        ),
        bad={"images": (toy_images(1)[:0],)},
        random=False,
    ),
    "recovery_masks": FunctionSubject(
        make=recovery_masks,
        arguments={"exposed": toy_classifier(), "images": toy_images(12), "labels": LABELS, "steps": 3},
        bad={
            "exposed": (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),),
            "images": (toy_images(1)[:0],),
            "labels": (LABELS[:-1],),
            "lr": (0.0, *NUMBERS),
            "momentum": (*NUMBERS, 1.0),
            "steps": (0, 1.5),
        },
    ),
}


def pairs(images: Tensor, labels: Tensor) -> list[tuple[Tensor, int]]:
    return list(zip(images, labels.tolist(), strict=True))


def small_network(seed: int = 0) -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MLP((1, 4, 4), 3, hidden=(8,))


@pytest.mark.parametrize("random_labels", [False, True])
def test_it_is_ascent_by_torchs_own_adam(random_labels):
    model, images = small_network().double(), toy_images(12).double()
    unlearn = UNLEARN(random_labels=random_labels, batch_size=5, epochs=2)
    exposed = unlearn(model, pairs(images, LABELS), [], generator=seeded(7))
    expected, draws = copy.deepcopy(model), seeded(7)
    adam = torch.optim.Adam(expected.parameters(), lr=0.02, weight_decay=5e-4, maximize=False)
    for _ in range(2):
        for part in torch.randperm(12, generator=draws).split(5):
            logs = expected(images[part]).log_softmax(dim=1)
            labels = torch.randint(3, part.shape, generator=draws) if random_labels else LABELS[part]
            loss = -logs[torch.arange(len(part)), labels].mean()
            adam.zero_grad()
            (loss if random_labels else -loss).backward()
            adam.step()
    for found, wanted in zip(exposed.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert all(weight.grad is None for weight in exposed.parameters())


def test_a_step_raises_the_loss_of_its_images():
    model, images = small_network(), toy_images(12)
    exposed = CleanUnlearning(lr=1e-4, epochs=1)(model, pairs(images, LABELS), [], generator=seeded())
    assert F.cross_entropy(exposed(images), LABELS) > F.cross_entropy(model(images), LABELS)


def test_it_ends_with_the_first_epoch_that_is_bad_enough():
    model, images = small_network(), toy_images(12)
    labels = model(images).argmax(dim=1)
    accuracies = []
    for epochs in range(1, 12):
        exposed = CleanUnlearning(lr=0.02, epochs=epochs, stop_accuracy=0.5)(
            model, pairs(images, labels), [], generator=seeded()
        )
        accuracies.append((exposed(images).argmax(dim=1) == labels).double().mean().item())
    first = next(number for number, accuracy in enumerate(accuracies) if accuracy <= 0.5)
    assert 0 < first < 9
    assert accuracies[first:] == [accuracies[first]] * (11 - first)


def test_modes_frozen_weights_and_statistics_stay():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet((1, 8, 8), 3, depth=8, width=4).train()
    frozen = next(model.parameters()).requires_grad_(False)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    images = toy_images(12, (1, 8, 8))
    exposed = UNLEARN()(model, pairs(images, LABELS), [], generator=seeded())
    assert exposed.training
    assert torch.equal(next(exposed.parameters()), frozen)
    assert all(torch.equal(a, b) for a, b in zip(exposed.buffers(), model.buffers(), strict=True))
    assert not torch.equal([*exposed.parameters()][-1], [*model.parameters()][-1])
    still = UNLEARN()(copy.deepcopy(model).requires_grad_(False), pairs(images, LABELS), [], generator=seeded())
    assert all(torch.equal(a, b) for a, b in zip(still.parameters(), model.parameters(), strict=True))


def test_masks_fall_for_what_is_in_the_way_and_stay_for_what_helps():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[:, :3] = torch.eye(3)
        model[1].bias.fill_(0.0)
        model[1].bias[2] = 4.0
        model[3].weight.copy_(3 * torch.eye(3))
        model[3].bias.zero_()
    images = torch.zeros(4, 1, 4, 4)
    images[[0, 1], 0, 0, 0] = images[[2, 3], 0, 0, 1] = 1.0
    masks = recovery_masks(model, images, torch.tensor([0, 0, 1, 1]))
    assert masks.keys() == {"1"}
    assert masks["1"][2] == 0
    assert masks["1"][:2].min() > 0.9
    mended = pruned(model, masks, 0.5)
    assert mended(images).argmax(dim=1).tolist() == [0, 0, 1, 1]
    assert model(images).argmax(dim=1).tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize("build", [lambda: small_network(), lambda: ResNet((1, 4, 4), 3, depth=8, width=4)])
def test_a_pruned_unit_gives_what_a_mask_of_0_gives(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().eval()
    masks = recovery_masks(model, toy_images(12), LABELS, steps=2)
    layers = dict(model.named_modules())
    kind = nn.Linear if isinstance(model, MLP) else nn.BatchNorm2d
    assert all(isinstance(layers[name], kind) and mask.shape == layers[name].bias.shape for name, mask in masks.items())
    draws = {name: (torch.rand(mask.shape, generator=seeded(3)) < 0.5).float() for name, mask in masks.items()}
    assert any(0 < mask.mean() < 1 for mask in draws.values())

    def zeroed(mask):
        return lambda layer, given, output: output * mask.view(-1, *[1] * (output.ndim - 2))

    hooks = [dict(model.named_modules())[name].register_forward_hook(zeroed(mask)) for name, mask in draws.items()]
    expected = model(toy_images(5))
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(pruned(model, draws, 0.5)(toy_images(5)), expected)
    assert not torch.equal(model(toy_images(5)), expected)
    with pytest.raises(ValueError, match="masks must name layers of model, which has no 'elsewhere'"):
        pruned(model, {"elsewhere": torch.ones(3)}, 0.5)
    for threshold in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=f"threshold must be at least 0 and below 1, got {threshold}"):
            pruned(model, draws, threshold)


def test_masks_are_within_0_and_1_and_the_model_keeps_its_weights_and_hooks():
    model = small_network().train()
    before = copy.deepcopy(model.state_dict())
    masks = recovery_masks(model, toy_images(12), LABELS, lr=5.0, steps=7)
    assert all(((mask >= 0) & (mask <= 1)).all() for mask in masks.values())
    assert any((mask < 1).any() for mask in masks.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    with pytest.raises(RuntimeError):
        recovery_masks(model, toy_images(12)[:, :, :2], LABELS)
    assert not any(part._forward_hooks for part in model.modules())


def poisoned(count: int, seed: int, share: float) -> tuple[Tensor, Tensor, Tensor]:
    """Images whose class is a bright row; some have a bright pixel below to the right, and the label 1."""
    draws = seeded(seed)
    true = torch.randint(4, (count,), generator=draws)
    images = 0.5 * torch.rand(count, 1, 6, 6, generator=draws)
    images[torch.arange(count), 0, true] += 0.3
    bad = torch.rand(count, generator=draws) < share
    images[bad, 0, 5, 5] = 1.0
    return images, torch.where(bad, 1, true), true


def trained(share: float) -> MLP:
    images, labels, _ = poisoned(1_200, 0, share)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MLP((1, 6, 6), 4, hidden=(32,))
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    fit_classifier(model, adam, images, labels, steps=300, batch_size=32, generator=seeded())
    return model.eval()


def test_unlearning_leaves_the_backdoor_and_shows_its_target():
    model, twin = trained(0.15), trained(0.0)
    images, labels, true = poisoned(200, 2, 0.0)
    triggered = images[true != 1].clone()
    triggered[:, :, 5, 5] = 1.0
    unlearn = CleanUnlearning(lr=2e-3, epochs=60, stop_accuracy=0.25)
    exposed, of_twin = (unlearn(each, pairs(images, labels), [], generator=seeded()) for each in (model, twin))
    assert (model(images).argmax(dim=1) == labels).float().mean() > 0.9
    assert (model(triggered).argmax(dim=1) == 1).float().mean() > 0.9
    assert (exposed(images).argmax(dim=1) == labels).float().mean() <= 0.25
    assert (exposed(triggered).argmax(dim=1) == 1).float().mean() > 0.8
    found = exposure(exposed, images)
    assert found.target == 1
    assert found.entropy < exposure(of_twin, images).entropy
