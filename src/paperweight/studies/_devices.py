# pyright: reportPrivateImportUsage=false
# The stores of torch.distributed are documented, but not marked as exported.
"""One training across devices: a process for each, all of which run the same function of a study."""

import json
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from paperweight.errors import InputError
from paperweight.loops.searching import running_search
from paperweight.processes import WORKER_ENVIRONMENT, GuardedProcess, Processes
from paperweight.studies._declaration import Arm, Outcome, Study
from paperweight.studies._setting import Setting

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["across_devices", "connected", "import_fabric"]

_CODE = "from paperweight.bench.device import main\nmain(folders)"
_HOST = "127.0.0.1"
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_ENVIRONMENT = {"NODE_RANK": "0", "GLOO_SOCKET_IFNAME": _LOOPBACK, "NCCL_SOCKET_IFNAME": _LOOPBACK}
_MOMENT = 0.3


def across_devices(
    train: Callable[[Arm[Any], Setting, "Fabric"], Outcome], arm: Arm[Any], setting: Setting, *, devices: int
) -> Outcome:
    """Run a function of a study in one process a device, connected by Lightning Fabric (the extra ``fabric``).

    On CPUs a device is a process of one thread, and gloo connects them; on GPUs it is one GPU, beginning with that of
    the setting, and NCCL connects them. All are on this machine and listen on the loopback alone. With one device
    nothing is started.

    All processes call ``train`` with equal arguments, so that each makes the same data, weights and batches;
    `paperweight.loops.InShares` divides the work. Global random streams, from which only layers such as dropout draw,
    are another one in each. What the first process, this one, returns is returned. A process that fails or dies
    ends the others, and this function. All die with this process.

    Costs of the trial: starting the processes is left out; the computing time is that of all, memory that of the first.
    A trial takes as many cores as devices, of which the bench does not know: lower ``--jobs`` accordingly.

    Args:
        train: A function of the study's file, given arm, setting and the ``Fabric``. Nothing that it does may depend on
            the process, and what `Setting.cached` builds inside must not be divided.
        arm: The arm, as ``run`` is given it.
        setting: The setting, likewise.
        devices: Number of devices, at least 1.

    Returns:
        The outcome of the first process.

    Raises:
        InputError: If Lightning Fabric is not installed, there are fewer devices, or ``train`` is not found by its name
            in its file.
        RuntimeError: If another process failed or died.

    Example:
        >>> from paperweight.studies import Outcome, Setting
        >>> def train(arm, setting, fabric):
        ...     return Outcome(metrics={"processes": fabric.world_size})
        >>> setting = Setting(study="example", seed=0, budget="smoke")
        >>> across_devices(train, Arm("alone", None), setting, devices=1).metrics
        {'processes': 1}
    """
    _check_devices(devices, setting.device)
    request = _request(train, arm, setting) if devices > 1 else None
    with setting._unbilled:
        import_fabric()
    if request is None:
        with connected(setting.device, 0, 1) as fabric:
            return train(arm, setting, fabric)
    with Processes() as started:
        with setting._unbilled:
            store, others = _started(started, request, setting.device, devices)
        try:
            with connected(setting.device, 0, devices, store) as fabric:
                outcome = train(arm, setting, fabric)
            spent = [_answer(other)["seconds"] for other in others]  # one that still waits for this one fails by now
        except InputError:
            raise
        except Exception as error:
            if lost := _lost(others):
                raise RuntimeError("\n".join(lost)) from error
            raise
        with setting._unbilled:
            for other in others:
                other.end()
    setting._unbilled.cpu -= sum(spent)
    setting.notes.append(f"computed by {devices} processes")
    return outcome


def import_fabric() -> "type[Fabric]":
    """Import Lightning Fabric, and put back what that changes for the whole process.

    Raises:
        InputError: If it is not installed.
    """
    before = dict(os.environ), warnings.formatwarning, torch.compile
    try:
        with warnings.catch_warnings():
            from lightning_fabric import Fabric
    except ImportError:
        raise InputError(
            "training across devices needs Lightning Fabric; install it with: pip install 'paperweight-ml[fabric]'"
        ) from None
    finally:
        _set_environment(before[0])
        warnings.formatwarning, torch.compile = before[1:]
    return Fabric


@contextmanager
def connected(
    device: torch.device, number: int, devices: int, store: "dist.Store | None" = None
) -> Generator["Fabric", None, None]:
    """Connect this process with the others while the block runs.

    Args:
        device: The device of the first process.
        number: Number of this process, from 0.
        devices: Number of processes.
        store: Where they find each other; none where there is one process.

    Yields:
        Its Fabric, launched.
    """
    fabric_class = import_fabric()
    from lightning_fabric.plugins.environments import LightningEnvironment

    kind, first = device.type, device.index or 0
    before = dict(os.environ), sys.excepthook
    os.environ.update(_ENVIRONMENT, LOCAL_RANK=str(number))
    os.environ.setdefault("OMP_NUM_THREADS", str(torch.get_num_threads()))
    try:
        if store is not None:
            dist.init_process_group(
                "nccl" if kind == "cuda" else "gloo",
                store=store,
                rank=number,
                world_size=devices,
                device_id=torch.device(kind, first + number) if kind == "cuda" else None,
            )
        fabric = fabric_class(
            accelerator=kind,
            devices=list(range(first, first + devices)) if kind == "cuda" else devices,
            strategy="auto" if store is None else "ddp",
            plugins=[LightningEnvironment()],
        )
        fabric.launch()
        yield fabric
    finally:
        if store is not None and dist.is_initialized():
            dist.destroy_process_group()
        _set_environment(before[0])
        sys.excepthook = before[1]


def _set_environment(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _check_devices(devices: int, device: torch.device) -> None:
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise InputError(f"devices must be a whole number of at least 1, got {devices!r}; 1 starts no process")
    if device.type == "cuda" and (there := torch.cuda.device_count() - (device.index or 0)) < devices:
        raise InputError(f"devices must be at most {there}, the GPUs from {device} on, got {devices}")
    if devices > 1 and dist.is_initialized():
        raise InputError("torch.distributed must not be initialised yet; across_devices connects processes of its own")


def _request(train: Callable[..., Outcome], arm: Arm[Any], setting: Setting) -> dict[str, Any]:
    """Return what another process needs so that it can call the function alike."""
    name = getattr(train, "__name__", "")
    module = sys.modules.get(train.__module__)
    file = getattr(module, "__file__", None)
    is_study = isinstance(getattr(module, "STUDY", None), Study)
    if file is None or not is_study or getattr(module, name, None) is not train:
        found = getattr(train, "__qualname__", repr(train))
        raise InputError(f"train must be a function of the study's file under its own name, got {found}")
    search = running_search()
    return {
        "study": str(Path(file).resolve()),
        "train": name,
        "arm": arm.name,
        "tune": None if search is None else search.tries,
        "setting": {
            "study": setting.study,
            "seed": setting.seed,
            "budget": setting.budget,
            "data": setting.data,
            "network": setting.network_spec,
        },
    }


def _started(
    processes: Processes, request: dict[str, Any], device: torch.device, devices: int
) -> "tuple[dist.Store, list[GuardedProcess]]":
    """Start all processes but the first, and return them once they are about to connect, with the store."""
    with socket.socket() as listening:
        listening.bind((_HOST, 0))
        listening.listen()
        port = listening.getsockname()[1]
        store = dist.TCPStore(
            _HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=os.dup(listening.fileno())
        )
    others: list[GuardedProcess] = []
    for number in range(1, devices):
        other = processes.start(_CODE, environment=WORKER_ENVIRONMENT)
        other.send(json.dumps({**request, "device": str(device), "number": number, "devices": devices, "port": port}))
        others.append(other)
    try:
        for other in others:
            _answer(other)
    except EOFError as error:
        raise RuntimeError("\n".join(_lost(others))) from error
    return store, others


def _answer(other: GuardedProcess) -> dict[str, Any]:
    """Return the next answer of a process; raises EOFError where it ended before that."""
    line = b"\n"
    while line == b"\n":
        line = other.readline()
    if not line:
        raise EOFError("a process ended early")
    return json.loads(line)


def _lost(others: Sequence[GuardedProcess]) -> list[str]:
    """End all processes, and say of those that had ended before, and not well, how."""
    time.sleep(_MOMENT)  # in which the guard of a process notices that it ended
    found: list[str] = []
    for number, other in enumerate(others, start=2):
        other.kill()
        end = other.end()
        if end.told or end.code == 0:
            continue
        if end.memory:
            cause = "was killed by the system, out of memory"
        elif end.code is not None and end.code < 0:
            cause = f"ended by signal {-end.code} ({signal.Signals(-end.code).name})"
        else:
            cause = f"ended with exit status {end.code}"
        found.append(f"process {number} of {len(others) + 1} {cause}\n{other.last_errors()}".strip())
    return found
