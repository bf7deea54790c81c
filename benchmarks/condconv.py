"""What a conditionally parameterized convolution costs against a plain one of equal output, with and without training.

Blocks of passes take turns, on one CPU thread; each ratio is one of CPU times of neighbouring blocks. Two other ways to
compute the same are measured beside: the sum of all experts' convolutions, and products of unfolded inputs with each
example's kernel.

    python benchmarks/condconv.py [--blocks 40] [--json PATH]
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from alternating import Step, alternate, compare, report
from torch import Tensor, nn

from paperweight.architecture import CondConv2d

EXPERTS = 8
SHAPES = {
    "64 x 32 x 28 x 28 to 64, 3x3": ((64, 32, 28, 28), 64, 3, 1),
    "64 x 64 x 14 x 14 to 64, 3x3": ((64, 64, 14, 14), 64, 3, 1),
    "64 x 64 x 14 x 14 to 128, 1x1": ((64, 64, 14, 14), 128, 1, 5),
    "64 x 6 x 14 x 14 to 16, 5x5": ((64, 6, 14, 14), 16, 5, 5),
    "64 x 128 x 7 x 7 to 128, 3x3": ((64, 128, 7, 7), 128, 3, 1),
}


def summed(layer: CondConv2d, x: Tensor) -> Tensor:
    """Convolve with all experts at once, and add up the outputs."""
    outputs = F.conv2d(x, layer.experts.flatten(0, 1), padding=layer.padding)
    return torch.einsum("bn,bnohw->bohw", layer.alphas(x), outputs.unflatten(1, layer.experts.shape[:2]))


def unfolded(layer: CondConv2d, x: Tensor) -> Tensor:
    """Multiply patches of the inputs by the kernel of each example."""
    height, width = layer.experts.shape[3:]
    kernels = (layer.alphas(x) @ layer.experts.flatten(1)).unflatten(1, (layer.out_channels, -1))
    patches = F.unfold(x, (height, width), padding=height // 2)
    return torch.bmm(kernels, patches).unflatten(2, x.shape[2:])


def step_of(layer: Callable[[Tensor], Tensor], shape: tuple[int, ...], training: bool) -> Step:
    """Make a pass of a layer on normal inputs, forward or forward and backward."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator).requires_grad_(training)

    def step() -> None:
        with torch.set_grad_enabled(training):
            output = layer(x)
        if training:
            x.grad = None
            output.sum().backward()

    return step


def measure(blocks: int) -> dict[str, dict[str, float]]:
    """Measure each shape, with and without training."""
    results: dict[str, dict[str, float]] = {}
    for name, (shape, out, size, steps) in SHAPES.items():
        torch.manual_seed(0)
        plain = nn.Conv2d(shape[1], out, size, padding=size // 2, bias=False)
        layer = CondConv2d(shape[1], out, size, num_experts=EXPERTS, padding=size // 2, bias=False)
        ways = {
            "plain": plain,
            "grouped": layer,
            "summed": lambda x, layer=layer: summed(layer, x),
            "unfolded": lambda x, layer=layer: unfolded(layer, x),
        }
        for mode, training in {"forward": False, "with backward": True}.items():
            runs = {way: step_of(call, shape, training) for way, call in ways.items()}
            times = alternate(runs, steps=steps, blocks=blocks)
            for way in ("grouped", "summed", "unfolded"):
                results[f"{name}, {mode}, {way}"] = compare(times, way, "plain")
    return results


if __name__ == "__main__":
    report(__doc__, measure)
