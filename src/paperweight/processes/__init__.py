"""Python processes that import nothing by accident and end with whoever started them. Standard library only."""

from paperweight.processes.guarded import End, GuardedProcess, Processes, StoppedError
from paperweight.processes.imports import (
    allow_folder,
    allow_name,
    belongs_to_the_user,
    current_folder_last,
    handed_over,
    searched_folders,
)
from paperweight.processes.worker import WORKER_CODE, WORKER_ENVIRONMENT, start_worker

__all__ = [
    "WORKER_CODE",
    "WORKER_ENVIRONMENT",
    "End",
    "GuardedProcess",
    "Processes",
    "StoppedError",
    "allow_folder",
    "allow_name",
    "belongs_to_the_user",
    "current_folder_last",
    "handed_over",
    "searched_folders",
    "start_worker",
]
