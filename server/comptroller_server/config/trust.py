"""Which tools' results may be believed (`trusted`), for provenance: by what the config says of tools and sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from comptroller_audit.errors import FieldRuleError
from comptroller_audit.fields import field_path
from comptroller_policy.errors import Finding
from comptroller_server.config.model import SourceConfig
from comptroller_tools.catalogue import Catalogue, Tool
from comptroller_tools.redactions import can_hold

__all__ = ["is_trusted", "names_records", "trust_findings"]


def names_records(tool: Tool) -> bool:
    """Whether the records that a tool shows or writes can be told."""
    return bool(tool.config.records) or tool.config.resource is not None


def is_trusted(tool: Tool, sources: Mapping[str, SourceConfig]) -> bool:
    """Whether what a read returns may be believed: as its entry says, else as its source does.

    One that names no records is not: what somebody had an agent write there could not be told from the rest.
    """
    said = tool.config.trusted
    if said is None:
        source = sources.get(tool.source.name)
        said = source is not None and source.is_trusted
    return said and names_records(tool)


def trust_findings(catalogue: Catalogue, sources: Mapping[str, SourceConfig]) -> Iterator[Finding]:
    """What cannot be meant, or could not be kept, where provenance is asked for."""
    followed = any(tool.config.provenance for tool in catalogue)
    believed = {tool.source.name for tool in catalogue if tool.is_read and is_trusted(tool, sources)}
    for tool in catalogue:
        where, config = f"tools.{tool.name}", tool.config
        for name in config.provenance:
            if name not in tool.own_input.get("properties", {}):
                text = "is never given by a caller: `arguments` fixes or removes it"
                yield Finding(f"{where}.provenance.{name}", text)
        if tool.is_read and config.trusted and not names_records(tool):
            text = "names no records, so what was written into one could not be told; add `records` or `resource`"
            yield Finding(f"{where}.trusted", text)
        blind = not tool.is_read and not names_records(tool) and not config.trusted
        if followed and blind and tool.source.name in believed:
            text = (
                f"writes into source `{tool.source.name}`, whose reads are trusted, and names no record, so what it wrote "
                "would be trusted when it is read back; add `resource` or `records`, or `trusted: true` if nothing of its "
                "arguments can be read back"
            )
            yield Finding(where, text)
        yield from _paths(tool, where)


def _paths(tool: Tool, where: str) -> Iterator[Finding]:
    """A path that names nothing would keep nothing apart, without a word."""
    if tool.config.untrusted and not tool.is_read:
        yield Finding(
            f"{where}.untrusted", "is for reads: it says which fields of a result others have written"
        )
    for at, path in enumerate(tool.config.untrusted):
        try:
            names = field_path(path)
        except FieldRuleError as error:
            yield Finding(f"{where}.untrusted[{at}]", str(error))
            continue
        if not can_hold(tool.definition.output_schema or {}, names, anywhere=False):
            yield Finding(f"{where}.untrusted[{at}]", f"`{path}` is no field of what the tool returns")
