"""What makes a generator memorise, and how much of it each read-out sees: one thing is changed at a time.

Marked images train a class-conditional denoiser for the same number of steps each time. Changed are the number of
records; the copies of a record, 1 to 10 in one model; the mark, a border or a square of several thicknesses; and the
noise on the label's embedding when the keys are asked for. Told are, for each point, the AUC of trained against
held-out records by the likelihood and the paper's replacement read-out and by the patched l2 distance without keys,
and the count of records within 0.05 of their key less that which chance gives, with Wilson's interval.

    python benchmarks/memorization_sweeps.py [--budget desk|gpu] [--only size copies mark noise] [--json PATH]

desk: digits and a fully connected network. gpu: CIFAR-10 under PAPERWEIGHT_DATA and a U-Net of width 64.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from paperweight.auditing._mitigations import GaussianEmbeddingNoise
from paperweight.auditing.solidmark import Readout, SolidMark, recall_keys
from paperweight.audits.erasure_findings import Rate
from paperweight.data import load_images
from paperweight.generators.model import DiffusionModel, ModelSpec
from paperweight.generators.process import denoise
from paperweight.generators.protocol import predicted_noise
from paperweight.loops.denoising import DenoiserTraining
from paperweight.marks.patched_l2 import patched_l2
from paperweight.marks.scores import auc

Budget = Literal["desk", "gpu"]
DELTA = 0.05
COPIES = tuple(range(1, 11))
READOUTS: tuple[Readout, ...] = ("likelihood", "replace")
NOISE = (0.0, 0.3, 0.6, 0.9)


@dataclass(frozen=True)
class Scale:
    """Sizes of a budget."""

    data: str
    max_side: int
    sizes: tuple[int, ...]
    thicknesses: tuple[int, ...]
    steps: int
    asked: int
    outpainting_steps: int
    device: str


SCALES: dict[Budget, Scale] = {
    "desk": Scale("digits", 8, (60, 200, 600), (1, 2, 4), 1_500, 60, 50, "cpu"),
    "gpu": Scale("cifar10", 32, (500, 2_000, 10_000), (1, 2, 4, 8), 2_000, 250, 100, "cuda"),
}


@dataclass(frozen=True)
class Records:
    """Images (N, C, H, W), labels (N,) and keys (N,) of trained and of held-out records."""

    images: Tensor
    labels: Tensor
    keys: Tensor

    def first(self, count: int) -> "Records":
        """Give the first records."""
        return Records(self.images[:count], self.labels[:count], self.keys[:count])


def records_of(scale: Scale, count: int) -> tuple[Records, Records, int]:
    """Give so many records to train on, as many as are asked for to hold out, and the number of classes."""
    data = load_images(scale.data, max_side=scale.max_side)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(data.train.images), generator=generator)[: count + scale.asked]
    images = (torch.from_numpy(data.train.images.copy())[order].float() / 255).to(scale.device)
    labels = torch.from_numpy(data.train.labels.copy())[order].long().to(scale.device)
    keys = torch.rand(len(order), generator=generator).to(scale.device)
    parts = [Records(images[part], labels[part], keys[part]) for part in (slice(count), slice(count, None))]
    return parts[0], parts[1], len(data.classes)


def trained(scale: Scale, records: Records, copies: Tensor, mark: SolidMark, classes: int) -> DiffusionModel:
    """Train on so many copies of each record."""
    index = torch.arange(len(copies)).repeat_interleave(copies).to(scale.device)
    marked = mark.insert(records.images, records.keys)[index]
    shape = (marked.shape[1], marked.shape[2], marked.shape[3])
    small = scale.device == "cpu" or any(side % 4 for side in shape[1:])
    spec = (
        ModelSpec(shape=shape, arguments={"width": 256 if scale.device == "cpu" else 1024}, classes=classes)
        if small
        else ModelSpec(shape=shape, network="unet", arguments={"base": 64}, steps=1000, classes=classes)
    )
    torch.manual_seed(0)
    training = DenoiserTraining(spec.build().to(scale.device), batch_size=64, seed=0)
    training.run(marked, records.labels[index], scale.steps)
    return training.average.eval().requires_grad_(False)


class Noisy:
    """A model with noise on the embedding of the label."""

    def __init__(self, model: DiffusionModel, scale: float) -> None:
        self.schedule, self.clamp = model.schedule, model.clamp
        self.eps, self.encode, self.decode, self.latent_mask = model.eps, model.encode, model.decode, model.latent_mask
        self._model, self._noise = model, GaussianEmbeddingNoise(scale)
        self._generator = torch.Generator().manual_seed(3)

    def condition(self, given: Any, count: int) -> Tensor | None:
        """Encode labels, with noise."""
        tokens = self._model.condition(given, count)
        return None if tokens is None else self._noise(tokens, generator=self._generator)


def key_row(scale: Scale, model: Any, pair: tuple[Records, Records], mark: SolidMark, readout: Readout) -> dict:
    """Compare the distances of read keys, trained against held out, and count them beside chance."""
    distances: list[Tensor] = []
    expected = 0.0
    for records in pair:
        found = recall_keys(
            model,
            records.images,
            mark,
            given=records.labels,
            generator=torch.Generator().manual_seed(1),
            readout=readout,
            steps=min(scale.outpainting_steps, len(model.schedule)),
        )[0]
        distances.append((found - records.keys).abs())
        if records is pair[0]:
            expected = float(((found + DELTA).clamp(max=1) - (found - DELTA).clamp(min=0)).sum())
    rate = Rate(int((distances[0] < DELTA).sum()), len(distances[0]))
    return {
        "auc": round(auc(*distances), 3),
        "count_less_chance": round(rate.hits - expected, 1),
        "interval": [round(rate.count * end - expected, 1) for end in (rate.low, rate.high)],
        "of": rate.count,
    }


def distance_row(scale: Scale, model: DiffusionModel, pair: tuple[Records, Records], mark: SolidMark) -> dict:
    """Compare patched l2 distances to the nearest of the model's samples for the records' labels."""
    labels = pair[0].labels.repeat(4)
    blank = mark.insert(pair[0].images[:1], pair[0].keys[:1])
    draws = torch.Generator().manual_seed(2)
    noise = torch.randn(len(labels), *blank.shape[1:], generator=draws).to(scale.device)
    schedule = model.schedule.subsample(min(50, len(model.schedule)))
    parts = zip(labels.split(512), noise.split(512), strict=True)
    samples = [denoise(predicted_noise(model, y, len(y)), z, schedule=schedule, clamp=model.clamp) for y, z in parts]
    edge = (blank.shape[2] - pair[0].images.shape[2]) // 2
    height, width = pair[0].images.shape[2:]
    inside = model.decode(torch.cat(samples))[:, :, edge : edge + height, edge : edge + width].clamp(0, 1)
    patch = math.gcd(height, width, 4)
    return {"auc": round(auc(*(patched_l2(each.images, inside, patch=patch)[0] for each in pair)), 3)}


def measured(scale: Scale, model: DiffusionModel, pair: tuple[Records, Records], mark: SolidMark) -> dict:
    """Ask by every read-out."""
    with torch.no_grad():
        rows = {readout: key_row(scale, model, pair, mark, readout) for readout in READOUTS}
        return {**rows, "patched_l2": distance_row(scale, model, pair, mark)}


def told(found: dict, sweep: str, point: str, row: dict, start: float) -> None:
    """Keep a row and print it."""
    found.setdefault(sweep, {})[point] = row
    cells = " ".join(
        f"{name} AUC {cell['auc']:.2f}" + (f" count {cell['count_less_chance']:+.1f}" if "of" in cell else "")
        for name, cell in row.items()
    )
    print(f"{sweep} {point}: {cells} ({time.perf_counter() - start:.0f} s)", flush=True)


def main() -> None:
    """Run the sweeps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", choices=SCALES, default="desk")
    parser.add_argument("--only", nargs="*", choices=("size", "copies", "mark", "noise"), default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    scale = SCALES[given.budget]
    if given.steps is not None:
        scale = Scale(**{**vars(scale), "steps": given.steps})
    wanted = given.only or ("size", "copies", "mark", "noise")
    torch.set_num_threads(1)
    start, found = time.perf_counter(), {}
    border = SolidMark(thickness=2 if scale.max_side <= 16 else 4)
    middle = scale.sizes[1]

    def run(count: int, copies: Tensor, mark: SolidMark) -> tuple[DiffusionModel, Records, Records]:
        records, others, classes = records_of(scale, count)
        return trained(scale, records, copies, mark, classes), records, others

    if "size" in wanted:
        for count in scale.sizes:
            model, records, others = run(count, torch.ones(count, dtype=torch.long), border)
            told(found, "size", str(count), measured(scale, model, (records.first(scale.asked), others), border), start)
    if "copies" in wanted or "noise" in wanted:
        copies = torch.tensor(COPIES).repeat(-(-middle // len(COPIES)))[:middle]
        model, records, others = run(middle, copies, border)
        if "copies" in wanted:
            for number in COPIES:
                rows = (copies == number).nonzero()[:, 0].to(scale.device)
                group = Records(records.images[rows], records.labels[rows], records.keys[rows])
                told(found, "copies", str(number), measured(scale, model, (group, others), border), start)
        if "noise" in wanted:
            most = (copies == COPIES[-1]).nonzero()[:, 0].to(scale.device)
            group = Records(records.images[most], records.labels[most], records.keys[most])
            for noise in NOISE:
                rows = {name: key_row(scale, Noisy(model, noise), (group, others), border, name) for name in READOUTS}
                told(found, "noise", str(noise), rows, start)
    if "mark" in wanted:
        marks: list[tuple[Literal["border", "centre"], int]] = [("border", t) for t in scale.thicknesses]
        marks += [("centre", t) for t in scale.thicknesses if t > 1]
        for pattern, thickness in marks:
            mark = SolidMark(thickness=thickness, pattern=pattern)
            model, records, others = run(middle, torch.ones(middle, dtype=torch.long), mark)
            pair = (records.first(scale.asked), others)
            told(found, "mark", f"{pattern} {thickness}", measured(scale, model, pair, mark), start)
    if given.json is not None:
        given.json.write_text(json.dumps({"budget": given.budget, "steps": scale.steps, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
