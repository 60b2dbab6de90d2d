"""`comptroller approvals edit`: change the arguments of a call that waits. Then somebody else is asked about it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from comptroller_audit.redaction import Audience
from comptroller_audit.vocabulary import JsonObject
from comptroller_policy.approvals import OPEN, asked_digest
from comptroller_server.app import attached
from comptroller_server.call.case import Refused
from comptroller_server.commands.credentials import NOBODY, Voter, by_credential, identify
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import on_store, quiet_stdout
from comptroller_server.commands.requests import (
    Request,
    as_json,
    lacks_role,
    looked_at,
    looking,
    needs,
    request_of,
    show_card,
    summary_of,
)
from comptroller_server.commands.showing import compact, emit, say
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.people.editing import Editor

__all__ = ["changed", "edit"]

NO_CREDENTIAL = (
    "this needs the credential of an approver that the agent cannot read (--credential-file); an edit without one "
    "is not kept"
)
_Set = tuple[str, str, bool]
"""A path, the text given for it, and whether that text is JSON."""
_is_index = re.compile(r"0|[1-9][0-9]{0,5}").fullmatch


@click.command()
@click.argument("approval")
@click.option(
    "--set", "texts", multiple=True, metavar="PATH=VALUE", help="One argument, as its tool types it."
)
@click.option("--set-json", "jsons", multiple=True, metavar="PATH=JSON", help="One argument, as JSON.")
@click.option("--reason", default="", help="Why; it stands in the record.")
@click.option("--digest", help="What you edit: the digest on the card, or its first 16 digits.")
@click.option("--yes", is_flag=True, help="Edit whatever it asks for now, without looking.")
@by_credential
@options()
@click.pass_context
def edit(
    ctx: click.Context,
    approval: str,
    texts: tuple[str, ...],
    jsons: tuple[str, ...],
    reason: str,
    digest: str | None,
    yes: bool,
    credential_file: Path | None,
) -> None:
    """Change arguments of the call that APPROVAL (or the call itself) asks about, before anybody agrees to it.

    The changed call is checked, decided and looked up like a proposal. Then people are asked about it anew: every
    earlier yes is void, and who edited it is an author of it and not one of those who may agree (on a local store,
    where one is enough, they may, in a second step). If anything refuses it, the waiting call stays as it was (exit
    code 1).
    """
    invocation = invocation_of(ctx)
    sets = [*(_split(text, False) for text in texts), *(_split(text, True) for text in jsons)]
    if not sets:
        raise click.UsageError("say what to change: --set amount_usd=40, or --set-json for lists and objects")
    said = (reason, digest, yes)
    outcome = on_store(
        invocation, lambda opened: _edit(opened, invocation, approval, sets, said, credential_file)
    )
    _tell(invocation, *outcome)


async def _edit(
    installation: Installation,
    invocation: Invocation,
    wanted: str,
    sets: Sequence[_Set],
    said: tuple[str, str | None, bool],
    file: Path | None,
) -> tuple[Request, Voter, str | None]:
    with quiet_stdout():
        installation.check()
    # Before anything here owns a lock that a halt would wait for: a person may take their time.
    request = await request_of(installation, wanted)
    voter = NOBODY
    problem: str | None = f"it is {request.state}; only what still waits can be edited"
    if request.state in OPEN:
        voter, problem = await _who(invocation, installation, request, sets, said, file)
    if problem is not None:
        return request, voter, problem
    reason = installation.release.text(said[0], Audience.RECORD)
    editor = Editor(voter.name, reason, asked_digest(request.row))
    async with attached(installation) as service:
        try:
            now = await service.editing.edit(
                TENANT, request.record.call, lambda before, schema: changed(before, schema, sets), editor
            )
        except Refused as refused:
            text = installation.roads.told(
                refused.refusal.text, Audience.PERSON, None, (request.record.call,)
            )
            return request, voter, text.rstrip(".")
        return await request_of(installation, now), voter, None


async def _who(
    invocation: Invocation,
    installation: Installation,
    request: Request,
    sets: Sequence[_Set],
    said: tuple[str, str | None, bool],
    file: Path | None,
) -> tuple[Voter, str | None]:
    """Who edits, and why they may not. They have looked at what they change."""
    if looking(invocation):
        show_card(request)
        for path, text, _ in sets:
            say(f"  {path} = {text}")
    problem = looked_at(request, invocation, said[1], "Change it so, and ask people anew?", yes=said[2])
    if problem is not None:
        return NOBODY, problem
    voter = await identify(installation, file)
    if not voter.counts:
        return voter, NO_CREDENTIAL
    return voter, lacks_role(request, voter)


def _tell(invocation: Invocation, request: Request, voter: Voter, problem: str | None) -> None:
    if invocation.as_json:
        emit({"ok": problem is None, "by": voter.name, "problem": problem, **as_json(request)})
    elif problem is None:
        say(f"Edited by {voter.name}: {request.approval} asks for it now. Nobody has agreed to it yet.")
        say(f"  arguments {compact(request.packet.get('arguments'))}")
        say(f"  needs {needs(summary_of(request))}, call {request.record.call}, digest {request.digest}")
    else:
        say(f"Not edited: {request.approval}: {problem}.")
    if problem is not None:
        findings()


# -- what was said to change ------------------------------------------------------------------------------------------


def _split(text: str, is_json: bool) -> _Set:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise click.UsageError(f"{text!r} is no PATH=VALUE, such as amount_usd=40 or lines.0.count=2")
    return path, value, is_json


def changed(before: JsonObject, schema: JsonObject, sets: Sequence[_Set]) -> JsonObject:
    """`before` with every path set; the rest is untouched. Raises `CommandError` for what cannot be meant."""
    after: JsonObject = json.loads(json.dumps(before))
    for path, text, is_json in sets:
        if "⟦" in text:
            raise CommandError(
                f"{path}: a token stands for something only in what its agent says; give the value"
            )
        steps = [path] if path in after else path.split(".")
        holder: Any = after
        typed: Any = schema
        for at_, step in enumerate(steps):
            typed = _below(typed, step)
            if at_ == len(steps) - 1:
                _put(path, holder, step, _value(path, text, typed, _at(holder, step), is_json))
            else:
                holder = _at(holder, step)
                if not isinstance(holder, dict | list):
                    raise CommandError(
                        f"{path}: there is nothing at `{'.'.join(steps[: at_ + 1])}` to set it in"
                    )
    return after


def _at(holder: Any, step: str) -> Any:
    if isinstance(holder, list):
        items = _items(holder)
        return items[int(step)] if _is_index(step) and int(step) < len(items) else None
    return cast("dict[str, Any]", holder).get(step)


def _items(holder: Any) -> list[Any]:
    items: list[Any] = holder
    return items


def _put(path: str, holder: Any, step: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[step] = value
        return
    items = _items(holder)
    if not _is_index(step) or int(step) >= len(items):
        raise CommandError(
            f"{path}: the list has {len(items)} entries, numbered from 0; give the whole list as JSON"
        )
    items[int(step)] = value


def _below(schema: Any, step: str) -> Any:
    """The schema of a member, as far as it is said plainly."""
    if not isinstance(schema, dict):
        return None
    known = cast("dict[str, Any]", schema)
    properties = known.get("properties")
    if isinstance(properties, dict) and step in properties:
        return cast("dict[str, Any]", properties)[step]
    return known.get("items")


def _value(path: str, text: str, schema: Any, before: Any, is_json: bool) -> Any:
    """The value meant by `text`: text where the tool wants text, else JSON. The tool's schema checks it afterwards."""
    if not is_json and _wants_text(schema, before):
        return text
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_exact)
    except ValueError as error:
        raise CommandError(f"{path}: {text[:60]!r} is no JSON value ({error})") from error


def _wants_text(schema: Any, before: Any) -> bool:
    declared = cast("dict[str, Any]", schema).get("type") if isinstance(schema, dict) else None
    if declared is not None:
        return "string" in (declared if isinstance(declared, list) else [declared])
    return before is None or isinstance(before, str)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return dict(pairs)


def _no_number(token: str) -> NoReturn:
    raise ValueError(f"{token} is no number")


def _exact(token: str) -> float:
    number = float(token)
    if Decimal(repr(number)) != Decimal(token):
        raise ValueError(f"{token} cannot be kept exactly")
    return number
