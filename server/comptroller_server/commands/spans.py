"""Commands over a span of time: `--since`, and how far the reading is."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Generator
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from comptroller_audit.verify import Progress as Checked
from comptroller_server.errors import CommandError
from comptroller_server.reporting.span import Progress

__all__ = ["checked", "progress_shown", "since_from", "since_option"]

F = TypeVar("F", bound=Callable[..., Any])
QUIET_S = 1.0
"""What is read sooner shows no progress."""
_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_AGO = re.compile(r"([1-9][0-9]{0,5})([mhdw])")
ALL = "all"


def since_option(default: str) -> Callable[[F], F]:
    """Gives a command `since`, for `since_from`."""
    return click.option(
        "--since",
        default=default,
        show_default=True,
        metavar=default,
        help="How far back: 30m, 12h, 7d, 4w, a date like 2026-11-01 (UTC), or `all`.",
    )


def since_from(text: str, now_ms: int) -> int | None:
    """Milliseconds since the epoch, or None for `all`. Raises `CommandError`."""
    if text == ALL:
        return None
    if (ago := _AGO.fullmatch(text)) is not None:
        return max(0, now_ms - int(ago[1]) * _UNITS_MS[ago[2]])
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return max(0, int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000))
    raise CommandError(
        f"--since {text!r} is no span of time; write one like 30m, 12h, 7d or 4w, a date like 2026-11-01, or `all`"
    )


@contextlib.contextmanager
def progress_shown(*, quiet: bool, of_what: str = "records") -> Generator[Progress | None]:
    """A line on standard error once it takes long; nothing where nobody watches. It ends where all is done."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    began, shown, ended = time.monotonic(), -1, True

    def tell(read: int, of: int) -> None:
        nonlocal shown, ended
        percent = 100 * read // max(1, of)
        if percent != shown and time.monotonic() - began > QUIET_S:
            shown, ended = percent, read >= of
            click.echo(f"\r{read} of {of} {of_what} ({percent} %) ", nl=ended, err=True)

    try:
        yield tell
    finally:
        if not ended:
            click.echo("", err=True)


def checked(progress: Progress | None) -> Checked | None:
    """The same for `audit.verify`, which names the tenant as well; an installation has one."""
    if progress is None:
        return None
    return lambda _tenant, entries, size: progress(entries, size)
