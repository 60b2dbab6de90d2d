"""Log records of OTLP 1 in its JSON encoding (opentelemetry.io/docs/specs/otlp, `ExportLogsServiceRequest`)."""

from __future__ import annotations

import json
from typing import Any

from comptroller_audit.vocabulary import RecordType
from comptroller_server import __version__
from comptroller_server.streaming.batches import Batch, Message

__all__ = ["otlp_body"]

_INFO, _WARN = (9, "INFO"), (13, "WARN")
_WARNED = frozenset({RecordType.REFUSED, RecordType.SWITCH_SET, RecordType.LATE_OUTCOME})


def otlp_body(batch: Batch) -> bytes:
    """One request. The body of a record is the line that the other sinks get; its place and digest are attributes."""
    resource = {"service.name": "comptroller", "service.version": __version__}
    records = [_record(batch.log, message) for message in batch.messages]
    scope = {"name": "comptroller.audit", "version": __version__}
    request = {
        "resourceLogs": [
            {
                "resource": {"attributes": [_attribute(name, value) for name, value in resource.items()]},
                "scopeLogs": [{"scope": scope, "logRecords": records}],
            }
        ]
    }
    return json.dumps(request).encode("ascii")


def _record(log: str, message: Message) -> dict[str, Any]:
    entry = message.entry
    number, text = _WARN if entry.type in _WARNED else _INFO
    nanos = str(entry.at_ms * 1_000_000)
    said: dict[str, str | int] = {
        "log.record.uid": entry.leaf,
        "comptroller.log": log,
        "comptroller.index": entry.index,
        "comptroller.record": entry.type.value,
    }
    for name in ("call", "task"):
        if isinstance(value := entry.envelope.get(name), str) and value:
            said[f"comptroller.{name}"] = value
    return {
        "timeUnixNano": nanos,
        "observedTimeUnixNano": nanos,
        "severityNumber": number,
        "severityText": text,
        "eventName": f"comptroller.{entry.type.value}",
        "body": {"stringValue": message.text},
        "attributes": [_attribute(name, value) for name, value in said.items()],
    }


def _attribute(name: str, value: str | int) -> dict[str, Any]:
    """64-bit integers are text in JSON (protobuf's rule)."""
    return {
        "key": name,
        "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value},
    }
