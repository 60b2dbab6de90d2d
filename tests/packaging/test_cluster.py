"""The suite's own Postgres: durable, alone on its socket, and gone when the suite is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.postgres import Cluster, PostgresUnavailableError, cluster, find_programs

ROOT = Path(__file__).resolve().parents[2]
GONE_S_MAX = 20.0
POLL_S = 0.02
HOLD_A_CLUSTER = """
import sys
from tests.postgres import cluster
with cluster() as running:
    sys.stdout.write(f"{running.directory}\\n")
    sys.stdout.flush()
    sys.stdin.read()
"""


def conninfo(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


def test_the_server_keeps_its_durable_settings(postgres_url: str) -> None:
    with psycopg.connect(conninfo(postgres_url)) as connection:
        rows = connection.execute(
            "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)",
            [["fsync", "full_page_writes", "synchronous_commit", "listen_addresses"]],
        ).fetchall()
    assert dict(rows) == {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "listen_addresses": "",
    }


def test_each_database_is_empty_and_its_own(postgres_cluster: Cluster) -> None:
    first, second = postgres_cluster.fresh_database(), postgres_cluster.fresh_database()
    assert first != second
    with psycopg.connect(conninfo(postgres_cluster.url(first))) as connection:
        connection.execute("CREATE TABLE seen (number int)")
    with psycopg.connect(conninfo(postgres_cluster.url(second))) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)
    for name in (first, second):
        postgres_cluster.drop_database(name)


def test_nobody_else_can_reach_the_socket(postgres_cluster: Cluster) -> None:
    assert postgres_cluster.directory.stat().st_mode & 0o077 == 0


def test_a_suite_that_is_killed_leaves_no_server_behind(postgres_cluster: Cluster) -> None:
    del postgres_cluster  # skips where there is no Postgres
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_CLUSTER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip())
        assert (directory / "data" / "postmaster.pid").exists()
        process.send_signal(signal.SIGKILL)
    until = time.monotonic() + GONE_S_MAX
    while directory.exists() and time.monotonic() < until:
        time.sleep(POLL_S)
    assert not directory.exists()


def test_a_stopped_server_comes_back_with_its_data(postgres_cluster: Cluster) -> None:
    del postgres_cluster  # skips where there is no Postgres
    with cluster() as own:
        database = conninfo(own.url(own.fresh_database()))
        with psycopg.connect(database) as connection:
            connection.execute("CREATE TABLE kept (number int)")
        with own.stopped(), pytest.raises(psycopg.OperationalError):
            psycopg.connect(database)
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    assert not own.directory.exists()


def test_a_machine_without_postgres_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("tests.postgres.PROGRAM_PLACES", ())
    with pytest.raises(PostgresUnavailableError, match="install the package postgresql-15"):
        find_programs.__wrapped__()
