# pyright: reportUnknownMemberType=false
"""What the machine says: versions and hardware, and the memory that this process takes."""

import contextlib
import ctypes
import gc
import os
import platform
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

import paperweight

__all__ = ["environment", "peak_memory", "reset_memory"]

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "pillow", "pyarrow")


def environment(device: str) -> dict[str, str]:
    """Return versions, hardware and threads: what a number depends on beside the code."""
    found = _fixed() | {"threads": str(torch.get_num_threads())}
    if torch.device(device).type == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(device), "cuda": str(torch.version.cuda)}
    return found


@cache
def _fixed() -> dict[str, str]:
    """Return what stays while this process lives."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
                break
    return {
        "paperweight": paperweight.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu,
        "cores": str(os.cpu_count()),
    }


def _memory(field: str) -> int | None:
    """Return ``VmRSS`` (now) or ``VmHWM`` (at its highest) of this process in bytes, where the system tells."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def reset_memory(device: torch.device) -> int | None:
    """Free what can be freed, forget the peak, and return the memory in use, ``None`` where it cannot be read."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _memory("VmRSS")


def peak_memory(device: torch.device, start: int | None) -> int | None:
    """Return the memory at its highest since `reset_memory`, above what that returned."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = _memory("VmHWM")
    return None if peak is None or start is None else max(0, peak - start)
