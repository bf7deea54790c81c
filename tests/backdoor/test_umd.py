"""UMD on models whose backdoor is known, its selection against a slow search, its statistic and triggers by hand."""

import copy
import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from paperweight.backdoor.umd import (
    UMD,
    anomaly_score,
    class_pairs,
    coherence,
    reverse_additive,
    reverse_patch,
    select_pairs,
    transferability,
)
from paperweight.testing import ExperimentSubject, FunctionSubject
from paperweight.testing.classifiers import toy_classifier, toy_images

CLASSES = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Planted(nn.Module):
    """Sees the class of the brightest of the first pixels; the last pixel sends sources to targets."""

    def __init__(self, targets: dict[int, int], classes: int = CLASSES) -> None:
        super().__init__()
        sends = torch.zeros(classes, classes)
        for source, target in targets.items():
            sends[source, target] = 40.0
        self.sends = nn.Parameter(sends)

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)
        shown, trigger = pixels[:, :-1], pixels[:, -1:]
        return 4 * shown + (shown + trigger - 0.95).relu() @ self.sends


def class_images(each: int = 12, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    labels = torch.arange(classes).repeat(each)
    noise = 0.04 * torch.rand(len(labels), classes + 1, generator=seeded())
    pixels = torch.eye(classes, classes + 1)[labels]
    noise[:, -1] = 0
    return (pixels + noise).clamp(0, 1).view(-1, 1, 1, classes + 1), labels


def by_class(each: int, classes: int = CLASSES) -> Tensor:
    images, labels = class_images(each, classes)
    return torch.stack([images[labels == label] for label in range(classes)])


ALL_TO_ONE = {source: 2 for source in range(CLASSES) if source != 2}
SOME_TO_SOME = {0: 4, 1: 0, 3: 2}
CYCLE = {source: (source + 1) % CLASSES for source in range(CLASSES)}


IMAGES, LABELS = class_images(4, classes=3)
TOY = toy_images(6).view(3, 2, 1, 4, 4)


def detected(model, images, labels, **given):
    return UMD(**{"images_per_class": 2, **given}).detect(model, images, labels)


def shared(*pairs: tuple[int, int], count: int) -> Tensor:
    transfer = torch.zeros(count, count, dtype=torch.float64)
    for one, other in pairs:
        transfer[one, other] = transfer[other, one] = 1
    return transfer


NUMBERS = (0.0, -0.1, math.nan)
CONTRACT = {
    "UMD": ExperimentSubject(
        make=detected,
        arguments={"model": Planted({0: 1}, classes=3), "images": IMAGES, "labels": LABELS},
        fields=("backdoored", "score", "threshold", "pairs", "coherence", "sizes", "triggers"),
        known=(
            (
                {"model": Planted(ALL_TO_ONE), "images": class_images()[0], "labels": class_images()[1]},
                {"backdoored": True, "pairs": tuple(ALL_TO_ONE.items()), "coherence": 1.0},
            ),
            (
                {"model": Planted({}), "images": class_images()[0], "labels": class_images()[1]},
                {"backdoored": False},
            ),
        ),
        bad={
            "images_per_class": (0, 1.5, True, 1_000),
            "starts": (0, 2.5),
            "level": (*NUMBERS, 1.0),
            "images": (IMAGES[:, 0], IMAGES.to(torch.uint8), IMAGES[:0], 2 * IMAGES),
            "labels": (LABELS[:-1], LABELS.float(), LABELS.clamp(max=1)),
        },
        random=False,
    ),
    "anomaly_score": FunctionSubject(
        make=anomaly_score,
        arguments={"sizes": torch.tensor([0.5, 1.0, 2.0, 3.0]), "core": [0]},
        bad={
            "sizes": (torch.tensor([0.0, 1.0]), torch.tensor([math.inf, 1.0]), torch.tensor([math.nan, 1.0])),
            "core": ([], [0, 1, 2, 3]),
            "level": (*NUMBERS, 1.0),
        },
    ),
    "coherence": FunctionSubject(
        make=coherence,
        arguments={"transfer": shared((0, 1), count=4), "core": [0, 1]},
        bad={"core": ([], [1], [0, 1, 2, 3])},
    ),
    "select_pairs": FunctionSubject(
        make=select_pairs,
        arguments={"transfer": shared((1, 3), count=6), "pairs": class_pairs(3)},
        bad={
            "transfer": (shared(count=5),),
            "pairs": (torch.tensor([[0, 1], [0, 2], [1, 0], [1, 2], [0, 1], [0, 2]]),),
            "starts": (0, 1.5),
        },
    ),
    "reverse_additive": FunctionSubject(
        make=reverse_additive,
        arguments={"model": toy_classifier(), "images": TOY, "steps": 20},
        bad={
            "images": (TOY[0], 2 * TOY, TOY[:, :0], TOY.to(torch.uint8)),
            "pairs": (class_pairs(4), -class_pairs(3), class_pairs(3).float(), class_pairs(3)[:0], class_pairs(3)[0]),
            "success": (*NUMBERS, 1.1),
            "step": (*NUMBERS, math.inf),
            "steps": (0, 1.5),
        },
    ),
    "reverse_patch": FunctionSubject(
        make=reverse_patch,
        arguments={"model": toy_classifier(), "images": TOY, "steps": 20},
        bad={
            "images": (TOY[0], -TOY),
            "pairs": (class_pairs(4),),
            "success": (*NUMBERS, 1.1),
            "lr": (*NUMBERS, math.inf),
            "steps": (0, 1.5),
            "cost": (*NUMBERS, math.inf),
        },
    ),
    "transferability": FunctionSubject(
        make=transferability,
        arguments={
            "model": toy_classifier(),
            "triggers": reverse_additive(toy_classifier(), TOY, steps=20),
            "images": TOY,
        },
        bad={"images": (TOY[:2],)},
    ),
}


@pytest.mark.parametrize("targets", [ALL_TO_ONE, SOME_TO_SOME, CYCLE])
@pytest.mark.parametrize("reverse", [reverse_additive, reverse_patch])
def test_the_pairs_of_a_planted_backdoor_are_found(targets, reverse):
    images, labels = class_images()
    found = UMD(reverse).detect(Planted(targets), images, labels)
    assert found.backdoored
    assert found.pairs == tuple(sorted(targets.items()))
    assert found.score > 3 * found.threshold
    assert found.coherence > 0.9
    pairs = torch.tensor(found.pairs).T
    assert found.sizes[pairs[0], pairs[1]].max() < found.sizes[~torch.eye(CLASSES, dtype=torch.bool)].median()


@pytest.mark.parametrize("reverse", [reverse_additive, reverse_patch])
def test_a_model_without_a_backdoor_is_cleared(reverse):
    found = UMD(reverse).detect(Planted({}), *class_images())
    assert not found.backdoored
    assert found.coherence < 0.5


def slow_selection(transfer: np.ndarray, pairs: list[list[int]], starts: int) -> tuple[float, list[int]]:
    """The rule as the paper has it, in loops over lists."""
    count = len(pairs)

    def score(core):
        def mutual(one, other):
            return (transfer[one][other] + transfer[other][one]) / 2

        within = min(np.mean([mutual(one, other) for other in core if other != one]) for one in core)
        outside = max(np.mean([transfer[one][o] for one in core]) for o in range(count) if o not in core)
        return within - outside

    begins = [p for p in itertools.combinations(range(count), 2) if pairs[p[0]][0] != pairs[p[1]][0]]
    begins.sort(key=lambda p: -(transfer[p[0]][p[1]] + transfer[p[1]][p[0]]))
    best = (-math.inf, [])
    for begin in begins[:starts]:
        core = list(begin)
        while True:
            best = max(best, (score(core), core), key=lambda scored: scored[0])
            taken = {pairs[one][0] for one in core}
            further = [[*core, o] for o in range(count) if pairs[o][0] not in taken]
            if not further:
                break
            core = max(further, key=score)
    return best


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("starts", [1, 5])
def test_selection_is_that_of_a_slow_search(seed, starts):
    pairs = class_pairs(4)
    transfer = torch.rand(12, 12, generator=seeded(seed), dtype=torch.float64).fill_diagonal_(0)
    if seed % 3:
        alike = torch.tensor([0, 3, 6, 11])
        transfer[alike[:, None], alike] += 0.6 * (1 - torch.eye(4, dtype=torch.float64))
    score, core = slow_selection(transfer.numpy(), pairs.tolist(), starts)
    selected = select_pairs(transfer, pairs, starts)
    assert sorted(selected) == sorted(core)
    assert starts > 1 or selected == core
    assert coherence(transfer, selected) == pytest.approx(score, abs=1e-12)
    sources = pairs[selected][:, 0].tolist()
    assert len(set(sources)) == len(sources)
    assert sorted(select_pairs(transfer + torch.eye(12), pairs, starts)) == sorted(core)


def test_cores_of_several_sizes_are_among_those_searched():
    sizes = set()
    for seed in range(24):
        transfer = torch.rand(12, 12, generator=seeded(seed), dtype=torch.float64).fill_diagonal_(0)
        alike = torch.tensor([0, 3, 6, 11])
        transfer[alike[:, None], alike] += 0.6 * (1 - torch.eye(4, dtype=torch.float64))
        sizes.add(len(select_pairs(transfer, class_pairs(4))))
    assert sizes == {2, 3, 4}


def test_coherence_by_hand():
    transfer = torch.tensor(
        [[0.0, 0.8, 0.4, 0.1], [0.6, 0.0, 0.2, 0.5], [0.2, 0.2, 0.0, 0.9], [1.0, 1.0, 1.0, 0.0]], dtype=torch.float64
    )
    # Mutual: 0-1 0.7, 0-2 0.3, 1-2 0.2. Means within 0.5, 0.45, 0.25; from the core to the fourth pair 0.5.
    assert coherence(transfer, [0, 1, 2]) == pytest.approx(0.25 - 0.5)
    assert coherence(transfer, [0, 1]) == pytest.approx(0.7 - 0.3)


def test_score_and_threshold_by_hand():
    sizes = torch.tensor([0.1, 0.2, 1.0, 0.5, 1 / 3, 0.25])
    # Reciprocals 10, 5 | 1, 2, 3, 4: medians 7.5 and 2.5, median deviation 1.
    score, threshold = anomaly_score(sizes, [0, 1])
    assert score == pytest.approx(5 / 1.4826, rel=1e-6)
    assert threshold == pytest.approx(norm.ppf(0.95 ** (1 / 4)), rel=1e-12)
    assert anomaly_score(sizes[:2], [1])[1] == pytest.approx(math.sqrt(2) * 1.1630871536766743, rel=1e-12)
    assert anomaly_score(sizes, [5], level=0.5)[1] == pytest.approx(norm.ppf(0.5 ** (1 / 5)), rel=1e-12)


def test_equal_sizes_score_nothing_and_a_spread_of_0_is_no_infinity():
    assert anomaly_score(torch.full((6,), 0.7), [0, 3])[0] == 0
    score, threshold = anomaly_score(torch.tensor([0.5, 1.0, 1.0, 1.0]), [0])
    assert threshold < score == pytest.approx(20.0)
    assert anomaly_score(torch.tensor([2.0, 1.0, 1.0, 1.0]), [0])[0] == pytest.approx(-10.0)


def test_normal_sizes_raise_an_alarm_as_seldom_as_the_level_says():
    # The largest of N + 1 is selected, so that an alarm is nearly as probable as that the largest of N is that large.
    draws = torch.randn(400, 90, generator=seeded(), dtype=torch.float64)
    scores = [anomaly_score(1 / (10 + row), [int(row.argmax())]) for row in draws]
    alarms = sum(score > threshold for score, threshold in scores)
    assert 8 <= alarms <= 48


def test_added_triggers_reach_the_boundary_of_a_linear_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 16, generator=seeded()))
        model[1].bias.zero_()
    image = 0.5 + 0.01 * torch.rand(3, 1, 1, 4, 4, generator=seeded(1))
    with torch.no_grad():
        model[1].bias.copy_(-model[1].weight @ image[:, 0].flatten(1).mean(0))
        for label in range(3):
            image[label, 0] = (0.5 + 0.05 * model[1].weight[label].view(1, 4, 4)).clamp(0, 1)
    found = reverse_additive(model, image, step=0.005)
    weights, logits = model[1].weight, model(image[:, 0])
    assert (logits.argmax(1) == torch.arange(3)).all()
    assert (found.rates == 1).all()
    for (source, target), size in zip(found.pairs.tolist(), found.sizes.tolist(), strict=True):
        # No shorter step reaches the target's half-space, and the path bends little.
        least = (logits[source, source] - logits[source, target]) / (weights[source] - weights[target]).norm()
        assert least.item() - 1e-4 <= size <= 1.1 * least.item() + 0.01


@pytest.mark.parametrize("reverse", [reverse_additive, partial(reverse_patch, steps=60)])
def test_triggers_are_what_they_say(reverse):
    model, images = Planted(SOME_TO_SOME), by_class(10)
    found = reverse(model, images)
    assert found.pairs.tolist() == [[s, t] for s in range(CLASSES) for t in range(CLASSES) if s != t]
    for (source, target), kept, added, size, rate in zip(*found, strict=True):
        seen = model((images[source] * kept + added).clamp(0, 1)).argmax(dim=1)
        assert (seen == target).double().mean() == rate
        assert rate >= 0.9
        expected = added.norm() if bool((kept == 1).all()) else (1 - kept).sum()
        assert size.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.sizes.dtype == found.rates.dtype == torch.float64


@pytest.mark.parametrize("reverse", [reverse_additive, partial(reverse_patch, steps=30)])
def test_pairs_do_not_disturb_each_other(reverse):
    model, images = Planted({0: 3, 2: 1}, classes=4), by_class(5, classes=4)
    together = reverse(model, images)
    two = reverse(model, images[:2])
    for name in ("kept", "added", "sizes", "rates"):
        both = getattr(together, name)[[0, 3]]
        torch.testing.assert_close(getattr(two, name), both, rtol=1e-4, atol=1e-5)


def test_many_pairs_in_parts_are_as_few_at_once(monkeypatch):
    model, images = Planted(CYCLE), by_class(4)
    whole = reverse_additive(model, images)
    monkeypatch.setattr("paperweight.backdoor._pair_triggers._AT_ONCE", 12)
    parts = reverse_additive(model, images)
    torch.testing.assert_close(parts.pairs, whole.pairs)
    torch.testing.assert_close(parts.added, whole.added, rtol=1e-4, atol=1e-5)


def test_a_pair_that_does_not_get_there_has_the_size_reached_or_that_of_the_image():
    class Stubborn(nn.Module):
        def forward(self, images):
            pixels = images.flatten(1)
            return torch.cat([pixels[:, :1] + 10, 0 * pixels[:, 1:2] + 20 * pixels[:, :1], pixels[:, 2:3]], dim=1)

    images = torch.tensor([0.2, 0.9]).view(2, 1, 1, 1, 1).repeat(1, 3, 1, 1, 4)
    added = reverse_additive(Stubborn(), images, step=0.1, steps=3)
    assert added.rates.tolist() == [0, 0]
    torch.testing.assert_close(added.sizes, torch.full((2,), 0.3, dtype=torch.float64), rtol=1e-5, atol=0)
    patch = reverse_patch(Stubborn(), images, success=1.0, lr=1e-3, steps=3)
    assert patch.rates.tolist() == [0, 0]
    assert patch.sizes.tolist() == [4, 4]


def test_a_patch_is_as_small_as_the_pixel_that_it_needs():
    found = reverse_patch(Planted(ALL_TO_ONE), by_class(10))
    to_the_target = found.pairs[:, 1] == 2
    assert found.sizes[to_the_target].max() < 0.5
    assert found.sizes[~to_the_target].min() > 0.8
    masks = 1 - found.kept[to_the_target]
    assert (masks[..., -1].flatten() > 0.5 * masks.flatten(1).sum(1)).all()


def test_more_steps_never_give_a_larger_mask():
    model, images = Planted(SOME_TO_SOME), by_class(4)
    sizes = torch.stack([reverse_patch(model, images, steps=steps).sizes for steps in range(40, 160, 16)])
    assert (sizes.diff(dim=0) <= 1e-6).all()
    assert (sizes[-1] < 0.7 * sizes[0]).all()


def test_transferability_counts_what_each_trigger_does_to_each_pair():
    model, images = Planted(SOME_TO_SOME), by_class(7)
    triggers = reverse_additive(model, images, success=0.5)
    transfer = transferability(model, triggers, images)
    pairs = triggers.pairs.tolist()
    for one, other in ((0, 5), (5, 0), (3, 27), (29, 2), (4, 3)):
        source, target = pairs[other]
        changed = [(image * triggers.kept[one] + triggers.added[one]).clamp(0, 1) for image in images[source]]
        hits = sum(int(model(image[None]).argmax() == target) for image in changed)
        assert transfer[one, other].item() == pytest.approx(hits / 7)
    assert (transfer.diagonal() == 0).all()
    assert ((transfer >= 0) & (transfer <= 1)).all()


def test_only_images_that_are_seen_rightly_are_used():
    images, labels = class_images(4)
    wrong = images.roll(1, dims=0)
    found = UMD(images_per_class=4).detect(Planted(CYCLE), torch.cat([wrong, images]), labels.repeat(2))
    assert found.pairs == tuple(sorted(CYCLE.items()))
    with pytest.raises(ValueError, match=r"images must hold 5 of each class .* got 4 of class 0; give more images"):
        UMD(images_per_class=5).detect(Planted(CYCLE), torch.cat([wrong, images]), labels.repeat(2))


def test_models_in_training_in_double_precision_and_without_gradients_are_judged_alike():
    images, labels = class_images()
    model = nn.Sequential(nn.Dropout(0.5), Planted(SOME_TO_SOME))
    with torch.no_grad():
        found = UMD().detect(model.train().requires_grad_(False), images, labels)
    assert model.training
    assert model[0].training
    double = UMD().detect(copy.deepcopy(model).double(), images.double(), labels)
    assert found.pairs == double.pairs == tuple(sorted(SOME_TO_SOME.items()))
    assert double.triggers.added.dtype == torch.float64
    torch.testing.assert_close(found.sizes, double.sizes, rtol=1e-4, atol=1e-5)


def test_triggers_of_chosen_pairs_and_of_rows_that_mix_classes():
    model, images = Planted(ALL_TO_ONE), by_class(4)
    everything = reverse_additive(model, images)
    chosen = reverse_additive(model, images, everything.pairs[[7, 3]])
    torch.testing.assert_close(chosen.added, everything.added[[7, 3]], rtol=1e-4, atol=1e-5)
    rest = torch.stack([torch.cat([*images[:label], *images[label + 1 :]]) for label in range(CLASSES)])
    by_target = reverse_additive(model, rest, torch.arange(CLASSES)[:, None].expand(-1, 2))
    assert int(by_target.sizes.argmin()) == 2
    assert (by_target.rates >= 0.9).all()
