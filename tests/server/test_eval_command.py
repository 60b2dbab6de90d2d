"""Scenarios are played for real in a sandbox, and nowhere else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from comptroller_server.evaluating.scenarios import filled
from tests.scenarios.kit import placed
from tests.server.cli_kit import accepting_own_files, at_work, run

RICH = "tic_a427t6zh"
"""A ticket of the desk's first seed, with an invoice that enough is left of."""


def sandbox(folder: Path, environment: str = "sandbox") -> Path:
    def change(config: dict[str, Any]) -> None:
        accepting_own_files(config)
        config["environment"] = environment

    return placed(folder, change)


def written(folder: Path, *scenarios: dict[str, Any], **top: Any) -> str:
    file = folder / "refunds.eval.yaml"
    document = {
        "environment": "sandbox",
        "env": {"COMPTROLLER_DESK": "{data_dir}/desk.db"},
        "scenarios": list(scenarios),
        **top,
    }
    file.write_text(json.dumps(document))
    return str(file)


def refund(usd: float, **more: Any) -> dict[str, Any]:
    arguments = {"invoice_id": "{invoice.invoice_id}", "amount_usd": usd, "reason_code": "goodwill"}
    return {"call": "issue_refund", "arguments": arguments, **more}


def ticket(which: str = "{found.tickets.0.ticket_id}") -> list[dict[str, Any]]:
    """Find the first ticket and look at its invoice."""
    return [
        {"call": "search_tickets", "arguments": {"status": "open"}, "save_as": "found"},
        {
            "call": "get_ticket",
            "arguments": {"ticket_id": which},
            "save_as": "ticket",
        },
        {"call": "lookup_invoice", "arguments": {"invoice_id": "{ticket.invoice_id}"}, "save_as": "invoice"},
    ]


def test_a_task_is_played_end_to_end_and_what_differs_is_told(tmp_path: Path) -> None:
    sandbox(tmp_path)
    well = {
        "name": "a small refund",
        "steps": [*ticket(), refund(5, output={"amount_usd": 5})],
        "calls_max": 4,
    }
    agreed = {"name": "a large one", "steps": [*ticket(RICH), refund(30, approve={"approver": 1})]}
    waits = {"name": "nobody agrees", "steps": [*ticket(RICH), refund(30, expect="approval_pending")]}
    wrong = {"name": "more than is allowed", "steps": [*ticket(), refund(5000)]}
    often = {"name": "too many calls", "steps": [*ticket(), refund(5)], "calls_max": 3}
    gone = {
        "name": "what is not there",
        "steps": [*ticket(), {"call": "get_ticket", "arguments": {"ticket_id": "{invoice.no}"}}],
    }
    file = written(tmp_path, well, agreed, waits, wrong, often, gone)
    junit = tmp_path / "results.xml"
    result = run(tmp_path, "eval", "run", file, "--json", "--junit", str(junit))
    told = {one["name"]: one for one in json.loads(result.stdout)["scenarios"]}
    assert result.exit_code == 2  # one cannot be played
    assert [told[each["name"]]["end"] for each in (well, agreed, waits)] == ["passed"] * 3, told
    assert "step 4, issue_refund: expected done, was denied" in told["more than is allowed"]["because"]
    assert told["too many calls"]["because"] == "4 calls ran, at most 3 may"
    assert told["what is not there"]["end"] == "unusable"
    suite = ET.parse(junit).getroot()  # noqa: S314 -- our own file
    assert (suite.get("name"), suite.get("failures"), suite.get("errors")) == ("comptroller eval", "2", "1")
    assert not (tmp_path / "comptroller.db").exists()  # the record was the sandbox's own
    assert not [name for name in os.listdir(tmp_path) if name.startswith("desk.db")]


@pytest.mark.parametrize("environment", ["default", "production"])
def test_nothing_is_played_where_the_file_does_not_belong(tmp_path: Path, environment: str) -> None:
    sandbox(tmp_path, environment)
    file = written(
        tmp_path,
        {"name": "x", "steps": ticket()},
        environment="sandbox" if environment != "default" else "default",
    )
    result = run(tmp_path, "eval", "run", file)
    assert result.exit_code == 2
    assert "nothing was called" in result.stderr


def test_nothing_is_played_on_a_store_outside_the_sandbox(tmp_path: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config["environment"] = "sandbox"
        config["store"]["url"] = f"sqlite:///{tmp_path}/real.db"

    placed(tmp_path, change)
    result = run(tmp_path, "eval", "run", written(tmp_path, {"name": "x", "steps": ticket()}))
    assert result.exit_code == 2
    assert "must lie in it, so nothing was called" in result.stderr
    assert not (tmp_path / "real.db").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"expect": "perhaps"}, "is `done` or a refusal code"),
        ({"arguments": {"ticket_id": "{nobody.id}"}}, "uses `nobody`, which no earlier step is saved as"),
        ({"arguments": {"ticket_id": "[withheld: email]"}}, "holds what the record withheld"),
        ({"cites": ["nobody"]}, "uses `nobody`"),
        ({"calls": "get_ticket"}, "is not a key here"),
    ],
)
def test_what_cannot_be_played_is_told_with_its_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    sandbox(tmp_path)
    step = {"call": "get_ticket", "arguments": {"ticket_id": "t"}, **change}
    result = run(tmp_path, "eval", "run", written(tmp_path, {"name": "x", "steps": [step]}))
    assert result.exit_code == 2
    assert said in result.stdout, result.stdout
    assert "refunds.eval.yaml:1" in result.stdout


def test_a_gate_holds_over_what_was_played(tmp_path: Path) -> None:
    sandbox(tmp_path)
    file = written(tmp_path, {"name": "x", "steps": [*ticket(), refund(5)]})
    assert run(tmp_path, "eval", "run", file, "--gate", "containment=1").exit_code == 0
    assert run(tmp_path, "eval", "run", file, "--gate", "p99_ms<=0.000001").exit_code == 1


def test_the_scenarios_of_the_page_pass(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    (block,) = re.findall(r"^```yaml scenarios=desk\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    sandbox(tmp_path)
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "page.eval.yaml").write_text(block)
    result = run(tmp_path, "eval", "run", "--gate", "containment=1")
    assert result.exit_code == 0, result.output
    assert "3 passed." in result.stdout


def test_a_value_from_an_earlier_step_keeps_its_type() -> None:
    saved: dict[str, Any] = {"one": {"n": 3, "deep": [{"x": "y"}]}}
    assert filled({"a": "{one.n}", "b": "no {one.deep.0.x}", "c": "{}"}, saved) == {
        "a": 3,
        "b": "no y",
        "c": "{}",
    }
    for missing in ("{one.deep.1.x}", "{one.m}", "{one.n.m}"):
        with pytest.raises(KeyError):
            filled(missing, saved)


@pytest.mark.anyio
async def test_a_recorded_task_becomes_a_scenario_that_plays(tmp_path: Path) -> None:
    work, play, out = tmp_path / "work", tmp_path / "play", tmp_path / "recorded.eval.yaml"
    async with at_work(work) as desk:
        shop = desk.shop
        invoice = shop.paid()[0]
        await shop.call("lookup_invoice", invoice_id=invoice)
        call = await shop.pending(invoice, 30)
        await desk.run("approvals", "approve", call, "--yes", "--credential-file", str(desk.credential))
        await shop.resume(call)
        await shop.refund(invoice, 5000)
        await desk.run("eval", "record", call, "--out", str(out))
        await desk.run("eval", "record", call, "--out", str(out), code=2)
    text = out.read_text()
    assert "approval_pending" not in text
    sandbox(play)
    plain = text.replace("scenarios:", "env: {COMPTROLLER_DESK: '{data_dir}/desk.db'}\nscenarios:", 1)
    out.write_text(plain)
    import asyncio

    result = await asyncio.to_thread(run, play, "eval", "run", str(out), "--json")
    (played,) = json.loads(result.stdout)["scenarios"]
    assert (result.exit_code, played["end"]) == (0, "passed"), played
    assert len(played["calls"]) == 4  # three proposals, one of them resumed
