"""What an upstream asks in the middle of a call: off unless allowed, then asked of the caller's own client, in every pair of eras."""

from __future__ import annotations

import asyncio
import contextvars
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import pytest
from mcp import Client, MCPError
from mcp.server.mcpserver import AcceptedElicitation, Elicit, ElicitationResult, Resolve
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CallToolResult,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
    ListRootsResult,
    Root,
    TextContent,
)
from pydantic import BaseModel

from comptroller_audit.vocabulary import RecordType
from comptroller_server.call import bounded
from comptroller_server.errors import ConfigInvalid
from comptroller_server.face import upstream_asks
from comptroller_server.face.protocol import build_server
from comptroller_tools.source import Action
from comptroller_tools.upstream.asking import QUESTIONS_MAX, Asking
from comptroller_tools.upstream.settings import MayAsk
from comptroller_tools.upstream.speaking import Speaking
from tests.scenarios.kit import Changes, Clock, Shop, opened, until
from tests.scenarios.test_notices_http import accept_all
from tests.scenarios.upstream_kit import LOOK, WRITE, Upstream
from tests.tools.test_upstream_http import Elsewhere, open_server

pytestmark = pytest.mark.anyio

ALL = {
    "may_ask": ["elicitation_form", "elicitation_url", "sampling", "roots"],
    "open_hosts": ["login.example.com"],
}
FORMS = {"may_ask": ["elicitation_form"]}
COLOUR = {
    "type": "object",
    "properties": {"colour": {"type": "string", "title": "Colour"}},
    "required": ["colour"],
}
FORM = {
    "method": "elicitation/create",
    "params": {"mode": "form", "message": "Which?", "requestedSchema": COLOUR},
}
SECRET = {
    "method": "elicitation/create",
    "params": {
        "message": "To go on",
        "requestedSchema": {
            "type": "object",
            "properties": {"p": {"type": "string", "title": "Your password"}},
        },
    },
}
SAMPLE = {
    "method": "sampling/createMessage",
    "params": {"messages": [{"role": "user", "content": {"type": "text", "text": "2+2?"}}], "maxTokens": 10},
}
ROOTS: dict[str, Any] = {"method": "roots/list", "params": {}}
READS = {"name": "look", "source": "files", "allow_actions": ["read"], "roles": ["support_agent"]}
WRITES = {"name": "write", "source": "files", "allow_actions": ["create"], "roles": ["support_agent"]}
ERAS = ("auto", "legacy")
CANARY = "canary-7f31c9e2d4"


def page(url: str) -> dict[str, Any]:
    return {
        "method": "elicitation/create",
        "params": {"mode": "url", "message": "Sign in", "url": url, "elicitationId": "e1"},
    }


def behind(upstream: Upstream, **mcp: Any) -> Changes:
    def change(config: dict[str, Any]) -> None:
        config["sources"]["files"] = upstream.config(**mcp)
        config["tools"] += (READS, WRITES)
        config["limits"] = {"identical_calls_max": 1_000}

    return change


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    made = Upstream(tmp_path / "files", LOOK, WRITE)
    made.accept(tmp_path, "files")
    return made


def asks(upstream: Upstream, upstream_era: str, *questions: dict[str, Any], tool: str = "look") -> None:
    """The upstream asks `questions` one after another, in its era's way."""
    if upstream_era == "legacy":
        upstream.does(tool, "questions", questions=list(questions))
    else:
        upstream.speaks_later()
        upstream.does(tool, "rounds", rounds=[{"theirs": one} for one in questions])


def answered(upstream: Upstream) -> list[Any]:
    """What the upstream heard, as its own ledger has it."""
    said = [one["answered"] for one in upstream.ran if "answered" in one]
    return [one.get("theirs", one) for one in said]


Elicits = Callable[[ElicitRequestParams], ElicitResult]


@asynccontextmanager
async def client_of(
    shop: Shop, era: str, says: Elicits | None = None, *, subject: Any = None, wait_s: float = 20, **more: Any
) -> AsyncGenerator[Client]:
    async def elicits(context: Any, params: ElicitRequestParams) -> ElicitResult:
        del context
        assert says is not None
        return says(params)

    server = build_server(
        shop.service.pipeline,
        subject_of=lambda _: subject or shop.subject,
        version="1",
        elicitation_wait_s=wait_s,
        offers=shop.service.offers,
        may_ask=True,
    )
    if says is not None:
        more["elicitation_callback"] = elicits
    async with Client(server, mode=cast("Any", era), cache=None, **more) as client:
        yield client


def green(params: ElicitRequestParams) -> ElicitResult:
    assert isinstance(params, ElicitRequestFormParams)
    return ElicitResult(action="accept", content={"colour": "green"})


def noted(shop: Shop) -> list[dict[str, Any]]:
    packets = shop.packets(RecordType.READ, RecordType.AUDIT)
    return [note for packet in packets for note in packet.get("questions", [])]


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


@pytest.mark.parametrize("upstream_era", ERAS)
@pytest.mark.parametrize("era", ERAS)
async def test_a_form_reaches_the_client_that_called_and_its_answer_the_upstream(
    tmp_path: Path, upstream: Upstream, era: str, upstream_era: str
) -> None:
    shown: list[ElicitRequestFormParams] = []

    def says(params: ElicitRequestParams) -> ElicitResult:
        assert isinstance(params, ElicitRequestFormParams)
        shown.append(params)
        return green(params)

    asks(upstream, upstream_era, FORM, FORM)
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop, client_of(shop, era, says) as client:
        result = await client.call_tool("look", {"path": "a"})
        assert not result.is_error, result
        assert [one.message for one in shown] == ["files asks: Which?"] * 2
        assert shown[0].requested_schema == COLOUR
        assert answered(upstream) == [{"action": "accept", "content": {"colour": "green"}}] * 2
        (packet,) = shop.packets(RecordType.READ)
        assert [
            (note["kind"], note["message"], note["fields"], note["answer"]) for note in packet["questions"]
        ] == [("elicitation_form", "files asks: Which?", ["colour"], "accept")] * 2
        assert "green" not in json.dumps(packet)
        assert "own state" not in json.dumps([one.model_dump(mode="json") for one in shown])


@pytest.mark.parametrize("upstream_era", ERAS)
@pytest.mark.parametrize("era", ERAS)
async def test_our_approval_comes_first_and_then_the_upstreams_question_in_one_call(
    tmp_path: Path, upstream: Upstream, era: str, upstream_era: str
) -> None:
    shown: list[str] = []

    def says(params: ElicitRequestParams) -> ElicitResult:
        shown.append(params.message)
        content: dict[str, Any] = {"colour": "green"} if len(shown) > 1 else {"confirm": True}
        return ElicitResult(action="accept", content=content)

    def change(config: dict[str, Any]) -> None:
        behind(upstream, **FORMS)(config)
        config["identity"]["local"]["clients"] = {"triage-bot": {"interactive": True}}
        config["tools"][-1] = {**WRITES, "approval": [{"role": "requester"}]}

    asks(upstream, upstream_era, FORM, tool="write")
    async with opened(tmp_path, change) as shop, client_of(shop, era, says) as client:
        why = {"reason": "They want it."}
        result = await client.call_tool("write", {"path": "a", "why": why})
        assert not result.is_error, result
        assert len(shown) == 2
        assert shown[1] == "files asks: Which?"
        assert [one for one in upstream.ran if "tool" in one] == [
            {"tool": "write", "arguments": {"path": "a"}}
        ]
        assert answered(upstream) == [{"action": "accept", "content": {"colour": "green"}}]


@pytest.mark.parametrize("upstream_era", ERAS)
@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_person_who_says_no_is_heard_and_the_upstream_goes_on(
    tmp_path: Path, upstream: Upstream, era: str, upstream_era: str, action: Any
) -> None:
    asks(upstream, upstream_era, FORM)
    async with (
        opened(tmp_path, behind(upstream, **FORMS)) as shop,
        client_of(shop, era, lambda _: ElicitResult(action=action)) as client,
    ):
        assert not (await client.call_tool("look", {"path": "a"})).is_error
        assert answered(upstream) == [{"action": action}]
        assert [note["answer"] for note in noted(shop)] == [action]


@pytest.mark.parametrize("upstream_era", ERAS)
async def test_nothing_is_asked_that_the_operator_did_not_allow(
    tmp_path: Path, upstream: Upstream, upstream_era: str
) -> None:
    def never(params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError(params)

    asks(upstream, upstream_era, FORM)
    async with opened(tmp_path, behind(upstream)) as shop, client_of(shop, "auto", never) as client:
        result = await client.call_tool("look", {"path": "a"})
        assert result.is_error is (upstream_era == "auto")
        assert [one.get("code") for one in answered(upstream)] == (
            [-32600] if upstream_era == "legacy" else []
        )


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a password": (SECRET, "something secret"),
    "a password in disguise": (
        {
            "method": "elicitation/create",
            "params": {"message": "Your ｐa\u200bss\u00adword", "requestedSchema": COLOUR},
        },
        "something secret",
    ),
    "a list of anything": (
        {
            "method": "elicitation/create",
            "params": {
                "message": "m",
                "requestedSchema": {"type": "object", "properties": {"x": {"type": "array", "items": {}}}},
            },
        },
        "none among given values",
    ),
    "another host": (page("https://evil.example.com/login"), "not one of `open_hosts`"),
    "a host in front": (page("https://login.example.com@evil.example.com/"), "not plain https"),
    "no https": (page("http://login.example.com/"), "not plain https"),
    "a script": (page("javascript:alert(1)"), "not plain https"),
}


@pytest.mark.parametrize("upstream_era", ERAS)
@pytest.mark.parametrize("name", HOSTILE)
async def test_what_must_not_be_asked_is_refused_noted_and_shown_to_nobody(
    tmp_path: Path, upstream: Upstream, upstream_era: str, name: str
) -> None:
    question, why = HOSTILE[name]

    def never(params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError(params)

    asks(upstream, upstream_era, question)
    async with opened(tmp_path, behind(upstream, **ALL)) as shop, client_of(shop, "auto", never) as client:
        await client.call_tool("look", {"path": "a"})
        assert answered(upstream) == [{"action": "cancel"}]
        (note,) = noted(shop)
        assert note["answer"] == "refused"
        assert why in note["why"]


@pytest.mark.parametrize("era", ERAS)
async def test_a_page_on_a_named_host_is_offered_with_its_host_in_words(
    tmp_path: Path, upstream: Upstream, era: str
) -> None:
    shown: list[ElicitRequestURLParams] = []

    def opens(params: ElicitRequestParams) -> ElicitResult:
        assert isinstance(params, ElicitRequestURLParams)
        shown.append(params)
        return ElicitResult(action="accept")

    asks(upstream, "legacy", page("https://login.example.com/in?x=1"))
    async with opened(tmp_path, behind(upstream, **ALL)) as shop, client_of(shop, era, opens) as client:
        assert not (await client.call_tool("look", {"path": "a"})).is_error
        (asked,) = shown
        assert asked.url == "https://login.example.com/in?x=1"
        assert asked.message == "files asks: Sign in\n(It wants you to open a page on login.example.com.)"
        assert answered(upstream) == [{"action": "accept"}]


@pytest.mark.parametrize("upstream_era", ERAS)
@pytest.mark.parametrize("era", ERAS)
async def test_a_model_and_roots_are_asked_for_where_that_is_allowed(
    tmp_path: Path, upstream: Upstream, era: str, upstream_era: str
) -> None:
    asked: list[CreateMessageRequestParams] = []

    async def samples(context: Any, params: CreateMessageRequestParams) -> CreateMessageResult:
        del context
        asked.append(params)
        return CreateMessageResult(role="assistant", content=TextContent(text="4"), model="m")

    async def roots(context: Any) -> ListRootsResult:
        del context
        return ListRootsResult(roots=[Root(uri=cast("Any", "file:///work"))])

    asks(upstream, upstream_era, SAMPLE, ROOTS)
    async with (
        opened(tmp_path, behind(upstream, **ALL)) as shop,
        client_of(shop, era, sampling_callback=samples, list_roots_callback=roots) as client,
    ):
        assert not (await client.call_tool("look", {"path": "a"})).is_error
        sampled, found = answered(upstream)
        assert sampled["content"] == {"type": "text", "text": "4"}
        assert found == {"roots": [{"uri": "file:///work"}]}
        assert (asked[0].system_prompt or "").startswith("(Asked by files, a server behind Comptroller;")
        assert [note["kind"] for note in noted(shop)] == ["sampling", "roots"]


@pytest.mark.parametrize("upstream_era", ERAS)
async def test_an_upstream_that_asks_on_and_on_is_told_no_in_the_end(
    tmp_path: Path, upstream: Upstream, upstream_era: str
) -> None:
    count = [0]

    def says(params: ElicitRequestParams) -> ElicitResult:
        count[0] += 1
        return green(params)

    asks(upstream, upstream_era, *[FORM] * (QUESTIONS_MAX + 3))
    async with (
        opened(tmp_path, behind(upstream, **FORMS)) as shop,
        client_of(shop, "auto", says, input_required_max_rounds=50) as client,
    ):
        result = await client.call_tool("look", {"path": "a"})
        assert count[0] == QUESTIONS_MAX
        assert result.is_error is (upstream_era == "auto")
        if upstream_era == "legacy":
            assert [one["action"] for one in answered(upstream)[QUESTIONS_MAX:]] == ["cancel"] * 3


async def _first_leg(client: Client, tool: str = "look", **arguments: Any) -> InputRequiredResult:
    asked = await client.session.call_tool(tool, arguments or {"path": "a"}, allow_input_required=True)
    assert isinstance(asked, InputRequiredResult), asked
    return asked


async def _next_leg(client: Client, state: str | None, key: str = "theirs", **arguments: Any) -> Any:
    responses: Any = {key: ElicitResult(action="accept", content={"colour": "green"})}
    return await client.session.call_tool(
        "look",
        arguments or {"path": "a"},
        allow_input_required=True,
        input_responses=responses,
        request_state=state,
    )


async def test_a_state_is_for_the_same_call_and_person_and_says_nothing(
    tmp_path: Path, upstream: Upstream
) -> None:
    asks(upstream, "auto", FORM)
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop, client_of(shop, "auto", green) as client:
        asked = await _first_leg(client)
        state = asked.request_state
        assert state is not None
        assert "own state" not in asked.model_dump_json()
        async with client_of(shop, "auto", green, subject=shop.other(subject="eve")) as eve:
            for other, given, arguments in (
                (eve, state, {"path": "a"}),
                (client, state, {"path": "b"}),
                (client, state + "x", {"path": "a"}),
            ):
                with pytest.raises(MCPError) as error:
                    await _next_leg(other, given, **arguments)
                assert error.value.error.code == INVALID_PARAMS
                assert "requestState" in error.value.error.message
        assert not (await _next_leg(client, state)).is_error
        assert len(answered(upstream)) == 1
        assert len([one for one in upstream.ran if "tool" in one]) == 1
        assert [packet["refusal"]["code"] for packet in shop.packets(RecordType.REFUSED)] == [
            "confirmation_invalid"
        ] * 3


async def test_a_state_is_good_once(tmp_path: Path, upstream: Upstream) -> None:
    asks(upstream, "auto", FORM)
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop, client_of(shop, "auto", green) as client:
        state = (await _first_leg(client)).request_state
        assert not (await _next_leg(client, state)).is_error
        with pytest.raises(MCPError) as error:
            await _next_leg(client, state)
        assert error.value.error.code == INVALID_PARAMS
        assert len(answered(upstream)) == 1
        assert len([one for one in upstream.ran if "tool" in one]) == 1


async def test_an_answer_that_answers_nothing_is_asked_again_and_the_call_stays_one(
    tmp_path: Path, upstream: Upstream
) -> None:
    asks(upstream, "auto", FORM)
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop, client_of(shop, "auto", green) as client:
        asked = await _first_leg(client)
        again = await _next_leg(client, asked.request_state, key="nothing we asked")
        assert isinstance(again, InputRequiredResult)
        assert again.request_state != asked.request_state
        assert not (await _next_leg(client, again.request_state)).is_error
        assert len(shop.packets(RecordType.READ)) == 1


async def test_a_client_that_never_comes_back_holds_nothing_for_ever_and_hears_the_end_if_it_does(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream_asks, "ANSWER_S", 0.05)
    asks(upstream, "auto", FORM)
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop, client_of(shop, "auto", green) as client:
        asked = await _first_leg(client)
        await until(lambda: shop.packets(RecordType.READ))
        assert answered(upstream) == [{"action": "cancel"}]
        assert [note["answer"] for note in noted(shop)] == ["none"]
        assert not (await _next_leg(client, asked.request_state)).is_error


async def test_while_a_person_is_asked_no_deadline_of_the_call_runs_down(
    tmp_path: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "SOURCE_GRACE_S", 0.0)

    def change(config: dict[str, Any]) -> None:
        behind(upstream, **FORMS)(config)
        config["tools"][-2] = {**READS, "limits": {"timeout_s": 3}}

    asks(upstream, "auto", FORM)
    async with opened(tmp_path, change) as shop, client_of(shop, "auto", green) as client:
        await client.call_tool("write", {"path": "b", "why": {"reason": "So that it runs."}})
        asked = await _first_leg(client)
        late = asyncio.get_running_loop().time() + 3.2
        await until(lambda: asyncio.get_running_loop().time() > late)
        assert not (await _next_leg(client, asked.request_state)).is_error


async def test_a_client_of_the_2025_era_that_does_not_answer_in_time_said_no(
    tmp_path: Path, upstream: Upstream
) -> None:
    async def slow(context: Any, params: ElicitRequestParams) -> ElicitResult:
        del context, params
        await asyncio.Event().wait()
        raise AssertionError

    asks(upstream, "legacy", FORM, FORM)
    async with (
        opened(tmp_path, behind(upstream, **FORMS)) as shop,
        client_of(shop, "legacy", wait_s=0.05, elicitation_callback=slow) as client,
    ):
        assert not (await client.call_tool("look", {"path": "a"})).is_error
        assert answered(upstream) == [{"action": "cancel"}] * 2


async def test_an_answer_that_does_not_fit_the_form_goes_nowhere(tmp_path: Path, upstream: Upstream) -> None:
    def wrong(params: ElicitRequestParams) -> ElicitResult:
        del params
        return ElicitResult(action="accept", content={"colour": 7})

    asks(upstream, "legacy", FORM)
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop, client_of(shop, "auto", wrong) as client:
        await client.call_tool("look", {"path": "a"})
        assert answered(upstream) == [{"action": "cancel"}]
        assert noted(shop)[-1]["why"] == "the client's answer does not fit the form"


async def test_an_upstream_that_needs_more_of_the_client_says_so_in_the_protocols_words(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.speaks_later()
    upstream.does(
        "look",
        "rpc_error",
        code=MISSING_REQUIRED_CLIENT_CAPABILITY,
        text="no",
        data={"requiredCapabilities": {"sampling": {}}},
    )
    async with opened(tmp_path, behind(upstream, **ALL)) as shop, client_of(shop, "auto", green) as client:
        with pytest.raises(MCPError) as error:
            await client.call_tool("look", {"path": "a"})
        assert error.value.error.code == MISSING_REQUIRED_CLIENT_CAPABILITY
        assert error.value.error.data["requiredCapabilities"] == {"sampling": {}}
        declared = upstream.received[-1]["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"]
        assert set(declared) == {"elicitation"}


async def test_a_kind_that_is_not_allowed_is_refused_beside_one_that_is(
    tmp_path: Path, upstream: Upstream
) -> None:
    def never(params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError(params)

    asks(upstream, "legacy", page("https://login.example.com/"))
    hosts = {"may_ask": ["elicitation_form"]}
    async with opened(tmp_path, behind(upstream, **hosts)) as shop, client_of(shop, "auto", never) as client:
        await client.call_tool("look", {"path": "a"})
        assert answered(upstream) == [{"action": "cancel"}]
        assert [note["why"] for note in noted(shop)] == ["`may_ask` does not allow `elicitation_url`"]


async def test_a_question_is_released_like_anything_that_leaves(tmp_path: Path, upstream: Upstream) -> None:
    shown: list[str] = []

    def says(params: ElicitRequestParams) -> ElicitResult:
        shown.append(params.message)
        return green(params)

    asked = {"mode": "form", "message": f"Is it {CANARY}?", "requestedSchema": COLOUR}
    asks(upstream, "legacy", {**FORM, "params": asked})
    async with opened(tmp_path, behind(upstream, **FORMS), secrets=(CANARY,)) as shop:
        async with client_of(shop, "auto", says) as client:
            await client.call_tool("look", {"path": "a"})
        assert CANARY not in shown[0]
        assert CANARY not in json.dumps(shop.packets(RecordType.READ))


async def test_a_caller_without_a_client_has_nobody_to_ask(tmp_path: Path, upstream: Upstream) -> None:
    asks(upstream, "legacy", FORM)
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop:
        assert not (await shop.call("look", path="a")).is_error
        assert answered(upstream) == [{"action": "cancel"}]


async def test_one_of_many_values_asks_nobody(tmp_path: Path, upstream: Upstream) -> None:
    def never(params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError(params)

    def change(config: dict[str, Any]) -> None:
        behind(upstream, **FORMS)(config)
        config["tools"][-2] = {**READS, "batch": {"of": "path"}}

    asks(upstream, "legacy", FORM)
    async with opened(tmp_path, change) as shop, client_of(shop, "auto", never) as client:
        await client.call_tool("look_many", {"paths": ["a", "b"]})
        assert answered(upstream) == [{"action": "cancel"}] * 2


async def test_a_read_that_asked_something_is_not_kept(tmp_path: Path, upstream: Upstream) -> None:
    def change(config: dict[str, Any]) -> None:
        behind(upstream, **FORMS)(config)
        config["tools"][-2] = {**READS, "cache_s": 600}

    asks(upstream, "legacy", FORM)
    async with opened(tmp_path, change) as shop, client_of(shop, "auto", green) as client:
        for _ in range(2):
            await client.call_tool("look", {"path": "a"})
        assert len(answered(upstream)) == 2


async def test_the_time_in_which_the_client_is_asked_on_the_way_is_not_the_tasks(
    tmp_path: Path, upstream: Upstream
) -> None:
    clock = Clock()

    def slow(params: ElicitRequestParams) -> ElicitResult:
        clock.pass_s(100)
        return green(params)

    def change(config: dict[str, Any]) -> None:
        behind(upstream, **FORMS)(config)
        config["budgets"]["timeout_seconds"] = 50

    asks(upstream, "legacy", FORM, tool="write")
    async with opened(tmp_path, change, clock=clock) as shop, client_of(shop, "auto", slow) as client:
        await client.call_tool("write", {"path": "a", "why": {"reason": "They want it."}})
        assert noted(shop)[0]["waited_ms"] >= 100_000
        assert not (await client.call_tool("look", {"path": "b"})).is_error


async def test_over_standard_streams_a_question_is_put_to_nobody_while_two_calls_run(
    tmp_path: Path, upstream: Upstream
) -> None:
    def never(params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError(params)

    asks(upstream, "legacy", FORM, tool="write")
    upstream.does("look", "later")
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop, client_of(shop, "auto", never) as client:
        looking = asyncio.create_task(client.call_tool("look", {"path": "a"}))
        await until(lambda: any(ran.get("tool") == "look" for ran in upstream.ran))
        await client.call_tool("write", {"path": "a", "why": {"reason": "They want it."}})
        await looking
        assert answered(upstream) == [{"action": "decline"}]


async def test_a_question_that_comes_when_its_call_is_over_is_put_to_nobody(
    tmp_path: Path, upstream: Upstream
) -> None:
    def never(params: ElicitRequestParams) -> ElicitResult:
        raise AssertionError(params)

    late = {"id": "late", **FORM}
    upstream.does("look", "ok", after=[late])
    async with opened(tmp_path, behind(upstream, **FORMS)) as shop, client_of(shop, "auto", never) as client:
        await client.call_tool("look", {"path": "a"})
        await until(lambda: [one for one in upstream.received if one.get("id") == "late"])
        (heard,) = [one for one in upstream.received if one.get("id") == "late"]
        assert heard["result"] == {"action": "decline"}


async def test_a_question_over_http_after_its_call_is_put_to_nobody() -> None:
    action = Action("look", {}, "call")
    speaking = Speaking(lambda whom, level, data: None)
    asking = Asking("files", MayAsk(), action)
    with speaking.during(action, asking):
        inside = contextvars.copy_context()
        assert inside.run(lambda: speaking.asked_in) is asking
    with speaking.during(action, Asking("files", MayAsk(), action)):
        assert inside.run(lambda: speaking.asked_in) is None


class Colour(BaseModel):
    colour: str


def _which() -> Elicit[Colour]:
    return Elicit("Which?", Colour)


@pytest.mark.parametrize("upstream_era", ["modern", "legacy"])
@pytest.mark.parametrize("era", ERAS)
async def test_a_question_of_the_sdks_own_server_comes_through_over_http(
    tmp_path: Path, era: str, upstream_era: str
) -> None:
    elsewhere = Elsewhere(upstream_era)

    @elsewhere.app.tool()
    async def look(path: str, answer: Annotated[ElicitationResult[Colour], Resolve(_which)]) -> str:
        return f"{path} is {answer.data.colour}" if isinstance(answer, AcceptedElicitation) else "nobody said"

    async with open_server(elsewhere):
        await accept_all(elsewhere, tmp_path)
        config_of: dict[str, Any] = {"mcp": {"url": elsewhere.url, **FORMS}}

        def behind_http(config: dict[str, Any]) -> None:
            config["sources"]["notes"] = config_of
            config["tools"].append({**READS, "source": "notes"})

        async with (
            opened(tmp_path, behind_http) as shop,
            client_of(shop, era, green) as client,
        ):
            result = await client.call_tool("look", {"path": "a"})
            assert "a is green" in text_of(result)


async def test_hosts_to_open_are_named_where_pages_may_be_opened_and_only_there(
    tmp_path: Path, upstream: Upstream
) -> None:
    for mcp in ({"may_ask": ["elicitation_url"]}, {"open_hosts": ["login.example.com"]}):
        with pytest.raises(ConfigInvalid) as error:
            async with opened(tmp_path, behind(upstream, **cast("Any", mcp))):
                pytest.fail("it started")
        assert "open_hosts" in str(error.value)


async def test_a_source_can_be_made_to_speak_the_earlier_era(tmp_path: Path, upstream: Upstream) -> None:
    upstream.speaks_later()
    upstream.does("look", "questions", questions=[FORM])
    early = {**FORMS, "protocol": "2025-11-25"}
    async with opened(tmp_path, behind(upstream, **early)) as shop, client_of(shop, "auto", green) as client:
        assert not (await client.call_tool("look", {"path": "a"})).is_error
        methods = [one.get("method") for one in upstream.received]
        assert methods[0] == "initialize"
        assert "server/discover" not in methods
        assert answered(upstream)[0]["action"] == "accept"


async def test_while_a_person_is_asked_other_calls_have_the_tools_slot(
    tmp_path: Path, upstream: Upstream
) -> None:
    """One slot, two calls whose persons answer only when both were asked; then both go on, one after the other."""
    asked, both = list[str](), asyncio.Event()

    async def thinks(context: Any, params: ElicitRequestParams) -> ElicitResult:
        del context
        asked.append(params.message)
        if len(asked) == 2:
            both.set()
        await both.wait()
        return green(params)

    def change(config: dict[str, Any]) -> None:
        behind(upstream, **FORMS)(config)
        config["tools"][-2] = {**READS, "limits": {"concurrency_max": 1}}

    asks(upstream, "auto", FORM)
    async with (
        asyncio.timeout(30),
        opened(tmp_path, change) as shop,
        client_of(shop, "auto", elicitation_callback=thinks) as client,
    ):
        told = await asyncio.gather(*(client.call_tool("look", {"path": path}) for path in "ab"))
        assert not any(one.is_error for one in told)
        assert len(asked) == 2
        assert answered(upstream) == [{"action": "accept", "content": {"colour": "green"}}] * 2
        assert not (await client.call_tool("look", {"path": "c"})).is_error  # the slot came back


async def test_a_call_that_is_given_up_while_its_person_is_asked_keeps_no_slot(
    tmp_path: Path, upstream: Upstream
) -> None:
    asked = asyncio.Event()

    async def thinks(context: Any, params: ElicitRequestParams) -> ElicitResult:
        del context, params
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    def change(config: dict[str, Any]) -> None:
        behind(upstream, **FORMS)(config)
        config["tools"][-2] = {**READS, "limits": {"concurrency_max": 1}}

    asks(upstream, "legacy", FORM)
    async with asyncio.timeout(30), opened(tmp_path, change) as shop:
        async with client_of(shop, "legacy", elicitation_callback=thinks) as client:
            calling = asyncio.create_task(client.call_tool("look", {"path": "a"}))
            await asked.wait()
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)
        upstream.does("look")
        for path in "bcd":
            assert not (await shop.call("look", path=path)).is_error
