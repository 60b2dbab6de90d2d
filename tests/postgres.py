"""A throw-away PostgreSQL cluster for the suite, and one fresh database for each test that asks.

The cluster lives in its own temporary directory and listens on a Unix socket in there and nowhere else.
It is never one that was running before. PostgreSQL refuses to run as root, so as root it runs as the
account `postgres` or `nobody`.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from tests.stores import migrate

__all__ = ["ROLE", "Cluster", "PostgresUnavailableError", "cluster", "find_programs"]

ROLE = "comptroller"
VERSION_WANTED = 15
INITDB_S_MAX = 60.0
READY_S_MAX = 30.0
READY_POLL_S = 0.05
STOP_S_MAX = 20.0
SERVER_ACCOUNTS = ("postgres", "nobody")
_PLACES = (("/dev/shm", 2 << 30), ("/tmp", 0))
"""Where a cluster may live, with the bytes that must be free: in memory where there is room, for nothing of it stays."""
PROGRAM_PLACES = ("/usr/lib/postgresql", "/usr/local/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt")

# The shell owns the server, by its pid. It stops it as soon as its own standard input closes, which happens
# when the suite ends in any way, SIGKILL included, and then removes the directory: nothing is left behind.
# If the server ends by itself the directory stays, so that its log can be read.
SUPERVISOR = """
directory=$1; shift
exec 3<&0
"$@" 3<&- </dev/null >"$directory/server.log" 2>&1 &
server=$!
(read -r _ <&3; kill -INT "$server") 2>/dev/null &
reader=$!
wait "$server"
kill "$reader" 2>/dev/null && exit 1
cd / && rm -rf -- "$directory"
"""


class PostgresUnavailableError(Exception):
    """No cluster can be had on this machine; the message says why, in one line."""


@dataclass(slots=True)
class Cluster:
    """A running cluster. Most tests need `fresh_database` only; one that stops the server makes its own cluster."""

    directory: Path
    version: int
    _servers: ExitStack
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _migrated: str = ""

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of `database`, over the cluster's socket."""
        return f"postgresql+psycopg://{ROLE}@/{database}?host={quote(str(self.directory), safe='')}"

    def fresh_database(self, template: str = "template0") -> str:
        """Create a database like `template`, which is empty unless named, and return its name."""
        name = f"store_{os.getpid()}_{next(self._numbers)}"
        # Copied as files: half of what a copy through the write-ahead log costs the server.
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
        self.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        return name

    def migrated_database(self) -> str:
        """Create a database with the newest schema and no row, and return its name. The migration runs once."""
        if not self._migrated:
            self._migrated = self.fresh_database()
            migrate(self.url(self._migrated))
        return self.fresh_database(self._migrated)

    def drop_database(self, name: str) -> None:
        """Drop `name` and end whatever is still connected to it."""
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @contextmanager
    def stopped(self, how: signal.Signals = signal.SIGINT) -> Generator[None]:
        """The server is down inside the block, by a fast shutdown, and up again after it, on the same data.

        With SIGQUIT it ends as a power cut would have it: it flushes nothing, and recovers when it starts. With SIGKILL
        it cannot even do that: its children notice, and its pid file stays. Linux only.
        """
        pid_file = self.directory / "data" / "postmaster.pid"
        family = _family(int(pid_file.read_text().splitlines()[0])) if how == signal.SIGKILL else []
        _signal_server(self.directory, how)
        until = time.monotonic() + STOP_S_MAX
        while any(map(_lives, family)) if family else pid_file.exists():
            assert time.monotonic() < until, f"the server did not stop within {STOP_S_MAX:.0f} s"
            time.sleep(READY_POLL_S)
        try:
            yield
        finally:
            self._servers.enter_context(_running(find_programs(), self.directory, _account()))

    def execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(
            host=str(self.directory), user=ROLE, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(statement)


@functools.cache
def find_programs() -> Path:
    """The directory that holds `initdb`, `postgres` and `pg_isready`, version 15 before newer ones.

    Raises PostgresUnavailableError when there is none.
    """
    candidates = [Path(found).resolve().parent] if (found := shutil.which("initdb")) else []
    for place in PROGRAM_PLACES:
        candidates += sorted(Path(place).glob("*/bin"))
    usable = [(version, folder) for folder in candidates if (version := _version(folder)) >= VERSION_WANTED]
    if not usable:
        raise PostgresUnavailableError(
            f"no PostgreSQL {VERSION_WANTED} or newer found on PATH or in {', '.join(PROGRAM_PLACES)}; "
            f"install the package postgresql-{VERSION_WANTED}"
        )
    return min(usable, key=lambda pair: pair[0])[1]


def _version(folder: Path) -> int:
    """The major version of the programs in `folder`, 0 when they are not all there."""
    if not all((folder / program).exists() for program in ("initdb", "postgres", "pg_isready")):
        return 0
    said = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)(?:\.\d+|devel|beta|rc)", said.stdout)
    return int(found.group(1)) if found else 0


def _account() -> pwd.struct_passwd | None:
    """The account the server runs as; None is our own."""
    if os.geteuid() != 0:
        return None
    for name in SERVER_ACCOUNTS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresUnavailableError(
        "running as root, and there is no account `postgres` or `nobody` for the server"
    )


def _start(
    command: Sequence[str | Path], account: pwd.struct_passwd | None, directory: Path, **streams: int
) -> subprocess.Popen[bytes]:
    """Start `command` as the account, with a small environment, in a session of its own (Ctrl-C is ours)."""
    return subprocess.Popen(
        command,
        cwd=directory,
        env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
        start_new_session=True,
        user=account.pw_uid if account else None,
        group=account.pw_gid if account else None,
        extra_groups=[] if account else None,
        stdin=streams.get("stdin", subprocess.DEVNULL),
        stdout=streams.get("stdout", subprocess.DEVNULL),
        stderr=subprocess.STDOUT,
    )


@contextmanager
def cluster() -> Generator[Cluster]:
    """Make, start and in the end stop and remove a cluster. Durable settings are the server's own defaults.

    Raises PostgresUnavailableError when none can be had.
    """
    programs = find_programs()
    account = _account()
    # Short, because a socket's path is limited to about 100 bytes.
    directory = Path(tempfile.mkdtemp(prefix="comptroller-pg-", dir=_place()))
    try:
        if account is not None:
            os.chown(directory, account.pw_uid, account.pw_gid)
        _initialise(programs, directory, account)
        with ExitStack() as servers:
            servers.enter_context(_running(programs, directory, account))
            yield Cluster(directory, _version(programs), servers)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _place() -> str:
    """The first folder to be had. The server flushes there as it does anywhere; in memory it need not wait for a disk."""
    return next(
        folder
        for folder, bytes_min in _PLACES
        if os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free >= bytes_min
    )


def _initialise(programs: Path, directory: Path, account: pwd.struct_passwd | None) -> None:
    # Trust is enough: only the account itself and root can reach the socket, by the directory's mode.
    command: list[str | Path] = [
        programs / "initdb",
        "-D",
        directory / "data",
        "-U",
        ROLE,
        "--auth=trust",
        "--no-sync",
    ]
    # Sorted as people sort, as a real installation is: SQLite sorts bytes, and no code may rely on either.
    command += ["--encoding=UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US"]
    try:
        process = _start(command, account, directory, stdout=subprocess.PIPE)
    except PermissionError as error:
        raise PostgresUnavailableError(f"the server's account cannot be taken on: {error}") from error
    with process:
        try:
            said, _ = process.communicate(timeout=INITDB_S_MAX)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise PostgresUnavailableError(f"initdb took more than {INITDB_S_MAX:.0f} s") from error
    if process.returncode != 0:
        last = said.decode(errors="replace").strip().splitlines()[-6:] or ["it said nothing"]
        raise PostgresUnavailableError(f"initdb ended with {process.returncode}: {' / '.join(last)}")


@contextmanager
def _running(programs: Path, directory: Path, account: pwd.struct_passwd | None) -> Generator[None]:
    server: list[str | Path] = [programs / "postgres", "-D", directory / "data", "-k", directory]
    server += ["-c", "listen_addresses=", "-c", "max_connections=200"]
    server += ["-c", "max_wal_size=128MB"]
    supervised = ["/bin/sh", "-c", SUPERVISOR, "sh", directory, *server]
    process = _start(supervised, account, directory, stdin=subprocess.PIPE)
    with process:
        try:
            _wait_until_ready(programs, directory, process)
            yield
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                _signal_server(directory, signal.SIGQUIT)  # the last resort
                process.wait(STOP_S_MAX)


def _wait_until_ready(programs: Path, directory: Path, process: subprocess.Popen[bytes]) -> None:
    probe: list[str | Path] = [programs / "pg_isready", "-q", "-h", directory, "-U", ROLE, "-d", "postgres"]
    until = time.monotonic() + READY_S_MAX
    while subprocess.run(probe, check=False, env={"PATH": os.defpath}).returncode != 0:
        if process.poll() is not None:
            said = (directory / "server.log").read_text(errors="replace").strip().splitlines()
            raise PostgresUnavailableError(f"the server ended at once: {(said or ['it said nothing'])[-1]}")
        if time.monotonic() > until:
            raise PostgresUnavailableError(f"the server was not ready after {READY_S_MAX:.0f} s")
        time.sleep(READY_POLL_S)


def _family(pid: int) -> list[int]:
    """A process and its children."""
    found = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _signal_server(directory: Path, number: signal.Signals) -> None:
    """Signal the pid that the server itself wrote into its data directory; nothing if it has ended."""
    pid_file = directory / "data" / "postmaster.pid"
    if pid_file.exists():
        os.kill(int(pid_file.read_text().splitlines()[0]), number)
