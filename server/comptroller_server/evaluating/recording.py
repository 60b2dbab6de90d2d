"""Scenarios made of recorded calls: what an agent really proposed in a task, in order, with what came of it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from ruamel.yaml import YAML

from comptroller_audit.query import calls_of_task
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import CallState, JsonObject
from comptroller_policy.rules import REQUESTER
from comptroller_server.commands.record import CallRecord, section
from comptroller_server.commands.released import shown_call
from comptroller_server.evaluating.scenarios import DONE
from comptroller_server.installation import TENANT, Installation

__all__ = ["scenario_of", "tasks_calls", "written_file"]

_RAN = frozenset({CallState.DONE.value, CallState.COMPENSATED.value})


def tasks_calls(reader: Reader, installation: Installation, task: str) -> list[CallRecord]:
    """The calls of a task, oldest first, as a person may see them."""
    return [shown_call(reader, installation, call) for call, _ in calls_of_task(reader, TENANT, task)]


def scenario_of(name: str, records: Sequence[CallRecord]) -> JsonObject:
    """One scenario of these calls. Reversals and calls whose arguments are gone are left out: nobody proposed those."""
    steps: list[Any] = []
    for record in records:
        packet = record.proposal
        arguments = packet.get("arguments")
        if not isinstance(arguments, dict) or packet.get("compensates"):
            continue
        step: JsonObject = {"call": str(record.row["tool"]), "arguments": arguments}
        reason = section(packet, "why").get("reason")
        if isinstance(reason, str) and reason:
            step["why"] = reason[:300]
        if agreed := _agreed(record):
            step["approve"] = agreed
        step["expect"] = DONE if record.row["state"] in _RAN else str(record.row["code"] or DONE)
        steps.append(step)
    return {"name": name, "steps": steps}


def _agreed(record: CallRecord) -> JsonObject:
    """Who had to agree, by role, where enough people did and the call ran."""
    if record.approval is None or record.row["state"] not in _RAN:
        return {}
    asked: JsonObject = json.loads(record.approval["roles"])
    return {role: count for role, count in asked.items() if role != REQUESTER}


def written_file(environment: str, scenarios: Sequence[JsonObject]) -> str:
    """The file's text."""
    yaml: Any = YAML()
    yaml.width = 110
    text = io.StringIO()
    yaml.dump({"environment": environment, "scenarios": [each for each in scenarios if each["steps"]]}, text)
    return _ABOUT + text.getvalue()


_ABOUT = """\
# Made of recorded calls by `comptroller eval record`. Values are those of the record, with what people are not shown taken
# out: put in values of your sandbox. Then `comptroller eval run` plays it.
"""
