"""Keys and sealing: payloads only a holder of the key file can read.

One file (JSON, mode 0600, owned by us) holds three kinds of key:

- `seal`: AES-256 keys that wrap record keys. The first seals, all open; rotate well before one key has sealed
  2**32 records (NIST SP 800-38D §8.3, random 96-bit nonces).
- `claim`: one key, never rotated, from which each tenant's digest key is derived (RFC 5869).
- `checkpoint`: the Ed25519 seed that signs checkpoints.

Each record gets a fresh random AES-256-GCM key of its own, wrapped by the first seal key. Both ciphertexts
are bound to tenant and index, so neither can be moved to another record.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from comptroller_audit.errors import KeyRingError, SealBroken

__all__ = ["KEY_BYTES", "KeyRing", "RandomBytes", "Sealed", "Signer"]

KEY_BYTES = 32
_NONCE_BYTES = 12
_FILE_BYTES_MAX = 65_536
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

RandomBytes = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed payload. `wrapped` and `sealed` are each a 12-byte nonce and the AES-256-GCM ciphertext with its tag."""

    key_id: str
    wrapped: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Signer:
    """An Ed25519 key with the name it signs notes under (no spaces, no plus sign)."""

    name: str
    key: Ed25519PrivateKey

    @property
    def public(self) -> bytes:
        """The raw 32-byte public key."""
        return self.key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """64 bytes, RFC 8032."""
        return self.key.sign(message)


class KeyRing:
    """The loaded key file. Safe to share between threads: nothing changes after construction but one cache."""

    def __init__(
        self, seals: Sequence[tuple[str, bytes]], claim: tuple[str, bytes], checkpoint: tuple[str, bytes]
    ) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in seals}
        self._first_id = seals[0][0]
        self._first = self._ciphers[self._first_id]
        self._claim = claim[1]
        self._claim_keys: dict[str, bytes] = {}
        self.signer = Signer(
            f"comptroller/{checkpoint[0]}", Ed25519PrivateKey.from_private_bytes(checkpoint[1])
        )

    def seal(
        self, tenant: str, index: int, plaintext: bytes, random_bytes: RandomBytes = os.urandom
    ) -> Sealed:
        """Seal one record's payload under a fresh key."""
        fresh = random_bytes(KEY_BYTES + 2 * _NONCE_BYTES)
        key, nonce, wrap_nonce = fresh[:32], fresh[32:44], fresh[44:]
        sealed = nonce + AESGCM(key).encrypt(nonce, plaintext, _record_aad(tenant, index))
        wrapped = wrap_nonce + self._first.encrypt(wrap_nonce, key, _wrap_aad(self._first_id, tenant, index))
        return Sealed(self._first_id, wrapped, sealed)

    def unseal(self, tenant: str, index: int, sealed: Sealed) -> bytes:
        """The payload's plaintext.

        Raises KeyRingError when the ring lacks the key, SealBroken when the bytes are not what was sealed here.
        """
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise KeyRingError(
                f"entry {index} of tenant {tenant!r} is sealed under key {sealed.key_id!r}, which the key file does "
                "not list; restore that key to the file's `seal` list"
            )
        try:
            key = _open(cipher, sealed.wrapped, _wrap_aad(sealed.key_id, tenant, index))
            return _open(AESGCM(key), sealed.sealed, _record_aad(tenant, index))
        except (InvalidTag, ValueError):
            raise SealBroken(
                f"the payload of entry {index} of tenant {tenant!r} is not what was sealed there; "
                "run `comptroller audit verify`"
            ) from None

    def seal_token(self, purpose: str, content: bytes, random_bytes: RandomBytes = os.urandom) -> str:
        """`content` as text that somebody else may keep and hand back: they can neither read nor change it."""
        nonce = random_bytes(_NONCE_BYTES)
        sealed = nonce + self._first.encrypt(nonce, content, _token_aad(self._first_id, purpose))
        return f"{self._first_id}.{base64.urlsafe_b64encode(sealed).decode()}"

    def open_token(self, purpose: str, token: str) -> bytes:
        """What `seal_token` sealed for this purpose, under any key of the ring. Raises SealBroken for all else."""
        key_id, _, text = token.partition(".")
        cipher = self._ciphers.get(key_id)
        if cipher is not None:
            with contextlib.suppress(InvalidTag, ValueError):
                sealed = base64.b64decode(text, altchars=b"-_", validate=True)
                return _open(cipher, sealed, _token_aad(key_id, purpose))
        raise SealBroken(f"this is no {purpose} token of this installation")

    def claim_key(self, tenant: str) -> bytes:
        """The tenant's 32-byte key for digests in tables: HKDF-SHA-256 of the claim key, the tenant in `info`."""
        key = self._claim_keys.get(tenant)
        if key is None:
            info = b"comptroller/claim/v1/" + tenant.encode()
            key = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(self._claim)
            self._claim_keys[tenant] = key
        return key

    @classmethod
    def create(cls, path: Path | str, random_bytes: RandomBytes = os.urandom) -> KeyRing:
        """Write a new key file, durably, and load it. Raises KeyRingError if one is already there."""
        path = Path(path)
        content: dict[str, object] = {
            "v": 1,
            "seal": [_fresh("seal", random_bytes)],
            "claim": _fresh("claim", random_bytes),
            "checkpoint": _fresh("checkpoint", random_bytes),
        }
        _write_new(path, json.dumps(content, indent=1).encode() + b"\n")
        return cls.load(path)

    @classmethod
    def load(cls, path: Path | str) -> KeyRing:
        """Read a key file. Raises KeyRingError: missing, readable by others, not ours, malformed, repeated ids."""
        path = Path(path)
        seals, claim, checkpoint = _parse(path, _read_private(path))
        return cls(seals, claim, checkpoint)


def _record_aad(tenant: str, index: int) -> bytes:
    # The index has digits only, so the first colon after it ends it: no two (tenant, index) read alike.
    return f"comptroller:record:v1:{index}:{tenant}".encode()


def _wrap_aad(key_id: str, tenant: str, index: int) -> bytes:
    return f"comptroller:wrap:v1:{key_id}:{index}:{tenant}".encode()


def _token_aad(key_id: str, purpose: str) -> bytes:
    return f"comptroller:token:v1:{key_id}:{purpose}".encode()


def _open(cipher: AESGCM, data: bytes, aad: bytes) -> bytes:
    return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], aad)


def _fresh(kind: str, random_bytes: RandomBytes) -> dict[str, str]:
    fresh = random_bytes(4 + KEY_BYTES)
    return {"id": f"{kind}-{fresh[:4].hex()}", "key": base64.b64encode(fresh[4:]).decode()}


def _write_new(path: Path, data: bytes) -> None:
    """All of the file or none of it, and never over another: written beside its place, then linked into it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.link(draft, path)
        finally:
            os.unlink(draft)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError as error:
        where = path if error.filename2 else draft
        raise KeyRingError(f"there is a key file at {where} already; it was left as it is") from None
    except OSError as error:
        raise KeyRingError(f"the key file {path} cannot be written: {error.strerror}") from None


def _read_private(path: Path) -> bytes:
    try:
        # O_NONBLOCK: a pipe put in the file's place must not hang us.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyRingError(
            f"there is no key file at {path}; restore it, for without it no payload can be read"
        ) from None
    except OSError as error:
        raise KeyRingError(f"the key file {path} cannot be opened: {error.strerror}") from None
    try:
        _refuse_unless_private(path, os.fstat(handle))
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)
    finally:
        os.close(handle)


def _refuse_unless_private(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise KeyRingError(f"the key file {path} is not a regular file")
    if facts.st_uid != os.geteuid():
        raise KeyRingError(
            f"the key file {path} belongs to uid {facts.st_uid}, not to us; `chown` it to uid {os.geteuid()}"
        )
    if facts.st_mode & 0o077:
        mode = stat.S_IMODE(facts.st_mode)
        raise KeyRingError(f"the key file {path} is open to others (mode {mode:04o}); run `chmod 600 {path}`")


_Key = tuple[str, bytes]


def _parse(path: Path, data: bytes) -> tuple[list[_Key], _Key, _Key]:
    def bad(what: str) -> KeyRingError:
        return KeyRingError(f"the key file {path} is malformed: {what}; restore it from a backup")

    def key(value: object, where: str) -> _Key:
        fields = cast("dict[str, object]", value) if isinstance(value, dict) else {}
        key_id, text = fields.get("id"), fields.get("key")
        if set(fields) != {"id", "key"} or not isinstance(key_id, str) or not isinstance(text, str):
            raise bad(f"`{where}` must hold exactly the strings `id` and `key`")
        if not _ID.fullmatch(key_id):
            raise bad(f"`{where}.id` must be 1 to 63 of a-z, 0-9 and -")
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != KEY_BYTES:
            raise bad(f"`{where}.key` must be {KEY_BYTES} bytes in base64")
        return key_id, raw

    if len(data) > _FILE_BYTES_MAX:
        raise bad(f"it is larger than {_FILE_BYTES_MAX} bytes")
    try:
        parsed: object = json.loads(data)
    except (ValueError, RecursionError):
        raise bad("it is not JSON") from None
    content = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
    if content.get("v") != 1 or set(content) != {"v", "seal", "claim", "checkpoint"}:
        raise bad("it must hold exactly `v` (1), `seal`, `claim` and `checkpoint`")
    listed = content["seal"]
    if not isinstance(listed, list) or not listed:
        raise bad("`seal` must list at least one key")
    seals = [key(item, f"seal[{at}]") for at, item in enumerate(cast("list[object]", listed))]
    claim, checkpoint = key(content["claim"], "claim"), key(content["checkpoint"], "checkpoint")
    keys = [*seals, claim, checkpoint]
    if len({key_id for key_id, _ in keys}) != len(keys) or len({raw for _, raw in keys}) != len(keys):
        raise bad("two keys have the same id or the same bytes")
    return seals, claim, checkpoint
