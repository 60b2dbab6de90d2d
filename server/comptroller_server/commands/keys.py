"""`comptroller keys`: which keys the key file holds, and a new one in the place of one that is old, or that others may have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import click
from sqlalchemy import bindparam, func, select

from comptroller_audit.checkpoint import CheckpointFile, retired_vkeys, vkey_of
from comptroller_audit.database import table_of
from comptroller_audit.keyfile import KeyFile, fresh_key, only_changer, read_key_file, replace_key_file
from comptroller_audit.log import LogPayload
from comptroller_audit.packets import LogRecord
from comptroller_audit.redaction import Audience
from comptroller_audit.sealing import KeyRing
from comptroller_audit.store import Reader
from comptroller_audit.unit import Committed, Key, State, Unit
from comptroller_audit.vocabulary import JsonObject, RecordType
from comptroller_server.commands.credentials import by_credential, entitled
from comptroller_server.commands.db import nobody_serves
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import on_store
from comptroller_server.commands.showing import emit, say, show_list
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.upkeep.checkpoints import Checkpointer, checkpointer_of

__all__ = ["keys"]

_P = table_of(LogPayload)
_SEALED = (
    select(_P.c.key_id, func.count())
    .where(_P.c.tenant == bindparam("tenant"))
    .group_by(_P.c.key_id)
    .order_by(_P.c.key_id)
)
_REASON = click.option("--reason", required=True, help="Why; it stands in the record.")
_RESTART = "Start the servers again. Keep a copy of the new key file where the old copy is, and of the old one until then."


@dataclass(frozen=True, slots=True)
class _Changed:
    """Part: say in the log that a key came or went, before the file changes: a file without a record is never possible."""

    what: str
    kind: str
    key: str
    before: str
    by: str
    reason: str

    def keys(self) -> Iterable[Key]:
        return ()

    def apply(self, state: State) -> None:
        packet: JsonObject = {
            "v": 1,
            "what": self.what,
            "kind": self.kind,
            "key": self.key,
            "before": self.before,
            "by": self.by,
            "reason": self.reason,
        }
        state.append(LogRecord(RecordType.KEYS_CHANGED, packet))


@click.group()
def keys() -> None:
    """The keys that seal the records and sign the checkpoints."""


@keys.command("list")
@options()
@click.pass_context
def list_(ctx: click.Context) -> None:
    """Each key of the key file by its id, and what it is for. Never the key.

    Example: comptroller keys list --json
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> list[dict[str, object]]:
        kept, ring = read_key_file(installation.config.store.keys_file), installation.ring
        sealed = await installation.store.read(_sealed)
        return [
            *_seals(kept, sealed),
            _key("claim", kept.claim[0], "digests in tables; never changed"),
            *_signing(ring),
        ]

    found = on_store(invocation, work)
    rows = [(str(each["kind"]), str(each["id"]), str(each["use"])) for each in found]
    show_list(invocation.as_json, {"keys": found}, ("kind", "id", "use"), rows, "There are no keys.")


@keys.command()
@click.argument("kind", type=click.Choice(["seal", "checkpoint"]))
@_REASON
@by_credential
@options()
@click.pass_context
def rotate(ctx: click.Context, kind: str, reason: str, credential_file: Path | None) -> None:
    """Make a new key that seals, or one that signs checkpoints. What the old one sealed opens, what it signed counts.

    No server may run. A checkpoint key that was stolen signs nothing newer that anybody believes. Where approvers are
    enrolled it needs the credential of one. Example: comptroller keys rotate checkpoint --reason "ana left"
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> tuple[str, str] | None:
        # The lock first: a server that starts meanwhile is seen here, or finds the lock or the new file itself.
        with only_changer(installation.config.store.keys_file):
            await nobody_serves(installation)
            by = await entitled(installation, credential_file)
            return None if by is None else await _rotated(installation, kind, by, reason)

    done = on_store(invocation, work)
    if done is None:
        _refused(invocation.as_json)
    elif invocation.as_json:
        emit({"ok": True, "kind": kind, "key": done[0], "vkey": done[1]})
    else:
        say(f"{done[0]} is the new {kind} key, and recorded.")
        if kind == "checkpoint":
            say(f"Give to whoever verifies: {done[1]}")
        say(_RESTART)


@keys.command()
@click.argument("key")
@_REASON
@by_credential
@options()
@click.pass_context
def drop(ctx: click.Context, key: str, reason: str, credential_file: Path | None) -> None:
    """Take a seal KEY out of the key file, by its id, once nothing is sealed under it any more.

    Payloads go with `comptroller retention`. No server may run. Example: comptroller keys drop seal-0a1b2c3d --reason "unused"
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> bool:
        with only_changer(installation.config.store.keys_file):
            await nobody_serves(installation)
            by = await entitled(installation, credential_file)
            if by is None:
                return False
            await _dropped(installation, key, by, reason)
        return True

    if not on_store(invocation, work):
        _refused(invocation.as_json)
    elif invocation.as_json:
        emit({"ok": True, "dropped": key})
    else:
        say(f"{key} is in the key file no more, and that is recorded. {_RESTART}")


async def _rotated(installation: Installation, kind: str, by: str, reason: str) -> tuple[str, str]:
    """The new key's id, and the verifier key from now on. The record comes first: no key is used that none tells of."""
    file = installation.config.store.keys_file
    kept = read_key_file(file)
    await checkpointer_of(installation).refuse_older(TENANT)
    before = kept.seals[0] if kind == "seal" else kept.checkpoint
    key = fresh_key(kind, installation.ambient.ids.random_bytes)
    entries = await _record(installation, _Changed("rotated", kind, key[0], before[0], by, reason))
    replace_key_file(file, kept.rotated(kind, key, entries))
    ring = KeyRing.load(file)
    sinks = [CheckpointFile(path) for path in installation.config.store.checkpoint_files]
    signing = Checkpointer(installation.store, ring, installation.log_name, sinks, installation.ambient.fault)
    if not await signing.write(TENANT):
        told = (
            "The first checkpoint of the new state could not be written everywhere; a server does when it starts. "
            "Until then exports are proved by the old key, and name it."
        )
        click.echo(told, err=True)
    return key[0], vkey_of(ring.signer)


async def _dropped(installation: Installation, key: str, by: str, reason: str) -> None:
    file = installation.config.store.keys_file
    kept = read_key_file(file)
    left = kept.without(key)
    sealed = (await installation.store.read(_sealed)).get(key, 0)
    if sealed:
        raise CommandError(
            f"{sealed} payloads are sealed under {key} and could not be read again, so nothing was changed; they go with "
            "`comptroller retention run` when their days are over"
        )
    await _record(installation, _Changed("dropped", "seal", key, key, by, reason))
    replace_key_file(file, left)


async def _record(installation: Installation, changed: _Changed) -> int:
    """The size of the log with the record in it. Raises `CommandError`."""
    told = replace(changed, reason=installation.release.text(changed.reason, Audience.RECORD))
    outcome = await installation.store.commit(TENANT, Unit([told]))
    if not isinstance(outcome, Committed):
        raise CommandError("the store did not take the record of it, so nothing was changed; try again")
    return outcome.receipts[-1].index + 1


def _sealed(reader: Reader) -> dict[str, int]:
    """How many payloads are sealed under each key."""
    return {str(key): int(count) for key, count in reader.query(_SEALED, tenant=TENANT)}


def _seals(kept: KeyFile, sealed: dict[str, int]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for number, (key, _) in enumerate(kept.seals):
        use = "seals" if number == 0 else "opens"
        found.append(
            {**_key("seal", key, f"{use}; {sealed.get(key, 0)} payloads"), "payloads": sealed.get(key, 0)}
        )
    return found


def _signing(ring: KeyRing) -> list[dict[str, object]]:
    now = vkey_of(ring.signer)
    found = [{**_key("checkpoint", ring.signer.name.partition("/")[2], "signs"), "vkey": now}]
    for old, (vkey, entries) in zip(ring.retired, retired_vkeys(ring), strict=True):
        told = _key("retired", old.id, f"vouches for the first {entries} entries")
        found.append({**told, "vkey": vkey, "entries": entries})
    return found


def _key(kind: str, key: str, use: str) -> dict[str, object]:
    return {"kind": kind, "id": key, "use": use}


def _refused(as_json: bool) -> None:
    problem = "changing keys needs an approver's credential (--credential-file)."
    if as_json:
        emit({"ok": False, "problem": problem})
    else:
        say(f"Nothing was changed: {problem}")
    findings()
