"""Checkpoints: what the log was at one size, signed, and kept where the database's owner cannot rewrite it.

A checkpoint is a C2SP tlog-checkpoint (origin, size, root, extension lines) in a C2SP signed note with one
Ed25519 signature (https://c2sp.org/tlog-checkpoint, https://c2sp.org/signed-note):

    comptroller.example/store-1/local
    42
    4gVpK0ZbyNAbqn4KMOIfBZq7zJwWyfjKQ2hZ3a2Q0zA=

    — comptroller/checkpoint-7ab18de1 <base64 of 4 bytes key id and 64 bytes signature>

The last part of the origin is the tenant, percent-encoded, so that a reader can tell whose log it is.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from comptroller_audit.errors import CheckpointError
from comptroller_audit.log import HASH_BYTES
from comptroller_audit.sealing import KeyRing, Signer, signer_name

__all__ = [
    "NOTE_BYTES_MAX",
    "Checkpoint",
    "CheckpointFile",
    "CheckpointHistory",
    "log_origin",
    "open_checkpoint",
    "open_known",
    "retired_vkeys",
    "sign_checkpoint",
    "vkey_of",
    "vkey_of_known",
]

NOTE_BYTES_MAX = 65_536
"""Longest note that is written or read, in bytes."""

_ED25519 = b"\x01"  # the signature type of the signed-note spec
_DASH = "— "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint whose signature was good. `root` is 32 bytes, `ext` the extension lines."""

    origin: str
    size: int
    root: bytes
    ext: tuple[str, ...] = ()


def log_origin(log: str, tenant: str) -> str:
    """The origin of a tenant's log: `<log>/<tenant>`, the tenant percent-encoded into one path part."""
    return f"{log}/{quote(tenant, safe='')}"


def vkey_of(signer: Signer) -> str:
    """The verifier key, to be published: `<name>+<key id, 8 hex digits>+<base64 of type and public key>`."""
    return _vkey(signer.name, signer.public)


def _vkey(name: str, public: bytes) -> str:
    return f"{name}+{_key_id(name, public).hex()}+{_b64(_ED25519 + public)}"


def retired_vkeys(ring: KeyRing) -> list[tuple[str, int]]:
    """The verifier keys of checkpoint keys that sign no more, each with the largest log it vouches for."""
    return [(_vkey(signer_name(old.id), old.public), old.entries) for old in ring.retired]


def open_known(text: str, ring: KeyRing) -> Checkpoint:
    """`open_checkpoint` by the key that signs now, or by a retired one that may vouch for a log of that size.

    Raises CheckpointError: no key of the ring signed it, or a retired one signed more than it may.
    """
    return _known(text, ring)[0]


def vkey_of_known(text: str, ring: KeyRing) -> str:
    """The verifier key by which `open_known` reads the note: after a rotation that can be a retired one.

    Raises CheckpointError as `open_known` does.
    """
    return _known(text, ring)[1]


def _known(text: str, ring: KeyRing) -> tuple[Checkpoint, str]:
    now = vkey_of(ring.signer)
    try:
        return open_checkpoint(text, now), now
    except CheckpointError as error:
        refused = error
    for vkey, entries in retired_vkeys(ring):
        with contextlib.suppress(CheckpointError):
            found = open_checkpoint(text, vkey)
            if found.size <= entries:
                return found, vkey
            refused = CheckpointError(
                f"a key that was retired at {entries} entries signed a checkpoint of {found.size}: somebody else has it"
            )
    raise refused


def sign_checkpoint(origin: str, size: int, root: bytes, signer: Signer, ext: Sequence[str] = ()) -> str:
    """The note's text, ending in a newline. Raises CheckpointError on what no checkpoint can hold."""
    lines = [origin, str(size), _b64(root), *ext]
    body = "\n".join(lines) + "\n"
    if (
        size < 0
        or len(root) != HASH_BYTES
        or any(not line or "\n" in line for line in lines)
        or _CONTROL.search(body)
    ):
        raise CheckpointError(
            "a checkpoint needs an origin of one line, a size of at least 0, a root of 32 bytes and extension lines "
            "that are not empty and hold no control characters"
        )
    if not _good_name(signer.name):
        raise CheckpointError(f"the key name {signer.name!r} cannot sign a note: no spaces and no plus sign")
    signature = _key_id(signer.name, signer.public) + signer.sign(body.encode())
    note = f"{body}\n{_DASH}{signer.name} {_b64(signature)}\n"
    if len(note.encode()) > NOTE_BYTES_MAX:
        raise CheckpointError(
            f"a checkpoint is at most {NOTE_BYTES_MAX} bytes; give fewer or shorter extension lines"
        )
    return note


def open_checkpoint(text: str, vkey: str) -> Checkpoint:
    """Check the note's signature by `vkey` and read it. Signatures by other keys are passed over (signed-note).

    Raises CheckpointError: malformed key or note, no signature by this key, or a bad one.
    """
    name, public = _parse_vkey(vkey)
    if _SURROGATE.search(text):
        raise CheckpointError("this is not a signed note: it holds half a character, which has no UTF-8")
    head, gap, tail = text.rpartition("\n\n")
    if not gap or not tail.endswith("\n") or len(text.encode()) > NOTE_BYTES_MAX or _CONTROL.search(text):
        raise CheckpointError("this is not a signed note: it needs a text, an empty line and signature lines")
    body = head + "\n"
    if not any(_signed_by(line, name, public, body) for line in tail[:-1].split("\n")):
        raise CheckpointError(
            f"the note bears no signature by the key {name!r}; was it signed before the key was changed? "
            "`comptroller keys list` shows the earlier keys"
        )
    return _parse_body(head)


def _signed_by(line: str, name: str, public: bytes, body: str) -> bool:
    parts = line.removeprefix(_DASH).split(" ")
    if not line.startswith(_DASH) or len(parts) != 2 or not _good_name(parts[0]):
        raise CheckpointError("the note has a malformed signature line")
    raw = _unb64(parts[1], "the note's signature")
    if len(raw) < 5:
        raise CheckpointError("the note has a malformed signature line")
    if parts[0] != name or raw[:4] != _key_id(name, public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], body.encode())
    except InvalidSignature:
        raise CheckpointError(
            f"the signature by {name!r} does not fit the note: the note was changed"
        ) from None
    return True


def _parse_body(head: str) -> Checkpoint:
    lines = head.split("\n")
    if len(lines) < 3 or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise CheckpointError("the note is signed but holds no checkpoint (origin, size, root)")
    root = _unb64(lines[2], "the checkpoint's root")
    if len(root) != HASH_BYTES:
        raise CheckpointError("the checkpoint's root is not 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root, tuple(lines[3:]))


def _parse_vkey(vkey: str) -> tuple[str, bytes]:
    name, _, rest = vkey.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    raw = _unb64(encoded, "the verifier key")
    if (
        len(raw) != 33
        or raw[:1] != _ED25519
        or not _good_name(name)
        or key_id != _key_id(name, raw[1:]).hex()
    ):
        raise CheckpointError(
            "the verifier key is malformed; it reads <name>+<8 hex digits>+<base64>, as `comptroller check` prints it"
        )
    return name, raw[1:]


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def _good_name(name: str) -> bool:
    return (
        bool(name) and "+" not in name and not any(c.isspace() for c in name) and not _SURROGATE.search(name)
    )


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _unb64(text: str, what: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise CheckpointError(f"{what} is not base64") from None
    if _b64(raw) != text:  # one spelling only
        raise CheckpointError(f"{what} is not canonical base64")
    return raw


@dataclass(frozen=True, slots=True)
class CheckpointHistory:
    """What a checkpoint file holds: whole notes in the order written, and where unfinished ones begin (bytes)."""

    notes: tuple[str, ...]
    torn: tuple[int, ...]


_END = b"========\n"
_TORN = b"!!!!!!!!\n"


class CheckpointFile:
    """A sink of checkpoints in one append-only file, mode 0600, shared by processes under `flock`.

    Each note is followed by a line of eight `=`. A note without it was torn by a crash or a full disk; the next
    append closes it off with a line of eight `!`. It is reported for ever after, never read as a checkpoint.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def append(self, note: str) -> None:
        """Add one note; on return it is on disk. Raises CheckpointError when it is not."""
        data = note.encode()
        if (
            not note.endswith("\n")
            or any(b"\n" + mark in b"\n" + data for mark in (_END, _TORN))
            or len(data) > NOTE_BYTES_MAX
        ):
            raise CheckpointError("this text cannot be kept as a checkpoint: sign it with `sign_checkpoint`")
        try:
            self._append(data)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint could not be written to {self.path}: {error.strerror}"
            ) from error

    def _append(self, data: bytes) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            size = os.fstat(handle).st_size
            torn = size > 0 and os.pread(handle, len(_END) + 1, max(0, size - len(_END) - 1)) != b"\n" + _END
            _write_all(handle, (b"\n" + _TORN if torn else b"") + data + _END)
            os.fsync(handle)
        finally:
            os.close(handle)
        if size == 0:
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def read(self) -> CheckpointHistory:
        """Everything in the file; an absent file is an empty one. Raises CheckpointError if it cannot be read."""
        notes: list[str] = []
        torn: list[int] = []
        for offset, note in self._pieces():
            if note is None:
                torn.append(offset)
            else:
                notes.append(note)
        return CheckpointHistory(tuple(notes), tuple(torn))

    def newest(self, origin: str | None = None) -> str | None:
        """The note written last, of that origin if one is named; None if there is none. Reads through the file."""
        found: str | None = None
        for _, note in self._pieces():
            if note is not None and (origin is None or note.startswith(origin + "\n")):
                found = note
        return found

    def _pieces(self) -> Iterator[tuple[int, str | None]]:
        try:
            with self.path.open("rb") as file:
                yield from _split(file)
        except FileNotFoundError:
            return
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint file {self.path} cannot be read: {error.strerror}"
            ) from error


def _split(file: BinaryIO) -> Iterator[tuple[int, str | None]]:
    """(offset, note) for each piece; None for a piece that is no whole note."""
    start, piece = 0, list[bytes]()
    while line := file.readline(NOTE_BYTES_MAX + 1):
        if line not in (_END, _TORN):
            piece.append(line)
            continue
        if piece:
            yield start, _as_note(b"".join(piece)) if line == _END else None
        start, piece = file.tell(), []
    if piece:
        yield start, None


def _as_note(data: bytes) -> str | None:
    _, gap, tail = data.rpartition(b"\n\n")
    if not gap or not all(line.startswith(_DASH.encode()) for line in tail.splitlines()):
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]
