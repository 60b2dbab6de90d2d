"""Events for a security team's store: OCSF 1.5.0, class API Activity (schema.ocsf.io/1.5.0/classes/api_activity)."""

from __future__ import annotations

import json
from typing import Any

from comptroller_audit.vocabulary import RecordType
from comptroller_server import __version__
from comptroller_server.exporting.records import Exported

__all__ = ["event_line", "event_of"]

VERSION = "1.5.0"
API_ACTIVITY = 6003
APPLICATION_ACTIVITY = 6
_ACTIVITIES = {"create": 1, "read": 2, "update": 3, "delete": 4}
OTHER = 99
_SEVERE = {
    RecordType.REFUSED: (2, "Low"),
    RecordType.SWITCH_SET: (3, "Medium"),
    RecordType.LATE_OUTCOME: (4, "High"),
}
_WELL = frozenset({"done", "approved", "compensated", "committed"})
_BADLY = frozenset(
    {"refused", "denied", "expired", "void", "failed_before_effect", "not_done", "in_doubt", "handed_off"}
)


def event_of(each: Exported, log: str) -> dict[str, Any]:
    """One record as an event. What OCSF has no word for stands under `unmapped`."""
    entry, packet = each.entry, each.packet
    activity = _ACTIVITIES.get(each.of_call("effect"), OTHER)
    severity, severe = _SEVERE.get(entry.type, (1, "Informational"))
    status, status_id = _status(each)
    tool = each.of_call("tool")
    user = {
        name: value
        for name, value in (
            ("uid", each.principal.get("subject")),
            ("domain", each.principal.get("issuer")),
        )
        if value
    }
    return {
        "metadata": {
            "version": VERSION,
            "product": {"name": "Comptroller", "vendor_name": "Comptroller", "version": __version__},
            "uid": entry.leaf,
            "log_name": log,
            "sequence": entry.index,
            "correlation_uid": each.of_call("task"),
        },
        "category_uid": APPLICATION_ACTIVITY,
        "class_uid": API_ACTIVITY,
        "activity_id": activity,
        "type_uid": API_ACTIVITY * 100 + activity,
        "time": entry.at_ms,
        "severity_id": severity,
        "severity": severe,
        "status_id": status_id,
        "status": status,
        **({"status_code": each.code} if each.code else {}),
        "actor": {"app_name": each.of_call("actor") or "comptroller", **({"user": user} if user else {})},
        "api": {
            "operation": tool or f"comptroller.{entry.type.value}",
            "service": {"name": str(packet.get("source") or "comptroller")},
            **({"request": {"uid": each.call_id}} if each.call_id else {}),
        },
        "src_endpoint": {"name": each.of_call("actor") or "comptroller"},
        "unmapped": {"record": entry.type.value, "packet": entry.packet},
    }


def event_line(each: Exported, log: str) -> str:
    return json.dumps(event_of(each, log), ensure_ascii=False)


def _status(each: Exported) -> tuple[str, int]:
    """OCSF's status and its id: success 1, failure 2, unknown 0."""
    state = str(each.packet.get("state") or "")
    if each.code or state in _BADLY or each.entry.type is RecordType.REFUSED:
        return "Failure", 2
    if state in _WELL or each.entry.type in (RecordType.ACTION, RecordType.READ):
        return "Success", 1
    return "Unknown", 0
