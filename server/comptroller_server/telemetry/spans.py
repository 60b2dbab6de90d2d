"""Attempts as OTLP spans, in the JSON encoding of the protocol (https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding).

Names are those of OpenTelemetry's conventions for MCP and generative AI; ours begin with `comptroller.`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_server.telemetry.seen import ASKED, DONE, NO_TOOL, CallSeen

__all__ = ["ATTRIBUTES", "RESOURCE", "export_request", "spans_of"]

ATTRIBUTES: Mapping[str, str] = {
    "mcp.method.name": "`tools/call`, `resources/read`, `prompts/get` or `completion/complete`",
    "mcp.protocol.version": "the version of MCP that the request was made in",
    "network.transport": "`pipe` for stdio, `tcp` for HTTP",
    "gen_ai.operation.name": "`execute_tool`",
    "gen_ai.tool.name": "the tool, as the configuration names it",
    "error.type": "`tool_error` for every answer that is an error",
    "comptroller.outcome": "`done`, `asked`, or the class of the refusal",
    "comptroller.code": "the code of the refusal",
    "comptroller.decision": "`allow`, `deny` or `needs_approval`, where something was decided",
    "comptroller.rules": "the ids of the rules that decided",
    "comptroller.effect": "`read`, `create`, `update`, `delete` or `execute`",
    "comptroller.call": "the call's id, as in `comptroller why CALL`",
    "comptroller.attempt": "the attempt's id",
    "comptroller.task": "the task's id",
    "comptroller.withheld": "how many places of the result were withheld",
}
"""Attributes of the span of a call, with what they say; empty ones are left out."""

RESOURCE: Mapping[str, str] = {
    "service.name": "`comptroller`",
    "service.version": "this version",
    "service.instance.id": "the serving process, as packets name it (`owner`)",
    "deployment.environment.name": "`environment` of the configuration",
}
"""Attributes of the resource."""
_INTERNAL, _SERVER = 1, 2
_ERROR = 2


def export_request(resource: Mapping[str, str], version: str, calls: Sequence[CallSeen]) -> JsonObject:
    """An `ExportTraceServiceRequest` with every span of `calls`."""
    spans: list[Json] = [span for call in calls for span in spans_of(call)]
    scope: JsonObject = {"name": "comptroller", "version": version}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource)},
                "scopeSpans": [{"scope": scope, "spans": spans}],
            }
        ]
    }


def spans_of(seen: CallSeen) -> list[JsonObject]:
    """The span of an attempt, and one below it for each of its steps."""
    trace, whole = seen.trace, f"{seen.method} {seen.tool}" if seen.tool != NO_TOOL else seen.method
    span = _span(seen, whole, trace.span, trace.parent, _SERVER, 0.0, seen.took_s)
    span["attributes"] = _attributes(_told(seen))
    if seen.outcome not in (DONE, ASKED):
        span["status"] = {"code": _ERROR, "message": seen.code}
    below = [
        _span(seen, step.name, trace.step(number), trace.span, _INTERNAL, step.from_s, step.to_s)
        for number, step in enumerate(seen.steps)
    ]
    return [span, *below]


def _span(
    seen: CallSeen, name: str, span: str, parent: str, kind: int, from_s: float, to_s: float
) -> JsonObject:
    began_ns = seen.received_ms * 1_000_000
    told: JsonObject = {
        "traceId": seen.trace.trace,
        "spanId": span,
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(began_ns + int(from_s * 1e9)),
        "endTimeUnixNano": str(began_ns + int(to_s * 1e9)),
    }
    return {**told, "parentSpanId": parent} if parent else told


def _told(seen: CallSeen) -> dict[str, str | int | tuple[str, ...]]:
    is_error = seen.outcome not in (DONE, ASKED)
    return {
        "mcp.method.name": seen.method,
        "mcp.protocol.version": seen.protocol,
        "network.transport": seen.transport,
        "gen_ai.operation.name": "execute_tool" if seen.method == "tools/call" else "",
        "gen_ai.tool.name": seen.tool if seen.tool != NO_TOOL else "",
        "error.type": "tool_error" if is_error else "",
        "comptroller.outcome": seen.outcome,
        "comptroller.code": seen.code,
        "comptroller.decision": seen.decision,
        "comptroller.rules": seen.rules,
        "comptroller.effect": seen.effect,
        "comptroller.call": seen.call,
        "comptroller.attempt": seen.attempt,
        "comptroller.task": seen.task,
        "comptroller.withheld": seen.withheld,
    }


def _attributes(told: Mapping[str, str | int | tuple[str, ...]]) -> list[Json]:
    return [{"key": key, "value": _value(value)} for key, value in told.items() if value not in ("", ())]


def _value(value: str | int | tuple[str, ...]) -> JsonObject:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"arrayValue": {"values": [{"stringValue": one} for one in value]}}
