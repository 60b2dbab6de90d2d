"""Two configurations compared in words: every change is named, and what widened is never called narrowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_server import installation as installation_module
from comptroller_server.config.loading import load_config
from comptroller_server.installation import Installation
from comptroller_server.rehearsal.comparing import compare
from comptroller_server.rehearsal.leanings import MISSING, Direction, direction_of
from comptroller_tools import functions
from tests.scenarios.compensation_kit import reversing
from tests.scenarios.kit import Changes, compiled_once, placed, read_once, tool_of
from tests.server.cli_kit import at_work, run, run_in_thread

WIDENED, NARROWED, CHANGED = Direction
OPPOSITE = {WIDENED: NARROWED, NARROWED: WIDENED, CHANGED: CHANGED}
GATE = """@id("odd-days") @approval("approver") @reason("{reason}")
{comment}forbid (principal, action == Comptroller::Action::"cancel_refund", resource)
when {{ context.environment == "{place}" }} unless {{ context.approvals.approver >= {count} }};"""


@pytest.fixture(autouse=True)
def read_and_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "read_function", read_once)
    monkeypatch.setattr(installation_module, "compile_bundle", compiled_once)


def desk(folder: Path, changes: Changes | None = None, cedar: str = "") -> Installation:
    return Installation(load_config(placed(folder, changes, cedar=cedar), data_dir=folder))


def told(
    folder: Path, changes: Changes | None = None, before: str = "", after: str = ""
) -> list[tuple[Any, str]]:
    """What changed, there and back; the way back must say the opposite."""
    old, new = desk(folder / "old", cedar=before), desk(folder / "new", changes, after)
    forth, back = compare(old, new), compare(new, old)
    assert sorted((change.path, OPPOSITE[change.direction]) for change in forth) == sorted(
        (change.path, change.direction) for change in back
    )
    return [(change.direction, change.text) for change in forth]


def refund(**keys: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        tool_of(config, "issue_refund").update(keys)

    return change


def section(part: str, /, **keys: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config[part] = {**config.get(part, {}), **keys}

    return change


def more_tools(config: dict[str, Any]) -> None:
    config["tools"].append({"name": "get_refund", "allow_actions": ["read"]})


def everybody(config: dict[str, Any]) -> None:
    del tool_of(config, "issue_refund")["roles"]


def more_roles(config: dict[str, Any]) -> None:
    config["identity"]["local"]["roles"].append("boss")


def another_window(config: dict[str, Any]) -> None:
    config["budgets"]["windows"][0]["max"] = 400


WHEN = 'context.input.amount_usd.greaterThan(decimal("20"))'
BOUNDS = {"max_amount_usd": 50, "require_reason_code": True}


@pytest.mark.parametrize(
    ("changes", "direction", "text"),
    [
        (refund(constraints={**BOUNDS, "max_amount_usd": 60}), WIDENED, "`issue_refund`: constraints.max_amount_usd is 60 instead of 50"),
        (refund(constraints={"require_reason_code": True}), WIDENED, "`issue_refund`: constraints.max_amount_usd is gone; it was 50"),
        (refund(constraints={**BOUNDS, "min_amount_usd": 1}), NARROWED, "`issue_refund`: constraints.min_amount_usd is new: 1"),
        (refund(constraints={**BOUNDS, "one_of": {"reason_code": ["goodwill"]}}), NARROWED, '`issue_refund`: constraints.one_of is new: {"reason_code": ["goodwill"]}'),
        (refund(roles=["support_agent", "boss"]), WIDENED, "`issue_refund`: roles has also boss"),
        (everybody, WIDENED, '`issue_refund`: roles is gone; it was ["support_agent"]'),
        (refund(approval=[]), WIDENED, f"`issue_refund`: the approval of 1 with the role approver when {WHEN} is no longer asked for"),
        (refund(approval=[{"role": "approver", "at_least": 2, "when": WHEN}]), NARROWED, "`issue_refund`: approval.approver.at_least is 2 instead of 1"),
        (refund(approval=[{"role": "approver"}]), NARROWED, f"`issue_refund`: approval.approver.when is gone; it was {WHEN}"),
        (refund(allow_actions=["delete"]), NARROWED, "`issue_refund` may delete instead of create"),
        (refund(verify=[]), WIDENED, None),
        (refund(why=False), WIDENED, "`issue_refund`: why is false instead of true"),
        (refund(derived={"remaining_usd": "facts.invoice.paid_usd"}), CHANGED, None),
        (more_tools, WIDENED, "the tool `get_refund` is new: it may read, for everybody"),
        (more_roles, WIDENED, "identity.local.roles has also boss"),
        (another_window, NARROWED, "budgets.windows.refunded_usd per principal per day.max is 400 instead of 500"),
        (section("budgets", max_tool_calls=20), WIDENED, "budgets.max_tool_calls is 20 instead of 10"),
        (section("rollout", mode="human_approval"), NARROWED, "rollout.mode is human_approval instead of off"),
        (section("safety", withhold_credentials=False), WIDENED, "safety.withhold_credentials is false instead of true"),
        (section("limits", queue_max=7), CHANGED, "limits.queue_max is 7 instead of 1024"),
        (section("agent", name="other"), CHANGED, "agent.name is other instead of support-triage"),
    ],
)  # fmt: skip
def test_a_changed_key_is_told_with_its_direction_there_and_back(
    tmp_path: Path, changes: Changes, direction: Direction, text: str | None
) -> None:
    ((which, said),) = told(tmp_path, changes)
    assert which is direction
    assert text is None or said == text


def test_rules_are_compared_by_what_they_mean_and_not_by_their_text(tmp_path: Path) -> None:
    def rule(place: str = "eu", count: int = 1, reason: str = "Odd.", comment: str = "") -> str:
        return GATE.format(place=place, count=count, reason=reason, comment=comment)

    def between(name: str, before: str, after: str) -> list[tuple[Any, str]]:
        return told(tmp_path / name, None, before, after)

    assert between("same", rule(), rule()) == []
    new = (NARROWED, "the rule odd-days is new: it asks for 1 with the role approver, “Odd.”")
    assert between("new", "", rule()) == [new]
    ((two, _),) = between("two", rule(), rule(count=2))
    assert two is NARROWED
    ((moved, text),) = between("place", rule(), rule(place="us"))
    assert moved is CHANGED and text.startswith("the rule odd-days decides otherwise than before")
    ((both, _),) = between("both", rule(), rule(place="us", count=2))
    assert both is CHANGED  # more people, for something else
    ((said, text),) = between("reason", rule(), rule(reason="Strange."))
    assert (
        said is CHANGED and text == "the rule odd-days decides as before and says something else, “Strange.”"
    )
    ((worded, text),) = between("comment", rule(), rule(comment="// why\n"))
    assert worded is CHANGED and text == "policies/more.cedar is worded otherwise; no rule is another for it"
    permit = '@id("all") permit (principal, action == Comptroller::Action::"cancel_refund", resource);'
    ((opened, _),) = between("permit", "", permit)
    assert opened is WIDENED


def test_another_definition_of_a_tool_is_told(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    code = 'def look(key: str) -> dict[str, str]:\n    """Look."""\n    return {"key": key}\n'
    for name, text in (("one", code), ("two", code.replace("key: str", "key: str, deep: bool = False"))):
        (tmp_path / name / "shelf.py").write_text(text)
        config = "sources: {shelf: {python: ./shelf.py}}\ntools: [{name: look, allow_actions: [read]}]\n"
        (tmp_path / name / "comptroller.yaml").write_text(config)
    old, new = (
        Installation(load_config(tmp_path / name / "comptroller.yaml", data_dir=tmp_path))
        for name in ("one", "two")
    )
    ((change),) = compare(old, new)
    assert change.direction is CHANGED
    assert change.text.startswith(
        "`look` is defined otherwise by its source: arguments.properties.deep is new"
    )


def test_what_reverses_and_checks_and_everything_else_of_a_large_change_has_a_word(tmp_path: Path) -> None:
    paths = {change.path for change in compare(desk(tmp_path / "old"), desk(tmp_path / "new", reversing))}
    assert {"tools.get_refund", "tools.issue_refund.compensate", "tools.cancel_refund.facts.refund"} <= paths


_numbers = st.integers(0, 9) | st.none() | st.just(MISSING)
_words = st.lists(st.sampled_from("abc"), unique=True) | st.none() | st.just(MISSING)
_paths = st.sampled_from(
    [
        ("tools", "t"), ("tools", "t", "roles"), ("tools", "t", "constraints", "max_x"), ("tools", "t", "why"),
        ("tools", "t", "constraints", "min_x"), ("tools", "t", "approval", "boss", "when"), ("agent", "name"),
        ("tools", "t", "allow_actions"), ("rollout", "mode"), ("budgets", "max_steps"), ("approvals", "expires_s"),
    ]
)  # fmt: skip


@given(_paths, _numbers | _words, _numbers | _words)
def test_the_way_back_leans_the_other_way(path: tuple[str, ...], old: Any, new: Any) -> None:
    if path[-1] == "allow_actions" and not all(isinstance(each, list) for each in (old, new)):
        return
    assert direction_of(path, new, old) is OPPOSITE[direction_of(path, old, new)]


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_names_line_and_direction_and_exits_by_whether_anything_differs(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    placed(old)
    path = placed(new)
    assert run(new, "policy", "diff", str(old)).exit_code == 0
    path.write_text(path.read_text().replace('"max_amount_usd": 50', '"max_amount_usd": 60'))
    result = run(new, "policy", "diff", str(old))
    assert result.exit_code == 1
    line = f"{path}:1: `issue_refund`: constraints.max_amount_usd is 60 instead of 50"
    assert line in result.stdout and "1 widened." in result.stdout
    document = json.loads(
        run(new, "policy", "diff", str(old / "comptroller.yaml"), str(new), "--json").stdout
    )
    assert document["same"] is False and document["old"] != document["new"]
    assert [change["path"] for change in document["changes"]] == [
        "tools.issue_refund.constraints.max_amount_usd"
    ]
    assert run(new, "policy", "diff", str(tmp_path / "nowhere")).exit_code == 2
    assert not (new / "comptroller.db").exists()


@pytest.mark.anyio
async def test_the_active_bundle_is_known_by_its_digest(tmp_path: Path) -> None:
    run_: Callable[..., Any] = run_in_thread
    async with at_work(tmp_path):
        assert (await run_(tmp_path, "policy", "diff", "active")).exit_code == 0
        path = tmp_path / "comptroller.yaml"
        path.write_text(path.read_text().replace('"max_amount_usd": 50', '"max_amount_usd": 60'))
        other = await run_(tmp_path, "policy", "diff", "active", "--json")
        document = json.loads(other.stdout)
        assert other.exit_code == 1 and document["same"] is False and document["old"]
