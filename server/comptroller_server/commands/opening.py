"""Opening what lies on disk for a command: the configuration that is meant, and the store it names.

Nothing here activates a bundle, and only commands that ask for policy load the sources, which is a user's code.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from comptroller_audit.calls import CALLS
from comptroller_audit.database import Row
from comptroller_audit.query import calls_matching
from comptroller_audit.store import Reader
from comptroller_server.commands.config_files import config_file
from comptroller_server.commands.invocation import Invocation
from comptroller_server.commands.logs import log_to_stderr, release_logs
from comptroller_server.config.loading import load_config
from comptroller_server.config.model import Config
from comptroller_server.config.telemetry import LogFormat
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.signals import interrupted_at_once
from comptroller_tools.upstream.children import HeadStarts

__all__ = [
    "ID_CHARS_MIN",
    "account",
    "call_named",
    "installation_of",
    "on_store",
    "quiet_stdout",
]

T = TypeVar("T")
ID_CHARS_MIN = 6


def installation_of(
    invocation: Invocation, config: Config | None = None, head_starts: HeadStarts | None = None
) -> Installation:
    """The installation the command works on; only its configuration is read yet, unless it is given.

    Raises `ConfigInvalid`.
    """
    if config is None:
        config = load_config(config_file(invocation.config), data_dir=invocation.data_dir)
    installation = Installation(config, head_starts=head_starts)
    if installation.config.telemetry.logs is LogFormat.JSON and not invocation.log_json:
        log_to_stderr(as_json=True)
    release_logs(installation.release)
    return installation


def on_store(
    invocation: Invocation,
    work: Callable[[Installation], Coroutine[Any, Any, T]],
    *,
    may_create: bool = False,
) -> T:
    """Run `work` with the store open, and close it. A missing store is an error unless `may_create`."""
    installation = installation_of(invocation)
    path = installation.config.store.database
    if not may_create and path is not None and not path.exists():
        raise CommandError(
            f"there is no store at {path} yet; `comptroller serve` makes it, or name another --data-dir"
        )

    async def run() -> T:
        with interrupted_at_once():
            store = installation.store
            try:
                return await work(installation)
            finally:
                await store.close()

    return asyncio.run(run())


def call_named(reader: Reader, wanted: str) -> tuple[str, Row]:
    """The call whose id is, or begins with, `wanted`. Raises `CommandError` for none and for several."""
    row = reader.row(TENANT, CALLS, wanted)
    if row is not None:
        return wanted, row
    if len(wanted) < ID_CHARS_MIN or not all(c in "0123456789abcdef-" for c in wanted):
        raise CommandError(
            f"{wanted!r} is no call id; give one of `comptroller calls list`, or its beginning"
        )
    found = calls_matching(reader, TENANT, wanted)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError(f"no call has an id that begins with {wanted!r}; see `comptroller calls list`")
    listed = ", ".join(call for call, _ in found[:5])
    raise CommandError(f"several calls begin with {wanted!r} ({listed}…); give more of the id")


def account() -> str:
    """The operating system's account behind this command: the weakest name a person can have in the record."""
    return f"uid:{os.geteuid()}"


@contextlib.contextmanager
def quiet_stdout() -> Generator[None]:
    """What a user's module prints while it is loaded goes to standard error, also from below Python."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
