"""The start of a worker: it loads what trials need while the collector of garbage is off, and then answers requests."""

import gc
import importlib

import torch

from paperweight.bench.worker import main as answer

__all__ = ["main"]


def main(folders: list[str]) -> None:
    """Load libraries, and answer requests from standard input until it closes.

    What is loaded stays, so that the collector need not look through it: not while it is loaded, which takes a second
    longer, nor before each trial, which takes a fifth of one.

    Args:
        folders: The user's folders, in which modules that the user named are found.
    """
    importlib.import_module("sklearn.datasets")
    torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])  # the first one loads torch's compiler
    gc.freeze()
    gc.enable()
    answer(folders)
