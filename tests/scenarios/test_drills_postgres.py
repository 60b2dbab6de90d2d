"""Drills of docs/operations.md on Postgres: the server dies under calls, takes no more connections, is lost and brought back."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from comptroller_audit.errors import StoreUnavailable, StoreUnsuitable
from comptroller_audit.vocabulary import CallState, RecordType
from tests.audit.storekit import check_log
from tests.postgres import ROLE, Cluster, cluster, find_programs
from tests.scenarios.kit import Shop, code_of, opened, placed, until
from tests.scenarios.test_drills import PAGE
from tests.server.cli_kit import Desk, RealClock, accepting_own_files, run_in_thread

pytestmark = pytest.mark.anyio

OPEN = (CallState.PENDING, CallState.COMMITTED, CallState.IN_DOUBT)


@pytest.fixture(scope="module")
def own_cluster(postgres_cluster: Cluster) -> Generator[Cluster]:
    """A cluster that may be killed; only where the shared one could be had."""
    del postgres_cluster
    with cluster() as running:
        yield running


def roomy(config: dict[str, Any]) -> None:
    accepting_own_files(config)
    config["budgets"] = {}
    config["limits"] = {"recovery_interval_s": 0.05, "attempts_per_minute_max": 1_000_000}


def moved(shop: Shop) -> list[str]:
    return [effect.invoice_id for effect in shop.moved()]


@pytest.mark.parametrize("how", [signal.SIGQUIT, signal.SIGKILL], ids=["SIGQUIT", "SIGKILL"])
async def test_a_server_that_dies_under_calls_is_found_again_and_every_effect_is_on_record(
    own_cluster: Cluster, tmp_path: Path, how: signal.Signals
) -> None:
    if how == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("whether its children have ended is read from /proc")
    url = own_cluster.url(own_cluster.migrated_database())
    async with opened(tmp_path, roomy, url=url, clock=RealClock()) as shop:
        told: dict[str, str | None] = {}

        async def refund(invoice: str) -> None:
            told[invoice] = code_of(await shop.refund(invoice, 5))

        readiness = shop.service.readiness
        paid = shop.paid()
        calls = [asyncio.create_task(refund(invoice)) for invoice in paid[:8]]
        await until(lambda: len(told) >= 2)
        with own_cluster.stopped(how):
            await asyncio.gather(*calls)
            assert set(told.values()) <= {None, "in_doubt", "store_unavailable"}
            assert not (await readiness.look())[0]
            before = moved(shop)
            assert code_of(await shop.refund(paid[8], 5)) == "store_unavailable"
            assert moved(shop) == before
        async with asyncio.timeout(30):
            while not (await readiness.look())[0]:  # noqa: ASYNC110 -- nobody is told when a server is back
                await asyncio.sleep(0.02)
        assert code_of(await shop.refund(paid[9], 5)) is None
        await until(lambda: not shop.calls(*OPEN))  # what was in doubt was looked up

        recorded = [packet["arguments"]["invoice_id"] for packet in shop.packets(RecordType.ACTION)]
        effects = moved(shop)
        assert len(effects) == len(set(effects))
        assert set(effects) <= set(recorded)
        assert {invoice for invoice, code in told.items() if code is None} <= set(effects)
        assert paid[8] not in recorded
        assert len(check_log(shop.store)) >= len(recorded) + 2
    verified = await run_in_thread(tmp_path, "audit", "verify")
    assert verified.exit_code == 0, verified.stdout


async def test_a_server_that_takes_no_more_connections_keeps_those_it_has_and_a_new_process_says_why(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    database = own_cluster.migrated_database()
    few = sql.Identifier("few")
    own_cluster.execute(sql.SQL("CREATE ROLE {} LOGIN").format(few))
    own_cluster.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), few))
    host = str(own_cluster.directory)
    with psycopg.connect(host=host, user=ROLE, dbname=database, autocommit=True) as owner:
        owner.execute("GRANT ALL ON SCHEMA public TO few")
        owner.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO few")
    url = own_cluster.url(database).replace(f"//{ROLE}@", "//few@")
    async with opened(tmp_path, roomy, url=url, clock=RealClock()) as shop:
        own_cluster.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 0").format(few))
        for invoice in shop.paid()[:3]:
            assert code_of(await shop.refund(invoice, 5)) is None
        assert (await shop.service.readiness.look())[0]
        beside = await run_in_thread(tmp_path, "calls", "list")
        assert beside.exit_code != 0
        assert "takes no more connections" in beside.stderr
    with pytest.raises(StoreUnavailable, match="takes no more connections"):
        async with opened(tmp_path, roomy, url=url, clock=RealClock()):
            pass
    own_cluster.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT -1").format(few))
    async with opened(tmp_path, roomy, url=url, clock=RealClock()) as shop:
        assert code_of(await shop.refund(shop.paid()[4], 5)) is None


def runbook() -> list[list[str]]:
    """The commands of the page's section on Postgres, in order."""
    section = PAGE.read_text().split("\n## Postgres\n")[1].split("\n## ")[0]
    return [shlex.split(line) for line in re.findall(r"^ {4}(\S.*)$", section, re.MULTILINE)]


async def test_a_lost_database_is_brought_back_from_its_dump_by_the_commands_of_the_runbook(
    own_cluster: Cluster, tmp_path: Path
) -> None:
    database = own_cluster.migrated_database()
    url = own_cluster.url(database)
    restored = f"{database}_restored"
    known = {
        "--file=/backups/comptroller-monday.dump": f"--file={tmp_path}/monday.dump",
        "--dbname=comptroller": f"--dbname={database}",
        "--dbname=comptroller_restored": f"--dbname={restored}",
        "comptroller_restored": restored,
        "/backups/comptroller-monday.dump": f"{tmp_path}/monday.dump",
        "./olga.credential": str(tmp_path / "olga.credential"),
    }
    environment = {**os.environ, "PGHOST": str(own_cluster.directory), "PGUSER": ROLE}

    def postgres(words: list[str]) -> None:
        command = [str(find_programs() / words[0]), *words[1:]]
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)

    placed(tmp_path, roomy, url=url)
    enrolling = (
        "approver",
        "add",
        "olga",
        "--role",
        "approver",
        "--credential-out",
        known["./olga.credential"],
    )
    assert (await run_in_thread(tmp_path, *enrolling)).exit_code == 0
    first, *others = [[known.get(word, word) for word in words] for words in runbook()]
    async with opened(tmp_path, roomy, url=url, clock=RealClock()) as shop:
        paid = shop.paid()
        assert code_of(await shop.refund(paid[0], 5)) is None
        assert await shop.service.checkpointer.write("local")
        await asyncio.to_thread(postgres, first)  # while it is served
        assert code_of(await shop.refund(paid[1], 7)) is None  # after the dump, and signed at the end
        effects = moved(shop)
    assert [words[0] for words in others] == ["createdb", "pg_restore", *["comptroller"] * 3]
    for words in others:
        if words[0] != "comptroller":
            await asyncio.to_thread(postgres, words)
            continue
        url = own_cluster.url(restored)
        placed(tmp_path, roomy, url=url)
        if words[1:3] == ["db", "adopt"]:
            with pytest.raises(StoreUnsuitable):
                async with opened(tmp_path, roomy, url=url, clock=RealClock()):
                    pass
        if words[1] == "resume":
            async with opened(tmp_path, roomy, url=url, clock=RealClock()) as shop:
                assert code_of(await shop.refund(paid[2], 7)) == "halted"
        result = await run_in_thread(tmp_path, *words[1:])
        assert result.exit_code == (1 if words[1] == "audit" else 0), (words, result.stdout, result.stderr)
    async with opened(tmp_path, roomy, url=url, clock=RealClock()) as shop:
        assert moved(shop) == effects
        assert code_of(await shop.refund(paid[3], 6)) is None
    await Desk(shop, tmp_path).run("audit", "verify")
