"""Keeps an upstream's process from outliving the server that started it. Run as a script, with nothing of ours imported.

    python -I -S guard.py LIFELINE_FD COMMAND [ARG …]

The command gets this process's standard streams as they are, so that no byte goes through here. The server holds the
other end of the lifeline; when it is gone, however it ended, the read end here reports it and the command's whole
process group is ended. On Linux the command also dies with this process, should someone kill just that.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

__all__ = ["main"]

END_GRACE_S = 1.0
"""Between asking the command to end and ending it."""
LOOK_S = 0.05
"""How often it is looked at in between."""
NOT_STARTED = 127
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run the command until it ends or the server does. Returns its exit code, as a shell would say it."""
    lifeline, command = int(arguments[0]), arguments[1:]
    watched = _woken_by_signals()
    watched.register(lifeline, select.POLLIN | select.POLLHUP)
    try:
        # Alone in this process, so nothing can hold a lock across the fork.
        child = subprocess.Popen(  # noqa: S603 -- the operator's own command, without a shell
            command,
            process_group=0,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509
        )
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]!r}: {error.strerror}\n")
        return NOT_STARTED
    # Else the server would not see the streams end when the command does.
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    while child.poll() is None:
        if any(fd == lifeline for fd, _ in watched.poll()) or _asked:
            break
        with contextlib.suppress(BlockingIOError):
            os.read(_woken[0], 64)
    _end(child)
    code = child.wait()
    return code if code >= 0 else 128 - code


_asked: list[int] = []
"""Signals that ask this process to end."""
_woken: list[int] = []
"""The read end of the pipe that signals write to."""


def _woken_by_signals() -> select.poll:
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    _woken.append(read)
    signal.set_wakeup_fd(write)
    signal.signal(signal.SIGCHLD, _noted)
    signal.signal(signal.SIGTERM, _noted)
    signal.signal(signal.SIGINT, _noted)  # a terminal's Ctrl-C is for the server, which ends us in order
    watched = select.poll()
    watched.register(read, select.POLLIN)
    return watched


def _noted(number: int, _: FrameType | None) -> None:
    if number == signal.SIGTERM:
        _asked.append(number)


def _end(child: subprocess.Popen[bytes]) -> None:
    """The command and everything it started in its group."""
    if child.poll() is None:
        _signal(child.pid, signal.SIGTERM)
        until = time.monotonic() + END_GRACE_S
        while child.poll() is None and time.monotonic() < until:
            time.sleep(LOOK_S)
    _signal(child.pid, signal.SIGKILL)


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _die_with_parent() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
