"""The report over many calls and tasks, against the log and the desk's own ledger."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.packets import LogRecord
from comptroller_audit.report import Report
from comptroller_audit.retention import Erase
from comptroller_audit.unit import Unit, WriteRecord
from comptroller_audit.vocabulary import Json, JsonObject, RecordType
from comptroller_policy.switches import SwitchScope
from comptroller_server.commands import spans as command
from comptroller_server.commands.spans import since_from
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT
from comptroller_server.reporting import reading, span
from comptroller_server.reporting.gates import judged, parsed
from comptroller_server.reporting.reading import read_report
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import Clock, Shop, call_of, code_of, opened, placed, structured, tool_of
from tests.server.cli_kit import accepting_own_files, at_work, run, run_in_thread

pytestmark = pytest.mark.anyio
PRICES = {"small": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 10}}


def with_costs(config: dict[str, Any]) -> None:
    """A refund costs half a dollar and models cost money; a task about an invoice succeeds with five dollars back."""
    tool_of(config, "issue_refund")["cost_usd"] = "0.5"
    config["models"] = {"planner": "small"}
    config["prices"] = PRICES
    config["limits"] = {"identical_calls_max": 1_000}
    config["budgets"] = {"max_model_cost_usd": 100, "tasks_per_hour_max": 1_000}
    config["tasks"] = {
        "success": [
            {
                "fact": "invoice",
                "unit": "invoice",
                "tool": "lookup_invoice",
                "arguments": {"invoice_id": "{task.unit.id}"},
                "expect": {"refunded_usd": "5"},
            }
        ]
    }


def report_of(shop: Shop, since_ms: int | None = None) -> Report:
    return read_report(shop.service.installation, since_ms)


def told(shop: Shop, since_ms: int | None = None) -> dict[str, Any]:
    document: dict[str, Any] = report_of(shop, since_ms).as_json()
    return document


def holds(shop: Shop, gate: str) -> list[bool]:
    return [each.holds for each in judged(parsed(gate), report_of(shop))]


def untouched(shop: Shop) -> list[str]:
    found = shop.sql(
        "SELECT id FROM invoices WHERE refunded_cents = 0 AND paid_cents > 2000 ORDER BY id LIMIT 4"
    )
    return [str(invoice) for (invoice,) in found]


async def begin(shop: Shop, invoice: str) -> None:
    structured(await shop.call("task_begin", {"request": "Help.", "unit": f"invoice:{invoice}"}))


async def finish(shop: Shop, claim: str = "succeeded") -> None:
    await shop.call("task_finish", claim=claim)


# -- containment ------------------------------------------------------------------------------------------------------


async def test_every_call_that_ran_is_proved_and_every_other_one_is_accounted_for(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        first, second, third, *_ = shop.paid()
        await shop.call("lookup_invoice", invoice_id=first)
        done = call_of(await shop.refund(first, 5))
        assert call_of(await shop.refund(first, 5)) == done  # replayed
        assert code_of(await shop.refund(first, 500)) == "denied"
        waits = await shop.pending(second)
        resumed = await shop.pending(third)
        await shop.vote(resumed)
        assert code_of(await shop.resume(resumed)) is None
        assert code_of(await shop.call("no_such_tool")) == "unknown_tool"
        await shop.halt(SwitchScope.GLOBAL)
        assert code_of(await shop.refund(third, 6)) == "halted"
        report, log, moved = report_of(shop), shop.log(), shop.moved()
        assert shop.state(waits) == "pending"
    assert (report.calls.ran, report.calls.proved, report.calls.outside) == (3, 3, 0)
    assert report.calls.containment == 1
    assert report.calls.ran - 1 == len(moved)  # one of them was a read
    assert report.calls.entries.total() == len(log)
    refused = [entry for entry in log if entry.type is RecordType.REFUSED]
    assert report.calls.stopped_count == len(refused) == 3
    assert report.calls.ends.total() == sum(
        entry.type
        in {RecordType.READ, RecordType.AUDIT, RecordType.REFUSED, RecordType.PENDING, RecordType.REPLAYED}
        for entry in log
    )
    assert report.now.approvals.count == 1


async def test_a_side_effect_that_the_record_cannot_explain_breaks_containment(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await shop.refund(shop.paid()[0], 5)
        assert holds(shop, "containment=1,outside=0") == [True, True]
        (audit,) = shop.packets(RecordType.AUDIT)
        forged: JsonObject = {**audit, "call": "forged", "action": None}
        await shop.store.commit(
            TENANT, Unit([WriteRecord(LogRecord(RecordType.AUDIT, forged, call="forged"))])
        )
        assert holds(shop, "containment=1,outside=0") == [False, False]
        assert told(shop)["containment"]["suspects"] == ["forged"]


async def test_what_was_sent_off_before_the_span_is_proved_by_its_own_action(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock=clock) as shop:

        def slow() -> None:
            clock.pass_s(8)

        shop.faults.at["dispatch.after"] = slow
        began = clock.now_ms()
        await shop.refund(shop.paid()[0], 5)
        report = report_of(shop, began + 6_000)
    assert report.calls.entries[RecordType.ACTION] == 0
    assert report.calls.entries[RecordType.AUDIT] == 1
    assert (report.calls.proved, list(report.calls.by_tool)) == (1, ["issue_refund"])


async def test_a_decision_that_retention_erased_is_not_passed_off_as_proof(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await shop.refund(shop.paid()[0], 5)
        (action,) = shop.log(RecordType.ACTION)
        now = shop.clock.now_ms()
        await shop.store.commit(TENANT, Unit([Erase([action.index], now, now, 0)]))
        document = told(shop)
        assert holds(shop, "containment=1") == [False]
    assert (document["containment"]["unproved"], document["erased"]) == (1, 1)


# -- tasks and what they cost -----------------------------------------------------------------------------------------


async def test_cost_per_success_divides_everything_by_the_successes_alone(tmp_path: Path) -> None:
    usage: dict[str, Json] = {"model": "planner", "input_tokens": 100_000, "output_tokens": 10_000}
    async with opened(tmp_path, with_costs) as shop:
        right, wrong, given_up, _ = untouched(shop)
        await begin(shop, right)
        assert code_of(await shop.refund(right, 5, meta={"comptroller/usage": usage})) is None
        await finish(shop)
        await begin(shop, wrong)
        assert code_of(await shop.refund(wrong, 3)) is None
        await finish(shop)
        shop.clock.pass_s(400)
        await begin(shop, given_up)
        await finish(shop, "abandoned")
        await begin(shop, given_up)
        report = report_of(shop)
        document = report.as_json()
    tasks: Any = document["tasks"]
    assert {name: n for name, n in tasks.items() if n and name not in ("all", "ended", "success")} == {
        "succeeded": 1,
        "silent_wrong": 1,
        "abandoned": 1,
        "open": 1,
    }
    assert (tasks["ended"], tasks["success"]) == (3, round(1 / 3, 6))
    assert report.tasks.tool_cost_micro == 1_000_000
    assert report.tasks.model_cost_micro >= 200_000
    assert report.tasks.cost_per_success_micro == report.tasks.cost_micro
    assert report.silent_wrong == 1


async def test_calls_without_a_task_of_their_own_count_as_neither_success_nor_failure(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        assert told(shop)["tasks"]["open"] == 1
        shop.clock.pass_s(3_600)
        tasks = told(shop)["tasks"]
        assert holds(shop, "success>=0") == [False]
    assert (tasks["open"], tasks["idle"], tasks["success"]) == (0, 1, None)


async def test_only_tasks_that_began_in_the_span_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span, "PAGE_ENTRIES", 2)
    async with opened(tmp_path) as shop:
        for _ in range(3):
            await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
            shop.clock.pass_s(86_400)
        whole, newest = told(shop), told(shop, shop.clock.now_ms() - 86_400_000 - 60_000)
        entries = len(shop.log())
    assert (whole["tasks"]["all"], newest["tasks"]["all"]) == (3, 1)
    assert (whole["calls"], newest["calls"]) == ({"read": 3}, {"read": 1})
    assert whole["entries"] == entries > newest["entries"]


async def test_pages_of_tasks_lose_and_double_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(tmp_path) as shop:
        for _ in range(5):
            await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
            shop.clock.pass_s(3_600)
        monkeypatch.setattr(reading, "PAGE_TASKS", 2)
        monkeypatch.setattr(reading, "_TASKS", reading._TASKS.limit(2))  # pyright: ignore[reportPrivateUsage]
        assert told(shop)["tasks"]["all"] == 5


# -- what waits, what failed ------------------------------------------------------------------------------------------


async def test_what_waits_for_people_says_for_how_long(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        first, second, third, *_ = shop.paid()
        await shop.pending(first)
        approved = await shop.pending(second)
        await shop.vote(approved)
        shop.misbehave(Fault(tool="lookup_invoice", kind=FaultKind.RAISE, skip=1))
        assert code_of(await shop.refund(third, 5)) == "in_doubt"
        shop.behave()
        shop.clock.pass_s(90)
        document = told(shop)
    waiting = document["waiting"]
    for name in ("approvals", "approved_not_resumed", "in_doubt"):
        assert waiting[name]["count"] == 1, name
        assert 90 <= waiting[name]["longest_s"] < 150, name
    assert document["failures"]["in_doubt"]["codes"] == {"in_doubt": 1}
    assert document["people"]["yes"] == 1


async def test_work_given_to_a_person_waits_until_it_is_closed(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        assert told(shop)["waiting"]["handoffs"] == {"count": 0, "oldest_ms": None, "longest_s": None}
        answer = await shop.call("hand_off", reason="I cannot.", need="A person.")
        assert not answer.is_error, answer.text
        shop.clock.pass_s(90)
        document = told(shop)
    assert document["waiting"]["handoffs"]["count"] == 1
    assert 90 <= document["waiting"]["handoffs"]["longest_s"] < 150
    assert document["people"]["handed_off"] == {"asked": 1}


async def test_a_budget_that_ran_out_is_told_by_its_name(tmp_path: Path) -> None:
    def tight(config: dict[str, Any]) -> None:
        config["budgets"] = {"max_tool_calls": 1}

    async with opened(tmp_path, tight) as shop:
        for _ in range(2):
            await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        document = told(shop)
    assert document["exhausted"] == {"max_tool_calls": 1}
    assert document["failures"]["budget"]["count"] == 1


async def test_the_report_reads_both_kinds_of_store(store_url: str, tmp_path: Path) -> None:
    async with opened(tmp_path, url=store_url) as shop:
        await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        await shop.refund(shop.paid()[0], 5)
        await shop.pending(shop.paid()[1])
        document = told(shop)
        since = told(shop, shop.clock.now_ms() - 3_600_000)
    assert document["calls"] == since["calls"] == {"done": 1, "read": 1, "waiting": 1}
    assert document["containment"]["proved"] == 2
    assert document["waiting"]["approvals"]["count"] == 1
    assert document["tasks"]["open"] == 1


# -- the command ------------------------------------------------------------------------------------------------------


async def test_the_command_tells_a_person_and_a_program_the_same_beside_a_serving_process(
    tmp_path: Path,
) -> None:
    async with at_work(tmp_path) as desk:
        await desk.shop.refund(desk.shop.paid()[0], 5)
        size = len(desk.shop.log())
        document = await desk.json("report")
        said = await desk.run("report", "--since", "all")
        assert len(desk.shop.log()) == size  # a report writes nothing
    assert document["containment"] | {"running": 0} == document["containment"]
    assert (document["containment"]["proved"], document["calls"]) == (1, {"done": 1})
    assert "1 of 1 calls that ran have a recorded decision that allowed them" in said
    assert document["latency"]["tools"]["issue_refund"]["count"] == 1
    assert document["since_ms"] == pytest.approx(document["until_ms"] - 7 * 86_400_000, abs=60_000)


async def test_an_attempt_that_was_told_to_wait_does_not_read_as_one_that_waits_still(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        call = call_of(await desk.shop.refund(desk.shop.paid()[0], 45))
        said = await desk.run("report")
        assert "1 told to wait" in said
        assert "waiting for a person's yes: 1" in said
        await desk.run("approvals", "deny", call, "--credential-file", str(desk.credential))
        said = await desk.run("report")
    assert "1 told to wait" in said
    assert "waiting" not in said


async def test_a_gate_that_is_breached_is_exit_code_one_and_is_named(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        await desk.shop.refund(desk.shop.paid()[0], 5)
        fine = await desk.run("report", "--gate", "containment=1, p99_ms <= 60000")
        assert "gate holds: containment=1 (found 1)" in fine
        said = await desk.run("report", "--gate", "containment=1,p99_ms<=0.0001", code=1)
        assert "gate BREACH: p99_ms<=0.0001" in said
        document = await desk.json("report", "--gate", "containment=1,success>=0.5", code=1)
    assert document["gate"]["ok"] is False
    assert [each["holds"] for each in document["gate"]["conditions"]] == [True, False]
    assert document["gate"]["conditions"][1]["found"] is None


def test_a_span_is_read_as_it_is_written() -> None:
    now = 1_795_003_200_000
    back = {text: now - (since_from(text, now) or 0) for text in ("30m", "12h", "7d", "4w")}
    assert back == {"30m": 1_800_000, "12h": 43_200_000, "7d": 604_800_000, "4w": 2_419_200_000}
    assert since_from("all", now) is None
    assert since_from("2026-11-18", now) == now - 43_200_000
    assert since_from("2026-11-18T13:00+01:00", now) == now
    assert since_from("9999w", now) == 0
    for text in ("7", "d", "-7d", "7 d", "0d", "next week", ""):
        with pytest.raises(CommandError, match="no span of time"):
            since_from(text, now)


def test_a_long_report_says_on_a_terminal_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "QUIET_S", -1.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with command.progress_shown(quiet=False) as progress:
        assert progress is not None
        for read in (1, 1, 200, 400):
            progress(read, 400)
    assert (
        capsys.readouterr().err
        == "\r1 of 400 records (0 %) \r200 of 400 records (50 %) \r400 of 400 records (100 %) \n"
    )
    with pytest.raises(KeyboardInterrupt), command.progress_shown(quiet=False, of_what="pages") as progress:
        assert progress is not None
        progress(1, 4)
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "\r1 of 4 pages (25 %) \n"  # `Stopped.` stands on a line of its own
    with command.progress_shown(quiet=True) as progress:
        assert progress is None


async def test_reads_that_were_kept_are_told_apart(tmp_path: Path) -> None:
    def keeping(config: dict[str, Any]) -> None:
        tool_of(config, "lookup_invoice")["cache_s"] = 60

    async with opened(tmp_path, keeping) as shop:
        for _ in range(3):
            await shop.call("lookup_invoice", invoice_id=shop.paid()[0])
        document = told(shop)
    assert (document["calls"], document["kept_reads"]) == ({"read": 3}, 2)
    assert document["containment"]["proved"] == 3


async def test_an_empty_store_passes_no_gate(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        document = await desk.json(
            "report", "--since", "2026-11-01", "--gate", "silent_wrong=0,success>=0", code=1
        )
        assert [each["holds"] for each in document["gate"]["conditions"]] == [False, False]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--gate", "succes>=0.9"], "there is no measure 'succes'"),
        (["--gate", "success>0.9,"], "empty condition"),
        (["--gate", "success~1"], "is no condition"),
        (["--since", "yesterday"], "is no span of time"),
    ],
)
async def test_a_gate_or_a_span_that_cannot_be_read_is_usage(
    tmp_path: Path, words: list[str], problem: str
) -> None:
    async with opened(tmp_path, accepting_own_files):
        pass
    result = await run_in_thread(tmp_path, "report", "--json", *words)
    assert result.exit_code == 2
    assert problem in json.loads(result.stdout)["error"]


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".report.html")]


async def test_the_page_is_written_in_one_piece_or_not_at_all(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    async with at_work(tmp_path) as desk:
        await desk.shop.refund(desk.shop.paid()[0], 5)
        said = await desk.run("report", "--html", str(page), "--gate", "containment=1")
        assert f"The page is at {page}." in said
        written = page.read_text()
        assert written.startswith("<!doctype html>") and written.endswith("</html>\n")
        assert "issue_refund" in written and "containment=1" in written
        nowhere = tmp_path / "no" / "report.html"
        document = await desk.json("report", "--html", str(nowhere), code=2)
        assert "cannot be written" in document["error"]
    assert left_behind(tmp_path) == []


def test_without_a_store_there_is_nothing_to_report(tmp_path: Path) -> None:
    placed(tmp_path)
    result = run(tmp_path, "report")
    assert result.exit_code == 2
    assert "there is no store" in result.stderr
