"""What is sent: entries in log order, each with its place and its digest, released as an export releases them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from comptroller_audit.calls import CALLS
from comptroller_audit.checkpoint import log_origin
from comptroller_audit.query import Logged, entry_from, page
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import RecordType
from comptroller_server.commands.released import Reading
from comptroller_server.config.streams import StreamFormat
from comptroller_server.exporting.events import event_of
from comptroller_server.exporting.records import Exported
from comptroller_server.installation import TENANT, Installation

__all__ = ["Batch", "Message", "read_batch"]

BATCH_BYTES_MAX = 1024 * 1024
"""A batch ends with the record that goes beyond it."""
_EVERY = frozenset(RecordType)


@dataclass(frozen=True, slots=True)
class Message:
    """One entry as it is sent. `text` is one line of ASCII JSON; `short` the same without the packet."""

    entry: Logged
    text: str
    short: str


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries that follow each other in the log named `log`; never empty."""

    log: str
    messages: Sequence[Message]

    @property
    def first(self) -> int:
        return self.messages[0].entry.index

    @property
    def end(self) -> int:
        """The index after the last entry."""
        return self.messages[-1].entry.index + 1

    @property
    def id(self) -> str:
        """The same for the same entries, whoever sends them and whenever: 32 hex digits."""
        made = hashlib.sha256(self.log.encode())
        for message in self.messages:
            made.update(f"\n{message.entry.index} {message.entry.leaf}".encode())
        return made.hexdigest()[:32]

    @property
    def lines(self) -> bytes:
        return "".join(message.text + "\n" for message in self.messages).encode("ascii")


def read_batch(
    installation: Installation, reader: Reader, first: int, most: int, wanted: StreamFormat
) -> tuple[Batch | None, int]:
    """The next entries from `first` on, at most `most` of them (None when there is nothing), and the log's size.

    Raises `KeyRingError` where a key is missing: then nothing is sent in place of what cannot be read.
    """
    head = reader.head(TENANT)
    size = head.size if head is not None else 0
    there = entry_from(reader, TENANT, first) if first < size else None
    if there is None:
        return None, size
    first, _ = there  # what was pruned is passed over
    log, reading = log_origin(installation.log_name, TENANT), Reading(installation)
    messages: list[Message] = []
    length = 0
    for entry in page(reader, installation.ring, TENANT, first, min(size, first + most), _EVERY):
        message = _message(reading, reader, entry, log, wanted)
        messages.append(message)
        length += len(message.text)
        if length >= BATCH_BYTES_MAX:
            break
    return (Batch(log, messages) if messages else None), size


def _message(reading: Reading, reader: Reader, entry: Logged, log: str, wanted: StreamFormat) -> Message:
    released = reading.entry(reader, entry)
    call = str(entry.envelope.get("call") or "")
    each = Exported(released, reader.row(TENANT, CALLS, call) if call else None)
    envelope = {
        "log": log,
        "index": entry.index,
        "type": entry.type.value,
        "at_ms": entry.at_ms,
        "leaf": entry.leaf,
        "envelope": entry.envelope,
    }
    whole = event_of(each, log) if wanted is StreamFormat.OCSF else {**envelope, "packet": released.packet}
    return Message(released, json.dumps(whole), json.dumps({**envelope, "packet": None, "cut": True}))
