"""What the benchmark's processes say to one another: JSON lines on their stdin and stdout."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Counts", "answer_counts", "bound_socket", "say"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What a server has made durable since it started."""

    commits: int


def say(line: Mapping[str, Any]) -> None:
    """One line to the process that started this one."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def answer_counts(first: Mapping[str, Any], counts: Callable[[], Counts]) -> None:
    """Say `first`, then answer every line on stdin with the counts; the end of stdin is the caller's kill."""

    def answer() -> None:
        for _ in sys.stdin:
            say(asdict(counts()))

    say(first)
    threading.Thread(target=answer, daemon=True).start()


def bound_socket() -> tuple[socket.socket, int]:
    """A socket on a free loopback port. asyncio turns Nagle's delay off only where the protocol is named."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    return bound, bound.getsockname()[1]
