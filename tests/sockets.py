"""No test reaches another machine: whatever asks for a name or connects to an address that is not local fails the test.

It holds in the processes of pytest. What a test starts is not guarded, and neither is what connects from C++.
"""

import ipaddress
import socket
from typing import Any

import pytest

__all__ = ["forbid"]


def forbid() -> None:
    """Guard the sockets of this process, at no cost to a test that opens none."""
    lookup, plain = socket.getaddrinfo, socket.socket

    def looked_up(host: Any, *arguments: Any, **named: Any) -> Any:
        _check(host)
        return lookup(host, *arguments, **named)

    def guarded(name: str) -> Any:
        method = getattr(plain, name)

        def call(self: socket.socket, *arguments: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6):
                _check(arguments[-1][0])
            return method(self, *arguments)

        return call

    socket.getaddrinfo = looked_up
    for name in ("connect", "connect_ex", "sendto"):
        setattr(plain, name, guarded(name))


def _check(host: str | bytes | None) -> None:
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return
    try:
        local = ipaddress.ip_address(str(name)).is_loopback or ipaddress.ip_address(str(name)).is_unspecified
    except ValueError:
        local = False
    if not local:
        pytest.fail(f"a test reached for {name}, which is another machine; give it data of its own", pytrace=True)
