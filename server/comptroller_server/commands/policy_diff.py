"""`comptroller policy diff`: what one configuration lets happen that another does not, in words."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from comptroller_audit.redaction import Audience
from comptroller_audit.store import Reader
from comptroller_audit.vocabulary import Json, JsonObject
from comptroller_server.commands.invocation import Invocation, findings, invocation_of, options
from comptroller_server.commands.opening import CONFIG_NAME, config_file, on_store, quiet_stdout
from comptroller_server.commands.showing import emit, say
from comptroller_server.config.loading import load_config
from comptroller_server.errors import CommandError
from comptroller_server.installation import TENANT, Installation
from comptroller_server.rehearsal.comparing import compare
from comptroller_server.rehearsal.leanings import Direction

__all__ = ["diff"]

ACTIVE = "active"
"""In place of a configuration: the bundle that the store says is in force."""


@click.command()
@click.argument("old")
@click.argument("new", required=False, type=click.Path(path_type=Path))
@options()
@click.pass_context
def diff(ctx: click.Context, old: str, new: Path | None) -> None:
    """What changed from OLD to NEW: tools, rules, limits, gates and classes, and whether each widened or narrowed.

    Both are configuration files, or folders with one; without NEW it is the one in use. OLD may be `active`: then it is
    told whether NEW is the bundle in force, by its digest. Exit code 0 when nothing differs, 1 when something does.
    """
    invocation = invocation_of(ctx)
    path = _named(new) if new is not None else config_file(invocation.config)
    if old == ACTIVE:
        _compare_active(invocation, path)
        return
    before, after = (
        Installation(load_config(file, data_dir=invocation.data_dir)) for file in (_named(Path(old)), path)
    )
    with quiet_stdout():
        changes = compare(before, after)
        digests = (before.bundle_digest, after.bundle_digest)

    def told(text: str) -> str:
        return after.release.text(before.release.text(text, Audience.PERSON), Audience.PERSON)

    if invocation.as_json:
        listed: list[Json] = [
            {name: told(str(value)) for name, value in change.as_json().items()} for change in changes
        ]
        document: JsonObject = {"same": not changes, "old": digests[0], "new": digests[1], "changes": listed}
        emit(document)
    else:
        _show([(change.direction, told(f"{change.where}: {change.text}")) for change in changes])
    if changes:
        findings()


def _named(given: Path) -> Path:
    path = given / CONFIG_NAME if given.is_dir() else given
    if not path.is_file():
        raise CommandError(f"there is no configuration at {path}")
    return path


def _compare_active(invocation: Invocation, path: Path) -> None:
    """The store holds the digest of the bundle in force, not what is in it."""
    invocation.config = path

    async def read(installation: Installation) -> tuple[str, str]:
        def active(reader: Reader) -> str:
            head = reader.head(TENANT)
            return head.bundle or "" if head is not None else ""

        with quiet_stdout():
            digest = installation.bundle_digest
        return await installation.store.read(active), digest

    active, digest = on_store(invocation, read)
    if invocation.as_json:
        emit({"same": active == digest, "old": active, "new": digest})
    elif active == digest:
        say(f"The active bundle is this configuration ({digest[:16]}).")
    else:
        say(f"The active bundle is {active[:16] or 'none yet'}, this configuration is {digest[:16]}.")
        say(
            "The store keeps only the digest: name the configuration it came from as OLD to hear what changed."
        )
    if active != digest:
        findings()


def _show(changes: list[tuple[Direction, str]]) -> None:
    for direction in Direction:
        own = [text for each, text in changes if each is direction]
        if own:
            say(direction.value, bold=True)
        for text in own:
            say(f"  {text}")
    counts = Counter(direction for direction, _ in changes)
    told = ", ".join(f"{counts[direction]} {direction.value}" for direction in Direction if counts[direction])
    say(f"{told}." if told else "Nothing differs.")
