"""What all tests share: one thread a process, an own cache, no network, and `tests.paper` for the file of a paper."""

import gc
import os
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from paperweight.catalogue import Entry

pytest.register_assert_rewrite("tests.paper")
torch.set_num_threads(1)  # as every trial has: processes on shared cores would wait otherwise
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # a run in the background inherits this; tests send these signals
        signal.signal(number, usual)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--reach``: see `tests.reach`."""
    parser.addoption("--reach", choices=("record", "only"), help="record what tests execute, or run what is reached")


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of a run share a cache, and leave the user's alone; keep them from other machines."""
    from tests import sockets

    sockets.forbid()
    if config.getoption("--reach") == "record":
        from tests import reach

        config.stash[reach.REACH] = reach.Reach(getattr(config, "workerinput", {}).get("workerid", "main"))
        config.pluginmanager.register(reach)
    if not hasattr(config, "workerinput"):
        cache = tempfile.TemporaryDirectory(prefix="paperweight-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(cache.cleanup)
        os.environ["PAPERWEIGHT_CACHE"] = cache.name


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files that no change reaches, where that is asked for."""
    if config.getoption("--reach") != "only" or collection_path.suffix != ".py":
        return None
    from tests.reach import is_reached

    return None if is_reached(collection_path) else True


def pytest_collection_finish() -> None:
    """Spare the collector of garbage what stays to the end: each trial has it look at all else."""
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what tests executed."""
    if session.config.getoption("--reach") == "record":
        from tests.reach import REACH

        session.config.stash[REACH].write()


def pytest_unconfigure() -> None:
    """Let the collector see everything again: extension modules complain at the end of what it has not freed."""
    gc.unfreeze()


class PaperFile(pytest.Module):
    """The test file of a paper: its own tests, and those that every paper has."""

    def collect(self) -> Iterable[pytest.Item | pytest.Collector]:
        """Add the tests of `tests.paper` to those of the file."""
        from tests import paper

        for name, test in vars(paper).items():
            if name.startswith("test_"):
                setattr(self.obj, name, test)
        return super().collect()


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect the test file of a paper as one."""
    from tests.paper import PAPERS

    return PaperFile.from_parent(parent, path=module_path) if module_path in PAPERS else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test of `tests.paper` the laws, arms or faults of its paper."""
    from tests.paper import PAPERS, cases

    if "paper" in metafunc.fixturenames:
        for argument in {"law", "arm", "fault"} & {*metafunc.fixturenames}:
            found = cases(PAPERS[metafunc.definition.path], argument)
            none = pytest.param(None, id="none", marks=pytest.mark.skip(f"there is no {argument} of this paper yet"))
            metafunc.parametrize(argument, found.values() or [none], ids=found or None)


@pytest.fixture
def paper(request: pytest.FixtureRequest) -> Entry:
    """The paper of a test file."""
    from tests.paper import PAPERS

    return PAPERS[request.path]
