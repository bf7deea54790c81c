"""The worker of the bench as a process, started while neither the bench nor torch is imported here."""

from paperweight.processes.guarded import GuardedProcess

__all__ = ["WORKER_CODE", "WORKER_ENVIRONMENT", "start_worker"]

WORKER_CODE = "import gc\ngc.disable()\nfrom paperweight.bench.starting import main\nmain(folders)"
WORKER_ENVIRONMENT = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}


def start_worker() -> GuardedProcess:
    """Start a worker, which imports torch and waits for a request.

    A command starts its first one before it imports torch itself, since either import takes seconds.
    """
    return GuardedProcess(WORKER_CODE, environment=WORKER_ENVIRONMENT)
