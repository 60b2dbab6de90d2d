"""Keys and sealing: payloads only a holder of the key file can read.

One file (JSON, mode 0600, owned by us) holds three kinds of key:

- `seal`: AES-256 keys that wrap record keys. The first seals, all open; rotate well before one key has sealed
  2**32 records (NIST SP 800-38D §8.3, random 96-bit nonces).
- `claim`: one key, never rotated, from which each tenant's digest key is derived (RFC 5869).
- `checkpoint`: the Ed25519 seed that signs checkpoints.
- `retired`: public halves of earlier checkpoint keys, each with the size of the log it may vouch for (`keyfile.py`).

Each record gets a fresh random AES-256-GCM key of its own, wrapped by the first seal key. Both ciphertexts
are bound to tenant and index, so neither can be moved to another record.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from comptroller_audit.errors import KeyRingError, SealBroken
from comptroller_audit.keyfile import KEY_BYTES, RandomBytes, Retired, new_keys, read_key_file, write_key_file

__all__ = ["KEY_BYTES", "KeyRing", "RandomBytes", "Sealed", "Signer", "signer_name"]

_NONCE_BYTES = 12


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


def signer_name(key_id: str) -> str:
    """The name that a checkpoint key signs under."""
    return f"comptroller/{key_id}"


class KeyRing:
    """The loaded key file. Safe to share between threads: nothing changes after construction but one cache."""

    def __init__(
        self,
        seals: Sequence[tuple[str, bytes]],
        claim: tuple[str, bytes],
        checkpoint: tuple[str, bytes],
        retired: Sequence[Retired] = (),
    ) -> None:
        self._ciphers = {key_id: AESGCM(key) for key_id, key in seals}
        self._first_id = seals[0][0]
        self._first = self._ciphers[self._first_id]
        self._claim = claim[1]
        self.ids = (*self._ciphers, claim[0], checkpoint[0])
        """The ids of its keys, in the order of the key file."""
        self._claim_keys: dict[str, bytes] = {}
        self.retired = tuple(retired)
        self.signer = Signer(signer_name(checkpoint[0]), Ed25519PrivateKey.from_private_bytes(checkpoint[1]))

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
        write_key_file(Path(path), new_keys(random_bytes))
        return cls.load(path)

    @classmethod
    def load(cls, path: Path | str) -> KeyRing:
        """Read a key file. Raises KeyRingError: missing, readable by others, not ours, malformed, repeated ids."""
        keys = read_key_file(Path(path))
        return cls(keys.seals, keys.claim, keys.checkpoint, keys.retired)


def _record_aad(tenant: str, index: int) -> bytes:
    # The index has digits only, so the first colon after it ends it: no two (tenant, index) read alike.
    return f"comptroller:record:v1:{index}:{tenant}".encode()


def _wrap_aad(key_id: str, tenant: str, index: int) -> bytes:
    return f"comptroller:wrap:v1:{key_id}:{index}:{tenant}".encode()


def _token_aad(key_id: str, purpose: str) -> bytes:
    return f"comptroller:token:v1:{key_id}:{purpose}".encode()


def _open(cipher: AESGCM, data: bytes, aad: bytes) -> bytes:
    return cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], aad)
