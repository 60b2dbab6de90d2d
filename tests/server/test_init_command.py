from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner, Result
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import TextContent
from ruamel.yaml import YAML

from comptroller_audit.vocabulary import Effect
from comptroller_server.cli import cli
from comptroller_server.commands import init as init_module
from comptroller_server.config.editor_schema import published_schema
from comptroller_server.config.loading import load_config
from comptroller_server.config.model import Config
from comptroller_server.setting_up.answers import slug

BANK = '''
"""A bank, as far as these tests need one."""


def get_balance(account: str) -> float:
    """What is on the account."""
    return 1.0


def pay(account: str, amount_usd: float) -> float:
    """Pay somebody."""
    return 1.0


def close_account(account: str) -> bool:
    """Close it."""
    return True


def remove_account(account: str) -> bool:
    """Remove it."""
    return True
'''


@pytest.fixture(autouse=True)
def a_desk_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sample would set this for the whole process."""
    monkeypatch.setenv("COMPTROLLER_DESK", str(tmp_path / "desk.db"))


def init(folder: Path, *words: str, answers: str | None = None) -> Result:
    line = ["init", str(folder / "shop"), "--data-dir", str(folder / "data"), *words]
    return CliRunner().invoke(cli, line, prog_name="comptroller", input=answers)


def begun(folder: Path, *words: str) -> dict[str, Any]:
    """What `init --json` says when it went well."""
    result = init(folder, *words, "--json")
    assert result.exit_code == 0, (result.stdout, result.stderr)
    said: dict[str, Any] = json.loads(result.stdout)
    assert said["ok"] and said["check"]["findings"] == []
    return said


def evaluated(folder: Path) -> tuple[list[dict[str, Any]], int]:
    """The scenarios as `comptroller eval run --json` tells them, and its exit code."""
    options = ["--config", str(folder / "shop/comptroller.yaml"), "--data-dir", str(folder / "data")]
    result = CliRunner().invoke(cli, ["eval", "run", *options, "--json"])
    scenarios: list[dict[str, Any]] = json.loads(result.stdout)["scenarios"]
    return scenarios, result.exit_code


def loaded(folder: Path) -> Config:
    return load_config(folder / "shop" / "comptroller.yaml", data_dir=folder / "data")


def written_texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "shop").rglob("*") if path.is_file()}


def test_the_sample_desk_gets_the_limits_that_were_asked_for(tmp_path: Path) -> None:
    begun(tmp_path, "--yes", "--agent", "refund clerk", "--most", "30", "--calls", "7", "--minutes", "2")
    config = loaded(tmp_path)
    refund = config.tool("issue_refund")
    assert config.agent.name == "refund clerk"
    assert (config.budgets.max_tool_calls, config.budgets.timeout_seconds) == (7, 120)
    assert refund is not None and refund.constraints["max_amount_usd"] == 30
    assert [gate.when for gate in refund.approval] == [
        'context.input.amount_usd.greaterThan(decimal("12.0"))'
    ]
    assert [(one.unit, one.max) for one in config.budgets.windows] == [("refunded_usd", Decimal(300))]
    assert config.store.keys_file.parent == tmp_path / "data" / "refund-clerk"


@pytest.mark.parametrize("most", ["0.1", "30", "12.5", "999999"])
def test_the_sample_comes_with_cases_that_hold_until_a_rule_is_loosened(tmp_path: Path, most: str) -> None:
    said = begun(tmp_path, "--yes", "--most", most)
    assert any(" policy test " in line for line in said["next"])
    options = ["--config", str(tmp_path / "shop/comptroller.yaml"), "--data-dir", str(tmp_path / "data")]
    tested = CliRunner().invoke(cli, ["policy", "test", *options])
    assert tested.exit_code == 0, tested.output
    assert "6 passed" in tested.output
    rules = tmp_path / "shop/policies/first.cedar"
    rules.write_text(rules.read_text().replace("greaterThan", "lessThan"))
    assert CliRunner().invoke(cli, ["policy", "test", *options]).exit_code == 1


def test_a_snippet_for_a_client_that_is_not_configured_says_so(tmp_path: Path) -> None:
    begun(tmp_path, "--yes", "--no-approver", "--client", "vscode")
    path = tmp_path / "shop" / "comptroller.yaml"
    words = ("--config", str(path), "config", "snippet")
    assert "identity.local.clients" not in CliRunner().invoke(cli, [*words, "vscode"]).stderr
    said = CliRunner().invoke(cli, [*words, "cursor"])
    assert said.exit_code == 0
    assert "cursor is not in `identity.local.clients` yet" in said.stderr
    assert json.loads(said.stdout)["mcpServers"]
    path.write_text("nonsense: {}\n")
    assert CliRunner().invoke(cli, [*words, "cursor"]).exit_code == 0


@pytest.mark.parametrize(
    ("most", "scenarios"), [("0.1", 4), ("12.5", 4), ("30", 5), ("50", 5), ("999999", 3)]
)
def test_the_sample_comes_with_scenarios_that_pass_and_touch_nothing_of_its_own(
    tmp_path: Path, most: str, scenarios: int
) -> None:
    said = begun(tmp_path, "--yes", "--most", most)
    assert any(" eval run " in line for line in said["next"])
    played, exit_code = evaluated(tmp_path)
    assert [one["end"] for one in played] == ["passed"] * scenarios
    assert exit_code == 0
    assert not (tmp_path / "desk.db").exists()
    assert not list((tmp_path / "shop").glob("desk.db*"))


@pytest.mark.parametrize(
    ("file", "rule", "loosened", "name"),
    [
        ("policies/first.cedar", "greaterThan", "lessThan", "a small refund"),
        ("comptroller.yaml", "max_amount_usd: 30", "max_amount_usd: 40", "more than 30 dollars"),
        ("comptroller.yaml", 'decimal("12.0")', 'decimal("29.0")', "above 12.00 dollars a refund waits"),
        ("policies/first.cedar", "forbid", "permit", "more than what is left"),
    ],
)
def test_a_rule_of_the_sample_that_is_changed_fails_its_scenario(
    tmp_path: Path, file: str, rule: str, loosened: str, name: str
) -> None:
    begun(tmp_path, "--yes", "--most", "30")
    text = (tmp_path / "shop" / file).read_text()
    assert rule in text
    (tmp_path / "shop" / file).write_text(text.replace(rule, loosened))
    played, exit_code = evaluated(tmp_path)
    assert exit_code == 1
    assert any(one["end"] == "failed" and one["name"].startswith(name) for one in played)


def test_only_the_sample_may_be_played_with(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(BANK)
    begun(tmp_path, "--python", str(tmp_path / "bank.py"), "--no-approver")
    assert loaded(tmp_path).environment == "default"
    assert not (tmp_path / "shop/evals").exists()


def test_a_budget_too_small_to_play_with_gets_no_scenarios(tmp_path: Path) -> None:
    said = begun(tmp_path, "--yes", "--calls", "9")
    assert not any(" eval run " in line for line in said["next"])
    assert not (tmp_path / "shop/evals").exists()


def test_functions_are_listed_with_what_their_names_say_and_money_is_limited(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(BANK)
    said = begun(tmp_path, "--python", str(tmp_path / "bank.py"), "--most", "12.50", "--no-approver")
    tools = {tool.name: tool for tool in loaded(tmp_path).tools}
    assert {name: tool.effect for name, tool in tools.items()} == {
        "get_balance": Effect.READ,
        "pay": Effect.EXECUTE,
        "close_account": Effect.EXECUTE,
        "remove_account": Effect.DELETE,
    }
    assert tools["pay"].units == {"usd": "input.amount_usd"}
    assert tools["pay"].constraints["max_amount_usd"] == 12.5
    assert {name for name, tool in tools.items() if tool.approval} == {
        "pay",
        "close_account",
        "remove_account",
    }
    assert said["notes"] == []


def test_it_says_when_nothing_limits_money(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text(BANK)
    words = ("--python", str(tmp_path / "bank.py"), "--unit", "eur", "--no-approver")
    assert begun(tmp_path, *words)["notes"] == []  # an amount in whatever it is
    (tmp_path / "bank.py").write_text(BANK.replace("amount_usd", "much"))
    assert "nothing limits money yet" in begun(tmp_path, *words, "--force")["notes"][0]
    assert loaded(tmp_path).budgets.windows == ()


def test_functions_that_do_not_load_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bank.py").write_text("def pay(:")
    result = init(tmp_path, "--python", str(tmp_path / "bank.py"))
    assert result.exit_code == 2 and "does not load" in result.stderr
    assert not (tmp_path / "shop").exists() and not (tmp_path / "data").exists()


def test_a_server_is_written_as_a_source_and_classified_next(tmp_path: Path) -> None:
    command = "no-such-server-here @scope/server-paper-files --root '/srv/my docs'"
    said = begun(tmp_path, "--command", command, "--no-approver", "--client", "vscode")
    mcp = loaded(tmp_path).sources["no_such_server_here"].mcp
    assert mcp is not None and mcp.args == ("@scope/server-paper-files", "--root", "/srv/my docs")
    assert [" classify " in said["next"][0], " check " in said["next"][1]] == [True, True]
    assert "vscode" in json.loads(said["client"]["snippet"])["servers"]["comptroller"]["args"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--command", "server --key sk-ant-api03-" + "Ab1" * 30], "credential"),
        (["--url", "http://example.com/mcp"], "https://"),
        (["--url", "https://example.com/mcp", "--python", "x.py"], "several sources"),
        (["--source", "python"], "--python"),
        (["--yes", "--most", "-3"], "is no amount"),
        (["--yes", "--unit", "eur"], "refunded_usd"),
        (["--yes", "--approver", "two words"], "cannot name an approver"),
        (["--yes", "--no-approver", "--credential-out", "ann.credential"], "nobody"),
        (["--yes", "--credential-out", "no/such/folder/ann.credential"], "no folder"),
        ([], "--yes"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_written(
    tmp_path: Path, words: list[str], told: str
) -> None:
    result = init(tmp_path, *words)
    assert result.exit_code == 2 and told in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_cannot_be_made_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = init(tmp_path, "--yes", "--data-dir", str(tmp_path / "file" / "data"))
    assert result.exit_code == 2 and "--data-dir" in result.stderr
    assert not (tmp_path / "shop").exists()


def test_a_name_keeps_its_letters_where_only_ascii_is_good() -> None:
    assert slug("Büro Köln é") == "buro-koln-e"
    assert slug("店") == "agent"


def test_check_and_serve_tell_of_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    begun(tmp_path, "--yes", "--no-approver")
    (tmp_path / "file").write_text("")
    places = [
        "--config",
        str(tmp_path / "shop" / "comptroller.yaml"),
        "--data-dir",
        str(tmp_path / "file" / "d"),
    ]
    checked = CliRunner().invoke(cli, ["check", *places])
    assert checked.exit_code == 1
    for key in ("store.url", "store.keys", "store.checkpoints", "tokens"):
        assert any(key in line and "--data-dir" in line for line in checked.stdout.splitlines()), key
    served = CliRunner().invoke(cli, ["serve", "--http", "127.0.0.1:0", *places])
    assert served.exit_code == 2 and "--data-dir" in served.stderr
    assert "internal error" not in served.stderr


def test_check_looks_at_the_nearest_folder_and_at_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun(tmp_path, "--yes", "--no-approver")
    closed = tmp_path / "closed"
    closed.mkdir()
    may = os.access

    def access(path: Path, mode: int) -> bool:
        return path != closed and may(path, mode)

    monkeypatch.setattr(os, "access", access)
    places = ["--config", str(tmp_path / "shop" / "comptroller.yaml"), "--data-dir", str(closed / "data")]
    checked = CliRunner().invoke(cli, ["check", *places])
    assert checked.exit_code == 1 and f"{closed} is not writable" in checked.stdout


def test_servers_of_a_client_are_left_to_the_import(tmp_path: Path) -> None:
    (tmp_path / "cursor.json").write_text('{"mcpServers": {}}')
    said = begun(
        tmp_path, "--client-file", str(tmp_path / "cursor.json"), "--no-approver", "--client", "cursor"
    )
    assert f"import {tmp_path / 'cursor.json'} --client cursor" in said["next"][0]
    assert loaded(tmp_path).sources == {}


def test_the_servers_of_a_clients_own_file_are_for_that_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".cursor" / "mcp.json"
    file.parent.mkdir()
    file.write_text('{"mcpServers": {}}')
    said = begun(tmp_path, "--client-file", str(file), "--no-approver")
    assert said["client"]["name"] == "cursor"
    assert list(loaded(tmp_path).identity.local.clients) == ["cursor"]
    assert " approver add NAME --role approver --config " in said["next"][-1]
    assert f"import {file} --client cursor" in said["next"][0]


def test_questions_and_flags_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bank.py").write_text(BANK)
    one, other = tmp_path / "asked", tmp_path / "told"
    words = "--agent clerk --objective Pay. --client cursor --calls 9 --minutes 3 --unit usd --most 8 --no-approver"
    begun(other, "--python", str(tmp_path / "bank.py"), *words.split())
    monkeypatch.setattr(init_module, "_at_a_terminal", lambda: True)
    answers = ["clerk", "nowhere", "python", "Pay.", str(tmp_path / "bank.py"), "cursor", "none", "9", "3", "usd", "0", "8", "nobody"]  # fmt: skip
    result = init(one, answers="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    assert result.output.count("Error:") == 3  # nowhere, none and 0 are asked for again
    assert written_texts(one) == written_texts(other)


def test_what_is_there_stays_unless_it_is_forced(tmp_path: Path) -> None:
    mine = tmp_path / "shop" / "policies" / "first.cedar"
    mine.parent.mkdir(parents=True)
    mine.write_text("// mine\n")
    refused = init(tmp_path, "--yes", "--no-approver")
    assert refused.exit_code == 2 and str(mine) in refused.stderr
    assert written_texts(tmp_path) == {"first.cedar": "// mine\n"}
    begun(tmp_path, "--yes", "--no-approver", "--force")
    assert mine.read_text() != "// mine\n"


def test_a_store_of_that_name_is_gone_on_with_only_when_forced(tmp_path: Path) -> None:
    words = ("--yes", "--approver", "ann", "--agent", "clerk")
    assert begun(tmp_path, *words)["approver"]["name"] == "ann"
    other = init(tmp_path / "else", *words, "--data-dir", str(tmp_path / "data"))
    assert other.exit_code == 2 and "--agent" in other.stderr
    assert not (tmp_path / "else").exists()
    again = begun(tmp_path, *words, "--force")
    assert again["approver"] is None and "enrolled there already" in again["notes"][0]


def test_the_credential_is_in_its_private_file_and_nowhere_else(tmp_path: Path) -> None:
    kept = tmp_path / "ann.credential"
    said = begun(tmp_path, "--yes", "--approver", "ann", "--credential-out", str(kept))
    credential = kept.read_text().strip()
    assert said["approver"] == {"name": "ann", "problem": None, "credential_file": str(kept)}
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert all(credential not in text for text in (*written_texts(tmp_path).values(), json.dumps(said)))
    refused = init(tmp_path / "else", "--yes", "--credential-out", str(kept))
    assert refused.exit_code == 2 and not (tmp_path / "else").exists()


def test_what_it_writes_is_right_for_an_editor(tmp_path: Path) -> None:
    begun(tmp_path, "--yes", "--no-approver")
    text = (tmp_path / "shop" / "comptroller.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=./comptroller.schema.json\n")
    yaml: Any = YAML(typ="safe", pure=True)
    schema = json.loads((tmp_path / "shop" / "comptroller.schema.json").read_text())
    assert jsonschema_rs.Draft7Validator(schema).is_valid(yaml.load(text))
    assert schema == json.loads(published_schema())


def initialised(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "comptroller_server.cli", "init", *words]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False, env=environment)


@pytest.mark.anyio
async def test_what_it_prints_to_paste_starts_a_server_with_the_limits(tmp_path: Path) -> None:
    folder, data = tmp_path / "my shop", tmp_path / "data"
    environment = {key: value for key, value in os.environ.items() if key != "COMPTROLLER_DESK"}
    words = [str(folder), "--yes", "--json", "--approver", "ann", "--data-dir", str(data)]
    ended = initialised(words, environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    entry = json.loads(json.loads(ended.stdout)["client"]["snippet"])["mcpServers"]["comptroller"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    parameters = StdioServerParameters(
        command=entry["command"], args=entry["args"], env=environment, cwd=str(elsewhere)
    )
    with (tmp_path / "log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert {"search_tickets", "lookup_invoice", "issue_refund"} <= names
            found = await client.call_tool("search_tickets", {"status": "open"})
            why: dict[str, Any] = {"reason": "The customer was charged twice.", "citations": []}
            refund: dict[str, Any] = {
                "invoice_id": "inv_1",
                "amount_usd": 51,
                "reason_code": "goodwill",
                "why": why,
            }
            refused = await client.call_tool("issue_refund", refund)
    assert not found.is_error and (folder / "desk.db").is_file() and list(elsewhere.iterdir()) == []
    told = refused.content[0]
    assert refused.is_error and isinstance(told, TextContent) and "may be at most 50" in told.text
