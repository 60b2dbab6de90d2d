"""The batch form of a read: one call with many values, each of which becomes a call of the read itself.

Every one of them goes through the whole story, with a decision, a budget, a record and refs of its own, so nothing is
allowed here that would not be allowed one by one, and no item says more than a call of its own would. The batch
has one record too, which names their calls.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeAlias, cast

from comptroller_audit.redaction import Audience
from comptroller_audit.store import Store
from comptroller_audit.unit import Committed, Receipt
from comptroller_audit.vocabulary import Code, Json, JsonObject, RecordType, Refusal
from comptroller_budgets.metering import tokens_of_bytes
from comptroller_budgets.prices import Tokens
from comptroller_policy.engine import Bundle
from comptroller_server.call.answers import META_CACHED, META_CALL, META_RECEIPT, META_REFUSAL, receipt_json
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.commits import Commits
from comptroller_server.call.evidence import Evidence
from comptroller_server.call.fitting import fitted
from comptroller_server.call.naming import META_TASK
from comptroller_server.call.proposal import Answer, Proposal, nobody_waits
from comptroller_server.call.roads import Roads
from comptroller_server.call.upstream_words import META_UNTRUSTED
from comptroller_tools.batches import Batch
from comptroller_tools.catalogue import Tool
from comptroller_tools.questions import NOBODY
from comptroller_tools.source import no_progress

__all__ = ["META_ITEMS", "Batches"]

META_ITEMS: Final = "comptroller/items"
"""Per item `{call, receipt, cached}`, as far as there is one."""
Propose: TypeAlias = Callable[[Proposal], Awaitable[Answer]]
_ENDS_IT: Final = frozenset(
    {
        Code.HALTED,
        Code.BUDGET_EXHAUSTED,
        Code.TIME_EXHAUSTED,
        Code.OVERLOADED,
        Code.SOURCE_DOWN,
        Code.STORE_UNAVAILABLE,
        Code.BUNDLE_CHANGED,
        Code.TASK_UNKNOWN,
        Code.TOOL_QUARANTINED,
        Code.UNKNOWN_TOOL,
    }
)
"""Refusals that the next item would meet too: the rest is not tried."""


class Batches:
    """Answers calls of batch forms, by proposing each item."""

    def __init__(
        self, store: Store, bundle: Bundle, commits: Commits, evidence: Evidence, roads: Roads
    ) -> None:
        self._store = store
        self._bundle = bundle
        self._commits = commits
        self._evidence = evidence
        self._roads = roads

    async def answer(self, case: Case, propose: Propose) -> Answer | None:
        """The answer of a batch form, or None when the call is for another tool. Raises `Refused`."""
        if case.many is None or (batch := case.many.batch) is None:
            return None
        given = self._validate(case, batch)
        values = cast("list[Json]", given[batch.argument])
        answers = await self._run(case, case.many, batch, given, values, propose)
        receipt = await self._record(case, batch, answers)
        return self._answer(case, batch, values, answers, receipt)

    def _validate(self, case: Case, batch: Batch) -> JsonObject:
        given = case.proposal.arguments
        if self._roads.finds_secret([given]):
            text = "The arguments contain a secret of this installation, so they are not sent anywhere."
            raise Refused(Refusal(Code.SECRET_IN_ARGUMENTS, text, "other_arguments"))
        case.argument_bytes = fitted(batch.name, batch.arguments, given)
        return given

    async def _run(
        self,
        case: Case,
        tool: Tool,
        batch: Batch,
        given: JsonObject,
        values: Sequence[Json],
        propose: Propose,
    ) -> list[Answer | None]:
        """An answer for each value; None for those not tried. The first goes alone: it may begin the task."""
        answers: list[Answer | None] = [None] * len(values)
        left = iter(enumerate(values))
        is_over = False

        async def work(most: int | None = None) -> None:
            nonlocal is_over
            for at, value in _first(left, most):
                if is_over:
                    return
                answer = answers[at] = await propose(self._item(case, batch, batch.single(given, value)))
                is_over = is_over or _code(answer) in _ENDS_IT
                done = sum(each is not None for each in answers)
                await case.proposal.progress(done, len(values), None)

        await work(1)
        # Side by side, two calls of which each is counted for the other would only make each other decide again.
        at_once = 1 if self._bundle.reads(tool.name).history else tool.config.limits.concurrency_max
        await asyncio.gather(*(work() for _ in range(min(at_once, len(values) - 1))))
        return answers

    def _item(self, case: Case, batch: Batch, arguments: JsonObject) -> Proposal:
        """One value as a call of the read. What the client reports of its models is counted once, with the batch."""
        meta = {name: value for name, value in case.proposal.meta.items() if name == META_TASK}
        return replace(
            case.proposal,
            tool=batch.base,
            arguments=arguments,
            meta=meta,
            progress=no_progress,
            can_ask=False,
            confirmation=None,
            asker=NOBODY,  # one of many has nobody to itself
            part_of=case.call,
            begun=nobody_waits,
        )

    async def _record(self, case: Case, batch: Batch, answers: Sequence[Answer | None]) -> Receipt:
        calls: list[Json] = [answer.meta[META_CALL] for answer in answers if answer is not None]
        done = sum(answer is not None and not answer.is_error for answer in answers)
        packet: JsonObject = {"of": batch.base, "calls": calls, "asked": len(answers), "done": done}
        record = self._evidence.built_in(case, RecordType.BATCH, case.task.id, packet)
        outcome = await self._store.commit(case.tenant, self._commits.many(case, record))
        assert isinstance(outcome, Committed)  # its call has an id that nobody else has
        return outcome.receipts[-1]

    def _answer(
        self,
        case: Case,
        batch: Batch,
        values: Sequence[Json],
        answers: Sequence[Answer | None],
        receipt: Receipt,
    ) -> Answer:
        road = self._roads.arguments(batch.base)
        items: list[Json] = []
        lines: list[str] = []
        about: list[Json] = []
        for value, answer in zip(values, answers, strict=True):
            shown = cast("JsonObject", road.release({batch.of: value}, Audience.MODEL, case.book).value)
            items.append({**shown, **_told(answer)})
            lines.append(f"{json.dumps(shown, ensure_ascii=False)}: {answer.text if answer else _NOT_TRIED}")
            about.append(_about(answer))
        read = "".join(  # these texts were metered with their own calls
            answer.text for answer in answers if answer is not None
        )
        case.usage.charged += Tokens(tokens_of_bytes(len(read.encode(errors="replace"))))
        meta: JsonObject = {
            META_CALL: case.call,
            META_TASK: case.task.id,
            META_RECEIPT: receipt_json(receipt),
            META_ITEMS: about,
        }
        if case.many is not None and case.many.upstream is not None:
            meta[META_UNTRUSTED] = case.many.upstream
        return Answer("\n".join(lines), {"items": items}, meta=meta)


_NOT_TRIED: Final = "Not tried: what refused another item of this call would have refused this one too."


def _first(left: Iterator[tuple[int, Json]], most: int | None) -> Iterator[tuple[int, Json]]:
    for number, each in enumerate(left, start=1):
        yield each
        if number == most:
            return


def _code(answer: Answer) -> Code | None:
    refusal = answer.meta.get(META_REFUSAL)
    return Code(str(refusal["code"])) if isinstance(refusal, dict) else None


def _told(answer: Answer | None) -> JsonObject:
    if answer is None:
        return {"ok": False, "refusal": {"code": "not_tried", "text": _NOT_TRIED, "retry": "same_call"}}
    call = answer.meta[META_CALL]
    if not answer.is_error:
        output: Json = answer.structured if answer.structured is not None else answer.text
        return {"ok": True, "call": call, "output": output}
    details = answer.meta.get(META_REFUSAL)
    known = details if isinstance(details, dict) else {}
    code, retry = known.get("code", Code.CONFIRMATION_NEEDED.value), known.get("retry", "person")
    return {"ok": False, "call": call, "refusal": {"code": code, "text": answer.text, "retry": retry}}


def _about(answer: Answer | None) -> JsonObject:
    if answer is None:
        return {}
    names = {META_CALL: "call", META_RECEIPT: "receipt", META_CACHED: "cached"}
    return {short: answer.meta[name] for name, short in names.items() if name in answer.meta}
