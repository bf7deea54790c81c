# pyright: reportUnknownMemberType=false
"""The worker: a process that runs trials one after another, a line of JSON in, a line of JSON out.

Each trial has one intra-op thread and global random streams that depend on its study, seed and nothing else.
What a study prints goes to the error stream.
"""

import base64
import contextlib
import ctypes
import gc
import io
import json
import math
import os
import platform
import random
import re
import time
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import paperweight
from paperweight.bench.loading import LoadedStudy, load_study
from paperweight.bench.trial import Status, TrialRecord, TrialSpec, pack_bits
from paperweight.errors import InputError
from paperweight.studies import Outcome, Setting

__all__ = ["environment", "run_trial"]

_OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|cannot allocate memory", re.I)
_IMAGES = 64


def environment(device: str) -> dict[str, str]:
    """Return versions, hardware and threads: what a number depends on beside the code."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    found = {
        "paperweight": paperweight.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if torch.device(device).type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return found


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _memory(field: str) -> int | None:
    """Return ``VmRSS`` (now) or ``VmHWM`` (at its highest) of this process in bytes, where the system tells."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _reset_memory(device: torch.device) -> int | None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _memory("VmRSS")


def _peak_memory(device: torch.device, start: int | None) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = _memory("VmHWM")
    return None if peak is None or start is None else max(0, peak - start)


def _png(images: Tensor) -> list[str]:
    """Return images (N, C, H, W) in [0, 1] as PNG files in base64."""
    files: list[str] = []
    for image in images[:_IMAGES].detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8):
        pixels = image.movedim(0, -1).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
        files.append(base64.b64encode(buffer.getvalue()).decode())
    return files


def _plain(arguments: Mapping[str, object]) -> dict[str, object]:
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in arguments.items()
    }


def _results(study: LoadedStudy, outcome: object) -> dict[str, Any]:
    """Return the fields of a record that an outcome fills."""
    if not isinstance(outcome, Outcome):
        raise TypeError(f"run of study {study.stem} must return an Outcome, it returned {type(outcome).__name__}")
    if set(outcome.metrics) != set(study.declaration.metrics):
        raise ValueError(
            f"run of study {study.stem} must return the metrics {sorted(study.declaration.metrics)}, "
            f"it returned {sorted(outcome.metrics)}"
        )
    metrics = {name: float(value) for name, value in outcome.metrics.items()}
    return {
        "status": "finished" if all(math.isfinite(value) for value in metrics.values()) else "diverged",
        "metrics": metrics,
        "arguments": _plain(outcome.arguments),
        "curves": {name: [(float(x), float(y)) for x, y in points] for name, points in outcome.curves.items()},
        "images": {caption: _png(images) for caption, images in outcome.images.items()},
        "correct": "" if outcome.correct is None else pack_bits(outcome.correct.cpu().numpy().astype(bool)),
    }


def run_trial(spec: TrialSpec, report: TextIO | None = None) -> TrialRecord:
    """Run one trial in this process.

    Args:
        spec: What to run.
        report: Where lines of progress go.

    Returns:
        Its record. A crash or a lack of memory inside the study is recorded, not raised.

    Raises:
        InputError: If what the user gave cannot be used: data, network, or the study itself.
    """

    def progress(words: str, done: int, total: int) -> None:
        if report is not None:
            print(json.dumps({"progress": [words, done, total]}), file=report, flush=True)

    study = load_study(spec.study)
    device = torch.device(spec.device)
    setting = Setting(
        study=study.stem,
        seed=spec.seed,
        budget=spec.budget,
        device=spec.device,
        data=spec.data,
        network=spec.network,
        progress=progress,
    )
    stream = setting.global_stream()
    torch.manual_seed(stream)
    np.random.seed(stream % 2**32)
    random.seed(stream)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    memory = _reset_memory(device)
    results: dict[str, Any] = {}
    clocks = _clocks()
    spent: list[float] = []
    try:
        outcome = study.run(spec.arm, setting)
        if setting.unused:
            options = " and ".join(f"--{name}" for name in setting.unused)
            raise InputError(f"study {study.stem} has no use for {options}; weigh it without")
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent = [now - then for now, then in zip(_clocks(), clocks, strict=True)]
        results = _results(study, outcome) | {"message": "\n".join(dict.fromkeys(setting.notes))}
    except InputError:
        raise
    except Exception as error:
        spent = spent or [now - then for now, then in zip(_clocks(), clocks, strict=True)]
        trace = "".join(traceback.format_exception(error, limit=-8))
        results = {"status": _failure(error), "message": trace[-4000:]}
    return TrialRecord(
        spec=spec,
        wall_seconds=max(0.0, spent[0] - setting.unbilled_wall),
        cpu_seconds=max(0.0, spent[1] - setting.unbilled_cpu),
        peak_bytes=_peak_memory(device, memory),
        environment=environment(spec.device),
        started_at=started_at,
        **results,
    )


def _failure(error: Exception) -> Status:
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )
    return "out-of-memory" if memory else "crashed"


def _warm_up() -> None:
    """Take one training step, so that what torch loads at its first one is in no trial's cost."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    torch.nn.functional.mse_loss(weight, torch.zeros(1)).backward()
    optimizer.step()


def main() -> None:
    """Answer requests from standard input until it closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    _warm_up()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in requests:
        try:
            answer = run_trial(TrialSpec.model_validate_json(line), report=answers).model_dump_json()
        except InputError as error:
            answer = json.dumps({"refused": str(error)})
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
