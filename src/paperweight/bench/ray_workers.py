# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingImports=false
"""Workers on a Ray cluster: each actor has a worker process of its node run trials, as the local engine does.

Rule: code, own studies and data lie at the same path on every node, with the same contents. A node where package,
study file or data are others is told by its address, and nothing is run there. Environment and current folder are
those that the node was started with. What a trial computes does not depend on who started its process, so
that results are those of the local engine on the same model of processor, bit for bit.
"""

import atexit
import contextlib
import hashlib
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, final

from paperweight.bench.engine import Engine, check_jobs
from paperweight.bench.process import Answer, LocalWorkers, WorkerProcess
from paperweight.bench.trial import TrialRecord, TrialSpec
from paperweight.data import source_hash
from paperweight.errors import InputError
from paperweight.processes import GuardedProcess, StoppedError, allow_folder, handed_over
from paperweight.provenance import here

__all__ = ["RayWorkers", "ray_engine"]

_POLL = 1.0
_PATIENCE = 5.0
_LOOK = 0.25
_connected: list[str | None] = []
_CLUSTER = """
import sys
import ray

options = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False, "logging_level": "error"}
print("cluster", ray.init(address="local", num_cpus=%r, **options).address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


def ray_engine(
    address: str | None,
    *,
    jobs: int | None,
    time_limit: float,
    progress: Callable[[str, int, int], None] | None = None,
) -> Engine:
    """Return an engine of workers on a Ray cluster.

    Args:
        address: ``HOST:PORT`` of a running cluster, or ``auto`` for the one that this machine belongs to; ``None`` for
            one that is started on this machine, listens on the loopback alone, and ends with this process.
        jobs: Number of workers, each of one core; as many as the cluster has cores where left out.
        time_limit: As of `Engine`.
        progress: As of `Engine`; what a trial says while it prepares data is not heard from a cluster.

    Raises:
        InputError: If Ray is not installed, the cluster cannot be reached, or a number is outside its range.
    """
    if jobs is not None:
        check_jobs(jobs)
    cores = _connect(address, jobs)
    if jobs is not None and jobs > cores:
        raise InputError(f"jobs must be at most {cores}, the cores of the cluster, got {jobs}")
    return Engine(
        lambda: RayWorkers(_ray()), jobs=cores if jobs is None else jobs, time_limit=time_limit, progress=progress
    )


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise InputError("engine ray needs Ray; install it with: pip install 'paperweight-ml[ray]'") from None


def _connect(address: str | None, jobs: int | None) -> int:
    """Connect with a cluster, and return the number of its cores."""
    if address is None:  # read when Ray is imported first: its processes then listen on the loopback alone
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = _ray()
    if ray.is_initialized() and _connected not in ([], [address]):
        raise InputError(f"engine ray:{address or ''} needs a process of its own, this one is connected with another")
    if not ray.is_initialized():
        try:
            place = _own_cluster(jobs) if address is None else address
            if address not in (None, "auto"):
                _knock(address)
            with _signals_kept():
                ray.init(address=place, log_to_driver=False, configure_logging=False, logging_level="error")
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"engine ray:{address or ''} cannot be reached: {error}; name the HOST:PORT of a running cluster, and "
                "where it asks for a token, set RAY_AUTH_MODE=token here"
            ) from None
        _connected[:] = [address]
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _own_cluster(jobs: int | None) -> str:
    """Start a cluster on this machine, and return its address.

    A guard ends all of it with this process, however that ends: Ray's own agents outlive a killed driver by a minute.

    Raises:
        RuntimeError: If it does not start.
    """
    process = GuardedProcess(_CLUSTER % jobs)
    atexit.register(process.close)
    while line := process.readline():
        words = line.decode(errors="replace").split()
        if words[:1] == ["cluster"]:
            return words[1]
    raise RuntimeError(process.last_errors() or "it does not start")


def _knock(address: str) -> None:
    """Look whether anybody listens there, since Ray tries for minutes; raises OSError or ValueError otherwise."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"{address!r} is no HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


@contextlib.contextmanager
def _signals_kept() -> Generator[None]:
    """Put back how signals are answered, which Ray changes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, answer in before.items():
                signal.signal(number, answer)


@final
class RayWorkers:
    """Workers of a cluster that this process is connected with, which end together.

    Args:
        ray: The module.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._lock = threading.Lock()
        self._actors: list[Any] = []
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether no more can be had."""
        return self._stopped

    @property
    def scarce(self) -> bool:
        """Whether one that waits takes the place of another that is to start: each holds a core."""
        return True

    def worker(self) -> "_RayWorker":
        """Start a worker on a node with a core to spare, in any thread.

        Raises:
            StoppedError: If `stop` was called.
        """
        with self._lock:
            if self._stopped:
                raise StoppedError
            seat = self._ray.remote(num_cpus=1, max_restarts=0)(_Seat)
            actor = seat.remote(handed_over()[1], here().state())
            actor.end_with_node.remote()
            self._actors.append(actor)
            return _RayWorker(self, self._ray, actor)

    def check_nodes(self) -> None:
        """Refuse to wait for a cluster none of whose nodes lives.

        Raises:
            InputError: If that is so.
        """
        try:
            lives = any(node["Alive"] for node in self._ray.nodes())
        except Exception:
            lives = False
        if not lives:
            raise InputError("no node of the cluster lives any more; finished trials are kept, give the command again")

    def stop(self) -> None:
        """End all, and start no more."""
        with self._lock:
            self._stopped = True
            for actor in self._actors:
                self.end(actor)

    def end(self, actor: Any) -> None:
        """End an actor; its worker process ends with it."""
        with contextlib.suppress(Exception):
            self._ray.kill(actor)


@final
class _RayWorker:
    """A worker from the driver's side."""

    def __init__(self, workers: RayWorkers, ray: Any, actor: Any) -> None:
        self._workers, self._ray, self._actor = workers, ray, actor

    def run(
        self, spec: TrialSpec, *, recorded: bool, time_limit: float, progress: Callable[[str, int, int], None] | None
    ) -> Answer:
        """Have a trial run; where the worker, its actor or its node dies, it was killed from outside."""
        try:
            answer = self._ask(self._actor.run.remote(*_shipped(spec), recorded, time_limit))
        except self._ray.exceptions.RayActorError as error:
            if self._workers.stopped:
                raise StoppedError from None
            message = f"its worker on the cluster died: {str(error).splitlines()[0]}"
            return Answer(TrialRecord(spec=spec, status="killed", message=message), reusable=False)
        if answer["record"] is None:
            return Answer(None, reusable=False)
        record = TrialRecord.model_validate_json(answer["record"])
        return Answer(record.model_copy(update={"spec": spec}), reusable=answer["reusable"])

    def starting_weights(self, spec: TrialSpec, places: list[str], time_limit: float) -> dict[str, str]:
        """Return hashes of the weights that the user's network starts from; empty where it cannot be built."""
        try:
            return self._ask(self._actor.starting_weights.remote(*_shipped(spec), places, time_limit))["starts"]
        except self._ray.exceptions.RayActorError:
            return {}

    def close(self) -> None:
        """End the actor."""
        self._workers.end(self._actor)

    def _ask(self, reference: Any) -> dict[str, Any]:
        while True:
            try:
                answer = self._ray.get(reference, timeout=_POLL)
                break
            except self._ray.exceptions.GetTimeoutError:
                if self._workers.stopped:
                    raise StoppedError from None
                self._workers.check_nodes()
        if "refused" in answer:
            raise InputError(answer["refused"])
        return answer


def _shipped(spec: TrialSpec) -> tuple[str, str]:
    """Return a trial with paths that hold anywhere, and the hash of the file of an own study."""
    study = Path(spec.study).expanduser()
    own = study.suffix == ".py" and study.is_file()
    places = {"study": str(study.resolve())} if own else {}
    if spec.data is not None and Path(spec.data).expanduser().exists():
        places["data"] = str(Path(spec.data).expanduser().resolve())
    return spec.model_copy(update=places).model_dump_json(), _hash(study) if own else ""


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Seat:
    """What runs on a node: checks that the node has what the driver has, and asks a worker process of its own."""

    def __init__(self, folders: list[str], state: str) -> None:
        for folder in folders:
            allow_folder(folder)
        self._state = state
        self._same_code = here().state() == state
        self._workers = LocalWorkers()
        self._worker: WorkerProcess | None = None
        self._same: set[tuple[str, str]] = set()

    def end_with_node(self) -> None:
        """Have this process end soon after its node's, which Ray notices later on a busy machine."""

        def watch(parent: int) -> None:
            while os.getppid() == parent:
                time.sleep(_LOOK)
            os._exit(1)

        threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()

    def run(self, text: str, study: str, recorded: bool, time_limit: float) -> dict[str, Any]:
        """Run a trial, and give its record as text; none where the worker is no more as it was."""
        spec = TrialSpec.model_validate_json(text)
        try:
            self._check(spec, study)
            self._worker = self._worker or self._workers.worker()
            answer = self._worker.run(spec, recorded=recorded, time_limit=time_limit, progress=None)
        except InputError as error:
            return {"refused": f"{_node()}: {error}"}
        return {
            "record": None if answer.record is None else answer.record.model_dump_json(),
            "reusable": answer.reusable,
        }

    def starting_weights(self, text: str, study: str, places: list[str], time_limit: float) -> dict[str, Any]:
        """Give hashes of the weights that the user's network starts from."""
        spec = TrialSpec.model_validate_json(text)
        try:
            self._check(spec, study)
            worker = self._workers.worker()
        except InputError as error:
            return {"refused": f"{_node()}: {error}"}
        starts = worker.starting_weights(spec, places, time_limit)
        worker.close()
        return {"starts": starts}

    def _check(self, spec: TrialSpec, study: str) -> None:
        if not self._same_code:
            raise InputError("the package is another version than here; install the same one on all nodes")
        if study and ("study", study) not in self._same:
            if not Path(spec.study).is_file() or _hash(Path(spec.study)) != study:
                raise InputError(f"{spec.study} is not there, or another; studies must lie at one path on all nodes")
            self._same.add(("study", study))
        if spec.data is not None and (spec.data, spec.data_hash) not in self._same:
            if source_hash(spec.data) != spec.data_hash:
                raise InputError(f"{spec.data} holds other data; data must lie at one path on all nodes, and be alike")
            self._same.add((spec.data, spec.data_hash))


def _node() -> str:
    return f"node {importlib.import_module('ray').util.get_node_ip_address()}"
