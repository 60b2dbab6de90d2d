"""Rows for a spreadsheet (RFC 4180): one a record, what people sort and filter by."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

from comptroller_server.exporting.records import Exported

__all__ = ["COLUMNS", "row_of", "written"]

COLUMNS = (
    "index", "time", "type", "call", "attempt", "task", "tool", "effect", "state", "code",
    "subject", "issuer", "actor", "person", "leaf",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row_of(each: Exported) -> list[str]:
    """The cells of one record, as `COLUMNS`. `person` is who decided, switched or resolved."""
    entry, packet = each.entry, each.packet
    vote = packet.get("vote")
    person = vote.get("approver") if isinstance(vote, dict) else packet.get("by") or packet.get("approver")
    at = datetime.fromtimestamp(entry.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return [
        str(entry.index),
        at,
        entry.type.value,
        each.call_id,
        str(entry.envelope.get("attempt") or ""),
        each.of_call("task"),
        each.of_call("tool"),
        each.of_call("effect"),
        str(packet.get("state") or ""),
        each.code,
        str(each.principal.get("subject") or ""),
        str(each.principal.get("issuer") or ""),
        each.of_call("actor"),
        str(person or ""),
        entry.leaf,
    ]


def written(cells: list[str]) -> str:
    """One line. A cell that a spreadsheet would compute is made text (OWASP, CSV injection)."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(
        f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in cells
    )
    return text.getvalue()
