"""What goes into the pipeline and what comes out: the seam between the MCP face and the story."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from comptroller_audit.vocabulary import Effect, Json, JsonObject, Subject
from comptroller_tools.questions import NOBODY, Asks, Question
from comptroller_tools.questions import Reply as Replied
from comptroller_tools.source import Progress, no_progress
from comptroller_tools.upstream.definitions import Kind

__all__ = [
    "AdvertisedTool",
    "Answer",
    "Ask",
    "ClientAsker",
    "Confirmation",
    "Governor",
    "Proposal",
    "Reply",
    "SourceLog",
    "nobody_waits",
]


SourceLog = Callable[[str, str, Json], Awaitable[None]]
"""(source, level, released data)."""


async def no_source_log(source: str, level: str, data: Json) -> None:
    """The default: nobody asked."""


def nobody_waits(call: str) -> None:
    """The default: nobody wants to know."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What the person at the client is to be asked before the call goes on.

    `schema` is a form of flat primitives (MCP "Elicitation"). `page` is where a person decides, when there is such a
    place; a link there only leads, it never decides. `state` is sealed and comes back in the `Confirmation`.
    """

    message: str
    schema: JsonObject
    state: str
    page: str | None = None


class ClientAsker(Protocol):
    """Asks the client of one call; `kinds` is what it can be asked. Released questions go in, its words come out."""

    @property
    def kinds(self) -> frozenset[Asks]: ...

    async def __call__(self, questions: Sequence[Question]) -> Mapping[str, Replied]: ...


class Reply(StrEnum):
    """What came back from the client. NO_ANSWER is ours: nobody answered in time."""

    ACCEPT = "accept"
    DECLINE = "decline"
    CANCEL = "cancel"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A client's answer to an `Ask`, with the state it was given; both are only the client's word."""

    state: str
    reply: Reply
    confirmed: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """One `tools/call` as received. `subject` comes from the transport, never from the message.

    `meta` is the request's `_meta`, unfiltered; only `comptroller/*` keys mean anything to us. `can_ask` says that
    the client can show its person a form, `can_open` that it can have them open a page; `confirmation` is what came of one.
    `task_header` is the header `Comptroller-Task` of the request; `by_token` says that a token proved the actor, not
    the command line alone. `said_by` is the person, proved by a credential, who gives the task its request; like `part_of`, the batch call that this one is an item of, no transport sets it.
    `trace_header` is the header `traceparent` of the request, `protocol` the version of MCP it was made in.
    `kind` says by which of the protocol's methods it came: a tool is called, a resource read, a prompt got.
    `left` is done when the caller waits no more, for whatever reason, `cancelled` when it said so in words.
    `begun` is told the call's id as soon as it has one. `asker` is how the client is asked what an upstream wants to know. `log` takes log messages of upstreams on the way, where `log_level` asks for those of that severity and above.
    """

    subject: Subject
    tool: str
    arguments: JsonObject
    meta: Mapping[str, Any] = field(default_factory=dict[str, Any])
    progress: Progress = no_progress
    can_ask: bool = False
    can_open: bool = False
    confirmation: Confirmation | None = None
    task_header: str | None = None
    by_token: bool = False
    trace_header: str | None = None
    protocol: str = ""
    said_by: str = ""
    part_of: str | None = None
    kind: Kind = Kind.TOOL
    log: SourceLog = no_source_log
    log_level: str | None = None
    left: asyncio.Future[None] | None = None
    cancelled: asyncio.Future[None] | None = None
    asker: ClientAsker = NOBODY
    begun: Callable[[str], None] = nobody_waits


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent gets. An error has no `structured` content; its details are in `meta`.

    `unknown_tool` is true for a tool that is missing or hidden: both answer alike, as the protocol demands.
    `beside` are pictures, sounds and files that are let through. With `asks` it is no answer yet: ask, and propose the same again with the confirmation.
    """

    text: str
    structured: JsonObject | None = None
    is_error: bool = False
    meta: JsonObject = field(default_factory=dict[str, Any])
    unknown_tool: bool = False
    asks: Ask | None = None
    beside: tuple[JsonObject, ...] = ()


@dataclass(frozen=True, slots=True)
class AdvertisedTool:
    """A tool as one principal sees it: schemas already carry `why` or `refs`."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    output_schema: Mapping[str, Any] | None
    effect: Effect


class Governor(Protocol):
    """The pipeline as the MCP face knows it."""

    async def call(self, proposal: Proposal) -> Answer: ...

    def listing(self, subject: Subject) -> Sequence[AdvertisedTool]: ...

    def input_schema(self, name: str) -> Mapping[str, Any] | None:
        """The advertised input schema by name, for the SDK's header check; no principal is known there."""
        ...
