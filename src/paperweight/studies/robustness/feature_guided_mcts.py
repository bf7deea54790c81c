"""A tree search over pixels near keypoints breaks images by few changed pixels (Wicker et al. 2018).

Once a seed a perceptron learns easy glyphs of 14 pixels. The first test images that it sees rightly are attacked, each
with as many queries for its class. All arms restore pixels at the end of each try; they differ in how the turns of a
try are chosen. The headline is the mean number of changed pixels that break an image; one that withstands counts
with all of its pixels.

What it can show: whether tree and keypoints find smaller changes than chance does at equal queries. What it cannot: the
paper's networks and larger images. A mean not below that of pixels drawn from anywhere would refute the claim here. As
low a mean by drawing from the same saliency would show that the tree is not needed; with keypoints on a grid, that
features are not.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from paperweight.data import resize
from paperweight.loops import warmed_cosine
from paperweight.nets import MLP
from paperweight.robustness.feature_guided_mcts import FeatureGuidedSearch, Keypoints, detect_keypoints
from paperweight.studies import Arm, Metric, Outcome, Setting, Study, classification


def _anywhere(image: Tensor) -> Keypoints:
    """Give one keypoint, around which all pixels are alike."""
    height, width = image.shape[1:]
    return Keypoints(torch.tensor([[height // 2, width // 2]]), torch.tensor([1e3]), torch.ones(1))


def _grid(image: Tensor) -> Keypoints:
    """Give sixteen keypoints of one size on a grid."""
    height, width = image.shape[1:]
    places = torch.tensor(
        [[(2 * row + 1) * height // 8, (2 * column + 1) * width // 8] for row in range(4) for column in range(4)]
    )
    return Keypoints(places, torch.full((16,), 1.4), torch.ones(16))


class _Plan(NamedTuple):
    """What finds keypoints, and how many turns the tree chooses."""

    keypoints: Callable[[Tensor], Keypoints]
    tree_depth: int


STUDY = Study(
    paper="feature_guided_mcts",
    question="Does a tree search over pixels near keypoints break images by fewer changed pixels than chance does?",
    claim="With a tree over keypoints fewer pixels are changed, at as many queries.",
    arms={
        "anywhere": Arm("pixels drawn from anywhere, no tree", _Plan(_anywhere, 0)),
        "mcts": Arm("a tree of keypoints and pixels near them", _Plan(detect_keypoints, 3)),
        "saliency": Arm("control: pixels drawn near keypoints, no tree", _Plan(detect_keypoints, 0)),
        "grid": Arm("control: a tree of keypoints on a grid", _Plan(_grid, 3)),
    },
    metrics={
        "pixels": Metric.lower("mean number of changed pixels that break an image", 0.3),
        "broken": Metric.higher("share of images that are broken", 0.02),
        "size": Metric.lower("mean change of broken images in norm 2", 0.1),
    },
    headline="pixels",
    tuned="nothing; three turns of the tree are ours",
    limits=(
        "Small images, one small perceptron, some hundred queries an image where the paper has seconds of a search: "
        "nothing follows for larger images or a longer search. Keypoints are simpler than those of SIFT."
    ),
    seeds=12,
)


def run(arm: Arm[_Plan], setting: Setting) -> Outcome:
    """Attack the first test images that the network sees rightly."""
    task = classification(
        setting,
        smoke=(100, 10, 20),
        desk=(2_000, 10, 400),
        gpu=(10_000, 10, 2_000),
        default="glyphs-20",
        normalised=False,
    )
    side = min(14, *task.shape[1:])
    shape = (task.shape[0], side, side)
    task = task.with_images(lambda images: resize(images, shape[1:]).clamp(0, 1))
    model = setting.network(shape, task.classes, default=partial(MLP, hidden=(64, 64)))
    steps, count, queries = setting.pick(smoke=(20, 3, 30), desk=(300, 30, 400), gpu=(3_000, 200, 2_000))

    def trained() -> dict[str, Tensor]:
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        task.fit(model, optimizer, steps=steps, batch_size=64, schedule=warmed_cosine(optimizer, steps))
        return dict(model.state_dict())

    model.load_state_dict(setting.cached("trained", trained))
    model.eval()
    tested, test = task.test(model), task.data.test
    images, labels = (part[tested.correct][:count] for part in (test.images, test.labels))
    attack = FeatureGuidedSearch(queries, tree_depth=arm.make.tree_depth, keypoints=arm.make.keypoints)
    changed = attack(model, images, labels, generator=setting.generator("method"))
    pixels = (changed != images).any(dim=1).flatten(1).sum(dim=1)
    broken = pixels > 0
    sizes = (changed - images).flatten(1).norm(dim=1)
    return Outcome(
        metrics={
            "pixels": torch.where(broken, pixels, side * side).double().mean().item(),
            "broken": broken.double().mean().item(),
            "size": sizes[broken].sum().item() / max(1, int(broken.sum())),
        },
        made={"attack": attack},
        arguments={
            "steps": steps,
            "attacked_images": len(images),
            "accuracy": tested.accuracy,
            "image_shape": " x ".join(map(str, shape)),
        },
        images={"images": images[:16], "broken": changed[:16]},
    )
