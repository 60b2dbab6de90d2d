"""Who asks, on a machine of one's own: one person, and one token file for each configured client.

The person is the principal, the client that holds the token (or that the command line names, on stdio) is the
actor. Nothing in a message can change either. Stores with an identity provider will prove subjects elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from comptroller_audit.vocabulary import Actor, Principal, PrincipalKind, Subject
from comptroller_server.errors import IdentityError

__all__ = ["TENANT", "TOKEN_BYTES", "LocalIdentity"]

TENANT = "local"

TOKEN_BYTES = 32
"""Randomness of a token, bytes (256 bits)."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43,128}")
_TOKEN_FILE_BYTES_MAX = 256
_CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SUBJECT_CHARS_MAX = 256


class LocalIdentity:
    """The local person and the clients that may act for them.

    `subject` is the person's stable name in the records; None means the numeric user id of this process.
    `token_dir` holds `<client>.token`. Delete a file and start again to replace a token.

    Raises `IdentityError` for a name that cannot be a subject, a client or a file.
    """

    def __init__(
        self,
        store_id: str,
        subject: str | None,
        roles: Iterable[str],
        clients: Iterable[str],
        token_dir: Path,
    ) -> None:
        name = str(os.getuid()) if subject is None else subject
        if not name.isprintable() or not name.strip() or len(name) > _SUBJECT_CHARS_MAX:
            raise IdentityError(
                "identity.local.subject must be 1 to 256 printable characters; "
                "give a stable name, or leave it out to use the user id"
            )
        self.principal = Principal(TENANT, f"local:{store_id}", name, PrincipalKind.LOCAL)
        self.token_dir = token_dir
        self._roles = frozenset(roles)
        self._subjects = {client: self._acting_for(client) for client in _checked(clients)}
        self._by_hash: dict[bytes, Subject] = {}

    def _acting_for(self, client: str) -> Subject:
        return Subject(self.principal, Actor(client), self._roles)

    def stdio_subject(self, client_name: str) -> Subject:
        """The subject of a stdio connection: whoever started this process, through the client it was told.

        Raises `IdentityError` when the config does not name that client.
        """
        subject = self._subjects.get(client_name)
        if subject is None:
            known = ", ".join(sorted(self._subjects)) or "none"
            raise IdentityError(
                f"client {client_name!r} is not configured (configured: {known}); "
                "add it under identity.local.clients or start with another --client"
            )
        return subject

    def token_file(self, client: str) -> Path:
        """Where a client finds its token: `<token_dir>/<client>.token`, mode 0600, one line."""
        return self.token_dir / f"{client}.token"

    def load_tokens(self) -> Mapping[str, Path]:
        """Read every client's token, creating what is missing; only then does `verify` know anyone.

        Returns client name to token file. Raises `IdentityError` when a file is readable by others, belongs
        to another user, is no regular file, holds no token, or holds another client's token.
        """
        self._open_dir()
        by_hash: dict[bytes, Subject] = {}
        for client, subject in self._subjects.items():
            path = self.token_file(client)
            if not os.path.lexists(path):
                _create_token(path)
            digest = _hash(_read_token(path))
            if digest in by_hash:
                raise IdentityError(
                    f"{path} holds the token of client {by_hash[digest].actor.id!r}; "
                    "tokens name the actor, so delete one of the two files and start again"
                )
            by_hash[digest] = subject
        self._by_hash = by_hash
        return {client: self.token_file(client) for client in self._subjects}

    def verify(self, token: str) -> Subject | None:
        """The subject a token proves, or None. Compares hashes, all of them, in constant time."""
        if not _TOKEN.fullmatch(token):
            return None
        presented = _hash(token)
        found: Subject | None = None
        for digest, subject in self._by_hash.items():
            if hmac.compare_digest(digest, presented):
                found = subject
        return found

    def _open_dir(self) -> None:
        try:
            self.token_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = self.token_dir.stat()
        except OSError as error:
            raise IdentityError(
                f"the token folder {self.token_dir} cannot be used ({error.strerror}); "
                "make it a folder that this user owns"
            ) from error
        if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or info.st_uid != os.geteuid():
            raise IdentityError(
                f"the token folder {self.token_dir} can be changed by other users; "
                f"run: chmod 700 {self.token_dir} (and make it yours)"
            )


def _checked(clients: Iterable[str]) -> tuple[str, ...]:
    names = tuple(clients)
    for name in names:
        if not _CLIENT.fullmatch(name):
            raise IdentityError(
                f"client name {name!r} under identity.local.clients must be 1 to 64 letters, digits, `.`, `_` "
                "or `-`, starting with a letter or digit; it names a token file"
            )
    if len({name.casefold() for name in names}) != len(names):
        raise IdentityError(
            "two client names under identity.local.clients differ only in case; rename one, "
            "because some file systems would give both the same token file"
        )
    return names


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()


def _create_token(path: Path) -> None:
    """Appear complete or not at all: another process may be starting on the same folder."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, secrets.token_urlsafe(TOKEN_BYTES).encode("ascii") + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        with contextlib.suppress(FileExistsError):  # the other process won; its token is the token
            os.link(draft, path)
    except OSError as error:
        raise IdentityError(
            f"the token file {path} cannot be created ({error.strerror}); make the folder writable for this user"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _read_token(path: Path) -> str:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise IdentityError(
            f"the token file {path} cannot be read ({error.strerror}); "
            "delete it (a symbolic link is refused too) and a new one is made at the next start"
        ) from error
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise IdentityError(
                f"{path} is not a regular file; delete it and a new one is made at the next start"
            )
        if info.st_mode & 0o077 or info.st_uid != os.geteuid():
            raise IdentityError(
                f"the token file {path} is open to other users (mode {stat.S_IMODE(info.st_mode):04o}); it may be "
                "known to them, so delete it: a new one is made at the next start"
            )
        text = os.read(handle, _TOKEN_FILE_BYTES_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(handle)
    if not _TOKEN.fullmatch(text):
        raise IdentityError(
            f"the token file {path} holds no token; delete it and a new one is made at the next start"
        )
    return text
