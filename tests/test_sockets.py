"""The guard of `tests.sockets` does guard."""

import socket

import pytest

Failed = pytest.fail.Exception


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_another_machine_is_out_of_reach(family: socket.AddressFamily):
    address = ("192.0.2.1" if family == socket.AF_INET else "2001:db8::1", 9)
    with socket.socket(family, socket.SOCK_STREAM) as stream:
        for connect in (stream.connect, stream.connect_ex):
            with pytest.raises(Failed, match="another machine"):
                connect(address)
    with socket.socket(family, socket.SOCK_DGRAM) as datagrams, pytest.raises(Failed, match="another machine"):
        datagrams.sendto(b"words", address)
    with pytest.raises(Failed, match=r"example\.org"):
        socket.create_connection(("example.org", 80))


def test_this_machine_is_within_reach():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as stream:
        stream.sendall(b"words")
        with server.accept()[0] as other:
            assert other.recv(5) == b"words"
    first, second = socket.socketpair()
    with first, second:
        first.sendall(b"words")
        assert second.recv(5) == b"words"
