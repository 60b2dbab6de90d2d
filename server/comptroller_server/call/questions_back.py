"""Questions of an upstream in the middle of a call: released like anything that leaves, timed, and noted for the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, cast

from comptroller_audit.ambient import Clock
from comptroller_audit.redaction import Audience, Release
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_server.call.case import Case
from comptroller_tools.questions import NOBODY, Asker, Asks, Patience, Question, Reply

__all__ = ["QuestionsBack", "asker_for"]

NOTES_MAX = 32
"""Notes of one call that the record holds."""
WITHHELD_REPLY = (
    "the answer holds a secret, or what looks like a key, a token or a password, so it is sent nowhere"
)


_Idle: TypeAlias = Callable[[], AbstractAsyncContextManager[None]]


def asker_for(case: Case, idle: _Idle, release: Release, clock: Clock) -> Asker:
    """Who a source may ask in this call: its client, where that says that it can be asked.

    `idle` is entered while somebody is asked: the source has nothing to do then.
    """
    if not case.proposal.asker.kinds:
        return NOBODY
    return QuestionsBack(case, idle, release, clock)


class QuestionsBack:
    """Stands between one source and the client of one call."""

    def __init__(self, case: Case, idle: _Idle, release: Release, clock: Clock) -> None:
        self._case = case
        self._idle = idle
        self._release = release
        self._clock = clock
        self.patience = Patience(clock.monotonic)
        case.patience = self.patience

    @property
    def kinds(self) -> frozenset[Asks]:
        return self._case.proposal.asker.kinds

    async def __call__(self, questions: Sequence[Question]) -> Mapping[str, Reply]:
        """What the person reads holds nothing that they may not see, and no secret goes back; the record holds both."""
        shown = [self._shown(one) for one in questions]
        began = self._clock.monotonic()
        with self.patience.asking():
            async with self._idle():
                replies = await self._case.proposal.asker(shown)
                waited_ms = round((self._clock.monotonic() - began) * 1000)
        sent: dict[str, Reply] = {}
        for one in shown:
            reply = replies.get(one.key)
            if reply is not None and self._release.secrets_in(cast("Json", dict(reply))):
                self._note(one.kind, {**_told(one), "why": WITHHELD_REPLY}, "refused", waited_ms)
                continue
            self._note(one.kind, _told(one), _answer(reply), waited_ms)
            if reply is not None:
                sent[one.key] = reply
        return sent

    def refused(self, kind: str, why: str) -> None:
        self._note(kind, {"why": why}, "refused", 0)

    def _shown(self, question: Question) -> Question:
        audience = Audience.MODEL if question.kind is Asks.SAMPLING else Audience.PERSON
        released = self._release.release(cast("Json", dict(question.params)), audience, self._case.book)
        return Question(question.key, question.kind, cast("dict[str, Any]", released.value))

    def _note(self, kind: str, told: JsonObject, answer: str, waited_ms: int) -> None:
        if len(self._case.questions) < NOTES_MAX:
            note: JsonObject = {"kind": str(kind), **told, "answer": answer, "waited_ms": waited_ms}
            self._case.questions.append(note)


def _told(question: Question) -> JsonObject:
    """What of a question the record holds: its words and its fields, never what was answered."""
    told: JsonObject = {}
    for key in ("message", "url"):
        if key in question.params:
            told[key] = str(question.params[key])
    schema = question.params.get("requestedSchema")
    if isinstance(schema, Mapping):
        fields = cast("Mapping[str, Any]", cast("Mapping[str, Any]", schema).get("properties", {}))
        told["fields"] = list[Json](sorted(fields))
    return told


def _answer(reply: Reply | None) -> str:
    if reply is None:
        return "none"
    return str(reply["action"]) if reply.get("action") in ("accept", "decline", "cancel") else "accept"
