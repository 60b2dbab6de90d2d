from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import example, given
from hypothesis import strategies as st

from comptroller_audit.ambient import SystemClock
from comptroller_audit.owners import OWNERS, Acknowledge, owner_locks
from comptroller_audit.unit import Unit
from comptroller_audit.vocabulary import RecordType
from comptroller_server.cli import cli
from comptroller_server.commands import opening
from comptroller_server.commands.showing import emit, plain
from comptroller_server.installation import TENANT
from comptroller_tools.desk.faults import Fault, FaultKind, Point
from tests.scenarios.kit import call_of, code_of, details_of, opened, placed, tool_of
from tests.server.cli_kit import RealClock, accepting_own_files, at_work, run, run_in_thread

HOSTILE = "pay\x1b[2Jme \u202eeuro\x9b1m\r\nApproved by olga"


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


# -- the line itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "meant"), [("chek", "check"), ("approval", "approvals"), ("tui", "watch")])
def test_a_command_that_is_not_there_is_answered_with_the_one_that_may_be_meant(
    said: str, meant: str
) -> None:
    result = CliRunner().invoke(cli, [said])
    assert result.exit_code == 2 and f"Did you mean '{meant}'" in result.stderr


def test_who_has_no_configuration_is_told_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["check"], ["check", "--config", "gone.yaml"]):
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == 2 and "comptroller init" in result.stderr
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "comptroller.yaml").write_text("")
    result = CliRunner().invoke(cli, ["check", "--config", "shop"])
    assert result.exit_code == 2 and "--config shop/comptroller.yaml" in result.stderr


def test_asking_for_the_version_loads_neither_the_protocol_nor_the_database() -> None:
    program = (
        "import sys\nfrom comptroller_server.cli import cli\n"
        "try: cli(['--version'])\nexcept SystemExit: pass\n"
        "print([m for m in ('mcp', 'sqlmodel', 'sqlalchemy', 'pydantic', 'structlog', 'rich') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"
    assert said.startswith("comptroller, version ")


def test_every_command_says_what_it_does_and_answers_in_json_but_serve() -> None:
    for name, command in commands(cli):
        assert command.help, name
        spelled = {option for parameter in command.params for option in parameter.opts}
        assert {"--config", "--data-dir", "--log-json"} <= spelled, name
        assert ("--json" in spelled) == (name != "serve"), name


def test_the_help_tells_exit_codes_and_completion() -> None:
    said = CliRunner().invoke(cli, ["--help"]).stdout
    assert "Exit codes" in said
    assert "comptroller completion SHELL" in " ".join(said.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_that_asks_us(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell], prog_name="comptroller")
    assert done.exit_code == 0
    assert f"_COMPTROLLER_COMPLETE={shell}_complete" in done.stdout
    if shell == "bash":
        checked = subprocess.run(
            ["bash", "-n"], input=done.stdout, text=True, capture_output=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")


def test_completion_offers_commands_without_loading_them() -> None:
    environment = {
        **os.environ,
        "_COMPTROLLER_COMPLETE": "bash_complete",
        "COMP_WORDS": "comptroller ha",
        "COMP_CWORD": "1",
    }
    program = "import sys\nsys.argv = ['comptroller']\nfrom comptroller_server.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["plain,handoffs", "plain,halt"]


def test_a_missing_configuration_names_every_place_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.delenv("COMPTROLLER_CONFIG", raising=False)
    result = CliRunner().invoke(cli, ["calls", "list"])
    assert result.exit_code == 2
    assert str(tmp_path / "comptroller.yaml") in result.stderr
    assert str(tmp_path / "own" / "comptroller" / "comptroller.yaml") in result.stderr
    assert result.stdout == ""


def test_the_configuration_named_on_the_line_wins_over_the_environment(tmp_path: Path) -> None:
    placed(tmp_path)
    elsewhere = {"COMPTROLLER_CONFIG": str(tmp_path / "other.yaml")}
    assert run(tmp_path, "check", env=elsewhere).exit_code == 0
    result = CliRunner().invoke(cli, ["check", "--data-dir", str(tmp_path)], env=elsewhere)
    assert result.exit_code == 2
    assert "other.yaml" in result.stderr


def test_options_may_stand_after_the_command(tmp_path: Path) -> None:
    path = placed(tmp_path)
    words = ["check", "--json", "--data-dir", str(tmp_path), "--config", str(path)]
    result = CliRunner().invoke(cli, words)
    assert json.loads(result.stdout)["places"]["data"] == str(tmp_path)


def test_what_breaks_inside_never_reads_as_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(tmp_path)

    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(opening, "load_config", broken)
    result = run(tmp_path, "check", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["ok"] is False
    assert "ZeroDivisionError" in result.stderr


def test_a_password_anywhere_in_the_stores_url_is_shown_by_no_command(tmp_path: Path) -> None:
    url = "postgresql+psycopg://app:hunter2@127.0.0.1:1/c?password=hunter3&sslpassword=hunter4"
    placed(tmp_path, url=url)
    for words in (("check",), ("check", "--json"), ("audit", "verify"), ("calls", "list")):
        result = run(tmp_path, *words)
        assert result.exit_code in (1, 2)
        assert "hunter" not in result.output + result.stderr


def test_words_that_are_no_text_are_usage(tmp_path: Path) -> None:
    for words in (("why", "\udcff"), ("\udcff",), ("halt", "--tool", "\udcff", "--reason", "it is odd")):
        result = run(tmp_path, *words)
        assert result.exit_code == 2
        assert "is not UTF-8" in result.stderr


def test_an_unknown_option_or_command_is_usage(tmp_path: Path) -> None:
    assert run(tmp_path, "nothing").exit_code == 2
    assert run(tmp_path, "check", "--nothing").exit_code == 2
    assert run(tmp_path, "halt").exit_code == 2


# -- what is shown ----------------------------------------------------------------------------------------------------


SHAPELESS = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Printable, as Python sees it, and yet nothing is seen."""


@given(st.text())
@example("\u034f")
def test_nothing_shown_can_act_on_a_terminal(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown
    assert not SHAPELESS.search(shown)
    if text.isprintable() and not SHAPELESS.search(text):
        assert shown == text


@given(
    st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_the_json_document_is_printable_ascii_and_says_the_same(value: Any) -> None:
    written = io.StringIO()
    with contextlib.redirect_stdout(written):
        emit(value)
    assert json.loads(written.getvalue()) == value
    assert all(c == "\n" or " " <= c <= "~" for c in written.getvalue())


# -- check ------------------------------------------------------------------------------------------------------------


def test_check_of_a_sound_configuration_changes_nothing_and_names_what_it_uses(tmp_path: Path) -> None:
    placed(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = run(tmp_path, "check")
    assert result.exit_code == 0, result.stdout
    assert "Nothing wrong." in result.stdout
    for place in ("comptroller.yaml", "comptroller.db", "keys.json", "checkpoints.log", "tokens"):
        assert str(tmp_path / place) in result.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_check_tells_everything_wrong_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "comptroller.yaml"
    path.write_text(
        "sources:\n  desk: {python: comptroller_tools.desk.tools}\ntoools: []\nenvironment: 'no good'\n"
    )
    result = run(tmp_path, "check")
    assert result.exit_code == 1
    assert f"{path}:3: `toools`" in result.stdout
    assert f"{path}:4: `environment`" in result.stdout
    told = json.loads(run(tmp_path, "check", "--json").stdout)
    assert [finding["where"] for finding in told["findings"]] == [f"{path}:3", f"{path}:4"]


def test_check_finds_bad_sources_and_bad_keys_together(tmp_path: Path) -> None:
    def changed(config: dict[str, Any]) -> None:
        config["sources"]["desk"]["python"] = "no.such.module"

    placed(tmp_path, changed)
    (tmp_path / "keys.json").write_text("{}")
    (tmp_path / "keys.json").chmod(0o644)
    result = run(tmp_path, "check")
    assert result.exit_code == 1
    assert "no.such.module" in result.stdout
    assert "chmod 600" in result.stdout


def test_what_keeps_a_source_from_loading_is_told_without_its_key_twice(tmp_path: Path) -> None:
    (tmp_path / "shelf.py").write_text("def take(part):\n    return part\n")
    (tmp_path / "comptroller.yaml").write_text("sources: {shelf: {python: ./shelf.py}}\n")
    said = run(tmp_path, "check").stdout
    assert "`sources.shelf.python`: function `take` parameter `part` has no type; annotate it" in said


def test_check_finds_a_store_that_is_no_database(tmp_path: Path) -> None:
    placed(tmp_path)
    (tmp_path / "comptroller.db").write_bytes(b"not a database" * 100)
    result = run(tmp_path, "check")
    assert result.exit_code == 1
    assert "not readable as a database" in result.stdout


def test_what_a_source_prints_when_loaded_is_not_in_the_document(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(
        "import os\nprint('hello')\nos.write(1, b'hello')\ndef look() -> dict[str, str]:\n    'Look.'\n    return {}\n"
    )

    def changed(config: dict[str, Any]) -> None:
        config["sources"]["noisy"] = {"python": "./noisy.py"}

    path = placed(tmp_path, changed)
    command = [sys.executable, "-m", "comptroller_server.cli", "check", "--json", "--config", str(path)]
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert json.loads(done.stdout)["ok"] in (True, False), done.stderr
    assert done.stderr.count("hello") == 2


def test_check_warns_of_files_that_others_can_read_or_change(tmp_path: Path) -> None:
    path = placed(tmp_path)
    path.chmod(0o666)
    tmp_path.chmod(0o755)
    told = json.loads(run(tmp_path, "check", "--json").stdout)
    assert told["ok"] is True
    warned = {warning["where"]: warning["message"] for warning in told["warnings"]}
    assert "can be changed by other users" in warned[str(path)]
    assert "can be read by other users" in warned[str(tmp_path)]
    assert "reach" in warned[str(tmp_path / "checkpoints.log")]


def test_check_warns_of_a_gate_that_nobody_can_open(tmp_path: Path) -> None:
    placed(tmp_path)
    assert run(tmp_path, "approver", "add", "ann", "--role", "cook").exit_code == 0
    said = run(tmp_path, "check").stdout
    assert "nobody is enrolled who may approve as `approver`, asked for by " in said
    assert "with the credential of somebody who is enrolled" in said
    assert run(tmp_path, "policy", "show").exit_code == 0  # and it is a warning only


def test_check_warns_of_a_gate_that_nobody_can_open_while_there_is_still_time_to_enrol(
    tmp_path: Path,
) -> None:
    placed(tmp_path)
    told = [line for line in run(tmp_path, "check").stdout.splitlines() if "nobody is enrolled" in line]
    assert len(told) == 1
    assert "`comptroller approver add NAME --role approver` enrols them, before the first `serve`" in told[0]
    assert not (tmp_path / "comptroller.db").exists()


def test_check_warns_of_gates_in_policy_files_and_of_tools_that_nobody_classified(tmp_path: Path) -> None:
    (tmp_path / "gate.cedar").write_text(
        '@id("cook") @approval("cook") @reason("A cook looks at it.")\n'
        'forbid (principal, action == Comptroller::Action::"issue_refund", resource)\n'
        "unless { context.approvals.cook >= 1 };\n"
    )
    sources = "sources: {desk: {python: comptroller_tools.desk.tools}}\n"
    tools = "tools: [{name: issue_refund, allow_actions: [create]}, {name: cancel_refund}]\n"
    (tmp_path / "comptroller.yaml").write_text(f"{sources}{tools}policies: [gate.cedar]\n")
    said = run(tmp_path, "check").stdout
    assert "gate.cedar:1" in said
    assert "nobody is enrolled who may approve as `cook`, asked for by cook;" in said
    assert (
        "nobody is enrolled who may approve as `approver`, asked for by cancel_refund.unclassified;" in said
    )


def test_check_wants_nobody_enrolled_for_the_person_at_the_client(tmp_path: Path) -> None:
    (tmp_path / "comptroller.yaml").write_text(
        "sources: {desk: {python: comptroller_tools.desk.tools}}\n"
        "identity: {local: {clients: {desk: {interactive: true}}}}\n"
        "tools: [{name: set_ticket_status, allow_actions: [update], approval: [{role: requester}]}]\n"
    )
    result = run(tmp_path, "check")
    assert result.exit_code == 0
    assert "nobody is enrolled" not in result.stdout


# -- serve: what needs no process of its own ------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["0.0.0.0:0", "8400", "127.0.0.1:99999", "example.org:80"])
def test_http_is_served_on_loopback_only(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed(tmp_path)
    monkeypatch.setenv("COMPTROLLER_DESK", str(tmp_path / "desk.db"))
    result = run(tmp_path, "serve", "--http", address)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


def test_over_http_the_token_names_the_client_and_nothing_else_does(tmp_path: Path) -> None:
    placed(tmp_path)
    assert run(tmp_path, "serve", "--http", "127.0.0.1:0", "--client", "triage-bot").exit_code == 2


# -- approver ---------------------------------------------------------------------------------------------------------


def test_the_first_approver_is_enrolled_freely_and_the_next_needs_a_credential(tmp_path: Path) -> None:
    placed(tmp_path, accepting_own_files)
    credential = tmp_path / "olga.credential"
    add = ("approver", "add")
    out = ("--credential-out", str(credential))
    assert run(tmp_path, *add, "olga", "--role", "approver", "--role", "lead", *out).exit_code == 0
    assert credential.stat().st_mode & 0o777 == 0o600
    refused = run(tmp_path, *add, "max", "--role", "approver", "--credential-out", str(tmp_path / "max"))
    assert refused.exit_code == 1
    assert not (tmp_path / "max").exists()
    vouched = run(tmp_path, *add, "max", "--role", "approver", "--credential-file", str(credential), "--json")
    assert vouched.exit_code == 0
    assert json.loads(vouched.stdout)["credential"].startswith("max.")
    again = run(tmp_path, *add, "max", "--role", "approver", "--credential-file", str(credential))
    assert again.exit_code == 1
    assert "enrolled already" in again.stdout
    listed = json.loads(run(tmp_path, "approver", "list", "--json").stdout)["approvers"]
    assert [(one["name"], one["roles"]) for one in listed] == [
        ("max", ["approver"]),
        ("olga", ["approver", "lead"]),
    ]


def test_a_credential_file_of_our_own_user_does_not_vouch_unless_the_config_says_so(tmp_path: Path) -> None:
    placed(tmp_path)
    credential = tmp_path / "olga.credential"
    run(tmp_path, "approver", "add", "olga", "--role", "approver", "--credential-out", str(credential))
    words = ("approver", "add", "max", "--role", "approver", "--credential-file", str(credential))
    assert run(tmp_path, *words).exit_code == 1


def test_a_credential_is_never_written_over_a_file(tmp_path: Path) -> None:
    placed(tmp_path)
    kept = tmp_path / "kept"
    kept.write_text("mine")
    result = run(tmp_path, "approver", "add", "olga", "--role", "approver", "--credential-out", str(kept))
    assert result.exit_code == 2
    assert kept.read_text() == "mine"
    assert "Nobody is enrolled" in run(tmp_path, "approver", "list").stdout


@pytest.mark.parametrize(
    "words", [("a.b", "--role", "r"), ("-x", "--role", "r"), ("ann", "--role", "a-b"), ("ann",)]
)
def test_a_name_or_role_that_cannot_be_is_usage(tmp_path: Path, words: tuple[str, ...]) -> None:
    placed(tmp_path)
    assert run(tmp_path, "approver", "add", *words).exit_code == 2


def test_looking_never_makes_a_store(tmp_path: Path) -> None:
    placed(tmp_path)
    for words in (("calls", "list"), ("why", "0" * 36), ("approvals", "list"), ("halt", "--reason", "x")):
        result = run(tmp_path, *words)
        assert result.exit_code == 2
        assert "there is no store" in result.stderr
    assert not (tmp_path / "comptroller.db").exists()


# -- with a service at work -------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_late_approver_needs_a_credential_even_when_none_is_enrolled(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    result = await run_in_thread(tmp_path, "approver", "add", "eve", "--role", "approver")
    assert result.exit_code == 1
    assert "takes no first approver any more; begin again with another --data-dir" in result.stdout
    said = (await run_in_thread(tmp_path, "check")).stdout
    assert "begin again with another --data-dir" in said


@pytest.mark.anyio
async def test_the_card_shows_all_that_is_agreed_to_and_the_agents_words_apart(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        invoice = desk.shop.paid()[0]
        answer = await desk.shop.refund(invoice, 30, why={"reason": HOSTILE})
        call = call_of(answer)
        card = await desk.run("approvals", "show", call)
        assert all(line.isprintable() for line in card.splitlines())
        assert "Approved by olga" not in [line.strip() for line in card.splitlines()]
        claimed = card.index("The agent claims")
        assert card.index(f'{{"amount_usd":30,"invoice_id":"{invoice}","reason_code":"goodwill"}}') < claimed
        assert card.index("issue_refund.approval") < claimed < card.index("pay\\u001b[2Jme")
        document = await desk.json("approvals", "show", call[:30])
        assert document["facts"]["invoice"]["invoice_id"] == invoice
        assert document["agent_claims"]["why"]["reason"] == HOSTILE
        assert document["digest"] in card
        assert document["roles"] == {"approver": 1}
        listed = (await desk.json("approvals", "list"))["approvals"]
        assert [one["call"] for one in listed] == [call]
        assert await desk.run("approvals", "show", listed[0]["approval"]) == card


@pytest.mark.anyio
async def test_an_approval_without_a_credential_is_recorded_and_opens_nothing(tmp_path: Path) -> None:
    async with at_work(tmp_path, None) as desk:
        call = await desk.shop.pending(desk.shop.paid()[0])
        for words in ((), ("--credential-file", str(desk.credential))):
            told = await desk.json("approvals", "approve", call, "--yes", *words, code=1)
            assert told["ok"] is False
            assert told["state"] == "pending"
            assert "same_uid" in told["problem"]
        votes = (await desk.json("approvals", "show", call))["votes"]
        assert {vote["assurance"] for vote in votes} == {"same_uid"}
        assert code_of(await desk.shop.resume(call)) == "approval_pending"
        assert desk.shop.moved() == []


@pytest.mark.anyio
async def test_an_approved_call_runs_once_and_the_vote_says_it_was_ones_own(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        invoice = desk.shop.paid()[0]
        call = await desk.shop.pending(invoice)
        words = (
            "approvals",
            "approve",
            call,
            "--yes",
            "--credential-file",
            str(desk.credential),
            "--reason",
            "fair",
        )
        assert "Approved by olga" in await desk.run(*words)
        assert code_of(await desk.shop.resume(call)) is None
        assert len(desk.shop.moved(invoice)) == 1
        assert "consumed" in await desk.run(*words, code=1)
        told = await desk.json("why", call)
        [vote] = told["approvals"]
        assert (vote["approver"], vote["yes"], vote["self_approved"], vote["reason"]) == (
            "olga",
            True,
            True,
            "fair",
        )
        assert (await desk.json("approvals", "list"))["approvals"] == []
        assert [o["state"] for o in (await desk.json("approvals", "list", "--all"))["approvals"]] == [
            "consumed"
        ]


@pytest.mark.anyio
async def test_a_no_ends_the_call_and_frees_what_it_held(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        invoice = desk.shop.paid()[0]
        call = await desk.shop.pending(invoice)
        assert "Denied by uid:" in await desk.run("approvals", "deny", call, "--reason", "not today")
        assert desk.shop.state(call) == "denied"
        assert code_of(await desk.shop.resume(call)) == "approval_denied"
        again = await desk.shop.pending(invoice)
        assert again != call
        assert "not today" in await desk.run("why", call)


@pytest.mark.anyio
async def test_an_expired_request_is_said_to_be_expired_and_cannot_be_approved(tmp_path: Path) -> None:
    def hurried(config: dict[str, Any]) -> None:
        config["approvals"] = {"allow_same_uid_file": True, "expires_s": 1}

    async with at_work(tmp_path, hurried) as desk:
        call = await desk.shop.pending(desk.shop.paid()[0])
        approval = desk.shop.row(call)["approval"]
        with contextlib.closing(sqlite3.connect(tmp_path / "comptroller.db")) as raw, raw:
            raw.execute("UPDATE approvals SET expires_ms = expires_ms - 5000 WHERE id = ?", (approval,))
        raw.close()
        assert "expired" in await desk.run("approvals", "show", approval)
        told = await desk.json(
            "approvals", "approve", approval, "--yes", "--credential-file", str(desk.credential), code=1
        )
        assert told["state"] == "expired"
        assert (await desk.json("approvals", "list"))["approvals"] == []


@pytest.mark.anyio
async def test_a_role_that_is_not_asked_for_gives_no_vote(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        call = await desk.shop.pending(desk.shop.paid()[0])
        cook = tmp_path / "cook.credential"
        vouched = ("--credential-file", str(desk.credential))
        await desk.run("approver", "add", "kim", "--role", "cook", "--credential-out", str(cook), *vouched)
        told = await desk.json("approvals", "approve", call, "--yes", "--credential-file", str(cook), code=1)
        assert "cook" in told["problem"]
        assert told["votes"] == []


@pytest.mark.anyio
async def test_a_credential_nobody_has_is_refused(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        call = await desk.shop.pending(desk.shop.paid()[0])
        made_up = tmp_path / "made-up"
        for text in ("olga.AAAA", "nobody.AAAA", "", "olga"):
            made_up.write_text(text)
            made_up.chmod(0o600)
            await desk.run("approvals", "approve", call, "--yes", "--credential-file", str(made_up), code=2)
        made_up.write_text(desk.credential.read_text())
        made_up.chmod(0o644)
        await desk.run("approvals", "approve", call, "--yes", "--credential-file", str(made_up), code=2)
        link = tmp_path / "link"
        link.symlink_to(desk.credential)
        await desk.run("approvals", "approve", call, "--yes", "--credential-file", str(link), code=2)
        assert (await desk.json("approvals", "show", call))["votes"] == []


@pytest.mark.anyio
async def test_a_row_that_asks_for_another_action_than_is_shown_cannot_be_decided(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        first, second = [await desk.shop.pending(invoice) for invoice in desk.shop.paid()[:2]]
        one, two = desk.shop.row(first)["approval"], desk.shop.row(second)["approval"]
        with contextlib.closing(sqlite3.connect(tmp_path / "comptroller.db")) as raw, raw:
            taken = "(SELECT requested_digest FROM approvals WHERE id = ?)"
            raw.execute(f"UPDATE approvals SET requested_digest = {taken} WHERE id = ?", (two, one))  # noqa: S608
        raw.close()
        result = await desk.run(
            "approvals", "approve", one, "--yes", "--credential-file", str(desk.credential), code=2
        )
        assert result == ""


# -- calls and why ----------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_why_answers_for_every_call_however_it_ended(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        shop, (one, two, three) = desk.shop, desk.shop.paid()[:3]
        read = call_of(await shop.call("lookup_invoice", invoice_id=one))
        done = call_of(await shop.refund(one, 5))
        over = call_of(await shop.refund(one, 500))
        missing = call_of(await shop.refund(one, 6, why=None))
        unknown = call_of(await shop.call("no_such_tool"))
        pending = await shop.pending(two)
        shop.misbehave(Fault(tool="issue_refund", kind=FaultKind.RAISE, point=Point.AFTER_WRITE))
        doubt = call_of(await shop.refund(three, 7))
        shop.behave()
        expected = {
            read: ("done", "allowed by", f"on invoice {one}", "nobody was asked"),
            done: ("done", "refunded_usd", "read back: matched", "settled"),
            over: ("refused", "issue_refund.max_amount_usd", "denied", "500"),
            missing: ("refused", "policy was not asked", "why_missing"),
            unknown: ("refused", "no such tool", "unknown_tool"),
            pending: ("pending", "waits for 1 approver", "nothing yet"),
            doubt: ("in_doubt", "effect is unknown", "held"),
        }
        for call, words in expected.items():
            said = await desk.run("why", call)
            assert all(word in said for word in words), (words, said)
            assert "comptroller halt --task" in said
            assert "in no checkpoint yet" in said
            assert (await desk.json("why", call))["call"] == call
        await desk.shop.service.checkpointer.write(TENANT)
        proof = (await desk.json("why", done))["proof"]
        assert proof["entries"]
        assert all(entry["included"] for entry in proof["entries"])
        assert "proved by the signed checkpoint" in await desk.run("why", done)
        listed = (await desk.json("calls", "list"))["calls"]
        assert {call["call"] for call in listed} == set(expected)
        assert [c["call"] for c in (await desk.json("calls", "list", "--state", "pending"))["calls"]] == [
            pending
        ]
        assert len((await desk.json("calls", "list", "-n", "2"))["calls"]) == 2
        assert (await desk.json("calls", "list", "--task", "nothing"))["calls"] == []


@pytest.mark.anyio
async def test_an_id_may_be_shortened_while_it_is_alone(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        call = call_of(await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[0]))
        assert (await desk.json("calls", "show", call[:20]))["call"] == call
        call_of(await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[1]))
        await desk.run("calls", "show", call[:7], code=2)
        for wrong in ("0000000", "abc", "../../etc", "01%"):
            await desk.run("why", wrong, code=2)


@pytest.mark.anyio
async def test_an_entry_that_was_changed_is_no_longer_proved(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        call = call_of(await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[0]))
        await desk.shop.service.checkpointer.write(TENANT)
        index = desk.shop.row(call)["records"]
        with contextlib.closing(sqlite3.connect(tmp_path / "comptroller.db")) as raw, raw:
            raw.execute("UPDATE log_entry SET leaf = zeroblob(32) WHERE idx = ?", (int(index),))
        raw.close()
        assert "NOT in the signed checkpoint" in await desk.run("why", call)
        found = await desk.json("audit", "verify", code=1)
        assert found["tenants"][0]["first_bad"] == int(index)


@pytest.mark.anyio
@pytest.mark.parametrize("verdict", ["done", "not_done"])
async def test_a_persons_word_settles_a_call_in_doubt(tmp_path: Path, verdict: str) -> None:
    async with at_work(tmp_path) as desk:
        shop, invoice = desk.shop, desk.shop.paid()[0]
        before = verdict == "not_done"
        shop.misbehave(
            Fault(
                tool="issue_refund",
                kind=FaultKind.RAISE,
                point=Point.BEFORE_WRITE if before else Point.AFTER_WRITE,
            )
        )
        call = call_of(await shop.refund(invoice, 7))
        shop.behave()
        assert shop.state(call) == "in_doubt"
        words = ("calls", "resolve", call, "--as", verdict, "--reason", "looked at the ledger")
        assert "credential" in await desk.run(*words, code=1)
        assert shop.state(call) == "in_doubt"
        await desk.run(*words, "--credential-file", str(desk.credential))
        assert shop.state(call) == verdict
        said = await desk.run("why", call)
        assert f"{verdict} by olga: looked at the ledger" in said
        assert ("settled" if verdict == "done" else "released") in said
        again = await shop.refund(invoice, 7)
        if verdict == "done":  # its claim is kept
            assert (code_of(again), details_of(again)["call"]) == ("already_done", call)
            assert "a person looked" in again.text
        else:  # its claim is free again
            assert code_of(again) is None
        assert len(shop.moved(invoice)) == 1
        await desk.run(*words, "--credential-file", str(desk.credential), code=2)


# -- audit ------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_log_verifies_with_the_key_that_is_published(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        answer = await desk.shop.call("lookup_invoice", invoice_id=desk.shop.paid()[0])
        assert (await desk.json("audit", "verify"))["tenants"][0]["beyond"] is None
        await desk.shop.service.checkpointer.write(TENANT)
        receipts = tmp_path / "receipts"
        receipts.write_text(json.dumps(answer.meta["comptroller/receipt"]) + "\n")
        key = (await desk.json("audit", "vkey"))["vkey"]
        words = (
            "--vkey",
            key,
            "--checkpoint",
            str(tmp_path / "checkpoints.log"),
            "--receipts",
            str(receipts),
        )
        found = await desk.json("audit", "verify", *words)
        assert found["ok"] is True
        assert found["tenants"][0]["receipts"] == 1
        assert found["tenants"][0]["beyond"] == 0
        assert "the log is whole" in await desk.run("audit", "verify")
        other = key.replace("comptroller/", "somebody/")
        await desk.run("audit", "verify", "--vkey", other, code=2)
        receipts.write_text(json.dumps({**answer.meta["comptroller/receipt"], "leaf": "00" * 32}) + "\n")  # type: ignore[dict-item]
        await desk.run("audit", "verify", *words, code=1)


@pytest.mark.anyio
async def test_the_tail_is_the_newest_entries_oldest_first(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        for invoice in desk.shop.paid()[:3]:
            await desk.shop.call("lookup_invoice", invoice_id=invoice)
        told = (await desk.json("audit", "tail", "-n", "2"))["entries"]
        assert [entry["type"] for entry in told] == ["read", "read"]
        assert told[0]["index"] + 1 == told[1]["index"]
        said = (await desk.run("audit", "tail")).splitlines()
        assert [line.split()[3] for line in said] == [
            "approver_added",
            "bundle_activated",
            "read",
            "read",
            "read",
        ]
        assert await desk.run("audit", "tail", "-n", "0") == ""


# -- policy -----------------------------------------------------------------------------------------------------------


def test_the_policies_are_shown_as_cedar_all_or_for_one_tool(tmp_path: Path) -> None:
    placed(tmp_path)
    everything = run(tmp_path, "policy", "show").stdout
    assert '@id("issue_refund.max_amount_usd")' in everything
    assert '@id("lookup_invoice.allow")' in everything
    one = run(tmp_path, "policy", "show", "lookup_invoice").stdout
    assert '@id("lookup_invoice.allow")' in one
    assert "issue_refund" not in one
    assert run(tmp_path, "policy", "show", "no_such_tool").exit_code == 2


@pytest.mark.anyio
async def test_a_decision_is_explained_policy_by_policy_and_compared_with_today(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        shop, (one, two) = desk.shop, desk.shop.paid()[:2]
        over = call_of(await shop.refund(one, 60))
        within = call_of(await shop.refund(one, 15))
        waiting = await shop.pending(two)
        early = call_of(await shop.refund(one, 5, why=None))
        told = await desk.json("policy", "explain", within)
        assert told["recorded"]["verdict"] == "allow"
        assert (told["now"]["verdict"], told["differs"], told["same_bundle"], told["whole"]) == (
            "allow",
            False,
            True,
            True,
        )
        by_id = {one["id"]: one for one in told["policies"]}
        assert (by_id["issue_refund.allow"]["matched"], by_id["issue_refund.allow"]["decided"]) == (
            True,
            True,
        )
        assert by_id["issue_refund.max_amount_usd"]["matched"] is False
        told = await desk.json("policy", "explain", over)
        assert (told["recorded"]["verdict"], told["now"]["verdict"], told["differs"]) == (
            "deny",
            "deny",
            False,
        )
        assert [one["id"] for one in told["policies"] if one["decided"]] == ["issue_refund.max_amount_usd"]
        assert "deny by issue_refund.max_amount_usd" in await desk.run("policy", "explain", over)
        told = await desk.json("policy", "explain", waiting)
        assert (told["recorded"]["verdict"], told["differs"]) == ("needs_approval", False)
        await desk.run("policy", "explain", early, code=2)

        def stricter(config: dict[str, Any]) -> None:
            tool_of(config, "issue_refund")["constraints"]["max_amount_usd"] = 10

        placed(tmp_path, stricter)
        told = await desk.json("policy", "explain", within)
        assert (told["same_bundle"], told["now"]["verdict"], told["differs"]) == (False, "deny", True)
        assert "OTHERWISE" in await desk.run("policy", "explain", within)


# -- switches ---------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("scope", ["everything", "tool", "task", "principal"])
async def test_halt_waits_for_the_server_to_obey_and_resume_lifts_it(tmp_path: Path, scope: str) -> None:
    async with at_work(tmp_path) as desk:
        shop, invoice = desk.shop, desk.shop.paid()[0]
        task = str((await shop.call("lookup_invoice", invoice_id=invoice)).meta["comptroller/task"])
        words = {
            "everything": (),
            "tool": ("--tool", "issue_refund"),
            "task": ("--task", task[:30]),
            "principal": ("--principal", shop.subject.principal.subject),
        }[scope]
        told = await desk.json("halt", *words, "--reason", "look into it")
        assert (told["ok"], told["warning"]) == (True, "")
        [owner] = told["owners"]
        assert (owner["owner"], owner["acknowledged"], owner["waiting"]) == (shop.service.owner.id, True, 0)
        assert code_of(await shop.refund(invoice, 5)) == "halted"  # at once: the server has said so
        said = await desk.run(
            "resume", *words, "--reason", "all is well", "--credential-file", str(desk.credential)
        )
        assert "obeys" in said
        assert code_of(await shop.refund(invoice, 5)) is None


@pytest.mark.anyio
async def test_a_halt_is_lifted_by_an_approver_only(tmp_path: Path) -> None:
    async with at_work(tmp_path) as desk:
        shop, invoice = desk.shop, desk.shop.paid()[0]
        await desk.run("halt", "--reason", "look into it")
        words = ("resume", "--reason", "I was told to")
        assert "approver's credential" in await desk.run(*words, code=1)
        assert (await desk.json(*words, code=1))["ok"] is False
        assert code_of(await shop.refund(invoice, 5)) == "halted"
        await desk.run(*words, "--credential-file", str(desk.credential))
        assert code_of(await shop.refund(invoice, 5)) is None
        assert [packet["by"] for packet in shop.packets(RecordType.SWITCH_CLEARED)] == ["olga"]


@pytest.mark.anyio
async def test_whose_credential_file_does_not_count_is_told_why_and_what_to_do(tmp_path: Path) -> None:
    async with at_work(tmp_path, None) as desk:
        words = ("resume", "--reason", "looked", "--credential-file", str(desk.credential))
        told = await run_in_thread(tmp_path, *words)
        assert told.exit_code == 1
        assert f"{desk.credential} belongs to this very account" in told.stderr
        assert "Leave --credential-file out" in told.stderr


@pytest.mark.anyio
async def test_where_nobody_is_enrolled_whoever_has_the_account_lifts_a_halt(tmp_path: Path) -> None:
    async with opened(tmp_path, clock=RealClock()) as shop:
        for word in ("halt", "resume"):
            assert (await run_in_thread(tmp_path, word, "--reason", "look into it")).exit_code == 0
        assert code_of(await shop.refund(shop.paid()[0], 5)) is None


@pytest.mark.anyio
async def test_a_server_that_does_not_acknowledge_is_named_and_a_dead_one_is_not_waited_for(
    tmp_path: Path,
) -> None:
    def hurried(config: dict[str, Any]) -> None:
        config["limits"] = {"halt_wait_s": 0.2}

    async with at_work(tmp_path, hurried) as desk:
        store = desk.shop.store
        stuck, dead = (
            desk.shop.service.installation.ambient.ids.uuid7(),
            "01000000-0000-7000-8000-000000000000",
        )
        for owner in (stuck, dead):
            await store.commit(TENANT, Unit([Acknowledge(owner, 0, 3, 0, 0)]))
        assert set(desk.shop.rows(OWNERS, stuck, dead)) == {stuck, dead}
        lock = owner_locks(store.database, SystemClock()).take(stuck)
        try:
            told = await desk.json("halt", "--reason", "now", code=1)
        finally:
            lock.release()
        assert {o["owner"]: o["acknowledged"] for o in told["owners"]} == {
            stuck: False,
            desk.shop.service.owner.id: True,
        }
        said = await desk.run("halt", "--reason", "again")
        assert stuck not in said
        assert "No call that was not dispatched will be." in said


@pytest.mark.anyio
async def test_a_switch_for_a_tool_that_is_not_there_is_refused_and_for_an_unknown_task_warned_of(
    tmp_path: Path,
) -> None:
    async with at_work(tmp_path) as desk:
        await desk.run("halt", "--tool", "isue_refund", "--reason", "x", code=2)
        await desk.run("halt", "--tool", "issue_refund", "--task", "t", "--reason", "x", code=2)
        assert desk.shop.store.read_now(lambda reader: reader.head(TENANT)).switch_seq == 0  # type: ignore[union-attr]
        assert "Warning" in await desk.run("halt", "--task", "00000000-nobody", "--reason", "x")
        told = await desk.json("halt", "--principal", "somebody-else", "--reason", "x")
        assert "has served" in told["warning"]
