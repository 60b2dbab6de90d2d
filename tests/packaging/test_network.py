"""No test reaches further than loopback."""

from __future__ import annotations

import socket

import pytest


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("10.0.0.1", 5432)])
def test_a_test_that_connects_outside_is_stopped(address: tuple[str, int]) -> None:
    with socket.socket() as ours, pytest.raises(PermissionError, match="reached for the network"):
        ours.connect(address)


def test_a_test_that_looks_up_a_name_outside_is_stopped() -> None:
    with pytest.raises(PermissionError, match="reached for the network"):
        socket.getaddrinfo("example.org", 443)


def test_a_test_that_listens_for_others_is_stopped() -> None:
    with socket.socket() as ours, pytest.raises(PermissionError, match=r"bind to 127\.0\.0\.1"):
        ours.bind(("0.0.0.0", 0))  # noqa: S104 - the very thing refused


def test_loopback_is_free() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        assert client.getpeername() == server.getsockname()
