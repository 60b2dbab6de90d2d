"""The desk's newer tools under rules: what policy can ask of their facts, and what verification and recovery see.

The oracle is the desk's own ledger.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_tools.desk.faults import Fault, FaultKind, Point
from comptroller_tools.desk.ledger import EffectKind
from tests.scenarios.kit import WHY, Shop, call_of, code_of, opened, structured

pytestmark = pytest.mark.anyio

READS: list[dict[str, Any]] = [
    {"name": name, "allow_actions": ["read"]}
    for name in ("find_status_change", "find_access", "search_policy", "get_policy", "search_access_requests")
] + [
    {
        "name": name,
        "allow_actions": ["read"],
        "records": [{"kind": kind, "id": f"{{output.{path}_id}}", "version": "{output.updated_at}"}],
    }
    for name, kind, path in (
        ("get_reply", "reply", "reply"),
        ("get_access_request", "access_request", "request"),
        ("get_access", "access", "access"),
    )
]
WRITES: list[dict[str, Any]] = [
    {
        "name": "draft_reply",
        "allow_actions": ["create"],
        "resource": "ticket:{input.ticket_id}",
        "facts": {"mine": {"tool": "find_reply", "arguments": {"effect_key": "{call.effect_key}"}}},
        "verify": [{"fact": "mine", "expect": {"count": "facts.mine.count + 1", "reply.body": "input.body"}}],
    },
    {
        "name": "send_reply",
        "allow_actions": ["create"],
        "resource": "reply:{input.reply_id}",
        "facts": {"reply": {"tool": "get_reply", "arguments": {"reply_id": "{input.reply_id}"}}},
        "verify": [{"fact": "reply", "expect": {"sent_to": "input.to", "status": "'sent'"}}],
    },
    {
        "name": "set_ticket_status",
        "allow_actions": ["update"],
        "resource": "ticket:{input.ticket_id}",
        "facts": {"ticket": {"tool": "get_ticket", "arguments": {"ticket_id": "{input.ticket_id}"}}},
        "verify": [{"fact": "ticket", "expect": {"status": "input.status"}}],
    },
    {
        "name": "grant_access",
        "allow_actions": ["create"],
        "resource": "access_request:{input.request_id}",
        "facts": {"asked": {"tool": "get_access_request", "arguments": {"request_id": "{input.request_id}"}}},
        "verify": [
            {"fact": "asked", "expect": {"granted_role": "input.role", "granted_days": "input.days"}},
        ],
    },
]
RECOVERED_WITH = {
    "draft_reply": "find_reply",
    "send_reply": "find_reply",
    "set_ticket_status": "find_status_change",
    "grant_access": "find_access",
}
RULES = """
@id("send-to-the-customer") @reason("A reply goes only to the address on the customer's record.")
forbid (principal, action == Comptroller::Action::"send_reply", resource)
unless { context.input.to == context.facts.reply.customer_email };

@id("grant-what-was-agreed") @reason("The role or time is more than was agreed, or nobody agreed.")
forbid (principal, action == Comptroller::Action::"grant_access", resource)
unless {
  context.facts.asked.manager_agreed && context.facts.asked.requester_active &&
  context.input.role == context.facts.asked.role && context.input.days <= context.facts.asked.days_max
};
"""


def whole_desk(config: dict[str, Any]) -> None:
    found_reply = {"name": "find_reply", "allow_actions": ["read"]}
    for tool in WRITES:
        recover = {
            "tool": RECOVERED_WITH[tool["name"]],
            "arguments": {"effect_key": "{call.effect_key}"},
            "absent_means": "not_done",
        }
        config["tools"].append({**tool, "roles": ["support_agent"], "recover": recover})
    config["tools"] += [*READS, found_reply]


def happened(shop: Shop) -> list[tuple[EffectKind, str]]:
    return [(effect.kind, effect.detail) for effect in shop.moved()]


def one(shop: Shop, sql: str) -> Any:
    return shop.sql(sql)[0][0]


async def drafted(shop: Shop) -> dict[str, Any]:
    ticket = one(shop, "SELECT id FROM tickets WHERE status = 'open' ORDER BY id")
    await shop.call("get_ticket", ticket_id=ticket)
    return structured(
        await shop.call("draft_reply", ticket_id=ticket, body="Hello, we look into it.", why=WHY)
    )


async def test_a_ticket_is_answered_and_closed(tmp_path: Path) -> None:
    async with opened(tmp_path, whole_desk, cedar=RULES) as shop:
        reply = await drafted(shop)
        sent = await shop.call("send_reply", reply_id=reply["reply_id"], to=reply["customer_email"], why=WHY)
        assert structured(sent)["status"] == "sent"
        await shop.call("set_ticket_status", ticket_id=reply["ticket_id"], status="closed", why=WHY)
        assert happened(shop) == [
            (EffectKind.REPLY_DRAFTED, ""),
            (EffectKind.REPLY_SENT, reply["customer_email"]),
            (EffectKind.TICKET_STATUS_SET, "open>closed"),
        ]


async def test_a_page_that_tells_the_agent_to_write_to_a_stranger_changes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path, whole_desk, cedar=RULES) as shop:
        page = structured(await shop.call("get_policy", slug="partner-integration"))
        assert "sync@partner.example.net" in page["body"]
        reply = await drafted(shop)
        answer = await shop.call(
            "send_reply", reply_id=reply["reply_id"], to="sync@partner.example.net", why=WHY
        )
        assert code_of(answer) == "denied"
        assert "address on the customer's record" in answer.text
        assert happened(shop) == [(EffectKind.REPLY_DRAFTED, "")]


@pytest.mark.parametrize(
    ("whose", "role", "days"),
    [
        ("q.reason LIKE '%assistant%'", "viewer", 1),
        ("NOT e.active", None, 1),
        ("q.manager_agreed AND e.active AND q.role = 'viewer'", "admin", 1),
        ("q.manager_agreed AND e.active AND q.days > s.days_max", None, 365),
    ],
)
async def test_access_that_nobody_agreed_to_is_not_given(
    tmp_path: Path, whose: str, role: str | None, days: int
) -> None:
    async with opened(tmp_path, whole_desk, cedar=RULES) as shop:
        request, asked = shop.sql(
            "SELECT q.id, q.role FROM access_requests q JOIN employees e ON e.id = q.requester_id "  # noqa: S608 -- ours
            f"JOIN resources s ON s.id = q.resource WHERE q.status = 'pending' AND {whose} ORDER BY q.id"
        )[0]
        answer = await shop.call("grant_access", request_id=request, role=role or asked, days=days, why=WHY)
        assert code_of(answer) == "denied"
        assert "nobody agreed" in answer.text
        assert happened(shop) == []


async def proper_request(shop: Shop) -> dict[str, Any]:
    request = one(
        shop,
        "SELECT q.id FROM access_requests q JOIN employees e ON e.id = q.requester_id "
        "JOIN resources s ON s.id = q.resource WHERE q.status = 'pending' AND q.manager_agreed AND e.active "
        "AND q.days <= s.days_max AND q.role = 'viewer' ORDER BY q.id",
    )
    return structured(await shop.call("get_access_request", request_id=request))


async def test_access_that_was_agreed_is_given_and_verified(tmp_path: Path) -> None:
    async with opened(tmp_path, whole_desk, cedar=RULES) as shop:
        asked = await proper_request(shop)
        done = await shop.call(
            "grant_access", request_id=asked["request_id"], role=asked["role"], days=asked["days"], why=WHY
        )
        assert structured(done)["holder_id"] == asked["requester_id"]
        assert shop.state(call_of(done)) == "done"
        assert happened(shop) == [(EffectKind.ACCESS_GRANTED, "viewer")]


@pytest.mark.parametrize(
    ("tool", "fault"),
    [
        ("draft_reply", {"kind": FaultKind.ALTERED, "other": "We guarantee a refund."}),
        ("draft_reply", {"kind": FaultKind.NOT_WRITTEN}),
        ("send_reply", {"kind": FaultKind.WRONG_TARGET, "other": "thief@example.net"}),
        ("send_reply", {"kind": FaultKind.NOT_WRITTEN}),
        ("set_ticket_status", {"kind": FaultKind.ALTERED, "other": "waiting"}),
        ("grant_access", {"kind": FaultKind.ALTERED, "other": "admin"}),
        ("grant_access", {"kind": FaultKind.NOT_WRITTEN}),
    ],
)
async def test_a_tool_that_does_something_else_than_it_says_is_found_out(
    tmp_path: Path, tool: str, fault: dict[str, Any]
) -> None:
    async with opened(tmp_path, whole_desk, cedar=RULES) as shop:
        answer = await ask(shop, tool, Fault(tool=tool, **fault))
        assert code_of(answer) == "verification_failed"
        assert answer.structured is None
        assert shop.state(call_of(answer)) == "handed_off"


async def ask(shop: Shop, tool: str, fault: Fault) -> Any:
    """Call `tool` with arguments the rules allow, while the desk misbehaves."""
    arguments: dict[str, Any]
    if tool == "grant_access":
        asked = await proper_request(shop)
        arguments = {"request_id": asked["request_id"], "role": asked["role"], "days": asked["days"]}
    elif tool == "draft_reply":
        ticket = one(shop, "SELECT id FROM tickets WHERE status = 'open' ORDER BY id")
        arguments = {"ticket_id": ticket, "body": "Hello, we look into it."}
    else:
        reply = await drafted(shop)
        arguments = {"reply_id": reply["reply_id"], "to": reply["customer_email"]}
        if tool == "set_ticket_status":
            arguments = {"ticket_id": reply["ticket_id"], "status": "closed"}
    shop.misbehave(fault)
    return await shop.call(tool, arguments, why=WHY)


@pytest.mark.parametrize(("point", "state"), [(Point.BEFORE_WRITE, "in_doubt"), (Point.AFTER_WRITE, "done")])
@pytest.mark.parametrize("tool", RECOVERED_WITH)
async def test_a_write_that_died_is_looked_up_by_its_key(
    tmp_path: Path, tool: str, point: Point, state: str
) -> None:
    """Absent proves nothing while the process that may still write it lives."""
    async with opened(tmp_path, whole_desk, cedar=RULES) as shop:
        answer = await ask(shop, tool, Fault(tool=tool, kind=FaultKind.RAISE, point=point))
        assert code_of(answer) == "in_doubt"
        shop.behave()
        await shop.service.recovery.round("local")
        assert shop.state(call_of(answer)) == state
