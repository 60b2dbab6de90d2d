"""Log records: the envelope anyone may check, the payload only a key holder may read, and the packets inside.

The envelope is hashed into the tree and kept for ever; the payload can be erased. Nothing in an envelope can be
guessed from what is left after an erasure: arguments and output appear only as HMACs under a random key that
lives inside the sealed payload.

What a packet of each type holds is said by the models in shapes.py and task_shapes.py; writing a packet does not go through them.
`python -m comptroller_audit.packets` publishes them as JSON Schema in schemas/.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from dataclasses import dataclass

from pydantic_core import PydanticSerializationError, to_json

from comptroller_audit.log import leaf_hash
from comptroller_audit.sealing import KEY_BYTES, KeyRing, RandomBytes, Sealed
from comptroller_audit.vocabulary import JsonObject, RecordType

__all__ = [
    "PACKET_VERSION",
    "Composed",
    "LogRecord",
    "build_envelope",
    "build_payload",
    "compact_json",
    "compose",
]

PACKET_VERSION = 1
"""Packets, payloads and envelopes carry `v`. Within a version fields are only ever added."""

# ASCII out: the bytes hashed are the bytes stored, whatever the database's encoding.
compact_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""Compact ASCII JSON, in the order given. Raises ValueError on NaN and infinities."""


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One record to append. `arguments` and `output` are canonical bytes; only their keyed digests are kept.

    `erases` are spans `(first, last)` of earlier entries whose payloads go with this record, `prunes` of those whose envelopes do.
    """

    type: RecordType
    packet: JsonObject
    call: str | None = None
    attempt: str | None = None
    task: str | None = None
    arguments: bytes | None = None
    output: bytes | None = None
    erases: tuple[tuple[int, int], ...] = ()
    prunes: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Composed:
    """What one entry stores: the exact envelope text, its leaf hash and the sealed payload."""

    envelope: str
    leaf: bytes
    sealed: Sealed


def build_envelope(
    tenant: str, index: int, record_ms: int, record: LogRecord, payload_sha256: str, hmac_key: bytes
) -> str:
    """The envelope: compact JSON, sorted keys, ASCII; absent fields are left out.

    `{arguments, attempt, call, erases, i, output, payload, prunes, t, task, tenant, type, v}` with `i` the index, `t` the record
    time in milliseconds, `payload` the SHA-256 of the sealed bytes, `arguments` and `output` HMAC-SHA-256, in hex.
    """
    envelope: JsonObject = {}  # filled in sorted order, which sorting again would only pay for twice
    if record.arguments is not None:
        envelope["arguments"] = hmac.new(hmac_key, record.arguments, "sha256").hexdigest()
    if record.attempt is not None:
        envelope["attempt"] = record.attempt
    if record.call is not None:
        envelope["call"] = record.call
    if record.erases:
        envelope["erases"] = [list(span) for span in record.erases]
    envelope["i"] = index
    if record.output is not None:
        envelope["output"] = hmac.new(hmac_key, record.output, "sha256").hexdigest()
    envelope["payload"] = payload_sha256
    if record.prunes:
        envelope["prunes"] = [list(span) for span in record.prunes]
    envelope["t"] = record_ms
    if record.task is not None:
        envelope["task"] = record.task
    envelope["tenant"] = tenant
    envelope["type"] = record.type.value
    envelope["v"] = PACKET_VERSION
    return compact_json(envelope)


def build_payload(packet: JsonObject, hmac_key: bytes) -> bytes:
    """The payload's plaintext: JSON `{v, hmac_key (base64), packet}`. Raises ValueError on NaN and infinities."""
    key = base64.b64encode(hmac_key)
    return b'{"v":%d,"hmac_key":"%b","packet":%b}' % (PACKET_VERSION, key, _packet_json(packet))


def _packet_json(packet: JsonObject) -> bytes:
    """The packet in compact ASCII, by the quicker encoder where both write the same."""
    try:
        fast = to_json(packet)
    except (PydanticSerializationError, ValueError):  # half a surrogate pair
        return compact_json(packet).encode()
    # The quick one escapes no character beyond ASCII, and lets through NaN and infinities, which are no JSON.
    is_same = fast.isascii() and b"NaN" not in fast and b"Infinity" not in fast
    return fast if is_same else compact_json(packet).encode()


def compose(
    ring: KeyRing,
    tenant: str,
    index: int,
    record_ms: int,
    record: LogRecord,
    random_bytes: RandomBytes = os.urandom,
) -> Composed:
    """Everything one entry stores. Pure but for `random_bytes`; about 20 µs for a packet of 1 KB."""
    hmac_key = random_bytes(KEY_BYTES)
    sealed = ring.seal(tenant, index, build_payload(record.packet, hmac_key), random_bytes)
    digest = hashlib.sha256(sealed.sealed).hexdigest()
    envelope = build_envelope(tenant, index, record_ms, record, digest, hmac_key)
    return Composed(envelope, leaf_hash(envelope.encode()), sealed)


if __name__ == "__main__":
    from comptroller_audit.published import publish  # the models are not needed to write a record

    publish()
