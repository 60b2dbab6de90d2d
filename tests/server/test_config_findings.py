"""Everything wrong with a configuration is told at once, each with file, line, path and fix; never a traceback."""

from __future__ import annotations

import io
import json
import re
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from comptroller_server.config.findings import _NOT_YET  # pyright: ignore[reportPrivateUsage]  # the table is the test
from comptroller_server.config.loading import FINDINGS_MAX, load_config
from comptroller_server.errors import ConfigInvalid
from tests.server.test_config import DESK, findings, load, write

# (what replaces what in DESK, the line told, how the finding begins, what it also says)
WRONG: list[tuple[str, str, int, str, str]] = [
    ("name: support-triage", "nam: x", 1, "`agent.nam`", "write `name`"),
    ("agent: {", "agents: {", 1, "`agents`", "write `agent`"),
    ("max_steps: 8", "max_steps: 8.0", 13, "`budgets.max_steps`", "whole number"),
    ("max_steps: 8", "max_steps: true", 13, "`budgets.max_steps`", "whole number"),
    ("max_steps: 8", "max_steps: 0", 13, "`budgets.max_steps`", "greater than or equal to 1"),
    ("max_steps: 8", "max_steps:", 13, "`budgets.max_steps`", "has no value"),
    ("max_steps: 8", "<<: {max_steps: 1}", 13, "merge keys", "write the keys out"),
    ("max_tool_calls: 10", 'max_tool_calls: "10"', 14, "`budgets.max_tool_calls`", "without quotes"),
    ("timeout_seconds: 60", "timeout_seconds: .inf", 15, "`.inf`", "write a limit"),
    ("max: 500", "max: five", 17, "`budgets.windows[0].max`", "must be a number"),
    ("max: 500", "max: -1", 17, "`budgets.windows[0].max`", "greater than or equal to 0"),
    ("unit: refunded_usd, max", "unit: bananas, max", 17, "`budgets.windows[0].unit`", "use one of `calls`"),
    ("window: day, unit", "window: task, unit", 17, "`budgets.windows[0]`", "belong together"),
    ("window: day, unit", "window: days, unit", 17, "`budgets.windows[0].window`", "did you mean `day`?"),
    ("name: issue_refund, window", "name: nothing, window", 18, "`budgets.windows[1].name`", "use one of"),
    ("scope: tool, name", "scope: tenant, name", 18, "`budgets.windows[1].name`", "`scope: tool`"),
    (
        "interactive: true",
        "interactive: yes",
        9,
        "`identity.local.clients.claude-desktop.interactive`",
        "`true`",
    ),
    ("triage-bot: {}", "Claude-Desktop: {}", 9, "`identity.local.clients.Claude-Desktop`", "by case only"),
    ("triage-bot: {}", "'a/b': {}", 9, "`identity.local.clients.a/b`", "must match"),
    (
        "roles: [support_agent]\n    clients",
        "roles: support\n    clients",
        8,
        "`identity.local.roles`",
        "list",
    ),
    ("roles: [support_agent]\n    res", "roles:\n    res", 29, "`tools[2].roles`", "has no value"),
    ("python: ", "pyhton: ", 11, "`sources.desk.pyhton`", "write `python`"),
    ('{python: "comptroller_tools.desk.tools"}', "{}", 11, "`sources.desk`", "needs `python` or `mcp`"),
    (
        '"comptroller_tools.desk.tools"',
        "./none.py:run",
        11,
        "`sources.desk.python`",
        "a file that is not there",
    ),
    ('"comptroller_tools.desk.tools"', "os; rm", 11, "`sources.desk.python`", "must match"),
    ("desk: {python", "2: {python", 11, "the key `2`", "put it in quotes"),
    ("name: find_refund", "name: lookup_invoice", 25, "`tools[1].name`", "comptroller.yaml:20 declares"),
    ("name: find_refund", "name: Task_Begin", 25, "`tools[1].name`", "choose another name"),
    ("name: find_refund", "name: find__refund", 25, "`tools[1].name`", "use one `_`"),
    ("name: find_refund", "name: find refund", 25, "`tools[1].name`", "must match"),
    ("name: find_refund", f"name: {'x' * 41}", 25, "`tools[1].name`", "40 at most"),
    ("halt_wait_s: 1.5", "tool_name_max: 65", 48, "`limits.tool_name_max`", "equal to 64"),
    ("name: find_refund", "schema: X", 25, "`tools[1].name`", "is missing"),
    ("schema: RefundRequest", "schema_name: R", 27, "`tools[2].schema_name`", "is not a key here"),
    ("schema: RefundRequest", "source: crm", 27, "`tools[2].source`", "use one of `desk`"),
    (
        "allow_actions: [create]",
        "allow_actions: [reed]",
        28,
        "`tools[2].allow_actions[0]`",
        "did you mean `read`",
    ),
    ("units: {refunded_usd", "units: {calls", 32, "`tools[2].units.calls`", "choose another name"),
    ("{tool: lookup_invoice,", "{tool: lookup,", 34, "`tools[2].facts.invoice.tool`", "use one of"),
    ("{tool: lookup_invoice,", "{tool: issue_refund,", 34, "`tools[2].facts.invoice.tool`", "is not a read"),
    ("      invoice: {tool", "      2x: {tool", 34, "`tools[2].facts.2x`", "must match"),
    (
        "count: issue_refund",
        "count: refund",
        38,
        "`tools[2].history.principal.refunds_today.count`",
        "use one of",
    ),
    (
        "principal.refunds_today",
        "refunds_today",
        38,
        "`tools[2].history.refunds_today`",
        "`principal.<name>`",
    ),
    ("at_least: 1", "at_least: 0", 40, "`tools[2].approval[0].at_least`", "greater than or equal to 1"),
    ("{fact: invoice", "{fact: ticket", 42, "`tools[2].verify[0].fact`", "use one of `invoice`"),
    ("{tool: find_refund", "{tool: nothing", 43, "`tools[2].recover.tool`", "use one of"),
    ("{tool: find_refund", "{tool: issue_refund", 43, "`tools[2].recover.tool`", "is not a read"),
    ("timeout_s: 10", "timeout_s: 10000", 44, "`tools[2].limits.timeout_s`", "less than or equal to 600"),
    ("timeout_s: 10", "timeout: 10", 44, "`tools[2].limits.timeout`", "write `timeout_s`"),
    ("policies/*.cedar", "rules/*.cedar", 45, "`policies[0]`", "matches no file"),
    ("policies/*.cedar", "comptroller.yaml", 45, "`policies[0]`", "not a `.cedar` file"),
    ("mode: auto", "mode: automatic", 46, "`rollout.mode`", "did you mean `auto`?"),
    ("environment: test", "environment: 'a b'", 49, "`environment`", "must match"),
    ("Resolve low-risk billing tickets", "secret://env/HOME", 1, "`agent.objective`", "takes no secret"),
    ("sqlite:///{data_dir}/comptroller.db", "mysql://h/db", 3, "`store.url`", "`postgresql+psycopg://`"),
    ("sqlite:///{data_dir}/comptroller.db", "postgres://h/db", 3, "`store.url`", "`postgresql+psycopg://`"),
    ("sqlite:///{data_dir}/comptroller.db", "sqlite://", 3, "`store.url`", "must name a file"),
    ("sqlite:///{data_dir}/comptroller.db", "sqlite:///:memory:", 3, "`store.url`", "must name a file"),
    ("sqlite:///{data_dir}/comptroller.db", "sqlite:///a.db?mode=ro", 3, "`store.url`", "must name a file"),
    ("sqlite:///{data_dir}/comptroller.db", "postgresql+psycopg://h", 3, "`store.url`", "names no database"),
    ("sqlite:///{data_dir}/comptroller.db", "sqlite:///{dir}/a.db", 3, "`store.url`", "`{data_dir}`"),
    ("{data_dir}/keys.json", "~/keys.json", 4, "`store.keys.file`", "write the whole path"),
    (
        "{data_dir}/keys.json",
        "{data_dir}/comptroller.db",
        4,
        "`store.keys.file`",
        "also the file of the database",
    ),
    ("{data_dir}/checkpoints.log", "{data_dir}/keys.json", 5, "`store.checkpoints[0].file`", "of store.keys"),
    ("{data_dir}/checkpoints.log", "{data_dir/c", 5, "`store.checkpoints[0].file`", "`{data_dir}`"),
]


@pytest.mark.parametrize(
    ("old", "new", "line", "begins", "says"), WRONG, ids=[f"{w[2]}-{w[1][:30]}" for w in WRONG]
)
def test_each_wrong_thing_has_its_line_its_path_and_its_fix(
    tmp_path: Path, old: str, new: str, line: int, begins: str, says: str
) -> None:
    assert DESK.count(old) == 1, "the replacement must hit one place"
    found = findings(tmp_path, DESK.replace(old, new))
    mine = [finding for finding in found if finding.startswith(f"comptroller.yaml:{line}: {begins}")]
    assert mine, found
    assert says in mine[0]


@pytest.mark.parametrize("longest", [20, 64])
def test_names_are_as_long_as_the_limit_says_and_no_longer(tmp_path: Path, longest: int) -> None:
    limited = re.sub(r"(?m)^limits:.*$", f"limits: {{tool_name_max: {longest}}}", DESK)
    load(tmp_path, limited.replace("find_refund", "x" * longest))
    (defined, *_) = findings(tmp_path, limited.replace("find_refund", "x" * (longest + 1)))
    assert defined.startswith("comptroller.yaml:25: `tools[1].name`")
    assert (f"use {longest} at most" if longest < 64 else "must match") in defined


def test_all_wrong_things_are_told_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    independent = [one for one in WRONG if one[2] in (13, 14, 17, 28, 38, 40, 42, 44, 45, 46)]
    text, expected, used = DESK, list[tuple[int, str]](), set[int]()
    for old, new, line, begins, _ in independent:
        if line not in used and not new.startswith("<<"):
            text, used = text.replace(old, new), used | {line}
            expected.append((line, begins))
    found = findings(tmp_path, text)
    told = [(int(finding.split(":")[1]), finding.split(": ", 1)[1].split(" ")[0]) for finding in found]
    assert told == sorted(expected)


def test_a_wrong_value_does_not_hide_what_else_is_wrong_in_the_same_tool(tmp_path: Path) -> None:
    text = DESK.replace("timeout_s: 10", "timeout_s: ten").replace("count: issue_refund", "count: nothing")
    text = text.replace("role: approver, at_least: 1", "at_least: 1").replace(
        "{fact: invoice", "{fact: ticket"
    )
    lines = [finding.split(": ")[0] for finding in findings(tmp_path, text)]
    assert lines == [f"comptroller.yaml:{line}" for line in (38, 40, 42, 44)]


def test_a_reference_to_something_of_the_wrong_shape_is_no_second_error(tmp_path: Path) -> None:
    text = DESK.replace("allow_actions: [read]\n    resource", "allow_actions: [raed]\n    resource")
    text = text.replace('refunded_usd: "input', 'refunded_usd: 5, x: "input')
    lines = [finding.split(": ")[0] for finding in findings(tmp_path, text)]
    assert lines == ["comptroller.yaml:22", "comptroller.yaml:32"]


def test_a_file_that_cannot_be_read_does_not_make_every_reference_an_error(tmp_path: Path) -> None:
    assert findings(tmp_path, DESK, a="tools: [\n") == [
        finding for finding in findings(tmp_path, DESK, a="tools: [\n") if "comptroller.d/a.yaml:" in finding
    ]
    other = DESK.replace("count: issue_refund", "count: made_elsewhere").replace(
        "max_steps: 8", "max_steps: x"
    )
    places = [finding.split(": ")[0] for finding in findings(tmp_path, other, a="tools: [\n")]
    assert places == ["comptroller.yaml:13", "comptroller.d/a.yaml:2"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python: ", "pyhton: "),
        ("{python: ", "{mcp: "),
        ("halt_wait_s: 1.5", "halt_wait_s:"),
        ("max: 500", "max:"),
    ],
)
def test_one_mistake_is_told_once(tmp_path: Path, old: str, new: str) -> None:
    assert len(findings(tmp_path, DESK.replace(old, new))) == 1


@pytest.mark.parametrize("path", _NOT_YET, ids=lambda path: ".".join(map(str, path)))
def test_a_key_of_a_later_version_is_refused_and_never_passed_over(
    tmp_path: Path, path: tuple[str, ...]
) -> None:
    lists = {"tools", "windows", "checkpoints"}
    value: Any = {"a": 1}
    for at in range(len(path) - 1, -1, -1):
        if path[at] != "*":
            value = {path[at]: value}
        else:
            value = [value] if path[at - 1] in lists else {"some": value}
    found = findings(tmp_path, json.dumps(value))
    shown = ".".join(path).replace(".*", "[0]" if lists & set(path) else ".some")
    assert (
        f"comptroller.yaml:1: `{shown}` is not supported in this version, so nothing would enforce it; remove it"
        in found
    )


@pytest.mark.parametrize("text", ["", "# only this\n", "---\n", "null\n", "[]\n", "just text\n"])
def test_a_file_without_sections_is_refused(tmp_path: Path, text: str) -> None:
    found = findings(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith("comptroller.yaml:1: the file ")


def test_a_config_file_that_is_not_there_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigInvalid, match=r"none\.yaml: the file cannot be read \(No such file or directory\)"
    ):
        load_config(tmp_path / "none.yaml")


def test_a_flood_of_findings_is_capped_and_counted(tmp_path: Path) -> None:
    found = findings(tmp_path, "agent:\n" + "".join(f"  k{at}: 1\n" for at in range(500)))
    assert len(found) == FINDINGS_MAX + 1
    assert found[-1].endswith(f"{500 - FINDINGS_MAX} findings more; fix these first")


Loc = tuple[str | int, ...]
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**18,
    "",
    "x",
    "secret://env/X",
    "{",
    "é" * 300,
    [],
    {},
    [None],
    [[]],
    {"a": {}},
]


def _kind(value: Any) -> str:
    return type(value).__name__


def _places(value: Any, at: Loc = ()) -> list[Loc]:
    inside: list[tuple[str | int, Any]] = []
    if _kind(value) == "dict":
        inside = list(value.items())
    elif _kind(value) == "list":
        inside = list(enumerate(cast("list[Any]", value)))
    return [at, *(found for key, child in inside for found in _places(child, (*at, key)))]


PLAIN: dict[str, Any] = YAML(typ="safe", pure=True).load(DESK)  # pyright: ignore[reportUnknownMemberType]  # ruamel's
PLACES = [place for place in _places(PLAIN) if place]


@given(
    st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["drop", "rename", "twice", *range(len(ODD))])),
        max_size=4,
    )
)
def test_any_mutation_of_a_good_configuration_loads_or_is_explained(
    mutations: list[tuple[Loc, str | int]],
) -> None:
    plain = deepcopy(PLAIN)
    for place, how in mutations:
        _mutate(plain, place, how)
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(plain, text)  # pyright: ignore[reportUnknownMemberType]  # ruamel's
    lines = text.getvalue().count("\n") + 1
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), text.getvalue())
        try:
            config = load_config(path, data_dir=Path(folder) / "data")
        except ConfigInvalid as error:
            assert error.findings
            for finding in error.findings:
                placed = re.fullmatch(rf"{re.escape(str(path))}:(\d+)", finding.where)
                assert placed, finding
                assert 1 <= int(placed[1]) <= lines
                assert re.search(r"^`\S+` .{5}", finding.message) or "the file" in finding.message, finding
        else:
            json.dumps(config.digest_material(), allow_nan=False)


def _mutate(plain: Any, place: Loc, how: str | int) -> None:
    """Change one place, if an earlier mutation has left it there."""
    holder: Any = plain
    for part in place[:-1]:
        try:
            holder = holder[part]
        except (KeyError, IndexError, TypeError):
            return
    last = place[-1]
    if isinstance(holder, str):
        return
    try:
        value = holder[last]
    except (KeyError, IndexError, TypeError):
        return
    if how == "drop":
        del holder[last]
    elif how == "rename" and _kind(holder) == "dict":
        holder[f"{last}_"] = holder.pop(last)
    elif how == "twice" and _kind(holder) == "list":
        holder.append(deepcopy(value))
    elif isinstance(how, int):
        holder[last] = deepcopy(ODD[how])
