from __future__ import annotations

import base64
import fcntl
import os
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from comptroller_audit.checkpoint import (
    Checkpoint,
    CheckpointFile,
    log_origin,
    open_checkpoint,
    sign_checkpoint,
    vkey_of,
)
from comptroller_audit.errors import CheckpointError
from comptroller_audit.sealing import Signer

ROOT = bytes(range(32))
ORIGIN = "example.com/store/local"
SIGNER = Signer("example.com/store", Ed25519PrivateKey.from_private_bytes(bytes(32)))
VKEY = vkey_of(SIGNER)

# The key and note of golang.org/x/mod/sumdb/note (the format's first implementation, its documented example).
_GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
_GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_checkpoint_opens_with_the_key_it_was_signed_by() -> None:
    text = sign_checkpoint(ORIGIN, 42, ROOT, SIGNER, ("time 1700000000000",))
    assert open_checkpoint(text, VKEY) == Checkpoint(ORIGIN, 42, ROOT, ("time 1700000000000",))
    assert open_checkpoint(sign_checkpoint(ORIGIN, 0, ROOT, SIGNER), VKEY + "\n") == Checkpoint(
        ORIGIN, 0, ROOT
    )


def test_the_text_is_that_of_the_specification() -> None:
    text = sign_checkpoint(ORIGIN, 42, ROOT, SIGNER)
    lines = text.split("\n")
    assert lines[:4] == [ORIGIN, "42", base64.b64encode(ROOT).decode(), ""]
    assert lines[4].startswith("— example.com/store ") and lines[5:] == [""]
    assert len(base64.b64decode(lines[4].rsplit(" ", 1)[1])) == 4 + 64


def test_a_note_of_the_first_implementation_is_read_as_signed_and_one_changed_word_is_seen() -> None:
    with pytest.raises(CheckpointError, match="signed but holds no checkpoint"):
        open_checkpoint(_GO_NOTE, _GO_VKEY)
    with pytest.raises(CheckpointError, match="the note was changed"):
        open_checkpoint(_GO_NOTE.replace("answer", "question"), _GO_VKEY)


@given(st.integers(0), st.integers(0, 6))
def test_no_bit_of_a_checkpoint_can_change_unseen(at: int, bit: int) -> None:
    raw = bytearray(sign_checkpoint(ORIGIN, 42, ROOT, SIGNER).encode())
    raw[at % len(raw)] ^= 1 << bit
    with pytest.raises(CheckpointError):
        open_checkpoint(raw.decode(errors="replace"), VKEY)


def test_a_second_spelling_of_a_signature_is_refused() -> None:
    text = sign_checkpoint(ORIGIN, 42, ROOT, SIGNER)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = text[-3]
    other = alphabet[alphabet.index(last) ^ 1]  # changes only bits that base64 leaves unused
    with pytest.raises(CheckpointError, match="not canonical base64"):
        open_checkpoint(f"{text[:-3]}{other}=\n", VKEY)


def test_a_signature_by_another_key_counts_for_nothing() -> None:
    other = Signer("example.com/store", Ed25519PrivateKey.generate())
    with pytest.raises(CheckpointError, match="no signature by the key"):
        open_checkpoint(sign_checkpoint(ORIGIN, 42, ROOT, other), VKEY)


def test_signatures_by_further_keys_are_passed_over() -> None:
    other = Signer("witness.example", Ed25519PrivateKey.generate())
    cosigned = (
        sign_checkpoint(ORIGIN, 42, ROOT, SIGNER) + sign_checkpoint(ORIGIN, 42, ROOT, other).split("\n\n")[1]
    )
    assert open_checkpoint(cosigned, VKEY) == open_checkpoint(cosigned, vkey_of(other))


@pytest.mark.parametrize(
    ("origin", "size", "root", "ext"),
    [
        ("", 1, ROOT, ()),
        ("two\nlines", 1, ROOT, ()),
        (ORIGIN, -1, ROOT, ()),
        (ORIGIN, 1, ROOT[:31], ()),
        (ORIGIN, 1, ROOT, ("",)),
        (ORIGIN, 1, ROOT, ("a\n\nb",)),
        (ORIGIN, 1, ROOT, ("a\x00b",)),
        (ORIGIN, 1, ROOT, ("x" * 70_000,)),
    ],
)
def test_what_no_checkpoint_can_hold_is_not_signed(
    origin: str, size: int, root: bytes, ext: tuple[str, ...]
) -> None:
    with pytest.raises(CheckpointError):
        sign_checkpoint(origin, size, root, SIGNER, ext)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "a\u00a0b"])
def test_a_name_that_no_note_can_carry_does_not_sign(name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot sign"):
        sign_checkpoint(ORIGIN, 1, ROOT, Signer(name, SIGNER.key))


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "name",
        "name+00000000+AAAA",
        VKEY.replace("example", "sample"),
        VKEY + "A",
        VKEY.replace("+A", "+B"),
    ],
)
def test_a_malformed_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(CheckpointError):
        open_checkpoint(sign_checkpoint(ORIGIN, 1, ROOT, SIGNER), vkey)


@pytest.mark.parametrize(
    "text", ["", "\n", "\n\n", "a\n\nb\n", "a\n1\nAA==\n\n— x\n", "no newline at the end\n\n— a b"]
)
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        open_checkpoint(text, VKEY)


def test_the_origin_holds_the_tenant_as_one_part() -> None:
    assert log_origin("store-1", "a/b c") == "store-1/a%2Fb%20c"


def note(size: int, origin: str = ORIGIN) -> str:
    return sign_checkpoint(origin, size, ROOT, SIGNER)


def test_a_file_gives_back_its_notes_in_order(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoints")
    assert file.read().notes == () and file.newest() is None
    for size in (1, 2, 3):
        file.append(note(size, f"{ORIGIN}{size % 2}"))
    assert [open_checkpoint(text, VKEY).size for text in file.read().notes] == [1, 2, 3]
    assert file.read().torn == ()
    assert file.newest() == note(3, f"{ORIGIN}1")
    assert file.newest(f"{ORIGIN}0") == note(2, f"{ORIGIN}0")
    assert file.newest(ORIGIN) is None
    assert file.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", range(1, len(note(2).encode()) + 9, 7))
def test_a_torn_note_is_told_and_never_read_and_the_file_goes_on(tmp_path: Path, cut: int) -> None:
    file = CheckpointFile(tmp_path / "checkpoints")
    file.append(note(1))
    whole = file.path.stat().st_size
    file.append(note(2))
    os.truncate(file.path, file.path.stat().st_size - cut)
    assert file.read().notes == (note(1),)
    torn = (whole,) if cut < len(note(2).encode()) + 9 else ()
    assert file.read().torn == torn
    file.append(note(3))
    kept = file.read()
    # Where only the newline of the end mark was lost, closing the piece off completes it.
    assert kept.notes == ((note(1), note(2), note(3)) if cut == 1 else (note(1), note(3)))
    assert kept.torn == (() if cut == 1 else torn)


def test_an_append_is_on_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def counted(handle: int) -> None:
        real(handle)
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", counted)
    file = CheckpointFile(tmp_path / "checkpoints")
    file.append(note(1))
    assert synced == [file.path.stat().st_ino, tmp_path.stat().st_ino]
    file.append(note(2))
    assert synced[2:] == [file.path.stat().st_ino]


def test_a_full_disk_is_an_error_and_what_was_written_is_a_torn_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = CheckpointFile(tmp_path / "checkpoints")
    file.append(note(1))
    real = os.write
    writes: list[int] = []

    def filling_up(handle: int, data: bytes) -> int:
        writes.append(len(data))
        if len(writes) > 1:
            raise OSError(28, "No space left on device")
        return real(handle, data[:40])

    monkeypatch.setattr(os, "write", filling_up)
    with pytest.raises(CheckpointError, match="No space left"):
        file.append(note(2))
    monkeypatch.undo()
    file.append(note(3))
    assert file.read().notes == (note(1), note(3)) and len(file.read().torn) == 1


def test_a_text_that_would_pass_for_an_end_mark_is_not_kept(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoints")
    for text in (
        "========\n",
        "no newline",
        note(1).replace(ORIGIN, "========"),
        note(1).replace(ORIGIN, "!!!!!!!!"),
    ):
        with pytest.raises(CheckpointError, match="cannot be kept"):
            file.append(text)
    assert not file.path.exists()


def test_a_file_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="could not be written"):
        CheckpointFile(tmp_path / "absent" / "checkpoints").append(note(1))
    with pytest.raises(CheckpointError, match="cannot be read"):
        CheckpointFile(tmp_path).read()


def _append_many(path: Path, first: int) -> None:
    for size in range(first, first + 20):
        CheckpointFile(path).append(note(size))


def test_writers_that_append_together_keep_every_note_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints"  # `flock` holds between open files, so threads stand in for processes
    writers = [Thread(target=_append_many, args=(path, 100 * n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    kept = CheckpointFile(path).read()
    assert kept.torn == ()
    sizes = sorted(open_checkpoint(text, VKEY).size for text in kept.notes)
    assert sizes == [100 * n + k for n in range(3) for k in range(20)]


def test_an_append_waits_for_the_one_before_it(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoints")
    file.append(note(1))
    with file.path.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        writer = Thread(target=file.append, args=(note(2),))
        writer.start()
        writer.join(timeout=0.2)
        assert writer.is_alive() and file.read().notes == (note(1),)
    writer.join()
    assert file.read().notes == (note(1), note(2))
