# pyright: basic, reportAttributeAccessIssue=false
"""What of a process a trial may leave changed, so that the next one would compute something else.

Looked at is what torch, numpy, Python and the system hold for the whole process, what the user's own modules hold, and
whether what well-known modules name is still the same. It is not seen if something deeper inside a library, or inside
an object that an own module holds, was changed.
"""

import decimal
import gc
import locale
import logging
import math
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers

from paperweight.bench.loading import STUDY_MODULE
from paperweight.processes import belongs_to_the_user
from paperweight.processes.guard import descendants

__all__ = ["State"]

_MODULES: dict[str, Any] = {
    "builtins": sys.modules["builtins"],
    "math": math,
    "numpy": np,
    "os": os,
    "random": random,
    "time": time,
    "torch": torch,
    "torch.nn": torch.nn,
    "torch.nn.functional": torch.nn.functional,
    "torch.optim": torch.optim,
}
_CLASSES: dict[str, Any] = {
    "torch.Tensor": torch.Tensor,
    "torch.nn.Module": torch.nn.Module,
    "torch.optim.Optimizer": torch.optim.Optimizer,
}

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_SMALL = 1_000_000
_MODULE_OF_STUDY = f"sys.modules.{STUDY_MODULE}"
_OF_COPIES = "__slotnames__"  # Python notes it when an object of the class is copied for the first time


def _of_torch() -> dict[str, object]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": [(torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda")],
        "anomaly mode": (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        "deterministic mode": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.utils.deterministic.fill_uninitialized_memory,
        ),
        "threads of torch": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "precision of torch": (
            torch.get_float32_matmul_precision(),
            torch.backends.cuda.matmul.allow_tf32,
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        ),
        "flags of cudnn and mkldnn": (
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.benchmark,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.allow_tf32,
            torch.backends.mkldnn.enabled,
        ),
        "subnormal numbers": bool((torch.tensor([2e-323], dtype=torch.float64, device="cpu") / 2 == 0).item()),
        "modes of torch functions": len(torch.overrides._get_current_function_mode_stack()),
        "modes of torch dispatch": len(torch.utils._python_dispatch._get_current_dispatch_mode_stack()),
        "print options": (repr(vars(torch._tensor_str.PRINT_OPTS)), repr(np.get_printoptions())),
        "global hooks": [
            sorted(map(repr, getattr(of, name)))
            for of in (modules, optimizers)
            for name in sorted(vars(of))
            if name.startswith("_global_") and hasattr(getattr(of, name), "__len__")
        ],
        "sharing strategy": torch.multiprocessing.get_sharing_strategy(),
        "collation of batches": dict(torch.utils.data._utils.collate.default_collate_fn_map),
    }


def _of_python(streams: Sequence[int]) -> dict[str, object]:
    root = logging.getLogger()
    return {
        "errors of numpy": (np.geterr(), np.geterrcall()),
        "decimal context": repr(decimal.getcontext()),
        **{f"environment variable {name}": value for name, value in os.environ.items()},
        "search path": (list(dict.fromkeys(sys.path)), len(sys.meta_path), len(sys.path_hooks)),
        "recursion limit": sys.getrecursionlimit(),
        "warnings": (list(dict.fromkeys(map(repr, warnings.filters))), warnings.showwarning),
        "root logger": (root.level, len(root.handlers), root.manager.disable),
        "standard streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks of the interpreter": (sys.excepthook, sys.displayhook, sys.gettrace(), sys.getprofile()),
        "garbage collection": (gc.isenabled(), gc.get_threshold(), len(gc.callbacks)),
        "switch interval": sys.getswitchinterval(),
        "file descriptors": list(map(_identity, streams)),
    }


def _of_system() -> dict[str, object]:
    mask = os.umask(0)
    os.umask(mask)
    limits = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]
    try:
        folder = Path.cwd(), Path.cwd().stat().st_ino
    except OSError:
        folder = None
    return {
        "current folder": folder,
        "umask": mask,
        "locale": locale.setlocale(locale.LC_ALL),
        "signal handlers": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "blocked signals": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "timers": [signal.getitimer(which)[1] or signal.getitimer(which)[0] > 0 for which in (0, 1, 2)],
        "limits": [resource.getrlimit(limit) for limit in limits],
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
    }


def _of_own_modules() -> dict[str, object]:
    """Return what the user's own modules hold, but for the study, which is executed anew for each trial."""
    found: dict[str, object] = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(file, str) and belongs_to_the_user(file) and not name.startswith(STUDY_MODULE):
            found[f"module {name}"] = True
            for attribute, value in list(vars(module).items()):
                if not attribute.startswith("__"):
                    found[f"{name}.{attribute}"] = _Held(value)
    return found


@final
class _Held:
    """An object that a name stands for: the same as another if it is the same object, as long and as often changed."""

    def __init__(self, value: object) -> None:
        self._value = value
        tensors = list(value.state_dict().values()) if isinstance(value, torch.nn.Module) else [value]
        self._size = len(value) if isinstance(value, list | dict | set | bytearray) else 0
        self._version = sum(tensor._version for tensor in tensors if isinstance(tensor, torch.Tensor))
        self._bytes = value.tobytes() if isinstance(value, np.ndarray) and value.size < _SMALL else b""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Held):
            return False
        one, another = self._value, other._value
        same = one is another or (isinstance(one, _PLAIN) and type(one) is type(another) and one == another)
        return same and (self._size, self._version, self._bytes) == (other._size, other._version, other._bytes)

    __hash__ = None  # type: ignore[assignment]


def _identity(descriptor: int) -> object:
    with suppress(OSError):
        found = os.fstat(descriptor)
        return found.st_dev, found.st_ino
    return None


@final
class State:
    """The state of this process at one time.

    Args:
        streams: File descriptors that must stay what they are.
        above: The process below which others must not be left.

    Example:
        >>> before = State((), os.getpid())
        >>> limit = sys.getrecursionlimit()
        >>> sys.setrecursionlimit(limit + 1)
        >>> before.changes(State((), os.getpid()))
        ['recursion limit']
        >>> sys.setrecursionlimit(limit)
    """

    def __init__(self, streams: Sequence[int], above: int) -> None:
        self._values = _of_torch() | _of_python(streams) | _of_system() | _of_own_modules()
        self._running = {
            "threads": {thread.ident for thread in threading.enumerate()},
            "processes": set(descendants(above)) - {os.getpid()},
        }
        self._names = {of: dict(vars(space)) for of, space in (_MODULES | _CLASSES).items()}
        self._names["sys.modules"] = dict(sys.modules)

    def changes(self, later: "State") -> list[str]:
        """Return what is otherwise in a later state, in words."""
        known = dict.fromkeys([*self._values, *later._values])
        changed = [name for name in known if self._values.get(name) != later._values.get(name)]
        changed += [name for name, before in self._running.items() if later._running[name] - before]
        for of, names in self._names.items():
            now = later._names[of]
            new = now.keys() - names.keys() - {_OF_COPIES} if of in _CLASSES else ()
            changed += [f"{of}.{name}" for name in (*names, *new) if now.get(name) is not names.get(name)]
        return [each for each in changed if not each.startswith(_MODULE_OF_STUDY)]
