"""What reads bytes of strangers: framing, canonical bytes, schemas, redaction, checkpoint files and receipts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from comptroller_audit import canonical, checkpoint, disguises, evidence, patterns, redaction
from comptroller_audit.canonical import canonical_bytes
from comptroller_audit.checkpoint import log_origin, sign_checkpoint, vkey_of
from comptroller_audit.errors import CanonicalError
from comptroller_audit.evidence import read_checkpoints, read_receipts
from comptroller_audit.redaction import Audience, Pattern, Release
from comptroller_audit.sealing import Signer
from comptroller_policy import schema
from comptroller_policy.schema import cedar_json, record_type
from comptroller_server.face import framing
from comptroller_server.face.framing import Framed, scan
from comptroller_tools import validation
from comptroller_tools.errors import SchemaInvalid
from comptroller_tools.validation import compile_schema
from tests.fuzzing.guided import value_of
from tests.fuzzing.target import Target

__all__ = ["TARGETS"]

SECRET = "hunter2-swordfish"
MESSAGE = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":[1,2.5,null,"\\u00e9"]}}}'
SCHEMA = (
    b'{"type":"object","properties":{"a":{"type":["string","null"],"enum":["x"]},"b":{"$ref":"#/$defs/c"},'
    b'"d":{"type":"array","items":{"type":"integer"}}},"required":["a"],"$defs":{"c":{"anyOf":[{"type":"number"},{"type":"null"}]}}}'
)


def _framing(_: Path) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        found = scan(data)
        if isinstance(found, Framed):
            assert json.loads(data) == found.message
        else:
            assert found.text.isprintable()

    return target


def _canonical(_: Path) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        try:
            value = json.loads(data)
            written = canonical_bytes(value)
        except (ValueError, RecursionError, CanonicalError):
            return
        assert json.loads(written) == value
        assert canonical_bytes(json.loads(written)) == written

    return target


def _schema(_: Path) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        value = value_of(data)
        if isinstance(value, dict):
            json.dumps(cedar_json(record_type(cast("dict[str, Any]", value))))
            with contextlib.suppress(SchemaInvalid):
                compile_schema(cast("dict[str, Any]", value)).check({"a": "x"})

    return target


def _redaction(_: Path) -> Callable[[bytes], None]:
    release = Release([SECRET], set(Pattern))

    def target(data: bytes) -> None:
        around = data.decode("utf-8", "replace")
        half = len(around) // 2
        for text in (around, f"{around[:half]}{SECRET}{around[half:]}"):
            shown = release.release({"a": text, "b": [text]}, Audience.MODEL).value
            assert SECRET not in json.dumps(shown, ensure_ascii=False)

    return target


def _proofs(folder: Path) -> Callable[[bytes], None]:
    key, file = vkey_of(SIGNER), folder / "notes"

    def target(data: bytes) -> None:
        file.write_bytes(data)
        found = read_checkpoints(file, [key])
        assert all(roots in ({}, {7: bytes(32)}) for roots in found.roots.values()), found.roots
        read_receipts(file)

    return target


SIGNER = Signer("comptroller/x", Ed25519PrivateKey.from_private_bytes(bytes(32)))
NOTE = sign_checkpoint(log_origin("comptroller/x", "local"), 7, bytes(32), SIGNER).encode()
RECEIPT = b'{"log":"comptroller/x/local","index":3,"leaf":"' + b"00" * 32 + b'"}\n'
# {"properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"enum": [0]}}}
SPELLED = bytes((0, 2, 1, 0, 2, 11, 0, 1, 0, 4, 15, 12, 0, 1, 3, 4, 21, 4, 0, 1, 11, 0, 1, 8, 3, 1, 6, 0))
PERSONAL = (
    b"mail mira@example.org or call +49 30 1234567",
    b"DE89370400440532013000",
    b"4111 1111 1111 1111",
    b"aHVudGVy",
)
NUMBERS = b"[-0.0,1e21,1e-7,5e-324,123456789012345680000]"
TARGETS = (
    Target("framing", _framing, (MESSAGE, b"", b"[]", b'{"a":NaN}', b'{"a":1,"A":2}'), (framing,), 1_000),
    Target("canonical bytes", _canonical, (MESSAGE, SCHEMA, NUMBERS), (canonical,), 1_000),
    Target("schemas", _schema, (SPELLED, bytes((0, 1, 3, 4, 20))), (schema, validation), 1_000),
    Target("redaction", _redaction, PERSONAL, (redaction, patterns, disguises), 50),
    Target("proofs", _proofs, (NOTE, NOTE + b"\n" + NOTE, RECEIPT), (evidence, checkpoint), 300),
)
