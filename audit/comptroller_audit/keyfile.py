"""The key file: read whole or not at all, written whole or not at all, and changed in two ways only.

`rotated` makes a new first seal key (the others go on opening) or a new checkpoint key (the public half of the old one
stays, with the size of the log it may vouch for: whoever stole it signs nothing newer). `without` drops a seal key that
seals nothing any more. The claim key stays for ever: digests in tables are made with it (docs/decisions/0017).
"""

from __future__ import annotations

import base64
import binascii
import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from comptroller_audit.errors import KeyRingError

__all__ = [
    "KEY_BYTES",
    "KeyFile",
    "RandomBytes",
    "Retired",
    "fresh_key",
    "new_keys",
    "only_changer",
    "read_key_file",
    "read_steady_key_file",
    "replace_key_file",
    "write_key_file",
]

KEY_BYTES = 32
_FILE_BYTES_MAX = 65_536
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_MEMBERS = {"v", "seal", "claim", "checkpoint"}

RandomBytes = Callable[[int], bytes]
_Key = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class Retired:
    """A checkpoint key that signs no more: `public` is 32 bytes, and `entries` the largest log it vouches for."""

    id: str
    public: bytes
    entries: int


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What the file holds: (id, 32 bytes) of each key."""

    seals: tuple[_Key, ...]
    claim: _Key
    checkpoint: _Key
    retired: tuple[Retired, ...] = ()

    def rotated(self, kind: str, key: tuple[str, bytes], entries: int) -> KeyFile:
        """With `key` as the first `seal` key or as the `checkpoint` key. `entries` is the size of the log by now.

        Raises KeyRingError for another kind.
        """
        if kind == "seal":
            return replace(self, seals=(key, *self.seals))
        if kind == "checkpoint":
            key_id, seed = self.checkpoint
            public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
            return replace(self, checkpoint=key, retired=(*self.retired, Retired(key_id, public, entries)))
        raise KeyRingError(f"there is no rotating a {kind} key; `seal` and `checkpoint` can be")

    def without(self, key_id: str) -> KeyFile:
        """Without a seal key that is not the first. Raises KeyRingError."""
        if key_id == self.seals[0][0]:
            raise KeyRingError(f"{key_id} is the key that seals; `comptroller keys rotate seal` first")
        kept = tuple(key for key in self.seals if key[0] != key_id)
        if len(kept) == len(self.seals):
            raise KeyRingError(f"the key file lists no seal key {key_id}; `comptroller keys list` shows them")
        return replace(self, seals=kept)

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of its keys, in order: another key never has the same."""
        return (*(key_id for key_id, _ in self.seals), self.claim[0], self.checkpoint[0])

    def as_json(self) -> bytes:
        content: dict[str, object] = {
            "v": 1,
            "seal": [_member(key) for key in self.seals],
            "claim": _member(self.claim),
            "checkpoint": _member(self.checkpoint),
        }
        if self.retired:
            content["retired"] = [
                {"id": old.id, "public": base64.b64encode(old.public).decode(), "entries": old.entries}
                for old in self.retired
            ]
        return json.dumps(content, indent=1).encode() + b"\n"


def new_keys(random_bytes: RandomBytes = os.urandom) -> KeyFile:
    return KeyFile(
        (fresh_key("seal", random_bytes),),
        fresh_key("claim", random_bytes),
        fresh_key("checkpoint", random_bytes),
    )


def fresh_key(kind: str, random_bytes: RandomBytes = os.urandom) -> tuple[str, bytes]:
    """An id of that kind, and 32 bytes."""
    fresh = random_bytes(4 + KEY_BYTES)
    return f"{kind}-{fresh[:4].hex()}", fresh[4:]


def _member(key: _Key) -> dict[str, str]:
    return {"id": key[0], "key": base64.b64encode(key[1]).decode()}


def write_key_file(path: Path, keys: KeyFile) -> None:
    """A new file, durably. Raises KeyRingError if one is already there, or it cannot be written."""
    _write(path, keys, lambda draft: os.link(draft, path))


def replace_key_file(path: Path, keys: KeyFile) -> None:
    """In the place of the file that is there, durably: a crash leaves the one or the other. Raises KeyRingError."""
    _write(path, keys, lambda draft: os.replace(draft, path))


def _write(path: Path, keys: KeyFile, put: Callable[[Path], None]) -> None:
    """All of the file or none of it: written beside its place, then put into it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(keys.as_json())
                file.flush()
                os.fsync(file.fileno())
            put(draft)
        finally:
            draft.unlink(missing_ok=True)
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


@contextmanager
def only_changer(path: Path) -> Generator[None]:
    """Nobody else changes the key file meanwhile. Raises KeyRingError when somebody does."""
    try:
        handle = _locked(path, fcntl.LOCK_EX)
    except PermissionError as error:
        raise KeyRingError(f"{path} cannot be changed by us: {error.strerror}") from None
    try:
        yield
    finally:
        os.close(handle)


def read_steady_key_file(path: Path) -> KeyFile:
    """`read_key_file`, at a moment when nobody changes it. Raises KeyRingError, also when somebody does."""
    try:
        handle = _locked(path, fcntl.LOCK_SH)
    except PermissionError:  # where we may write nothing, the file is not ours to replace
        return read_key_file(path)
    try:
        return read_key_file(path)
    finally:
        os.close(handle)


def _locked(path: Path, how: int) -> int:
    """A handle that holds the lock beside the key file. Raises KeyRingError, PermissionError where none can be made."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        handle = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionError(error.errno, f"the lock {lock} cannot be made") from None
        raise KeyRingError(f"the lock {lock} cannot be opened: {error.strerror}") from None
    try:
        fcntl.flock(handle, how | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise KeyRingError(f"a command is changing {path}; try again when it has ended") from None
    return handle


def read_key_file(path: Path) -> KeyFile:
    """Raises KeyRingError: missing, readable by others, not ours, malformed, repeated ids."""
    return _parse(path, _read_private(path))


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


def _parse(path: Path, data: bytes) -> KeyFile:
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
    if content.get("v") != 1 or content.keys() - {"retired"} != _MEMBERS:
        raise bad("it must hold exactly `v` (1), `seal`, `claim` and `checkpoint`, and may hold `retired`")
    listed = content["seal"]
    if not isinstance(listed, list) or not listed:
        raise bad("`seal` must list at least one key")
    seals = [key(item, f"seal[{at}]") for at, item in enumerate(cast("list[object]", listed))]
    claim, checkpoint = key(content["claim"], "claim"), key(content["checkpoint"], "checkpoint")
    keys = [*seals, claim, checkpoint]
    if len({key_id for key_id, _ in keys}) != len(keys) or len({raw for _, raw in keys}) != len(keys):
        raise bad("two keys have the same id or the same bytes")
    retired = _retired(content.get("retired", []))
    if retired is None or {old.id for old in retired} & {key_id for key_id, _ in keys}:
        raise bad("each of `retired` must hold exactly `id`, `public` (32 bytes in base64) and `entries`")
    return KeyFile(tuple(seals), claim, checkpoint, retired)


def _retired(listed: object) -> tuple[Retired, ...] | None:
    """The retired keys, or None where one is malformed or given twice."""
    if not isinstance(listed, list):
        return None
    found: dict[str, Retired] = {}
    for item in cast("list[object]", listed):
        fields = cast("dict[str, object]", item) if isinstance(item, dict) else {}
        key_id, text, entries = fields.get("id"), fields.get("public"), fields.get("entries")
        if (
            set(fields) != {"id", "public", "entries"}
            or not isinstance(key_id, str)
            or not isinstance(text, str)
        ):
            return None
        if not _ID.fullmatch(key_id) or type(entries) is not int or entries < 0 or key_id in found:
            return None
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(raw) != KEY_BYTES:
            return None
        found[key_id] = Retired(key_id, raw, entries)
    return tuple(found.values())
