"""Step 4 for resources: an address that nobody accepted is refused before anything is decided, looked up or asked."""

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
    """Raises `Refused` for the address of a resource that is not accepted, or is set aside."""
    if tool.kind is not Kind.RESOURCE or not isinstance(tool.source, UpstreamSource):
        return
    pin = tool.source.addresses.find(str(arguments.get("uri")))
    if pin is None:
        text = "There is no resource of that address; list resources and templates, and take one of those."
        raise Refused(Refusal(Code.INVALID_ARGUMENTS, text, "other_arguments", call))
    if (why := tool.source.quarantine(pin.name)) is not None:
        raise Refused(quarantined(tool, why, call))


def accepted_name(tool: Tool, arguments: Mapping[str, Any]) -> str | None:
    """What a person accepted by which this is read: `prompt:NAME`, `resource:URI` or `template:URI`; None for tools."""
    if tool.kind is not Kind.RESOURCE or not isinstance(tool.source, UpstreamSource):
        return tool.definition.name if tool.kind is Kind.PROMPT else None
    pin = tool.source.addresses.find(str(arguments.get("uri")))
    return pin.name if pin is not None else None
