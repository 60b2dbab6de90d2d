"""Which records are evidence for which control (SOC 2 CC6 to CC8, ISO/IEC 27001:2022 Annex A); docs/controls.md tells why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from comptroller_audit.vocabulary import RecordType, Verification
from comptroller_server.exporting.records import Exported

__all__ = ["CONTROLS", "Control", "Topic", "topics_of", "unreadable"]


class Topic(StrEnum):
    """One file of evidence each, named after it."""

    APPROVALS = "approvals"
    CHANGES = "changes"
    CLOCK = "clock"
    CREDENTIALS = "credentials"
    DENIED = "denied"
    ERASURES = "erasures"
    INCIDENTS = "incidents"
    POLICY_CHANGES = "policy-changes"
    STOPS = "stops"
    VERIFICATION = "verification-failures"


@dataclass(frozen=True, slots=True)
class Control:
    """A control and the topics that are evidence for it. `log` where the proof of the whole record is evidence too."""

    id: str
    title: str
    topics: tuple[Topic, ...] = ()
    log: bool = False


CONTROLS = (
    Control("CC6.1", "Logical access security", (Topic.DENIED, Topic.POLICY_CHANGES)),
    Control("CC6.2", "Registration and authorisation of users", (Topic.CREDENTIALS,)),
    Control("CC6.3", "Roles, least privilege, segregation of duties", (Topic.APPROVALS, Topic.DENIED)),
    Control("CC6.8", "Unauthorised software", (Topic.POLICY_CHANGES, Topic.DENIED)),
    Control("CC7.1", "Detection of changes", (Topic.POLICY_CHANGES,), log=True),
    Control("CC7.2", "Monitoring for anomalies", (Topic.DENIED, Topic.VERIFICATION)),
    Control("CC7.3", "Evaluation of events", (Topic.VERIFICATION, Topic.INCIDENTS)),
    Control("CC7.4", "Response to incidents", (Topic.STOPS, Topic.INCIDENTS)),
    Control("CC7.5", "Recovery", (Topic.INCIDENTS,), log=True),
    Control("CC8.1", "Authorised, tested and recorded change", (Topic.CHANGES, Topic.APPROVALS, Topic.POLICY_CHANGES)),
    Control("A.5.3", "Segregation of duties", (Topic.APPROVALS,)),
    Control("A.5.15", "Access control", (Topic.DENIED, Topic.POLICY_CHANGES)),
    Control("A.5.16", "Identity management", (Topic.CREDENTIALS,)),
    Control("A.5.18", "Access rights", (Topic.CREDENTIALS, Topic.POLICY_CHANGES)),
    Control("A.5.25", "Assessment of security events", (Topic.VERIFICATION, Topic.INCIDENTS)),
    Control("A.5.26", "Response to incidents", (Topic.STOPS, Topic.INCIDENTS)),
    Control("A.5.28", "Collection of evidence", log=True),
    Control("A.5.33", "Protection of records", (Topic.ERASURES,), log=True),
    Control("A.8.2", "Privileged access rights", (Topic.CREDENTIALS, Topic.APPROVALS, Topic.STOPS)),
    Control("A.8.3", "Information access restriction", (Topic.DENIED,)),
    Control("A.8.9", "Configuration management", (Topic.POLICY_CHANGES,)),
    Control("A.8.10", "Information deletion", (Topic.ERASURES,)),
    Control("A.8.15", "Logging", log=True),
    Control("A.8.16", "Monitoring activities", (Topic.DENIED, Topic.VERIFICATION)),
    Control("A.8.17", "Clock synchronisation", (Topic.CLOCK,)),
    Control("A.8.32", "Change management", (Topic.CHANGES, Topic.APPROVALS, Topic.POLICY_CHANGES)),
)  # fmt: skip

_BY_TYPE = {
    RecordType.APPROVAL_DECIDED: Topic.APPROVALS,
    RecordType.PENDING: Topic.APPROVALS,
    RecordType.ACTION: Topic.CHANGES,
    RecordType.AUDIT: Topic.CHANGES,
    RecordType.CLOCK_ACCEPTED: Topic.CLOCK,
    RecordType.APPROVER_ADDED: Topic.CREDENTIALS,
    RecordType.REFUSED: Topic.DENIED,
    RecordType.REFUSALS_COUNTED: Topic.DENIED,
    RecordType.ERASED: Topic.ERASURES,
    RecordType.PRUNED: Topic.ERASURES,
    RecordType.HOLD_PLACED: Topic.ERASURES,
    RecordType.HOLD_LIFTED: Topic.ERASURES,
    RecordType.RECOVERED: Topic.INCIDENTS,
    RecordType.RESOLVED: Topic.INCIDENTS,
    RecordType.LATE_OUTCOME: Topic.INCIDENTS,
    RecordType.COMPENSATION: Topic.INCIDENTS,
    RecordType.HANDED_OFF: Topic.INCIDENTS,
    RecordType.HANDOFF_CLOSED: Topic.INCIDENTS,
    RecordType.STORE_ADOPTED: Topic.INCIDENTS,
    RecordType.BUNDLE_ACTIVATED: Topic.POLICY_CHANGES,
    RecordType.ROLLOUT_CHANGED: Topic.POLICY_CHANGES,
    RecordType.KEYS_CHANGED: Topic.CREDENTIALS,
    RecordType.SWITCH_SET: Topic.STOPS,
    RecordType.SWITCH_CLEARED: Topic.STOPS,
}
_TELLING = frozenset({RecordType.AUDIT, RecordType.READ})
_FAILED = frozenset({Verification.DIFFERS.value, Verification.UNKNOWN.value})


def topics_of(each: Exported) -> frozenset[Topic]:
    """What an entry is evidence of; nothing for most reads."""
    found = {_BY_TYPE[each.entry.type]} if each.entry.type in _BY_TYPE else set[Topic]()
    if each.code and each.entry.type is not RecordType.PENDING:
        found.add(Topic.DENIED)
    verification = each.packet.get("verification")
    if isinstance(verification, dict) and verification.get("result") in _FAILED:
        found.add(Topic.VERIFICATION)
    return frozenset(found)


def unreadable(each: Exported) -> bool:
    """Whether the payload that would say if verification failed was erased: such a call is counted, never passed over."""
    return each.entry.type in _TELLING and each.entry.packet is None
