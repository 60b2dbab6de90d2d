"""The face's own part in asking: pages where the client can open one, forms everywhere else, and one bounded wait."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from mcp import Client
from mcp_types import (
    CallToolResult,
    ElicitRequestFormParams,
    ElicitRequestParams,
    ElicitRequestURLParams,
    ElicitResult,
)

from comptroller_audit.vocabulary import Actor, Effect, Principal, Subject
from comptroller_server.call.proposal import AdvertisedTool, Answer, Ask, Proposal, Reply
from comptroller_server.face.protocol import build_server
from tests.scenarios.test_confirmations import ERAS

pytestmark = pytest.mark.anyio
PAGE = "https://decide.example/calls/7"
AGENT = Subject(Principal("local", "local:test", "1000"), Actor("bot"))


@dataclass
class Asking:
    """A governor that asks `rounds` times and then is done."""

    rounds: int = 1
    page: str | None = None
    seen: list[Proposal] = field(default_factory=list[Proposal])

    async def call(self, proposal: Proposal) -> Answer:
        self.seen.append(proposal)
        if len(self.seen) > self.rounds:
            return Answer("done")
        schema: dict[str, Any] = {"type": "object", "properties": {"confirm": {"type": "boolean"}}}
        return Answer("waiting", is_error=True, asks=Ask("Really?", schema, f"s{len(self.seen)}", self.page))

    def listing(self, subject: Subject) -> Sequence[AdvertisedTool]:
        del subject
        return [AdvertisedTool("act", "Acts.", {"type": "object"}, None, Effect.CREATE)]

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        del name
        return {"type": "object"}


async def act(governor: Asking, era: str, answer: Any, wait_s: float = 20) -> CallToolResult:
    server = build_server(governor, subject_of=lambda _: AGENT, version="1", elicitation_wait_s=wait_s)
    async with Client(server, mode=cast("Any", era), cache=None, elicitation_callback=answer) as client:
        return await client.call_tool("act", {"x": 1})


@pytest.mark.parametrize("era", ERAS)
async def test_a_page_is_opened_where_the_client_can_and_having_opened_it_is_no_yes(era: str) -> None:
    shown: list[ElicitRequestParams] = []

    async def opens(context: Any, params: ElicitRequestParams) -> ElicitResult:
        del context
        shown.append(params)
        return ElicitResult(action="accept")

    governor = Asking(page=PAGE)
    assert not (await act(governor, era, opens)).is_error
    (asked,) = shown
    assert isinstance(asked, ElicitRequestURLParams)
    assert asked.url == PAGE
    given = governor.seen[1].confirmation
    assert given is not None
    assert (given.reply, given.confirmed) == (Reply.ACCEPT, False)


@pytest.mark.parametrize("era", ERAS)
async def test_each_answer_comes_back_with_its_own_state_and_the_same_arguments(era: str) -> None:
    async def confirms(context: Any, params: ElicitRequestParams) -> ElicitResult:
        del context
        assert isinstance(params, ElicitRequestFormParams)
        return ElicitResult(action="accept", content={"confirm": True})

    governor = Asking(rounds=2)
    assert not (await act(governor, era, confirms)).is_error
    assert [one.arguments for one in governor.seen] == [{"x": 1}] * 3
    assert [one.can_ask for one in governor.seen] == [True] * 3
    states = [one.confirmation.state if one.confirmation else None for one in governor.seen]
    assert states == [None, "s1", "s2"]


async def test_all_questions_of_one_call_share_one_wait() -> None:
    async def slow(context: Any, params: ElicitRequestParams) -> ElicitResult:
        del context, params
        await asyncio.Event().wait()
        raise AssertionError

    governor = Asking(rounds=5)
    result = await act(governor, "legacy", slow, wait_s=0.05)
    assert result.is_error
    replies = [one.confirmation.reply for one in governor.seen if one.confirmation]
    assert replies == [Reply.NO_ANSWER]


@pytest.mark.parametrize("era", ERAS)
async def test_a_client_without_elicitation_is_never_asked(era: str) -> None:
    governor = Asking(rounds=0)
    await act(governor, era, None)
    assert governor.seen[0].can_ask is False
