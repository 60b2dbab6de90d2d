"""Step 4 for readings: an address that nobody accepted is refused before anything is decided, looked up or asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comptroller_audit.vocabulary import Code, Refusal
from comptroller_server.call.case import Refused
from comptroller_server.call.upstream_words import quarantined
from comptroller_tools.catalogue import Tool
from comptroller_tools.upstream.definitions import Kind
from comptroller_tools.upstream.source import UpstreamSource

__all__ = ["accepted_name", "check_address"]


def check_address(tool: Tool, arguments: Mapping[str, Any], call: str) -> None:
    """Raises `Refused` for an address, or an argument to complete, that is of nothing accepted, or of what is set aside."""
    if tool.kind is Kind.TOOL or not isinstance(tool.source, UpstreamSource):
        return
    pin = tool.source.pin_of(tool.definition.name, arguments)
    if pin is None:
        text = "There is nothing of that address or name; list what there is, and take one of those."
        raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments", call))
    if (why := tool.source.quarantine(pin.name)) is not None:
        raise Refused(quarantined(tool, why, call))


def accepted_name(tool: Tool, arguments: Mapping[str, Any]) -> str | None:
    """What a person accepted by which this is read: `prompt:NAME`, `resource:URI` or `template:URI`; None for tools."""
    if tool.kind is Kind.TOOL or not isinstance(tool.source, UpstreamSource):
        return None
    pin = tool.source.pin_of(tool.definition.name, arguments)
    return pin.name if pin is not None else None
