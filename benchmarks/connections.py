"""Connections: what do a command and all Python processes below it ask of the network? The goal is nothing.

python benchmarks/connections.py [COMMAND ...]

Without a command the whole test suite is run. Each process notes which names it looks up and which addresses it
connects or sends to, by Python's audit events, unless they are of this machine. What connects from C is not seen.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUITE = [sys.executable, "-P", "-m", "pytest", "--numprocesses", "auto", "--dist", "worksteal", "-q"]
SITE = """
    import sys

    def _local(host):
        import ipaddress
        import socket

        name = host.decode() if isinstance(host, bytes) else host
        if name in (None, "", "localhost", socket.gethostname()):
            return True
        try:
            address = ipaddress.ip_address(str(name))
        except ValueError:
            return False
        return address.is_loopback or address.is_unspecified

    def _hear(event, arguments):
        if event == "socket.getaddrinfo":
            host = arguments[0]
        elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        else:
            return
        if not _local(host):
            with open({notes!r}, "a") as notes:
                notes.write(f"{{event}} {{host!r}} {{sys.argv[:3]}}\\n")
            raise OSError(f"no connection to {{host}} here")

    sys.addaudithook(_hear)
    with open({started!r}, "a") as started:
        started.write("x")
"""


def main() -> int:
    """Run the command and print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    command = parser.parse_args().command or SUITE
    with tempfile.TemporaryDirectory(prefix="paperweight-connections-") as folder:
        notes, started = Path(folder, "notes"), Path(folder, "started")
        text = textwrap.dedent(SITE).format(notes=str(notes), started=str(started))
        Path(folder, "sitecustomize.py").write_text(text)
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
        status = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, check=False).returncode
        asked = notes.read_text().splitlines() if notes.exists() else []
        processes = len(started.read_text()) if started.exists() else 0
    for line in asked:
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{len(asked)} attempts in {processes} Python processes; exit status {status}\n")
    return 1 if asked else status


if __name__ == "__main__":
    sys.exit(main())
