"""How much faster the Carlini-Wagner attack is that drops what is fooled, against Foolbox's, in one process.

Both attack the same undefended LeNet, trained on digits, with the same first c, kappa, learning rate, steps and number
of values of c. Foolbox attacks all images to the end, or with its `abort_early` until the summed loss of the batch
stalls. The weights need no gradients, so that none are computed. Blocks take turns, on one CPU thread; a ratio is one
of CPU times of neighbouring blocks. Foolbox is to be installed in an environment of its own:

    python -m pip install foolbox
    python benchmarks/carlini_wagner.py [--blocks 3] [--images 300] [--steps 1000] [--json PATH]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paperweight.data import load_images, split_images
from paperweight.loops import fit_classifier
from paperweight.nets import LeNet
from paperweight.robustness.defensive_distillation import CarliniWagnerL2

try:
    import foolbox
except ImportError:
    sys.exit("foolbox is missing: install it with `python -m pip install foolbox`, in an environment of its own")

Attack = Callable[[], Tensor]

_VALUES_OF_C = 9
_RATE = 0.01


def undefended(images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Train LeNet on digits; give it with so many test images and their labels."""
    data = split_images(
        load_images("digits"), train=800, validation=200, test=images, generator=torch.Generator().manual_seed(0)
    )
    torch.manual_seed(0)
    model = LeNet(data.shape, len(data.classes))
    fit_classifier(
        model,
        torch.optim.Adam(model.parameters(), lr=1e-3),
        data.train.images,
        data.train.labels,
        steps=800,
        batch_size=64,
        generator=torch.Generator().manual_seed(1),
    )
    return model.eval().requires_grad_(False), data.test.images, data.test.labels


def attacks(model: nn.Module, images: Tensor, labels: Tensor, c: float, steps: int) -> dict[str, Attack]:
    """Give ours and Foolbox's, as it is by default and without stopping early."""
    ours = CarliniWagnerL2(c=c, lr=_RATE, steps=steps, binary_search_steps=_VALUES_OF_C - 1)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    criterion = foolbox.criteria.Misclassification(labels)

    def theirs(abort_early: bool) -> Attack:
        attack = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=_VALUES_OF_C, steps=steps, stepsize=_RATE, initial_const=c, abort_early=abort_early
        )
        return lambda: attack.run(wrapped, images.clone(), criterion).detach()

    return {
        "ours": lambda: ours(model, images, labels),
        "foolbox, to the end": theirs(abort_early=False),
        "foolbox, abort_early": theirs(abort_early=True),
    }


def quality(model: nn.Module, images: Tensor, labels: Tensor, results: Tensor) -> dict[str, float]:
    """Give the share of images that are misclassified, and the distances of those that were not before."""
    fooled = model(results).argmax(dim=1) != labels
    distances = (results - images).flatten(1).norm(dim=1)[fooled & (model(images).argmax(dim=1) == labels)]
    return {
        "success": fooled.float().mean().item(),
        "mean_l2": distances.mean().item(),
        "median_l2": distances.median().item(),
    }


def measure(blocks: int, images: int, steps: int) -> dict[str, dict[str, float]]:
    """Attack from a first c far too small, which is Foolbox's, and from the middle."""
    model, inputs, labels = undefended(images)
    results: dict[str, dict[str, float]] = {}
    for c in (1e-3, 1.0):
        runs = attacks(model, inputs, labels, c, steps)
        times: dict[str, list[float]] = {name: [] for name in runs}
        found: dict[str, Any] = {}
        for block in range(blocks):
            for name in sorted(runs, reverse=bool(block % 2)):
                start = time.process_time()
                found[name] = runs[name]()
                times[name].append(time.process_time() - start)
        for name in runs:
            ratios = [theirs / ours for theirs, ours in zip(times[name], times["ours"], strict=True)]
            results[f"{name}, first c {c:g}"] = {
                **quality(model, inputs, labels, found[name]),
                "seconds": statistics.median(times[name]),
                "ratio": statistics.median(ratios),
            }
    return results


def main() -> None:
    """Measure, print a table, and write the numbers where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--blocks", type=int, default=3, help="blocks of each")
    parser.add_argument("--images", type=int, default=300, help="images to attack, at most 700")
    parser.add_argument("--steps", type=int, default=1000, help="largest number of steps for one value of c")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = measure(given.blocks, given.images, given.steps)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    columns = ("success", "mean_l2", "median_l2", "seconds", "ratio")
    print(f"{f'foolbox {foolbox.__version__}, one thread':40}" + "".join(f"{column:>11}" for column in columns))
    for name, row in results.items():
        print(f"{name:40}" + "".join(f"{row[column]:11.4f}" for column in columns))


if __name__ == "__main__":
    main()
