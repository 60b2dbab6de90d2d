"""What a server stands on: stdin and stdout, claimed before anything is loaded that could print, or a loopback address."""

from __future__ import annotations

import fcntl
import io
import ipaddress
import os
import sys
from dataclasses import dataclass
from typing import TextIO, cast

from comptroller_server.errors import TransportError

__all__ = ["Wire", "claim_stdio", "loopback"]


@dataclass(frozen=True, slots=True)
class Wire:
    """The protocol's own descriptors: an unbuffered stdin and the number of stdout. Never closed here."""

    stdin: io.FileIO
    stdout: int


def claim_stdio() -> Wire:
    """Take stdin and stdout for the protocol, for the life of the process. Call it before any code of a user runs.

    From here on fd 0 is empty and fd 1 is stderr, also for child processes. Call it once.
    Raises `TransportError` when stdin or stdout is closed.
    """
    try:
        _flush_what_was_printed()
        stdin = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
        stdout = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 3)
    except (OSError, ValueError) as error:
        raise TransportError(
            f"stdin or stdout is closed ({error}); start `comptroller serve` from an MCP client, or use --http"
        ) from error
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # stderr is closed: what is printed goes nowhere
        os.dup2(nothing, 1)
    os.close(nothing)
    return Wire(io.FileIO(stdin, "rb", closefd=False), stdout)


def _flush_what_was_printed() -> None:
    """Python sets both to None when the descriptor was closed at the start; another file may have its number."""
    printed = cast("TextIO | None", sys.stdout)
    if printed is None or cast("TextIO | None", sys.stdin) is None:
        raise ValueError("it was closed before this process began")
    printed.flush()


def loopback(host: str) -> str:
    """The address to bind. `localhost` is 127.0.0.1: what a resolver says does not decide who can connect."""
    name = "127.0.0.1" if host == "localhost" else host.removeprefix("[").removesuffix("]")
    try:
        if ipaddress.ip_address(name).is_loopback:
            return name
    except ValueError:
        pass
    raise TransportError(
        f"--http {host}: only loopback addresses (127.0.0.1, ::1, localhost) are served until an identity "
        "provider is configured; use one of these"
    )
