"""Which engine runs trials: worker processes of this machine, or of a cluster."""

from collections.abc import Callable

from paperweight.bench.engine import Engine, default_jobs, local_engine
from paperweight.errors import InputError
from paperweight.processes import GuardedProcess

__all__ = ["chosen_engine"]


def chosen_engine(
    name: str,
    *,
    jobs: int | None,
    device: str,
    time_limit: float,
    progress: Callable[[str, int, int], None] | None = None,
    worker: GuardedProcess | None = None,
) -> Engine:
    """Return the engine of a name: ``local``, ``ray``, or ``ray:`` with the address of a cluster.

    Args:
        name: The name.
        jobs: Number of workers; as many as there are cores where left out, 1 on a GPU of this machine.
        device: Where trials compute.
        time_limit: As of `Engine`.
        progress: As of `Engine`.
        worker: A worker of this machine that was started before.

    Raises:
        InputError: If the name is none of these, or the cluster cannot be reached.
    """
    if name == "local":
        count = default_jobs(device) if jobs is None else jobs
        return local_engine(jobs=count, time_limit=time_limit, progress=progress, worker=worker)
    kind, separator, address = name.partition(":")
    if kind != "ray" or (separator and not address):
        raise InputError(f"engine must be local, ray, or ray:HOST:PORT, got {name!r}")
    if device != "cpu":
        raise InputError(f"engine ray computes on CPUs alone, got device {device!r}; leave --engine out")
    from paperweight.bench.ray_workers import ray_engine

    return ray_engine(address or None, jobs=jobs, time_limit=time_limit, progress=progress)
