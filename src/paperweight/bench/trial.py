"""One trial: what is to be run, and the record of how it went."""

import base64
import hashlib
import json
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from paperweight.studies import Budget

__all__ = ["FINISHED", "LONGEST_RECORD", "Status", "TrialRecord", "TrialSpec", "pack_bits", "unpack_bits"]

Status = Literal["finished", "diverged", "crashed", "out-of-memory", "timed-out", "killed"]

FINISHED: tuple[Status, ...] = ("finished", "diverged")

LONGEST_RECORD = 32 * 2**20
"""Bytes of a record as JSON at most."""


class TrialSpec(BaseModel):
    """What a trial is given. Two trials with the same key give the same metrics while the code stays as it is.

    Args:
        study: Stem of a study of the library, or the path of a study file.
        arm: The arm.
        seed: The seed of the pair.
        budget: How much the trial may compute.
        device: ``"cpu"`` or a CUDA device.
        data: The user's data, a path or a name; ``None`` for the study's default.
        data_hash: Hash of the user's data; empty for the default.
        network: The user's network as ``package.module:factory``; ``None`` for the study's default.
        tune: Number of tries that Optuna makes in place of those of each grid; ``None`` for the grids.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    arm: str
    seed: int
    budget: Budget
    device: str = "cpu"
    data: str | None = None
    data_hash: str = ""
    network: str | None = None
    tune: int | None = None

    def key(self) -> str:
        """Return the hash under which the record is filed; where the data lies does not count, what it holds does."""
        return self._hash({"data", "device"})

    def group(self) -> str:
        """Return the hash of all but the seed: trials of a group execute the same code."""
        return self._hash({"data", "device", "seed"})

    def _hash(self, left_out: set[str]) -> str:
        without = left_out if self.tune is not None else left_out | {"tune"}
        parts = self.model_dump(exclude=without) | {
            "data": self.data is not None,
            "device": torch.device(self.device).type,
            "torch": torch.__version__,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class TrialRecord(BaseModel):
    """How a trial went. A failure is a record like any other.

    Args:
        spec: What was run.
        status: ``finished``; ``diverged`` when a metric is not finite; otherwise why it did not finish. What was
            ``killed`` from outside, again and again, says nothing about its arm and is run again the next time.
        message: The reason of a failure, or what the run noted about the data; and what it changed in its process.
        metrics: Metric to value; empty unless the run came to its end.
        arguments: The arguments that the run resolved.
        grids: The values that were tried for each tuned argument.
        curves: Curve to points (x, y).
        images: Caption to PNG files in base64.
        correct: Per test example whether it was right, packed by ``pack_bits``; empty where the study gives none.
        wall_seconds: Time on the clock, without what all arms share.
        cpu_seconds: Computing time of the process, likewise.
        peak_bytes: Memory at its highest above the idle worker, or on the GPU; ``None`` where it cannot be read.
        environment: Versions, hardware and number of threads.
        started_at: Start in ISO 8601, UTC.
        data_hashes: The sets of images that it loaded, with their hashes.
        state: Hash of all files of the package when it ran; empty where one has changed since the process began.
        own: The user's own files that it executed, with their hashes.
        starts: Hashes of the weights that the user's network started from, by what it was built for.
        units: The definitions that it executed, with their hashes, where that was recorded. What a recorded trial took
            is no measure of its cost.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    spec: TrialSpec
    status: Status
    message: str = ""
    metrics: dict[str, float] = {}
    arguments: dict[str, object] = {}
    grids: dict[str, list[float]] = {}
    curves: dict[str, list[tuple[float, float]]] = {}
    images: dict[str, list[str]] = {}
    correct: str = ""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int | None = None
    environment: dict[str, str] = {}
    started_at: str = ""
    data_hashes: dict[str, str] = {}
    state: str = ""
    own: dict[str, str] = {}
    starts: dict[str, str] = {}
    units: dict[str, str] = {}


def pack_bits(bits: NDArray[np.bool_]) -> str:
    """Return a vector of truth values as text.

    Example:
        >>> pack_bits(np.array([True, False, True]))
        '3:oA=='
    """
    return f"{len(bits)}:{base64.b64encode(np.packbits(bits).tobytes()).decode()}"


def unpack_bits(text: str) -> NDArray[np.bool_]:
    """Return the vector that ``pack_bits`` packed.

    Example:
        >>> unpack_bits("3:oA==").tolist()
        [True, False, True]
    """
    count, _, packed = text.partition(":")
    return np.unpackbits(np.frombuffer(base64.b64decode(packed), dtype=np.uint8), count=int(count)).astype(np.bool_)
