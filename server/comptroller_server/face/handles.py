"""The Tasks extension: a handle in place of an answer, for a call that takes long or waits for people.

A client of the 2026 era that declares the extension with its request gets a handle, and asks after it (`tasks/get`), answers
what is asked on the way (`tasks/update`) or gives it up (`tasks/cancel`). The handle is the call's id, and good for whoever
proposed the call. What runs is held here. What waits for people is on record only, so such a handle outlives this process
and other servers of the store know it too; who asks after it once people have agreed has the call run, as `resume_call` does.
(MCP extension `io.modelcontextprotocol/tasks`, 2026-07-28.)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import decode_header_value
from mcp_types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    InputRequest,
    InputResponse,
    RequestParams,
)
from pydantic import Field, TypeAdapter, ValidationError

from comptroller_audit.errors import StoreError
from comptroller_audit.vocabulary import CallState, Code, JsonObject, Subject
from comptroller_server.call.answers import META_REFUSAL
from comptroller_server.call.proposal import Answer, Confirmation, Proposal
from comptroller_server.call.proposal import Reply as Word
from comptroller_server.call.standing import Register, Standing
from comptroller_server.face.elicitation import QUESTION, input_required, is_modern, word_of
from comptroller_server.face.on_the_way import OnTheWay
from comptroller_server.face.rounds import Rounds, Running
from comptroller_server.face.upstream_asks import heed_refusal, replies_of, request_of
from comptroller_tools.questions import Question, Reply

__all__ = ["EXTENSION", "KEPT_MAX", "KEPT_MAX_EACH", "KEPT_S", "Handles", "TasksTerms"]

EXTENSION: Final = "io.modelcontextprotocol/tasks"
KEPT_S = 3_600.0
"""How long an answer that nobody has asked for yet is kept, seconds."""
KEPT_MAX = 2_000
KEPT_MAX_EACH = 64
"""Handles of calls that run, or whose answers are kept, in all and of one principal; one more call answers as it always did."""
SOON_S = 1.0
"""How long `tasks/get` waits for a call that it has just begun, seconds."""
POLL_MS = 1_000
POLL_PEOPLE_MS = 5_000
"""How often a client is asked to ask again: while a call runs, and while people decide."""

_NO_TASK = "There is no such task. It is not yours, or its answer is no longer kept: call the tool again."
_CALLED_OFF = "It was taken back, or can no longer run as it was approved."
_NOTHING_HAPPENED = frozenset({Code.TOOL_FAILED.value, Code.TIMEOUT.value})
"""What a call that was given up answers where its source stopped and nothing was changed."""
_WAITS = frozenset({Code.APPROVAL_PENDING.value, Code.RECORD_CHANGED.value})

_responses: TypeAdapter[InputResponse] = TypeAdapter(InputResponse)

_Context: TypeAlias = ServerRequestContext[Any, Any]


class TaskParams(RequestParams):
    """Which one. The name is the protocol's."""

    task_id: str = Field(alias="taskId")


class UpdateParams(TaskParams):
    """Answers by the keys of what was asked; whatever lies under other keys is nobody's."""

    input_responses: dict[str, Any] = Field(alias="inputResponses")


@dataclass(frozen=True, slots=True)
class TasksTerms:
    """What the extension needs: the record, how long a call may take before it gets a handle, and the time."""

    register: Register
    after_s: float
    now_ms: Callable[[], int]


@dataclass(slots=True)
class _Handle:
    """A call that runs, or ran. `owner` is who proposed it; `resumes` says that people had agreed to it before."""

    id: str
    owner: tuple[str, str, str]
    created_ms: int
    running: Running
    resumes: bool = False
    given_up: bool = False
    ended_ms: int = 0
    rounds: int = 0
    """How often something was asked; it makes each key a new one, as the extension demands."""
    asked: object = None
    given: dict[str, Reply] = field(default_factory=dict[str, Reply])

    def questions(self, ctx: _Context) -> dict[str, InputRequest]:
        """What is asked now and was not answered yet, by key; empty while it runs or when it has ended."""
        source, found = self._source(), dict[str, InputRequest]()
        if source is None:
            self.asked, self.given = None, {}
            return found
        if source is not self.asked:
            self.asked, self.given = source, {}
            self.rounds += 1
        if isinstance(source, Answer):
            assert source.asks is not None
            found = dict(input_required(ctx, source.asks).input_requests or {})
        elif self.running.waits is not None:
            found = {one.key: request_of(one, modern=True) for one in self.running.waits.questions}
        return {f"{key}.{self.rounds}": one for key, one in found.items() if key not in self.given}

    def _source(self) -> Answer | Sequence[Question] | None:
        """What asks: the call itself, which wants its person's word, or its upstream."""
        answer, waits = self.running.answer, self.running.waits
        if answer is not None:
            return answer if answer.asks is not None else None
        return waits.questions if waits is not None and waits.asked.is_set() else None


class Handles:
    """The handles of one server. `propose` makes a `resume_call` of who asks, with arguments; `shape` an answer a result.

    Both raise `MCPError`.
    """

    def __init__(
        self,
        terms: TasksTerms,
        rounds: Rounds,
        propose: Callable[[_Context, JsonObject], Proposal],
        shape: Callable[[Answer], JsonObject],
    ) -> None:
        self._terms = terms
        self._rounds = rounds
        self._propose = propose
        self._shape = shape
        self._kept: dict[str, _Handle] = {}

    def register(self, server: Server[Any]) -> None:
        """Say that the extension is spoken, and speak it."""
        server.extensions[EXTENSION] = {}
        server.add_request_handler("tasks/get", TaskParams, self.get)
        server.add_request_handler("tasks/update", UpdateParams, self.update)
        server.add_request_handler("tasks/cancel", TaskParams, self.cancel)

    def patience_s(self, ctx: _Context, subject: Subject) -> float | None:
        """How long this request waits for its answer before it gets a handle; None for one that gets none."""
        if not _declares(ctx):
            return None
        self._forget()
        mine = sum(one.owner == _owner(subject) and not one.resumes for one in self._kept.values())
        return self._terms.after_s if len(self._kept) < KEPT_MAX and mine < KEPT_MAX_EACH else None

    def of_running(self, subject: Subject, running: Running) -> JsonObject:
        """The handle of a call that takes long, as the result of its request."""
        handle = self._keep(running.way.call, subject, running, self._terms.now_ms())
        return {"resultType": "task", **self._task(handle, "working")}

    async def of_waiting(self, ctx: _Context, subject: Subject, answer: Answer) -> JsonObject | None:
        """The handle of a call that waits for people, or None for an answer of any other kind."""
        code, call = _refusal(answer)
        if code not in _WAITS or not _declares(ctx):
            return None
        try:
            standing = await self._terms.register.standing(subject, call)
        except StoreError:
            return None  # the answer says all the same how to go on
        if standing is None or not standing.is_open:
            return None
        return {"resultType": "task", **_waiting(call, standing)}

    async def get(self, ctx: _Context, params: TaskParams) -> JsonObject:
        """Where a call stands, and its answer once there is one. It may be this that has an approved call run."""
        proposal, handle = self._find(ctx, params)
        subject = proposal.subject
        if handle is None:
            standing = await self._standing(subject, params.task_id)
            handle = self._held(subject, params.task_id)  # another request may have been faster
            if handle is None and (standing.is_open or standing.state is CallState.VOID):
                return _complete(_waiting(params.task_id, standing))
            if handle is None:
                handle = self._resume(ctx, proposal, params.task_id, standing)
                await asyncio.wait([handle.running.task], timeout=SOON_S)
        return _complete(await self._told(ctx, subject, handle))

    async def update(self, ctx: _Context, params: UpdateParams) -> JsonObject:
        """Answers to what was asked on the way. What nobody asked, or asks no more, is passed over."""
        proposal, handle = self._find(ctx, params)
        if handle is None:
            await self._standing(proposal.subject, params.task_id)
            return _complete({})
        asked = {key.rpartition(".")[0]: key for key in handle.questions(ctx)}
        given = params.input_responses
        words = {name: _response(key, given[key]) for name, key in asked.items() if key in given}
        if words and isinstance(handle.asked, Answer):
            asks = handle.asked.asks
            assert asks is not None
            self._go_on(handle, word_of(asks.state, words.get(QUESTION)))
        elif words and handle.running.waits is not None:
            handle.given.update(replies_of(words))
            if handle.given.keys() >= asked.keys():
                handle.running.waits.give(handle.given)
        return _complete({})

    async def cancel(self, ctx: _Context, params: TaskParams) -> JsonObject:
        """A call that waits is taken back. One that runs is told; whether it can stop, its answer says."""
        proposal, handle = self._find(ctx, params)
        if handle is None:
            await self._standing(proposal.subject, params.task_id)
            try:
                await self._terms.register.withdraw(proposal.subject, params.task_id)
            except StoreError as error:
                raise _no_record() from error
            return _complete({})
        answer = handle.running.answer
        if answer is None:
            handle.given_up = True
            handle.running.way.give_up()
            if handle.running.waits is not None:
                handle.running.waits.end()
        elif answer.asks is not None:
            handle.given_up = True
            self._go_on(handle, Confirmation(answer.asks.state, Word.CANCEL))
        return _complete({})

    # -- parts ----------------------------------------------------------------------------------------------------

    def _find(self, ctx: _Context, params: TaskParams) -> tuple[Proposal, _Handle | None]:
        """What would take the call up again, for who asks, and the handle if it is held here. Raises `MCPError`."""
        if not is_modern(ctx):
            raise MCPError(METHOD_NOT_FOUND, f"{ctx.method} needs MCP 2026-07-28.")
        if not _declares(ctx):
            needs: JsonObject = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
            text = f"{ctx.method} is for clients that declare the extension {EXTENSION} with the request."
            raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, text, needs)
        headers = getattr(ctx.request, "headers", None)
        if headers is not None and decode_header_value(headers.get("mcp-name")) != params.task_id:
            text = "The header Mcp-Name is not what params.taskId says; send the same in both."
            raise MCPError(HEADER_MISMATCH, text)
        proposal = self._propose(ctx, {"call": params.task_id})
        self._forget()
        return proposal, self._held(proposal.subject, params.task_id)

    def _held(self, subject: Subject, name: str) -> _Handle | None:
        found = self._kept.get(name)
        return found if found is not None and found.owner == _owner(subject) else None

    async def _standing(self, subject: Subject, name: str) -> Standing:
        try:
            standing = await self._terms.register.standing(subject, name)
        except StoreError as error:
            raise _no_record() from error
        if standing is None:
            raise MCPError(INVALID_PARAMS, _NO_TASK)
        return standing

    def _keep(self, name: str, subject: Subject, running: Running, created_ms: int) -> _Handle:
        handle = self._kept[name] = _Handle(name, _owner(subject), created_ms, running)
        running.task.add_done_callback(lambda _: self._ended(handle))
        return handle

    def _ended(self, handle: _Handle) -> None:
        handle.ended_ms = self._terms.now_ms()

    def _forget(self) -> None:
        oldest_ms = self._terms.now_ms() - KEPT_S * 1000
        for name in [name for name, one in self._kept.items() if 0 < one.ended_ms < oldest_ms]:
            del self._kept[name]

    def _make_room(self, subject: Subject) -> None:
        """One's oldest answers that the record can bring again go: whoever looks at all its calls keeps but so many."""
        owner = _owner(subject)
        mine = [
            name for name, one in self._kept.items() if one.owner == owner and one.resumes and one.ended_ms
        ]
        for name in mine[: max(0, len(mine) + 1 - KEPT_MAX_EACH)]:
            del self._kept[name]

    def _resume(self, ctx: _Context, proposal: Proposal, name: str, standing: Standing) -> _Handle:
        """Begin what people agreed to; of any other call this brings what is on record."""
        self._make_room(proposal.subject)
        way = OnTheWay(ctx, None)
        with way:
            running = self._rounds.again(way.of(proposal), way)
        handle = self._keep(name, proposal.subject, running, standing.created_ms)
        handle.resumes = True
        return handle

    def _go_on(self, handle: _Handle, word: Confirmation) -> None:
        """The call's own question was answered: it is proposed again with the word."""
        before = handle.running
        handle.ended_ms = 0
        handle.running = self._rounds.again(replace(before.proposal, confirmation=word), before.way)
        handle.running.task.add_done_callback(lambda _: self._ended(handle))

    async def _told(self, ctx: _Context, subject: Subject, handle: _Handle) -> JsonObject:
        """The task as it is now, with what belongs to its state."""
        if asked := handle.questions(ctx):
            requests: dict[str, Any] = {
                key: one.model_dump(by_alias=True, mode="json", exclude_none=True)
                for key, one in asked.items()
            }
            return {**self._task(handle, "input_required"), "inputRequests": requests}
        answer = handle.running.answer
        if answer is None or answer.asks is not None:
            return self._task(handle, "working")
        code, call = _refusal(answer)
        waits = code in _WAITS and call == handle.id
        # A repeat waits as another call, and its answer says which.
        if waits or (handle.resumes and _passes(answer)):
            self._kept.pop(handle.id, None)  # from here on the record knows it
            return _waiting(handle.id, await self._standing(subject, handle.id))
        if handle.given_up and code in _NOTHING_HAPPENED:
            return self._task(handle, "cancelled")
        try:
            heed_refusal(answer, None)
            result = {name: value for name, value in self._shape(answer).items() if name != "resultType"}
        except MCPError as error:
            told = error.error.model_dump(by_alias=True, mode="json", exclude_none=True)
            return {**self._task(handle, "failed"), "statusMessage": error.error.message, "error": told}
        return {**self._task(handle, "completed"), "result": result}

    def _task(self, handle: _Handle, status: str) -> JsonObject:
        ended_ms = handle.ended_ms if status not in ("working", "input_required") else 0
        since_ms = (ended_ms or self._terms.now_ms()) - handle.created_ms
        return _shown(
            handle.id,
            status,
            handle.created_ms,
            ended_ms or handle.created_ms,
            since_ms + int(KEPT_S * 1000),
            POLL_MS,
        )


def _response(key: str, given: object) -> InputResponse:
    """An answer as the protocol has it. Raises `MCPError`."""
    try:
        return _responses.validate_python(given, by_name=False)
    except ValidationError:
        text = f"inputResponses[{key!r}] is no answer to what was asked; send one as MCP has it for that request."
        raise MCPError(INVALID_PARAMS, text) from None


def _waiting(name: str, standing: Standing) -> JsonObject:
    """The task of a call that is on record and has no answer yet."""
    called_off = standing.state is CallState.VOID
    status, told = ("cancelled", _CALLED_OFF) if called_off else ("working", standing.told)
    lives_ms = max(standing.expires_ms - standing.created_ms, 0) + int(KEPT_S * 1000)
    every_ms = POLL_PEOPLE_MS if standing.state is CallState.PENDING else POLL_MS
    shown = _shown(name, status, standing.created_ms, standing.created_ms, lives_ms, every_ms)
    return {**shown, "statusMessage": told} if told else shown


def _shown(
    name: str, status: str, created_ms: int, updated_ms: int, lives_ms: int, every_ms: int
) -> JsonObject:
    return {
        "taskId": name,
        "status": status,
        "createdAt": _iso(created_ms),
        "lastUpdatedAt": _iso(updated_ms),
        "ttlMs": lives_ms,
        "pollIntervalMs": every_ms,
    }


def _complete(told: JsonObject) -> JsonObject:
    return {"resultType": "complete", **told}


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _declares(ctx: _Context) -> bool:
    """Whether the client of this very request knows the extension, as it says itself."""
    declared = ctx.session.client_capabilities
    return is_modern(ctx) and declared is not None and EXTENSION in (declared.extensions or {})


def _owner(subject: Subject) -> tuple[str, str, str]:
    return subject.tenant, subject.principal.id, subject.actor.id


def _refusal(answer: Answer) -> tuple[str, str]:
    """Code and call of a refusal; empty for an answer that is none."""
    told = answer.meta.get(META_REFUSAL)
    if not isinstance(told, Mapping):
        return "", ""
    return str(told.get("code")), str(told.get("call") or "")


def _passes(answer: Answer) -> bool:
    """Whether what refused a resume passes by itself: the approval stands, and asking again later runs it."""
    told = answer.meta.get(META_REFUSAL)
    return isinstance(told, Mapping) and str(told.get("retry")).startswith("after:")


def _no_record() -> MCPError:
    return MCPError(INTERNAL_ERROR, "Comptroller cannot read its record now. Ask again later.")
