"""A step of `fit_views` by SimCLR's loss, against the same step written out by hand in a plain loop.

python benchmarks/contrastive_step.py [--steps N] [--blocks N]

The encoder of `paperweight embed` and a projector learn 2,000 images of 1 x 28 x 28 in batches of 64, and a perceptron
images of 64 numbers in batches of 32, whose steps are short, so that what the loop adds shows. Blocks of both loops
alternate; the hand-written loop against itself tells how far such a ratio can be trusted.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from paperweight.embedding.encoder import convolutions
from paperweight.loops import fit_views, nt_xent

IMAGES = 2_000


def view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise, the cheapest view there is."""
    return images + 0.1 * torch.randn(images.shape, generator=generator)


def by_hand(model: nn.Module, images: Tensor, steps: int, batch_size: int) -> None:
    """Train as a person would write it."""
    optimizer, generator = AdamW(model.parameters(), lr=0.001), torch.Generator().manual_seed(0)
    model.train()
    order, place = torch.randperm(len(images), generator=generator), 0
    for _ in range(steps):
        if place + batch_size > len(order):
            order, place = torch.randperm(len(images), generator=generator), 0
        batch = images[order[place : place + batch_size]]
        place += batch_size
        loss = nt_xent(model(view(batch, generator)), model(view(batch, generator)), 0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def by_loop(model: nn.Module, images: Tensor, steps: int, batch_size: int) -> None:
    """Train by the library's loop."""
    fit_views(
        model,
        AdamW(model.parameters(), lr=0.001),
        images,
        view=view,
        loss=lambda first, second: nt_xent(first, second, 0.2),
        steps=steps,
        batch_size=batch_size,
        generator=torch.Generator().manual_seed(0),
    )


def timed(loop: Callable[..., None], model: nn.Module, images: Tensor, steps: int, batch_size: int) -> float:
    """Return the seconds of a step."""
    started = time.perf_counter()
    loop(model, images, steps, batch_size)
    return (time.perf_counter() - started) / steps


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--blocks", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    large = nn.Sequential(convolutions((1, 28, 28), 128), nn.Linear(128, 64))
    for name, model, shape, batch_size, steps in (
        ("perceptron", small, (1, 8, 8), 32, 10 * given.steps),
        ("convolutions", large, (1, 28, 28), 64, given.steps),
    ):
        images = torch.rand(IMAGES, *shape)
        ratios, itself, seconds = list[float](), list[float](), list[float]()
        for block in range(given.blocks + 1):
            hand = timed(by_hand, model, images, steps, batch_size)
            loop = timed(by_loop, model, images, steps, batch_size)
            again = timed(by_hand, model, images, steps, batch_size)
            if block:
                ratios.append(2 * loop / (hand + again))
                itself.append(again / hand)
                seconds.append(hand)
        print(
            f"{name}: {1e3 * statistics.median(seconds):.2f} ms a step; fit_views {statistics.median(ratios):.4f}, "
            f"quartiles {' to '.join(f'{q:.3f}' for q in statistics.quantiles(ratios, n=4)[::2])}; by hand against "
            f"itself {statistics.median(itself):.4f}"
        )


if __name__ == "__main__":
    main()
