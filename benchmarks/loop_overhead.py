"""What `fit_classifier` costs a step, as a ratio to a hand-written PyTorch loop that does the same work.

All loops run in one process on one CPU thread and train one and the same network with one and the same optimizer, on
batches gathered by index from the same tensors; all keep the losses. Single epochs of each loop alternate, in an
order drawn anew each round; a ratio of CPU times is taken within a round, and the median over all rounds is reported
with a distribution-free 95% interval. The hand-written loop is as lean as it gets: its permutations are made
beforehand, it has no options and no checks. It takes part twice: "the same again" shows what the machine's noise
lets one see.

Where Lightning is installed (``pip install -r benchmarks/requirements-lightning.txt`` in an environment of its own),
its Fabric and its Trainer join in. The Trainer is given its best case: ``barebones=True``, and only the time between
its first and its last step, so that its set-up for each call of ``fit`` is left out; `fit_classifier` is timed with
its own.

    python benchmarks/loop_overhead.py [--rounds 150] [--repeats 3] [--json PATH]
"""

import argparse
import json
import logging
import math
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from paperweight.loops import fit_classifier
from paperweight.nets import MLP, count_parameters

try:
    import lightning
except ImportError:
    lightning = None

SHAPE, CLASSES, SAMPLES = (1, 28, 28), 10, 8192
CASES = ((0.6, 64, 1.01), (5.0, 512, 1.005))  # milliseconds a step, batch size, the largest ratio aimed at

Loop = Callable[[], float]  # runs one epoch and returns its seconds


def permutations(generator: torch.Generator) -> Iterator[Tensor]:
    """Yield shuffled sample numbers without end."""
    while True:
        yield torch.randperm(SAMPLES, generator=generator)


def hand_written(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, batch: int) -> Loop:
    """Make an epoch of the plain loop that the others are compared with."""
    orders = permutations(torch.Generator().manual_seed(0))

    def run() -> float:
        order = next(orders)
        start = time.process_time()
        losses = []
        for index in order.split(batch):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images.index_select(0, index)), labels.index_select(0, index))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses)
        return time.process_time() - start

    return run


def paperweight(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, batch: int) -> Loop:
    """Make an epoch of `fit_classifier`."""
    generator = torch.Generator().manual_seed(0)

    def run() -> float:
        start = time.process_time()
        fit_classifier(model, optimizer, images, labels, steps=SAMPLES // batch, batch_size=batch, generator=generator)
        return time.process_time() - start

    return run


def lightning_fabric(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, batch: int) -> Loop:
    """Make an epoch of the plain loop with model, optimizer and backward pass handed to Fabric."""
    assert lightning is not None
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
    orders = permutations(torch.Generator().manual_seed(0))

    def run() -> float:
        order = next(orders)
        start = time.process_time()
        losses = []
        for index in order.split(batch):
            wrapped_optimizer.zero_grad()
            loss = F.cross_entropy(wrapped(images.index_select(0, index)), labels.index_select(0, index))
            fabric.backward(loss)
            wrapped_optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses)
        return time.process_time() - start

    return run


def lightning_trainer(model: nn.Module, optimizer: Optimizer, images: Tensor, labels: Tensor, batch: int) -> Loop:
    """Make an epoch of the Trainer, on batches of indices."""
    assert lightning is not None
    orders = permutations(torch.Generator().manual_seed(0))

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.losses: list[Tensor] = []
            self.start = self.end = 0.0

        def configure_optimizers(self) -> Optimizer:
            return optimizer

        def on_train_start(self) -> None:
            self.losses = []
            self.start = time.process_time()

        def training_step(self, index: Tensor) -> Tensor:
            loss = F.cross_entropy(self.model(images.index_select(0, index)), labels.index_select(0, index))
            self.losses.append(loss.detach())
            return loss

        def on_train_end(self) -> None:
            torch.stack(self.losses)
            self.end = time.process_time()

    class Batches:
        def __iter__(self) -> Iterator[Tensor]:
            return iter(next(orders).split(batch))

        def __len__(self) -> int:
            return SAMPLES // batch

    module, batches = Module(), Batches()

    def run() -> float:
        trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=1, barebones=True)
        trainer.fit(module, train_dataloaders=batches)
        assert len(module.losses) == SAMPLES // batch
        return module.end - module.start

    return run


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """Give the order statistics that hold the true median with 95% probability, whatever the distribution."""
    n, rank, tail = len(values), 0, 0.0
    while tail + math.comb(n, rank) / 2**n <= 0.025:
        tail += math.comb(n, rank) / 2**n
        rank += 1
    values = sorted(values)
    return values[max(rank - 1, 0)], values[n - max(rank, 1)]


def network(hidden: int) -> tuple[nn.Module, Optimizer]:
    """Make a network with two hidden layers of a width, and its optimizer."""
    torch.manual_seed(0)
    model = MLP(SHAPE, CLASSES, hidden=(hidden, hidden))
    return model, SGD(model.parameters(), lr=1e-3, momentum=0.9)


def epoch_seconds(hidden: int, images: Tensor, labels: Tensor, batch: int) -> float:
    """Time an epoch of the plain loop for one width."""
    run = hand_written(*network(hidden), images, labels, batch)
    return min(run() for _ in range(3))


def calibrated_width(seconds: float, images: Tensor, labels: Tensor, batch: int) -> int:
    """Find the hidden width, a multiple of 16, from which on an epoch of the plain loop takes the time given."""
    low, high = 1, 2
    while epoch_seconds(16 * high, images, labels, batch) < seconds:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if epoch_seconds(16 * middle, images, labels, batch) < seconds:
            low = middle
        else:
            high = middle
    return 16 * high


def measure(hidden: int, images: Tensor, labels: Tensor, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Time alternating epochs of all loops; ratios are to the hand-written loop of the same round."""
    makers = {"hand-written": hand_written, "the same again": hand_written, "paperweight": paperweight}
    if lightning is not None:
        makers |= {"Lightning Fabric": lightning_fabric, "Lightning Trainer": lightning_trainer}
    model, optimizer = network(hidden)
    loops = [(name, make(model, optimizer, images, labels, batch)) for name, make in makers.items()]
    for _, run in loops * 2:
        run()
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(loops)
        for name, run in loops:
            seconds[name].append(run())
    result = {}
    for name, taken in seconds.items():
        ratios = [a / b for a, b in zip(taken, seconds["hand-written"], strict=True)]
        low, high = interval_of_median(ratios)
        result[name] = {
            "ms_per_step": 1000 * statistics.median(taken) * batch / SAMPLES,
            "ratio": statistics.median(ratios),
            "ratio_low": low,
            "ratio_high": high,
        }
    return result


def main() -> None:
    """Measure, print a table, and write the record if asked for."""
    parser = argparse.ArgumentParser(description="Cost of fit_classifier as a ratio to a hand-written loop.")
    parser.add_argument("--rounds", type=int, default=150, help="alternations of all loops (150)")
    parser.add_argument("--repeats", type=int, default=3, help="independent repetitions (3)")
    parser.add_argument("--json", type=Path, help="where to write the record")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SAMPLES, *SHAPE, generator=generator)
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    record = {
        "torch": torch.__version__,
        "lightning": None if lightning is None else lightning.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "rounds": arguments.rounds,
        "repeats": arguments.repeats,
        "rows": [],
    }
    print(
        f"{'step':>6} {'parameters':>10}  {'loop':<18} {'ms/step':>8} {'ratio':>7}  ratio and 95% interval a repetition"
    )
    for target, batch, goal in CASES:
        hidden = calibrated_width(target / 1000 * SAMPLES / batch, images, labels, batch)
        parameters = count_parameters(network(hidden)[0])
        repeats = [measure(hidden, images, labels, batch, arguments.rounds) for _ in range(arguments.repeats)]
        for name in repeats[0]:
            rows = [repeat[name] for repeat in repeats]
            ratio = statistics.median(row["ratio"] for row in rows)
            milliseconds = statistics.median(row["ms_per_step"] for row in rows)
            each = "  ".join(f"{row['ratio']:.4f} [{row['ratio_low']:.4f}, {row['ratio_high']:.4f}]" for row in rows)
            met = "" if name != "paperweight" else f"  goal {goal}: {'met' if ratio <= goal else 'NOT met'}"
            print(
                f"{batch:>5} {parameters:>10}  {name:<18} {milliseconds:>8.3f} {ratio:>7.4f}  {each}{met}", flush=True
            )
            row = {"batch": batch, "parameters": parameters, "loop": name, "ms_per_step": milliseconds}
            record["rows"].append({**row, "ratio": ratio, "goal": goal, "repetitions": rows})
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
