# pyright: reportUnknownMemberType=false
"""The worker: a process that runs trials one after another, a line of JSON in, a line of JSON out.

Each trial has one intra-op thread and global random streams that depend on its study, seed and nothing else.
What a study prints goes to the error stream.
"""

import base64
import fcntl
import importlib
import io
import json
import math
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any, TextIO, cast, final

import torch
from PIL import Image
from torch import Tensor

from paperweight.bench.loading import LoadedStudy, load_study
from paperweight.bench.machine import environment, peak_memory, reset_memory
from paperweight.bench.starts import starting_weights
from paperweight.bench.state import State
from paperweight.bench.trial import LONGEST_RECORD, Status, TrialRecord, TrialSpec, pack_bits
from paperweight.catalogue import package_root
from paperweight.errors import InputError
from paperweight.kinds.arguments import constructor_arguments, plain
from paperweight.loops import Search
from paperweight.processes import allow_folder
from paperweight.provenance import Recording, here, note_own_files, own_files, recording
from paperweight.studies import Outcome, Setting, load_factory

__all__ = ["run_trial"]

_OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|cannot allocate memory", re.I)
_IMAGES = 64
_HIGHEST_DESCRIPTOR = 4_096
_STATE = here().state()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _png(images: Tensor) -> list[str]:
    """Return images (N, C, H, W) in [0, 1] as PNG files in base64."""
    files: list[str] = []
    for image in images[:_IMAGES].detach().cpu().clamp(0, 1).mul(255).round().to(torch.uint8):
        pixels = image.movedim(0, -1).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
        files.append(base64.b64encode(buffer.getvalue()).decode())
    return files


def _arguments(outcome: Outcome) -> dict[str, object]:
    """Return all arguments of what the arm made, each after what it was made as, and what the run says itself."""
    found: dict[str, object] = {}
    for role, made in outcome.made.items():
        found[role] = plain(made)
        found |= {f"{role}.{name}": value for name, value in constructor_arguments(made).items()}
    for name, tuned in outcome.tuned.items():
        found[name] = tuned.value
    found |= outcome.arguments
    return {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in found.items()}


def _curves(outcome: Outcome) -> dict[str, Sequence[tuple[float, float]]]:
    """Return the curves, and those of tuning: the score on validation data, by value."""
    tuning = {f"score on validation data, by log10 {name}": tuned.curve() for name, tuned in outcome.tuned.items()}
    return {**outcome.curves, **tuning}


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
        "arguments": _arguments(outcome),
        "grids": {name: [float(value) for value in tuned.tries] for name, tuned in outcome.tuned.items()},
        "curves": {name: [(float(x), float(y)) for x, y in points] for name, points in _curves(outcome).items()},
        "images": {caption: _png(images) for caption, images in outcome.images.items()},
        "correct": "" if outcome.correct is None else pack_bits(outcome.correct.cpu().numpy().astype(bool)),
    }


def run_trial(
    spec: TrialSpec,
    study: LoadedStudy | None = None,
    *,
    progress: Callable[[str, int, int], None] | None = None,
    recorded: bool = False,
) -> TrialRecord:
    """Run one trial in this process.

    Args:
        spec: What to run.
        study: Its study, where that was loaded already.
        progress: Called with words and (done, total) while it prepares data.
        recorded: Whether the definitions that it executes are recorded, which takes time.

    Returns:
        Its record. A crash or a lack of memory inside the study is recorded, not raised.

    Raises:
        InputError: If what the user gave cannot be used: data, network, or the study itself.
    """
    study = study or load_study(spec.study)
    own_files()
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
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    memory = reset_memory(device)
    results: dict[str, Any] = {}
    search = None if spec.tune is None else Search(spec.tune, setting.stream("method"))
    record, tree = Recording(package_root()), here()
    clocks = _clocks()
    spent: list[float] = []
    try:
        with recording(record) if recorded else nullcontext(), search or nullcontext():
            setting.seed_global_streams()
            outcome = study.run(study.declaration.arm(spec.arm), setting)
        if setting.unused:
            options = " and ".join(f"--{name}" for name in setting.unused)
            raise InputError(f"study {study.stem} has no use for {options}; weigh it without")
        if search is not None and not search.grids:
            raise InputError(
                f"arm {spec.arm!r} of study {study.stem} tunes nothing; weigh it without --tune, or other arms "
                "by --arms"
            )
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
    unchanged = tree.state() == _STATE
    return TrialRecord(
        spec=spec,
        wall_seconds=max(0.0, spent[0] - setting.unbilled_wall),
        cpu_seconds=max(0.0, spent[1] - setting.unbilled_cpu),
        peak_bytes=peak_memory(device, memory),
        environment=environment(spec.device) | ({} if search is None else {"optuna": search.optuna}),
        started_at=started_at,
        data_hashes=setting.data_hashes,
        state=_STATE if unchanged else "",
        own=own_files(),
        starts=setting.starts,
        units=tree.used(record) if recorded and unchanged else {},
        **results,
    )


def _failure(error: Exception) -> Status:
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )
    return "out-of-memory" if memory else "crashed"


def _warm_up() -> None:
    """Load what torch loads at its first training step, and libraries that set warnings and variables of the process.

    Otherwise it would be in the cost of the first trial, and be taken for something that it left changed.
    """
    importlib.import_module("sklearn.datasets")
    own_files()
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    torch.nn.functional.mse_loss(weight, torch.zeros(1)).backward()
    optimizer.step()


def main(folders: list[str]) -> None:
    """Answer requests from standard input until it closes.

    The answers go to a descriptor with a high number, which no process that a study starts inherits; what a study
    prints goes to the error stream.

    Args:
        folders: The user's folders, in which modules that the user named are found.
    """
    requests, answers = _out_of_reach(0, "r"), _out_of_reach(1, "w")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for folder in folders:
        allow_folder(folder)
    note_own_files()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    _warm_up()
    streams = (0, 1, 2, requests.fileno(), answers.fileno())
    print(json.dumps({"ready": True}), file=answers, flush=True)
    first: State | None = None
    for line in requests:
        request = json.loads(line)
        numbered = _Numbered(request["number"], answers)
        spec = TrialSpec.model_validate(request["spec"])
        reused, began = first is not None, False
        try:
            if "starts" in request:
                numbered.answer(starts=starting_weights(spec, request["starts"]))
                continue
            study = load_study(spec.study)
            if spec.network is not None:
                load_factory(spec.network)
            before = State(streams, os.getppid())
            first = first or before
            if changed := first.changes(before):
                numbered.answer(worn=changed)
                continue
            began = True
            record = run_trial(spec, study, progress=numbered.progress, recorded=request["recorded"])
            numbered.answer(**_answer(record, _left_changed(first, streams)))
        except BaseException as error:
            if reused and (isinstance(error, InputError) or not began):  # a new worker decides
                numbered.answer(worn=[str(error)])
            elif isinstance(error, InputError):
                numbered.answer(refused=str(error))
            else:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)


def _left_changed(first: State, streams: Sequence[int]) -> list[str]:
    try:
        return first.changes(State(streams, os.getppid()))
    except Exception as error:
        return [f"so much that it cannot be told ({type(error).__name__})"]


def _answer(record: TrialRecord, changed: list[str]) -> dict[str, Any]:
    """Return what is answered for a trial; a record that cannot be sent is a crash."""
    if changed:
        note = f"it left changed: {', '.join(changed)}; the worker was replaced"
        record = record.model_copy(update={"message": f"{note}\n{record.message}".strip()})
    try:
        text = record.model_dump_json()
        if len(text) > LONGEST_RECORD:
            raise ValueError(f"its record takes {len(text):,} bytes, more than {LONGEST_RECORD:,}; return less")
    except ValueError as error:
        reason = str(error).encode("ascii", "backslashreplace").decode()
        text = TrialRecord(spec=record.spec, status="crashed", message=f"what it returned: {reason}").model_dump_json()
    return {"record": json.loads(text), "changed": changed}


@final
class _Numbered:
    """Writes answers to one request, each with its number."""

    def __init__(self, number: str, stream: TextIO) -> None:
        self._number = number
        self._stream = stream
        self._process = os.getpid()

    def answer(self, **parts: object) -> None:
        if os.getpid() != self._process:  # a study forked, and this is its child
            os._exit(1)
        print(json.dumps({"number": self._number, **parts}), file=self._stream, flush=True)

    def progress(self, words: str, done: int, total: int) -> None:
        self.answer(progress=[words, done, total])


def _out_of_reach(number: int, mode: str) -> TextIO:
    """Return a stream of a descriptor moved to the highest numbers, where no loop over small ones comes by."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    limit = limit if 0 < limit < _HIGHEST_DESCRIPTOR else _HIGHEST_DESCRIPTOR
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, limit - 64 + number)
    return cast(TextIO, os.fdopen(moved, mode, encoding="utf-8"))
