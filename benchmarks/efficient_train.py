"""What training by EfficientTrain costs against training on whole images, in one process.

Ten steps of each, six at 5/7 of the side, two at 6/7 and two whole, take turns, on one CPU thread; each ratio is one of
CPU times of neighbouring blocks. Crops are counted.

    python benchmarks/efficient_train.py [--blocks 6] [--json PATH]
"""

import torch
from alternating import Step, alternate, compare, report
from torch import nn

from paperweight.nets import ResNet
from paperweight.training import EfficientTrain

CASES = {"ResNet-8, 64 x 3 x 32 x 32": (32, 64), "ResNet-8, 32 x 3 x 64 x 64": (64, 32)}


def ten_steps(model: nn.Module, side: int, batch: int) -> Step:
    """Make ten training steps on normal images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, side, side, generator=generator)
    labels = torch.randint(10, (batch,), generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def steps() -> None:
        if isinstance(model, EfficientTrain):
            model.passes = 0
        for _ in range(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return steps


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure both ways of training a residual network."""
    results: dict[str, dict[str, float]] = {}
    for name, (side, batch) in CASES.items():
        networks = {"whole": ResNet((3, side, side), 10), "efficient": EfficientTrain(ResNet((3, side, side), 10), 10)}
        runs = {which: ten_steps(network, side, batch) for which, network in networks.items()}
        results[name] = compare(alternate(runs, steps=1, blocks=blocks), "efficient", "whole")
    return results


if __name__ == "__main__":
    report(__doc__, measure)
