"""`comptroller rollout`: how far each tool goes without a person, on what evidence, and the next step or the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import click

from comptroller_audit.database import Row
from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.unit import Stopped, Unit
from comptroller_audit.vocabulary import Effect
from comptroller_policy.declarations import RolloutMode
from comptroller_policy.rollout import PERCENT_MAX, ROLLOUTS, Word, effective, level_in
from comptroller_policy.rollout_changes import EVIDENCE, Demote, NotPromoted, Promote, missing_for, next_step
from comptroller_policy.rules import APPROVER
from comptroller_server.commands.credentials import by_credential, identify
from comptroller_server.commands.invocation import findings, invocation_of, options
from comptroller_server.commands.opening import account, on_store
from comptroller_server.commands.showing import at, emit, say, table
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.people.canary import is_reversible, steps_open_to
from comptroller_tools.declarations import ToolConfig

__all__ = ["rollout"]

AUTO = "auto"
_NO_CREDENTIAL = (
    f"this needs the credential of an approver with the role {APPROVER}, which the agent cannot read "
    "(--credential-file)"
)


@dataclass(frozen=True, slots=True)
class Standing:
    """One tool's rollout: the percent in force and who says so, the evidence since, and what is missing to go on.

    `clean` are verified calls in a row without a contradiction, `unedited` approvals in a row that changed nothing of
    what the agent had proposed. `next` is None where there is no further step.
    """

    tool: str
    percent: int
    word: str
    configured: int
    reversible: bool
    calls: int
    verified: int
    silent_wrong: int
    in_doubt: int
    agreed: int
    denied: int
    clean: int
    unedited: int
    edited: int
    next: int | None
    missing: tuple[str, ...]
    reason: str
    by: str
    at_ms: int | None


@click.group()
def rollout() -> None:
    """How far tools go without a person."""


@rollout.command()
@click.option("--tool", help="One tool only.")
@options()
@click.pass_context
def status(ctx: click.Context, tool: str | None) -> None:
    """Every tool with a side effect: its share without a person, the evidence, and what is missing for the next step."""
    invocation = invocation_of(ctx)

    async def read(installation: Installation) -> tuple[Installation, list[Standing]]:
        return installation, await _standings(installation, _tools(installation, tool, may_be_off=True))

    installation, found = on_store(invocation, read)
    config = installation.config.rollout
    if invocation.as_json:
        emit(
            {
                "mode": config.mode.value,
                "promote_after": config.promote_after,
                "promote_unedited": config.promote_unedited,
                "tools": [asdict(o) for o in found],
            }
        )
        return
    if config.mode is RolloutMode.OFF:
        say("There is no rollout: `rollout.mode` is off, so no gate of it asks anybody.")
        return
    heads = (
        "TOOL",
        "WITHOUT A PERSON",
        "SAID BY",
        "CLEAN",
        "CALLS",
        "VERIFIED",
        "SILENT_WRONG",
        "IN DOUBT",
        "YES/NO",
        "UNEDITED",
    )
    table(
        heads,
        [
            (
                one.tool,
                f"{one.percent} %" if one.reversible or one.percent == PERCENT_MAX else "never",
                one.word,
                f"{one.clean} of {config.promote_after}",
                str(one.calls),
                str(one.verified),
                str(one.silent_wrong),
                str(one.in_doubt),
                f"{one.agreed}/{one.denied}",
                f"{one.unedited} of {config.promote_unedited}"
                if config.promote_unedited
                else str(one.unedited),
            )
            for one in found
        ],
    )
    for one in found:
        if one.at_ms is not None:
            say(f"  {one.tool}: {one.word} by {one.by} at {at(one.at_ms)}: {one.reason or 'no reason given'}")
        step = f"{one.tool}, to {one.next} %" if one.next else one.tool
        say(
            f"  {step}: {'; '.join(one.missing) or f'ready: `comptroller rollout promote --tool {one.tool}`'}"
        )


@rollout.command()
@click.option("--tool", help="One tool; without it, every tool that has a next step, or none of them.")
@click.option("--to", metavar="PERCENT|auto", help="How far; without it, the next step of 5, 25, 50, auto.")
@click.option("--reason", default="", help="Why; it stands in the record.")
@by_credential
@options()
@click.pass_context
def promote(
    ctx: click.Context, tool: str | None, to: str | None, reason: str, credential_file: Path | None
) -> None:
    """Let more calls go without a person, one step at a time, if the evidence is there.

    It takes effect on the next commit. It needs the credential of an approver with the role `approver`, from a file
    or asked on the terminal. Without the evidence nothing changes, and it says what is missing (exit code 1).
    """
    invocation = invocation_of(ctx)
    percent = _percent(to)

    async def work(installation: Installation) -> tuple[list[Standing], str, list[NotPromoted]]:
        tools = _tools(installation, tool)
        known = await _standings(installation, tools)
        if tool is None:
            tools = [one for one, seen in zip(tools, known, strict=True) if seen.next is not None] or tools
        voter = await identify(installation, credential_file)
        if not voter.counts or APPROVER not in voter.roles:
            return known, _NO_CREDENTIAL, []
        config = installation.config.rollout
        parts = [
            Promote(
                one.name,
                percent,
                steps_open_to(one, config),
                config.percent,
                config.promote_after,
                installation.release.text(reason, Audience.RECORD),
                voter.name,
                installation.ring.claim_key(TENANT),
                config.promote_unedited,
            )
            for one in tools
        ]
        outcome = await installation.store.commit(TENANT, Unit(parts))
        if not isinstance(outcome, Stopped):
            return await _standings(installation, tools), "", []
        # The commit names the first; a person wants all of them at once.
        refused = await _not_promoted(installation, tools, percent)
        return known, "the evidence is not there", refused or [cast("NotPromoted", outcome.stop)]

    standings, problem, refused = on_store(invocation, work)
    if invocation.as_json:
        missing = [asdict(one) for one in refused]
        emit(
            {
                "ok": not problem,
                "problem": problem or None,
                "missing": missing,
                "tools": [asdict(one) for one in standings],
            }
        )
    elif not problem:
        for seen in standings:
            say(f"{seen.tool}: {seen.percent} % of its calls go without a person, from the next commit on.")
    else:
        say(f"Nothing was changed: {problem}.")
        for one in refused:
            say(f"  {one.tool}: {'; '.join(one.missing)}")
    if problem:
        findings()


@rollout.command()
@click.option("--tool", help="One tool; without it, every tool with a side effect.")
@click.option("--reason", default="", help="Why; it stands in the record.")
@options()
@click.pass_context
def demote(ctx: click.Context, tool: str | None, reason: str) -> None:
    """Ask a person about every call again, from the next commit on, whatever the configuration says.

    Like `halt` it needs no credential. Only `rollout promote`, on new evidence, goes up again.
    """
    invocation = invocation_of(ctx)

    async def work(installation: Installation) -> list[Standing]:
        tools = _tools(installation, tool)
        configured = installation.config.rollout.percent
        said = installation.release.text(reason, Audience.RECORD)
        parts = [Demote(one.name, configured, said, account()) for one in tools]
        await installation.store.commit(TENANT, Unit(parts))
        return await _standings(installation, tools)

    standings = on_store(invocation, work)
    if invocation.as_json:
        emit({"ok": True, "tools": [asdict(one) for one in standings]})
        return
    for one in standings:
        say(f"{one.tool}: a person is asked about every call, from the next commit on.")


# -- parts ------------------------------------------------------------------------------------------------------------


def _percent(to: str | None) -> int | None:
    if to is None:
        return None
    if to.casefold() == AUTO:
        return PERCENT_MAX
    text = to.removesuffix("%").strip()
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= PERCENT_MAX:
        raise click.UsageError(f"--to takes a whole percent from 1 to {PERCENT_MAX}, or `{AUTO}`; got {to!r}")
    return int(text)


def _tools(installation: Installation, name: str | None, *, may_be_off: bool = False) -> list[ToolConfig]:
    """The tools with side effects, or the one named. Raises `CommandError`."""
    config = installation.config
    if config.rollout.mode is RolloutMode.OFF and not may_be_off:
        raise CommandError(
            "`rollout.mode` is off in the configuration, so there is no rollout to change and nothing was done; set "
            "it to human_approval (or auto) and start the servers again, or stop a tool with `comptroller halt --tool`"
        )
    known = sorted((one for one in config.tools if one.effect is not Effect.READ), key=lambda one: one.name)
    if name is None:
        return known
    found = [one for one in known if one.name == name]
    if not found:
        listed = ", ".join(one.name for one in known) or "none"
        raise CommandError(
            f"no tool with a side effect is named {name!r}, so nothing was changed; there are {listed}"
        )
    return found


async def _standings(installation: Installation, tools: Sequence[ToolConfig]) -> list[Standing]:
    def read(reader: Reader) -> dict[str, Row]:
        return reader.rows(TENANT, ROLLOUTS, [tool.name for tool in tools])

    rows = await installation.store.read(read)
    return [_standing(installation, tool, rows.get(tool.name)) for tool in tools]


def _standing(installation: Installation, tool: ToolConfig, row: Row | None) -> Standing:
    config = installation.config.rollout
    percent = _percent_of(installation, tool, row)
    steps = steps_open_to(tool, config)
    spoken = row if row is not None and row["word"] != Word.CONFIGURED else None
    evidence = {name: int(row[name]) if row is not None else 0 for name in EVIDENCE}
    return Standing(
        tool=tool.name,
        percent=percent,
        word=spoken["word"] if spoken is not None else Word.CONFIGURED.value,
        configured=config.percent,
        reversible=is_reversible(tool),
        **evidence,
        next=next_step(percent, steps),
        missing=missing_for(row, percent, None, steps, config.promote_after, config.promote_unedited),
        reason=spoken["reason"] if spoken is not None else "",
        by=spoken["changed_by"] if spoken is not None else "",
        at_ms=spoken["at_ms"] if spoken is not None else None,
    )


def _percent_of(installation: Installation, tool: ToolConfig, row: Row | None) -> int:
    level = level_in(row, tool.name, installation.ring.claim_key(TENANT))
    return effective(level, installation.config.rollout.percent)


async def _not_promoted(
    installation: Installation, tools: Sequence[ToolConfig], to: int | None
) -> list[NotPromoted]:
    config = installation.config.rollout
    rows = await installation.store.read(
        lambda reader: reader.rows(TENANT, ROLLOUTS, [tool.name for tool in tools])
    )
    found = [
        NotPromoted(
            tool.name,
            missing_for(
                rows.get(tool.name),
                _percent_of(installation, tool, rows.get(tool.name)),
                to,
                steps_open_to(tool, config),
                config.promote_after,
                config.promote_unedited,
            ),
        )
        for tool in tools
    ]
    return [one for one in found if one.missing]
