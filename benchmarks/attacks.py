"""How much faster projected gradient ascent is that leaves out what is fooled, at equal success, in one process.

Forty steps in norm infinity on a LeNet trained plainly and on one trained adversarially, on MNIST where it is there and
on digits else, against a hand-written loop, torchattacks and Foolbox: the same radius, number of steps and one random
start; ours once with its own steps, which get shorter, and once with those of the others. The weights need no
gradients, so that none are computed. Blocks take turns, on one CPU thread; a ratio is one of CPU times of neighbouring
blocks. The rivals are to be installed in an environment of their own, torchattacks without what it asks for
(`--no-deps`), since it runs without torchvision:

    python -m pip install --no-deps torchattacks foolbox eagerpy GitPython gitdb smmap
    python benchmarks/attacks.py [--blocks 5] [--images 500] [--json PATH]
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paperweight.attacks import ProjectedGradient
from paperweight.data import load_images, split_images
from paperweight.errors import InputError
from paperweight.loops import evaluate_classifier, fit_classifier, robust_network
from paperweight.nets import LeNet

Attack = Callable[[], Tensor]

_RADIUS, _STEPS, _STEP = 0.2, 40, 0.0125


def networks(images: int) -> tuple[dict[str, nn.Module], Tensor, Tensor]:
    """Give LeNet trained plainly and adversarially, with so many test images and their labels."""
    sizes = {"train": 8000, "validation": 100, "test": images}
    try:
        data = load_images("mnist")
    except InputError:
        data, sizes["train"] = load_images("digits"), 1000
    parts = split_images(data, **sizes, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = LeNet(parts.shape, len(parts.classes))
    fit_classifier(
        plain,
        torch.optim.Adam(plain.parameters(), lr=1e-3),
        parts.train.images,
        parts.train.labels,
        steps=500,
        batch_size=64,
        generator=torch.Generator().manual_seed(1),
    )
    models = {"undefended": plain, "robust": robust_network("lenet", parts.train, radius=_RADIUS)}
    frozen = {name: model.eval().requires_grad_(False) for name, model in models.items()}
    return frozen, parts.test.images, parts.test.labels


def by_hand(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Attack all images to the end, as one writes it."""
    low, high = (images - _RADIUS).clamp(min=0), (images + _RADIUS).clamp(max=1)
    changed = (images + _RADIUS * (2 * torch.rand_like(images) - 1)).clamp(0, 1)
    for _ in range(_STEPS):
        changed.requires_grad_()
        loss = F.cross_entropy(model(changed), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, changed)
        changed = torch.clamp(changed.detach() + _STEP * gradient.sign(), low, high)
    return changed


def attacks(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Attack]:
    """Give ours, the hand-written loop, and those of the packages that are installed."""
    ours = ProjectedGradient(radius=_RADIUS, steps=_STEPS)
    same = ProjectedGradient(radius=_RADIUS, steps=_STEPS, step=_STEP)
    found: dict[str, Attack] = {
        "ours": lambda: ours(model, images, labels),
        "ours, their steps": lambda: same(model, images, labels),
        "by hand": lambda: by_hand(model, images, labels),
    }
    try:
        import torchattacks

        made = torchattacks.PGD(model, eps=_RADIUS, alpha=_STEP, steps=_STEPS)
        found["torchattacks"] = lambda: made(images, labels)
    except ImportError:
        pass
    try:
        import foolbox

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        pgd = foolbox.attacks.LinfPGD(abs_stepsize=_STEP, steps=_STEPS, random_start=True)
        found["foolbox"] = lambda: pgd(wrapped, images, labels, epsilons=_RADIUS)[1]
    except ImportError:
        pass
    return found


def measure(blocks: int, images: int) -> dict[str, dict[str, float]]:
    """Give for each network and attack the accuracy that is left, seconds, and times as long as ours takes."""
    models, inputs, labels = networks(images)
    results: dict[str, dict[str, float]] = {}
    for network, model in models.items():
        runs = attacks(model, inputs, labels)
        times: dict[str, list[float]] = {name: [] for name in runs}
        left: dict[str, list[float]] = {name: [] for name in runs}
        for block in range(blocks):
            for name in sorted(runs, reverse=bool(block % 2)):
                start = time.process_time()
                changed = runs[name]()
                times[name].append(time.process_time() - start)
                left[name].append(evaluate_classifier(model, changed, labels).accuracy)
        clean = evaluate_classifier(model, inputs, labels).accuracy
        for name in runs:
            ratios = [theirs / ours for theirs, ours in zip(times[name], times["ours"], strict=True)]
            results[f"{network}, {name}"] = {
                "clean": clean,
                "accuracy": statistics.median(left[name]),
                "seconds": statistics.median(times[name]),
                "ratio": statistics.median(ratios),
            }
    return results


def main() -> None:
    """Measure, print a table, and write the numbers where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--blocks", type=int, default=5, help="blocks of each")
    parser.add_argument("--images", type=int, default=500, help="images to attack")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(given.blocks, given.images)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    columns = ("clean", "accuracy", "seconds", "ratio")
    print(f"{'one thread':28}" + "".join(f"{column:>11}" for column in columns))
    for name, row in results.items():
        print(f"{name:28}" + "".join(f"{row[column]:11.4f}" for column in columns))


if __name__ == "__main__":
    main()
