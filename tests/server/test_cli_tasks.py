"""`comptroller tasks` and `comptroller handoffs`, and what `why` and `calls show` say of a call's task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import RecordType
from tests.scenarios.kit import call_of, code_of, structured, tool_of
from tests.server.cli_kit import accepting_own_files, at_work

pytestmark = pytest.mark.anyio


async def test_a_task_is_shown_with_what_was_asked_its_calls_and_its_end(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        shop = desk.shop
        invoice = shop.paid()[0]
        began = await shop.call(
            "task_begin", request="Refund the customer.", plan="Look first.", unit=f"invoice:{invoice}"
        )
        task = str(structured(began)["task"])
        refund = await shop.refund(invoice, 5)
        assert code_of(await shop.call("task_finish", claim="succeeded", summary="Done.")) is None
        listed = await desk.json("tasks", "list")
        assert listed["tasks"][0]["task"] == task
        assert (listed["tasks"][0]["state"], listed["tasks"][0]["outcome"]) == ("finished", "claimed")
        assert await desk.json("tasks", "list", "--open") == {"tasks": []}
        shown = await desk.json("tasks", "show", task[:20])
        assert shown["began"]["request"] == {"text": "Refund the customer.", "trusted": False}
        assert [call["call"] for call in shown["calls"]] == [call_of(refund)]
        text = await desk.run("tasks", "show", task)
        for part in ("Refund the customer.", "the agent's words", "Look first.", invoice, "claimed by agent"):
            assert part in text, part
        why = await desk.run("why", call_of(refund))
        assert f"{task}, step 1: claimed" in why
        assert (await desk.json("why", call_of(refund)))["task_outcome"] == "claimed"
        assert f"{task} step 1" in await desk.run("calls", "show", call_of(refund))
        ended = await desk.run("why", call_of(began))
        assert "a tool of Comptroller's own" in ended
        assert "no such task" not in await desk.run("tasks", "show", "01", code=2)


async def test_a_hand_off_is_shown_whole_and_closed_by_a_person(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        shop = desk.shop
        assert "Nothing was handed" in await desk.run("handoffs", "list")
        await shop.call("task_begin", request="Refund 51.")
        refused = await shop.refund(shop.paid()[0], 51)
        answer = await shop.call("hand_off", reason="Above my limit.", tried="51 USD.", need="A decision.")
        task = str(structured(answer)["task"])
        (listed,) = (await desk.json("handoffs", "list"))["handoffs"]
        assert (listed["handoff"], listed["state"], listed["cause"]) == (task, "open", "asked")
        packet = (await desk.json("handoffs", "show", task[:18]))["packet"]
        assert packet["step"]["call"] == call_of(refused)
        text = await desk.run("handoffs", "show", task)
        for part in (
            "Above my limit.",
            "51 USD.",
            "A decision.",
            call_of(refused),
            "denied",
            "support-triage",
        ):
            assert part in text, part
        assert "is closed" in await desk.run("handoffs", "close", task, "--note", "Paid by hand.")
        assert "closed before" in await desk.run("handoffs", "close", task, "--note", "Again.", code=1)
        assert await desk.json("handoffs", "list") == {"handoffs": []}
        assert len((await desk.json("handoffs", "list", "--all"))["handoffs"]) == 1
        (closed,) = shop.packets(RecordType.HANDOFF_CLOSED)
        assert closed["note"] == "Paid by hand."


async def test_a_hand_off_is_released_for_the_person_who_reads_it(tmp_path: Path) -> None:
    def hidden(config: dict[str, object]) -> None:
        accepting_own_files(config)
        config["safety"] = {"pii_redaction": ["email"]}

    async with at_work(tmp_path, hidden) as desk:
        shop = desk.shop
        await shop.call("task_begin", request="Write to jo@example.com.")
        why = {"reason": "Asked by jo@example.com."}
        assert code_of(await shop.refund(shop.paid()[0], 51, why=why)) == "denied"
        answer = await shop.call("hand_off", reason="jo@example.com must be told.")
        task = str(structured(answer)["task"])
        for words in (("handoffs", "list"), ("handoffs", "show", task), ("tasks", "show", task)):
            assert "jo@example.com" not in await desk.run(*words), words
            assert "jo@example.com" not in await desk.run(*words, "--json"), words


async def test_an_id_that_names_nothing_says_where_to_look(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        await desk.shop.call("task_begin", request="x")
        for words in (
            ("tasks", "show", "ffffffff"),
            ("handoffs", "show", "ffffffff"),
            ("tasks", "show", "%%"),
        ):
            await desk.run(*words, code=2)


ASKED_FOR = """
    @id("asked-for") @reason("Only what was asked for.")
    forbid (principal, action == Comptroller::Action::"issue_refund", resource)
    unless { context.provenance.invoice_id == "request" };
"""


def following(config: dict[str, Any]) -> None:
    accepting_own_files(config)
    tool_of(config, "issue_refund")["provenance"] = {"invoice_id": "target"}


async def test_a_person_begins_a_task_for_a_client_with_a_request_that_is_trusted(tmp_path: Path) -> None:
    async with at_work(tmp_path, following, cedar=ASKED_FOR) as desk:
        shop, request = desk.shop, tmp_path / "request.json"
        invoice, other = shop.paid()[:2]
        request.write_text(json.dumps({"refund": [invoice]}))
        begin = ("tasks", "begin", "--request-file", str(request))
        await desk.run(*begin, code=2)
        assert shop.log(RecordType.TASK_BEGUN) == []
        task = (await desk.json(*begin, "--credential-file", str(desk.credential)))["task"]
        assert code_of(await shop.refund(other, 5)) == "denied"
        done = await shop.refund(invoice, 5)
        assert code_of(done) is None and shop.row(call_of(done))["task"] == task
        assert [effect.invoice_id for effect in shop.moved()] == [invoice]
        (packet,) = shop.packets(RecordType.TASK_BEGUN)
        assert packet["request"] == {"text": json.dumps({"refund": [invoice]}), "trusted": True, "by": "olga"}
        assert "olga's words" in await desk.run("tasks", "show", task)
        assert "still open" in (await shop.call("task_begin", request="Refund them all.")).text
        assert (await desk.run(*begin, "--credential-file", str(desk.credential), code=2)) == ""
