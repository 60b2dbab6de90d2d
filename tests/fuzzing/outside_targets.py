"""What comes from outside beside messages: requests over HTTP, answers of upstreams, clients' files, and policies' texts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import mcp_types as types
from cedarpy import PolicySet, Schema
from pydantic import ValidationError

from comptroller_policy import schema, syntax
from comptroller_policy.cedar import ask, entities_of
from comptroller_policy.errors import ValueInexact
from comptroller_policy.model import PolicyFile
from comptroller_policy.paths import is_list, is_object
from comptroller_policy.schema import cedar_json, cedar_value, record_type
from comptroller_server.commands.showing import plain
from comptroller_server.errors import CommandError
from comptroller_server.face import exchange, headers, http_sessions
from comptroller_server.face.exchange import exchange_in
from comptroller_server.face.framing import Framed, scan
from comptroller_server.face.headers import TASK_HEADER, RequestHeaders
from comptroller_server.face.http_sessions import opens_one, wants_stream
from comptroller_server.face.protocol import GovernedServer, not_a_message, parse_message
from comptroller_server.setting_up import jsonc
from comptroller_server.setting_up.clients import Machine
from comptroller_server.setting_up.jsonc import plain_json, span_of
from comptroller_server.upstreams import importing
from comptroller_server.upstreams.importing import SECRETS, Reading, read_client_file
from comptroller_server.upstreams.source_names import SourceNames
from comptroller_tools.upstream import bounds, results
from comptroller_tools.upstream.results import APART, ITEMS_MAX, outcome_of
from comptroller_tools.upstream.settings import ErrorsMean
from tests.fuzzing.guided import value_of
from tests.fuzzing.target import HOSTILE, Choices, Target, changed_somewhere, spelled

__all__ = ["TARGETS"]

EDITS_MAX = 4


def _changed(tree: Any, chosen: Choices) -> Any:
    for _ in range(1 + chosen.byte() % EDITS_MAX):
        tree = changed_somewhere(tree, chosen)
    return tree


# -------------------------------------------------------------------------------------------- HTTP requests

MODERN = "2026-07-28"
CALL: dict[str, Any] = {
    "jsonrpc": "2.0", "id": 1, "method": "tools/call",
    "params": {"name": "refund", "arguments": {"amount": 5}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "x", "version": "1"}, "comptroller/task": "t-1", "progressToken": 7,
    }},
}  # fmt: skip
LINES = (
    (b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream"), (b"mcp-name", b"refund"),
    (b"mcp-protocol-version", MODERN.encode()), (b"mcp-method", b"tools/call"), (TASK_HEADER, b"t-1"),
)  # fmt: skip
OTHER_LINES = (
    b"comptroller-grant", b"Comptroller-Task", b"COMPTROLLER-x", b"mcp-param-a", b"mcp-session-id", b"mcp-name", b"MCP-Name",
    b"authorization", b"traceparent", b"mcp-method", b"accept",
)  # fmt: skip
OTHER_VALUES = (
    b"",
    b"*/*",
    b"other",
    b"=?base64?cmVmdW5k?=",
    b"=?base64?!?=",
    b"\xff\xfe",
    b"q=;,",
    b"tools/call",
    b"2025-06-18",
    b"x" * 3_000,
)


def _requests(_: Path) -> Callable[[bytes], None]:
    server = cast("GovernedServer", SimpleNamespace(header_schema=lambda name: None))  # pyright: ignore[reportUnknownLambdaType]

    def target(data: bytes) -> None:
        chosen = Choices(data)
        lines = list(LINES)
        for _ in range(chosen.byte() % EDITS_MAX):
            at = chosen.below(len(lines) + 1)
            other = (
                chosen.one_of(OTHER_LINES),
                chosen.one_of(OTHER_VALUES) if chosen.byte() % 2 else chosen.taken(20),
            )
            lines[at : at + chosen.byte() % 2] = [other] * (chosen.byte() % 3)
        framed = scan(spelled(_changed(CALL, chosen) if chosen.byte() % 4 else CALL).encode())
        if not isinstance(framed, Framed):
            return
        if parse_message(framed.message) is None:
            not_a_message(framed.message).model_dump_json(by_alias=True, exclude_unset=True)
            return
        read = RequestHeaders(lines)
        ours = [name for name, _ in lines if name.lower().startswith(b"comptroller-")]
        assert read.has_strange() == (ours not in ([], [TASK_HEADER]))
        opens_one(framed.message)
        wants_stream(read.only(b"mcp-protocol-version"), read.only(b"accept"), framed.message)
        found = exchange_in(
            server, framed.message, {"type": "http", "method": "POST", "path": "/mcp", "headers": lines}
        )
        if found is not None:
            names = [value for name, value in lines if name.lower() == b"mcp-name"]
            assert len(names) == 1
            assert found.params["name"] in (names[0].decode("latin-1"), "refund")
            assert [value for name, value in lines if name.lower() == b"mcp-method"] == [b"tools/call"]

    return target


# --------------------------------------------------------------------------------------- answers of upstreams

BYTES = "QkxPQg=="
RESULT: dict[str, Any] = {
    "content": [
        {"type": "text", "text": "done", "_meta": {"comptroller/task": "x"}}, {"type": "image", "data": BYTES, "mimeType": "image/png"},
        {"type": "resource", "resource": {"uri": "file:///x", "blob": BYTES, "mimeType": "image/gif"}},
        {"type": "resource_link", "uri": "file:///y", "name": "y"},
    ],
    "structuredContent": {"rows": [{"type": "image", "data": BYTES}, {"uri": "x", "blob": BYTES, "apart": True}], "n": 1},
    "isError": False,
}  # fmt: skip


def _results(_: Path) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        chosen = Choices(data)
        tree = _changed(RESULT, chosen)
        try:
            result = types.CallToolResult.model_validate_json(spelled(tree))
        except ValidationError:
            return
        for structured in (True, False):
            outcome = outcome_of(
                "up",
                result,
                structured,
                chosen.one_of(list(ErrorsMean)),
                ["image/png"] if chosen.byte() % 2 else (),
            )
            json.dumps(outcome.value)
            assert structured is False or not _holds(outcome.value, APART)
            assert structured or len(_others(outcome.value)) <= ITEMS_MAX
            assert outcome.told_model is None or plain(outcome.told_model).encode()

    return target


def _others(value: Any) -> list[Any]:
    """What a value made of contents holds beside its text."""
    found: Any = value.get("other", []) if is_object(value) else []
    return found if is_list(found) else []


def _holds(value: Any, name: str) -> bool:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return name in members or any(_holds(inner, name) for inner in members.values())
    return is_list(value) and any(_holds(inner, name) for inner in value)


# ------------------------------------------------------------------------------------------- clients' files

CLIENT: dict[str, Any] = {
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "x", "${env:WORD}"], "env": {"API_TOKEN": "abc", "A": "${input:key}"}, "cwd": "${HOME}"},
        "far": {"type": "http", "url": "https://mcp.example.com/mcp", "headers": {"Authorization": "Bearer ${WORD:-x}"}},
    },
    "inputs": [{"id": "key", "type": "promptString", "password": True, "description": "k", "default": "d"}],
    "projects": {"/somebody/p": {"mcpServers": {"x": {"command": "y"}}}},
}  # fmt: skip
COMMENTS = (
    " // so\n",
    "/* so */",
    ",",
    ", ,",
    "/*",
    "//",
    '"',
    "\\",
    "\ufeff",
    "\u2028",
    "\r",
    "{}",
    "[]",
    "NaN",
    "\x00",
    '"mcpServers": {}, ',
)


def _client_files(folder: Path) -> Callable[[bytes], None]:
    file = folder / "mcp.json"

    def target(data: bytes) -> None:
        chosen = Choices(data)
        tree: Any = _changed(CLIENT, chosen) if chosen.byte() % 4 else CLIENT
        text = spelled(tree)
        for _ in range(chosen.byte() % EDITS_MAX):
            at = chosen.below(len(text) + 1)
            text = text[:at] + chosen.one_of(COMMENTS) + text[at + chosen.byte() % 2 :]
        file.write_text(text, encoding="utf-8")
        try:
            read = read_client_file(
                file, Reading(Machine(folder, "linux", {"WORD": "its-value"}), SourceNames([], {}))
            )
        except CommandError as error:
            plain(str(error)).encode()
            return
        whole = json.loads(plain_json(read.content.removeprefix(b"\xef\xbb\xbf").decode()))
        for servers in read.lists:
            span = span_of(read.plain, servers.keys)
            there: Any = whole
            for key in servers.keys:
                there = there[key]
            assert span is not None
            assert spelled(json.loads(read.plain[slice(*span)])) == spelled(there)
            for found in servers.servers:
                written = json.dumps(found.mcp)
                written.encode()
                assert "secret://" not in written.replace(SECRETS, "")
                plain(f"{found.name} {found.why_not} {found.notes}").encode()

    return target


# --------------------------------------------------------------------------------------------------- policies

PERMIT = PolicySet.from_str("permit(principal, action, resource);")
SOMEBODY = {"type": "U", "id": "u"}


def _cedar_values(_: Path) -> Callable[[bytes], None]:
    entities = entities_of([])

    def target(data: bytes) -> None:
        half = len(data) // 2
        found, chosen = value_of(data[:half]), Choices(data[half:])
        if not is_object(found):
            return
        type_ = record_type(found)
        value: Any = {name: _valued(kept.type, chosen) for name, kept in type_.fields.items()}
        try:
            context = json.dumps(cedar_value(value, type_))
        except ValueInexact as error:
            plain(str(error)).encode()
            return
        applies = {"principalTypes": ["U"], "resourceTypes": ["U"], "context": cedar_json(type_)}
        nobody: dict[str, Any] = {}
        declared = {"": {"entityTypes": {"U": nobody}, "actions": {"a": {"appliesTo": applies}}}}
        answered = ask(
            SOMEBODY,
            {"type": "Action", "id": "a"},
            SOMEBODY,
            context,
            PERMIT,
            entities,
            Schema.from_json_str(json.dumps(declared)),
        )
        assert answered.allowed, (answered.errors, context)

    return target


def _valued(type_: schema.CedarType, chosen: Choices) -> Any:
    match type_:
        case schema.RecordOf():
            return {name: _valued(kept.type, chosen) for name, kept in type_.fields.items()}
        case schema.SetOf():
            return [_valued(type_.item, chosen) for _ in range(chosen.byte() % 3)]
        case schema.Scalar(schema.Kind.STRING):
            return chosen.one_of(("x", "", "\u202e", "\x00", chosen.one_of(HOSTILE)))
        case schema.Scalar(schema.Kind.BOOL):
            return chosen.one_of((True, False, 1))
        case schema.Scalar(schema.Kind.LONG):
            return chosen.one_of((0, -1, 2**63 - 1, 2.0, 1e300, -(2**63), chosen.one_of(HOSTILE)))
        case _:
            return chosen.one_of(
                (0.5, 1, -0.0, 922337203685477.5807, 1e-4, 1e14, 123456789012345.5, chosen.one_of(HOSTILE))
            )


POLICIES = (
    b'@id("a") permit(principal, action == Comptroller::Action::"refund", resource) when { context.input.amount <= decimal("20") };',
    b'// so\n@id("b") @approval("x") forbid(principal in Comptroller::Role::"r", action, resource) unless { context.approvals.x >= 2 };',
)  # fmt: skip


def _policies(_: Path) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        policies, findings = syntax.parse_file(PolicyFile("x.cedar", data.decode(errors="replace")))
        for finding in findings:
            plain(str(finding)).encode()
        assert all(policy.id for policy in policies)

    return target


SPELLED = bytes((0, 2, 1, 0, 2, 11, 0, 1, 0, 4, 15, 12, 0, 1, 3, 4, 21, 4, 0, 1, 11, 0, 1, 8, 3, 1, 6, 0))
_EDITS = tuple(bytes((at, 1, at, 0, 1, 2, at, 3, 7, at, 0, 3, 1, 1)) for at in range(8))
TARGETS = (
    Target("requests", _requests, _EDITS[:1], (exchange, headers, http_sessions), 200),
    Target("results", _results, _EDITS[:1], (results, bounds), 300),
    Target("client files", _client_files, _EDITS[:1], (importing, jsonc), 200),
    Target("cedar values", _cedar_values, (SPELLED + bytes(28), SPELLED + bytes(range(28))), (schema,), 300),
    Target("policies", _policies, POLICIES, (syntax,), 300),
)
