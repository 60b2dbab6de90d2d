from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from mcp import Client, MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, RequestParamsMeta, TextContent, Tool, ToolAnnotations

from comptroller_audit.vocabulary import Actor, Principal, Subject
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.errors import IdentityError
from comptroller_server.face.on_the_way import PROGRESS_REPORTS_MAX
from comptroller_server.face.protocol import (
    GovernedServer,
    RequestContext,
    asking_subject,
    build_server,
)
from tests.server.small_governor import SECRET, SmallGovernor

pytestmark = pytest.mark.anyio

ERAS = ["auto", "legacy"]
AGENT = Subject(Principal("local", "local:test", "1000"), Actor("bot"))
ADMIN = Subject(Principal("local", "local:test", "1000"), Actor("bot"), frozenset({"admin"}))


def face(governor: SmallGovernor, subject: Subject = AGENT) -> GovernedServer:
    return build_server(governor, subject_of=lambda ctx: subject, version="1.2.3")


@asynccontextmanager
async def client_of(server: GovernedServer, era: Any) -> AsyncGenerator[Client]:
    async with Client(server, mode=era, cache=None) as client:
        yield client


async def refused(client: Client, tool: str) -> MCPError:
    """The protocol error of a call, caught inside the client's own task group."""
    try:
        await client.call_tool(tool, {})
    except MCPError as error:
        return error
    pytest.fail(f"{tool} was answered")


async def tools_of(subject: Subject, era: str) -> dict[str, Tool]:
    async with client_of(face(SmallGovernor(), subject), era) as client:
        return {tool.name: tool for tool in (await client.list_tools()).tools}


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_reaches_the_governor_and_its_answer_the_client(era: str) -> None:
    governor = SmallGovernor()
    async with client_of(face(governor), era) as client:
        meta = cast("RequestParamsMeta", {"comptroller/task": "t1"})
        result = await client.call_tool("whoami", {"q": 1}, meta=meta)
    assert not result.is_error
    assert result.content == [TextContent(text="whoami done")]
    assert result.structured_content == {
        "principal": "local:test|1000",
        "actor": "bot",
        "arguments": {"q": 1},
    }
    assert result.meta is not None
    assert result.meta["comptroller/receipt"] == {"index": 7}
    assert governor.seen[0].subject is AGENT
    assert governor.seen[0].meta["comptroller/task"] == "t1"


@pytest.mark.parametrize("era", ERAS)
async def test_the_listing_is_per_principal(era: str) -> None:
    assert "for-admins" not in await tools_of(AGENT, era)
    assert "for-admins" in await tools_of(ADMIN, era)


async def test_the_listing_may_be_kept_only_by_its_own_principal() -> None:
    async with client_of(face(SmallGovernor()), "auto") as client:
        result = await client.list_tools()
    assert result.cache_scope == "private"
    assert result.ttl_ms == 5_000


async def test_a_cursor_nobody_issued_is_refused() -> None:
    async with client_of(face(SmallGovernor()), "auto") as client:
        try:
            await client.list_tools(cursor="page-2")
        except MCPError as error:
            assert error.code == INVALID_PARAMS
        else:
            pytest.fail("the cursor was taken")


async def test_annotations_follow_our_effect() -> None:
    tools = await tools_of(AGENT, "auto")

    def hints(name: str) -> tuple[bool | None, bool | None]:
        annotations = tools[name].annotations
        assert isinstance(annotations, ToolAnnotations)
        assert annotations.idempotent_hint is None
        return annotations.read_only_hint, annotations.destructive_hint

    assert hints("whoami") == (True, False)
    assert hints("refund") == (False, False)
    assert [hints(name) for name in ("rename", "erase", "shell")] == [(False, True)] * 3


@pytest.mark.parametrize("era", ERAS)
async def test_no_list_change_is_promised(era: str) -> None:
    async with client_of(face(SmallGovernor()), era) as client:
        capabilities = client.server_capabilities
        assert capabilities is not None
        assert capabilities.tools is not None
        assert not capabilities.tools.list_changed


@pytest.mark.parametrize("era", ERAS)
async def test_a_hidden_tool_answers_like_a_missing_one(era: str) -> None:
    async with client_of(face(SmallGovernor()), era) as client:
        hidden, missing = await refused(client, "for-admins"), await refused(client, "not-a-tool")
    assert hidden.error.model_dump() == {
        "code": INVALID_PARAMS,
        "message": "Unknown tool: for-admins",
        "data": None,
    }
    assert missing.error.model_dump() == {
        **hidden.error.model_dump(),
        "message": hidden.message.replace("for-admins", "not-a-tool"),
    }


async def test_a_very_long_unknown_name_is_cut() -> None:
    async with client_of(face(SmallGovernor()), "auto") as client:
        assert len((await refused(client, "x" * 100_000)).message) < 200


@pytest.mark.parametrize("era", ERAS)
async def test_an_error_has_text_and_our_meta_and_no_structured_content(era: str) -> None:
    async with client_of(face(SmallGovernor()), era) as client:
        result = await client.call_tool("refused", {})
    assert result.is_error
    assert result.structured_content is None
    assert result.meta is not None
    assert result.meta["comptroller/refusal"]["code"] == "budget_exhausted"
    assert SECRET not in result.model_dump_json()


@pytest.mark.parametrize("era", ERAS)
async def test_an_exception_in_the_pipeline_shows_nothing_of_itself(
    era: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with client_of(face(SmallGovernor()), era) as client:
        result = await client.call_tool("broken", {})
    assert result.is_error
    assert result.meta is not None
    assert result.meta["comptroller/refusal"] == {
        "class": "internal",
        "code": "internal",
        "retry": "person",
        "call": None,
    }
    logged = capfd.readouterr()
    assert SECRET not in result.model_dump_json() + logged.out + logged.err
    assert "small_governor.py:" in logged.out + logged.err


@pytest.mark.parametrize("era", ERAS)
async def test_an_exception_in_the_listing_shows_nothing_of_itself(era: str) -> None:
    async with client_of(face(SmallGovernor(listing_breaks=True)), era) as client:
        try:
            await client.list_tools()
        except MCPError as error:
            assert error.code == INTERNAL_ERROR
            assert SECRET not in error.error.model_dump_json()
        else:
            pytest.fail("a broken listing was answered")


@pytest.mark.parametrize("era", ERAS)
async def test_a_request_that_proves_nobody_never_reaches_the_governor(era: str) -> None:
    def nobody(ctx: RequestContext) -> Subject:
        raise IdentityError(SECRET)

    governor = SmallGovernor()
    async with client_of(build_server(governor, subject_of=nobody, version="1"), era) as client:
        error = await refused(client, "whoami")
    assert error.code == INTERNAL_ERROR
    assert SECRET not in error.error.model_dump_json()
    assert governor.seen == []


@pytest.mark.parametrize("era", ERAS)
async def test_progress_reaches_a_client_that_asked_and_only_increases(era: str) -> None:
    heard: list[tuple[float, float | None, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append((progress, total, message))

    async with client_of(face(SmallGovernor()), era) as client:
        await client.call_tool("steps", {}, progress_callback=hear)
        await client.call_tool("steps", {})
    assert heard == [(1.0, 3.0, "step 1"), (2.0, 3.0, "step 2"), (3.0, 3.0, "step 3")]


async def test_a_tool_that_floods_with_progress_is_heard_so_far_and_no_further() -> None:
    class Flooding(SmallGovernor):
        async def call(self, proposal: Proposal) -> Answer:
            for step in range(PROGRESS_REPORTS_MAX + 100):
                await proposal.progress(step, None, "x" * 10_000)
            return Answer("flooded")

    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(message or "")

    async with client_of(face(Flooding()), "auto") as client:
        await client.call_tool("steps", {}, progress_callback=hear)
    assert len(heard) == PROGRESS_REPORTS_MAX
    assert max(map(len, heard)) == 500


@pytest.mark.parametrize("era", ERAS)
async def test_a_call_outlives_the_caller_that_went_away(era: str) -> None:
    governor = SmallGovernor()
    server = face(governor)
    async with client_of(server, era) as client:
        asking = asyncio.create_task(client.call_tool("hold", {}))
        await governor.held.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await client.call_tool("whoami", {})
    assert (server.in_flight, governor.ended) == (1, ["whoami"])
    assert await server.drain(0.01) == 1
    governor.release.set()
    assert await server.drain(5) == 0
    assert governor.ended == ["whoami", "hold"]


async def test_a_pipeline_that_is_cancelled_still_answers() -> None:
    class Cancelled(SmallGovernor):
        async def call(self, proposal: Proposal) -> Answer:
            raise asyncio.CancelledError

    async with client_of(face(Cancelled()), "auto") as client:
        result = await client.call_tool("refund", {})
    assert result.meta is not None
    assert result.meta["comptroller/refusal"]["code"] == "internal"


def test_the_header_check_knows_a_tool_only_when_the_asking_subject_sees_it() -> None:
    lookup = face(SmallGovernor()).get_tool_input_schema
    assert lookup is not None
    assert lookup("for-admins") is None
    for subject, shown in ((AGENT, False), (ADMIN, True)):
        token = asking_subject.set(subject)
        try:
            assert (lookup("for-admins") is not None) is shown
        finally:
            asking_subject.reset(token)
    assert lookup("refund") is None
