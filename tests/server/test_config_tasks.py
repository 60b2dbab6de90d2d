"""What `tasks.success` may say, and where it is told that it says something wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from comptroller_server.config.loading import load_config
from comptroller_server.errors import ConfigInvalid
from comptroller_server.installation import Installation
from tests.scenarios.kit import placed

GOOD: dict[str, Any] = {
    "fact": "ticket",
    "unit": "ticket",
    "tool": "get_ticket",
    "arguments": {"ticket_id": "{task.unit.id}"},
    "expect": {"status": "'closed'"},
}


def findings(folder: Path, **changes: Any) -> list[str]:
    """Everything that is wrong with a configuration that has this one condition."""
    rule = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}

    def change(config: dict[str, Any]) -> None:
        config["tasks"] = {"success": [rule]}

    try:
        Installation(load_config(placed(folder, change), data_dir=folder)).check()
    except ConfigInvalid as error:
        return [str(finding) for finding in error.findings]
    return []


@pytest.mark.parametrize(
    ("changes", "where", "says"),
    [
        ({"tool": "get_tickets"}, "tasks.success[0].tool", "names no tool"),
        ({"tool": "issue_refund"}, "tasks.success[0].tool", "not a read"),
        ({"expect": {}}, "tasks.success[0].expect", "at least 1"),
        ({"expect": {"statsu": "'closed'"}}, "tasks.success[0].expect.statsu", "does not exist"),
        ({"expect": {"status": "closed("}}, "tasks.success[0].expect.status", "does not parse"),
        ({"expect": {"status": "input.x"}}, "tasks.success[0].expect.status", "starts with one of"),
        ({"arguments": {"ticket_id": "{input.x}"}}, "tasks.success[0].arguments", "not available here"),
        ({"arguments": {"ticket_id": "{task.nothing}"}}, "tasks.success[0].arguments", "does not exist"),
        ({"unit": None}, "tasks.success[0]", "say with `unit: KIND`"),
        (
            {"arguments": {"ticket_id": "{task.records.ticket}{task.records.invoice}"}},
            "tasks.success[0]",
            "one condition for each",
        ),
        ({"unit": "A Ticket"}, "tasks.success[0].unit", "must match"),
    ],
)
def test_a_condition_that_could_prove_nothing_is_told_with_its_place(
    tmp_path: Path, changes: dict[str, Any], where: str, says: str
) -> None:
    found = findings(tmp_path, **changes)
    assert [finding for finding in found if f"`{where}`" in finding and says in finding], found


def test_a_condition_that_can_be_looked_up_is_fine(tmp_path: Path) -> None:
    assert findings(tmp_path) == []
