from __future__ import annotations

import base64
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.errors import KeyRingError, SealBroken
from comptroller_audit.sealing import KeyRing


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing.create(tmp_path_factory.mktemp("ring") / "keys.json")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@given(
    st.text(st.characters(codec="utf-8"), max_size=20), st.integers(0, 2**63 - 1), st.binary(max_size=2000)
)
def test_what_was_sealed_opens_at_its_place(ring: KeyRing, tenant: str, index: int, plaintext: bytes) -> None:
    assert ring.unseal(tenant, index, ring.seal(tenant, index, plaintext)) == plaintext


@given(st.sampled_from(["wrapped", "sealed"]), st.integers(0), st.integers(0, 7))
def test_no_bit_of_a_sealed_payload_can_change_unseen(ring: KeyRing, part: str, byte: int, bit: int) -> None:
    sealed = ring.seal("local", 7, b"a payload")
    changed = bytearray(getattr(sealed, part))
    changed[byte % len(changed)] ^= 1 << bit
    broken = (
        replace(sealed, wrapped=bytes(changed))
        if part == "wrapped"
        else replace(sealed, sealed=bytes(changed))
    )
    with pytest.raises(SealBroken, match="entry 7 of tenant 'local'"):
        ring.unseal("local", 7, broken)


@pytest.mark.parametrize(("tenant", "index"), [("local", 8), ("other", 7), ("7:local", 7), ("", 7)])
def test_a_payload_does_not_open_at_another_place(ring: KeyRing, tenant: str, index: int) -> None:
    sealed = ring.seal("local", 7, b"a payload")
    with pytest.raises(SealBroken):
        ring.unseal(tenant, index, sealed)


@pytest.mark.parametrize("length", [0, 5, 12, 27])
def test_a_payload_cut_short_does_not_open(ring: KeyRing, length: int) -> None:
    sealed = ring.seal("local", 7, b"a payload")
    with pytest.raises(SealBroken):
        ring.unseal("local", 7, replace(sealed, sealed=sealed.sealed[:length]))
    with pytest.raises(SealBroken):
        ring.unseal("local", 7, replace(sealed, wrapped=sealed.wrapped[:length]))


def test_no_two_seals_share_a_key_or_a_nonce(ring: KeyRing) -> None:
    first, second = ring.seal("local", 7, b"same"), ring.seal("local", 7, b"same")
    assert first.sealed[:12] != second.sealed[:12] and first.wrapped[:12] != second.wrapped[:12]
    with pytest.raises(SealBroken):
        ring.unseal("local", 7, replace(first, wrapped=second.wrapped))


def test_injected_randomness_makes_sealing_repeatable(path: Path) -> None:
    ring = KeyRing.create(path, random.Random(1).randbytes)
    first = ring.seal("local", 1, b"x", random.Random(2).randbytes)
    assert first == KeyRing.load(path).seal("local", 1, b"x", random.Random(2).randbytes)
    path.unlink()
    assert KeyRing.create(path, random.Random(1).randbytes).claim_key("local") == ring.claim_key("local")


def test_the_first_key_seals_and_every_listed_key_opens(path: Path) -> None:
    old = KeyRing.create(path)
    sealed = old.seal("local", 1, b"before the rotation")
    fresh = {"id": "seal-new", "key": base64.b64encode(os.urandom(32)).decode()}
    edit(path, lambda content: content["seal"].insert(0, fresh))
    new = KeyRing.load(path)
    assert new.seal("local", 2, b"after").key_id == "seal-new"
    assert new.unseal("local", 1, sealed) == b"before the rotation"
    assert new.claim_key("local") == old.claim_key("local")


def test_a_payload_under_a_key_the_file_lost_says_which_key(path: Path, ring: KeyRing) -> None:
    sealed = ring.seal("local", 1, b"x")
    with pytest.raises(KeyRingError, match=f"'{sealed.key_id}', which the key file does not list"):
        KeyRing.create(path).unseal("local", 1, sealed)


@given(st.binary(max_size=300))
def test_a_token_opens_for_its_purpose_and_no_other(ring: KeyRing, content: bytes) -> None:
    token = ring.seal_token("confirmation", content)
    assert ring.open_token("confirmation", token) == content
    with pytest.raises(SealBroken, match="no other token"):
        ring.open_token("other", token)


@given(st.text(max_size=200))
def test_what_nobody_sealed_is_no_token(ring: KeyRing, text: str) -> None:
    key_id = ring.seal("local", 0, b"").key_id
    for token in (text, f"{key_id}.{text}"):
        with pytest.raises(SealBroken):
            ring.open_token("confirmation", token)


def test_tokens_open_under_every_key_of_the_ring_and_under_none_that_left_it(path: Path) -> None:
    old = KeyRing.create(path)
    token = old.seal_token("confirmation", b"asked")
    fresh = {"id": "seal-new", "key": base64.b64encode(os.urandom(32)).decode()}
    edit(path, lambda content: content["seal"].insert(0, fresh))
    rotated = KeyRing.load(path)
    assert rotated.open_token("confirmation", token) == b"asked"
    newer = rotated.seal_token("confirmation", b"asked")
    assert newer.startswith("seal-new.")
    with pytest.raises(SealBroken):
        old.open_token("confirmation", newer)


def test_each_tenant_has_its_own_claim_key(ring: KeyRing) -> None:
    assert len({ring.claim_key(tenant) for tenant in ("", "a", "b", "a/b")}) == 4
    assert ring.claim_key("a") == ring.claim_key("a") and len(ring.claim_key("a")) == 32


def test_a_new_key_file_is_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        KeyRing.create(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_key_file_is_never_overwritten(path: Path) -> None:
    KeyRing.create(path)
    before = path.read_bytes()
    with pytest.raises(KeyRingError, match="already; it was left as it is"):
        KeyRing.create(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_key_file_that_could_not_be_written_whole_is_not_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KeyRingError, match="No space left"):
        KeyRing.create(path)
    assert list(path.parent.iterdir()) == []


def test_a_pipe_in_the_place_of_the_key_file_is_refused_at_once(path: Path) -> None:
    os.mkfifo(path, 0o600)
    with pytest.raises(KeyRingError, match="not a regular file"):
        KeyRing.load(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_file_open_to_others_is_refused_with_the_fix(path: Path, mode: int) -> None:
    KeyRing.create(path)
    path.chmod(mode)
    with pytest.raises(KeyRingError, match="chmod 600"):
        KeyRing.load(path)


def test_a_key_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    KeyRing.create(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(KeyRingError, match="not to us"):
        KeyRing.load(path)


def test_a_missing_key_file_a_link_and_a_folder_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyRingError, match="no key file"):
        KeyRing.load(path)
    KeyRing.create(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(KeyRingError, match="cannot be opened"):
        KeyRing.load(link)
    with pytest.raises(KeyRingError, match="not a regular file"):
        KeyRing.load(tmp_path)
    with pytest.raises(KeyRingError, match="cannot be written"):
        KeyRing.create(tmp_path / "absent" / "keys.json")


_MALFORMED: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda c: c.update(v=2), "must hold exactly"),
    (lambda c: c.pop("claim"), "must hold exactly"),
    (lambda c: c.update(extra=1), "must hold exactly"),
    (lambda c: c.update(seal=[]), "at least one key"),
    (lambda c: c.update(seal={}), "at least one key"),
    (lambda c: c["seal"].append("x"), r"`seal\[1\]` must hold exactly the strings"),
    (lambda c: c["seal"].append(c["seal"][0]), "same id or the same bytes"),
    (lambda c: c["seal"].append({"id": "other", "key": c["claim"]["key"]}), "same id or the same bytes"),
    (lambda c: c["claim"].update(id=c["checkpoint"]["id"]), "same id or the same bytes"),
    (lambda c: c["claim"].update(id="A b"), r"`claim.id` must be"),
    (lambda c: c["claim"].update(key="AAAA"), r"`claim.key` must be 32 bytes"),
    (lambda c: c["checkpoint"].update(key="?"), r"`checkpoint.key` must be 32 bytes"),
    (lambda c: c["checkpoint"].update(note=""), "exactly the strings"),
]


@pytest.mark.parametrize(("change", "says"), _MALFORMED)
def test_a_malformed_key_file_is_refused_and_the_place_named(
    path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    KeyRing.create(path)
    edit(path, change)
    with pytest.raises(KeyRingError, match=says):
        KeyRing.load(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 50_000, '"' + "x" * 70_000])
def test_a_key_file_that_is_no_object_is_refused(path: Path, text: str) -> None:
    KeyRing.create(path)
    path.write_text(text)
    with pytest.raises(KeyRingError, match="malformed"):
        KeyRing.load(path)


def test_no_message_shows_a_key(path: Path) -> None:
    KeyRing.create(path)
    secret = json.loads(path.read_text())["seal"][0]["key"]
    edit(path, lambda c: c["seal"][0].update(key=secret[:-8]))
    with pytest.raises(KeyRingError) as caught:
        KeyRing.load(path)
    assert secret[:10] not in str(caught.value)
