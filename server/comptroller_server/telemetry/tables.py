"""The tables of docs/observability.md, made of what the code tells."""

from __future__ import annotations

from collections.abc import Iterator

from comptroller_server.telemetry.measures import METRICS
from comptroller_server.telemetry.spans import ATTRIBUTES, RESOURCE

__all__ = ["metrics_table", "spans_table"]


def metrics_table() -> str:
    """Every metric, as Markdown."""
    return _table(
        "| metric | kind | labels | what it says |",
        (
            f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {text} |"
            for name, (kind, text, labels) in METRICS.items()
        ),
    )


def spans_table() -> str:
    """Every attribute of spans, as Markdown."""
    return _table(
        "| attribute | of | what it says |",
        (
            f"| `{name}` | {of} | {text} |"
            for of, told in (("the call", ATTRIBUTES), ("the resource", RESOURCE))
            for name, text in told.items()
        ),
    )


def _table(head: str, rows: Iterator[str]) -> str:
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *rows])
