"""What goes on record: the packets of a call, as plain JSON. Shapes are published by `comptroller_audit.schemas`.

Every value that enters a packet has gone through `release(…, RECORD)`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from comptroller_audit.packets import LogRecord
from comptroller_audit.redaction import Audience
from comptroller_audit.vocabulary import Json, JsonObject, Principal, RecordType, Refusal, Verification
from comptroller_budgets.ledger import holds_in_packet
from comptroller_policy.approvals import approval_digest
from comptroller_policy.model import Decision
from comptroller_server.call.addressed import accepted_name
from comptroller_server.call.books import given_in
from comptroller_server.call.case import Case
from comptroller_server.call.observing import observed_in_packet
from comptroller_server.call.roads import Roads
from comptroller_server.call.traces import Tracer
from comptroller_server.undo.reversal import recorded_reversal
from comptroller_tools.check_running import Checked

__all__ = ["TOO_LONG", "Evidence"]

PACKET_VERSION = 1
TOO_LONG = frozenset({"withheld", "bytes", "sha256"})
"""What stands for arguments that a refusal's record does not keep."""
REFUSED_BYTES_MAX = 16_384
"""Arguments that a refusal's record keeps whole; of longer ones it keeps size and digest, so that none fills a disk."""


def _principal(principal: Principal) -> JsonObject:
    return {
        "tenant": principal.tenant,
        "issuer": principal.issuer,
        "subject": principal.subject,
        "kind": principal.kind.value,
    }


def _decision(decision: Decision) -> JsonObject:
    return {
        "verdict": decision.verdict.value,
        "policies": list(decision.policies),
        "reasons": list(decision.reasons),
        "gates": [{"policy": g.policy, "role": g.role, "count": g.count} for g in decision.gates],
        "errors": list(decision.errors),
    }


class Evidence:
    """Builds log records from a case. `bundle` is the digest of the policy and config in force."""

    def __init__(self, release: Roads, bundle: str, tracer: Tracer) -> None:
        self._release = release
        self._bundle = bundle
        self.tracer = tracer

    def proposal(self, case: Case) -> JsonObject:
        """What was proposed, by whom, under what: common to every packet of a call."""
        tool = case.tool
        arguments, why, citations, key = self._proposed(case)
        packet: JsonObject = {
            "v": PACKET_VERSION,
            "call": case.call,
            "attempt": case.attempt,
            "task": case.task.id,
            "step": case.task.step,
            "principal": _principal(case.subject.principal),
            "actor": case.subject.actor.id,
            "principal_roles": [*sorted(case.subject.roles)],
            "tool": tool.name if tool is not None else str(self._clean(case.proposal.tool))[:128],
            "bundle": self._bundle,
            "arguments": arguments,
            "why": why,
            "citations": citations,
        }
        if tool is not None:
            packet["source"] = tool.source.name
            packet["effect"] = tool.effect.value
            packet["definition"] = tool.definition.digest
            packet["record"] = {"kind": case.record.kind, "key": key} if case.record else None
            if marked := self._release.marked(tool.name):
                packet["redact"] = marked
            if (accepted := accepted_name(tool, case.arguments)) is not None:
                packet["accepted"] = self._clean(accepted)
        if case.many is not None and case.many.batch is not None:
            packet["tool"] = case.many.batch.name
            packet["source"], packet["effect"] = case.many.source.name, case.many.effect.value
        if case.proposal.part_of is not None:
            packet["part_of"] = case.proposal.part_of
        if case.tokens_used:
            packet["tokens_used"] = list(case.tokens_used)
        if case.compensates is not None:
            packet["compensates"] = case.compensates.call
            packet["ordered_by"] = case.compensates.ordered_by or None
        return packet

    def considered(self, case: Case) -> JsonObject:
        """What the decision was made from and what it said."""
        return {
            "facts": self._facts(case.facts),
            "history": dict(case.history),
            "derived": {name: str(value) for name, value in case.derived.items()},
            **({"provenance": dict(case.provenance)} if case.provenance else {}),
            "basis": {"history": dict(case.basis.history), "switch_seq": case.basis.switch_seq},
            "decision": _decision(case.decision),
            **observed_in_packet(case, "early", "before"),
            **({"checked": self._checked(case.checked)} if case.checked else {}),
            **({"rollout": case.draw.in_packet()} if case.draw is not None else {}),
            **({"judged": [one.as_json() for one in case.judged]} if case.judged else {}),
        }

    def refused(self, case: Case, refusal: Refusal) -> LogRecord:
        packet: JsonObject = {
            **_capped(self.proposal(case)),
            **self.considered(case),
            "refusal": self.refusal(refusal),
            "took_ms": case.took.in_packet(),
        }
        return self._record(RecordType.REFUSED, case, packet)

    def pending(self, case: Case, approval: str, roles: Mapping[str, int], shown: JsonObject) -> LogRecord:
        packet: JsonObject = {
            **self.proposal(case),
            **self.considered(case),
            "approval": approval,
            "roles": dict(roles),
            "approval_digests": self._digests(case),
            **self._edited(case),
            "confirmation": case.confirmed,
            "bound": self._clean(case.bound),
            "shown": self._clean(shown),
            **({"compensation": case.bound["compensation"]} if "compensation" in case.bound else {}),
            "claims": [
                {"id": c.id, "arguments": c.arguments, "explicit": c.explicit, "replays": c.replays}
                for c in case.claims
            ],
        }
        return self._record(RecordType.PENDING, case, packet)

    def asked(self, case: Case, message: str) -> LogRecord:
        """The person at the client is asked; `message` has gone through release."""
        packet: JsonObject = {
            **self.proposal(case),
            **self.considered(case),
            "message": message,
            "approval_digests": self._digests(case),
        }
        return self._record(RecordType.CONFIRMATION_ASKED, case, packet)

    def action(self, case: Case, approvals: list[Json], counted: Sequence[str]) -> LogRecord:
        """The action packet: exactly what is about to happen and why. `counted` are the history rows it moves."""
        tool = case.tool_in_hand
        packet: JsonObject = {
            **self.proposal(case),
            **self.considered(case),
            "approvals": approvals + _confirmations(case),
            "approval_digests": self._digests(case, runs=True),
            **self._edited(case),
            "counted": list(counted),
            "holds": holds_in_packet(case.charges),
            "deadline_s": round(tool.config.limits.timeout_s, 3),
            "effect_key": case.call,
        }
        if case.reversal is not None and tool.compensation is not None:
            packet["compensation"] = {
                "tool": tool.compensation.target.name,
                "decision": _decision(case.reversal),
                "holds": holds_in_packet(case.cover),
            }
        return self._record(RecordType.ACTION, case, packet)

    def ended(self, case: Case, record_type: RecordType = RecordType.AUDIT) -> LogRecord:
        """The audit packet: what actually happened, with references. For a read it holds the proposal as well."""
        outcome, verification = case.outcome, case.verification
        packet: JsonObject = {
            "v": PACKET_VERSION,
            "call": case.call,
            "attempt": case.attempt,
            "task": case.task.id,
            "state": case.state.value,
            "action": case.action_receipt.index if case.action_receipt else None,
            "outcome": {
                "effect": outcome.effect.value if outcome else "unknown",
                "tries": case.tries,
                "error": self._clean(outcome.error[:500]) if outcome and outcome.error else None,
            },
            "problem": self.refusal(case.problem) if case.problem else None,
            "output": case.kept if case.taken is None else None,
            "withheld": case.withheld,
            "verification": {
                "result": (verification.result if verification else Verification.NOT_DECLARED).value,
                "checks": [
                    {
                        "fact": check.fact,
                        "path": check.path,
                        "equal": check.equal,
                        "expected": self._clean(check.expected),
                        "found": self._clean(check.found),
                    }
                    for check in (verification.checks if verification else ())
                ],
                "checked": self._checked(case.checked_after),
            },
            "decision_after": _decision(case.decision_after) if case.decision_after else None,
            "refs": [ref.as_json() for ref in case.refs],
            "took_ms": case.took.in_packet(),
        }
        if case.questions:
            packet["questions"] = list(case.questions)
        if case.usage.is_metered:
            packet["usage"] = case.usage.packet
        packet |= observed_in_packet(case, "after")
        if (reversal := recorded_reversal(case, self._release)) is not None:
            packet["reversal"] = reversal
        if case.compensates is not None:
            packet["compensates"] = case.compensates.call
        if record_type is RecordType.READ:
            packet = {**self.proposal(case), **self.considered(case), **packet}
            packet["approvals"] = _confirmations(case)
            packet |= observed_in_packet(case, "early", "before", "after")
            if case.cut is not None:
                packet["part"] = case.cut.in_packet
            if (cached := case.cached) is not None:
                packet["cached"] = {"call": cached.call, "read_ms": cached.read_ms, "age_s": cached.age_s}
        return self._record(record_type, case, packet)

    def _proposed(self, case: Case) -> list[Any]:
        """The arguments, the why, the citations and the key of the record, as records may hold them."""
        shown: list[Any] = [
            case.arguments,
            case.why,
            case.citations,
            case.record.key if case.record else None,
        ]
        if case.searched is case.arguments and not any(shown[1:]):
            return shown  # step 4 found nothing in them, and field rules hide nothing from records
        cleaned = self._clean(shown)
        # What cannot be searched is withheld as a whole, and stands for each of them.
        return cleaned if isinstance(cleaned, list) else [cleaned] * len(shown)

    def traces(self, case: Case, *, after: bool | None) -> tuple[LogRecord, ...]:
        """What the configured levels tell of this call beside its packets."""
        return self.tracer.records(case.trace, case.call, case.attempt, case.task.id, after=after)

    def built_in(self, case: Case, kind: RecordType, task: str, more: JsonObject) -> LogRecord:
        """A built-in tool's record: what was asked, by whom, and what came of it (`more`, released already)."""
        packet = {**self.proposal(case), "task": task, **more}
        return replace(self._record(kind, case, packet), task=task)

    def replayed(self, case: Case, original: str) -> LogRecord:
        return self._record(
            RecordType.REPLAYED, case, {**_capped(self.proposal(case)), "original": original}, original
        )

    def again(self, case: Case, original: str, refusal: Refusal) -> LogRecord:
        """Another attempt of a call that is on record already: it got that call's state."""
        packet: JsonObject = {
            **_capped(self.proposal(case)),
            "original": original,
            "refusal": self.refusal(refusal),
        }
        return self._record(RecordType.REFUSED, case, packet, original)

    def _record(self, kind: RecordType, case: Case, packet: JsonObject, call: str | None = None) -> LogRecord:
        if given := given_in(case):
            packet["tokens_given"] = given
        return LogRecord(
            kind,
            packet,
            call=call or case.call,
            attempt=case.attempt,
            task=case.task.id,
            arguments=case.argument_bytes,
            output=case.output_bytes if kind in (RecordType.AUDIT, RecordType.READ) else None,
        )

    def _digests(self, case: Case, *, runs: bool = False) -> Json:
        """Plain digests stand only in here, in what is sealed; tables hold keyed ones. `runs` says it was approved."""
        if not case.bound:
            return None
        plain = approval_digest(case.bound).hex()
        approved = plain if runs and case.resumed is not None else None
        if case.edited is None:
            return {"requested": plain, "approved": approved}
        return {"requested": case.edited.digest, "approved": approved, "edited": plain}

    def _edited(self, case: Case) -> JsonObject:
        return {"edited": self._clean(case.edited.in_packet())} if case.edited is not None else {}

    def refusal(self, refusal: Refusal) -> JsonObject:
        return {
            "code": refusal.code.value,
            "class": refusal.failure_class.value,
            "text": self._clean(refusal.text),
            "retry": refusal.retry,
            "policies": list(refusal.policies),
            "details": refusal.details,
        }

    def _checked(self, checked: Sequence[Checked]) -> list[Json]:
        return [
            {"check": one.check, "verdict": one.verdict, "reason": self._clean(one.reason)} for one in checked
        ]

    def _facts(self, facts: JsonObject) -> Json:
        """Facts were released for records when they were looked up. Only a bare value has yet to be seen with its name,
        which says what it is."""
        bare: JsonObject = {name: value for name, value in facts.items() if not isinstance(value, dict)}
        if not bare:
            return dict(facts)
        cleaned = self._clean(bare)
        return {**facts, **cleaned} if isinstance(cleaned, dict) else cleaned

    def _clean(self, value: Any) -> Json:
        return self._release.release(value, Audience.RECORD).value


def _confirmations(case: Case) -> list[Json]:
    return [case.confirmed] if case.confirmed is not None else []


def _capped(proposal: JsonObject) -> JsonObject:
    """A proposal that nothing came of, without arguments of more than `REFUSED_BYTES_MAX`."""
    spelled = json.dumps(proposal["arguments"])
    if len(spelled) <= REFUSED_BYTES_MAX:
        return proposal
    short: JsonObject = {
        "withheld": "too long",
        "bytes": len(spelled),
        "sha256": sha256(spelled.encode()).hexdigest(),
    }
    return {**proposal, "arguments": short}
