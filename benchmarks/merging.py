"""What merging two networks costs: time against evaluating them, an assignment of 512 units, memory by images.

Two residual networks of 20 layers and twice the usual width (32, 64 and 128 channels) are merged by the activations on
500 images of 32x32. An epoch of evaluation is one pass of both over the same images; what is compared with is two.
Blocks take turns, on one CPU thread. Memory is the growth of a process's peak while it correlates units, after one
batch, and is read from Linux.

    python benchmarks/merging.py [--blocks 10] [--json PATH]
"""

import multiprocessing
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from alternating import alternate, compare, report
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from paperweight.merging import Group, PermutationGraph, activation_correlation, match_weights, merge
from paperweight.merging.matching import assign
from paperweight.nets import ResNet


class Images:
    """Normal images in batches of 100, drawn anew at each pass."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(self.count // 100):
            yield torch.randn(100, 3, 32, 32, generator=generator)


def networks() -> list[nn.Module]:
    """Make two networks of different initial weights."""
    made: list[nn.Module] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(ResNet((3, 32, 32), 10, depth=20, width=32).eval())
    return made


@torch.no_grad()
def evaluate(models: list[nn.Module], data: list[Tensor], epochs: int) -> None:
    """Compute the logits of all models on all images."""
    for _ in range(epochs):
        for batch in data:
            for model in models:
                model(batch)


def peak(count: int, results: "multiprocessing.SimpleQueue[float]") -> None:
    """Put the MiB by which the peak of this process's memory grows while units are correlated."""
    torch.set_num_threads(1)
    models = networks()
    graph = PermutationGraph.for_resnet(models[0])
    evaluate(models, list(Images(100)), 1)
    before = resident()
    activation_correlation(models, graph, Images(count))
    results.put((resident() - before) / 1024)


def resident() -> int:
    """Read the peak of this process's memory, in KiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


def memory(count: int) -> float:
    """Measure the growth of memory in a process of its own."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=peak, args=(count, results))
    process.start()
    process.join()
    return results.get()


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure all."""
    models, data = networks(), list(Images(500))
    graph = PermutationGraph.trace(models[0], data[0][:1])
    evaluation = partial(evaluate, models, data, 2)
    runs = {
        "activation": partial(merge, models, data=data, repair=None),
        "repaired": partial(merge, models, data=data, repair="bn"),
        "weight": partial(match_weights, *models, graph),
        "evaluation": evaluation,
    }
    times = alternate(runs, steps=1, blocks=blocks)
    results = {
        "merge, traced": compare(times, "activation", "evaluation"),
        "merge, traced, statistics repaired": compare(times, "repaired", "evaluation"),
        "match_weights": compare(times, "weight", "evaluation"),
    }
    group = Group("units", 1, (512,), (), ())
    first, second = torch.randn(2, 512, 600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name, other in (("alike", first.roll(7, 0) + 2 * second), ("unlike", second)):
        grid = torch.corrcoef(torch.cat([first, other]))[:512, 512:]
        pair = {
            "ours": partial(assign, grid, group),
            "scipy": partial(linear_sum_assignment, grid.numpy(), maximize=True),
        }
        results[f"assignment of 512 units, {name}"] = compare(alternate(pair, steps=3, blocks=blocks), "ours", "scipy")
    for count in (500, 5000):
        results["merge, traced"][f"mib_{count}"] = memory(count)
        print(f"memory of the correlations of {count} images: {results['merge, traced'][f'mib_{count}']:.0f} MiB")
    return results


if __name__ == "__main__":
    report(__doc__, measure)
