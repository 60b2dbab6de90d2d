"""What reads bytes of strangers, fuzzed with its own coverage as the guide: framing, canonical bytes, schemas, redaction, proofs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
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
from tests.fuzzing.guided import Guided, value_of

SECRET = "hunter2-swordfish"
MESSAGE = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":[1,2.5,null,"\\u00e9"]}}}'
SCHEMA = (
    b'{"type":"object","properties":{"a":{"type":["string","null"],"enum":["x"]},"b":{"$ref":"#/$defs/c"},'
    b'"d":{"type":"array","items":{"type":"integer"}}},"required":["a"],"$defs":{"c":{"anyOf":[{"type":"number"},{"type":"null"}]}}}'
)
Fuzzed = Callable[[Path, int], Guided]


def _framing(_: Path, rounds: int) -> Guided:
    def target(data: bytes) -> None:
        found = scan(data)
        if isinstance(found, Framed):
            assert json.loads(data) == found.message
        else:
            assert found.text.isprintable()

    fuzzer = Guided([MESSAGE, b"", b"[]", b'{"a":NaN}', b'{"a":1,"A":2}'], framing)
    fuzzer.run(target, rounds)
    return fuzzer


def _canonical(_: Path, rounds: int) -> Guided:
    def target(data: bytes) -> None:
        try:
            value = json.loads(data)
            written = canonical_bytes(value)
        except (ValueError, RecursionError, CanonicalError):
            return
        assert json.loads(written) == value
        assert canonical_bytes(json.loads(written)) == written

    fuzzer = Guided([MESSAGE, SCHEMA, b"[-0.0,1e21,1e-7,5e-324,123456789012345680000]"], canonical)
    fuzzer.run(target, rounds)
    return fuzzer


def _schema(_: Path, rounds: int) -> Guided:
    def target(data: bytes) -> None:
        value = value_of(data)
        if isinstance(value, dict):
            json.dumps(cedar_json(record_type(cast("dict[str, Any]", value))))
            with contextlib.suppress(SchemaInvalid):
                compile_schema(cast("dict[str, Any]", value)).check({"a": "x"})

    # {"properties": {"a": {"type": "string"}, "b": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"enum": [0]}}}
    begin = bytes((0, 2, 1, 0, 2, 11, 0, 1, 0, 4, 15, 12, 0, 1, 3, 4, 21, 4, 0, 1, 11, 0, 1, 8, 3, 1, 6, 0))
    fuzzer = Guided([begin, bytes((0, 1, 3, 4, 20))], schema, validation)
    fuzzer.run(target, rounds)
    return fuzzer


def _redaction(_: Path, rounds: int) -> Guided:
    release = Release([SECRET], set(Pattern))

    def target(data: bytes) -> None:
        around = data.decode("utf-8", "replace")
        half = len(around) // 2
        for text in (around, f"{around[:half]}{SECRET}{around[half:]}"):
            shown = release.release({"a": text, "b": [text]}, Audience.MODEL).value
            assert SECRET not in json.dumps(shown, ensure_ascii=False)

    corpus = [
        b"mail mira@example.org or call +49 30 1234567",
        b"DE89370400440532013000",
        b"4111 1111 1111 1111",
        b"aHVudGVy",
    ]
    fuzzer = Guided(corpus, redaction, patterns, disguises)
    fuzzer.run(target, rounds)
    return fuzzer


def _proofs(folder: Path, rounds: int) -> Guided:
    signer = Signer("comptroller/x", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    note = sign_checkpoint(log_origin("comptroller/x", "local"), 7, bytes(32), signer).encode()
    key, file = vkey_of(signer), folder / "notes"

    def target(data: bytes) -> None:
        file.write_bytes(data)
        found = read_checkpoints(file, [key])
        assert all(roots in ({}, {7: bytes(32)}) for roots in found.roots.values()), found.roots
        read_receipts(file)

    receipt = b'{"log":"comptroller/x/local","index":3,"leaf":"' + b"00" * 32 + b'"}\n'
    fuzzer = Guided([note, note + b"\n" + note, receipt], evidence, checkpoint)
    fuzzer.run(target, rounds)
    return fuzzer


ALL: dict[str, tuple[Fuzzed, int]] = {
    "framing": (_framing, 1_000),
    "canonical bytes": (_canonical, 1_000),
    "schemas": (_schema, 1_000),
    "redaction": (_redaction, 50),
    "proofs": (_proofs, 300),
}
"""By name, and how many rounds cost well below a second."""


@pytest.mark.parametrize("name", ALL)
def test_bytes_of_strangers_are_read_or_refused_and_nothing_else(tmp_path: Path, name: str) -> None:
    fuzzed, rounds = ALL[name]
    first, second = fuzzed(tmp_path, 0), fuzzed(tmp_path, rounds)
    assert first.arcs < second.arcs  # it was guided to something new


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_many_bytes_of_strangers(tmp_path: Path, name: str) -> None:
    fuzzed, rounds = ALL[name]
    assert fuzzed(tmp_path, 20 * rounds).arcs
