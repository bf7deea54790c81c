"""A Ray cluster of two nodes on this machine, the second of which can be killed and started anew. For Linux."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

__all__ = ["TwoNodes", "marked", "two_nodes"]

_MARK = "PAPERWEIGHT_NODE"


def marked(name: str, value: str) -> dict[int, str]:
    """Return the living processes that were started with a variable in their environment, and what they are called."""
    mark = f"{name}={value}\0".encode()
    found: dict[int, str] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (place / "environ").read_bytes() + b"\0":
                found[int(place.name)] = (place / "comm").read_text().strip()
    return found


@final
class TwoNodes:
    """A cluster of a head and a second node, of one core each; they and those who connect share a token."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        self._folder = folder
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        port = self.address.rpartition(":")[2]
        self._start("head", "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")

    def start_second(self) -> None:
        """Start the second node."""
        self._start("second", f"--address={self.address}")

    def kill_second(self) -> None:
        """Kill the second node's raylet; what it started ends by itself."""
        self._kill("second", "raylet")

    def stop(self) -> None:
        """Kill all that is left of both."""
        for name in ("second", "head"):
            self._kill(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, name: str, *words: str) -> None:
        program = str(Path(sys.executable).with_name("ray"))
        sizes = ("--num-cpus=1", "--object-store-memory=100000000")
        subprocess.run(
            [program, "start", *words, *sizes, "--node-ip-address=127.0.0.1", "--disable-usage-stats"],
            check=True,
            capture_output=True,
            env=os.environ | {_MARK: f"{self._folder} {name}"},
        )

    def _kill(self, name: str, comm: str | None = None) -> None:
        end = time.monotonic() + 10.0
        while time.monotonic() < end:
            found = [
                process for process, called in marked(_MARK, f"{self._folder} {name}").items() if comm in (None, called)
            ]
            for process in found:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            if not found:
                return
            time.sleep(0.05)


@contextmanager
def two_nodes() -> Generator[TwoNodes]:
    """Give a cluster, which ends with the block."""
    cluster = TwoNodes(Path(tempfile.mkdtemp(prefix="nodes-")))
    try:
        cluster.start_second()
        yield cluster
    finally:
        cluster.stop()
