"""One person's records go when somebody answers for it; what is held stays; and the log goes on to verify."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.legal_holds import Hold, HoldKind, Holds, PlaceHold
from comptroller_audit.unit import Committed, Unit
from comptroller_audit.vocabulary import RecordType
from comptroller_server.installation import TENANT
from comptroller_server.upkeep.erasure import Erasure, names
from comptroller_server.upkeep.retention import DAY_MS, Retention
from tests.scenarios.kit import Shop, code_of
from tests.server.cli_kit import Desk, at_work, run_in_thread

pytestmark = pytest.mark.anyio
REASON = ("--reason", "request 88")


def by(desk: Desk) -> tuple[str, str]:
    return ("--credential-file", str(desk.credential))


def left(shop: Shop, *types: RecordType) -> list[dict[str, Any]]:
    """Packets that were not erased."""
    return [packet for packet in shop.packets(*types) if packet]


async def two_refunds(shop: Shop) -> tuple[str, str]:
    """The invoices of two calls that are over."""
    one, other = shop.paid()[:2]
    assert code_of(await shop.refund(one, 5)) is None
    assert code_of(await shop.refund(other, 6)) is None
    return one, other


async def test_what_names_a_subject_goes_and_nothing_else(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        one, other = await two_refunds(desk.shop)
        before = left(desk.shop)
        tried = await desk.json("erase", "--subject", one, *REASON)
        assert tried["erased"] == 0 and tried["payloads"] > 0
        assert left(desk.shop) == before
        await desk.run("erase", "--subject", one, *REASON, "--yes", code=1)  # nobody's credential
        assert left(desk.shop) == before
        done = await desk.json("erase", "--subject", one, *REASON, "--yes", *by(desk))
        assert done["erased"] == tried["payloads"]
        texts = [json.dumps(packet) for packet in left(desk.shop)]
        assert not any(one in text for text in texts)
        assert any(other in text for text in texts)
        (packet,) = desk.shop.packets(RecordType.ERASED)
        assert (packet["by"], packet["payloads"]) == ("olga", done["erased"])
        assert one not in json.dumps(packet)
        assert code_of(await desk.shop.refund(other, 7)) is None
        again = await desk.json("erase", "--subject", one, *REASON, "--yes", *by(desk))
        assert again["erased"] == 0
        await desk.shop.service.checkpointer.write(TENANT)
        for words in (("audit", "verify"), ("calls", "list"), ("report", "--since", "all")):
            await desk.run(*words)
        out = tmp_path / "out.jsonl"
        await desk.run("audit", "export", "--out", str(out))
        vkey = (await desk.json("audit", "vkey"))["vkey"]
        await desk.run("audit", "check-export", str(out), "--vkey", vkey)
    kept = [
        tmp_path / name for name in os.listdir(tmp_path) if name in ("comptroller.db", "comptroller.db-wal")
    ]
    assert kept
    assert not any(one.encode() in file.read_bytes() for file in kept)


async def test_whoever_called_is_found_by_their_name(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        await two_refunds(desk.shop)
        subject = desk.shop.service.installation.identity.principal.id
        done = await desk.json("erase", "--subject", subject, *REASON, "--yes", *by(desk))
        assert done["calls"] >= 2
        assert not left(desk.shop, RecordType.ACTION)
        await desk.run("audit", "verify")


async def test_a_held_call_keeps_everything_of_it_until_the_hold_is_lifted(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        one, _ = await two_refunds(desk.shop)
        call = next(p["call"] for p in left(desk.shop, RecordType.ACTION) if one in json.dumps(p))
        placed = await desk.json("hold", "place", "--call", call, *REASON, *by(desk))
        kept = await desk.json("erase", "--subject", one, *REASON, "--yes", *by(desk))
        assert kept["held"][placed["hold"]] > 0
        assert any(one in json.dumps(packet) for packet in left(desk.shop, RecordType.ACTION))
        await desk.run("hold", "lift", placed["hold"], *REASON, code=1)
        await desk.run("hold", "lift", placed["hold"], *REASON, *by(desk))
        await desk.run("hold", "lift", placed["hold"], *REASON, *by(desk), code=2)
        await desk.run("erase", "--subject", one, *REASON, "--yes", *by(desk))
        assert not any(one in json.dumps(packet) for packet in left(desk.shop, RecordType.ACTION))
        (told,) = (await desk.json("hold", "list"))["holds"]
        assert told["lifted_ms"] >= told["placed_ms"]
        kinds = [packet["hold"] for packet in desk.shop.packets(RecordType.HOLD_PLACED)]
        assert kinds == [packet["hold"] for packet in desk.shop.packets(RecordType.HOLD_LIFTED)]


@pytest.mark.parametrize("kind", ["call", "task", "principal", "time"])
async def test_a_hold_of_every_kind_wins_over_retention(tmp_path: Path, kind: str) -> None:
    async with at_work(tmp_path) as desk:
        await two_refunds(desk.shop)
        action = left(desk.shop, RecordType.ACTION)[0]
        words = {
            "call": ("--call", action["call"]),
            "task": ("--task", desk.shop.row(action["call"])["task"]),
            "principal": ("--principal", desk.shop.service.installation.identity.principal.id),
            "time": ("--from", "2020-01-01"),
        }[kind]
        placed = await desk.json("hold", "place", *words, *REASON, *by(desk))
        shop = desk.shop
        later = Later(shop.service.installation.ambient.clock.now_ms() + 40 * DAY_MS)
        kept = await Retention(shop.store, later, 30, 1e9).round(TENANT)
        assert kept.held[placed["hold"]] > 0
        assert action in left(shop, RecordType.ACTION)
        await desk.run("hold", "lift", placed["hold"], *REASON, *by(desk))
        done = await Retention(shop.store, later, 30, 1e9).round(TENANT)
        assert done.erased > 0
        assert not left(shop, RecordType.ACTION)
        await desk.run("audit", "verify")


async def test_a_hold_that_is_placed_while_something_erases_wins(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        one, _ = await two_refunds(desk.shop)
        i = desk.shop.service.installation
        erasure = Erasure(i.store, i.ring, i.ambient.clock, TENANT, one, ())
        chosen, placed = erasure.find, [False]

        async def and_then_a_hold(progress: Any = None) -> Any:
            found = await chosen(progress)
            if not placed[0]:
                placed[0] = True
                hold = Hold("hold-late", HoldKind.TIME, "", 0, 1 << 62, 1)
                assert isinstance(
                    await i.store.commit(TENANT, Unit([PlaceHold(hold, "", "olga", "x")])), Committed
                )
            return found

        erasure.find = and_then_a_hold  # type: ignore[method-assign]  # the race, made certain
        found = await erasure.erase("olga", "x")
        assert found.indexes == []
        assert found.held["hold-late"] > 0
        assert any(one in json.dumps(packet) for packet in left(desk.shop, RecordType.ACTION))


async def test_a_call_that_is_not_over_waits(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        invoice = desk.shop.paid()[0]
        await desk.shop.pending(invoice)
        done = await desk.json("erase", "--subject", invoice, *REASON, "--yes", *by(desk))
        assert done["waiting"] > 0
        assert desk.shop.packets(RecordType.PENDING)


async def test_a_name_that_is_too_short_or_a_hold_of_nothing_is_refused(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        for words in (
            ("erase", "--subject", " a ", *REASON),
            ("hold", "place", *REASON),
            ("hold", "place", "--task", "t", "--principal", "p", *REASON),
            ("hold", "place", "--principal", "nobody-at-all", *REASON),
            ("hold", "place", "--from", "2026-01-02", "--until", "2026-01-01", *REASON),
            ("hold", "place", "--from", "soon", *REASON),
            ("hold", "lift", "count", *REASON),
        ):
            refused = await run_in_thread(tmp_path, *words, *(by(desk) if words[0] == "hold" else ()))
            assert refused.exit_code == 2, (words, refused.output)
        assert not await desk.shop.store.read(lambda reader: Holds.all_of(reader, TENANT))


@given(st.text(st.characters(categories=("L", "N")), min_size=3).filter(str.isalnum))
def test_a_name_is_found_wherever_it_stands_as_a_word_and_never_inside_another(name: str) -> None:
    finds = names(name)
    for value in (name, f"to {name}.", {name: 1}, {"a": [{"b": f"({name})"}]}, name.casefold()):
        assert finds(value)
    assert not finds(f"x{name}x")
    assert not finds(["x", {"y": None, "z": True}, 1.5])


class Later:
    """A clock that has gone on."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._now_ms / 1000
