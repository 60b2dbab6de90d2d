"""What every test may ask for: the async backend, a store on either database, and no network but loopback."""

from __future__ import annotations

import gc
import ipaddress
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from hypothesis import HealthCheck, settings

from tests.postgres import Cluster, PostgresUnavailableError, cluster
from tests.stores import migrated_file

# `dev` looks at new examples each time, `ci` at the same ones on every machine, `long` at many new ones.
_SLOW_IS_FINE = [HealthCheck.too_slow]
settings.register_profile(
    "dev", max_examples=50, deadline=None, suppress_health_check=_SLOW_IS_FINE, print_blob=True
)
settings.register_profile(
    "ci", max_examples=25, deadline=None, suppress_health_check=_SLOW_IS_FINE, derandomize=True
)
settings.register_profile(
    "long", max_examples=500, deadline=None, suppress_health_check=_SLOW_IS_FINE, print_blob=True
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

_NO_POSTGRES = pytest.StashKey[str]()
_LONGEST = (
    "test_demo.py",
    "test_simulation.py",
    "test_kills.py",
    "test_cli_processes.py",
    "test_elicitation_processes.py",
    "test_store_processes.py",
)
"""Files that take a worker longest: started last, one of them would leave the other workers idle."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the suite in the background has it ignore interrupts, and a child inherits that: the
    # programs that tests interrupt would not hear of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: at for at, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_collection_finish() -> None:
    """What is loaded by now stays until the end: the collector need not walk it again with every test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The product runs on asyncio only, and so do its tests."""
    return "asyncio"


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Every command sets up logging for its process; here the process is pytest's, and the next test's."""
    root, kept = logging.getLogger(), structlog.get_config()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**kept)


@pytest.fixture(scope="module", autouse=True)
def leaks_are_found_where_they_were_made() -> Iterator[None]:
    """Collect after each module: a connection or a process left open fails here, not in a stranger's test."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def postgres_cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A PostgreSQL cluster for the whole run; skips when none can be had, fails if CI promised one."""
    try:
        with cluster() as running:
            yield running
    except PostgresUnavailableError as error:
        if os.environ.get("COMPTROLLER_REQUIRE_POSTGRES"):
            raise
        pytestconfig.stash[_NO_POSTGRES] = str(error)
        pytest.skip(str(error))


@pytest.fixture
def postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """The SQLAlchemy URL of a migrated database without a row that only this test has."""
    name = postgres_cluster.migrated_database()
    yield postgres_cluster.url(name)
    postgres_cluster.drop_database(name)


@pytest.fixture
def empty_postgres_url(postgres_cluster: Cluster) -> Iterator[str]:
    """The SQLAlchemy URL of a database without a table that only this test has."""
    name = postgres_cluster.fresh_database()
    yield postgres_cluster.url(name)
    postgres_cluster.drop_database(name)


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The SQLAlchemy URL of a migrated store without a row: the test runs once on SQLite and once on Postgres."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    file = tmp_path / "store.db"
    file.write_bytes(migrated_file())
    file.chmod(0o600)
    return f"sqlite:///{file}"


@pytest.fixture(params=["sqlite", "postgres"])
def empty_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """As `store_url`, where nothing is yet: whoever opens it first makes the tables."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("empty_postgres_url")
        return url
    return f"sqlite:///{tmp_path / 'store.db'}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """One line at the end when the Postgres tests did not run, so that nobody believes they did."""
    del exitstatus
    if reason := config.stash.get(_NO_POSTGRES, None):
        terminalreporter.write_line(f"SKIPPED every test on PostgreSQL: {reason}", yellow=True)


def _is_loopback(host: object) -> bool:
    if host in ("localhost", "", None):
        return True
    text = host.decode() if isinstance(host, bytes) else str(host)
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return text == "localhost" or text.endswith(".localhost")


def _refuse_the_network(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: sockets reach loopback and Unix sockets, and no name is looked up outside."""
    if event == "socket.getaddrinfo":
        host: object = arguments[0]
    elif event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        address: object = arguments[1]
        if not isinstance(address, tuple):  # a Unix socket's path
            return
        host = cast("tuple[object, ...]", address)[0]
        if event == "socket.bind" and host in ("", "0.0.0.0", "::"):  # noqa: S104 - the very thing refused
            raise PermissionError(f"a test bound {host!r}: bind to 127.0.0.1 only")
    else:
        return
    if not _is_loopback(host):
        raise PermissionError(f"a test reached for the network: {event} {host!r}; use loopback or a fake")


sys.addaudithook(_refuse_the_network)
