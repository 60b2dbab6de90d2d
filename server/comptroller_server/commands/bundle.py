"""`comptroller bundle`: which rules are in force, putting others in force in one transaction, and going back.

Whoever puts rules in force can take gates away, so where anybody is enrolled as an approver it takes a credential. Running
servers take the new rules over between two calls; nothing commits under the old ones from the activation on.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from comptroller_audit.query import calls_between
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.unit import Stopped, Unit
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_policy.activations import Activation, How, activations
from comptroller_server.commands.config_files import CONFIG_NAME
from comptroller_server.commands.credentials import by_credential, entitled
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import on_store, quiet_stdout
from comptroller_server.commands.policy_diff import active_bundle, changes_told, show_lines
from comptroller_server.commands.showing import at, emit, say, table
from comptroller_server.config.loading import load_config
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.rehearsal.cases import read_cases
from comptroller_server.rehearsal.deciding import Rehearsal
from comptroller_server.rehearsal.leanings import Direction
from comptroller_server.rehearsal.trying import CaseEnd, try_case
from comptroller_server.upkeep.bundles import SHOWN_CHARS, activation_of, kept_bundle, needs_restart

__all__ = ["bundle"]

DIGEST_CHARS_MIN = 6
_NO_CREDENTIAL = "putting rules in force needs an approver's credential (--credential-file)"
_HOW = {How.SERVED: "serve", How.ACTIVATED: "activate", How.ROLLED_BACK: "rollback"}


@click.group()
def bundle() -> None:
    """The rules in force: configuration, policies and tool definitions as one thing with a digest."""


@bundle.command("list")
@click.option(
    "-n", "most", type=click.IntRange(1, 1_000), default=20, show_default=True, help="At most so many."
)
@options()
@click.pass_context
def list_(ctx: click.Context, most: int) -> None:
    """What has been in force, newest first: since when, by whose word, and how many calls came while it was.

    \b
    comptroller bundle list -n 5
    """
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> list[tuple[Activation, int]]:
        return await installation.store.read(lambda reader: _with_calls(reader, most))

    listed = on_store(invocation, read)
    if invocation.as_json:
        emit({"bundles": [_as_json(one, calls, at_ == 0) for at_, (one, calls) in enumerate(listed)]})
        return
    if not listed:
        say("No bundle has been put in force yet; `comptroller serve` does.")
        return
    rows = [
        (
            one.bundle[:SHOWN_CHARS],
            at(one.at_ms),
            _HOW[one.how],
            one.by,
            str(calls),
            "active" if at_ == 0 else "" if one.kept else "not kept",
        )
        for at_, (one, calls) in enumerate(listed)
    ]
    table(("BUNDLE", "IN FORCE SINCE", "PUT BY", "WHO", "CALLS", ""), rows)


def _with_calls(reader: Reader, most: int) -> list[tuple[Activation, int]]:
    found, end_ms = activations(reader, TENANT, most), None
    listed: list[tuple[Activation, int]] = []
    for one in found:
        listed.append((one, calls_between(reader, TENANT, one.at_ms, end_ms)))
        end_ms = one.at_ms
    return listed


def _as_json(one: Activation, calls: int, active: bool) -> JsonObject:
    return {
        "bundle": one.bundle,
        "active": active,
        "at_ms": one.at_ms,
        "how": one.how.value,
        "by": one.by,
        "calls": calls,
        "kept": one.kept,
        "record": one.index,
    }


# -- putting in force ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ordered:
    """What is to be put in force, and how the person wants it done."""

    how: How
    reason: str
    tests: tuple[str, ...]
    restart: bool
    dry_run: bool
    credential_file: Path | None


@dataclass(slots=True)
class Done:
    """What came of it. `problem` says why nothing was changed; a dry run has none and changed nothing either."""

    bundle: str
    before: str
    document: JsonObject
    lines: list[tuple[Direction, str]] | None
    restart: list[str]
    failed: list[str]
    problem: str = ""
    changed: bool = False


def _ordering(command: Any) -> Any:
    for option in (
        click.option("--reason", default="", help="Why; it stands in the record."),
        click.option(
            "--test",
            "tests",
            multiple=True,
            metavar="GLOB",
            help="Cases that must pass first; may be repeated.",
        ),
        click.option(
            "--restart",
            is_flag=True,
            help="Also what running servers cannot take over: they refuse until they are restarted.",
        ),
        click.option("--dry-run", is_flag=True, help="Check, test and compare; change nothing."),
    ):
        command = option(command)
    return command


@bundle.command()
@click.argument("target", metavar="FOLDER|DIGEST")
@_ordering
@by_credential
@options()
@click.pass_context
def activate(ctx: click.Context, /, target: str, **given: Any) -> None:
    """Put the configuration in FOLDER in force, or again the bundle with DIGEST, in one transaction.

    It is checked as `check` does, and what changes is shown. Running servers decide by it from their next commit on.
    Exit code 1 when nothing was changed: a case failed, nobody who may, or a restart would be needed.

    \b
    comptroller bundle activate candidate --test 'policies/*.test.yaml'
    comptroller bundle activate 3f2a9c0d --reason "the limit of March"
    """
    invocation, order = invocation_of(ctx), Ordered(How.ACTIVATED, **given)

    async def work(installation: Installation) -> Done:
        candidate = await _candidate(invocation, installation, target)
        return await _put_in_force(installation, candidate, order, None)

    _tell(invocation, on_store(invocation, work), order)


@bundle.command()
@_ordering
@by_credential
@options()
@click.pass_context
def rollback(ctx: click.Context, /, **given: Any) -> None:
    """Go back to the bundle that was in force before this one; once more, to the one before that.

    \b
    comptroller bundle rollback --reason "refunds are stuck"
    """
    invocation, order = invocation_of(ctx), Ordered(How.ROLLED_BACK, **given)

    async def work(installation: Installation) -> Done:
        found = await installation.store.read(lambda reader: activations(reader, TENANT))
        back = found[0].back if found else ""
        if not back:
            raise CommandError("there is nothing to go back to: no other bundle was in force before this one")
        with quiet_stdout():
            candidate = await kept_bundle(installation, TENANT, back)
        further = next((one.back for one in found if one.bundle == back), "")
        return await _put_in_force(installation, candidate, order, further)

    _tell(invocation, on_store(invocation, work), order)


async def _candidate(invocation: Invocation, installation: Installation, target: str) -> Installation:
    """What `target` names: a folder or a file of configuration, else a bundle that was in force."""
    path = _path(target)
    if path is not None:
        candidate = Installation(load_config(path, data_dir=invocation.data_dir))
        with quiet_stdout():
            candidate.check()
        return candidate
    if len(target) < DIGEST_CHARS_MIN or not all(c in "0123456789abcdef" for c in target):
        raise CommandError(
            f"there is no configuration at {target}, and {target!r} is no digest of `comptroller bundle list`"
        )
    found = await installation.store.read(lambda reader: activations(reader, TENANT))
    named = sorted({one.bundle for one in found if one.bundle.startswith(target)})
    if len(named) != 1:
        what = "several bundles begin" if named else "no bundle begins"
        raise CommandError(f"{what} with {target!r}; see `comptroller bundle list --json`")
    with quiet_stdout():
        return await kept_bundle(installation, TENANT, named[0])


def _path(target: str) -> Path | None:
    path = Path(target) / CONFIG_NAME if Path(target).is_dir() else Path(target)
    return path if path.is_file() else None


async def _put_in_force(
    installation: Installation, candidate: Installation, order: Ordered, back: str | None
) -> Done:
    with quiet_stdout():
        failed = _failed(candidate, order.tests)
        before, active = await active_bundle(installation)
        document, lines = changes_told(active, candidate) if active is not None else ({}, None)
        restart = needs_restart(active.config, candidate.config) if active is not None else []
    done = Done(candidate.bundle_digest, before, document, lines, restart, failed)
    if failed:
        done.problem = f"{len(failed)} of the cases did not pass"
    elif restart and not order.restart:
        named = ", ".join(f"`{name}`" for name in restart)
        done.problem = (
            f"running servers cannot take over {named} without a restart; --restart does it all the same"
        )
    if done.problem or order.dry_run or done.bundle == before:
        return done
    by = await entitled(installation, order.credential_file)
    if by is None:
        done.problem = _NO_CREDENTIAL
        return done
    reason = installation.release.text(order.reason, Audience.RECORD)
    part = activation_of(candidate, order.how, by, reason, expected=before, back=back)
    if isinstance(await installation.store.commit(TENANT, Unit([part])), Stopped):
        done.problem = "another bundle was put in force meanwhile; look again with `comptroller bundle list`"
    done.changed = not done.problem
    return done


def _failed(candidate: Installation, patterns: tuple[str, ...]) -> list[str]:
    """The cases that did not pass, in words. Raises `CommandError` where a pattern names no file."""
    base, told = candidate.config.base_dir, list[str]()
    rehearsal = Rehearsal(candidate)
    for pattern in patterns:
        files = sorted(glob.glob(pattern, root_dir=base, recursive=True))
        if not files:
            raise CommandError(f"no cases match {pattern!r} in {base}")
        for read in (read_cases(base / file, file) for file in files):
            told += [str(finding) for finding in read.findings]
            for one in (try_case(rehearsal, case) for case in read.cases):
                if one.end is not CaseEnd.PASSED:
                    told.append(f"{one.case.where}: {one.case.text.name}: {one.because or one.end.value}")
    return [candidate.release.text(line, Audience.PERSON) for line in told]


def _tell(invocation: Invocation, done: Done, order: Ordered) -> None:
    if invocation.as_json:
        failed: list[Json] = [*done.failed]
        restart: list[Json] = [*done.restart]
        emit(
            {
                "ok": not done.problem,
                "changed": done.changed,
                "bundle": done.bundle,
                "before": done.before,
                "changes": done.document.get("changes"),
                "restart": restart,
                "failed": failed,
                "problem": done.problem,
            }
        )
    else:
        _say(done, order)
    if done.problem:
        findings()


def _say(done: Done, order: Ordered) -> None:
    shown, before = done.bundle[:SHOWN_CHARS], done.before[:SHOWN_CHARS] or "none"
    for line in done.failed:
        say(line)
    if done.lines is None:
        say(f"What is in the active bundle ({before}) cannot be told here, so nothing is compared.")
    else:
        show_lines(done.lines)
    if done.problem:
        say(f"Nothing was changed: {done.problem}.")
    elif done.bundle == done.before:
        say(f"Bundle {shown} is in force already.")
    elif order.dry_run:
        say(
            f"Nothing was changed: this was a dry run. Bundle {shown} would be in force in place of {before}."
        )
    else:
        say(
            f"Bundle {shown} is in force in place of {before}: servers decide by it from their next commit on."
        )
        if done.restart:
            named = ", ".join(f"`{name}`" for name in done.restart)
            say(f"Running servers refuse until they are restarted with it: {named} changed.")
