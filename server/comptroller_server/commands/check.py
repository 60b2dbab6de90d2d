"""`comptroller check`: everything that would keep the server from starting, all at once, and what is unwise."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from comptroller_audit.addresses import shown_address
from comptroller_audit.ambient import SystemClock
from comptroller_audit.database import Database
from comptroller_audit.errors import AuditError, StoreError
from comptroller_audit.migrate import schema_is_current
from comptroller_audit.store import Reader
from comptroller_budgets.ledger import amount_text
from comptroller_policy.approvers import NO_FIRST_ANY_MORE, Approver, approver_names
from comptroller_policy.errors import Finding
from comptroller_policy.rules import REQUESTER
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import installation_of, quiet_stdout
from comptroller_server.commands.showing import Card, emit, say
from comptroller_server.config.model import Config
from comptroller_server.config.streams import stream_warnings
from comptroller_server.doctor.machine import SQLITE_SAFE
from comptroller_server.doctor.places import exposed
from comptroller_server.errors import ConfigInvalid, IdentityError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.reporting.observed import observing_in, observing_text
from comptroller_server.streaming.status import stream_states, trouble
from comptroller_server.undo.reversal import irreversible
from comptroller_server.upstreams.asking import ask, upstream_warnings

__all__ = ["Checked", "check", "checked_as_json", "run_check", "show_checked"]


@dataclass(slots=True)
class Checked:
    """What a check found. `findings` keep the server from starting; `warnings` do not; nothing is wrong with what is
    `irreversible`, side effects that no declared call takes back."""

    installation: Installation | None = None
    findings: list[Finding] = field(default_factory=list[Finding])
    warnings: list[Finding] = field(default_factory=list[Finding])
    irreversible: list[str] = field(default_factory=list[str])

    def warn(self, where: str | Path, message: str) -> None:
        self.warnings.append(Finding(str(where), message))


@click.command()
@options()
@click.pass_context
def check(ctx: click.Context) -> None:
    """Check configuration, sources, policies, keys and store, and change nothing.

    MCP servers are started or reached, and asked what they list; no tool is called.
    Exit code 1 with findings, each with its file and line; warnings alone leave it 0.
    """
    invocation = invocation_of(ctx)
    checked = run_check(invocation)
    if invocation.as_json:
        emit(checked_as_json(checked))
    else:
        show_checked(checked)
    if checked.findings:
        findings()


def run_check(invocation: Invocation) -> Checked:
    """All that is wrong or unwise. Raises `CommandError` when there is no configuration."""
    checked = Checked()
    try:
        checked.installation = installation_of(invocation)
    except ConfigInvalid as error:
        checked.findings.extend(error.findings)
    if checked.installation is not None:
        _check(checked, checked.installation)
    return checked


def _check(checked: Checked, installation: Installation) -> None:
    config = installation.config
    with quiet_stdout():
        _try(checked, config, "sources", installation.check)
    checked.irreversible = irreversible(config.tools)
    if config.upstreams:
        checked.warnings += config.placed(upstream_warnings(asyncio.run(ask(config, config.upstreams))))
    keys = config.store.keys_file
    if keys.exists():
        _try(checked, config, "store.keys", lambda: installation.ring)
        _try(checked, config, "identity.local", lambda: installation.identity)
    checked.findings += config.placed(_unmakeable(config))
    _check_store(checked, installation)
    checked.warnings += config.placed(stream_warnings(config.streams))
    for path, message in exposed(config):
        checked.warn(path, message)
    if not config.store.checkpoint_files:
        checked.warn(
            config.path, "no checkpoints are kept: entries cut off the end of the log would not be noticed"
        )
    else:
        checked.warn(
            config.store.checkpoint_files[0],
            "every checkpoint file is within the server's own reach; copy them elsewhere regularly (with the key of "
            "`comptroller audit vkey`), or whoever takes over this account can rewrite log and checkpoints together",
        )
    if config.approvals.allow_same_uid_file:
        checked.warn(
            config.path,
            "`approvals.allow_same_uid_file` is on: whatever runs as this user can read such a credential and approve",
        )
    if config.approvals.requester_may:
        checked.warn(
            config.path,
            f"`approvals.requester_may` is on ({', '.join(config.approvals.requester_may)}): a client can say that its "
            "person confirmed without asking them",
        )


def _try(checked: Checked, config: Config, where: str, step: Callable[[], object]) -> None:
    try:
        step()
    except ConfigInvalid as error:
        checked.findings.extend(error.findings)
    except (AuditError, IdentityError) as error:
        checked.findings.extend(config.placed([Finding(where, str(error))]))


def _unmakeable(config: Config) -> list[Finding]:
    """What the server would make and cannot: the nearest folder there is takes no new file."""
    wanted = [
        ("store.url", config.store.database),
        ("store.keys", config.store.keys_file),
        *(("store.checkpoints", file) for file in config.store.checkpoint_files),
        ("identity.local", config.data_dir / "tokens"),
    ]
    return [
        Finding(
            where,
            f"{path} cannot be made: {folder} {'is not writable for this account' if folder.is_dir() else 'is no folder'}; "
            "name another place, or another --data-dir",
        )
        for where, path in wanted
        if path is not None and not os.path.lexists(path)
        if not ((folder := _nearest(path)).is_dir() and os.access(folder, os.W_OK | os.X_OK))
    ]


def _nearest(path: Path) -> Path:
    return next(parent for parent in path.parents if os.path.lexists(parent))


def _check_store(checked: Checked, installation: Installation) -> None:
    """Whether the store can keep its promises. Nothing is made that is not there yet."""
    config = installation.config
    path = config.store.database
    if path is not None and sqlite3.sqlite_version_info < SQLITE_SAFE:
        checked.warn(
            path,
            f"SQLite {sqlite3.sqlite_version} can corrupt a file that another program writes to as well (fixed in "
            "3.51.3); our own processes are safe behind a lock, so let nothing else open it for writing",
        )
    if path is not None and not path.exists():
        _warn_of_mode(checked, config, observing_text(config.mode, None, 0, 0))
        _warn_of_gates(checked, installation, [], served=False)
        return
    try:
        _check_database(checked, installation)
    except StoreError as error:
        checked.findings.extend(config.placed([Finding("store.url", str(error))]))


def _check_database(checked: Checked, installation: Installation) -> None:
    config = installation.config
    database = Database(config.store.url.get_secret_value())
    if not schema_is_current(database):
        checked.warn(config.path, "the store has an older schema; the next `serve` brings it up to date")
        return
    reader = Reader(database)
    try:
        mode = observing_in(config.mode, reader, TENANT, SystemClock().now_ms())
        _warn_of_mode(checked, config, mode)
        held_up = [
            Finding(f"streams.{state.name}", text)
            for state in stream_states(reader, config.streams)
            if (text := trouble(state)) is not None
        ]
        checked.warnings += config.placed(held_up)
        head = reader.head(TENANT)
        enrolled = approver_names(reader, TENANT)
    finally:
        reader.close()
    _warn_of_gates(checked, installation, enrolled, served=head is not None and bool(head.bundle))


def _warn_of_gates(
    checked: Checked, installation: Installation, enrolled: Sequence[Approver], *, served: bool
) -> None:
    """Gates that nobody who is enrolled can open, a line for each role.

    Told before there is a store too: once it has served, it takes no first approver any more.
    """
    try:
        gates = [rule for rule in installation.policy.rules().values() if rule.approval is not None]
    except ConfigInvalid:
        return  # it is among the findings already
    held = {REQUESTER, *(role for person in enrolled for role in person.roles)}
    for role in sorted({str(gate.approval) for gate in gates} - held):
        asking = [gate for gate in gates if gate.approval == role]
        others = f" and {len(asking) - 1} more" if len(asking) > 1 else ""
        text = (
            f"nobody is enrolled who may approve as `{role}`, asked for by {asking[0].id}{others}; "
            f"{_enrolling(role, bool(enrolled), served)}"
        )
        checked.warnings += installation.config.placed([Finding(asking[0].where, text)])


def _enrolling(role: str, known: bool, served: bool) -> str:
    command = f"`comptroller approver add NAME --role {role}`"
    if known:
        return f"{command} enrols them, with the credential of somebody who is enrolled"
    if served:
        return f"{NO_FIRST_ANY_MORE} {command}"
    return f"{command} enrols them, before the first `serve` only"


def _warn_of_mode(checked: Checked, config: Config, text: str | None) -> None:
    if text is not None:
        checked.warnings += config.placed([Finding("mode", text)])


def _places(config: Config) -> dict[str, str]:
    """Everything this configuration uses, as absolute paths; passwords hidden."""
    return {
        "config": ", ".join(str(file) for file in config.files),
        "data": str(config.data_dir),
        "store": shown_address(config.store.url.get_secret_value()),
        "keys": str(config.store.keys_file),
        "checkpoints": ", ".join(str(file) for file in config.store.checkpoint_files),
        "tokens": str(config.data_dir / "tokens"),
    }


def _default_limits(config: Config) -> list[str]:
    """Limits that nobody wrote down and that hold all the same."""
    limits = config.budgets.limits()
    return [f"{limit.id}: {amount_text(limit.max_micro)}" for limit in limits if limit.is_default]


def checked_as_json(checked: Checked) -> dict[str, Any]:
    """The document of `check --json`."""
    return {
        "ok": not checked.findings,
        "findings": [{"where": one.where, "message": one.message} for one in checked.findings],
        "warnings": [{"where": one.where, "message": one.message} for one in checked.warnings],
        "irreversible": checked.irreversible,
        "places": _places(checked.installation.config) if checked.installation else None,
        "default_limits": _default_limits(checked.installation.config) if checked.installation else [],
    }


def show_checked(checked: Checked) -> None:
    """Findings, warnings, and what is used."""
    for finding in checked.findings:
        say(str(finding))
    for warning in checked.warnings:
        say(f"{warning.where}: warning: {warning.message}")
    if checked.irreversible:
        say(f"No `compensate`, so for good once done: {', '.join(checked.irreversible)}.")
    if checked.installation is not None:
        card = Card("Uses")
        for label, place in _places(checked.installation.config).items():
            card.line(label, place or "none")
        for limit in _default_limits(checked.installation.config):
            card.line("limits", limit)
    count = len(checked.findings)
    say(
        f"{count} finding{'s' if count != 1 else ''}, {len(checked.warnings)} warnings."
        if count
        else "Nothing wrong."
    )
