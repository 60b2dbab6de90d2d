"""How a task that an agent ends has ended: its claim, what was looked up of it, and what that comes to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from comptroller_audit.redaction import Audience
from comptroller_audit.vocabulary import Code, Json, JsonObject, Refusal, Verification
from comptroller_budgets.tasks import TaskOutcome, task_unknown
from comptroller_server.call.case import Case, Refused
from comptroller_server.call.evidence import Evidence
from comptroller_server.call.roads import Roads
from comptroller_server.tasks.record import TaskRecord
from comptroller_server.tasks.success import Found, Success, verdict
from comptroller_tools.verification import Check

__all__ = ["Ending", "Finishing"]


@dataclass(frozen=True, slots=True)
class Ending:
    """A task's end before it is committed. `problem` is a false claim of success; `packet` is `task_shapes.TaskEnded`.

    `seen_ms` is the task row's `since_ms` when this was found out.
    """

    outcome: TaskOutcome
    packet: JsonObject
    problem: Refusal | None
    seen_ms: int


class Finishing:
    """Judges the claim of `task_finish`."""

    def __init__(self, success: Success, roads: Roads, evidence: Evidence) -> None:
        self._success = success
        self._roads = roads
        self._evidence = evidence

    async def look(self, case: Case, found: TaskRecord) -> Ending:
        """What the claim comes to now. Raises `Refused` when the task cannot end yet."""
        claim = case.arguments["claim"]
        if found.row is None:
            raise Refused(task_unknown(case.call))
        if found.row["awaiting"] > 0 and claim != "abandoned":
            raise Refused(_waiting(case.call))
        proof: Sequence[Found] = ()
        problem: Refusal | None = None
        outcome = TaskOutcome.ABANDONED if claim == "abandoned" else TaskOutcome.FAILED
        if claim == "succeeded":
            proof = await self._success.look(
                case.subject, case.task.id, found.unit, found.acted_on(), case.call
            )
            outcome, problem = self._judged(case, proof)
        packet = self._ended(case, found, outcome, proof, problem)
        return Ending(outcome, packet, problem, found.row["since_ms"])

    def _judged(self, case: Case, proof: Sequence[Found]) -> tuple[TaskOutcome, Refusal | None]:
        """What a claim of success comes to. What cannot be looked at proves nothing, and the task stays open."""
        result = verdict(proof)
        if result is Verification.MATCHED:
            return TaskOutcome.SUCCEEDED, None
        if result is Verification.NOT_DECLARED:
            return TaskOutcome.CLAIMED, None
        if result is Verification.UNKNOWN:
            text = (
                "Comptroller could not look up whether the task succeeded, so it stays open. Try again in a few "
                "seconds, or hand it to a person."
            )
            raise Refused(Refusal(Code.LOOKUP_FAILED, text, "after:5", case.call))
        wrong = [self._in_words(one, check) for one in proof for check in one.checks if check.equal is False]
        text = (
            f"You claimed success, and it was not found: {'; '.join(wrong)[:600]}. The task is closed as failed. Tell the person what "
            "is left to do."
        )
        return TaskOutcome.FAILED, Refusal(Code.SUCCESS_NOT_FOUND, text, "never", case.call)

    def _in_words(self, found: Found, check: Check) -> str:
        if not found.may_tell:
            return f"{found.fact} is not as it should be"
        expected, is_now = (
            _quoted(self._roads.output_at(found.tool, check.path, value, Audience.MODEL))
            for value in (check.expected, check.found)
        )
        return f"{check.fact}.{check.path} should be {expected} and is {is_now}"

    def _ended(
        self,
        case: Case,
        found: TaskRecord,
        outcome: TaskOutcome,
        proof: Sequence[Found],
        problem: Refusal | None,
    ) -> JsonObject:
        told: JsonObject = {
            "outcome": outcome.value,
            "claim": case.arguments["claim"],
            "summary": case.arguments.get("summary"),
            "by": "agent",
            "unit": found.unit,
        }
        wrong = self._evidence.refusal(problem) if problem is not None else None
        proved: list[Json] = [self._proof(one) for one in proof]
        return {
            "task": case.task.id,
            **cast("JsonObject", self._roads.release(told, Audience.RECORD).value),
            "proof": proved,
            "problem": wrong,
        }

    def _proof(self, found: Found) -> JsonObject:
        """A condition as the record holds it."""

        def kept(check: Check, value: Json) -> Json:
            return self._roads.output_at(found.tool, check.path, value, Audience.RECORD)

        return {
            "fact": found.fact,
            "tool": found.tool,
            "result": found.result.value,
            "checks": [
                {
                    "fact": check.fact,
                    "path": check.path,
                    "expected": kept(check, check.expected),
                    "found": kept(check, check.found),
                    "equal": check.equal,
                }
                for check in found.checks
            ],
            "problem": self._roads.text(found.problem, Audience.RECORD) if found.problem else None,
        }


def _quoted(value: Any) -> str:
    text: Json = value[:80] if isinstance(value, str) else value
    return json.dumps(text, default=str)[:100]


def _waiting(call: str) -> Refusal:
    text = (
        "A call of this task waits for a person, so the task cannot be closed yet. Wait and `resume_call`, or claim "
        "`abandoned`, or `hand_off`."
    )
    return Refusal(Code.APPROVAL_PENDING, text, "person", call)
