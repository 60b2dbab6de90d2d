"""`batch`: a read called with many values is that many governed reads, and each answer says what became of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import pytest

from comptroller_audit.vocabulary import RecordType
from comptroller_budgets.history import HISTORY, history_id
from comptroller_budgets.limits import Scope, Window
from comptroller_budgets.metering import TASK_USAGE, usage_of
from comptroller_policy.switches import SwitchScope
from comptroller_server.call.many import META_ITEMS
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.errors import ConfigInvalid
from comptroller_tools.desk.faults import Fault, FaultKind
from tests.scenarios.kit import Changes, Shop, call_of, code_of, opened, structured, tool_of
from tests.scenarios.test_clients import client_of
from tests.server.cli_kit import run_in_thread

pytestmark = pytest.mark.anyio
ONE, MANY = "lookup_invoice", "lookup_invoice_many"


def batched(tool: dict[str, Any] | None = None, most: int = 8, **sections: Any) -> Changes:
    """Invoices can be read by list; `tool` changes their entry, `sections` the configuration."""

    def change(config: dict[str, Any]) -> None:
        config["budgets"] = {}
        config["limits"] = {"identical_calls_max": 1_000, "attempts_per_minute_max": 10_000}
        tool_of(config, ONE).update({"batch": {"of": "invoice_id", "max": most}} | (tool or {}))
        config.update(sections)

    return change


async def read(shop: Shop, *invoices: str, **more: Any) -> Answer:
    return await shop.call(MANY, {"invoice_ids": list(invoices)}, **more)


def items(answer: Answer) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", structured(answer)["items"])


def codes(answer: Answer) -> list[str | None]:
    return [None if item["ok"] else item["refusal"]["code"] for item in items(answer)]


async def test_each_value_is_a_read_of_its_own_with_refs_and_a_record(tmp_path: Path) -> None:
    async with opened(tmp_path, batched()) as shop:
        invoices = shop.paid()[:3]
        answer = await read(shop, *invoices)
        assert [item["output"]["invoice_id"] for item in items(answer)] == invoices
        assert [item["output"]["refs"][0]["key"] for item in items(answer)] == invoices
        alone = [structured(await shop.call(ONE, invoice_id=invoice)) for invoice in invoices]
        for item, single in zip(items(answer), alone, strict=True):
            assert {**item["output"], "refs": 0} == {**single, "refs": 0}
            assert (
                json.dumps(item["invoice_id"]) in answer.text
                and item["output"]["refs"][0]["ref"] in answer.text
            )
        reads = shop.packets(RecordType.READ)[:3]
        (batch,) = shop.packets(RecordType.BATCH)
        assert [packet.get("part_of") for packet in reads] == [batch["call"]] * 3
        read_by = {packet["call"]: packet["arguments"]["invoice_id"] for packet in reads}
        assert [read_by[item["call"]] for item in items(answer)] == invoices
        assert all(packet["decision"]["verdict"] == "allow" for packet in reads)
        assert batch["call"] == call_of(answer)
        assert (batch["of"], batch["asked"], batch["done"]) == (ONE, 3, 3)
        assert batch["calls"] == [item["call"] for item in items(answer)]
        row = shop.row(batch["call"])
        assert (row["tool"], row["effect"], row["state"]) == (MANY, "read", "done")


async def test_every_item_and_the_batch_stand_in_exactly_one_record(tmp_path: Path) -> None:
    async with opened(tmp_path, batched()) as shop:
        answer = await read(shop, *shop.paid()[:2], "inv_missing")
        about = cast("list[dict[str, Any]]", answer.meta[META_ITEMS])
        told = [call_of(answer), *(str(one["call"]) for one in about)]
        logged = [entry for entry in shop.log() if entry.envelope.get("call")]
        assert sorted(str(entry.envelope["call"]) for entry in logged) == sorted(told)
        assert [one["receipt"]["index"] for one in about] == [
            next(e.index for e in logged if e.envelope["call"] == one["call"]) for one in about
        ]


async def test_what_is_read_by_list_can_be_cited_like_any_other_read(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        batched()(config)
        tool_of(config, "issue_refund")["cites"] = ["invoice"]

    async with opened(tmp_path, change) as shop:
        invoices = shop.paid()[:2]
        ref = items(await read(shop, *invoices))[1]["output"]["refs"][0]["ref"]
        why = {"reason": "Charged twice.", "citations": [ref]}
        assert code_of(await shop.refund(invoices[0], 5, why=why)) == "citation_missing"
        assert code_of(await shop.refund(invoices[1], 5, why=why)) is None
        assert [moved.invoice_id for moved in shop.moved()] == [invoices[1]]


async def test_an_item_that_is_denied_says_the_same_whether_its_record_exists(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        mine, foreign = shop.paid()[:2]
    rule = f"""
        @id("not-theirs") @reason("Not one of yours.")
        forbid (principal, action == Comptroller::Action::"lookup_invoice", resource)
        unless {{ context.input.invoice_id == "{mine}" }};
    """
    async with opened(tmp_path, batched(), cedar=rule) as shop:
        answer = await read(shop, foreign, mine, "inv_missing")
        assert codes(answer) == ["denied", None, "denied"]
        first, _, last = items(answer)
        alone = await shop.call(ONE, invoice_id=foreign)
        assert first["refusal"] == last["refusal"]
        assert first["refusal"]["text"] == alone.text
        assert [packet["outcome"]["tries"] for packet in shop.packets(RecordType.READ)] == [1]


async def test_a_batch_counts_as_many_calls_as_it_reads_and_takes_one_step(tmp_path: Path) -> None:
    async with opened(tmp_path, batched(budgets={"max_tool_calls": 4, "max_steps": 1})) as shop:
        answer = await read(shop, *shop.paid()[:6])
        assert [code for code in codes(answer) if code is None] == [None] * 4
        assert {code for code in codes(answer) if code} <= {"budget_exhausted", "not_tried"}
        assert len(shop.packets(RecordType.READ)) == 4
        assert shop.packets(RecordType.BATCH)[0]["done"] == 4


async def test_a_halt_stops_every_item_and_the_rest_is_not_tried(tmp_path: Path) -> None:
    async with opened(tmp_path, batched()) as shop:
        await shop.halt(SwitchScope.TOOL, ONE)
        answer = await read(shop, *shop.paid()[:3])
        assert codes(answer) == ["halted", "not_tried", "not_tried"]
        assert "call" not in items(answer)[1]
        assert shop.packets(RecordType.READ) == []
        (batch,) = shop.packets(RecordType.BATCH)
        assert (batch["asked"], batch["done"], len(batch["calls"])) == (3, 0, 1)


async def test_a_rule_over_history_counts_the_items_of_one_batch(tmp_path: Path) -> None:
    rule = """
        @id("enough") @reason("Six are enough.")
        forbid (principal, action == Comptroller::Action::"lookup_invoice", resource)
        when { context.history.task.looks >= 6 };
    """
    history = {"history": {"task.looks": {"count": ONE, "window": "task"}}}
    async with opened(tmp_path, batched(history), cedar=rule) as shop:
        answer = await read(shop, *shop.paid()[:8])
        assert codes(answer) == [None] * 6 + ["denied"] * 2
        row = history_id(Scope.TASK, shop.row(call_of(answer))["task"], ONE, Window.TASK, 0)
        assert shop.rows(HISTORY, row)[row]["count"] == 6


async def test_items_that_fail_say_so_and_the_others_are_read(tmp_path: Path) -> None:
    async with opened(tmp_path, batched({"limits": {"retries_max": 0}})) as shop:
        one, two, three = shop.paid()[:3]
        shop.misbehave(Fault(tool=ONE, kind=FaultKind.RAISE, when={"invoice_id": two}))
        answer = await read(shop, one, two, "not an id", three)
        assert codes(answer) == [None, "tool_failed", "invalid_arguments", None]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"invoice_ids": []},
        {"invoice_ids": "inv_1"},
        {"invoice_ids": ["inv_1", "inv_1"]},
        {"invoice_ids": [f"inv_{n}" for n in range(9)]},
        {"invoice_ids": ["inv_1"], "invoice_id": "inv_1"},
        {"invoice_ids": ["inv_1"], "more": 1},
    ],
)
async def test_a_list_that_does_not_fit_is_one_refusal_and_no_read(
    tmp_path: Path, arguments: dict[str, Any]
) -> None:
    async with opened(tmp_path, batched()) as shop:
        assert code_of(await shop.call(MANY, arguments)) == "invalid_arguments"
        (refused,) = shop.packets(RecordType.REFUSED)
        assert (refused["tool"], refused["arguments"]) == (MANY, {})
        assert shop.packets(RecordType.READ, RecordType.BATCH) == []


async def test_a_secret_in_a_list_goes_nowhere_and_is_kept_nowhere(tmp_path: Path) -> None:
    async with opened(tmp_path, batched(), secrets=("swordfish-42",)) as shop:
        answer = await read(shop, shop.paid()[0], "swordfish-42")
        assert code_of(answer) == "secret_in_arguments"
        assert "swordfish" not in json.dumps([answer.text, shop.packets()])


async def test_who_may_not_read_one_may_not_read_many_nor_see_that_it_can_be_done(tmp_path: Path) -> None:
    async with opened(tmp_path, batched({"roles": ["auditor"]})) as shop:
        assert not {ONE, MANY} & {tool.name for tool in shop.service.pipeline.listing(shop.subject)}
        answer = await read(shop, shop.paid()[0])
        assert answer.unknown_tool and code_of(answer) == "unknown_tool"
        assert answer.text == (await shop.call("no_such_tool")).text


async def test_without_batch_there_is_no_such_tool(tmp_path: Path) -> None:
    async with opened(tmp_path) as shop:
        assert MANY not in {tool.name for tool in shop.service.pipeline.listing(shop.subject)}
        assert code_of(await read(shop, shop.paid()[0])) == "unknown_tool"


async def test_the_list_and_the_answer_fit_the_schemas_that_are_advertised(tmp_path: Path) -> None:
    redacting = {"redact": [{"path": "customer_id"}]}
    async with opened(tmp_path, batched(redacting)) as shop:
        (tool,) = (each for each in shop.service.pipeline.listing(shop.subject) if each.name == MANY)
        assert shop.service.pipeline.input_schema(MANY) == tool.input_schema
        given = {"invoice_ids": [*shop.paid()[:2], "inv_missing"]}
        jsonschema_rs.validator_for(dict(tool.input_schema)).validate(given)
        assert not jsonschema_rs.is_valid(dict(tool.input_schema), {"invoice_ids": []})
        answer = await shop.call(MANY, given)
        assert codes(answer)[:2] == [None, None]
        assert tool.output_schema is not None
        jsonschema_rs.validator_for(dict(tool.output_schema)).validate(answer.structured)
        assert "cus_" not in json.dumps([answer.structured, answer.text])


@pytest.mark.parametrize("era", ["auto", "legacy"])
async def test_a_real_client_lists_it_calls_it_and_takes_its_answer(tmp_path: Path, era: str) -> None:
    async with opened(tmp_path, batched({"cache_s": 300})) as shop, client_of(shop, era) as client:
        assert MANY in {tool.name for tool in (await client.list_tools()).tools}
        for _ in range(2):
            answer = await client.call_tool(MANY, {"invoice_ids": [*shop.paid()[:2], "inv_missing"]})
            assert not answer.is_error and answer.structured_content is not None
            assert [item["ok"] for item in answer.structured_content["items"]] == [True, True, False]


async def test_why_tells_of_a_batch_of_its_items_and_of_what_was_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, batched({"cache_s": 300})) as shop:
        one, two = shop.paid()[:2]
        first = call_of(await shop.call(ONE, invoice_id=one))
        answer = await read(shop, one, two, "inv_missing")
        told = (await run_in_thread(tmp_path, "why", call_of(answer))).stdout
        calls = [str(item["call"]) for item in items(answer)]
        assert f"{MANY} (read), source desk" in told and f"each call of {ONE} by itself" in told
        assert f"2 of 3 read, by calls {', '.join(calls)}" in told
        item = (await run_in_thread(tmp_path, "why", calls[0])).stdout
        assert f"an item of batch call {call_of(answer)}" in item
        assert f"the source was not asked: call {first} had read it" in item


async def test_an_agent_that_waits_is_told_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    async with opened(tmp_path, batched()) as shop:
        proposal = Proposal(shop.subject, MANY, {"invoice_ids": [*shop.paid()[:4]]}, progress=progress)
        assert codes(await shop.service.pipeline.call(proposal)) == [None] * 4
    assert told == [(done, 4, None) for done in (1, 2, 3, 4)]


async def test_kept_results_answer_items_and_say_their_age(tmp_path: Path) -> None:
    async with opened(tmp_path, batched({"cache_s": 300})) as shop:
        one, two = shop.paid()[:2]
        await shop.call(ONE, invoice_id=one)
        about = cast("list[dict[str, Any]]", (await read(shop, one, two)).meta[META_ITEMS])
        assert ["cached" in each for each in about] == [True, False]


async def test_the_text_of_a_batch_is_metered_once(tmp_path: Path) -> None:
    sections: dict[str, Any] = {
        "budgets": {"max_tokens_total": 1_000_000},
        "models": {"planner": "m"},
        "prices": {"m": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}},
    }

    def tokens(answer: Answer) -> int:
        return -(-len(answer.text.encode()) // 4)

    async with opened(tmp_path, batched(**sections)) as shop:
        first = await shop.call(ONE, invoice_id=shop.paid()[0])
        task = str(first.meta["comptroller/task"])

        def read_by_models() -> int:
            return usage_of(shop.rows(TASK_USAGE, task)[task]).charged.input

        before = read_by_models()
        answer = await read(shop, *shop.paid()[:4])
        last = await shop.call(ONE, invoice_id=shop.paid()[0])  # takes up what the batch left
        spent = read_by_models() - before - tokens(last)
        assert codes(answer) == [None] * 4
        assert tokens(answer) <= spent <= tokens(answer) + len(items(answer)) + 1


def wrong_rules() -> Iterator[tuple[Changes, str]]:
    def on_refunds(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund")["batch"] = {"of": "invoice_id"}

    def taken(config: dict[str, Any]) -> None:
        batched()(config)
        config["tools"].append({"name": "Lookup_Invoice_Many", "allow_actions": ["read"]})

    def too_long(config: dict[str, Any]) -> None:
        batched()(config)
        config["limits"]["tool_name_max"] = len("lookup_invoice_many") + 1
        config["tools"].append({"name": "x" * 15, "allow_actions": ["read"], "batch": {"of": "id"}})
        config["tools"].append({"name": "x" * 16, "allow_actions": ["read"], "batch": {"of": "id"}})

    yield too_long, f"is offered as `{'x' * 16}_many`, 21 characters; 20 are the most"
    yield on_refunds, "only reads are called with many values"
    yield taken, "which another tool is called"
    yield batched({"batch": {"of": "number"}}), "names no argument of the tool; it takes `invoice_id`"
    yield (
        batched({"batch": {"of": "invoice_id", "argument": "invoice_id"}}),
        "which the tool takes already",
    )


@pytest.mark.parametrize(("change", "told"), list(wrong_rules()))
async def test_a_batch_form_that_could_not_work_does_not_load(
    tmp_path: Path, change: Changes, told: str
) -> None:
    with pytest.raises(ConfigInvalid) as invalid:
        async with opened(tmp_path, change):
            pass
    (finding,) = (each for each in invalid.value.findings if told in each.message)
    assert "batch" in finding.message and ".yaml:" in finding.where
