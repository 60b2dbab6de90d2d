"""A plain call of the 2026 era takes a shorter road than the SDK's own; nobody outside can tell which one it took."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from starlette.types import Scope

from comptroller_audit.vocabulary import JsonObject
from comptroller_server.call.answers import META_RECEIPT, META_REFUSAL
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.call.upstream_words import META_UNTRUSTED
from comptroller_server.face import http as http_module
from comptroller_server.face.exchange import Exchange, exchange_in
from comptroller_server.face.protocol import GovernedServer
from tests.server.test_http import modern, running, send, with_headers
from tests.server.test_http_wire import connected

pytestmark = pytest.mark.anyio

WHOAMI: dict[str, Any] = {"name": "whoami", "arguments": {"q": "\ud83d\ude00 é \u2028"}}
CALL = modern("tools/call", WHOAMI, "whoami")
PICTURE: JsonObject = {"kind": "image", "data": "aGVsbG8=", "mime_type": "image/png", "apart": True}


def body(**changes: Any) -> dict[str, Any]:
    """The plain call with its JSON-RPC members changed; None leaves one out."""
    message = {**json.loads(CALL["content"]), **changes}
    return {
        **CALL,
        "content": json.dumps({key: value for key, value in message.items() if value is not None}).encode(),
    }


def params(**changes: Any) -> dict[str, Any]:
    kept = {**json.loads(CALL["content"])["params"], **changes}
    return body(params={key: value for key, value in kept.items() if value is not None})


SHORT: dict[str, dict[str, Any]] = {
    "a good call": CALL,
    "a text as id": body(id="a-1"),
    "no arguments": params(arguments=None),
    "an unknown tool": modern("tools/call", {"name": "no-such"}, "no-such"),
    "a hidden tool": modern("tools/call", {"name": "for-admins"}, "for-admins"),
    "a refusal": modern("tools/call", {"name": "refused", "arguments": {}}, "refused"),
    "a broken tool": modern("tools/call", {"name": "broken", "arguments": {}}, "broken"),
    "arguments that are no object": params(arguments=[1]),
    "capabilities that are none": params(
        _meta={
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": 7,
        }
    ),
    "JSON alone": with_headers(CALL, Accept="application/json"),
    "anything": with_headers(CALL, Accept="*/*"),
}
LONG: dict[str, dict[str, Any]] = {
    "another method": modern("tools/list"),
    "no method header": with_headers(CALL, **{"Mcp-Method": None}),
    "another method header": with_headers(CALL, **{"Mcp-Method": "tools/list"}),
    "another name": with_headers(CALL, **{"Mcp-Name": "refund"}),
    "no name": with_headers(CALL, **{"Mcp-Name": None}),
    "a version nobody speaks": with_headers(CALL, **{"MCP-Protocol-Version": "2099-01-01"}),
    "an envelope without a version": params(_meta={}),
    "a parameter header": with_headers(CALL, **{"Mcp-Param-Region": "eu"}),
    "a stream alone": with_headers(CALL, Accept="text/event-stream"),
    "nothing acceptable": with_headers(CALL, Accept="text/plain"),
    "a notification": body(id=None),
    "a name that is no text": params(name=7),
    "parameters that are none": body(params=None),
}


CHANGED = 150
"""Calls for each seed."""


def never(server: GovernedServer, message: JsonObject, scope: Scope) -> None:
    """Leaves every request to the SDK."""


async def test_both_roads_answer_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []

    def noting(server: GovernedServer, message: JsonObject, scope: Scope) -> Exchange | None:
        exchange = exchange_in(server, message, scope)
        taken.append(exchange is not None)
        return exchange

    async with running(tmp_path) as on:
        for name, request in (SHORT | LONG).items():
            answers: list[tuple[int, str | None, bytes]] = []
            asked: list[list[tuple[str, JsonObject]]] = []
            taken.clear()
            for road in (noting, never):
                monkeypatch.setattr(http_module, "exchange_in", road)
                got = await send(on, **request)
                answers.append((got.status_code, got.headers.get("content-type"), got.content))
                asked.append([(seen.tool, seen.arguments) for seen in on.governor.seen])
                on.governor.seen.clear()
            assert answers[0] == answers[1], name
            assert asked[0] == asked[1], name
            assert taken == [name in SHORT], name


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e300, 10**40, "", "whoami", "refund", "for-admins", "no-such", "2026-07-28", "2025-11-25",
    "tools/call", "tools/list", "\u0000", "é", "\u2028", [], [1], {}, {"a": None}, {"name": "whoami"},
)  # fmt: skip
CLIENT = "io.modelcontextprotocol/"
IN_META = (
    f"{CLIENT}protocolVersion",
    f"{CLIENT}clientInfo",
    f"{CLIENT}clientCapabilities",
    "progressToken",
    "comptroller/task",
    "x/y",
)
IN_PARAMS = ("name", "arguments", "_meta", "task", "inputResponses", "requestState", "extra")
IN_MESSAGE = ("jsonrpc", "id", "method", "params", "extra")
HEADERS = (
    "MCP-Protocol-Version",
    "Mcp-Method",
    "Mcp-Name",
    "Accept",
    "Content-Type",
    "Mcp-Session-Id",
    "Mcp-Param-Region",
    "Comptroller-Task",
)
WORDS = (
    None, "", "whoami", "WHOAMI", "refund", "tools/call", "Tools/Call", "2026-07-28", "2025-11-25", "*/*",
    "application/*", "application/json;q=0", "application/json; charset=latin-1", "application/json, text/plain", "text/json",
    "APPLICATION/JSON", "=?base64?d2hvYW1p?=", "%77hoami",
)  # fmt: skip


def changed(chance: random.Random) -> dict[str, Any]:
    """A good call with up to three things about it that may be wrong."""
    message: dict[str, Any] = json.loads(CALL["content"])
    headers: dict[str, Any] = dict(CALL["headers"])
    for _ in range(chance.randint(1, 3)):
        params = message.get("params")
        meta = cast("Any", params).get("_meta") if isinstance(params, dict) else None
        inner: list[tuple[Any, tuple[str, ...]]] = [(params, IN_PARAMS), (meta, IN_META)]
        place, keys = chance.choice(
            [(message, IN_MESSAGE), *(one for one in inner if isinstance(one[0], dict))]
        )
        what = chance.random()
        if what < 0.4:
            headers[chance.choice(HEADERS)] = chance.choice(WORDS)
        elif what < 0.55:
            place.pop(chance.choice(keys), None)
        else:
            place[chance.choice(keys)] = chance.choice(VALUES)
    return {"content": json.dumps(message).encode(), "headers": headers}


@pytest.mark.parametrize("seed", range(4))
async def test_both_roads_answer_alike_whatever_is_wrong_with_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    async with running(tmp_path) as on, httpx.AsyncClient(trust_env=False) as http:
        for _ in range(CHANGED):
            request = changed(chance)
            kept = {key: value for key, value in request["headers"].items() if value is not None}
            told: list[tuple[int, str | None, bytes, list[tuple[str, JsonObject]]]] = []
            for road in (exchange_in, never):
                monkeypatch.setattr(http_module, "exchange_in", road)
                got = await http.post(on.url, content=request["content"], headers={**on.bearer(), **kept})
                asked = [(seen.tool, seen.arguments) for seen in on.governor.seen]
                told.append((got.status_code, got.headers.get("content-type"), got.content, asked))
                on.governor.seen.clear()
            assert told[0] == told[1], request


ODD: JsonObject = {
    "none": None,
    "deep": [None, {"none": None}],
    "float": 1.0,
    "large": 10**30,
    "text": "\ud83d\ude00\u2028",
}
ANSWERS: dict[str, Answer] = {
    "nothing but a text": Answer("done"),
    "a text that is empty": Answer(""),
    "members of every kind": Answer(
        "done", ODD, meta={META_RECEIPT: ODD, "comptroller/none": None, "theirs": 1}
    ),
    "nothing in it": Answer("done", {}, meta={"comptroller/none": None}),
    "an error with members": Answer("no", ODD, is_error=True, meta={META_REFUSAL: {"code": "denied"}}),
    "an error alone": Answer("no", is_error=True),
    "a picture beside it": Answer("see", {"a": 1}, beside=(PICTURE,)),
    "somebody else's words": Answer("see", {"a": 1}, meta={META_UNTRUSTED: "files"}, beside=(PICTURE,)),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_a_result_is_shaped_as_the_sdk_shapes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """Byte for byte: members that are null, and those that nobody set, included."""

    async def given(proposal: Proposal) -> Answer:
        return answer

    async with running(tmp_path) as on:
        monkeypatch.setattr(on.governor, "call", given)
        short = await send(on, **CALL)
        monkeypatch.setattr(http_module, "exchange_in", never)
        assert short.content == (await send(on, **CALL)).content
        assert short.json()["result"]["resultType"] == "complete"


async def test_a_tool_that_declares_headers_is_left_to_the_sdk(tmp_path: Path) -> None:
    request = modern("tools/call", {"name": "for-admins", "arguments": {"region": "eu"}}, "for-admins")
    async with running(tmp_path, ("admin",)) as on:
        missing = await send(on, **request)
    assert (missing.status_code, missing.json()["error"]["code"]) == (400, -32020)


async def test_a_routing_header_given_twice_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as on:
        lines = [*CALL["headers"].items(), ("mcp-name", "whoami"), *on.bearer().items()]
        reader, writer = await connected(on)
        content: bytes = CALL["content"]
        head = [f"POST /mcp HTTP/1.1\r\nHost: {on.authority}", *(f"{key}: {value}" for key, value in lines)]
        head += [f"Content-Length: {len(content)}", "Connection: close", "", ""]
        writer.write("\r\n".join(head).encode() + content)
        said = await reader.read()
        writer.close()
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"appears more than once" in said
    assert on.governor.seen == []
