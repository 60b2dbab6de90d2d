"""The article's sample configuration, unchanged, on the desk: every key it has does something that a call can tell.

Each test changes one value and shows another outcome of a real call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_audit.vocabulary import CallState, RecordType
from comptroller_server.config.loading import load_config
from comptroller_server.errors import ConfigInvalid
from comptroller_server.installation import Installation
from tests.scenarios.article import ARTICLE, article, placed_article
from tests.scenarios.kit import Changes, Clock, Shop, call_of, code_of, details_of, structured, tool_of

pytestmark = pytest.mark.anyio

SAMPLE = """\
agent:
  name: "support-triage"
  objective: "Resolve low-risk billing tickets using policy + CRM data"
budgets:
  max_steps: 8
  max_tool_calls: 10
  max_tokens_total: 24000
  timeout_seconds: 60
models:
  planner: "gpt-4.1-mini"  # fast router / planner
  writer: "gpt-4.1"        # customer-facing response drafting
  verifier: "gpt-4.1-mini" # cheap second-pass checks
retrieval:
  sources:
    - "zendesk"
    - "stripe"
    - "internal-policy-wiki"
  freshness_sla_minutes: 5
tools:
  - name: "get_ticket"
    schema: "TicketRequest"
    allow_actions: ["read"]
  - name: "lookup_invoice"
    schema: "InvoiceLookup"
    allow_actions: ["read"]
  - name: "issue_refund"
    schema: "RefundRequest"
    allow_actions: ["create"]
    constraints:
      max_amount_usd: 50
      require_reason_code: true
safety:
  require_citations: true
  pii_redaction: ["email", "card_last4"]
rollout:
  mode: "human_approval"   # switch to "auto" after metrics are stable
  canary_percent: 5
logging:
  trace_level: "tool_calls+retrieval"
  retention_days: 30
"""


def setting(section: str, key: str, value: Any) -> Changes:
    return lambda config: config[section].update({key: value})


def auto(config: dict[str, Any]) -> None:
    """Nobody is asked, so that what another key does shows in one call."""
    config["rollout"]["mode"] = "auto"


def both(*changes: Changes) -> Changes:
    def change(config: dict[str, Any]) -> None:
        for one in changes:
            one(config)

    return change


def of_a_ticket(shop: Shop, at: int = 0) -> tuple[str, str]:
    """A ticket and the paid invoice it is about."""
    ticket, invoice = shop.sql(
        "SELECT min(t.id), i.id FROM tickets t JOIN invoices i ON i.customer_id = t.customer_id "
        "WHERE i.paid_cents - i.refunded_cents >= 6000 GROUP BY i.id ORDER BY i.id"
    )[at]
    return str(ticket), str(invoice)


async def refs_of(shop: Shop, ticket: str, invoice: str) -> list[str]:
    """Read both, as an agent does; the refs to cite."""
    read = [
        structured(await shop.call("get_ticket", ticket_id=ticket)),
        structured(await shop.call("lookup_invoice", invoice_id=invoice)),
    ]
    return [str(ref["ref"]) for one in read for ref in one["refs"]]


async def refunded(shop: Shop, usd: float = 12.5, *, at: int = 0, **arguments: Any) -> Any:
    """The article's job: read the ticket and the invoice, then refund, citing both."""
    ticket, invoice = of_a_ticket(shop, at)
    why = {"reason": "charged twice", "citations": await refs_of(shop, ticket, invoice)}
    wanted = {"invoice_id": invoice, "amount_usd": usd, "reason_code": "billing_error", **arguments}
    return await shop.call("issue_refund", {**wanted, "why": why})


def test_the_file_is_the_article_s_own() -> None:
    lines = (ARTICLE / "comptroller.yaml").read_text().splitlines()
    assert lines[0].startswith("#")
    assert lines[1:] == SAMPLE.splitlines()


async def test_the_sample_unchanged_asks_a_person_and_then_refunds_once(tmp_path: Path) -> None:
    clock = Clock()
    async with article(tmp_path, clock=clock) as shop:
        asked, at = await refunded(shop), 0
        while code_of(asked) is None:  # one record in twenty is drawn for the canary
            clock.pass_s(400)  # another task, with a budget of its own
            at += 1
            asked = await refunded(shop, at=at)
        assert code_of(asked) == "approval_pending"
        await shop.vote(call_of(asked))
        structured(await shop.resume(call_of(asked)))
        assert len(shop.moved(of_a_ticket(shop, at)[1])) == 1
        assert shop.state(call_of(asked)) == CallState.DONE


# -- agent --------------------------------------------------------------------------------------------------------


async def test_agent_says_who_hands_a_task_to_a_person_and_what_it_was_for(tmp_path: Path) -> None:
    for name, goal in (("support-triage", "Resolve low-risk"), ("night-shift", "Sort the queue")):
        change = (
            None
            if name == "support-triage"
            else both(setting("agent", "name", name), setting("agent", "objective", goal))
        )
        async with article(tmp_path / name, change) as shop:
            structured(await shop.call("hand_off", reason="the customer wants a person"))
            told = str(shop.packets(RecordType.HANDED_OFF)[-1])
            assert name in told
            assert goal in told


# -- budgets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [("max_steps", 1, "budget_exhausted"), ("max_tool_calls", 1, "budget_exhausted")],
)
async def test_a_smaller_budget_ends_the_task_sooner(tmp_path: Path, key: str, value: int, code: str) -> None:
    for change in (None, setting("budgets", key, value)):
        async with article(tmp_path / str(change is None), change) as shop:
            ticket, invoice = of_a_ticket(shop)
            assert code_of(await shop.call("get_ticket", ticket_id=ticket)) is None
            second = await shop.call("lookup_invoice", invoice_id=invoice)
            assert code_of(second) == (None if change is None else code)
            if change is not None:
                assert details_of(second)["budget"] == key


async def test_max_tokens_total_stops_the_next_call_once_it_is_reached(tmp_path: Path) -> None:
    used = {"comptroller/usage": {"model": "planner", "input_tokens": 900, "output_tokens": 200}}
    for most, code in ((24_000, None), (1_000, "budget_exhausted")):
        async with article(tmp_path / str(most), setting("budgets", "max_tokens_total", most)) as shop:
            ticket, invoice = of_a_ticket(shop)
            await shop.call("get_ticket", ticket_id=ticket, meta=used)
            assert code_of(await shop.call("lookup_invoice", invoice_id=invoice)) == code


async def test_timeout_seconds_is_the_time_a_task_may_be_active(tmp_path: Path) -> None:
    for seconds, code in ((60, None), (5, "time_exhausted")):
        clock = Clock()
        change = setting("budgets", "timeout_seconds", seconds)
        async with article(tmp_path / str(seconds), change, clock=clock) as shop:
            ticket, invoice = of_a_ticket(shop)
            await shop.call("get_ticket", ticket_id=ticket)
            clock.pass_s(20)
            assert code_of(await shop.call("lookup_invoice", invoice_id=invoice)) == code


# -- models -------------------------------------------------------------------------------------------------------


async def test_models_say_what_the_tokens_of_a_role_cost(tmp_path: Path) -> None:
    used = {"comptroller/usage": {"model": "planner", "input_tokens": 100_000, "output_tokens": 10_000}}
    costs: list[Any] = []
    for model in ("gpt-4.1-mini", "gpt-4.1"):
        change = both(setting("models", "planner", model), setting("budgets", "max_tokens_total", 1_000_000))
        async with article(tmp_path / model, change) as shop:
            await shop.call("get_ticket", ticket_id=of_a_ticket(shop)[0], meta=used)
            usage = shop.packets(RecordType.READ)[-1]["usage"]
            assert model in str(usage)
            costs.append(usage)
    assert costs[0] != costs[1]


@pytest.mark.parametrize("role", ["planner", "writer", "verifier"])
def test_a_model_without_a_price_does_not_load(tmp_path: Path, role: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"models\.{role}.*gpt-9"):
        load_config(placed_article(tmp_path, setting("models", role, "gpt-9")), data_dir=tmp_path)


# -- retrieval ----------------------------------------------------------------------------------------------------


async def test_only_what_was_read_from_a_retrieval_source_can_be_cited(tmp_path: Path) -> None:
    change = both(auto, setting("retrieval", "sources", ["zendesk", "internal-policy-wiki"]))
    with pytest.raises(ConfigInvalid, match=r"cites.*invoice|invoice.*cite"):
        async with article(tmp_path / "without", change):
            pass
    async with article(tmp_path / "with", auto) as shop:
        assert code_of(await refunded(shop)) is None


@pytest.mark.parametrize("alias", ["zendesk", "stripe", "internal-policy-wiki"])
def test_a_retrieval_source_that_nobody_supplies_does_not_load(tmp_path: Path, alias: str) -> None:
    def renamed(config: dict[str, Any]) -> None:
        sources = config["retrieval"]["sources"]
        sources[sources.index(alias)] = f"{alias}-2"

    with pytest.raises(ConfigInvalid, match=rf"retrieval\.sources.*{alias}|{alias}-2"):
        load_config(placed_article(tmp_path, renamed), data_dir=tmp_path)


async def test_what_was_read_longer_ago_than_the_freshness_cannot_be_cited(tmp_path: Path) -> None:
    for minutes, code in ((60, None), (5, "citation_stale")):
        clock = Clock()
        change = both(
            auto,
            setting("retrieval", "freshness_sla_minutes", minutes),
            setting("budgets", "timeout_seconds", 600),
        )
        async with article(tmp_path / str(minutes), change, clock=clock) as shop:
            ticket, invoice = of_a_ticket(shop)
            cited = await refs_of(shop, ticket, invoice)
            for _ in range(2):
                clock.pass_s(160)
                await shop.call("search_tickets")
            why = {"reason": "charged twice", "citations": cited}
            wanted = {"invoice_id": invoice, "amount_usd": 5, "reason_code": "billing_error", "why": why}
            assert code_of(await shop.call("issue_refund", wanted)) == code


# -- tools --------------------------------------------------------------------------------------------------------


def tool(name: str, **keys: Any) -> Changes:
    return lambda config: tool_of(config, name).update(keys)


def test_a_schema_that_is_not_the_tools_own_does_not_load(tmp_path: Path) -> None:
    path = placed_article(tmp_path, tool("issue_refund", schema="RefundOrder"))
    with pytest.raises(ConfigInvalid, match="RefundOrder"):
        Installation(load_config(path, data_dir=tmp_path)).check()


async def test_allow_actions_say_what_a_tool_does_and_so_who_is_asked(tmp_path: Path) -> None:
    async with article(tmp_path / "read") as shop:
        assert code_of(await shop.call("get_ticket", ticket_id=of_a_ticket(shop)[0])) is None
    change = both(tool("get_ticket", allow_actions=["update"]), setting("safety", "require_citations", False))
    desk: Changes = lambda config: tool_of(config, "issue_refund").pop("cites")
    async with article(tmp_path / "update", change, desk) as shop:
        asked = await shop.call("get_ticket", ticket_id=of_a_ticket(shop)[0], why={"reason": "look"})
        assert code_of(asked) == "approval_pending"


async def test_max_amount_usd_is_the_most_that_is_refunded_at_once(tmp_path: Path) -> None:
    for most, code in ((50, None), (12, "denied")):
        change = both(auto, tool("issue_refund", constraints={"max_amount_usd": most}))
        async with article(tmp_path / str(most), change) as shop:
            answer = await refunded(shop, 12.5)
            assert code_of(answer) == code
            if code:
                assert "issue_refund.max_amount_usd" in details_of(answer)["policies"]


async def test_require_reason_code_demands_a_reason(tmp_path: Path) -> None:
    for required in (True, False):
        change = both(auto, tool("issue_refund", constraints={"require_reason_code": required}))
        if not required:
            with pytest.raises(ConfigInvalid, match="require_reason_code"):
                async with article(tmp_path / "false", change):
                    pass
            continue
        async with article(tmp_path / "true", change) as shop:
            assert code_of(await refunded(shop, reason_code="")) == "invalid_arguments"
            assert code_of(await refunded(shop)) is None


# -- safety -------------------------------------------------------------------------------------------------------


async def test_require_citations_wants_the_record_that_is_acted_on(tmp_path: Path) -> None:
    uncited: Changes = lambda config: tool_of(config, "issue_refund").pop("cites")
    for required, code in ((True, "citation_missing"), (False, None)):
        change = both(auto, setting("safety", "require_citations", required))
        async with article(tmp_path / str(required), change, uncited) as shop:
            _, invoice = of_a_ticket(shop)
            assert code_of(await shop.refund(invoice, 5)) == code


async def test_pii_redaction_decides_what_the_model_sees_of_a_ticket(tmp_path: Path) -> None:
    for kinds, seen in ((["email", "card_last4"], False), ([], True)):
        async with article(tmp_path / str(seen), setting("safety", "pii_redaction", kinds)) as shop:
            ticket, address = shop.sql(
                "SELECT t.id, c.email FROM tickets t JOIN customers c ON c.id = t.customer_id ORDER BY t.id"
            )[0]
            shop.sql(
                "UPDATE tickets SET body = ? WHERE id = ?", f"Write to {address}, card ending 4242.", ticket
            )
            answer = await shop.call("get_ticket", ticket_id=ticket)
            assert (address in answer.text) is seen
            assert ("4242" in answer.text) is seen


# -- rollout ------------------------------------------------------------------------------------------------------


async def test_rollout_mode_says_whether_a_person_is_asked(tmp_path: Path) -> None:
    for mode, code in (("human_approval", "approval_pending"), ("auto", None)):
        change = both(setting("rollout", "mode", mode), setting("rollout", "canary_percent", 0))
        async with article(tmp_path / mode, change) as shop:
            assert code_of(await refunded(shop)) == code


async def test_canary_percent_says_how_many_records_go_without_a_person(tmp_path: Path) -> None:
    for percent, code in ((0, "approval_pending"), (100, None)):
        async with article(tmp_path / str(percent), setting("rollout", "canary_percent", percent)) as shop:
            assert code_of(await refunded(shop)) == code


# -- logging ------------------------------------------------------------------------------------------------------


async def test_trace_level_says_what_is_recorded_beside_the_packets(tmp_path: Path) -> None:
    for level, kinds in (
        ("tool_calls+retrieval", {RecordType.TRACE_TOOL_CALLS, RecordType.TRACE_RETRIEVAL}),
        ("packets", set[RecordType]()),
    ):
        async with article(tmp_path / level[:4], setting("logging", "trace_level", level)) as shop:
            await shop.call("get_ticket", ticket_id=of_a_ticket(shop)[0])
            assert {entry.type for entry in shop.log() if entry.type.value.startswith("trace")} == kinds


async def test_retention_days_say_when_a_calls_payloads_go(tmp_path: Path) -> None:
    for days, gone in ((30, False), (4, True)):
        clock = Clock()
        async with article(
            tmp_path / str(days), setting("logging", "retention_days", days), clock=clock
        ) as shop:
            answer = await shop.call("get_ticket", ticket_id=of_a_ticket(shop)[0])
            clock.pass_s(6 * 86_400)
            await shop.service.retention.round("local")
            receipt: Any = answer.meta["comptroller/receipt"]
            index: int = receipt["index"]
            assert (shop.log()[index].packet is None) is gone
