"""How far each stream has come, for people, probes and programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from comptroller_audit.query import entry_from
from comptroller_audit.store import Reader
from comptroller_server.config.streams import StreamSettings
from comptroller_server.installation import TENANT
from comptroller_server.streaming.cursors import STREAMS, fresh

__all__ = ["StreamState", "stream_states", "trouble"]


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream. `lag` is in entries; `waiting_ms` is the record time of the oldest that is not delivered, or None."""

    name: str
    to: str
    place: str
    position: int
    lag: int
    waiting_ms: int | None
    taken_ms: int
    tried_ms: int
    failures: int
    refused: int
    error: str


def stream_states(reader: Reader, streams: Mapping[str, StreamSettings]) -> list[StreamState]:
    """The configured streams, in the order of the configuration."""
    head = reader.head(TENANT)
    size = head.size if head is not None else 0
    rows = reader.rows(TENANT, STREAMS, list(streams))
    states: list[StreamState] = []
    for name, stream in streams.items():
        row = rows.get(name) or fresh()
        position = int(row["position"])
        found = entry_from(reader, TENANT, position) if position < size else None
        waiting = int(json.loads(found[1])["t"]) if found is not None else None
        states.append(
            StreamState(
                name,
                stream.config.to.value,
                stream.place,
                position,
                max(0, size - position),
                waiting,
                int(row["taken_ms"]),
                int(row["tried_ms"]),
                int(row["failures"]),
                int(row["refused"]),
                str(row["error"]),
            )
        )
    return states


def trouble(state: StreamState) -> str | None:
    """What is wrong with a stream, or None."""
    if state.failures:
        return (
            f"is held up: {state.error} ({state.failures} attempts; {state.lag} entries wait). Nothing is lost while their "
            "payloads are kept; `comptroller streams list` shows how far it is"
        )
    if state.refused:
        return f"delivered, but its collector refused {state.refused} records for good; look at the collector's log"
    return None
