"""What policy was asked about a recorded call, read from its packet: the one reading for whoever asks it again."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import cast

from comptroller_audit.vocabulary import Actor, Json, JsonObject, Principal, PrincipalKind, Subject
from comptroller_policy.approvals import given
from comptroller_policy.model import Question, Record
from comptroller_policy.rollout import is_canary
from comptroller_policy.rules import REQUESTER
from comptroller_server.commands.record import clients_word, section
from comptroller_server.config.model import Config

__all__ = ["asked_then", "votes_in"]


def asked_then(packet: JsonObject, at_ms: int, config: Config) -> Question:
    """The question in a packet whose record time is `at_ms`. What an older packet lacks is as the configuration says."""
    who = section(packet, "principal")
    kind = PrincipalKind(str(who["kind"]))
    principal = Principal(str(who["tenant"]), str(who["issuer"]), str(who["subject"]), kind)
    roles = cast("list[Json]", packet.get("principal_roles", list[Json](config.identity.local.roles)))
    target = section(packet, "record")
    return Question(
        tool=str(packet["tool"]),
        subject=Subject(principal, Actor(str(packet["actor"])), frozenset(str(role) for role in roles)),
        input=section(packet, "arguments"),
        now_ms=at_ms,
        environment=str(section(packet, "bound").get("environment") or config.environment),
        task=str(packet["task"]),
        step=int(cast("int", packet.get("step") or 0)),
        record=Record(str(target["kind"]), str(target["key"])) if target else None,
        facts=section(packet, "facts"),
        history={name: int(cast("int", value)) for name, value in section(packet, "history").items()},
        derived={name: Decimal(str(value)) for name, value in section(packet, "derived").items()},
        provenance={name: str(word) for name, word in section(packet, "provenance").items()},
        approvals=given({"votes": json.dumps(votes_in(packet))})
        | ({REQUESTER: 1} if clients_word(packet) else {}),
        canary=is_canary(packet),
    )


def votes_in(packet: JsonObject) -> list[Json]:
    """What people said to a call that ran, in which roles; one that waits has nothing yet."""
    votes = cast("list[Json]", packet.get("approvals") or [])
    return [vote for vote in votes if isinstance(vote, dict) and "roles" in vote]
