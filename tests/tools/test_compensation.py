"""What `compensate` may name and take, checked at load: each fault with its place, before anything could run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comptroller_server.config.loading import load_config
from comptroller_server.errors import ConfigInvalid
from comptroller_server.installation import Installation
from tests.scenarios.compensation_kit import reversing
from tests.scenarios.kit import placed, tool_of
from tests.server.cli_kit import run

REFUND: dict[str, Any] = {"refund_id": "{output.refund_id}"}


def problem(folder: Path, tool: str = "cancel_refund", arguments: Any = None, **also: Any) -> str:
    """What is wrong with `issue_refund` being reversed so; empty when nothing is."""

    def changes(config: dict[str, Any]) -> None:
        reversing(config)
        refund = tool_of(config, "issue_refund")
        refund["compensate"] = {"tool": tool, "arguments": REFUND if arguments is None else arguments}
        for name, more in also.items():
            tool_of(config, name).update(more)

    try:
        Installation(load_config(placed(folder, changes), data_dir=folder)).check()
    except ConfigInvalid as error:
        return str(error)
    return ""


def test_what_reverses_a_call_is_another_side_effect(tmp_path: Path) -> None:
    assert problem(tmp_path) == ""
    assert "names no tool" in problem(tmp_path, tool="nothing")
    assert "is a read and reverses nothing" in problem(tmp_path, tool="get_refund")
    assert "names the tool itself" in problem(tmp_path, tool="issue_refund")
    read = problem(tmp_path, lookup_invoice={"compensate": {"tool": "cancel_refund", "arguments": REFUND}})
    assert "stands at a read" in read


def test_what_reverses_is_not_reversed_in_turn(tmp_path: Path) -> None:
    both: Any = {"compensate": {"tool": "issue_refund", "arguments": {}}}
    assert "not reversed in turn" in problem(tmp_path, cancel_refund=both)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({}, "`refund_id` is required by `cancel_refund`"),
        ({**REFUND, "more": "x"}, "`more` is no argument of `cancel_refund`"),
        ({"refund_id": "{output.nothing}"}, "`output.nothing` does not exist"),
        ({"refund_id": "{task.id}"}, "is not available here"),
        ({"refund_id": "{output.amount_usd}"}, "takes string, and `output.amount_usd` gives"),
        ({"refund_id": ["{output.refund_id}"]}, "takes string, and `output.refund_id` gives array"),
        ({"refund_id": 7}, "does not take this value"),
        ({"refund_id": "never"}, "does not take this value"),
    ],
)
def test_its_arguments_are_checked_against_its_schema(tmp_path: Path, arguments: Any, fault: str) -> None:
    assert fault in problem(tmp_path, arguments=arguments)


@pytest.mark.parametrize(
    "arguments",
    [REFUND, {"refund_id": "ref_{output.invoice_id}"}, {"refund_id": "{call.id}"}, {"refund_id": "ref_1"}],
)
def test_what_fits_is_taken(tmp_path: Path, arguments: Any) -> None:
    assert problem(tmp_path, arguments=arguments) == ""


def test_what_it_counts_must_be_known_before_the_call(tmp_path: Path) -> None:
    arguments = {
        "invoice_id": "{output.invoice_id}",
        "amount_usd": "{output.amount_usd}",
        "reason_code": "goodwill",
    }

    def changes(config: dict[str, Any]) -> None:
        tool_of(config, "cancel_refund")["compensate"] = {"tool": "issue_refund", "arguments": arguments}

    with pytest.raises(ConfigInvalid, match="must be known before the call"):
        Installation(load_config(placed(tmp_path, changes), data_dir=tmp_path)).check()


def test_check_lists_what_nothing_takes_back(tmp_path: Path) -> None:
    placed(tmp_path, reversing)
    told = json.loads(run(tmp_path, "check", "--json").stdout)
    assert told["ok"] and told["irreversible"] == ["cancel_refund"]
    assert "for good once done: cancel_refund" in run(tmp_path, "check").stdout
