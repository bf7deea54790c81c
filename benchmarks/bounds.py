"""Bounds of a network over a ball of inputs beside auto_LiRPA's: how far apart they are, what they take and prove.

Boxes (`ball`, `propagate`) against interval bound propagation, on networks of each kind of layer that both know, with
random weights, in double and single precision; then, on a LeNet and a residual network trained by `diffai` on digits,
how many images are proved to stay right by boxes, by zonotopes with an error for each pixel, and by the rival's CROWN.
Blocks take turns, on one CPU thread; a ratio is one of CPU times of neighbouring blocks. auto_LiRPA (BSD) 0.7.1 asks
for an older PyTorch and for torchvision, and runs without: install it from its repository in an environment of its own,
with `--no-deps`, and what it imports:

    python -m pip install --no-deps git+https://github.com/Verified-Intelligence/auto_LiRPA
    python -m pip install appdirs pyyaml ninja graphviz
    python benchmarks/bounds.py [--blocks 9]
"""

import argparse
import copy
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from paperweight.data import load_images, split_images
from paperweight.loops import index_batches
from paperweight.nets import LeNet
from paperweight.robustness.diffai import Ball, DiffAI, Mix, Point, ball, propagate, verify

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    try:
        from auto_LiRPA import BoundedModule, BoundedTensor
        from auto_LiRPA.perturbations import PerturbationLpNorm
    except ImportError:
        sys.exit("auto_LiRPA is missing: see the head of this file")

_RADIUS, _STEPS = 0.1, 1500


class Residual(nn.Module):
    """A branch beside what it is added to."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the sum of input and branch."""
        return inputs + self.branch(inputs)


def networks() -> dict[str, nn.Module]:
    """Give one network for each kind of layer that both know, for images of 1 x 8 x 8."""
    torch.manual_seed(0)
    flat, maps = nn.Flatten(), nn.Conv2d(1, 4, 3, padding=1)
    made = {
        "perceptron": nn.Sequential(
            flat, nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
        ),
        "sigmoid and tanh": nn.Sequential(
            flat, nn.Linear(64, 32), nn.Sigmoid(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)
        ),
        "convolutions, strides": nn.Sequential(
            maps, nn.ReLU(), nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), flat, nn.Linear(72, 10)
        ),
        "average pooling": nn.Sequential(maps, nn.ReLU(), nn.AvgPool2d(2), flat, nn.Linear(64, 10)),
        "maximum pooling": nn.Sequential(maps, nn.ReLU(), nn.MaxPool2d(2), flat, nn.Linear(64, 10)),
        "batch normalization": nn.Sequential(maps, nn.BatchNorm2d(4), nn.ReLU(), flat, nn.Linear(256, 10)),
        "residual block": nn.Sequential(
            maps,
            Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))),
            flat,
            nn.Linear(256, 10),
        ),
    }
    for model in made.values():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -1, 1)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.weight)
        model.eval().requires_grad_(False)
    return made


def residual() -> nn.Module:
    """Give a network of two residual blocks with batch normalization."""
    blocks = (
        Residual(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        )
        for _ in range(2)
    )
    first = nn.Conv2d(1, 8, 3, stride=2, padding=1)
    return nn.Sequential(first, *blocks, nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))


def boxes(model: nn.Module, images: Tensor) -> Callable[[], tuple[Tensor, Tensor]]:
    """Give our bounds."""
    return lambda: propagate(model, ball(images, _RADIUS)).bounds()


def rival(model: nn.Module, images: Tensor, method: str = "IBP") -> Callable[[], tuple[Tensor, Tensor]]:
    """Give the rival's bounds, its graph made beforehand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bounded = BoundedModule(model, torch.empty_like(images))
    low, high = (images - _RADIUS).clamp(min=0), (images + _RADIUS).clamp(max=1)
    near = BoundedTensor(images, PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high))
    return lambda: bounded.compute_bounds(x=(near,), method=method)


def trained() -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """Train a LeNet and a residual network on digits by bounds; give them with 200 test images and their labels."""
    data = split_images(
        load_images("digits"), train=1400, validation=100, test=200, generator=torch.Generator().manual_seed(0)
    )
    models: dict[str, nn.Module] = {}
    for name, make in (("LeNet", lambda: LeNet((1, 8, 8), 10)), ("residual", residual)):
        torch.manual_seed(0)
        model = make()
        goal = Mix(Point(), Ball(_RADIUS, ramp=0.8), ramp=0.8)
        training = DiffAI(model, torch.optim.Adam(model.parameters(), lr=1e-3), goal, steps=_STEPS)
        batches = index_batches(len(data.train.images), 64, generator=torch.Generator().manual_seed(1))
        for chosen in itertools.islice(batches, _STEPS):
            training.step(data.train.images[chosen], data.train.labels[chosen])
        models[name] = model.eval().requires_grad_(False)
    return models, data.test.images, data.test.labels


def apart(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    """Give the largest difference of two pairs of bounds, over the largest bound."""
    largest = max(float(bound.abs().max()) for bound in theirs)
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)) / largest


def margins(model: nn.Module, images: Tensor, labels: Tensor, method: str) -> Tensor:
    """Tell for which images the rival's bounds of all margins prove the label."""
    classes = model(images[:1]).shape[1]
    wanted = torch.eye(classes)[labels]
    differences = wanted[:, None, :] - torch.eye(classes)[None]
    others = torch.arange(classes)[None] != labels[:, None]
    chosen = differences[others].reshape(len(labels), classes - 1, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bounded = BoundedModule(model, torch.empty_like(images))
    near = BoundedTensor(
        images,
        PerturbationLpNorm(norm=float("inf"), x_L=(images - _RADIUS).clamp(min=0), x_U=(images + _RADIUS).clamp(max=1)),
    )
    low, _ = bounded.compute_bounds(x=(near,), C=chosen, method=method, bound_upper=False)
    return (low > 0).all(dim=1)


def main() -> None:
    """Measure, and print a row a network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--blocks", type=int, default=9, help="blocks of each")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("network                 apart, double   apart, single   time ours / theirs")
    for name, model in networks().items():
        images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        double = copy.deepcopy(model).double()
        far = apart(boxes(double, images.double())(), rival(double, images.double())())
        runs = {"ours": boxes(model, images), "theirs": rival(model, images)}
        near = apart(runs["ours"](), runs["theirs"]())
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for block in range(given.blocks):
            for each in sorted(runs, reverse=bool(block % 2)):
                start = time.process_time()
                for _ in range(20):
                    runs[each]()
                seconds[each].append(time.process_time() - start)
        share = statistics.median(a / b for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
        print(f"{name:22} {far:14.1e} {near:15.1e} {share:20.2f}")
    print("trained network   boxes: ours / theirs   zonotopes   CROWN   seconds of zonotopes / CROWN")
    models, images, labels = trained()
    for name, model in models.items():
        shares: list[float] = []
        seconds_taken: list[float] = []
        for prove in (
            lambda model=model: verify(model, images, labels, _RADIUS),
            lambda model=model: margins(model, images, labels, "IBP"),
            lambda model=model: verify(model, images, labels, _RADIUS, shared=True),
            lambda model=model: margins(model, images, labels, "CROWN"),
        ):
            start = time.process_time()
            shares.append(float(prove().float().mean()))
            seconds_taken.append(time.process_time() - start)
        one, two, three, four = shares
        took = f"{seconds_taken[2]:.1f} / {seconds_taken[3]:.1f}"
        print(f"{name:16} {one:13.1%} / {two:.1%} {three:11.1%} {four:7.1%} {took:>20}")


if __name__ == "__main__":
    main()
