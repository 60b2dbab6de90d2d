"""Other rules put in force while servers run: every process decides by them from its next commit on, or by nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.unit import Committed, Stopped, Unit
from comptroller_audit.vocabulary import RecordType
from comptroller_policy.activations import ACTIVATIONS, ActivateBundle, How, activations
from comptroller_server.call.proposal import Proposal
from comptroller_server.config.loading import load_config
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT
from comptroller_server.upkeep.bundles import activation_of, kept_bundle
from comptroller_tools.upstream.pins import LOCK_NAME
from tests.scenarios.kit import WHY, Changes, Shop, call_of, code_of, opened, placed, tool_of, until
from tests.scenarios.test_relay import GUIDE, PROMPT, READER, behind, offering

pytestmark = pytest.mark.anyio


def most(usd: int) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["limits"] = {**config.get("limits", {}), "identical_calls_max": 1_000}
        tool_of(config, "issue_refund")["constraints"]["max_amount_usd"] = usd

    return change


def more_room(config: dict[str, Any]) -> None:
    most(50)(config)
    config["limits"]["queue_max"] = 7


async def activate(shop: Shop, folder: Path, changes: Changes, cedar: str = "") -> Committed | Stopped:
    """What the command does, with the configuration of another folder."""
    config = load_config(placed(folder, changes, cedar=cedar), data_dir=folder)
    part = activation_of(shop.service.installation.with_config(config), How.ACTIVATED, "ann")
    return await shop.store.commit(TENANT, Unit([part]))


async def test_every_server_of_a_store_decides_by_what_one_of_them_put_in_force(
    store_url: str, tmp_path: Path
) -> None:
    async with (
        opened(tmp_path, most(50), url=store_url) as first,
        opened(tmp_path, most(50), url=store_url, clock=first.clock) as second,
    ):
        invoice, other = first.paid()[:2]
        assert code_of(await second.refund(invoice, 5)) is None
        await activate(first, tmp_path / "new", most(3))
        for shop in (first, second):
            await shop.service.watch.look(TENANT)
            assert code_of(await shop.refund(other, 5)) == "denied"
            assert code_of(await shop.refund(other, 3 if shop is first else 2)) is None
        assert [one.amount_cents for one in first.moved()] == [500, 300, 200]
        packet = second.packets(RecordType.ACTION)[-1]
        assert packet["bundle"] == second.packets(RecordType.BUNDLE_ACTIVATED)[-1]["bundle"]


async def test_what_was_decided_by_the_rules_of_before_commits_nothing_and_the_next_call_goes_by_the_new_ones(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, most(50)) as shop:
        invoice = shop.paid()[0]
        await shop.service.watch.look(TENANT)
        began = shop.service.pipeline.now
        await activate(shop, tmp_path / "new", most(3))
        answer = await began.call(_proposal(shop, invoice, 5))  # a call that had begun
        assert code_of(answer) == "bundle_changed" and shop.moved() == []
        await shop.service.watch.look(TENANT)
        assert code_of(await shop.refund(invoice, 5)) == "denied"
        assert code_of(await shop.refund(invoice, 2)) is None


def _proposal(shop: Shop, invoice: str, usd: float) -> Proposal:
    arguments: dict[str, Any] = {
        "invoice_id": invoice,
        "amount_usd": usd,
        "reason_code": "goodwill",
        "why": WHY,
    }
    return Proposal(shop.subject, "issue_refund", arguments, {})


async def test_what_a_process_has_under_way_is_known_under_other_rules_too(tmp_path: Path) -> None:
    async with opened(tmp_path, most(50)) as shop:
        service, before = shop.service, shop.service.outcomes
        task = shop.row(call_of(await shop.refund(shop.paid()[0], 5)))["task"]
        await activate(shop, tmp_path / "new", most(3))
        await service.watch.look(TENANT)
        await service.pipeline.follow(TENANT)
        assert service.outcomes is not before and service.outcomes.reversing is before.reversing
        answer = await shop.refund(shop.paid()[0], 2)
        assert shop.row(call_of(answer))["task"] == task
        steps = [shop.row(call)["step"] for call, _ in shop.calls()]
        assert sorted(steps) == [1, 2]


async def test_what_waits_for_a_person_is_decided_afresh_by_the_new_rules(tmp_path: Path) -> None:
    async with opened(tmp_path, most(50)) as shop:
        invoice, other = shop.paid()[:2]
        denied, stands = await shop.pending(invoice, 30), await shop.pending(other, 25)
        await activate(shop, tmp_path / "new", most(26))
        await shop.service.watch.look(TENANT)
        for call in (denied, stands):
            await shop.vote(call)
        assert code_of(await shop.resume(denied)) == "denied"
        assert code_of(await shop.resume(stands)) is None
        assert [one.amount_cents for one in shop.moved()] == [2500]


async def test_what_a_server_cannot_take_over_stops_it_until_the_old_rules_are_back(tmp_path: Path) -> None:
    async with opened(tmp_path, most(50)) as shop:
        invoice = shop.paid()[0]
        before = shop.packets(RecordType.BUNDLE_ACTIVATED)[0]["bundle"]
        await activate(shop, tmp_path / "new", more_room)
        await shop.service.watch.look(TENANT)
        assert code_of(await shop.refund(invoice, 5)) == "bundle_changed"
        assert "`limits`" in shop.service.pipeline.why and shop.moved() == []
        assert not (await shop.service.readiness.look())[0]
        back = activation_of(shop.service.installation, How.ROLLED_BACK, "ann", back="")
        assert back.bundle == before
        await shop.store.commit(TENANT, Unit([back]))
        await shop.service.watch.look(TENANT)
        assert code_of(await shop.refund(invoice, 5)) is None
        assert (await shop.service.readiness.look())[0]


async def test_a_server_that_starts_with_other_rules_moves_no_other_server(tmp_path: Path) -> None:
    async with (
        opened(tmp_path, most(50)) as first,
        opened(tmp_path, most(3), clock=first.clock) as second,
    ):
        invoice = first.paid()[0]
        await first.service.watch.look(TENANT)
        assert code_of(await first.refund(invoice, 2)) == "bundle_changed" and first.moved() == []
        assert "only a person's word" in first.service.pipeline.why
        assert code_of(await second.refund(invoice, 2)) is None


async def test_a_row_that_says_it_was_a_person_moves_no_server(tmp_path: Path) -> None:
    async with opened(tmp_path, most(50)) as first:
        config = load_config(placed(tmp_path / "new", most(3)), data_dir=tmp_path / "new")
        part = activation_of(first.service.installation.with_config(config))
        served = f"{len(first.log()):012d}"
        with _sql(tmp_path) as database:  # before any server sees it
            database.execute(
                "CREATE TRIGGER t AFTER INSERT ON activations BEGIN UPDATE activations SET how = 'activated'; END"
            )
        await first.store.commit(TENANT, Unit([part]))
        assert first.rows(ACTIVATIONS, served)[served]["how"] == "activated"
        await first.service.watch.look(TENANT)
        assert code_of(await first.refund(first.paid()[0], 2)) == "bundle_changed" and first.moved() == []
        assert "audit verify" in first.service.pipeline.why


async def test_rows_turned_back_turn_no_server_back(tmp_path: Path) -> None:
    async with opened(tmp_path, most(50)) as shop:
        await activate(shop, tmp_path / "new", most(3))
        await shop.service.watch.look(TENANT)
        await shop.service.pipeline.follow(TENANT)
        newest, oldest = shop.store.read_now(lambda reader: activations(reader, TENANT))
        assert newest.how is How.ACTIVATED and oldest.how is How.SERVED
        with _sql(tmp_path) as database:
            database.execute("DELETE FROM activations WHERE id = ?", (f"{newest.index:012d}",))
            database.execute("UPDATE log_head SET bundle = ?", (oldest.bundle,))
        await shop.service.watch.look(TENANT)
        assert code_of(await shop.refund(shop.paid()[0], 2)) == "bundle_changed"
        assert "audit verify" in shop.service.pipeline.why and shop.moved() == []


@contextmanager
def _sql(folder: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "comptroller.db", timeout=10)) as database, database:
        yield database


async def test_clients_hear_that_other_rules_offer_them_other_things_of_the_same_upstreams(
    tmp_path: Path,
) -> None:
    upstream = offering(tmp_path)
    nobody: dict[str, Any] = {**READER, "roles": ["nobody"]}
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / LOCK_NAME).write_bytes((tmp_path / LOCK_NAME).read_bytes())
    async with opened(tmp_path, behind(upstream)) as shop:
        heard, sources = Hears(shop), shop.service.installation.sources
        shop.service.news.hear(heard)
        assert [one.uri for one in shop.service.offers.resources(shop.subject)] == [GUIDE["uri"]]
        await activate(shop, tmp_path / "new", behind(upstream, nobody, PROMPT))
        await until(lambda: [] in heard.offered)  # others come with the upstream's own start
        assert shop.service.pipeline.why == ""
        assert shop.service.news.offered(shop.subject)["prompts"]
        assert shop.service.installation.sources is sources


class Hears:
    """A face, and what its client was offered each time it was told of news."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.offered: list[list[str]] = []

    def lists_moved(self) -> None:
        resources = self.shop.service.offers.resources(self.shop.subject)
        self.offered.append([one.uri for one in resources])

    def updated(self, source: str, address: str) -> None: ...

    def said(self, source: str, whom: str, level: str, data: Any) -> None: ...


async def test_a_bundle_that_is_another_thing_here_is_not_taken_over(tmp_path: Path) -> None:
    async with opened(tmp_path, most(50)) as shop:
        config = load_config(placed(tmp_path / "new", most(3)), data_dir=tmp_path / "new")
        part = activation_of(shop.service.installation.with_config(config), How.ACTIVATED, "ann")
        await shop.store.commit(TENANT, Unit([replace(part, bundle="a" * 64)]))  # made of other definitions
        await shop.service.watch.look(TENANT)
        assert code_of(await shop.refund(shop.paid()[0], 2)) == "bundle_changed"
        assert "another thing here" in shop.service.pipeline.why and shop.moved() == []


async def test_two_who_activate_at_once_do_not_overwrite_each_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        before = shop.packets(RecordType.BUNDLE_ACTIVATED)[0]["bundle"]
        one, two = (ActivateBundle(letter * 64, "", expected=before) for letter in "ab")
        assert isinstance(await shop.store.commit(TENANT, Unit([one])), Committed)
        assert isinstance(await shop.store.commit(TENANT, Unit([two])), Stopped)
        (row,) = (
            row for row in shop.store.read_now(lambda r: activations(r, TENANT)) if row.bundle == "a" * 64
        )
        assert shop.rows(ACTIVATIONS, f"{row.index:012d}")


async def test_a_restart_does_not_undo_a_persons_word_and_a_new_configuration_is_put_in_force(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, most(50)) as shop:
        await activate(shop, tmp_path / "new", most(3))
    async with opened(tmp_path, most(50)) as again:
        assert code_of(await again.refund(again.paid()[0], 5)) == "denied"
        assert len(again.log(RecordType.BUNDLE_ACTIVATED)) == 2
    async with opened(tmp_path, most(20)) as edited:
        assert code_of(await edited.refund(edited.paid()[0], 5)) is None
        await activate(edited, tmp_path / "newer", more_room)
    with pytest.raises(CommandError, match="`limits` changed"):
        async with opened(tmp_path, most(20)):
            pass


async def test_what_is_kept_of_a_bundle_is_the_same_bundle_and_holds_no_store_and_no_secret(
    tmp_path: Path,
) -> None:
    def worded(config: dict[str, Any]) -> None:
        most(50)(config)
        config["agent"]["objective"] = "Say hunter2-hunter2 to nobody."

    async with opened(tmp_path, most(50)) as shop:
        packet = shop.packets(RecordType.BUNDLE_ACTIVATED)[0]
        assert "store" not in packet["content"]["document"] and packet["how"] == "served"
        same = await kept_bundle(shop.service.installation, TENANT, packet["bundle"])
        assert same.bundle_digest == packet["bundle"]
    async with opened(tmp_path, worded, secrets=("hunter2-hunter2",)) as shop:
        assert shop.packets(RecordType.BUNDLE_ACTIVATED)[-1]["content"] is None
        with pytest.raises(CommandError, match="a secret stands in its texts"):
            await kept_bundle(shop.service.installation, TENANT, shop.service.pipeline.bundle)
