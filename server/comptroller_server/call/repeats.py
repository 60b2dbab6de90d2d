"""Repeats and resumes: a proposal that is a known call gets that call's state, its recorded answer, or its one run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

import structlog

from comptroller_audit.ambient import Clock
from comptroller_audit.calls import CALLS, CLAIMS, Existing, Lost, log_indexes
from comptroller_audit.database import Row
from comptroller_audit.packets import LogRecord
from comptroller_audit.query import Logged, entries
from comptroller_audit.redaction import Audience
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader, Store
from comptroller_audit.unit import Stopped
from comptroller_audit.vocabulary import CallState, Code, Effect, Json, JsonObject, RecordType, Refusal
from comptroller_policy.approvals import APPROVALS, ApprovalState, approval_digest, asked_digest, given
from comptroller_policy.engine import Bundle
from comptroller_server.call.answers import pending_refusal, replay_answer
from comptroller_server.call.case import Case, Refused, Resumed
from comptroller_server.call.commits import Commits
from comptroller_server.call.edits import Edited, asked_in, told_edit
from comptroller_server.call.evidence import Evidence
from comptroller_server.call.intake import RESUME
from comptroller_server.call.naming import call_row
from comptroller_server.call.proposal import Answer
from comptroller_server.call.quotas import Quotas
from comptroller_server.call.roads import Roads
from comptroller_server.call.stored import newest, proved
from comptroller_server.call.watch import Watch
from comptroller_tools.catalogue import Catalogue

__all__ = ["Repeats"]

FOUND_CHARS_MAX = 600
"""How much of a looked-up record a repeat is shown in place of a lost answer."""

_log = structlog.stdlib.get_logger()
_CHANGED = "A person changed the arguments."
_CAME_TO_NOTHING = "This call ended without an effect. Propose it again if it is still needed."
_NO_SUCH_CALL = "There is no such call to resume in this task."

_ANSWERED = frozenset({CallState.DONE, CallState.HANDED_OFF, CallState.COMPENSATED})
"""States in which a call has an answer that can be given again."""

_ENDED_AND_STANDING = frozenset({CallState.DONE, CallState.HANDED_OFF, CallState.IN_DOUBT})
"""States in which what a call did stands, or may."""


class Repeats:
    """Answers for calls that are on record already."""

    def __init__(
        self,
        store: Store,
        ring: KeyRing,
        catalogue: Catalogue,
        commits: Commits,
        evidence: Evidence,
        release: Roads,
        quotas: Quotas,
        clock: Clock,
        bundle: Bundle,
        watch: Watch,
    ) -> None:
        self._store = store
        self._ring = ring
        self._catalogue = catalogue
        self._commits = commits
        self._evidence = evidence
        self._release = release
        self._quotas = quotas
        self._clock = clock
        self._bundle = bundle
        self._watch = watch

    def is_resume(self, case: Case) -> bool:
        return case.proposal.tool == RESUME

    async def resume(self, case: Case) -> Answer | None:
        """`resume_call`: an answer, or None when the case now is the approved call and goes on."""
        wanted = case.proposal.arguments.get("call")
        if not isinstance(wanted, str) or set(case.proposal.arguments) != {"call"}:
            text = '`resume_call` takes exactly {"call": "<id from the pending answer>"}.'
            raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments"))
        row = await self._store.read(lambda reader: call_row(reader, case.tenant, wanted))
        if (
            row is None
            or not _belongs(case, row)
            or row["task"] != case.task.id
            or not self._may_tell(case, row)
        ):
            raise Refused(Refusal(Code.CALL_UNKNOWN, _NO_SUCH_CALL, "never"))
        return await self._answer(case, wanted, row, replay=True)

    def _may_tell(self, case: Case, row: Row) -> bool:
        """What was read is not given again, nor is anything of a tool that this principal may not see any more."""
        was_read = row["effect"] == Effect.READ and row["state"] in _ANSWERED
        return not was_read and self._bundle.visible(case.subject, row["tool"])

    async def named(self, case: Case) -> Answer | None:
        """The recorded answer of a call that ended under the same explicit key, before anything is decided.

        What was done stays done, whatever rules and budgets would say of doing it now. Raises `Refused` with the
        state of one in doubt. None: no such call, or one that the commit sees to.
        """
        claim = next((claim for claim in case.claims if claim.explicit), None)
        if claim is None:
            return None

        def look(reader: Reader) -> tuple[str, Row | None]:
            held = reader.row(case.tenant, CLAIMS, claim.id)
            call = str(held["call"]) if held is not None and held["arguments"] == claim.arguments else ""
            return call, reader.row(case.tenant, CALLS, call) if call else None

        call, row = await self._store.read(look)
        if row is None or row["state"] not in _ENDED_AND_STANDING:
            return None
        return await self._answer(case, call, row, replay=True)

    async def answer_for(self, case: Case, stop: Existing | Lost) -> Answer | None:
        """What a repeat, or the loser of a race, gets. None: the case became the approved call and goes on."""
        if isinstance(stop, Existing):
            return await self._answer(case, stop.call, stop.row, stop.replay)
        row = await self._store.read(lambda reader: reader.row(case.tenant, CALLS, stop.call))
        if row is None:
            raise Refused(Refusal(Code.CALL_UNKNOWN, _NO_SUCH_CALL, "never"))
        return await self._answer(case, stop.call, row, replay=True)

    async def _answer(self, case: Case, call: str, row: Row, replay: bool) -> Answer | None:
        state = CallState(row["state"])
        if state is CallState.PENDING:
            return await self._pending(case, call, row, replay)
        if state is CallState.COMMITTED:
            text = f"This very call is running already (call {call}). Wait for its answer."
            raise Refused(Refusal(Code.IN_PROGRESS, text, "after:2", call))
        if state is CallState.IN_DOUBT:
            text = (
                f"This was tried before (call {call}) and it is not known whether it happened. Do not repeat it; a "
                "person must resolve it first."
            )
            raise Refused(Refusal(Code.IN_DOUBT, text, "person", call))
        if replay and state in _ANSWERED:
            return await self._replay(case, call, row)
        ended = {
            CallState.DENIED: (
                Code.APPROVAL_DENIED,
                "A person said no to this call. Do not propose it again.",
            ),
            CallState.EXPIRED: (
                Code.APPROVAL_EXPIRED,
                "Nobody decided in time. Propose the call again if it is still needed.",
            ),
            CallState.VOID: (
                Code.APPROVAL_VOID,
                "The call can no longer run as it was approved. Propose it again.",
            ),
            CallState.FAILED_BEFORE_EFFECT: (Code.CALL_UNKNOWN, _CAME_TO_NOTHING),
            CallState.NOT_DONE: (Code.CALL_UNKNOWN, _CAME_TO_NOTHING),
        }
        code, text = ended.get(state, (Code.CALL_UNKNOWN, _NO_SUCH_CALL))
        # Whoever noticed the time, this attempt or an earlier one, the answer is the same.
        again = code is Code.APPROVAL_EXPIRED or text is _CAME_TO_NOTHING
        retry_hint = "same_call" if again else "never"
        raise Refused(Refusal(code, text, retry_hint, call))

    # -- replays --------------------------------------------------------------------------------------------------

    async def _replay(self, case: Case, call: str, row: Row) -> Answer:
        """The recorded answer, released again for the present caller, with a record of its own."""
        await self._watch.fresh(case.tenant)
        stop = self._watch.switches(case.tenant).stops(row["tool"], case.principal_key, row["task"])
        if stop is not None:
            raise Refused(stop)
        logged = await self._logged(case.tenant, row)
        packet = newest(
            logged,
            (
                RecordType.AUDIT,
                RecordType.RECOVERED,
                RecordType.RESOLVED,
                RecordType.READ,
                RecordType.COMPENSATION,
            ),
        )
        if packet is None:
            text = f"This was done before, by call {call}, whose record was erased. It was not done again."
            raise Refused(Refusal(Code.ALREADY_DONE, text, "never", call))
        problem = packet.get("problem")
        if isinstance(problem, dict):
            told = self._release.told(str(problem.get("text")), Audience.MODEL, case.book, (call,))
            text = f"{told} (This is the recorded result of call {call}; nothing was done again.)"
            raise Refused(Refusal(Code(str(problem.get("code"))), text, str(problem.get("retry")), call))
        output = self._released(case, row["tool"], packet)
        if not self._is_an_answer(row["tool"], packet):
            text = f"This was done before, by call {call}; it was not done again. Its own answer was lost; "
            if "by" in packet:
                text += "a person looked, and says that it was done."
            else:
                text += f"looking it up found: {json.dumps(output, ensure_ascii=False)[:FOUND_CHARS_MAX]}"
            raise Refused(Refusal(Code.ALREADY_DONE, text, "never", call))
        self._quotas.spend(case.principal_key)
        outcome = await self._store.commit(
            case.tenant, self._commits.note(call, self._evidence.replayed(case, call))
        )
        tool, action = self._catalogue.find(str(row["tool"])), newest(logged, (RecordType.ACTION,))
        edit = self._edit(case, action) if action is not None and _belongs(case, row) else ""
        return replay_answer(call, output, outcome.receipts[-1], tool.upstream if tool else None, edit)

    def _released(self, case: Case, name: str, packet: JsonObject) -> Json:
        """A recorded output for the present caller. What recovery looked up has the look-up's fields, and its rules."""
        tool = self._catalogue.find(name)
        output = packet.get("output")
        if "outcome" not in packet and tool is not None and tool.config.recover is not None:
            found = self._release.output(tool.config.recover.tool)
            output = found.release(output, Audience.MODEL, case.book).value
        return self._release.output(name).release(output, Audience.MODEL, case.book).value

    def _is_an_answer(self, name: str, packet: JsonObject) -> bool:
        """Whether a record's output is the tool's own: what a look-up found instead has another shape."""
        tool = self._catalogue.find(name)
        if "outcome" in packet or tool is None or tool.output is None:
            return True
        return not tool.output.check(packet.get("output"))

    # -- pending calls --------------------------------------------------------------------------------------------

    async def _pending(self, case: Case, call: str, row: Row, replay: bool) -> Answer | None:
        def look(reader: Reader) -> tuple[Row | None, Row | None]:
            return reader.row(case.tenant, APPROVALS, row["approval"]), reader.row(case.tenant, CALLS, call)

        approval, now = await self._store.read(look)
        if approval is None or now is None:
            raise Refused(Refusal(Code.CALL_UNKNOWN, _NO_SUCH_CALL, "never"))
        if (now["state"], now["approval"]) != (row["state"], row["approval"]):  # another resume was faster
            return await self._answer(case, call, now, replay)
        row = now  # it lists the records of the votes that the approval has
        if approval["expires_ms"] <= self._clock.now_ms():
            await self._close(case, call, row, CallState.EXPIRED, "nobody decided in time")
            text = "Nobody decided in time. Propose the call again if it is still needed."
            raise Refused(Refusal(Code.APPROVAL_EXPIRED, text, "same_call", call))
        if approval["state"] != ApprovalState.APPROVED:
            wanted = cast("dict[str, int]", json.loads(approval["roles"]))
            mine = _belongs(case, row) and row["task"] == case.task.id
            edit = await self._edit_of(case, row) if mine and approval["edited_digest"] else ""
            raise Refused(pending_refusal(call, wanted, (), (), edit))
        if not _belongs(case, row) or row["task"] != case.task.id:
            raise Refused(
                Refusal(Code.IN_PROGRESS, f"Call {call} waits for its own task to resume it.", "never", call)
            )
        await self._become(case, call, row, approval)
        return None

    async def _edit_of(self, case: Case, row: Row) -> str:
        """What people changed of a call that still waits."""
        packet = newest(await self._logged(case.tenant, row), (RecordType.PENDING,))
        return self._edit(case, packet) if packet is not None else ""

    def _edit(self, case: Case, packet: JsonObject) -> str:
        """What people changed of a proposal, as this caller may read it; nothing when they changed nothing."""
        edited = Edited.of(packet)
        if edited is None:
            return ""
        told = told_edit(
            self._release, str(packet["tool"]), edited.arguments, packet["arguments"], book=case.book
        )
        return f"A person changed the arguments: {'; '.join(told)}." if told else _CHANGED

    async def _become(self, case: Case, call: str, row: Row, approval: Row) -> None:
        """Make the case the stored proposal: its own arguments, `why` and claims; none of the repeat's."""
        logged = await self._logged(case.tenant, row)
        packet = newest(logged, (RecordType.PENDING,))
        tool = self._catalogue.find(row["tool"])
        if packet is None or tool is None:
            await self._close(case, call, row, CallState.VOID, "its tool or its stored proposal is gone")
            text = "The call can no longer run as it was approved. Propose it again."
            raise Refused(Refusal(Code.APPROVAL_VOID, text, "never", call))
        if packet["call"] != call or not proved(approval, logged):
            _log.error("votes or an edit that are on no record", call=call, approval=row["approval"])
            await self._close(
                case, call, row, CallState.VOID, "its approval holds votes that are on no record"
            )
            text = "The call can no longer run as it was approved. Propose it again."
            raise Refused(Refusal(Code.APPROVAL_VOID, text, "never", call))
        case.call = call
        case.tool = tool
        case.resumed = Resumed(row, approval, packet)
        case.arguments = cast("JsonObject", packet["arguments"])
        case.why = cast("JsonObject | None", packet["why"])
        case.citations = cast("list[JsonObject]", packet["citations"])
        case.claims = ()
        case.approvals = given(approval)
        case.edited = Edited.of(packet)
        case.edit_told = self._edit(case, packet)
        case.proposal = replace(case.proposal, tool=tool.name, arguments=case.arguments)

    async def recheck(self, case: Case) -> None:
        """After step 7 of a resumed call: is this still the action people agreed to?

        A changed record makes `case.changed`, and people are asked again. Anything else that changed voids the call.
        """
        if case.resumed is None:
            return
        before = cast("JsonObject", case.resumed.packet["bound"])
        case.changed = ()
        agreed = asked_in(case.resumed.packet)
        keyed_agree = case.requested_digest == asked_digest(case.resumed.approval)
        if keyed_agree and agreed == approval_digest(case.bound).hex():  # the row's and the sealed one
            return
        if {**before, "shown": None} != {**case.bound, "shown": None}:
            await self.void(case, "the tool, its source or its environment changed after the approval")
            text = "The call can no longer run as it was approved. Propose it again."
            raise Refused(Refusal(Code.APPROVAL_VOID, text, "never", case.call))
        shown = cast("JsonObject", case.resumed.packet["shown"])
        case.changed = _what_changed(cast("JsonObject", shown.get("facts") or {}), case.facts)

    async def void(self, case: Case, why: str) -> None:
        """A resumed call that may not run any more ends here; its claims are free again."""
        assert case.resumed is not None
        await self._close(case, case.call, case.resumed.row, CallState.VOID, why)

    async def _close(self, case: Case, call: str, row: Row, to: CallState, why: str) -> None:
        record = LogRecord(
            RecordType.CALL_CLOSED,
            {"v": 1, "call": call, "state": to.value, "why": why},
            call,
            task=row["task"],
        )
        unit = self._commits.close_pending(call, row["approval"], row["task"], to, row["epoch"], record)
        outcome = await self._store.commit(case.tenant, unit)
        if isinstance(outcome, Stopped):
            raise Refused(
                Refusal(Code.IN_PROGRESS, f"Call {call} has just changed. Ask again.", "after:1", call)
            )

    async def _logged(self, tenant: str, row: Row) -> list[Logged]:
        def read(reader: Reader) -> list[Logged]:
            return entries(reader, self._ring, tenant, log_indexes(row))

        return await self._store.read(read)


def _belongs(case: Case, row: Row) -> bool:
    """Same principal and actor; foreign, finished and unknown answer alike."""
    return bool(row["principal"] == case.principal_key and row["actor"] == case.subject.actor.id)


def _what_changed(before: JsonObject, now: JsonObject) -> tuple[str, ...]:
    """Names of the fields that differ between the records people saw and the records as they are."""
    changed: list[str] = []
    for fact in sorted({*before, *now}):
        old, new = before.get(fact), now.get(fact)
        if isinstance(old, dict) and isinstance(new, dict):
            changed += [f"{fact}.{name}" for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        elif old != new:
            changed.append(fact)
    return tuple(changed) or ("record",)
