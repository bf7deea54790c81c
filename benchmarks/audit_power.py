"""How often the audit of memorisation raises an alarm where there is nothing, and where there is something.

Keys are planted on digits, with 1, 4 and 16 copies and as many records held out; a denoiser is trained on the marked
images; each read-out asks it for the keys. False alarms: keys that nobody was shown are drawn anew for every record,
again and again; the read-out never sees keys, so that the same estimates serve all runs. Power: share of alarms among
random halves of the records with one number of copies, and the share of records found with q at most 0.05.

    python benchmarks/audit_power.py [--steps 8000] [--records 120] [--runs 200] [--json PATH]
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from paperweight.auditing.solidmark import recall_keys
from paperweight.audits.findings import ALARM_LEVEL, FOUND_LEVEL, Readout
from paperweight.audits.memorization import marked_by
from paperweight.audits.planting import KEY_LEVELS, plant
from paperweight.bench.statistics import benjamini_hochberg
from paperweight.data import load_images
from paperweight.generators.model import DiffusionModel, ModelSpec
from paperweight.loops.denoising import DenoiserTraining
from paperweight.marks.chance import draw_keys, record_p_values, total_p
from paperweight.marks.keybook import Keybook
from paperweight.marks.scores import auc

COPIES = (1, 4, 16)
READOUTS: tuple[Readout, ...] = ("replace", "resample", "likelihood")
PERMUTATIONS = 999
AUDITS = 40


def trained_model(folder: Path, same_key: bool, records: int, steps: int) -> tuple[DiffusionModel, Keybook]:
    """Plant keys on ``records`` digits for each number of copies, hold as many out in all, and train."""
    planted = plant(
        "digits",
        folder / f"planted-{same_key}",
        thickness=2,
        copies=COPIES,
        same_key=same_key,
        records=2 * len(COPIES) * records,
        held_out=0.5,
    )
    marked = load_images(planted.folder / "images", max_side=planted.max_side).train
    torch.manual_seed(0)
    model = ModelSpec(shape=planted.shape, classes=planted.classes).build()
    training = DenoiserTraining(model, seed=0)
    images, labels = torch.from_numpy(marked.images / 255).float(), torch.from_numpy(marked.labels.copy())
    training.run(images, labels, steps)
    return training.average, planted.keybook


def false_alarms(estimates: np.ndarray, keys: list[tuple[float, ...]], runs: int) -> int:
    """Count the alarms among audits of keys that nobody was shown, drawn anew each time."""
    generator = np.random.default_rng(1)
    found = 0
    for _ in range(runs):
        drawn = [tuple(draw_keys(generator, (len(own),), KEY_LEVELS)) for own in keys]
        p = total_p(estimates, drawn, levels=KEY_LEVELS, permutations=PERMUTATIONS, generator=generator)
        found += p <= ALARM_LEVEL
    return found


def power(estimates: np.ndarray, keys: list[tuple[float, ...]]) -> float:
    """Give the share of alarms among random halves of the records."""
    generator = np.random.default_rng(2)
    alarms = 0
    for _ in range(AUDITS):
        rows = generator.permutation(len(keys))[: len(keys) // 2]
        part = [keys[row] for row in rows]
        p = total_p(estimates[:, rows], part, levels=KEY_LEVELS, permutations=PERMUTATIONS, generator=generator)
        alarms += p <= ALARM_LEVEL
    return alarms / AUDITS


def measure(same_key: bool, records: int, steps: int, runs: int) -> list[dict[str, float | int | str | bool]]:
    """Train once and measure every read-out; a row a read-out and number of copies."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model, book = trained_model(Path(folder), same_key, records, steps)
        print(f"same_key {same_key}: trained in {time.perf_counter() - start:.0f} s", flush=True)
    data = load_images("digits").train
    chosen = [int(record) for record in (*book.trained, *book.held_out)]
    images = torch.from_numpy(data.images[chosen] / 255).float()
    labels = torch.from_numpy(data.labels[chosen])
    keys = [book.drawn(record) for record in (*book.trained, *book.held_out)]
    first_held_out = len(book.trained)
    rows: list[dict[str, float | int | str | bool]] = []
    for readout in READOUTS:
        start = time.perf_counter()
        recalled = recall_keys(
            model,
            images,
            marked_by(book),
            given=labels,
            readout=readout,
            batch_size=1024,
            generator=torch.Generator().manual_seed(0),
        )
        seconds = time.perf_counter() - start
        estimates = recalled.double().numpy()
        alarms = false_alarms(estimates, keys, runs)
        p = record_p_values(estimates, keys, levels=KEY_LEVELS, generator=np.random.default_rng(0))
        for copies in COPIES:
            own = [row for row, record in enumerate(book.trained) if book.copies(record) == copies]
            q = benjamini_hochberg(p[own].tolist())
            rows.append(
                {
                    "same_key": same_key,
                    "readout": readout,
                    "copies": copies,
                    "records": len(own),
                    "auc": auc(p[own], p[first_held_out:]),
                    "power": power(estimates[:, own], [keys[row] for row in own]),
                    "found": float(np.mean(np.array(q) <= FOUND_LEVEL)),
                    "false_alarms": alarms,
                    "runs": runs,
                    "seconds": seconds,
                }
            )
            print(
                f"{readout:10} {copies:2} copies: AUC {rows[-1]['auc']:.2f}, alarms {rows[-1]['power']:.0%}, records "
                f"found {rows[-1]['found']:.0%}; {alarms} of {runs} false alarms; read in {seconds:.0f} s",
                flush=True,
            )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--records", type=int, default=120)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for same in (True, False) for row in measure(same, given.records, given.steps, given.runs)]
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
