"""The programs of `docs/orchestrators.md`, run as they stand against `comptroller serve` on the desk."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from ruamel.yaml import YAML

from tests.clients.places import node_program, python_of
from tests.clients.served_desk import EXAMPLES, Line, Served, served
from tests.clients.states_language import Execution
from tests.scenarios.kit import tool_of

PAGE = EXAMPLES.parent / "orchestrators.md"
MACHINE = EXAMPLES / "step_functions_refund.asl.json"
BENCH = Path(__file__).parent / "programs" / "temporal_bench.py"
REQUEST = "Ticket 17: refund the double charge of {}."


def block(label: str) -> str:
    found = re.search(rf"^```{label}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, label
    return found[1]


def orchestrator(config: dict[str, Any]) -> None:
    """Its token is that of a program which hands out the work, and states what was asked for."""
    marked = cast("Any", YAML(typ="safe")).load(block("yaml marked"))
    config["identity"]["local"]["clients"].update(marked["identity"]["local"]["clients"])
    tool_of(config, "issue_refund")["provenance"] = {"invoice_id": "target"}


def refused(desk: Served) -> list[str]:
    """The codes of what was refused, oldest first."""
    calls = reversed(desk.look("calls", "list")["calls"])
    return [call["code"] for call in calls if call["state"] == "refused"]


def waiting(desk: Served) -> str:
    """The one call that waits for a person."""
    [approval] = desk.look("approvals", "list")["approvals"]
    return str(approval["call"])


def test_what_the_page_shows_stands_in_the_programs_and_it_names_every_one() -> None:
    page = PAGE.read_text()
    shown = re.findall(r"^```(?:python|json) (\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(shown) == 6
    for name, block in shown:
        assert block in (EXAMPLES / name).read_text(), name
    assert set(re.findall(r"\(examples/(\S+?)\)", page)) == {
        path.name for path in EXAMPLES.iterdir() if path.is_file()
    }


# -- what needs nothing but the client ------------------------------------------------------------------------------


def test_a_loop_that_nobody_watches_stops_at_the_budget_and_every_cent_is_counted(tmp_path: Path) -> None:
    def a_hundred_a_month(config: dict[str, Any]) -> None:
        config.update(cast("Any", YAML(typ="safe")).load(block("yaml hundred")))

    with served(tmp_path, a_hundred_a_month) as desk:
        turns = desk.play(Path(sys.executable), EXAMPLES / "autonomous_loop.py", *desk.paid(7))
        assert [turn["refusal"] is None for turn in turns[:8]] == [False] * 3 + [True] * 5
        assert turns[-1]["refusal"]["code"] == "budget_exhausted"
        assert turns[-1]["refusal"]["left_micro"] == 0
        assert sum(turn["usd"] for turn in turns if turn["refusal"] is None) == pytest.approx(100)
        assert desk.moved_usd() == 100
        [month] = [window for window in desk.look("budgets")["windows"] if window["unit"] == "refunded_usd"]
        assert (month["used"], month["left"]) == ("100", "0")


def test_a_state_machine_waits_for_a_person_and_a_lost_answer_is_asked_for_again_and_nothing_done_twice(
    tmp_path: Path,
) -> None:
    waits: list[str] = []
    with served(tmp_path, orchestrator, block("cedar asked-for")) as desk:

        def a_person_takes_their_time(state: str) -> None:
            waits.append(state)
            if len(waits) == 2:
                desk.approve(waiting(desk))

        machine, [invoice, other] = json.loads(MACHINE.read_text()), desk.paid(2)
        given = {"request": REQUEST.format(invoice), "invoice": invoice, "amount_usd": 40}
        lost = frozenset({"Refund", "Resume"})
        done = Execution(machine, "ticket-17", desk.url, desk.token, a_person_takes_their_time, lost)
        assert done.run(given)["output"]["amount_usd"] == 40
        assert waits == ["WaitForAPerson", "WaitForAPerson"]
        assert [done.sent.count(state) for state in ("Refund", "Resume")] == [2, 4]
        assert [(effect.invoice_id, effect.amount_cents) for effect in desk.moved()] == [(invoice, 40_00)]

        astray = Execution(machine, "ticket-18", desk.url, desk.token)
        ended = astray.run({**given, "invoice": other})
        assert (ended["error"], astray.visited[-2:]) == ("denied", ["HandOff", "NotRefunded"])
        assert (
            "The invoice is not the one that was asked for. (rule only-what-was-asked-for)" in ended["cause"]
        )
        assert [task["outcome"] for task in desk.look("tasks", "list")["tasks"]] == ["handed_off", "claimed"]
        assert desk.moved_usd() == 40


# -- what others wrote ----------------------------------------------------------------------------------------------


@pytest.mark.clients
def test_the_state_machine_is_valid_and_one_with_a_loose_end_is_not(tmp_path: Path) -> None:
    validator = node_program("step_functions", "asl-validator")
    loose = tmp_path / "loose.asl.json"
    loose.write_text(MACHINE.read_text().replace('"Next": "Look"', '"Next": "Loook"'))
    found = [
        subprocess.run(
            [validator, "--json-path", path], capture_output=True, timeout=60, check=False
        ).returncode
        for path in (MACHINE, loose)
    ]
    assert found[0] == 0
    assert found[1] != 0


@pytest.mark.clients
def test_a_graph_reads_side_by_side_stops_while_a_call_is_pending_and_goes_on_after_the_approval(
    tmp_path: Path,
) -> None:
    python, program = python_of("langgraph"), EXAMPLES / "langgraph_refunds.py"
    with served(tmp_path) as desk:
        [invoice] = desk.paid(1)
        [stopped] = desk.play(python, program, "start", "graph.db", desk.ticket(), invoice)
        assert stopped["found"] == 2
        assert [told.split(":")[0] for told in stopped["told"]] == [
            "Not done (invalid_arguments)",
            "Not done (denied)",
        ]
        [too_early] = desk.play(python, program, "resume", "graph.db")
        assert too_early["waits"] == stopped["waits"]
        assert desk.moved() == []

        desk.approve(stopped["waits"][0]["call"])
        [ended] = desk.play(python, program, "resume", "graph.db")
        assert ended["waits"] == []
        assert len(ended["told"]) == 4
        assert "it was not done again" in ended["last"], "asked for once more"
        assert [(effect.invoice_id, effect.amount_cents) for effect in desk.moved()] == [(invoice, 40_00)]


@pytest.mark.clients
def test_a_workflow_kept_in_a_file_goes_on_when_a_person_has_decided(tmp_path: Path) -> None:
    python, program = python_of("llama_index"), EXAMPLES / "llama_index_refunds.py"
    with served(tmp_path) as desk:
        [asked] = desk.play(python, program, "start", "kept.json", *desk.paid(3))
        [too_early] = desk.play(python, program, "resume", "kept.json")
        assert too_early == asked == {"waits": waiting(desk)}
        assert refused(desk) == ["invalid_arguments", "denied"]
        assert desk.moved() == []

        desk.approve(asked["waits"])
        [ended] = desk.play(python, program, "resume", "kept.json")
        assert [effect.invoice_id for effect in desk.moved()] == [ended["done"]["invoice_id"]]
        assert desk.moved_usd() == 30


@pytest.mark.clients
def test_an_agent_is_told_why_not_and_resumes_what_a_person_approved(tmp_path: Path) -> None:
    python, program = python_of("semantic_kernel"), EXAMPLES / "semantic_kernel_refunds.py"
    with served(tmp_path) as desk:
        [invoice] = desk.paid(1)
        [asked] = desk.play(python, program, "chat.json", f"Refund 30 USD of {invoice}")
        assert "amount_usd" in asked["told"][0]
        assert "Not done (denied): amount_usd may be at most 50." in asked["told"][1]
        assert waiting(desk) in asked["answer"]
        assert desk.moved() == []

        desk.approve(waiting(desk))
        [ended] = desk.play(python, program, "chat.json", "It is approved, go on")
        assert "Approved by a person and run once" in ended["answer"]
        assert [(effect.invoice_id, effect.amount_cents) for effect in desk.moved()] == [(invoice, 30_00)]


@pytest.mark.clients
def test_a_refund_is_made_once_however_often_its_activity_is_retried_and_once_more_for_other_work(
    tmp_path: Path,
) -> None:
    def only_the_key_tells_refunds_apart(config: dict[str, Any]) -> None:
        orchestrator(config)
        tool_of(config, "issue_refund")["repeatable"] = True

    with served(tmp_path, only_the_key_tells_refunds_apart, block("cedar asked-for")) as desk:
        [invoice] = desk.paid(1)
        lost = [["refund", 1], ["refund", 2]]
        lines = worked(desk, "refund-ticket-17", invoice, 12, lost=lost)
        assert [line["attempt"] for line in lines if line.get("activity") == "refund"] == [1, 2, 3]
        assert lines[-1]["ended"]["amount_usd"] == 12
        assert desk.moved_usd() == 12

        worked(desk, "refund-ticket-17", invoice, 12)
        assert desk.moved_usd() == 12, "the same work under the same id"
        worked(desk, "refund-ticket-18", invoice, 12)
        assert [effect.amount_cents for effect in desk.moved()] == [12_00, 12_00]

        [*_, handed, failed] = worked(desk, "refund-ticket-19", invoice, 4000)
        assert handed["activity"] == "hand-off"
        assert "at most 50" in failed["failed"]
        tasks = desk.look("tasks", "list")["tasks"]
        assert [task["outcome"] for task in tasks] == ["handed_off", "claimed", "claimed", "claimed"]
        assert f'"{REQUEST.format(invoice)}" (the orchestrator\'s words)' in desk.command(
            "tasks", "show", tasks[-1]["task"]
        )
        assert desk.moved_usd() == 24


@pytest.mark.clients
def test_a_signal_makes_the_workflow_look_and_only_the_approval_makes_it_refund(tmp_path: Path) -> None:
    with served(tmp_path, orchestrator, block("cedar asked-for")) as desk:
        [invoice] = desk.paid(1)
        moved: list[float] = []

        def says(line: Line) -> Line | None:
            if "waits" not in line:
                return None
            moved.append(desk.moved_usd())
            if len(moved) == 2:
                return {}  # nobody signals, hours pass
            if len(moved) == 3:
                desk.approve(waiting(desk))
            return {"signal": "decided"}

        lost = [["begin", 1], ["refund", 1], ["resume-3", 1]]
        lines = worked(desk, "refund-ticket-17", invoice, 40, lost=lost, says=says)
        assert moved == [0, 0, 0]
        resumed = [line["attempt"] for line in lines if str(line.get("activity")).startswith("resume")]
        assert resumed == [1, 1, 1, 2]
        assert lines[-1]["ended"]["amount_usd"] == 40
        assert [(effect.invoice_id, effect.amount_cents) for effect in desk.moved()] == [(invoice, 40_00)]


def worked(desk: Served, name: str, invoice: str, usd: float, **more: Any) -> list[Line]:
    """Run the workflow called `name`; what the bench tells."""
    given = {"id": name, "arguments": [REQUEST.format(invoice), invoice, usd], "lost": more.get("lost", [])}
    program = str(EXAMPLES / "temporal_refunds.py")
    return desk.play(python_of("temporal"), BENCH, program, json.dumps(given), says=more.get("says"))
