"""Pruning: what an envelope tells goes some days after its payload, and the log goes on to prove what it proved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from comptroller_audit.database import Database
from comptroller_audit.legal_holds import Hold, HoldKind, PlaceHold
from comptroller_audit.unit import Unit
from comptroller_audit.verify import verify
from comptroller_audit.vocabulary import RecordType
from comptroller_policy.switches import SwitchScope
from comptroller_server.errors import ConfigInvalid
from comptroller_server.reporting.span import span_since
from comptroller_server.upkeep.inclusion import newest_checkpoint
from comptroller_server.upkeep.pruning import PruneRound, Pruning
from tests.scenarios.kit import Changes, Shop, call_of, code_of, opened, placed
from tests.server.cli_kit import run_in_thread

pytestmark = pytest.mark.anyio

DAY_S = 86_400


def days(retention: int | None, prune: int) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["logging"] = (
            {"retention_days": retention, "prune_days": prune} if retention else {"prune_days": prune}
        )

    return change


async def age(shop: Shop, days: int) -> int:
    """So many days, each signed at its end and looked over; how many envelopes were pruned."""
    pruned = 0
    for _ in range(days):
        shop.clock.pass_s(DAY_S)
        await shop.service.checkpointer.write("local")
        done = await shop.service.retention.round("local")
        assert (done.stopped, done.pruned.stopped) == (None, None)
        pruned += done.pruned.pruned
    return pruned


def blank(shop: Shop) -> set[int]:
    """The indexes without an envelope."""
    there = {entry.index for entry in shop.log()}
    head = shop.store.read_now(lambda reader: reader.head("local"))
    assert head is not None
    return set(range(head.size)) - there


def entries_of(shop: Shop, call: str) -> set[int]:
    return {int(index) for index in shop.row(call)["records"].split(",")}


def evidence(folder: Path) -> dict[str, Any]:
    return {"checkpoints": folder / "checkpoints.log", "ring": folder / "keys.json"}


async def test_envelopes_go_after_their_payloads_and_the_log_proves_what_it_proved(
    store_url: str, tmp_path: Path
) -> None:
    async with opened(tmp_path, days(2, 5), url=store_url) as shop:
        done = await shop.refund(shop.paid()[0], 5)
        waiting = await shop.pending(shop.paid()[1])
        await shop.halt(SwitchScope.GLOBAL)
        await shop.lift(SwitchScope.GLOBAL)
        gone = entries_of(shop, call_of(done))
        assert await age(shop, 4) == 0
        assert [entry.packet for entry in shop.log() if entry.index in gone] == [None] * len(gone)
        assert await age(shop, 3) == len(gone)
        assert blank(shop) == gone
        assert entries_of(shop, waiting) <= {entry.index for entry in shop.log()}, (
            "a call that waits keeps all"
        )
        kinds = [entry.type for entry in shop.log()]
        assert {RecordType.SWITCH_SET, RecordType.BUNDLE_ACTIVATED, RecordType.ERASED} <= set(kinds)
        assert kinds.count(RecordType.PRUNED) == 1
        clock = shop.clock
    async with opened(tmp_path, days(2, 5), url=store_url, clock=clock) as shop:
        assert code_of(await shop.refund(shop.paid()[2], 5)) is None
    receipts = tmp_path / "receipts"
    receipts.write_text(json.dumps(done.meta["comptroller/receipt"]) + "\n")
    (one,) = (report := verify(store_url, receipts=receipts, **evidence(tmp_path))).tenants
    assert report.ok, list(report.lines())
    assert one.pruned >= len(gone), "the second start goes on"
    assert (one.unsigned, one.receipts) == (0, 1)
    (blind,) = verify(store_url).tenants
    assert (blind.ok, blind.unsigned) == (True, one.pruned)


@pytest.mark.parametrize("how", ["blanked", "blanked and bare", "brought back", "given a payload"])
async def test_an_envelope_that_somebody_else_took_away_or_brought_back_is_found(
    tmp_path: Path, how: str
) -> None:
    url = f"sqlite:///{tmp_path / 'comptroller.db'}"
    async with opened(tmp_path, days(2, 5), url=url) as shop:
        first = sorted(entries_of(shop, call_of(await shop.refund(shop.paid()[0], 5))))
        envelope = {entry.index: json.dumps(entry.envelope, separators=(",", ":")) for entry in shop.log()}
        await age(shop, 7)
        later = sorted(entries_of(shop, call_of(await shop.refund(shop.paid()[1], 5))))
        await shop.service.checkpointer.write("local")
    assert verify(url, **evidence(tmp_path)).ok
    take = ("UPDATE log_entry SET envelope = '' WHERE idx = :idx", {"idx": later[0]})
    statements: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "blanked": [take],
        "blanked and bare": [take, ("DELETE FROM log_payload WHERE idx = :idx", {"idx": later[0]})],
        "brought back": [
            (
                "UPDATE log_entry SET envelope = :envelope WHERE idx = :idx",
                {"idx": first[0], "envelope": envelope[first[0]]},
            )
        ],
        "given a payload": [
            ("UPDATE log_payload SET idx = :idx WHERE idx = :was", {"idx": first[0], "was": later[0]})
        ],
    }
    database = Database(url)
    with database.engine.begin() as connection:
        for statement, values in statements[how]:
            assert connection.execute(text(statement), values).rowcount == 1
    database.close()
    (one,) = verify(url, **evidence(tmp_path)).tenants
    told = " ".join(finding.text for finding in one.findings)
    expected = {
        "blanked": f"entry {later[0]} has a payload and no envelope",
        "blanked and bare": f"the envelopes of entries {later[0]} to {later[0]} are gone",
        "brought back": f"a pruning entry names the envelopes {first[0]} to {first[0]}, but they are still there",
        "given a payload": f"entry {first[0]} has a payload and no envelope",
    }[how]
    assert expected in told


async def test_only_what_a_signed_checkpoint_of_this_log_holds_is_pruned(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints.log"
    async with opened(tmp_path, days(2, 5)) as shop:
        await shop.refund(shop.paid()[0], 5)
        for _ in range(7):
            shop.clock.pass_s(DAY_S)
            await shop.service.retention.round("local")
        done = await shop.service.retention.round("local")
        assert done.erased == 0 and blank(shop) == set()
        assert "no signed checkpoint can be read" in (done.pruned.stopped or "")
        await shop.service.checkpointer.write("local")
        signed = checkpoints.read_text()
        checkpoints.write_text(signed.replace("— ", "— x", 1))
        assert (await shop.service.retention.round("local")).pruned.stopped
        checkpoints.write_text(signed)
        assert (await shop.service.retention.round("local", dry=True)).pruned.due > 0
        assert blank(shop) == set()
        assert (await shop.service.retention.round("local")).pruned.pruned > 0
        pruned = blank(shop)
        assert pruned
        with pytest.raises(ValueError, match="only what a checkpoint holds"):
            await shop.store.commit("local", Unit([_beyond(shop)]))
        assert blank(shop) == pruned


def _beyond(shop: Shop) -> Any:
    from comptroller_audit.pruning import PRUNED, Prune
    from comptroller_audit.retention import RETENTION

    seen = shop.rows(RETENTION, PRUNED)[PRUNED]["erased"]
    return Prune([9], 0, 9, "", seen, 0)


async def test_a_log_that_the_checkpoint_is_not_of_is_not_pruned(tmp_path: Path) -> None:
    async with opened(tmp_path, days(2, 5)) as shop:
        await shop.refund(shop.paid()[0], 5)
        await age(shop, 4)
        database = Database(f"sqlite:///{tmp_path / 'comptroller.db'}")
        with database.engine.begin() as connection:
            connection.execute(text("UPDATE log_entry SET leaf = zeroblob(32) WHERE idx = 2"))
        database.close()
        shop.clock.pass_s(3 * DAY_S)
        done = await shop.service.retention.round("local")
        assert "is not of this log; run `comptroller audit verify`" in (done.pruned.stopped or "")
        assert blank(shop) == set()


async def test_a_long_log_is_looked_over_in_parts_and_pruned_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("comptroller_server.upkeep.pruning.LOOKED_MAX", 3)
    monkeypatch.setattr("comptroller_server.upkeep.pruning.PAUSE_S", 0)
    async with opened(tmp_path, days(2, 5)) as shop:
        calls = [call_of(await shop.refund(invoice, 5)) for invoice in shop.paid()[:4]]
        await age(shop, 7)
        assert blank(shop) == set().union(*(entries_of(shop, call) for call in calls))


async def test_a_hold_that_comes_after_the_payload_went_keeps_the_envelope(tmp_path: Path) -> None:
    async with opened(tmp_path, days(2, 5)) as shop:
        held, other = [call_of(await shop.refund(invoice, 5)) for invoice in shop.paid()[:2]]
        await age(shop, 4)
        hold = Hold("hold-0a1b2c3d", HoldKind.CALL, held, 0, 0, 0, 0)
        await shop.store.commit("local", Unit([PlaceHold(hold, "", "olga", "matter 7")]))
        await age(shop, 3)
        assert blank(shop) == entries_of(shop, other)


async def test_what_reads_the_record_passes_over_what_was_pruned(tmp_path: Path) -> None:
    async with opened(tmp_path, days(2, 5)) as shop:
        key = {"comptroller/idempotency-key": "k"}
        done = await shop.refund(shop.paid()[0], 5, meta=key)
        await age(shop, 7)
        gone = blank(shop)
        assert code_of(await shop.refund(shop.paid()[0], 5, meta=key)) == "already_done"
        later = await shop.refund(shop.paid()[1], 5)
        begun_ms = shop.row(call_of(done))["created_ms"]
        first, _ = shop.store.read_now(lambda reader: span_since(reader, begun_ms + 1))
        assert {entry.index for entry in shop.log() if entry.at_ms > begun_ms} <= set(range(first, 1_000))
        await shop.service.checkpointer.write("local")

    async def run(*words: str, code: int = 0) -> str:
        result = await run_in_thread(tmp_path, *words)
        assert result.exit_code == code, (words, result.stdout, result.stderr)
        return result.stdout

    out = tmp_path / "record.jsonl"
    told = await run("audit", "export", "--out", str(out))
    lines = out.read_text().splitlines()
    assert told.startswith(f"{len(lines) - 1} entries are in")
    vkey = (await run("audit", "vkey")).strip()
    checked = json.loads(await run("audit", "check-export", str(out), "--vkey", vkey, "--json"))
    assert (checked["ok"], checked["pruned"]) == (True, len(gone))
    pruning = next(at for at, line in enumerate(lines) if '"type": "pruned"' in line)
    for kept in (lines[:pruning] + lines[pruning + 1 :], [*lines[:2], *lines[3:]]):
        out.write_text("\n".join(kept) + "\n")
        cut = json.loads(await run("audit", "check-export", str(out), "--vkey", vkey, "--json", code=1))
        assert "no proved entry says that they were pruned" in cut["bad"][0]
    tail = (await run("audit", "tail", "-n", "1000")).splitlines()
    assert len(tail) == len(lines) - 1
    assert call_of(done) in await run("calls", "list")
    assert "no longer readable" in await run("why", call_of(done))
    assert call_of(later) in await run("why", call_of(later))
    assert "1 done" in await run("report", "--since", "all")
    assert "the log is whole" in await run("audit", "verify")


async def test_pruning_waits_for_streams_and_one_that_begins_later_passes_over_what_went(
    tmp_path: Path,
) -> None:
    def streaming(config: dict[str, Any]) -> None:
        days(2, 5)(config)
        config["streams"] = {"lines": {"to": "file", "file": "{data_dir}/copy.jsonl", "interval_s": 3600}}

    async with opened(tmp_path, days(2, 5)) as shop:
        await shop.refund(shop.paid()[0], 5)
        await age(shop, 4)
        shop.clock.pass_s(3 * DAY_S)
        installation, now_ms = shop.service.installation, shop.clock.now_ms()
        found, _ = newest_checkpoint(installation)
        assert found is not None
        behind = Pruning(shop.store, 5, lambda: found[1], ["lines"])
        assert await behind.round("local", now_ms) == PruneRound(), "nothing of it was delivered"
        assert (await Pruning(shop.store, 5, lambda: found[1]).round("local", now_ms)).pruned > 0
        left = {entry.index for entry in shop.log()}
        assert 1 not in left
    placed(tmp_path, streaming)
    done = await run_in_thread(tmp_path, "streams", "run", "--once", "--json")
    assert done.exit_code == 0, done.stdout
    (stream,) = json.loads((await run_in_thread(tmp_path, "streams", "list", "--json")).stdout)["streams"]
    assert stream["lag"] == 0
    sent = [json.loads(line)["index"] for line in (tmp_path / "copy.jsonl").read_text().splitlines()]
    assert left <= set(sent)
    assert sent == sorted(set(sent)) and 1 not in sent


@pytest.mark.parametrize("retention", [None, 5, 6])
async def test_envelopes_are_never_to_go_before_their_payloads(tmp_path: Path, retention: int | None) -> None:
    with pytest.raises(ConfigInvalid, match="prune_days needs a retention_days that is shorter"):
        async with opened(tmp_path, days(retention, 5)):
            pass
