"""What the verifier is given from outside the database: checkpoints, receipts and, perhaps, the key file.

Read here with code of its own: nothing is shared with the modules that write these files, so that one mistake
cannot hide in both. Formats: C2SP signed-note and tlog-checkpoint; receipts as JSON lines.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import unquote

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from comptroller_audit.errors import EvidenceError

__all__ = ["Checkpoints", "OpeningKeys", "Receipts", "read_checkpoints", "read_receipts", "tenant_of"]

_LINE_BYTES_MAX = 65_536


@dataclass(slots=True)
class Checkpoints:
    """Signed (size, root) pairs by tenant; `bad` tells of notes that prove nothing, `torn` of unfinished ones."""

    roots: dict[str, dict[int, bytes]] = field(default_factory=dict[str, dict[int, bytes]])
    bad: list[str] = field(default_factory=list[str])
    torn: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class Receipts:
    """Leaf hashes that answers vouched for, by tenant and index."""

    leaves: dict[str, dict[int, bytes]] = field(default_factory=dict[str, dict[int, bytes]])
    bad: list[str] = field(default_factory=list[str])


def tenant_of(log: str) -> str:
    """The tenant a log's name speaks of: its last path part, percent-decoded; a bare tenant is its own name."""
    return unquote(log.rpartition("/")[2])


def read_checkpoints(path: Path, keys: Sequence[str], retired: Sequence[tuple[str, int]] = ()) -> Checkpoints:
    """Every note in the file that one of the verifier keys signed. Raises EvidenceError: no file, malformed key.

    A retired key comes with the largest log it vouches for.
    """
    trusted: list[tuple[str, bytes, bytes, int | None]] = [(*_verifier_key(key), None) for key in keys]
    trusted += [(*_verifier_key(key), entries) for key, entries in retired]
    found = Checkpoints()
    for offset, text in _notes(path):
        if text is None:
            found.torn.append(offset)
            continue
        try:
            origin, size, root = _open_note(text, trusted)
        except ValueError as error:
            found.bad.append(f"the checkpoint at byte {offset} of {path} proves nothing: {error}")
            continue
        known = found.roots.setdefault(tenant_of(origin), {})
        if known.setdefault(size, root) != root:
            found.bad.append(
                f"the checkpoint at byte {offset} of {path} gives a second root for {size} entries of {origin!r}: "
                "the key has signed two different logs"
            )
    return found


def _notes(path: Path) -> Iterator[tuple[int, str | None]]:
    """Pieces ended by a line of eight `=`; None for one that a crash cut short (ended by `!`, or not at all)."""
    try:
        with path.open("rb") as file:
            start, piece, length = 0, list[bytes](), 0
            while line := file.readline(_LINE_BYTES_MAX):
                if line in (b"========\n", b"!!!!!!!!\n"):
                    if piece:
                        whole = line[:1] == b"=" and length < 2 * _LINE_BYTES_MAX
                        yield start, b"".join(piece).decode(errors="replace") if whole else None
                    start, piece, length = file.tell(), [], 0
                elif length < 2 * _LINE_BYTES_MAX:  # more is no note: count it, do not keep it
                    piece.append(line)
                    length += len(line)
            if piece:
                yield start, None
    except OSError as error:
        raise EvidenceError(f"the checkpoint file {path} cannot be read: {error.strerror}") from None


def _verifier_key(text: str) -> tuple[str, bytes, bytes]:
    """(name, key id, public key) of a signed-note verifier key."""
    parts = text.strip().split("+", 2)
    try:
        raw = base64.b64decode(parts[2], validate=True)
        name, key_id = parts[0], bytes.fromhex(parts[1])
        name.encode()
    except (IndexError, ValueError, binascii.Error):
        raw, name, key_id = b"", "", b""
    if len(raw) != 33 or raw[0] != 1 or hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4] != key_id:
        raise EvidenceError(f"{text!r} is no verifier key; one reads <name>+<8 hex digits>+<base64>")
    return name, key_id, raw[1:]


def _open_note(text: str, trusted: Sequence[tuple[str, bytes, bytes, int | None]]) -> tuple[str, int, bytes]:
    """(origin, size, root). Raises ValueError saying why the note proves nothing."""
    cut = text.rfind("\n\n")
    if cut < 0:
        raise ValueError("it is not a signed note")
    body, signed = text[: cut + 1], list[int | None]()
    for line in text[cut + 2 :].splitlines():
        words = line.split(" ")
        if len(words) != 3 or words[0] != "\N{EM DASH}":
            raise ValueError("it has a malformed signature line")
        raw = base64.b64decode(words[2], validate=True)
        for name, key_id, public, entries in trusted:
            if words[1] == name and raw[:4] == key_id:
                try:
                    Ed25519PublicKey.from_public_bytes(public).verify(raw[4:], body.encode())
                except InvalidSignature:
                    raise ValueError("its signature does not fit its text") from None
                signed.append(entries)
    if not signed:
        raise ValueError("it is not signed by the verifier key that was given")
    lines = body.split("\n")
    if len(lines) < 4 or not lines[0] or not lines[1].isdecimal() or not lines[1].isascii():
        raise ValueError("it is signed but is no checkpoint")
    root = base64.b64decode(lines[2], validate=True)
    if len(root) != 32 or lines[1] != str(int(lines[1])):
        raise ValueError("it is signed but is no checkpoint")
    if not any(entries is None or int(lines[1]) <= entries for entries in signed):
        raise ValueError(f"a key that was retired at {signed[0]} entries signed it for {lines[1]}")
    return lines[0], int(lines[1]), root


def read_receipts(path: Path) -> Receipts:
    """JSON lines `{log, index, leaf}`, leaf in hex. Raises EvidenceError when the file cannot be read."""
    found = Receipts()
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LINE_BYTES_MAX), b""), start=1):
                if not line.strip():
                    continue
                receipt = _receipt(line)
                if receipt is None:
                    found.bad.append(f"line {number} of {path} is no receipt {{log, index, leaf}}")
                    continue
                tenant, index, leaf = receipt
                if found.leaves.setdefault(tenant, {}).setdefault(index, leaf) != leaf:
                    found.bad.append(
                        f"line {number} of {path} names another leaf for entry {index} of {tenant!r}"
                    )
    except OSError as error:
        raise EvidenceError(f"the receipts file {path} cannot be read: {error.strerror}") from None
    return found


def _receipt(line: bytes) -> tuple[str, int, bytes] | None:
    try:
        parsed: object = json.loads(line, object_pairs_hook=_once)
        fields = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
        log, index, leaf = fields.get("log"), fields.get("index"), fields.get("leaf")
        if not isinstance(log, str) or type(index) is not int or index < 0 or not isinstance(leaf, str):
            return None
        raw = bytes.fromhex(leaf)
        log.encode()  # half a surrogate pair names no log, and no database takes it
    except (ValueError, RecursionError):
        return None
    return (tenant_of(log), index, raw) if len(raw) == 32 else None


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name is repeated")
    return fields


def _vkey(key: str, public: bytes) -> str:
    name, raw = f"comptroller/{key}", b"\x01" + public
    key_id = hashlib.sha256(name.encode() + b"\n" + raw).hexdigest()[:8]
    return f"{name}+{key_id}+{base64.b64encode(raw).decode()}"


class OpeningKeys:
    """The seal keys of a key file, to check that payloads open; and the verifier keys of its signing keys.

    Raises EvidenceError when the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            self._keys = {item["id"]: AESGCM(base64.b64decode(item["key"])) for item in content["seal"]}
            seed = base64.b64decode(content["checkpoint"]["key"])
            public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
            self.vkey = _vkey(content["checkpoint"]["id"], public)
            self.retired = [
                (_vkey(old["id"], base64.b64decode(old["public"])), int(old["entries"]))
                for old in content.get("retired", [])
            ]
        except OSError as error:
            raise EvidenceError(f"the key file {path} cannot be read: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            raise EvidenceError(f"the key file {path} is malformed") from None

    def opened(
        self, tenant: str, index: int, key_id: str, wrapped: bytes, sealed: bytes
    ) -> dict[str, object] | str:
        """The packet in this payload, or why it does not open."""
        cipher = self._keys.get(key_id)
        if cipher is None:
            return f"it is sealed under key {key_id!r}, which the key file does not list"
        place = f"{index}:{tenant}"
        try:
            key = cipher.decrypt(wrapped[:12], wrapped[12:], f"comptroller:wrap:v1:{key_id}:{place}".encode())
            plain = AESGCM(key).decrypt(sealed[:12], sealed[12:], f"comptroller:record:v1:{place}".encode())
            payload = json.loads(plain)
            if (
                payload["v"] == 1
                and len(base64.b64decode(payload["hmac_key"])) == 32
                and type(payload["packet"]) is dict
            ):
                return cast("dict[str, object]", payload["packet"])
        except InvalidTag:
            return "its key or its ciphertext was changed"
        except (ValueError, KeyError, TypeError):
            pass
        return "it opens, but holds no packet"
