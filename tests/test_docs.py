"""The documentation is true: its examples run, its commands parse, its links lead somewhere, its lists are complete."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import TextContent
from ruamel.yaml import YAML

from comptroller_audit.calls import TRANSITIONS
from comptroller_audit.published import check_packet, published_schemas
from comptroller_audit.vocabulary import CallState, Code, Json, JsonObject, RecordType, Refusal, RefusalClass
from comptroller_server.app import running
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.cli import cli
from comptroller_server.config.loading import load_config
from comptroller_server.face.http import PATH
from comptroller_server.installation import Installation
from comptroller_server.setting_up.clients import CLIENTS, ClientKind
from comptroller_tools.validation import compile_schema

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = ROOT / "README.md"
PACKAGES = {
    folder: f"{folder}/comptroller_{folder}" for folder in ("server", "tools", "policy", "audit", "budgets")
}


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """The fenced blocks of one language: what stands behind the language, and the block."""
    pattern = rf"^```{language}\b ?([^\n]*)\n(.*?)^```$"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# -- the quick start ----------------------------------------------------------------------------------------------


@pytest.fixture
def quick_start(tmp_path: Path) -> Path:
    """The files of the README's quick start, in a folder of their own."""
    (tmp_path / "shelf.py").write_text(blocks(README, "python")[0][1])
    (tmp_path / "comptroller.yaml").write_text(blocks(README, "yaml")[0][1])
    return tmp_path


def comptroller(folder: Path, *words: str) -> list[str]:
    config = ["--config", str(folder / "comptroller.yaml"), "--data-dir", str(folder / "data")]
    return [sys.executable, "-m", "comptroller_server.cli", *words, *config]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        comptroller(folder, *words), capture_output=True, text=True, timeout=60, check=False, cwd=folder
    )


def test_the_quick_start_of_the_readme_checks(quick_start: Path) -> None:
    checked = run(quick_start, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_gate_of_the_readme_is_a_gate_of_the_quick_start(quick_start: Path) -> None:
    config = quick_start / "comptroller.yaml"
    config.write_text(config.read_text() + blocks(README, "yaml")[1][1])
    checked = run(quick_start, "check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    gates = {tool.name: [gate.role for gate in tool.approval] for tool in load_config(config).tools}
    assert gates == {"look_up_part": [], "take_parts": ["approver"]}


@pytest.mark.anyio
async def test_the_quick_start_of_the_readme_governs_a_call_over_stdio(quick_start: Path) -> None:
    command, *words = comptroller(quick_start, "serve", "--client", "cursor")
    parameters = StdioServerParameters(
        command=command, args=words, env=dict(os.environ), cwd=str(quick_start)
    )
    with (quick_start / "log").open("w") as log:
        async with Client(stdio_client(parameters, errlog=log)) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            built_in = {"resume_call", "task_begin", "task_status", "task_finish", "hand_off"}
            assert names == {"look_up_part", "take_parts", *built_in}
            answer = await client.call_tool("look_up_part", {"part": "bolt"})
            read: dict[str, Any] = answer.structured_content or {}
            why: dict[str, Any] = {"reason": "The bench needs them.", "citations": [read["refs"][0]["ref"]]}
            four = await client.call_tool("take_parts", {"part": "bolt", "count": 4, "why": why})
            assert four.structured_content == {"part": "bolt", "stock": read["stock"] - 4}
            many = await client.call_tool("take_parts", {"part": "bolt", "count": 25, "why": why})
    told = many.content[0]
    assert many.is_error and isinstance(told, TextContent)
    assert told.text == blocks(README, "text")[0][1].strip()
    verified = run(quick_start, "audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


# -- the meeting rooms of tools.md and policies.md ----------------------------------------------------------------


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    """The example source of the two pages, with its policies."""
    page = ROOT / "docs" / "tools.md"
    (tmp_path / "policies").mkdir()
    (tmp_path / "rooms.py").write_text(blocks(page, "python")[0][1])
    (tmp_path / "comptroller.yaml").write_text(blocks(page, "yaml")[0][1])
    (tmp_path / "policies" / "rooms.cedar").write_text(blocks(ROOT / "docs" / "policies.md", "cedar")[0][1])
    return tmp_path


@pytest.mark.anyio
async def test_the_meeting_rooms_decide_as_their_pages_say(rooms: Path) -> None:
    installation = Installation(load_config(rooms / "comptroller.yaml", data_dir=rooms / "data"))
    subject = installation.identity.stdio_subject("booker")
    why: JsonObject = {"reason": "The team meets.", "citations": []}

    async with running(installation) as service:

        async def book(room: str, seats: int) -> Answer:
            arguments: JsonObject = {"room": room, "day": "2026-12-01", "seats": seats, "why": why}
            return await service.pipeline.call(Proposal(subject, "book_room", arguments))

        assert (await book("attic", 8)).structured == {"room": "attic", "day": "2026-12-01", "seats": 8}
        full = await book("attic", 5)
        assert "The room has 12 seats. (rule room-capacity)" in full.text
        assert "the cellar is not let" in (await book("cellar", 1)).text
        assert not (await book("attic", 4)).is_error
        third = await book("hall", 1)
    assert code_of(third) == "approval_pending" and "After two bookings in a day" in third.text


@pytest.mark.anyio
async def test_a_booking_of_another_room_is_stopped_by_the_rule_after_the_call(rooms: Path) -> None:
    source = rooms / "rooms.py"
    wrong = 'return request.model_copy(update={"room": "attic"})'
    assert source.read_text().count("return request") == 1
    source.write_text(source.read_text().replace("return request", wrong))
    installation = Installation(load_config(rooms / "comptroller.yaml", data_dir=rooms / "data"))
    subject = installation.identity.stdio_subject("booker")
    why: JsonObject = {"reason": "The team meets.", "citations": []}
    async with running(installation) as service:
        arguments: JsonObject = {"room": "hall", "day": "2026-12-01", "seats": 2, "why": why}
        answer = await service.pipeline.call(Proposal(subject, "book_room", arguments))
    assert answer.is_error and "rule right-room" in answer.text


@pytest.mark.anyio
async def test_the_checks_of_their_page_hold_in_the_meeting_rooms(rooms: Path) -> None:
    page = ROOT / "docs" / "checks.md"
    (rooms / "house_rules.py").write_text(blocks(page, "python")[0][1])
    config = rooms / "comptroller.yaml"
    config.write_text(config.read_text().replace("policies:", blocks(page, "yaml")[0][1] + "policies:"))
    installation = Installation(load_config(config, data_dir=rooms / "data"))
    subject = installation.identity.stdio_subject("booker")
    why: JsonObject = {"reason": "The team meets.", "citations": []}
    async with running(installation) as service:
        arguments: JsonObject = {"room": "attic", "day": "2026-12-01", "seats": 9, "why": why}
        many = await service.pipeline.call(Proposal(subject, "book_room", arguments))
        few = await service.pipeline.call(Proposal(subject, "book_room", {**arguments, "seats": 8}))
    assert code_of(many) == "check_failed" and "9 seats are more than 8." in many.text
    assert not few.is_error


def test_the_cases_of_the_meeting_rooms_pass_and_cover_every_rule(rooms: Path) -> None:
    cases = rooms / "policies" / "rooms.test.yaml"
    cases.write_text(blocks(ROOT / "docs" / "policy-as-code.md", "yaml")[0][1])
    tested = run(rooms, "policy", "test", "--cover")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    cases.write_text(cases.read_text().replace("{booked: 8}", "{booked: 9}"))
    assert run(rooms, "policy", "test").returncode == 1


@pytest.mark.anyio
async def test_the_workflow_of_policies_as_code_passes_for_the_meeting_rooms(
    rooms: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = ROOT / "docs" / "policy-as-code.md"
    (rooms / "policies" / "rooms.test.yaml").write_text(blocks(page, "yaml")[0][1])
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("base", "candidate"):
        shutil.copytree(rooms, checkout / name)
    candidate = checkout / "candidate" / "comptroller.yaml"
    candidate.write_text(candidate.read_text() + "environment: other\n")
    store = checkout / "store"
    installation = Installation(load_config(checkout / "base" / "comptroller.yaml", data_dir=store))
    async with running(installation) as service:
        why: JsonObject = {"reason": "The team meets.", "citations": []}
        arguments: JsonObject = {"room": "attic", "day": "2026-12-01", "seats": 4, "why": why}
        subject = installation.identity.stdio_subject("booker")
        assert not (await service.pipeline.call(Proposal(subject, "book_room", arguments))).is_error
    yaml: Any = YAML(typ="safe", pure=True)
    steps = [
        step for step in yaml.load(blocks(page, "yaml")[1][1])["jobs"]["policies"]["steps"] if "run" in step
    ]
    lines = [shlex.split(step["run"].replace("$STORE_COPY", str(store)), comments=True) for step in steps]
    monkeypatch.chdir(checkout)
    ended = {
        " ".join(words[1:3]): (await asyncio.to_thread(CliRunner().invoke, cli, words[1:])).exit_code
        for words in lines
        if words[0] == "comptroller"
    }
    assert ended == {"check --config": 0, "policy test": 0, "policy diff": 1, "replay --policy": 0}


@pytest.mark.anyio
async def test_rules_are_put_in_force_and_taken_back_beside_a_server_as_the_page_says(
    rooms: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs" / "policy-as-code.md").read_text().partition("## Putting it in force")[2]
    lines = [
        shlex.split(line) for line in page.partition("\n## ")[0].splitlines() if line.startswith("    comp")
    ]
    here = tmp_path_factory.mktemp("here")
    shutil.copytree(rooms, here, dirs_exist_ok=True)
    shutil.copytree(rooms, here / "candidate")
    candidate = here / "candidate" / "policies"
    (candidate / "rooms.test.yaml").write_text(blocks(ROOT / "docs" / "policy-as-code.md", "yaml")[0][1])
    (candidate / "more.cedar").write_text(
        '@id("closed") forbid (principal, action == Comptroller::Action::"book_room", resource)\n'
        'when { context.input.room == "cellar" };\n'
    )
    monkeypatch.delenv("COMPTROLLER_CONFIG", raising=False)
    monkeypatch.chdir(here)
    installation = Installation(load_config(here / "comptroller.yaml", data_dir=here / "store"))
    async with running(installation) as service:
        before, ended = service.pipeline.bundle, list[int]()
        for words in lines:
            done = await asyncio.to_thread(
                CliRunner().invoke, cli, [*words[1:], "--data-dir", str(here / "store")]
            )
            ended.append(done.exit_code)
            await service.watch.look("local")
            await service.pipeline.follow("local")
            assert (service.pipeline.bundle == before) is (len(ended) in (1, 2, 5)), done.output
    assert ended == [0, 0, 0, 1, 0]


def code_of(answer: Answer) -> Json:
    refusal = answer.meta["comptroller/refusal"]
    assert isinstance(refusal, dict)
    return refusal["code"]


# -- client snippets ----------------------------------------------------------------------------------------------


def servers_in_readme() -> list[dict[str, Any]]:
    """Each client entry of the README's JSON snippets."""
    found: list[dict[str, Any]] = []
    for _, text in blocks(README, "json"):
        snippet = json.loads(text)
        found.append((snippet.get("mcpServers") or snippet["servers"])["comptroller"])
    return found


def test_every_client_snippet_starts_an_existing_command_for_a_configured_client(quick_start: Path) -> None:
    configured = set(load_config(quick_start / "comptroller.yaml").identity.local.clients)
    started = [server for server in servers_in_readme() if "command" in server]
    named: set[str] = set()
    for server in started:
        assert Path(server["command"]).name == "comptroller" and Path(server["command"]).is_absolute()
        assert complaint(server["args"]) is None
        named.add(server["args"][server["args"].index("--client") + 1])
    assert len(started) == 4
    assert named | {"claude-code"} == configured


def test_every_http_snippet_names_our_path_and_holds_no_token() -> None:
    served = [server for server in servers_in_readme() if "command" not in server]
    assert len(served) == 3
    for server in served:
        assert (server.get("url") or server["serverUrl"]).endswith(f":8765{PATH}")
        assert re.fullmatch(r"Bearer \$\{(env|input):[A-Za-z_-]+\}", server["headers"]["Authorization"])


def test_the_client_snippets_are_those_the_command_line_prints() -> None:
    """Pasted JSON is JSON, and what Claude Code is told is a line of shell."""
    text = README.read_text()
    program, config = "/path/to/checkout/.venv/bin/comptroller", "/path/to/comptroller.yaml"
    for kind, client in CLIENTS.items():
        _, _, part = text.partition(f"<summary>{client.title}</summary>")
        part = part.partition("</details>")[0]
        stdio = client.over_stdio([program, "serve", "--client", kind, "--config", config])
        http = client.over_http(f"http://127.0.0.1:8765{PATH}", f"/path/to/{kind}.token")
        for snippet in (stdio, http):
            if snippet is None:
                assert kind is ClientKind.CLAUDE_DESKTOP
            elif kind is ClientKind.CLAUDE_CODE:
                assert f"    {snippet}\n" in part and shlex.split(snippet)[:3] == ["claude", "mcp", "add"]
            else:
                assert f"```json\n{snippet}\n```" in part and json.loads(snippet)


# -- commands, targets, links -------------------------------------------------------------------------------------


def complaint(words: list[str]) -> str | None:
    """What the command line says against these words, without running anything; None when it takes them."""
    command: click.Command = cli
    try:
        context = click.Context(cli, info_name="comptroller")
        while True:
            values, rest, _ = command.make_parser(context).parse_args(list(words))
            if not isinstance(command, click.Group):
                break
            if not rest:
                return None if values else f"{context.command_path} alone is no command"
            name, command_, words = command.resolve_command(context, rest)
            assert command_ is not None
            command, context = command_, click.Context(command_, parent=context, info_name=name)
    except click.ClickException as error:
        return error.format_message()
    return f"too many words: {rest}" if rest else None


def commands_in(text: str) -> Iterator[list[str]]:
    """Every `comptroller …` that a page tells somebody to run."""
    shown = re.findall(r"`(comptroller(?: [^`\n]+)?)`", text)
    shown += re.findall(r"^    (?:\S*/)?(comptroller .+)$", text, re.MULTILINE)
    shown += re.findall(r" -- \S*/(comptroller .+)$", text, re.MULTILINE)
    for line in shown:
        words = shlex.split(line.replace("…", "WORDS"))[1:]
        if words:
            yield words


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_on_the_page_parses(page: Path) -> None:
    wrong = {" ".join(words): said for words in commands_in(page.read_text()) if (said := complaint(words))}
    assert wrong == {}


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert complaint(["audit", "verify", "--receipts", "FILE"]) is None
    assert complaint(["audit", "verify", "--reciepts", "FILE"])
    assert complaint(["aduit"])
    assert complaint(["why", "CALL", "CALL"])
    assert complaint(["audit"])
    assert [*commands_in("run `comptroller why CALL`\n\n    .venv/bin/comptroller halt --reason x")] == [
        ["why", "CALL"],
        ["halt", "--reason", "x"],
    ]


def test_every_make_target_on_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        named = re.findall(r"`make ([a-z-]+)", text) + re.findall(r"^    make ([a-z-]+)", text, re.MULTILINE)
        assert set(named) <= targets, page_id(page)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    inside = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in inside if link and not (page.parent / link).exists()] == []


def test_every_page_the_code_points_at_exists() -> None:
    sources = [path for package in PACKAGES.values() for path in (ROOT / package).rglob("*.py")]
    named = {name for path in sources for name in re.findall(r"docs/[\w/.-]+\.md", path.read_text())}
    assert "docs/decisions/0004-one-writer-per-record.md" in named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


# -- pages that list something ------------------------------------------------------------------------------------


def test_every_refusal_code_is_explained_once_under_its_class() -> None:
    explained: list[tuple[str, str]] = []
    heading = ""
    for line in text_of("docs/refusals.md").splitlines():
        if line.startswith("## "):
            heading = line[3:]
        elif found := re.match(r"\| `(\w+)` \| [^|]+ \| [^|]+ \|$", line):
            explained.append((found[1], heading))
    assert sorted(explained) == sorted((code.value, Refusal(code, "").failure_class.value) for code in Code)
    assert {heading for _, heading in explained} == set(RefusalClass)


def test_every_packet_type_is_listed_once_with_its_schema_and_its_example() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| \[schema\]\((\S+)\) \| \[golden\]\((\S+)\) \|$",
        text_of("docs/packets.md"),
        re.MULTILINE,
    )
    assert sorted(kind for kind, _, _ in rows) == sorted(RecordType)
    for kind, schema, golden in rows:
        assert Path(schema).name == Path(golden).name == f"{kind}.v1.json"


def test_every_packet_shown_fits_its_published_schema() -> None:
    shown = {
        label.removeprefix("packet="): json.loads(text)
        for label, text in blocks(ROOT / "docs/packets.md", "json")
    }
    assert set(shown) >= {"envelope", "action", "audit", "refused", "handed_off"}
    for kind, packet in shown.items():
        if kind != "envelope":
            check_packet(RecordType(kind), packet)
        schema = compile_schema(json.loads(published_schemas()[f"{kind}.v1.json"]))
        assert schema.check(packet) == []


def test_the_decisions_are_listed_and_each_says_why_what_follows_and_what_not() -> None:
    folder = ROOT / "docs" / "decisions"
    index = re.findall(r"^- \[\d+\. [^\]]+\]\(([^)]+)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    pages = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert index == pages
    assert [int(name[:4]) for name in pages] == list(range(1, len(pages) + 1))
    for name in pages:
        headings = re.findall(r"^## (.+)$", (folder / name).read_text(), re.MULTILINE)
        assert headings == ["Context", "Decision", "Consequences", "Non-goals"], name


def test_the_architecture_names_every_state_and_draws_no_other() -> None:
    drawing = text_of("docs/architecture.md").split("## States of a call")[1].split("```")[1]
    drawn = set(re.findall(r"[a-z]+(?:_[a-z]+)*", re.sub(r"\([^)]*\)", "", drawing)))
    reached = {state for targets in TRANSITIONS.values() for state in targets} | {CallState.PROPOSED}
    assert drawn == {state.value for state in reached}


# -- names of code and tests --------------------------------------------------------------------------------------


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """Every function and class of a Python file."""
    return frozenset(re.findall(r"^\s*(?:async def|def|class) (\w+)", path.read_text(), re.MULTILINE))


@functools.cache
def modules() -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for package in PACKAGES.values():
        for path in (ROOT / package).rglob("*.py"):
            found.setdefault(path.stem, []).append(path)
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT], ids=page_id)
def test_every_test_a_page_names_exists(page: Path) -> None:
    text = page.read_text()
    for name, test in re.findall(r"`((?:[\w/]+/)?test_\w+\.py)(?:::(test_\w+))?`", text):
        path = ROOT / "tests" / name.removeprefix("tests/")
        assert path.is_file(), name
        assert not test or test in names_in(path), f"{name}::{test}"
    alone = set(re.findall(r"`(test_\w+)`", text))
    everywhere = {test for path in (ROOT / "tests").rglob("test_*.py") for test in names_in(path)}
    assert alone <= everywhere


def test_every_module_the_story_of_a_call_names_exists() -> None:
    table = text_of("docs/architecture.md").split("## One call")[1].split("## States")[0]
    rows = re.findall(r"^\| \d+ .* \| ([^|]+) \|$", table, re.MULTILINE)
    assert len(rows) == 16
    for row in rows:
        package = ""
        for word in re.findall(r"`([\w/]+)`", row):
            if word in PACKAGES:
                package = word
            else:
                assert (ROOT / PACKAGES[package] / f"{word}.py").is_file(), f"{package} {word}"


def test_every_guard_of_a_law_exists() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text_of("docs/laws.md"), re.MULTILINE)[1:]
    assert len(rows) >= 13
    for _, guard, tests in rows:
        assert re.search(r"`[\w/]+\.py(::test_\w+)?`", tests), "a law without a test"
        for dotted in re.findall(r"`([a-z]\w*(?:\.\w+)+)`", guard):
            module, *names = dotted.split(".")
            assert module in modules(), dotted
            known = frozenset[str]().union(*(names_in(path) for path in modules()[module]))
            assert set(names) <= known, dotted
