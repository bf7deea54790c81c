"""What Fourier attention costs, forward and backward: in chunks, against the naive form and other attentions.

The naive form keeps every factor of every pair; the Gaussian kernel keeps the pairs. One head, float32, on one CPU
thread or, with ``--device cuda``, 8 heads on a GPU and a model in bfloat16, where the kernel is Triton's if that is
installed. Blocks take turns. Memory is what the attention allocates at its highest: on a CPU what its operations made
and is alive, on a GPU what the allocator tells.

    python benchmarks/fourier_attention.py [--device cuda] [--sizes 64 256 1024] [--blocks 5] [--linear] [--json PATH]
"""

import argparse
import json
import statistics
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from paperweight.architecture import fourier_attention, kernel_attention, linear_fourier_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
NAIVE_LIMIT = 1024 * 1024 * 64


def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend by the formula, with a tensor of all factors."""
    x = q[..., :, None, :] - k[..., None, :, :]
    kernel = torch.where(x == 0, 1.0, torch.sin(x) / torch.where(x == 0, 1.0, x)).pow(4).prod(dim=-1)
    return (kernel / (kernel.sum(dim=-1, keepdim=True) + 1e-6)) @ v


ATTENTIONS: dict[str, Attend] = {
    "chunked": fourier_attention,
    "naive": naive,
    "dot": F.scaled_dot_product_attention,
    "gaussian": partial(kernel_attention, kernel="gaussian"),
}


class Living(TorchDispatchMode):
    """Counts the bytes of the storages that operations have made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run an operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


def tokens(n: int, d: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Draw queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    shape, dtype = ((1, 8, n, d), torch.bfloat16) if device == "cuda" else ((1, 1, n, d), torch.float32)
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for _ in range(3))
    return q, k, v


def step(attend: Attend, given: tuple[Tensor, Tensor, Tensor]) -> None:
    """Attend, and compute the gradients."""
    torch.autograd.grad(attend(*given).float().square().sum(), given)


def seconds(run: Callable[[], object], device: str) -> float:
    """Time a run."""
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(n: int, d: int, blocks: int, device: str) -> dict[str, dict[str, float]]:
    """Time every attention that is not too large."""
    given = tokens(n, d, device)
    heads = given[0].shape[1]
    runs = {
        name: partial(step, attend, given)
        for name, attend in ATTENTIONS.items()
        if name != "naive" or heads * n * n * d <= NAIVE_LIMIT * (16 if device == "cuda" else 1)
    }
    for run in runs.values():
        seconds(run, device)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for block in range(blocks):
        for name in sorted(runs, reverse=bool(block % 2)):
            times[name].append(seconds(runs[name], device))
    rows: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        ratios = [ours / theirs for ours, theirs in zip(times["chunked"], times[name], strict=True)]
        rows[name] = {
            "milliseconds": 1e3 * statistics.median(times[name]),
            "chunked_against_it": statistics.median(ratios),
            "mebibytes": memory(run, device),
        }
    return rows


def linear(n: int, d: int, blocks: int) -> dict[str, dict[str, float]]:
    """Measure the version in linear time, at a radius of d^-1/2: relative error of outputs and forward time."""
    q, k, v = (part.detach() for part in tokens(n, d, "cpu"))
    radius, found = d**-0.5, {}
    exact = fourier_attention(q, k, v, radius)
    spent = [seconds(lambda: fourier_attention(q, k, v, radius), "cpu") for _ in range(blocks)]
    for count in (256, 1024, 4096):
        draws, times = [], []
        for block in range(blocks):
            generator = torch.Generator().manual_seed(block)
            attend = partial(linear_fourier_attention, q, k, v, count, radius, generator=generator)
            start = time.perf_counter()
            draws.append(attend())
            times.append(time.perf_counter() - start)
        error = torch.stack([(draw - exact).square().mean() for draw in draws]).mean().sqrt()
        found[str(count)] = {
            "relative_error": (error / exact.square().mean().sqrt()).item(),
            "time_over_exact": statistics.median(times) / statistics.median(spent),
        }
    return found


def memory(run: Callable[[], object], device: str) -> float:
    """Give the peak of what a run allocates, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with Living() as living:
        run()
    return living.peak / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", type=int, nargs="*", default=[64, 256, 1024, 4096])
    parser.add_argument("--features", type=int, nargs="*", default=[16, 32, 64])
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--linear", action="store_true", help="measure the version in linear time, too")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for n in given.sizes:
        for d in given.features:
            found[f"N={n} d={d}"] = rows = measure(n, d, given.blocks, given.device)
            cells = (
                f"{name} {row['milliseconds']:.1f} ms ({row['chunked_against_it']:.2f}) {row['mebibytes']:.1f} MiB"
                for name, row in rows.items()
            )
            print(f"N={n} d={d}: " + "; ".join(cells), flush=True)
    for n in (1024, 4096) if given.linear else ():
        found[f"linear N={n}"] = rows = linear(n, 32, given.blocks)
        for count, row in rows.items():
            print(f"N={n} d=32, {count} frequencies: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
