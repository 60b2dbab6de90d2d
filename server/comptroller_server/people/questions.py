"""What the person at the client reads before they confirm: our sentences around quoted, released values."""

from __future__ import annotations

from typing import Any, cast

from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.redaction import Audience, Release
from comptroller_audit.vocabulary import Code, Json, JsonObject, Refusal
from comptroller_policy.rules import REQUESTER
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.roads import Roads
from comptroller_server.commands.showing import compact, plain

__all__ = [
    "ACKNOWLEDGE",
    "ARGUMENTS_CHARS_MAX",
    "CONFIRM",
    "RECORD_CHARS_MAX",
    "how_to_decide",
    "no_page",
    "question_for",
]

ARGUMENTS_CHARS_MAX = 4_000
"""Arguments are shown whole or the person is not asked: nobody agrees to what was cut off."""

RECORD_CHARS_MAX = 1_500
"""How much of each looked-up record is shown."""

CONFIRM: JsonObject = {
    "type": "object",
    "properties": {
        "confirm": {
            "type": "boolean",
            "title": "Do it",
            "description": "Yes only if this is exactly what you want done.",
            "default": False,
        }
    },
    "required": ["confirm"],
}
"""Flat primitives only, and nothing secret (MCP 2026-07-28 "Elicitation")."""

ACKNOWLEDGE: JsonObject = {"type": "object", "properties": {}}
"""Nothing to fill in: whatever is pressed, it decides nothing."""


def no_page(call: str) -> str | None:
    """No web page to decide on: there is the command line."""
    del call
    return None


def question_for(case: Case, roads: Roads, agent: str) -> str:
    """The message of the form. Raises `Refused` when the arguments are too long to be shown whole."""

    def shown(value: Any, road: Release = roads) -> str:
        return compact(road.release(cast("Json", value), Audience.PERSON, case.book).value)

    tool = case.tool_in_hand
    released = roads.arguments(tool.name).release(case.arguments, Audience.PERSON, case.book)
    arguments = plain(canonical_bytes(released.value).decode())
    if len(arguments) > ARGUMENTS_CHARS_MAX:
        text = (
            f"The person at the client must confirm this call, and its arguments are too long to show them "
            f"({len(arguments)} characters, {ARGUMENTS_CHARS_MAX} at most). Propose something shorter."
        )
        raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments", case.call))
    lines = [
        f"{plain(agent)}, through {case.subject.actor.id}, wants to run {tool.name} ({tool.effect}) for you.",
        "Nothing has been done yet.",
        f"Arguments: {arguments}",
    ]
    if case.record is not None:
        lines.append(f"It acts on: {case.record.kind} {shown(case.record.key)}")
    if case.may_tell_facts():
        for name, value in case.facts.items():
            lines.append(
                f"As it is now: {name} = {_cut(shown(value, roads.fact(tool.name, name)), RECORD_CHARS_MAX)}"
            )
    for gate in case.decision.gates:
        reasons = dict(zip(case.decision.policies, case.decision.reasons, strict=False))
        if gate.role == REQUESTER and gate.policy in reasons:
            lines.append(f"Why you are asked: {plain(reasons[gate.policy])} (rule {gate.policy})")
        elif gate.role != REQUESTER:
            lines.append(f"After you, {gate.count} with role {gate.role} must agree too.")
    words = (case.why or {}).get("reason")
    if words is not None:
        lines.append(f"The agent's own words, checked by nobody: {shown(words)}")
    return "\n".join(lines)


def how_to_decide(case: Case) -> str:
    """What the person at the client is told of a call that waits for an approver."""
    needs = " and ".join(f"{gate.count} with role {gate.role}" for gate in case.decision.gates)
    where = (
        f"To see all of it and decide, run: comptroller approvals approve {case.call}\n"
        f"To refuse it: comptroller approvals deny {case.call}"
    )
    return (
        f"{case.tool_in_hand.name} waits for a person's approval{f' ({needs})' if needs else ''}. Nothing has been "
        f"done yet.\n{where}\nIt needs an approver's credential. Go on here when it is decided; what you press here "
        "decides nothing."
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text) - most} characters more)"
