"""The desk with its reversals declared: what undoes a refund, a draft, a status and an access."""

from __future__ import annotations

from typing import Any

from comptroller_tools.desk.ledger import EffectKind
from tests.scenarios.kit import Shop, tool_of

__all__ = ["money", "reversing", "undone"]

NOT_FOR_US = 'principal.kind != "service"'
"""Comptroller's own reversals ask nobody; an agent that wants to cancel a refund does."""
CANCELLED: dict[str, Any] = {
    "facts": {"refund": {"tool": "get_refund", "arguments": {"refund_id": "{input.refund_id}"}}},
    "verify": [{"fact": "refund", "expect": {"status": "'cancelled'"}}],
    "recover": {
        "tool": "find_cancelled_refund",
        "arguments": {"effect_key": "{call.effect_key}"},
        "absent_means": "not_done",
    },
}


def reversing(config: dict[str, Any]) -> None:
    """`issue_refund` is reversed with `cancel_refund`, which is verified and recovered like any other call."""
    compensate = {"tool": "cancel_refund", "arguments": {"refund_id": "{output.refund_id}"}}
    tool_of(config, "issue_refund")["compensate"] = compensate
    cancel = tool_of(config, "cancel_refund")
    cancel |= CANCELLED | {"approval": [{"role": "approver", "at_least": 1, "when": NOT_FOR_US}]}
    reads = ("get_refund", "find_cancelled_refund")
    config["tools"] += [{"name": name, "allow_actions": ["read"]} for name in reads]


def money(shop: Shop) -> list[tuple[str, int]]:
    """What moved, in order: issued and cancelled, in cents."""
    return [(effect.kind.value, effect.amount_cents) for effect in shop.moved()]


def undone(shop: Shop) -> int:
    return sum(effect.kind is EffectKind.REFUND_CANCELLED for effect in shop.moved())
