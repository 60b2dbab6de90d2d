"""Copies of the record for other places: how far each has come. Nothing is sent, and the store is only read."""

from __future__ import annotations

from collections.abc import Iterator

from comptroller_audit.database import Database
from comptroller_audit.migrate import schema_is_current
from comptroller_audit.store import Reader
from comptroller_server.config.streams import stream_warnings
from comptroller_server.doctor.lines import Line, Patient, ok, warning
from comptroller_server.streaming.status import stream_states, trouble

__all__ = ["delivery"]


def delivery(patient: Patient) -> Iterator[Line]:
    """One line a stream, and one for each that goes where others may read it."""
    config, database = patient.config, patient.database
    if config is None or not config.streams:
        return
    for finding in stream_warnings(config.streams):
        yield warning(
            "streams",
            f"{finding.where} {finding.message}",
            "its copies may not arrive as sent",
            "change its address",
        )
    if database is not None and not database.is_file():
        yield ok("streams", "there is no record yet to send")
        return
    store = Database(config.store.url.get_secret_value())
    if not schema_is_current(store):
        yield ok("streams", "the store has an older schema; the next `serve` brings it up to date")
        return
    reader = Reader(store)
    try:
        states = stream_states(reader, config.streams)
    finally:
        reader.close()
    for state in states:
        if (text := trouble(state)) is None:
            yield ok("streams", f"`{state.name}`: at entry {state.position}, {state.lag} wait")
        else:
            yield warning(
                "streams",
                f"`{state.name}` {text}",
                "its receiver does not have the newest records; retention does not wait for it",
                f"look at {state.place}",
            )
