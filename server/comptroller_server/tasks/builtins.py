"""The built-in tools: `task_begin`, `task_status`, `task_finish`, `hand_off`.

They go through steps 1 to 4 like every call and end in one record; they charge no calls and take no step.
`resume_call` is in repeats.py: it is an attempt of the call it names.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, cast

from comptroller_audit.ambient import Ids
from comptroller_audit.calls import Existing, Lost
from comptroller_audit.packets import LogRecord
from comptroller_audit.redaction import Audience
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Committed, Moved, Part, Receipt
from comptroller_audit.vocabulary import MICRO, CallState, Code, JsonObject, RecordType, Refusal
from comptroller_budgets.costs import task_cost
from comptroller_budgets.handoffs import HandoffCause, NoteHandoff
from comptroller_budgets.ledger import COUNTERS, amount_text
from comptroller_budgets.lifecycle import BeginTask, EndTask
from comptroller_budgets.limits import BudgetsConfig, Scope, Window
from comptroller_budgets.standing import task_standings
from comptroller_budgets.tasks import TASKS, TaskOutcome
from comptroller_server.call.answers import built_in_answer
from comptroller_server.call.case import Basis, Case, Refused
from comptroller_server.call.commits import Commits
from comptroller_server.call.endings import pending_ended
from comptroller_server.call.evidence import Evidence
from comptroller_server.call.fitting import fitted
from comptroller_server.call.naming import META_REQUEST
from comptroller_server.call.proposal import Answer
from comptroller_server.call.provenance import request_marks
from comptroller_server.call.quotas import Quotas
from comptroller_server.call.roads import Roads
from comptroller_server.call.watch import Watch
from comptroller_server.tasks.built_in_tools import BEGIN, BUILT_INS, FINISH, HAND_OFF, STATUS
from comptroller_server.tasks.finish import Ending, Finishing
from comptroller_server.tasks.handing_over import HandOvers
from comptroller_server.tasks.record import TaskRecord
from comptroller_server.tasks.taskbook import TaskBook

__all__ = ["BuiltIns"]

TRIES_MAX = 3
"""How often a built-in is tried again because the task or a switch moved meanwhile."""
REQUEST_CHARS_MAX = 4000

_Composed: TypeAlias = "tuple[LogRecord, str, Sequence[Part], str]"
"""A record, the task it belongs to, the parts that come after it, and a refusal code or nothing."""


class BuiltIns:
    """Tools of Comptroller's own. `orchestrators` are the actors that the config names as such."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        taskbook: TaskBook,
        watch: Watch,
        commits: Commits,
        evidence: Evidence,
        hand_overs: HandOvers,
        finishing: Finishing,
        roads: Roads,
        quotas: Quotas,
        ids: Ids,
        budgets: BudgetsConfig,
        orchestrators: frozenset[str],
    ) -> None:
        self._store = store
        self._ring = ring
        self._taskbook = taskbook
        self._watch = watch
        self._commits = commits
        self._evidence = evidence
        self._hand_overs = hand_overs
        self._finishing = finishing
        self._roads = roads
        self._quotas = quotas
        self._ids = ids
        self._budgets = budgets
        self._orchestrators = orchestrators
        self._run: dict[str, Callable[[Case], Awaitable[Answer]]] = {
            BEGIN: self._begin,
            STATUS: self._status,
            FINISH: self._finish,
            HAND_OFF: self._hand_off,
        }

    async def answer(self, case: Case) -> Answer | None:
        """The answer of a built-in tool, or None when the call is for another one. Raises `Refused`."""
        if case.built_in == "":
            return None
        self._validate(case)
        return await self._run[case.built_in](case)

    async def hand_over(self, case: Case, refusal: Refusal) -> None:
        """After a refusal: give the task to a person, where only a person can go on."""
        await self._hand_overs.after_refusal(case, refusal)

    def _validate(self, case: Case) -> None:
        """4: as for every tool, secrets first, because later sentences quote names."""
        tool, given = BUILT_INS[case.built_in], case.proposal.arguments
        if self._roads.finds_secret([given, case.proposal.meta.get(META_REQUEST)]):
            text = "The arguments contain a secret of this installation, so they are not kept anywhere."
            raise Refused(Refusal(Code.SECRET_IN_ARGUMENTS, text, "other_arguments"))
        case.argument_bytes = fitted(tool.name, tool.arguments, given)
        case.arguments = given

    # -- task_begin -----------------------------------------------------------------------------------------------

    async def _begin(self, case: Case) -> Answer:
        task = self._ids.uuid7()
        told = self._clean(
            {
                "request": self._request(case),
                "plan": case.arguments.get("plan"),
                "unit": case.arguments.get("unit"),
            }
        )
        record = self._evidence.built_in(case, RecordType.TASK_BEGUN, task, told)
        begin = BeginTask(
            task,
            case.principal_key,
            case.subject.actor.id,
            case.subject.actor.id in self._orchestrators,
            self._budgets,
            call=case.call,
        )
        parts: list[Part] = [begin]
        if isinstance(stated := case.proposal.meta.get(META_REQUEST), str):  # found to be trusted above
            parts.append(request_marks(self._ring, case.tenant, task, stated))
        receipt = await self._commit(case, lambda: _ready(record, task, parts))
        case.task = self._taskbook.began(case.tenant, case.task, task)
        text = (
            "The task has begun. Your calls belong to it until you end it with `task_finish` or `hand_off`."
        )
        return self._answer(case, receipt, {"task": task, "state": "open"}, text)

    def _request(self, case: Case) -> JsonObject:
        """What the work is: the orchestrator's word, where a token proves it is one, or a person's; else the agent's."""
        stated = case.proposal.meta.get(META_REQUEST)
        if stated is None:
            return {"text": case.arguments["request"], "trusted": False}
        by = case.proposal.said_by
        if not by and (case.subject.actor.id not in self._orchestrators or not case.proposal.by_token):
            text = f"`{META_REQUEST}` is taken from an orchestrator that the config names, over HTTP; leave it out."
            raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
        if not isinstance(stated, str) or not 1 <= len(stated) <= REQUEST_CHARS_MAX:
            text = f"`{META_REQUEST}` must be a text of 1 to {REQUEST_CHARS_MAX} characters."
            raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
        return {"text": stated, "trusted": True, **({"by": by} if by else {})}

    # -- task_status ----------------------------------------------------------------------------------------------

    async def _status(self, case: Case) -> Answer:
        self._quotas.spend(case.principal_key)
        status = await self._store.read(lambda reader: self._look(reader, case))
        record = self._evidence.built_in(case, RecordType.TASK_STATUS, case.task.id, {"status": status})
        receipt = await self._commit(case, lambda: _ready(record, case.task.id, []))
        text = (
            "" if status["task"] else "No task is open. One begins with your next call, or with `task_begin`."
        )
        return self._answer(case, receipt, status, text)

    def _look(self, reader: Reader, case: Case) -> JsonObject:
        row = reader.row(case.tenant, TASKS, case.task.id)
        if row is None:
            return {"task": None, "state": "none"}
        budgets = self._budgets
        used = reader.row(case.tenant, COUNTERS, f"{Scope.TASK}:{case.task.id}:calls:{Window.TASK}")
        calls = (used["used"] + used["held"]) // MICRO if used is not None else 0
        return {
            "task": case.task.id,
            "state": row["state"],
            "begun": bool(row["begun"]),
            "steps": {"used": row["steps"], "max": budgets.max_steps},
            "calls": {"used": calls, "max": budgets.max_tool_calls} if budgets.max_tool_calls else None,
            "active_seconds": {"used": round(row["active_ms"] / 1000, 1), "max": budgets.timeout_seconds},
            "left": {
                one.limit.id: amount_text(one.left_micro)
                for one in task_standings(reader, case.tenant, case.task.id, budgets)
            },
            "cost": task_cost(reader, case.tenant, case.task.id).as_json(),
            "waiting_for_person": row["awaiting"],
        }

    # -- task_finish ----------------------------------------------------------------------------------------------

    async def _finish(self, case: Case) -> Answer:
        ending: Ending | None = None

        async def compose() -> _Composed:
            nonlocal ending
            found = await self._hand_overs.read(case.tenant, case.task.id)
            ending = await self._finishing.look(case, found)
            record = self._evidence.built_in(case, RecordType.TASK_ENDED, case.task.id, ending.packet)
            code = ending.problem.code.value if ending.problem is not None else ""
            part = EndTask(
                case.task.id,
                ending.outcome,
                self._budgets,
                code=code,
                seen_ms=ending.seen_ms,
                call=case.call,
                waiting=found.waiting,
            )
            return record, case.task.id, [part, *self._closing(found)], code

        receipt = await self._commit(case, compose)
        self._taskbook.ended(case.tenant, case.task)
        assert ending is not None
        if ending.problem is not None:
            raise Refused(ending.problem, receipt)
        told: JsonObject = {"task": case.task.id, "outcome": ending.outcome.value}
        text = f"The task is closed as {ending.outcome}."
        if ending.outcome is TaskOutcome.SUCCEEDED:
            text += " Its success was proved."
        return self._answer(case, receipt, told, text)

    # -- hand_off -------------------------------------------------------------------------------------------------

    async def _hand_off(self, case: Case) -> Answer:
        task, given = case.task.id, case.arguments

        async def compose() -> _Composed:
            found = await self._hand_overs.read(case.tenant, task)
            packet = self._hand_overs.packet(
                found,
                HandoffCause.ASKED,
                str(given["reason"]),
                call=case.call,
                tried=cast("str | None", given.get("tried")),
                need=cast("str | None", given.get("need")),
                actor=case.subject.actor.id,
            )
            record = self._evidence.built_in(case, RecordType.HANDED_OFF, task, packet)
            parts: list[Part] = [
                NoteHandoff(task, HandoffCause.ASKED, case.subject.actor.id),
                EndTask(
                    task,
                    TaskOutcome.HANDED_OFF,
                    self._budgets,
                    rests=True,
                    call=case.call,
                    waiting=found.waiting,
                ),
            ]
            parts += self._closing(found)
            # A task in which nothing was called yet is entered first, so that there is one to hand over.
            return record, task, [self._commits.enter(case), *parts] if case.task.is_new else parts, ""

        receipt = await self._commit(case, compose)
        self._taskbook.ended(case.tenant, case.task)
        text = (
            "The task was given to a person, with what you read and tried. Stop working on it and tell the user; for "
            "other work, begin a task with `task_begin`."
        )
        return self._answer(case, receipt, {"task": task, "outcome": TaskOutcome.HANDED_OFF.value}, text)

    # -- parts ----------------------------------------------------------------------------------------------------

    async def _commit(self, case: Case, compose: Callable[[], Awaitable[_Composed]]) -> Receipt:
        """One unit, composed again while what it rests on moves. Raises `Refused`, with the receipt of its record."""
        for _ in range(TRIES_MAX):
            head = await self._watch.fresh(case.tenant)
            case.basis = Basis({}, head.switch_seq)
            self._stop_halted(case)
            record, task, parts, code = await compose()
            outcome = await self._store.commit(
                case.tenant, self._commits.built_in(case, record, task, parts, code)
            )
            if isinstance(outcome, Committed):
                return outcome.receipts[0]
            stop: Moved | Refusal | Existing | Lost = outcome.stop
            if isinstance(stop, Refusal):
                raise Refused(stop, outcome.receipts[-1] if outcome.receipts else None)
            await self._watch.look(case.tenant)
            case.task = await self._taskbook.look_again(case.tenant, case.task)
        text = "The task kept changing meanwhile. Try again in a few seconds."
        raise Refused(Refusal(Code.OVERLOADED, text, "after:2", case.call))

    def _closing(self, found: TaskRecord) -> list[Part]:
        """What waits for a person when its task ends can never run: it is closed, and its claims are free again."""
        parts: list[Part] = []
        for call, row in found.pending:
            packet: JsonObject = {
                "v": 1,
                "call": call,
                "state": CallState.VOID.value,
                "why": "its task ended",
            }
            record = LogRecord(RecordType.CALL_CLOSED, packet, call, task=found.task)
            parts += pending_ended(
                call, row["approval"], found.task, CallState.VOID, row["epoch"], record, self._budgets
            )
        return parts

    def _stop_halted(self, case: Case) -> None:
        """A halt stops new work and claims; looking, and giving work to a person, stay possible."""
        if case.built_in in (BEGIN, FINISH):
            switches = self._watch.switches(case.tenant)
            stop = switches.stops(case.built_in, case.principal_key, case.task.id)
            if stop is not None:
                raise Refused(stop)

    def _answer(self, case: Case, receipt: Receipt, told: JsonObject, text: str) -> Answer:
        shown = cast("JsonObject", self._roads.release(told, Audience.MODEL).value)
        shown = {**shown, "task": told.get("task")}  # an id of ours, whatever it looks like
        return built_in_answer(case, shown, text, receipt)

    def _clean(self, value: JsonObject) -> JsonObject:
        return cast("JsonObject", self._roads.release(value, Audience.RECORD).value)


async def _ready(record: LogRecord, task: str, parts: Sequence[Part]) -> _Composed:
    return record, task, parts, ""
