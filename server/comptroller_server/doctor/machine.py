"""Versions: Python, the protocol's SDK, SQLite as it was built, and the Postgres server if there is one."""

from __future__ import annotations

import platform
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version

from comptroller_audit.addresses import shown_address
from comptroller_server import __version__
from comptroller_server.doctor.lines import Line, Patient, ok, problem, warning
from comptroller_server.doctor.session import reading_session

__all__ = ["SQLITE_SAFE", "postgres", "python", "sqlite"]

PYTHON_MIN = (3, 11)
SQLITE_MIN = (3, 37)
"""Strict tables and what our statements use; older ones are refused by nobody else in so many words."""
SQLITE_SAFE = (3, 51, 3)
"""From here on two connections cannot corrupt a WAL by writing and checkpointing together; before, our lock does it."""
POSTGRES_MIN = 130_000
"""`server_version_num`; older ones get no fixes."""


def python(_patient: Patient) -> Iterator[Line]:
    found = f"comptroller {__version__}, Python {platform.python_version()} ({sys.executable}), mcp {version('mcp')}"
    if sys.version_info < PYTHON_MIN:
        yield problem(
            "versions", found, "this Python is older than we are tested with", "install 3.11 or newer"
        )
    elif sys.platform == "win32":
        yield problem(
            "versions",
            found,
            "file locks and file modes do not hold on Windows as we need them",
            "use Linux or macOS (WSL is Linux)",
        )
    else:
        yield ok("versions", found)


def sqlite(patient: Patient) -> Iterator[Line]:
    if patient.config is not None and patient.database is None:
        return
    with closing(sqlite3.connect(":memory:")) as connection:
        built = sorted(str(row[0]) for row in connection.execute("PRAGMA compile_options"))
    found = f"SQLite {sqlite3.sqlite_version}, built with {', '.join(_telling(built))}"
    if "THREADSAFE=0" in built or any(option.startswith("OMIT_WAL") for option in built):
        yield problem(
            "sqlite",
            found,
            "this build cannot keep the store",
            "use a Python with an ordinary SQLite, or Postgres",
        )
    elif sqlite3.sqlite_version_info < SQLITE_MIN:
        yield problem("sqlite", found, "it is too old for the store", "use a newer Python, or Postgres")
    elif sqlite3.sqlite_version_info < SQLITE_SAFE:
        yield warning(
            "sqlite",
            found,
            "it can corrupt a file that another program writes to as well (fixed in 3.51.3); our own processes are "
            "safe behind a lock",
            "let nothing else open the store for writing; make copies while no server runs",
        )
    else:
        yield ok("sqlite", found)


def _telling(built: list[str]) -> list[str]:
    wanted = (
        "THREADSAFE",
        "OMIT",
        "DEFAULT_SYNCHRONOUS",
        "DEFAULT_WAL_SYNCHRONOUS",
        "SECURE_DELETE",
        "MAX_MMAP_SIZE",
    )
    return [option for option in built if option.startswith(wanted)] or ["no option that matters here"]


def postgres(patient: Patient) -> Iterator[Line]:
    """Asked in a session that cannot write."""
    if patient.config is None or patient.database is not None:
        return
    import psycopg

    shown = shown_address(patient.config.store.url.get_secret_value())
    try:
        with reading_session(patient.config) as connection:
            number = connection.info.server_version
            shown = f"{shown}, Postgres {number // 10_000}.{number % 10_000}"
    except psycopg.Error as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        yield problem(
            "postgres", f"{shown}: {said}", "the store cannot be reached, so nothing can be done", "look at `store.url`, and whether that server runs"
        )  # fmt: skip
        return
    if number < POSTGRES_MIN:
        yield warning("postgres", shown, "it is older than what is tested, and gets no fixes", "upgrade it")
    else:
        yield ok("postgres", shown)
