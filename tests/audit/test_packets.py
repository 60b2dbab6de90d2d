from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

import comptroller_audit
from comptroller_audit.entry_shapes import Envelope, Payload
from comptroller_audit.log import leaf_hash
from comptroller_audit.packets import LogRecord, build_payload, compose
from comptroller_audit.published import PACKETS, check_packet, publish, published_schemas
from comptroller_audit.sealing import KeyRing
from comptroller_audit.vocabulary import RecordType

GOLDEN = Path(__file__).parent / "golden"
SCHEMAS = Path(comptroller_audit.__file__).parent / "schemas"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing.create(tmp_path_factory.mktemp("ring") / "keys.json", random.Random(1).randbytes)


def golden(name: str) -> dict[str, Any]:
    packet: dict[str, Any] = json.loads((GOLDEN / f"{name}.v1.json").read_text())
    return packet


def test_a_record_is_the_golden_bytes_for_ever(ring: KeyRing) -> None:
    record = LogRecord(
        RecordType.ACTION,
        {"v": 1, "text": "é🙂", "n": 1.5},
        "call",
        "attempt",
        "task",
        b'{"a":1}',
        b'{"b":2}',
    )
    entry = compose(ring, "tenant/ü", 7, 1_700_000_000_000, record, random.Random(2).randbytes)
    assert entry.envelope + "\n" == (GOLDEN / "envelope.v1.txt").read_text()
    assert entry.leaf == leaf_hash(entry.envelope.encode())
    expected = json.loads((GOLDEN / "sealed.v1.json").read_text())
    assert entry.sealed.key_id == expected["key_id"]
    assert entry.sealed.wrapped.hex() == expected["wrapped"]
    assert entry.sealed.sealed.hex() == expected["sealed"]


def test_an_envelope_tells_what_it_must_and_only_what_it_may(ring: KeyRing) -> None:
    secret = b'{"amount":"37.00"}'
    packet: dict[str, Any] = {"v": 1, "arguments": {"amount": "37.00"}}
    record = LogRecord(RecordType.ACTION, packet, "c1", "a1", "t1", secret, b"out")
    entry = compose(ring, "local", 3, 99, record)
    fields = json.loads(entry.envelope)
    payload = json.loads(ring.unseal("local", 3, entry.sealed))
    key = base64.b64decode(payload["hmac_key"])
    assert payload == {"v": 1, "hmac_key": payload["hmac_key"], "packet": packet} and len(key) == 32
    assert fields == {
        "v": 1, "i": 3, "t": 99, "tenant": "local", "type": "action", "call": "c1", "attempt": "a1", "task": "t1",
        "payload": hashlib.sha256(entry.sealed.sealed).hexdigest(),
        "arguments": hmac.new(key, secret, "sha256").hexdigest(),
        "output": hmac.new(key, b"out", "sha256").hexdigest(),
    }  # fmt: skip
    assert "37.00" not in entry.envelope and hashlib.sha256(secret).hexdigest() not in entry.envelope


def test_the_same_arguments_twice_leave_different_digests(ring: KeyRing) -> None:
    record = LogRecord(RecordType.ACTION, {"v": 1}, arguments=b'{"amount":1}')
    first, second = (json.loads(compose(ring, "local", 3, 99, record).envelope) for _ in range(2))
    assert first["arguments"] != second["arguments"]


def test_what_is_not_given_is_left_out(ring: KeyRing) -> None:
    entry = compose(ring, "local", 0, 1, LogRecord(RecordType.SWITCH_SET, {"v": 1}))
    assert list(json.loads(entry.envelope)) == ["i", "payload", "t", "tenant", "type", "v"]


_text = st.text(st.characters(codec="utf-8"), max_size=12)
_names = st.none() | _text


@given(
    _text,
    st.integers(0, 2**53),
    st.sampled_from(RecordType),
    _names,
    _names,
    st.none() | st.binary(max_size=9),
)
def test_every_envelope_is_compact_sorted_ascii_json(
    ring: KeyRing,
    tenant: str,
    index: int,
    kind: RecordType,
    call: str | None,
    task: str | None,
    given: bytes | None,
) -> None:
    record = LogRecord(kind, {"v": 1}, call, None, task, given, given)
    envelope = compose(ring, tenant, index, 5, record).envelope
    fields = json.loads(envelope)
    assert envelope.isascii()
    assert envelope == json.dumps(fields, sort_keys=True, separators=(",", ":"))
    Envelope.model_validate_json(envelope)


def test_a_payload_survives_unpaired_surrogates_and_refuses_nan() -> None:
    packet: dict[str, Any] = {"text": "\ud800"}
    assert json.loads(build_payload(packet, bytes(32)))["packet"] == packet
    with pytest.raises(ValueError, match="not JSON compliant"):
        build_payload({"n": float("nan")}, bytes(32))


def test_every_record_type_has_a_shape_and_a_golden_packet() -> None:
    assert set(PACKETS) == set(RecordType)
    assert {path.name for path in GOLDEN.glob("*.v1.json")} == {
        *(f"{kind.value}.v1.json" for kind in RecordType),
        "sealed.v1.json",
    }


@pytest.mark.parametrize("kind", RecordType)
def test_the_golden_packet_fits_the_shape_and_the_published_schema(kind: RecordType) -> None:
    packet = golden(kind.value)
    check_packet(kind, packet)
    schema = json.loads((SCHEMAS / f"{kind.value}.v1.json").read_text())
    jsonschema_rs.validator_for(schema, offline=True).validate(packet)


@pytest.mark.parametrize("kind", RecordType)
def test_a_packet_with_a_field_more_still_fits_and_without_a_required_one_does_not(kind: RecordType) -> None:
    packet = golden(kind.value)
    check_packet(kind, {**packet, "a_later_field": 1})
    schema = json.loads((SCHEMAS / f"{kind.value}.v1.json").read_text())
    validator = jsonschema_rs.validator_for(schema, offline=True)
    assert "v" in schema["required"]
    for name in schema["required"]:
        less = {key: value for key, value in packet.items() if key != name}
        with pytest.raises(ValueError, match=name):
            check_packet(kind, less)
        assert not validator.is_valid(less)


def test_a_packet_of_another_version_or_with_wrong_types_does_not_fit() -> None:
    packet = golden("action")
    wrong: dict[str, Any] = {"v": 2, "step": "1", "effect": "refund", "definition": "no digest", "holds": {}}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=name):
            check_packet(RecordType.ACTION, {**packet, name: value})


def test_the_published_schemas_are_those_of_the_code() -> None:
    on_disk = {path.name: path.read_text() for path in SCHEMAS.glob("*.json")}
    assert on_disk == published_schemas(), "run `python -m comptroller_audit.packets`"


def test_publishing_writes_every_schema(tmp_path: Path) -> None:
    publish(tmp_path / "schemas")
    written = {path.name: path.read_text() for path in (tmp_path / "schemas").iterdir()}
    assert written == published_schemas()


def test_envelope_and_payload_are_published_too(ring: KeyRing) -> None:
    entry = compose(ring, "local", 0, 1, LogRecord(RecordType.ACTION, {"v": 1}))
    for name, text in (
        ("envelope", entry.envelope),
        ("payload", ring.unseal("local", 0, entry.sealed).decode()),
    ):
        schema = json.loads((SCHEMAS / f"{name}.v1.json").read_text())
        jsonschema_rs.validator_for(schema, offline=True).validate(json.loads(text))
    Payload.model_validate_json(ring.unseal("local", 0, entry.sealed))


def test_writing_a_record_does_not_load_the_shapes() -> None:
    code = "import sys, comptroller_audit.packets; sys.exit('comptroller_audit.shapes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
