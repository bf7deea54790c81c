"""Feature-guided testing: blobs where they are, saliency by hand, the tree's rule, and images that the fewest break."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from paperweight.robustness._pixel_game import Asked, Place, restored
from paperweight.robustness.feature_guided_mcts import FeatureGuidedSearch, Keypoints, detect_keypoints, saliency
from paperweight.testing import AttackSubject, FunctionSubject
from paperweight.testing.classifiers import toy_classifier, toy_images


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


IMAGES, LABELS = toy_images(3), torch.arange(3)
POINTS = Keypoints(torch.tensor([[1, 2], [3, 0]]), torch.tensor([0.7, 1.4]), torch.tensor([3.0, 1.0]))
FAR = "it looks for few pixels, whatever the size of their change, and by chance"


class Counted(nn.Module):
    """Gives class 1 where at least so many pixels of the first row are changed from 0 to 1; counts rows."""

    def __init__(self, needed):
        super().__init__()
        self.needed, self.rows, self.modes, self.sizes = needed, 0, set(), []

    def forward(self, images):
        self.rows += len(images)
        self.modes.add(self.training)
        self.sizes += (images != 0).flatten(1).sum(dim=1).tolist()
        found = (images[:, 0, 0] == 1).sum(dim=1).float() - self.needed + 0.5
        return torch.stack([-found, found], dim=1)


CONTRACT = {
    "FeatureGuidedSearch": AttackSubject(
        make=partial(FeatureGuidedSearch, queries=40),
        norm=1.0,
        radius=None,
        random=True,
        bad={
            "queries": (0, 1.5, True),
            "step": (0.0, math.nan, math.inf, True),
            "tree_depth": (-1, 1.5, True),
            "player": ("", "both"),
            "bounds": ((1.0, 0.0), (0.0, math.inf), (math.nan, 1.0)),
        },
        expected_failures={"check_optimum_on_linear_model": FAR},
    ),
    "detect_keypoints": FunctionSubject(
        make=detect_keypoints,
        arguments={"image": toy_images(1, (2, 12, 12))[0]},
        bad={"image": (torch.zeros(4, 4), torch.zeros(1, 0, 4)), "most": (0, 1.5, True)},
    ),
    "saliency": FunctionSubject(
        make=saliency,
        arguments={"keypoints": POINTS, "height": 4, "width": 5},
        bad={
            "keypoints": (
                POINTS._replace(sizes=torch.tensor([0.0, 1.0])),
                POINTS._replace(responses=torch.tensor([1.0, -1.0])),
                Keypoints(torch.zeros(0, 2), torch.zeros(0), torch.zeros(0)),
            )
        },
    ),
}


def blobs(*blobs):
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    image = torch.full((24, 20), 0.2)
    for row, column, size, height in blobs:
        image += height * torch.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * size**2))
    return image[None]


def test_blobs_are_found_where_they_are_the_stronger_first_and_the_larger_as_larger():
    found = detect_keypoints(blobs((6, 5, 1.0, 0.3), (16, 13, 2.0, -0.5)), most=2)
    assert {tuple(place) for place in found.places.tolist()} == {(6, 5), (16, 13)}
    sizes = {tuple(place): size for place, size in zip(found.places.tolist(), found.sizes.tolist(), strict=True)}
    assert sizes[16, 13] > sizes[6, 5]
    assert found.responses[0] >= found.responses[1] > 0
    strong = detect_keypoints(blobs((6, 5, 1.0, 0.3), (16, 13, 1.0, 0.6)), most=1)
    assert strong.places.tolist() == [[16, 13]]
    colours = torch.cat([blobs((6, 5, 1.0, 0.3)), blobs((6, 5, 1.0, -0.3))])
    assert detect_keypoints(colours).places.tolist() == [[12, 10]]  # the middle: on average nothing is there
    assert detect_keypoints(torch.full((1, 6, 8), 0.5)).places.tolist() == [[3, 4]]


def test_saliency_is_a_mixture_of_gaussians_that_sums_to_1():
    around, weights = saliency(POINTS, 4, 5)
    assert weights.tolist() == [0.75, 0.25]
    for number, (row, column) in enumerate(POINTS.places.tolist()):
        size = POINTS.sizes[number].item()
        heights = [
            [math.exp(-((r - row) ** 2 + (c - column) ** 2) / (2 * size * size)) for c in range(5)] for r in range(4)
        ]
        expected = torch.tensor(heights, dtype=torch.float64).flatten()
        torch.testing.assert_close(around[number], expected / expected.sum(), atol=1e-6, rtol=1e-5)
    assert (weights @ around).sum().item() == pytest.approx(1)


def test_the_tree_prefers_by_upper_bounds():
    root = Place(visits=10, after={7: Place(6, 3.0), 8: Place(4, 1.0)})
    bounds = {7: 3 / 6 + math.sqrt(2 * math.log(10) / 6), 8: 1 / 4 + math.sqrt(2 * math.log(10) / 4)}
    assert root.best() == max(bounds, key=bounds.__getitem__) == 7
    assert root.best(-1.0) == 8
    assert Place(visits=10, after={7: Place(9, 4.5), 8: Place(1, 0.0)}).best() == 8


@pytest.mark.parametrize("needed", [1, 2])
@pytest.mark.parametrize("player", ["cooperative", "random", "adversarial"])
def test_what_breaks_the_image_is_found_no_more_is_changed_and_queries_are_counted(needed, player):
    model = Counted(needed).train()
    image = torch.zeros(1, 1, 4, 4)
    attack = FeatureGuidedSearch(queries=400, player=player)
    found = attack(model, image, torch.tensor([0]), generator=seeded())
    assert model.training
    assert model.modes == {False}
    assert model.rows <= 400
    assert (found != image).sum() == needed
    assert (found[0, 0, 0] == 1).sum() == needed
    if needed == 2:
        assert model.rows == 400
        assert max(model.sizes[-100:]) == 1  # no try needs as many pixels as the best has


def test_only_the_queries_allowed_are_asked_and_nothing_found_is_nothing_changed():
    image = torch.zeros(2, 1, 4, 4)
    for queries in (1, 2, 7, 50):
        model = Counted(9)
        found = FeatureGuidedSearch(queries=queries)(model, image, torch.tensor([0, 0]), generator=seeded())
        assert model.rows == 2 * queries
        assert torch.equal(found, image)
    wrong = Counted(0)
    assert torch.equal(FeatureGuidedSearch()(wrong, image, torch.tensor([0, 0])), image)
    assert wrong.rows == 2


def test_pixels_are_restored_where_the_class_stays_wrong():
    model, image = Counted(2), torch.zeros(1, 4, 4)
    changed = image.clone()
    changed[0, 0, :3], changed[0, 2, 1:] = 1, 1
    asked = Asked(model, torch.tensor(0), 100)
    found = restored(changed, image, asked, seeded())
    assert found.sum() == found[0, 0].sum() == 2
    assert asked.left == 100 - 6
    few = Asked(model, torch.tensor(0), 2)
    assert restored(changed, image, few, seeded()).sum() >= 4
    assert few.left == 0


def test_a_step_changes_all_channels_within_bounds_and_turns_of_one_pixel_add_up():
    attack = FeatureGuidedSearch(step=0.3, bounds=(-0.5, 0.5))
    image = torch.zeros(2, 2, 2)
    changed = attack._played(image, [3, 3, 0])
    assert changed[:, 0, 1].tolist() == [0.5, 0.5]
    assert changed[:, 0, 0].tolist() == pytest.approx([-0.3, -0.3])
    assert not changed[:, 1].any()
    assert not image.any()


def test_keypoints_lead_the_search_where_the_class_hangs():
    class Corner(Counted):
        def forward(self, images):
            return super().forward(images[:, :, 9:10, 9:12].flip(2))

    corner = lambda image: Keypoints(torch.tensor([[9, 10]]), torch.tensor([1.0]), torch.ones(1))  # noqa: E731
    far = lambda image: Keypoints(torch.tensor([[2, 2]]), torch.tensor([1.0]), torch.ones(1))  # noqa: E731
    image, label = torch.zeros(1, 1, 12, 12), torch.tensor([0])
    rows = []
    for keypoints in (corner, far):
        model = Corner(1)
        FeatureGuidedSearch(queries=300, keypoints=keypoints)(model, image, label, generator=seeded())
        rows.append(model.rows)
    assert rows[0] < 30 < rows[1]


def test_inputs_that_do_not_fit_are_refused_and_none_are_returned():
    attack = FeatureGuidedSearch(queries=5)
    assert attack(toy_classifier(), IMAGES[:0], LABELS[:0]).shape == (0, 1, 4, 4)
    for inputs, labels, words in (
        (IMAGES + 1, LABELS, "inputs must be within bounds"),
        (torch.full_like(IMAGES, math.nan), LABELS, "inputs must be within bounds"),
        (IMAGES[:, 0], LABELS, "inputs must be floating"),
        (IMAGES, LABELS[:2], "inputs must be floating"),
    ):
        with pytest.raises(ValueError, match=words):
            attack(toy_classifier(), inputs, labels)
