"""Drills of docs/operations.md on Postgres: it is set to read only, it becomes a standby, or it ends the connection of an owner's lock."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog

from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.audit.storekit import check_log
from tests.postgres import ROLE, Cluster, cluster
from tests.scenarios.kit import Shop, code_of, opened, until
from tests.server.cli_kit import RealClock, accepting_own_files, run_in_thread

pytestmark = pytest.mark.anyio

OPEN = (CallState.PENDING, CallState.COMMITTED, CallState.IN_DOUBT)


@pytest.fixture(scope="module")
def own_cluster(postgres_cluster: Cluster) -> Generator[Cluster]:
    """A cluster whose settings may be changed; only where the shared one could be had."""
    del postgres_cluster
    with cluster() as running:
        yield running


def roomy(config: dict[str, Any]) -> None:
    accepting_own_files(config)
    config["budgets"] = {}
    config["limits"] = {"recovery_interval_s": 0.05, "attempts_per_minute_max": 1_000_000}


def administer(running: Cluster, *statements: str, **values: str) -> None:
    with psycopg.connect(
        host=str(running.directory), user=ROLE, dbname="postgres", autocommit=True
    ) as operator:
        for statement in statements:
            operator.execute(statement.encode(), values or None)


def freeze(running: Cluster) -> None:
    """Sessions that are open follow the file as well, unless they set it themselves."""
    administer(running, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")


def thaw(running: Cluster) -> None:
    administer(
        running,
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    )


async def refuses(shop: Shop, invoice: str) -> None:
    """Nothing is done, `/readyz` says 503, and whoever runs it is told what to do."""
    moved = shop.moved()
    assert code_of(await shop.refund(invoice, 5)) == "store_unavailable"
    assert shop.moved() == moved
    ready, told = await shop.service.readiness.look()
    assert not ready
    assert "cannot be written" in told


async def is_ready(shop: Shop) -> None:
    async with asyncio.timeout(30):
        while not (await shop.service.readiness.look())[0]:  # noqa: ASYNC110 -- nobody is told when it writes again
            await asyncio.sleep(0.02)


async def is_whole(shop: Shop, done: set[str], folder: Path) -> None:
    """What was done is done once and on record, nothing else was, and nothing is left open."""
    await until(lambda: not shop.calls(*OPEN))
    recorded = [packet["arguments"]["invoice_id"] for packet in shop.packets(RecordType.ACTION)]
    effects = [effect.invoice_id for effect in shop.moved()]
    assert len(effects) == len(set(effects))
    assert set(effects) == done
    assert done <= set(recorded)
    check_log(shop.store)
    verified = await run_in_thread(folder, "audit", "verify")
    assert verified.exit_code == 0, verified.stdout


async def until_refused(shop: Shop, invoice: str) -> None:
    """Sessions follow a changed setting one by one, when they are told: reads are done until ours has heard."""
    async with asyncio.timeout(30):
        while code_of(await shop.call("lookup_invoice", invoice_id=invoice)) != "store_unavailable":  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def hanging(shop: Shop, folder: Path) -> tuple[Path, Path]:
    """The next refund waits at the desk: the file that says so, and the one that lets it go on."""
    reached, go = folder / "reached", folder / "go"
    shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.HANG, until=go, reached=reached, times=1))
    return reached, go


async def test_a_server_that_is_set_to_read_only_does_nothing_more_and_goes_on_when_it_is_set_back(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    url = own_cluster.url(own_cluster.migrated_database())
    async with opened(tmp_path, roomy, url=url, clock=RealClock()) as shop:
        paid = shop.paid()
        assert code_of(await shop.refund(paid[0], 5)) is None
        reached, go = hanging(shop, tmp_path)
        caught = asyncio.create_task(shop.refund(paid[1], 5))
        await until(reached.exists)
        freeze(own_cluster)
        try:
            with structlog.testing.capture_logs() as lines:
                await until_refused(shop, paid[5])
                await refuses(shop, paid[3])
            assert any("set default_transaction_read_only off" in line.get("error", "") for line in lines)
            go.touch()
            assert code_of(await caught) == "in_doubt"  # it was done, and that cannot be written now
        finally:
            thaw(own_cluster)
        await is_ready(shop)
        assert code_of(await shop.refund(paid[4], 5)) is None
        await is_whole(shop, {paid[0], paid[1], paid[4]}, tmp_path)


async def test_a_server_that_comes_back_as_a_standby_is_not_written_until_it_is_promoted(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    url = own_cluster.url(own_cluster.migrated_database())
    async with opened(tmp_path, roomy, url=url, clock=RealClock()) as shop:
        paid = shop.paid()
        assert code_of(await shop.refund(paid[0], 5)) is None
        with own_cluster.stopped():
            signal_file = own_cluster.directory / "data" / "standby.signal"
            signal_file.touch()
            signal_file.chmod(0o666)
        try:
            await refuses(shop, paid[1])
            beside = await run_in_thread(tmp_path, "halt", "--reason", "look")
            assert beside.exit_code != 0
            assert "let store.url name the one that writes" in beside.stderr
        finally:
            administer(own_cluster, "SELECT pg_promote()")
        await is_ready(shop)
        assert code_of(await shop.refund(paid[2], 5)) is None
        await is_whole(shop, {paid[0], paid[2]}, tmp_path)


async def test_a_replica_whose_owner_lock_is_gone_sends_nothing_until_what_is_in_flight_is_over(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    database = own_cluster.migrated_database()
    async with opened(tmp_path, roomy, url=own_cluster.url(database), clock=RealClock()) as shop:
        paid, owner = shop.paid(), shop.service.owner
        reached, go = hanging(shop, tmp_path)
        caught = asyncio.create_task(shop.refund(paid[0], 5))
        await until(reached.exists)
        former = owner.id
        administer(
            own_cluster,
            "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = %(database)s",
            database=database,
        )
        await until(lambda: not owner.held())
        assert await shop.service.readiness.look() == (False, "not ready: the owner lock is lost")
        assert code_of(await shop.refund(paid[1], 5)) == "store_unavailable"
        assert shop.moved() == []
        assert owner.id == former
        go.touch()
        assert code_of(await caught) is None
        await is_ready(shop)
        assert owner.id != former
        assert code_of(await shop.refund(paid[2], 5)) is None
        await is_whole(shop, {paid[0], paid[2]}, tmp_path)
