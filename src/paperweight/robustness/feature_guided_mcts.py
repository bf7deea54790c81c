"""Feature-guided black-box testing: a search tree over pixels near keypoints, for images that few changed pixels break.

Where features of an image are, as a detector of blobs finds them, a classifier's decision is likely to hang. The search
is a game of turns: one player names a keypoint, the other changes a pixel drawn from around it, and what follows is
drawn by saliency until the class changes. The fewer pixels it took, the higher the reward, by which a Monte Carlo tree
learns which turns to try again. At the end pixels are restored as far as the class stays wrong. Only classes are asked
for.
Cost: the queries that are allowed, each a forward pass of one image.

Source:
    M. Wicker, X. Huang, M. Kwiatkowska, "Feature-Guided Black-Box Safety Testing of Deep Neural Networks", TACAS, 2018,
    https://arxiv.org/abs/1710.07859: keypoints, saliency as a mixture of Gaussians, the game, and its tree search.

Deviations:
    - Only the abstract was at hand, and no code of the authors was found: rewards and roles of the players are as
      usual. Changes are measured by the number of pixels alone, and the guarantee is left out.
    - Keypoints are extrema of differences of Gaussians in place and scale: SIFT without octaves, edges or subpixels.
    - The second player's turns are too many to try each: the tree has about the root of the visits of them at a place.
    - The tree stays at the image as it was; no turn is ever settled.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.catalogue import Paper
from paperweight.nets import evaluating
from paperweight.robustness._pixel_game import Asked, Place, changed_pixels, restored

__all__ = ["FeatureGuidedSearch", "Keypoints", "Player", "detect_keypoints", "saliency"]

PAPER = Paper(
    title="Feature-Guided Black-Box Safety Testing of Deep Neural Networks",
    authors=("Matthew Wicker", "Xiaowei Huang", "Marta Kwiatkowska"),
    year=2017,
    url="https://arxiv.org/abs/1710.07859",
    provides={"FeatureGuidedSearch": "attack", "detect_keypoints": "function", "saliency": "function"},
    claim="A tree search over pixels near keypoints finds images that few changed pixels break, by queries alone.",
)

Player = Literal["cooperative", "random", "adversarial"]
"""The second player: it looks for few pixels, too, it plays by chance, or it looks for many."""

_SCALES = (0.7, 1.0, 1.4, 2.0, 2.8)
_CHUNK = 4


class Keypoints(NamedTuple):
    """Where features of an image are: ``places`` (K, 2), rows and columns, ``sizes`` (K,), ``responses`` (K,)."""

    places: Tensor
    sizes: Tensor
    responses: Tensor


def detect_keypoints(image: Tensor, most: int = 20) -> Keypoints:
    """Find blobs: places where a difference of Gaussians is larger in size than at all neighbours in place and scale.

    Args:
        image: One image, (C, H, W); channels are averaged.
        most: Most keypoints, of strongest response, at least 1.

    Returns:
        Keypoints in descending order of response, at least one: of an image without any its middle, of response 1.

    Raises:
        ValueError: If the image has another shape, or ``most`` is below 1.

    Example:
        >>> image = torch.zeros(1, 9, 9)
        >>> image[0, 2, 5] = 1
        >>> detect_keypoints(image, most=1).places
        tensor([[2, 5]])
    """
    if image.ndim != 3 or not image.numel():
        raise ValueError(f"image must be (C, H, W), got {tuple(image.shape)}")
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f"most must be a whole number of at least 1, got {most}")
    grey = image.detach().double().mean(dim=0)
    blurred = torch.stack([_blurred(grey, scale) for scale in _SCALES])
    strength = (blurred[1:] - blurred[:-1]).abs()
    around = F.max_pool3d(F.pad(strength[None, None], [1] * 6, value=-1.0), 3, stride=1)[0, 0]
    peaks = (strength == around) & (strength > 1e-6)
    found = peaks.nonzero()
    if not len(found):
        height, width = grey.shape
        return Keypoints(
            torch.tensor([[height // 2, width // 2]]), torch.tensor([min(height, width) / 4]), torch.ones(1)
        )
    responses = strength[peaks]
    order = responses.argsort(descending=True, stable=True)[:most]
    sizes = torch.tensor(_SCALES)[found[order, 0].cpu()]
    return Keypoints(found[order, 1:].cpu(), sizes, responses[order].float().cpu())


def _blurred(grey: Tensor, scale: float) -> Tensor:
    """Blur by a Gaussian, the image repeated at its edges."""
    reach = max(1, math.ceil(3 * scale))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=grey.device) / scale) ** 2).to(grey)
    kernel = line / line.sum()
    padded = F.pad(grey[None, None], [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))[0, 0]


def saliency(keypoints: Keypoints, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Give the distribution of pixels around each keypoint, a Gaussian of its size, and the weights of keypoints.

    Args:
        keypoints: The keypoints, K at least 1.
        height: Height of the image in pixels.
        width: Its width.

    Returns:
        Distributions, (K, height width), and weights, (K,), responses divided by their sum; every row, and the weights,
        sum to 1. The saliency of the image is ``weights @ distributions``.

    Raises:
        ValueError: If there is no keypoint, or a size or response is not above 0.

    Example:
        >>> distributions, weights = saliency(detect_keypoints(torch.eye(8)[None]), 8, 8)
        >>> round((weights @ distributions).sum().item(), 5)
        1.0
    """
    places, sizes, responses = keypoints
    if not len(places) or not bool((sizes > 0).all() & (responses > 0).all()):
        raise ValueError(f"keypoints must be at least one, of sizes and responses above 0, got {keypoints}")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    squares = (rows.flatten() - places[:, :1]) ** 2 + (columns.flatten() - places[:, 1:]) ** 2
    logits = -squares / (2 * sizes[:, None].double() ** 2)
    return logits.softmax(dim=1), (responses / responses.sum()).double()


@final
class FeatureGuidedSearch:
    """Looks for few pixels of each image whose change makes a model err, by its classes alone.

    A turn adds ``step`` to all channels of a pixel, or takes it away. The first turns of each try are those of the
    tree, the rest are drawn by saliency, until the class changes or as many pixels are changed as the best try needed.
    At ``tree_depth=0`` all are drawn.

    Args:
        queries: Forward passes for each image, at least 1, restoring included.
        step: What a turn changes a pixel by, above 0; at 1 to a bound of the range 0 to 1.
        tree_depth: Most turns that the tree chooses in a try, at least 0.
        player: What the second player looks for.
        keypoints: Finds keypoints of an image (C, H, W).
        bounds: Smallest and largest entry of an image.

    Raises:
        ValueError: If an argument is outside its range, or inputs are.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        >>> _ = model[1].weight.data.zero_(), model[1].bias.data.copy_(torch.tensor([0.5, 0.0]))
        >>> model[1].weight.data[1] = 1.0
        >>> image = torch.zeros(1, 1, 4, 4)
        >>> (FeatureGuidedSearch(queries=60)(model, image, torch.tensor([0])) != image).sum()
        tensor(1)
    """

    def __init__(
        self,
        queries: int = 1000,
        step: float = 1.0,
        tree_depth: int = 3,
        player: Player = "cooperative",
        keypoints: Callable[[Tensor], Keypoints] = detect_keypoints,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        for name, value, least in (("queries", queries, 1), ("tree_depth", tree_depth, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
        if isinstance(step, bool) or not 0 < step < math.inf:
            raise ValueError(f"step must be above 0 and finite, got {step}")
        if player not in get_args(Player):
            raise ValueError(f"player must be one of {', '.join(get_args(Player))}; got {player!r}")
        if not -math.inf < bounds[0] < bounds[1] < math.inf:
            raise ValueError(f"bounds must be finite, the first below the second, got {bounds}")
        self.queries, self.step, self.tree_depth, self.bounds = queries, step, tree_depth, bounds
        self.player: Player = player
        self.keypoints = keypoints

    def __call__(
        self, model: nn.Module, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Give the changed images; one for which nothing was found stays as it is.

        Args:
            model: Maps images to logits (N, classes).
            inputs: Images within the bounds, (N, C, H, W).
            labels: Class numbers, int64, (N,).
            generator: Source of the turns, on the CPU; the global random state by default.

        Returns:
            Changed images, (N, C, H, W).
        """
        given = inputs.detach()
        if given.ndim != 4 or not given.is_floating_point() or labels.shape != given.shape[:1]:
            found = f"{given.dtype} {tuple(given.shape)} and {tuple(labels.shape)}"
            raise ValueError(f"inputs must be floating numbers, (N, C, H, W), with labels, (N,), got {found}")
        if not bool(((given >= self.bounds[0]) & (given <= self.bounds[1])).all()):
            raise ValueError(f"inputs must be within bounds, {self.bounds}, got others; give their bounds")
        with evaluating(model), torch.no_grad():
            results = [self._search(model, *pair, generator) for pair in zip(given, labels, strict=True)]
        return torch.stack(results) if results else given.clone()

    def _search(self, model: nn.Module, image: Tensor, label: Tensor, generator: torch.Generator | None) -> Tensor:
        """Play until the queries are used up; give the image of fewest changed pixels."""
        asked = Asked(model, label, self.queries)
        best, fewest = image.clone(), image[0].numel() + 1
        if asked.wrong(image[None])[0]:
            return best
        around, weights = saliency(self.keypoints(image), *image.shape[1:])
        overall, root = weights @ around + 1e-12, Place()
        while asked.left > 0 and fewest > 1:
            path, turns = self._descended(root, around, weights, generator)
            drawn = torch.multinomial(overall, len(overall), generator=generator)
            signs = torch.randint(2, drawn.shape, generator=generator)
            turns = (turns + (2 * drawn + signs).tolist())[: fewest - 1]
            reward, count = 0.0, min(max(1, len(path) // 2), len(turns))
            while count <= len(turns) and asked.left > 0 and not reward:
                counts = range(count, min(count + min(_CHUNK, asked.left), len(turns) + 1))
                tries = torch.stack([self._played(image, turns[:number]) for number in counts])
                for number, changed, errs in zip(counts, tries, asked.wrong(tries), strict=True):
                    if errs and not reward:
                        reward, best = 1 / number, restored(changed, image, asked, generator)
                        fewest = changed_pixels(best, image)
                count = counts.stop
            for place in (root, *path):
                place.visits, place.reward = place.visits + 1, place.reward + reward
        return best

    def _descended(
        self, root: Place, around: Tensor, weights: Tensor, generator: torch.Generator | None
    ) -> tuple[list[Place], list[int]]:
        """Take turns in the tree up to one that is new to it; give the places come by, without the root, and turns."""
        place, path, turns = root, list[Place](), list[int]()
        for _ in range(self.tree_depth):
            untried = torch.tensor([number for number in range(len(weights)) if number not in place.after])
            if len(untried):
                named = int(untried[torch.multinomial(weights[untried], 1, generator=generator)])
            else:
                named = place.best()
            keypoint = place.after.setdefault(named, Place())
            if self.player == "random" or len(keypoint.after) ** 2 <= keypoint.visits:
                pixel = int(torch.multinomial(around[named], 1, generator=generator))
                turn = 2 * pixel + int(torch.randint(2, (1,), generator=generator))
            else:
                turn = keypoint.best(1.0 if self.player == "cooperative" else -1.0)
            new = turn not in keypoint.after
            place = keypoint.after.setdefault(turn, Place())
            path += [keypoint, place]
            turns.append(turn)
            if new:
                break
        return path, turns

    def _played(self, image: Tensor, turns: list[int]) -> Tensor:
        """Change a pixel for each turn: of number ``turn // 2``, upwards where the turn is odd."""
        changed = image.flatten(1).clone()
        for turn in turns:
            moved = changed[:, turn // 2] + (self.step if turn % 2 else -self.step)
            changed[:, turn // 2] = moved.clamp(*self.bounds)
        return changed.view_as(image)
