"""How a client is asked what an upstream wants to know while its call is open, in both protocol eras.

A client of 2026-07-28 gets the questions as the result of its request, and sends the answers with our state in another
one, which goes on with the same call: that was never ended, and runs in a task of its own. The state is a name drawn at
random for what stands in memory here, good once and for whoever was asked. A client of the 2025 era is asked while its
request is open. (MCP 2026-07-28 "Multi Round-Trip Requests"; 2025-11-25 "Elicitation", "Sampling", "Roots".)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from uuid import uuid4

import structlog
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    InputResponseRequestParams,
    ListRootsRequest,
    ListRootsResult,
)
from pydantic import BaseModel

from comptroller_audit.vocabulary import Code, Subject
from comptroller_server.call.answers import META_REFUSAL
from comptroller_server.call.proposal import Answer, Proposal
from comptroller_server.face.elicitation import ELICITATION_WAIT_S, is_modern
from comptroller_server.face.on_the_way import OnTheWay
from comptroller_tools.questions import Asks, Question, Reply

__all__ = [
    "ANSWER_S",
    "OPEN_MAX",
    "Conversation",
    "Conversations",
    "PushedQuestions",
    "heed_refusal",
    "kinds_of",
    "replies_of",
    "request_of",
]

ANSWER_S = 600.0
"""How long a client of the 2026 era may take to come back with answers, seconds; then the upstream hears no."""
KEPT_S = 600.0
"""How much longer an answer that came to nothing is still given to who comes back, seconds."""
OPEN_MAX = 1_000
OPEN_MAX_EACH = 32
"""Calls that wait for answers at once, in all and of one principal; nobody is asked in one more."""
STATE = "comptroller.question."

_Context: TypeAlias = ServerRequestContext[Any, Any]
_log = structlog.get_logger("comptroller.questions")


def kinds_of(ctx: _Context) -> frozenset[Asks]:
    """What the client of this request can be asked, as it says itself."""
    declared = ctx.session.client_capabilities
    if declared is None or not (is_modern(ctx) or ctx.session.can_send_request):
        return frozenset()
    found: set[Asks] = set()
    if (asks := declared.elicitation) is not None:
        if asks.form is not None or asks.url is None:  # `{}` means forms
            found.add(Asks.FORM)
        if asks.url is not None:
            found.add(Asks.URL)
    if declared.sampling is not None:
        found.add(Asks.SAMPLING)
    if declared.roots is not None:
        found.add(Asks.ROOTS)
    return frozenset(found)


def request_of(question: Question, *, modern: bool) -> InputRequest:
    """A question of an upstream as the protocol writes it."""
    params = dict(question.params)
    if question.kind is Asks.FORM:
        return ElicitRequest(params=ElicitRequestFormParams.model_validate(params, by_name=False))
    if question.kind is Asks.URL:
        params["elicitationId"] = None if modern else uuid4().hex
        return ElicitRequest(params=ElicitRequestURLParams.model_validate(params, by_name=False))
    if question.kind is Asks.SAMPLING:
        return CreateMessageRequest(params=CreateMessageRequestParams.model_validate(params, by_name=False))
    return ListRootsRequest()


_RESULTS: Mapping[Asks, type[BaseModel]] = {
    Asks.FORM: ElicitResult,
    Asks.URL: ElicitResult,
    Asks.SAMPLING: CreateMessageResult,
    Asks.ROOTS: ListRootsResult,
}


class PushedQuestions:
    """Asks a client of the 2025 era while its request is open; `wait_s` is for all questions of one call together."""

    def __init__(self, ctx: _Context, stopped: asyncio.Event, wait_s: float = ELICITATION_WAIT_S) -> None:
        self._ctx = ctx
        self._stopped = stopped
        self._left_s = wait_s
        self.kinds = kinds_of(ctx)

    async def __call__(self, questions: Sequence[Question]) -> Mapping[str, Reply]:
        found: dict[str, Reply] = {}
        loop = asyncio.get_running_loop()
        for one in questions:
            began = loop.time()
            if (reply := await self._ask(one)) is not None:
                found[one.key] = reply
            self._left_s -= loop.time() - began
        return found

    async def _ask(self, question: Question) -> Reply | None:
        request: Any = request_of(question, modern=False)
        # Without the related id the question takes another stream, where it can be lost.
        asked = asyncio.ensure_future(
            self._ctx.session.send_request(
                request,
                _RESULTS[question.kind],
                metadata=ServerMessageMetadata(related_request_id=self._ctx.request_id),
            )
        )
        stopped = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait(
                [asked, stopped], timeout=max(0.0, self._left_s), return_when=asyncio.FIRST_COMPLETED
            )
            return (
                asked.result().model_dump(by_alias=True, mode="json", exclude_none=True)
                if asked.done()
                else None
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody has answered
            _log.info("nobody_answered", error=type(error).__qualname__)
            return None
        finally:
            for task in (asked, stopped):
                task.cancel()
            await asyncio.gather(asked, stopped, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Bound:
    """Whose conversation it is, and of which request; a later round must be the same in all of it."""

    subject: Subject
    method: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(slots=True)
class Conversation:
    """One call of a client of the 2026 era, for as long as it runs. It is who the call's upstream asks."""

    bound: _Bound
    way: OnTheWay
    kinds: frozenset[Asks]
    stopped: asyncio.Event
    """The server ends."""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    questions: Sequence[Question] = ()
    ended: bool = False
    """Whether anybody can be asked any more."""
    task: asyncio.Task[Answer] | None = None
    _answers: asyncio.Future[Mapping[str, Reply]] | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def __call__(self, questions: Sequence[Question]) -> Mapping[str, Reply]:
        async with self._turn:
            if self.ended or self.stopped.is_set():
                return {}
            self._answers = asyncio.get_running_loop().create_future()
            self.questions = questions
            self.asked.set()
            try:
                async with asyncio.timeout(ANSWER_S):
                    return await self._answers
            except TimeoutError:
                return {}
            finally:
                self._answers = None
                self.questions = ()
                self.asked.clear()

    def give(self, replies: Mapping[str, Reply]) -> bool:
        """What came back; False where it answers nothing of what is still asked. Where nobody waits any more it is dropped."""
        if self._answers is None or self._answers.done():
            return True
        wanted = {one.key for one in self.questions}
        found = {key: reply for key, reply in replies.items() if key in wanted}
        if found or self.ended:
            self._answers.set_result(found)
            self.asked.clear()
        return bool(found)

    def end(self) -> None:
        """Nobody will answer any more."""
        self.ended = True
        self.give({})


class Conversations:
    """Those that wait for their client, by what it must bring back. In memory: a call ends with its process."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[Conversation, float]] = {}
        self.stopped = asyncio.Event()

    def begin(self, ctx: _Context, proposal: Proposal, way: OnTheWay) -> Conversation:
        """One for a call that is about to run."""
        self._forget()
        bound = _bound(ctx, proposal)
        mine = sum(one.bound.subject == bound.subject for one, _ in self._waiting.values())
        full = self.stopped.is_set() or len(self._waiting) >= OPEN_MAX or mine >= OPEN_MAX_EACH
        kinds = frozenset[Asks]() if full else kinds_of(ctx)
        return Conversation(bound, way, kinds, self.stopped)

    def question(self, conversation: Conversation) -> InputRequiredResult:
        """What was asked, as a result, with a new state."""
        state = STATE + secrets.token_urlsafe(32)
        until = asyncio.get_running_loop().time() + ANSWER_S + KEPT_S
        self._waiting[state] = (conversation, until)
        requests = {one.key: request_of(one, modern=True) for one in conversation.questions}
        return InputRequiredResult(input_requests=requests, request_state=state)

    def again(self, state: str | None, ctx: _Context, proposal: Proposal) -> Conversation | None:
        """The one that `state` is for, if this is the same request of who was asked; good once."""
        if state is None or not state.startswith(STATE):
            return None
        self._forget()
        found = self._waiting.get(state)
        if found is None or found[0].bound != _bound(ctx, proposal):
            return None
        del self._waiting[state]
        return found[0]

    def stop(self) -> None:
        """The server ends: nobody will answer any more."""
        self.stopped.set()
        for conversation, _ in self._waiting.values():
            conversation.end()

    def _forget(self) -> None:
        now = asyncio.get_running_loop().time()
        for state in [one for one, (_, until) in self._waiting.items() if until < now]:
            del self._waiting[state]


def _bound(ctx: _Context, proposal: Proposal) -> _Bound:
    return _Bound(proposal.subject, ctx.method, proposal.tool, proposal.arguments)


def replies_of(responses: Mapping[str, Any] | None) -> dict[str, Reply]:
    """A client's answers as on the wire."""
    return {
        key: one.model_dump(by_alias=True, mode="json", exclude_none=True)
        for key, one in (responses or {}).items()
        if isinstance(one, BaseModel)
    }


def heed_refusal(answer: Answer, params: InputResponseRequestParams | None) -> None:
    """Raises `MCPError` where the protocol has an error of its own for a refusal that is on record already."""
    refusal = answer.meta.get(META_REFUSAL)
    if not isinstance(refusal, dict):
        return
    if refusal.get("code") == Code.CONFIRMATION_INVALID and _is_ours(params):
        text = "Invalid or expired requestState: nothing waits for this answer. Make the request again without it."
        raise MCPError(INVALID_PARAMS, text, dict(answer.meta))
    if refusal.get("requires"):
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            answer.text,
            {"requiredCapabilities": refusal["requires"], **answer.meta},
        )


def _is_ours(params: InputResponseRequestParams | None) -> bool:
    return params is not None and (params.request_state or "").startswith(STATE)
